//! Detects servers that lead back to this gateway: itself, one of its replicas, or a ring of gateways.
//!
//! Each request to a server carries a token of every gateway that it has passed. A gateway that finds its own rejects
//! the request, at no cost to others. Gateways also report to each other which gateways are behind them, so that a ring
//! is found before it carries calls. Tokens are sealed: no caller and no server can forge one, and those sent to
//! servers are of another kind than those sent to callers. All replicas with the same keys recognize each other's.

use std::collections::BTreeMap;
use std::sync::Arc;

use http::HeaderValue;
use parking_lot::{Mutex, MutexGuard};
use portcullis_crds::ServerKey;

use crate::seal::{Purpose, Sealer};
use portcullis_mcp::upstream::LoopGuard;

/// Gateways that a request may pass.
const MAX_HOPS: usize = 8;

/// The limit for the reported gateways behind this one.
const MAX_BEHIND: usize = 16;

/// No token is longer.
const MAX_TOKEN: usize = 128;

/// The known gateways.
pub(crate) struct Loops {
    sealer: Sealer,
    /// The gateways that servers report: themselves, if they are gateways, and those behind them.
    behind: Mutex<BTreeMap<ServerKey, HeaderValue>>,
}

impl Loops {
    /// For a gateway whose replicas share these keys.
    pub(crate) fn new(sealer: Sealer) -> Arc<Self> {
        Arc::new(Self { sealer, behind: Mutex::default() })
    }

    /// Whether a request with this header has passed this gateway before, or too many gateways.
    pub(crate) fn has_passed(&self, value: &[u8]) -> bool {
        let tokens = tokens(value);
        tokens.clone().count() > MAX_HOPS || self.holds_own(tokens, MAX_HOPS, Purpose::Hop)
    }

    /// The report to another gateway: a token of this one, and those of the gateways behind it.
    pub(crate) fn answer(&self) -> HeaderValue {
        let own = self.sealer.seal(Purpose::Behind, b"");
        let behind = self.behind();
        let others = behind.values().filter_map(|value| value.to_str().ok()).flat_map(|text| text.split(", "));
        let all: Vec<&str> = std::iter::once(own.as_str()).chain(others.take(MAX_BEHIND)).collect();
        header(&all.join(", "))
    }

    /// Records a server's report; `None` if it is not a gateway, or away.
    pub(crate) fn note(&self, server: &ServerKey, told: Option<HeaderValue>) {
        match told.and_then(|told| usable(told.as_bytes(), MAX_BEHIND)) {
            Some(told) => drop(self.behind().insert(server.clone(), told)),
            None => drop(self.behind().remove(server)),
        }
    }

    fn holds_own<'a>(&self, tokens: impl Iterator<Item = &'a str>, limit: usize, purpose: Purpose) -> bool {
        tokens.take(limit).any(|token| self.sealer.open(purpose, token).is_ok())
    }

    fn behind(&self) -> MutexGuard<'_, BTreeMap<ServerKey, HeaderValue>> {
        self.behind.lock()
    }
}

impl LoopGuard for Loops {
    fn hop(&self) -> HeaderValue {
        header(&self.sealer.seal(Purpose::Hop, b""))
    }

    fn leads_back(&self, told: &HeaderValue) -> bool {
        self.holds_own(tokens(told.as_bytes()), MAX_BEHIND + 1, Purpose::Behind)
    }
}

/// The tokens that a call forwards from the gateways that it has passed.
pub(crate) fn passed_before(value: &[u8]) -> Option<HeaderValue> {
    usable(value, MAX_HOPS)
}

fn usable(value: &[u8], limit: usize) -> Option<HeaderValue> {
    let all: Vec<&str> = tokens(value).take(limit).collect();
    (!all.is_empty()).then(|| header(&all.join(", ")))
}

fn tokens(value: &[u8]) -> impl Iterator<Item = &str> + Clone {
    let text = std::str::from_utf8(value).unwrap_or_default();
    let is_token = |token: &&str| {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
        (1..=MAX_TOKEN).contains(&token.len()) && token.bytes().all(fits)
    };
    text.split(',').map(str::trim).filter(is_token)
}

fn header(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).unwrap_or_else(|_| HeaderValue::from_static(""))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(name: &str) -> ServerKey {
        ServerKey { namespace: "n".into(), name: name.into() }
    }

    fn two() -> (Arc<Loops>, Arc<Loops>) {
        (Loops::new(Sealer::random()), Loops::new(Sealer::random()))
    }

    #[test]
    fn a_request_that_has_passed_is_known_again_by_every_replica_and_by_nobody_else() {
        let (one, other) = two();
        let replica = Loops::new(one.sealer.clone());
        let hop = one.hop();
        assert!(one.has_passed(hop.as_bytes()) && replica.has_passed(hop.as_bytes()));
        assert!(!other.has_passed(hop.as_bytes()));
        let both = format!("{}, {}", other.hop().to_str().unwrap(), hop.to_str().unwrap());
        assert!(one.has_passed(both.as_bytes()) && other.has_passed(both.as_bytes()));
        // A token for callers does not count as one that a request has passed, and vice versa.
        assert!(!one.has_passed(one.answer().as_bytes()));
        assert!(!one.leads_back(&hop));
    }

    #[test]
    fn what_is_made_up_is_no_loop_but_a_request_that_has_passed_too_many_is_one() {
        let (one, _) = two();
        for text in ["", ",", "x", "\u{e9}", "a b", &"x".repeat(10_000), &["x"; MAX_HOPS].join(",")] {
            assert!(!one.has_passed(text.as_bytes()), "{text}");
        }
        assert!(one.has_passed(["x"; MAX_HOPS + 1].join(", ").as_bytes()));
        assert_eq!(passed_before(b" a ,, b c, d"), Some(HeaderValue::from_static("a, d")));
        assert_eq!(passed_before(b"\xff, ,"), None);
        assert!(passed_before(["x"; 1000].join(",").as_bytes()).is_some_and(|value| value.len() < 50));
    }

    #[test]
    fn a_ring_is_found_by_what_lies_behind_a_server_as_long_as_it_does() {
        let (one, other) = two();
        let third = Loops::new(Sealer::random());
        assert!(!one.leads_back(&other.answer()));
        other.note(&key("third"), Some(third.answer()));
        third.note(&key("one"), Some(one.answer()));
        assert!(!one.leads_back(&other.answer()), "it was told before");
        other.note(&key("third"), Some(third.answer()));
        assert!(one.leads_back(&other.answer()) && one.leads_back(&third.answer()));
        other.note(&key("third"), None);
        assert!(!one.leads_back(&other.answer()));
        for number in 0..100 {
            other.note(&key(&number.to_string()), Some(third.answer()));
        }
        assert!(tokens(other.answer().as_bytes()).count() <= MAX_BEHIND + 1);
    }
}
