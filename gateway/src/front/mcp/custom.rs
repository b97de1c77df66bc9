//! Requests that the gateway does not know, for a server of its own: those of extensions that it does not know either, and of
//! the experimental tasks of 2025-11-25, which belong to a client's own session.

use portcullis_mcp::protocol::extensions::is_routed;
use portcullis_mcp::protocol::revision::Revision;

use crate::front::mcp::caller::{Caller, Within};
use crate::front::mcp::messages::problem::RpcProblem;
use crate::server::handle::Handle;

/// Bytes of the name of a method that is passed on: it travels in a header too.
const MAX_METHOD: usize = 128;

/// The requests about the experimental tasks of 2025-11-25.
const LEGACY_TASKS: [&str; 4] = ["tasks/get", "tasks/result", "tasks/list", "tasks/cancel"];

/// Whether a request that the gateway does not know is passed on.
///
/// # Errors
/// Why it is not.
pub(crate) fn check(caller: &Caller, method: &str) -> Result<(), RpcProblem> {
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'/' | b'.' | b'-' | b'_' | b'$');
    let is_method = method.len() <= MAX_METHOD && method.bytes().all(is_name);
    let alone = if let Within::Server(server) = &caller.within { Some(&**server) } else { None };
    if !caller.is_modern && LEGACY_TASKS.contains(&method) {
        return if alone.is_some_and(passes_tasks) { Ok(()) } else { Err(RpcProblem::LegacyTasks) };
    }
    let knows_more = |server: &Handle| server.offer().extensions.names().any(|name| !is_routed(name));
    match alone {
        Some(server) if is_method && knows_more(server) => Ok(()),
        _ => Err(RpcProblem::method(method)),
    }
}

/// Whether a server's experimental tasks of 2025-11-25 are passed on: in a session that all clients share, each would see those
/// of the others.
pub(crate) fn passes_tasks(server: &Handle) -> bool {
    server.clients().is_some() && server.offer().capabilities.legacy_tasks.is_some()
}

/// Whether a call may ask for a task of 2025-11-25.
pub(crate) fn may_ask_for_task(caller: &Caller) -> bool {
    caller.is_modern || matches!(&caller.within, Within::Server(server) if passes_tasks(server))
}

/// The member of `capabilities` that announces them to a client of this revision, after a comma; empty if they are not.
pub(crate) fn announced_tasks(caller: &Caller, revision: Revision) -> String {
    let Within::Server(server) = &caller.within else { return String::new() };
    let tasks = server.offer().capabilities.legacy_tasks;
    match tasks.filter(|_| revision == Revision::V2025_11_25 && passes_tasks(server)) {
        Some(tasks) => format!(r#","tasks":{}"#, tasks.to_json()),
        None => String::new(),
    }
}
