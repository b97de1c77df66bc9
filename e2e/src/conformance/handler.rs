//! Implements the SDK's handler: each method in one line, and the state of a session.
#![expect(deprecated, reason = "logging and resource subscriptions of 2025-11-25 are what is shown")]

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CompleteRequestParams, CompleteResult, GetPromptRequestParams,
    GetPromptResponse, ListPromptsResult, ListResourceTemplatesResult, ListResourcesResult, ListToolsResult,
    LoggingLevel, PaginatedRequestParams, ProtocolVersion, ReadResourceRequestParams, ReadResourceResponse,
    ServerConfig, SetLevelRequestParams, SubscribeRequestParams, SubscriptionFilter, Tool, UnsubscribeRequestParams,
};
use rmcp::service::{NotificationContext, RequestContext, SubscriptionContext};
use rmcp::{ErrorData, Peer, RoleServer, ServerHandler};
use serde_json::json;

use super::plan::States;
use super::watchers::{ListChange, Watchers};
use super::{prompts, resources, result, tools, typed};

/// The context of a request.
pub(super) type Context = RequestContext<RoleServer>;

/// The state that all sessions share.
#[derive(Debug, Default)]
pub(super) struct ConformanceState {
    /// The sessions and streams to notify of changes.
    pub(super) watchers: Watchers,
    /// The `requestState`s that are out.
    pub(super) states: States,
    /// Whether the tool that comes and goes is there.
    pub(super) more_tools: AtomicBool,
    /// Whether the prompt that comes and goes is there.
    pub(super) more_prompts: AtomicBool,
    /// Number of changes of the watched resource.
    pub(super) changes: AtomicU64,
}

impl ConformanceState {
    /// Adds the tool that comes and goes, or takes it away, and says so.
    pub(super) async fn change_tools(&self) {
        self.more_tools.fetch_xor(true, Ordering::Relaxed);
        self.watchers.tell(&ListChange::Tools).await;
    }

    /// The same for a prompt.
    pub(super) async fn change_prompts(&self) {
        self.more_prompts.fetch_xor(true, Ordering::Relaxed);
        self.watchers.tell(&ListChange::Prompts).await;
    }

    pub(super) async fn change_watched_resource(&self) {
        self.changes.fetch_add(1, Ordering::Relaxed);
        self.watchers.tell(&ListChange::Resource(resources::WATCHED)).await;
    }
}

/// The subscriptions of one legacy session.
#[derive(Debug, Default)]
pub(super) struct SessionState {
    /// Its client, from `notifications/initialized` on.
    pub(super) peer: OnceLock<Peer<RoleServer>>,
    watched: Mutex<HashSet<String>>,
    level: Mutex<Option<LoggingLevel>>,
}

impl SessionState {
    /// Whether the client has subscribed to a resource.
    pub(super) fn watches(&self, uri: &str) -> bool {
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).contains(uri)
    }
}

/// The server of one session, or of one request where there are no sessions.
#[derive(Debug)]
pub(super) struct ConformanceHandler {
    /// The state that all sessions share.
    pub(super) shared: Arc<ConformanceState>,
    session: Arc<SessionState>,
}

impl ConformanceHandler {
    /// Fresh, for a session.
    pub(super) fn new(shared: &Arc<ConformanceState>) -> Self {
        Self { shared: Arc::clone(shared), session: Arc::default() }
    }

    /// Whether the client wants to hear log messages of this level: since 2026-07-28 only if the request asks for them,
    /// before that unless the session has asked for less.
    pub(super) fn logs(&self, level: LoggingLevel, context: &Context) -> bool {
        let least = if is_modern(context) {
            context.meta.log_level()
        } else {
            let asked = *self.session.level.lock().unwrap_or_else(PoisonError::into_inner);
            asked.or(Some(LoggingLevel::Debug))
        };
        least.is_some_and(|least| least as u8 <= level as u8)
    }
}

/// Whether a request is one of 2026-07-28 or later.
pub(super) fn is_modern(context: &Context) -> bool {
    context.protocol_version().is_some_and(|version| version.as_str() >= ProtocolVersion::V_2026_07_28.as_str())
}

impl ServerHandler for ConformanceHandler {
    fn get_info(&self) -> ServerConfig {
        let changing = json!({"listChanged": true});
        typed(json!({
            "protocolVersion": "2025-11-25",
            "capabilities": {
                "completions": {}, "logging": {}, "prompts": changing, "tools": changing,
                "resources": {"subscribe": true, "listChanged": true},
            },
            "serverInfo": {"name": "conforming", "title": "A conforming server", "version": "1.0.0"},
            "instructions": "Call test_simple_text to see whether it works.",
        }))
    }

    async fn on_initialized(&self, context: NotificationContext<RoleServer>) {
        drop(self.session.peer.set(context.peer));
        self.shared.watchers.add_session(&self.session);
    }

    /// Without it, the SDK does not look at the headers of arguments.
    fn get_tool(&self, name: &str) -> Option<Tool> {
        let tools = tools::all(self.shared.more_tools.load(Ordering::Relaxed));
        tools.into_iter().find(|tool| tool["name"] == name).map(typed)
    }

    async fn list_tools(&self, _: Option<PaginatedRequestParams>, _: Context) -> Result<ListToolsResult, ErrorData> {
        Ok(result(json!({"tools": tools::all(self.shared.more_tools.load(Ordering::Relaxed))})))
    }

    async fn call_tool(&self, call: CallToolRequestParams, context: Context) -> Result<CallToolResponse, ErrorData> {
        tools::call(self, call, &context).await
    }

    async fn list_prompts(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListPromptsResult, ErrorData> {
        Ok(result(json!({"prompts": prompts::all(self.shared.more_prompts.load(Ordering::Relaxed))})))
    }

    async fn get_prompt(&self, get: GetPromptRequestParams, context: Context) -> Result<GetPromptResponse, ErrorData> {
        prompts::get(get, &context).await
    }

    async fn list_resources(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourcesResult, ErrorData> {
        Ok(result(json!({"resources": resources::all()})))
    }

    async fn list_resource_templates(
        &self,
        _: Option<PaginatedRequestParams>,
        _: Context,
    ) -> Result<ListResourceTemplatesResult, ErrorData> {
        Ok(result(json!({"resourceTemplates": resources::templates()})))
    }

    async fn read_resource(
        &self,
        read: ReadResourceRequestParams,
        _: Context,
    ) -> Result<ReadResourceResponse, ErrorData> {
        resources::read(&read.uri, self.shared.changes.load(Ordering::Relaxed))
    }

    async fn complete(&self, complete: CompleteRequestParams, _: Context) -> Result<CompleteResult, ErrorData> {
        let values = prompts::complete(&complete.argument.value);
        Ok(result(json!({"completion": {"values": values, "total": values.len(), "hasMore": false}})))
    }

    async fn set_level(&self, set: SetLevelRequestParams, _: Context) -> Result<(), ErrorData> {
        *self.session.level.lock().unwrap_or_else(PoisonError::into_inner) = Some(set.level);
        Ok(())
    }

    async fn subscribe(&self, subscribe: SubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        self.session.watched.lock().unwrap_or_else(PoisonError::into_inner).insert(subscribe.uri);
        Ok(())
    }

    async fn unsubscribe(&self, unsubscribe: UnsubscribeRequestParams, _: Context) -> Result<(), ErrorData> {
        self.session.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&unsubscribe.uri);
        Ok(())
    }

    fn accepted_subscription_filter(&self, requested: &SubscriptionFilter) -> Option<SubscriptionFilter> {
        Some(requested.clone())
    }

    async fn listen(&self, context: SubscriptionContext) -> Result<(), ErrorData> {
        self.shared.watchers.add_listener(context.sink());
        context.cancelled().await;
        Ok(())
    }
}
