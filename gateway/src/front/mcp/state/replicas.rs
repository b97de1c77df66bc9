//! Other replicas: the connections to them, which of them have proved what they are, and which are away.
//!
//! With TLS, a replica proves that the certificate which it has just shown is its own. From then on no other is accepted
//! there. So it does not matter who has signed the certificate, nor which names are in it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Uri};
use parking_lot::{Mutex, MutexGuard};
use portcullis_mcp::guard::Guard;
use portcullis_mcp::http1::pinned::PinnedCertificate;
use portcullis_mcp::http1::stream::TlsTarget;
use portcullis_mcp::http1::{HttpError, HttpPool, Origin};
use tokio::time::{Instant, timeout};
use url::Url;

use crate::seal::{Purpose, Sealer};
use crate::tls::OwnCertificate;

/// The path at which a replica proves what it is.
pub(crate) const PROOF_PATH: &str = "/.well-known/portcullis-replica";

/// Other replicas are near, or not there.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// The limit of a proof.
const PROOF_LIMIT: Duration = Duration::from_secs(5);

/// The life of a proof: no cluster gives an address away again sooner.
const PROOF_LIFE: Duration = Duration::from_secs(2);

/// The time for which a replica that could not be reached is not tried again.
const AWAY_LIFE: Duration = Duration::from_secs(5);

/// The life of an unused connection.
const IDLE_LIFE: Duration = Duration::from_secs(4);

/// Addresses that are remembered; of more, the one that was used last is forgotten.
const MAX_REPLICAS: usize = 256;

/// Why another replica has not answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ForwardError {
    /// It cannot be reached: it never got the request.
    Unreachable,
    /// It gave no answer, but may have carried the request out.
    Lost,
}

/// The other replicas.
#[derive(Default)]
pub(crate) struct Replicas {
    known: Mutex<HashMap<String, KnownReplica>>,
    /// The certificate of this replica. With it, no replica is asked in clear.
    own: Option<Arc<OwnCertificate>>,
}

struct KnownReplica {
    pool: Arc<HttpPool>,
    /// The certificate that it has proved to be its own.
    pin: Arc<PinnedCertificate>,
    used: Instant,
    proven: Option<Instant>,
    away: Option<Instant>,
}

/// The meaning of an error in the exchange with a replica.
pub(crate) fn failed(error: &HttpError) -> ForwardError {
    match error {
        HttpError::Connect(_) | HttpError::Blocked(_) | HttpError::NotSent => ForwardError::Unreachable,
        HttpError::Lost | HttpError::Stale | HttpError::TooLarge(_) | HttpError::NoMemory => ForwardError::Lost,
    }
}

impl Replicas {
    /// No replicas yet; this one has this certificate, if any.
    pub(crate) fn new(own: Option<Arc<OwnCertificate>>) -> Self {
        Self { own, ..Self::default() }
    }

    /// Connections to a replica, and whether it has proved itself lately; none while it is away.
    pub(crate) fn pool(&self, owner: &str) -> Option<(Arc<HttpPool>, bool)> {
        let (mut all, now) = (self.lock(), Instant::now());
        if !all.contains_key(owner) {
            if all.len() >= MAX_REPLICAS
                && let Some(oldest) = all.iter().min_by_key(|(_, known)| known.used).map(|(owner, _)| owner.clone())
            {
                all.remove(&oldest);
            }
            let pin = Arc::<PinnedCertificate>::default();
            let pool = pool(owner, &pin, self.own.as_ref())?;
            all.insert(owner.to_owned(), KnownReplica { pool, pin, used: now, proven: None, away: None });
        }
        let known = all.get_mut(owner)?;
        if known.away.is_some_and(|since| now < since + AWAY_LIFE) {
            return None;
        }
        known.used = now;
        Some((known.pool.clone(), known.proven.is_some_and(|since| now < since + PROOF_LIFE)))
    }

    /// Lets a replica prove itself. One that is only slow is not away.
    ///
    /// # Errors
    /// It could not: [`ForwardError::Unreachable`], or has not answered: [`ForwardError::Lost`].
    pub(crate) async fn prove(&self, pool: &Arc<HttpPool>, sealer: &Sealer, owner: &str) -> Result<(), ForwardError> {
        let asking = async {
            if !owner.starts_with("https:") {
                return ask_for_proof(pool, None, sealer, owner).await;
            }
            // On a connection of its own, whose certificate is the one that the proof must cover.
            let shown = Arc::new(PinnedCertificate::learning());
            let fresh = self::pool(owner, &shown, self.own.as_ref()).ok_or(())?;
            ask_for_proof(&fresh, Some(&shown), sealer, owner).await?;
            let proven = shown.get().ok_or(())?;
            if let Some(known) = self.lock().get(owner) {
                known.pin.set(proven);
            }
            Ok(())
        };
        let proof = timeout(PROOF_LIMIT, asking).await.map_err(|_| ForwardError::Lost)?;
        self.note(owner, proof.is_ok());
        proof.map_err(|()| ForwardError::Unreachable)
    }

    /// Closes connections that nobody has used for long.
    pub(crate) fn tidy(&self) {
        self.lock().values().for_each(|known| known.pool.sweep());
    }

    /// Remembers whether it is there.
    pub(crate) fn note(&self, owner: &str, is_there: bool) {
        let now = Instant::now();
        if let Some(known) = self.lock().get_mut(owner) {
            (known.proven, known.away) = if is_there { (Some(now), None) } else { (None, Some(now)) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, KnownReplica>> {
        self.known.lock()
    }
}

/// Connections to a replica that shows this certificate; `None`: it has no address that may be asked.
fn pool(owner: &str, pin: &Arc<PinnedCertificate>, own: Option<&Arc<OwnCertificate>>) -> Option<Arc<HttpPool>> {
    let url = Url::parse(owner).ok()?;
    let host = url.host_str()?;
    let tls = match url.scheme() {
        "https" => {
            let own = own.map(|own| own.clone() as _);
            Some(TlsTarget::pinned(host.trim_matches(['[', ']']), pin.clone(), own).ok()?)
        }
        // A replica that has a certificate sends no token in clear.
        "http" if own.is_none() => None,
        _ => return None,
    };
    let port = url.port_or_known_default()?;
    Some(HttpPool::new(Origin {
        host: host.trim_matches(['[', ']']).to_owned(),
        port,
        authority: HeaderValue::from_str(&format!("{host}:{port}")).ok()?,
        // Which addresses servers may have is no matter here: nobody but the gateway names this one.
        guard: Arc::new(Guard::default()),
        tls,
        connect_timeout: CONNECT_LIMIT,
        idle_timeout: IDLE_LIFE,
    }))
}

/// Asks a riddle that only a holder of the keys can read, and only the replica at this address answers.
async fn ask_for_proof(
    pool: &Arc<HttpPool>,
    shown: Option<&PinnedCertificate>,
    sealer: &Sealer,
    owner: &str,
) -> Result<(), ()> {
    let mut secret = [0; 16];
    aws_lc_rs::rand::fill(&mut secret).map_err(|_| ())?;
    let riddle = sealer.seal(Purpose::Replica, &[&secret[..], owner.as_bytes()].concat());
    let path: Uri = format!("{PROOF_PATH}?{riddle}").parse().map_err(|_| ())?;
    let exchange = pool.send(Method::GET, &path, &HeaderMap::new(), Bytes::new()).await.map_err(|_| ())?;
    let answer = exchange.whole(64).await.map_err(|_| ())?;
    let shown = match shown {
        Some(shown) => Some(shown.get().ok_or(())?),
        None => None,
    };
    (answer == solution(&secret, shown.as_deref())).then_some(()).ok_or(())
}

/// The solution of a riddle. With TLS it holds for the connection of this certificate alone, so that nobody in between
/// can pass it on.
pub(crate) fn solution(secret: &[u8], certificate: Option<&[u8]>) -> String {
    match certificate {
        Some(certificate) => hex(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), certificate).as_ref()),
        None => hex(secret),
    }
}

/// As hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_replica_that_is_away_is_left_alone_for_a_while_and_a_proof_grows_old() {
        let replicas = Replicas::default();
        let state = |replicas: &Replicas| replicas.pool("http://10.0.0.1:80").map(|(_, proven)| proven);
        assert_eq!(state(&replicas), Some(false));
        replicas.note("http://10.0.0.1:80", true);
        assert_eq!(state(&replicas), Some(true));
        tokio::time::advance(PROOF_LIFE).await;
        assert_eq!(state(&replicas), Some(false));
        replicas.note("http://10.0.0.1:80", false);
        assert_eq!(state(&replicas), None);
        tokio::time::advance(AWAY_LIFE).await;
        assert_eq!(state(&replicas), Some(false));
    }

    #[tokio::test]
    async fn a_replica_that_is_slow_to_prove_itself_is_not_away_but_one_that_refuses_is() {
        let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let refusing = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let replicas = Replicas::default();
        for (address, expected, is_away) in
            [(silent.local_addr().unwrap(), ForwardError::Lost, false), (refusing, ForwardError::Unreachable, true)]
        {
            let owner = format!("http://{address}");
            let (pool, _) = replicas.pool(&owner).unwrap();
            assert_eq!(replicas.prove(&pool, &Sealer::random(), &owner).await, Err(expected));
            assert_eq!(replicas.pool(&owner).is_none(), is_away);
        }
    }

    #[tokio::test]
    async fn connections_to_other_replicas_that_nobody_uses_are_closed() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let replicas = Replicas::default();
        let (pool, _) = replicas.pool(&format!("http://{}", listener.local_addr().unwrap())).unwrap();
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
        replicas.tidy();
        assert!(!closed(&mut replica).await, "it may still be used");
        tokio::time::sleep(IDLE_LIFE).await;
        replicas.tidy();
        assert!(closed(&mut replica).await);
    }

    #[test]
    fn only_what_was_never_sent_is_unreachable() {
        assert_eq!(failed(&HttpError::Connect("refused")), ForwardError::Unreachable);
        assert_eq!(failed(&HttpError::NotSent), ForwardError::Unreachable);
        assert_eq!(failed(&HttpError::Lost), ForwardError::Lost);
        assert_eq!(failed(&HttpError::TooLarge(1)), ForwardError::Lost);
    }

    #[test]
    fn no_more_replicas_are_remembered_than_may_be() {
        let replicas = Replicas::default();
        assert!((0..1000).all(|n| replicas.pool(&format!("http://10.0.0.1:{}", n + 1)).is_some()));
        assert_eq!(replicas.lock().len(), MAX_REPLICAS);
        assert!(replicas.pool("ftp://10.0.0.1").is_none());
    }
}
