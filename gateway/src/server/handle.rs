//! One server as calls see it: its session, load and health. Shared by the call path and the server's task.

mod change_mark;
mod ejection;
mod in_force;
mod known;
mod offer;
mod series;
mod status;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use parking_lot::{Mutex, MutexGuard};
use portcullis_access::DENIAL_REASONS;
use portcullis_crds::mcpserver::{InstructionsMode, ServingState};
use portcullis_crds::{Reason, Server, ServerKey};
use smallvec::SmallVec;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

pub(crate) use self::change_mark::ChangeMark;
use self::ejection::Ejection;
use self::in_force::InForce;
use self::known::KnownLists;
pub(crate) use self::known::Lists;
pub(crate) use self::offer::Offer;
pub use self::series::{Answered, Count, RECONNECT_REASONS, Series};
pub(crate) use self::status::{Phase, Status};
use crate::client_sessions::Clients;
use crate::credentials::CredentialError;
use crate::offer::definition::Problems;
use crate::offer::item::Kind;
use crate::outbound::{CallerTerms, OutboundError};
use crate::server::concurrency_limit::{ConcurrencyLimit, Permit};
use crate::server::farewells::Farewells;
use crate::server::problem::ServerProblem;
use crate::server::status_changes::StatusChanges;
use crate::server::subscriptions::Subscriptions;
use crate::telemetry::metrics::Metrics;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::upstream::{Notices, Session};

/// The longest wait for a permit of a busy server that has failed lately.
const SLOT_WAIT_FAILED: Duration = Duration::from_secs(1);

/// Exchanges that fail for this long are a problem of the server.
const LASTING_FAILURE: Duration = Duration::from_secs(3);

/// One server.
pub(crate) struct Handle {
    /// The key of the server.
    pub(crate) key: ServerKey,
    /// Its public name.
    pub(crate) name: String,
    /// The notices of its sessions.
    pub(crate) notices: Arc<Notices>,
    /// Its resources to which callers are subscribed.
    pub(crate) subscriptions: Subscriptions,
    /// Its tasks of which callers want to be told, by its own ids.
    pub(crate) tasks: Subscriptions,
    /// What is left to tell it when callers have gone.
    pub(crate) farewells: Farewells,
    spec: ArcSwap<Server>,
    caller_terms: ArcSwapOption<CallerTerms>,
    /// Since when no token is exchanged for any caller.
    exchange_fails: Mutex<Option<Instant>>,
    live: ArcSwapOption<OpenSession>,
    opened: watch::Sender<u64>,
    offer: ArcSwap<Offer>,
    /// The name of its software in the newest handshake.
    software: Mutex<Option<Arc<str>>>,
    /// The extensions that it declared in the newest handshake.
    declared: Mutex<Extensions>,
    /// The offer comes from a session of this handle, not from before a restart.
    listed_itself: AtomicBool,
    slots: ConcurrencyLimit,
    ejection: Ejection,
    degraded: AtomicBool,
    retired: AtomicBool,
    status: Mutex<Status>,
    known: Mutex<KnownLists>,
    in_force: Mutex<InForce>,
    /// Counts what may have changed the lists that it shows single callers.
    caller_lists: AtomicU64,
    change: ChangeMark,
    /// Its client sessions, if it is configured to have them.
    clients: Option<Arc<Clients>>,
    /// Its counters.
    pub(crate) series: Series,
}

/// An open session and its number.
pub(crate) struct OpenSession {
    /// The session.
    pub(crate) session: Arc<Session>,
    /// Counts the sessions of this server from 1.
    pub(crate) number: u64,
}

/// A permit that an answer holds until it is written, so that a slow reader counts as a running call.
pub(crate) struct HeldPermit(Arc<Handle>);

/// The permits that an answer holds.
pub(crate) type HeldPermits = SmallVec<[HeldPermit; 1]>;

impl HeldPermit {
    /// Keeps a permit of this server.
    pub(crate) fn of(server: &Arc<Handle>, slot: Permit<'_>) -> Self {
        slot.keep();
        Self(server.clone())
    }
}

impl Drop for HeldPermit {
    fn drop(&mut self) {
        self.0.slots.leave();
    }
}

// === impl Handle ===

impl Handle {
    /// A newly configured server.
    pub(crate) fn new(spec: impl Into<Arc<Server>>, metrics: &Metrics) -> Self {
        let spec = spec.into();
        let name = spec.name.clone();
        let phase = if spec.state == ServingState::Disabled { Phase::Disabled } else { Phase::Connecting };
        Self {
            key: spec.key.clone(),
            notices: Arc::default(),
            subscriptions: Subscriptions::default(),
            tasks: Subscriptions::default(),
            farewells: Farewells::default(),
            slots: ConcurrencyLimit::new(spec.limits.max_concurrent_requests),
            in_force: Mutex::new(InForce::new(&spec)),
            caller_terms: ArcSwapOption::new(CallerTerms::of(&spec).map(Arc::new)),
            exchange_fails: Mutex::default(),
            spec: ArcSwap::new(spec),
            live: ArcSwapOption::empty(),
            opened: watch::Sender::new(0),
            offer: ArcSwap::default(),
            software: Mutex::default(),
            declared: Mutex::default(),
            listed_itself: AtomicBool::new(false),
            ejection: Ejection::default(),
            degraded: AtomicBool::new(false),
            retired: AtomicBool::new(false),
            status: Mutex::new(Status::new(phase)),
            known: Mutex::default(),
            caller_lists: AtomicU64::new(0),
            change: ChangeMark::default(),
            clients: None,
            series: Series::new(&name, metrics),
            name,
        }
    }

    /// The same, marking itself in `changes` when its status may have changed.
    #[must_use]
    pub(crate) fn telling(self, whom: Arc<StatusChanges>) -> Self {
        Self { change: ChangeMark::of(whom), ..self }
    }

    /// The same, with a session for each client.
    #[must_use]
    pub(crate) fn with_clients(self, clients: Arc<Clients>) -> Self {
        Self { clients: Some(clients), ..self }
    }

    /// Its client sessions, if it is configured to have them.
    pub(crate) fn clients(&self) -> Option<&Arc<Clients>> {
        self.clients.as_ref()
    }

    /// The current configuration.
    pub(crate) fn spec(&self) -> Arc<Server> {
        self.spec.load_full()
    }

    /// How it is shown who makes each call, if it is.
    pub(crate) fn caller_terms(&self) -> Option<Arc<CallerTerms>> {
        self.caller_terms.load_full()
    }

    /// Records whether a token could be exchanged for a caller's. What lasts is in the status.
    pub(crate) fn note_exchange(&self, outcome: Result<(), &OutboundError>) {
        let mut since = self.exchange_fails.lock();
        match outcome {
            Ok(()) => {
                if since.take().is_some() {
                    self.update_status(|status| status.clear(|reason| reason == Reason::ExchangeFailed));
                }
            }
            Err(error) if error.is_of_the_server() => {
                let began = *since.get_or_insert_with(Instant::now);
                if began.elapsed() >= LASTING_FAILURE {
                    let problem = ServerProblem::Credential(CredentialError::Outbound(error.clone()));
                    self.update_status(|status| status.note(&problem));
                }
            }
            Err(_) => {}
        }
    }

    /// How long a call may stay without an answer or progress.
    pub(crate) fn silence(&self) -> Duration {
        Duration::from_secs(self.spec.load().timeouts.request_seconds.into())
    }

    /// Whether it receives calls that do not name it.
    pub(crate) fn weighs(&self) -> bool {
        self.spec.load().weight > 0
    }

    /// Adopts a changed configuration that needs no new session; true if this changes the offer.
    pub(crate) fn set_spec(&self, spec: Arc<Server>) -> bool {
        self.slots.set_limit(spec.limits.max_concurrent_requests);
        self.caller_terms.store(CallerTerms::of(&spec).map(Arc::new));
        let before = self.spec.swap(spec.clone());
        self.touch();
        (&before.tools, before.state) != (&spec.tools, spec.state) && self.renew(|_| ())
    }

    /// The open session.
    pub(crate) fn live(&self) -> Option<Arc<OpenSession>> {
        self.live.load_full()
    }

    /// Records a new session that sends what `spec` says. Returns its number. The server is tried again at once, but
    /// the next ejection stays a long one.
    pub(crate) fn open(&self, session: Arc<Session>, spec: &Arc<Server>) -> u64 {
        let number = *self.opened.borrow() + 1;
        // First: a caller that sees the session also sees what it sends.
        self.note_sent(spec);
        self.live.store(Some(Arc::new(OpenSession { session, number })));
        self.note_caller_lists();
        self.ejection.give_a_chance();
        self.opened.send_replace(number);
        self.touch();
        number
    }

    /// Records the end of the session.
    pub(crate) fn shut(&self) {
        self.live.store(None);
        self.touch();
    }

    /// Waits until a session newer than `number` is open.
    pub(crate) async fn newer_than(&self, number: u64, deadline: Instant) -> Option<Arc<OpenSession>> {
        let mut opened = self.opened.subscribe();
        timeout_at(deadline, opened.wait_for(|newest| *newest > number)).await.ok()?.ok()?;
        self.live()
    }

    /// Marks it as removed from the configuration; running calls must not bring its series back.
    pub(crate) fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether it is removed from the configuration.
    pub(crate) fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// Its part of the catalog.
    pub(crate) fn offer(&self) -> Arc<Offer> {
        self.offer.load_full()
    }

    /// Whether it declares resources, or lists some. Called by calls: examines no tool.
    pub(crate) fn says_resources(&self) -> bool {
        let offer = self.offer.load();
        offer.capabilities.resources || !offer.resources.is_empty() || !offer.templates.is_empty()
    }

    /// Replaces its offer, whatever it reported; true if this changes the offer.
    #[cfg(test)]
    pub(crate) fn set_offer(&self, offer: Offer) -> bool {
        let mut known = self.known();
        *known = KnownLists::of(&offer);
        self.store_offer(offer)
    }

    fn store_offer(&self, offer: Offer) -> bool {
        let changed = **self.offer.load() != offer;
        if changed {
            self.offer.store(Arc::new(offer));
            self.touch();
        }
        changed
    }

    /// Marks the offer as reported by the server itself.
    pub(crate) fn has_told(&self) {
        // After the offer: a reader that sees this sees the offer too.
        self.listed_itself.store(true, Ordering::Release);
    }

    /// Records the name of its software in a handshake.
    pub(crate) fn set_software(&self, name: Option<&str>) {
        *self.software.lock() = name.map(Into::into);
    }

    /// The name of its software in the newest handshake.
    pub(crate) fn software(&self) -> Option<Arc<str>> {
        self.software.lock().clone()
    }

    /// Whether the server itself reported the offer: one that was kept over a restart may be outdated.
    pub(crate) fn has_listed(&self) -> bool {
        self.listed_itself.load(Ordering::Acquire)
    }

    /// Whether it accepts new calls.
    pub(crate) fn is_usable(&self) -> bool {
        self.live.load().is_some() && self.spec.load().state == ServingState::Enabled
    }

    /// Whether others come first, because it failed often lately or asked for a pause.
    pub(crate) fn is_ejected(&self) -> bool {
        self.ejection.is_ejected()
    }

    /// Records that the server asked for a pause of this length: others come first meanwhile.
    pub(crate) fn leave_alone(&self, time: Duration) {
        self.ejection.leave_alone(time);
    }

    /// Records an answered check: the server lives, but its calls may still fail.
    pub(crate) fn alive(&self) {
        self.ejection.alive();
    }

    /// Time since the last answer.
    pub(crate) fn since_success(&self) -> Duration {
        self.ejection.since_success()
    }

    /// Records an answered call.
    pub(crate) fn succeeded(&self) {
        self.ejection.succeeded();
    }

    /// Records a call that failed because of the server.
    pub(crate) fn failed(&self) {
        if self.ejection.failed() {
            self.series.ejections.inc();
        }
        self.notices.suspect.notify_one();
    }

    /// Its running calls.
    pub(crate) fn outstanding(&self) -> u32 {
        self.slots.taken()
    }

    /// A permit for a call, if one is free and no call waits for it.
    pub(crate) fn slot(&self) -> Option<Permit<'_>> {
        self.slots.take()
    }

    /// Waits for a permit for a call of this caller.
    pub(crate) async fn wait_for_slot(&self, caller: u64, until: Instant) -> Option<Permit<'_>> {
        self.slots.wait(caller, until).await
    }

    /// How long a call waits for a permit: half of its time, because a burst of others is worth waiting for; at a
    /// server that has failed lately hardly at all, because its permits stay in use.
    pub(crate) fn patience(&self) -> Duration {
        if self.is_ejected() || self.is_degraded() { SLOT_WAIT_FAILED } else { self.silence() / 2 }
    }

    /// Whether its last health check failed: healthy servers come first.
    pub(crate) fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Relaxed)
    }

    /// Whether it has a tool of this name.
    pub(crate) fn offers_tool(&self, name: &str) -> bool {
        self.offer.load().of(Kind::Tools).binary_search_by(|item| (*item.name).cmp(name)).is_ok()
    }

    /// Counts a session that ended or could not be opened, for one of [`RECONNECT_REASONS`].
    pub(crate) fn count_reconnect(&self, reason: &str) {
        let place = RECONNECT_REASONS.iter().position(|known| *known == reason);
        place.and_then(|place| self.series.reconnects.get(place)).into_iter().for_each(Count::inc);
    }

    /// The counts for each of [`RECONNECT_REASONS`].
    pub(crate) fn reconnects(&self) -> impl Iterator<Item = u64> {
        self.series.reconnects.iter().map(Count::get)
    }

    /// Counts a call that policies denied, for one of [`portcullis_access::DENIAL_REASONS`].
    pub(crate) fn count_denial(&self, reason: &str) {
        let place = DENIAL_REASONS.iter().position(|known| *known == reason);
        place.and_then(|place| self.series.denials.get(place)).into_iter().for_each(Count::inc);
    }

    /// The counts for each of [`portcullis_access::DENIAL_REASONS`].
    pub(crate) fn denials(&self) -> impl Iterator<Item = u64> {
        self.series.denials.iter().map(Count::get)
    }

    /// Records how many of its items of a kind are invalid, duplicate or too many.
    pub(crate) fn note_left_out(&self, kind: Kind, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.series.left_out[kind as usize].store(count, Ordering::Relaxed);
    }

    /// Records the problems of a list.
    pub(crate) fn note_problems(&self, kind: Kind, problems: Problems) {
        self.series.problems[kind as usize].store(problems.count, Ordering::Relaxed);
        self.update_status(|status| status.problems[kind as usize] = Arc::new(problems));
    }

    /// The number of problems of its lists.
    pub(crate) fn problems(&self) -> u64 {
        self.series.problems.iter().map(|count| u64::from(count.load(Ordering::Relaxed))).sum()
    }

    /// How many of its items of a kind are invalid, duplicate or too many.
    pub(crate) fn left_out(&self, kind: Kind) -> u32 {
        self.series.left_out[kind as usize].load(Ordering::Relaxed)
    }

    /// Its messages that made no sense.
    pub(crate) fn dropped(&self) -> u64 {
        self.notices.dropped.load(Ordering::Relaxed)
    }

    /// Waits until it has no running calls.
    pub(crate) async fn drained(&self) {
        self.slots.unused().await;
    }

    /// Records the extensions that it declared in a handshake.
    pub(crate) fn set_declared(&self, extensions: Extensions) {
        *self.declared.lock() = extensions;
    }

    /// The extensions that it declared in the newest handshake.
    pub(crate) fn declared(&self) -> Extensions {
        self.declared.lock().clone()
    }

    /// The status for users.
    pub(crate) fn status(&self) -> Status {
        self.lock_status().clone()
    }

    /// What clients are told of it: its own instructions, none, or others.
    pub(crate) fn instructions(&self) -> Option<Arc<str>> {
        let spec = self.spec();
        match spec.instructions.mode {
            InstructionsMode::Pass => self.lock_status().instructions.clone(),
            InstructionsMode::Omit => None,
            InstructionsMode::Replace => spec.instructions.text.as_deref().map(Into::into),
        }
    }

    /// Its phase between connecting and ready.
    pub(crate) fn phase(&self) -> Phase {
        self.lock_status().phase
    }

    /// Changes the status for users.
    pub(crate) fn update_status(&self, change: impl FnOnce(&mut Status)) {
        let mut status = self.lock_status();
        let before = status.clone();
        change(&mut status);
        self.degraded.store(status.phase == Phase::Degraded, Ordering::Relaxed);
        if status.phase != before.phase {
            status.since = SystemTime::now();
        }
        if *status != before {
            self.touch();
        }
    }

    /// Marks that the status may have changed.
    pub(crate) fn touch(&self) {
        self.change.mark(&self.key);
    }

    /// The mark of its last visible change.
    pub(crate) fn change(&self) -> &ChangeMark {
        &self.change
    }

    fn lock_status(&self) -> MutexGuard<'_, Status> {
        self.status.lock()
    }
}
