//! Credentials that callers bring for one server: they reach that server, and no other.

use ::http::Method;
use portcullis_e2e::faulty::{Faulty, FaultyMode};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::wait::wait_for;
use serde_json::json;

fn shown(server: &Faulty, header: &str) -> Vec<String> {
    server.seen().of("tools/call").iter().map(|request| request.header(header).to_owned()).collect()
}

async fn call(gateway: &TestGateway, server: &str, headers: &[(&str, &str)]) -> (u16, serde_json::Value) {
    let body = format!(r#"{{"method":"echo","args":{{}},"server":"{server}"}}"#);
    let request = http::request(Method::POST, &gateway.url("/tools")).bearer(&gateway.token).body(body).limit(LIMIT);
    let request = headers.iter().fold(request, |request, (name, value)| request.header(name, value));
    let answer = request.send().await.expect("an answer");
    (answer.status, answer.json())
}

#[tokio::test]
async fn a_credential_reaches_the_server_that_it_is_named_after_and_no_other_in_every_transport() {
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let servers = [Faulty::start(mode).await, Faulty::start(mode).await, Faulty::start(mode).await];
        let manifests = Manifests::new();
        let bearer = "forwardCallerToken: {from: x-one-authorization}\nheaders: [{name: X-Other, value: fixed}]";
        manifests.add("one", &servers[0].url(), bearer);
        manifests.add_in(
            "team",
            "two",
            &servers[1].url(),
            "forwardCallerToken: {from: x-team--two-authorization, to: x-api-key}",
        );
        manifests.add("three", &servers[2].url(), "forwardHeaders: [x-plain]");
        let gateway = TestGateway::start(manifests.options()).await;
        gateway.connected(3).await;
        let all = [
            ("X-One-Authorization", "Bearer first-credential"),
            ("x-team--two-authorization", "second-credential"),
            ("x-plain", "yes"),
        ];
        for server in ["one", "team/two", "three"] {
            assert_eq!(call(&gateway, server, &all).await.0, 200);
        }
        assert_eq!(call(&gateway, "one", &[]).await.0, 200, "a caller need not bring one");
        assert_eq!(shown(&servers[0], "authorization"), ["Bearer first-credential", ""]);
        assert_eq!(shown(&servers[0], "x-other"), ["fixed", "fixed"]);
        assert_eq!(
            (shown(&servers[1], "x-api-key"), shown(&servers[1], "authorization")),
            (vec!["second-credential".to_owned()], vec![String::new()])
        );
        let everything = |server: &Faulty| format!("{:?}", server.seen().requests);
        assert!(
            !everything(&servers[0]).contains("second-credential")
                && !everything(&servers[1]).contains("first-credential")
        );
        assert!(!everything(&servers[2]).contains("-credential") && shown(&servers[2], "x-plain") == ["yes"]);
        for server in &servers {
            assert!(!everything(server).contains(&gateway.token), "the token for the gateway stays there");
        }
        let said = format!("{}{}{}", gateway.servers().await, gateway.log(), gateway.metrics().await);
        assert!(!said.contains("-credential"), "{said}");
    }
}

#[tokio::test]
async fn the_token_for_the_gateway_and_what_is_ambiguous_are_refused() {
    let (server, manifests) = (Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    manifests.add("one", &server.url(), "forwardCallerToken: {from: x-one-authorization}");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let refused = |problem: &str| {
        let begin =
            "the call was not sent, because the server cannot be shown who calls: the header x-one-authorization";
        (400, json!({"error": {"message": format!("{begin} {problem}"), "code": 400}}))
    };
    let own = format!("Bearer {}", gateway.token);
    let expected =
        refused("holds the token for the gateway, which no server may have: send the server's own credential");
    assert_eq!(call(&gateway, "one", &[("x-one-authorization", &own)]).await, expected);
    let twice = [("x-one-authorization", "Bearer a"), ("x-one-authorization", "Bearer b")];
    assert_eq!(call(&gateway, "one", &twice).await, refused("must be there once, with one credential: correct it"));
    assert_eq!(shown(&server, "authorization"), Vec::<String>::new());
}

#[tokio::test]
async fn no_server_can_ask_for_a_header_that_is_named_after_another() {
    let (server, manifests) = (Faulty::start(FaultyMode::Streamable).await, Manifests::new());
    let asks = |from: &str| format!("forwardCallerToken: {{from: {from}}}");
    manifests.add("one", &server.url(), &asks("x-bank-authorization"));
    manifests.add_in("a", "b-c", &server.url(), &asks("x-a-b-c-authorization"));
    manifests.add_in("a--b", "c", &server.url(), &asks("x-a--b--c-authorization"));
    let gateway = TestGateway::start(manifests.options()).await;
    let must = |header: &str| {
        format!(
            "forwardCallerToken.from must be {header} for this server: callers send a credential under the name of its server"
        )
    };
    for (name, problem) in [
        ("one", must("x-one-authorization")),
        ("a/b-c", must("x-a--b-c-authorization")),
        (
            "a--b/c",
            "forwardCallerToken does not work for a server or namespace with -- in its name: choose another name"
                .to_owned(),
        ),
    ] {
        wait_for(&format!("the problem of {name}"), LIMIT, async || {
            let view = gateway.server(name).await;
            if view["last_error"] == problem.as_str() { Ok(()) } else { Err(view) }
        })
        .await;
    }
    assert_eq!(server.seen().connections, 0);
}
