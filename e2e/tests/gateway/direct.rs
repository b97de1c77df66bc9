//! What a server itself says, without the gateway: a raw client of the three ways to speak MCP.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_e2e::gateway::LIMIT;
use portcullis_e2e::http::{self, Request};
use portcullis_e2e::real::{RealServer, Transport};
use portcullis_e2e::sse::{self, Events};
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

const MODERN: &str = "2026-07-28";

/// supergateway sends every answer to every client, so no two requests of this process may have the same id.
static IDS: AtomicU64 = AtomicU64::new(1);

/// A session with a server.
pub(crate) struct Direct {
    url: String,
    way: Way,
}

enum Way {
    Sse(Events),
    Session(String),
    Modern,
}

/// A tool's definition: its members as raw text.
pub(crate) type Definition = BTreeMap<String, String>;

#[derive(Deserialize)]
struct Answer<'a> {
    id: Option<u64>,
    #[serde(borrow)]
    result: Option<&'a RawValue>,
}

impl Direct {
    /// Opens a session as the gateway does; `version` is what the two should agree upon.
    pub(crate) async fn open(server: &RealServer, version: &str) -> Self {
        let mut direct = match server.transport {
            Transport::StreamableHttp if version == MODERN => Self { url: server.url.clone(), way: Way::Modern },
            Transport::StreamableHttp => Self { url: server.url.clone(), way: Way::Session(String::new()) },
            Transport::Sse => {
                let mut events = sse::open(http::get(&server.url)).await.expect("an event stream");
                let endpoint = events.next(LIMIT).await.expect("an event").expect("not the end").data;
                let origin = server.url.strip_suffix("/sse").expect("the path is /sse");
                Self { url: format!("{origin}{endpoint}"), way: Way::Sse(events) }
            }
        };
        if !matches!(direct.way, Way::Modern) {
            let params = format!(
                r#""protocolVersion":"{version}","capabilities":{{}},"clientInfo":{{"name":"direct","version":"0"}}"#
            );
            direct.ask("initialize", "", &params).await;
            let note = direct.request(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#.into());
            assert_eq!(note.send().await.expect("an answer").status, 202);
        }
        direct
    }

    /// Calls a tool with raw arguments and gives back the raw result.
    pub(crate) async fn call(&mut self, tool: &str, arguments: &str) -> String {
        self.ask("tools/call", tool, &format!(r#""name":"{tool}","arguments":{arguments}"#)).await
    }

    /// The tools by name.
    pub(crate) async fn tools(&mut self) -> BTreeMap<String, Definition> {
        definitions(&self.ask("tools/list", "", "").await)
    }

    /// How many prompts, resources and resource templates there are.
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
        let meta = if matches!(self.way, Way::Modern) { meta } else { "" };
        let comma = if meta.is_empty() || params.is_empty() { "" } else { "," };
        let mut request = self.request(format!(
            r#"{{"jsonrpc":"2.0","id":{id},"method":"{method}","params":{{{params}{comma}{meta}}}}}"#
        ));
        if let Way::Modern = self.way {
            request = request.header("mcp-protocol-version", MODERN).header("mcp-method", method);
            request = if name.is_empty() { request } else { request.header("mcp-name", name) };
        }
        if let Way::Sse(events) = &mut self.way {
            assert_eq!(request.send().await.expect("an answer").status, 202);
            return answer_in(events, id).await;
        }
        let stream = request.limit(LIMIT).open().await.expect("an answer");
        assert_eq!(stream.status, 200);
        if let (Way::Session(session), true) = (&mut self.way, method == "initialize") {
            *session = stream.header("mcp-session-id").to_owned();
        }
        if stream.header("content-type").starts_with("text/event-stream") {
            return answer_in(&mut stream.into(), id).await;
        }
        let whole = stream.rest().await.expect("a whole answer");
        result_of(whole.text(), id).expect("the answer to the request")
    }

    fn request(&self, body: String) -> Request {
        let request = http::post(&self.url, body);
        match &self.way {
            Way::Session(session) if !session.is_empty() => request.header("mcp-session-id", session),
            _ => request,
        }
    }
}

async fn answer_in(events: &mut Events, id: u64) -> String {
    loop {
        let event = events.next(LIMIT).await.expect("an event").expect("not the end");
        if let Some(result) = result_of(&event.data, id) {
            return result;
        }
    }
}

fn result_of(message: &str, id: u64) -> Option<String> {
    let answer: Answer<'_> = serde_json::from_str(message).ok()?;
    let result = || answer.result.unwrap_or_else(|| panic!("no result: {message}")).get().to_owned();
    (answer.id == Some(id)).then(result)
}

/// The definitions in a raw `{"tools":[...]}`.
pub(crate) fn definitions(list: &str) -> BTreeMap<String, Definition> {
    #[derive(Deserialize)]
    struct List<'a> {
        #[serde(borrow)]
        tools: Vec<&'a RawValue>,
    }
    let list: List<'_> = serde_json::from_str(list).expect("a list of tools");
    let name = |tool: &Definition| serde_json::from_str(&tool["name"]).expect("a name");
    list.tools.into_iter().map(|tool| members(tool.get())).map(|tool| (name(&tool), tool)).collect()
}

fn members(object: &str) -> Definition {
    let raw: BTreeMap<String, Box<RawValue>> = serde_json::from_str(object).expect("an object");
    raw.into_iter().map(|(name, value)| (name, value.get().to_owned())).collect()
}
