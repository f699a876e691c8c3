//! Every query of the dashboards and rules, asked of the real Prometheus beside each scenario: over a
//! whole run of the lab each has to have returned data.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// Where a host is well these return nothing, and no scenario makes it ill in this way.
const EMPTY_WHERE_ALL_IS_WELL: [(&str, &str); 7] = [
    ("up == 0", "the agents answer"),
    (
        "why502_kubernetes_up",
        "no API names pods to the agents that are scraped",
    ),
    ("why502_source_up) == 0", "the sources see"),
    ("confidence=\"unknown\"", "verdicts name their causes"),
    ("why502_blind", "this kernel refuses no fact"),
    (
        "why502_log_disagreements_total",
        "the agents that are scraped read no logs",
    ),
    ("why502_signals_lost_total", "nothing may be lost"),
];

/// The files, as Prometheus is to read them.
pub const RULES: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../dashboards/prometheus/rules.yml"
);
const DASHBOARDS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../dashboards/grafana");

/// By expression: whose it is, and whether it has returned data.
pub struct Panels(BTreeMap<String, (String, bool)>);

impl Panels {
    /// Those of the dashboards; rules are added as Prometheus has read them.
    pub fn load() -> Result<Panels> {
        let mut panels = BTreeMap::new();
        let files = std::fs::read_dir(DASHBOARDS).with_context(|| format!("read {DASHBOARDS}"))?;
        for file in files {
            let path = file?.path();
            let text = std::fs::read_to_string(&path)?;
            let dashboard: Value =
                serde_json::from_str(&text).with_context(|| format!("parse {}", path.display()))?;
            let name = file_name(&path);
            for expression in expressions(&dashboard) {
                panels.insert(as_grafana_asks(expression), (name.clone(), false));
            }
        }
        if panels.is_empty() {
            bail!("no dashboard in {DASHBOARDS}");
        }
        Ok(Panels(panels))
    }

    /// Adds the rules of an answer of `/api/v1/rules`; an error where one could not be evaluated.
    pub fn add_rules(&mut self, answer: &Value) -> Result<()> {
        let groups = answer["data"]["groups"].as_array().context("no groups")?;
        let rules = groups.iter().flat_map(|group| group["rules"].as_array());
        for rule in rules.flatten() {
            let (name, query) = (rule["name"].as_str(), rule["query"].as_str());
            let (name, query) = name.zip(query).context("a rule without name or query")?;
            if rule["health"] == "err" {
                bail!("rule {name}: {}", rule["lastError"]);
            }
            let entry = (format!("rule {name}"), false);
            self.0.entry(query.to_owned()).or_insert(entry);
        }
        Ok(())
    }

    /// Asks those that have returned nothing yet.
    pub fn ask(&mut self, query: impl Fn(&str) -> Result<Vec<(Value, f64)>>) -> Result<()> {
        for (expression, (name, answered)) in &mut self.0 {
            if !*answered {
                let series = query(expression).with_context(|| format!("{name}: {expression}"))?;
                *answered = series.iter().any(|(_, value)| !value.is_nan());
            }
        }
        Ok(())
    }

    /// How many there are, or which have returned nothing.
    pub fn result(&self) -> Result<String, String> {
        let excused = |expression: &str| {
            let mut all = EMPTY_WHERE_ALL_IS_WELL.iter();
            all.any(|(name, _)| expression.contains(name))
        };
        let silent = |(expression, (_, answered)): &(&String, &(String, bool))| {
            !answered && !excused(expression)
        };
        let silent: Vec<String> = (self.0.iter().filter(silent))
            .map(|(expression, (name, _))| format!("{name}: {expression}"))
            .collect();
        let answered = self.0.values().filter(|(_, answered)| *answered).count();
        match silent.is_empty() {
            true => Ok(format!("{answered} of {} returned data", self.0.len())),
            false => Err(format!("no data for {}", silent.join("; "))),
        }
    }
}

fn file_name(path: &Path) -> String {
    path.file_name()
        .map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

/// With the values that Grafana puts in the place of its variables.
fn as_grafana_asks(expression: String) -> String {
    // As long as a scenario lasts; a scrape comes five times a second.
    const VARIABLES: [(&str, &str); 7] = [
        ("$__rate_interval", "30s"),
        ("$__range", "5m"),
        ("$pool", "60"),
        ("$proxy", ".*"),
        ("$upstream", ".*"),
        ("$socket", ".*"),
        ("$instance", ".*"),
    ];
    (VARIABLES.iter()).fold(expression, |text, (name, value)| text.replace(name, value))
}

fn expressions(value: &Value) -> Vec<String> {
    match value {
        Value::Object(fields) => {
            let of = |(name, value): (&String, &Value)| match (name.as_str(), value.as_str()) {
                ("expr", Some(text)) => vec![text.to_owned()],
                _ => expressions(value),
            };
            fields.iter().flat_map(of).collect()
        }
        Value::Array(items) => items.iter().flat_map(expressions).collect(),
        _ => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::Panels;

    #[test]
    fn what_never_returned_data_is_named() {
        let mut panels = Panels::load().unwrap();
        let rule = json!({"name": "Some", "query": "up == 2", "health": "ok"});
        let answer = json!({"data": {"groups": [{"rules": [rule]}]}});
        panels.add_rules(&answer).unwrap();
        let data = |expression: &str| match expression {
            "up == 2" => Ok(Vec::new()),
            _ => Ok(vec![(Value::Null, 1.0)]),
        };
        panels.ask(data).unwrap();
        assert_eq!(
            panels.result(),
            Err("no data for rule Some: up == 2".into())
        );
        panels.ask(|_| Ok(vec![(Value::Null, f64::NAN)])).unwrap();
        assert!(panels.result().is_err());
        panels.ask(|_| Ok(vec![(Value::Null, 0.0)])).unwrap();
        assert!(panels.result().is_ok());
        let broken = json!({"name": "Some", "query": "x", "health": "err", "lastError": "why"});
        let answer = json!({"data": {"groups": [{"rules": [broken]}]}});
        let error = panels.add_rules(&answer).unwrap_err();
        assert!(error.to_string().contains("why"), "{error}");
    }
}
