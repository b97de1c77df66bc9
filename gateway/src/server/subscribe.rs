//! Subscribes to the resources and tasks that callers want: once at the server, again in each session, and unsubscribes when no
//! caller wants them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::pending;
use http::HeaderMap;
use tokio::sync::watch;
use tokio::time::sleep;

use super::context::Update;
use super::task::Task;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::protocol::json::json_string;
use portcullis_mcp::upstream::timing::Timing;
use portcullis_mcp::upstream::{Call, Reply, ServerCapabilities, Session, Wanted};

/// Changes within this time are sent together; a client that reopens its stream causes none.
const TOGETHER: Duration = Duration::from_millis(100);

/// The limit for the answer to one request.
const LIMIT: Duration = Duration::from_secs(10);

/// The delay before an unanswered request is repeated.
const AGAIN: Duration = Duration::from_secs(30);

impl Task {
    /// Keeps a new session subscribed to the wanted resources.
    pub(super) async fn keep_subscribed(&self, session: &Session, capabilities: ServerCapabilities) -> Infallible {
        let heard = session.heard_tasks();
        if !capabilities.resources_subscribe && heard.is_none() {
            return pending().await;
        }
        let catching_up = async {
            match heard {
                Some(heard) => self.catch_up(session, heard).await,
                None => pending().await,
            }
        };
        tokio::select! {
            over = self.keep_wanted(session, capabilities) => over,
            over = catching_up => over,
        }
    }

    async fn keep_wanted(&self, session: &Session, capabilities: ServerCapabilities) -> Infallible {
        let mut told = BTreeSet::new();
        let (subscriptions, tasks) = (&self.handle.subscriptions, &self.handle.tasks);
        loop {
            let resources = if capabilities.resources_subscribe { subscriptions.all() } else { BTreeSet::new() };
            let complete = match session.hear_of(Wanted { resources, tasks: tasks.all() }) {
                true => true,
                false => Box::pin(self.tell(session, &mut told)).await,
            };
            tokio::select! {
                () = subscriptions.changed() => sleep(TOGETHER).await,
                () = tasks.changed() => sleep(TOGETHER).await,
                () = sleep(AGAIN), if !complete => {}
            }
        }
    }

    /// Asks for the state of each task that the server reports from now on: it may have changed before.
    async fn catch_up(&self, session: &Session, mut heard: watch::Receiver<BTreeSet<Arc<str>>>) -> Infallible {
        let mut known = BTreeSet::new();
        loop {
            let now = heard.borrow_and_update().clone();
            for id in now.difference(&known) {
                if let Some(state) = state_of_task(session, id).await {
                    // A full queue drops it, as it drops what the server reports.
                    let _ = self.shared.updates.try_send(Update::Task(self.handle.key.clone(), state));
                }
            }
            known = now;
            if heard.changed().await.is_err() {
                return pending().await;
            }
        }
    }

    /// Sends the changes since `told` to a server older than 2026-07-28; true if it received all of them.
    async fn tell(&self, session: &Session, told: &mut BTreeSet<Arc<str>>) -> bool {
        let wanted = self.handle.subscriptions.all();
        let mut complete = true;
        for uri in told.difference(&wanted).cloned().collect::<Vec<_>>() {
            let _ = ask(session, "resources/unsubscribe", &uri).await;
            told.remove(&uri);
        }
        for uri in wanted.difference(told).cloned().collect::<Vec<_>>() {
            // The server would refuse it again.
            match ask(session, "resources/subscribe", &uri).await {
                true => drop(told.insert(uri)),
                false => complete = false,
            }
        }
        complete
    }
}

/// The state of a task, if the server has it.
async fn state_of_task(session: &Session, id: &str) -> Option<Bytes> {
    let (params, none, able) = (format!(r#""taskId":{}"#, json_string(id)), HeaderMap::new(), Extensions::tasks());
    let (params, able) = ([params.as_str()], able.in_capabilities(""));
    let mut call = Call { name: Some(id), ..Call::of_our_own("tasks/get", &params, &none) };
    call.caller.capabilities = &able;
    match session.call(&call, &Arc::new(Timing::new(LIMIT))).await {
        Ok(Reply::Result(result)) => Some(result.text),
        _ => None,
    }
}

/// Whether the server answered.
async fn ask(session: &Session, method: &str, uri: &str) -> bool {
    let (params, none) = (format!(r#""uri":{}"#, json_string(uri)), HeaderMap::new());
    let params = [params.as_str()];
    let call = Call::of_our_own(method, &params, &none);
    matches!(session.call(&call, &Arc::new(Timing::new(LIMIT))).await, Ok(Reply::Result(_) | Reply::Error(_)))
}
