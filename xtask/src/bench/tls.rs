//! HTTPS: calls over connections that stay, and over one connection each, beside nginx with the same certificate.
//!
//! `wrk` makes the calls: it speaks TLS with OpenSSL, as nginx does, and resumes no session.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::figures::{Figures, Goal, Unit};
use super::process::{Process, Start};
use super::stage::{ONE, OTHER, Server, Stage};
use super::statistics::Spread;

const WRK: &str = "/usr/bin/wrk";

/// Pairs of measurements; the first is no figure, but warms up.
const ROUNDS: usize = 8;

/// For `wrk`, besides the time in which it measures.
const PATIENCE: Duration = Duration::from_secs(10);

/// A call of 100 bytes as REST has it, and as the mock server does.
const REST: &str = r#"{"method":"echo","args":{"message":"@"}}"#;
const RPC: &str =
    r#"{"jsonrpc":"2.0","id":1,"method":"tools/call","params":{"name":"echo","arguments":{"message":"@"}}}"#;

/// One target: its script for `wrk`, and its URL.
struct Called {
    script: PathBuf,
    url: String,
}

/// Throughput over connections that stay, and handshakes.
pub fn https(stage: &Stage) -> anyhow::Result<Figures> {
    ensure!(fs::exists(WRK)?, "wrk is not installed: apt-get install wrk");
    let certificate = certificate(stage)?;
    let mock = stage.mock(OTHER, 1, &[])?;
    let nginx = stage.secured_nginx(ONE, &mock, &certificate)?;
    let [file, key] = certificate.each_ref().map(|path| path.display().to_string());
    let settings = [("MCP_URLS", mock.url("/mcp")), ("TLS_CERT_FILE", file), ("TLS_KEY_FILE", key)];
    let gateway = stage.secured_gateway(ONE, &settings)?;
    let mut figures = Figures::default();
    for (what, closes, must) in [
        ("`POST /tools` over HTTPS, throughput vs nginx over HTTPS", false, 0.85),
        ("Handshakes of TLS with a call each, vs nginx", true, 0.8),
    ] {
        let ours = called(stage, &gateway, "/tools", REST, closes)?;
        // With buffers, with which nginx is faster over TLS.
        let theirs = called(stage, &nginx, "/long/mcp", RPC, closes)?;
        let mut ratios = Vec::new();
        for round in 0..ROUNDS {
            let (ours, theirs) = (measure(stage, &ours)?, measure(stage, &theirs)?);
            eprintln!("  {what}: {ours:.0} and {theirs:.0} calls/s");
            ratios.extend((round > 0).then_some(ours / theirs));
        }
        let measured = Spread::of(ratios).context("no round")?;
        figures.goals.push(Goal { what: what.to_owned(), unit: Unit::Ratio, must, aim: 1.0, measured });
    }
    Ok(figures)
}

/// A certificate of P-256 for 127.0.0.1, and its key.
fn certificate(stage: &Stage) -> anyhow::Result<[PathBuf; 2]> {
    let [certificate, key] = ["tls.crt", "tls.key"].map(|name| stage.folder.path().join(name));
    let mut openssl = Command::new("openssl");
    openssl.args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]);
    openssl.args(["-subj", "/CN=127.0.0.1", "-addext", "subjectAltName=IP:127.0.0.1"]);
    openssl.arg("-out").arg(&certificate).arg("-keyout").arg(&key);
    let made = openssl.output().context("openssl")?;
    ensure!(made.status.success(), "openssl: {}", String::from_utf8_lossy(&made.stderr));
    Ok([certificate, key])
}

fn called(stage: &Stage, server: &Server, path: &str, body: &str, closes: bool) -> anyhow::Result<Called> {
    let script = stage.folder.path().join(format!("wrk-{}-{closes}.lua", server.port));
    let body = body.replace('@', &"m".repeat(100));
    let connection = if closes { "close" } else { "keep-alive" };
    let text = format!(
        "wrk.method = \"POST\"\nwrk.body = '{body}'\n\
         wrk.headers[\"Content-Type\"] = \"application/json\"\n\
         wrk.headers[\"Accept\"] = \"application/json, text/event-stream\"\n\
         wrk.headers[\"MCP-Protocol-Version\"] = \"2025-11-25\"\n\
         wrk.headers[\"Authorization\"] = \"Bearer {}\"\n\
         wrk.headers[\"Connection\"] = \"{connection}\"\n",
        stage.token
    );
    fs::write(&script, text)?;
    Ok(Called { script, url: format!("https://127.0.0.1:{}{path}", server.port) })
}

/// Calls each second, at 16 connections.
fn measure(stage: &Stage, called: &Called) -> anyhow::Result<f64> {
    let script = called.script.display().to_string();
    let arguments = ["-t1", "-c16", "-d2s", "-s", &script, &called.url].map(str::to_owned).to_vec();
    let program = PathBuf::from(WRK);
    let start = Start { name: "wrk", cpus: OTHER, program: &program, arguments, environment: vec![] };
    read(&Process::start(start, stage.folder.path())?.finish(PATIENCE)?)
}

/// What `wrk` prints.
fn read(text: &str) -> anyhow::Result<f64> {
    ensure!(!text.contains("Non-2xx"), "calls failed:\n{text}");
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:"));
    rate.context("wrk printed no rate")?.trim().parse().context("the rate")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_counts_only_if_no_call_failed() {
        assert_eq!(read("  20 requests in 2.00s\nRequests/sec:  12345.67\n").unwrap(), 12345.67);
        assert!(read("  Non-2xx or 3xx responses: 20\nRequests/sec:  12345.67\n").is_err());
        assert!(read("").is_err());
    }
}
