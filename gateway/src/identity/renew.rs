//! Requests tokens when servers need them and when they are due, and ends those that have expired.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep_until};
use tracing::warn;

use super::issue::Issued;
use super::{IdentityError, Issuer, Tokens};
use crate::telemetry::metrics::Metrics;
use crate::util::backoff::random;

/// The limit for concurrent requests.
const REQUESTS: usize = 8;

/// The longest sleep: nothing else is to be done meanwhile.
const LONGEST: Duration = Duration::from_secs(3600);

/// Keeps the tokens until `stop`.
pub(crate) async fn run(tokens: &Tokens, issuer: &Issuer, metrics: &Metrics, stop: impl Future<Output = ()>) {
    tokio::select! {
        () = keep(tokens, issuer, metrics) => {}
        () = stop => {}
    }
}

async fn keep(tokens: &Tokens, issuer: &Issuer, metrics: &Metrics) {
    let mut asking = FuturesUnordered::new();
    // The last problem, so that each is logged once.
    let mut told: Option<IdentityError> = None;
    loop {
        for audience in tokens.take_due(REQUESTS.saturating_sub(asking.len())) {
            asking.push(request(issuer, audience));
        }
        let next = tokens.expire(asking.len() < REQUESTS).unwrap_or_else(|| Instant::now() + LONGEST);
        tokio::select! {
            Some((audience, asked, result)) = asking.next() => {
                metrics.token_requests.with_label_values(&[outcome(&result)]).inc();
                note(&mut told, result.as_ref().err());
                tokens.settle(&audience, asked, result, random());
            }
            () = sleep_until(next) => {}
            () = tokens.wanted.notified() => {}
        }
    }
}

async fn request(issuer: &Issuer, audience: Arc<str>) -> (Arc<str>, Instant, Result<Issued, IdentityError>) {
    let asked = Instant::now();
    let result = issuer.issue(&audience).await;
    (audience, asked, result)
}

fn outcome(result: &Result<Issued, IdentityError>) -> &'static str {
    match result {
        Ok(_) => "issued",
        Err(IdentityError::Unavailable { .. }) => "unavailable",
        Err(_) => "refused",
    }
}

fn note(told: &mut Option<IdentityError>, problem: Option<&IdentityError>) {
    if let Some(problem) = problem.filter(|problem| told.as_ref() != Some(*problem)) {
        warn!(%problem, "cannot get a token for servers");
    }
    *told = problem.cloned();
}
