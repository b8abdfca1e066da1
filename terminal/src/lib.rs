//! What our programs write to people: text on standard output and standard error that can't do harm, neither to the
//! program nor to the terminal.
//!
//! A program has it whole with `#[macro_use] extern crate terminal;`: its `print!`, `println!` and `eprintln!` are the ones
//! from here then, in every module, and the ones of the standard library are out of reach.
//!
//! - *Checked.* Those of the standard library panic where nobody reads any more (`… | head`). Here standard output is
//!   closed from then on, and whoever asked for it ([`on_closed`]) is told once; standard error that can't be written
//!   is left alone.
//! - *Escaped.* Text that others wrote may hold control characters, which a terminal obeys. Here they come out as
//!   `\u001b`, the way JSON writes them, so that a JSON document stays the one that it was.
//!
//! Left out: colours and progress bars, and what a program does when nobody reads it any more.

use std::{
    borrow::Cow,
    fmt::{self, Write as _},
    io::{self, Write as _},
    sync::{
        OnceLock,
        atomic::{AtomicU8, Ordering},
    },
};

/// What has become of standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stdout {
    /// All that was written went out.
    Open,
    /// Its reader has gone.
    Closed,
    /// Something else went wrong, as the full disk of a file; it was told on standard error.
    Failed,
}

static STDOUT: AtomicU8 = AtomicU8::new(Stdout::Open as u8);
static ON_CLOSED: OnceLock<fn()> = OnceLock::new();

/// What has become of standard output so far.
pub fn stdout() -> Stdout {
    match STDOUT.load(Ordering::Relaxed) {
        state if state == Stdout::Open as u8 => Stdout::Open,
        state if state == Stdout::Closed as u8 => Stdout::Closed,
        _ => Stdout::Failed,
    }
}

/// Has `react` called, once, when the reader of standard output has gone. The first call of this counts.
pub fn on_closed(react: fn()) {
    let _ = ON_CLOSED.set(react);
}

/// As the standard library's, see the head of this crate.
#[macro_export]
macro_rules! print {
    ($($text:tt)*) => { $crate::write_out(::std::format_args!($($text)*)) };
}

/// As the standard library's, see the head of this crate.
#[macro_export]
macro_rules! println {
    () => { $crate::write_out(::std::format_args!("\n")) };
    ($($text:tt)*) => { $crate::write_out(::std::format_args!("{}\n", ::std::format_args!($($text)*))) };
}

/// As the standard library's, see the head of this crate.
#[macro_export]
macro_rules! eprintln {
    () => { $crate::write_err(::std::format_args!("\n")) };
    ($($text:tt)*) => { $crate::write_err(::std::format_args!("{}\n", ::std::format_args!($($text)*))) };
}

/// What [`print!`] and [`println!`] do. Nothing is written any more once something went wrong.
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

/// What [`eprintln!`] does. There is nobody left to tell when that fails.
pub fn write_err(text: fmt::Arguments<'_>) {
    let text = text.to_string();
    let _ = io::stderr().lock().write_all(escaped(&text).as_bytes());
}

/// The text without what a terminal obeys: control characters but for the end of a line and the tab, and characters
/// that turn the direction of writing or end a line without being seen to (as [CVE-2021-42574] has it).
///
/// [CVE-2021-42574]: https://trojansource.codes/
pub fn escaped(text: &str) -> Cow<'_, str> {
    escape(text, |c| is_obeyed(c) && !matches!(c, '\n' | '\t'))
}

/// The same on one line: text that others wrote, for a place where the next line is ours.
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
                // Nothing can go wrong with a string. None of these is beyond four digits.
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
    fn nothing_that_a_terminal_obeys_is_left() {
        let title = "\u{1b}]0;owned\u{7} \u{9b}31m \u{7f} \u{202e}gpj\r";
        assert_eq!(
            escaped(title),
            r"\u001b]0;owned\u0007 \u009b31m \u007f \u202egpj\r"
        );
        assert_eq!(escaped("a\tb\nc é 漢 ✓"), "a\tb\nc é 漢 ✓");
        assert_eq!(one_line("a\tb\nc"), r"a\tb\nc");
    }

    #[test]
    fn what_is_escaped_in_a_json_document_means_the_same() {
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
