//! Explains what a caller may do with an item: at each server that offers it, by each name that it has.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_access::explain::Call;
use portcullis_access::{Arguments, Caller, Explanation, Target};

use super::governed::named;
use super::naming::uri_forms;
use super::{Catalog, Kind, Scope};
use crate::offer::item::{Item, Items};
use crate::offer::short_names::{is_short, short_form};
use crate::server::handle::Handle;

/// An item of a server, and what policies say of it and a caller.
pub(crate) struct ExplainedItem {
    /// The server.
    pub(crate) server: Arc<Handle>,
    /// The server's own name of the item, or its own URI.
    pub(crate) own_name: Arc<str>,
    /// The name by which callers use it in the whole catalog, if they can.
    pub(crate) name: Option<Arc<str>>,
    /// A request by the name that was asked for may go there.
    pub(crate) is_meant: bool,
    /// The decision and its reasons.
    pub(crate) explanation: Explanation,
}

/// The bounds of one explanation.
#[derive(Clone, Copy)]
pub(crate) struct ExplainBounds {
    /// The limit for items.
    pub(crate) items: usize,
    /// No further item is looked at after this time: each may have many rules with conditions.
    pub(crate) time: Duration,
}

/// A place where an item was found.
struct Found {
    server: Arc<Handle>,
    item: Arc<Item>,
    name: Option<Arc<str>>,
    is_meant: bool,
}

impl Catalog {
    /// What a caller may do with the items of this name: those that a request by the name may use, then those of which it
    /// is the server's own name. With `server`, only those of this server. Gives as many as fit into the bounds, one at
    /// least, and how many there are.
    ///
    /// It agrees with [`Catalog::find_for`], [`Catalog::reader_for`] and [`Catalog::decide`].
    pub(crate) fn explain(
        &self,
        caller: &Caller<'_>,
        (kind, name): (Kind, &str),
        server: Option<&Arc<Handle>>,
        (now, bounds): (jiff::Timestamp, ExplainBounds),
    ) -> (Vec<ExplainedItem>, usize) {
        let mut found = self.meant(kind, name, server);
        let known: HashSet<(usize, Arc<str>)> =
            found.iter().map(|one| (Arc::as_ptr(&one.server).addr(), one.item.own_name.clone())).collect();
        let own = self.of_own_name(kind, name, server);
        found.extend(own.filter(|one| !known.contains(&(Arc::as_ptr(&one.server).addr(), one.item.own_name.clone()))));
        let count = found.len();
        let began = Instant::now();
        let in_time = |(at, _): &(usize, Found)| *at == 0 || began.elapsed() < bounds.time;
        let found = found.into_iter().take(bounds.items).enumerate().take_while(in_time).map(|(_, found)| found);
        let explained = found.map(|Found { server, item, name, is_meant }| ExplainedItem {
            explanation: self.explanation(caller, kind, &server, &item, now),
            name: name.or_else(|| self.name_of(kind, &server, &item)),
            own_name: item.own_name.clone(),
            is_meant,
            server,
        });
        (explained.collect(), count)
    }

    /// The items that a request by this name may use; with `server`, those that a request may use that names it.
    fn meant(&self, kind: Kind, name: &str, server: Option<&Arc<Handle>>) -> Vec<Found> {
        let entry = |scope: Scope<'_>| match kind {
            Kind::Resources => self.reader(scope, name),
            kind => self.find(kind, scope, name).map(|entry| entry.into_owned()),
        };
        let found = |scope: Scope<'_>| -> Vec<Found> {
            let Some(entry) = entry(scope) else { return Vec::new() };
            // The URI that was asked for leads there, in whatever form; an item's name is that of its entry.
            let shown: Option<Arc<str>> = match (scope, kind) {
                (Scope::All, Kind::Resources) => Some(name.into()),
                (Scope::All, _) => Some(entry.name.clone()),
                _ => None,
            };
            let of_server = entry.candidates.iter().filter(|one| server.is_none_or(|it| one.server.key == it.key));
            let found = of_server.map(|one| Found {
                server: one.server.clone(),
                item: one.item.clone(),
                name: shown.clone(),
                is_meant: true,
            });
            found.collect()
        };
        let mut all = found(Scope::All);
        if let (true, Some(server)) = (all.is_empty(), server) {
            all = found(Scope::Namespace(&server.key.namespace));
            if all.is_empty() {
                all = found(Scope::Server(server));
            }
        }
        all
    }

    /// The listed items of which this is the server's own name.
    fn of_own_name<'a>(
        &'a self,
        kind: Kind,
        name: &'a str,
        server: Option<&'a Arc<Handle>>,
    ) -> impl Iterator<Item = Found> + 'a {
        let key = if kind != Kind::Tools || is_short(name) { name.to_owned() } else { short_form(name) };
        let servers = self.servers.iter().zip(&self.alone);
        let servers = servers.filter(move |(one, _)| server.is_none_or(|it| it.key == one.key));
        servers.filter_map(move |(server, alone)| {
            let item = with_own_name(alone.offer.of(kind), name, &key, renames(kind, server))?.clone();
            Some(Found { server: server.clone(), item, name: None, is_meant: false })
        })
    }

    fn explanation(
        &self,
        caller: &Caller<'_>,
        kind: Kind,
        server: &Arc<Handle>,
        item: &Item,
        now: jiff::Timestamp,
    ) -> Explanation {
        let mut pattern = String::new();
        let item = named(kind, item, &mut pattern);
        let rules = self.governed.as_deref().map(|governed| &governed.rules);
        let Some((rules, of_server)) = rules.and_then(|rules| Some((rules, rules.server(server)?))) else {
            return Explanation::without_policies(item.kind);
        };
        let target = Target { server: &server.key, labels: &of_server.labels, item };
        let call = Call { args: Arguments::Unknown, now };
        rules.table.explain((&of_server.governance, rules.is_open()), caller, &target, call)
    }

    /// The name or URI by which callers use an item of a server; `None` if another server has all of its names.
    fn name_of(&self, kind: Kind, server: &Arc<Handle>, item: &Item) -> Option<Arc<str>> {
        if kind != Kind::Resources {
            return self.all().name_of(kind, server, item);
        }
        let [by_namespace, by_server] = uri_forms(&server.key, &item.own_name);
        let forms = [Some(item.own_name.to_string()), by_namespace, by_server];
        let leads_there = |uri: &String| {
            let entry = self.reader(Scope::All, uri);
            let is_it = |entry: Arc<super::Entry>| {
                entry.candidates.iter().any(|one| one.server.key == server.key && one.item.own_name == item.own_name)
            };
            entry.is_some_and(is_it)
        };
        forms.into_iter().flatten().find(leads_there).map(Into::into)
    }
}

/// Whether the McpServer gives items of this kind other names than the server does.
fn renames(kind: Kind, server: &Handle) -> bool {
    let rules = &server.spec().tools;
    kind == Kind::Tools && (rules.prefix.is_some() || !rules.overrides.is_empty())
}

/// The item of this own name, which callers know by `key` unless items are renamed.
fn with_own_name<'a>(items: &'a Items, own_name: &str, key: &str, renamed: bool) -> Option<&'a Arc<Item>> {
    if renamed {
        return items.iter().find(|item| &*item.own_name == own_name);
    }
    let at = items.binary_search_by(|item| (*item.name).cmp(key)).ok()?;
    items.get(at).filter(|item| &*item.own_name == own_name)
}
