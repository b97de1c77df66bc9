//! The client of the Rust SDK.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use portcullis_e2e::wait::wait_for;
use rmcp::model::{CallToolRequestParams, ProgressNotificationParam, ProtocolVersion, SubscriptionFilter};
use rmcp::service::{ClientLifecycleMode, ClientServiceExt as _, NotificationContext, RunningService};
use rmcp::transport::StreamableHttpClientTransport;
use rmcp::transport::streamable_http_client::StreamableHttpClientTransportConfig;
use rmcp::{ClientHandler, RoleClient};
use serde_json::Value;
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::story::{ClientReport, ClientTask};

const LIMIT: Duration = Duration::from_secs(20);

type RustClient = RunningService<RoleClient, ClientNotifications>;

/// The notifications that the client receives.
#[derive(Clone, Debug, Default)]
struct ClientNotifications {
    progress: Arc<Mutex<Vec<f64>>>,
    change: Arc<Notify>,
}

impl ClientNotifications {
    fn progress(&self) -> MutexGuard<'_, Vec<f64>> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ClientHandler for ClientNotifications {
    async fn on_progress(&self, progress: ProgressNotificationParam, _: NotificationContext<RoleClient>) {
        self.progress().push(progress.progress);
    }

    async fn on_tool_list_changed(&self, _: NotificationContext<RoleClient>) {
        self.change.notify_one();
    }
}

/// Does the task; `change` brings the fresh tool, once the client listens. `steps` is how often the slow tool tells its
/// progress: this client hears of it in tasks of its own, in any order and also after the answer.
pub(crate) async fn run(task: &ClientTask, steps: usize, change: impl AsyncFnOnce()) -> ClientReport {
    let ears = ClientNotifications::default();
    let client = open(task, ears.clone()).await;
    let revision = client.peer_info().expect("it has agreed").protocol_version.to_string();
    let tools = tools(&client).await;
    let prompts = client.list_all_prompts().await.expect("prompts").into_iter().map(|prompt| prompt.name).collect();
    let resources = client.list_all_resources().await.expect("resources");
    let quick = call(&client, &task.quick).await;
    ears.progress().clear();
    let slow = call(&client, &task.slow).await;
    wait_for("all progress", LIMIT, async || ears.progress().len() == steps).await;
    let mut progress = ears.progress().clone();
    progress.sort_by(f64::total_cmp);
    let after = timeout(LIMIT, fresh(&client, task, change)).await.expect("it hears of the change");
    client.cancel().await.expect("it closes");
    ClientReport {
        revision,
        fresh: after.difference(&tools).cloned().collect(),
        tools,
        prompts,
        resources: resources.into_iter().map(|resource| resource.uri.clone()).collect(),
        quick,
        slow,
        progress,
    }
}

/// The names of the prompts and the URIs of the resources of a server of before 2026-07-28.
pub(crate) async fn offers(url: &str) -> (BTreeSet<String>, BTreeSet<String>) {
    let config = StreamableHttpClientTransportConfig::with_uri(url);
    let client = connect(config, ClientLifecycleMode::Initialize, ClientNotifications::default()).await;
    let prompts = client.list_all_prompts().await.expect("prompts");
    let resources = client.list_all_resources().await.expect("resources");
    client.cancel().await.expect("it closes");
    let prompts = prompts.into_iter().map(|prompt| prompt.name).collect();
    (prompts, resources.into_iter().map(|resource| resource.uri.clone()).collect())
}

async fn open(task: &ClientTask, ears: ClientNotifications) -> RustClient {
    let config = StreamableHttpClientTransportConfig::with_uri(task.url.as_str()).auth_header(task.token.as_str());
    let modern = ClientLifecycleMode::Discover { preferred_versions: vec![ProtocolVersion::V_2026_07_28] };
    connect(config, if task.legacy { ClientLifecycleMode::Initialize } else { modern }, ears).await
}

async fn connect(
    config: StreamableHttpClientTransportConfig,
    lifecycle: ClientLifecycleMode,
    ears: ClientNotifications,
) -> RustClient {
    let transport = StreamableHttpClientTransport::from_config(config);
    timeout(LIMIT, ears.serve_with_lifecycle(transport, lifecycle)).await.expect("in time").expect("it connects")
}

async fn tools(client: &RustClient) -> BTreeSet<String> {
    client.list_all_tools().await.expect("tools").into_iter().map(|tool| tool.name.into_owned()).collect()
}

async fn call(client: &RustClient, (name, arguments): &(&'static str, Value)) -> String {
    let mut call = CallToolRequestParams::new(*name);
    call.arguments = arguments.as_object().cloned();
    let result = timeout(LIMIT, client.call_tool(call)).await.expect("an answer in time").expect("a result");
    result.content[0].as_text().expect("a text").text.clone()
}

/// The tools, once the fresh one is among them.
async fn fresh(client: &RustClient, task: &ClientTask, change: impl AsyncFnOnce()) -> BTreeSet<String> {
    let filter = SubscriptionFilter::builder().tools_list_changed().build();
    let mut stream = if task.legacy { None } else { Some(client.listen(filter).await.expect("it may listen")) };
    change().await;
    loop {
        match &mut stream {
            Some(stream) => drop(stream.next().await.expect("news").expect("not the end")),
            None => client.service().change.notified().await,
        }
        let tools = tools(client).await;
        if tools.contains(task.fresh) {
            return tools;
        }
    }
}
