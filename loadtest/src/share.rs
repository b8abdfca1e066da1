//! A worker's part of a run: which users, which arrivals, and how much of each limit.
//!
//! A run's users and arrivals are numbered. A worker has every n-th of them, so that all workers together send exactly what
//! one alone would: the same actions at the same times, in the open model by the same users.

use std::fmt;
use std::str::FromStr;

/// Part `number` of `of`, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Share {
    number: usize,
    of: usize,
}

/// The most workers of a run: on one machine more would only take each other's processors.
pub(crate) const MOST_WORKERS: usize = 16;

impl Share {
    /// All of a run.
    pub(crate) const WHOLE: Self = Self { number: 1, of: 1 };

    /// The parts of a run.
    pub(crate) fn all(of: usize) -> impl Iterator<Item = Self> {
        (1..=of).map(move |number| Self { number, of })
    }

    /// How many parts there are.
    pub(crate) fn of(self) -> usize {
        self.of
    }

    /// Which part it is, from 1.
    pub(crate) fn number(self) -> usize {
        self.number
    }

    /// Which of `count` numbered things are this part's, by their numbers from 0.
    pub(crate) fn numbers(self, count: usize) -> impl Iterator<Item = usize> {
        (self.number - 1..count).step_by(self.of)
    }

    /// How much of a limit is this part's; all parts add up to it.
    pub(crate) fn of_limit(self, limit: usize) -> usize {
        self.numbers(limit).count()
    }

    /// The place of one of its numbers among them.
    pub(crate) fn place(self, number: usize) -> usize {
        number / self.of
    }
}

impl fmt::Display for Share {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.number, self.of)
    }
}

impl FromStr for Share {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.split_once('/');
        let number = |text: &str| text.parse().ok();
        parts
            .and_then(|(part, of)| Some((number(part)?, number(of)?)))
            .filter(|(part, of)| (1..=MOST_WORKERS).contains(of) && (1..=*of).contains(part))
            .map(|(number, of)| Self { number, of })
            .ok_or_else(|| format!("expected PART/OF, for example 2/4, up to {MOST_WORKERS}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_to_the_whole_and_share_nothing() {
        for (of, count) in [(1, 5), (2, 5), (3, 7), (4, 4), (4, 3)] {
            let mut all: Vec<_> = Share::all(of)
                .flat_map(|part| part.numbers(count))
                .collect();
            all.sort_unstable();
            assert_eq!(all, (0..count).collect::<Vec<_>>(), "{of} parts of {count}");
            let limits: usize = Share::all(of).map(|part| part.of_limit(count)).sum();
            assert_eq!(limits, count);
        }
        let second: Share = "2/3".parse().expect("a part");
        assert_eq!(second.numbers(9).collect::<Vec<_>>(), [1, 4, 7]);
        assert_eq!([1, 4, 7].map(|number| second.place(number)), [0, 1, 2]);
    }

    #[test]
    fn a_part_is_read_as_it_is_written() {
        let second: Share = "2/4".parse().expect("a part");
        assert_eq!(second.to_string(), "2/4");
        for refused in ["", "2", "0/4", "5/4", "1/17", "1/0", "a/b", "1/2/3"] {
            assert!(refused.parse::<Share>().is_err(), "{refused:?}");
        }
    }
}
