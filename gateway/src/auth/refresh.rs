//! When keys are fetched: before they are too old, and when a token names a key that is not known here.
//!
//! What an issuer published last stays in use for as long as it is away.
use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::join_all;
use portcullis_runtime::Latch;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Authenticator, JwksError, KeySet,
    fetch::{FetchError, KeySource, Published},
    verify::{Name, Trust},
};
use crate::backoff::random;

/// Unknown keys make an issuer be asked so seldom, however many tokens name them.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// How long a request waits for keys that it has asked for.
const PATIENCE: Duration = Duration::from_secs(2);
/// An issuer has so long to answer before what was kept of it is used.
const KEPT_AFTER: Duration = Duration::from_secs(1);
/// First and longest pause after failures; each doubles the one before.
const RETRIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// An issuer whose keys are fetched.
pub(super) struct Remote {
    /// Where it stands in the list of issuers.
    pub(super) issuer: usize,
    pub(super) source: KeySource,
    gate: Mutex<Gate>,
    wanted: Notify,
    finished: watch::Sender<()>,
    /// Digest of what was published last.
    seen: Mutex<Option<Vec<u8>>>,
}

#[derive(Default)]
struct Gate {
    running: bool,
    asked: Option<Instant>,
}

/// Why what was fetched is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RefreshError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("what was fetched {0}")]
    Keys(#[from] JwksError),
    #[error("the cluster calls itself by the name of another configured issuer: remove that one")]
    Taken,
}

impl Remote {
    pub(super) fn new(issuer: usize, source: KeySource) -> Self {
        let (finished, _) = watch::channel(());
        Self { issuer, source, gate: Mutex::default(), wanted: Notify::new(), finished, seen: Mutex::default() }
    }

    /// Whether its keys are the cluster's.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.source, KeySource::Cluster { .. })
    }

    /// Asks for newer keys and waits until they are there. False: not now, or not soon enough.
    pub(super) async fn renewed(&self) -> bool {
        match self.ask() {
            Some(mut finished) => timeout(PATIENCE, finished.changed()).await.is_ok_and(|changed| changed.is_ok()),
            None => false,
        }
    }

    /// Joins the refresh that is under way, or starts one if the last that was asked for is long enough ago.
    fn ask(&self) -> Option<watch::Receiver<()>> {
        let mut gate = lock(&self.gate);
        if !gate.running {
            if gate.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
                return None;
            }
            *gate = Gate { running: true, asked: Some(Instant::now()) };
            self.wanted.notify_one();
        }
        // Made while the gate is held: the end of this very refresh cannot be missed.
        Some(self.finished.subscribe())
    }

    fn begin(&self) {
        lock(&self.gate).running = true;
    }

    fn end(&self) {
        let mut gate = lock(&self.gate);
        gate.running = false;
        self.finished.send_replace(());
    }
}

impl Authenticator {
    /// Keeps the keys of all issuers fresh, for ever. `latch` is released as soon as any issuer has keys.
    pub async fn keep_keys(&self, latch: Latch) {
        let latch = Mutex::new(Some(latch));
        let release = || {
            if let Some(latch) = self.has_keys().then(|| lock(&latch).take()).flatten() {
                latch.release();
            }
        };
        release();
        join_all(self.remotes.iter().map(|remote| self.keep(remote, &release))).await;
        // Without such issuers there is nothing to do; but a task that ends would end the process.
        std::future::pending().await
    }

    fn has_keys(&self) -> bool {
        self.issuers.iter().any(|issuer| !issuer.trust().keys.is_empty())
    }

    async fn keep(&self, remote: &Remote, release: &impl Fn()) {
        let mut failures = 0;
        loop {
            remote.begin();
            let outcome = self.refresh_or_use_kept(remote, release).await;
            release();
            remote.end();
            let pause = match outcome {
                Ok(max_age) => {
                    failures = 0;
                    max_age
                }
                Err(()) => {
                    failures += 1;
                    RETRIES.1.min(RETRIES.0 * 2u32.pow((failures - 1).min(10)))
                }
            };
            tokio::select! {
                // A little early, so that replicas do not ask all at once.
                () = sleep(pause.mul_f64(0.8 + 0.2 * random())) => {}
                () = remote.wanted.notified() => {}
            }
        }
    }

    /// One look at what the issuer publishes. While it does not answer and nothing is known of it, what was kept of it is
    /// used.
    async fn refresh_or_use_kept(&self, remote: &Remote, release: &impl Fn()) -> Result<Duration, ()> {
        let mut refreshing = std::pin::pin!(self.refresh(remote));
        let outcome = match timeout(KEPT_AFTER, &mut refreshing).await {
            Ok(outcome) => outcome,
            Err(_) => {
                self.use_kept(remote);
                release();
                refreshing.await
            }
        };
        if outcome.is_err() {
            self.use_kept(remote);
        }
        outcome
    }

    fn use_kept(&self, remote: &Remote) {
        let issuer = &self.issuers[remote.issuer];
        if !issuer.trust().keys.is_empty() {
            return;
        }
        let Some(kept) = remote.source.kept() else { return };
        let used = kept.map_err(|error| error.to_string());
        let used = used.and_then(|published| self.apply(remote, &published).map_err(|error| error.to_string()));
        match used {
            Ok(_) => warn!(
                issuer = issuer.label,
                "the API server has not answered, tokens are checked with the keys that the operator has kept"
            ),
            Err(problem) => warn!(issuer = issuer.label, problem, "the keys that the operator has kept are not used"),
        }
    }

    /// One look at what the issuer publishes; tells when to look again.
    async fn refresh(&self, remote: &Remote) -> Result<Duration, ()> {
        let issuer = &self.issuers[remote.issuer];
        let name = match &issuer.trust().name {
            Name::Is(name) => Some(name.clone()),
            _ => None,
        };
        let outcome = match remote.source.fetch(name.as_deref()).await {
            Ok(published) => self.apply(remote, &published).map(|changed| (changed, published.max_age)),
            Err(error) => Err(error.into()),
        };
        let label = issuer.label.as_str();
        let (outcome, result) = match outcome {
            Ok((changed, max_age)) => {
                self.metrics.keys_fetched_now(label);
                (if changed { "changed" } else { "unchanged" }, Ok(max_age))
            }
            Err(error) => {
                let has_keys = !issuer.trust().keys.is_empty();
                warn!(issuer = label, %error, has_keys, "the keys of an issuer cannot be fetched, the last ones stay in use");
                (if error.answered() { "bad_answer" } else { "unreachable" }, Err(()))
            }
        };
        self.metrics.keys_refreshes.with_label_values(&[label, outcome]).inc();
        result
    }

    /// Puts what was fetched to use, if it is not what is in use already.
    pub(super) fn apply(&self, remote: &Remote, published: &Published) -> Result<bool, RefreshError> {
        let seen = published.digest();
        if lock(&remote.seen).as_ref() == Some(&seen) {
            return Ok(false);
        }
        let issuer = &self.issuers[remote.issuer];
        let name = match &published.issuer {
            Some(name) if self.is_taken(name, remote.issuer) => return Err(RefreshError::Taken),
            Some(name) => Name::Is(name.clone()),
            None => issuer.trust().name.clone(),
        };
        let (keys, skipped) = KeySet::from_jwks(&published.keys, &published.accepted(&issuer.algorithms))?;
        for key in skipped {
            info!(issuer = issuer.label, "not used: {key}");
        }
        info!(issuer = issuer.label, keys = keys.0.len(), "the keys of an issuer are in use");
        self.trust(remote.issuer, Trust { name, keys });
        *lock(&remote.seen) = Some(seen);
        Ok(true)
    }

    /// Puts other keys of an issuer to use and forgets every remembered token.
    pub(super) fn trust(&self, issuer: usize, trust: Trust) {
        self.issuers[issuer].replace(trust);
        self.cache.forget_all();
    }

    fn is_taken(&self, name: &str, issuer: usize) -> bool {
        let others = self.issuers.iter().enumerate().filter(|(index, _)| *index != issuer);
        others.map(|(_, other)| other.trust()).any(|trust| matches!(&trust.name, Name::Is(other) if other == name))
    }
}

impl RefreshError {
    fn answered(&self) -> bool {
        match self {
            Self::Fetch(error) => error.answered(),
            Self::Keys(_) | Self::Taken => true,
        }
    }
}

impl Published {
    /// Of the accepted algorithms, those that the issuer says it uses.
    fn accepted(&self, algorithms: &[super::Algorithm]) -> Vec<super::Algorithm> {
        let used = |algorithm: &super::Algorithm| {
            self.algorithms.as_ref().is_none_or(|used| used.contains(&format!("{algorithm:?}")))
        };
        algorithms.iter().copied().filter(used).collect()
    }

    fn digest(&self) -> Vec<u8> {
        let whole = format!("{:?} {:?} ", self.issuer, self.algorithms);
        digest(&SHA256, &[whole.as_bytes(), &self.keys].concat()).as_ref().to_vec()
    }
}

/// A panic elsewhere leaves these whole, so their locks stay usable.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
