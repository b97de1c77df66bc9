//! Notes the facts of a call in the log line of its request.

use std::sync::Arc;

use portcullis_mcp::upstream::Reply;

use crate::call::Called;
use crate::catalog::Entry;
use crate::front::http::access_log::{Facts, short};

/// The name of a tool as the log has it: what the catalog has already, or a copy.
pub(crate) fn called_name(wanted: &str, entry: Option<&Entry>) -> Arc<str> {
    match entry {
        Some(entry) if *entry.name == *wanted => entry.name.clone(),
        _ => short(wanted).into(),
    }
}

/// Notes the server, the attempts and the outcome of a call.
pub(crate) fn note_call(facts: &mut Facts, called: &Called, payloads: bool) {
    facts.server.clone_from(&called.server);
    facts.attempts = called.attempts;
    facts.outcome = Some(called.outcome.as_str());
    if let (true, Ok(Reply::Result(result))) = (payloads, &called.answer) {
        facts.result = Some(String::from_utf8_lossy(result).into_owned());
    }
}
