//! A server with the extensions that the suite has scenarios for: tasks and skills.

use std::time::Duration;

use aws_lc_rs::digest;
use axum::Router;
use axum::serve::ListenerExt as _;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, CancelTaskParams, ContentBlock, CreateTaskResult,
    GetSkillRequestParams, GetSkillResult, GetTaskParams, GetTaskResult, InputRequiredResult, ListResourcesResult,
    ListSkillsResult, ListToolsResult, PaginatedRequestParams, ReadResourceDirectoryRequestParams,
    ReadResourceDirectoryResult, ReadResourceRequestParams, ReadResourceResponse, ReadResourceResult, ServerConfig,
    Tool, UpdateTaskParams,
};
use rmcp::task_manager::{TaskContext, TaskExit, TaskFuture, TaskManager, TaskOptions};
use rmcp::transport::streamable_http_server::session::local::LocalSessionManager;
use rmcp::transport::{StreamableHttpServerConfig, StreamableHttpService};
use rmcp::{ErrorData, ServerHandler};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::ask::one_field;
use super::handler::Context;
use super::{result, typed};
use crate::port::{self, HeldPort};

/// Names and descriptions of the tools.
const TOOLS: [(&str, &str); 7] = [
    ("greet", "Greets at once"),
    ("slow_compute", "Takes its time"),
    ("failing_job", "Fails as tools do, and only as a task"),
    ("protocol_error_job", "Fails as protocols do"),
    ("confirm_delete", "Asks the user within its task"),
    ("multi_input", "Asks two things at once within its task"),
    ("test_tool_with_task", "Asks the user, then begins a task"),
];

/// The pause between two requests that tasks ask for.
const POLL_MS: u64 = 100;

/// A running server. It lives on the runtime of the test and ends with this value.
#[derive(Debug)]
pub struct Extended {
    port: HeldPort,
    _listener: JoinSet<()>,
}

impl Extended {
    /// Starts it on a free port, with a skill of this name. It is to be spoken to as a server of 2026-07-28.
    pub async fn start(skill: &str) -> Self {
        let port = port::hold();
        let listener = port.listen().await.tap_io(|stream| drop(stream.set_nodelay(true)));
        let handler = ExtendedHandler { tasks: TaskManager::new(), skill: skill.to_owned() };
        let fresh = move || Ok(handler.clone());
        let config = StreamableHttpServerConfig::default();
        let service = StreamableHttpService::new(fresh, LocalSessionManager::default().into(), config);
        let mut server = JoinSet::new();
        let router = Router::new().nest_service("/mcp", service);
        server.spawn(async move { drop(axum::serve(listener, router).await) });
        Self { port, _listener: server }
    }

    /// The URL of the server.
    pub fn url(&self) -> String {
        format!("{}/mcp", self.port.origin())
    }
}

#[derive(Clone)]
struct ExtendedHandler {
    tasks: TaskManager,
    skill: String,
}

impl ExtendedHandler {
    /// Whether the client takes a task.
    fn takes_tasks(context: &Context) -> bool {
        context.client_capabilities().is_some_and(|able| able.supports_tasks())
    }

    fn begin(&self, work: impl FnOnce(TaskContext) -> TaskFuture) -> CallToolResponse {
        let options = TaskOptions::new().with_poll_interval_ms(POLL_MS);
        CallToolResponse::Task(CreateTaskResult::new(self.tasks.spawn(options, work)))
    }

    /// The files of the skill: URIs, and texts.
    fn files(&self) -> [(String, String); 2] {
        let Self { skill, .. } = self;
        let head = format!("---\nname: {skill}\ndescription: How to use {skill}\n---\n\nDo it well.\n");
        [(self.file("SKILL.md"), head), (self.file("references/MORE.md"), format!("More about {skill}.\n"))]
    }

    fn file(&self, path: &str) -> String {
        format!("skill://{}/{path}", self.skill)
    }

    fn entry(&self) -> Value {
        let resources = self
            .files()
            .map(|(uri, text)| json!({"uri": uri, "digest": format!("sha256:{}", sha256(&text)), "size": text.len()}));
        let frontmatter = json!({"name": self.skill, "description": format!("How to use {}", self.skill)});
        json!({"uri": self.file("SKILL.md"), "frontmatter": frontmatter, "resources": resources})
    }
}

impl ServerHandler for ExtendedHandler {
    fn get_info(&self) -> ServerConfig {
        typed(json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {
                "tools": {}, "resources": {},
                "extensions": {
                    "io.modelcontextprotocol/tasks": {},
                    "io.modelcontextprotocol/skills": {"directoryRead": true},
                },
            },
            "serverInfo": {"name": format!("extended-{}", self.skill), "version": "1.0.0"},
        }))
    }

    fn get_tool(&self, name: &str) -> Option<Tool> {
        TOOLS.iter().find(|(known, _)| *known == name).map(|(name, what)| typed(tool(name, what)))
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: Context) -> Result<ListToolsResult, ErrorData> {
        let tools: Vec<Value> = TOOLS.iter().map(|(name, what)| tool(name, what)).collect();
        Ok(result(json!({"tools": tools})))
    }

    async fn call_tool(&self, call: CallToolRequestParams, context: Context) -> Result<CallToolResponse, ErrorData> {
        let argument = |name: &str| call.arguments.as_ref().and_then(|all| all.get(name)).cloned().unwrap_or_default();
        let seconds = argument("seconds").as_f64().unwrap_or_default();
        let takes = Self::takes_tasks(&context);
        let needs = || {
            ErrorData::missing_required_client_capability(typed(
                json!({"extensions": {"io.modelcontextprotocol/tasks": {}}}),
            ))
        };
        match call.name.as_ref() {
            "greet" => Ok(text(&format!("Hello, {}!", argument("name").as_str().unwrap_or("you"))).into()),
            "slow_compute" if !takes => {
                sleep(Duration::from_secs_f64(seconds)).await;
                Ok(text("computed").into())
            }
            "slow_compute" => Ok(self.begin(move |task| Box::pin(compute(task, seconds)))),
            _ if !takes => Err(needs()),
            "failing_job" => {
                Ok(self.begin(|_| Box::pin(async { Ok(CallToolResult::error(vec![ContentBlock::text("it failed")])) })))
            }
            "protocol_error_job" => {
                Ok(self
                    .begin(|_| Box::pin(async { Err(TaskExit::Error(ErrorData::internal_error("it broke", None))) })))
            }
            "confirm_delete" => Ok(self.begin(|task| Box::pin(asks(task, &["confirm"])))),
            "multi_input" => Ok(self.begin(|task| Box::pin(asks(task, &["first", "second"])))),
            "test_tool_with_task" => match call.input_responses.as_ref().and_then(|all| all.get("user_name")) {
                Some(answer) => {
                    let name = answer["content"]["name"].as_str().unwrap_or("nobody").to_owned();
                    Ok(self.begin(move |_| Box::pin(async move { Ok(text(&format!("Hello, {name}!"))) })))
                }
                None => {
                    let asked = json!({"user_name": one_field("What is your name?", "name", "string")});
                    Ok(InputRequiredResult::new(Some(typed(asked)), Some("state".into())).into())
                }
            },
            name => Err(ErrorData::invalid_params(format!("there is no tool {name:?}"), None)),
        }
    }

    async fn get_task(&self, get: GetTaskParams, _: Context) -> Result<GetTaskResult, ErrorData> {
        self.tasks.get_task(&get.task_id).map(GetTaskResult::new)
    }

    async fn update_task(&self, update: UpdateTaskParams, _: Context) -> Result<(), ErrorData> {
        self.tasks.update_task(&update.task_id, update.input_responses)
    }

    async fn cancel_task(&self, cancel: CancelTaskParams, _: Context) -> Result<(), ErrorData> {
        self.tasks.cancel_task(&cancel.task_id)
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        let description = format!("How to use {}", self.skill);
        let head = json!({"uri": self.file("SKILL.md"), "name": self.skill, "description": description, "mimeType": "text/markdown"});
        Ok(result(json!({"resources": [head]})))
    }

    async fn read_resource(
        &self,
        read: ReadResourceRequestParams,
        _: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        let (uri, text) = self.files().into_iter().find(|(uri, _)| *uri == read.uri).ok_or_else(|| no(&read.uri))?;
        let content = json!({"uri": uri, "mimeType": "text/markdown", "text": text});
        Ok(result::<ReadResourceResult>(json!({"contents": [content]})).into())
    }

    async fn list_skills(&self, _: Option<PaginatedRequestParams>, _: Context) -> Result<ListSkillsResult, ErrorData> {
        Ok(result(json!({"skills": [self.entry()]})))
    }

    async fn get_skill(&self, get: GetSkillRequestParams, _: Context) -> Result<GetSkillResult, ErrorData> {
        if get.uri == self.file("SKILL.md") { Ok(result(json!({"skill": self.entry()}))) } else { Err(no(&get.uri)) }
    }

    async fn read_resource_directory(
        &self,
        read: ReadResourceDirectoryRequestParams,
        _: Context,
    ) -> Result<ReadResourceDirectoryResult, ErrorData> {
        let root = format!("skill://{}", self.skill);
        let file = |path: &str| json!({"uri": self.file(path), "name": path, "mimeType": "text/markdown"});
        let children = match read.uri.strip_prefix(&root) {
            Some("") => {
                let folder =
                    json!({"uri": self.file("references"), "name": "references", "mimeType": "inode/directory"});
                json!([file("SKILL.md"), folder])
            }
            Some("/references") => json!([file("references/MORE.md")]),
            _ => return Err(no(&read.uri)),
        };
        Ok(result(json!({"resources": children})))
    }
}

fn tool(name: &str, what: &str) -> Value {
    let properties = json!({"name": {"type": "string"}, "seconds": {"type": "number"}, "label": {"type": "string"}});
    json!({"name": name, "description": what, "inputSchema": {"type": "object", "properties": properties}})
}

fn text(text: &str) -> CallToolResult {
    CallToolResult::success(vec![ContentBlock::text(text)])
}

fn no(uri: &str) -> ErrorData {
    ErrorData::invalid_params(format!("there is no {uri:?}"), None)
}

async fn compute(task: TaskContext, seconds: f64) -> Result<CallToolResult, TaskExit> {
    tokio::select! {
        () = sleep(Duration::from_secs_f64(seconds)) => Ok(text("computed")),
        () = task.cancelled() => Err(TaskExit::Cancelled),
    }
}

/// Asks the user all of it at once.
async fn asks(task: TaskContext, keys: &[&str]) -> Result<CallToolResult, TaskExit> {
    let question = |key: &str| typed(one_field(&format!("Really ({key})?"), "confirm", "boolean"));
    let all = keys.iter().map(|key| task.request_input(*key, question(key)));
    let answers = futures_util::future::try_join_all(all).await?;
    Ok(text(&format!("answered: {}", json!(answers))))
}

/// In hexadecimal.
fn sha256(text: &str) -> String {
    digest::digest(&digest::SHA256, text.as_bytes()).as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}
