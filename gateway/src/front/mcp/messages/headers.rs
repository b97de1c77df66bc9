//! The headers of a request that are MCP's own: the answers that its client takes, its revision, its session.

use http::HeaderName;
use portcullis_runtime::serve::{Fields, as_text};

/// The header of a session's id.
pub(crate) const SESSION: HeaderName = HeaderName::from_static("mcp-session-id");

/// The `Accept` header that the specification asks of clients; most send just that.
const USUAL: &str = "application/json, text/event-stream";

/// The headers of a request that are MCP's own.
pub(crate) struct McpHeaders<'a> {
    /// Its answer may be one JSON message.
    pub(crate) takes_json: bool,
    /// Its answer may be a stream of events.
    pub(crate) takes_streams: bool,
    /// The revision.
    pub(crate) version: Option<&'a [u8]>,
    /// The method, since 2026-07-28.
    pub(crate) method: Option<&'a [u8]>,
    /// The name of the requested item, since 2026-07-28.
    pub(crate) name: Option<&'a [u8]>,
    /// The id of a session.
    pub(crate) session: Option<&'a [u8]>,
}

impl<'a> McpHeaders<'a> {
    /// A caller that does not say which answers it takes gets JSON: curl cannot do much with a stream.
    pub(crate) fn of(fields: &'a Fields) -> Self {
        let mut headers = Self {
            takes_json: false,
            takes_streams: false,
            version: fields.get("mcp-protocol-version"),
            method: fields.get("mcp-method"),
            name: fields.get("mcp-name"),
            session: fields.get(SESSION.as_str()),
        };
        let mut ranges = fields.all("accept").peekable();
        headers.takes_json = ranges.peek().is_none();
        ranges.for_each(|value| headers.accepts(value));
        headers
    }

    fn accepts(&mut self, value: &[u8]) {
        if value == USUAL.as_bytes() {
            (self.takes_json, self.takes_streams) = (true, true);
            return;
        }
        for range in as_text(value).unwrap_or_default().split(',') {
            let range = range.split(';').next().unwrap_or_default().trim();
            let is_one_of = |kinds: &[&str]| kinds.iter().any(|kind| range.eq_ignore_ascii_case(kind));
            self.takes_json |= is_one_of(&["application/json", "*/*", "application/*"]);
            self.takes_streams |= is_one_of(&["text/event-stream", "text/*"]);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_answers_that_a_caller_takes_are_read_from_all_its_accept_headers() {
        for (accept, expected) in [
            (&[][..], (true, false)),
            (&[USUAL], (true, true)),
            (&["text/event-stream"], (false, true)),
            (&["application/json"], (true, false)),
            (&["Application/JSON;q=0.5 , TEXT/*"], (true, true)),
            (&["*/*"], (true, false)),
            (&["text/html", "text/event-stream"], (false, true)),
            (&["text/html"], (false, false)),
            (&["\u{e9}"], (false, false)),
        ] {
            let fields = accept.iter().map(|value| ("Accept", value)).collect();
            let headers = McpHeaders::of(&fields);
            assert_eq!((headers.takes_json, headers.takes_streams), expected, "{accept:?}");
        }
    }

    #[test]
    fn of_a_header_that_is_there_twice_the_first_counts() {
        let names = ["Mcp-Session-Id", "MCP-Protocol-Version", "mcp-method", "mcp-name"];
        let fields = names.map(|name| (name, "1")).into_iter().chain(names.map(|name| (name, "2"))).collect();
        let headers = McpHeaders::of(&fields);
        assert_eq!([headers.session, headers.version, headers.method, headers.name], [Some(&b"1"[..]); 4]);
    }
}
