//! Kubernetes' programs, built from Go modules (`tools/kubernetes`) into the cache.
//!
//! Left out: what the nodes have of Debian (the node image).

use std::{
    ffi::OsStr,
    fs::{self, File, TryLockError},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use base::{outcome, progress::Step};
use sha2::{Digest, Sha256};

use crate::{engine, interrupt::Interrupted, process::Call, project::Project, wait};

/// What the programs depend on; other contents are another folder of the cache.
const SOURCES: [&str; 7] = [
    "go.mod",
    "go.sum",
    "dns/go.mod",
    "dns/go.sum",
    "dns/main.go",
    "pause/main.go",
    "pause/Dockerfile",
];
const BUILT_WITHIN: Duration = Duration::from_secs(30 * 60);
/// As containerd's configuration names it.
const PAUSE_IMAGE: &str = "agora-local/pause:1";
const HOW_TO_GET_THEM: &str = "install Go 1.26 or newer (https://go.dev/dl) and make its module proxy reachable (GOPROXY), or use a cluster \
                               of your own, such as kind's, with the manifests in deploy/kubernetes";

/// The folder of the built programs.
#[derive(Debug)]
pub(super) struct Programs(PathBuf);

impl Programs {
    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    pub(super) fn path(&self, program: &str) -> PathBuf {
        self.0.join(program)
    }
}

/// The Go modules.
pub(super) fn sources(project: &Project) -> PathBuf {
    project.root.join("tools/kubernetes")
}

/// The programs, if they were built before.
pub(super) fn built(project: &Project) -> anyhow::Result<Option<Programs>> {
    let folder = folder(project)?;
    Ok(folder.is_dir().then_some(Programs(folder)))
}

/// Finds the programs, or builds them.
///
/// # Errors
/// Without Go or its modules.
pub(super) fn provide(project: &Project, step: &Step) -> anyhow::Result<Programs> {
    if let Some(programs) = built(project)? {
        step.result("built before");
        return Ok(programs);
    }
    let folder = folder(project)?;
    // One build at a time: another clone's is waited for, and makes this one needless.
    let lock = folder.with_extension("lock");
    if let Some(cache) = lock.parent() {
        fs::create_dir_all(cache)?;
    }
    let lock = File::create(&lock)?;
    step.update("waiting for another build of them");
    let locked = wait::until(BUILT_WITHIN, Duration::from_secs(1), || {
        match lock.try_lock() {
            Ok(()) => Ok(Some(())),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error.into()),
        }
    })?;
    locked.context("another build of Kubernetes' programs doesn't end")?;
    if let Some(programs) = built(project)? {
        step.result("built by another command");
        return Ok(programs);
    }
    let fresh = folder.with_extension("new");
    // Of a build that was killed.
    let _ = fs::remove_dir_all(&fresh);
    let made = build(project, &fresh, step).and_then(|()| {
        // Moved into place in one piece, so that a build cut short never looks like a whole one.
        fs::rename(&fresh, &folder)
            .with_context(|| format!("failed to create {}", folder.display()))
    });
    let _ = fs::remove_dir_all(&fresh);
    made.map(|()| Programs(folder))
}

fn folder(project: &Project) -> anyhow::Result<PathBuf> {
    let mut digest = Sha256::new();
    for source in SOURCES {
        let file = sources(project).join(source);
        let content =
            fs::read(&file).with_context(|| format!("failed to read {}", file.display()))?;
        digest.update(content);
    }
    let digest = format!("{:x}", digest.finalize());
    Ok(Project::cache()?.join(format!("kubernetes-{}", &digest[..12])))
}

fn build(project: &Project, folder: &Path, step: &Step) -> anyhow::Result<()> {
    Call::new("go").args(["version"]).read().map_err(|error| {
        missing(
            "Kubernetes' programs are built with Go, which isn't here",
            error,
        )
    })?;
    step.say("building Kubernetes' programs from their Go modules, which takes some minutes once");
    let modules = sources(project);
    let version = version(&fs::read_to_string(modules.join("go.mod"))?)?;
    let flags = linker_flags(&version);
    let dns = folder.join("coredns");
    let pause = folder.join("pause-image/pause");
    let builds: [(&str, &str, Vec<&OsStr>); 3] = [
        (
            "kubernetes",
            "",
            vec![
                "install".as_ref(),
                "-ldflags".as_ref(),
                flags.as_ref(),
                "-v".as_ref(),
                "tool".as_ref(),
            ],
        ),
        (
            "coredns",
            "dns",
            vec![
                "build".as_ref(),
                "-v".as_ref(),
                "-o".as_ref(),
                dns.as_os_str(),
                ".".as_ref(),
            ],
        ),
        (
            "pause",
            "",
            vec![
                "build".as_ref(),
                "-o".as_ref(),
                pause.as_os_str(),
                "./pause".as_ref(),
            ],
        ),
    ];
    for (name, module, args) in builds {
        Call::new("go")
            .args(args)
            .dir(modules.join(module))
            .env("GOBIN", folder)
            .env("GOFLAGS", "-mod=readonly -buildvcs=false -trimpath")
            .env("GOWORK", "off")
            .env("CGO_ENABLED", "0")
            .limit(BUILT_WITHIN)
            .logged(&project.log(&format!("cluster-{name}")), |line| {
                step.update(line);
            })
            .map_err(|error| missing(&format!("{name} can't be built"), error))?;
    }
    let context = folder.join("pause-image");
    fs::copy(modules.join("pause/Dockerfile"), context.join("Dockerfile"))?;
    engine::build(&context, PAUSE_IMAGE, &[]).read()?;
    engine::docker(["save", PAUSE_IMAGE, "--output"])
        .args([folder.join("pause.tar")])
        .read()?;
    fs::remove_dir_all(context)?;
    Ok(())
}

fn missing(what: &str, error: anyhow::Error) -> anyhow::Error {
    if error.is::<Interrupted>() {
        return error;
    }
    outcome::unavailable(format!("{what}: {error:#}"), HOW_TO_GET_THEM)
}

/// Kubernetes' version in its module's requirements. Pure.
fn version(go_mod: &str) -> anyhow::Result<String> {
    let mut lines = go_mod.lines().map(str::trim);
    let version = lines.find_map(|line| line.strip_prefix("k8s.io/kubernetes "));
    // A comment may follow.
    let version = version.and_then(|rest| rest.split_whitespace().next());
    let version = version.context("go.mod requires no k8s.io/kubernetes")?;
    Ok(version.to_owned())
}

/// How a program learns its version: kubelet and kubectl tell it to others, who compare. Pure.
fn linker_flags(version: &str) -> String {
    let mut numbers = version.trim_start_matches('v').split('.');
    let (major, minor) = (
        numbers.next().unwrap_or_default(),
        numbers.next().unwrap_or_default(),
    );
    let values = [
        ("gitVersion", version),
        ("gitMajor", major),
        ("gitMinor", minor),
        ("gitTreeState", "clean"),
    ];
    let set =
        values.map(|(name, value)| format!(" -X k8s.io/component-base/version.{name}={value}"));
    format!("-s -w{}", set.concat())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_the_version_of_their_module() {
        let go_mod = include_str!("../../../../tools/kubernetes/go.mod");
        let version = version(go_mod).unwrap();
        let numbers = version.trim_start_matches("v1.");
        assert!(
            numbers.chars().all(|it| it == '.' || it.is_ascii_digit()),
            "{version}"
        );
        assert!(super::version("module x\n").is_err());
        let flags = linker_flags("v1.34.4");
        for set in [
            "version.gitVersion=v1.34.4 ",
            "version.gitMajor=1 ",
            "version.gitMinor=34 ",
        ] {
            assert!(flags.contains(set), "{flags}");
        }
    }
}
