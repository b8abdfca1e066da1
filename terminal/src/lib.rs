//! Safe terminal output: text on standard output and standard error that can harm neither the program nor the terminal.
//!
//! A program uses it with `#[macro_use] extern crate terminal;`: its `print!`, `println!` and `eprintln!` then replace
//! those of the standard library in every module.
//!
//! - *Checked.* The standard library's panic when the reader is gone (`… | head`). Here standard output is closed from
//!   then on, and the registered callback ([`on_closed`]) is called once; errors on standard error are ignored.
//! - *Escaped.* Text from elsewhere may contain control characters, which a terminal obeys. Here they are written as
//!   `\u001b`, the way JSON writes them, so that a JSON document keeps its meaning.
//!
//! Left out: colours and progress bars, and what a program does when the reader is gone.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io::{self, Write as _},
    sync::{
        OnceLock,
        atomic::{AtomicU8, Ordering},
    },
};

/// The state of standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdout {
    /// Everything was written.
    Open,
    /// The reader is gone.
    Closed,
    /// Another error, such as a full disk; it was reported on standard error.
    Failed,
}

static STDOUT: AtomicU8 = AtomicU8::new(Stdout::Open as u8);
static ON_CLOSED: OnceLock<fn()> = OnceLock::new();

/// The state of standard output so far.
pub fn stdout() -> Stdout {
    match STDOUT.load(Ordering::Relaxed) {
        state if state == Stdout::Open as u8 => Stdout::Open,
        state if state == Stdout::Closed as u8 => Stdout::Closed,
        _ => Stdout::Failed,
    }
}

/// Registers a callback that is called once when the reader of standard output is gone. Only the first registration counts.
pub fn on_closed(react: fn()) {
    let _ = ON_CLOSED.set(react);
}

/// Like the standard library's; see the crate's documentation.
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => { $crate::write_out(::std::format_args!($($text)*)) };
}

/// Like the standard library's; see the crate's documentation.
#[macro_export]
macro_rules! println {
    () => { $crate::write_out(::std::format_args!("\n")) };
    ($($text:tt)*) => { $crate::write_out(::std::format_args!("{}\n", ::std::format_args!($($text)*))) };
}

/// Like the standard library's; see the crate's documentation.
#[macro_export]
macro_rules! eprintln {
    () => { $crate::write_err(::std::format_args!("\n")) };
    ($($text:tt)*) => { $crate::write_err(::std::format_args!("{}\n", ::std::format_args!($($text)*))) };
}

/// Implements [`print!`] and [`println!`]. Nothing is written after an error.
pub fn write_out(text: fmt::Arguments<'_>) {
    if stdout() != Stdout::Open {
        return;
    }
    let text = text.to_string();
    let mut out = io::stdout().lock();
    let written = out.write_all(escaped(&text).as_bytes());
    match written.and_then(|()| out.flush()) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            let before = STDOUT.swap(Stdout::Closed as u8, Ordering::Relaxed);
            if before == Stdout::Open as u8
                && let Some(react) = ON_CLOSED.get()
            {
                react();
            }
        }
        Err(error) => {
            STDOUT.store(Stdout::Failed as u8, Ordering::Relaxed);
            write_err(format_args!(
                "error: failed to write to standard output: {error}\n"
            ));
        }
    }
}

/// Implements [`eprintln!`]. An error here can't be reported anywhere.
pub fn write_err(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    let _ = io::stderr().lock().write_all(escaped(&text).as_bytes());
}

/// Escapes what a terminal obeys: control characters except newline and tab, and characters that change the text direction
/// or end a line invisibly ([CVE-2021-42574]).
///
/// [CVE-2021-42574]: https://trojansource.codes/
pub fn escaped(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_obeyed(c) && !matches!(c, '\n' | '\t'))
}

/// The same on one line: for text from elsewhere inside a line.
pub fn one_line(text: &str) -> Cow<'_, str> {
    escape(text, is_obeyed)
}

fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

fn escape(text: &str, wrong: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.contains(&wrong) {
        return Cow::Borrowed(text);
    }
    let mut escaped = String::with_capacity(text.len() + 16);
    for c in text.chars() {
        match c {
            '\n' if wrong(c) => escaped.push_str("\\n"),
            '\t' if wrong(c) => escaped.push_str("\\t"),
            '\r' => escaped.push_str("\\r"),
            _ if wrong(c) => {
                // Writing to a string can't fail. None of these characters needs more than four digits.
                let _ = write!(escaped, "\\u{:04x}", u32::from(c));
            }
            _ => escaped.push(c),
        }
    }
    Cow::Owned(escaped)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_control_character_is_left() {
        let title = "\u{1b}]0;owned\u{7} \u{9b}31m \u{7f} \u{202e}gpj\r";
        assert_eq!(
            escaped(title),
            r"\u001b]0;owned\u0007 \u009b31m \u007f \u202egpj\r"
        );
        assert_eq!(escaped("a\tb\nc é 漢 ✓"), "a\tb\nc é 漢 ✓");
        assert_eq!(one_line("a\tb\nc"), r"a\tb\nc");
    }

    #[test]
    fn an_escaped_json_document_keeps_its_meaning() {
        // What JSON itself leaves as it is.
        let text = "\u{7f}\u{9b}\u{202e}\u{2028}";
        let json = format!("\"{text}\"");
        let digits = escaped(&json).replace("\\u", " ");
        let digits = digits.trim_matches('"').split_whitespace();
        let read = digits.map(|four| {
            assert_eq!(four.len(), 4);
            char::from_u32(u32::from_str_radix(four, 16).expect("hexadecimal"))
                .expect("a character")
        });
        assert_eq!(read.collect::<String>(), text);
    }
}
