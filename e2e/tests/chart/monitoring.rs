//! Alerts and the dashboard: every metric in them exists, and Prometheus understands them.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use portcullis_e2e::require;
use serde_json::Value;

use crate::chart::repository;

const ALERTS: &str = "helm/portcullis/files/alerts.yaml";
const DASHBOARD: &str = "helm/portcullis/files/dashboard.json";

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).expect("the file is there")
}

/// Whatever begins like one of our metrics, without the endings that a histogram adds.
fn metrics(text: &str) -> BTreeSet<String> {
    let words = text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_'));
    let ours = words.filter(|word| word.starts_with("portcullis_"));
    ours.map(|word| word.trim_end_matches("_bucket").trim_end_matches("_count").trim_end_matches("_sum").to_owned())
        .collect()
}

#[test]
fn every_metric_in_alerts_and_dashboard_is_documented() {
    let known = metrics(&(read("docs/metrics.md") + &read("docs/operator-metrics.md")));
    for path in [ALERTS, DASHBOARD, "e2e/tests/chart/alerts.yaml"] {
        let used = metrics(&read(path));
        assert!(used.len() > 5, "{path}: {used:?}");
        let unknown: Vec<_> = used.difference(&known).collect();
        assert!(unknown.is_empty(), "{path} names metrics that no page of docs lists: {unknown:?}");
    }
}

#[test]
fn every_panel_has_a_place_of_its_own_and_asks_the_chosen_source() {
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let ids: BTreeSet<_> = panels.iter().map(|panel| panel["id"].as_i64().expect("an id")).collect();
    let places: BTreeSet<_> =
        panels.iter().map(|panel| (panel["gridPos"]["x"].as_i64(), panel["gridPos"]["y"].as_i64())).collect();
    assert_eq!((ids.len(), places.len()), (panels.len(), panels.len()));
    for panel in panels.iter().filter(|panel| panel["type"] != "row") {
        assert_eq!(panel["datasource"]["uid"], "${datasource}", "{}", panel["title"]);
        assert!(panel["targets"].as_array().is_some_and(|targets| !targets.is_empty()), "{}", panel["title"]);
    }
}

fn promtool() -> Result<(), String> {
    let there = Command::new("promtool").arg("--version").output().is_ok();
    there.then_some(()).ok_or_else(|| "promtool is not installed (Debian package prometheus)".into())
}

fn promtool_says(arguments: &[&str]) {
    let output = Command::new("promtool").args(arguments).output().expect("it starts");
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "promtool {arguments:?}: {}", String::from_utf8_lossy(&said));
}

#[test]
fn alerts_fire_when_they_should_and_only_then() {
    require!(promtool());
    promtool_says(&["check", "rules", "--lint-fatal", &repository(ALERTS).display().to_string()]);
    promtool_says(&["test", "rules", &repository("e2e/tests/chart/alerts.yaml").display().to_string()]);
}

#[test]
fn every_query_of_the_dashboard_is_one() {
    require!(promtool());
    let dashboard: Value = serde_json::from_str(&read(DASHBOARD)).expect("JSON");
    let targets =
        dashboard["panels"].as_array().expect("panels").iter().filter_map(|panel| panel["targets"].as_array());
    let rules: Vec<Value> = targets
        .flatten()
        .enumerate()
        .map(|(n, target)| {
            let query = target["expr"].as_str().expect("a query").replace("$__rate_interval", "5m");
            serde_json::json!({ "record": format!("query_{n}"), "expr": query })
        })
        .collect();
    let file = tempfile::NamedTempFile::new().expect("a file");
    let groups = serde_json::json!({ "groups": [{ "name": "dashboard", "rules": rules }] });
    fs::write(file.path(), groups.to_string()).expect("written");
    promtool_says(&["check", "rules", &file.path().display().to_string()]);
}
