//! Each client at the gateway, with five real servers behind it.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::{LIMIT, TestGateway};
use portcullis_e2e::http as client;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::{self, RealServer, RealServerKind};
use portcullis_e2e::require;
use portcullis_e2e::wait::wait_for;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::program::ClientProgram;
use crate::story::{ClientReport, ClientTask};
use crate::{inspector, rust};

const BEHIND: [(&str, RealServerKind); 5] = [
    ("everything-http", RealServerKind::EverythingStreamable),
    ("everything-sse", RealServerKind::EverythingSse),
    ("fastmcp-http", RealServerKind::FastmcpStreamable),
    ("fastmcp-sse", RealServerKind::FastmcpSse),
    ("python-sse", RealServerKind::PythonSse),
];

const FRESH: &str = "freshly_applied";
const STEPS: usize = 4;

/// Started once, for all tests.
static SERVERS: OnceCell<Vec<RealServer>> = OnceCell::const_new();

/// A gateway in front of the five, and a sixth server to be applied later.
struct ClientsSetup {
    manifests: Manifests,
    gateway: TestGateway,
    fresh: Faulty,
}

impl ClientsSetup {
    async fn set() -> Self {
        let start = || join_all(BEHIND.map(|(_, kind)| RealServer::start(kind)));
        let servers = SERVERS.get_or_init(start).await;
        let manifests = Manifests::new();
        for ((name, _), server) in BEHIND.iter().zip(servers) {
            manifests.add(name, &server.url, "");
        }
        let gateway = TestGateway::start(manifests.options()).await;
        gateway.connected(5).await;
        let fresh = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo(FRESH)]).await;
        Self { manifests, gateway, fresh }
    }

    fn task(&self, legacy: bool) -> ClientTask {
        ClientTask {
            url: self.gateway.url("/mcp"),
            token: self.gateway.token.clone(),
            legacy,
            quick: ("echo", json!({"message": "Grüße"})),
            slow: ("trigger-long-running-operation", json!({"duration": 1, "steps": STEPS})),
            fresh: FRESH,
        }
    }

    fn task_over_sse(&self) -> ClientTask {
        ClientTask { url: self.gateway.url("/sse"), ..self.task(true) }
    }

    /// The same through a view without the tools of the official Python server, where agents can search: `echo` is called by
    /// another tool.
    fn task_through_a_view(&self, legacy: bool) -> ClientTask {
        let quick = ("call_tool", json!({"name": "echo", "arguments": {"message": "Grüße"}}));
        ClientTask { url: self.gateway.url("/mcp/_views/agent"), quick, ..self.task(legacy) }
    }

    /// Applies the view, and waits until it is served.
    async fn apply_view(&self) {
        let spec = json!({"select": [{}], "exclude": [{"servers": {"names": ["python-sse"]}}], "search": "Always"});
        let view = json!({"apiVersion": "portcullis.dev/v1alpha1", "kind": "McpView", "metadata": {"name": "agent"}, "spec": spec});
        self.manifests.write("view.yaml", &view.to_string());
        wait_for("the view", LIMIT, async || {
            let names = self.names_of_view().await;
            if names.len() > 3 { Ok(()) } else { Err(names) }
        })
        .await;
    }

    async fn names_of_view(&self) -> BTreeSet<String> {
        let request = client::get(&self.gateway.url("/tools/list?view=agent")).bearer(&self.gateway.token).limit(LIMIT);
        let list = request.send().await.expect("an answer").json();
        let tools = list["tools"].as_array().cloned().unwrap_or_default();
        tools.iter().filter_map(|tool| Some(tool["name"].as_str()?.to_owned())).collect()
    }

    async fn expected_through_a_view(&self, legacy: bool) -> ClientReport {
        let tools = self.names_of_view().await.into_iter().filter(|name| name != FRESH).collect();
        let expected = ClientReport { tools, ..self.expected(legacy).await };
        let all = self.gateway.tools().await.len() - usize::from(!expected.fresh.is_empty());
        assert!(expected.tools.contains("search_tools") && expected.tools.len() < all + 3, "{expected:?}");
        expected
    }

    async fn apply(&self) {
        self.manifests.add("fresh", &self.fresh.url(), "");
    }

    /// The expected report of a client: the tools of the REST list, and the rest of server-everything.
    async fn expected(&self, legacy: bool) -> ClientReport {
        let everything = &SERVERS.get().expect("they were started")[0].url;
        let (prompts, resources) = rust::offers(everything).await;
        assert!(prompts.len() > 2 && resources.len() > 2, "{prompts:?} {resources:?}");
        ClientReport {
            revision: if legacy { "2025-11-25" } else { "2026-07-28" }.into(),
            tools: self.gateway.tools().await.into_iter().filter(|name| name != FRESH).collect(),
            prompts,
            resources,
            quick: "Echo: Grüße".into(),
            slow: format!("Long running operation completed. Duration: 1 seconds, Steps: {STEPS}."),
            progress: vec![1.0, 2.0, 3.0, 4.0],
            fresh: [FRESH.to_owned()].into(),
        }
    }
}

fn available() -> Result<(), String> {
    BEHIND.iter().try_for_each(|(_, kind)| real::available(*kind)).and_then(|()| ClientProgram::available())
}

async fn program_works(program: ClientProgram, legacy: bool) {
    require!(available());
    let scene = ClientsSetup::set().await;
    let seen = program.run(&scene.task(legacy), async || scene.apply().await).await;
    assert_eq!(seen, scene.expected(legacy).await);
}

async fn program_works_over_sse(program: ClientProgram) {
    require!(available());
    let scene = ClientsSetup::set().await;
    let seen = program.run(&scene.task_over_sse(), async || scene.apply().await).await;
    assert_eq!(seen, scene.expected(true).await);
}

async fn rmcp_works(legacy: bool) {
    require!(available());
    let scene = ClientsSetup::set().await;
    let seen = rust::run(&scene.task(legacy), STEPS, async || scene.apply().await).await;
    assert_eq!(seen, scene.expected(legacy).await);
}

async fn inspector_works(legacy: bool) {
    require!(available());
    let scene = ClientsSetup::set().await;
    let seen = inspector::run(&scene.task(legacy)).await;
    assert_eq!(seen, ClientReport { progress: Vec::new(), fresh: BTreeSet::new(), ..scene.expected(legacy).await });
}

async fn program_works_through_a_view(program: ClientProgram, legacy: bool) {
    require!(available());
    let scene = ClientsSetup::set().await;
    scene.apply_view().await;
    let seen = program.run(&scene.task_through_a_view(legacy), async || scene.apply().await).await;
    assert_eq!(seen, scene.expected_through_a_view(legacy).await);
}

#[tokio::test]
async fn the_python_sdk_1_works_through_a_view() {
    program_works_through_a_view(ClientProgram::Mcp1, true).await;
}

#[tokio::test]
async fn the_python_sdk_2_works_through_a_view() {
    program_works_through_a_view(ClientProgram::Mcp2, false).await;
}

#[tokio::test]
async fn the_typescript_sdk_1_works_through_a_view() {
    program_works_through_a_view(ClientProgram::Typescript1, true).await;
}

#[tokio::test]
async fn the_typescript_sdk_2_works_through_a_view() {
    program_works_through_a_view(ClientProgram::Typescript2, false).await;
}

#[tokio::test]
async fn rmcp_works_through_a_view() {
    require!(available());
    let scene = ClientsSetup::set().await;
    scene.apply_view().await;
    let seen = rust::run(&scene.task_through_a_view(true), STEPS, async || scene.apply().await).await;
    assert_eq!(seen, scene.expected_through_a_view(true).await);
}

#[tokio::test]
async fn the_inspector_works_through_a_view() {
    require!(available());
    let scene = ClientsSetup::set().await;
    scene.apply_view().await;
    let seen = inspector::run(&scene.task_through_a_view(false)).await;
    let expected = scene.expected_through_a_view(false).await;
    assert_eq!(seen, ClientReport { progress: Vec::new(), fresh: BTreeSet::new(), ..expected });
}

#[tokio::test]
async fn the_python_sdk_1_works_with_five_servers() {
    program_works(ClientProgram::Mcp1, true).await;
}

#[tokio::test]
async fn the_python_sdk_1_works_with_five_servers_over_sse() {
    program_works_over_sse(ClientProgram::Mcp1).await;
}

#[tokio::test]
async fn the_python_sdk_2_works_with_five_servers() {
    program_works(ClientProgram::Mcp2, false).await;
}

#[tokio::test]
async fn the_python_sdk_2_works_with_five_servers_and_a_session() {
    program_works(ClientProgram::Mcp2, true).await;
}

#[tokio::test]
async fn fastmcp_works_with_five_servers() {
    program_works(ClientProgram::Fastmcp, false).await;
}

#[tokio::test]
async fn fastmcp_works_with_five_servers_and_a_session() {
    program_works(ClientProgram::Fastmcp, true).await;
}

#[tokio::test]
async fn the_typescript_sdk_1_works_with_five_servers() {
    program_works(ClientProgram::Typescript1, true).await;
}

#[tokio::test]
async fn fastmcp_works_with_five_servers_over_sse() {
    program_works_over_sse(ClientProgram::Fastmcp).await;
}

#[tokio::test]
async fn the_typescript_sdk_1_works_with_five_servers_over_sse() {
    require!(available());
    let scene = ClientsSetup::set().await;
    let mut seen = ClientProgram::Typescript1.run(&scene.task_over_sse(), async || scene.apply().await).await;
    let expected = scene.expected(true).await;
    // This client handles an answer before progress that arrives in the same read, and then drops that.
    assert!(expected.progress.starts_with(&seen.progress) && seen.progress.len() + 1 >= STEPS, "{:?}", seen.progress);
    seen.progress.clone_from(&expected.progress);
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn the_typescript_sdk_2_works_with_five_servers() {
    program_works(ClientProgram::Typescript2, false).await;
}

#[tokio::test]
async fn the_typescript_sdk_2_works_with_five_servers_and_a_session() {
    program_works(ClientProgram::Typescript2, true).await;
}

#[tokio::test]
async fn rmcp_works_with_five_servers() {
    rmcp_works(false).await;
}

#[tokio::test]
async fn rmcp_works_with_five_servers_and_a_session() {
    rmcp_works(true).await;
}

#[tokio::test]
async fn the_inspector_works_with_five_servers() {
    inspector_works(false).await;
}

#[tokio::test]
async fn the_inspector_works_with_five_servers_and_a_session() {
    inspector_works(true).await;
}
