//! Requests a token from the API server, and proves that neither the API server nor this gateway accepts it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderValue, Method, Request, StatusCode, header};
use http_body_util::{BodyExt as _, Limited};
use kube::Client;
use kube::client::Body;
use serde::Deserialize;
use serde_json::json;
use tokio::time::timeout;

use super::account::{Audiences, claims_of};
use super::{Account, IdentityError};

/// The limit for each of the requests about a token.
const LIMIT: Duration = Duration::from_secs(10);

/// The limit for an answer, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// The requested life of a token, in seconds: that of the tokens that Kubernetes mounts.
const LIFE_SECONDS: u64 = 3600;

/// Any path: an API server checks the token of a request first.
const PROBE_PATH: &str = "/api";

/// Whether this gateway accepts a token of a caller.
pub(crate) type Accepts = Arc<dyn Fn(String) -> BoxFuture<'static, bool> + Send + Sync>;

/// Requests tokens.
pub(crate) struct Issuer {
    /// A client of the API server, as the gateway.
    pub(crate) client: Client,
    /// A client of the API server without credentials of its own.
    pub(crate) stranger: Client,
    /// The account.
    pub(crate) account: Account,
    /// What callers may bring.
    pub(crate) accepts: Accepts,
}

/// A new token.
pub(super) struct Issued {
    /// `Bearer TOKEN`.
    pub(super) header: HeaderValue,
    /// The time from the request to the end of the token.
    pub(super) life: Duration,
}

/// The relevant members of the answer.
#[derive(Deserialize)]
struct TokenAnswer {
    spec: AnsweredSpec,
    status: AnsweredStatus,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct AnsweredSpec {
    expiration_seconds: u64,
}

#[derive(Deserialize)]
struct AnsweredStatus {
    token: String,
}

#[derive(Deserialize)]
struct IssuedClaims {
    aud: Audiences,
}

impl Issuer {
    /// A new token for an audience.
    ///
    /// # Errors
    /// The API server issues none, or somebody accepts it who must not.
    pub(super) async fn issue(&self, audience: &str) -> Result<Issued, IdentityError> {
        let unavailable = |problem| IdentityError::Unavailable { audience: audience.to_owned(), problem };
        let (status, body) = ask(&self.client, self.request(audience)).await.map_err(unavailable)?;
        match status.as_u16() {
            200..300 => {}
            401 | 403 => return Err(IdentityError::Denied(self.account.account.clone())),
            404 => return Err(IdentityError::NoSuchAccount(self.account.account.clone())),
            408 | 429 | 500.. => return Err(unavailable("it answers with an error")),
            status => return Err(IdentityError::Refused { audience: audience.to_owned(), status }),
        }
        const ODD: &str = "its answer is not a token for this audience alone";
        let answer: TokenAnswer = serde_json::from_slice(&body).map_err(|_| unavailable(ODD))?;
        let token = answer.status.token;
        let claims: Option<IssuedClaims> = claims_of(&token);
        if claims.is_none_or(|claims| claims.aud.all() != [audience]) {
            return Err(unavailable(ODD));
        }
        let mut header = HeaderValue::try_from(format!("Bearer {token}")).map_err(|_| unavailable(ODD))?;
        header.set_sensitive(true);
        self.is_stranger(audience, &header).await?;
        if (self.accepts)(token).await {
            return Err(IdentityError::OfGateway(audience.to_owned()));
        }
        Ok(Issued { header, life: Duration::from_secs(answer.spec.expiration_seconds.min(LIFE_SECONDS)) })
    }

    /// Proves that the API server does not accept the token for requests: then it answers 401.
    async fn is_stranger(&self, audience: &str, header: &HeaderValue) -> Result<(), IdentityError> {
        let mut request = Request::new(Body::empty());
        *request.uri_mut() = http::Uri::from_static(PROBE_PATH);
        request.headers_mut().insert(header::AUTHORIZATION, header.clone());
        let unavailable = |problem| IdentityError::Unavailable { audience: audience.to_owned(), problem };
        match ask(&self.stranger, request).await.map_err(unavailable)?.0 {
            StatusCode::UNAUTHORIZED => Ok(()),
            status if status.is_success() || status == StatusCode::FORBIDDEN => {
                Err(IdentityError::OfApiServer(audience.to_owned()))
            }
            _ => Err(unavailable("it does not say whether it accepts such a token itself")),
        }
    }

    fn request(&self, audience: &str) -> Request<Body> {
        let mut spec = BTreeMap::from([("audiences", json!([audience])), ("expirationSeconds", json!(LIFE_SECONDS))]);
        if let Some(pod) = &self.account.pod {
            spec.insert("boundObjectRef", json!({"kind": "Pod", "apiVersion": "v1", "name": pod.name, "uid": pod.uid}));
        }
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec});
        let account = &self.account.account;
        let path = format!("/api/v1/namespaces/{}/serviceaccounts/{}/token", account.namespace, account.name);
        let mut request = Request::new(Body::from(body.to_string().into_bytes()));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = path.parse().unwrap_or_default();
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        request
    }
}

/// The answer of the API server, whatever its status. The client's own methods log answers that they cannot parse.
async fn ask(client: &Client, request: Request<Body>) -> Result<(StatusCode, Bytes), &'static str> {
    let asking = async {
        let (head, body) = client.send(request).await.map_err(|_| "it cannot be reached")?.into_parts();
        let body = Limited::new(body, MAX_BYTES).collect().await.map_err(|_| "its answer breaks off or is too long")?;
        Ok((head.status, body.to_bytes()))
    };
    timeout(LIMIT, asking).await.unwrap_or(Err("it does not answer in time"))
}
