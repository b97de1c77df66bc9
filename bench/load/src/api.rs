//! A Kubernetes API server with some ConfigMaps: what a gateway that watches them needs, and nothing more.

use std::io;
use std::rc::Rc;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The longest head of a request.
const MAX_HEAD_BYTES: usize = 16 * 1024;

/// The ConfigMaps.
pub struct Api(Vec<Stored>);

/// A ConfigMap, as text for `data["servers.json"]`, and its version.
struct Stored {
    name: String,
    content: watch::Sender<(u64, String)>,
}

impl Api {
    /// Holds ConfigMaps of these names.
    pub fn new(all: impl IntoIterator<Item = (String, String)>) -> Rc<Self> {
        let stored = |(name, content)| Stored { name, content: watch::Sender::new((1, content)) };
        Rc::new(Self(all.into_iter().map(stored).collect()))
    }

    /// Writes a ConfigMap, and notifies its watchers.
    pub fn write(&self, index: usize, content: String) {
        self.0[index].content.send_modify(|now| *now = (now.0 + 1, content));
    }

    /// Answers lists and watches until it is dropped.
    pub async fn serve(self: Rc<Self>, listener: TcpListener) -> io::Result<()> {
        let mut connections = JoinSet::new();
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            connections.spawn_local(self.clone().connection(stream));
            while connections.try_join_next().is_some() {}
        }
    }

    async fn connection(self: Rc<Self>, mut stream: TcpStream) {
        while let Ok(Some(head)) = head(&mut stream).await {
            let target = head.split(' ').nth(1).unwrap_or_default();
            let Some(stored) = self.0.iter().find(|stored| stored.is_wanted(target)) else { return };
            let done = match target.contains("watch=true") {
                true => stored.watched(&mut stream, from(target)).await,
                false => stored.listed(&mut stream).await,
            };
            if done.is_err() {
                return;
            }
        }
    }
}

impl Stored {
    /// Whether a request selects this one by its name.
    fn is_wanted(&self, target: &str) -> bool {
        let fields = target.split(['?', '&']).find_map(|part| part.strip_prefix("fieldSelector=metadata.name"));
        fields.is_some_and(|rest| [format!("={}", self.name), format!("%3D{}", self.name)].iter().any(|it| it == rest))
    }

    async fn listed(&self, stream: &mut TcpStream) -> io::Result<()> {
        let (version, content) = self.content.borrow().clone();
        let metadata = json!({"resourceVersion": version.to_string()});
        let items = [self.object(version, &content)];
        let list =
            json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": items}).to_string();
        let head = format!("content-type: application/json\r\ncontent-length: {}", list.len());
        stream.write_all(format!("HTTP/1.1 200 OK\r\n{head}\r\n\r\n{list}").as_bytes()).await
    }

    /// One event for each version after `seen`.
    async fn watched(&self, stream: &mut TcpStream, mut seen: u64) -> io::Result<()> {
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n";
        stream.write_all(head.as_bytes()).await?;
        let mut news = self.content.subscribe();
        loop {
            let (version, content) = news.borrow_and_update().clone();
            if version > seen {
                seen = version;
                let event = json!({"type": "MODIFIED", "object": self.object(version, &content)}).to_string() + "\n";
                stream.write_all(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes()).await?;
            }
            news.changed().await.map_err(io::Error::other)?;
        }
    }

    fn object(&self, version: u64, content: &str) -> Value {
        // A gateway takes no content that the operator has not marked as its own.
        let revision = json!({"portcullis.dev/revision": hex(&Sha256::digest(content.as_bytes()))});
        let version = version.to_string();
        let metadata =
            json!({"name": self.name, "namespace": "mcp", "resourceVersion": version, "annotations": revision});
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": {"servers.json": content}})
    }
}

/// Bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The version that a watch begins after.
fn from(target: &str) -> u64 {
    let found = target.split(['?', '&']).find_map(|part| part.strip_prefix("resourceVersion="));
    found.and_then(|version| version.parse().ok()).unwrap_or(0)
}

/// The head of the next request, which has no body; none at the end of the connection.
async fn head(stream: &mut TcpStream) -> io::Result<Option<String>> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        if bytes.len() > MAX_HEAD_BYTES || stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
    Ok(String::from_utf8(bytes).ok())
}
