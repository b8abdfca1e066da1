//! Who may reach whom: as NetworkPolicies allow it, and as Compose's networks do.
//!
//! A policy selects pods; a selected pod has only the connections that one of its policies allows, in each direction that a
//! policy has a say in, and a connection needs both ends' consent
//! (<https://kubernetes.io/docs/concepts/services-networking/network-policies/>). Left out: `ipBlock` and `matchExpressions`,
//! which are refused, and the difference between TCP and UDP.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    kubernetes::{Manifests, Workload, selects},
    yaml::{items, string},
};

/// A port that no part has: a connection to it is allowed where all ports are.
const ANY_OTHER: u64 = 1;
const DNS: u64 = 53;
const HTTPS: u64 = 443;
/// The port that clients use, of the part that they reach.
const PUBLIC: (&str, u64) = ("traefik", 8080);

/// One end of a connection.
#[derive(Debug, Clone, Copy)]
enum End<'a> {
    Part(Workload<'a>),
    /// A pod beside the parts, which no policy of a network selects.
    Unlabelled,
    /// An address outside of the cluster.
    Outside,
    /// A pod of another namespace, of which only the namespace's name is known.
    Stranger(&'static str),
}

/// No labels.
static NONE: Value = Value::Null;

impl<'a> End<'a> {
    fn name(&self) -> String {
        match self {
            Self::Part(workload) => workload.part.to_owned(),
            Self::Unlabelled => "a pod without a network".to_owned(),
            Self::Outside => "an address outside of the cluster".to_owned(),
            Self::Stranger(namespace) => format!("a pod of the namespace {namespace}"),
        }
    }

    /// The labels of a pod in the manifests' namespace, whose policies apply to it.
    fn labels(&self) -> Option<&'a Value> {
        match self {
            Self::Part(workload) => Some(workload.labels()),
            Self::Unlabelled => Some(&NONE),
            Self::Outside | Self::Stranger(_) => None,
        }
    }

    /// Ports that differ for policies.
    fn ports(&self) -> Vec<u64> {
        let own: Vec<u64> = match self {
            Self::Part(workload) => workload.ports().collect(),
            _ => Vec::new(),
        };
        own.into_iter().chain([ANY_OTHER]).collect()
    }

    /// Whether an entry of `from` or `to` means it.
    fn is_meant(&self, peer: &Value) -> bool {
        for field in peer.as_object().expect("a map").keys() {
            let known = ["podSelector", "namespaceSelector"].contains(&field.as_str());
            assert!(known, "{peer}: `{field}` isn't known here");
        }
        let (pods, namespaces) = (peer.get("podSelector"), peer.get("namespaceSelector"));
        let (namespace, own) = match self {
            Self::Part(_) | Self::Unlabelled => ("agora", self.labels().unwrap_or(&NONE)),
            Self::Stranger(namespace) => (*namespace, &NONE),
            Self::Outside => return false,
        };
        let named = json!({ "kubernetes.io/metadata.name": namespace });
        let is_namespace = match namespaces {
            Some(namespaces) => selects(labels(namespaces), &named),
            None => namespace == "agora",
        };
        is_namespace && pods.is_none_or(|pods| selects(labels(pods), own))
    }

    /// Whether its policies, if it has any, allow a connection in a direction.
    fn consents(
        &self,
        policies: &[&Value],
        direction: &Direction,
        other: &End<'_>,
        to: Port<'_>,
    ) -> bool {
        let Some(own) = self.labels() else {
            return true;
        };
        let policies = policies.iter().filter(|policy| {
            let has_a_say = items(&policy["spec"]["policyTypes"]).any(|it| it == direction.kind);
            has_a_say && selects(labels(&policy["spec"]["podSelector"]), own)
        });
        let policies: Vec<_> = policies.collect();
        let mut rules = policies
            .iter()
            .flat_map(|policy| items(&policy["spec"][direction.rules]));
        policies.is_empty()
            || rules.any(|rule| {
                // No list and an empty one mean all.
                let of_rule = |name: &str| items(&rule[name]).collect::<Vec<_>>();
                let (peers, ports) = (of_rule(direction.peers), of_rule("ports"));
                (peers.is_empty() || peers.iter().any(|peer| other.is_meant(peer)))
                    && (ports.is_empty() || ports.iter().any(|port| to.is_meant(port)))
            })
    }
}

/// The selector's labels.
fn labels(selector: &Value) -> &Value {
    let mut fields = selector.as_object().expect("a map").keys();
    assert!(
        fields.all(|it| it == "matchLabels"),
        "{selector} isn't known here"
    );
    &selector["matchLabels"]
}

/// The fields of a policy for connections in one direction.
#[derive(Debug)]
struct Direction {
    kind: &'static str,
    rules: &'static str,
    peers: &'static str,
}

const INGRESS: Direction = Direction {
    kind: "Ingress",
    rules: "ingress",
    peers: "from",
};
const EGRESS: Direction = Direction {
    kind: "Egress",
    rules: "egress",
    peers: "to",
};

/// The port that a connection leads to.
#[derive(Debug, Clone, Copy)]
struct Port<'a> {
    of: End<'a>,
    number: u64,
}

impl Port<'_> {
    fn is_meant(&self, port: &Value) -> bool {
        let wanted = &port["port"];
        let number = match self.of {
            End::Part(workload) if wanted.is_string() => workload.port(wanted),
            _ => wanted.as_u64(),
        };
        number == Some(self.number)
    }
}

/// Where the manifests' policies and Compose's networks (by part) disagree, in words.
///
/// # Panics
/// When a policy has a form that isn't known here.
pub fn differences(
    manifests: &Manifests,
    networks: &BTreeMap<String, BTreeSet<String>>,
) -> Vec<String> {
    let policies: Vec<&Value> = manifests.of_kind("NetworkPolicy").collect();
    for policy in &policies {
        // Kubernetes has defaults for directions that aren't listed.
        let name = string(&policy["metadata"]["name"]);
        assert!(
            policy["spec"]["policyTypes"].is_array(),
            "{name} lists no directions"
        );
    }
    let allowed = |from: End<'_>, of: End<'_>, number: u64| {
        let to = Port { of, number };
        from.consents(&policies, &EGRESS, &of, to) && of.consents(&policies, &INGRESS, &from, to)
    };
    let mut found = Vec::new();
    let mut compare = |from: End<'_>, to: End<'_>, port: u64, in_compose: bool| {
        let (from_name, to_name) = (from.name(), to.name());
        match (allowed(from, to, port), in_compose) {
            (true, false) => found.push(format!(
                "{from_name} may reach port {port} of {to_name}, which it can't in Compose's networks"
            )),
            (false, true) => found.push(format!(
                "{from_name} can't reach port {port} of {to_name}, which it can in Compose's networks"
            )),
            _ => {}
        }
    };
    let parts = manifests.workloads().into_iter().map(End::Part);
    let own: Vec<End<'_>> = parts.chain([End::Unlabelled]).collect();
    let foreign = [
        End::Outside,
        End::Stranger("default"),
        End::Stranger("kube-system"),
    ];
    let none = BTreeSet::new();
    let networks = |end: &End<'_>| networks.get(&end.name()).unwrap_or(&none);
    for to in &own {
        for port in to.ports() {
            for from in &own {
                let shared = !networks(from).is_disjoint(networks(to));
                compare(*from, *to, port, shared);
            }
            for from in foreign {
                compare(from, *to, port, (to.name().as_str(), port) == PUBLIC);
            }
        }
    }
    for from in &own {
        for to in foreign {
            for port in [DNS, HTTPS, ANY_OTHER] {
                let is_dns = matches!(to, End::Stranger("kube-system")) && port == DNS;
                compare(*from, to, port, is_dns);
            }
        }
    }
    found
}
