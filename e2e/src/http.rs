//! A tiny HTTP client that shows raw bytes: no pool, no redirects, no decoding. With TLS it trusts any certificate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{HeaderMap, Method, Uri};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use portcullis_mcp::http1::pinned::PinnedCertificate;
use rustls::ClientConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// The certificate of a client, and its key.
type ClientIdentity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The deadline of a request that sets none.
const LIMIT: Duration = Duration::from_secs(10);

/// A request to be sent; made by [`get`], [`post`] and [`request`].
#[derive(Clone, Debug)]
pub struct HttpRequest {
    method: Method,
    url: String,
    headers: Vec<(String, String)>,
    body: Bytes,
    limit: Duration,
}

/// A whole answer.
#[derive(Clone, Debug)]
pub struct HttpAnswer {
    /// The status code.
    pub status: u16,
    /// The headers as they came.
    pub headers: HeaderMap,
    /// The body, byte for byte.
    pub body: Bytes,
}

/// A connection that is kept alive, for many requests one after the other.
#[derive(Debug)]
pub struct HttpConnection {
    sender: SendRequest<Full<Bytes>>,
    certificate: Option<CertificateDer<'static>>,
    _driver: JoinSet<()>,
}

/// An answer whose body is still coming. Dropping it closes the connection.
#[derive(Debug)]
pub struct HttpStream {
    /// The status code.
    pub status: u16,
    /// The headers as they came.
    pub headers: HeaderMap,
    body: Incoming,
    _connection: HttpConnection,
}

/// A GET request.
pub fn get(url: &str) -> HttpRequest {
    request(Method::GET, url)
}

/// A POST of JSON text, as an MCP client sends it (`Content-Type`, and an `Accept` of JSON and event streams).
pub fn post(url: &str, json: impl Into<Bytes>) -> HttpRequest {
    request(Method::POST, url)
        .header("content-type", "application/json")
        .header("accept", "application/json, text/event-stream")
        .body(json)
}

/// A request with no headers but `Host`.
pub fn request(method: Method, url: &str) -> HttpRequest {
    HttpRequest { method, url: url.into(), headers: Vec::new(), body: Bytes::new(), limit: LIMIT }
}

impl HttpRequest {
    /// Adds a header; the same name may be added twice.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Adds `Authorization: Bearer <token>`.
    pub fn bearer(self, token: &str) -> Self {
        self.header("authorization", &format!("Bearer {token}"))
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets the deadline for the whole answer (for [`HttpRequest::open`]: for its head). The default is 10 s.
    pub fn limit(mut self, limit: Duration) -> Self {
        self.limit = limit;
        self
    }

    /// Sends it on a new connection and reads the whole answer.
    pub async fn send(self) -> Result<HttpAnswer> {
        let url = self.url.clone();
        let limit = self.limit;
        timeout(limit, async { self.open().await?.rest().await })
            .await
            .with_context(|| format!("{url} gave no whole answer in {limit:?}"))?
    }

    /// Sends it on a new connection and gives back the answer once its head is there.
    pub async fn open(self) -> Result<HttpStream> {
        let mut connection =
            timeout(self.limit, HttpConnection::to(&self.url)).await.context("connecting took too long")??;
        let answer = connection.start(self).await?;
        let (head, body) = answer.into_parts();
        Ok(HttpStream { status: head.status.as_u16(), headers: head.headers, body, _connection: connection })
    }

    fn into_http(self) -> Result<http::Request<Full<Bytes>>> {
        let uri: Uri = self.url.parse()?;
        let host = uri.authority().context("the URL has no host")?.as_str();
        let target = uri.path_and_query().map_or("/", |it| it.as_str());
        let mut builder = http::Request::builder().method(self.method).uri(target);
        if !self.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
            builder = builder.header("host", host);
        }
        let builder = self.headers.iter().fold(builder, |builder, (name, value)| builder.header(name, value));
        Ok(builder.body(Full::new(self.body))?)
    }
}

impl HttpConnection {
    /// Connects to the host of a URL.
    pub async fn to(url: &str) -> Result<Self> {
        Self::with_certificate(url, None).await
    }

    /// The same, showing a certificate if the host is an `https://` one and asks for it.
    pub async fn with_certificate(url: &str, identity: Option<ClientIdentity>) -> Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url} is not a URL"))?;
        let is_secure = uri.scheme_str() == Some("https");
        if !is_secure && uri.scheme_str() != Some("http") {
            bail!("{url} is not an http:// or https:// URL");
        }
        let host = uri.host().context("the URL has no host")?.trim_matches(['[', ']']);
        let address = (host, uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 }));
        let stream = TcpStream::connect(address).await.with_context(|| format!("connecting to {url}"))?;
        stream.set_nodelay(true)?;
        let mut tasks = JoinSet::new();
        if is_secure {
            let stream = within_tls(stream, host, identity).await?;
            let shown = stream.get_ref().1.peer_certificates().and_then(<[_]>::first).cloned();
            let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
            tasks.spawn(async move { drop(driver.await) });
            return Ok(Self { sender, certificate: shown, _driver: tasks });
        }
        let (sender, driver) = http1::handshake(TokioIo::new(stream)).await?;
        tasks.spawn(async move { drop(driver.await) });
        Ok(Self { sender, certificate: None, _driver: tasks })
    }

    /// The certificate that the host has shown.
    pub fn certificate(&self) -> Option<CertificateDer<'static>> {
        self.certificate.clone()
    }

    /// Sends a request (the host of its URL is not looked at) and reads the whole answer.
    pub async fn send(&mut self, request: HttpRequest) -> Result<HttpAnswer> {
        let limit = request.limit;
        timeout(limit, async {
            let (head, body) = self.start(request).await?.into_parts();
            let body = body.collect().await?.to_bytes();
            Ok(HttpAnswer { status: head.status.as_u16(), headers: head.headers, body })
        })
        .await
        .with_context(|| format!("no whole answer in {limit:?}"))?
    }

    async fn start(&mut self, request: HttpRequest) -> Result<http::Response<Incoming>> {
        let (url, limit) = (request.url.clone(), request.limit);
        let request = request.into_http()?;
        self.sender.ready().await.with_context(|| format!("the connection to {url} is gone"))?;
        timeout(limit, self.sender.send_request(request))
            .await
            .with_context(|| format!("{url} gave no answer in {limit:?}"))?
            .with_context(|| format!("asking {url}"))
    }
}

async fn within_tls(stream: TcpStream, host: &str, identity: Option<ClientIdentity>) -> Result<TlsStream<TcpStream>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(PinnedCertificate::learning()));
    let config = match identity {
        Some((chain, key)) => builder.with_client_auth_cert(chain, key)?,
        None => builder.with_no_client_auth(),
    };
    let name = ServerName::try_from(host.to_owned())?;
    Ok(TlsConnector::from(Arc::new(config)).connect(name, stream).await?)
}

impl HttpAnswer {
    /// The body as text; panics on bad UTF-8.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    /// The body as JSON; panics with the body when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(&self.body)))
    }

    /// A header as text, or "" when it is absent.
    pub fn header(&self, name: &str) -> &str {
        text(&self.headers, name)
    }
}

impl HttpStream {
    /// A header as text, or "" when it is absent.
    pub fn header(&self, name: &str) -> &str {
        text(&self.headers, name)
    }

    /// The next bytes as they came: `None` is the proper end, an error is a cut connection. Has no deadline.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(bytes) = frame?.into_data() {
                return Ok(Some(bytes));
            }
        }
        Ok(None)
    }

    /// Reads to the end.
    pub async fn rest(self) -> Result<HttpAnswer> {
        let body = self.body.collect().await?.to_bytes();
        Ok(HttpAnswer { status: self.status, headers: self.headers, body })
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    headers.get(name).map_or("", |value| value.to_str().expect("the header is text"))
}
