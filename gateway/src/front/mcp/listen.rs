//! Streams on which nothing is answered, only told: GET of a session, and `subscriptions/listen` since 2026-07-28.

use std::convert::Infallible;
use std::future::Future as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http_body::Frame;
use serde::Deserialize;
use tokio::time::Sleep;

use super::message::Request;
use super::problem::RpcProblem;
use super::reply::{Reply, event, event_stream};
use super::request::Params;
use super::state::{Caller, Within};
use super::stream::{COMMENT, keep_alive};
use super::streams::{Stream, Telling, TooMany};
use super::topics::{Follower, MOST_SUBSCRIPTIONS};
use crate::catalog::Kind;
use crate::front::app::App;
use crate::upstream::message::json_string;

const TOO_MANY: RpcProblem = RpcProblem::TooMany("as many streams are open as may be: close some, or try again later");

/// What a client wants to be told.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Filter {
    #[serde(deserialize_with = "given")]
    tools_list_changed: bool,
    #[serde(deserialize_with = "given")]
    prompts_list_changed: bool,
    #[serde(deserialize_with = "given")]
    resources_list_changed: bool,
    #[serde(deserialize_with = "given")]
    resource_subscriptions: Vec<String>,
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
        if !self.resource_subscriptions.is_empty() {
            let uris: Vec<String> = self.resource_subscriptions.iter().map(|uri| json_string(uri)).collect();
            members.push(format!(r#""resourceSubscriptions":[{}]"#, uris.join(",")));
        }
        format!("{{{}}}", members.join(","))
    }
}

/// The stream of a session: everything is told on it.
///
/// # Errors
/// There are too many.
pub fn of_session(caller: &Caller) -> Result<Response, RpcProblem> {
    // A first comment, so that proxies pass the head on at once.
    let listening = of_session_with(caller, Filter::all_lists(), Bytes::from_static(COMMENT))?;
    Ok(event_stream(Body::new(listening)))
}

/// The stream of a session that has not been agreed upon: of lists nothing is told before [`Listening::begin`].
///
/// # Errors
/// There are too many.
pub fn before_agreement(caller: &Caller, first: Bytes) -> Result<Listening, RpcProblem> {
    of_session_with(caller, Filter::default(), first)
}

fn of_session_with(caller: &Caller, filter: Filter, first: Bytes) -> Result<Listening, RpcProblem> {
    let session = caller.session.as_ref().map(|session| session.id);
    let stream = caller.app().mcp.streams.open(caller.subject, session);
    let stream = stream.map_err(|TooMany| TOO_MANY)?;
    Ok(Listening::new(caller, stream, filter, None, first))
}

/// The answer to `subscriptions/listen`.
///
/// # Errors
/// The params are not of their form, or there are too many streams.
pub fn subscribed(caller: &Caller, request: &Request<'_>, params: &Params<'_, '_>) -> Result<Response, RpcProblem> {
    const FORM: RpcProblem =
        RpcProblem::Params("\"notifications\" must say what is wanted: see subscriptions/listen in the specification");
    let filter = params.get("notifications").ok_or(FORM)?;
    let mut filter: Filter = serde_json::from_str(filter.get()).map_err(|_| FORM)?;
    if filter.resource_subscriptions.len() > MOST_SUBSCRIPTIONS {
        return Err(RpcProblem::Params("more than 1000 resources are subscribed to at once"));
    }
    let stream = caller.app().mcp.streams.open(caller.subject, None).map_err(|TooMany| TOO_MANY)?;
    let following = Following { app: caller.app().clone(), follower: Follower::Stream(stream.number()) };
    filter.resource_subscriptions.retain(|uri| following.begin(caller, uri));
    let meta = format!(r#""_meta":{{"io.modelcontextprotocol/subscriptionId":{}}}"#, request.id);
    let acknowledged = format!(
        r#"{{"jsonrpc":"2.0","method":"notifications/subscriptions/acknowledged","params":{{{meta},"notifications":{}}}}}"#,
        filter.to_json()
    );
    let end = Reply::result(request.id, [format!(r#"{{"resultType":"complete",{meta}}}"#).into()]);
    let tag = Tag { meta, _following: following, end: event(&end.into_bytes()) };
    let first = event(acknowledged.as_bytes());
    Ok(event_stream(Body::new(Listening::new(caller, stream, filter, Some(tag), first))))
}

/// What every message of a subscription carries, and how it ends.
struct Tag {
    meta: String,
    end: Bytes,
    _following: Following,
}

/// Ends what a stream follows when it closes.
struct Following {
    app: Arc<App>,
    follower: Follower,
}

impl Following {
    /// Follows a resource; false if nobody would tell of its changes.
    fn begin(&self, caller: &Caller, uri: &str) -> bool {
        let catalog = caller.catalog();
        let told = catalog.reader(caller.scope(), uri).is_some_and(|entry| entry.teller().is_some());
        told && self.app.mcp.topics.follow(&catalog, caller.scope(), (self.follower, caller.subject), uri).is_ok()
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        self.app.mcp.topics.forget(self.follower);
    }
}

/// The body of a stream on which things are told.
pub struct Listening {
    app: Arc<App>,
    within: Within,
    stream: Stream,
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

impl Listening {
    fn new(caller: &Caller, stream: Stream, filter: Filter, tag: Option<Tag>, first: Bytes) -> Self {
        // First, so that a change meanwhile is looked at again.
        let looked_at = caller.app().mcp.changes.number();
        let catalog = caller.catalog();
        let shown = KINDS.map(|kind| catalog.fingerprint(kind, caller.scope()));
        Self {
            app: caller.app().clone(),
            within: caller.within.clone(),
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
    pub fn begin(&mut self) {
        self.filter = Filter::all_lists();
    }

    /// The next event; none at the end.
    pub fn poll_event(&mut self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        if self.over {
            return Poll::Ready(None);
        }
        // First, so that a change between the look and the wait still wakes this stream.
        let told = self.stream.poll_next(cx);
        if self.stream.is_over() {
            self.over = true;
            return Poll::Ready(self.tag.take().map(|tag| tag.end.clone()));
        }
        if let Poll::Ready(telling) = told {
            return Poll::Ready(Some(self.show(telling)));
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

    fn show(&self, telling: Telling) -> Bytes {
        match telling {
            Telling::Event(event) => event,
            Telling::Updated(uri) => {
                let meta = self.tag.as_ref().map(|tag| format!("{},", tag.meta)).unwrap_or_default();
                let params = format!(r#"{{{meta}"uri":{}}}"#, json_string(&uri));
                event(super::reply::notification("notifications/resources/updated", &params).as_bytes())
            }
        }
    }

    /// What shows something else than before, of what is wanted.
    fn changes(&mut self) -> Option<Bytes> {
        let number = self.app.mcp.changes.number();
        if std::mem::replace(&mut self.looked_at, number) == number {
            return None;
        }
        let catalog = self.app.mcp.changes.catalog();
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

impl http_body::Body for Listening {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.poll_event(cx).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}
