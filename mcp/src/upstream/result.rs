//! The result of a request: its bytes, and the flags that were noted when the bytes were parsed anyway.
//!
//! Pure.

use std::ops::Deref;

use bytes::Bytes;
use portcullis_runtime::memory::account;

use crate::protocol::json::Members;

/// A result, byte for byte as the server wrote it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RpcResult {
    /// A JSON value.
    pub text: Bytes,
    /// The flags of the result.
    pub says: Says,
}

/// The flags of a result, from its own members.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Says {
    /// The result is not an object, or not readable: nothing is known of it.
    pub nothing: bool,
    /// `isError`: the tool has failed.
    pub is_error: bool,
    /// The result has a `resultType`, as since 2026-07-28.
    pub has_type: bool,
    /// `resultType` is `input_required`.
    pub asks_for_input: bool,
    /// `resultType` is `task`.
    pub is_task: bool,
    /// The result has `ttlMs` or `cacheScope`, as since 2026-07-28.
    pub is_cacheable: bool,
}

impl RpcResult {
    /// Parses the flags of a result.
    pub fn of(text: Bytes) -> Self {
        let members = std::str::from_utf8(&text).ok().and_then(|text| Members::read(text).ok());
        let says = Says::of(members.as_ref());
        drop(members);
        Self { text: account().kept(text), says }
    }
}

impl Says {
    /// The flags in these members; the default if they are unreadable.
    pub(crate) fn of(members: Option<&Members<'_>>) -> Self {
        let Some(members) = members else { return Self { nothing: true, ..Self::default() } };
        let mut says = Self::default();
        for (key, value) in &members.0 {
            match &**key {
                "isError" => says.is_error = value.get() == "true",
                "resultType" => {
                    says.has_type = true;
                    says.asks_for_input = value.get() == r#""input_required""#;
                    says.is_task = value.get() == r#""task""#;
                }
                "ttlMs" | "cacheScope" => says.is_cacheable = true,
                _ => {}
            }
        }
        says
    }
}

impl Deref for RpcResult {
    type Target = Bytes;

    fn deref(&self) -> &Bytes {
        &self.text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_a_result_says_in_members_of_its_own_counts() {
        let none = Says::default();
        let typed = Says { has_type: true, ..none };
        for (text, expected) in [
            (r#"{"content":[],"isError":true}"#, Says { is_error: true, ..none }),
            (r#"{"isError" : true,"content":[{"isError":false}]}"#, Says { is_error: true, ..none }),
            (r#"{"content":[{"isError":true,"resultType":"input_required","ttlMs":1}],"isError":false}"#, none),
            (r#"{"isError":"true"}"#, none),
            (r#"{"text":"\"isError\":true"}"#, none),
            (r#"{"resultType" : "input_required" }"#, Says { asks_for_input: true, ..typed }),
            (r#"{"resultType":"complete","text":"input_required"}"#, typed),
            (r#"{"resultType":"complete","ttlMs":1}"#, Says { is_cacheable: true, ..typed }),
            (r#"{"resultType":"task","taskId":"t"}"#, Says { is_task: true, ..typed }),
            (r#"{"cacheScope":"public"}"#, Says { is_cacheable: true, ..none }),
            ("{}", none),
            ("[]", Says { nothing: true, ..none }),
            (r#"{"a":1,"a":1}"#, Says { nothing: true, ..none }),
        ] {
            assert_eq!(RpcResult::of(text.into()).says, expected, "{text}");
        }
    }
}
