//! The MCP server behind the gateway that is counted: as little as it takes, in threads of its own.
//!
//! It answers only when the gateway has gone to sleep. So the gateway always meets the same situation, however fast the
//! machine is and whatever else it does.

use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, OnceLock, PoisonError, mpsc};
use std::thread;

use anyhow::Context as _;

use super::http::{Connection, Message, written};
use super::process::Pid;

/// How it speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// Streamable HTTP of 2025-11-25, with a session.
    Streamable,
    /// Streamable HTTP of 2026-07-28, without.
    Modern,
    /// HTTP+SSE of 2024-11-05.
    Sse,
}

/// A running server.
pub struct Backend {
    /// Where the gateway finds it.
    pub url: String,
    /// Tells that its tools were listed.
    pub listed: mpsc::Receiver<()>,
    shared: Arc<Shared>,
}

struct Shared {
    spoken: Spoken,
    gateway: OnceLock<Pid>,
    listed: mpsc::Sender<()>,
    /// Where answers go, over HTTP+SSE.
    stream: Mutex<Option<TcpStream>>,
}

const TOOLS: &str = r#"{"resultType":"complete","tools":[{"name":"echo","description":"Returns its message","inputSchema":{"type":"object","properties":{"message":{"type":"string"}}}}],"ttlMs":3600000,"cacheScope":"public"}"#;
const DISCOVERED: &str = r#"{"resultType":"complete","supportedVersions":["2026-07-28"],"capabilities":{"tools":{}},"ttlMs":3600000,"cacheScope":"public"}"#;

impl Backend {
    /// Starts one that speaks so.
    ///
    /// # Errors
    /// What the system says.
    pub fn start(spoken: Spoken) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((std::net::Ipv4Addr::LOCALHOST, 0)).context("listening")?;
        let address: SocketAddr = listener.local_addr()?;
        let path = if spoken == Spoken::Sse { "sse" } else { "mcp" };
        let (listed, receiver) = mpsc::channel();
        let shared = Arc::new(Shared { spoken, gateway: OnceLock::new(), listed, stream: Mutex::default() });
        let accepting = shared.clone();
        thread::spawn(move || accept(&listener, &accepting));
        Ok(Self { url: format!("http://{address}/{path}"), listed: receiver, shared })
    }

    /// From now on it waits for this process to sleep before it answers.
    pub fn answer_sleepers(&self, gateway: Pid) {
        let _ = self.shared.gateway.set(gateway);
    }
}

fn accept(listener: &TcpListener, shared: &Arc<Shared>) {
    while let Ok((stream, _)) = listener.accept() {
        let shared = shared.clone();
        // What goes wrong here, the caller of the gateway sees.
        thread::spawn(move || serve(stream, &shared));
    }
}

fn serve(stream: TcpStream, shared: &Shared) -> anyhow::Result<()> {
    let events = stream.try_clone()?;
    let mut connection = Connection::of(stream)?;
    while let Some(request) = connection.receive()? {
        let (first, event) = answer(&request, shared.spoken);
        shared.settle()?;
        connection.send(&first)?;
        if request.first.starts_with("GET /sse") {
            *shared.stream.lock().unwrap_or_else(PoisonError::into_inner) = Some(events);
            connection.drain();
            return Ok(());
        }
        if let Some(event) = event {
            shared.settle()?;
            shared.tell(&event)?;
        }
        if request.body.contains(r#""method":"tools/list""#) {
            let _ = shared.listed.send(());
        }
    }
    Ok(())
}

impl Shared {
    fn settle(&self) -> anyhow::Result<()> {
        self.gateway.get().map_or(Ok(()), |gateway| gateway.settle())
    }

    /// Sends a message on the event stream.
    fn tell(&self, message: &str) -> anyhow::Result<()> {
        let stream = self.stream.lock().unwrap_or_else(PoisonError::into_inner);
        let stream = stream.as_ref().context("there is no event stream")?;
        std::io::Write::write_all(&mut &*stream, chunk(&format!("event: message\ndata: {message}\n\n")).as_bytes())?;
        Ok(())
    }
}

/// What is written on the connection of the request, and the message that follows on the event stream.
fn answer(request: &Message, spoken: Spoken) -> (Vec<u8>, Option<String>) {
    let json = "content-type: application/json\r\n";
    if request.first.starts_with("GET") {
        return (opened(spoken), None);
    }
    if !request.first.starts_with("POST") {
        return (written("HTTP/1.1 200 OK", "", ""), None);
    }
    let Some(message) = reply(&request.body, spoken) else {
        return (written("HTTP/1.1 202 Accepted", "", ""), None);
    };
    if spoken == Spoken::Sse {
        return (written("HTTP/1.1 202 Accepted", "content-type: text/plain\r\n", "Accepted"), Some(message));
    }
    let session = spoken == Spoken::Streamable && request.body.contains(r#""method":"initialize""#);
    let headers = if session { format!("{json}mcp-session-id: 0123456789abcdef\r\n") } else { json.to_owned() };
    (written("HTTP/1.1 200 OK", &headers, &message), None)
}

/// The answer to GET: the event stream, where there is one.
fn opened(spoken: Spoken) -> Vec<u8> {
    if spoken != Spoken::Sse {
        return written("HTTP/1.1 405 Method Not Allowed", "", "");
    }
    let head = "HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n";
    let endpoint = chunk("event: endpoint\ndata: /messages?sessionId=0123456789abcdef\n\n");
    format!("{head}{endpoint}").into_bytes()
}

fn chunk(text: &str) -> String {
    format!("{:x}\r\n{text}\r\n", text.len())
}

/// The answer to a JSON-RPC message; `None` to a notification.
fn reply(request: &str, spoken: Spoken) -> Option<String> {
    let id = after(request, r#""id":"#)?.split([',', '}']).next()?;
    let method = after(request, r#""method":""#)?.split('"').next()?;
    let result = match method {
        "tools/call" => {
            let text = after(request, r#""message":""#)?.split('"').next()?;
            format!(r#"{{"resultType":"complete","content":[{{"type":"text","text":"{text}"}}],"isError":false}}"#)
        }
        "tools/list" => TOOLS.to_owned(),
        "server/discover" if spoken == Spoken::Modern => DISCOVERED.to_owned(),
        "initialize" if spoken != Spoken::Modern => {
            let version = if spoken == Spoken::Sse { "2024-11-05" } else { "2025-11-25" };
            let info = r#""serverInfo":{"name":"count","version":"1"}"#;
            format!(r#"{{"protocolVersion":"{version}","capabilities":{{"tools":{{}}}},{info}}}"#)
        }
        "ping" => "{}".to_owned(),
        _ => {
            let error = r#"{"code":-32601,"message":"Method not found"}"#;
            return Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#));
        }
    };
    Some(format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#))
}

fn after<'a>(text: &'a str, mark: &str) -> Option<&'a str> {
    text.split_once(mark).map(|(_, rest)| rest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_answered_with_its_id_and_message() {
        let call = r#"{"jsonrpc":"2.0","id":12,"method":"tools/call","params":{"arguments":{"message":"hello"}}}"#;

        let result = r#"{"resultType":"complete","content":[{"type":"text","text":"hello"}],"isError":false}"#;
        let expected = format!(r#"{{"jsonrpc":"2.0","id":12,"result":{result}}}"#);
        assert_eq!(reply(call, Spoken::Sse), Some(expected));
    }

    #[test]
    fn each_speaks_its_own_revision_alone() {
        let handshake = |method: &str, spoken| {
            let answer = reply(&format!(r#"{{"id":1,"method":"{method}"}}"#), spoken).unwrap();
            ["2024-11-05", "2025-11-25", "2026-07-28"].into_iter().find(|version| answer.contains(version))
        };
        let both = |spoken| ["server/discover", "initialize"].map(|method| handshake(method, spoken));

        assert_eq!(both(Spoken::Sse), [None, Some("2024-11-05")]);
        assert_eq!(both(Spoken::Streamable), [None, Some("2025-11-25")]);
        assert_eq!(both(Spoken::Modern), [Some("2026-07-28"), None]);
        assert_eq!(reply(r#"{"method":"notifications/initialized"}"#, Spoken::Sse), None);
    }
}
