//! A policy as JSON in the first line; the claims of a caller in the second; its subject and the name of an item in the
//! next two. The first byte says what else is true of both.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_access::ItemKind;
use portcullis_access::invariants::{Call, check_policy};
use serde_json::Value;

fuzz_target!(|text: &str| {
    let bits = text.bytes().next().unwrap_or_default();
    let mut lines = text.get(1..).unwrap_or_default().splitn(4, '\n');
    let mut line = || lines.next().unwrap_or_default();
    let Ok(object) = serde_json::from_str::<Value>(line()) else { return };
    let Ok(Value::Object(claims)) = serde_json::from_str(line()) else { return };
    let call = Call {
        subject: line(),
        claims: &claims,
        has_issuer: bits & 1 == 1,
        is_of_cluster: bits & 2 == 2,
        kind: [ItemKind::Tool, ItemKind::Prompt, ItemKind::Resource, ItemKind::Tool][usize::from(bits >> 2 & 3)],
        name: line(),
    };
    check_policy(&object, call);
});
