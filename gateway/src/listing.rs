//! Reads a server's `tools/list`: page by page, within bounds.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use portcullis_crds::mcpserver::ToolRules;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;

use crate::item::{Found, MAX_ITEMS, MAX_LIST_BYTES};
use crate::tool::read_tools;
use crate::upstream::message::json_string;
use crate::upstream::timing::Timing;
use crate::upstream::{Call, CallError, Reply, Session};

/// Pages read of one list.
const MAX_PAGES: usize = 50;

/// Limit for one page.
const PAGE_LIMIT: Duration = Duration::from_secs(10);

/// JSON-RPC: the server has no such method, and so no tools.
const METHOD_NOT_FOUND: i64 = -32601;

/// Why there is no list.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum ListError {
    /// The call failed.
    #[error("cannot list its tools: {0}")]
    Call(CallError),
    /// The server answered with a JSON-RPC error.
    #[error("cannot list its tools: it answers with JSON-RPC error {0}")]
    Rpc(i64),
    /// The answer is not of its form.
    #[error("cannot list its tools: the answer is no list of tools")]
    Form,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Page<'a> {
    #[serde(borrow)]
    tools: Vec<&'a RawValue>,
    next_cursor: Option<String>,
}

/// Reads all tools of a server and applies its rules. What exceeds the bounds is left out and counted.
///
/// # Errors
/// See [`ListError`]; a server without `tools/list` has no tools, which is no error.
pub async fn list(session: &Session, rules: &ToolRules) -> Result<Found, ListError> {
    let mut definitions: Vec<String> = Vec::new();
    let mut cursor: Option<String> = None;
    let (mut bytes, mut beyond) = (0, 0);
    for _ in 0..MAX_PAGES {
        let Some(text) = page(session, cursor.as_deref()).await? else { break };
        let page: Page<'_> = serde_json::from_slice(&text).map_err(|_| ListError::Form)?;
        for definition in page.tools {
            bytes += definition.get().len();
            // A few more than are kept, so that invalid ones do not count against the valid.
            if bytes > MAX_LIST_BYTES || definitions.len() >= MAX_ITEMS * 2 {
                beyond += 1;
            } else {
                definitions.push(definition.get().to_owned());
            }
        }
        match page.next_cursor.filter(|next| cursor.as_ref() != Some(next)) {
            Some(next) if beyond == 0 => cursor = Some(next),
            _ => break,
        }
    }
    let mut tools = read_tools(definitions.iter().map(String::as_str), rules);
    tools.left_out += beyond;
    Ok(tools)
}

async fn page(session: &Session, cursor: Option<&str>) -> Result<Option<bytes::Bytes>, ListError> {
    let params = cursor.map(|cursor| format!(r#""cursor":{}"#, json_string(cursor)));
    let params: Vec<&str> = params.iter().map(String::as_str).collect();
    let none = HeaderMap::new();
    let call = Call::of_our_own("tools/list", &params, &none);
    match session.call(&call, &Arc::new(Timing::new(PAGE_LIMIT))).await.map_err(ListError::Call)? {
        Reply::Result(text) => Ok(Some(text)),
        Reply::Error(error) if error.code == METHOD_NOT_FOUND => Ok(None),
        Reply::Error(error) => Err(ListError::Rpc(error.code)),
    }
}
