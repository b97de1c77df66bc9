//! The task of every client, and its report.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::{Value, json};

/// The URL and the calls of a client.
#[derive(Clone, Debug)]
pub(crate) struct ClientTask {
    pub(crate) url: String,
    pub(crate) token: String,
    /// Whether it goes as a client of before 2026-07-28, if it can do either.
    pub(crate) legacy: bool,
    /// A tool and its arguments.
    pub(crate) quick: (&'static str, Value),
    /// A tool that tells its progress.
    pub(crate) slow: (&'static str, Value),
    /// The tool that is not there at first; the client waits for it.
    pub(crate) fresh: &'static str,
}

/// The report of a client.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(crate) struct ClientReport {
    /// The revision that it agreed upon.
    pub(crate) revision: String,
    /// Names, before the change.
    pub(crate) tools: BTreeSet<String>,
    pub(crate) prompts: BTreeSet<String>,
    /// URIs.
    pub(crate) resources: BTreeSet<String>,
    /// The text that the quick tool answered.
    pub(crate) quick: String,
    /// The text that the slow tool answered.
    pub(crate) slow: String,
    /// The progress of the slow tool before its answer.
    pub(crate) progress: Vec<f64>,
    /// The tools that were new after the change.
    pub(crate) fresh: BTreeSet<String>,
}

impl ClientTask {
    /// As the programs take it.
    pub(crate) fn json(&self) -> Value {
        let call = |(name, arguments): &(&str, Value)| json!({"name": name, "arguments": arguments});
        json!({
            "url": self.url, "token": self.token, "mode": if self.legacy { "legacy" } else { "auto" },
            "quick": call(&self.quick), "slow": call(&self.slow), "fresh": self.fresh,
        })
    }
}
