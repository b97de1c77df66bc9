//! Tells every open stream of changes: of the catalog, at most four times a second, of resources, and of tasks.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep_until};

use crate::front::mcp::state::streams::TaskUpdate;
use crate::front::mcp::state::task_subscriptions::TaskFollower;
use crate::front::mcp::tasks;
use crate::front::request::app::App;
use crate::server::Update;

/// Changes within this time are told as one.
pub(crate) const CHANGE_INTERVAL: Duration = Duration::from_millis(250);

/// Changes of resources that may wait to be told; more are dropped.
pub(crate) const MAX_WAITING_UPDATES: usize = 4_096;

/// The interval between two looks for sessions without a listener and for unused connections.
const TIDY_INTERVAL: Duration = Duration::from_secs(60);

/// Tells of changes until `stop`, then ends all streams. `published` is notified of each new catalog.
pub(crate) async fn run(
    app: Arc<App>,
    published: &Notify,
    mut updates: mpsc::Receiver<Update>,
    stop: impl Future<Output = ()>,
) {
    let mut stop = std::pin::pin!(stop);
    let mcp = &app.mcp;
    let mut tidy = tokio::time::interval(TIDY_INTERVAL);
    let mut due: Option<Instant> = None;
    let mut last = Instant::now().checked_sub(CHANGE_INTERVAL).unwrap_or_else(Instant::now);
    loop {
        tokio::select! {
            () = &mut stop => break,
            () = published.notified() => due = due.or(Some((last + CHANGE_INTERVAL).max(Instant::now()))),
            () = sleep_until(due.unwrap_or(last)), if due.is_some() => {
                (due, last) = (None, Instant::now());
                mcp.catalog_changes.take(app.published.load_full());
                mcp.resource_subscriptions.resolve(&mcp.catalog_changes.catalog());
                mcp.task_subscriptions.resolve(&mcp.catalog_changes.catalog());
                mcp.streams.wake_all();
            }
            Some(update) = updates.recv() => tell(&app, update),
            _ = tidy.tick() => {
                mcp.resource_subscriptions.tidy(|session| mcp.streams.is_open(session));
                mcp.replicas.tidy();
            }
        }
    }
    mcp.streams.end_all();
    mcp.suspended_calls.end_all();
}

/// Tells the streams that want to know it of a change at a server.
fn tell(app: &App, update: Update) {
    let mcp = &app.mcp;
    match update {
        Update::Resource(server, uri) => {
            for (uri, subscribers) in mcp.resource_subscriptions.subscribers(&server, &uri) {
                mcp.streams.tell_updated(&uri, subscribers);
            }
        }
        Update::Task(server, params) => {
            let Some((own, rest)) = tasks::told(&params) else { return };
            let rest: Arc<str> = rest.into();
            for TaskFollower { stream, shown, tool } in mcp.task_subscriptions.followers(&server, &own) {
                let update = TaskUpdate { server: server.clone(), tool, shown, rest: rest.clone() };
                mcp.streams.tell_task(stream, update);
            }
        }
    }
}
