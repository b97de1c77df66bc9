//! The id of a request, which its answer and its log line carry.

use std::cell::Cell;

use http::{HeaderName, HeaderValue};
use portcullis_runtime::serve::Fields;

/// The id of a request: the caller's own, or 16 hexadecimal digits.
pub(crate) enum RequestId {
    /// The caller's, if it is harmless.
    Given(Box<str>),
    /// A new one.
    Own([u8; 16]),
}

impl RequestId {
    /// The caller's own if it is harmless, or a new one.
    pub(crate) fn of(fields: &Fields) -> Self {
        let harmless = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        fields.text("x-request-id").filter(harmless).map_or_else(Self::unique, |id| Self::Given(id.into()))
    }

    /// No two of one thread are the same; those of two are as unlikely to be as random ones.
    fn unique() -> Self {
        thread_local! {
            static NEXT: Cell<u64> = {
                let mut seed = [0; 8];
                let _ = aws_lc_rs::rand::fill(&mut seed);
                Cell::new(u64::from_be_bytes(seed))
            };
        }
        let mut id = mixed(NEXT.replace(NEXT.get().wrapping_add(1)));
        Self::Own(std::array::from_fn(|_| {
            id = id.rotate_left(4);
            b"0123456789abcdef"[(id & 15) as usize]
        }))
    }

    /// As text.
    pub(crate) fn as_str(&self) -> &str {
        match self {
            Self::Given(id) => id,
            Self::Own(digits) => std::str::from_utf8(digits).unwrap_or_default(),
        }
    }

    /// As the value of a header.
    pub(crate) fn value(&self) -> Option<HeaderValue> {
        match self {
            Self::Given(id) => HeaderValue::from_str(id).ok(),
            Self::Own(digits) => HeaderValue::from_bytes(digits).ok(),
        }
    }
}

/// Another number for each number, which looks random (the finalizer of SplitMix64, S. Vigna).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

/// The header that carries it.
pub(crate) const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_id_is_kept_if_it_is_harmless_and_each_other_request_gets_one_of_its_own() {
        let id_of = |given: &str| RequestId::of(&Fields::from_iter([("X-Request-Id", given)])).as_str().to_owned();
        for kept in ["7", "a/b!x.-_", &"x".repeat(128)] {
            assert_eq!(id_of(kept), kept);
        }
        let mut own: Vec<String> = ["", "a b", "é", &"x".repeat(129)].map(id_of).into();
        own.push(RequestId::of(&Fields::default()).as_str().to_owned());
        for id in &own {
            assert!(id.len() == 16 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
        }
        own.sort();
        own.dedup();
        assert_eq!(own.len(), 5);
    }
}
