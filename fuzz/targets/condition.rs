//! A condition in CEL, in the first line; the arguments of a call and the claims of a caller as JSON in the next two.
#![no_main]

use libfuzzer_sys::fuzz_target;
use portcullis_access::invariants::check_condition;
use serde_json::{Map, Value};

fuzz_target!(|text: &str| {
    let mut lines = text.splitn(3, '\n');
    let source = lines.next().unwrap_or_default();
    let mut json = || lines.next().and_then(|line| serde_json::from_str::<Value>(line).ok());
    let args = json().unwrap_or_default();
    let claims = match json() {
        Some(Value::Object(claims)) => claims,
        _ => Map::new(),
    };
    check_condition(source, &args, &claims);
});
