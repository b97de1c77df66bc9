//! 1,000 servers with 20,000 tools: what a call costs more, and how fast all tools are listed.

use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::figures::{Figures, Goal, Unit};
use super::http;
use super::load::{Shape, Target, rounds};
use super::memory::SERVERS;
use super::servers::{Servers, connected, manifests};
use super::stage::{ONE, OTHER, Server, Stage};
use super::throughput::{WAYS, table};

const TOOLS: u16 = 20;

/// The mock servers, and a gateway with all of them.
fn start(stage: &Stage) -> anyhow::Result<[Server; 2]> {
    let mock = stage.mock(OTHER, SERVERS, &["--unique-tools", "--tools", &TOOLS.to_string()])?;
    let file = manifests(stage, Servers { first_port: mock.port, count: SERVERS })?;
    let mut gateway = stage.gateway(ONE, &[("SERVERS", file)])?;
    connected(stage, &mut gateway, SERVERS)?;
    Ok([gateway, mock])
}

/// A call with many servers compared with one.
pub fn call_among_many(stage: &Stage) -> anyhow::Result<Figures> {
    let [many, mock] = start(stage)?;
    let one = stage.gateway(ONE, &[("MCP_URLS", mock.url("/mcp"))])?;
    let names = [
        ["`POST /tools`, one server", "`POST /tools`, 1,000 servers", "`POST /tools`, 1,000 servers in turn"],
        ["`POST /mcp`, one server", "`POST /mcp`, 1,000 servers", "`POST /mcp`, 1,000 servers in turn"],
    ];
    let tool = |index: u16| format!("tool_{}_{}", mock.port + index, index % TOOLS);
    let same = tool(0);
    let turns = (0..SERVERS).map(tool).collect::<Vec<_>>().join(",");
    let mut targets = Vec::new();
    for (names, (_, mode, path)) in names.iter().zip(WAYS) {
        for (name, gateway, tools) in [(names[0], &one, &same), (names[1], &many, &same), (names[2], &many, &turns)] {
            targets.push(Target::gateway(stage, name, mode, path, [gateway, &mock]).with(&["--tool", tools]));
        }
    }
    let runs = rounds(stage, Shape { connections: 16, seconds: 1.5, cpus: OTHER }, &targets)?;
    let mut figures = Figures::default();
    for [alone, among, _] in names {
        let what = format!("{among} with 20,000 tools: CPU per call vs one server");
        let measured = runs.ratio([among, alone], |run| run.server_cpu_us_per_call)?;
        figures.goals.push(Goal { what, unit: Unit::Ratio, must: 1.2, aim: 1.05, measured });
    }
    let about = "The same tool with one server and with 1,000 servers and 20,000 tools; and a tool of each of the 1,000 in \
        turn, over as many connections.";
    figures.tables.push(table(about, &targets, &runs)?);
    Ok(figures)
}

/// What all tools are as bytes: files for nginx.
struct Saved {
    /// Bytes of the list at `/tools/list`.
    list: usize,
    /// Names of the pages at `/mcp`.
    pages: Vec<String>,
    /// Bytes of all pages.
    paged: u64,
}

impl Saved {
    fn save(stage: &Stage, [gateway, mock]: [&Server; 2], folder: &Path) -> anyhow::Result<Self> {
        let (status, list) = http::get(gateway.port, "/tools/list", &stage.token)?;
        ensure!(status == 200, "GET /tools/list: status {status}");
        fs::write(folder.join("list"), &list)?;
        let into = ["--save", folder.to_str().context("a path that is not a string")?];
        let pages = Target::gateway(stage, "pages", "list", "/mcp", [gateway, mock]).with(&into);
        pages.line(stage, Shape { connections: 1, seconds: 0.1, cpus: OTHER })?;
        let pages: Vec<String> =
            (0..).map(|page: usize| page.to_string()).take_while(|page| folder.join(page).exists()).collect();
        let sizes = pages.iter().map(|page| fs::metadata(folder.join(page)).map(|file| file.len()));
        Ok(Self { list: list.len(), paged: sizes.sum::<Result<_, _>>()?, pages })
    }
}

/// All tools as one list of REST, and as pages of MCP; nginx sends the same bytes from files.
pub fn lists(stage: &Stage) -> anyhow::Result<Figures> {
    let [gateway, mock] = start(stage)?;
    let nginx = stage.nginx(ONE, &mock)?;
    let Saved { list, pages, paged } = Saved::save(stage, [&gateway, &mock], &stage.files(&nginx))?;
    let [rest, rest_nginx, mcp, mcp_nginx] =
        ["`GET /tools/list`", "nginx, the same bytes", "`tools/list` at `/mcp`", "nginx, the same pages"];
    let target = |name, mode, path, server| Target::gateway(stage, name, mode, path, [server, &mock]);
    let whole = ["--least-bytes", &list.to_string()];
    let targets = [
        target(rest_nginx, "get", "/files/list", &nginx).with(&whole),
        target(rest, "get", "/tools/list", &gateway).with(&whole),
        target(mcp_nginx, "get", "/files/{tool}", &nginx).with(&["--tool", &pages.join(",")]),
        target(mcp, "list", "/mcp", &gateway),
    ];
    let runs = rounds(stage, Shape { connections: 4, seconds: 1.5, cpus: OTHER }, &targets)?;
    let mut figures = Figures::default();
    for (name, nginx) in [(rest, rest_nginx), (mcp, mcp_nginx)] {
        let what = format!("{name} of 20,000 tools vs nginx with the same bytes in files");
        let measured = runs.ratio([name, nginx], |run| run.rps)?;
        figures.goals.push(Goal { what, unit: Unit::Ratio, must: 0.5, aim: 0.9, measured });
    }
    let about = format!(
        "Lists of 20,000 tools, 4 connections: {list} bytes at `/tools/list`; at `/mcp` {} pages of together {paged} \
         bytes, a call for each page. nginx sends files (`sendfile`), and verifies no token.",
        pages.len(),
    );
    figures.tables.push(table(&about, &targets, &runs)?);
    Ok(figures)
}
