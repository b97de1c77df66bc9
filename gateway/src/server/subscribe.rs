//! Subscribes to the resources that callers want: once at the server, again in each session, and unsubscribes when no
//! caller wants them.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::pending;
use http::HeaderMap;
use tokio::time::sleep;

use super::task::Task;
use portcullis_mcp::protocol::json::json_string;
use portcullis_mcp::upstream::timing::Timing;
use portcullis_mcp::upstream::{Call, Reply, ServerCapabilities, Session};

/// Changes within this time are sent together; a client that reopens its stream causes none.
const TOGETHER: Duration = Duration::from_millis(100);

/// The limit for the answer to one request.
const LIMIT: Duration = Duration::from_secs(10);

/// The delay before an unanswered request is repeated.
const AGAIN: Duration = Duration::from_secs(30);

impl Task {
    /// Keeps a new session subscribed to the wanted resources.
    pub(super) async fn keep_subscribed(&self, session: &Session, capabilities: ServerCapabilities) -> Infallible {
        if !capabilities.resources_subscribe {
            return pending().await;
        }
        let mut told = BTreeSet::new();
        loop {
            let complete = match session.hear_of(self.handle.subscriptions.all()) {
                true => true,
                false => Box::pin(self.tell(session, &mut told)).await,
            };
            tokio::select! {
                () = self.handle.subscriptions.changed() => sleep(TOGETHER).await,
                () = sleep(AGAIN), if !complete => {}
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

/// Whether the server answered.
async fn ask(session: &Session, method: &str, uri: &str) -> bool {
    let (params, none) = (format!(r#""uri":{}"#, json_string(uri)), HeaderMap::new());
    let params = [params.as_str()];
    let call = Call::of_our_own(method, &params, &none);
    matches!(session.call(&call, &Arc::new(Timing::new(LIMIT))).await, Ok(Reply::Result(_) | Reply::Error(_)))
}
