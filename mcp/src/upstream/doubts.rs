//! Checks whether a server still knows a session: once for all calls that doubt it, at a bounded rate.
//!
//! A call whose answer suggests a lost session waits for a check that began after that answer. Only the check decides:
//! it sends requests in the same session that no caller can influence.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use ::http::HeaderMap;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep_until};

use super::call::{Call, CallError};
use super::core::Core;
use super::message::Reply;
use super::refusal::Denial;
use super::timing::Timing;

/// From the end of one check to the start of the next.
const DISTANCE: Duration = Duration::from_millis(500);

/// A check is answered at once or not at all.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// The request that every server has answered before its session is used.
pub(super) const LIST: &str = "tools/list";

/// An answer, and the server's words if it is a refusal.
pub(super) struct Heard {
    pub(super) answer: Result<Reply, CallError>,
    pub(super) refusal: Option<Box<Denial>>,
}

/// Something that sends requests in a session: both transports.
pub(super) trait Hears: Sync {
    fn hear(&self, call: &Call<'_>, timing: &Arc<Timing>) -> impl Future<Output = Heard> + Send;
    fn core(&self) -> &Core;
    fn is_modern(&self) -> bool;
}

/// The result of checking a session.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// The server knows the session.
    Known,
    /// The server does not know the session, and said so.
    Lost(Arc<[Denial]>),
    /// The server answers the list in any session, but refuses a ping, which it answered before, with these words.
    Split(Denial),
    /// The check was inconclusive.
    Unclear,
}

/// The doubts of one session.
pub(super) struct Doubts {
    raised: Notify,
    /// The server ended the session in a way that the specification defines.
    expired: Notify,
    /// The number of the check that a call waits for, and of the one that has to be thorough.
    wanted: AtomicU64,
    wanted_thorough: AtomicU64,
    /// The number of checks that have begun.
    begun: AtomicU64,
    settled: watch::Sender<Settled>,
    /// The server has answered a ping in this session.
    knows_ping: AtomicBool,
    /// The server refuses pings in sessions that it knows.
    refuses_ping: AtomicBool,
}

struct Settled {
    /// The number of the last check.
    number: u64,
    verdict: Verdict,
    /// No other check will follow.
    is_last: bool,
}

/// The result of one request of a check.
enum Sign {
    Lives,
    /// With whether the refusal suggests a lost session, and the error that it means otherwise.
    Refused(Denial, bool, CallError),
    Silent(CallError),
}

/// Announces that no further checks run.
struct LastCheckGuard<'a>(&'a Doubts);

// === impl Heard ===

impl Heard {
    /// Records an answer of `method`, which is complete.
    pub(super) fn of(answer: Result<Reply, CallError>, method: &str) -> Self {
        let refusal = match &answer {
            Ok(Reply::Error(error)) => Some(Box::new(Denial::of_error(error, method))),
            _ => None,
        };
        Self { answer, refusal }
    }
}

impl From<CallError> for Heard {
    fn from(error: CallError) -> Self {
        Self { answer: Err(error), refusal: None }
    }
}

// === impl Doubts ===

impl Default for Doubts {
    fn default() -> Self {
        Self {
            raised: Notify::new(),
            expired: Notify::new(),
            wanted: AtomicU64::new(0),
            wanted_thorough: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            settled: watch::Sender::new(Settled { number: 0, verdict: Verdict::Unclear, is_last: false }),
            knows_ping: AtomicBool::new(false),
            refuses_ping: AtomicBool::new(false),
        }
    }
}

impl Doubts {
    /// Ends the session as the specification defines: no check is needed.
    pub(super) fn expire(&self) {
        self.lose(Vec::new());
        self.expired.notify_one();
    }

    /// Whether the server no longer knows the session.
    pub(super) fn is_lost(&self) -> bool {
        matches!(self.settled.borrow().verdict, Verdict::Lost(_))
    }

    /// The result of a check that begins after now. `thorough`: an answered ping is not enough.
    pub(super) async fn verdict(&self, thorough: bool) -> Verdict {
        let mut settled = self.settled.subscribe();
        let wanted = self.begun.load(Ordering::SeqCst) + 1;
        if thorough {
            self.wanted_thorough.fetch_max(wanted, Ordering::SeqCst);
        }
        self.wanted.fetch_max(wanted, Ordering::SeqCst);
        self.raised.notify_one();
        let settled = settled.wait_for(|settled| settled.is_last || settled.number >= wanted).await;
        settled.map_or(Verdict::Unclear, |settled| settled.verdict.clone())
    }

    /// Records that the server answered the list; `ping_was_refused`: but not the ping.
    fn note_list_alone(&self, ping_was_refused: bool) {
        if ping_was_refused && !self.knows_ping.load(Ordering::Relaxed) {
            self.refuses_ping.store(true, Ordering::Relaxed);
        }
    }

    fn settle(&self, number: u64, verdict: Verdict) {
        self.settled.send_if_modified(|settled| {
            if settled.is_last {
                return false;
            }
            let is_last = matches!(verdict, Verdict::Lost(_));
            *settled = Settled { number, verdict, is_last };
            true
        });
    }

    /// Records that a check found the session lost, so that calls that doubt it learn this too.
    fn lose(&self, said: Vec<Denial>) -> CallError {
        self.settle(u64::MAX, Verdict::Lost(said.into()));
        CallError::SessionExpired
    }
}

impl Drop for LastCheckGuard<'_> {
    fn drop(&mut self) {
        self.0.settled.send_if_modified(|settled| !std::mem::replace(&mut settled.is_last, true));
    }
}

// === checks ===

/// Runs the requested checks until the session is lost.
pub(super) async fn settle_doubts(session: &impl Hears) {
    let doubts = &session.core().doubts;
    let _over = LastCheckGuard(doubts);
    tokio::select! {
        () = doubts.expired.notified() => {}
        () = check_doubts(session, doubts) => {}
    }
}

async fn check_doubts(session: &impl Hears, doubts: &Doubts) {
    let mut earliest = Instant::now();
    loop {
        doubts.raised.notified().await;
        // Doubts raised before the last check began are settled.
        if doubts.wanted.load(Ordering::SeqCst) <= doubts.begun.load(Ordering::SeqCst) {
            continue;
        }
        sleep_until(earliest).await;
        let number = doubts.begun.fetch_add(1, Ordering::SeqCst) + 1;
        let thorough = doubts.wanted_thorough.load(Ordering::SeqCst) >= number;
        let verdict = Box::pin(look(session, doubts, thorough)).await;
        let is_lost = matches!(verdict, Verdict::Lost(_));
        doubts.settle(number, verdict);
        if is_lost {
            return;
        }
        earliest = Instant::now() + DISTANCE;
    }
}

/// Sends a ping and, unless its answer is enough, requests the list of tools.
async fn look(session: &impl Hears, doubts: &Doubts, thorough: bool) -> Verdict {
    let mut said = Vec::new();
    let mut ping_says_lost = false;
    if !doubts.refuses_ping.load(Ordering::Relaxed) {
        match sign(session, ping_method(session)).await {
            Sign::Lives if thorough => {}
            Sign::Lives => return Verdict::Known,
            Sign::Silent(_) => return Verdict::Unclear,
            Sign::Refused(refusal, sounds_lost, _) => {
                ping_says_lost = sounds_lost;
                said.push(refusal);
            }
        }
    }
    match sign(session, LIST).await {
        Sign::Silent(_) => Verdict::Unclear,
        Sign::Lives => match said.pop() {
            Some(said) if ping_says_lost && doubts.knows_ping.load(Ordering::Relaxed) => Verdict::Split(said),
            said => {
                doubts.note_list_alone(said.is_some());
                Verdict::Known
            }
        },
        Sign::Refused(refusal, sounds_lost, _) => {
            // If a server answers pings, its refusal of the list must be explicit: the list may fail for other reasons.
            let is_lost = if said.is_empty() { refusal.says_lost() } else { sounds_lost };
            said.push(refusal);
            if is_lost { Verdict::Lost(said.into()) } else { Verdict::Unclear }
        }
    }
}

/// Checks with this method whether the server lives, knows the session, and still speaks the revision of its handshake.
///
/// A refused ping decides nothing: many servers do not support ping, each in its own way.
///
/// # Errors
/// [`CallError::SessionExpired`] if the session is lost; others if the server does not answer.
pub(super) async fn check(session: &impl Hears, by_list: bool) -> Result<(), CallError> {
    let doubts = &session.core().doubts;
    let ping = ping_method(session);
    let pings = !doubts.refuses_ping.load(Ordering::Relaxed);
    let (first, second) = match (by_list, pings) {
        (false, true) => (ping, Some(LIST)),
        (true, true) => (LIST, Some(ping)),
        (_, false) => (LIST, None),
    };
    let (said, error) = match sign(session, first).await {
        Sign::Lives => return Ok(()),
        Sign::Silent(error) => return Err(error),
        Sign::Refused(said, _, error) => (said, error),
    };
    let Some(second) = second else {
        return Err(if said.says_lost() { doubts.lose(vec![said]) } else { error });
    };
    match sign(session, second).await {
        Sign::Silent(error) => Err(error),
        Sign::Lives => {
            doubts.note_list_alone(first != LIST);
            Ok(())
        }
        Sign::Refused(more, true, _) => Err(doubts.lose(vec![said, more])),
        Sign::Refused(_, false, error) => Err(error),
    }
}

/// Whether a request belongs to a check: its answer is no reason for another check.
pub(super) fn is_check(method: &str) -> bool {
    matches!(method, "ping" | "server/discover")
}

/// The method that checks whether the server lives: 2026-07-28 has no `ping`.
fn ping_method(session: &impl Hears) -> &'static str {
    if session.is_modern() { "server/discover" } else { "ping" }
}

async fn sign(session: &impl Hears, method: &'static str) -> Sign {
    let none = HeaderMap::new();
    let call = Call::of_our_own(method, &[], &none);
    let Heard { answer, refusal } = session.hear(&call, &Arc::new(Timing::new(CHECK_LIMIT))).await;
    let sign = match (answer, refusal) {
        (Ok(Reply::Result(_)) | Err(CallError::Unfit(_) | CallError::TooLarge(_)), _) => Sign::Lives,
        (Ok(Reply::Error(error)), Some(said)) => {
            let differs = tells_of_another_revision(session.is_modern(), method, error.code);
            match differs || said.is_suspicious() {
                true => Sign::Refused(*said, true, CallError::Nonsense("its answers no longer fit this session")),
                // An error is an answer too: some servers do not support ping.
                false => Sign::Lives,
            }
        }
        // The server lives and says so, even if only to limit the rate.
        (Ok(Reply::Error(_)) | Err(CallError::Refused(429) | CallError::Later { status: 429, .. }), _) => Sign::Lives,
        (Err(error), Some(said)) => {
            let sounds_lost = said.is_suspicious();
            Sign::Refused(*said, sounds_lost, error)
        }
        (Err(error @ CallError::Nonsense(_)), None) => {
            Sign::Refused(Denial::of_status(200, None, "", method, (false, false)), false, error)
        }
        (Err(error), None) => Sign::Silent(error),
    };
    if matches!(sign, Sign::Lives) && method != LIST {
        session.core().doubts.knows_ping.store(true, Ordering::Relaxed);
    }
    sign
}

/// Whether the answer to a well-formed check comes from a server that expects another revision: another server has
/// replaced the one with which the session was opened.
fn tells_of_another_revision(is_modern: bool, method: &str, code: i64) -> bool {
    match code {
        // Of 2026-07-28: the request lacks something.
        -32602 | -32022..=-32020 => true,
        // Of earlier revisions: the session is missing.
        -32600 | -32000 => is_modern,
        -32601 => is_modern && method == "server/discover",
        _ => false,
    }
}
