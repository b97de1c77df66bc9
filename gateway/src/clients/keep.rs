//! The owner of clients' sessions with a server: opens them when calls ask for them, and closes them when it is time.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portcullis_crds::Server;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use super::line::as_call_error;
use super::{Clients, Line};
use crate::capabilities::ClientCapabilities;
use crate::handle::Handle;
use crate::pool::TIDY;
use crate::secrets::Resolved;
use crate::server::{CLOSE_LIMIT, Order, RECHECK, Shared, limits, target_of};
use crate::trouble::Trouble;
use crate::upstream::connect::Spoken;
use crate::upstream::{CallError, ConnectError, Connected, Notices, Session, Target, connect};

/// Keeps them until the server's task is to stop, then until their calls have finished or their time is over.
pub async fn keep(handle: Arc<Handle>, clients: Arc<Clients>, shared: Arc<Shared>, mut orders: watch::Receiver<Order>) {
    let to_open = clients.to_open.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
    let Some(to_open) = to_open else { return };
    let idle_seconds = handle.spec().client_sessions.idle_seconds;
    let mut keeper = Keeper { handle, clients, shared, used: None, idle_seconds, running: JoinSet::new() };
    keeper.run(to_open, &mut orders).await;
    keeper.finish().await;
}

struct Keeper {
    handle: Arc<Handle>,
    clients: Arc<Clients>,
    shared: Arc<Shared>,
    /// What the open ones were made with.
    used: Option<(Resolved, Target)>,
    /// How long a session may be without calls, as they were told last.
    idle_seconds: u32,
    running: JoinSet<()>,
}

impl Keeper {
    async fn run(&mut self, mut to_open: mpsc::Receiver<Arc<Line>>, orders: &mut watch::Receiver<Order>) {
        let mut seen = orders.borrow().changes;
        let mut tidy = interval(TIDY);
        tidy.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                order = orders.wait_for(|order| order.stop || order.changes != seen) => {
                    let Ok(order) = order.map(|order| *order) else { return };
                    if order.stop {
                        return;
                    }
                    seen = order.changes;
                    drop(self.adapt());
                }
                Some(line) = to_open.recv() => self.open(line),
                Some(_) = self.running.join_next() => {}
                _ = tidy.tick() => self.used.iter().for_each(|(_, target)| target.pool.sweep()),
            }
        }
    }

    fn open(&mut self, line: Arc<Line>) {
        // The others must not miss a change that this one finds before it is told.
        let spec = self.adapt();
        match self.target(&spec) {
            Ok(target) => {
                let target = Target { capabilities: line.key.capabilities, ..target };
                let attending = attend(self.handle.clone(), self.clients.clone(), line, target);
                self.running.spawn(attending);
            }
            Err(trouble) => {
                debug!(server = %self.handle.name, problem = %trouble, "no session for a client");
                self.clients.remove(&line, false);
                line.over(CallError::NotSent("its credentials cannot be used"));
            }
        }
    }

    /// What to connect to; all sessions share its connections as long as these mean the same.
    fn target(&mut self, spec: &Server) -> Result<Target, Trouble> {
        let resolved = self.shared.secrets.resolve(spec)?;
        if let Some((before, target)) = &self.used
            && *before == resolved
        {
            return Ok(target.clone());
        }
        let target = target_of(&self.shared, spec, &resolved, ClientCapabilities::NONE)?;
        self.used = Some((resolved, target.clone()));
        Ok(target)
    }

    /// Takes a changed configuration over into the open sessions, as far as it can be. Returns which one.
    fn adapt(&mut self) -> Arc<Server> {
        let spec = self.handle.spec();
        self.adapt_credentials(&spec);
        let idle_seconds = spec.client_sessions.idle_seconds;
        if std::mem::replace(&mut self.idle_seconds, idle_seconds) != idle_seconds {
            self.clients.all().iter().for_each(|line| line.look_again());
        }
        self.handle.note_sent_for_clients(&spec);
        spec
    }

    fn adapt_credentials(&mut self, spec: &Server) {
        let Some((before, target)) = &mut self.used else { return };
        let (connect, idle) = limits(spec);
        target.step = connect;
        target.pool.set_limits(connect, idle);
        match self.shared.secrets.resolve(spec) {
            Ok(new) if new.tls == before.tls => {
                if new.headers != before.headers {
                    target.headers.clone_from(&new.headers);
                    self.clients.all().iter().for_each(|line| line.set_headers(&new.headers));
                    *before = new;
                }
            }
            Ok(_) => self.end_all(false),
            Err(error) if error.is_revocation() || self.shared.secrets.revoked(before).is_some() => self.end_all(true),
            // What was valid stays in use until something needs the new.
            Err(_) => {}
        }
    }

    /// Ends every session; calls open new ones. `revoked`: the credentials must not be sent any more.
    fn end_all(&mut self, revoked: bool) {
        self.used = None;
        let all = self.clients.all();
        if !all.is_empty() {
            warn!(server = %self.handle.name, sessions = all.len(), revoked, "clients' sessions end: the credentials have changed");
        }
        for line in all {
            if revoked {
                line.set_headers(&http::HeaderMap::new());
            }
            self.clients.remove(&line, true);
            line.close();
        }
    }

    /// Lets running calls finish, then says goodbye.
    async fn finish(mut self) {
        self.clients.shut();
        let limit = Duration::from_secs(self.handle.spec().timeouts.request_seconds.into());
        let _ = timeout(limit, self.handle.drained()).await;
        self.clients.all().iter().for_each(|line| line.close());
        while self.running.join_next().await.is_some() {}
    }
}

/// Takes the session out however its task ends.
struct There<'a> {
    clients: &'a Clients,
    line: Arc<Line>,
    error: CallError,
}

impl Drop for There<'_> {
    fn drop(&mut self) {
        self.clients.remove(&self.line, true);
        self.line.over(self.error.clone());
    }
}

/// Waits until a check finds that the session cannot be used. Nobody else looks after it, and calls that come again and
/// again keep it from being idle.
async fn lost(session: &Session, line: &Line, notices: &Notices) {
    loop {
        tokio::select! {
            () = line.suspected() => {}
            () = notices.suspect.notified() => {}
        }
        if session.check(false).await.is_err() {
            return;
        }
        sleep(RECHECK).await;
    }
}

/// Opens it, anew where its headers change meanwhile: what is no longer configured is not sent.
async fn open(
    line: &Line,
    target: &mut Target,
    spoken: Option<Spoken>,
    notices: &Arc<Notices>,
) -> Result<Connected, ConnectError> {
    loop {
        let changed = {
            let mut opening = std::pin::pin!(connect(target, spoken, notices));
            loop {
                tokio::select! {
                    outcome = &mut opening => return outcome,
                    () = line.looked_at_again() => {}
                }
                if let Some(changed) = line.changed_headers().filter(|changed| *changed != target.headers) {
                    break changed;
                }
            }
        };
        target.headers = changed;
    }
}

/// One session from its opening to its end.
async fn attend(handle: Arc<Handle>, clients: Arc<Clients>, line: Arc<Line>, mut target: Target) {
    let over = CallError::NotSent("its session is over");
    let mut there = There { clients: &clients, line: line.clone(), error: over };
    let notices = Arc::new(Notices { unasked: Some(line.unasked()), ..Notices::default() });
    let mut connected = match open(&line, &mut target, clients.spoken(), &notices).await {
        Ok(connected) => connected,
        Err(error) => {
            debug!(server = %handle.name, problem = %error, "no session for a client");
            there.error = as_call_error(&error);
            return;
        }
    };
    line.opened(connected.session.clone(), connected.capabilities.logging);
    let session = connected.session.clone();
    let mut lost = Box::pin(lost(&session, &line, &notices));
    loop {
        let idle = Duration::from_secs(handle.spec().client_sessions.idle_seconds.into());
        tokio::select! {
            _ = &mut connected.attend => break,
            () = line.closed() => break,
            () = &mut lost => break,
            () = line.looked_at_again() => {}
            () = sleep_until(line.idle_at(idle)) => if clients.remove_idle(&line, idle) { break },
        }
    }
    drop(there);
    let goodbye = async { tokio::join!(connected.session.close(), async { drop(connected.attend) }) };
    let _ = timeout(CLOSE_LIMIT, goodbye).await;
    let dropped = notices.dropped.load(Ordering::Relaxed);
    handle.notices.dropped.fetch_add(dropped, Ordering::Relaxed);
}
