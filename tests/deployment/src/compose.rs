//! compose.yaml: the parts that `cargo xtask up` always starts, as facts.
//!
//! Left out: the parts with a profile (tools, and those that only exist where they can be pulled).

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;
use support::sources;

use crate::{
    facts::{self, Facts},
    files::{comparable, variables},
    yaml::{self, string},
};

/// What is read of a service, here or by [`networks`].
const READ: [&str; 16] = [
    "cap_drop",
    "command",
    "environment",
    "healthcheck",
    "hostname",
    "image",
    "mem_limit",
    "networks",
    "ports",
    "read_only",
    "security_opt",
    "stop_grace_period",
    "sysctls",
    "tmpfs",
    "user",
    "volumes",
];
/// What a manifest has no counterpart for, and why.
const NOT_COMPARED: [(&str, &str); 6] = [
    ("build", "manifests name images"),
    ("cpuset", "a setting of the kubelet; empty by default"),
    (
        "labels",
        "hashes of configuration files, which ConfigMaps have in their names",
    ),
    ("logging", "a setting of the kubelet"),
    ("pids_limit", "a setting of the kubelet"),
    ("restart", "pods are always restarted"),
];
/// How long Compose waits after SIGTERM by default, in seconds.
const DEFAULT_GRACE_SECONDS: &str = "10";

/// compose.yaml with the pinned upstream images.
///
/// # Panics
/// When a file can't be read.
pub fn read() -> Compose {
    let text = |path: &str| {
        let path = sources::root().join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    Compose {
        document: yaml::document("compose.yaml", &text("compose.yaml")),
        pins: variables(&text("images/upstream.env")),
    }
}

/// A Compose file; a test may change the document.
#[derive(Debug, Clone)]
pub struct Compose {
    /// The file, with merge keys resolved and variables as they are written.
    pub document: Value,
    pins: BTreeMap<String, String>,
}

impl Compose {
    /// The services without a profile.
    fn services(&self) -> impl Iterator<Item = (&String, &Value)> {
        let services = self.document["services"].as_object().expect("services");
        services
            .iter()
            .filter(|(_, service)| service.get("profiles").is_none())
    }

    /// The networks of each part.
    ///
    /// # Panics
    /// When a part has none.
    pub fn networks(&self) -> BTreeMap<String, BTreeSet<String>> {
        let networks = self.services().map(|(name, service)| {
            let networks = service["networks"].as_array().expect("a list of networks");
            let networks = networks.iter().map(|network| string(network).to_owned());
            (name.clone(), networks.collect())
        });
        networks.collect()
    }

    /// What it says about its parts. A variable has its default, a secret stays a variable.
    ///
    /// # Panics
    /// When a service has a field that isn't known here.
    pub fn facts(&self) -> Facts {
        let mut facts = Facts::new();
        for (part, service) in self.services() {
            let fields = service.as_object().expect("a map");
            for field in fields.keys() {
                let known = READ.contains(&field.as_str())
                    || NOT_COMPARED.iter().any(|(name, _)| name == field);
                assert!(known, "compose.yaml: {part}: `{field}` isn't compared");
            }
            for (subject, value) in self.of_service(service) {
                facts.insert((part.clone(), subject), value);
            }
        }
        // A port that others use is open, whether or not it is published.
        for (part, port) in facts::addresses(&facts) {
            if self.services().any(|(name, _)| *name == part) {
                facts.insert((part, format!("port {port}")), "open".to_owned());
            }
        }
        facts
    }

    fn of_service(&self, service: &Value) -> BTreeMap<String, String> {
        let mut facts = BTreeMap::new();
        let mut fact = |subject: String, value: String| {
            facts.insert(subject, value);
        };
        let plain = |name: &str| service.get(name).map(|value| self.resolved(string(value)));
        for (name, subject) in [
            ("image", "image"),
            ("user", "user"),
            ("hostname", "hostname"),
        ] {
            if let Some(value) = plain(name) {
                fact(subject.to_owned(), value);
            }
        }
        let memory_bytes = bytes(&plain("mem_limit").expect("mem_limit")).to_string();
        fact("memory request".to_owned(), memory_bytes.clone());
        fact("memory limit".to_owned(), memory_bytes);
        let grace = plain("stop_grace_period");
        let grace = grace.map_or(DEFAULT_GRACE_SECONDS.to_owned(), |it| {
            seconds(&it).to_owned()
        });
        fact("grace period in seconds".to_owned(), grace);
        let start = string(&service["healthcheck"]["start_period"]);
        fact("start in seconds".to_owned(), seconds(start).to_owned());
        if service["read_only"] == true {
            fact("root file system".to_owned(), "read-only".to_owned());
        }
        if list(service, "cap_drop").eq(["ALL"]) {
            fact("capabilities".to_owned(), "none".to_owned());
        }
        if list(service, "security_opt").eq(["no-new-privileges:true"]) {
            fact("privileges".to_owned(), "no new ones".to_owned());
        }
        if service.get("command").is_some() {
            let arguments = list(service, "command").map(|argument| self.resolved(argument));
            let arguments: Value = arguments.collect();
            fact("arguments".to_owned(), arguments.to_string());
        }
        for (name, value) in map(service, "sysctls") {
            fact(format!("sysctl {name}"), string(value).to_owned());
        }
        for (name, value) in map(service, "environment") {
            let value = self.resolved(string(value));
            // Compose can't leave a variable out, so the services take an empty one for unset.
            if !value.is_empty() {
                fact(format!("environment {name}"), value);
            }
        }
        for port in list(service, "ports") {
            let port = self.resolved(port);
            let inside = port.rsplit(':').next().unwrap_or(&port);
            fact(format!("port {inside}"), "open".to_owned());
        }
        for mount in list(service, "tmpfs") {
            let (path, options) = mount.split_once(':').unwrap_or((mount, ""));
            fact(format!("volume {path}"), "in memory".to_owned());
            let size = options.split(',').find_map(|it| it.strip_prefix("size="));
            if let Some(size) = size {
                fact(format!("size of {path}"), bytes(size).to_string());
            }
        }
        for mount in list(service, "volumes") {
            let mut parts = mount.split(':');
            let (source, path) = (
                parts.next().unwrap_or_default(),
                parts.next().expect("a path"),
            );
            if !source.starts_with("./") {
                fact(format!("volume {path}"), "kept".to_owned());
                continue;
            }
            for (path, contents) in files(&sources::root().join(source), path) {
                let contents = comparable(&path, &contents);
                fact(format!("file {path}"), contents);
            }
        }
        facts
    }

    /// With the defaults of variables and the pins of images; what has neither is a secret, and stays.
    fn resolved(&self, text: &str) -> String {
        let mut resolved = String::new();
        let mut rest = text;
        while let Some((before, after)) = rest.split_once("${") {
            let (variable, after) = after.split_once('}').expect("a variable's end");
            let (name, default) = match variable.split_once(":-") {
                Some((name, default)) => (name, Some(default)),
                None => (variable.split(":?").next().unwrap_or(variable), None),
            };
            let value = self.pins.get(name).map(String::as_str).or(default);
            resolved.push_str(before);
            match value {
                Some(value) => resolved.push_str(value),
                None => resolved.push_str(&format!("${{{name}}}")),
            }
            rest = after;
        }
        resolved + rest
    }
}

/// The files at a path, by their path in a container.
fn files(source: &Path, path: &str) -> Vec<(String, String)> {
    let name = source.display();
    if source.is_file() {
        let contents = fs::read_to_string(source).unwrap_or_else(|error| panic!("{name}: {error}"));
        return vec![(path.to_owned(), contents)];
    }
    let entries = fs::read_dir(source).unwrap_or_else(|error| panic!("{name}: {error}"));
    let below = entries.flat_map(|entry| {
        let entry = entry.expect("an entry");
        let path = format!("{path}/{}", entry.file_name().display());
        files(&entry.path(), &path)
    });
    below.collect()
}

fn list<'a>(service: &'a Value, name: &str) -> impl Iterator<Item = &'a str> {
    let items = service
        .get(name)
        .map(|items| items.as_array().expect("a list"));
    items.into_iter().flatten().map(string)
}

fn map<'a>(service: &'a Value, name: &str) -> impl Iterator<Item = (&'a String, &'a Value)> {
    let entries = service
        .get(name)
        .map(|entries| entries.as_object().expect("a map"));
    entries.into_iter().flatten()
}

/// `128m` in bytes.
fn bytes(size: &str) -> u64 {
    let mebibytes: Option<u64> = size.strip_suffix('m').and_then(|size| size.parse().ok());
    mebibytes.unwrap_or_else(|| panic!("{size} has another unit than m")) << 20
}

/// `30s` without its unit.
fn seconds(duration: &str) -> &str {
    duration
        .strip_suffix('s')
        .unwrap_or_else(|| panic!("{duration} has another unit than s"))
}
