//! Owns clients' sessions with a server: opens them when calls ask for them, and closes them when they are idle or
//! outdated.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use portcullis_crds::Server;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, sleep, sleep_until, timeout};
use tracing::{debug, warn};

use crate::client_sessions::{ClientSession, Clients, as_call_error};
use crate::secrets::Resolved;
use crate::server::adapt::{Credentials, Unusable, changed_credentials};
use crate::server::handle::Handle;
use crate::server::problem::ServerProblem;
use crate::server::serving::close;
use crate::server::{RECHECK, ServerCommand, ServerContext, TIDY, limits, target_of};
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::upstream::connect::Spoken;
use portcullis_mcp::upstream::{CallError, ConnectError, Connected, Notices, Session, SessionHeaders, Target, connect};

/// Runs the sessions until the server's task is to stop, then until their calls have finished or their time is over.
pub(crate) async fn run(
    handle: Arc<Handle>,
    clients: Arc<Clients>,
    shared: Arc<ServerContext>,
    mut orders: watch::Receiver<ServerCommand>,
) {
    let to_open = clients.to_open();
    let Some(to_open) = to_open else { return };
    let idle_seconds = handle.spec().client_sessions.idle_seconds;
    let mut keeper = Keeper { handle, clients, shared, used: None, idle_seconds, running: JoinSet::new() };
    keeper.run(to_open, &mut orders).await;
    keeper.finish().await;
}

struct Keeper {
    handle: Arc<Handle>,
    clients: Arc<Clients>,
    shared: Arc<ServerContext>,
    /// The credentials and the target of the open sessions.
    used: Option<(Resolved, Target)>,
    /// The last announced limit for a session without calls.
    idle_seconds: u32,
    running: JoinSet<()>,
}

impl Keeper {
    async fn run(
        &mut self,
        mut to_open: mpsc::Receiver<Arc<ClientSession>>,
        orders: &mut watch::Receiver<ServerCommand>,
    ) {
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
                Some(client_session) = to_open.recv() => self.open(client_session),
                Some(_) = self.running.join_next() => {}
                _ = tidy.tick() => self.used.iter().for_each(|(_, target)| target.pool.sweep()),
            }
        }
    }

    fn open(&mut self, client_session: Arc<ClientSession>) {
        // The other sessions must not miss a change that this one sees first.
        let spec = self.adapt();
        match self.target(&spec) {
            Ok(target) => {
                let (capabilities, extensions) = (client_session.key.capabilities, client_session.extensions());
                // Those that the server has, as its session with the gateway itself has shown.
                let extensions = extensions.understood_by(&self.handle.declared());
                let target = Target { capabilities, extensions, ..target };
                let attending = attend(self.handle.clone(), self.clients.clone(), client_session, target);
                self.running.spawn(attending);
            }
            Err(trouble) => {
                debug!(server = %self.handle.name, problem = %trouble, "cannot open a session for a client");
                self.clients.remove(&client_session, false);
                client_session.over(CallError::NotSent("its credentials cannot be used"));
            }
        }
    }

    /// The target; all sessions share its connections as long as the credentials are the same.
    fn target(&mut self, spec: &Server) -> Result<Target, ServerProblem> {
        let resolved = self.shared.credentials.resolve(spec)?;
        if let Some((before, target)) = &self.used
            && *before == resolved
        {
            return Ok(target.clone());
        }
        let target = target_of(&self.shared, spec, &resolved, (ClientCapabilities::NONE, Extensions::default()))?;
        self.used = Some((resolved, target.clone()));
        Ok(target)
    }

    /// Applies a changed configuration to the open sessions as far as possible. Returns the configuration.
    fn adapt(&mut self) -> Arc<Server> {
        let spec = self.handle.spec();
        self.adapt_credentials(&spec);
        let idle_seconds = spec.client_sessions.idle_seconds;
        if std::mem::replace(&mut self.idle_seconds, idle_seconds) != idle_seconds {
            self.clients.all().iter().for_each(|one| one.look_again());
        }
        self.handle.note_sent_for_clients(&spec);
        spec
    }

    fn adapt_credentials(&mut self, spec: &Server) {
        let Some((before, target)) = &mut self.used else { return };
        let (connect, idle) = limits(spec);
        target.step = connect;
        target.pool.set_limits(connect, idle);
        match changed_credentials(&self.shared, spec, before) {
            Ok(Credentials::OfOpenSessions(new)) => {
                if new.headers != before.headers {
                    target.headers.clone_from(&new.headers);
                    self.clients.all().iter().for_each(|one| one.set_headers(&new.headers));
                    *before = new;
                }
            }
            Ok(Credentials::OfNewConnections(_)) => self.end_all(false),
            Err(Unusable::Revoked(_)) => self.end_all(true),
            Err(Unusable::Faulty(_)) => {}
        }
    }

    /// Ends every session; calls open new ones. `revoked`: the credentials must not be sent any more.
    fn end_all(&mut self, revoked: bool) {
        self.used = None;
        let all = self.clients.all();
        if !all.is_empty() {
            warn!(server = %self.handle.name, sessions = all.len(), revoked, "client sessions end because the credentials have changed");
        }
        for client_session in all {
            if revoked {
                client_session.set_headers(&SessionHeaders::default());
            }
            self.clients.remove(&client_session, true);
            client_session.close();
        }
    }

    /// Lets running calls finish, then closes the sessions.
    async fn finish(mut self) {
        self.clients.shut();
        let limit = Duration::from_secs(self.handle.spec().timeouts.request_seconds.into());
        let _ = timeout(limit, self.handle.drained()).await;
        self.clients.all().iter().for_each(|one| one.close());
        while self.running.join_next().await.is_some() {}
    }
}

/// Removes the session however its task ends.
struct Attended<'a> {
    clients: &'a Clients,
    client_session: Arc<ClientSession>,
    error: CallError,
}

impl Drop for Attended<'_> {
    fn drop(&mut self) {
        self.clients.remove(&self.client_session, true);
        self.client_session.over(self.error.clone());
    }
}

/// Waits until a check finds the session unusable. No other task checks it, and repeated calls keep it from being idle.
async fn lost(session: &Session, client_session: &ClientSession, notices: &Notices) {
    loop {
        tokio::select! {
            () = client_session.suspected() => {}
            () = notices.suspect.notified() => {}
        }
        if session.check(false).await.is_err() {
            return;
        }
        sleep(RECHECK).await;
    }
}

/// Opens the session, and reopens it if its headers change meanwhile: removed headers are not sent.
async fn open(
    client_session: &ClientSession,
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
                    () = client_session.looked_at_again() => {}
                }
                if let Some(changed) = client_session.changed_headers().filter(|changed| *changed != target.headers) {
                    break changed;
                }
            }
        };
        target.headers = changed;
    }
}

/// Runs one session from its opening to its end.
async fn attend(handle: Arc<Handle>, clients: Arc<Clients>, client_session: Arc<ClientSession>, mut target: Target) {
    let over = CallError::NotSent("its session has ended");
    let mut there = Attended { clients: &clients, client_session: client_session.clone(), error: over };
    let notices = Arc::new(Notices { unsolicited: Some(client_session.unsolicited()), ..Notices::default() });
    let mut connected = match open(&client_session, &mut target, clients.spoken(), &notices).await {
        Ok(connected) => connected,
        Err(error) => {
            debug!(server = %handle.name, problem = %error, "cannot open a session for a client");
            there.error = as_call_error(&error);
            return;
        }
    };
    client_session.opened(connected.session.clone(), connected.capabilities.logging);
    let session = connected.session.clone();
    let mut lost = Box::pin(lost(&session, &client_session, &notices));
    loop {
        let idle = Duration::from_secs(handle.spec().client_sessions.idle_seconds.into());
        tokio::select! {
            _ = &mut connected.attend => break,
            () = client_session.closed() => break,
            () = &mut lost => break,
            () = client_session.looked_at_again() => {}
            () = sleep_until(client_session.idle_at(idle)) => if clients.remove_idle(&client_session, idle) { break },
        }
    }
    drop(there);
    close(connected).await;
    let dropped = notices.dropped.load(Ordering::Relaxed);
    handle.notices.dropped.fetch_add(dropped, Ordering::Relaxed);
}
