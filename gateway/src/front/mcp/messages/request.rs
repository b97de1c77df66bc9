//! Reads and checks the params of a request: its revision, its `_meta`, the same in headers and body.
//!
//! Source of the rules: MCP 2026-07-28, versioning and streamable HTTP, "Request Metadata" and "Server Validation".

use std::borrow::Cow;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::protocol::json::{Members, Raw, json_string, text};
use portcullis_mcp::protocol::revision::Revision;
use portcullis_runtime::serve::as_text;

use crate::front::http::error::clip;
use crate::front::mcp::messages::headers::McpHeaders;
use crate::front::mcp::messages::message::{RpcRequest, Space};
use crate::front::mcp::messages::problem::RpcProblem;

const VERSION: &str = "io.modelcontextprotocol/protocolVersion";
const CAPABILITIES: &str = "io.modelcontextprotocol/clientCapabilities";
const LOG_LEVEL: &str = "io.modelcontextprotocol/logLevel";
/// Members of the specification's own, which the gateway does not pass on.
const RESERVED: &str = "io.modelcontextprotocol/";

/// Log levels, the least urgent first (RFC 5424).
pub(crate) const LEVELS: [&str; 8] = ["debug", "info", "notice", "warning", "error", "critical", "alert", "emergency"];

/// The same as JSON.
pub(crate) const LEVELS_JSON: [&str; 8] =
    ["\"debug\"", "\"info\"", "\"notice\"", "\"warning\"", "\"error\"", "\"critical\"", "\"alert\"", "\"emergency\""];

/// The log level of a session that has not said which it wants.
pub(crate) const DEFAULT_LEVEL: usize = 1;

/// The revision where nothing says another.
pub(crate) const DEFAULT_REVISION: Revision = Revision::V2025_03_26;

/// The revision that has no sessions.
pub(crate) const SESSIONLESS_REVISION: Revision = Revision::V2026_07_28;

/// The params of a request, one level deep.
#[derive(Debug, Default)]
pub(crate) struct Params<'m, 'a> {
    members: Option<&'m Members<'a>>,
    /// The members of `_meta` that the gateway reads.
    pub(crate) meta: RequestMeta<'a>,
}

/// The members of `_meta` that the gateway reads.
#[derive(Clone, Debug, Default)]
pub(crate) struct RequestMeta<'a> {
    /// As JSON: a text or a number.
    pub(crate) progress_token: Option<&'a str>,
    /// The revision.
    pub(crate) version: Option<Cow<'a, str>>,
    /// The client's capabilities, as JSON.
    pub(crate) capabilities: Option<&'a str>,
    /// The index of the wanted level in [`LEVELS`].
    pub(crate) log_level: Option<usize>,
    /// Everything else that is passed on, as members without braces.
    pub(crate) passed_on: String,
}

impl<'m, 'a> Params<'m, 'a> {
    /// The params of the message that was read into this space.
    ///
    /// # Errors
    /// They are not of their form.
    pub(crate) fn of(space: &'m Space<'a>) -> Result<Self, RpcProblem> {
        const FORM: RpcProblem =
            RpcProblem::Params("\"params\" must be an object of at most 64 members, each of them once");
        const META: RpcProblem =
            RpcProblem::Params("\"_meta\" must be an object of at most 64 members, each of them once");
        let [params, meta] = &space.inside;
        let Some(members) = params.get() else { return Ok(Self::default()) };
        let members = members.map_err(|_| FORM)?;
        let meta = match meta.get() {
            Some(meta) => RequestMeta::of(meta.map_err(|_| META)?)?,
            None if members.get("_meta").is_some_and(|meta| !meta.is_null()) => return Err(META),
            None => RequestMeta::default(),
        };
        Ok(Self { members: Some(members), meta })
    }

    /// The same with other members besides `_meta`.
    pub(crate) fn with<'n>(&self, members: &'n Members<'a>) -> Params<'n, 'a> {
        Params { members: Some(members), meta: self.meta.clone() }
    }

    /// All members but `_meta`, and but for those that are null: null counts as absent.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &'m (Cow<'a, str>, Raw<'a>)> {
        let members = self.members.into_iter().flat_map(|members| &members.0);
        members.filter(|(key, value)| key != "_meta" && !value.is_null())
    }

    /// The value of this member, which is absent if it is null.
    pub(crate) fn get(&self, key: &str) -> Option<Raw<'a>> {
        self.members?.get(key).filter(|value| !value.is_null())
    }

    /// The text of this member; `None` if it is absent or no text.
    pub(crate) fn text(&self, key: &str) -> Option<Cow<'a, str>> {
        self.members?.text(key)
    }
}

impl<'a> RequestMeta<'a> {
    fn of(members: &Members<'a>) -> Result<Self, RpcProblem> {
        let mut meta = Self::default();
        for (key, value) in &members.0 {
            match &**key {
                "progressToken" | VERSION | CAPABILITIES | LOG_LEVEL if value.is_null() => {}
                "progressToken" => meta.progress_token = Some(progress_token(*value)?),
                VERSION => meta.version = Some(text(*value).ok_or(RpcProblem::Meta(VERSION))?),
                CAPABILITIES => meta.capabilities = Some(value.get()),
                LOG_LEVEL => meta.log_level = Some(level(*value)?),
                key if key.starts_with(RESERVED) => {}
                key => {
                    let comma = if meta.passed_on.is_empty() { "" } else { "," };
                    meta.passed_on.push_str(comma);
                    meta.passed_on.push_str(&json_string(key));
                    meta.passed_on.push(':');
                    meta.passed_on.push_str(value.get());
                }
            }
        }
        Ok(meta)
    }
}

fn progress_token(value: Raw<'_>) -> Result<&str, RpcProblem> {
    let token = value.get();
    let fits = token.len() <= 256 && token.starts_with(|c: char| c == '"' || c == '-' || c.is_ascii_digit());
    fits.then_some(token).ok_or(RpcProblem::Params("\"progressToken\" must be a string or a number"))
}

/// The index in [`LEVELS`].
pub(crate) fn level(value: Raw<'_>) -> Result<usize, RpcProblem> {
    let name = text(value);
    let found = name.and_then(|name| LEVELS.iter().position(|level| *level == name));
    found.ok_or(RpcProblem::Params(
        "the log level must be debug, info, notice, warning, error, critical, alert or emergency",
    ))
}

/// Checks what every request of 2026-07-28 must say, and says the same in headers and body.
///
/// # Errors
/// A member or header is missing, or the two differ.
pub(crate) fn check_modern(
    request: &RpcRequest<'_>,
    params: &Params<'_, '_>,
    headers: &McpHeaders<'_>,
) -> Result<(ClientCapabilities, Extensions), RpcProblem> {
    let header = headers.version.and_then(as_text);
    let Some(version) = params.meta.version.as_deref() else { return Err(RpcProblem::Meta(VERSION)) };
    if header != Some(version) {
        return Err(RpcProblem::Header("MCP-Protocol-Version".into()));
    }
    if Revision::parse(version).is_none_or(|revision| !revision.is_modern()) {
        return Err(RpcProblem::Version(clip(version)));
    }
    let capabilities = params.meta.capabilities.and_then(ClientCapabilities::with_extensions);
    let capabilities = capabilities.ok_or(RpcProblem::Meta(CAPABILITIES))?;
    if headers.method != Some(request.method.as_bytes()) {
        return Err(RpcProblem::Header("Mcp-Method".into()));
    }
    if let Some(member) = named_by(&request.method) {
        let named = params.text(member);
        let header = headers.name.and_then(decoded);
        if named.is_some() && header.as_deref() != named.as_deref() {
            return Err(RpcProblem::Header("Mcp-Name".into()));
        }
    }
    Ok(capabilities)
}

/// The member of `params` that `Mcp-Name` repeats.
fn named_by(method: &str) -> Option<&'static str> {
    match method {
        "tools/call" | "prompts/get" => Some("name"),
        "resources/read" => Some("uri"),
        "tasks/get" | "tasks/update" | "tasks/cancel" => Some("taskId"),
        _ => None,
    }
}

/// The value of a header that may be in Base64 between `=?base64?` and `?=`; `None` if it holds what none may.
pub(crate) fn decoded(value: &[u8]) -> Option<Cow<'_, str>> {
    let value = std::str::from_utf8(value).ok()?;
    if !value.bytes().all(|byte| byte == b'\t' || (0x20..0x7f).contains(&byte)) {
        return None;
    }
    match value.strip_prefix("=?base64?").and_then(|rest| rest.strip_suffix("?=")) {
        Some(encoded) => Some(Cow::Owned(String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?)),
        None => Some(Cow::Borrowed(value)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::message::{Incoming, single};
    use super::*;

    /// A request with these params.
    fn request(method: &str, params: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":1,"method":"{method}","params":{params}}}"#)
    }

    const META: &str =
        r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientCapabilities":{}"#;

    fn checked(method: &str, params: &str, headers: &[(&'static str, &str)]) -> Result<ClientCapabilities, i64> {
        let (text, mut space) = (request(method, params), Space::default());
        let Ok(Incoming::Request(request)) = single(&text, &mut space) else { panic!("{text} is no request") };
        let fields = headers.iter().copied().collect();
        Params::of(&space)
            .and_then(|params| check_modern(&request, &params, &McpHeaders::of(&fields)))
            .map(|(capabilities, _)| capabilities)
            .map_err(|problem| problem.code(Revision::V2026_07_28))
    }

    #[test]
    fn meta_is_read_and_what_is_not_ours_is_passed_on() {
        let text = r#"{"name":"t","_meta":{"progressToken":"p","traceparent":"00-1","io.modelcontextprotocol/logLevel":"error","io.modelcontextprotocol/x":1,"a/b":{"c":1.10}},"arguments":{}}"#;
        let (text, mut space) = (request("m", text), Space::default());
        single(&text, &mut space).unwrap();
        let params = Params::of(&space).unwrap();
        let keys: Vec<_> = params.iter().map(|(key, _)| &**key).collect();
        assert_eq!(keys, ["name", "arguments"]);
        assert_eq!((params.meta.progress_token, params.meta.log_level), (Some("\"p\""), Some(4)));
        assert_eq!(params.meta.passed_on, r#""traceparent":"00-1","a/b":{"c":1.10}"#);
    }

    #[test]
    fn members_that_are_null_count_as_absent() {
        let meta = r#"{"progressToken":null,"io.modelcontextprotocol/logLevel":null,"io.modelcontextprotocol/protocolVersion":null,"a/b":null}"#;
        for (text, keys, passed_on) in [
            ("null".to_owned(), vec![], ""),
            (r#"{"cursor":null,"arguments":null,"_meta":null,"name":"n"}"#.to_owned(), vec!["name"], ""),
            (format!(r#"{{"uri":"a:b","_meta":{meta}}}"#), vec!["uri"], r#""a/b":null"#),
        ] {
            let (text, mut space) = (request("m", &text), Space::default());
            single(&text, &mut space).unwrap();
            let params = Params::of(&space).unwrap();
            assert_eq!(params.iter().map(|(key, _)| &**key).collect::<Vec<_>>(), keys, "{text}");
            assert!(["cursor", "arguments"].iter().all(|key| params.get(key).is_none()), "{text}");
            let meta = &params.meta;
            assert_eq!((meta.progress_token, meta.version.as_deref(), meta.log_level), (None, None, None), "{text}");
            assert_eq!(meta.passed_on, passed_on, "{text}");
        }
    }

    #[test]
    fn params_of_a_wrong_form_are_refused() {
        for text in [
            r#"{"_meta":[]}"#,
            r#"{"_meta":{"progressToken":{}}}"#,
            r#"{"_meta":{"io.modelcontextprotocol/logLevel":"loud"}}"#,
            r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":7}}"#,
            r#"{"a":1,"a":2}"#,
        ] {
            let (text, mut space) = (request("m", text), Space::default());
            single(&text, &mut space).unwrap();
            assert!(Params::of(&space).is_err(), "{text}");
        }
    }

    #[test]
    fn a_modern_request_says_everything_and_the_same_in_headers_and_body() {
        let version = ("mcp-protocol-version", "2026-07-28");
        let call = format!(r#"{{"name":"é","_meta":{{{META}}}}}"#);
        let read = format!(r#"{{"uri":"a:b","_meta":{{{META}}}}}"#);
        let (method, name) = (("mcp-method", "tools/call"), ("mcp-name", "=?base64?w6k=?="));
        assert_eq!(checked("tools/call", &call, &[version, method, name]), Ok(ClientCapabilities::NONE));
        let reading = ("mcp-method", "resources/read");
        assert!(checked("resources/read", &read, &[version, reading, ("mcp-name", "a:b")]).is_ok());
        for (params, headers, code) in [
            (call.as_str(), vec![version, name], -32020),
            (&call, vec![version, method], -32020),
            (&call, vec![version, ("mcp-method", "Tools/Call"), name], -32020),
            (&call, vec![version, method, ("mcp-name", "other")], -32020),
            (&call, vec![method, name], -32020),
            (&call, vec![("mcp-protocol-version", "2025-11-25"), method, name], -32020),
            (r#"{"name":"é"}"#, vec![version, method, name], -32602),
            (
                r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2026-07-28"}}"#,
                vec![version, method, name],
                -32602,
            ),
            (
                r#"{"_meta":{"io.modelcontextprotocol/protocolVersion":"2099-01-01"}}"#,
                vec![("mcp-protocol-version", "2099-01-01"), method, name],
                -32022,
            ),
        ] {
            assert_eq!(checked("tools/call", params, &headers), Err(code), "{params} {headers:?}");
        }
    }

    #[test]
    fn header_values_are_decoded() {
        for (value, expected) in [
            ("us-west1", Some("us-west1")),
            ("=?base64?SGVsbG8sIOS4lueVjA==?=", Some("Hello, 世界")),
            ("=?base64?!?=", None),
            ("=?BASE64?YQ==?=", Some("=?BASE64?YQ==?=")),
            ("é", None),
        ] {
            assert_eq!(decoded(value.as_bytes()).as_deref(), expected, "{value}");
        }
    }
}
