//! Calls at a view: of its tools, and of the tools by which agents search them.

use portcullis_mcp::protocol::json::Members;

use crate::call::CALL_TOOL;
use crate::front::mcp::caller::{Caller, Within};
use crate::front::mcp::messages::request::Params;
use crate::front::request::search_tools::{Asked, InnerCall, asked as asked_of};

/// What a call at a view is.
pub(super) enum ViewCall<'a> {
    /// The call of a tool by its own name, or no call of a tool.
    Tool,
    /// The call of another tool: the params that it would have by its own name.
    Inner(Box<Members<'a>>),
    /// It is answered, with this result.
    Answered(String),
}

/// What a request is.
pub(super) fn asked<'a>(caller: &Caller, method: &str, params: &Params<'_, 'a>) -> ViewCall<'a> {
    if method != CALL_TOOL || !matches!(caller.within, Within::View(_)) {
        return ViewCall::Tool;
    }
    let Some(name) = params.text("name") else { return ViewCall::Tool };
    let args = params.get("arguments").map_or("{}", |arguments| arguments.get());
    match asked_of(&caller.catalog(), &caller.identity, &name, args) {
        Asked::Tool => ViewCall::Tool,
        Asked::Answered(result) => ViewCall::Answered(result),
        Asked::Call(inner) => ViewCall::Inner(by_its_own_name(params, &inner)),
    }
}

/// The params of the tool that a request calls by another; `None` if it does not.
pub(super) fn inner<'a>(caller: &Caller, method: &str, params: &Params<'_, 'a>) -> Option<Box<Members<'a>>> {
    match asked(caller, method, params) {
        ViewCall::Inner(members) => Some(members),
        ViewCall::Tool | ViewCall::Answered(_) => None,
    }
}

fn by_its_own_name<'a>(params: &Params<'_, 'a>, inner: &InnerCall<'a>) -> Box<Members<'a>> {
    let others = params.iter().filter(|(key, _)| key != "name" && key != "arguments").cloned();
    let arguments = inner.args.map(|args| ("arguments".into(), args));
    Box::new(Members(std::iter::once(("name".into(), inner.name)).chain(arguments).chain(others).collect()))
}
