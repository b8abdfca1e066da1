//! Files that both systems read: env files, and configuration in a form that can be compared.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Value, json};

use crate::{
    facts,
    yaml::{self, items, strings},
};

/// The assignments of an env file, without quotes.
pub(crate) fn variables(text: &str) -> BTreeMap<String, String> {
    let lines = text.lines().map(str::trim);
    let assignments = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
    assignments
        .filter_map(|line| line.split_once('='))
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// A configuration file's contents in a form in which both systems' are equal. Only Prometheus's file differs: a target that
/// is found by DNS is written as the static one that it stands for.
pub(crate) fn comparable(path: &str, contents: &str) -> String {
    if path != "/etc/prometheus/prometheus.yml" {
        return contents.to_owned();
    }
    let mut document = yaml::document(path, contents);
    for job in document["scrape_configs"]
        .as_array_mut()
        .into_iter()
        .flatten()
    {
        let Some(found) = job
            .as_object_mut()
            .and_then(|job| job.remove("dns_sd_configs"))
        else {
            continue;
        };
        let targets: Vec<String> = discovered(&found)
            .map(|(name, port)| format!("{}:{port}", name.trim_end_matches("-replicas")))
            .collect();
        job["static_configs"] = json!([{ "targets": targets }]);
    }
    document.to_string()
}

/// The names and ports that Prometheus looks up.
fn discovered(configs: &Value) -> impl Iterator<Item = (&str, &Value)> {
    items(configs).flat_map(|config| {
        assert_eq!(config["type"], "A", "{config}");
        strings(&config["names"]).map(move |name| (name, &config["port"]))
    })
}

/// The addresses of Prometheus's targets, `name:port`, as its file has them: found by DNS or static.
pub(crate) fn targets(prometheus: &str) -> BTreeSet<String> {
    let document = yaml::document("prometheus.yml", prometheus);
    let jobs = items(&document["scrape_configs"]);
    let by_dns = jobs.flat_map(|job| discovered(&job["dns_sd_configs"]));
    let by_dns = by_dns.map(|(name, port)| format!("{name}:{port}"));
    let fixed = facts::addresses_in(prometheus).into_iter();
    by_dns
        .chain(fixed.map(|(name, port)| format!("{name}:{port}")))
        .collect()
}
