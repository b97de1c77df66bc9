//! Each client at the gateway, with five real servers behind it.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::TestGateway;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::{self, RealServer, RealServerKind};
use portcullis_e2e::require;
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
