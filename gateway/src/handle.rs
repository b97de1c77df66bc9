//! One server as calls see it: its session, its load, its health. Shared by the call path and the server's task.

mod in_force;
mod known;

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use arc_swap::{ArcSwap, ArcSwapOption};
use portcullis_crds::mcpserver::State;
use portcullis_crds::{Reason, Server, ServerKey};
use portcullis_runtime::workers::Parts;
use prometheus::{Histogram, HistogramVec};
use smallvec::SmallVec;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use self::in_force::InForce;
use self::known::Known;
pub use self::known::Lists;
use crate::clients::Clients;
use crate::definition::Problems;
use crate::item::{Items, Kind};
use crate::limit::{Slot, Slots};
use crate::metrics::tools::ToolCounts;
use crate::metrics::{Metrics, Outcome, Parted};
use crate::server::RECONNECT_REASONS;
use crate::subscriptions::Subscriptions;
use crate::touched::Touched;
use crate::trouble::Trouble;
use crate::upstream::{Notices, ServerCapabilities, Session};

/// Failures in a row after which a server is put last.
const EJECT_AFTER: u32 = 3;

/// The first pause of an ejected server; each further one is twice as long.
const FIRST_EJECTION: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_EJECTION: Duration = Duration::from_secs(30);

/// How long a call may wait for a place at a busy server that has failed lately.
const SLOT_WAIT_FAILED: Duration = Duration::from_secs(1);

/// A server that wants to be left alone is put last for no longer than this.
const LONGEST_REST: Duration = Duration::from_secs(60);

/// One server.
pub struct Handle {
    /// Which one.
    pub key: ServerKey,
    /// Its public name.
    pub name: String,
    /// What it tells and is told.
    pub notices: Arc<Notices>,
    /// Resources of it that callers want to hear of.
    pub subscriptions: Subscriptions,
    spec: ArcSwap<Server>,
    live: ArcSwapOption<Live>,
    opened: watch::Sender<u64>,
    offer: ArcSwap<Offer>,
    /// What it called itself in the newest handshake.
    software: Mutex<Option<Arc<str>>>,
    /// The offer is what a session of its own has told, not what was known from before a restart.
    listed_itself: AtomicBool,
    slots: Slots,
    failures: AtomicU32,
    ejections: AtomicU32,
    /// Milliseconds since `born`; 0: not ejected.
    ejected_until: AtomicU64,
    /// Until when it wants to be left alone, in the same way.
    rests_until: AtomicU64,
    last_success: AtomicU64,
    degraded: AtomicBool,
    born: Instant,
    retired: AtomicBool,
    status: Mutex<Status>,
    known: Mutex<Known>,
    in_force: Mutex<InForce>,
    told: Told,
    /// Sessions that clients have for themselves, if it is configured so.
    clients: Option<Arc<Clients>>,
    /// What is counted of it.
    pub series: Series,
}

/// What was told of it, and whom to tell that it may look different now.
#[derive(Default)]
struct Told {
    whom: Arc<Touched>,
    touched: AtomicBool,
    /// Number of its last visible change.
    stamp: AtomicU64,
    fingerprint: AtomicU64,
}

/// An open session, and which one it is.
pub struct Live {
    /// The session.
    pub session: Arc<Session>,
    /// Counts the sessions of this server from 1.
    pub number: u64,
}

/// What a server brings into the catalog; it keeps its names while the server is away.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Offer {
    /// Its tools.
    pub tools: Items,
    /// Its prompts.
    pub prompts: Items,
    /// Its resources.
    pub resources: Items,
    /// Its resource templates.
    pub templates: Items,
    /// What it says that it can do.
    pub capabilities: ServerCapabilities,
    /// What it calls itself (`serverInfo.name`), if it says so: replicas of one server say the same.
    pub software: Option<Arc<str>>,
    /// Whether all this is listed now.
    pub listed: bool,
}

impl Offer {
    /// Its items of one kind.
    pub fn of(&self, kind: Kind) -> &Items {
        match kind {
            Kind::Tools => &self.tools,
            Kind::Prompts => &self.prompts,
            Kind::Resources => &self.resources,
            Kind::Templates => &self.templates,
        }
    }

    /// The same, to be replaced.
    pub fn of_mut(&mut self, kind: Kind) -> &mut Items {
        match kind {
            Kind::Tools => &mut self.tools,
            Kind::Prompts => &mut self.prompts,
            Kind::Resources => &mut self.resources,
            Kind::Templates => &mut self.templates,
        }
    }

    /// Whether it can be asked for resources: it says so, lists some, or a tool of it names one.
    pub fn has_resources(&self) -> bool {
        let names_some = || self.tools.iter().any(|tool| !tool.links.is_empty());
        self.capabilities.resources || !self.resources.is_empty() || !self.templates.is_empty() || names_some()
    }
}

/// What people are shown of a server.
#[derive(Clone, Debug, PartialEq)]
pub struct Status {
    /// Where it is between connecting and ready.
    pub phase: Phase,
    /// Since when.
    pub since: SystemTime,
    /// How it speaks: `sse` or `streamable-http`.
    pub transport: Option<&'static str>,
    /// The revision it speaks.
    pub protocol_version: Option<String>,
    /// Its own name and version.
    pub server_info: Option<(String, String)>,
    /// The last failure, safe to show.
    pub last_error: Option<String>,
    /// The same, as the status of an McpServer says it; none while nothing is wrong. A server that is ready can have
    /// one too: of its credentials, while the last good ones stay in use, or of its list of tools.
    pub reason: Option<Reason>,
    /// The list that cannot be read, where that is the last failure.
    pub unread: Option<Kind>,
    /// Tools left out because they are invalid, double or too many.
    pub left_out: usize,
    /// What is wrong with what it lists, for each kind.
    pub problems: [Arc<Problems>; Kind::ALL.len()],
}

/// A place at a server that an answer of it keeps until it is written, so that a slow reader counts as a call under way.
pub struct Place(Arc<Handle>);

/// The places that an answer keeps.
pub type Places = SmallVec<[Place; 1]>;

impl Place {
    /// Keeps a place that was taken at this server.
    pub fn of(server: &Arc<Handle>, slot: Slot<'_>) -> Self {
        slot.keep();
        Self(server.clone())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.slots.leave();
    }
}

/// Where a server is between connecting and ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first attempt.
    Connecting,
    /// Its session is open and its tools are listed.
    Ready,
    /// Its session is open, but a health check failed.
    Degraded,
    /// Waiting before the next attempt.
    Backoff,
    /// Not to be connected.
    Disabled,
}

/// What is counted of a server.
pub struct Series {
    /// Calls that were answered.
    pub ok: Answered,
    /// Calls of each tool.
    pub calls: ToolCounts,
    /// Calls tried elsewhere.
    pub failovers: Count,
    /// Times it was put last.
    pub ejections: Count,
    /// Sessions that ended or could not be opened, for each of [`RECONNECT_REASONS`].
    reconnects: [Count; RECONNECT_REASONS.len()],
    /// Items of each kind that are invalid, double or too many.
    left_out: [AtomicU32; Kind::ALL.len()],
    /// What is wrong with its items of each kind, whether they are left out or not.
    problems: [AtomicU32; Kind::ALL.len()],
}

/// How long calls took that were answered: a series that is looked up once, and is there once a call was.
pub struct Answered {
    server: String,
    all: Parted<HistogramVec>,
    parts: Parts<OnceLock<Histogram>>,
}

/// A number that grows.
#[derive(Default)]
pub struct Count(AtomicU64);

// === impl Handle ===

impl Handle {
    /// A server that has just been configured.
    pub fn new(spec: impl Into<Arc<Server>>, metrics: &Metrics) -> Self {
        let spec = spec.into();
        let name = spec.name.clone();
        let phase = if spec.state == State::Disabled { Phase::Disabled } else { Phase::Connecting };
        Self {
            key: spec.key.clone(),
            notices: Arc::default(),
            subscriptions: Subscriptions::default(),
            slots: Slots::new(spec.limits.max_concurrent_requests),
            in_force: Mutex::new(InForce::new(&spec)),
            spec: ArcSwap::new(spec),
            live: ArcSwapOption::empty(),
            opened: watch::Sender::new(0),
            offer: ArcSwap::default(),
            software: Mutex::default(),
            listed_itself: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            ejections: AtomicU32::new(0),
            ejected_until: AtomicU64::new(0),
            rests_until: AtomicU64::new(0),
            last_success: AtomicU64::new(0),
            degraded: AtomicBool::new(false),
            born: Instant::now(),
            retired: AtomicBool::new(false),
            status: Mutex::new(Status::new(phase)),
            known: Mutex::default(),
            told: Told::default(),
            clients: None,
            series: Series::new(&name, metrics),
            name,
        }
    }

    /// The same, telling `whom` when it may look different.
    #[must_use]
    pub fn telling(self, whom: Arc<Touched>) -> Self {
        Self { told: Told { whom, ..Told::default() }, ..self }
    }

    /// The same, with a session for each client.
    #[must_use]
    pub fn with_clients(self, clients: Arc<Clients>) -> Self {
        Self { clients: Some(clients), ..self }
    }

    /// Sessions that clients have for themselves, if it is configured so.
    pub fn clients(&self) -> Option<&Arc<Clients>> {
        self.clients.as_ref()
    }

    /// What is configured now.
    pub fn spec(&self) -> Arc<Server> {
        self.spec.load_full()
    }

    /// How long a call may stay without an answer or progress.
    pub fn silence(&self) -> Duration {
        Duration::from_secs(self.spec.load().timeouts.request_seconds.into())
    }

    /// Whether calls come to it that do not name it.
    pub fn weighs(&self) -> bool {
        self.spec.load().weight > 0
    }

    /// Takes over a changed configuration that the session can live with; true if it offers something else then.
    pub fn set_spec(&self, spec: Arc<Server>) -> bool {
        self.slots.set_limit(spec.limits.max_concurrent_requests);
        let before = self.spec.swap(spec.clone());
        self.touch();
        (&before.tools, before.state) != (&spec.tools, spec.state) && self.renew(|_| ())
    }

    /// The open session.
    pub fn live(&self) -> Option<Arc<Live>> {
        self.live.load_full()
    }

    /// A session was opened that sends what `spec` says. Returns its number. It gets its chance at once, but a pause after
    /// it stays a long one.
    pub fn open(&self, session: Arc<Session>, spec: &Arc<Server>) -> u64 {
        let number = *self.opened.borrow() + 1;
        // First: whoever sees the session sees what it sends.
        self.note_sent(spec);
        self.live.store(Some(Arc::new(Live { session, number })));
        self.failures.store(0, Ordering::Relaxed);
        self.ejected_until.store(0, Ordering::Relaxed);
        self.opened.send_replace(number);
        self.touch();
        number
    }

    /// The session is over.
    pub fn shut(&self) {
        self.live.store(None);
        self.touch();
    }

    /// Waits until a session younger than `number` is open.
    pub async fn newer_than(&self, number: u64, deadline: Instant) -> Option<Arc<Live>> {
        let mut opened = self.opened.subscribe();
        timeout_at(deadline, opened.wait_for(|newest| *newest > number)).await.ok()?.ok()?;
        self.live()
    }

    /// It is no longer configured; what still runs must not bring its series back.
    pub fn retire(&self) {
        self.retired.store(true, Ordering::Relaxed);
    }

    /// Whether it is no longer configured.
    pub fn is_retired(&self) -> bool {
        self.retired.load(Ordering::Relaxed)
    }

    /// What it brings into the catalog.
    pub fn offer(&self) -> Arc<Offer> {
        self.offer.load_full()
    }

    /// Whether it says that it has resources, or lists some. Asked on calls: looks at no tool.
    pub fn says_resources(&self) -> bool {
        let offer = self.offer.load();
        offer.capabilities.resources || !offer.resources.is_empty() || !offer.templates.is_empty()
    }

    /// Changes what it brings into the catalog, whatever it has told; true if that makes a difference.
    pub fn set_offer(&self, offer: Offer) -> bool {
        let mut known = self.known();
        *known = Known::of(&offer);
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

    /// Its offer is what it has told itself from now on.
    pub fn has_told(&self) {
        // After the offer: whoever sees this sees that too.
        self.listed_itself.store(true, Ordering::Release);
    }

    /// It has called itself so in a handshake.
    pub fn set_software(&self, name: Option<&str>) {
        *self.software.lock().unwrap_or_else(PoisonError::into_inner) = name.map(Into::into);
    }

    /// What it called itself in the newest handshake.
    pub fn software(&self) -> Option<Arc<str>> {
        self.software.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether its offer is what it has told itself: what a restart took over may not be what it has now.
    pub fn has_listed(&self) -> bool {
        self.listed_itself.load(Ordering::Acquire)
    }

    /// Whether it takes new calls.
    pub fn is_usable(&self) -> bool {
        self.live.load().is_some() && self.spec.load().state == State::Enabled
    }

    /// Whether it has failed so often lately, or wants to be left alone, that others come first.
    pub fn is_ejected(&self) -> bool {
        let until = [&self.ejected_until, &self.rests_until].map(|until| until.load(Ordering::Relaxed));
        until[0].max(until[1]) > self.now()
    }

    /// It says itself that it is not to be asked for so long: others come first meanwhile.
    pub fn leave_alone(&self, time: Duration) {
        let until = self.now() + millis(time.min(LONGEST_REST));
        self.rests_until.store(until, Ordering::Relaxed);
    }

    /// Calls it has now.
    pub fn outstanding(&self) -> u32 {
        self.slots.taken()
    }

    /// A place for a call, if there is one for which nobody waits.
    pub fn slot(&self) -> Option<Slot<'_>> {
        self.slots.take()
    }

    /// A place for a call of this caller as soon as one is free.
    pub async fn wait_for_slot(&self, caller: u64, until: Instant) -> Option<Slot<'_>> {
        self.slots.wait(caller, until).await
    }

    /// How long a call waits for a place: half of the time that it may take, for a burst that others have sent just before
    /// is worth waiting for; at a server that has failed lately hardly at all, because its places stay taken.
    pub fn patience(&self) -> Duration {
        if self.is_ejected() || self.is_degraded() { SLOT_WAIT_FAILED } else { self.silence() / 2 }
    }

    /// A check was answered: the server lives, which does not say that its calls work.
    pub fn alive(&self) {
        let now = self.now();
        // Not for each of many calls in a millisecond: other processors read what lies beside it.
        if self.last_success.load(Ordering::Relaxed) != now {
            self.last_success.store(now, Ordering::Relaxed);
        }
    }

    /// A call was answered.
    pub fn succeeded(&self) {
        self.alive();
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.ejections.load(Ordering::Relaxed) > 0 {
            self.ejected_until.store(0, Ordering::Relaxed);
            self.ejections.store(0, Ordering::Relaxed);
        }
    }

    /// A call failed for a reason that lies with the server.
    pub fn failed(&self) {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        if failures >= EJECT_AFTER {
            self.eject();
        }
        self.notices.suspect.notify_one();
    }

    /// Calls that fail together make one pause, not one each.
    fn eject(&self) {
        let (before, now) = (self.ejected_until.load(Ordering::Relaxed), self.now());
        let round = self.ejections.load(Ordering::Relaxed).min(10);
        let until = now + millis((FIRST_EJECTION * 2u32.pow(round)).min(LONGEST_EJECTION));
        let free = before <= now;
        if free && self.ejected_until.compare_exchange(before, until, Ordering::Relaxed, Ordering::Relaxed).is_ok() {
            self.ejections.fetch_add(1, Ordering::Relaxed);
            self.series.ejections.inc();
        }
    }

    /// Whether its last health check failed: the healthy ones come first.
    pub fn is_degraded(&self) -> bool {
        self.degraded.load(Ordering::Relaxed)
    }

    /// Time since the last answer.
    pub fn since_success(&self) -> Duration {
        Duration::from_millis(self.now().saturating_sub(self.last_success.load(Ordering::Relaxed)))
    }

    /// Whether it offers a tool under this name.
    pub fn offers_tool(&self, name: &str) -> bool {
        self.offer.load().of(Kind::Tools).binary_search_by(|item| (*item.name).cmp(name)).is_ok()
    }

    /// Counts that a session has ended, or could not be opened, for one of [`RECONNECT_REASONS`].
    pub fn count_reconnect(&self, reason: &str) {
        let place = RECONNECT_REASONS.iter().position(|known| *known == reason);
        place.and_then(|place| self.series.reconnects.get(place)).into_iter().for_each(Count::inc);
    }

    /// How often that was, for each of [`RECONNECT_REASONS`].
    pub fn reconnects(&self) -> impl Iterator<Item = u64> {
        self.series.reconnects.iter().map(Count::get)
    }

    /// So many of its items of a kind are invalid, double or too many.
    pub fn note_left_out(&self, kind: Kind, count: usize) {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        self.series.left_out[kind as usize].store(count, Ordering::Relaxed);
    }

    /// This is wrong with what it lists of a kind.
    pub fn note_problems(&self, kind: Kind, problems: Problems) {
        self.series.problems[kind as usize].store(problems.count, Ordering::Relaxed);
        self.update_status(|status| status.problems[kind as usize] = Arc::new(problems));
    }

    /// How much is wrong with what it lists.
    pub fn problems(&self) -> u64 {
        self.series.problems.iter().map(|count| u64::from(count.load(Ordering::Relaxed))).sum()
    }

    /// How many of its items of a kind are invalid, double or too many.
    pub fn left_out(&self, kind: Kind) -> u32 {
        self.series.left_out[kind as usize].load(Ordering::Relaxed)
    }

    /// Messages of it that made no sense.
    pub fn dropped(&self) -> u64 {
        self.notices.dropped.load(Ordering::Relaxed)
    }

    /// Waits until it has no calls.
    pub async fn drained(&self) {
        self.slots.unused().await;
    }

    /// What people are shown.
    pub fn status(&self) -> Status {
        self.lock_status().clone()
    }

    /// Where it is between connecting and ready.
    pub fn phase(&self) -> Phase {
        self.lock_status().phase
    }

    /// Changes what people are shown.
    pub fn update_status(&self, change: impl FnOnce(&mut Status)) {
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

    /// It may look different now.
    pub fn touch(&self) {
        if !self.told.touched.swap(true, Ordering::AcqRel) {
            self.told.whom.mark(|marks| marks.servers.push(self.key.clone()));
        }
    }

    /// It is about to be looked at: what changes from now on is another change.
    pub fn untouch(&self) {
        self.told.touched.store(false, Ordering::Release);
    }

    /// The number of its last visible change.
    pub fn stamped(&self) -> u64 {
        self.told.stamp.load(Ordering::Acquire)
    }

    /// It looks like this in change number `change`; true if it looked different before.
    pub fn stamp(&self, fingerprint: u64, change: u64) -> bool {
        let differs = self.told.fingerprint.swap(fingerprint, Ordering::AcqRel) != fingerprint;
        if differs {
            self.told.stamp.store(change, Ordering::Release);
        }
        differs
    }

    fn lock_status(&self) -> MutexGuard<'_, Status> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> u64 {
        millis(self.born.elapsed()) + 1
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl Series {
    fn new(server: &str, metrics: &Metrics) -> Self {
        let all = metrics.call_duration.clone();
        Self {
            ok: Answered { server: server.to_owned(), all, parts: Parts::default() },
            calls: ToolCounts::default(),
            failovers: Count::default(),
            ejections: Count::default(),
            reconnects: Default::default(),
            left_out: Default::default(),
            problems: Default::default(),
        }
    }
}

impl Answered {
    /// A call has taken so long.
    pub fn observe(&self, seconds: f64) {
        let labels = [self.server.as_str(), Outcome::Ok.as_str()];
        self.parts.own().get_or_init(|| self.all.own().with_label_values(&labels)).observe(seconds);
    }
}

impl Count {
    /// One more.
    pub fn inc(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// How many.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Status {
    /// Something is wrong.
    pub fn note(&mut self, trouble: &Trouble) {
        self.last_error = Some(trouble.to_string());
        self.reason = Some(trouble.reason());
        self.unread = if let Trouble::List(error) = trouble { Some(error.kind) } else { None };
    }

    /// What is wrong with what it lists, of all kinds.
    pub fn all_problems(&self) -> Problems {
        let mut all = Problems::default();
        self.problems.iter().for_each(|problems| all.extend(problems));
        all
    }

    /// These lists can be read.
    pub fn clear_lists(&mut self, kinds: &[Kind]) {
        let about_these = self.unread.is_none_or(|unread| kinds.contains(&unread));
        self.clear(|reason| reason == Reason::ListFailed && about_these);
    }

    /// What is wrong no longer is, if this holds for its reason.
    pub fn clear(&mut self, solved: impl FnOnce(Reason) -> bool) {
        if self.reason.is_some_and(solved) {
            (self.last_error, self.reason, self.unread) = (None, None, None);
        }
    }

    fn new(phase: Phase) -> Self {
        Self {
            phase,
            since: SystemTime::now(),
            transport: None,
            protocol_version: None,
            server_info: None,
            last_error: None,
            reason: None,
            unread: None,
            left_out: 0,
            problems: Default::default(),
        }
    }
}

impl Phase {
    /// The word people are shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Backoff => "backoff",
            Self::Disabled => "disabled",
        }
    }
}
