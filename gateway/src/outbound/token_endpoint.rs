//! Asks the token endpoint of an authorization server for a token (RFC 6749).
//!
//! Neither a token nor a description of an error leaves this module but as a token for a header.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use portcullis_mcp::guard::{AddressRefusal, Guard};
use portcullis_mcp::http1::dial::host_of;
use portcullis_mcp::http1::stream::{TlsMaterial, TlsTarget, system_roots};
use portcullis_mcp::http1::{HttpError, HttpPool, Media, Origin};
use rustls::RootCertStore;
use serde::Deserialize;
use thiserror::Error;
use tokio::time::timeout;
use url::{Position, Url, form_urlencoded};

/// From the first byte of a connection to the last of a response.
pub(super) const DEADLINE: Duration = Duration::from_secs(10);

/// Far above the response of any token endpoint, in bytes.
const MAX_BYTES: usize = 64 * 1024;

/// The limit for a token, in bytes: it travels in a header.
pub(super) const MAX_TOKEN_BYTES: usize = 8 * 1024;

/// How long a token is used whose life the endpoint does not say.
const UNKNOWN_LIFE: Duration = Duration::from_secs(60);

/// The longest time for which a token is used.
const MAX_LIFE: Duration = Duration::from_secs(24 * 3600);

/// The errors of the standards (RFC 6749, section 5.2; RFC 8693, section 2.2.2; RFC 6749, section 4.1.2.1), and what to
/// do about each. Any other text may hold anything.
const CODES: [(&str, &str); 9] = [
    ("invalid_request", "check audience, resource and scopes"),
    ("invalid_client", "check clientAuth"),
    ("invalid_grant", "it does not accept the token that was shown"),
    ("unauthorized_client", "let the client use this grant there"),
    ("unsupported_grant_type", "it does not support this grant"),
    ("invalid_scope", "check scopes"),
    ("invalid_target", "check audience and resource"),
    ("access_denied", "let the client have this token there"),
    ("temporarily_unavailable", "try again"),
];

/// Why a token endpoint gave no token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TokenError {
    /// It answered with a standard error: the code, and what to do.
    #[error("it answered with the error {0}: {1}")]
    Refused(&'static str, &'static str),
    /// It answered with another status.
    #[error("its answer has status {0}, not 200 (redirects are not followed)")]
    Status(u16),
    /// It answered with something else than a token.
    #[error("its answer is unusable: {0}")]
    Unusable(&'static str),
    /// It cannot be reached.
    #[error("{0}")]
    Connection(&'static str),
    /// Its address is refused.
    #[error("it has a refused address: {0}")]
    Blocked(AddressRefusal),
    /// It did not answer in time.
    #[error("no complete answer within {} s", DEADLINE.as_secs())]
    Slow,
}

impl TokenError {
    /// Whether the error is about the shown token, not about the client or the endpoint.
    pub(crate) fn is_about_the_token(self) -> bool {
        matches!(self, Self::Refused("invalid_grant", _))
    }

    /// Whether the endpoint gave an answer that it would give again.
    pub(super) fn is_answer(self) -> bool {
        matches!(self, Self::Refused(code, _) if code != "temporarily_unavailable")
    }
}

/// A token that was issued.
pub(super) struct Issued {
    pub(super) token: String,
    /// How long it lives from now.
    pub(super) life: Duration,
}

/// A request for a token.
pub(super) struct TokenRequest {
    pub(super) url: Url,
    /// The parameters of the form.
    pub(super) form: Vec<(&'static str, String)>,
    /// Id and secret of the client, for HTTP Basic authentication.
    pub(super) basic: Option<(String, String)>,
}

/// Asks token endpoints.
#[derive(Clone)]
pub(crate) struct TokenClient {
    guard: Arc<Guard>,
    roots: Arc<LazyLock<Arc<RootCertStore>>>,
}

/// The relevant members of a response.
#[derive(Deserialize)]
struct TokenResponse {
    access_token: String,
    token_type: String,
    #[serde(default)]
    expires_in: Option<f64>,
}

#[derive(Deserialize)]
struct ErrorResponse {
    error: String,
}

impl TokenClient {
    /// A client that connects only to addresses which the guard allows.
    pub(crate) fn new(guard: Arc<Guard>) -> Self {
        Self { guard, roots: Arc::new(LazyLock::new(system_roots)) }
    }

    /// Asks for a token, within 10 s.
    ///
    /// # Errors
    /// There is no token.
    pub(super) async fn ask(&self, request: TokenRequest) -> Result<Issued, TokenError> {
        timeout(DEADLINE, self.answer(request)).await.map_err(|_| TokenError::Slow)?
    }

    async fn answer(&self, request: TokenRequest) -> Result<Issued, TokenError> {
        const URL: TokenError = TokenError::Connection("its URL is invalid");
        let TokenRequest { url, form, basic } = request;
        // A new connection each time: a token lives for minutes.
        let pool = HttpPool::new(self.origin(&url)?);
        let path: Uri = url[Position::BeforePath..Position::AfterQuery].parse().map_err(|_| URL)?;
        let mut headers = HeaderMap::new();
        headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        if let Some((id, secret)) = basic {
            headers.insert(header::AUTHORIZATION, of_client(&id, &secret)?);
        }
        let body: String = form_urlencoded::Serializer::new(String::new()).extend_pairs(&form).finish();
        let exchange = pool.send(Method::POST, &path, &headers, Bytes::from(body)).await.map_err(connection)?;
        let status = exchange.head.status;
        if exchange.head.media == Media::Coded {
            return Err(TokenError::Unusable("it is compressed"));
        }
        if status.is_redirection() || status.is_server_error() {
            return Err(TokenError::Status(status.as_u16()));
        }
        let body = exchange.whole(MAX_BYTES).await.map_err(connection)?;
        if status == StatusCode::OK { issued(&body) } else { Err(refusal(status, &body)) }
    }

    fn origin(&self, url: &Url) -> Result<Origin, TokenError> {
        let host = host_of(url);
        let tls = match url.scheme() {
            "https" => {
                let target = TlsTarget::new(&host, &TlsMaterial::default(), &self.roots);
                Some(target.map_err(|_| TokenError::Connection("its host is no name for TLS"))?)
            }
            _ => None,
        };
        let authority = HeaderValue::from_str(&url[Position::BeforeHost..Position::AfterPort]);
        Ok(Origin {
            host,
            port: url.port_or_known_default().unwrap_or(443),
            authority: authority.map_err(|_| TokenError::Connection("its URL is invalid"))?,
            guard: self.guard.clone(),
            tls,
            connect_timeout: DEADLINE,
            idle_timeout: DEADLINE,
        })
    }
}

/// The credentials of a client, as RFC 6749, section 2.3.1, encodes them.
fn of_client(id: &str, secret: &str) -> Result<HeaderValue, TokenError> {
    use base64::Engine as _;
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let both = base64::engine::general_purpose::STANDARD.encode(format!("{}:{}", encoded(id), encoded(secret)));
    let mut value = HeaderValue::try_from(format!("Basic {both}"))
        .map_err(|_| TokenError::Connection("the client's secret is no value for a header"))?;
    value.set_sensitive(true);
    Ok(value)
}

fn issued(body: &[u8]) -> Result<Issued, TokenError> {
    let response: TokenResponse = serde_json::from_slice(body)
        .map_err(|_| TokenError::Unusable("it is not JSON with access_token and token_type"))?;
    // RFC 8693, section 2.2.1: N_A is for tokens that are no access tokens.
    if !["bearer", "n_a"].contains(&response.token_type.to_ascii_lowercase().as_str()) {
        return Err(TokenError::Unusable("its token is not of type Bearer"));
    }
    let token = response.access_token;
    if token.is_empty() || token.len() > MAX_TOKEN_BYTES || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(TokenError::Unusable("its token does not fit into a header"));
    }
    let life = response
        .expires_in
        .map_or(UNKNOWN_LIFE, |seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default().min(MAX_LIFE));
    Ok(Issued { token, life })
}

fn refusal(status: StatusCode, body: &[u8]) -> TokenError {
    let error = serde_json::from_slice::<ErrorResponse>(body).map(|response| response.error).unwrap_or_default();
    let known = CODES.iter().find(|(code, _)| *code == error);
    known.map_or(TokenError::Status(status.as_u16()), |(code, cure)| TokenError::Refused(code, cure))
}

fn connection(error: HttpError) -> TokenError {
    match error {
        HttpError::Connect(reason) => TokenError::Connection(reason),
        HttpError::Blocked(refusal) => TokenError::Blocked(refusal),
        HttpError::NotSent | HttpError::Lost | HttpError::Stale => {
            TokenError::Connection("the connection closed too early")
        }
        HttpError::TooLarge(_) => TokenError::Unusable("it is too long"),
        HttpError::NoMemory => TokenError::Connection("the gateway has no memory left for the answer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_with_a_token_is_read_and_one_without_is_not() {
        let read = |text: &str| issued(text.as_bytes()).map(|issued| (issued.token, issued.life.as_secs()));
        for (text, token, life) in [
            (r#"{"access_token":"a.b","token_type":"Bearer","expires_in":300,"x":1}"#, "a.b", 300),
            (r#"{"access_token":"a","token_type":"bearer"}"#, "a", 60),
            (r#"{"access_token":"a","token_type":"N_A","expires_in":1e12}"#, "a", 86_400),
            (r#"{"access_token":"a","token_type":"BEARER","expires_in":-1}"#, "a", 0),
        ] {
            assert_eq!(read(text), Ok((token.to_owned(), life)), "{text}");
        }
        let form = TokenError::Unusable("it is not JSON with access_token and token_type");
        let unfit = TokenError::Unusable("its token does not fit into a header");
        let long = format!(r#"{{"access_token":"{}","token_type":"Bearer"}}"#, "x".repeat(MAX_TOKEN_BYTES + 1));
        for (text, expected) in [
            ("", form),
            ("<html>", form),
            (r#"{"token_type":"Bearer"}"#, form),
            (r#"{"access_token":"a","token_type":"Bearer","expires_in":"soon"}"#, form),
            (r#"{"access_token":"a","token_type":"DPoP"}"#, TokenError::Unusable("its token is not of type Bearer")),
            (r#"{"access_token":"","token_type":"Bearer"}"#, unfit),
            (r#"{"access_token":"a\r\nb: c","token_type":"Bearer"}"#, unfit),
            (&long, unfit),
        ] {
            assert_eq!(read(text), Err(expected), "{text}");
        }
    }

    #[test]
    fn of_an_error_only_a_standard_code_is_told() {
        let read = |text: &str| refusal(StatusCode::BAD_REQUEST, text.as_bytes()).to_string();
        let known = r#"{"error":"invalid_target","error_description":"the token eyJ.s3cret.x"}"#;
        assert_eq!(read(known), "it answered with the error invalid_target: check audience and resource");
        for text in [r#"{"error":"s3cret"}"#, r#"{"error":["invalid_target"]}"#, "s3cret", ""] {
            assert_eq!(read(text), "its answer has status 400, not 200 (redirects are not followed)", "{text}");
        }
    }

    #[test]
    fn ids_and_secrets_are_encoded_before_they_are_joined() {
        let value = of_client("a:b", "c d/ü").unwrap();
        let expected = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, "a%3Ab:c+d%2F%C3%BC");
        assert_eq!((value.to_str().unwrap(), value.is_sensitive()), (format!("Basic {expected}").as_str(), true));
    }
}
