//! What a server's task does about resources that callers want to hear of: the server is told once, anew by each session,
//! and told again when nobody wants it any more.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::pending;
use http::HeaderMap;
use tokio::time::sleep;

use super::Task;
use crate::upstream::message::json_string;
use crate::upstream::timing::Timing;
use crate::upstream::{Call, Reply, ServerCapabilities, Session};

/// Changes that come together are told together; a client that opens its stream anew is none.
const TOGETHER: Duration = Duration::from_millis(100);

/// For the answer to one request.
const LIMIT: Duration = Duration::from_secs(10);

/// Before what a server did not answer is asked again.
const AGAIN: Duration = Duration::from_secs(30);

impl Task {
    /// Keeps a new session subscribed to what is wanted.
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

    /// Tells a server of before 2026-07-28 what has changed since it was `told`; true if it has got all of it.
    async fn tell(&self, session: &Session, told: &mut BTreeSet<Arc<str>>) -> bool {
        let wanted = self.handle.subscriptions.all();
        let mut complete = true;
        for uri in told.difference(&wanted).cloned().collect::<Vec<_>>() {
            let _ = ask(session, "resources/unsubscribe", &uri).await;
            told.remove(&uri);
        }
        for uri in wanted.difference(told).cloned().collect::<Vec<_>>() {
            // What it refuses it would refuse again.
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
