//! One task for one server: connect, list its tools, watch its health, connect again.
//!
//! The task ends only when it is told to; whatever the server does is an event, never an error of ours.

mod adapt;
mod lists;
mod subscribe;

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use portcullis_crds::conditions::ConditionType;
use portcullis_crds::mcpserver::{HealthMode, State};
use portcullis_crds::{Reason, Server};
use rustls::RootCertStore;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};
use url::Url;

use self::adapt::Adapted;
pub(crate) use self::adapt::limits;
use crate::backoff::{self, HEALTHY_AFTER};
use crate::capabilities::ClientCapabilities;
use crate::clients::keep::keep;
use crate::front::mcp::asking::Asking;
use crate::front::mcp::changes::Update;
use crate::guard::Guard;
use crate::handle::{Handle, Lists, Phase};
use crate::loops::Loops;
use crate::metrics::Metrics;
use crate::secrets::{Resolved, SecretError, Secrets};
use crate::touched::Touched;
use crate::trouble::Trouble;
use crate::upstream::connect::Spoken;
use crate::upstream::http::{HttpPool, Origin};
use crate::upstream::stream::TlsTarget;
use crate::upstream::{CallError, ConnectError, Connected, End, ServerCapabilities, Session, Target, connect};

/// What a server offers that is away stays listed so long, so that lists do not flap.
pub const LIST_GRACE: Duration = Duration::from_secs(30);

/// Calls may wait for a session with this attempt, which comes within half a second, but not with a later one.
const LAST_QUICK_ATTEMPT: u32 = 1;

/// Between checks of a server that failed the last one, or whose calls fail.
pub(crate) const RECHECK: Duration = Duration::from_millis(500);

/// Before credentials that cannot be used are looked at again, though nobody has said that they changed.
const CREDENTIALS_AGAIN: Duration = Duration::from_secs(10);

/// For the goodbye of a session.
pub(crate) const CLOSE_LIMIT: Duration = Duration::from_secs(2);

/// Servers that are tried at the same time.
pub const HANDSHAKES: usize = 256;

/// One that takes longer makes room for the next: a thousand that do not answer must not hold up those that do.
const HANDSHAKE_TURN: Duration = Duration::from_millis(250);

/// Why a session ended or could not be opened, as a metric label.
pub const RECONNECT_REASONS: [&str; 7] =
    ["connect_failed", "closed", "expired", "broken", "unhealthy", "changed", "revoked"];

/// What every server's task is given.
pub struct Shared {
    /// The system's certificate authorities, read when the first https server needs them.
    pub roots: LazyLock<Arc<RootCertStore>>,
    /// Where Secrets lie.
    pub secrets: Secrets,
    /// Which addresses servers may have.
    pub guard: Arc<Guard>,
    /// Messages above this many bytes are refused.
    pub max_message: usize,
    /// All metrics.
    pub metrics: Metrics,
    /// Somebody's tools have changed: the catalog is to be built anew.
    pub dirty: Notify,
    /// A new catalog was published.
    pub published: Notify,
    /// Takes changes of resources.
    pub updates: mpsc::Sender<Update>,
    /// Turns of those who want to open a session: ten thousand must not do it in the same instant.
    pub handshakes: Semaphore,
    /// Servers that may look different.
    pub touched: Arc<Touched>,
    /// Asks clients for servers.
    pub asking: Arc<Asking>,
    /// Servers that wait for their next attempt.
    pub away: AtomicU32,
    /// Tells servers that lead back to here.
    pub loops: Arc<Loops>,
}

/// What a server's task is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Order {
    /// Its configuration has changed so often.
    pub changes: u64,
    /// It is to finish its calls and end.
    pub stop: bool,
}

/// For a task that nobody orders any more.
const STOP: Order = Order { changes: 0, stop: true };

/// How an attempt to open a session came to its end.
enum Attempted {
    Ended(Box<Result<Opened, Trouble>>),
    /// It would have gone on with credentials that are no longer configured.
    Outdated,
    Stopped,
}

/// How a session came to its end.
enum Over {
    Ended(End),
    Unhealthy,
    /// It leads back to here.
    Loop,
    Changed,
    /// Its credentials must not be sent any more.
    Revoked(Trouble),
    Stopped,
}

impl Over {
    /// How long a session must have lived for the next to be opened at once.
    fn earns_quick_reconnect_after(&self) -> Duration {
        match self {
            Self::Changed | Self::Stopped => Duration::ZERO,
            // Calls wait for the new session, so it must come soon; but not in a loop.
            Self::Ended(End::Expired) => Duration::from_secs(1),
            Self::Ended(_) | Self::Unhealthy | Self::Loop | Self::Revoked(_) => HEALTHY_AFTER,
        }
    }
}

/// What a health check says.
enum Health {
    Good,
    Bad,
    /// It has forgotten the session: no further check can be good.
    Forgotten,
}

/// A new session, and the configuration it was made with, which may have changed meanwhile.
struct Opened {
    connected: Connected,
    resolved: Resolved,
    spec: Arc<Server>,
}

/// Sessions that are no longer used, and finish their calls.
type Retiring = FuturesUnordered<Pin<Box<dyn Future<Output = ()> + Send>>>;

/// Lets running calls finish, then says goodbye.
async fn finish(handle: Arc<Handle>, mut connected: Connected) {
    let limit = Duration::from_secs(handle.spec().timeouts.request_seconds.into());
    tokio::select! {
        _ = timeout(limit, handle.drained()) => {}
        _ = &mut connected.attend => return,
    }
    let goodbye = async { tokio::join!(connected.session.close(), async { drop(connected.attend) }) };
    let _ = timeout(CLOSE_LIMIT, goodbye).await;
}

/// Counts a server among those that are away.
struct Away {
    all: Arc<Shared>,
    number: u32,
}

impl Away {
    fn count(all: &Arc<Shared>) -> Self {
        let number = all.away.fetch_add(1, Ordering::Relaxed) + 1;
        Self { all: all.clone(), number }
    }
}

impl Drop for Away {
    fn drop(&mut self) {
        self.all.away.fetch_sub(1, Ordering::Relaxed);
    }
}

struct Task {
    handle: Arc<Handle>,
    shared: Arc<Shared>,
    orders: watch::Receiver<Order>,
    /// Changes of the configuration that are taken into account.
    seen: u64,
    spoken: Option<Spoken>,
    /// It is of 2026-07-28 only in name, and works with `initialize`.
    is_modern_in_name: bool,
    attempts: u32,
    /// Since when there has been trouble: sessions that end soon after their opening are no end of it.
    troubled: Option<Instant>,
    first: Option<Trying>,
    /// What the last attempt was made with.
    tried: Option<(Arc<Server>, Result<Resolved, SecretError>)>,
}

/// Somebody waits until all of these are gone: each is held during the first attempt of a server.
pub type Trying = mpsc::Sender<Infallible>;

/// Runs one server until it is told to stop, then until its calls have finished or their time is over. `first` is
/// dropped after the first attempt to open a session.
pub async fn run(handle: Arc<Handle>, shared: Arc<Shared>, orders: watch::Receiver<Order>, first: Option<Trying>) {
    let clients = handle.clients().cloned();
    let clients = clients.map(|clients| keep(handle.clone(), clients, shared.clone(), orders.clone()));
    let task = Task {
        handle: handle.clone(),
        shared,
        orders,
        seen: 0,
        spoken: None,
        is_modern_in_name: false,
        attempts: 0,
        troubled: None,
        first,
        tried: None,
    };
    let running = async {
        task.run().await;
        handle.shut();
    };
    match clients {
        None => running.await,
        // In a box, so that servers without do not carry the room for it.
        Some(clients) => drop(Box::pin(async { tokio::join!(running, clients) }).await),
    }
}

impl Task {
    async fn run(mut self) {
        if self.handle.spec().state == State::Disabled {
            self.first = None;
            let _ = self.orders.wait_for(|order| order.stop).await;
            return;
        }
        self.hear_updates();
        // Tools taken over from before a restart are listed for the grace alone.
        let mut away_since = self.handle.is_fresh().then(Instant::now);
        while !self.orders.borrow().stop {
            self.seen = self.orders.borrow().changes;
            let opened = match self.open_as_configured().await {
                Attempted::Stopped => return,
                Attempted::Outdated => continue,
                Attempted::Ended(opened) => *opened,
            };
            match opened {
                Err(trouble) => {
                    self.note_failure(&trouble);
                    // Who only waits for the API server to tell of its Secrets has not been tried.
                    if trouble.reason() != Reason::Probing {
                        self.first = None;
                    }
                }
                Ok(opened) => {
                    let opened_at = Instant::now();
                    let over = self.serve(opened).await;
                    if opened_at.elapsed() >= over.earns_quick_reconnect_after() {
                        (self.attempts, self.troubled) = (0, None);
                    }
                    // The server tells each call that it has forgotten the session, and calls that are told so wait for
                    // the next one: without any session, those that come meanwhile would fail.
                    let is_forgotten = matches!(over, Over::Ended(End::Expired));
                    if !is_forgotten || self.attempts > LAST_QUICK_ATTEMPT {
                        self.handle.shut();
                    }
                    self.end(&over);
                    if let Over::Stopped = over {
                        return;
                    }
                    away_since = Some(Instant::now());
                }
            }
            if self.pause(away_since).await {
                return;
            }
        }
    }

    /// Passes on what its sessions tell of single resources.
    fn hear_updates(&self) {
        let (key, updates) = (self.handle.key.clone(), self.shared.updates.clone());
        let pass_on = move |uri| updates.try_send((key.clone(), uri)).is_ok();
        let _ = self.handle.notices.updated.set(Box::new(pass_on));
    }

    /// Waits before the next attempt; true if the task is told to stop meanwhile.
    async fn pause(&mut self, away_since: Option<Instant>) -> bool {
        let troubled = *self.troubled.get_or_insert_with(Instant::now);
        let away = Away::count(&self.shared);
        let outage = backoff::Outage { attempt: self.attempts, lasts: troubled.elapsed(), away: away.number };
        let pause = backoff::reconnect(outage, backoff::random());
        let lacks_credentials = matches!(self.tried, Some((_, Err(_))));
        let until = Instant::now() + if lacks_credentials { pause.min(CREDENTIALS_AGAIN) } else { pause };
        self.attempts = self.attempts.saturating_add(1);
        let mut seen = self.seen;
        let mut orders = self.orders.clone();
        loop {
            let unlist_at = away_since.map_or_else(far_away, |since| since + LIST_GRACE);
            tokio::select! {
                changed = orders.wait_for(|order| order.stop || order.changes != seen) => {
                    let Ok(order) = changed.map(|order| *order) else { return true };
                    if order.stop || self.tries_something_new() {
                        return order.stop;
                    }
                    seen = order.changes;
                }
                () = sleep_until(unlist_at), if self.handle.is_fresh() => self.unlist(),
                () = sleep_until(until) => return false,
            }
        }
    }

    /// Whether an attempt now would differ from the last: changes of others' Secrets are no reason to hurry.
    fn tries_something_new(&self) -> bool {
        let spec = self.handle.spec();
        let tried = |(with, resolved): &(Arc<Server>, Result<Resolved, SecretError>)| {
            Arc::ptr_eq(with, &spec) && *resolved == self.shared.secrets.resolve(&spec)
        };
        !self.tried.as_ref().is_some_and(tried)
    }

    // --- opening ---

    /// Opens a session. Meanwhile a change reaches the session of before, which calls may still use; and what would still
    /// send what was configured before is not gone on with.
    async fn open_as_configured(&mut self) -> Attempted {
        let (mut orders, mut seen) = (self.orders.clone(), self.seen);
        let (handle, shared) = (self.handle.clone(), self.shared.clone());
        let mut tried = shared.secrets.resolve(&handle.spec());
        let mut opening = std::pin::pin!(self.open());
        loop {
            let order = tokio::select! {
                biased;
                order = orders.wait_for(|order| order.stop || order.changes != seen) => order.map_or(STOP, |order| *order),
                opened = &mut opening => return Attempted::Ended(Box::new(opened)),
            };
            if order.stop {
                return Attempted::Stopped;
            }
            seen = order.changes;
            adapt::adapt_left_over(&handle, &shared);
            let now = shared.secrets.resolve(&handle.spec());
            if std::mem::replace(&mut tried, now) != tried {
                return Attempted::Outdated;
            }
        }
    }

    /// Opens a session and lists its tools, when it is this server's turn.
    async fn open(&mut self) -> Result<Opened, Trouble> {
        let shared = self.shared.clone();
        let turn = shared.handshakes.acquire().await;
        // In a box, so that the task of an open session does not carry the room for handshakes; so it is below with what is
        // seldom done. There are thousands of these tasks.
        let mut attempt = Box::pin(self.attempt());
        if let Ok(outcome) = timeout(HANDSHAKE_TURN, &mut attempt).await {
            return outcome;
        }
        drop(turn);
        attempt.await
    }

    async fn attempt(&mut self) -> Result<Opened, Trouble> {
        let spec = self.handle.spec();
        let resolved = self.shared.secrets.resolve(&spec);
        self.tried = Some((spec.clone(), resolved.clone()));
        let resolved = resolved?;
        // Some tools are there only for clients that can be asked.
        let capabilities =
            if spec.session.is_shared() { ClientCapabilities::NONE } else { ClientCapabilities::EVERYTHING };
        let target = target_of(&self.shared, &spec, &resolved, capabilities)?;
        let before = self.spoken.or(self.is_modern_in_name.then_some(Spoken::Streamable));
        let (mut connected, mut listed) = self.open_as(&target, before).await?;
        if connected.spoken == Spoken::Modern
            && target.pinned.is_none()
            && (listed.is_err() || connected.session.wants_a_session().await)
            && let Ok((older, Ok(lists))) = Box::pin(self.open_as(&target, Some(Spoken::Streamable))).await
        {
            self.is_modern_in_name = true;
            (connected, listed) = (older, Ok(lists));
        }
        match listed {
            // It may have connected to here meanwhile.
            Ok(_) if self.leads_back(&connected.session) => {
                let _ = timeout(CLOSE_LIMIT, connected.session.close()).await;
                Err(Trouble::Connect(ConnectError::Loop))
            }
            Ok(lists) => {
                self.spoken = Some(connected.spoken);
                if let Some(clients) = self.handle.clients() {
                    clients.note_spoken(self.spoken);
                }
                self.handle.set_software(connected.server_info.as_ref().map(|(name, _)| name.as_str()));
                self.publish(lists, connected.capabilities).await;
                Ok(Opened { connected, resolved, spec })
            }
            Err(problem) => {
                // Each attempt opens a session; none may be left behind.
                let _ = timeout(CLOSE_LIMIT, connected.session.close()).await;
                Err(problem)
            }
        }
    }

    /// Whether the server has told meanwhile that it leads back to here. Takes note of what it tells.
    fn leads_back(&self, session: &Session) -> bool {
        let told = session.instances();
        let leads_back = told.as_ref().is_some_and(|told| self.shared.loops.leads_back(told));
        self.shared.loops.note(&self.handle.key, told.filter(|_| !leads_back));
        leads_back
    }

    /// Opens a session with a server that spoke so before, and reads its lists.
    async fn open_as(
        &mut self,
        target: &Target,
        before: Option<Spoken>,
    ) -> Result<(Connected, Result<Lists, Trouble>), Trouble> {
        let outcome = connect(target, before, &self.handle.notices).await;
        let mut connected = outcome.map_err(|error| {
            // The next attempt finds out anew how the server speaks, unless it was merely away.
            if !matches!(error, ConnectError::Unreachable(_) | ConnectError::Blocked(_)) {
                self.spoken = None;
                self.is_modern_in_name &= !error.tells_of_another_way();
            }
            Trouble::Connect(error)
        })?;
        let listed = tokio::select! {
            listed = self.first_lists(&connected.session, connected.capabilities) => {
                listed.map_err(Trouble::List)
            }
            end = &mut connected.attend => Err(match end {
                End::Broken(why) => Trouble::ListBroken(why),
                End::Closed | End::Expired => Trouble::ListEnded,
            }),
        };
        Ok((connected, listed))
    }

    fn note_failure(&self, trouble: &Trouble) {
        self.handle.shut();
        // As long as nobody knows whether its Secrets are there, nothing has failed.
        let waits = trouble.reason() == Reason::Probing;
        if !waits {
            self.handle.count_reconnect("connect_failed");
            let problem = trouble.to_string();
            if self.handle.status().last_error.as_ref() != Some(&problem) {
                warn!(server = %self.handle.name, problem, "server is not available");
            }
        }
        self.handle.update_status(|status| {
            status.phase = if waits { Phase::Connecting } else { Phase::Backoff };
            status.note(trouble);
        });
    }

    // --- an open session ---

    async fn serve(&mut self, mut opened: Opened) -> Over {
        let mut retiring = Retiring::new();
        self.opened(&mut opened);
        self.first = None;
        let mut again = None;
        loop {
            let mut seen = self.seen;
            let mut over = self.follow(&mut opened, &mut retiring, &mut seen, again).await;
            self.seen = seen;
            if let Over::Changed = over {
                match Box::pin(self.replace(&mut opened, &mut retiring)).await {
                    Ok(renewed) => {
                        again = (!renewed).then(credentials_again);
                        continue;
                    }
                    Err(end) => over = end,
                }
            }
            match over {
                Over::Stopped => {
                    self.handle.shut();
                    retiring.push(Box::pin(finish(self.handle.clone(), opened.connected)));
                    while retiring.next().await.is_some() {}
                    return Over::Stopped;
                }
                Over::Revoked(trouble) => {
                    self.handle.shut();
                    // Calls that still run keep the session, but it sends the value no more, not even to say goodbye.
                    opened.connected.session.set_headers(http::HeaderMap::new());
                    return Over::Revoked(trouble);
                }
                over => return over,
            }
        }
    }

    /// Opens a session with changed credentials while the old one still serves; if that fails, the old one stays.
    /// Tells whether there is a new one, or how the old one ended.
    async fn replace(&mut self, opened: &mut Opened, retiring: &mut Retiring) -> Result<bool, Over> {
        let (mut orders, mut seen) = (self.orders.clone(), self.seen);
        let (handle, shared) = (self.handle.clone(), self.shared.clone());
        let tried = shared.secrets.resolve(&handle.spec());
        let outcome = {
            let mut opening = std::pin::pin!(self.open());
            loop {
                let order = tokio::select! {
                    end = &mut opened.connected.attend => return Err(Over::Ended(end)),
                    outcome = &mut opening => break outcome,
                    order = orders.wait_for(|order| order.stop || order.changes != seen) => {
                        order.map_or(STOP, |order| *order)
                    }
                };
                if order.stop {
                    return Err(Over::Stopped);
                }
                seen = order.changes;
                // The old session goes on meanwhile, and the new one may take its time.
                match adapt::adapt(&handle, &shared, &opened.connected.session, &mut opened.resolved) {
                    Adapted::Revoked(trouble) => return Err(Over::Revoked(trouble)),
                    // Whoever follows the changes next begins anew.
                    _ if shared.secrets.resolve(&handle.spec()) != tried => return Ok(true),
                    _ => {}
                }
            }
        };
        match outcome {
            Ok(mut new) => {
                self.handle.count_reconnect("changed");
                self.opened(&mut new);
                let old = std::mem::replace(opened, new);
                retiring.push(Box::pin(finish(self.handle.clone(), old.connected)));
                Ok(true)
            }
            Err(trouble) if trouble.is_revocation() => Err(Over::Revoked(trouble)),
            Err(trouble) => {
                warn!(server = %self.handle.name, problem = %trouble, "changed credentials do not work, the previous ones stay in use");
                self.handle.update_status(|status| status.note(&trouble));
                Ok(false)
            }
        }
    }

    /// Follows the changes of the configuration until the session ends, or must. `again`: when to look at the
    /// credentials once more, though nothing has changed.
    async fn follow(
        &self,
        opened: &mut Opened,
        retiring: &mut Retiring,
        seen: &mut u64,
        mut again: Option<Instant>,
    ) -> Over {
        let Opened { connected, resolved, spec } = opened;
        let session = connected.session.clone();
        let mut orders = self.orders.clone();
        // One future for all changes: none of them may make it forget what it was about to do.
        // With a waker of its own: each answer on the stream wakes this task, and need not look at all these waits.
        let mut watching = FuturesUnordered::from_iter([Box::pin(self.watch(&session, connected.capabilities))]);
        loop {
            let order = tokio::select! {
                biased;
                end = &mut connected.attend => return Over::Ended(end),
                order = orders.wait_for(|order| order.stop || order.changes != *seen) => {
                    order.map_or(STOP, |order| *order)
                }
                Some(()) = retiring.next() => continue,
                Some(over) = watching.next() => return over,
                () = sleep_until(again.unwrap_or_else(far_away)), if again.is_some() => *self.orders.borrow(),
            };
            *seen = order.changes;
            if order.stop {
                return Over::Stopped;
            }
            again = match adapt::adapt(&self.handle, &self.shared, &session, resolved) {
                Adapted::Kept => None,
                Adapted::Troubled => Some(credentials_again()),
                Adapted::Outdated => return Over::Changed,
                Adapted::Revoked(trouble) => return Over::Revoked(trouble),
            };
            let before = std::mem::replace(spec, self.handle.spec());
            if before.health_check != spec.health_check {
                // It would go on for long with what was configured before.
                self.handle.notices.suspect.notify_one();
            }
        }
    }

    fn opened(&self, opened: &mut Opened) {
        let Opened { connected, resolved, spec } = opened;
        let now = self.handle.spec();
        if !Arc::ptr_eq(spec, &now) {
            // No call may find what was configured when its opening began. What this means for the session itself is
            // looked at by whoever follows the changes.
            let _ = adapt::adapt(&self.handle, &self.shared, &connected.session, resolved);
        }
        let number = self.handle.open(connected.session.clone(), &now);
        self.handle.alive();
        let transport = match connected.spoken {
            Spoken::Sse => "sse",
            Spoken::Streamable | Spoken::Modern => "streamable-http",
        };
        self.handle.update_status(|status| {
            status.phase = Phase::Ready;
            status.transport = Some(transport);
            status.protocol_version = Some(connected.version.clone());
            status.server_info = connected.server_info.clone();
            status.clear(|_| true);
        });
        let offer = self.handle.offer();
        let (tools, prompts, resources) = (offer.tools.len(), offer.prompts.len(), offer.resources.len());
        info!(server = %self.handle.name, transport, version = %connected.version, tools, prompts, resources, session = number, "server is ready");
        self.shared.dirty.notify_one();
    }

    /// Reads the lists when they change, keeps it subscribed, and checks the health, until the health is lost.
    async fn watch(&self, session: &Session, capabilities: ServerCapabilities) -> Over {
        tokio::select! {
            over = self.keep_lists(session, capabilities) => match over {},
            over = self.keep_subscribed(session, capabilities) => match over {},
            over = self.keep_healthy(session) => over,
        }
    }

    /// Returns when the server is lost.
    async fn keep_healthy(&self, session: &Session) -> Over {
        let (mut bad, mut good) = (0, 0);
        loop {
            let check = self.handle.spec().health_check;
            let interval = backoff::jittered(Duration::from_secs(check.interval_seconds.into()));
            let suspected = tokio::select! {
                () = self.handle.notices.suspect.notified(), if bad == 0 => true,
                () = sleep(if bad == 0 { interval } else { RECHECK }) => bad > 0,
            };
            let passive = check.mode == HealthMode::Passive && !suspected;
            let fresh = passive || (!suspected && self.handle.since_success() < interval);
            let health = if fresh { Health::Good } else { Box::pin(self.check(session, check.mode)).await };
            if self.leads_back(session) {
                return Over::Loop;
            }
            match health {
                Health::Good => {
                    (bad, good) = (0, good + 1);
                    if good >= u32::from(check.healthy_threshold) {
                        self.set_phase(Phase::Ready);
                    }
                    if suspected {
                        // Its calls fail though it lives: it need not be asked for each of them.
                        sleep(RECHECK).await;
                    }
                }
                Health::Bad => {
                    (bad, good) = (bad + 1, 0);
                    self.set_phase(Phase::Degraded);
                    // The check may have taken long.
                    if bad >= u32::from(self.handle.spec().health_check.unhealthy_threshold) {
                        return Over::Unhealthy;
                    }
                }
                Health::Forgotten => return Over::Ended(End::Expired),
            }
        }
    }

    async fn check(&self, session: &Session, mode: HealthMode) -> Health {
        match session.check(mode == HealthMode::ListTools).await {
            Ok(()) => {
                self.handle.alive();
                Health::Good
            }
            Err(CallError::SessionExpired) => Health::Forgotten,
            Err(error) => {
                self.handle.update_status(|status| status.note(&Trouble::Check(error)));
                Health::Bad
            }
        }
    }

    fn end(&self, over: &Over) {
        self.shared.loops.note(&self.handle.key, None);
        let (reason, trouble) = match over {
            Over::Ended(End::Closed) => ("closed", Trouble::Closed),
            Over::Ended(End::Expired) => ("expired", Trouble::Forgotten),
            Over::Ended(End::Broken(why)) => ("broken", Trouble::Broken(why)),
            Over::Unhealthy => ("unhealthy", Trouble::Unhealthy),
            Over::Loop => ("broken", Trouble::Connect(ConnectError::Loop)),
            Over::Revoked(trouble) => ("revoked", trouble.clone()),
            Over::Changed | Over::Stopped => return,
        };
        if self.handle.is_retired() {
            return;
        }
        self.handle.count_reconnect(reason);
        warn!(server = %self.handle.name, problem = %trouble, "session ended");
        self.handle.update_status(|status| {
            status.phase = Phase::Backoff;
            status.note(&trouble);
        });
    }

    // --- small parts ---

    fn set_phase(&self, phase: Phase) {
        self.handle.update_status(|status| {
            status.phase = phase;
            if phase == Phase::Ready {
                status.clear(|reason| !is_about_credentials(reason) && reason != Reason::ListFailed);
            }
        });
    }
}

/// What to connect to, with these credentials, by which clients.
pub(crate) fn target_of(
    shared: &Shared,
    spec: &Server,
    resolved: &Resolved,
    capabilities: ClientCapabilities,
) -> Result<Target, Trouble> {
    let url = url_of(spec)?;
    let host = host_of(&url);
    let tls = tls(shared, &url, resolved)?;
    let authority = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_owned(),
    };
    let (step, idle) = limits(spec);
    let pool = HttpPool::new(Origin {
        port: url.port_or_known_default().unwrap_or(80),
        authority: authority.parse().map_err(|_| Trouble::Url)?,
        host,
        guard: shared.guard.clone(),
        tls,
        connect_timeout: step,
        idle_timeout: idle,
    });
    Ok(Target {
        url,
        transport: spec.transport,
        pinned: spec.protocol_version.clone(),
        headers: resolved.headers.clone(),
        pool,
        step,
        max_message: shared.max_message,
        capabilities,
        loops: shared.loops.clone(),
    })
}

/// How to speak TLS with these settings; none for plain http.
fn tls(shared: &Shared, url: &Url, resolved: &Resolved) -> Result<Option<TlsTarget>, Trouble> {
    if url.scheme() != "https" {
        return Ok(None);
    }
    Ok(Some(TlsTarget::new(&host_of(url), &resolved.tls, &shared.roots)?))
}

fn url_of(spec: &Server) -> Result<Url, Trouble> {
    Url::parse(&spec.url).map_err(|_| Trouble::Url)
}

fn is_about_credentials(reason: Reason) -> bool {
    reason.condition() == ConditionType::ResolvedRefs
}

fn credentials_again() -> Instant {
    Instant::now() + CREDENTIALS_AGAIN
}

/// The host without the brackets of an IPv6 address.
pub(crate) fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned()
}

fn far_away() -> Instant {
    Instant::now() + Duration::from_secs(86_400 * 365)
}
