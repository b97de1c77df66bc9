//! Reads a server's lists, of tools and of all else: page by page, within bounds.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::item::{Found, Kind, MAX_ITEMS, MAX_LIST_BYTES};
use crate::plain;
use crate::raw_tools::{LARGE, RawTools};
use crate::upstream::message::json_string;
use crate::upstream::timing::Timing;
use crate::upstream::{Call, CallError, Reply, Session};

/// Pages read of one list.
const MAX_PAGES: usize = 50;

/// Limit for one page.
const PAGE_LIMIT: Duration = Duration::from_secs(10);

/// For all pages of a list.
const LIST_LIMIT: Duration = Duration::from_secs(60);

/// JSON-RPC: the server has no such method, and so nothing of the kind.
const METHOD_NOT_FOUND: i64 = -32601;

/// Why there is no list.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("cannot list its {}: {why}", words(*.kind))]
pub struct ListError {
    /// Of what.
    pub kind: Kind,
    /// Why.
    pub why: Why,
}

/// Why a list could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Why {
    /// The call failed.
    #[error("{0}")]
    Call(CallError),
    /// The server answered with a JSON-RPC error.
    #[error("it answers with JSON-RPC error {0}")]
    Rpc(i64),
    /// The answer is not of its form.
    #[error("the answer is no list of {}", words(*.0))]
    Form(Kind),
    /// All pages together take too long.
    #[error("it takes too long")]
    Slow,
}

/// A list as it was read.
pub enum Listed {
    /// Of tools, to which the rules of the configuration are still to be applied.
    Tools(Arc<RawTools>),
    /// Of anything else.
    Others(Found),
}

/// One page, whatever its kind.
struct Page<'a> {
    definitions: Vec<&'a RawValue>,
    next_cursor: Option<String>,
}

/// Reads everything of one kind that a server has. What exceeds the bounds is left out and counted.
///
/// # Errors
/// See [`ListError`]; a server without the method has nothing of the kind, which is no error.
pub async fn list(session: &Session, kind: Kind) -> Result<Listed, ListError> {
    let failed = |why| ListError { kind, why };
    let (definitions, beyond) =
        timeout(LIST_LIMIT, pages(session, kind)).await.map_err(|_| failed(Why::Slow))?.map_err(failed)?;
    if kind == Kind::Tools {
        return Ok(Listed::Tools(Arc::new(packed(definitions, beyond).await)));
    }
    let mut found = plain::read(kind, definitions.iter().map(String::as_str));
    found.left_out += beyond;
    Ok(Listed::Others(found))
}

async fn packed(definitions: Vec<String>, beyond: usize) -> RawTools {
    let bytes: usize = definitions.iter().map(String::len).sum();
    if bytes <= LARGE {
        return RawTools::pack(&definitions, beyond);
    }
    let packing = spawn_blocking(move || RawTools::pack(&definitions, beyond));
    // It fails only if the process ends meanwhile.
    packing.await.unwrap_or_else(|_| RawTools::pack(&[], beyond))
}

/// All pages, and how many definitions were too many.
async fn pages(session: &Session, kind: Kind) -> Result<(Vec<String>, usize), Why> {
    let mut definitions: Vec<String> = Vec::new();
    let mut cursor: Option<String> = None;
    let (mut bytes, mut beyond) = (0, 0);
    for _ in 0..MAX_PAGES {
        let Some(text) = page(session, kind, cursor.as_deref()).await? else { break };
        let page = Page::read(kind, &text).ok_or(Why::Form(kind))?;
        for definition in page.definitions {
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
    Ok((definitions, beyond))
}

async fn page(session: &Session, kind: Kind, cursor: Option<&str>) -> Result<Option<bytes::Bytes>, Why> {
    let params = cursor.map(|cursor| format!(r#""cursor":{}"#, json_string(cursor)));
    let params: Vec<&str> = params.iter().map(String::as_str).collect();
    let none = HeaderMap::new();
    let call = Call::of_our_own(method(kind), &params, &none);
    match session.call(&call, &Arc::new(Timing::new(PAGE_LIMIT))).await.map_err(Why::Call)? {
        Reply::Result(result) => Ok(Some(result.text)),
        Reply::Error(error) if error.code == METHOD_NOT_FOUND => Ok(None),
        Reply::Error(error) => Err(Why::Rpc(error.code)),
    }
}

fn method(kind: Kind) -> &'static str {
    match kind {
        Kind::Tools => "tools/list",
        Kind::Prompts => "prompts/list",
        Kind::Resources => "resources/list",
        Kind::Templates => "resources/templates/list",
    }
}

fn words(kind: Kind) -> &'static str {
    match kind {
        Kind::Tools => "tools",
        Kind::Prompts => "prompts",
        Kind::Resources => "resources",
        Kind::Templates => "resource templates",
    }
}

impl<'a> Page<'a> {
    fn read(kind: Kind, text: &'a [u8]) -> Option<Self> {
        /// The members of every list: only the one of the kind that was asked for is looked at.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Lists<'a> {
            #[serde(borrow)]
            tools: Option<&'a RawValue>,
            #[serde(borrow)]
            prompts: Option<&'a RawValue>,
            #[serde(borrow)]
            resources: Option<&'a RawValue>,
            #[serde(borrow)]
            resource_templates: Option<&'a RawValue>,
            next_cursor: Option<String>,
        }
        let lists: Lists<'a> = serde_json::from_slice(text).ok()?;
        let list = match kind {
            Kind::Tools => lists.tools,
            Kind::Prompts => lists.prompts,
            Kind::Resources => lists.resources,
            Kind::Templates => lists.resource_templates,
        };
        Some(Self { definitions: serde_json::from_str(list?.get()).ok()?, next_cursor: lists.next_cursor })
    }
}
