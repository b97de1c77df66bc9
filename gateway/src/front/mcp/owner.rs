//! Hands a request on to the replica that keeps something for its session: its open stream, its own servers' sessions.
//!
//! Addresses come out of sealed ids alone. But the address of a replica that is gone may be another's by now, so it
//! proves that it is one, with a key of the session keys, before it is sent a caller's token.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::http::Uri;
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::time::{Instant, timeout};
use url::Url;

use super::state::Caller;
use super::streams::{Stream, TooMany};
use crate::front::observe::recorder;
use crate::guard::Guard;
use crate::seal::{Purpose, Sealer};
use crate::upstream::http::{Exchange, HttpError, HttpPool, Origin};

/// What became of requests that were handed on, as a metric label.
pub const HANDED_ON: [&str; 3] = ["ok", "unreachable", "lost"];

/// Marks a request that was handed on: it never is again.
const MARK: HeaderName = HeaderName::from_static("x-portcullis-handed-on");

/// Where a replica proves what it is.
const PROOF_PATH: &str = "/.well-known/portcullis-replica";

/// Other replicas are near, or not there.
const CONNECT: Duration = Duration::from_secs(3);

/// For the proof.
const PROOF: Duration = Duration::from_secs(5);

/// For whatever is answered from memory.
pub const SOON: Duration = Duration::from_secs(10);

/// For an answer that a server gives: `requestSeconds` is at most an hour, and half of that may go by before it begins.
pub const LONG: Duration = Duration::from_secs(5460);

/// A proof holds so long; then the address may be another's. No cluster gives one away again sooner.
const PROOF_LIFE: Duration = Duration::from_secs(2);

/// A replica that could not be reached is not tried again so long.
const AWAY: Duration = Duration::from_secs(5);

/// An unused connection is kept so long.
const IDLE: Duration = Duration::from_secs(4);

/// A stream says something every 15 s, if only a comment. One that does not is dead.
const QUIET: Duration = Duration::from_secs(50);

/// Addresses that are remembered; of more, the one that was used last is forgotten.
const MOST: usize = 256;

/// What is not passed on: what belongs to one connection, or was for this replica to look at.
const OF_ONE_HOP: [HeaderName; 13] = [
    header::CONNECTION,
    header::CONTENT_LENGTH,
    header::EXPECT,
    header::HOST,
    header::ORIGIN,
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
];

/// What became of a request that another replica may have to answer.
pub enum Handed {
    /// It is to be answered here.
    Here,
    /// The other has answered.
    Answered(Box<Response>),
    /// The other cannot be reached: it never got the request.
    Unreachable,
    /// The other is there, but gave no answer: it may have carried the request out.
    Lost,
}

/// Why another replica has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Failed {
    Unreachable,
    Lost,
}

/// What is known of other replicas.
#[derive(Default)]
pub struct Owners(Mutex<HashMap<String, Known>>);

struct Known {
    pool: Arc<HttpPool>,
    used: Instant,
    proven: Option<Instant>,
    away: Option<Instant>,
}

/// Answers to whoever holds a session key that this is a replica.
pub(super) fn routes() -> Router {
    Router::new().route(PROOF_PATH, get(prove))
}

/// Lets the owner of the caller's session answer, if that is another replica.
pub async fn hand_on(caller: &Caller, method: Method, body: Bytes, limit: Duration) -> Handed {
    let owner = caller.session.as_ref().and_then(|session| session.owner.as_deref());
    hand_on_to(caller, owner, method, body, limit).await
}

/// Lets this replica answer, if it is another one.
pub async fn hand_on_to(
    caller: &Caller,
    replica: Option<&str>,
    method: Method,
    body: Bytes,
    limit: Duration,
) -> Handed {
    let Some(owner) = replica.filter(|replica| is_elsewhere(caller, replica)) else { return Handed::Here };
    let stream = match (&method, &caller.session) {
        // As long as it is open, it is a stream of this replica too.
        (&Method::GET, _) => match caller.app().mcp.streams.open(caller.subject, None) {
            Ok(stream) => Some(stream),
            Err(TooMany) => return Handed::Here,
        },
        _ => None,
    };
    let outcome = ask(caller, owner, method, body, limit).await;
    let (word, handed) = match outcome {
        Ok(exchange) => (HANDED_ON[0], Handed::Answered(Box::new(answered(exchange, stream)))),
        Err(Failed::Unreachable) => (HANDED_ON[1], Handed::Unreachable),
        Err(Failed::Lost) => (HANDED_ON[2], Handed::Lost),
    };
    caller.app().metrics.handed_on.with_label_values(&[word]).inc();
    handed
}

fn is_elsewhere(caller: &Caller, replica: &str) -> bool {
    caller.app().replica.as_deref() != Some(replica) && caller.head().fields.get(MARK.as_str()).is_none()
}

async fn ask(caller: &Caller, owner: &str, method: Method, body: Bytes, limit: Duration) -> Result<Exchange, Failed> {
    let owners = &caller.app().mcp.owners;
    let (pool, is_proven) = owners.pool(owner).ok_or(Failed::Unreachable)?;
    if !is_proven {
        owners.prove(&pool, &caller.app().sealer, owner).await?;
    }
    let path: Uri = caller.head().target.parse().map_err(|_| Failed::Unreachable)?;
    let sent = timeout(limit, pool.send(method, &path, &passed_on(caller), body)).await;
    sent.unwrap_or(Err(HttpError::Lost)).map_err(|error| {
        let failed = failed(&error);
        if failed == Failed::Unreachable {
            owners.note(owner, false);
        }
        failed
    })
}

fn failed(error: &HttpError) -> Failed {
    match error {
        HttpError::Connect(_) | HttpError::Blocked(_) | HttpError::NotSent => Failed::Unreachable,
        HttpError::Lost | HttpError::Stale | HttpError::TooLarge(_) | HttpError::NoMemory => Failed::Lost,
    }
}

fn passed_on(caller: &Caller) -> HeaderMap {
    let mut headers = caller.head().fields.to_map();
    drop_hop_headers(&mut headers);
    headers.insert(MARK, HeaderValue::from_static("1"));
    if let Ok(id) = HeaderValue::from_str(caller.recorder.request_id()) {
        headers.insert("x-request-id", id);
    }
    headers
}

fn drop_hop_headers(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in OF_ONE_HOP.iter().chain(&named) {
        headers.remove(name);
    }
}

fn answered(exchange: Exchange, stream: Option<Stream>) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = exchange.head.status;
    let mut headers = exchange.head.headers();
    drop_hop_headers(&mut headers);
    *response.headers_mut() = headers;
    *response.body_mut() = Body::from_stream(unfold(Some((exchange, stream)), |open| async {
        let (mut exchange, stream) = open?;
        let piece = tokio::select! {
            biased;
            () = over(stream.as_ref()) => return None,
            piece = timeout(QUIET, exchange.chunk()) => piece,
        };
        match piece {
            Ok(Ok(piece)) => Some((Ok(piece?), Some((exchange, stream)))),
            Ok(Err(_)) | Err(_) => Some((Err(io::Error::from(io::ErrorKind::ConnectionReset)), None)),
        }
    }));
    response
}

/// Waits until this replica is to end its streams.
async fn over(stream: Option<&Stream>) {
    let Some(stream) = stream else { return std::future::pending().await };
    std::future::poll_fn(|cx| {
        while stream.poll_next(cx).is_ready() {}
        if stream.is_over() { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
}

// === the proof ===

/// Asks with a riddle that only a holder of the keys can read, and only the replica at this address answers.
async fn ask_for_proof(pool: &Arc<HttpPool>, sealer: &Sealer, owner: &str) -> Result<(), ()> {
    let mut secret = [0; 16];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| ())?;
    let riddle = sealer.seal(Purpose::Replica, &[&secret[..], owner.as_bytes()].concat());
    let path: Uri = format!("{PROOF_PATH}?{riddle}").parse().map_err(|_| ())?;
    let exchange = pool.send(Method::GET, &path, &HeaderMap::new(), Bytes::new()).await.map_err(|_| ())?;
    let answer = exchange.whole(64).await.map_err(|_| ())?;
    (answer == hex(&secret)).then_some(()).ok_or(())
}

async fn prove(request: Request) -> Response {
    let recorder = recorder(&request);
    let (app, riddle) = (recorder.app(), recorder.head().query());
    let solved = riddle.and_then(|riddle| app.sealer.open(Purpose::Replica, riddle).ok());
    let solved = solved.as_deref().and_then(<[u8]>::split_first_chunk::<16>);
    match solved {
        Some((secret, owner)) if app.replica.as_deref().map(str::as_bytes) == Some(owner) => {
            hex(secret).into_response()
        }
        _ => StatusCode::NOT_FOUND.into_response(),
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

// === impl Owners ===

impl Owners {
    /// Connections to a replica, and whether it has proved itself lately; none while it is away.
    fn pool(&self, owner: &str) -> Option<(Arc<HttpPool>, bool)> {
        let (mut all, now) = (self.lock(), Instant::now());
        if !all.contains_key(owner) {
            if all.len() >= MOST
                && let Some(oldest) = all.iter().min_by_key(|(_, known)| known.used).map(|(owner, _)| owner.clone())
            {
                all.remove(&oldest);
            }
            all.insert(owner.to_owned(), Known { pool: pool(owner)?, used: now, proven: None, away: None });
        }
        let known = all.get_mut(owner)?;
        if known.away.is_some_and(|since| now < since + AWAY) {
            return None;
        }
        known.used = now;
        Some((known.pool.clone(), known.proven.is_some_and(|since| now < since + PROOF_LIFE)))
    }

    /// Lets a replica prove itself. One that is only slow is not away.
    async fn prove(&self, pool: &Arc<HttpPool>, sealer: &Sealer, owner: &str) -> Result<(), Failed> {
        let proof = timeout(PROOF, ask_for_proof(pool, sealer, owner)).await.map_err(|_| Failed::Lost)?;
        self.note(owner, proof.is_ok());
        proof.map_err(|()| Failed::Unreachable)
    }

    /// Closes connections that nobody has used for long.
    pub fn tidy(&self) {
        self.lock().values().for_each(|known| known.pool.sweep());
    }

    fn note(&self, owner: &str, is_there: bool) {
        let now = Instant::now();
        if let Some(known) = self.lock().get_mut(owner) {
            (known.proven, known.away) = if is_there { (Some(now), None) } else { (None, Some(now)) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Known>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn pool(owner: &str) -> Option<Arc<HttpPool>> {
    let url = Url::parse(owner).ok().filter(|url| url.scheme() == "http")?;
    let host = url.host_str()?;
    let port = url.port_or_known_default()?;
    Some(HttpPool::new(Origin {
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
        authority: HeaderValue::from_str(&format!("{host}:{port}")).ok()?,
        // Which addresses servers may have is no matter here: nobody but the gateway names this one.
        guard: Arc::new(Guard::default()),
        tls: None,
        connect_timeout: CONNECT,
        idle_timeout: IDLE,
    }))
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[test]
    fn headers_of_one_hop_are_dropped_and_those_that_it_names() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "keep-alive, X-Own"),
            ("x-own", "1"),
            ("host", "gateway"),
            ("origin", "https://page.example"),
            ("transfer-encoding", "chunked"),
            ("authorization", "Bearer t"),
            ("mcp-session-id", "s"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        drop_hop_headers(&mut headers);
        let mut left: Vec<_> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["authorization", "mcp-session-id"]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_is_away_is_left_alone_for_a_while_and_a_proof_grows_old() {
        let owners = Owners::default();
        let state = |owners: &Owners| owners.pool("http://10.0.0.1:80").map(|(_, proven)| proven);
        assert_eq!(state(&owners), Some(false));
        owners.note("http://10.0.0.1:80", true);
        assert_eq!(state(&owners), Some(true));
        tokio::time::advance(PROOF_LIFE).await;
        assert_eq!(state(&owners), Some(false));
        owners.note("http://10.0.0.1:80", false);
        assert_eq!(state(&owners), None);
        tokio::time::advance(AWAY).await;
        assert_eq!(state(&owners), Some(false));
    }

    #[tokio::test]
    async fn a_replica_that_is_slow_to_prove_itself_is_not_away_but_one_that_refuses_is() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let owners = Owners::default();
        for (address, expected, is_away) in
            [(silent.local_addr().unwrap(), Failed::Lost, false), (refusing, Failed::Unreachable, true)]
        {
            let owner = format!("http://{address}");
            let (pool, _) = owners.pool(&owner).unwrap();
            assert_eq!(owners.prove(&pool, &Sealer::random(), &owner).await, Err(expected));
            assert_eq!(owners.pool(&owner).is_none(), is_away);
        }
    }

    #[tokio::test]
    async fn connections_to_other_replicas_that_nobody_uses_are_closed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let owners = Owners::default();
        let (pool, _) = owners.pool(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
        let answering = async {
            let (mut replica, _) = listener.accept().await.unwrap();
            assert!(replica.read(&mut [0; 1024]).await.unwrap() > 0);
            replica.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
            replica
        };
        let (path, none) = (Uri::from_static("/"), HeaderMap::new());
        let asking = pool.send(Method::GET, &path, &none, Bytes::new());
        let (mut replica, exchange) = tokio::join!(answering, asking);
        assert_eq!(exchange.unwrap().whole(1).await, Ok(Bytes::new()));
        let closed = async |replica: &mut tokio::net::TcpStream| {
            timeout(Duration::from_secs(2), replica.read(&mut [0; 1])).await.is_ok()
        };
        owners.tidy();
        assert!(!closed(&mut replica).await, "it may still be used");
        tokio::time::sleep(IDLE).await;
        owners.tidy();
        assert!(closed(&mut replica).await);
    }

    #[test]
    fn only_what_was_never_sent_is_unreachable() {
        assert_eq!(failed(&HttpError::Connect("refused")), Failed::Unreachable);
        assert_eq!(failed(&HttpError::NotSent), Failed::Unreachable);
        assert_eq!(failed(&HttpError::Lost), Failed::Lost);
        assert_eq!(failed(&HttpError::TooLarge(1)), Failed::Lost);
    }

    #[test]
    fn no_more_replicas_are_remembered_than_may_be() {
        let owners = Owners::default();
        assert!((0..1000).all(|n| owners.pool(&format!("http://10.0.0.1:{}", n + 1)).is_some()));
        assert_eq!(owners.lock().len(), MOST);
        assert!(owners.pool("ftp://10.0.0.1").is_none());
    }
}
