//! Progress of long work: named steps, shown by whoever has a terminal.
//!
//! Left out: how it looks; the terminal's form is xtask's.

use std::{cell::RefCell, sync::OnceLock, time::Duration};

/// A duration as people say it: `340 ms`, `3.2 s`, `4 min 10 s`, `3 h 05 min`, `9 d 04 h`.
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

/// Shows steps, in whatever form its maker has.
pub trait Display: Send + Sync {
    /// A step begins.
    fn begin(&self, name: &str) -> Box<dyn StepDisplay>;
}

/// Shows one step.
pub trait StepDisplay {
    /// Something worth a line of its own.
    fn say(&self, text: &str);
    /// Where the step is; may be left out.
    fn update(&self, text: &str);
    /// The step has ended; `result` is what its line says besides its name, and may be empty.
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
    /// Steps are shown there.
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

/// One step under way.
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
    /// Reports something worth a line of its own.
    pub fn say(&self, text: &str) {
        self.display.say(text);
    }

    /// Reports where the step is; away from a terminal that is shown only now and then.
    pub fn update(&self, text: &str) {
        self.display.update(text);
    }

    /// What the line at the step's end says besides its name and time.
    pub fn result(&self, text: impl Into<String>) {
        self.result.replace(text.into());
    }
}

static WARN: OnceLock<fn(&str)> = OnceLock::new();

/// Has warnings that no step can report, such as those of a destructor, shown by `show`. The first call counts.
pub fn show_warnings(show: fn(&str)) {
    let _ = WARN.set(show);
}

/// Reports something outside of any step. Nobody sees it before [`show_warnings`].
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
