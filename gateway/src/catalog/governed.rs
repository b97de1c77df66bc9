//! The catalog as a caller sees it: what policies do not allow the caller is not there.
//!
//! Names and owners are those of the whole catalog. Calls are decided one by one, and what was decided for a class of callers
//! about an entry is kept.

use std::borrow::Cow;
use std::collections::HashMap;
use std::fmt;
use std::ops::Deref;
use std::str::FromStr;
use std::sync::Arc;

use parking_lot::RwLock;
use portcullis_access::decision::MAX_CONDITION_ARGS;
use portcullis_access::{
    Budget, Caller, Class, CompiledPolicy, Denial, Governance, Grant, Item as AccessItem, ItemKind, Places, Reach,
    Table, Target,
};
use portcullis_crds::{Server, ServerKey};
use serde_json::{Map, Value};
use smallvec::SmallVec;

use super::basis::Basis;
use super::table::{Candidate, Entry};
use super::{Catalog, Kind, Scope};
use crate::auth::Identity;
use crate::offer::item::Item;
use crate::server::handle::{Handle, Offer};

/// Decisions about entries that are kept for one catalog. Beyond, all are made again.
const MAX_DECIDED: usize = 32_768;

/// Whether servers without a policy are open.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum PolicyDefault {
    /// Open to every caller with a valid token.
    #[default]
    Allow,
    /// Closed to everybody.
    Deny,
}

impl FromStr for PolicyDefault {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "Allow" => Ok(Self::Allow),
            "Deny" => Ok(Self::Deny),
            _ => Err(()),
        }
    }
}

/// Policies that a denial names.
const MAX_NAMED: usize = 8;

/// A caller may not use what it asks for.
#[derive(Clone)]
pub(crate) struct NotAllowed(Box<DenialFacts>);

/// What is known of a denial.
#[derive(Clone)]
pub(crate) struct DenialFacts {
    /// Why.
    pub(crate) denial: Denial,
    /// The server that the caller would have used first.
    pub(crate) server: Option<Arc<Handle>>,
    /// If no rule denies it: the policies that govern the server, at most 8.
    pub(crate) policies: Vec<ServerKey>,
}

/// What the policies in `Audit` mode would do to a call.
pub(crate) struct WouldDeny {
    /// Why they would deny it.
    pub(crate) denial: Denial,
    /// Those that govern the server.
    pub(crate) policies: Vec<Arc<CompiledPolicy>>,
}

impl NotAllowed {
    fn new(denial: Denial, server: Option<Arc<Handle>>, policies: Vec<ServerKey>) -> Self {
        Self(Box::new(DenialFacts { denial, server, policies }))
    }
}

impl fmt::Debug for NotAllowed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NotAllowed").field(&self.denial).finish()
    }
}

impl Deref for NotAllowed {
    type Target = DenialFacts;

    fn deref(&self) -> &DenialFacts {
        &self.0
    }
}

/// The policies of a catalog, and what they decided.
pub(super) struct Governed {
    pub(super) rules: Arc<ServerRules>,
    /// Some server has policies in `Audit` mode.
    has_audit: bool,
    /// The view whose catalog this governs.
    view: Option<ServerKey>,
    /// What classes of callers see, by their numbers.
    pub(super) seen: RwLock<HashMap<u64, Arc<Catalog>>>,
    /// What classes of callers may use of entries that were called.
    decided: RwLock<HashMap<(u64, usize), Decided>>,
}

/// The servers that a class may use an entry through.
#[derive(Clone)]
struct Decided {
    /// The entry: as long as it is kept, no other has its address.
    _of: Arc<Entry>,
    left: Option<Arc<Entry>>,
}

/// Which rules decide about which server.
pub(super) struct ServerRules {
    pub(super) table: Arc<Table>,
    default: PolicyDefault,
    /// For each server, by its place in the catalog.
    servers: Vec<GovernedServer>,
    /// The place of a server, by its address: the catalog holds it.
    places: HashMap<usize, usize>,
}

pub(super) struct GovernedServer {
    pub(super) governance: Governance,
    /// Policies in `Audit` mode are among those that govern it.
    has_audit: bool,
    pub(super) labels: Arc<Map<String, Value>>,
    /// What says so.
    spec: Arc<Server>,
}

/// What lists show a class of a server.
pub(super) struct ListedServer<'a> {
    place: usize,
    reach: Reach<'a>,
    budget: Budget,
}

impl Governed {
    /// The policies of these servers, sorted by key; `None` if there are none, and everything is open.
    pub(super) fn of(servers: &[Arc<Handle>], default: PolicyDefault, before: Option<&Self>) -> Option<Self> {
        let specs: Vec<_> = servers.iter().map(|server| server.spec()).collect();
        let of_server = |spec: &Arc<Server>| !spec.governed_by.is_empty();
        if default == PolicyDefault::Allow && !specs.iter().any(of_server) {
            return None;
        }
        let before = before.map(|before| &*before.rules);
        let (table, governances) =
            Table::of(specs.iter().map(|spec| spec.governing()), before.map(|before| &before.table));
        let governed = governances.into_iter().zip(servers.iter().zip(specs)).map(|(governance, (server, spec))| {
            let has_audit = table.policies_of(&governance).any(|policy| !policy.enforces());
            let known = before.and_then(|before| before.server(server)).filter(|known| Arc::ptr_eq(&known.spec, &spec));
            let labels = known.map_or_else(|| Arc::new(labels_of(&spec)), |known| known.labels.clone());
            GovernedServer { governance, has_audit, labels, spec }
        });
        let servers_governed: Vec<GovernedServer> = governed.collect();
        let has_audit = servers_governed.iter().any(|server| server.has_audit);
        let places = servers.iter().enumerate().map(|(place, server)| (address(server), place)).collect();
        let rules = Arc::new(ServerRules { table, default, servers: servers_governed, places });
        Some(Self { rules, has_audit, view: None, seen: RwLock::default(), decided: RwLock::default() })
    }

    /// The same policies for the catalog of a view.
    pub(super) fn of_view(&self, view: &ServerKey) -> Self {
        let (rules, has_audit, view) = (self.rules.clone(), self.has_audit, Some(view.clone()));
        Self { rules, has_audit, view, seen: RwLock::default(), decided: RwLock::default() }
    }

    #[cfg(test)]
    pub(super) fn kept_views(&self) -> usize {
        self.seen.read().len()
    }

    /// No rule allows an item of these servers.
    fn not_allowed(&self, entry: &Entry) -> NotAllowed {
        let Some(candidate) = entry.candidates.first() else {
            return NotAllowed::new(Denial::NoRule, None, Vec::new());
        };
        let Some(server) = self.rules.server(&candidate.server) else {
            return NotAllowed::new(Denial::UnknownPolicies, Some(candidate.server.clone()), Vec::new());
        };
        let table = &self.rules.table;
        let enforcing = table.policies_of(&server.governance).filter(|policy| policy.enforces());
        let policies = enforcing.take(MAX_NAMED).map(|policy| policy.policy.key.clone()).collect();
        NotAllowed::new(table.denial(&server.governance), Some(candidate.server.clone()), policies)
    }

    pub(super) fn class_of(&self, identity: &Identity) -> Arc<Class> {
        let caller = Caller { view: self.view.as_ref(), ..identity.caller() };
        self.rules.table.class_of(&caller, &identity.access.class)
    }

    /// What an identity may use of an entry of this catalog.
    fn decided(&self, identity: &Identity, kind: Kind, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        let class = self.class_of(identity);
        let key = (class.number, Arc::as_ptr(entry).addr());
        if let Some(decided) = self.decided.read().get(&key) {
            return decided.left.clone();
        }
        let left = self.rules.left((&class, &identity.caller()), kind, entry);
        let mut decided = self.decided.write();
        let full = (decided.len() >= MAX_DECIDED).then(|| std::mem::take(&mut *decided));
        decided.insert(key, Decided { _of: entry.clone(), left: left.clone() });
        drop(decided);
        // Dropping all of them takes a while, for which other calls must not wait.
        drop(full);
        left
    }
}

impl ServerRules {
    pub(super) fn server(&self, server: &Arc<Handle>) -> Option<&GovernedServer> {
        self.places.get(&address(server)).map(|place| &self.servers[*place])
    }

    pub(super) fn is_open(&self) -> bool {
        self.default == PolicyDefault::Allow
    }

    /// What a class may use of the server at a place.
    pub(super) fn reach<'a>(&'a self, place: usize, class: &'a Class) -> Reach<'a> {
        self.table.reach(&self.servers[place].governance, self.is_open(), class)
    }

    /// The same for a list of all that the server offers.
    pub(super) fn to_list<'a>(&'a self, place: usize, class: &'a Class, offer: &Offer) -> ListedServer<'a> {
        let budget = Budget::of_list(Kind::ALL.iter().map(|kind| offer.of(*kind).len()).sum());
        ListedServer { place, reach: self.reach(place, class), budget }
    }

    /// The place of a server of the catalog.
    pub(super) fn place(&self, server: &Arc<Handle>) -> Option<usize> {
        self.places.get(&address(server)).copied()
    }

    /// Whether a list shows an item of a server to a caller of the class.
    pub(super) fn shows(
        &self,
        listed: &ListedServer<'_>,
        caller: &Caller<'_>,
        kind: Kind,
        (server, item): (&Handle, &Item),
    ) -> bool {
        let mut pattern = String::new();
        let (labels, item) = (&self.servers[listed.place].labels, named(kind, item, &mut pattern));
        listed.reach.allows(caller, &Target { server: &server.key, labels, item }, &listed.budget)
    }

    /// The entry with the servers through which a caller may use it, and the rules for each; `None` if there are none.
    fn left(&self, (class, caller): (&Class, &Caller<'_>), kind: Kind, entry: &Arc<Entry>) -> Option<Arc<Entry>> {
        let permitted = |candidate: &Candidate| {
            let server = self.server(&candidate.server)?;
            let mut pattern = String::new();
            let item = named(kind, &candidate.item, &mut pattern);
            let target = Target { server: &candidate.server.key, labels: &server.labels, item };
            let (of_server, budget) = ((&server.governance, self.is_open()), Budget::of_call());
            let permission = self.table.permission(of_server, (class, caller), &target, &budget);
            permission.granted().map(|grant| Candidate { grant, ..candidate.clone() })
        };
        let left: SmallVec<[Candidate; 1]> = entry.candidates.iter().filter_map(permitted).collect();
        let is_same = left.len() == entry.candidates.len() && left.iter().all(|candidate| candidate.grant.is_none());
        match left.is_empty() {
            true => None,
            false if is_same => Some(entry.clone()),
            false => Some(Arc::new(entry.with(left))),
        }
    }
}

/// Labels as conditions see them.
fn labels_of(spec: &Server) -> Map<String, Value> {
    spec.labels.iter().map(|(key, value)| (key.clone(), Value::String(value.clone()))).collect()
}

/// Arguments as conditions see them; `None` if they are too long, or no JSON.
fn decoded(args: &str) -> Option<Value> {
    (args.len() <= MAX_CONDITION_ARGS).then(|| serde_json::from_str(args).ok()).flatten()
}

fn address(server: &Arc<Handle>) -> usize {
    Arc::as_ptr(server).addr()
}

/// A kind as policies name it.
pub(crate) fn item_kind(kind: Kind) -> ItemKind {
    match kind {
        Kind::Tools => ItemKind::Tool,
        Kind::Prompts => ItemKind::Prompt,
        Kind::Resources => ItemKind::Resource,
        Kind::Templates => ItemKind::Template,
    }
}

/// An item as policies name it.
pub(super) fn named<'a>(kind: Kind, item: &'a Item, pattern: &'a mut String) -> AccessItem<'a> {
    let mut name = &*item.own_name;
    if kind == Kind::Templates {
        *pattern = pattern_of(name);
        name = pattern;
    }
    AccessItem { kind: item_kind(kind), name, hints: item.hints }
}

/// A template with `*` for each expression.
pub(super) fn pattern_of(template: &str) -> String {
    let mut pattern = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((literal, after)) = rest.split_once('{') {
        pattern.push_str(literal);
        pattern.push('*');
        rest = after.split_once('}').map_or("", |(_, rest)| rest);
    }
    pattern + rest
}

impl Catalog {
    /// The item of this name, with the servers through which this caller may use it.
    ///
    /// # Errors
    /// The item exists, but no server offers it to this caller.
    pub(crate) fn find_for(
        &self,
        identity: &Identity,
        kind: Kind,
        scope: Scope<'_>,
        name: &str,
    ) -> Result<Option<Cow<'_, Arc<Entry>>>, NotAllowed> {
        let Some(entry) = self.find(kind, scope, name) else { return Ok(None) };
        self.permitted(identity, kind, entry).map(Some)
    }

    /// The same entry of this catalog with the servers through which this caller may use it.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn permitted<'a>(
        &self,
        identity: &Identity,
        kind: Kind,
        entry: Cow<'a, Arc<Entry>>,
    ) -> Result<Cow<'a, Arc<Entry>>, NotAllowed> {
        let Some(governed) = &self.governed else { return Ok(entry) };
        let left = match &entry {
            Cow::Borrowed(entry) => governed.decided(identity, kind, entry),
            // Made for this call alone.
            Cow::Owned(entry) => governed.rules.left((&governed.class_of(identity), &identity.caller()), kind, entry),
        };
        left.map(Cow::Owned).ok_or_else(|| governed.not_allowed(&entry))
    }

    /// The servers from which this caller may read a resource: see [`Catalog::reader`].
    ///
    /// # Errors
    /// Servers have it, but the caller may read it from none.
    pub(crate) fn reader_for(
        &self,
        identity: &Identity,
        scope: Scope<'_>,
        uri: &str,
    ) -> Result<Option<Arc<Entry>>, NotAllowed> {
        let Some(entry) = self.reader(scope, uri) else { return Ok(None) };
        self.permitted(identity, Kind::Resources, Cow::Owned(entry)).map(|entry| Some(entry.into_owned()))
    }

    /// Whether this caller may be told of a resource: unless it may read it from no server that has it.
    pub(crate) fn may_hear_of(&self, identity: &Identity, scope: Scope<'_>, uri: &str) -> bool {
        self.governed.is_none() || self.reader_for(identity, scope, uri).is_ok()
    }

    /// Decides a call by the conditions of the rules that allow it: leaves the servers for which one holds.
    ///
    /// # Errors
    /// There are none.
    pub(crate) fn decide(
        &self,
        identity: &Identity,
        kind: Kind,
        entry: &mut Cow<'_, Arc<Entry>>,
        args: &str,
    ) -> Result<Basis, NotAllowed> {
        let is_plain = |one: &Candidate| one.grant.as_ref().is_none_or(|grant| grant.plain().is_some());
        if entry.candidates.iter().all(is_plain) {
            return Ok(Basis::Plain);
        }
        let Some(governed) = &self.governed else { return Ok(Basis::Plain) };
        let needs_args = |one: &Candidate| one.grant.as_ref().is_some_and(Grant::needs_args);
        let args = entry.candidates.iter().any(needs_args).then(|| decoded(args)).flatten();
        let (caller, now) = (identity.caller(), jiff::Timestamp::now());
        let mut denied = None;
        let mut pattern = String::new();
        let places: SmallVec<[Option<Places>; 4]> = entry
            .candidates
            .iter()
            .map(|candidate| {
                let Some(grant) = &candidate.grant else { return Some(Places::new()) };
                let server = governed.rules.server(&candidate.server)?;
                let item = named(kind, &candidate.item, &mut pattern);
                let target = Target { server: &candidate.server.key, labels: &server.labels, item };
                let decision = grant.decide(&caller, &target, args.as_ref(), now);
                decision.map_err(|denial| denied = Some((denial, candidate.server.clone()))).ok()
            })
            .collect();
        if places.iter().all(Option::is_none) {
            return Err(denied.map_or_else(
                || governed.not_allowed(entry),
                |(denial, server)| NotAllowed::new(denial, Some(server), Vec::new()),
            ));
        }
        let (basis, left) = Basis::of(&entry.candidates, &places);
        if left.contains(&false) {
            let mut left = left.into_iter();
            Arc::make_mut(entry.to_mut()).candidates.retain(|_| left.next().unwrap_or_default());
        }
        Ok(basis)
    }

    /// Whether policies decide anything.
    pub(crate) fn is_governed(&self) -> bool {
        self.governed.is_some()
    }

    /// The policies that govern some server.
    pub(crate) fn policies(&self) -> &[Arc<CompiledPolicy>] {
        self.governed.as_ref().map_or(&[], |governed| governed.rules.table.policies())
    }

    /// Whether every caller may use everything of a server: those without a token may know of it then.
    pub(crate) fn is_open_to_all(&self, server: &Arc<Handle>) -> bool {
        let is_open = |all: &Governed| {
            let rules = &all.rules;
            rules.server(server).is_some_and(|one| rules.table.is_open_to_all(&one.governance, rules.is_open()))
        };
        self.governed.as_deref().is_none_or(is_open)
    }

    /// Whether policies in `Audit` mode govern some server.
    pub(crate) fn has_audit_policies(&self) -> bool {
        self.governed.as_ref().is_some_and(|governed| governed.has_audit)
    }

    /// What would become of an allowed call if the policies in `Audit` mode were enforced: `None` if it would be allowed, or
    /// if there are none.
    pub(crate) fn would_deny(&self, identity: &Identity, kind: Kind, entry: &Entry, args: &str) -> Option<WouldDeny> {
        let governed = self.governed.as_ref().filter(|governed| governed.has_audit)?;
        let caller = identity.caller();
        let class = governed.class_of(identity);
        let now = jiff::Timestamp::now();
        let mut pattern = String::new();
        let (mut known, mut first) = (None, None);
        for candidate in &entry.candidates {
            let server = governed.rules.server(&candidate.server)?;
            let item = named(kind, &candidate.item, &mut pattern);
            let target = Target { server: &candidate.server.key, labels: &server.labels, item };
            // One server that would be left is enough.
            if !server.has_audit {
                return None;
            }
            let args = known.get_or_insert_with(|| decoded(args)).as_ref();
            let denial = governed.rules.table.would_deny(&server.governance, (&class, &caller), &target, args, now)?;
            first.get_or_insert((denial, server));
        }
        let (denial, server) = first?;
        let audits = |policy: &&Arc<CompiledPolicy>| !policy.enforces();
        let policies = governed.rules.table.policies_of(&server.governance).filter(audits).cloned().collect();
        Some(WouldDeny { denial, policies })
    }
}
