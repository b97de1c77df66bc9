//! Decides which servers may share a tool: those of one namespace that run the same software, or declare the same pool.
//!
//! Pure. A server that shares a tool receives calls, with their arguments, that were meant for the other.

use std::collections::HashMap;
use std::sync::Arc;

use super::table::Fit;
use crate::offer::item::{Item, Kind};
use crate::server::handle::{Handle, Offer};

/// The common identity of servers that may share a tool. Equal numbers mean equal identities within one view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// The server does not identify itself: it shares nothing.
    ServerCatalog,
    /// The servers report the same software (`serverInfo.name`).
    Software(u32),
    /// The servers declare the same `spec.pool`.
    Pool(u32),
}

impl Family {
    /// The family of each server, from its offer.
    pub(super) fn of_all<'a>(servers: impl Iterator<Item = (&'a Arc<Handle>, &'a Arc<Offer>)>) -> Vec<Self> {
        let mut numbers: HashMap<(Arc<str>, bool, Arc<str>), u32> = HashMap::new();
        let mut last: Option<Arc<str>> = None;
        let mut families = Vec::new();
        for (server, offer) in servers {
            // Servers are sorted: most are in the namespace of the previous one.
            let namespace = match &last {
                Some(last) if **last == *server.key.namespace => last.clone(),
                _ => last.insert(server.key.namespace.as_str().into()).clone(),
            };
            let pool = server.spec().pool.as_deref().map(Arc::<str>::from);
            let next = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
            families.push(match (pool, &offer.software) {
                (Some(pool), _) => Self::Pool(*numbers.entry((namespace, true, pool)).or_insert(next)),
                (None, Some(name)) => Self::Software(*numbers.entry((namespace, false, name.clone())).or_insert(next)),
                (None, None) => Self::ServerCatalog,
            });
        }
        families
    }

    /// Whether an item of a server of `other` is the same as one of a server of this family.
    pub(super) fn fit(self, other: Self, kind: Kind, (item, another): (&Item, &Item)) -> Fit {
        let alike = item.digest == another.digest;
        match (self, other) {
            (Self::Pool(a), Self::Pool(b)) if a == b && alike => Fit::Fits,
            (Self::Pool(a), Self::Pool(b)) if a == b => Fit::Disagrees,
            (Self::Software(a), Self::Software(b)) if a == b => {
                let same = match kind {
                    Kind::Tools | Kind::Prompts => item.same == another.same,
                    Kind::Resources | Kind::Templates => alike,
                };
                if same { Fit::Fits } else { Fit::Taken }
            }
            _ => Fit::Taken,
        }
    }
}
