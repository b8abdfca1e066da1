//! Progress of long work as named steps.
//!
//! Left out: how it looks. `xtask` implements [`Display`] for the terminal.

use std::{cell::RefCell, sync::OnceLock, time::Duration};

/// A duration for people, in its two largest units: `340 ms`, `3.2 s`, `4 min 10 s`, `3 h 05 min`, `9 d 04 h`.
pub fn spell(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match duration.as_millis() {
        0..1_000 => format!("{} ms", duration.as_millis()),
        1_000..60_000 => format!("{:.1} s", duration.as_secs_f64()),
        60_000..3_600_000 => format!("{} min {:02} s", seconds / 60, seconds % 60),
        3_600_000..86_400_000 => format!("{} h {:02} min", seconds / 3_600, seconds / 60 % 60),
        _ => format!("{} d {:02} h", seconds / 86_400, seconds / 3_600 % 24),
    }
}

/// Shows steps: on a terminal, or as plain lines.
pub trait Display: Send + Sync {
    /// Begins a step with this name.
    fn begin(&self, name: &str) -> Box<dyn StepDisplay>;
}

/// Shows one step.
pub trait StepDisplay {
    /// Prints a line of its own while the step goes on.
    fn say(&self, text: &str);
    /// Shows what the step does now; a display may drop it.
    fn update(&self, text: &str);
    /// Ends the step. `result` stands on its line beside its name, and may be empty.
    fn end(&self, ok: bool, result: &str);
}

/// Reports the steps of long work.
pub struct Progress {
    display: Box<dyn Display>,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").finish_non_exhaustive()
    }
}

impl Progress {
    /// Progress whose steps `display` shows.
    pub fn new(display: impl Display + 'static) -> Self {
        Self {
            display: Box::new(display),
        }
    }

    /// Runs one step and reports how it went and how long it took.
    ///
    /// # Errors
    /// Those of `work`.
    pub fn step<T>(
        &self,
        name: &str,
        work: impl FnOnce(&Step) -> anyhow::Result<T>,
    ) -> anyhow::Result<T> {
        let step = Step {
            display: self.display.begin(name),
            result: RefCell::default(),
        };
        let result = work(&step);
        step.display.end(result.is_ok(), &step.result.take());
        result
    }
}

/// A step that has begun and not ended.
pub struct Step {
    display: Box<dyn StepDisplay>,
    result: RefCell<String>,
}

impl std::fmt::Debug for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Step").finish_non_exhaustive()
    }
}

impl Step {
    /// Prints a line of its own while the step goes on.
    pub fn say(&self, text: &str) {
        self.display.say(text);
    }

    /// Shows what the step does now; without a terminal only now and then.
    pub fn update(&self, text: &str) {
        self.display.update(text);
    }

    /// Sets what stands on the step's last line beside its name and duration.
    pub fn result(&self, text: impl Into<String>) {
        self.result.replace(text.into());
    }
}

static WARN: OnceLock<fn(&str)> = OnceLock::new();

/// Sets how warnings are shown that no step can report, such as those of a destructor. Only the first call counts.
pub fn show_warnings(show: fn(&str)) {
    let _ = WARN.set(show);
}

/// Shows a warning outside of any step. It is lost before the first call of [`show_warnings`].
pub fn warn(text: &str) {
    if let Some(show) = WARN.get() {
        show(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_spelled_in_the_unit_that_fits() {
        assert_eq!(spell(Duration::from_millis(340)), "340 ms");
        assert_eq!(spell(Duration::from_millis(3_240)), "3.2 s");
        assert_eq!(spell(Duration::from_secs(250)), "4 min 10 s");
        assert_eq!(spell(Duration::from_secs(3 * 3_600 + 5 * 60)), "3 h 05 min");
        assert_eq!(
            spell(Duration::from_secs(9 * 86_400 + 4 * 3_600)),
            "9 d 04 h"
        );
    }
}
