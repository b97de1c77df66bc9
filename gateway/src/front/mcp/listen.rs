//! Serves streams of notifications: GET of a session, and `subscriptions/listen` since 2026-07-28.

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use portcullis_mcp::protocol::extensions::TASKS;
use portcullis_mcp::protocol::json::json_string;
use serde::Deserialize;
use tokio::time::Sleep;

use crate::auth::Identity;
use crate::catalog::Kind;
use crate::front::mcp::caller::{Caller, Within};
use crate::front::mcp::messages::message::RpcRequest;
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::reply::{RpcReply, event, event_stream, notification};
use crate::front::mcp::messages::request::Params;
use crate::front::mcp::state::resource_subscriptions::{MOST_SUBSCRIPTIONS, Subscriber};
use crate::front::mcp::state::streams::{OpenStream, StreamMessage, TooManyStreams};
use crate::front::mcp::state::task_subscriptions::MOST_TASKS;
use crate::front::mcp::stream::{COMMENT, keep_alive};
use crate::front::mcp::tasks;
use crate::front::request::app::App;

const TOO_MANY: RpcProblem = RpcProblem::TooMany("too many streams are open: close some, or try again later");

/// The notifications that a client wants.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Filter {
    #[serde(deserialize_with = "given")]
    tools_list_changed: bool,
    #[serde(deserialize_with = "given")]
    prompts_list_changed: bool,
    #[serde(deserialize_with = "given")]
    resources_list_changed: bool,
    #[serde(deserialize_with = "given")]
    resource_subscriptions: Vec<String>,
    #[serde(deserialize_with = "given")]
    task_ids: Vec<String>,
}

/// A member, which is absent if it is null.
fn given<'de, D: serde::Deserializer<'de>, T: Default + Deserialize<'de>>(deserializer: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

impl Filter {
    fn all_lists() -> Self {
        Self {
            tools_list_changed: true,
            prompts_list_changed: true,
            resources_list_changed: true,
            resource_subscriptions: Vec::new(),
            task_ids: Vec::new(),
        }
    }

    fn wants(&self, kind: Kind) -> bool {
        match kind {
            Kind::Tools => self.tools_list_changed,
            Kind::Prompts => self.prompts_list_changed,
            Kind::Resources | Kind::Templates => self.resources_list_changed,
        }
    }

    /// As the acknowledgement says it: what was not asked for is left out.
    fn to_json(&self) -> String {
        let mut members: Vec<String> = [
            ("toolsListChanged", self.tools_list_changed),
            ("promptsListChanged", self.prompts_list_changed),
            ("resourcesListChanged", self.resources_list_changed),
        ]
        .into_iter()
        .filter(|(_, wanted)| *wanted)
        .map(|(name, _)| format!(r#""{name}":true"#))
        .collect();
        for (name, all) in [("resourceSubscriptions", &self.resource_subscriptions), ("taskIds", &self.task_ids)] {
            if !all.is_empty() {
                let all: Vec<String> = all.iter().map(|one| json_string(one)).collect();
                members.push(format!(r#""{name}":[{}]"#, all.join(",")));
            }
        }
        format!("{{{}}}", members.join(","))
    }
}

/// The stream of a session: everything is told on it.
///
/// # Errors
/// There are too many.
pub(crate) fn of_session(caller: &Caller) -> Result<Response, RpcProblem> {
    // A first comment, so that proxies pass the head on at once.
    let listening = of_session_with(caller, Filter::all_lists(), Bytes::from_static(COMMENT))?;
    Ok(event_stream(Body::new(listening)))
}

/// The stream of a session that has not been agreed upon: of lists nothing is told before [`ListenStream::begin`].
///
/// # Errors
/// There are too many.
pub(crate) fn before_agreement(caller: &Caller, first: Bytes) -> Result<ListenStream, RpcProblem> {
    of_session_with(caller, Filter::default(), first)
}

fn of_session_with(caller: &Caller, filter: Filter, first: Bytes) -> Result<ListenStream, RpcProblem> {
    let session = caller.session.as_ref().map(|session| session.id);
    let stream = caller.app().mcp.streams.open(caller.subject, session);
    let stream = stream.map_err(|TooManyStreams| TOO_MANY)?;
    Ok(ListenStream::new(caller, stream, filter, None, first))
}

/// The answer to `subscriptions/listen`.
///
/// # Errors
/// The params are not of their form, or there are too many streams.
pub(crate) fn subscribed(
    caller: &Caller,
    request: &RpcRequest<'_>,
    params: &Params<'_, '_>,
) -> Result<Response, RpcProblem> {
    const FORM: RpcProblem = RpcProblem::Params(
        "\"notifications\" must name what to listen for: see subscriptions/listen in the specification",
    );
    let filter = params.get("notifications").ok_or(FORM)?;
    let mut filter: Filter = serde_json::from_str(filter.get()).map_err(|_| FORM)?;
    if filter.resource_subscriptions.len() > MOST_SUBSCRIPTIONS {
        return Err(RpcProblem::Params("more than 1000 resources are subscribed to at once: subscribe to fewer"));
    }
    if filter.task_ids.len() > MOST_TASKS {
        return Err(RpcProblem::Params("more than 100 tasks are subscribed to at once: subscribe to fewer"));
    }
    if !filter.task_ids.is_empty() && !tasks::takes_tasks(caller) {
        return Err(RpcProblem::Extension(TASKS));
    }
    let stream = caller.app().mcp.streams.open(caller.subject, None).map_err(|TooManyStreams| TOO_MANY)?;
    let subscriptions =
        StreamSubscriptions { app: caller.app().clone(), subscriber: Subscriber::Stream(stream.number()) };
    filter.resource_subscriptions.retain(|uri| subscriptions.begin(caller, uri));
    tasks::follow(caller, stream.number(), &mut filter.task_ids);
    let meta = format!(r#""_meta":{{"io.modelcontextprotocol/subscriptionId":{}}}"#, request.id);
    let acknowledged = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{{meta},"notifications":{}}}}}"#,
        filter.to_json()
    );
    let end = RpcReply::result(request.id, [format!(r#"{{"resultType":"complete",{meta}}}"#).into()]);
    let tag = Tag { meta, _following: subscriptions, end: event(&end.into_bytes()) };
    let first = event(acknowledged.as_bytes());
    Ok(event_stream(Body::new(ListenStream::new(caller, stream, filter, Some(tag), first))))
}

/// The `_meta` of every message of a subscription, and its end.
struct Tag {
    meta: String,
    end: Bytes,
    _following: StreamSubscriptions,
}

/// Ends what a stream follows when it closes.
struct StreamSubscriptions {
    app: Arc<App>,
    subscriber: Subscriber,
}

impl StreamSubscriptions {
    /// Follows a resource; false if nobody would tell of its changes.
    fn begin(&self, caller: &Caller, uri: &str) -> bool {
        let catalog = caller.catalog();
        let reader = catalog.reader_for(&caller.identity, caller.scope(), uri);
        let told = reader.is_ok_and(|entry| entry.is_some_and(|entry| entry.update_source().is_some()));
        told && self
            .app
            .mcp
            .resource_subscriptions
            .subscribe(&catalog, caller.scope(), (self.subscriber, caller.subject), uri)
            .is_ok()
    }
}

impl Drop for StreamSubscriptions {
    fn drop(&mut self) {
        self.app.mcp.resource_subscriptions.forget(self.subscriber);
        if let Subscriber::Stream(stream) = self.subscriber {
            self.app.mcp.task_subscriptions.forget(stream);
        }
    }
}

/// The body of a stream on which things are told.
pub(crate) struct ListenStream {
    app: Arc<App>,
    within: Within,
    /// The bearer of the token that opened it.
    identity: Arc<Identity>,
    stream: OpenStream,
    filter: Filter,
    tag: Option<Box<Tag>>,
    first: Option<Bytes>,
    /// The change that was looked at last, and what the lists showed.
    looked_at: u64,
    shown: [u64; KINDS.len()],
    alive: Pin<Box<Sleep>>,
    over: bool,
}

/// The lists that have a notification of their own; templates are told as resources.
const KINDS: [Kind; 3] = [Kind::Tools, Kind::Prompts, Kind::Resources];

impl ListenStream {
    fn new(caller: &Caller, stream: OpenStream, filter: Filter, tag: Option<Tag>, first: Bytes) -> Self {
        // First, so that a change meanwhile is looked at again.
        let looked_at = caller.app().mcp.catalog_changes.number();
        let catalog = caller.seen_catalog();
        let shown = KINDS.map(|kind| catalog.fingerprint(kind, caller.scope()));
        Self {
            app: caller.app().clone(),
            within: caller.within.clone(),
            identity: caller.identity.clone(),
            stream,
            filter,
            tag: tag.map(Box::new),
            first: Some(first),
            looked_at,
            shown,
            alive: keep_alive(),
            over: false,
        }
    }

    /// From now on everything is told.
    pub(crate) fn begin(&mut self) {
        self.filter = Filter::all_lists();
    }

    /// The next event; none at the end.
    pub(crate) fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        if self.over {
            return Poll::Ready(None);
        }
        // First, so that a change between the look and the wait still wakes this stream.
        loop {
            let told = self.stream.poll_next(cx);
            if self.stream.is_over() {
                self.over = true;
                return Poll::Ready(self.tag.take().map(|tag| tag.end.clone()));
            }
            let Poll::Ready(message) = told else { break };
            // After a message that the caller may not see, another may follow.
            if let Some(shown) = self.show(message) {
                return Poll::Ready(Some(shown));
            }
        }
        if let Some(changes) = self.changes() {
            return Poll::Ready(Some(changes));
        }
        match self.alive.as_mut().poll(cx) {
            Poll::Ready(()) => {
                self.alive = keep_alive();
                Poll::Ready(Some(Bytes::from_static(COMMENT)))
            }
            Poll::Pending => Poll::Pending,
        }
    }

    /// `None` for an update of what the caller may not read any more.
    fn show(&self, message: StreamMessage) -> Option<Bytes> {
        match message {
            StreamMessage::Event(event) => Some(event),
            StreamMessage::Updated(uri) => {
                let catalog = self.within.catalog(self.app.published.load());
                if !catalog.may_hear_of(&self.identity, self.within.scope(), &uri) {
                    return None;
                }
                let meta = self.tag.as_ref().map(|tag| format!("{},", tag.meta)).unwrap_or_default();
                let params = format!(r#"{{{meta}"uri":{}}}"#, json_string(&uri));
                Some(event(notification("notifications/resources/updated", &params).as_bytes()))
            }
            StreamMessage::Task(update) => {
                let catalog = self.within.catalog(self.app.published.load());
                let meta = self.tag.as_ref().map(|tag| tag.meta.as_str()).unwrap_or_default();
                let whom = (self.within.scope(), &*self.identity);
                Some(event(tasks::notification_of(&catalog, whom, &update, meta)?.as_bytes()))
            }
        }
    }

    /// Notifications about the wanted lists that have changed.
    fn changes(&mut self) -> Option<Bytes> {
        let number = self.app.mcp.catalog_changes.number();
        if std::mem::replace(&mut self.looked_at, number) == number {
            return None;
        }
        let catalog = self.within.catalog_in(self.app.mcp.catalog_changes.catalog()).seen_by(&self.identity);
        let mut events = Vec::new();
        for (kind, shown) in KINDS.into_iter().zip(&mut self.shown) {
            let now = catalog.fingerprint(kind, self.within.scope());
            if std::mem::replace(shown, now) != now && self.filter.wants(kind) {
                let params = self.tag.as_ref().map(|tag| format!(r#","params":{{{}}}"#, tag.meta)).unwrap_or_default();
                let name = kind.member();
                let text = format!(r#"{{"jsonrpc":"2.0","method":"notifications/{name}/list_changed"{params}}}"#);
                events.extend_from_slice(&event(text.as_bytes()));
            }
        }
        (!events.is_empty()).then(|| events.into())
    }
}

impl http_body::Body for ListenStream {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_event(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
