//! The client against servers that answer with given bytes, in pieces of any size.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Uri};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::yield_now;
use tokio::time::timeout;

use super::*;
use crate::http1::stream::TlsTarget;

mod framing;
mod idle;
mod reuse;
mod tls;

/// A pool of connections to a server on this machine, and the server.
async fn pool_and_listener() -> (Arc<HttpPool>, TcpListener) {
    pool_and_listener_with(None).await
}

async fn pool_and_listener_with(tls: Option<TlsTarget>) -> (Arc<HttpPool>, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let pool = HttpPool::new(Origin {
        host: "127.0.0.1".into(),
        port,
        authority: HeaderValue::from_static("server"),
        guard: Arc::default(),
        tls,
        connect_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(60),
    });
    (pool, listener)
}

async fn ask(pool: &Arc<HttpPool>, body: &[u8]) -> Result<Exchange, HttpError> {
    pool.send(Method::POST, &Uri::from_static("/"), &HeaderMap::new(), Bytes::copy_from_slice(body)).await
}

/// Reads one request whose body has this length.
async fn read_request(server: &mut (impl AsyncRead + Unpin), body: usize) {
    let mut read = Vec::new();
    loop {
        if let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n")
            && read.len() >= end + 4 + body
        {
            return;
        }
        assert!(server.read_buf(&mut read).await.unwrap() > 0, "the client closed before the request was whole");
    }
}

/// Writes an answer in pieces of this size, each of which the client can take before the next.
async fn write_in_pieces(server: &mut TcpStream, answer: &[u8], size: usize) {
    server.set_nodelay(true).unwrap();
    for piece in answer.chunks(size) {
        if server.write_all(piece).await.is_err() {
            return;
        }
        yield_now().await;
    }
}

/// No test waits longer than this.
async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(20), work).await.expect("it hangs")
}

/// Lets the runtime see the events of connections.
async fn hear() {
    for _ in 0..200 {
        yield_now().await;
    }
}
