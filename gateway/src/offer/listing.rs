//! Fetches a server's lists, of tools and of other items: page by page, within limits.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;
use thiserror::Error;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::offer::item::{Kind, MAX_ITEMS, MAX_LIST_BYTES, ParsedItems};
use crate::offer::prompts_and_resources as plain;
use crate::offer::raw_tools::{LARGE, RawTools};
use crate::offer::skills::{self, Skill};
use crate::outbound::OutboundError;
use portcullis_mcp::protocol::json::json_string;
use portcullis_mcp::upstream::timing::Timing;
use portcullis_mcp::upstream::{Call, CallError, Reply, Session};

/// The limit for pages of one list.
const MAX_PAGES: usize = 50;

/// Limit for one page.
const PAGE_LIMIT: Duration = Duration::from_secs(10);

/// Limit for all pages of a list.
const LIST_LIMIT: Duration = Duration::from_secs(60);

/// JSON-RPC: the server does not have the method, and so no items of the kind.
const METHOD_NOT_FOUND: i64 = -32601;

/// The reason there is no list.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("cannot list its {}: {why}", words(*.kind))]
pub(crate) struct ListError {
    /// The kind of the list.
    pub(crate) kind: Kind,
    /// The reason.
    pub(crate) why: Why,
}

/// The reason a list could not be read.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum Why {
    /// The call failed.
    #[error("{0}")]
    Call(CallError),
    /// The server answered with a JSON-RPC error.
    #[error("it answers with JSON-RPC error {0}")]
    Rpc(i64),
    /// The answer has an invalid form.
    #[error("the answer is not a list of {}", words(*.0))]
    Form(Kind),
    /// The server cannot be shown for whom it is listed.
    #[error("{0}")]
    Identity(OutboundError),
    /// All pages together take too long.
    #[error("it takes too long")]
    Slow,
}

/// A list as fetched.
pub(crate) enum Listed {
    /// Tools, before the rules of the configuration are applied.
    Tools(Arc<RawTools>),
    /// Items of another kind.
    Others(ParsedItems),
}

/// One page, whatever its kind.
struct Page<'a> {
    definitions: Vec<&'a RawValue>,
    next_cursor: Option<String>,
}

/// What can be asked for the pages of a list.
pub(crate) trait ListSource: Sync {
    /// The result of one request; `None` if the server does not have the method.
    fn page(
        &self,
        method: &'static str,
        cursor: Option<&str>,
    ) -> impl Future<Output = Result<Option<Bytes>, Why>> + Send;
}

impl ListSource for Session {
    async fn page(&self, method: &'static str, cursor: Option<&str>) -> Result<Option<Bytes>, Why> {
        let params = cursor.map(cursor_member);
        let params: Vec<&str> = params.iter().map(String::as_str).collect();
        let none = HeaderMap::new();
        let call = Call::of_our_own(method, &params, &none);
        result_of(self.call(&call, &Arc::new(Timing::new(PAGE_LIMIT))).await.map_err(Why::Call)?)
    }
}

/// The member of `params` with a cursor.
pub(crate) fn cursor_member(cursor: &str) -> String {
    format!(r#""cursor":{}"#, json_string(cursor))
}

/// The result of a page that a server answered with; `None` if it does not have the method.
///
/// # Errors
/// It answered with another error.
pub(crate) fn result_of(reply: Reply) -> Result<Option<Bytes>, Why> {
    match reply {
        Reply::Result(result) => Ok(Some(result.text)),
        Reply::Error(error) if error.code == METHOD_NOT_FOUND => Ok(None),
        Reply::Error(error) => Err(Why::Rpc(error.code)),
    }
}

/// Fetches all items of one kind from a server. Items beyond the limits are left out and counted.
///
/// # Errors
/// See [`ListError`]; a server without the method has no items of the kind, which is not an error.
pub(crate) async fn list(session: &Session, kind: Kind) -> Result<Listed, ListError> {
    let failed = |why| ListError { kind, why };
    let (definitions, beyond) = timeout(LIST_LIMIT, definitions(session, kind, MAX_LIST_BYTES))
        .await
        .map_err(|_| failed(Why::Slow))?
        .map_err(failed)?;
    if kind == Kind::Tools {
        return Ok(Listed::Tools(Arc::new(packed(definitions, beyond).await)));
    }
    let mut found = plain::read(kind, definitions.iter().map(String::as_str));
    found.left_out += beyond;
    Ok(Listed::Others(found))
}

/// The entries of `skills/list` of a server; `None` if they could not be read.
pub(crate) async fn skills(session: &Session) -> Option<Vec<Skill>> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct SkillsPage<'a> {
        #[serde(borrow)]
        skills: Vec<&'a RawValue>,
        next_cursor: Option<String>,
    }
    let pages = async {
        let (mut entries, mut bytes): (Vec<String>, usize) = (Vec::new(), 0);
        let mut cursor: Option<String> = None;
        for _ in 0..MAX_PAGES {
            let Some(text) = session.page("skills/list", cursor.as_deref()).await.ok()? else { break };
            let page: SkillsPage<'_> = serde_json::from_slice(&text).ok()?;
            for entry in page.skills {
                bytes += entry.get().len();
                if bytes > MAX_LIST_BYTES || entries.len() >= MAX_ITEMS {
                    return Some(entries);
                }
                entries.push(entry.get().to_owned());
            }
            match page.next_cursor.filter(|next| cursor.as_ref() != Some(next)) {
                Some(next) => cursor = Some(next),
                None => break,
            }
        }
        Some(entries)
    };
    let entries = timeout(LIST_LIMIT, pages).await.ok()??;
    Some(skills::read(entries.iter().map(String::as_str)))
}

async fn packed(definitions: Vec<String>, beyond: usize) -> RawTools {
    let bytes: usize = definitions.iter().map(String::len).sum();
    if bytes <= LARGE {
        return RawTools::pack(&definitions, beyond);
    }
    let packing = spawn_blocking(move || RawTools::pack(&definitions, beyond));
    // Fails only if the process ends meanwhile.
    packing.await.unwrap_or_else(|_| RawTools::pack(&[], beyond))
}

/// The definitions on all pages, of `max_bytes` together, and the number of those beyond the limits.
///
/// # Errors
/// The list could not be read.
pub(crate) async fn definitions(
    source: &impl ListSource,
    kind: Kind,
    max_bytes: usize,
) -> Result<(Vec<String>, usize), Why> {
    let mut definitions: Vec<String> = Vec::new();
    let mut cursor: Option<String> = None;
    let (mut bytes, mut beyond) = (0, 0);
    for _ in 0..MAX_PAGES {
        let Some(text) = source.page(method(kind), cursor.as_deref()).await? else { break };
        let page = Page::read(kind, &text).ok_or(Why::Form(kind))?;
        for definition in page.definitions {
            bytes += definition.get().len();
            // A few more than are kept, so that invalid ones do not count against the valid.
            if bytes > max_bytes || definitions.len() >= MAX_ITEMS * 2 {
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
        /// The members of every list: only that of the requested kind is used.
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct ListPage<'a> {
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
        let lists: ListPage<'a> = serde_json::from_slice(text).ok()?;
        let list = match kind {
            Kind::Tools => lists.tools,
            Kind::Prompts => lists.prompts,
            Kind::Resources => lists.resources,
            Kind::Templates => lists.resource_templates,
        };
        Some(Self { definitions: serde_json::from_str(list?.get()).ok()?, next_cursor: lists.next_cursor })
    }
}
