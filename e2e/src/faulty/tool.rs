//! The tools that a faulty server offers: their listing and their results are raw text of the test's own.

use std::time::Duration;

use super::fault::CallFault;

/// The schema of a tool that takes one string, `message`.
pub const MESSAGE_SCHEMA: &str =
    r#"{"type":"object","properties":{"message":{"type":"string"}},"required":["message"]}"#;

/// The result of a call of a tool.
#[derive(Clone, Debug)]
pub enum ToolHandler {
    /// A text block that holds the bytes of `arguments` exactly as they were received ("" when there were none).
    Echo,
    /// This raw result, byte for byte.
    Result(String),
    /// This raw error object, byte for byte.
    Error(String),
}

/// A tool.
#[derive(Clone, Debug)]
pub struct Tool {
    /// The name by which it is called.
    pub name: String,
    /// Its raw entry in `tools/list`, byte for byte; it may contradict everything else.
    pub listed: String,
    /// The result of a call.
    pub handler: ToolHandler,
    /// The duration of a call.
    pub delay: Duration,
    /// The interval of progress notifications during a call, if the caller gave a progress token.
    pub progress: Option<Duration>,
    /// Its own way of answering, instead of the server's.
    pub answer: Option<CallFault>,
}

impl Tool {
    /// Gives its arguments back as they were received; takes one string, `message`.
    pub fn echo(name: &str) -> Self {
        Self::new(name, ToolHandler::Echo)
    }

    /// Gives this raw result.
    pub fn result(name: &str, result: impl Into<String>) -> Self {
        Self::new(name, ToolHandler::Result(result.into()))
    }

    /// Gives a text block.
    pub fn text(name: &str, text: &str) -> Self {
        Self::result(name, text_result(text, ""))
    }

    /// Returns a text block of `bytes`.
    pub fn big(name: &str, bytes: usize) -> Self {
        Self::text(name, &"x".repeat(bytes))
    }

    /// Fails as tools do: a result with `isError`.
    pub fn failing(name: &str, text: &str) -> Self {
        Self::result(name, text_result(text, r#","isError":true"#))
    }

    /// Fails as protocols do: a JSON-RPC error.
    pub fn error(name: &str, code: i64, message: &str) -> Self {
        let message = quote(message);
        Self::new(name, ToolHandler::Error(format!(r#"{{"code":{code},"message":{message}}}"#)))
    }

    fn new(name: &str, handler: ToolHandler) -> Self {
        let listed = entry(name, MESSAGE_SCHEMA, "");
        Self { name: name.into(), listed, handler, delay: Duration::ZERO, progress: None, answer: None }
    }

    /// Sets the raw `inputSchema`. Comes before [`Tool::annotated`] and [`Tool::listed_as`].
    pub fn schema(mut self, schema: &str) -> Self {
        self.listed = entry(&self.name, schema, "");
        self
    }

    /// Adds raw `annotations`, for example `{"readOnlyHint":true}`.
    pub fn annotated(self, annotations: &str) -> Self {
        self.with(&format!(r#""annotations":{annotations}"#))
    }

    /// Adds a raw member to the entry in `tools/list`, for example `"execution":{"taskSupport":"required"}`.
    pub fn with(mut self, member: &str) -> Self {
        let open = self.listed.strip_suffix('}').expect("the entry is an object").to_owned();
        self.listed = format!("{open},{member}}}");
        self
    }

    /// Sets the whole raw entry in `tools/list`, valid or not.
    pub fn listed_as(mut self, entry: &str) -> Self {
        self.listed = entry.into();
        self
    }

    /// Makes every call take this long.
    pub fn takes(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Makes it report progress this often.
    pub fn reports(mut self, every: Duration) -> Self {
        self.progress = Some(every);
        self
    }

    /// Gives it its own way of answering.
    pub fn answers(mut self, answer: CallFault) -> Self {
        self.answer = Some(answer);
        self
    }
}

/// Tools that no list should hold: no name, an empty and an overlong and an ill name, no schema, a schema that is no
/// object, a description of control and bidi characters, and no object at all. `fine` is among them, and is valid.
pub fn invalid_tools() -> Vec<Tool> {
    let long = format!(r#"{{"name":"{}","inputSchema":{{"type":"object"}}}}"#, "n".repeat(129));
    let listed = [
        r#"{"inputSchema":{"type":"object"}}"#,
        r#"{"name":"","inputSchema":{"type":"object"}}"#,
        r#"{"name":7,"inputSchema":{"type":"object"}}"#,
        r#"{"name":"has space","inputSchema":{"type":"object"}}"#,
        r#"{"name":"line\nbreak","inputSchema":{"type":"object"}}"#,
        r#"{"name":"\u202eoce","inputSchema":{"type":"object"}}"#,
        &long,
        r#"{"name":"no-schema"}"#,
        r#"{"name":"null-schema","inputSchema":null}"#,
        r#"{"name":"text-schema","inputSchema":"object"}"#,
        r#""not an object""#,
        "null",
        r#"{"name":"fine","inputSchema":{"type":"object"}}"#,
    ];
    listed.iter().map(|listed| Tool::text("fine", "fine").listed_as(listed)).collect()
}

fn entry(name: &str, schema: &str, more: &str) -> String {
    format!(r#"{{"name":{},"inputSchema":{schema}{more}}}"#, quote(name))
}

pub(super) fn text_result(text: &str, more: &str) -> String {
    format!(r#"{{"content":[{{"type":"text","text":{}}}]{more}}}"#, quote(text))
}

pub(super) fn quote(text: &str) -> String {
    serde_json::to_string(text).expect("a string is JSON")
}
