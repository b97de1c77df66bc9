//! Asks the cluster whether it still vouches for a token that was found good: once in 30 s for each token.
use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, Shared, WeakShared},
};
use http::{HeaderValue, Method, Request, Uri, header};
use serde::Deserialize;
use serde_json::json;
use tokio::time::Instant;

use super::{
    AuthError,
    cache::{CAPACITY, Digest, MAX_AGE_REVIEWED},
    fetch::ask_cluster,
};
use crate::metrics::Metrics;

/// For the whole question.
const DEADLINE: Duration = Duration::from_secs(5);
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

type Answer = Result<(), AuthError>;
type Asking = Shared<BoxFuture<'static, Answer>>;

/// Asks the API server about tokens.
pub(super) struct Reviewer {
    client: kube::Client,
    audience: String,
    metrics: Metrics,
    /// Held by those who wait, not here: a question that nobody waits for any more ends.
    asking: Mutex<HashMap<Digest, WeakShared<BoxFuture<'static, Answer>>>>,
    /// Tokens that the cluster has refused, and when.
    refused: Mutex<HashMap<Digest, Instant>>,
}

/// The answer, as far as it is looked at. The rest repeats the token.
#[derive(Deserialize)]
struct Review {
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Status {
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

    /// Whether the cluster still vouches for this token of this subject. Yes is not remembered here.
    ///
    /// # Errors
    /// [`AuthError::Revoked`], remembered for 30 s, or [`AuthError::NoReview`] if there is no answer within 5 s.
    pub(super) async fn vouches_for(&self, digest: Digest, token: &str, subject: &str) -> Answer {
        if lock(&self.refused).get(&digest).is_some_and(|refused| refused.elapsed() < MAX_AGE_REVIEWED) {
            return Err(AuthError::Revoked);
        }
        let answer = self.question(digest, token, subject).await;
        if answer == Err(AuthError::Revoked) {
            remember(&mut lock(&self.refused), digest);
        }
        answer
    }

    /// The question that somebody asks about this token just now, else a new one.
    fn question(&self, digest: Digest, token: &str, subject: &str) -> Asking {
        let mut asking = lock(&self.asking);
        if let Some(running) = asking.get(&digest).and_then(WeakShared::upgrade) {
            return running;
        }
        let (client, metrics) = (self.client.clone(), self.metrics.clone());
        let (audience, token, subject) = (self.audience.clone(), token.to_owned(), subject.to_owned());
        let question = async move {
            let answer = ask(&client, &audience, &token, &subject).await;
            let outcome = match answer {
                Ok(()) => "accepted",
                Err(AuthError::Revoked) => "refused",
                Err(_) => "unavailable",
            };
            metrics.token_reviews.with_label_values(&[outcome]).inc();
            answer
        };
        let question = question.boxed().shared();
        asking.retain(|_, other| other.upgrade().is_some());
        if let Some(weak) = question.downgrade() {
            asking.insert(digest, weak);
        }
        question
    }
}

async fn ask(client: &kube::Client, audience: &str, token: &str, subject: &str) -> Answer {
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
            // Two more looks: an API server that does not know audiences would accept a token for any.
            let same = status.user.username == subject && status.audiences.iter().any(|one| one == audience);
            if same { Ok(()) } else { Err(AuthError::Revoked) }
        }
        Ok(_) => Err(AuthError::Revoked),
        Err(error) => {
            tracing::warn!(%error, "the cluster cannot be asked about a token");
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

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
