//! `completions`: a script with which a shell completes commands, options and values.
//!
//! The script is for a function or an alias called `xtask`. Left out: `cargo xtask`, as cargo completes no aliases.

use base::outcome::Exit;
use clap_complete::Shell;

/// The name of the command that is completed.
const NAME: &str = "xtask";

/// Options of `completions`.
#[derive(Debug, Clone, Copy, clap::Args)]
#[command(
    after_help = "For bash: `xtask() { cargo xtask \"$@\"; }; source <(cargo xtask completions bash)`."
)]
pub(crate) struct Options {
    /// The shell that is to complete
    shell: Shell,
}

/// Runs the command.
pub(crate) fn run(mut command: clap::Command, options: Options) -> anyhow::Result<Exit> {
    let mut script = Vec::new();
    clap_complete::generate(options.shell, &mut command, NAME, &mut script);
    print!("{}", String::from_utf8(script)?);
    Ok(Exit::Holds)
}
