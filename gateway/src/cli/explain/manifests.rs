//! What the manifests of a folder say of a caller and an item, as the gateway would decide with them.

use std::path::Path;
use std::sync::Arc;

use portcullis_access::explain::Call;
use portcullis_access::{Explanation, Governance, Item, ItemKind, Table, Target};
use portcullis_crds::mcpserver::Scheme;
use portcullis_crds::names::DEFAULT_NAMESPACE;
use portcullis_crds::{McpServer, Server, Services, resolve, rules};
use serde_json::{Map, Value};

use super::{GivenArgs, NoAnswer};
use crate::catalog::PolicyDefault;
use crate::explain::answer::{ExplainAnswer, ExplainedPlace};
use crate::explain::question::{AskedItem, AssumedCaller};
use crate::offer::item::Kind;
use crate::offer::short_names::{is_short, short_form};
use crate::offer::tools::{is_offered, listed_hints, listed_name};
use crate::source::folder::Folder;

/// Why nobody can use a tool that `spec.tools` leaves out.
const HIDDEN: &str = "spec.tools of the McpServer does not offer this tool";

/// The servers of a folder and the policies that govern them.
pub(super) struct PolicyFolder {
    servers: Vec<FolderServer>,
    table: Arc<Table>,
    is_open: bool,
}

struct FolderServer {
    spec: Server,
    governance: Governance,
    labels: Map<String, Value>,
}

/// What is known of a call besides its caller and its item.
#[derive(Clone, Debug)]
pub(super) struct GivenCall {
    /// The hints that the tool declares.
    pub(super) hints: [bool; 4],
    /// Its arguments.
    pub(super) args: GivenArgs,
    /// When it is made.
    pub(super) now: jiff::Timestamp,
}

impl PolicyFolder {
    /// Reads a file or a folder.
    ///
    /// # Errors
    /// Anything in it cannot be used: an answer without it could be wrong.
    pub(super) fn read(path: &Path, default: PolicyDefault) -> Result<Self, NoAnswer> {
        let mut folder = Folder::open(path).map_err(NoAnswer::Setting)?;
        let (mut servers, policies, mut problems) = folder.manifests();
        servers.iter_mut().for_each(without_service);
        let resolution = resolve(&servers, &policies, DEFAULT_NAMESPACE, Services::Unknown);
        let refused = resolution.verdicts.iter().filter_map(|verdict| {
            verdict.refusal.as_ref().map(|refusal| format!("McpServer {}: {}", verdict.key, refusal.message))
        });
        problems.extend(refused);
        if !problems.is_empty() {
            return Err(NoAnswer::Manifests(problems));
        }
        let specs = resolution.snapshot.servers;
        if specs.is_empty() {
            return Err(NoAnswer::Setting(format!("there is no McpServer in {}", path.display())));
        }
        let (table, governances) = Table::of(specs.iter().map(Server::governing), None);
        let labels = |spec: &Server| {
            spec.labels.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect()
        };
        let servers = specs.into_iter().zip(governances);
        let servers =
            servers.map(|(spec, governance)| FolderServer { governance, labels: labels(&spec), spec }).collect();
        Ok(Self { servers, table, is_open: default == PolicyDefault::Allow })
    }

    /// What the caller may do with an item of these servers.
    ///
    /// # Errors
    /// There is no server of that name.
    pub(super) fn explain(
        &self,
        caller: &AssumedCaller,
        item: &AskedItem,
        server: Option<&str>,
        call: &GivenCall,
    ) -> Result<ExplainAnswer, NoAnswer> {
        let servers = self.selected(server)?;
        let caller = caller.caller();
        let explained: Vec<_> = servers.iter().map(|server| self.explained(server, &caller, item, call)).collect();
        let places = servers.iter().zip(&explained).map(|(server, (explanation, name, hidden))| ExplainedPlace {
            server: &server.spec.name,
            own_name: &item.name,
            name: name.as_deref().filter(|_| hidden.is_none()),
            health: None,
            explanation,
            hidden: *hidden,
            is_meant: true,
            limit: None,
        });
        Ok(ExplainAnswer::new(&caller, item, places, servers.len()))
    }

    /// The explanation, the name by which callers use the item, and why they cannot.
    fn explained(
        &self,
        server: &FolderServer,
        caller: &portcullis_access::Caller<'_>,
        item: &AskedItem,
        call: &GivenCall,
    ) -> (Explanation, Option<String>, Option<&'static str>) {
        let (rules, own_name) = (&server.spec.tools, item.name.as_str());
        let (kind, hints, name, hidden) = match item.kind {
            Kind::Tools => {
                let name = listed_name(own_name, rules);
                let name = if is_short(&name) { name } else { short_form(&name) };
                let hidden = (!is_offered(own_name, rules)).then_some(HIDDEN);
                (ItemKind::Tool, listed_hints(own_name, call.hints, rules), name, hidden)
            }
            Kind::Prompts => (ItemKind::Prompt, call.hints, own_name.to_owned(), None),
            Kind::Resources | Kind::Templates => (ItemKind::Resource, call.hints, own_name.to_owned(), None),
        };
        let item = Item { kind, name: own_name, hints };
        let target = Target { server: &server.spec.key, labels: &server.labels, item };
        let call = Call { args: call.args.borrowed(), now: call.now };
        (self.table.explain((&server.governance, self.is_open), caller, &target, call), Some(name), hidden)
    }

    /// The servers of this name: a bare one is of the home namespace, or the only one that there is.
    fn selected(&self, name: Option<&str>) -> Result<Vec<&FolderServer>, NoAnswer> {
        let Some(name) = name else { return Ok(self.servers.iter().collect()) };
        let exact = |server: &&FolderServer| server.spec.name == name || server.spec.key.to_string() == name;
        if let Some(server) = self.servers.iter().find(exact) {
            return Ok(vec![server]);
        }
        let bare: Vec<_> = self.servers.iter().filter(|server| server.spec.key.name == name).collect();
        match bare.len() {
            0 => {
                let names: Vec<&str> = self.servers.iter().map(|server| &*server.spec.name).take(10).collect();
                Err(NoAnswer::UnknownServer(name.to_owned(), names.join(", ")))
            }
            1 => Ok(bare),
            _ => Err(NoAnswer::AmbiguousServer(name.to_owned())),
        }
    }
}

/// Replaces a valid `spec.service`, which only a cluster can resolve, by some URL: nothing is connected to.
fn without_service(server: &mut McpServer) {
    if server.spec.service.is_none() || !rules::problems(&server.spec).is_empty() {
        return;
    }
    let Some(service) = server.spec.service.take() else { return };
    let scheme = if service.scheme == Scheme::Https { "https" } else { "http" };
    server.spec.url = Some(format!("{scheme}://{}/", service.name));
}
