//! Fetches an issuer's metadata: its name, algorithms and keys. Every response has a deadline and a size limit.
use std::{
    fs::File,
    io::Read,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header};
use http_body_util::{BodyExt, Limited};
use portcullis_crds::kept_keys::{self, KeptKeys, KeptKeysError};
use serde::Deserialize;
use tokio::time::timeout;
use url::Url;

use super::issuers::{KeyPlace, is_local, may_hold_keys};
use portcullis_mcp::http1::dial::host_of;
use portcullis_mcp::http1::stream::{Named, TlsMaterial, TlsTarget, system_roots};
use portcullis_mcp::http1::{HttpError, HttpPool, Media, Origin};

/// From the first byte of a connection to the last of a response.
const DEADLINE: Duration = Duration::from_secs(5);
/// Far above the metadata of any issuer, in bytes.
pub(super) const MAX_BYTES: usize = 1024 * 1024;
/// How long keys are used before they are fetched again, unless the issuer sets a time.
const DEFAULT_AGE: Duration = Duration::from_secs(300);
/// The bounds for the time that an issuer sets.
const AGES: (Duration, Duration) = (Duration::from_secs(60), Duration::from_secs(3600));
const CLUSTER_DISCOVERY: &str = "/.well-known/openid-configuration";
const CLUSTER_KEYS: &str = "/openid/v1/jwks";

/// The source of an issuer's keys.
pub(super) enum KeySource {
    /// A location from the file of issuers.
    Listed {
        /// The document or the keys.
        place: KeyPlace,
        /// Certificate authorities trusted besides the system's.
        ca_file: Option<PathBuf>,
    },
    /// The API server.
    Cluster {
        /// The client of the API server.
        client: kube::Client,
        /// The mounted copy that the operator keeps.
        kept: Option<PathBuf>,
    },
}

/// The metadata of an issuer.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct IssuerMetadata {
    /// The issuer's name, if given.
    pub(super) issuer: Option<String>,
    /// The issuer's signing algorithms, if given.
    pub(super) algorithms: Option<Vec<String>>,
    /// A JSON Web Key Set, not yet parsed.
    pub(super) keys: Bytes,
    /// How long to use the metadata before fetching it again.
    pub(super) max_age: Duration,
}

/// The reason there are no keys.
#[derive(Debug, thiserror::Error)]
pub(super) enum FetchError {
    #[error("no complete answer within {} s", DEADLINE.as_secs())]
    Slow,
    #[error("{0}")]
    Connection(&'static str),
    #[error("the answer is longer than {MAX_BYTES} bytes")]
    TooLarge,
    #[error("the answer has status {0}, not 200 (redirects are not followed)")]
    Status(u16),
    #[error(
        "the answer is compressed, though the gateway asks for an uncompressed one: turn compression off at the issuer"
    )]
    Coded,
    #[error("the discovery document is not JSON with 'issuer' and an https 'jwks_uri'")]
    Document,
    #[error("the discovery document names another issuer: both names must be identical")]
    OtherIssuer,
    #[error("the file cannot be read: {0}")]
    File(std::io::ErrorKind),
    #[error("caFile contains no usable PEM certificate")]
    Ca,
    #[error("the API server cannot be reached")]
    Api,
}

/// The reason the operator's copy of the keys is not used.
#[derive(Debug, thiserror::Error)]
pub(super) enum KeptError {
    #[error(transparent)]
    File(#[from] FetchError),
    #[error(transparent)]
    Kept(#[from] KeptKeysError),
}

impl FetchError {
    /// Whether a response came, even if unusable.
    pub(super) fn answered(&self) -> bool {
        matches!(self, Self::TooLarge | Self::Status(_) | Self::Coded | Self::Document | Self::OtherIssuer)
    }
}

/// The relevant members of an OpenID Connect Discovery document.
#[derive(Deserialize)]
struct Document {
    issuer: String,
    jwks_uri: Option<String>,
    id_token_signing_alg_values_supported: Option<Vec<String>>,
}

impl KeySource {
    /// Fetches the current metadata. `issuer` is the configured name.
    pub(super) async fn fetch(&self, issuer: Option<&str>) -> Result<IssuerMetadata, FetchError> {
        match self {
            Self::Cluster { client, .. } => of_cluster(client).await,
            Self::Listed { place: KeyPlace::File(path), .. } => {
                let published = |keys: Vec<u8>| IssuerMetadata { max_age: AGES.0, ..IssuerMetadata::of(keys.into()) };
                read_file(path).map(published)
            }
            Self::Listed { place: KeyPlace::Uri(uri), ca_file } => {
                let (head, keys) = get(uri, ca_file.as_ref()).await?;
                Ok(IssuerMetadata { max_age: max_age(&head), ..IssuerMetadata::of(keys) })
            }
            Self::Listed { place: KeyPlace::Discovery(uri), ca_file } => {
                let document = document(&get(uri, ca_file.as_ref()).await?.1)?;
                if issuer != Some(&document.issuer) {
                    return Err(FetchError::OtherIssuer);
                }
                let place = document.jwks_uri.and_then(|place| Url::parse(&place).ok());
                let place = place.filter(|place| may_hold_keys(place, is_local(uri)));
                let (head, keys) = get(&place.ok_or(FetchError::Document)?, ca_file.as_ref()).await?;
                Ok(IssuerMetadata { max_age: max_age(&head), ..IssuerMetadata::of(keys) })
            }
        }
    }
}

impl KeySource {
    /// The operator's copy of the metadata; `None` if it keeps none for this issuer.
    pub(super) fn kept(&self) -> Option<Result<IssuerMetadata, KeptError>> {
        let Self::Cluster { kept: Some(path), .. } = self else { return None };
        Some(read_kept(path))
    }
}

fn read_kept(path: &PathBuf) -> Result<IssuerMetadata, KeptError> {
    let text = read_bounded(path, kept_keys::MAX_BYTES)?;
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let kept = KeptKeys::parse(&text, i64::try_from(now).unwrap_or(i64::MAX))?;
    let keys = kept.keys.get().to_owned();
    let (issuer, algorithms) = (Some(kept.issuer), kept.algorithms);
    Ok(IssuerMetadata { issuer, algorithms, ..IssuerMetadata::of(keys.into()) })
}

impl IssuerMetadata {
    fn of(keys: Bytes) -> Self {
        Self { issuer: None, algorithms: None, keys, max_age: DEFAULT_AGE }
    }
}

/// Uses the API server's own address and this process's identity: the address in the issuer's name may be unreachable
/// from inside the cluster, or have an unknown certificate.
async fn of_cluster(client: &kube::Client) -> Result<IssuerMetadata, FetchError> {
    let get = |path: &'static str| {
        let mut request = Request::new(kube::client::Body::empty());
        *request.uri_mut() = Uri::from_static(path);
        ask_cluster(client, request, DEADLINE)
    };
    let document = document(&get(CLUSTER_DISCOVERY).await?.1)?;
    let (head, keys) = get(CLUSTER_KEYS).await?;
    Ok(IssuerMetadata {
        issuer: Some(document.issuer),
        algorithms: document.id_token_signing_alg_values_supported,
        keys,
        max_age: max_age(&head),
    })
}

/// The response of the API server, if successful. The client's own methods log responses that they cannot parse.
pub(super) async fn ask_cluster(
    client: &kube::Client,
    request: Request<kube::client::Body>,
    deadline: Duration,
) -> Result<(HeaderMap, Bytes), FetchError> {
    let asking = async {
        let (head, body) = client.send(request).await.map_err(|_| FetchError::Api)?.into_parts();
        if !head.status.is_success() {
            return Err(FetchError::Status(head.status.as_u16()));
        }
        let body = Limited::new(body, MAX_BYTES).collect().await;
        let body = body.map_err(|error| {
            if error.is::<http_body_util::LengthLimitError>() { FetchError::TooLarge } else { FetchError::Api }
        })?;
        Ok((head.headers, body.to_bytes()))
    };
    timeout(deadline, asking).await.map_err(|_| FetchError::Slow)?
}

async fn get(url: &Url, ca_file: Option<&PathBuf>) -> Result<(HeaderMap, Bytes), FetchError> {
    timeout(DEADLINE, answer(url, ca_file)).await.map_err(|_| FetchError::Slow)?
}

async fn answer(url: &Url, ca_file: Option<&PathBuf>) -> Result<(HeaderMap, Bytes), FetchError> {
    // A new connection each time: minutes pass between two requests.
    let pool = HttpPool::new(origin(url, ca_file)?);
    let path = &url[url::Position::BeforePath..url::Position::AfterQuery];
    let path: Uri = path.parse().map_err(|_| FetchError::Document)?;
    let mut headers = HeaderMap::new();
    headers.insert(header::ACCEPT, HeaderValue::from_static("application/json"));
    let exchange = pool.send(Method::GET, &path, &headers, Bytes::new()).await.map_err(connection)?;
    if exchange.head.status != StatusCode::OK {
        return Err(FetchError::Status(exchange.head.status.as_u16()));
    }
    if exchange.head.media == Media::Coded {
        return Err(FetchError::Coded);
    }
    let head = exchange.head.headers();
    Ok((head, exchange.whole(MAX_BYTES).await.map_err(connection)?))
}

fn connection(error: HttpError) -> FetchError {
    match error {
        HttpError::Connect(reason) => FetchError::Connection(reason),
        HttpError::Blocked(_) => FetchError::Connection("its address is refused"),
        HttpError::NotSent | HttpError::Lost | HttpError::Stale => {
            FetchError::Connection("the connection closed too early")
        }
        HttpError::TooLarge(_) => FetchError::TooLarge,
        HttpError::NoMemory => FetchError::Connection("the gateway has no memory left for the answer"),
    }
}

fn origin(url: &Url, ca_file: Option<&PathBuf>) -> Result<Origin, FetchError> {
    let host = host_of(url);
    let tls = match url.scheme() {
        "https" => {
            let named = |path: &PathBuf| {
                Ok::<_, FetchError>(Named { name: path.display().to_string(), value: read_file(path)? })
            };
            let ca = ca_file.map(named).transpose()?;
            let material = TlsMaterial { ca, ..TlsMaterial::default() };
            Some(TlsTarget::new(&host, &material, &system_roots()).map_err(|_| FetchError::Ca)?)
        }
        _ => None,
    };
    let authority = &url[url::Position::BeforeHost..url::Position::AfterPort];
    Ok(Origin {
        host,
        port: url.port_or_known_default().unwrap_or(443),
        authority: HeaderValue::from_str(authority).map_err(|_| FetchError::Document)?,
        // The operator of the gateway configures the issuers.
        guard: std::sync::Arc::default(),
        tls,
        connect_timeout: DEADLINE,
        idle_timeout: DEADLINE,
    })
}

fn read_file(path: &PathBuf) -> Result<Vec<u8>, FetchError> {
    read_bounded(path, MAX_BYTES)
}

fn read_bounded(path: &PathBuf, limit: usize) -> Result<Vec<u8>, FetchError> {
    let failed = |error: std::io::Error| FetchError::File(error.kind());
    let mut bytes = Vec::new();
    File::open(path).map_err(failed)?.take(limit as u64 + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() > limit { Err(FetchError::TooLarge) } else { Ok(bytes) }
}

fn document(json: &[u8]) -> Result<Document, FetchError> {
    let document: Document = serde_json::from_slice(json).map_err(|_| FetchError::Document)?;
    if document.issuer.is_empty() { Err(FetchError::Document) } else { Ok(document) }
}

/// `max-age` of Cache-Control within bounds; the lower bound if the issuer forbids caching.
fn max_age(head: &HeaderMap) -> Duration {
    let values = head.get_all(header::CACHE_CONTROL).iter().filter_map(|value| value.to_str().ok());
    let directives: Vec<String> =
        values.flat_map(|value| value.split(',')).map(|text| text.trim().to_ascii_lowercase()).collect();
    if directives.iter().any(|text| matches!(text.as_str(), "no-store" | "no-cache")) {
        return AGES.0;
    }
    let seconds = directives.iter().find_map(|text| text.strip_prefix("max-age=")?.trim_matches('"').parse().ok());
    seconds.map_or(DEFAULT_AGE, |seconds| Duration::from_secs(seconds).clamp(AGES.0, AGES.1))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_issuer_says_about_its_keys_age_counts_within_bounds() {
        let age = |text: &str| {
            max_age(&HeaderMap::from_iter([(header::CACHE_CONTROL, HeaderValue::from_str(text).unwrap())])).as_secs()
        };
        let told = [
            "public, max-age=600",
            "Max-Age=\"600\"",
            "max-age=1",
            "max-age=999999",
            "max-age=-1",
            "private",
            "no-store",
            "no-cache, max-age=600",
            "max-age=99999999999999999999999",
        ];
        assert_eq!(told.map(age), [600, 600, 60, 3600, 300, 300, 60, 60, 300]);
        assert_eq!(max_age(&HeaderMap::new()), DEFAULT_AGE);
    }
}
