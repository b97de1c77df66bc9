//! The status of a server that users see.

use std::sync::Arc;
use std::time::SystemTime;

use portcullis_crds::Reason;

use crate::offer::definition::Problems;
use crate::offer::item::Kind;
use crate::server::problem::ServerProblem;

/// The status of a server that users see.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Status {
    /// The phase between connecting and ready.
    pub(crate) phase: Phase,
    /// The start of the phase.
    pub(crate) since: SystemTime,
    /// The transport: `sse` or `streamable-http`.
    pub(crate) transport: Option<&'static str>,
    /// The revision in use.
    pub(crate) protocol_version: Option<String>,
    /// Its own name and version.
    pub(crate) server_info: Option<(String, String)>,
    /// What it says to those who use it.
    pub(crate) instructions: Option<Arc<str>>,
    /// The last failure, safe to show.
    pub(crate) last_error: Option<String>,
    /// The reason of the last failure, as in the status of an McpServer; `None` while nothing is wrong. A ready server
    /// can have one too: for its credentials, while the last valid ones stay in use, or for its list of tools.
    pub(crate) reason: Option<Reason>,
    /// The unreadable list, if that is the last failure.
    pub(crate) unread: Option<Kind>,
    /// Tools left out because they are invalid, duplicate or too many.
    pub(crate) left_out: usize,
    /// The problems of its lists, for each kind.
    pub(crate) problems: [Arc<Problems>; Kind::ALL.len()],
}

/// The phase of a server between connecting and ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// The first attempt.
    Connecting,
    /// Its session is open and its tools are listed.
    Ready,
    /// Its session is open, but a health check failed.
    Degraded,
    /// Waiting before the next attempt.
    Backoff,
    /// The server is not to be connected.
    Disabled,
}

impl Status {
    /// Records a problem.
    pub(crate) fn note(&mut self, trouble: &ServerProblem) {
        self.last_error = Some(trouble.to_string());
        self.reason = Some(trouble.reason());
        self.unread = if let ServerProblem::List(error) = trouble { Some(error.kind) } else { None };
    }

    /// The problems of its lists, of all kinds.
    pub(crate) fn all_problems(&self) -> Problems {
        let mut all = Problems::default();
        self.problems.iter().for_each(|problems| all.extend(problems));
        all
    }

    /// Records that these lists are readable.
    pub(crate) fn clear_lists(&mut self, kinds: &[Kind]) {
        let about_these = self.unread.is_none_or(|unread| kinds.contains(&unread));
        self.clear(|reason| reason == Reason::ListFailed && about_these);
    }

    /// Clears the problem, if `solved` holds for its reason.
    pub(crate) fn clear(&mut self, solved: impl FnOnce(Reason) -> bool) {
        if self.reason.is_some_and(solved) {
            (self.last_error, self.reason, self.unread) = (None, None, None);
        }
    }

    pub(super) fn new(phase: Phase) -> Self {
        Self {
            phase,
            since: SystemTime::now(),
            transport: None,
            protocol_version: None,
            server_info: None,
            instructions: None,
            last_error: None,
            reason: None,
            unread: None,
            left_out: 0,
            problems: Default::default(),
        }
    }
}

impl Phase {
    /// The word that users see.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Ready => "ready",
            Self::Degraded => "degraded",
            Self::Backoff => "backoff",
            Self::Disabled => "disabled",
        }
    }
}
