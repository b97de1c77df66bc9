//! Each client at the gateway, with five real servers behind it.

use std::collections::BTreeSet;

use futures_util::future::join_all;
use portcullis_e2e::faulty::{Faulty, Mode, Tool};
use portcullis_e2e::gateway::Gateway;
use portcullis_e2e::manifests::Manifests;
use portcullis_e2e::real::{self, Kind, RealServer};
use portcullis_e2e::require;
use serde_json::json;
use tokio::sync::OnceCell;

use crate::program::Program;
use crate::story::{Seen, Task};
use crate::{inspector, rust};

const BEHIND: [(&str, Kind); 5] = [
    ("everything-http", Kind::EverythingStreamable),
    ("everything-sse", Kind::EverythingSse),
    ("fastmcp-http", Kind::FastmcpStreamable),
    ("fastmcp-sse", Kind::FastmcpSse),
    ("python-sse", Kind::PythonSse),
];

const FRESH: &str = "freshly_applied";
const STEPS: usize = 4;

/// Started once, for all tests.
static SERVERS: OnceCell<Vec<RealServer>> = OnceCell::const_new();

/// A gateway in front of the five, and a sixth server to be applied later.
struct Scene {
    manifests: Manifests,
    gateway: Gateway,
    fresh: Faulty,
}

impl Scene {
    async fn set() -> Self {
        let start = || join_all(BEHIND.map(|(_, kind)| RealServer::start(kind)));
        let servers = SERVERS.get_or_init(start).await;
        let manifests = Manifests::new();
        for ((name, _), server) in BEHIND.iter().zip(servers) {
            manifests.add(name, &server.url, "");
        }
        let gateway = Gateway::start(manifests.options()).await;
        gateway.connected(5).await;
        let fresh = Faulty::with_tools(Mode::Streamable, vec![Tool::echo(FRESH)]).await;
        Self { manifests, gateway, fresh }
    }

    fn task(&self, legacy: bool) -> Task {
        Task {
            url: self.gateway.url("/mcp"),
            token: self.gateway.token.clone(),
            legacy,
            quick: ("echo", json!({"message": "Grüße"})),
            slow: ("trigger-long-running-operation", json!({"duration": 1, "steps": STEPS})),
            fresh: FRESH,
        }
    }

    fn task_over_sse(&self) -> Task {
        Task { url: self.gateway.url("/sse"), ..self.task(true) }
    }

    async fn apply(&self) {
        self.manifests.add("fresh", &self.fresh.url(), "");
    }

    /// What a client sees: the tools are those that REST lists, the rest is what server-everything has.
    async fn expected(&self, legacy: bool) -> Seen {
        let everything = &SERVERS.get().expect("they were started")[0].url;
        let (prompts, resources) = rust::offers(everything).await;
        assert!(prompts.len() > 2 && resources.len() > 2, "{prompts:?} {resources:?}");
        Seen {
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
    BEHIND.iter().try_for_each(|(_, kind)| real::available(*kind)).and_then(|()| Program::available())
}

async fn program_works(program: Program, legacy: bool) {
    require!(available());
    let scene = Scene::set().await;
    let seen = program.run(&scene.task(legacy), async || scene.apply().await).await;
    assert_eq!(seen, scene.expected(legacy).await);
}

async fn program_works_over_sse(program: Program) {
    require!(available());
    let scene = Scene::set().await;
    let seen = program.run(&scene.task_over_sse(), async || scene.apply().await).await;
    assert_eq!(seen, scene.expected(true).await);
}

async fn rmcp_works(legacy: bool) {
    require!(available());
    let scene = Scene::set().await;
    let seen = rust::run(&scene.task(legacy), STEPS, async || scene.apply().await).await;
    assert_eq!(seen, scene.expected(legacy).await);
}

async fn inspector_works(legacy: bool) {
    require!(available());
    let scene = Scene::set().await;
    let seen = inspector::run(&scene.task(legacy)).await;
    assert_eq!(seen, Seen { progress: Vec::new(), fresh: BTreeSet::new(), ..scene.expected(legacy).await });
}

#[tokio::test]
async fn the_python_sdk_1_works_with_five_servers() {
    program_works(Program::Mcp1, true).await;
}

#[tokio::test]
async fn the_python_sdk_1_works_with_five_servers_over_sse() {
    program_works_over_sse(Program::Mcp1).await;
}

#[tokio::test]
async fn the_python_sdk_2_works_with_five_servers() {
    program_works(Program::Mcp2, false).await;
}

#[tokio::test]
async fn the_python_sdk_2_works_with_five_servers_and_a_session() {
    program_works(Program::Mcp2, true).await;
}

#[tokio::test]
async fn fastmcp_works_with_five_servers() {
    program_works(Program::Fastmcp, false).await;
}

#[tokio::test]
async fn fastmcp_works_with_five_servers_and_a_session() {
    program_works(Program::Fastmcp, true).await;
}

#[tokio::test]
async fn the_typescript_sdk_1_works_with_five_servers() {
    program_works(Program::Typescript1, true).await;
}

#[tokio::test]
async fn fastmcp_works_with_five_servers_over_sse() {
    program_works_over_sse(Program::Fastmcp).await;
}

#[tokio::test]
async fn the_typescript_sdk_1_works_with_five_servers_over_sse() {
    require!(available());
    let scene = Scene::set().await;
    let mut seen = Program::Typescript1.run(&scene.task_over_sse(), async || scene.apply().await).await;
    let expected = scene.expected(true).await;
    // This client handles an answer before progress that arrives in the same read, and then drops that.
    assert!(expected.progress.starts_with(&seen.progress) && seen.progress.len() + 1 >= STEPS, "{:?}", seen.progress);
    seen.progress.clone_from(&expected.progress);
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn the_typescript_sdk_2_works_with_five_servers() {
    program_works(Program::Typescript2, false).await;
}

#[tokio::test]
async fn the_typescript_sdk_2_works_with_five_servers_and_a_session() {
    program_works(Program::Typescript2, true).await;
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
