//! A reported revision is in force: after a change of any field of a server, in any state of it, the next call
//! uses the new value.

use std::time::Duration;

use portcullis_crds::mcpserver::{
    Header, HealthCheck, HealthMode, ServerLimits, ServingState, SessionMode, Timeouts, ToolRules, Transport,
};
use portcullis_crds::{Server, Snapshot};
use portcullis_e2e::binary::RunningProgram;
use portcullis_e2e::fake_api::FakeApi;
use portcullis_e2e::faulty::{CallFault as Answers, Faulty, FaultyMode, ListFault, ProtocolFault, RequestFault, Tool};
use portcullis_e2e::gateway::{self, LIMIT, TestGateway};
use portcullis_e2e::http::{self as client, HttpAnswer};
use portcullis_e2e::wait::wait_for;
use portcullis_gateway::Options;
use serde_json::Value;
use tokio::time::Instant;

const SLOT: &str = "p-servers-1-0";

/// A gateway whose one slot has what the test writes.
struct SlotKit {
    api: FakeApi,
    gateway: TestGateway,
}

impl SlotKit {
    /// With these servers ready.
    async fn start(servers: &[&Server]) -> Self {
        let api = FakeApi::start().await;
        let options = Options {
            configmaps: Some(SLOT.into()),
            allowed_addresses: Some("127.0.0.0/8".into()),
            kubeconfig: Some(api.kubeconfig()),
            admin_address: Some("127.0.0.1:0".into()),
            ..gateway::options()
        };
        api.write(SLOT, &Snapshot::new(servers.iter().map(|server| (*server).clone()).collect()));
        let kit = Self { gateway: TestGateway::start(options).await, api };
        kit.gateway.connected(servers.len() as u64).await;
        kit
    }

    /// Writes these servers, and returns as soon as each of them is told as applied.
    async fn apply(&self, servers: &[&Server]) {
        self.api.write(SLOT, &Snapshot::new(servers.iter().map(|server| (*server).clone()).collect()));
        let end = Instant::now() + LIMIT;
        loop {
            let told = self.applied().await;
            if servers.iter().all(|server| told.contains(&(server.name.clone(), server.revision()))) {
                return;
            }
            assert!(Instant::now() < end, "not told as applied: {told:?}");
        }
    }

    async fn applied(&self) -> Vec<(String, String)> {
        let url = format!("http://{}/status", self.gateway.admin);
        let whole = client::get(&url).limit(LIMIT).send().await.expect("an answer").json();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let servers = whole["servers"].as_array().expect("servers");
        servers.iter().map(|server| (text(&server["key"]["name"]), text(&server["revision"]))).collect()
    }

    async fn call(&self, tool: &str) -> HttpAnswer {
        self.gateway.call(tool, r#"{"message":"x"}"#).await
    }
}

/// Every way in which a server may be while its configuration changes.
const WAYS: [&str; 8] = ["honest", "list hangs", "list errs", "slow", "hangs", "errs", "fails its calls", "away"];

async fn turn(server: &mut Faulty, way: &str) {
    match way {
        "honest" => {}
        "list hangs" => server.behave(|faults| faults.list = ListFault::Reply(ProtocolFault::Never)),
        "list errs" => server.behave(|faults| {
            faults.list = ListFault::Reply(ProtocolFault::Error(r#"{"code":-32603,"message":"broken"}"#.into()));
        }),
        "slow" => server.behave(|faults| {
            faults.framing.piece = Some(20);
            faults.framing.pause = Duration::from_millis(20);
        }),
        "hangs" => server.behave(|faults| faults.post = RequestFault::Hangs),
        "errs" => server.behave(|faults| faults.post = RequestFault::status(503)),
        "fails its calls" => server.behave(|faults| faults.answer = Answers::CutAfterAccepting),
        "away" => server.kill().await,
        other => unreachable!("{other}"),
    }
}

fn tools() -> Vec<Tool> {
    ["x", "y"].map(Tool::echo).to_vec()
}

fn with_rules(server: &Server, rules: &str) -> Server {
    Server { tools: serde_yaml::from_str(rules).expect("rules"), ..server.clone() }
}

fn with_header(server: &Server, value: &str) -> Server {
    let header = Header { name: "x-key".into(), prefix: None, value: Some(value.into()), secret_ref: None };
    Server { headers: vec![header], ..server.clone() }
}

#[tokio::test]
async fn rules_of_tools_hold_at_once_however_the_server_is() {
    for (mode, session) in [
        (FaultyMode::Sse, SessionMode::Shared),
        (FaultyMode::Streamable, SessionMode::PerClient),
        (FaultyMode::Modern, SessionMode::Shared),
    ] {
        for way in WAYS {
            let mut server = Faulty::with_tools(mode, tools()).await;
            let plain = Server { session, ..Server::from_url("a", &server.url()) };
            let kit = SlotKit::start(&[&plain]).await;
            turn(&mut server, way).await;
            for (rules, there, gone) in [
                ("{exclude: [x]}", vec!["y"], vec!["x"]),
                ("{prefix: p}", vec!["p__x", "p__y"], vec!["x", "y"]),
                ("{include: [y], overrides: [{name: y, rename: z}]}", vec!["z"], vec!["x", "y", "p__x", "p__y"]),
                ("{exclude: ['*']}", vec![], vec!["x", "y", "z"]),
                ("{}", vec!["x", "y"], vec!["z"]),
            ] {
                let what = format!("{mode:?} {way} {rules}");
                kit.apply(&[&with_rules(&plain, rules)]).await;
                let list = kit.gateway.tools().await;
                // One that has been away for long is not listed, which is not about its rules.
                assert!(list == there || (list.is_empty() && way == "away"), "{what}: {list:?}");
                for tool in gone {
                    assert_eq!(kit.call(tool).await.status, 404, "{what}: {tool}");
                }
                let entries: Vec<u16> = match way {
                    "honest" | "list hangs" | "list errs" | "slow" => vec![200],
                    _ => vec![],
                };
                for tool in there.iter().filter(|_| !entries.is_empty()) {
                    let answer = kit.call(tool).await;
                    assert!(entries.contains(&answer.status), "{what}: {tool} {}", answer.text());
                }
            }
        }
    }
}

#[tokio::test]
async fn a_prefix_that_changes_again_and_again_never_gives_a_404() {
    let server = Faulty::with_tools(FaultyMode::Streamable, tools()).await;
    let plain = Server::from_url("a", &server.url());
    let kit = SlotKit::start(&[&plain]).await;
    for (round, way) in (0..30).zip(["honest", "list hangs", "list errs"].iter().cycle()) {
        server.reform();
        turn_shared(&server, way);
        kit.apply(&[&with_rules(&plain, &format!("{{prefix: p{round}}}"))]).await;
        let answer = kit.call(&format!("p{round}__x")).await;
        assert_eq!(answer.status, 200, "{round} {way}: {}", answer.text());
    }
}

fn turn_shared(server: &Faulty, way: &str) {
    server.behave(|faults| match way {
        "list hangs" => faults.list = ListFault::Reply(ProtocolFault::Never),
        "list errs" => {
            faults.list = ListFault::Reply(ProtocolFault::Error(r#"{"code":-32603,"message":"broken"}"#.into()))
        }
        _ => {}
    });
}

#[tokio::test]
async fn a_server_of_another_state_is_called_or_not_at_once() {
    for way in ["honest", "list hangs", "list errs", "slow"] {
        let mut server = Faulty::with_tools(FaultyMode::Streamable, tools()).await;
        let plain = Server::from_url("a", &server.url());
        let kit = SlotKit::start(&[&plain]).await;
        turn(&mut server, way).await;
        for state in [ServingState::Draining, ServingState::Enabled, ServingState::Draining, ServingState::Disabled] {
            kit.apply(&[&Server { state, ..plain.clone() }]).await;
            let before = server.seen().calls;
            let answer = kit.call("x").await;
            let called = server.seen().calls - before;
            assert_eq!(
                (answer.status == 200, called),
                match state {
                    ServingState::Enabled => (true, 1),
                    _ => (false, 0),
                },
                "{way} {state:?}: {}",
                answer.text()
            );
        }
    }
}

#[tokio::test]
async fn calls_carry_changed_headers_at_once_however_the_server_is() {
    for (mode, session) in [
        (FaultyMode::Sse, SessionMode::Shared),
        (FaultyMode::Streamable, SessionMode::Shared),
        (FaultyMode::Streamable, SessionMode::PerClient),
        (FaultyMode::Modern, SessionMode::Shared),
    ] {
        for way in
            ["honest", "list hangs", "list errs", "slow", "fails its calls", "loses its sessions", "hangs for others"]
        {
            let mut server = Faulty::with_tools(mode, tools()).await;
            let plain = with_header(&Server { session, ..Server::from_url("a", &server.url()) }, "0");
            let kit = SlotKit::start(&[&plain]).await;
            match way {
                "loses its sessions" => server.forget_sessions(),
                "hangs for others" => server.behave(|faults| {
                    (faults.init, faults.ping) = (ProtocolFault::Never, ProtocolFault::Never);
                }),
                way => turn(&mut server, way).await,
            }
            for round in 1..4 {
                let value = round.to_string();
                let changed = with_header(&plain, &value);
                kit.apply(&[&changed]).await;
                let seen = server.seen().of("tools/call").len();
                kit.call("x").await;
                let all = server.seen();
                let values: Vec<String> =
                    all.of("tools/call").iter().skip(seen).map(|call| call.header("x-key").to_owned()).collect();
                assert!(
                    values.iter().all(|sent| *sent == value),
                    "{mode:?} {session:?} {way}: {values:?}, not {value}"
                );
                if matches!(way, "honest" | "list hangs" | "list errs") {
                    assert_eq!(values.len(), 1, "{mode:?} {session:?} {way}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_forgotten_session_whose_successor_does_not_come_sends_changed_headers_too() {
    let server = Faulty::with_tools(FaultyMode::Streamable, tools()).await;
    let plain = with_header(&Server::from_url("a", &server.url()), "0");
    let kit = SlotKit::start(&[&plain]).await;
    server.behave(|faults| faults.init = ProtocolFault::Never);
    server.forget_sessions();
    let first = kit.gateway.call("x", "{}");
    let changed = async {
        wait_for("a new session is being opened", LIMIT, async || server.seen().initializes > 1).await;
        kit.apply(&[&with_header(&plain, "1")]).await;
        let seen = server.seen().of("tools/call").len();
        kit.call("x").await;
        let all = server.seen();
        let late: Vec<&str> = all.of("tools/call").into_iter().skip(seen).map(|call| call.header("x-key")).collect();
        assert!(late.iter().all(|value| *value == "1"), "{late:?}");
        // Nor is the handshake gone on with that carries what was configured before.
        server.behave(|faults| faults.init = ProtocolFault::Honest);
        wait_for("a call", LIMIT, async || kit.call("x").await.status == 200).await;
        let all = server.seen();
        let last = all.of("initialize").last().map(|request| request.header("x-key").to_owned());
        assert_eq!(last.as_deref(), Some("1"));
    };
    tokio::join!(first, changed);
}

#[tokio::test]
async fn a_clients_session_that_is_being_opened_goes_on_with_changed_headers() {
    let server = Faulty::with_tools(FaultyMode::Streamable, tools()).await;
    let plain = with_header(&Server { session: SessionMode::PerClient, ..Server::from_url("a", &server.url()) }, "0");
    let kit = SlotKit::start(&[&plain]).await;
    let before = server.seen().initializes;
    server.behave(|faults| faults.init = ProtocolFault::Never);
    let changed = async {
        wait_for("a session of the client", LIMIT, async || server.seen().initializes > before).await;
        kit.apply(&[&with_header(&plain, "1")]).await;
        let seen = server.seen().requests.len();
        wait_for("another attempt", LIMIT, async || {
            server.seen().of("initialize").last().is_some_and(|request| request.header("x-key") == "1")
        })
        .await;
        server.behave(|faults| faults.init = ProtocolFault::Honest);
        let all = server.seen();
        assert!(all.requests.iter().skip(seen).all(|request| request.header("x-key") != "0"));
    };
    let (answer, ()) = tokio::join!(kit.call("x"), changed);
    assert!(matches!(answer.status, 200 | 503 | 504), "{}", answer.text());
}

#[tokio::test]
async fn limits_and_preferences_hold_at_once() {
    let (one, two) = (
        Faulty::with_tools(FaultyMode::Streamable, tools()).await,
        Faulty::with_tools(FaultyMode::Streamable, tools()).await,
    );
    let (a, b) = (Server::from_url("a", &one.url()), Server::from_url("b", &two.url()));
    let kit = SlotKit::start(&[&a, &b]).await;
    for server in [&one, &two] {
        turn_shared(server, "list hangs");
    }
    let who = async |count: usize| {
        let mut who = Vec::new();
        for _ in 0..count {
            who.push(kit.gateway.call_at("a", "x", "{}").await.header("x-portcullis-server").to_owned());
        }
        who
    };
    kit.apply(&[&Server { timeouts: Timeouts { request_seconds: 1, ..Timeouts::default() }, ..a.clone() }, &b]).await;
    one.behave(|faults| faults.answer = Answers::Never);
    let began = Instant::now();
    let answer = kit.gateway.call_at("a", "x", "{}").await;
    assert!(began.elapsed() < Duration::from_secs(5), "{} {}", answer.status, answer.text());
    one.behave(|faults| faults.answer = Answers::Honest);

    kit.apply(&[&Server { forward_headers: vec!["x-tenant".into()], ..a.clone() }, &b]).await;
    let request = kit.gateway.post(r#"{"method":"x","args":{},"server":"a"}"#).header("x-tenant", "t");
    assert_eq!(request.send().await.expect("an answer").status, 200);
    assert_eq!(one.seen().of("tools/call").last().expect("a call").header("x-tenant"), "t");

    kit.apply(&[&Server { url: b.url.clone(), ..a.clone() }, &b]).await;
    let before = one.seen().calls;
    assert_eq!(who(3).await.len(), 3);
    assert_eq!(one.seen().calls, before, "what its URL was is not called any more");
}

#[tokio::test]
async fn a_changed_health_check_is_made_at_its_new_interval() {
    let server = Faulty::with_tools(FaultyMode::Streamable, tools()).await;
    let check = |mode, interval_seconds| HealthCheck { mode, interval_seconds, ..HealthCheck::default() };
    let plain = Server { health_check: check(HealthMode::Passive, 3600), ..Server::from_url("a", &server.url()) };
    let kit = SlotKit::start(&[&plain]).await;
    kit.apply(&[&Server { health_check: check(HealthMode::Ping, 1), ..plain.clone() }]).await;
    let before = server.seen().pings;
    wait_for("three checks", Duration::from_secs(8), async || server.seen().pings >= before + 3).await;
}

#[tokio::test]
async fn a_changed_transport_or_session_mode_is_that_of_the_next_call() {
    let server = Faulty::with_tools(FaultyMode::Streamable, tools()).await;
    let plain = Server::from_url("a", &server.url());
    let kit = SlotKit::start(&[&plain]).await;
    assert_eq!(kit.call("x").await.status, 200);
    kit.apply(&[&Server { session: SessionMode::PerClient, ..plain.clone() }]).await;
    wait_for("a call", LIMIT, async || kit.call("x").await.status == 200).await;
    let shared = server.seen().of("initialize").len();
    assert!(shared >= 3, "one for the list of each, and one of the client: {shared}");
    kit.apply(&[&Server { transport: Transport::Sse, ..plain.clone() }]).await;
    let before = server.seen().calls;
    assert_ne!(kit.call("x").await.status, 200);
    assert_eq!(server.seen().calls, before, "it is not spoken to as before");
}

#[tokio::test]
async fn client_sessions_end_by_the_new_idle_time() {
    let server = Faulty::with_tools(FaultyMode::Streamable, tools()).await;
    let idle = |idle_seconds| {
        let plain = Server { session: SessionMode::PerClient, ..Server::from_url("a", &server.url()) };
        Server {
            client_sessions: portcullis_crds::mcpserver::ClientSessions { idle_seconds, ..plain.client_sessions },
            ..plain
        }
    };
    let kit = SlotKit::start(&[&idle(3600)]).await;
    assert_eq!(kit.call("x").await.status, 200);
    kit.apply(&[&idle(1)]).await;
    wait_for("its end", Duration::from_secs(8), async || server.seen().deleted == 1).await;
}

#[tokio::test]
async fn fewer_calls_at_once_are_let_in_at_once() {
    let slow = vec![Tool::echo("x").takes(Duration::from_secs(3))];
    let server = Faulty::with_tools(FaultyMode::Streamable, slow).await;
    let plain = Server::from_url("a", &server.url());
    let kit = SlotKit::start(&[&plain]).await;
    turn_shared(&server, "list hangs");
    let limits = ServerLimits { max_concurrent_requests: 1 };
    kit.apply(&[&Server { limits, ..plain.clone() }]).await;
    let _calls = tokio::join!(kit.call("x"), async {
        wait_for("one runs", LIMIT, async || server.running() == 1).await;
        let other = kit.gateway.call("x", "{}");
        let watching = async {
            for _ in 0..20 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                assert!(server.running() <= 1, "{}", server.running());
            }
        };
        tokio::join!(other, watching)
    });
}

#[test]
fn the_table_of_fields_is_whole() {
    // A field that is added to a server must be thought of here.
    let text = serde_json::to_value(Server {
        label: Some(String::new()),
        protocol_version: Some(String::new()),
        display_name: Some(String::new()),
        description: Some(String::new()),
        tls: Some(portcullis_crds::mcpserver::Tls::default()),
        session: SessionMode::PerClient,
        client_sessions: portcullis_crds::mcpserver::ClientSessions {
            max: 7,
            ..portcullis_crds::mcpserver::ClientSessions::default()
        },
        headers: with_header(&Server::from_url("a", "http://a/"), "x").headers,
        forward_headers: vec![String::new()],
        tools: ToolRules::default(),
        ..Server::from_url("a", "http://a/")
    });
    let text = text.expect("JSON");
    let mut fields: Vec<String> = text.as_object().expect("an object").keys().cloned().collect();
    fields.sort();
    let known = [
        // Shown, or of the catalog, which is published before anything is told:
        "created",
        "description",
        "displayName",
        "generation",
        "key",
        "label",
        "name",
        // Looked at with each call:
        "forwardHeaders",
        "limits",
        "priority",
        "state",
        "timeouts",
        "weight",
        // A session takes it over, or its clients' do:
        "clientSessions",
        "headers",
        "healthCheck",
        // It needs another session:
        "protocolVersion",
        "session",
        "tls",
        "transport",
        "url",
        // Applied to what is known:
        "tools",
    ];
    let mut known = known.map(str::to_owned).to_vec();
    known.sort();
    assert_eq!(fields, known);
}

#[tokio::test]
async fn in_a_pod_of_the_chart_messages_name_its_values() {
    let api = FakeApi::start().await;
    let server = Faulty::with_tools(FaultyMode::Streamable, tools()).await;
    let reference = portcullis_crds::mcpserver::SecretKeyRef { name: "s".into(), key: "k".into() };
    let header = Header { name: "x-key".into(), prefix: None, value: None, secret_ref: Some(reference) };
    let lacking = Server { headers: vec![header], ..Server::from_url("lacking", &server.url()) };
    let blocked = Server::from_url("blocked", &server.url());
    api.write(SLOT, &Snapshot::new(vec![blocked, lacking]));
    let kubeconfig = api.kubeconfig();
    let environment =
        [("CONFIGMAPS", SLOT), ("JWT_SECRET", portcullis_e2e::token::SECRET), ("ADMIN_ADDRESS", "127.0.0.1:0")];
    let gateway = RunningProgram::start(&["--kubeconfig", kubeconfig.to_str().expect("a path")], &environment);
    for value in ["egress.allowedAddresses of the chart", "credentials.namespaces of the chart"] {
        wait_for(value, LIMIT, async || {
            let log = gateway.log();
            if log.iter().any(|line| line.to_string().contains(value)) { Ok(()) } else { Err(log) }
        })
        .await;
    }
    let log = gateway.log().iter().map(Value::to_string).collect::<Vec<_>>().join("\n");
    assert!(!log.contains("ALLOWED_ADDRESSES") && !log.contains("--secrets"), "{log}");
}
