//! The gateway as a process: its commands, what it refuses to start with, and what signals do.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use portcullis_e2e::binary::{self, CommandEnd, OwnProgram, RunningProgram};
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::LIMIT;
use portcullis_e2e::http::{self as client, HttpAnswer};
use portcullis_e2e::manifests::{Manifests, manifest};
use portcullis_e2e::token::{SECRET, mint};
use portcullis_e2e::wait::wait_for;
use rustix::process::Signal;

const KEY: (&str, &str) = ("JWT_SECRET", SECRET);

fn succeeded(stdout: &str) -> CommandEnd {
    CommandEnd { code: Some(0), stdout: stdout.into(), stderr: String::new() }
}

fn refused(problem: &str) -> CommandEnd {
    CommandEnd { code: Some(1), stdout: String::new(), stderr: format!("portcullis-gateway: {problem}\n") }
}

async fn get(gateway: &RunningProgram, path: &str, token: &str) -> HttpAnswer {
    client::get(&format!("http://{}{path}", gateway.address)).bearer(token).send().await.expect("an answer")
}

/// Waits until this many tools are listed.
async fn tools(gateway: &RunningProgram, count: u64) {
    wait_for("the tools", LIMIT, async || {
        let health = get(gateway, "/health", "none").await.json();
        if health["tools"]["total"] == count { Ok(()) } else { Err(health) }
    })
    .await;
}

#[tokio::test]
async fn a_token_made_by_the_command_is_accepted() {
    let server = Faulty::start(FaultyMode::Sse).await;
    let gateway = RunningProgram::start(&[], &[KEY, ("MCP_URL", &server.url()), ("JWT_AUDIENCE", "tools")]);
    let arguments = ["token", "--subject", "alice", "--ttl", "1h", "--audience", "tools", "--claim", "team=a"];
    let made = binary::run(&arguments, &[KEY]);
    let token = made.stdout.trim_end().to_owned();
    assert_eq!(made, succeeded(&format!("{token}\n")));
    assert_eq!(get(&gateway, "/servers", &token).await.status, 200);
    wait_for("the line", LIMIT, async || gateway.log().iter().any(|line| line["subject"] == "alice")).await;
    let stray = binary::run(&["token", "--subject", "alice"], &[KEY]).stdout;
    assert_eq!(get(&gateway, "/servers", stray.trim_end()).await.status, 401, "it has another audience");
}

#[test]
fn a_token_that_cannot_be_made_is_told_why() {
    assert_eq!(binary::run(&["token"], &[KEY]), refused("who is the token for? Give --subject NAME"));
    let no_key = binary::run(&["token", "--subject", "a"], &[]);
    assert_eq!((no_key.code, no_key.stdout.as_str()), (Some(1), ""));
    assert!(no_key.stderr.contains("JWT_SECRET"), "{}", no_key.stderr);
    let long = binary::run(&["token", "--subject", "a", "--ttl", "999d"], &[KEY]);
    assert_eq!((long.code, long.stdout.as_str()), (Some(2), ""));
    assert!(long.stderr.contains("at most 365d"), "{}", long.stderr);
}

#[test]
fn check_says_that_all_is_well() {
    let manifests = Manifests::new();
    manifests.secret("github", "token", "hunter2");
    manifests.add("one", "http://one.invalid/mcp", "headers: [{name: X-Key, secretRef: {name: github, key: token}}]");
    manifests.add("two", "https://two.invalid/sse", "");
    let (servers, secrets) = (manifests.servers(), manifests.secrets());
    let environment = [KEY, ("SERVERS", text(&servers)), ("SECRETS_DIR", text(&secrets))];
    assert_eq!(binary::run(&["check"], &environment), succeeded("all is well: 2 server(s)\n"));
    let urls = [KEY, ("MCP_URLS", "http://a.invalid/, http://b.invalid/")];
    assert_eq!(binary::run(&["check"], &urls), succeeded("all is well: 2 server(s)\n"));
}

#[test]
fn check_tells_all_problems_at_once_and_no_secret() {
    let manifests = Manifests::new();
    manifests.add("one", "ftp://one.invalid/", "weight: 2000");
    manifests.add("two", "http://two.invalid/", "headers: [{name: X-Key, secretRef: {name: github, key: token}}]");
    manifests.add("three", "https://three.invalid/", "tls: {caRef: {name: ca}}");
    manifests.secret("ca", "ca.crt", "hunter2");
    let (servers, secrets) = (manifests.servers(), manifests.secrets());
    let environment = [
        ("JWT_SECRET", "hunter2"),
        ("SERVERS", text(&servers)),
        ("SECRETS_DIR", text(&secrets)),
        ("PORT", "http"),
        ("DEBUG", "perhaps"),
        ("MAX_BODY_BYTES", "1"),
    ];
    let problems = [
        "7 setting(s) cannot be used:",
        "PORT is \"http\": it must be a whole number from 0 to 65535",
        "DEBUG is \"perhaps\": it must be true or false",
        "MAX_BODY_BYTES is \"1\": it must be a whole number from 1024 to 1073741824",
        "JWT_SECRET is shorter than 32 bytes: make one with 'openssl rand -base64 48'",
        "McpServer default/one: url has scheme \"ftp\": use http or https; weight is over 1000: use 0 to 1000",
        "McpServer default/three: tls.caRef: ca/ca.crt contains no PEM certificate: add one, from BEGIN CERTIFICATE to \
         END CERTIFICATE",
        "McpServer default/two: cannot read github/token in the folder of Secrets: put the value into the file \
         github/token there",
    ];
    assert_eq!(binary::run(&["check"], &environment), refused(&problems.join("\n")));
}

#[test]
fn the_gateway_does_not_start_with_wrong_settings_and_names_them_all() {
    let url = ("MCP_URL", "http://a.invalid/");
    let short = "JWT_SECRET is shorter than 32 bytes: make one with 'openssl rand -base64 48'";
    let known = "JWT_SECRET is a well-known or trivial secret: make one with 'openssl rand -base64 48'";
    let none = "no key to check tokens with: set JWT_SECRET or JWT_SECRET_FILE (HS algorithms), JWT_PUBLIC_KEY_FILE or JWT_JWKS_FILE (all others), ISSUERS_FILE, or KUBERNETES_TOKENS=true";
    let cases: [(&[(&str, &str)], &str); 3] = [
        (&[url, ("JWT_SECRET", "hunter2")], short),
        (&[url, ("JWT_SECRET", "your-secret-key-here-your-secret-key-here")], known),
        (&[url], none),
    ];
    for (environment, problem) in cases {
        assert_eq!(binary::run(&[], environment), refused(&format!("1 setting(s) cannot be used:\n{problem}")));
    }
    let many = [("JWT_SECRET", "hunter2"), ("SERVERS", "/nowhere/at/all"), ("PORT", "-1")];
    let problems = [
        "3 setting(s) cannot be used:",
        "PORT is \"-1\": it must be a whole number from 0 to 65535",
        short,
        "SERVERS: cannot read /nowhere/at/all: entity not found",
    ];
    assert_eq!(binary::run(&["run"], &many), refused(&problems.join("\n")));
    assert_eq!(binary::run(&["--no-such-flag"], &[]).code, Some(2));
}

#[test]
fn a_taken_port_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port().to_string();
    let ended = binary::run(&[], &[KEY, ("MCP_URL", "http://a.invalid/"), ("HOST", "127.0.0.1"), ("PORT", &port)]);
    assert_eq!(ended.code, Some(1));
    assert!(ended.stderr.contains(&format!("127.0.0.1:{port}")), "{}", ended.stderr);
}

#[test]
fn help_shows_every_setting_with_its_flag_variable_and_default() {
    let help = binary::run(&["--help"], &[]);
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    let words = help.stdout.split_whitespace().collect::<Vec<_>>().join(" ");
    let settings = [
        ("--mcp-url <URL>", "MCP_URL", ""),
        ("--mcp-urls <URLS>", "MCP_URLS", ""),
        ("--servers <PATH>", "SERVERS", ""),
        ("--secrets <DIR>", "SECRETS_DIR", ""),
        ("--credential-namespaces <NAMESPACES>", "CREDENTIAL_NAMESPACES", ""),
        ("--guard-addresses <BOOL>", "GUARD_ADDRESSES", ""),
        ("--allowed-addresses <CIDRS>", "ALLOWED_ADDRESSES", ""),
        ("--blocked-addresses <CIDRS>", "BLOCKED_ADDRESSES", ""),
        ("--own-addresses <HOSTS>", "OWN_ADDRESSES", ""),
        ("--host <HOST>", "HOST", "::"),
        ("--port <PORT>", "PORT", "5000"),
        ("--admin-address <ADDRESS:PORT>", "ADMIN_ADDRESS", ""),
        ("--jwt-secret-file <FILE>", "JWT_SECRET_FILE", ""),
        ("--jwt-algorithm", "JWT_ALGORITHM", "HS256"),
        ("--jwt-public-key-file <FILE>", "JWT_PUBLIC_KEY_FILE", ""),
        ("--jwt-jwks-file <FILE>", "JWT_JWKS_FILE", ""),
        ("--jwt-issuer", "JWT_ISSUER", ""),
        ("--jwt-audience", "JWT_AUDIENCE", ""),
        ("--jwt-leeway <SECONDS>", "JWT_LEEWAY", "10"),
        ("--jwt-max-lifetime <SECONDS>", "JWT_MAX_LIFETIME", ""),
        ("--allow-query-token <BOOL>", "ALLOW_QUERY_TOKEN", "true"),
        ("--debug [<BOOL>]", "DEBUG", ""),
        ("--log-level <LEVEL>", "LOG_LEVEL", "INFO"),
        ("--log-format <FORMAT>", "LOG_FORMAT", "json"),
        ("--log-payloads <BOOL>", "LOG_PAYLOADS", "false"),
        ("--stream-after-seconds <SECONDS>", "STREAM_AFTER_SECONDS", "10"),
        ("--max-body-bytes <BYTES>", "MAX_BODY_BYTES", "1048576"),
        ("--max-result-bytes <BYTES>", "MAX_RESULT_BYTES", "8388608"),
        ("--max-connections <COUNT>", "MAX_CONNECTIONS", "10000"),
        ("--drain-seconds <SECONDS>", "DRAIN_SECONDS", "0"),
        ("--grace-seconds <SECONDS>", "GRACE_SECONDS", "25"),
    ];
    for (flag, variable, default) in settings {
        let from = words.find(&format!("{flag} ")).unwrap_or_else(|| panic!("{flag} in {words}"));
        let entry = words[from + 2..].split(" --").next().expect("a part");
        assert!(entry.contains(&format!("[env: {variable}")), "{variable} in {entry}");
        assert_eq!(entry.contains("[default: "), !default.is_empty(), "{entry}");
        assert!(default.is_empty() || entry.contains(&format!("[default: {default}]")), "{default} in {entry}");
    }
    assert!(words.contains("JWT_SECRET (at least 32 bytes)"), "{words}");
    let version = concat!("portcullis-gateway ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!(binary::run(&["--version"], &[]), succeeded(version));
}

#[test]
fn a_command_offers_and_takes_the_flags_that_it_uses_alone() {
    for (arguments, flag, command) in [
        (&["demo", "--port", "6123"][..], "port", "demo"),
        (&["--port", "6123", "demo"], "port", "demo"),
        (&["completions", "bash", "--host=::1"], "host", "completions"),
        (&["man", "--log-level", "INFO"], "log-level", "man"),
        (&["token", "--subject", "a", "--mcp-url", "http://a/?key=hunter2"], "mcp-url", "token"),
    ] {
        let refused = binary::run(arguments, &[KEY]);
        let expected = format!("error: unexpected argument '--{flag}' found: {command} does not use it\n");
        assert_eq!((refused.code, refused.stdout.as_str()), (Some(2), ""), "{arguments:?}");
        assert!(refused.stderr.starts_with(&expected) && !refused.stderr.contains("hunter2"), "{}", refused.stderr);
    }
    let help = |command: &str| binary::run(&[command, "--help"], &[]).stdout;
    let shown = |command: &str| ["--demo-port", "--jwt-issuer", "--mcp-urls"].map(|flag| help(command).contains(flag));
    assert_eq!(
        [shown("demo"), shown("token"), shown("check"), shown("man")],
        [[true, false, false], [false, true, false], [false, true, true], [false; 3]]
    );
    // Where settings stand makes no difference, and variables that a command does not use none at all.
    let manifests = Manifests::new();
    manifests.add("one", "http://one.invalid/mcp", "");
    let (folder, well) = (manifests.servers(), succeeded("all is well: 1 server(s)\n"));
    assert_eq!(binary::run(&["check", "--servers", text(&folder)], &[KEY]), well);
    assert_eq!(binary::run(&["--servers", text(&folder), "check"], &[KEY]), well);
    let strange = [KEY, ("PORT", "http"), ("KUBERNETES_TOKENS", "perhaps"), ("JWT_LEEWAY", "99")];
    assert_eq!(binary::run(&["token", "--subject", "a"], &strange).code, Some(0));
    assert_eq!(binary::run(&["man"], &strange).code, Some(0));
}

#[test]
fn help_does_not_show_what_is_secret_in_the_environment() {
    let key = "hunter2-hunter2-hunter2-hunter2-hunter2";
    let environment = [
        ("JWT_SECRET", key),
        ("MCP_URL", "http://a.invalid/?key=hunter2"),
        ("MCP_URLS", "http://b.invalid/?key=hunter2"),
    ];
    assert!(!binary::run(&["--help"], &environment).stdout.contains("hunter2"));
}

#[test]
fn completions_and_the_manual_page_are_written() {
    let completions = binary::run(&["completions", "bash"], &[]);
    assert_eq!((completions.code, completions.stderr.as_str()), (Some(0), ""));
    for word in ["portcullis-gateway", "--mcp-urls", "demo", "--subject"] {
        assert!(completions.stdout.contains(word), "{word}");
    }
    let parsed = Command::new("bash").args(["-n", "-c", &completions.stdout]).status().expect("bash");
    assert!(parsed.success(), "bash understands it");
    assert_eq!(binary::run(&["completions", "cmd"], &[]).code, Some(2));

    let manual = binary::run(&["man"], &[]);
    assert_eq!((manual.code, manual.stderr.as_str()), (Some(0), ""));
    for text in [".TH portcullis-gateway 1", ".SH NAME", "MCP_URLS", "JWT_SECRET"] {
        assert!(manual.stdout.contains(text), "{text}");
    }
}

#[test]
fn the_demo_makes_a_call_and_ends() {
    let demo = binary::run(&["demo", "--once", "--demo-port", "0"], &[]);
    assert_eq!((demo.code, demo.stderr.as_str()), (Some(0), ""));
    let answered = r#"The first call answered: {"content":[{"text":"Hello, world!","type":"text"}]}"#;
    for text in [answered, "export TOKEN=eyJ", "/tools/list", "/servers", "/health", "/metrics", "shape=value"] {
        assert!(demo.stdout.contains(text), "{text} in {}", demo.stdout);
    }
}

#[tokio::test]
async fn a_signal_to_stop_lets_running_calls_finish() {
    for signal in [Signal::TERM, Signal::INT] {
        let server =
            Faulty::with_tools(FaultyMode::Sse, vec![Tool::text("slow", "done").takes(Duration::from_secs(1))]).await;
        let gateway = RunningProgram::start(&[], &[KEY, ("MCP_URL", &server.url())]);
        tools(&gateway, 1).await;
        let origin = format!("http://{}", gateway.address);
        let call = client::post(&format!("{origin}/tools"), r#"{"method":"slow"}"#).bearer(&mint("a"));
        let stop = async {
            wait_for("the call", LIMIT, async || server.running() == 1).await;
            gateway.signal(signal);
            let refused =
                async || client::get(&format!("{origin}/livez")).limit(Duration::from_secs(1)).send().await.is_err();
            wait_for("new callers to be refused", LIMIT, refused).await;
            assert_eq!(server.running(), 1, "the call still runs");
        };
        let (answer, ()) = tokio::join!(call.limit(LIMIT).send(), stop);
        let answer = answer.expect("an answer");
        assert_eq!((answer.status, &answer.json()["content"][0]["text"]), (200, &"done".into()));
        let ended = tokio::task::spawn_blocking(move || gateway.ended()).await.expect("it ends");
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
        assert!(ended.stdout.contains(r#""path":"/tools","tool":"slow""#), "the line of the last call is written");
    }
}

#[tokio::test]
async fn a_second_signal_ends_the_gateway_at_once() {
    for (first, second, code, name) in
        [(Signal::TERM, Signal::INT, 130, "SIGINT"), (Signal::INT, Signal::TERM, 143, "SIGTERM")]
    {
        let server =
            Faulty::with_tools(FaultyMode::Sse, vec![Tool::text("slow", "done").takes(Duration::from_secs(60))]).await;
        let gateway = RunningProgram::start(&[], &[KEY, ("MCP_URL", &server.url()), ("DRAIN_SECONDS", "60")]);
        tools(&gateway, 1).await;
        let url = format!("http://{}/tools", gateway.address);
        let call = client::post(&url, r#"{"method":"slow"}"#).bearer(&mint("a")).limit(LIMIT);
        let stop = async {
            wait_for("the call", LIMIT, async || server.running() == 1).await;
            gateway.signal(first);
            wait_for("readiness to fail", LIMIT, async || get(&gateway, "/readyz", "none").await.status == 503).await;
            gateway.signal(second);
        };
        let (answer, ()) = tokio::join!(call.send(), stop);
        assert!(answer.is_err(), "the call is cut");
        let ended = tokio::task::spawn_blocking(move || gateway.ended()).await.expect("it ends");
        let why = format!("stopped at once: {name} came a second time\n");
        assert_eq!((ended.code, ended.stderr), (Some(code), why));
    }
}

#[tokio::test]
async fn a_gateway_that_is_told_nothing_listens_for_both_families() {
    let environment = [KEY, ("MCP_URL", "http://127.0.0.1:9/mcp"), ("PORT", "0")];
    let gateway = RunningProgram::program(binary::OwnProgram::Gateway, &[], &environment);
    let port = gateway.address.port();
    let ipv6 = std::net::TcpListener::bind("[::1]:0").is_ok();
    for host in ["127.0.0.1", "::1"].into_iter().take(1 + usize::from(ipv6)) {
        let origin =
            if host.contains(':') { format!("http://[{host}]:{port}") } else { format!("http://{host}:{port}") };
        assert_eq!(client::get(&format!("{origin}/servers")).send().await.expect("an answer").status, 401);
        let known = |line: &serde_json::Value| line["remote_addr"] == host;
        wait_for("its line", LIMIT, async || gateway.log().iter().any(known)).await;
    }
}

#[tokio::test]
async fn readiness_fails_while_the_gateway_drains() {
    let environment = [KEY, ("MCP_URL", "http://127.0.0.1:9/mcp"), ("DRAIN_SECONDS", "1")];
    let gateway = RunningProgram::start(&[], &environment);
    wait_for("readiness", LIMIT, async || get(&gateway, "/readyz", "none").await.status == 200).await;
    assert_eq!(get(&gateway, "/readyz", "none").await.header("connection"), "");
    gateway.signal(Signal::TERM);
    wait_for("readiness to fail", LIMIT, async || get(&gateway, "/readyz", "none").await.status == 503).await;
    let answer = get(&gateway, "/livez", "none").await;
    assert_eq!(
        (answer.status, answer.header("connection")),
        (200, "close"),
        "it still serves, and sends clients elsewhere"
    );
    let ended = tokio::task::spawn_blocking(move || gateway.ended()).await.expect("it ends");
    assert_eq!(ended.code, Some(0));
}

#[tokio::test]
async fn sighup_reads_the_configuration_again() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let (old, new, links) = (Manifests::new(), Manifests::new(), Manifests::new());
    old.write("all.yaml", "# nothing\n");
    new.write("all.yaml", &manifest("one", &server.url(), ""));
    // Nobody tells of a link outside of the watched folder that leads elsewhere.
    let link = links.servers().join("link");
    std::os::unix::fs::symlink(old.servers(), &link).expect("a link");
    let gateway = RunningProgram::start(&["--servers", text(&link)], &[KEY]);
    tools(&gateway, 0).await;
    let fresh = links.servers().join("fresh");
    std::os::unix::fs::symlink(new.servers(), &fresh).expect("a link");
    std::fs::rename(fresh, &link).expect("renamed");
    gateway.signal(Signal::HUP);
    tools(&gateway, 1).await;
    let asked = gateway.log().iter().any(|line| line["message"] == "reading the configuration again on SIGHUP");
    assert!(asked, "the log says so");
    assert_eq!(get(&gateway, "/tools/list", &mint("a")).await.status, 200, "it still runs");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

#[test]
fn a_command_whose_reader_has_gone_ends_quietly() {
    for (program, arguments) in [
        (OwnProgram::Operator, ["crd"].as_slice()),
        (OwnProgram::Operator, &["man"]),
        (OwnProgram::Operator, &["completions", "zsh"]),
        (OwnProgram::Gateway, &["man"]),
        (OwnProgram::Gateway, &["completions", "bash"]),
        (OwnProgram::Gateway, &["--help"]),
        (OwnProgram::Gateway, &["token", "--subject", "agent"]),
    ] {
        let end = binary::run_without_reader(program, arguments, &[KEY]);
        assert_eq!(end, succeeded(""), "{program:?} {arguments:?}");
    }
}
