//! The table in docs/settings.md is the command line's own, and names values that the chart has.

use std::collections::BTreeSet;

use clap::builder::Resettable;
use clap::{CommandFactory as _, FromArgMatches as _};
use portcullis_gateway::cli::command::Cli;
use portcullis_gateway::config::Options;
use serde_json::Value;

use super::generated::repository;

/// Flag, variable and default of a setting, as cells of the table.
type Row = [String; 3];

/// What the table says where the chart has no value, and where it sets the variable by itself.
const NO_VALUE: &str = "—";
const SET: &str = "set";

/// The settings as clap has them. JWT_SECRET has no flag, because everybody can read flags.
fn of_the_command_line() -> Vec<Row> {
    let command = Cli::command();
    let settings = command.get_arguments().filter_map(|argument| {
        let variable = argument.get_env()?.to_str().unwrap();
        let defaults = argument.get_default_values();
        let default = defaults.first().map(|value| format!("`{}`", value.to_str().unwrap())).unwrap_or_default();
        Some([format!("`--{}`", argument.get_long().unwrap()), format!("`{variable}`"), default])
    });
    let mut rows: Vec<Row> = settings.collect();
    rows.push([String::new(), "`JWT_SECRET`".into(), String::new()]);
    rows.sort();
    rows
}

/// The cells of the page's first table.
fn table() -> Vec<Vec<String>> {
    let text = read("docs/settings.md");
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect();
    let lines = text.lines().skip_while(|line| !line.starts_with('|'));
    lines.take_while(|line| line.starts_with('|')).skip(2).map(cells).collect()
}

/// Variables in the table, each with its value in the chart.
fn in_the_chart() -> Vec<(String, String)> {
    table().iter().map(|row| (row[1].trim_matches('`').to_owned(), row[3].trim_matches('`').to_owned())).collect()
}

fn read(path: &str) -> String {
    std::fs::read_to_string(repository().join(path)).unwrap()
}

#[test]
fn every_setting_stands_in_the_page_with_its_default() {
    let mut rows: Vec<Row> = table().iter().map(|row| [row[0].clone(), row[1].clone(), row[2].clone()]).collect();
    rows.sort();
    assert_eq!(rows, of_the_command_line());
}

#[test]
fn values_of_the_chart_that_the_page_names_exist() {
    let values: Value = serde_yaml::from_str(&read("helm/portcullis/values.yaml")).unwrap();
    let missing = |value: &str| values.pointer(&format!("/{}", value.replace('.', "/"))).is_none();
    let named = in_the_chart().into_iter().map(|(_, value)| value).filter(|value| value != NO_VALUE && value != SET);
    assert_eq!(named.filter(|value| missing(value)).collect::<Vec<_>>(), Vec::<String>::new());
}

#[test]
fn the_page_knows_which_variables_the_chart_sets() {
    let template = read("helm/portcullis/templates/gateway.yaml");
    let set: BTreeSet<String> = template
        .split("{name: ")
        .skip(1)
        .filter_map(|rest| rest.split_once(", value"))
        .map(|(name, _)| name.to_owned())
        .filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        // The chart's own, for OWN_ADDRESSES.
        .filter(|name| name != "POD_IPS")
        .collect();
    let told = in_the_chart().into_iter().filter(|(_, value)| value != NO_VALUE).map(|(variable, _)| variable);
    assert_eq!(told.collect::<BTreeSet<_>>(), set);
}

#[test]
fn the_defaults_that_are_shown_are_those_that_count() {
    // Without the variables: those of this machine do not matter here.
    let command = Cli::command().mut_args(|argument| argument.env(Resettable::Reset));
    let matches = command.try_get_matches_from(["portcullis-gateway", "--mcp-urls", "http://a/"]).unwrap();
    let shown = Cli::from_arg_matches(&matches).unwrap().options;
    let counting = Options { mcp_urls: Some("http://a/".into()), ..Options::default() };
    assert_eq!(format!("{:?}", shown.check().unwrap()), format!("{:?}", counting.check().unwrap()));
}
