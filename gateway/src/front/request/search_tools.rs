//! Answers calls of the tools by which agents search a view.
//!
//! A call by `call_tool` is the call of the tool that it names: decided, limited, counted and logged as that.

use std::borrow::Cow;
use std::sync::Arc;

use portcullis_mcp::protocol::json::{Members, Raw, json_string, text};

use crate::auth::Identity;
use crate::catalog::Catalog;
use crate::offer::search_tools::{CALL_TOOL, DESCRIBE_TOOL, SEARCH_TOOLS};

/// Tools that an answer holds unless the caller says how many.
const DEFAULT_LIMIT: usize = 8;

/// The most tools of an answer.
const MAX_LIMIT: usize = 50;

/// The most characters of a name that an answer repeats.
const MAX_SHOWN_NAME: usize = 128;

/// What a call to a view is.
pub(crate) enum Asked<'a> {
    /// The call of a tool of the view.
    Tool,
    /// It is answered, with this result.
    Answered(String),
    /// The call of another tool.
    Call(InnerCall<'a>),
}

/// The tool that `call_tool` calls.
pub(crate) struct InnerCall<'a> {
    /// Its name, as JSON.
    pub(crate) name: Raw<'a>,
    /// Its arguments: a JSON object, byte for byte.
    pub(crate) args: Option<Raw<'a>>,
}

impl InnerCall<'_> {
    /// The name of the tool.
    pub(crate) fn name(&self) -> Cow<'_, str> {
        text(self.name).unwrap_or_default()
    }
}

/// What a call of this tool, with these arguments, is in a catalog.
pub(crate) fn asked<'a>(catalog: &Arc<Catalog>, identity: &Identity, name: &str, args: &'a str) -> Asked<'a> {
    if !catalog.is_searchable() {
        return Asked::Tool;
    }
    let answered = |answer: Result<String, String>| {
        let (answer, is_error) = match answer {
            Ok(answer) => (answer, ""),
            Err(problem) => (problem, r#","isError":true"#),
        };
        Asked::Answered(format!(r#"{{"content":[{{"type":"text","text":{}}}]{is_error}}}"#, json_string(&answer)))
    };
    let read = || Members::read(args).map_err(|_| "the arguments must be one JSON object".to_owned());
    match name {
        SEARCH_TOOLS => answered(read().and_then(|args| search(catalog, identity, &args))),
        DESCRIBE_TOOL => answered(read().and_then(|args| describe(catalog, identity, &args))),
        CALL_TOOL => match read().and_then(|args| inner(&args)) {
            Ok(inner) => Asked::Call(inner),
            Err(problem) => answered(Err(problem)),
        },
        _ => Asked::Tool,
    }
}

fn search(catalog: &Arc<Catalog>, identity: &Identity, args: &Members<'_>) -> Result<String, String> {
    let query = args.text("query").filter(|query| !query.trim().is_empty());
    let query = query.ok_or(r#""query" is missing: say in a few words what the tool should do"#)?;
    let limit = match args.get("limit").filter(|limit| !limit.is_null()) {
        None => DEFAULT_LIMIT,
        Some(limit) => {
            let limit = limit.get().parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit));
            limit.ok_or_else(|| format!(r#""limit" must be a whole number from 1 to {MAX_LIMIT}"#))?
        }
    };
    let found = catalog.search(identity, &query, limit);
    if found == "[]" {
        return Ok("No tool fits: search with other words.".to_owned());
    }
    Ok(found)
}

fn describe(catalog: &Arc<Catalog>, identity: &Identity, args: &Members<'_>) -> Result<String, String> {
    let name = args.text("name").ok_or(r#""name" is missing: set it to a name that search_tools has found"#)?;
    catalog.describe(identity, &name).ok_or_else(|| {
        let shown: String = name.chars().take(MAX_SHOWN_NAME).collect();
        format!("there is no tool {shown:?}: use a name that search_tools has found")
    })
}

fn inner<'a>(args: &Members<'a>) -> Result<InnerCall<'a>, String> {
    let name = args.get("name").filter(|name| !name.is_null());
    let name = name.ok_or(r#""name" is missing: set it to a name that search_tools has found"#)?;
    let of_tool = text(name).ok_or(r#""name" must be a string"#)?;
    if [SEARCH_TOOLS, DESCRIBE_TOOL, CALL_TOOL].contains(&&*of_tool) {
        return Err(format!("{CALL_TOOL} cannot call {of_tool}: call it by itself"));
    }
    let args = args.get("arguments").filter(|args| !args.is_null());
    if args.is_some_and(|args| !args.get().starts_with('{')) {
        return Err(r#""arguments" must be an object"#.into());
    }
    Ok(InnerCall { name, args })
}
