//! A fake issuer or API server on loopback: a path, an answer, and a list of requests.
use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

/// Answers until it is dropped.
pub(super) struct Fake {
    pub(super) address: SocketAddr,
    shown: Arc<Mutex<Shown>>,
    _serving: JoinSet<()>,
}

#[derive(Default)]
struct Shown {
    answers: HashMap<String, String>,
    asked: Vec<String>,
}

impl Fake {
    pub(super) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, shown) = (listener.local_addr().unwrap(), Arc::<Mutex<Shown>>::default());
        let mut serving = JoinSet::new();
        let shared = shown.clone();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(answer(stream, shared.clone()));
            }
        });
        Self { address, shown, _serving: serving }
    }

    pub(super) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From now on answers 200 with this body.
    pub(super) fn show(&self, path: &str, body: impl ToString) {
        self.show_raw(path, "200 OK", &body.to_string());
    }

    /// From now on answers with this status line and body.
    pub(super) fn show_raw(&self, path: &str, status: &str, body: &str) {
        let length = body.len();
        let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        self.shown.lock().unwrap().answers.insert(path.into(), head + body);
    }

    /// From now on gives no answer, but keeps the connection.
    pub(super) fn hang(&self, path: &str) {
        self.shown.lock().unwrap().answers.insert(path.into(), String::new());
    }

    /// The number of requests for this path.
    pub(super) fn count(&self, path: &str) -> usize {
        self.shown.lock().unwrap().asked.iter().filter(|asked| *asked == path).count()
    }
}

async fn answer(mut stream: TcpStream, shown: Arc<Mutex<Shown>>) {
    let (mut request, mut buffer) = (Vec::new(), [0; 16 * 1024]);
    let path = loop {
        let Ok(read @ 1..) = stream.read(&mut buffer).await else { return };
        request.extend_from_slice(&buffer[..read]);
        let text = String::from_utf8_lossy(&request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
        let length =
            head.to_ascii_lowercase().lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok());
        if body.len() >= length.unwrap_or(0) {
            break head.split(' ').nth(1).unwrap().to_owned();
        }
    };
    let answer = {
        let mut shown = shown.lock().unwrap();
        shown.asked.push(path.clone());
        shown
            .answers
            .get(&path)
            .cloned()
            .unwrap_or_else(|| "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into())
    };
    if answer.is_empty() {
        let _ = stream.read(&mut buffer).await;
    }
    let _ = stream.write_all(answer.as_bytes()).await;
}
