//! A Kubernetes API server with a single ConfigMap: what a gateway that watches it needs, and nothing more.

use std::io;
use std::rc::Rc;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// The longest head of a request.
const MAX_HEAD: usize = 16 * 1024;

/// The ConfigMap, as text for `data["servers.json"]`, and its version.
pub struct Api {
    name: String,
    content: watch::Sender<(u64, String)>,
}

impl Api {
    /// Holds a ConfigMap of this name.
    pub fn new(name: &str, content: String) -> Rc<Self> {
        Rc::new(Self { name: name.into(), content: watch::Sender::new((1, content)) })
    }

    /// Writes the ConfigMap; those who watch are told.
    pub fn write(&self, content: String) {
        self.content.send_modify(|now| *now = (now.0 + 1, content));
    }

    /// Answers lists and watches for ever.
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
            let done = match target.contains("watch=true") {
                true => self.watched(&mut stream, from(target)).await,
                false => self.listed(&mut stream).await,
            };
            if done.is_err() {
                return;
            }
        }
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
        let metadata = json!({"name": self.name, "namespace": "mcp", "resourceVersion": version.to_string()});
        json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": {"servers.json": content}})
    }
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
        if bytes.len() > MAX_HEAD || stream.read_buf(&mut bytes).await? == 0 {
            return Ok(None);
        }
    }
    Ok(String::from_utf8(bytes).ok())
}
