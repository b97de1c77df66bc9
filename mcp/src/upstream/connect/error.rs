//! The reasons no session could be opened, and which of several attempts failed most informatively.

use std::fmt;

use thiserror::Error;

use super::super::call::CODED;
use super::super::send::Redirect;
use crate::guard::AddressRefusal;

/// The reason no session could be opened. The texts are safe to show: of the server's data they contain only codes,
/// statuses and names of revisions. Its messages may repeat what it was sent.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ConnectError {
    /// No connection.
    #[error("cannot be reached: {0}")]
    Unreachable(&'static str),
    /// The server has an address that the gateway must not connect to.
    #[error("has an address that the gateway must not connect to: {0}")]
    Blocked(AddressRefusal),
    /// The connection was accepted, and ended without the expected answer; or the answer is not HTTP.
    #[error("ends the connection without an {0}")]
    HungUp(&'static str),
    /// No answer within the limit of the step.
    #[error("does not answer: no {0} in time")]
    Silent(&'static str),
    /// HTTP 401 or 403, with the code of the JSON-RPC error in the body.
    #[error("refuses the gateway's credentials (HTTP status {0}{said}): check spec.headers", said = after_comma(.1))]
    Unauthorized(u16, Option<i64>),
    /// Any other HTTP status.
    #[error("answers with HTTP status {0}: check the URL and the transport")]
    Status(u16),
    /// The server redirects to where the gateway does not follow.
    #[error("{0}")]
    Redirected(Redirect),
    /// The server violates MCP.
    #[error("does not speak MCP at this URL: {0}")]
    NotMcp(&'static str),
    /// The endpoint event leads elsewhere.
    #[error("names an unusable endpoint for messages: {0}")]
    BadEndpoint(&'static str),
    /// The server answers the handshake with a JSON-RPC error.
    #[error("refuses the handshake ({0})")]
    Refused(RpcRefusal),
    /// The server is this gateway, or leads back to it.
    #[error("is this gateway itself, or leads back to it: write the URL of the server behind it")]
    Loop,
    /// No common revision.
    #[error("{0}")]
    Version(VersionProblem),
}

/// A JSON-RPC error in answer to the handshake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcRefusal {
    /// The HTTP status of the answer, unless it means success.
    pub status: Option<u16>,
    /// The code of the error.
    pub(crate) code: i64,
}

/// There is no revision that both sides support.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VersionProblem {
    /// The requested revision.
    pub(crate) asked: String,
    /// `spec.protocolVersion` sets the revision.
    pub(crate) is_pinned: bool,
    /// The revisions that the server offers.
    pub(crate) offers: Vec<String>,
    /// The server's error for the requested revision.
    pub(crate) refusal: Option<RpcRefusal>,
}

fn after_comma(code: &Option<i64>) -> String {
    code.map(|code| format!(", JSON-RPC error {code}")).unwrap_or_default()
}

impl fmt::Display for RpcRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JSON-RPC error {}", self.code)?;
        self.status.map_or(Ok(()), |status| write!(f, ", with HTTP status {status}"))
    }
}

impl fmt::Display for VersionProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { asked, is_pinned, offers, refusal } = self;
        match refusal {
            Some(refusal) => write!(f, "refuses protocol version {asked} ({refusal})")?,
            None => write!(f, "does not speak protocol version {asked}")?,
        }
        if !offers.is_empty() {
            write!(f, ", it offers {}", offers.join(", "))?;
        }
        f.write_str(": ")?;
        let known = super::SPOKEN.iter().rev().find(|known| offers.iter().any(|offer| offer == *known));
        match (known, is_pinned, offers.is_empty()) {
            (Some(known), true, _) => write!(f, "set spec.protocolVersion to {known}, or leave it out"),
            (Some(known), false, _) => write!(f, "set spec.protocolVersion to {known}"),
            (None, true, true) => f.write_str("set spec.protocolVersion to a version that it speaks, or leave it out"),
            (None, false, true) => f.write_str("set spec.protocolVersion to a version that it speaks"),
            (None, _, false) => write!(f, "spec.protocolVersion can be {}", super::SPOKEN.join(", ")),
        }
    }
}

impl ConnectError {
    /// Whether no other transport can do better: there is no server to speak to.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Blocked(_) | Self::Loop)
    }

    /// Whether the server may expect something other than `initialize`.
    pub fn tells_of_another_way(&self) -> bool {
        matches!(self, Self::Refused(_) | Self::Version(_) | Self::NotMcp(_) | Self::Status(404 | 405))
    }

    /// How far the attempt came: the further, the more informative its failure.
    fn reach(&self) -> u8 {
        match self {
            Self::Unreachable(_) | Self::Blocked(_) => 0,
            Self::HungUp(what) | Self::Silent(what) if super::comes_after_an_answer(what) => 5,
            Self::HungUp(_) | Self::Silent(_) => 1,
            Self::Status(404 | 405 | 501) => 2,
            Self::NotMcp(CODED) => 4,
            Self::Status(_) | Self::NotMcp(_) => 3,
            Self::Redirected(_) => 4,
            Self::BadEndpoint(_) | Self::Unauthorized(..) => 6,
            Self::Refused(_) => 7,
            Self::Version(_) => 8,
            Self::Loop => 9,
        }
    }

    /// The attempt that came further: the first, if both came equally far.
    pub(super) fn or_further(self, other: Self) -> Self {
        if other.reach() > self.reach() { other } else { self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal() -> RpcRefusal {
        RpcRefusal { status: Some(400), code: -32602 }
    }

    #[test]
    fn what_no_version_is_common_to_says_what_to_write() {
        let problem = |is_pinned, offers: &[&str], refusal| {
            let offers = offers.iter().map(|offer| (*offer).to_owned()).collect();
            VersionProblem { asked: "2025-11-25".into(), is_pinned, offers, refusal }.to_string()
        };
        for (text, expected) in [
            (
                problem(false, &["2024-10-07", "2025-03-26", "2024-11-05"], None),
                "does not speak protocol version 2025-11-25, it offers 2024-10-07, 2025-03-26, 2024-11-05: set \
                 spec.protocolVersion to 2025-03-26",
            ),
            (
                problem(true, &["2025-06-18"], Some(refusal())),
                "refuses protocol version 2025-11-25 (JSON-RPC error -32602, with HTTP status 400), it \
                 offers 2025-06-18: set spec.protocolVersion to 2025-06-18, or leave it out",
            ),
            (
                problem(true, &[], Some(refusal())),
                "refuses protocol version 2025-11-25 (JSON-RPC error -32602, with HTTP status 400): set \
                 spec.protocolVersion to a version that it speaks, or leave it out",
            ),
            (
                problem(false, &["2030-01-01"], None),
                "does not speak protocol version 2025-11-25, it offers 2030-01-01: spec.protocolVersion can be 2024-11-05, \
                 2025-03-26, 2025-06-18, 2025-11-25, 2026-07-28",
            ),
        ] {
            assert_eq!(text, expected);
        }
    }

    #[test]
    fn the_attempt_that_came_furthest_is_told_of() {
        let silent = |what| ConnectError::Silent(what);
        let ladder = [
            ConnectError::Unreachable("connection refused"),
            ConnectError::HungUp(super::super::INITIALIZE),
            ConnectError::Status(405),
            ConnectError::Status(500),
            ConnectError::Redirected(Redirect { status: 302, to: None }),
            silent(super::super::ENDPOINT),
            ConnectError::Unauthorized(401, None),
            ConnectError::Refused(refusal()),
        ];
        for (at, near) in ladder.iter().enumerate() {
            for far in &ladder[at + 1..] {
                assert_eq!(near.clone().or_further(far.clone()), *far);
                assert_eq!(far.clone().or_further(near.clone()), *far);
            }
        }
        let (first, second) = (silent(super::super::INITIALIZE), silent(super::super::STREAM));
        assert_eq!(first.clone().or_further(second), first);
    }
}
