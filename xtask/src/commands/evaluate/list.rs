//! `evaluate list`, for people.

use evaluation::report::list::entries;

/// Prints them for people.
pub(crate) fn print() {
    for entry in entries() {
        println!("{} ({})", entry.name, entry.kind.word());
        for (what, text) in [
            ("claim", entry.claim),
            ("refuted by", entry.refuted_by),
            ("harm", entry.harm),
            ("load", &entry.load),
            ("fault", &entry.fault),
            ("arms", &entry.arms.join("; ")),
            ("Kubernetes", entry.kubernetes_alone.unwrap_or_default()),
            ("confounder", &entry.confounders.join("; ")),
            ("counts", &entry.counts.join(", ")),
            ("effects", &entry.effects.join("; ")),
        ] {
            if !text.is_empty() {
                println!("{}", paragraph(what, text));
            }
        }
        println!();
    }
    println!(
        "Run all of them with `cargo xtask evaluate`, or some: `cargo xtask evaluate outbox inbox`."
    );
}

/// Columns of a paragraph's lines: what fits on any terminal.
const COLUMNS: usize = 100;

/// A labelled text, broken into lines.
fn paragraph(label: &str, text: &str) -> String {
    let mut lines = vec![format!("  {label:<11}")];
    let mut empty = true;
    for word in text.split_whitespace() {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if !empty && line + 1 + word.chars().count() > COLUMNS {
            lines.push(" ".repeat(13));
            empty = true;
        }
        if let Some(line) = lines.last_mut() {
            if !empty {
                line.push(' ');
            }
            line.push_str(word);
            empty = false;
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_line_is_longer_than_a_terminal() {
        let text = "a claim that goes on for a while ".repeat(20);
        let paragraph = paragraph("claim", &text);
        assert!(
            paragraph
                .lines()
                .all(|line| line.chars().count() <= COLUMNS)
        );
        assert_eq!(
            paragraph.split_whitespace().count(),
            1 + text.split_whitespace().count()
        );
    }
}
