//! How fast a change of the configuration is live, while calls are made.

use std::fs;
use std::time::Duration;

use anyhow::Context as _;
use serde::Deserialize;

use super::figures::{Figures, Goal, Table, Unit};
use super::load::{ROUNDS, Shape, Target};
use super::process::{Process, Start};
use super::stage::{ONE, OTHER, Server, Stage};
use super::statistics::Spread;

/// Calls a second meanwhile.
const RATE: &str = "5000";

/// Of a round.
const SECONDS: f64 = 4.0;

/// A line of `mcp-changes`.
#[derive(Debug, Deserialize)]
struct Round {
    changes: u64,
    added: Times,
    removed: Times,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Times {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

/// What is changed, and its times in a round.
type Kind = (&'static str, fn(&Round) -> Times);

/// From the event of a watch to calls that go accordingly.
pub fn changes(stage: &Stage) -> anyhow::Result<Figures> {
    let mock = stage.mock(OTHER, 2, &["--unique-tools", "--tools", "1"])?;
    let (api, port) = (stage.ports(1)?, stage.ports(1)?);
    let changing = start(stage, api, port, &mock)?;
    let settings = [
        ("CONFIGMAPS", "slot".to_owned()),
        ("POD_NAMESPACE", "mcp".to_owned()),
        ("KUBECONFIG", kubeconfig(stage, api)?),
        ("GUARD_ADDRESSES", "false".to_owned()),
    ];
    let gateway = stage.gateway_at(port, ONE, &settings)?;
    let load = Target::gateway(stage, "calls meanwhile", "rest", "/tools", [&gateway, &mock]).with(&["--rate", RATE]);
    let seconds = SECONDS * ROUNDS as f64;
    // It fails if a single call does.
    let run = load.measure(stage, Shape { connections: 16, seconds, cpus: OTHER })?;
    let text = changing.finish(Duration::from_secs(30))?;
    let rounds: Vec<Round> = text.lines().map(serde_json::from_str).collect::<Result<_, _>>().context("mcp-changes")?;
    figures(&rounds, run.rps)
}

/// Starts the API server at a port, for a gateway that will be at another. It begins when the gateway is there.
fn start(stage: &Stage, api: u16, gateway: u16, mock: &Server) -> anyhow::Result<Process> {
    let comes = mock.port + 1;
    let flags: [(&str, String); 8] = [
        ("--api-port", api.to_string()),
        ("--gateway", format!("http://127.0.0.1:{gateway}/tools")),
        ("--token", stage.token.clone()),
        ("--stays", mock.url("/mcp")),
        ("--comes", format!("http://127.0.0.1:{comes}/mcp")),
        ("--tool", format!("tool_{comes}_0")),
        ("--rounds", ROUNDS.to_string()),
        ("--seconds", SECONDS.to_string()),
    ];
    let arguments = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    let program = stage.programs.kit.join("mcp-changes");
    let start = Start { name: "mcp-changes", cpus: OTHER, program: &program, arguments, environment: vec![] };
    Process::start(start, stage.folder.path())
}

/// A configuration that leads to an API server at a port of this machine.
pub fn kubeconfig(stage: &Stage, api: u16) -> anyhow::Result<String> {
    let path = stage.folder.path().join("kubeconfig");
    let configuration = serde_json::json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "it",
        "clusters": [{"name": "it", "cluster": {"server": format!("http://127.0.0.1:{api}")}}],
        "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it", "namespace": "mcp"}}],
        "users": [{"name": "it", "user": {}}],
    });
    fs::write(&path, configuration.to_string())?;
    Ok(path.display().to_string())
}

fn figures(rounds: &[Round], rps: f64) -> anyhow::Result<Figures> {
    let kinds: [Kind; 2] = [
        ("a server is added → its tool can be called", |round| round.added),
        ("a server is removed → its tool is gone", |round| round.removed),
    ];
    let total: u64 = rounds.iter().map(|round| round.changes).sum();
    let about = format!(
        "{total} changes of a ConfigMap that the gateway watches, while {rps:.0} calls a second were made over 16 \
         connections, none of which failed. The time begins when the event is given to the watch, and ends with the \
         first call that is answered accordingly; for a server that is added the handshake with it and the list of its \
         tools are in it."
    );
    let mut figures = Figures::default();
    let mut table = Table::new(about, &["", "p50 ms", "p99 ms", "most ms"]);
    for (what, times) in kinds {
        let spread = |number: fn(Times) -> f64| {
            Spread::of(rounds.iter().map(|round| number(times(round)))).context("mcp-changes has measured nothing")
        };
        let [p50, p99, most] = [spread(|it| it.p50_ms)?, spread(|it| it.p99_ms)?, spread(|it| it.max_ms)?];
        let (what_goal, unit) = (format!("Event of a watch: {what}, p99"), Unit::Milliseconds);
        figures.goals.push(Goal { what: what_goal, unit, must: 20.0, aim: 5.0, measured: p99 });
        let cells = [p50.median, p99.median, most.most].map(|value| format!("{value:.1}"));
        table.rows.push([vec![what.to_owned()], cells.to_vec()].concat());
    }
    figures.tables.push(table);
    Ok(figures)
}
