//! What is applied: a kustomization above `deploy/kubernetes/overlays/local` with this system's images, switches and namespace,
//! and the Secrets, which no file holds.
//!
//! Left out: applying it ([`super::bring_up`]).

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::images::{self, Image};
use crate::{
    Part,
    env_file::SECRETS_ID,
    files,
    kubectl::{
        ANSWER_WITHIN, KEYS_ANNOTATION, OURS, PART_OF, PLACEMENT_ANNOTATION, SECRETS_ANNOTATION,
        Target,
    },
    project::{Engine, Project, Settings},
    signing_keys::{self, JWT_KEYS, SERVICE, SigningKeys},
    switches,
};

/// The manifests below the project's root.
const BASE: &str = "deploy/kubernetes/base";
/// The overlay, seen from the folder that the kustomization is written to.
const OVERLAY: &str = "../../../../deploy/kubernetes/overlays/local";
/// On a cluster of others the gateway is reached by a forward, and no port of the nodes is opened.
const NO_NODE_PORT: &str = "  - target: {name: traefik, kind: Service}
    patch: |-
      - {op: replace, path: /spec/type, value: ClusterIP}
      - {op: remove, path: /spec/ports/0/nodePort}";
/// The ConfigMaps that parts have variables from, and the file with each one's.
const CONFIG_MAPS: [(&str, &str); 5] = [
    ("service-settings", "settings/services.env"),
    (
        "patterns-user-service",
        "settings/patterns-user-service.env",
    ),
    (
        "patterns-product-service",
        "settings/patterns-product-service.env",
    ),
    (
        "patterns-order-service",
        "settings/patterns-order-service.env",
    ),
    (
        "patterns-inventory-service",
        "settings/patterns-inventory-service.env",
    ),
];
/// The Secrets by name, each with its keys, which have the names of settings (`deploy/kubernetes/README.md`).
const SECRETS: [(&str, &[&str]); 2] = [
    ("broker-password", &["AGORA_RABBITMQ_PASSWORD"]),
    (
        "database-passwords",
        &[
            "AGORA_INVENTORY_DB_PASSWORD",
            "AGORA_ORDER_DB_PASSWORD",
            "AGORA_POSTGRES_PASSWORD",
            "AGORA_PRODUCT_DB_PASSWORD",
            "AGORA_USER_DB_PASSWORD",
        ],
    ),
];
/// How the names of the Secrets with the signing keys begin. Each has a name of its own, so that a pod template says which keys its
/// pods have, however it came back.
const KEYS: &str = "signing-keys-";

/// The namespace, with the labels of `base` and the id of the secrets, as JSON.
pub(super) fn namespace(target: &Target, settings: &Settings) -> anyhow::Result<String> {
    let secrets = settings.require(SECRETS_ID)?;
    Ok(json!({
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": target.namespace(),
            "labels": { PART_OF: OURS },
            "annotations": { SECRETS_ANNOTATION: secrets },
        },
    })
    .to_string())
}

/// The Secrets, as JSON.
///
/// # Errors
/// When a setting has no value.
pub(super) fn secrets(settings: &Settings) -> anyhow::Result<String> {
    let secret = |(name, keys): (&str, &[&str])| {
        let values: BTreeMap<&str, &str> = keys
            .iter()
            .map(|key| Ok((*key, settings.require(key)?)))
            .collect::<anyhow::Result<_>>()?;
        anyhow::Ok(json!({
            "apiVersion": "v1",
            "kind": "Secret",
            "metadata": { "name": name, "labels": { PART_OF: OURS } },
            "stringData": values,
        }))
    };
    let signing_keys = keys_secret(settings.require(JWT_KEYS)?);
    let all = SECRETS
        .into_iter()
        .chain([(&*signing_keys, &[JWT_KEYS][..])]);
    let secrets: Vec<Value> = all.map(secret).collect::<anyhow::Result<_>>()?;
    Ok(json!({ "apiVersion": "v1", "kind": "List", "items": secrets }).to_string())
}

/// The name of the Secret with these signing keys.
fn keys_secret(keys: &str) -> String {
    let digest = format!("{:x}", Sha256::digest(keys));
    format!("{KEYS}{}", &digest[..12])
}

/// Removes the Secrets with other signing keys than these settings', once no pod needs them.
///
/// # Errors
/// When the cluster refuses.
pub(super) fn remove_old_keys(target: &Target, settings: &Settings) -> anyhow::Result<()> {
    let names = ["get", "secrets", "--output=name", ANSWER_WITHIN];
    let names = target.kubectl(names).read()?;
    let old = old_keys(&names, &keys_secret(settings.require(JWT_KEYS)?));
    if old.is_empty() {
        return Ok(());
    }
    let delete = ["delete", "secret", "--ignore-not-found", ANSWER_WITHIN];
    target.kubectl(delete).args(old).read()?;
    Ok(())
}

/// The names of the Secrets with other signing keys, in kubectl's list. Pure.
fn old_keys<'a>(list: &'a str, ours: &str) -> Vec<&'a str> {
    list.lines()
        .filter_map(|line| line.strip_prefix("secret/"))
        .filter(|name| name.starts_with(KEYS) && *name != ours)
        .collect()
}

/// How many replicas parts have, where it isn't as many as in the manifests.
pub(super) type Replicas = BTreeMap<Part, u64>;

/// Writes the kustomization and the images; returns its folder. `placement` is what the settings say of it, if they do, and the node for
/// everything where that is one.
///
/// # Errors
/// When a file can't be read or written.
pub(super) fn write(
    target: &Target,
    settings: &Settings,
    images: &[Image],
    replicas: &Replicas,
    placement: Option<(&str, Option<&str>)>,
) -> anyhow::Result<PathBuf> {
    let project = target.project();
    let folder = target.folder();
    images::note(target, images)?;
    let path = folder.join("kustomization.yaml");
    // The text of the keys goes into no file: their ids do, and a digest.
    let mut text = kustomization(
        target.namespace(),
        target.context().is_none(),
        images,
        replicas,
        &Placed::of(project, &changed(settings))?,
        settings.require(JWT_KEYS)?,
    )?;
    if let Some((placement, node)) = placement {
        text.push_str(&placed(placement, node));
    }
    files::replace(&path, text.as_bytes())?;
    Ok(folder)
}

/// The switches and overrides that the settings give.
fn changed(settings: &Settings) -> Vec<(String, String)> {
    settings
        .iter()
        .filter(|(name, value)| {
            let is_one = name.starts_with(patterns::PREFIX) || switches::OVERRIDES.contains(name);
            is_one && !value.is_empty()
        })
        .map(|(name, value)| {
            let value = switches::share_of_each_gateway(name, value);
            (name.to_owned(), value)
        })
        .collect()
}

/// Variables by where the manifests have them.
#[derive(Debug, Default, PartialEq, Eq)]
struct Placed {
    /// By ConfigMap.
    shared: BTreeMap<&'static str, Vec<(String, String)>>,
    /// By part.
    own: BTreeMap<Part, Vec<(String, String)>>,
}

impl Placed {
    /// Finds each of the variables.
    fn of(project: &Project, variables: &[(String, String)]) -> anyhow::Result<Self> {
        let base = project.root.join(BASE);
        let mut placed = Self::default();
        for (name, file) in CONFIG_MAPS {
            let text = read(&base.join(file))?;
            let found = among(variables, |name| {
                text.lines()
                    .any(|line| line.split_once('=').is_some_and(|(it, _)| it == name))
            });
            if !found.is_empty() {
                placed.shared.insert(name, found);
            }
        }
        for part in Part::required() {
            let text = read(&base.join(format!("{part}.yaml")))?;
            let found = among(variables, |name| {
                let entry = format!("- name: {name}");
                text.lines().any(|line| line.trim() == entry)
            });
            if !found.is_empty() {
                placed.own.insert(part, found);
            }
        }
        Ok(placed)
    }
}

fn read(path: &Path) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("failed to read {}", path.display()))
}

fn among(variables: &[(String, String)], is_here: impl Fn(&str) -> bool) -> Vec<(String, String)> {
    let here = variables.iter().filter(|(name, _)| is_here(name));
    here.cloned().collect()
}

/// The kustomization's text. Pure. Every value in it is a name, a number or a switch's position.
fn kustomization(
    namespace: &str,
    has_node_port: bool,
    images: &[Image],
    replicas: &Replicas,
    placed: &Placed,
    keys: &str,
) -> anyhow::Result<String> {
    let mut text = format!(
        "# Made by `cargo xtask up`.\napiVersion: kustomize.config.k8s.io/v1beta1\nkind: Kustomization\n\
         namespace: {namespace}\nresources: [{OVERLAY}]\nlabels:\n  - pairs: {{{PART_OF}: {OURS}}}\n"
    );
    let mut line = |line: String| {
        let _ = writeln!(text, "{line}");
    };
    line("images:".to_owned());
    for image in images {
        line(format!(
            "  - {{name: {}, newName: {}, newTag: \"{}\"}}",
            image.in_manifests, image.name, image.tag
        ));
    }
    let mut title = Some("replicas:");
    for (part, count) in replicas {
        title.take().into_iter().for_each(|it| line(it.to_owned()));
        line(format!("  - {{name: {part}, count: {count}}}"));
    }
    let mut title = Some("configMapGenerator:");
    for (name, variables) in &placed.shared {
        title.take().into_iter().for_each(|it| line(it.to_owned()));
        let literals: Vec<String> = variables
            .iter()
            .map(|(name, value)| format!("\"{name}={value}\""))
            .collect();
        line(format!(
            // By the name that it has in `base`.
            "  - {{name: {name}, namespace: {}, behavior: merge, literals: [{}]}}",
            Engine::NAMESPACE,
            literals.join(", ")
        ));
    }
    line("patches:".to_owned());
    if !has_node_port {
        line(NO_NODE_PORT.to_owned());
    }
    let ids = SigningKeys::parse(keys)?.ids().join(",");
    let key = json!({ "name": keys_secret(keys), "key": JWT_KEYS });
    let variable = json!({ "name": signing_keys::VARIABLE, "valueFrom": { "secretKeyRef": key } });
    let container = json!({ "name": SERVICE.name(), "env": [variable] });
    let template = json!({
        "metadata": { "annotations": { KEYS_ANNOTATION: ids } },
        "spec": { "containers": [container] },
    });
    line(patch(SERVICE, template));
    for (part, variables) in &placed.own {
        let env: Vec<Value> = variables
            .iter()
            .map(|(name, value)| json!({ "name": name, "value": value }))
            .collect();
        let container = json!({ "name": part.name(), "env": env });
        let containers = json!({ "containers": [container] });
        line(patch(*part, json!({ "spec": containers })));
    }
    Ok(text)
}

/// Patches that say of every service and the gateways how they are placed. With a node they are put on it, and it is left to Kubernetes'
/// defaults what becomes of them when it is lost. They are tied to it: what isn't would be spread by default, too. Pure.
fn placed(placement: &str, node: Option<&str>) -> String {
    let mut template = json!({
        "metadata": { "annotations": { PLACEMENT_ANNOTATION: placement } },
    });
    if let Some(node) = node {
        template["spec"] = json!({
            "nodeSelector": { "kubernetes.io/hostname": node },
            "topologySpreadConstraints": null,
            "tolerations": null,
        });
    }
    let parts = Part::services().chain([Part::Traefik]);
    parts
        .map(|part| format!("{}\n", patch(part, template.clone())))
        .collect()
}

/// A patch of a part's pod template.
fn patch(part: Part, template: Value) -> String {
    let patch = json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": { "name": part.name() },
        "spec": { "template": template },
    });
    format!(
        "  - target: {{name: {part}, kind: Deployment|StatefulSet}}\n    patch: |-\n      {patch}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env_file::EnvFile;

    const KEYS_OF_TESTS: &str =
        "k1:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

    #[test]
    fn pods_have_the_keys_that_their_template_names_and_no_file_has_a_key() {
        let with = |keys: &str| {
            let (replicas, placed) = (Replicas::new(), Placed::default());
            kustomization("shop", true, &[], &replicas, &placed, keys).unwrap()
        };
        let text = with(KEYS_OF_TESTS);
        assert!(text.contains(&keys_secret(KEYS_OF_TESTS)), "{text}");
        assert!(text.contains(r#""agora.signing-keys":"k1""#), "{text}");
        assert!(!text.contains("0123456789abcdef"), "{text}");
        // Another secret under the same id.
        let other = KEYS_OF_TESTS.replace("k1:01", "k1:02");
        assert_ne!(with(&other), text);
    }

    /// Settings of a system, of which only these matter.
    fn settings(values: &[(&str, &str)]) -> Settings {
        let file = tempfile::tempdir().unwrap();
        let mut env_file = EnvFile::read(&file.path().join(".env")).unwrap();
        for (name, value) in values {
            env_file.set(name, value);
        }
        Project::at("/clone".into(), "agora.local").settings_from(&env_file)
    }

    #[test]
    fn on_one_node_are_the_services_and_the_gateways() {
        let text = placed(switches::ONE_NODE, Some("node2"));
        assert_eq!(text.lines().count(), 3 * 5, "{text}");
        assert!(text.contains("{name: traefik,"), "{text}");
        assert!(!text.contains("postgres"), "{text}");
        let selected = text.matches(r#""kubernetes.io/hostname":"node2""#);
        assert_eq!(selected.count(), 5);
        // What a pod has of it is found in its manifest, and gone.
        let base = Project::discover().unwrap().root.join(BASE);
        for part in Part::services().chain([Part::Traefik]) {
            let manifest = read(&base.join(format!("{part}.yaml"))).unwrap();
            for field in ["topologySpreadConstraints", "tolerations"] {
                assert!(manifest.contains(field), "{part}: {field}");
            }
        }
        assert_eq!(text.matches("null").count(), 2 * 5);
        let spread = placed(switches::SPREAD, None);
        assert_eq!(spread.matches(r#""agora.placement":"spread""#).count(), 5);
        assert!(
            !spread.contains("nodeSelector") && !spread.contains("null"),
            "{spread}"
        );
    }

    #[test]
    fn a_limit_that_each_gateway_counts_by_itself_is_divided_among_them() {
        let base = Project::discover().unwrap().root.join(BASE);
        let gateway = read(&base.join("traefik.yaml")).unwrap();
        let replicas = format!("replicas: {}", switches::GATEWAYS);
        assert!(gateway.lines().any(|line| line.trim() == replicas));
        let limit = "AGORA_RATE_LIMIT_AVERAGE";
        let changed = changed(&settings(&[(limit, "21")]));
        assert_eq!(changed, [(limit.to_owned(), "11".to_owned())]);
    }

    #[test]
    fn the_secret_that_pods_name_is_the_one_that_is_made() {
        let passwords = SECRETS.iter().flat_map(|(_, keys)| *keys);
        let mut values: Vec<(&str, &str)> = passwords.map(|key| (*key, "x")).collect();
        values.push((JWT_KEYS, KEYS_OF_TESTS));
        let made = secrets(&settings(&values)).unwrap();
        let name = keys_secret(KEYS_OF_TESTS);
        assert!(made.contains(&format!(r#""name":"{name}""#)), "{made}");
        // The variable that the patch changes is there to be changed.
        let base = Project::discover().unwrap().root.join(BASE);
        let service = read(&base.join(format!("{SERVICE}.yaml"))).unwrap();
        let variable = format!("- name: {}", signing_keys::VARIABLE);
        assert!(service.lines().any(|line| line.trim() == variable));
    }

    #[test]
    fn only_secrets_with_other_signing_keys_are_removed() {
        let list = "secret/broker-password\nsecret/signing-keys-ab\nsecret/signing-keys-cd\nsecret/signing-keys\n";
        assert_eq!(old_keys(list, "signing-keys-cd"), ["signing-keys-ab"]);
    }

    #[test]
    fn every_switch_and_override_is_found_in_the_manifests() {
        let project = Project::discover().unwrap();
        let switches = patterns::Pattern::ALL.iter().map(|it| it.variable());
        for variable in switches.chain(switches::OVERRIDES) {
            let variables = [(variable.to_owned(), "off".to_owned())];
            let placed = Placed::of(&project, &variables).unwrap();
            assert_ne!(placed, Placed::default(), "{variable}");
        }
    }

    #[test]
    fn a_kustomization_has_images_switches_and_namespace() {
        let image = Image {
            in_manifests: "docker.io/library/postgres".to_owned(),
            name: "docker.io/agora-local/postgres".to_owned(),
            tag: "17-0123".to_owned(),
        };
        let off = |name: &str| vec![(name.to_owned(), "off".to_owned())];
        let placed = Placed {
            shared: [("patterns-order-service", off("AGORA_PATTERN_INBOX"))].into(),
            own: [(Part::UserService, off("AGORA_PATTERN_DEADLINE"))].into(),
        };
        let replicas = [(Part::OrderService, 4)].into();
        let text = kustomization("shop", true, &[image], &replicas, &placed, KEYS_OF_TESTS);
        let text = text.unwrap();
        for line in [
            "namespace: shop",
            r#"  - {name: docker.io/library/postgres, newName: docker.io/agora-local/postgres, newTag: "17-0123"}"#,
            r#"  - {name: patterns-order-service, namespace: agora, behavior: merge, literals: ["AGORA_PATTERN_INBOX=off"]}"#,
            "  - {name: order-service, count: 4}",
            "  - target: {name: user-service, kind: Deployment|StatefulSet}",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}: {text}");
        }
        let nothing = Replicas::new();
        let nothing = kustomization(
            "shop",
            false,
            &[],
            &nothing,
            &Placed::default(),
            KEYS_OF_TESTS,
        );
        let nothing = nothing.unwrap();
        for absent in ["configMapGenerator", "replicas"] {
            assert!(!nothing.contains(absent), "{absent}");
        }
    }
}
