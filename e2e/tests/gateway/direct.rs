//! A raw client of the three transports, for calls to a server without the gateway.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_e2e::gateway::LIMIT;
use portcullis_e2e::http::{self, HttpRequest};
use portcullis_e2e::real::{RealServer, TestTransport};
use portcullis_e2e::sse::{self, SseEvents};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

const MODERN: &str = "2026-07-28";

/// supergateway sends every answer to every client, so no two requests of this process may have the same id.
static IDS: AtomicU64 = AtomicU64::new(1);

/// A session with a server.
pub(crate) struct Direct {
    url: String,
    way: DirectTransport,
    /// The server's instructions, or null.
    pub(crate) instructions: Value,
    /// The names of the server's extensions, sorted.
    pub(crate) extensions: Vec<String>,
}

enum DirectTransport {
    Sse(SseEvents),
    Session(String),
    Modern,
}

/// A tool's definition: its members as raw text.
pub(crate) type RawTool = BTreeMap<String, String>;

#[derive(Deserialize)]
struct RawAnswer<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

impl Direct {
    /// Opens a session as the gateway does; `version` is what the two should agree upon.
    pub(crate) async fn open(server: &RealServer, version: &str) -> Self {
        let mut direct = match server.transport {
            TestTransport::StreamableHttp if version == MODERN => Self::to(&server.url, DirectTransport::Modern),
            TestTransport::StreamableHttp => Self::to(&server.url, DirectTransport::Session(String::new())),
            TestTransport::Sse => {
                let mut events = sse::open(http::get(&server.url)).await.expect("an event stream");
                let endpoint = events.next(LIMIT).await.expect("an event").expect("not the end").data;
                let origin = server.url.strip_suffix("/sse").expect("the path is /sse");
                Self::to(&format!("{origin}{endpoint}"), DirectTransport::Sse(events))
            }
        };
        let said = if matches!(direct.way, DirectTransport::Modern) {
            direct.ask("server/discover", "", "").await
        } else {
            let params = format!(
                r#""protocolVersion":"{version}","capabilities":{{}},"clientInfo":{{"name":"direct","version":"0"}}"#
            );
            let said = direct.ask("initialize", "", &params).await;
            let note = direct.request(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.into());
            assert_eq!(note.send().await.expect("an answer").status, 202);
            said
        };
        let said: Value = serde_json::from_str(&said).expect("JSON");
        direct.instructions = said["instructions"].as_str().map_or(Value::Null, |text| text.trim().into());
        let extensions = said["capabilities"]["extensions"].as_object();
        direct.extensions = extensions.map(|all| all.keys().cloned().collect()).unwrap_or_default();
        direct.extensions.sort();
        direct
    }

    fn to(url: &str, way: DirectTransport) -> Self {
        Self { url: url.to_owned(), way, instructions: Value::Null, extensions: Vec::new() }
    }

    /// Calls a tool with raw arguments and gives back the raw result.
    pub(crate) async fn call(&mut self, tool: &str, arguments: &str) -> String {
        self.ask("tools/call", tool, &format!(r#""name":"{tool}","arguments":{arguments}"#)).await
    }

    /// The tools by name.
    pub(crate) async fn tools(&mut self) -> BTreeMap<String, RawTool> {
        definitions(&self.ask("tools/list", "", "").await)
    }

    /// The numbers of prompts, resources and resource templates.
    pub(crate) async fn others(&mut self) -> [usize; 3] {
        let lists = [
            ("prompts/list", "prompts"),
            ("resources/list", "resources"),
            ("resources/templates/list", "resourceTemplates"),
        ];
        let mut counts = [0; 3];
        for (count, (method, member)) in counts.iter_mut().zip(lists) {
            let list: Value = serde_json::from_str(&self.ask(method, "", "").await).expect("a list");
            assert_eq!(list["nextCursor"], Value::Null, "one page");
            *count = list[member].as_array().expect("a list").len();
        }
        counts
    }

    /// Sends a request and gives back the raw result; panics if there is none.
    async fn ask(&mut self, method: &str, name: &str, params: &str) -> String {
        let id = IDS.fetch_add(1, Ordering::Relaxed);
        let meta = r#""_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}}"#;
        let meta = if matches!(self.way, DirectTransport::Modern) { meta } else { "" };
        let comma = if meta.is_empty() || params.is_empty() { "" } else { "," };
        let mut request = self.request(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{comma}{meta}}}}}"#
        ));
        if let DirectTransport::Modern = self.way {
            request = request.header("mcp-protocol-version", MODERN).header("mcp-method", method);
            request = if name.is_empty() { request } else { request.header("mcp-name", name) };
        }
        if let DirectTransport::Sse(events) = &mut self.way {
            assert_eq!(request.send().await.expect("an answer").status, 202);
            return answer_in(events, id).await;
        }
        let stream = request.limit(LIMIT).open().await.expect("an answer");
        assert_eq!(stream.status, 200);
        if let (DirectTransport::Session(session), true) = (&mut self.way, method == "initialize") {
            *session = stream.header("mcp-session-id").to_owned();
        }
        if stream.header("content-type").starts_with("text/event-stream") {
            return answer_in(&mut stream.into(), id).await;
        }
        let whole = stream.rest().await.expect("a whole answer");
        result_of(whole.text(), id).expect("the answer to the request")
    }

    fn request(&self, body: String) -> HttpRequest {
        let request = http::post(&self.url, body);
        match &self.way {
            DirectTransport::Session(session) if !session.is_empty() => request.header("mcp-session-id", session),
            _ => request,
        }
    }
}

async fn answer_in(events: &mut SseEvents, id: u64) -> String {
    loop {
        let event = events.next(LIMIT).await.expect("an event").expect("not the end");
        if let Some(result) = result_of(&event.data, id) {
            return result;
        }
    }
}

fn result_of(message: &str, id: u64) -> Option<String> {
    let answer: RawAnswer<'_> = serde_json::from_str(message).ok()?;
    let result = || answer.result.unwrap_or_else(|| panic!("no result: {message}")).get().to_owned();
    (answer.id == Some(id)).then(result)
}

/// The definitions in a raw `{"tools":[...]}`.
pub(crate) fn definitions(list: &str) -> BTreeMap<String, RawTool> {
    #[derive(Deserialize)]
    struct RawList<'a> {
        #[serde(borrow)]
        tools: Vec<&'a RawValue>,
    }
    let list: RawList<'_> = serde_json::from_str(list).expect("a list of tools");
    let name = |tool: &RawTool| serde_json::from_str(&tool["name"]).expect("a name");
    list.tools.into_iter().map(|tool| members(tool.get())).map(|tool| (name(&tool), tool)).collect()
}

fn members(object: &str) -> RawTool {
    let raw: BTreeMap<String, Box<RawValue>> = serde_json::from_str(object).expect("an object");
    raw.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect()
}
