//! The cost of a measurement: processor time by command.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Instant;

/// Clock ticks a second in `/proc`: <https://man7.org/linux/man-pages/man5/proc_pid_stat.5.html>.
const TICKS: f64 = 100.0;

/// Processor time so far, by command, of all visible processes.
pub struct Usage {
    at: Instant,
    ticks: BTreeMap<String, u64>,
}

/// How many processors each command kept busy.
pub struct Used(Vec<(String, f64)>);

impl Usage {
    /// What every process has used until now.
    pub fn now() -> Self {
        let mut ticks = BTreeMap::new();
        for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
            let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else {
                continue;
            };
            if let Some((command, used)) = command_and_ticks(&stat) {
                *ticks.entry(command).or_default() += used;
            }
        }
        Self {
            at: Instant::now(),
            ticks,
        }
    }

    /// What was used since.
    pub fn until_now(&self) -> Used {
        let now = Self::now();
        let seconds = (now.at - self.at).as_secs_f64();
        let mut used: Vec<_> = now
            .ticks
            .into_iter()
            .map(|(command, ticks)| {
                let before = self.ticks.get(&command).copied().unwrap_or(0);
                (
                    command,
                    ticks.saturating_sub(before) as f64 / TICKS / seconds,
                )
            })
            .filter(|(_, processors)| *processors >= 0.02)
            .collect();
        used.sort_by(|(_, a), (_, b)| b.total_cmp(a));
        Used(used)
    }
}

/// Field 2 is the command in parentheses, fields 14 and 15 are user and system time. The kernel's workers count as one
/// command: their names change with their work.
fn command_and_ticks(stat: &str) -> Option<(String, u64)> {
    let (start, rest) = stat.rsplit_once(')')?;
    let (_, command) = start.split_once('(')?;
    let mut fields = rest.split_whitespace().skip(11);
    let user: u64 = fields.next()?.parse().ok()?;
    let system: u64 = fields.next()?.parse().ok()?;
    let command = match command.split_once('/') {
        Some(("kworker", _)) => "kworker",
        _ => command,
    };
    Some((command.to_owned(), user + system))
}

impl fmt::Display for Used {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let sum: f64 = self.0.iter().map(|(_, processors)| processors).sum();
        write!(f, "{sum:.2} busy")?;
        for (command, processors) in self.0.iter().take(7) {
            write!(f, ", {command} {processors:.2}")?;
        }
        Ok(())
    }
}
