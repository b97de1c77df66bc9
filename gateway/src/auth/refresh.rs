//! Schedules the fetching of keys: before they are too old, and when a token names an unknown key.
//!
//! While an issuer is unreachable, its last published keys stay in use.
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use futures_util::future::join_all;
use parking_lot::Mutex;
use portcullis_runtime::Latch;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tracing::{info, warn};

use super::{
    Authenticator, JwksError, KeySet,
    fetch::{FetchError, IssuerMetadata, KeySource},
    verify::{Name, Trust},
};
use crate::util::backoff::random;

/// The minimum interval between queries for unknown keys, however many tokens name them.
const ASK_EVERY: Duration = Duration::from_secs(30);
/// How long a request waits for keys that it has requested.
const PATIENCE: Duration = Duration::from_secs(2);
/// The time for an issuer to respond before the kept copy is used.
const KEPT_AFTER: Duration = Duration::from_secs(1);
/// First and longest pause after failures; each doubles the previous one.
const RETRIES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// An issuer whose keys are fetched.
pub(super) struct Remote {
    /// Its position in the list of issuers.
    pub(super) issuer: usize,
    pub(super) source: KeySource,
    gate: Mutex<Gate>,
    wanted: Notify,
    finished: watch::Sender<()>,
    /// Digest of the last published keys.
    seen: Mutex<Option<Vec<u8>>>,
}

#[derive(Default)]
struct Gate {
    running: bool,
    asked: Option<Instant>,
}

/// The reason fetched keys are not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum RefreshError {
    #[error(transparent)]
    Fetch(#[from] FetchError),
    #[error("what was fetched {0}")]
    Keys(#[from] JwksError),
    #[error("the cluster is configured as another issuer too: remove that one")]
    Taken,
}

impl Remote {
    pub(super) fn new(issuer: usize, source: KeySource) -> Self {
        let (finished, _) = watch::channel(());
        Self { issuer, source, gate: Mutex::default(), wanted: Notify::new(), finished, seen: Mutex::default() }
    }

    /// Whether the keys are the cluster's.
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.source, KeySource::Cluster { .. })
    }

    /// Requests newer keys and waits until they are there. False: not now, or not soon enough.
    pub(super) async fn renewed(&self) -> bool {
        match self.ask() {
            Some(mut finished) => timeout(PATIENCE, finished.changed()).await.is_ok_and(|changed| changed.is_ok()),
            None => false,
        }
    }

    /// Joins the running refresh, or starts one if the last request for keys is old enough.
    fn ask(&self) -> Option<watch::Receiver<()>> {
        let mut gate = self.gate.lock();
        if !gate.running {
            if gate.asked.is_some_and(|asked| asked.elapsed() < ASK_EVERY) {
                return None;
            }
            *gate = Gate { running: true, asked: Some(Instant::now()) };
            self.wanted.notify_one();
        }
        // Subscribed while the lock is held: the end of this refresh cannot be missed.
        Some(self.finished.subscribe())
    }

    fn begin(&self) {
        self.gate.lock().running = true;
    }

    fn end(&self) {
        let mut gate = self.gate.lock();
        gate.running = false;
        self.finished.send_replace(());
    }
}

impl Authenticator {
    /// Keeps the keys of all issuers fresh, forever. `latch` is released as soon as any issuer has keys.
    pub(crate) async fn keep_keys(&self, latch: Latch) {
        let latch = Mutex::new(Some(latch));
        let release = || {
            if let Some(latch) = self.has_keys().then(|| latch.lock().take()).flatten() {
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
                // Slightly early, so that replicas do not all fetch at once.
                () = sleep(pause.mul_f64(0.8 + 0.2 * random())) => {}
                () = remote.wanted.notified() => {}
            }
        }
    }

    /// Fetches the issuer's metadata once. While the issuer does not respond and nothing is known of it, uses the kept
    /// copy.
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
                "the API server has not answered; the gateway checks tokens with the keys that the operator has kept"
            ),
            Err(problem) => warn!(issuer = issuer.label, problem, "cannot use the keys that the operator has kept"),
        }
    }

    /// Fetches the issuer's metadata once; returns when to fetch again.
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
                warn!(issuer = label, %error, has_keys, "cannot fetch the keys of an issuer; the last ones stay in use");
                (if error.answered() { "bad_answer" } else { "unreachable" }, Err(()))
            }
        };
        self.metrics.keys_refreshes.with_label_values(&[label, outcome]).inc();
        result
    }

    /// Applies fetched metadata, unless it is in use already.
    pub(super) fn apply(&self, remote: &Remote, published: &IssuerMetadata) -> Result<bool, RefreshError> {
        let seen = published.digest();
        if remote.seen.lock().as_ref() == Some(&seen) {
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
        *remote.seen.lock() = Some(seen);
        Ok(true)
    }

    /// Replaces the keys of an issuer and clears the token cache.
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

impl IssuerMetadata {
    /// The accepted algorithms that the issuer uses, by its own metadata.
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
