//! A server's own lists, and the offer that its configuration makes of them.
//!
//! The rules are applied here, to the last reported lists, whenever the rules or the lists change: whether the server
//! answers at that moment does not matter.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::MutexGuard;
use portcullis_crds::mcpserver::{ServingState, ToolRules};

use super::{Handle, Offer};
use crate::offer::definition::Problems;
use crate::offer::item::{Items, Kind};
use crate::offer::listing::Listed;
use crate::offer::raw_tools::RawTools;
use crate::offer::skills::Skill;
use portcullis_mcp::upstream::ServerCapabilities;

/// Parsed lists.
pub(crate) type Lists = Vec<(Kind, Listed)>;

/// The lists that a server reported.
#[derive(Clone, Default)]
pub(super) struct KnownLists {
    tools: Option<Arc<RawTools>>,
    /// The last result of applying the rules.
    made: Option<Made>,
    /// Whether the lists are listed, if the configuration allows: the server has reported them, and has not been away
    /// for too long.
    fresh: bool,
}

#[derive(Clone)]
struct Made {
    tools: Arc<RawTools>,
    rules: ToolRules,
    items: Items,
    left_out: usize,
    problems: Problems,
}

impl KnownLists {
    /// The state of a server whose offer was made elsewhere.
    #[cfg(test)]
    pub(super) fn of(offer: &Offer) -> Self {
        Self { fresh: offer.listed, ..Self::default() }
    }

    /// Whether the tools are already parsed under these rules.
    fn is_made(&self, rules: &ToolRules) -> bool {
        match (&self.tools, &self.made) {
            (None, _) => true,
            (Some(tools), Some(made)) => Arc::ptr_eq(tools, &made.tools) && made.rules == *rules,
            (Some(_), None) => false,
        }
    }
}

impl Handle {
    /// Stores the lists that the server reported; others stay. True if this changes the offer.
    pub(crate) fn take_lists(&self, lists: Lists, capabilities: ServerCapabilities) -> bool {
        let mut others = Vec::new();
        let mut known = self.known();
        known.fresh = true;
        for (kind, listed) in lists {
            match listed {
                Listed::Tools(tools) if known.tools.as_ref().is_some_and(|old| old.is(&tools)) => {}
                Listed::Tools(tools) => known.tools = Some(tools),
                Listed::Others(found) => {
                    self.note_left_out(kind, found.left_out);
                    self.note_problems(kind, found.problems.clone());
                    others.push((kind, found.shared()));
                }
            }
        }
        drop(known);
        let changed = self.renew(|offer| {
            offer.capabilities = capabilities;
            offer.software = self.software();
            others.into_iter().for_each(|(kind, items)| *offer.of_mut(kind) = items);
        });
        self.has_told();
        changed
    }

    /// Stores the skills that the server reported. True if this changes the offer.
    pub(crate) fn take_skills(&self, skills: Vec<Skill>) -> bool {
        self.renew(|offer| offer.skills = Arc::new(skills))
    }

    /// Takes over the state of another handle of the same server, and offers it under the rules of its own
    /// configuration.
    pub(crate) fn succeed(&self, before: &Self) {
        let mut known = before.known().clone();
        known.fresh &= self.spec().state != ServingState::Disabled;
        *self.known() = known;
        self.set_declared(before.declared());
        self.renew(|offer| *offer = (*before.offer()).clone());
    }

    /// Removes the offer from the lists; the server keeps its names.
    pub(crate) fn unlist(&self) {
        self.known().fresh = false;
        self.renew(|_| ());
    }

    /// Records that the lists which it shows single callers may have changed.
    pub(crate) fn note_caller_lists(&self) {
        self.caller_lists.fetch_add(1, Ordering::AcqRel);
    }

    /// A number that changes with the lists which it shows single callers.
    pub(crate) fn caller_lists(&self) -> u64 {
        self.caller_lists.load(Ordering::Acquire)
    }

    /// Whether the reported lists are recent enough to be listed.
    pub(crate) fn is_fresh(&self) -> bool {
        self.known().fresh
    }

    /// Whether applying other rules takes long.
    pub(crate) fn has_many_tools(&self) -> bool {
        self.known().tools.as_ref().is_some_and(|tools| tools.is_large())
    }

    /// Parses the tools under these rules, unless already done: the next step is then free.
    pub(crate) fn prepare(&self, rules: &ToolRules) {
        let tools = {
            let known = self.known();
            if known.is_made(rules) { None } else { known.tools.clone() }
        };
        let Some(tools) = tools else { return };
        let found = tools.offered(rules);
        let (left_out, problems) = (found.left_out, found.problems.clone());
        let made = Made { tools, rules: rules.clone(), items: found.shared(), left_out, problems };
        self.known().made = Some(made);
    }

    /// Renews the offer from the lists and the configuration; true if it changes.
    pub(super) fn renew(&self, change: impl FnOnce(&mut Offer)) -> bool {
        loop {
            let spec = self.spec();
            self.prepare(&spec.tools);
            let known = self.known();
            // Parsing takes time, and either may have changed meanwhile.
            if !known.is_made(&spec.tools) || !Arc::ptr_eq(&spec, &self.spec()) {
                continue;
            }
            let mut offer = (*self.offer()).clone();
            change(&mut offer);
            if let (Some(made), Some(_)) = (&known.made, &known.tools) {
                offer.tools = made.items.clone();
                self.note_left_out(Kind::Tools, made.left_out);
                self.note_problems(Kind::Tools, made.problems.clone());
                self.update_status(|status| status.left_out = made.left_out);
            }
            offer.set_extensions(self.declared());
            if spec.listing.per_caller {
                offer.show_nobody();
            }
            offer.listed = known.fresh && spec.state == ServingState::Enabled;
            return self.store_offer(offer);
        }
    }

    pub(super) fn known(&self) -> MutexGuard<'_, KnownLists> {
        self.known.lock()
    }
}

#[cfg(test)]
mod tests {
    use portcullis_crds::Server;

    use super::*;
    use crate::telemetry::metrics::Metrics;

    fn told(handle: &Handle, names: &[&str]) -> bool {
        let texts: Vec<String> =
            names.iter().map(|name| format!(r#"{{"name":"{name}","inputSchema":{{"type":"object"}}}}"#)).collect();
        let tools = Listed::Tools(Arc::new(RawTools::pack(&texts, 0)));
        handle.take_lists(vec![(Kind::Tools, tools)], ServerCapabilities::default())
    }

    fn names(handle: &Handle) -> Vec<String> {
        let offer = handle.offer();
        if offer.listed { offer.tools.iter().map(|tool| tool.name.to_string()).collect() } else { Vec::new() }
    }

    fn with(before: &Handle, rules: &str, state: ServingState) -> Arc<Server> {
        let tools = serde_yaml::from_str(rules).unwrap();
        Arc::new(Server { tools, state, ..(*before.spec()).clone() })
    }

    fn server() -> Handle {
        Handle::new(Server::from_url("a", "http://a/mcp"), &Metrics::new())
    }

    #[test]
    fn other_rules_hold_for_what_was_told_before_and_for_what_is_told_later() {
        let handle = server();
        assert!(told(&handle, &["x", "y"]));
        assert!(!told(&handle, &["x", "y"]), "nothing is new");
        for (rules, expected) in [
            ("{exclude: [x]}", vec!["y"]),
            ("{prefix: p}", vec!["p__x", "p__y"]),
            ("{include: [x], overrides: [{name: x, rename: z}]}", vec!["z"]),
            ("{exclude: ['*']}", vec![]),
            ("{}", vec!["x", "y"]),
        ] {
            assert!(handle.set_spec(with(&handle, rules, ServingState::Enabled)), "{rules}");
            assert_eq!(names(&handle), expected, "{rules}");
            told(&handle, &["x", "y", "0"]);
            told(&handle, &["x", "y"]);
            assert_eq!(names(&handle), expected, "{rules}");
        }
    }

    #[test]
    fn what_is_not_listed_for_a_while_is_listed_again_without_asking_unless_it_was_away() {
        let handle = server();
        told(&handle, &["x"]);
        for state in [ServingState::Draining, ServingState::Enabled] {
            assert!(handle.set_spec(with(&handle, "{}", state)));
            assert_eq!(names(&handle).is_empty(), state == ServingState::Draining);
        }
        handle.unlist();
        assert_eq!(names(&handle).len(), 0);
        handle.set_spec(with(&handle, "{prefix: p}", ServingState::Enabled));
        assert_eq!((names(&handle).len(), &*handle.offer().tools[0].name), (0, "p__x"), "it keeps its names");
    }

    #[test]
    fn a_successor_offers_what_its_predecessor_knew_by_rules_of_its_own() {
        let before = server();
        told(&before, &["x", "y"]);
        let successor = |rules: &str, state| {
            let after = Handle::new(with(&before, rules, state), &Metrics::new());
            after.succeed(&before);
            (names(&after), after.has_listed())
        };
        assert_eq!(successor("{exclude: [y], prefix: p}", ServingState::Enabled), (vec!["p__x".to_owned()], false));
        assert_eq!(successor("{}", ServingState::Disabled), (vec![], false));
    }
}
