//! `GET /explain`: for callers about themselves, on the admin port about anybody; and what it says is what calls do.

use std::time::{Duration, SystemTime};

use portcullis_e2e::conformance::Conforming;
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http::{self as client, HttpAnswer};
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::TestTransport;
use portcullis_e2e::token::{SECRET, after, mint, mint_with};
use portcullis_e2e::wait::wait_for;
use portcullis_runtime::log::timestamp;
use serde_json::{Value, json};

const POLICY: &str = "apiVersion: portcullis.dev/v1alpha1
kind: McpAccessPolicy
metadata: {name: readers}
spec:
  servers: {names: [fixture]}
  rules:
    - name: alice
      from: [{subject: alice}]
      allow: [{tools: ['test_simple*']}, {prompts: [test_simple_prompt]}, {resources: ['test://static-text', 'test://template/*']}]
    - name: small
      from: [{subject: alice}]
      allow: [{tools: [test_image_content]}]
      when: args.n <= 3
    - name: sre
      from: [{claims: [{path: realm_access.roles, values: [sre]}]}]
      allow: [{tools: ['*']}]
    - name: pods
      from: [{serviceAccount: {namespace: agents, name: '*'}}]
      allow: [{tools: [test_simple_text]}]
";

struct Stage {
    _server: Conforming,
    manifests: Manifests,
    gateway: TestGateway,
}

impl Stage {
    /// `fixture` under a policy and `team-b/open` without one: the same server.
    async fn new() -> Self {
        let (server, manifests) = (Conforming::start().await, Manifests::new());
        manifests.write("policy.yaml", POLICY);
        manifests.add("fixture", &server.url(TestTransport::StreamableHttp), "");
        manifests.add_in("team-b", "open", &server.url(TestTransport::StreamableHttp), "");
        let mut options = manifests.options();
        options.admin_address = Some("127.0.0.1:0".into());
        let gateway = TestGateway::start(options).await;
        wait_for("connected servers", LIMIT, async || {
            let health = client::get(&gateway.url("/health")).send().await.expect("an answer").json();
            if health["servers"]["connected"] == 2 { Ok(()) } else { Err(health) }
        })
        .await;
        Self { _server: server, manifests, gateway }
    }

    async fn ask(&self, token: &str, query: &str) -> HttpAnswer {
        let request = client::get(&self.gateway.url(&format!("/explain?{query}"))).bearer(token).limit(LIMIT);
        request.send().await.expect("an answer")
    }

    async fn ask_admin(&self, query: &str) -> HttpAnswer {
        let url = format!("http://{}/explain?{query}", self.gateway.admin);
        client::get(&url).limit(LIMIT).send().await.expect("an answer")
    }

    async fn call(&self, subject: &str, tool: &str, args: &str) -> u16 {
        let body = format!(r#"{{"method":"{tool}","args":{args}}}"#);
        let request = client::post(&self.gateway.url("/tools"), body).bearer(&mint(subject)).limit(LIMIT);
        request.send().await.expect("an answer").status
    }
}

/// A time in RFC 3339, which texts compare as times do.
fn in_hours(hours: u64) -> String {
    let mut text = Vec::new();
    timestamp(SystemTime::now() + Duration::from_secs(hours * 3600), &mut text);
    String::from_utf8(text).expect("UTF-8")
}

fn error(message: &str, code: u16) -> Value {
    json!({"error": {"message": message, "code": code}})
}

#[tokio::test]
async fn a_caller_is_told_which_servers_offer_a_tool_whether_it_may_use_it_and_why() {
    let stage = Stage::new().await;
    let answer = stage.ask(&mint("alice"), "tool=test_simple_text").await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let rules = json!([{"rule": "alice", "result": "allows"}, {"rule": "small", "result": "other_items"}]);
    let expected = json!({
        "caller": {"subject": "alice", "issuer": null, "service_account": null},
        "tool": "test_simple_text",
        "allowed": true,
        "depends_on_arguments": false,
        "servers": [
            {
                "server": "fixture",
                "own_name": "test_simple_text",
                "name": "test_simple_text",
                "state": "ready",
                "healthy": true,
                "allowed": true,
                "depends_on_arguments": false,
                "reason": "rule alice of policy default/readers allows it",
                "by": {"policy": "default/readers", "rule": "alice"},
                "policies": [{"policy": "default/readers", "mode": "Enforce", "rules": rules, "other_rules": 2}],
                "limit": null,
            },
            {
                "server": "team-b/open",
                "own_name": "test_simple_text",
                "name": "team-b__test_simple_text",
                "state": "ready",
                "healthy": true,
                "allowed": true,
                "depends_on_arguments": false,
                "reason": "no policy restricts the server",
                "by": null,
                "policies": [],
                "limit": null,
            },
        ],
        "servers_count": 2,
    });
    assert_eq!(answer.json(), expected);
}

#[tokio::test]
async fn an_explanation_says_what_a_call_does() {
    let stage = Stage::new().await;
    for (subject, tool, args, allowed, depends, status) in [
        ("alice", "test_simple_text", "{}", true, false, 200),
        ("alice", "test_error_handling", "{}", false, false, 403),
        ("alice", "team-b__test_error_handling", "{}", true, false, 200),
        ("alice", "test_image_content", r#"{"n":3}"#, false, true, 200),
        ("alice", "test_image_content", r#"{"n":4}"#, false, true, 403),
        ("bob", "test_simple_text", "{}", false, false, 403),
    ] {
        let answer = stage.ask(&mint(subject), &format!("tool={tool}")).await.json();
        let found = (answer["allowed"].as_bool(), answer["depends_on_arguments"].as_bool());
        assert_eq!(found, (Some(allowed), Some(depends)), "{subject} {tool}: {answer}");
        assert_eq!(stage.call(subject, tool, args).await, status, "{subject} {tool} {args}");
    }
    let of_bob = stage.ask(&mint("bob"), "tool=test_simple_text&server=fixture").await.json();
    assert_eq!(of_bob["servers"].as_array().expect("servers").len(), 1);
    assert_eq!(of_bob["servers"][0]["reason"], "no rule speaks of this caller");
    assert_eq!(
        of_bob["servers"][0]["policies"][0],
        json!({"policy": "default/readers", "mode": "Enforce", "rules": [], "other_rules": 4})
    );
    for (query, allowed) in [
        ("prompt=test_simple_prompt", true),
        ("prompt=test_prompt_with_image", false),
        ("resource=test%3A%2F%2Fstatic-text", true),
        ("resource=test%3A%2F%2Fstatic-binary", false),
        ("resource=test%3A%2F%2Ftemplate%2F7%2Fdata", true),
    ] {
        assert_eq!(stage.ask(&mint("alice"), query).await.json()["allowed"], allowed, "{query}");
    }
    // A policy that changes is explained as changed.
    stage.manifests.write("policy.yaml", &POLICY.replace("'test_simple*'", "'test_error*'"));
    wait_for("the changed policy", LIMIT, async || {
        stage.ask(&mint("alice"), "tool=test_error_handling").await.json()["allowed"] == true
    })
    .await;
    assert_eq!(stage.call("alice", "test_error_handling", "{}").await, 200);
}

#[tokio::test]
async fn a_limit_is_explained_with_what_is_left_of_it_and_asking_uses_nothing() {
    let stage = Stage::new().await;
    let limited = "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {name: limited}\nspec: {servers: {names: [fixture]}, rules: [{name: two, from: [{subject: bob}], allow: [{tools: [test_simple_text]}], limit: {calls: 2, per: Day}}]}\n";
    stage.manifests.write("limited.yaml", limited);
    let limit =
        async || stage.ask(&mint("bob"), "tool=test_simple_text&server=fixture").await.json()["servers"][0].clone();
    wait_for("the policy", LIMIT, async || limit().await["allowed"] == true).await;
    let expected = |remaining: u32| {
        let rule = json!({"policy": "default/limited", "rule": "two"});
        json!({"rule": rule, "calls": 2, "per": "day", "remaining": remaining, "used_up": false, "until": null})
    };
    for _ in 0..3 {
        assert_eq!(limit().await["limit"], expected(2));
    }
    assert_eq!(stage.call("bob", "test_simple_text", "{}").await, 200);
    assert_eq!(limit().await["limit"], expected(1));
    assert_eq!(stage.call("bob", "test_simple_text", "{}").await, 200);
    let answer = limit().await;
    assert_eq!((&answer["allowed"], &answer["limit"]["used_up"]), (&json!(true), &json!(true)), "{answer}");
    let until = answer["limit"]["until"].as_str().expect("a time");
    assert!(*until > *in_hours(0) && *until < *in_hours(13), "half a day: {until}");
    assert_eq!(stage.call("bob", "test_simple_text", "{}").await, 429);
    assert_eq!(stage.ask(&mint("alice"), "tool=test_simple_text").await.json()["servers"][0]["limit"], Value::Null);
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_is_told_why() {
    let stage = Stage::new().await;
    let long = format!("tool={}", "x".repeat(2_000));
    let clipped = format!("no server offers the tool \"{}\": GET /tools/list lists all", "x".repeat(128));
    for (query, message, code) in [
        ("", "name exactly one of tool, prompt and resource", 400),
        ("tool=a&prompt=b", "name exactly one of tool, prompt and resource", 400),
        ("tool=a&tool=b", "tool is given twice: give it once", 400),
        ("tool=nope", "no server offers the tool \"nope\": GET /tools/list lists all", 404),
        (&*long, &*clipped, 404),
        ("prompt=nope", "no server offers the prompt \"nope\"", 404),
        ("tool=test_simple_text&server=nope", "there is no server \"nope\": GET /servers lists them", 404),
        (
            "tool=test_simple_text&as=bob",
            "this path explains the bearer of the token alone: leave out as, issuer and claim",
            400,
        ),
    ] {
        let answer = stage.ask(&mint("alice"), query).await;
        assert_eq!((answer.status, answer.json()), (code, error(message, code)), "{query:.60}");
    }
    assert_eq!(stage.ask("nonsense", "tool=test_simple_text").await.status, 401);
}

#[tokio::test]
async fn the_admin_port_explains_anybody() {
    let stage = Stage::new().await;
    let pod = "system%3Aserviceaccount%3Aagents%3Aa";
    let role = "claim=realm_access.roles%3D%5B%22sre%22%5D";
    for (who, by) in [
        ("as=alice".to_owned(), Some("alice")),
        ("as=bob".to_owned(), None),
        (format!("as=bob&{role}"), Some("sre")),
        (format!("as={pod}"), Some("pods")),
        (format!("as={pod}&issuer=https%3A%2F%2Fother.example"), None),
    ] {
        let answer = stage.ask_admin(&format!("{who}&tool=test_simple_text&server=fixture")).await;
        assert_eq!((answer.status, answer.header("content-type")), (200, "application/json"), "{}", answer.text());
        let answer = answer.json();
        assert_eq!(answer["servers"][0]["by"]["rule"].as_str(), by, "{who}: {answer}");
    }
    let of_pod = stage.ask_admin(&format!("as={pod}&tool=test_simple_text")).await.json();
    let account = json!({"namespace": "agents", "name": "a"});
    assert_eq!(
        of_pod["caller"],
        json!({"subject": "system:serviceaccount:agents:a", "issuer": null, "service_account": account})
    );
    let nested = format!("as=bob&tool=a&claim=a%3D{}", "%5B".repeat(1_000));
    for (query, status, text) in [
        ("tool=a", 400, "name the caller: as=SUBJECT, such as as=system:serviceaccount:NAMESPACE:NAME\n"),
        ("as=bob", 400, "name exactly one of tool, prompt and resource\n"),
        ("as=bob&as=eve&tool=a", 400, "as is given twice: give it once\n"),
        ("as=bob&tool=a&claim=groups", 400, "a claim must have the form PATH=VALUE\n"),
        (
            &*nested,
            400,
            "the claim \"a\" begins like JSON but is not valid JSON: write texts in quotes, such as [\"sre\"]\n",
        ),
        ("as=bob&tool=nope", 404, "no server offers the tool \"nope\": GET /tools/list lists all\n"),
        ("as=bob&tool=test_simple_text&server=x", 404, "there is no server \"x\": GET /servers lists them\n"),
    ] {
        let answer = stage.ask_admin(query).await;
        assert_eq!((answer.status, answer.text()), (status, text), "{query:.60}");
    }
}

#[tokio::test]
async fn without_an_admin_port_nobody_is_explained_but_the_bearer_of_the_token() {
    let (server, manifests) = (Conforming::start().await, Manifests::new());
    manifests.add("fixture", &server.url(TestTransport::StreamableHttp), "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.connected(1).await;
    let ask = async |query: &str, token: Option<&str>| {
        let request = client::get(&gateway.url(&format!("/explain?{query}"))).limit(LIMIT);
        let request = token.into_iter().fold(request, |request, token| request.bearer(token));
        request.send().await.expect("an answer")
    };
    assert_eq!(ask("as=bob&tool=test_simple_text", None).await.status, 401);
    assert_eq!(ask("as=bob&tool=test_simple_text", Some(&mint("alice"))).await.status, 400);
    // The token counts, with all of its claims.
    let claims = json!({"sub": "carol", "realm_access": {"roles": ["sre"]}, "exp": after(LIMIT * 10)});
    let token = mint_with(SECRET.as_bytes(), &claims);
    manifests.write("policy.yaml", POLICY);
    wait_for("the policy", LIMIT, async || {
        let answer = ask("tool=test_simple_text", Some(&token)).await.json();
        if answer["servers"][0]["by"]["rule"] == "sre" { Ok(()) } else { Err(answer) }
    })
    .await;
}
