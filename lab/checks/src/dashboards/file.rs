//! A dashboard's file as Grafana writes it: the fields that are used here.
//!
//! Left out: all other fields, which are ignored.

use base::durations;
use serde::Deserialize;

use super::{Dashboard, Language, Panel, Query, Variable};

/// Reads one dashboard; the error finishes "it isn't a dashboard: …".
pub(super) fn parse(file: &str, json: &str) -> Result<Dashboard, String> {
    let parsed: DashboardFile = serde_json::from_str(json).map_err(|error| error.to_string())?;
    let from = &parsed.time.from;
    let window = from
        .strip_prefix("now-")
        .and_then(|window| durations::parse(window).ok())
        .ok_or_else(|| format!("`time.from` is `{from}`, expected `now-15m` or the like"))?;
    let mut dashboard = Dashboard {
        file: file.to_owned(),
        uid: parsed.uid,
        window,
        variables: Vec::new(),
        panels: Vec::new(),
        ids: Vec::new(),
        numbered: parsed.id.is_some(),
    };
    let variables = parsed.templating.list.into_iter();
    dashboard.variables = variables
        .map(|variable| Variable {
            name: variable.name,
            query: variable.definition,
        })
        .collect();
    let mut rest: Vec<PanelFile> = parsed.panels.into_iter().rev().collect();
    while let Some(panel) = rest.pop() {
        dashboard.ids.push(panel.id);
        rest.extend(panel.panels.into_iter().rev());
        if panel.r#type == "row" {
            continue;
        }
        let queries = panel.targets.into_iter().map(|target| {
            let language = match target.datasource.r#type.as_str() {
                "prometheus" => Language::PromQl,
                "loki" => Language::LogQl,
                other => {
                    return Err(format!(
                        "`{}` asks a data source of type `{other}`",
                        panel.title
                    ));
                }
            };
            Ok(Query {
                language,
                expr: target.expr,
                instant: target.instant,
                ref_id: target.ref_id,
                source: (target.datasource.r#type, target.datasource.uid),
            })
        });
        dashboard.panels.push(Panel {
            queries: queries.collect::<Result<_, _>>()?,
            title: panel.title,
            description: panel.description,
            unit: panel.field_config.defaults.unit,
            source: panel.datasource.map(|source| (source.r#type, source.uid)),
        });
    }
    Ok(dashboard)
}

#[derive(Deserialize)]
struct DashboardFile {
    #[serde(default)]
    id: Option<u64>,
    uid: String,
    time: TimeFile,
    #[serde(default)]
    templating: TemplatingFile,
    panels: Vec<PanelFile>,
}

#[derive(Deserialize)]
struct TimeFile {
    from: String,
}

#[derive(Default, Deserialize)]
struct TemplatingFile {
    list: Vec<VariableFile>,
}

#[derive(Deserialize)]
struct VariableFile {
    name: String,
    definition: String,
}

#[derive(Deserialize)]
struct PanelFile {
    id: u64,
    r#type: String,
    #[serde(default)]
    title: String,
    #[serde(default)]
    description: String,
    #[serde(default)]
    datasource: Option<SourceFile>,
    #[serde(default)]
    targets: Vec<TargetFile>,
    /// Of a collapsed row.
    #[serde(default)]
    panels: Vec<PanelFile>,
    #[serde(default, rename = "fieldConfig")]
    field_config: FieldConfigFile,
}

#[derive(Default, Deserialize)]
struct FieldConfigFile {
    #[serde(default)]
    defaults: FieldDefaultsFile,
}

#[derive(Default, Deserialize)]
struct FieldDefaultsFile {
    #[serde(default)]
    unit: String,
}

#[derive(Deserialize)]
struct TargetFile {
    #[serde(rename = "refId")]
    ref_id: String,
    datasource: SourceFile,
    expr: String,
    #[serde(default)]
    instant: bool,
}

#[derive(Deserialize)]
struct SourceFile {
    r#type: String,
    uid: String,
}
