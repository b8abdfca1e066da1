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

/// Processor time so far, in seconds.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct CpuSeconds {
    /// Of the given processes, all their threads.
    pub processes: f64,
    /// Of everything on this machine.
    pub machine: f64,
}

impl CpuSeconds {
    /// Until now; `None` when one of the processes isn't on this machine.
    pub fn now(pids: &[u32]) -> Option<Self> {
        let mut processes = 0;
        for pid in pids {
            let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            processes += command_and_ticks(&stat)?.1;
        }
        let machine = busy_ticks(&std::fs::read_to_string("/proc/stat").ok()?)?;
        Some(Self {
            processes: processes as f64 / TICKS,
            machine: machine as f64 / TICKS,
        })
    }

    /// What was used since.
    pub fn since(self, before: Self) -> Self {
        Self {
            processes: self.processes - before.processes,
            machine: self.machine - before.machine,
        }
    }
}

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

/// The first line of `/proc/stat`: user, nice, system, idle, iowait, irq, softirq, and what other machines took or got.
fn busy_ticks(stat: &str) -> Option<u64> {
    let ticks = stat.lines().next()?.strip_prefix("cpu ")?;
    let ticks: Vec<u64> = ticks
        .split_whitespace()
        .map_while(|ticks| ticks.parse().ok())
        .collect();
    let [user, nice, system, _, _, irq, softirq, ..] = ticks[..] else {
        return None;
    };
    Some(user + nice + system + irq + softirq)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_is_busy_in_all_fields_but_idle_and_iowait() {
        let stat =
            "cpu  1 20 300 4000 50000 600000 7000000 80000000 9 10\ncpu0 1 1 1 1 1 1 1 1 1 1\n";
        assert_eq!(busy_ticks(stat), Some(7_600_321));
        assert_eq!(busy_ticks("cpu  1 2 3\n"), None);
        assert_eq!(busy_ticks("intr 1\n"), None);
    }

    #[test]
    fn a_process_has_user_and_system_time_whatever_its_name_contains() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 2 3 4 120 34 5 6 20 0 9 0 100";
        assert_eq!(command_and_ticks(stat), Some(("a) b".to_owned(), 154)));
    }

    #[test]
    fn a_process_that_is_not_there_has_no_time() {
        let own = std::process::id();
        assert!(CpuSeconds::now(&[own]).is_some());
        assert_eq!(CpuSeconds::now(&[own, u32::MAX]), None);
    }
}
