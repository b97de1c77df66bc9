//! Notifies legacy sessions and streams of `subscriptions/listen` of changes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use rmcp::model::ResourceUpdatedNotificationParam;
use rmcp::service::{SubscriptionSendError, SubscriptionSink};

use super::handler::SessionState;

/// A change.
#[derive(Debug)]
pub(super) enum ListChange {
    /// Of the list of tools.
    Tools,
    /// Of the list of prompts.
    Prompts,
    /// Of the resource with this URI.
    Resource(&'static str),
}

#[derive(Debug, Default)]
pub(super) struct Watchers {
    sessions: Mutex<Vec<Weak<SessionState>>>,
    listeners: Mutex<Vec<SubscriptionSink>>,
}

impl Watchers {
    /// Adds a session; it leaves by being dropped.
    pub(super) fn add_session(&self, session: &Arc<SessionState>) {
        let mut sessions = lock(&self.sessions);
        sessions.retain(|session| session.strong_count() > 0);
        sessions.push(Arc::downgrade(session));
    }

    /// Adds a stream; it leaves when something cannot be sent any more.
    pub(super) fn add_listener(&self, sink: &SubscriptionSink) {
        lock(&self.listeners).push(sink.clone());
    }

    /// Number of sessions that have subscribed to a resource.
    pub(super) fn watching(&self, uri: &str) -> usize {
        lock(&self.sessions).iter().filter_map(Weak::upgrade).filter(|session| session.watches(uri)).count()
    }

    /// Tells everybody who wants to hear it.
    pub(super) async fn tell(&self, news: &ListChange) {
        let sessions: Vec<_> = lock(&self.sessions).iter().filter_map(Weak::upgrade).collect();
        for session in sessions {
            tell_session(&session, news).await;
        }
        // A client that arrives meanwhile gets the next change.
        let listeners = std::mem::take(&mut *lock(&self.listeners));
        for sink in listeners {
            if tell_listener(&sink, news).await {
                lock(&self.listeners).push(sink);
            }
        }
    }
}

/// A session that is gone hears nothing, and need not.
async fn tell_session(session: &SessionState, news: &ListChange) {
    let Some(peer) = session.peer.get() else { return };
    drop(match news {
        ListChange::Tools => peer.notify_tool_list_changed().await,
        ListChange::Prompts => peer.notify_prompt_list_changed().await,
        ListChange::Resource(uri) if session.watches(uri) => {
            peer.notify_resource_updated(ResourceUpdatedNotificationParam::new(*uri)).await
        }
        ListChange::Resource(_) => Ok(()),
    });
}

/// Whether the stream is still there.
async fn tell_listener(sink: &SubscriptionSink, news: &ListChange) -> bool {
    let sent = match news {
        ListChange::Tools => sink.notify_tool_list_changed().await,
        ListChange::Prompts => sink.notify_prompt_list_changed().await,
        ListChange::Resource(uri) => sink.notify_resource_updated(*uri).await,
    };
    matches!(sent, Ok(()) | Err(SubscriptionSendError::NotificationNotAccepted(_)))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
