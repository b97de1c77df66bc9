//! The same over TLS: reading, reuse, and the end of a response. Only `close_notify` ends one.

use rcgen::{CertificateParams, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::version::{TLS12, TLS13};
use rustls::{RootCertStore, ServerConfig, SupportedProtocolVersion};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::reuse::from_two_workers;
use super::*;
use crate::http1::stream::{Named, TlsMaterial};

const OK: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const NEW: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nnew";
const VERSIONS: [&SupportedProtocolVersion; 2] = [&TLS12, &TLS13];

/// A server with its own certificate, and a pool of connections to it.
struct Stage {
    pool: Arc<HttpPool>,
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

/// The server's end of a connection.
type Server = TlsStream<TcpStream>;

/// A self-signed certificate for this name, in PEM, and the server's acceptor for it.
fn certificate(name: &str, version: &'static SupportedProtocolVersion) -> (Vec<u8>, TlsAcceptor) {
    let key = KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(vec![name.to_owned()]).unwrap().self_signed(&key).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_protocol_versions(&[version]).unwrap();
    let private = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let config = config.with_no_client_auth().with_single_cert(vec![certificate.der().clone()], private).unwrap();
    (certificate.pem().into_bytes(), TlsAcceptor::from(Arc::new(config)))
}

fn trusting(ca: Vec<u8>) -> TlsMaterial {
    TlsMaterial { ca: Some(Named { name: "ca".into(), value: ca }), ..TlsMaterial::default() }
}

fn target(material: &TlsMaterial) -> Option<TlsTarget> {
    Some(TlsTarget::new("127.0.0.1", material, &Arc::new(RootCertStore::empty())).unwrap())
}

impl Stage {
    async fn new(version: &'static SupportedProtocolVersion) -> Self {
        let (ca, acceptor) = certificate("127.0.0.1", version);
        let (pool, listener) = pool_and_listener_with(target(&trusting(ca))).await;
        Self { pool, listener, acceptor }
    }

    async fn accept(&self) -> Server {
        let (tcp, _) = self.listener.accept().await.unwrap();
        tcp.set_nodelay(true).unwrap();
        self.acceptor.accept(tcp).await.unwrap()
    }

    async fn asked(&self, body: &[u8]) -> Result<Bytes, HttpError> {
        ask(&self.pool, body).await?.whole(16 * 1024 * 1024).await
    }
}

/// Answers one request with these bytes.
async fn answer(server: &mut Server, body: usize, bytes: &[u8]) {
    read_request(server, body).await;
    server.write_all(bytes).await.unwrap();
    server.flush().await.unwrap();
}

/// How a server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// Sends `close_notify`, and closes.
    Notified,
    /// Only sends `close_notify`.
    NotifiedOpen,
    /// Closes without it, or a third party on the path does.
    Closed,
    /// The same, in the middle of a record.
    ClosedInRecord,
    /// Resets the connection.
    Reset,
}

/// All except the reset, which may discard data in transit.
const ENDS: [Way; 4] = [Way::Notified, Way::NotifiedOpen, Way::Closed, Way::ClosedInRecord];

/// All.
const WAYS: [Way; 5] = [Way::Notified, Way::NotifiedOpen, Way::Closed, Way::ClosedInRecord, Way::Reset];

impl Way {
    /// The returned value keeps the connection open if it is to stay open.
    async fn end(self, mut server: Server) -> Option<Server> {
        match self {
            Self::Notified => server.shutdown().await.unwrap(),
            Self::NotifiedOpen => {
                server.get_mut().1.send_close_notify();
                server.flush().await.unwrap();
                return Some(server);
            }
            Self::Closed => drop(server.into_inner()),
            // The head of a record with 64 bytes, and one of them.
            Self::ClosedInRecord => server.get_mut().0.write_all(b"\x17\x03\x03\x00\x40\x00").await.unwrap(),
            Self::Reset => server.get_mut().0.set_zero_linger().unwrap(),
        }
        None
    }
}

#[tokio::test]
async fn a_connection_that_one_worker_leaves_unused_serves_the_next() {
    for version in VERSIONS {
        let stage = Stage::new(version).await;
        let serving = async {
            let mut server = stage.accept().await;
            for _ in 0..4 {
                answer(&mut server, 1, OK).await;
            }
            server
        };
        soon(async { tokio::join!(serving, from_two_workers(&stage.pool, 4)) }).await;
        assert_eq!(stage.pool.unused(), 1);
    }
}

#[tokio::test]
async fn a_connection_carries_one_request_after_the_other() {
    for version in VERSIONS {
        let stage = Stage::new(version).await;
        let serving = async {
            let mut server = stage.accept().await;
            for length in [1, 2, 3] {
                answer(&mut server, length, OK).await;
            }
            server
        };
        let asking = async {
            for body in ["a", "bb", "ccc"] {
                assert_eq!(stage.asked(body.as_bytes()).await, Ok(Bytes::from_static(b"ok")));
            }
        };
        let _server = soon(async { tokio::join!(serving, asking) }).await;
        assert_eq!(stage.pool.unused(), 1);
    }
}

#[tokio::test]
async fn an_unused_connection_that_the_server_has_ended_in_any_way_is_replaced() {
    for version in VERSIONS {
        for way in WAYS {
            let stage = Stage::new(version).await;
            let first = async {
                let mut server = stage.accept().await;
                answer(&mut server, 1, OK).await;
                server
            };
            let (server, body) = soon(async { tokio::join!(first, stage.asked(b"a")) }).await;
            assert_eq!((body, stage.pool.unused()), (Ok(Bytes::from_static(b"ok")), 1));
            let _open = way.end(server).await;
            hear().await;
            let second = async {
                let mut server = stage.accept().await;
                answer(&mut server, 2, NEW).await;
                server
            };
            let (_server, body) = soon(async { tokio::join!(second, stage.asked(b"bb")) }).await;
            assert_eq!((body, stage.pool.unused()), (Ok(Bytes::from_static(b"new")), 1), "{way:?}");
        }
    }
}

/// The part that a client receives of a response that is cut off in this way.
async fn cut_off(version: &'static SupportedProtocolVersion, text: &str, way: Way) -> Result<Bytes, HttpError> {
    let stage = Stage::new(version).await;
    let serving = async {
        let mut server = stage.accept().await;
        answer(&mut server, 1, text.as_bytes()).await;
        way.end(server).await
    };
    let (_open, body) = soon(async { tokio::join!(serving, stage.asked(b"a")) }).await;
    assert_eq!(stage.pool.unused(), 0, "{text:?} {way:?}");
    body
}

#[tokio::test]
async fn an_answer_that_is_cut_off_is_lost_however_its_end_is_told() {
    let texts = [
        "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n",
        "HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\npart",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n8\r\npart",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\npart\r\n0\r\n",
    ];
    for version in VERSIONS {
        for text in texts {
            for way in WAYS {
                assert_eq!(cut_off(version, text, way).await, Err(HttpError::Lost), "{text:?} {way:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_until_the_end_of_the_connection_is_whole_only_if_the_server_says_that_it_ends() {
    for version in VERSIONS {
        for way in WAYS {
            let is_whole = matches!(way, Way::Notified | Way::NotifiedOpen);
            for body in ["", "part"] {
                let expected = if is_whole { Ok(Bytes::from(body)) } else { Err(HttpError::Lost) };
                let found = cut_off(version, &format!("HTTP/1.1 200 OK\r\n\r\n{body}"), way).await;
                assert_eq!(found, expected, "{body:?} {way:?}");
            }
        }
    }
}

#[tokio::test]
async fn an_answer_that_was_whole_counts_however_its_connection_ends() {
    let texts = [OK, b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n"];
    for version in VERSIONS {
        for (text, way) in texts.into_iter().flat_map(|text| ENDS.map(|way| (text, way))) {
            let stage = Stage::new(version).await;
            let serving = async {
                let mut server = stage.accept().await;
                answer(&mut server, 1, text).await;
                way.end(server).await
            };
            let asking = async {
                let exchange = ask(&stage.pool, b"a").await?;
                hear().await;
                exchange.whole(10).await
            };
            let (_open, body) = soon(async { tokio::join!(serving, asking) }).await;
            assert_eq!(body, Ok(Bytes::from_static(b"ok")), "{way:?}");
            stage.pool.sweep();
            assert_eq!(stage.pool.unused(), 0, "{way:?}");
        }
    }
}

#[tokio::test]
async fn what_has_come_of_an_answer_is_taken_before_it_is_known_to_be_cut_off() {
    let stage = Stage::new(&TLS13).await;
    let serving = async {
        let mut server = stage.accept().await;
        answer(&mut server, 1, b"HTTP/1.1 200 OK\r\n\r\npart").await;
        Way::Closed.end(server).await
    };
    let asking = async {
        let mut exchange = ask(&stage.pool, b"a").await.unwrap();
        [exchange.chunk().await, exchange.chunk().await]
    };
    let (_, pieces) = soon(async { tokio::join!(serving, asking) }).await;
    assert_eq!(pieces, [Ok(Some(Bytes::from_static(b"part"))), Err(HttpError::Lost)]);
}

#[tokio::test]
async fn a_server_that_answers_a_large_body_while_it_reads_one_blocks_nobody() {
    for version in VERSIONS {
        let stage = Stage::new(version).await;
        let large: Vec<u8> = (0..16 * 1024 * 1024_u32).map(|at| (at % 251) as u8).collect();
        let serving = async {
            let mut server = stage.accept().await;
            let mut seen = Vec::new();
            while !seen.ends_with(b"\r\n\r\n") {
                seen.push(server.read_u8().await.unwrap());
            }
            let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", large.len());
            server.write_all(head.as_bytes()).await.unwrap();
            let (mut piece, mut left) = (vec![0; 64 * 1024], large.len());
            while left > 0 {
                let read = server.read(&mut piece).await.unwrap();
                server.write_all(&piece[..read]).await.unwrap();
                left -= read;
            }
            server.flush().await.unwrap();
            server
        };
        let (_server, body) = soon(async { tokio::join!(serving, stage.asked(&large)) }).await;
        assert_eq!((body.map(|body| body == large), stage.pool.unused()), (Ok(true), 1));
    }
}

#[tokio::test]
async fn who_has_no_certificate_that_is_trusted_for_the_name_is_sent_nothing() {
    const UNTRUSTED: Result<Bytes, HttpError> = Err(HttpError::Connect("the server's certificate is not trusted"));
    let (other, _) = certificate("127.0.0.1", &TLS13);
    let (own, acceptor) = certificate("127.0.0.1", &TLS13);
    let (of_another_name, elsewhere) = certificate("elsewhere.test", &TLS13);
    let anybody = TlsMaterial { insecure: true, ..TlsMaterial::default() };
    let named = TlsMaterial { server_name: Some("elsewhere.test".into()), ..trusting(of_another_name.clone()) };
    let ok = || Ok(Bytes::from_static(b"ok"));
    let cases = [
        ("its own", &acceptor, trusting(own), ok()),
        ("of another authority", &acceptor, trusting(other), UNTRUSTED),
        ("of nobody", &acceptor, TlsMaterial::default(), UNTRUSTED),
        ("for another name", &elsewhere, trusting(of_another_name), UNTRUSTED),
        ("for the name that is expected", &elsewhere, named, ok()),
        ("any", &acceptor, anybody, ok()),
    ];
    for (what, acceptor, material, expected) in cases {
        let (pool, listener) = pool_and_listener_with(target(&material)).await;
        let serving = async {
            let (tcp, _) = listener.accept().await.unwrap();
            let mut server = acceptor.accept(tcp).await.ok()?;
            answer(&mut server, 1, OK).await;
            Some(server)
        };
        let asking = async { ask(&pool, b"a").await?.whole(10).await };
        let (server, body) = soon(async { tokio::join!(serving, asking) }).await;
        let is_ok = expected.is_ok();
        assert_eq!((body, pool.unused() == 1), (expected, is_ok), "{what}");
        assert_eq!(server.is_some(), is_ok, "{what}");
    }
}

#[tokio::test]
async fn who_speaks_no_tls_is_sent_no_request() {
    for (said, expected) in [
        (&b"HTTP/1.1 400 Bad Request\r\n\r\n"[..], "the TLS handshake failed"),
        (b"", "the connection closed during the TLS handshake"),
    ] {
        let stage = Stage::new(&TLS13).await;
        let serving = async {
            let (mut tcp, _) = stage.listener.accept().await.unwrap();
            let mut hello = vec![0; 5];
            tcp.read_exact(&mut hello).await.unwrap();
            assert_eq!(hello[..2], [0x16, 3], "a handshake");
            tcp.write_all(said).await.unwrap();
            tcp.shutdown().await.unwrap();
            tcp
        };
        let (_tcp, body) = soon(async { tokio::join!(serving, stage.asked(b"a")) }).await;
        assert_eq!(body, Err(HttpError::Connect(expected)));
    }
}
