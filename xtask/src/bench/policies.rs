//! What access policies cost: a call with them and without, and many of them at once.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde::Deserialize;

use super::changes::kubeconfig;
use super::figures::{Figures, Goal, Table, Unit};
use super::load::{Shape, Target, so_many_rounds};
use super::memory::SERVERS;
use super::process::{Process, Start};
use super::stage::{ONE, OTHER, SECRET, Server, Stage};
use super::statistics::Spread;
use super::throughput::table;

/// Short rounds, because the difference is smaller than what the machine does within a long one.
const SHORT_ROUNDS: usize = 25;

/// Of a server.
const TOOLS: &str = "20";

/// Starts, connects a thousand servers twice, and makes 200 changes.
const PATIENCE: Duration = Duration::from_secs(180);

/// Comparisons of two processes, because memory differs from one to the next.
const PROCESSES: usize = 3;

/// Calls of a gateway without policies, with some, and with a condition on two arguments.
pub fn calls(stage: &Stage) -> anyhow::Result<Figures> {
    const OPEN: [&str; 2] = ["`POST /tools` without policies", "`POST /mcp` in a session without policies"];
    const NAMES: [&str; 2] = ["`POST /tools` with policies", "`POST /mcp` in a session with policies"];
    const CONDITION: [&str; 2] = ["`POST /tools` with a condition", "`POST /mcp` in a session with a condition"];
    let mock = stage.mock(OTHER, 1, &[])?;
    let rule = "{name: bench, from: [{subject: bench}], allow: [{tools: [echo]}]";
    let condition = format!("{rule}, when: \"args.message.size() <= 1000 && args.message.startsWith('m')\"}}");
    let open = gateway(stage, &mock, "open", None)?;
    let names = gateway(stage, &mock, "names", Some(&format!("{rule}}}")))?;
    let condition = gateway(stage, &mock, "condition", Some(&condition))?;
    let mut targets = Vec::new();
    for (way, (mode, path)) in [("rest", "/tools"), ("mcp", "/mcp")].into_iter().enumerate() {
        for (called, gateway) in [(OPEN, &open), (NAMES, &names), (CONDITION, &condition)] {
            targets.push(Target::gateway(stage, called[way], mode, path, [gateway, &mock]));
        }
    }
    let runs = so_many_rounds(SHORT_ROUNDS, stage, Shape { connections: 16, seconds: 0.4, cpus: OTHER }, &targets)?;
    let mut figures = Figures::default();
    for way in 0..2 {
        let measured = runs.ratio([NAMES[way], OPEN[way]], |run| run.rps)?;
        let what = format!("{}, throughput vs without", NAMES[way]);
        figures.goals.push(Goal { what, unit: Unit::Ratio, must: 0.97, aim: 1.0, measured });
    }
    let about = "16 connections; a policy with one rule, which names the caller and the tool, and the same rule with a \
        condition on two properties of the arguments.";
    figures.tables.push(table(about, &targets, &runs)?);
    Ok(figures)
}

/// A gateway with the mock server, governed by a policy with this rule.
fn gateway(stage: &Stage, mock: &Server, name: &str, rule: Option<&str>) -> anyhow::Result<Server> {
    let folder = stage.folder.path().join(format!("policies-{name}-{}", mock.port));
    fs::create_dir_all(&folder)?;
    let head = "apiVersion: portcullis.dev/v1alpha1\nkind:";
    let server = format!("{head} McpServer\nmetadata: {{name: mock}}\nspec: {{url: \"{}\"}}\n", mock.url("/mcp"));
    let policy = rule.map_or_else(String::new, |rule| {
        format!("---\n{head} McpAccessPolicy\nmetadata: {{name: bench}}\nspec: {{rules: [{rule}]}}\n")
    });
    fs::write(folder.join("manifests.yaml"), server + &policy)?;
    stage.gateway(ONE, &[("SERVERS", folder.display().to_string())])
}

/// What `mcp-policies` tells.
#[derive(Debug, Deserialize)]
struct Told {
    policies: usize,
    resident_mib: f64,
    lists: Lists,
    changes: Option<Changes>,
    meanwhile: Option<Times>,
}

#[derive(Debug, Deserialize)]
struct Lists {
    first: Times,
    again: Times,
    bytes: usize,
    everything_ms: [f64; 2],
}

#[derive(Debug, Deserialize)]
struct Changes {
    live: Times,
    list_after: Times,
}

#[derive(Clone, Copy, Debug, Deserialize)]
struct Times {
    count: u64,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

/// 1,000 servers with 20,000 tools, 500 policies, and 2,000 identities in 50 classes.
pub fn many(stage: &Stage) -> anyhow::Result<Figures> {
    let mock = stage.mock(OTHER, SERVERS, &["--unique-tools", "--tools", TOOLS])?;
    let mut pairs = Vec::new();
    for _ in 0..PROCESSES {
        let without = told(stage, &mock, &["--ungoverned"])?;
        let with = told(stage, &mock, &[])?;
        eprintln!(
            "  {} policies: {:.1} MiB, without {:.1} MiB; {:?}",
            with.policies, with.resident_mib, without.resident_mib, with.changes
        );
        pairs.push((without, with));
    }
    figures(&pairs)
}

fn told(stage: &Stage, mock: &Server, more: &[&str]) -> anyhow::Result<Told> {
    let (api, port) = (stage.ports(1)?, stage.ports(1)?);
    let slots = "slot-0,slot-1,slot-2,slot-3";
    let flags: [(&str, String); 5] = [
        ("--api-port", api.to_string()),
        ("--configmaps", slots.to_owned()),
        ("--gateway", format!("http://127.0.0.1:{port}")),
        ("--secret", SECRET.to_owned()),
        ("--first-port", mock.port.to_string()),
    ];
    let mut arguments: Vec<String> = flags.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]).collect();
    arguments.extend(more.iter().map(|&flag| flag.to_owned()));
    let program = stage.programs.kit.join("mcp-policies");
    let start = Start { name: "mcp-policies", cpus: OTHER, program: &program, arguments, environment: vec![] };
    let measuring = Process::start(start, stage.folder.path())?;
    let settings = [
        ("CONFIGMAPS", slots.to_owned()),
        ("POD_NAMESPACE", "mcp".to_owned()),
        ("KUBECONFIG", kubeconfig(stage, api)?),
        ("GUARD_ADDRESSES", "false".to_owned()),
    ];
    let _gateway = stage.gateway_at(port, ONE, &settings)?;
    let text = measuring.finish(PATIENCE)?;
    serde_json::from_str(&text).with_context(|| format!("mcp-policies: {text}"))
}

fn figures(pairs: &[(Told, Told)]) -> anyhow::Result<Figures> {
    let spread = |number: &dyn Fn(&(Told, Told)) -> Option<f64>| {
        let numbers: Vec<f64> = pairs.iter().filter_map(number).collect();
        ensure!(numbers.len() == pairs.len(), "mcp-policies has not measured everything");
        Spread::of(numbers).context("mcp-policies has measured nothing")
    };
    let live = |pair: &(Told, Told)| pair.1.changes.as_ref().map(|changes| changes.live);
    let after = |pair: &(Told, Told)| pair.1.changes.as_ref().map(|changes| changes.list_after);
    let goals = [
        (
            "a policy changes → calls are decided by it, p99",
            Unit::Milliseconds,
            20.0,
            10.0,
            spread(&|pair| Some(live(pair)?.p99_ms))?,
        ),
        (
            "resident set above that without policies",
            Unit::Mebibytes,
            60.0,
            30.0,
            spread(&|(without, with)| Some(with.resident_mib - without.resident_mib))?,
        ),
        (
            "`GET /tools/list` of a class after a change, p50",
            Unit::Milliseconds,
            5.0,
            2.5,
            spread(&|pair| Some(after(pair)?.p50_ms))?,
        ),
        (
            "`GET /tools/list` of a class again, p50",
            Unit::Milliseconds,
            5.0,
            2.5,
            spread(&|(_, with)| Some(with.lists.again.p50_ms))?,
        ),
    ];
    let mut figures = Figures::default();
    for (what, unit, must, aim, measured) in goals {
        figures.goals.push(Goal { what: format!("500 policies: {what}"), unit, must, aim, measured });
    }
    let (_, with) = pairs.last().context("nothing is measured")?;
    let changes = with.changes.as_ref().context("no policy was changed")?;
    let mut table = Table::new(about(with, changes.live.count), &["", "p50 ms", "p99 ms", "most ms"]);
    let rows = [
        ("a policy changes → calls are decided by it", Some(changes.live)),
        ("then the first list of a class", Some(changes.list_after)),
        ("the first list of a class", Some(with.lists.first)),
        ("its second list", Some(with.lists.again)),
        ("calls of other identities meanwhile", with.meanwhile),
    ];
    for (what, times) in rows {
        let Times { p50_ms, p99_ms, max_ms, .. } = times.with_context(|| what.to_owned())?;
        let cells = [p50_ms, p99_ms, max_ms].map(|value| format!("{value:.1}"));
        table.rows.push([vec![what.to_owned()], cells.to_vec()].concat());
    }
    figures.tables.push(table);
    Ok(figures)
}

fn about(with: &Told, changes: u64) -> String {
    let [first, again] = with.lists.everything_ms;
    format!(
        "1,000 servers with 20,000 tools in 50 namespaces, {} policies, 2,000 identities in 50 classes, whose lists take \
         {} bytes; the class that sees all tools waits {first:.1} ms for its first list and {again:.1} ms for the next. \
         {changes} changes of a policy in four ConfigMaps that the gateway watches, while the identities made 500 calls a \
         second in turn, none of which failed. The time begins when the first event is given to the watch, and ends with \
         the first call that is decided by the change.",
        with.policies, with.lists.bytes
    )
}
