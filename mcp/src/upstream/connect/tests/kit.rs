//! A scripted server.

use std::collections::HashMap;
use std::sync::Mutex;

use ::http::HeaderValue;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;

use super::super::super::loop_guard::NoGateways;
use super::super::*;
use crate::http1::Origin;

pub(super) const STEP: Duration = Duration::from_secs(1);

pub(super) const SESSION: &str = "content-type: application/json\r\nmcp-session-id: s1\r\n";

/// A server's reaction to a request.
#[derive(Clone, Debug)]
pub(super) enum Does {
    /// Answers with this status, these header lines, and this body, in which `ID` is the id of the request.
    Answers(u16, &'static str, String),
    /// Writes this and closes.
    Writes(&'static str),
    Closes,
    Resets,
    Hangs,
    /// Begins an event stream with this and keeps it open.
    Streams(&'static str),
    /// The same with this status. `ID` is the id of the request.
    Refuses(u16, String),
}

pub(super) fn answers(status: u16, body: &str) -> Does {
    Does::Answers(status, "content-type: application/json\r\n", body.to_owned())
}

pub(super) fn redirects(status: u16, location: &'static str) -> Does {
    let headers = format!("location: {location}\r\n");
    Does::Answers(status, Box::leak(headers.into_boxed_str()), String::new())
}

pub(super) fn error(status: u16, code: i64, more: &str) -> Does {
    answers(status, &format!(r#"{{"jsonrpc":"2.0","id":ID,"error":{{"code":{code},{more}}}}}"#))
}

pub(super) fn welcome(version: &str) -> Does {
    let result = format!(r#"{{"protocolVersion":"{version}","capabilities":{{}}}}"#);
    Does::Answers(200, SESSION, format!(r#"{{"jsonrpc":"2.0","id":ID,"result":{result}}}"#))
}

pub(super) fn offers(versions: &str) -> Does {
    let result = format!(r#"{{"supportedVersions":[{versions}],"capabilities":{{}}}}"#);
    answers(200, &format!(r#"{{"jsonrpc":"2.0","id":ID,"result":{result}}}"#))
}

/// Counts down by one.
pub(super) fn is_left(count: &Mutex<u32>) -> bool {
    let mut count = count.lock().unwrap();
    let left = *count > 0;
    *count = count.saturating_sub(1);
    left
}

/// One request: its method, its path, its headers, its body.
pub(super) type Seen = (String, String, HashMap<String, String>, Value);

pub(super) struct Scripted {
    pub(super) target: Target,
    pub(super) seen: Arc<Mutex<Vec<Seen>>>,
    pub(super) _serving: JoinSet<()>,
}

/// A server that looks up what to do by JSON-RPC method, or by `GET` and `DELETE`, and path.
pub(super) async fn scripted(script: impl Fn(&str, &str, &Value) -> Does + Clone + Send + 'static) -> Scripted {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (seen, mut serving) = (Arc::new(Mutex::new(Vec::new())), JoinSet::new());
    let noted = seen.clone();
    serving.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            connections.spawn(connection(stream, script.clone(), noted.clone()));
        }
    });
    Scripted { target: target(port), seen, _serving: serving }
}

pub(super) fn target(port: u16) -> Target {
    let pool = HttpPool::new(Origin {
        host: "127.0.0.1".into(),
        port,
        authority: HeaderValue::from_str(&format!("127.0.0.1:{port}")).unwrap(),
        guard: Arc::default(),
        tls: None,
        connect_timeout: STEP,
        idle_timeout: Duration::from_secs(60),
    });
    let headers =
        HeaderMap::from_iter([(::http::header::AUTHORIZATION, HeaderValue::from_static("Bearer s3cret-token"))]);
    Target {
        url: Url::parse(&format!("http://127.0.0.1:{port}/mcp?key=query-secret")).unwrap(),
        transport: Transport::Auto,
        pinned: None,
        headers: SessionHeaders { all: headers, ..SessionHeaders::default() },
        pool,
        step: STEP,
        max_message: 64 * 1024,
        capabilities: ClientCapabilities::NONE,
        extensions: Extensions::default(),
        loops: Arc::new(NoGateways),
    }
}

pub(super) async fn connection(
    mut stream: TcpStream,
    script: impl Fn(&str, &str, &Value) -> Does,
    seen: Arc<Mutex<Vec<Seen>>>,
) {
    while let Some((method, path, headers, body)) = request(&mut stream).await {
        let what = body["method"].as_str().map_or(method.clone(), str::to_owned);
        seen.lock().unwrap().push((what.clone(), path.clone(), headers, body.clone()));
        let text = match script(&what, &path, &body) {
            Does::Answers(status, headers, body_text) => {
                let text = body_text.replace("ID", &body["id"].to_string());
                format!("HTTP/1.1 {status} X\r\n{headers}content-length: {}\r\n\r\n{text}", text.len())
            }
            Does::Writes(text) => {
                let _ = stream.write_all(text.as_bytes()).await;
                return;
            }
            Does::Closes => return,
            Does::Resets => return stream.set_zero_linger().unwrap(),
            Does::Hangs => return std::future::pending().await,
            Does::Streams(text) => return streams(stream, 200, text).await,
            Does::Refuses(status, text) => {
                return streams(stream, status, &text.replace("ID", &body["id"].to_string())).await;
            }
        };
        if stream.write_all(text.as_bytes()).await.is_err() {
            return;
        }
    }
}

async fn streams(mut stream: TcpStream, status: u16, text: &str) {
    let head = format!("HTTP/1.1 {status} X\r\ncontent-type: text/event-stream\r\n\r\n");
    let _ = stream.write_all(format!("{head}{text}").as_bytes()).await;
    std::future::pending().await
}

pub(super) async fn request(stream: &mut TcpStream) -> Option<(String, String, HashMap<String, String>, Value)> {
    let mut read = Vec::new();
    loop {
        if let Some(end) = memchr::memmem::find(&read, b"\r\n\r\n") {
            let head = String::from_utf8(read[..end].to_vec()).unwrap();
            let (line, lines) = head.split_once("\r\n").unwrap();
            let headers: HashMap<String, String> = lines
                .split("\r\n")
                .filter_map(|line| line.split_once(": "))
                .map(|(name, value)| (name.to_owned(), value.to_owned()))
                .collect();
            let length = headers.get("content-length").map_or(0, |length| length.parse().unwrap());
            if read.len() >= end + 4 + length {
                let body = serde_json::from_slice(&read[end + 4..end + 4 + length]).unwrap_or(Value::Null);
                let mut words = line.split(' ');
                let (method, path) = (words.next().unwrap().to_owned(), words.next().unwrap().to_owned());
                return Some((method, path, headers, body));
            }
        }
        if stream.read_buf(&mut read).await.ok()? == 0 {
            return None;
        }
    }
}

impl Scripted {
    pub(super) async fn connect(&self) -> Result<Connected, ConnectError> {
        timeout(Duration::from_secs(20), connect(&self.target, None, &Arc::default())).await.expect("it hangs")
    }

    pub(super) async fn fails(&self) -> String {
        self.connect().await.err().expect("no session is opened").to_string()
    }

    /// The requests, in order.
    pub(super) fn asked(&self) -> Vec<String> {
        self.seen.lock().unwrap().iter().map(|(method, path, ..)| format!("{method} {path}")).collect()
    }
}
