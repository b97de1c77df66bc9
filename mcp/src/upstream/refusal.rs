//! Classifies a server's refusals: which ones suggest that the server does not know the session.
//!
//! Pure. A tool's own error can read the same: the words are a reason to check, never a proof.

use super::message::RpcError;

/// The limit for the examined bytes of a refusal.
const LOOKED_AT: usize = 1024;

/// JSON-RPC code that the SDKs use for a forgotten session, and some servers for anything.
const SESSION_NOT_FOUND: i64 = -32001;

/// The answer of Python servers to a client that has not initialized, and to wrong arguments.
const PYTHON_UNINITIALIZED: &str = "invalid request parameters";

/// A session that is mentioned beside one of these is unknown to the server.
const NOT_KNOWN: [&str; 16] = [
    "not found",
    "no valid",
    "invalid",
    "unknown",
    "expired",
    "missing",
    "not exist",
    "no such",
    "no session",
    "required",
    "could not find",
    "not recognized",
    "not known",
    "terminated",
    "closed",
    "not active",
];

/// The texts by which servers report a missing `initialize`.
const NOT_INITIALIZED: [&str; 7] = [
    "not initialized",
    "not initialised",
    "not been initialized",
    "not yet initialized",
    "uninitialized",
    "before initialization",
    "initialize first",
];

/// A refused request: the HTTP status, the JSON-RPC code and the words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Denial {
    status: u16,
    code: Option<i64>,
    /// In lower case, without digits and without the method: so the same words to two requests compare as equal.
    words: String,
    /// The specification defines this refusal as the end of the session.
    by_the_book: bool,
    has_session: bool,
}

impl Denial {
    /// A JSON-RPC error in a successful HTTP answer, or on a stream.
    pub(super) fn of_error(error: &RpcError, method: &str) -> Self {
        Self::new(200, Some(error), "", method, false)
    }

    /// An HTTP failure. `is_answer`: it holds a JSON-RPC error with the id of the request.
    pub(super) fn of_status(
        status: u16,
        error: Option<&RpcError>,
        body: &str,
        method: &str,
        (has_session, is_answer): (bool, bool),
    ) -> Self {
        let by_the_book = status == 404 && has_session && !is_answer && !error.is_some_and(RpcError::is_no_such_method);
        Self { by_the_book, has_session, ..Self::new(status, error, body, method, has_session) }
    }

    fn new(status: u16, error: Option<&RpcError>, body: &str, method: &str, has_session: bool) -> Self {
        let text = error.map_or(body, |error| &error.message);
        let text = &text[..text.floor_char_boundary(LOOKED_AT)];
        let words = text.replace(method, "").to_ascii_lowercase().replace(|c: char| c.is_ascii_digit(), "");
        Self { status, code: error.map(|error| error.code), words, by_the_book: false, has_session }
    }

    /// Whether the specification defines this refusal as an unknown session.
    pub(super) fn is_by_the_book(&self) -> bool {
        self.by_the_book
    }

    /// Whether the server may not know the session.
    pub(super) fn is_suspicious(&self) -> bool {
        self.by_the_book
            || (self.status == 410 && self.has_session)
            || self.code == Some(SESSION_NOT_FOUND)
            || self.words.contains("session")
            || self.words.contains("initializ")
            || self.words.contains("initialis")
            || (self.code.is_some() && self.words == PYTHON_UNINITIALIZED)
    }

    /// Whether the refusal can hardly mean anything else, as the answer to a request that works in any session.
    pub(super) fn says_lost(&self) -> bool {
        let speaks_of = |phrases: &[&str]| phrases.iter().any(|phrase| self.words.contains(phrase));
        self.by_the_book
            || (self.status == 410 && self.has_session)
            || self.code == Some(SESSION_NOT_FOUND)
            || (self.words.contains("session") && speaks_of(&NOT_KNOWN))
            || speaks_of(&NOT_INITIALIZED)
            || (self.code.is_some() && self.words == PYTHON_UNINITIALIZED)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(code: i64, message: &str) -> RpcError {
        RpcError { code, message: message.into(), data: None, status: None }
    }

    #[test]
    fn what_sounds_like_a_lost_session_is_told_from_what_does_not() {
        let table = [
            (-32000, "Server not initialized", true, true),
            (-32005, "Server not initialized", true, true),
            (-32600, "Invalid Request: Server not initialized", true, true),
            (-32602, "Client has not been initialized", true, true),
            (-32602, "Invalid request parameters", true, true),
            (-32001, "request timed out", true, true),
            (-32000, "Bad Request: No valid session ID provided", true, true),
            (-32603, "the database session failed", true, false),
            (-32603, "cannot initialize the driver", true, false),
            (-32601, "Method not found", false, false),
            (-32602, "order 17 is locked", false, false),
        ];
        for (code, message, suspicious, lost) in table {
            let refusal = Denial::of_error(&error(code, message), "tools/call");
            assert_eq!((refusal.is_suspicious(), refusal.says_lost()), (suspicious, lost), "{code} {message}");
        }
    }

    #[test]
    fn only_a_404_in_a_session_that_is_no_answer_is_by_the_book() {
        let (unknown, lost) = (error(-32601, "Method not found"), error(-32001, "Session not found"));
        let found = |status, error: Option<&RpcError>, has_session, is_answer| {
            let refusal = Denial::of_status(status, error, "nothing here", "ping", (has_session, is_answer));
            (refusal.is_by_the_book(), refusal.is_suspicious())
        };
        assert_eq!(found(404, None, true, false), (true, true));
        assert_eq!(found(404, None, false, false), (false, false));
        assert_eq!(found(404, Some(&lost), true, false), (true, true));
        assert_eq!(found(404, Some(&lost), true, true), (false, true));
        assert_eq!(found(404, Some(&unknown), true, true), (false, false));
        assert_eq!(found(404, Some(&unknown), true, false), (false, false));
        assert_eq!(found(410, None, true, false), (false, true));
        assert_eq!(found(410, None, false, false), (false, false));
        assert_eq!(found(400, None, true, false), (false, false));
    }

    #[test]
    fn the_same_words_to_two_requests_are_the_same() {
        let said = |text: &str, method: &str| Denial::of_status(400, None, text, method, (true, false));
        assert_eq!(said("no session 7 for tools/call", "tools/call"), said("No session 12 for ping", "ping"));
        assert_ne!(said("no session", "tools/call"), said("the session is locked", "ping"));
    }
}
