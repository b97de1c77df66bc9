//! Tasks (SEP-2663) as clients see them: under a sealed id, and with the resources of their results where those are read.

use std::borrow::Cow;
use std::sync::Arc;

use portcullis_crds::ServerKey;
use portcullis_mcp::protocol::extensions::{Extensions, TASKS};
use portcullis_mcp::protocol::json::{Members, json_string};
use portcullis_mcp::upstream::{CallError, RpcResult};

use crate::auth::{Identity, SubjectId};
use crate::call::CALL_TOOL;
use crate::catalog::{Catalog, Entry, Kind, Scope};
use crate::front::mcp::call_plan::{PlannedCall, joined};
use crate::front::mcp::caller::Caller;
use crate::front::mcp::calls::relinked_text;
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::reply::notification;
use crate::front::mcp::state::streams::TaskUpdate;
use crate::front::mcp::state::task_subscriptions::TaskFollower;
use crate::seal::TaskId;
use crate::server::handle::Handle;

/// Whether the caller takes a task for an answer.
pub(crate) fn takes_tasks(caller: &Caller) -> bool {
    caller.is_modern && caller.extensions.has(TASKS)
}

/// The extensions of which servers are told. For callers that take no task the gateway waits for its result, unless they
/// could declare that they do: then a server that needs them to is to say so.
pub(crate) fn declared<'a>(caller: &'a Caller, method: &str) -> Cow<'a, Extensions> {
    let own = &caller.extensions;
    match (caller.is_modern || method != CALL_TOOL, own.is_empty()) {
        (true, _) => Cow::Borrowed(own),
        (false, true) => Cow::Borrowed(Extensions::tasks()),
        (false, false) => Cow::Owned(own.with(TASKS, "{}")),
    }
}

/// Whether the caller may send requests about tasks.
///
/// # Errors
/// It has not declared that it can, or no server that it sees has tasks: then there is no such method.
pub(crate) fn check(caller: &Caller, method: &str) -> Result<(), RpcProblem> {
    if !caller.seen_catalog().announced(caller.scope()).has(TASKS) {
        return Err(RpcProblem::method(method));
    }
    if takes_tasks(caller) { Ok(()) } else { Err(RpcProblem::Extension(TASKS)) }
}

/// The task of this id.
///
/// # Errors
/// There is none, or it is another caller's.
pub(crate) fn opened(caller: &Caller, sealed: &str) -> Result<TaskId, RpcProblem> {
    TaskId::open(&caller.app().sealer, sealed, &caller.subject).map_err(|_| RpcProblem::UnknownTask)
}

impl PlannedCall {
    /// A result that is, or tells of, a task as its client sees it; none if it is or does neither.
    pub(super) fn task_shown(&self, result: &RpcResult, server: &Handle) -> Result<Option<RpcResult>, RpcProblem> {
        const UNFIT: RpcProblem = RpcProblem::Server(CallError::Unfit("its task is malformed"));
        let begins = result.says.is_task && self.method == CALL_TOOL;
        if !begins && self.task.is_none() {
            return Ok(None);
        }
        let whole = std::str::from_utf8(result).map_err(|_| UNFIT)?;
        let mut members = Members::read(whole).map_err(|_| UNFIT)?;
        let own = members.text("taskId");
        let shown = match (&self.task, own) {
            (None, own) => self.task_sealed(&own.ok_or(UNFIT)?, server)?,
            // An acknowledgement.
            (Some(_), None) => return Ok(None),
            (Some(sealed), Some(_)) => sealed.clone(),
        };
        let resources = members.get("result").and_then(|inner| self.relinked_text(inner.get(), server));
        members.0.retain(|(key, _)| key != "taskId" && (resources.is_none() || key != "result"));
        let inner = resources.map(|inner| format!(r#","result":{inner}"#)).unwrap_or_default();
        let shown = json_string(&shown);
        Ok(Some(RpcResult::of(format!(r#"{{"taskId":{shown}{inner}{}}}"#, joined(&members.0)).into())))
    }

    fn task_sealed(&self, own: &str, server: &Handle) -> Result<String, RpcProblem> {
        const LONG: RpcProblem =
            RpcProblem::Server(CallError::Unfit("its taskId is longer than 2 KiB, the most that the gateway forwards"));
        let of_server = self.entry.candidates.iter().find(|candidate| candidate.server.key == server.key);
        let tool = of_server.map(|candidate| candidate.item.own_name.to_string()).unwrap_or_default();
        let (server, subject) = (server.key.to_string(), self.caller.subject);
        TaskId { server, subject, tool, id: own.to_owned() }.seal(&self.caller.app().sealer).map_err(|_| LONG)
    }
}

/// The entry of the tool that began a task, at the server that has it; none if the server or its tool is gone.
pub(crate) fn entry_of(catalog: &Catalog, scope: Scope<'_>, task: &TaskId) -> Option<Arc<Entry>> {
    let (namespace, name) = task.server.split_once('/')?;
    let key = ServerKey::new(namespace, name);
    let is_here = match scope {
        Scope::All => true,
        Scope::Namespace(scope) => scope == namespace,
        Scope::Server(server) => server.key == key,
    };
    catalog.own_tool(&key, &task.tool).filter(|_| is_here)
}

/// What a server says of one of its tasks: its own id, and all else as members that each begin with a comma.
pub(crate) fn told(params: &[u8]) -> Option<(String, String)> {
    let mut members = Members::read(std::str::from_utf8(params).ok()?).ok()?;
    let own = members.text("taskId")?.into_owned();
    // The state of a task may come as the answer to a request.
    members.0.retain(|(key, _)| !matches!(&**key, "taskId" | "_meta" | "resultType"));
    Some((own, joined(&members.0)))
}

/// The tasks of these ids of which a stream can be told: those that the caller began, if their servers tell of them and it may
/// still use their tools. The stream is told of them from now on.
pub(crate) fn follow(caller: &Caller, stream: u64, ids: &mut Vec<String>) {
    let catalog = caller.catalog();
    ids.retain(|sealed| {
        let Ok(task) = opened(caller, sealed) else { return false };
        let Some(entry) = allowed(&catalog, caller.scope(), &caller.identity, &task) else { return false };
        let Some(candidate) = entry.candidates.first() else { return false };
        let follower = TaskFollower { stream, shown: sealed.as_str().into(), tool: task.tool.as_str().into() };
        caller.app().mcp.task_subscriptions.subscribe(&candidate.server, &task.id, follower)
    });
}

/// The message that tells a client of a change of a task; none if it may no longer use the tool. `meta`: the members with
/// which its params begin.
pub(crate) fn notification_of(
    catalog: &Catalog,
    (scope, identity): (Scope<'_>, &Identity),
    update: &TaskUpdate,
    meta: &str,
) -> Option<String> {
    let TaskUpdate { server, tool, shown, rest } = update;
    let task =
        TaskId { server: server.to_string(), subject: SubjectId([0; 16]), tool: tool.to_string(), id: String::new() };
    let entry = allowed(catalog, scope, identity, &task)?;
    let handle = &entry.candidates.first()?.server;
    let whole = format!(r#"{{"taskId":{}{rest}}}"#, json_string(shown));
    let mut members = Members::read(&whole).ok()?;
    let result = members.get("result");
    let result = result.and_then(|inner| relinked_text(catalog, scope, (handle, &entry), inner.get()));
    if result.is_some() {
        members.0.retain(|(key, _)| key != "result");
    }
    let result = result.map(|inner| format!(r#","result":{inner}"#)).unwrap_or_default();
    let params = format!("{{{meta}{}{result}}}", joined(&members.0));
    Some(notification("notifications/tasks", &params))
}

/// The entry of the tool that began a task, if this caller may still use it.
fn allowed(catalog: &Catalog, scope: Scope<'_>, identity: &Identity, task: &TaskId) -> Option<Arc<Entry>> {
    let entry = entry_of(catalog, scope, task)?;
    catalog.permitted(identity, Kind::Tools, Cow::Owned(entry)).ok().map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_server_says_of_a_task_is_taken_apart() {
        let params = br#"{"_meta":{"a":1},"taskId":"t","status":"completed","ttlMs":null,"result":{"content":[1.10]}}"#;
        let rest = r#","status":"completed","ttlMs":null,"result":{"content":[1.10]}"#;
        assert_eq!(told(params), Some(("t".into(), rest.into())));
        for bad in [&b"{}"[..], b"[]", br#"{"taskId":7}"#, br#"{"taskId":"a","taskId":"b"}"#] {
            assert_eq!(told(bad), None);
        }
    }
}
