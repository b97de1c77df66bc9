//! The revisions of MCP that clients may use.
//!
//! Pure. Source: <https://modelcontextprotocol.io/specification/versioning>.

use std::fmt;

/// A revision of MCP; a later one is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Revision {
    /// Legacy HTTP+SSE.
    V2024_11_05,
    /// Streamable HTTP and batches.
    V2025_03_26,
    /// Structured results, elicitation, the header `MCP-Protocol-Version`.
    V2025_06_18,
    /// Elicitation by address, sampling with tools.
    V2025_11_25,
    /// Without sessions and without `initialize`.
    V2026_07_28,
}

impl Revision {
    /// All revisions, oldest first.
    pub const ALL: [Self; 5] =
        [Self::V2024_11_05, Self::V2025_03_26, Self::V2025_06_18, Self::V2025_11_25, Self::V2026_07_28];

    /// The newest revision that begins with `initialize`.
    pub const LATEST_WITH_INITIALIZE: Self = Self::V2025_11_25;

    /// The text of the revision in messages and headers.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::V2024_11_05 => "2024-11-05",
            Self::V2025_03_26 => "2025-03-26",
            Self::V2025_06_18 => "2025-06-18",
            Self::V2025_11_25 => "2025-11-25",
            Self::V2026_07_28 => "2026-07-28",
        }
    }

    /// Parses the exact text of a supported revision.
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|revision| revision.as_str() == text)
    }

    /// Whether each request is self-contained: no `initialize`, no sessions.
    pub fn is_modern(self) -> bool {
        self > Self::LATEST_WITH_INITIALIZE
    }

    /// The revision that answers an `initialize` for `requested`: that one, or the newest that has `initialize` at all.
    pub fn negotiated(requested: &str) -> Self {
        Self::parse(requested).filter(|revision| !revision.is_modern()).unwrap_or(Self::LATEST_WITH_INITIALIZE)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_can_be_pinned_to_every_revision_that_is_spoken_and_to_no_other() {
        assert_eq!(Revision::ALL.map(Revision::as_str), portcullis_crds::mcpserver::PROTOCOL_VERSIONS);
    }

    #[test]
    fn revisions_are_read_as_they_are_written_and_later_ones_are_greater() {
        for revision in Revision::ALL {
            assert_eq!(Revision::parse(revision.as_str()), Some(revision));
        }
        let mut texts = Revision::ALL.map(Revision::as_str).to_vec();
        assert!(Revision::ALL.is_sorted() && texts.is_sorted(), "{texts:?}");
        texts.dedup();
        assert_eq!(texts.len(), Revision::ALL.len());
        let modern = Revision::ALL.map(Revision::is_modern);
        assert_eq!(modern, [false, false, false, false, true]);
    }

    #[test]
    fn what_is_no_served_revision_is_not_read() {
        for text in ["", "2026-07-29", "2025-11-25 ", "2025-1-25", "DRAFT-2026-v1", "2099-01-01"] {
            assert_eq!(Revision::parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn initialize_gets_the_revision_it_asks_for_or_the_newest_that_has_initialize() {
        for revision in Revision::ALL.into_iter().filter(|revision| !revision.is_modern()) {
            assert_eq!(Revision::negotiated(revision.as_str()), revision);
        }
        for text in ["2026-07-28", "2027-01-01", "1.0", ""] {
            assert_eq!(Revision::negotiated(text), Revision::V2025_11_25, "{text:?}");
        }
    }
}
