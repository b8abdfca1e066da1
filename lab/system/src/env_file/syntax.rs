//! The syntax of env files, as Compose reads it:
//! <https://docs.docker.com/compose/how-tos/environment-variables/variable-interpolation/#env-file-syntax>.
//!
//! Two things that Compose accepts are refused, because they are typing errors in a file with nothing but settings: a
//! line without a value, and text after a closing quote that is no comment.

use std::iter;

/// A piece of an env file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its text in the file, without the last line break; a quoted value may have several lines.
    pub(super) text: String,
    /// Name and value; `None` for comments and empty lines.
    pub(super) entry: Option<(String, String)>,
}

/// Why a file can't be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// The line's number, from 1.
    pub(super) line: usize,
    pub(super) cause: String,
}

/// Parses a file. `outside` gives the variables that a value may refer to; they win over those that the file sets.
pub(super) fn parse(
    text: &str,
    outside: impl Fn(&str) -> Option<String>,
) -> Result<Vec<Piece>, SyntaxError> {
    // Some editors begin a file with a byte order mark.
    let lines: Vec<&str> = text.trim_start_matches('\u{feff}').lines().collect();
    let mut pieces: Vec<Piece> = Vec::new();
    let mut next = 0;
    while next < lines.len() {
        let first = next;
        next += 1;
        let line = lines[first];
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            let text = line.to_owned();
            pieces.push(Piece { text, entry: None });
            continue;
        }
        let error = |cause: String| SyntaxError {
            line: first + 1,
            cause,
        };
        let (name, rest) = assignment(line).ok_or_else(|| error("not `NAME=value`".to_owned()))?;
        let mut written = Written::read(rest);
        while written == Written::Unterminated && next < lines.len() {
            next += 1;
            // As far as the lines go on, `rest` is the end of the first one.
            let begin = line.len() - rest.len();
            let joined = lines[first..next].join("\n");
            written = Written::read(&joined[begin..]);
        }
        let lookup = |name: &str| {
            outside(name).or_else(|| {
                let set = pieces.iter().rev().filter_map(|piece| piece.entry.as_ref());
                let mut set = set.filter(|(other, _)| other == name);
                set.next().map(|(_, value)| value.clone())
            })
        };
        let value = match written {
            Written::Literal(value) => Ok(value),
            Written::Template(template) => interpolate(&template, &lookup),
            Written::Unterminated => Err("the quote isn't closed".to_owned()),
            Written::Trailing(text) => Err(format!("`{text}` stands behind the closing quote")),
        };
        let value = value.map_err(error)?;
        pieces.push(Piece {
            text: lines[first..next].join("\n"),
            entry: Some((name.to_owned(), value)),
        });
    }
    Ok(pieces)
}

/// A line that sets a variable to a value, quoted where it has to be.
pub(super) fn assign(name: &str, value: &str) -> Piece {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_./:,@+=%~-".contains(c);
    let text = if value.chars().all(plain) {
        format!("{name}={value}")
    } else {
        format!("{name}='{}'", value.replace('\'', "\\'"))
    };
    Piece {
        text,
        entry: Some((name.to_owned(), value.to_owned())),
    }
}

/// Name and what follows the sign, without the space around it.
fn assignment(line: &str) -> Option<(&str, &str)> {
    let line = line.trim_start();
    let line = match line.strip_prefix("export") {
        Some(rest) if rest.starts_with(char::is_whitespace) => rest.trim_start(),
        _ => line,
    };
    let (name, value) = line.split_once(['=', ':'])?;
    let name = name.trim_end();
    let valid = |c: char| c.is_alphanumeric() || "_.-[]".contains(c);
    let named = !name.is_empty() && name.chars().all(valid);
    named.then(|| (name, value.trim_start()))
}

/// A value as it is written.
#[derive(Debug, PartialEq, Eq)]
enum Written {
    /// In single quotes.
    Literal(String),
    /// With references to variables.
    Template(String),
    /// The quote isn't closed here.
    Unterminated,
    /// What follows the closing quote is no comment.
    Trailing(String),
}

impl Written {
    fn read(text: &str) -> Self {
        let Some(quote) = text.chars().next().filter(|c| ['"', '\''].contains(c)) else {
            let value = text.split_once(" #").map_or(text, |(value, _)| value);
            return Self::Template(value.trim_end().to_owned());
        };
        let mut inner = String::new();
        let mut chars = text[1..].char_indices();
        while let Some((position, c)) = chars.next() {
            match c {
                '\\' => match chars.next() {
                    Some((_, escaped)) if escaped == quote => inner.push(quote),
                    Some((_, other)) => inner.extend(['\\', other]),
                    None => return Self::Unterminated,
                },
                _ if c == quote => {
                    let behind = text[1..][position + 1..].trim();
                    return if !behind.is_empty() && !behind.starts_with('#') {
                        Self::Trailing(behind.to_owned())
                    } else if quote == '"' {
                        Self::Template(unescape(&inner))
                    } else {
                        Self::Literal(inner)
                    };
                }
                _ => inner.push(c),
            }
        }
        Self::Unterminated
    }
}

/// Resolves the escape sequences of double quotes; an escaped `$` refers to nothing.
fn unescape(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\\') {
        plain.push_str(before);
        let octal = after.get(1..4).filter(|_| after.starts_with('0'));
        let octal = octal.and_then(|digits| u8::from_str_radix(digits, 8).ok());
        if let Some(byte) = octal.filter(u8::is_ascii) {
            plain.push(char::from(byte));
            rest = &after[4..];
            continue;
        }
        let escaped = after.chars().next();
        match escaped {
            Some('n') => plain.push('\n'),
            Some('r') => plain.push('\r'),
            Some('t') => plain.push('\t'),
            Some('a') => plain.push('\u{7}'),
            Some('b') => plain.push('\u{8}'),
            Some('f') => plain.push('\u{c}'),
            Some('v') => plain.push('\u{b}'),
            Some('\\') => plain.push('\\'),
            Some('"') => plain.push('"'),
            Some('$') => plain.push_str("$$"),
            other => plain.extend(iter::once('\\').chain(other)),
        }
        rest = &after[escaped.map_or(0, char::len_utf8)..];
    }
    plain + rest
}

/// Replaces `$NAME`, `${NAME}` and the forms with a default, a replacement or an error; `$$` is a `$`.
fn interpolate(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let mut whole = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        whole.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            whole.push('$');
            rest = after;
        } else if let Some(after) = after.strip_prefix('{') {
            let end = closing(after).ok_or_else(|| format!("`${{{after}` isn't closed"))?;
            whole.push_str(&reference(&after[..end], lookup)?);
            rest = &after[end + 1..];
        } else {
            let (name, after) = name_in(after);
            if name.is_empty() {
                whole.push('$');
            }
            whole.push_str(&lookup(name).unwrap_or_default());
            rest = after;
        }
    }
    Ok(whole + rest)
}

/// Where the brace is closed that was opened just before.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    for (position, c) in text.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return Some(position);
        }
    }
    None
}

/// The name that a text begins with, and the rest.
fn name_in(text: &str) -> (&str, &str) {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    if text.starts_with(|c: char| c.is_ascii_digit()) {
        return ("", text);
    }
    text.split_at(text.find(|c| !of_name(c)).unwrap_or(text.len()))
}

/// What stands between the braces.
fn reference(inner: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, String> {
    let (name, operation) = name_in(inner);
    let invalid = || format!("`${{{inner}}}` is no reference to a variable");
    if name.is_empty() {
        return Err(invalid());
    }
    let (operation, empty_counts) = match operation.strip_prefix(':') {
        Some(operation) => (operation, false),
        None => (operation, true),
    };
    let value = lookup(name).filter(|value| empty_counts || !value.is_empty());
    let mut signs = operation.chars();
    let argument = |text: &str| interpolate(text, lookup);
    match (signs.next(), value) {
        (None, value) if empty_counts => Ok(value.unwrap_or_default()),
        (Some('-' | '?'), Some(value)) => Ok(value),
        (Some('-'), None) => argument(signs.as_str()),
        (Some('+'), Some(_)) => argument(signs.as_str()),
        (Some('+'), None) => Ok(String::new()),
        (Some('?'), None) => Err(format!("{name} has no value: {}", signs.as_str())),
        _ => Err(invalid()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Lines that a simple reader reads otherwise, with the variable and the value that Compose reads: see
    /// `compose_reads_the_same`.
    const CASES: [(&str, &str, &str); 34] = [
        ("COMMENTED", "COMMENTED=8081 # mine", "8081"),
        ("NO_COMMENT", "NO_COMMENT=8081# not", "8081# not"),
        ("TAB", "TAB=tab\t# no comment", "tab\t# no comment"),
        ("QUOTED", "QUOTED=\"quoted # x\" # comment", "quoted # x"),
        ("LITERAL", "LITERAL='single $QUOTED' # c", "single $QUOTED"),
        ("EXPORTED", "export EXPORTED=5", "5"),
        ("BLANKS", "  export\tBLANKS = six  ", "six"),
        ("exportALL", "exportALL=2", "2"),
        ("YAML", "YAML: style", "style"),
        ("EMPTY", "EMPTY=", ""),
        ("EMPTY_QUOTED", "EMPTY_QUOTED=\"\" ", ""),
        (
            "ESCAPES",
            r#"ESCAPES="a\nb\tc\\d\"e\$QUOTED""#,
            "a\nb\tc\\d\"e$QUOTED",
        ),
        (
            "OTHER_ESCAPES",
            r#"OTHER_ESCAPES="\x \q \0101""#,
            r"\x \q A",
        ),
        ("APOSTROPHE", r"APOSTROPHE='Let\'s go'", "Let's go"),
        ("RAW", r"RAW='a\n\\b'", r"a\n\\b"),
        ("UNQUOTED", r"UNQUOTED=some\tvalue", r"some\tvalue"),
        ("INNER", "INNER=a\"b\"c", "a\"b\"c"),
        ("LINES", "LINES='multi\nline'", "multi\nline"),
        ("HASH", "HASH=#hash", "#hash"),
        ("HASH_LATER", "HASH_LATER= #hash", "#hash"),
        ("DOT.TED", "DOT.TED=dot", "dot"),
        ("DASH-ED", "DASH-ED=dash", "dash"),
        ("TRAIL", "TRAIL= lead and trail  \t", "lead and trail"),
        ("PLAIN", "PLAIN=$COMMENTED and ${EXPORTED}", "8081 and 5"),
        (
            "DEFAULTS",
            "DEFAULTS=${NOPE:-a} ${NOPE-b} ${EMPTY:-c} ${EMPTY-d}",
            "a b c ",
        ),
        (
            "REPLACED",
            "REPLACED=${EXPORTED:+a}${EMPTY:+b}${EMPTY+c}${NOPE+d}",
            "ac",
        ),
        ("NESTED", "NESTED=${NOPE:-${EXPORTED}}", "5"),
        ("REQUIRED", "REQUIRED=${EXPORTED:?err}", "5"),
        ("IN_QUOTES", "IN_QUOTES=\"x ${EXPORTED} $$ y\"", "x 5 $ y"),
        ("UNSET", "UNSET=[$NOPE]", "[]"),
        ("DOLLAR", "DOLLAR=plain$", "plain$"),
        ("DIGIT", "DIGIT=a$1b$(ls)", "a$1b$(ls)"),
        ("FROM_OUTSIDE", "FROM_OUTSIDE=${OUTSIDE}", "outside"),
        ("CRLF", "CRLF=unix\r", "unix"),
    ];

    /// A file of all cases.
    pub(crate) fn file() -> String {
        CASES.map(|(_, line, _)| line).join("\n") + "\n"
    }

    fn read(text: &str) -> Result<Vec<(String, String)>, SyntaxError> {
        let outside = |name: &str| (name == "OUTSIDE").then(|| "outside".to_owned());
        let pieces = parse(text, outside)?;
        Ok(pieces.into_iter().filter_map(|piece| piece.entry).collect())
    }

    #[test]
    fn every_form_has_composes_value() {
        let entries = read(&file()).unwrap();
        let expected = CASES.map(|(name, _, value)| (name.to_owned(), value.to_owned()));
        assert_eq!(entries, expected);
    }

    /// Asks the Compose of this machine, so that a later version with other rules is noticed.
    #[test]
    fn compose_reads_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::write(path("cases.env"), file()).unwrap();
        let names = CASES.map(|(name, ..)| name).to_vec();
        let services =
            serde_json::json!({ "services": { "one": { "image": "one", "environment": names } } });
        std::fs::write(path("compose.yaml"), services.to_string()).unwrap();
        let compose = crate::compose::Compose::find()
            .unwrap()
            .expect("Docker Compose V2 is here: `cargo xtask up` fetches it");
        let text = compose
            .command()
            .env("OUTSIDE", "outside")
            .args(["--env-file".into(), path("cases.env")])
            .args(["--file".into(), path("compose.yaml")])
            .args(["config", "--format", "json"])
            .read()
            .unwrap();
        let config: serde_json::Value = serde_json::from_str(&text).unwrap();
        for (name, line, expected) in CASES {
            let value = &config["services"]["one"]["environment"][name];
            let value = value.as_str().unwrap_or_else(|| panic!("{line}: {value}"));
            // What it prints may be read by it again.
            assert_eq!(value.replace("$$", "$"), expected, "{line}");
        }
    }

    #[test]
    fn what_is_no_assignment_is_refused_with_its_line() {
        for (text, line, cause) in [
            ("A=1\nnonsense", 2, "NAME=value"),
            ("A B=1", 1, "NAME=value"),
            ("=1", 1, "NAME=value"),
            ("A='a\nb'\nB=\"open\nC=1", 3, "isn't closed"),
            ("A=\"x\" B=2", 1, "`B=2`"),
            ("A=${B", 1, "isn't closed"),
            ("A=${B:=x}", 1, "no reference"),
            ("A=${B:}", 1, "no reference"),
            ("A=${}", 1, "no reference"),
            ("A=${B:?set it}", 1, "set it"),
        ] {
            let error = read(text).unwrap_err();
            assert!(
                error.line == line && error.cause.contains(cause),
                "{text:?}: {error:?}"
            );
        }
    }

    #[test]
    fn nothing_of_a_file_gets_lost() {
        let text = format!("# note\n\n{}", file());
        let pieces = parse(&text, |_| None).unwrap();
        let pieces: Vec<&str> = pieces.iter().map(|piece| piece.text.as_str()).collect();
        assert_eq!(pieces.join("\n") + "\n", text.replace('\r', ""));
    }

    #[test]
    fn what_is_written_is_read_again() {
        for value in ["8080", "", "two words", "a # b", "$HOME", "Let's", "\"q\""] {
            let line = assign("NAME", value).text;
            assert_eq!(
                read(&line).unwrap(),
                [("NAME".to_owned(), value.to_owned())]
            );
        }
    }
}
