//! The release binaries of the services, the tools beside them and the load generator, made by one cargo call.
//!
//! One call for all: a second one, for `loadtest` alone, would unify features differently and compile
//! most of the dependencies again. `AGORA_BUILD=shipping` asks for binaries that are as quick as they can be, instead of ones
//! that are quickly built.
//!
//! Left out: images ([`crate::service_images`]).

use std::{
    env,
    env::consts::{ARCH, OS},
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use base::{outcome, progress::Step};

use crate::{Part, env_file::EnvFile, process::Call, project::Project};

const SETTING: &str = "AGORA_BUILD";
const BUILD_LIMIT: Duration = Duration::from_secs(40 * 60);
/// The name of the load generator's package and binary.
const LOADTEST: &str = "loadtest";
/// Static, so that an image needs nothing but the binary; and at a fixed address, so that no table of 800 kB has to be
/// read at each start to move everything elsewhere, and stays in memory.
const STATIC: &str = "-C target-feature=+crt-static -C relocation-model=static";
/// The image in which the services are built on hosts that aren't Linux.
const RUST_IMAGE: &str = "docker.io/library/rust:1.95-bookworm";

/// Cargo's profile, which its output folder is named after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Profile {
    /// Rebuilt within seconds after a change.
    Release,
    /// Optimized as a whole.
    Shipping,
}

impl Profile {
    fn name(self) -> &'static str {
        match self {
            Self::Release => "release",
            Self::Shipping => "shipping",
        }
    }

    fn chosen(project: &Project) -> anyhow::Result<Self> {
        let settings = project.settings_from(&EnvFile::read(&project.env_file)?);
        Self::of(env::var(SETTING).ok().as_deref(), settings.get(SETTING))
    }

    /// The environment variable applies also to systems that take no other setting from there: benchmarks run on one.
    fn of(environment: Option<&str>, setting: Option<&str>) -> anyhow::Result<Self> {
        match environment.or(setting) {
            None | Some("" | "quick") => Ok(Self::Release),
            Some("shipping") => Ok(Self::Shipping),
            Some(other) => Err(outcome::usage(
                format!("{SETTING}: `{other}` is not known"),
                "expected `quick` (built quickly) or `shipping` (runs as quickly as it can)",
            )),
        }
    }
}

/// Where one build put its binaries.
#[derive(Debug)]
pub struct Binaries {
    /// The folder with a file for each service and tool.
    services: PathBuf,
    /// The path of the load generator, built for this machine.
    pub loadtest: PathBuf,
}

/// Builds what changed; progress goes to `step`.
pub fn build(project: &Project, step: &Step) -> anyhow::Result<Binaries> {
    let profile = Profile::chosen(project)?.name();
    if OS == "linux" {
        build_natively(project, profile, step)
    } else {
        build_in_container(project, profile, step)
    }
}

fn build_natively(project: &Project, profile: &str, step: &Step) -> anyhow::Result<Binaries> {
    let target = linux_target()?;
    let packages = Part::built().map(Part::name).chain([LOADTEST]);
    // The flags stand in this child's environment alone: in a configuration file they would reach
    // every other build and compile it all again.
    cargo(project)
        .args(["build", "--locked", "--profile", profile])
        .args(["--target", target])
        .args(packages.flat_map(|package| ["--package", package]))
        .env("RUSTFLAGS", STATIC)
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .limit(BUILD_LIMIT)
        .logged(&project.log("cargo"), |line| step.update(line))?;
    let folder = project.cargo_target().join(target).join(profile);
    Ok(Binaries {
        loadtest: folder.join(LOADTEST),
        services: folder,
    })
}

/// The same cargo call inside a Linux container, its caches in volumes; the load generator natively.
fn build_in_container(project: &Project, profile: &str, step: &Step) -> anyhow::Result<Binaries> {
    let target = linux_target()?;
    let folder = project.outputs().join("linux");
    fs::create_dir_all(&folder)?;
    let packages: String = Part::built()
        .map(|package| format!(" --package {package}"))
        .collect();
    let binaries: String = Part::built()
        .map(|package| format!(" /target/{target}/{profile}/{package}"))
        .collect();
    let script = format!(
        "cargo build --locked --profile {profile} --target {target}{packages} && cp{binaries} /out/"
    );
    Call::new("docker")
        .args(["run", "--rm", "--volume"])
        .args([
            format!("{}:/work:ro", project.root.display()),
            "--volume".to_owned(),
        ])
        .args([format!("{}:/out", folder.display())])
        .args([
            "--volume",
            "agora-cargo-registry:/usr/local/cargo/registry",
            "--volume",
            "agora-cargo-target:/target",
        ])
        .args([
            "--env",
            "CARGO_TARGET_DIR=/target",
            "--env",
            &format!("RUSTFLAGS={STATIC}"),
        ])
        .args(["--workdir", "/work", RUST_IMAGE, "sh", "-c", &script])
        .limit(BUILD_LIMIT)
        .logged(&project.log("cargo"), |line| step.update(line))?;
    cargo(project)
        .args(["build", "--locked", "--profile", profile])
        .args(["--package", LOADTEST])
        .limit(BUILD_LIMIT)
        .logged(&project.log("cargo-loadtest"), |line| step.update(line))?;
    Ok(Binaries {
        services: folder,
        loadtest: project.cargo_target().join(profile).join(LOADTEST),
    })
}

/// A cargo call that doesn't carry what `cargo run` set for this process: some build scripts watch those
/// variables and would run again each time a build starts from here rather than from a shell.
pub fn cargo(project: &Project) -> Call {
    let program = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    std::env::vars_os()
        .map(|(name, _)| name)
        .filter(|name| {
            let name = name.to_string_lossy();
            name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_MANIFEST_")
                || name.starts_with("CARGO_BIN_")
        })
        .fold(Call::new(program).dir(&project.root), Call::env_remove)
}

fn linux_target() -> anyhow::Result<&'static str> {
    match ARCH {
        "x86_64" => Ok("x86_64-unknown-linux-gnu"),
        "aarch64" => Ok("aarch64-unknown-linux-gnu"),
        other => Err(outcome::unavailable(
            format!("no service images can be made on a {other} machine"),
            "use a machine with an x86_64 or aarch64 processor",
        )),
    }
}

/// Copies each service's and tool's binary into its build context, where it differs from what is there.
pub fn stage(project: &Project, binaries: &Binaries) -> anyhow::Result<()> {
    for service in Part::built().map(Part::name) {
        let context = project.binaries().join(service);
        fs::create_dir_all(&context)
            .with_context(|| format!("failed to create {}", context.display()))?;
        copy_if_changed(&binaries.services.join(service), &context.join(service))?;
    }
    Ok(())
}

fn copy_if_changed(from: &Path, to: &Path) -> anyhow::Result<()> {
    let fresh = fs::read(from).with_context(|| format!("failed to read {}", from.display()))?;
    if fs::read(to).is_ok_and(|old| old == fresh) {
        return Ok(());
    }
    // Removed first: writing into a binary that runs from here fails with "text file busy".
    let _ = fs::remove_file(to);
    fs::copy(from, to)
        .with_context(|| format!("failed to copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_environment_chooses_the_profile_before_the_env_file() {
        let chosen = |environment, setting| Profile::of(environment, setting).ok();
        assert_eq!(chosen(None, None), Some(Profile::Release));
        assert_eq!(chosen(None, Some("shipping")), Some(Profile::Shipping));
        assert_eq!(chosen(Some("shipping"), None), Some(Profile::Shipping));
        assert_eq!(
            chosen(Some("quick"), Some("shipping")),
            Some(Profile::Release)
        );
        assert_eq!(chosen(Some("slow"), None), None);
    }

    #[test]
    fn an_unchanged_binary_keeps_its_time() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::write(&from, "one").unwrap();
        copy_if_changed(&from, &to).unwrap();
        let before = fs::metadata(&to).unwrap().modified().unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::metadata(&to).unwrap().modified().unwrap(), before);
        fs::write(&from, "two").unwrap();
        copy_if_changed(&from, &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), b"two");
    }
}
