//! Three teams with servers and policies of their own, and two agents that call all of them, each with its own token.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use kube::api::{DeleteParams, ListParams, PostParams};
use portcullis_crds::{McpAccessPolicy, McpServer};
use portcullis_e2e::cluster::{self, LIMIT, TestNamespace, Tier};
use portcullis_e2e::http::{self, HttpAnswer, HttpRequest};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::load::Load;
use crate::release::{NodeRelease, chart};
use crate::servers::demo;

/// Servers that are applied together with the policies that close them.
const PAIRS: usize = 200;

/// Those that exist at the same time.
const AT_ONCE: usize = 40;

/// Bound for all of them to be served, and closed.
const PAIRS_LIMIT: Duration = Duration::from_secs(60);

/// Stands for an answer of another server.
const ELSEWHERE: u16 = 0;

/// An agent of this namespace, with its own service account.
struct Agent {
    name: &'static str,
    token: String,
    origin: String,
}

impl Agent {
    fn new(release: &NodeRelease<'_>, name: &'static str) -> Self {
        release.space.kubectl(&["create", "serviceaccount", name]).good();
        let arguments = ["create", "token", name, "--audience", "portcullis", "--duration", "1h"];
        let token = release.space.kubectl(&arguments).good().trim().to_owned();
        Self { name, token, origin: release.origin.clone() }
    }

    fn request(&self, server: &str, tool: &str, args: &Value) -> HttpRequest {
        let body = json!({"method": tool, "args": args, "server": server}).to_string();
        http::post(&format!("{}/tools", self.origin), body).bearer(&self.token).limit(LIMIT)
    }

    /// The status of a call; [`ELSEWHERE`] if another server has answered, as it may where this one has no such tool.
    async fn status(&self, server: &str, tool: &str, args: &Value) -> u16 {
        let answer = self.request(server, tool, args).send().await.expect("an answer");
        let elsewhere = answer.status == 200 && answer.header("x-portcullis-server") != server;
        if elsewhere { ELSEWHERE } else { answer.status }
    }

    /// The tools of a server that it sees.
    async fn tools(&self, space: &TestNamespace<'_>) -> BTreeSet<String> {
        let url = format!("{}/tools/list?namespace={}", self.origin, space.name);
        let answer: HttpAnswer = http::get(&url).bearer(&self.token).limit(LIMIT).send().await.expect("an answer");
        let list = answer.json();
        let tools = list["tools"].as_array().unwrap_or_else(|| panic!("{list}"));
        tools.iter().map(|tool| tool["name"].as_str().expect("a name").to_owned()).collect()
    }

    /// Waits until a call of a tool has this status.
    async fn until(&self, server: &str, tool: &str, status: u16) {
        wait_for(&format!("{status} for {} at {server} {tool}", self.name), LIMIT, async || {
            let found = self.status(server, tool, &args()).await;
            if found == status { Ok(()) } else { Err(found) }
        })
        .await;
    }
}

fn args() -> Value {
    json!({"a": 2, "b": 3})
}

/// A team: a namespace with a server that leads to the demo server.
async fn team<'a>(release: &NodeRelease<'a>) -> TestNamespace<'a> {
    let space = TestNamespace::new(release.cluster).await;
    space.apply(&format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {{name: tools}}\nspec: {{url: '{}'}}\n",
        demo_url(release)
    ));
    space
        .until("tools", "Ready", |it: &McpServer| {
            let conditions = it.status.clone().unwrap_or_default().conditions;
            conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True")
        })
        .await;
    space
}

fn demo_url(release: &NodeRelease<'_>) -> String {
    format!("http://demo.{}.svc.cluster.local/mcp", release.space.name)
}

fn policy(space: &TestNamespace<'_>, mode: &str, rules: &str) {
    space.apply(&format!(
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {{name: p}}\nspec: {{mode: {mode}, rules: [{rules}]}}\n"
    ));
}

/// A rule that lets an agent use tools.
fn rule(release: &NodeRelease<'_>, agent: &str, tools: &str, more: &str) -> String {
    let from = format!("{{serviceAccount: {{namespace: {}, name: {agent}}}}}", release.space.name);
    format!("{{name: {agent}-may, from: [{from}], allow: [{{tools: [{tools}]}}]{more}}}")
}

/// The lines of the audit log of all gateways.
fn audit(release: &NodeRelease<'_>) -> Vec<Value> {
    let log = release.kubectl(&["logs", "-l", "app.kubernetes.io/component=gateway", "--tail=-1"]).good();
    let lines = log.lines().filter(|line| line.contains(r#""stream":"audit""#));
    lines.map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// Waits for a line of the audit log with these members.
async fn audited(release: &NodeRelease<'_>, wanted: Value) {
    wait_for(&format!("the line {wanted}"), LIMIT, async || {
        let is_it =
            |line: &Value| wanted.as_object().expect("members").iter().all(|(name, value)| line[name] == *value);
        let lines = audit(release);
        if lines.iter().any(is_it) { Ok(()) } else { Err(lines.into_iter().rev().take(5).collect::<Vec<_>>()) }
    })
    .await;
}

#[test]
fn each_agent_has_what_the_teams_allow_it_while_policies_come_change_and_go() {
    require!(cluster::available(Tier::Node));
    cluster::inside(async |cluster| {
        let release = NodeRelease::of(cluster).await;
        release
            .helm(&["upgrade", "portcullis", &chart(), "--set", "audit.log=stdout", "--wait", "--timeout=3m"])
            .good();
        release.two_gateways().await;
        demo(&release).await;
        let (one, two) = (Agent::new(&release, "agent-1"), Agent::new(&release, "agent-2"));
        let (a, b, c) = (team(&release).await, team(&release).await, team(&release).await);
        let [in_a, in_b, in_c] = [&a, &b, &c].map(|space| format!("{}/tools", space.name));
        let open = one.tools(&a).await;
        assert!(open.len() == 2 && open == two.tools(&a).await, "{open:?}");

        // Agent 1 keeps calling what it may use all the time.
        policy(&a, "Enforce", &rule(&release, "agent-1", "add", ""));
        one.until(&in_a, "time", 403).await;
        two.until(&in_a, "add", 403).await;
        let load = Load::of(&one.request(&in_a, "add", &args()), &release.origin);
        let shown: BTreeSet<String> = one.tools(&a).await;
        let expected: BTreeSet<String> = open.iter().filter(|name| name.ends_with("add")).cloned().collect();
        assert_eq!((shown, two.tools(&a).await), (expected, BTreeSet::new()));

        // Another team's policy changes nothing here, and says nothing to the other namespaces.
        policy(&b, "Enforce", &rule(&release, "agent-2", "'*'", ""));
        one.until(&in_b, "add", 403).await;
        assert_eq!((two.status(&in_b, "add", &args()).await, one.tools(&b).await), (200, BTreeSet::new()));
        assert_eq!((one.status(&in_c, "add", &args()).await, two.status(&in_c, "add", &args()).await), (200, 200));

        // Changed: agent 2 gets in, under a condition on arguments.
        let both = [rule(&release, "agent-1", "add", ""), rule(&release, "agent-2", "add", ", when: 'args.a <= 10'")];
        policy(&a, "Enforce", &both.join(", "));
        two.until(&in_a, "add", 200).await;
        assert_eq!(two.status(&in_a, "add", &json!({"a": 11, "b": 1})).await, 403);
        let subject = format!("system:serviceaccount:{}:agent-2", release.space.name);
        let denied = json!({
            "subject": subject, "service_account": format!("{}/agent-2", release.space.name), "server": in_a, "tool": "add",
            "decision": "denied", "policy": format!("{}/p", a.name), "rule": "agent-2-may", "reason": "condition", "status": 403,
        });
        audited(&release, denied).await;

        // Removed: everything is open again.
        b.kubectl(&["delete", "mcpap", "p"]).good();
        one.until(&in_b, "add", 200).await;

        // Audit first: nothing is refused, the log tells what would be, and that is what Enforce then refuses.
        policy(&c, "Audit", &rule(&release, "agent-1", "'*'", ""));
        c.kubectl(&["wait", "--for=condition=Programmed", "mcpap/p", "--timeout=30s"]).good();
        assert_eq!((one.status(&in_c, "add", &args()).await, two.status(&in_c, "add", &args()).await), (200, 200));
        let would = |agent: &str, mode: Value, reason: Value| {
            let subject = format!("system:serviceaccount:{}:{agent}", release.space.name);
            json!({"subject": subject, "server": in_c, "decision": "allowed", "mode": mode, "reason": reason})
        };
        audited(&release, would("agent-2", "Audit".into(), "no_rule".into())).await;
        audited(&release, would("agent-1", Value::Null, Value::Null)).await;
        policy(&c, "Enforce", &rule(&release, "agent-1", "'*'", ""));
        two.until(&in_c, "add", 403).await;
        assert_eq!(one.status(&in_c, "add", &args()).await, 200);

        load.goes_on_for(20).await;
        load.without_a_failure().await;
    });
}

fn object<K: serde::de::DeserializeOwned>(kind: &str, name: &str, spec: Value) -> K {
    serde_json::from_value(json!({
        "apiVersion": "portcullis.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec,
    }))
    .expect("an object")
}

/// Calls all of these servers again and again until it is stopped; the statuses that it got.
async fn probe(agent: Arc<Agent>, servers: Vec<String>, stop: Arc<AtomicBool>) -> BTreeSet<(u16, String)> {
    let mut seen = BTreeSet::new();
    while !stop.load(Ordering::Relaxed) {
        for server in &servers {
            let status = agent.status(server, "add", &args()).await;
            let server = if status == 200 { server.clone() } else { String::new() };
            seen.insert((status, server));
        }
    }
    seen
}

#[test]
fn a_server_that_is_applied_with_its_policy_is_never_open_in_either_order() {
    require!(cluster::available(Tier::Node));
    cluster::inside(async |cluster| {
        let release = NodeRelease::of(cluster).await;
        // This machine may be too busy for the usual half of a second between two requests.
        let delay = ["--set", "policy.newServerDelayMs=10000"];
        release
            .helm(
                &[&["upgrade", "portcullis", &chart(), "--reuse-values", "--wait", "--timeout=3m"], &delay[..]]
                    .concat(),
            )
            .good();
        demo(&release).await;
        let agent = Arc::new(Agent::new(&release, "agent-1"));
        let team = TestNamespace::new(cluster).await;
        let (servers, policies) = (team.api::<McpServer>(), team.api::<McpAccessPolicy>());
        for round in 0..PAIRS / AT_ONCE {
            let names: Vec<String> = (0..AT_ONCE).map(|index| format!("s-{round}-{index}")).collect();
            let all: Vec<String> = names.iter().map(|name| format!("{}/{name}", team.name)).collect();
            let stop = Arc::<AtomicBool>::default();
            let mut probes = JoinSet::new();
            for part in all.chunks(AT_ONCE / 4) {
                probes.spawn(probe(agent.clone(), part.to_vec(), stop.clone()));
            }
            for (index, name) in names.iter().enumerate() {
                let server: McpServer = object("McpServer", name, json!({"url": demo_url(&release), "weight": 0}));
                let policy: McpAccessPolicy = object("McpAccessPolicy", name, json!({"servers": {"names": [name]}}));
                let params = PostParams::default();
                if index % 2 == 0 {
                    servers.create(&params, &server).await.expect("a server");
                    policies.create(&params, &policy).await.expect("a policy");
                } else {
                    policies.create(&params, &policy).await.expect("a policy");
                    servers.create(&params, &server).await.expect("a server");
                }
            }
            wait_for("all servers to be ready, and closed", PAIRS_LIMIT, async || {
                let ready = servers.list(&ListParams::default()).await.expect("a list");
                let is_ready = |it: &McpServer| {
                    let conditions = it.status.clone().unwrap_or_default().conditions;
                    conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True")
                };
                let count = ready.iter().filter(|it| is_ready(it)).count();
                if count == AT_ONCE { Ok(()) } else { Err(count) }
            })
            .await;
            for server in &all {
                assert_eq!(agent.status(server, "add", &args()).await, 403, "{server}");
            }
            stop.store(true, Ordering::Relaxed);
            while let Some(seen) = probes.join_next().await {
                let seen = seen.expect("no probe panics");
                assert!(!seen.iter().any(|(status, _)| *status == 200), "open for a moment: {seen:?}");
                assert!(seen.iter().any(|(status, _)| *status == 403), "never denied: {seen:?}");
            }
            // The servers go first: a policy that is removed opens its server.
            servers.delete_collection(&DeleteParams::default(), &ListParams::default()).await.expect("deleted");
            wait_for("the servers to be gone", LIMIT, async || {
                let left = servers.list(&ListParams::default()).await.expect("a list").items.len();
                if left == 0 { Ok(()) } else { Err(left) }
            })
            .await;
            policies.delete_collection(&DeleteParams::default(), &ListParams::default()).await.expect("deleted");
        }
    });
}
