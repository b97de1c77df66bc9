//! Finds the servers that answer a call, of those that its caller may use.

use std::borrow::Cow;
use std::sync::Arc;

use portcullis_mcp::protocol::extensions::SKILLS;
use portcullis_mcp::protocol::json::{Members, json_string};
use portcullis_mcp::protocol::revision::Revision;

use crate::call::CALL_TOOL;
use crate::catalog::{Basis, Catalog, Entry, Kind, NotAllowed};
use crate::front::http::call_facts::called_name;
use crate::front::http::error::clip;
use crate::front::mcp::call_plan::{CUSTOM, joined};
use crate::front::mcp::caller::{Caller, Within};
use crate::front::mcp::messages::classify::{DIRECTORY, SKILL};
use crate::front::mcp::messages::problem::RpcProblem;
use crate::front::mcp::messages::request::{Params, SESSIONLESS_REVISION};
use crate::front::mcp::{tasks, view_search};
use crate::front::request::admit::{Wanted, note_denial};
use crate::front::request::observe::record;

/// The servers that answer a call.
pub(super) struct Found {
    pub(super) entry: Arc<Entry>,
    /// The subject of the request, if it is not the name of the entry.
    pub(super) about: Option<String>,
    /// The first member of `params` where it is not a name that differs between servers, and its value.
    pub(super) given: Option<(String, String)>,
    /// The id of the task that it is about, as its client has it.
    pub(super) task: Option<String>,
    /// What allows it, if it has to be admitted before it is made.
    pub(super) basis: Option<Box<Basis>>,
}

impl Found {
    /// What the gateway answers itself.
    pub(super) fn nobody(method: &str) -> Self {
        Self { entry: Arc::new(Entry::nobody(method)), about: None, given: None, task: None, basis: None }
    }
}

/// Finds what a request asks for.
struct Finder<'a, 'p, 'r> {
    caller: &'a Caller,
    catalog: &'a Arc<Catalog>,
    method: &'static str,
    params: &'a Params<'p, 'r>,
    revision: Revision,
}

/// Finds the servers that answer, of those that the caller may use.
///
/// # Errors
/// The request is wrong, nobody answers it, or the caller may not use it.
pub(super) fn target(
    caller: &Caller,
    (method, name): (&'static str, &str),
    params: &Params<'_, '_>,
    revision: Revision,
) -> Result<Found, RpcProblem> {
    let catalog = caller.catalog();
    let find = Finder { caller, catalog: &catalog, method, params, revision };
    let found = match method {
        CALL_TOOL | "prompts/get" => find.named(),
        "resources/read" => find.read(),
        CUSTOM => find.custom(name),
        SKILL | DIRECTORY if !caller.seen_catalog().announced(caller.scope()).has(SKILLS) => {
            Err(RpcProblem::method(method))
        }
        SKILL | DIRECTORY => find.read(),
        // Its call was decided and admitted when it began.
        "tasks/get" | "tasks/update" | "tasks/cancel" => return find.task(),
        _ => find.completed(),
    }?;
    find.decided(found)
}

/// Whether the caller may still use what a request is about that goes on.
///
/// # Errors
/// It may not.
pub(crate) fn check_returning(
    caller: &Caller,
    method: &'static str,
    params: &Params<'_, '_>,
) -> Result<(), RpcProblem> {
    let of_view = view_search::inner(caller, method, params);
    let inner = of_view.as_ref().map(|members| params.with(members));
    target(caller, (method, method), inner.as_ref().unwrap_or(params), SESSIONLESS_REVISION).map(drop)
}

/// The kind of what a method asks for. Completions are for prompts and resources.
pub(super) fn kind_of(method: &str) -> Kind {
    match method {
        CALL_TOOL | "tasks/get" | "tasks/update" | "tasks/cancel" => Kind::Tools,
        "resources/read" | SKILL | DIRECTORY => Kind::Resources,
        _ => Kind::Prompts,
    }
}

impl Finder<'_, '_, '_> {
    /// Decides by the conditions of the rules that allow it: leaves the servers for which one holds.
    fn decided(&self, found: Found) -> Result<Found, RpcProblem> {
        // The usual call, without policies: it need not be admitted either.
        if !self.catalog.is_governed() && self.caller.app().audit.is_none() {
            return Ok(found);
        }
        let kind = kind_of(self.method);
        // What rules allow of completions has no arguments yet.
        let args = self.params.get("arguments").map_or("{}", |arguments| arguments.get());
        let Found { entry, about, given, task, .. } = found;
        let mut entry = Cow::Owned(entry);
        let decision = self.catalog.decide(&self.caller.identity, kind, &mut entry, args);
        let basis = match decision {
            Ok(basis) => basis,
            Err(denied) => {
                let name = about.as_deref().unwrap_or(&entry.name);
                return Err(self.denied(kind, name, &denied));
            }
        };
        let basis = self.caller.app().admits(self.catalog, &basis).then(|| Box::new(basis));
        Ok(Found { entry: entry.into_owned(), about, given, task, basis })
    }

    /// Notes a denial, and says it.
    fn denied(&self, kind: Kind, name: &str, denied: &NotAllowed) -> RpcProblem {
        let problem = RpcProblem::NotAllowed(kind.word(), clip(name));
        let wanted = Wanted {
            recorder: &self.caller.recorder,
            identity: &self.caller.identity,
            method: self.method,
            name,
            args: self.params.get("arguments").map(|arguments| arguments.get()),
        };
        note_denial(&wanted, denied, problem.status(self.revision).as_u16());
        problem
    }

    fn named(&self) -> Result<Found, RpcProblem> {
        let Self { caller, catalog, method, params, .. } = self;
        let name = params.text("name").filter(|name| !name.is_empty());
        let name = name.ok_or(RpcProblem::Params("\"name\" is missing or not a string"))?;
        let kind = kind_of(method);
        let found = catalog.find(kind, caller.scope(), &name);
        record(&caller.recorder).tool = Some(called_name(&name, found.as_deref().map(|entry| &**entry)));
        match found {
            Some(entry) => {
                let entry = catalog.permitted(&caller.identity, kind, entry);
                let entry = entry.map_err(|denied| self.denied(kind, &name, &denied))?;
                let about = (*entry.name != *name).then(|| name.into_owned());
                Ok(Found { entry: entry.into_owned(), about, given: None, task: None, basis: None })
            }
            // A server that has just been configured may be the one that offers it.
            None if catalog.is_incomplete() || catalog.lacks_lists(caller.scope()) => Err(RpcProblem::Unavailable),
            None if kind == Kind::Tools => {
                caller.app().metrics.unknown_tools.inc();
                Err(RpcProblem::UnknownTool(clip(&name)))
            }
            None => Err(RpcProblem::UnknownPrompt(clip(&name))),
        }
    }

    /// A request that the gateway does not know, for the one server that the path selects. No policy speaks of it, so it is
    /// for servers that no policy restricts.
    fn custom(&self, name: &str) -> Result<Found, RpcProblem> {
        let Within::Server(server) = &self.caller.within else { return Err(RpcProblem::method(name)) };
        if !self.catalog.is_open_to_all(server) {
            return Err(RpcProblem::NotAllowed("method", clip(name)));
        }
        let members: Vec<_> = self.params.iter().cloned().collect();
        let members = joined(&members);
        let given = Some((members.strip_prefix(',').unwrap_or_default().to_owned(), String::new()));
        let entry = Arc::new(Entry::custom(server, name));
        Ok(Found { entry, about: None, given, task: None, basis: None })
    }

    /// A task that the caller began, at the server that has it, if the caller may still use its tool there.
    fn task(&self) -> Result<Found, RpcProblem> {
        let sealed = self.params.text("taskId").ok_or(RpcProblem::Params("\"taskId\" is missing or not a string"))?;
        let task = tasks::opened(self.caller, &sealed)?;
        let entry = tasks::entry_of(self.catalog, self.caller.scope(), &task).ok_or(RpcProblem::UnknownTask)?;
        record(&self.caller.recorder).tool = Some(called_name(&entry.name, Some(&entry)));
        let entry = self.catalog.permitted(&self.caller.identity, Kind::Tools, Cow::Owned(entry));
        let entry = entry.map_err(|denied| self.denied(Kind::Tools, &task.tool, &denied))?.into_owned();
        let given = Some((format!(r#""taskId":{}"#, json_string(&task.id)), task.id));
        Ok(Found { entry, about: None, given, task: Some(sealed.into_owned()), basis: None })
    }

    fn read(&self) -> Result<Found, RpcProblem> {
        let uri = self.params.text("uri").filter(|uri| !uri.is_empty());
        let uri = uri.ok_or(RpcProblem::Params("\"uri\" is missing or not a string"))?;
        let entry = self.reader(&uri)?;
        // The URI as its server knows it: all servers that have it know it by the same.
        let own = entry.candidates.first();
        let own = own.map(|one| (format!(r#""uri":{}"#, one.item.own_name_json), &one.item.own_name));
        let given = own.map(|(member, own)| (member, own.to_string()));
        Ok(Found { entry, about: Some(uri.into_owned()), given, task: None, basis: None })
    }

    fn reader(&self, uri: &str) -> Result<Arc<Entry>, RpcProblem> {
        read_from(self.caller, self.catalog, uri, |denied| self.denied(Kind::Resources, uri, denied))
    }

    /// `completion/complete`: its `ref` names a prompt, or the template of resources.
    fn completed(&self) -> Result<Found, RpcProblem> {
        const FORM: RpcProblem = RpcProblem::Params("\"ref\" must name a prompt, or the uri of a resource template");
        let Self { caller, catalog, params, .. } = self;
        let reference = params.get("ref").ok_or(FORM)?;
        let mut members = Members::read(reference.get()).map_err(|_| FORM)?;
        let kind = members.text("type").ok_or(FORM)?;
        match &*kind {
            "ref/prompt" => {
                let name = members.text("name").ok_or(FORM)?;
                let entry = catalog.find_for(&caller.identity, Kind::Prompts, caller.scope(), &name);
                let entry = entry.map_err(|denied| self.denied(Kind::Prompts, &name, &denied))?;
                let entry = entry.ok_or_else(|| RpcProblem::UnknownPrompt(clip(&name)))?.into_owned();
                // All servers that offer it know it by the same name, or it would not be one prompt.
                let own = entry.candidates.first().map(|one| one.item.own_name_json.to_string()).unwrap_or_default();
                members.0.retain(|(key, value)| key != "name" && !value.is_null());
                let others = joined(&members.0);
                let given = Some((format!(r#""ref":{{"name":{own}{others}}}"#), String::new()));
                Ok(Found { entry, about: Some(name.into_owned()), given, task: None, basis: None })
            }
            "ref/resource" => {
                let uri = members.text("uri").ok_or(FORM)?;
                let entry = match catalog.find_for(&caller.identity, Kind::Templates, caller.scope(), &uri) {
                    Ok(Some(entry)) => entry.into_owned(),
                    Err(denied) => return Err(self.denied(Kind::Templates, &uri, &denied)),
                    Ok(None) => self.reader(&uri)?,
                };
                let own = entry.candidates.first().map(|one| &one.item);
                let reference = match own.filter(|item| *item.own_name != *uri) {
                    None => reference.get().to_owned(),
                    // It says its namespace or its server, which the server itself does not.
                    Some(item) => {
                        let own = &item.own_name_json;
                        members.0.retain(|(key, _)| key != "uri");
                        format!(r#"{{"uri":{own}{}}}"#, joined(&members.0))
                    }
                };
                let given = Some((format!(r#""ref":{reference}"#), String::new()));
                Ok(Found { entry, about: Some(uri.into_owned()), given, task: None, basis: None })
            }
            _ => Err(FORM),
        }
    }
}

/// The entry of a resource, with the servers from which the caller may read it.
///
/// # Errors
/// There are none; `denied` says so where servers have it.
pub(crate) fn read_from(
    caller: &Caller,
    catalog: &Arc<Catalog>,
    uri: &str,
    denied: impl FnOnce(&NotAllowed) -> RpcProblem,
) -> Result<Arc<Entry>, RpcProblem> {
    match catalog.reader_for(&caller.identity, caller.scope(), uri) {
        Ok(Some(entry)) => Ok(entry),
        Err(not_allowed) => Err(denied(&not_allowed)),
        Ok(None) if catalog.is_incomplete() || catalog.lacks_lists(caller.scope()) => Err(RpcProblem::Unavailable),
        Ok(None) => Err(RpcProblem::UnknownResource(uri.chars().take(1024).collect())),
    }
}
