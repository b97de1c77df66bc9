//! The answer for people: a line for each server.

use crate::explain::answer::{ExplainAnswer, ExplainedServer};

/// The answer as a table: verdict, server, rule, reason.
pub(super) fn table(answer: &ExplainAnswer) -> String {
    let rows: Vec<[String; 4]> = answer.servers.iter().map(row).collect();
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or_default();
    let widths = [width(0), width(1), width(2)];
    let mut text = String::new();
    for [verdict, server, rule, reason] in &rows {
        let [first, second, third] = widths;
        text.push_str(&format!("{verdict:first$}  {server:second$}  {rule:third$}  {reason}\n"));
    }
    text
}

fn row(server: &ExplainedServer) -> [String; 4] {
    let verdict = match (server.allowed, server.depends_on_arguments) {
        (true, _) => "ALLOWED",
        (false, true) => "DEPENDS",
        (false, false) => "DENIED",
    };
    let rule = server.by.as_ref().or(server.denied_by.as_ref());
    let rule = rule.map_or_else(|| "-".to_owned(), |rule| format!("{}/{}", rule.policy, rule.rule));
    let mut reason = server.reason.clone();
    if server.depends_on_arguments {
        reason.push_str(": give them with --args FILE");
    }
    if let Some(name) = server.name.as_deref().filter(|name| *name != server.own_name) {
        reason.push_str(&format!("; callers use it as {name}"));
    }
    [verdict.to_owned(), server.server.clone(), rule, reason]
}
