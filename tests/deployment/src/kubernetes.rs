//! The manifests of `deploy/kubernetes/base`, as Kustomize puts them together, or as `kubectl kustomize` printed them.
//!
//! Left out: patches and images, which only overlays have; kubectl applies them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::{Map, Value, json};
use support::sources;

use crate::{
    facts::Facts,
    files::{self, comparable},
    yaml::{self, items, string, strings},
};

/// The base, from the repository's root.
pub const BASE: &str = "deploy/kubernetes/base";

/// What is read of a pod's definition, here or by [`Manifests::defects`].
const POD: [&str; 8] = [
    "automountServiceAccountToken",
    "containers",
    "enableServiceLinks",
    "securityContext",
    "terminationGracePeriodSeconds",
    // about where a pod runs
    "tolerations",
    "topologySpreadConstraints",
    "volumes",
];
/// The same of a container's.
const CONTAINER: [&str; 14] = [
    "args",
    "env",
    "envFrom",
    "image",
    // decides where images come from, which differs by overlay
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "name",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
    "startupProbe",
    "volumeMounts",
];

/// The same of a pod's `securityContext`.
const POD_SECURITY: [&str; 7] = [
    "fsGroup",
    "fsGroupChangePolicy",
    "runAsGroup",
    "runAsNonRoot",
    "runAsUser",
    "seccompProfile",
    "sysctls",
];
/// The same of a container's.
const CONTAINER_SECURITY: [&str; 3] = [
    "allowPrivilegeEscalation",
    "capabilities",
    "readOnlyRootFilesystem",
];

/// Kubernetes' objects; a test may change them.
#[derive(Debug, Clone)]
pub struct Manifests {
    /// In the order of the files.
    pub objects: Vec<Value>,
}

/// A workload and its pods' definition.
#[derive(Debug, Clone, Copy)]
pub struct Workload<'a> {
    /// The part's name.
    pub part: &'a str,
    object: &'a Value,
}

/// The manifests of the base, without hashes in the names of ConfigMaps.
///
/// # Panics
/// When a kustomization has a field that isn't known here.
pub fn read() -> Manifests {
    let mut objects = Vec::new();
    add_kustomization(&sources::root().join(BASE), &mut objects);
    Manifests { objects }
}

/// Manifests that a program printed.
///
/// # Panics
/// When they aren't YAML.
pub fn printed(text: &str) -> Manifests {
    Manifests {
        objects: yaml::documents("rendered manifests", text),
    }
}

fn add_kustomization(folder: &Path, objects: &mut Vec<Value>) {
    let read = |path: &str| {
        let path = folder.join(path);
        fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
    };
    let name = folder.join("kustomization.yaml").display().to_string();
    let kustomization = yaml::document(&name, &read("kustomization.yaml"));
    for (field, value) in kustomization.as_object().expect("a map") {
        match field.as_str() {
            "apiVersion" | "kind" | "namespace" => {}
            "resources" => {
                for resource in strings(value) {
                    if folder.join(resource).is_dir() {
                        add_kustomization(&folder.join(resource), objects);
                    } else {
                        objects.extend(yaml::documents(resource, &read(resource)));
                    }
                }
            }
            "configMapGenerator" => {
                let maps = items(value).map(|generator| config_map(generator, &read));
                objects.extend(maps);
            }
            _ => panic!("{name}: `{field}` isn't known here"),
        }
    }
}

fn config_map(generator: &Value, read: &impl Fn(&str) -> String) -> Value {
    let mut data = Map::new();
    for (field, value) in generator.as_object().expect("a map") {
        match field.as_str() {
            "name" | "options" => {}
            "files" => {
                for file in strings(value) {
                    let (key, path) = file.split_once('=').expect("key=path");
                    data.insert(key.to_owned(), read(path).into());
                }
            }
            "envs" => {
                for (name, value) in strings(value).flat_map(|path| files::variables(&read(path))) {
                    data.insert(name, value.into());
                }
            }
            _ => panic!("configMapGenerator: `{field}` isn't known here"),
        }
    }
    json!({ "kind": "ConfigMap", "metadata": { "name": generator["name"] }, "data": data })
}

impl Manifests {
    /// The objects of a kind.
    pub fn of_kind(&self, kind: &str) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(move |it| it["kind"] == kind)
    }

    /// One object, for a test to change.
    ///
    /// # Panics
    /// When there is none.
    pub fn object_mut(&mut self, kind: &str, name: &str) -> &mut Value {
        let mut objects = self.objects.iter_mut();
        let found = objects.find(|it| it["kind"] == kind && it["metadata"]["name"] == name);
        found.unwrap_or_else(|| panic!("there is no {kind} {name}"))
    }

    /// What runs pods.
    ///
    /// # Panics
    /// When a kind of object isn't known here.
    pub fn workloads(&self) -> Vec<Workload<'_>> {
        let mut workloads = Vec::new();
        for object in &self.objects {
            let part = string(&object["metadata"]["name"]);
            match string(&object["kind"]) {
                "Deployment" | "StatefulSet" => workloads.push(Workload { part, object }),
                "ConfigMap" | "Namespace" | "NetworkPolicy" | "PodDisruptionBudget" | "Service" => {
                }
                kind => panic!("{kind} {part} isn't known here"),
            }
        }
        workloads
    }

    /// What the manifests say about the parts, in the words of [`crate::compose::Compose::facts`].
    ///
    /// # Panics
    /// When a pod has a field that isn't known here, or refers to a ConfigMap that there is not.
    pub fn facts(&self) -> Facts {
        let of_workload = |workload: &Workload<'_>| {
            let part = workload.part.to_owned();
            let facts = self.of_workload(workload).into_iter();
            facts
                .map(|(subject, value)| ((part.clone(), subject), value))
                .collect::<Vec<_>>()
        };
        self.workloads().iter().flat_map(of_workload).collect()
    }

    fn of_workload(&self, workload: &Workload<'_>) -> BTreeMap<String, String> {
        let (pod, container) = (workload.pod(), workload.container());
        for (object, known) in [
            (pod, &POD[..]),
            (container, &CONTAINER[..]),
            (&pod["securityContext"], &POD_SECURITY[..]),
            (&container["securityContext"], &CONTAINER_SECURITY[..]),
        ] {
            for (field, _) in object.as_object().into_iter().flatten() {
                let part = workload.part;
                assert!(
                    known.contains(&field.as_str()),
                    "{part}: `{field}` isn't compared"
                );
            }
        }
        let mut facts = BTreeMap::new();
        let mut fact = |subject: String, value: String| {
            facts.insert(subject, value);
        };
        fact("image".to_owned(), string(&container["image"]).to_owned());
        let security = &pod["securityContext"];
        let user = format!("{}:{}", security["runAsUser"], security["runAsGroup"]);
        fact("user".to_owned(), user);
        let resources = &container["resources"];
        for (subject, quantity) in [
            ("memory request", &resources["requests"]["memory"]),
            ("memory limit", &resources["limits"]["memory"]),
        ] {
            fact(subject.to_owned(), bytes(string(quantity)).to_string());
        }
        if let Some(limit) = resources["limits"].get("cpu") {
            fact("processor limit".to_owned(), limit.to_string());
        }
        let grace = &pod["terminationGracePeriodSeconds"];
        fact("grace period in seconds".to_owned(), grace.to_string());
        let start = &container["startupProbe"];
        let [period, failures] = ["periodSeconds", "failureThreshold"]
            .map(|field| start[field].as_u64().expect("a number"));
        fact(
            "start in seconds".to_owned(),
            (period * failures).to_string(),
        );
        let security = &container["securityContext"];
        if security["readOnlyRootFilesystem"] == true {
            fact("root file system".to_owned(), "read-only".to_owned());
        }
        if security["capabilities"] == json!({ "drop": ["ALL"] }) {
            fact("capabilities".to_owned(), "none".to_owned());
        }
        if security["allowPrivilegeEscalation"] == false {
            fact("privileges".to_owned(), "no new ones".to_owned());
        }
        for sysctl in items(&pod["securityContext"]["sysctls"]) {
            let subject = format!("sysctl {}", string(&sysctl["name"]));
            fact(subject, string(&sysctl["value"]).to_owned());
        }
        let environment = self.environment(container);
        if container.get("args").is_some() {
            let arguments = strings(&container["args"]).map(|it| expanded(it, &environment.all));
            let arguments: Value = arguments.collect();
            fact("arguments".to_owned(), arguments.to_string());
        }
        for (name, value) in environment.of_the_part() {
            fact(format!("environment {name}"), value.clone());
        }
        for port in items(&container["ports"]) {
            fact(format!("port {}", port["containerPort"]), "open".to_owned());
        }
        for mount in items(&container["volumeMounts"]) {
            for (subject, value) in self.of_mount(workload, mount) {
                fact(subject, value);
            }
        }
        facts
    }

    fn of_mount(&self, workload: &Workload<'_>, mount: &Value) -> Vec<(String, String)> {
        let path = string(&mount["mountPath"]);
        let name = &mount["name"];
        let mut claims = items(&workload.object["spec"]["volumeClaimTemplates"]);
        if claims.any(|claim| claim["metadata"]["name"] == *name) {
            return vec![(format!("volume {path}"), "kept".to_owned())];
        }
        let mut volumes = items(&workload.pod()["volumes"]);
        let volume = volumes
            .find(|volume| volume["name"] == *name)
            .unwrap_or_else(|| panic!("{}: there is no volume {name}", workload.part));
        if let Some(scratch) = volume.get("emptyDir") {
            let size = bytes(string(&scratch["sizeLimit"])).to_string();
            let is_memory = scratch["medium"] == "Memory";
            let place = if is_memory { "in memory" } else { "on disk" };
            return vec![
                (format!("volume {path}"), place.to_owned()),
                (format!("size of {path}"), size),
            ];
        }
        let source = &volume["configMap"];
        let data = self.data(string(&source["name"]));
        let file = |path: String, key: &str| {
            let contents = data
                .get(key)
                .unwrap_or_else(|| panic!("{source} has no {key}"));
            (format!("file {path}"), comparable(&path, string(contents)))
        };
        if let Some(key) = mount.get("subPath") {
            return vec![file(path.to_owned(), string(key))];
        }
        match source.get("items") {
            Some(chosen) => items(chosen)
                .map(|item| {
                    file(
                        format!("{path}/{}", string(&item["path"])),
                        string(&item["key"]),
                    )
                })
                .collect(),
            None => data
                .keys()
                .map(|key| file(format!("{path}/{key}"), key))
                .collect(),
        }
    }

    fn data(&self, config_map: &str) -> &Map<String, Value> {
        let mut maps = self.of_kind("ConfigMap");
        let map = maps.find(|map| map["metadata"]["name"] == config_map);
        let data = map.and_then(|map| map["data"].as_object());
        data.unwrap_or_else(|| panic!("there is no ConfigMap {config_map}"))
    }

    fn environment(&self, container: &Value) -> Environment {
        let mut environment = Environment::default();
        for source in items(&container["envFrom"]) {
            let data = self.data(string(&source["configMapRef"]["name"]));
            for (name, value) in data {
                environment
                    .all
                    .insert(name.clone(), string(value).to_owned());
            }
        }
        for variable in items(&container["env"]) {
            let name = string(&variable["name"]).to_owned();
            let secret = &variable["valueFrom"]["secretKeyRef"]["key"];
            let value = match secret.as_str() {
                Some(key) => {
                    environment.secrets.insert(name.clone());
                    format!("${{{key}}}")
                }
                None => {
                    let value = string(&variable["value"]);
                    let used = environment.secrets.iter();
                    let used = used.filter(|name| value.contains(&format!("$({name})")));
                    environment.used.extend(used.cloned());
                    expanded(value, &environment.all)
                }
            };
            environment.all.insert(name, value);
        }
        environment.all.retain(|_, value| !value.is_empty());
        environment
    }

    /// The keys of Secrets that pods need, by the Secret's name.
    pub fn secrets(&self) -> BTreeMap<String, BTreeSet<String>> {
        let mut secrets: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for workload in self.workloads() {
            for variable in items(&workload.container()["env"]) {
                let reference = &variable["valueFrom"]["secretKeyRef"];
                if let (Some(name), Some(key)) =
                    (reference["name"].as_str(), reference["key"].as_str())
                {
                    secrets
                        .entry(name.to_owned())
                        .or_default()
                        .insert(key.to_owned());
                }
            }
        }
        secrets
    }

    /// The part and the container's port behind each port of a Service, by `name:port`.
    ///
    /// # Panics
    /// When a Service selects no part, or names a port that its containers don't have.
    pub fn service_ports(&self) -> BTreeMap<String, (String, u64)> {
        let mut ports = BTreeMap::new();
        let workloads = self.workloads();
        for service in self.of_kind("Service") {
            let name = string(&service["metadata"]["name"]);
            let selected = workloads
                .iter()
                .find(|workload| selects(&service["spec"]["selector"], workload.labels()));
            let workload = selected.unwrap_or_else(|| panic!("Service {name} selects no part"));
            for port in items(&service["spec"]["ports"]) {
                let target = workload.port(&port["targetPort"]);
                let target =
                    target.unwrap_or_else(|| panic!("Service {name}: {port} leads nowhere"));
                let address = format!("{name}:{}", port["port"]);
                ports.insert(address, (workload.part.to_owned(), target));
            }
        }
        ports
    }

    /// The addresses of Prometheus's targets, `name:port`, as its file has them.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn targets(&self) -> BTreeSet<String> {
        let mut maps = self.of_kind("ConfigMap");
        let text = maps.find_map(|map| map["data"].get("prometheus.yml"));
        files::targets(string(text.expect("Prometheus's file")))
    }

    /// Where pods fall short of the level `restricted`, or of what agora adds to it.
    pub fn defects(&self) -> Vec<String> {
        self.workloads()
            .iter()
            .flat_map(Workload::defects)
            .collect()
    }
}

impl<'a> Workload<'a> {
    fn template(&self) -> &'a Value {
        &self.object["spec"]["template"]
    }

    fn pod(&self) -> &'a Value {
        &self.template()["spec"]
    }

    fn container(&self) -> &'a Value {
        let containers = self.pod()["containers"].as_array().expect("containers");
        let [container] = containers.as_slice() else {
            panic!("{} has several containers", self.part);
        };
        container
    }

    /// Its pods' labels.
    pub fn labels(&self) -> &'a Value {
        &self.template()["metadata"]["labels"]
    }

    /// The ports that its container opens.
    pub fn ports(&self) -> impl Iterator<Item = u64> {
        let ports = items(&self.container()["ports"]);
        ports.map(|port| port["containerPort"].as_u64().expect("a number"))
    }

    /// The port with this name or number.
    pub fn port(&self, named: &Value) -> Option<u64> {
        let mut ports = items(&self.container()["ports"]);
        let port = ports.find(|port| port["name"] == *named || port["containerPort"] == *named)?;
        port["containerPort"].as_u64()
    }

    fn defects(&self) -> Vec<String> {
        let (pod, container) = (self.pod(), self.container());
        let (of_pod, of_container) = (&pod["securityContext"], &container["securityContext"]);
        let is_service = self.part.ends_with("-service");
        let selector = &self.object["spec"]["selector"]["matchLabels"];
        let rules = [
            (
                "run as another user than root",
                of_pod["runAsNonRoot"] == true,
            ),
            (
                "have the default seccomp profile",
                of_pod["seccompProfile"]["type"] == "RuntimeDefault",
            ),
            (
                "gain no privileges",
                of_container["allowPrivilegeEscalation"] == false,
            ),
            (
                "have no capabilities",
                of_container["capabilities"] == json!({ "drop": ["ALL"] }),
            ),
            (
                "have a read-only root file system",
                of_container["readOnlyRootFilesystem"] == true,
            ),
            (
                "have no token",
                pod["automountServiceAccountToken"] == false,
            ),
            (
                "have no variables about Services",
                pod["enableServiceLinks"] == false,
            ),
            (
                "request processors",
                container["resources"]["requests"]["cpu"].is_string(),
            ),
            (
                "have three probes",
                ["startupProbe", "readinessProbe", "livenessProbe"]
                    .iter()
                    .all(|probe| container[probe].is_object()),
            ),
            (
                "be what its selector selects",
                selects(selector, self.labels()),
            ),
            (
                "have two replicas",
                !is_service || self.object["spec"]["replicas"] == 2,
            ),
            (
                "be spread over nodes",
                !is_service || pod["topologySpreadConstraints"].is_array(),
            ),
        ];
        let broken = rules.into_iter().filter(|(_, holds)| !holds);
        broken
            .map(|(rule, _)| format!("{} must {rule}", self.part))
            .collect()
    }
}

/// The variables of a container.
#[derive(Debug, Default)]
struct Environment {
    all: BTreeMap<String, String>,
    /// Those that come from a Secret.
    secrets: BTreeSet<String>,
    /// Those of them that another variable's value is made with.
    used: BTreeSet<String>,
}

impl Environment {
    /// Without those that are there for other variables alone.
    fn of_the_part(&self) -> impl Iterator<Item = (&String, &String)> {
        self.all
            .iter()
            .filter(|(name, _)| !self.used.contains(*name))
    }
}

/// With the values of `$(NAME)`. As in Kubernetes, a variable that isn't known (yet) stays as it is written.
fn expanded(text: &str, variables: &BTreeMap<String, String>) -> String {
    let expand = |text: String, (name, value): (&String, &String)| {
        text.replace(&format!("$({name})"), value)
    };
    variables.iter().fold(text.to_owned(), expand)
}

/// Whether labels have all that a selector names.
pub(crate) fn selects(selector: &Value, labels: &Value) -> bool {
    let wanted = selector.as_object().into_iter().flatten();
    wanted
        .into_iter()
        .all(|(name, value)| labels.get(name) == Some(value))
}

/// `128Mi` in bytes.
fn bytes(quantity: &str) -> u64 {
    let mebibytes: Option<u64> = quantity.strip_suffix("Mi").and_then(|it| it.parse().ok());
    mebibytes.unwrap_or_else(|| panic!("{quantity} has another unit than Mi")) << 20
}
