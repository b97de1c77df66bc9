//! The README's table of settings is the command line's own.

use clap::builder::Resettable;
use clap::{CommandFactory as _, FromArgMatches as _};
use portcullis_gateway::command::Cli;
use portcullis_gateway::config::Options;

use super::generated::repository;

/// Flag, variable and default of a setting, as cells of the table.
type Row = [String; 3];

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

/// The rows of the README's table below this heading.
fn of_the_readme() -> Vec<Row> {
    let text = std::fs::read_to_string(repository().join("README.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Settings\n")).unwrap();
    let cells = |line: &str| line.trim_matches('|').split('|').map(|cell| cell.trim().to_owned()).collect::<Vec<_>>();
    let rows = section.lines().filter(|line| line.starts_with('|')).skip(2).map(cells);
    let mut rows: Vec<Row> = rows.map(|row| [row[0].clone(), row[1].clone(), row[2].clone()]).collect();
    rows.sort();
    rows
}

#[test]
fn every_setting_stands_in_the_readme_with_its_default() {
    assert_eq!(of_the_readme(), of_the_command_line());
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
