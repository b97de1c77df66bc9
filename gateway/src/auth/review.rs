//! Asks the cluster whether it still accepts a valid token: once in 30 s for each token.
use std::{collections::HashMap, time::Duration};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use http::{HeaderValue, Method, Request, Uri, header};
use parking_lot::Mutex;
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::{
    AuthError,
    cache::{CAPACITY, Digest, MAX_AGE_REVIEWED},
    fetch::ask_cluster,
};
use crate::telemetry::metrics::Metrics;

/// The limit for a whole review.
const DEADLINE: Duration = Duration::from_secs(5);
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

type ReviewResult = Result<(), AuthError>;
type Asking = Shared<BoxFuture<'static, ReviewResult>>;

/// Reviews tokens at the API server.
pub(super) struct Reviewer {
    client: kube::Client,
    audience: String,
    metrics: Metrics,
    /// Owned by the waiting requests, not here: a review for which no request waits ends.
    asking: Mutex<HashMap<Digest, WeakShared<BoxFuture<'static, ReviewResult>>>>,
    /// Tokens that the cluster has refused, and when.
    refused: Mutex<HashMap<Digest, Instant>>,
}

/// The relevant members of the response. The rest repeats the token.
#[derive(Deserialize)]
struct Review {
    status: ReviewStatus,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ReviewStatus {
    authenticated: bool,
    audiences: Vec<String>,
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct User {
    username: String,
}

impl Reviewer {
    pub(super) fn new(client: kube::Client, audience: String, metrics: Metrics) -> Self {
        Self { client, audience, metrics, asking: Mutex::default(), refused: Mutex::default() }
    }

    /// Whether the cluster still accepts this token of this subject. Acceptance is not remembered here.
    ///
    /// # Errors
    /// [`AuthError::Revoked`], remembered for 30 s, or [`AuthError::NoReview`] if there is no response within 5 s.
    pub(super) async fn vouches_for(&self, digest: Digest, token: &str, subject: &str) -> ReviewResult {
        if self.refused.lock().get(&digest).is_some_and(|refused| refused.elapsed() < MAX_AGE_REVIEWED) {
            return Err(AuthError::Revoked);
        }
        let answer = self.review(digest, token, subject).await;
        if answer == Err(AuthError::Revoked) {
            remember(&mut self.refused.lock(), digest);
        }
        answer
    }

    /// Joins the running review of this token, or starts one.
    fn review(&self, digest: Digest, token: &str, subject: &str) -> Asking {
        let mut asking = self.asking.lock();
        if let Some(running) = asking.get(&digest).and_then(WeakShared::upgrade) {
            return running;
        }
        let (client, metrics) = (self.client.clone(), self.metrics.clone());
        let (audience, token, subject) = (self.audience.clone(), token.to_owned(), subject.to_owned());
        let review = async move {
            let answer = ask(&client, &audience, &token, &subject).await;
            let outcome = match answer {
                Ok(()) => "accepted",
                Err(AuthError::Revoked) => "refused",
                Err(_) => "unavailable",
            };
            metrics.token_reviews.with_label_values(&[outcome]).inc();
            answer
        };
        let review = review.boxed().shared();
        asking.retain(|_, other| other.upgrade().is_some());
        if let Some(weak) = review.downgrade() {
            asking.insert(digest, weak);
        }
        review
    }
}

async fn ask(client: &kube::Client, audience: &str, token: &str, subject: &str) -> ReviewResult {
    let body = json!({
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenReview",
        "spec": {"token": token, "audiences": [audience]},
    });
    let mut request = Request::new(kube::client::Body::from(body.to_string().into_bytes()));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(PATH);
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    let answer = ask_cluster(client, request, DEADLINE)
        .await
        .and_then(|(_, body)| serde_json::from_slice::<Review>(&body).map_err(|_| super::fetch::FetchError::Document));
    match answer {
        Ok(Review { status }) if status.authenticated => {
            // Two more checks: an API server without support for audiences would accept a token for any.
            let same = status.user.username == subject && status.audiences.iter().any(|one| one == audience);
            if same { Ok(()) } else { Err(AuthError::Revoked) }
        }
        Ok(_) => Err(AuthError::Revoked),
        Err(error) => {
            tracing::warn!(%error, "cannot ask the cluster about a token");
            Err(AuthError::NoReview)
        }
    }
}

fn remember(refused: &mut HashMap<Digest, Instant>, digest: Digest) {
    if refused.len() >= CAPACITY {
        refused.retain(|_, refused| refused.elapsed() < MAX_AGE_REVIEWED);
    }
    if refused.len() < CAPACITY {
        refused.insert(digest, Instant::now());
    }
}
