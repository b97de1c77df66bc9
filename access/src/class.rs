//! Classes of callers: callers whose tokens match the same rules see the same items, so views are made for classes.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use arc_swap::ArcSwapOption;
use aws_lc_rs::digest;
use parking_lot::Mutex;
use portcullis_crds::{Policy, ServerKey};
use serde_json::Value;

use crate::budget::Budget;
use crate::caller::Caller;
use crate::decision::{Denial, Permission, Target, grant};
use crate::policy::{CompiledPolicy, CompiledRule};

/// Classes that a table remembers. Beyond, all are forgotten: a caller's class is then found again, under a new number.
const MAX_CLASSES: usize = 10_000;

static NEXT: AtomicU64 = AtomicU64::new(1);

/// All policies that govern some server, compiled, and the classes of callers that they make.
pub struct Table {
    /// Tells this table from others.
    number: u64,
    policies: Vec<Arc<CompiledPolicy>>,
    /// Some rule allows calls only through a view.
    has_views: bool,
    classes: Mutex<HashMap<ClassKey, Arc<Class>>>,
}

/// How a server is governed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Governance {
    /// By no policy.
    None,
    /// By policies that are not all known: nobody may use the server.
    Unknown,
    /// By these policies of the table.
    By(Box<[u32]>),
}

#[derive(PartialEq, Eq, Hash)]
struct ClassKey {
    /// For each policy, a bit for each rule that speaks of the caller.
    rules: Arc<[u64]>,
    /// SHA-256 of the caller, where a condition depends on it.
    caller: Option<[u8; 32]>,
}

/// Callers that match the same rules.
#[derive(Debug)]
pub struct Class {
    /// Tells it from all other classes of all tables.
    pub number: u64,
    rules: Arc<[u64]>,
}

/// What a class of callers may use of a server, whatever the server offers.
#[derive(Debug)]
pub enum Reach<'a> {
    /// Everything.
    Open,
    /// Nothing.
    Closed,
    /// What these rules allow, all of which speak of the class. Never empty.
    Rules(Vec<&'a CompiledRule>),
}

/// Remembers the class of one caller.
#[derive(Default)]
pub struct Memo(ArcSwapOption<RememberedClass>);

struct RememberedClass {
    /// The table that says so.
    table: u64,
    /// The view through which the caller came, where that makes a difference.
    view: Option<ServerKey>,
    class: Arc<Class>,
}

impl Table {
    /// A table of the policies that govern servers, with the governance of each server. `None` stands for a server some of
    /// whose policies are not known.
    ///
    /// Policies that `before` has are not compiled again; `before` itself comes back if nothing is different.
    pub fn of<'a>(
        servers: impl Iterator<Item = Option<&'a [Arc<Policy>]>>,
        before: Option<&Arc<Self>>,
    ) -> (Arc<Self>, Vec<Governance>) {
        let mut wanted: Vec<&Arc<Policy>> = Vec::new();
        // Slots that are read at different moments may hold a policy in two forms; each server has its own.
        let mut forms: HashMap<&ServerKey, Vec<usize>> = HashMap::new();
        // Each slot has a policy once, and many servers that it governs.
        let mut places: HashMap<*const Policy, usize> = HashMap::new();
        let mut place = |policy: &'a Arc<Policy>| {
            let at = *places.entry(Arc::as_ptr(policy)).or_insert_with(|| {
                let forms = forms.entry(&policy.key).or_default();
                let known = forms.iter().find(|at| wanted[**at].is_same(policy)).copied();
                known.unwrap_or_else(|| {
                    wanted.push(policy);
                    forms.push(wanted.len() - 1);
                    wanted.len() - 1
                })
            });
            u32::try_from(at).unwrap_or(u32::MAX)
        };
        let governances = servers.map(|policies| match policies {
            None => Governance::Unknown,
            Some([]) => Governance::None,
            Some(policies) => Governance::By(policies.iter().map(&mut place).collect()),
        });
        let governances: Vec<Governance> = governances.collect();
        let mut known: HashMap<&ServerKey, Vec<&Arc<CompiledPolicy>>> = HashMap::new();
        for policy in before.iter().flat_map(|before| &before.policies) {
            known.entry(&policy.policy.key).or_default().push(policy);
        }
        let compiled: Vec<Arc<CompiledPolicy>> = wanted
            .into_iter()
            .map(|policy| {
                let same = known.get(&policy.key).and_then(|forms| {
                    forms.iter().find(|form| Arc::ptr_eq(&form.policy, policy) || form.policy.is_same(policy))
                });
                same.map_or_else(|| Arc::new(CompiledPolicy::of(policy)), |same| Arc::clone(same))
            })
            .collect();
        if let Some(before) = before
            && before.policies.len() == compiled.len()
            && before.policies.iter().zip(&compiled).all(|(a, b)| Arc::ptr_eq(a, b))
        {
            return (before.clone(), governances);
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let has_views = compiled.iter().flat_map(|policy| &policy.rules).any(|rule| !rule.views.is_empty());
        (Arc::new(Self { number, policies: compiled, has_views, classes: Mutex::default() }), governances)
    }

    /// The policies that govern a server, with their places.
    pub(crate) fn governing<'a>(
        &'a self,
        governance: &'a Governance,
    ) -> impl Iterator<Item = (usize, &'a Arc<CompiledPolicy>)> {
        let places: &[u32] = match governance {
            Governance::By(places) => places,
            Governance::None | Governance::Unknown => &[],
        };
        places.iter().filter_map(|at| Some((*at as usize, self.policies.get(*at as usize)?)))
    }

    /// The class of a caller.
    pub fn class_of(&self, caller: &Caller<'_>, memo: &Memo) -> Arc<Class> {
        let view = caller.view.filter(|_| self.has_views);
        if let Some(kept) = &*memo.0.load()
            && kept.table == self.number
            && kept.view.as_ref() == view
        {
            return kept.class.clone();
        }
        let class = self.find_class(caller);
        let remembered = RememberedClass { table: self.number, view: view.cloned(), class: class.clone() };
        memo.0.store(Some(Arc::new(remembered)));
        class
    }

    fn find_class(&self, caller: &Caller<'_>) -> Arc<Class> {
        let mut depends_on_caller = false;
        // Policies of one namespace stand together.
        let (mut namespace, mut budget) = ("", Budget::of_class());
        let rules = self.policies.iter().map(|policy| {
            let mut bits = 0_u64;
            if policy.policy.key.namespace != namespace {
                (namespace, budget) = (&policy.policy.key.namespace, Budget::of_class());
            }
            for (at, rule) in policy.rules.iter().enumerate() {
                if rule.speaks_of(caller, &budget) {
                    bits |= 1 << at;
                    depends_on_caller |= rule.when.as_ref().is_some_and(|when| when.uses_caller);
                }
            }
            bits
        });
        let rules: Arc<[u64]> = rules.collect();
        let key = ClassKey { rules: rules.clone(), caller: depends_on_caller.then(|| digest_of(caller)) };
        let mut classes = self.classes.lock();
        if classes.len() >= MAX_CLASSES {
            classes.clear();
        }
        let fresh = || Arc::new(Class { number: NEXT.fetch_add(1, Ordering::Relaxed), rules });
        classes.entry(key).or_insert_with(fresh).clone()
    }

    /// What a caller of a class may do with an item. `is_open` says whether servers without a policy are open.
    pub fn permission(
        &self,
        (governance, is_open): (&Governance, bool),
        (class, caller): (&Class, &Caller<'_>),
        target: &Target<'_>,
        budget: &Budget,
    ) -> Permission {
        match self.openness(governance, is_open) {
            Some(true) => Permission::Open,
            Some(false) => Permission::Denied,
            None => {
                let granted = grant(self.rules(governance, class), caller, target, budget);
                granted.map_or(Permission::Denied, Permission::Granted)
            }
        }
    }

    /// What callers of a class may use of a server.
    pub fn reach<'a>(&'a self, governance: &'a Governance, is_open: bool, class: &'a Class) -> Reach<'a> {
        match self.openness(governance, is_open) {
            Some(true) => Reach::Open,
            Some(false) => Reach::Closed,
            None => {
                let rules: Vec<&CompiledRule> = self.rules(governance, class).map(|rule| &**rule).collect();
                if rules.is_empty() { Reach::Closed } else { Reach::Rules(rules) }
            }
        }
    }

    /// Why the callers of a class may not use an item of this server that no rule allows them.
    pub fn denial(&self, governance: &Governance) -> Denial {
        if *governance == Governance::Unknown {
            return Denial::UnknownPolicies;
        }
        let rules_decide = self.governing(governance).any(|(_, policy)| policy.enforces());
        if rules_decide { Denial::NoRule } else { Denial::NoPolicy }
    }

    /// The policies that govern a server.
    pub fn policies_of<'a>(&'a self, governance: &'a Governance) -> impl Iterator<Item = &'a Arc<CompiledPolicy>> {
        self.governing(governance).map(|(_, policy)| policy)
    }

    /// All policies.
    pub fn policies(&self) -> &[Arc<CompiledPolicy>] {
        &self.policies
    }

    /// Why a call would be denied if the policies in `Audit` mode that govern the server were enforced; `None` if it would be
    /// allowed.
    pub fn would_deny(
        &self,
        governance: &Governance,
        (class, caller): (&Class, &Caller<'_>),
        target: &Target<'_>,
        args: Option<&Value>,
        now: jiff::Timestamp,
    ) -> Option<Denial> {
        let rules = self.speaking(self.governing(governance), class);
        match grant(rules, caller, target, &Budget::of_call()) {
            None => Some(Denial::NoRule),
            Some(grant) => grant.decide(caller, target, args, now).err(),
        }
    }

    /// Whether a server is open to everybody or to nobody; `None`: rules decide.
    fn openness(&self, governance: &Governance, is_open: bool) -> Option<bool> {
        if *governance == Governance::Unknown {
            return Some(false);
        }
        let rules_decide = self.governing(governance).any(|(_, policy)| policy.enforces());
        (!rules_decide).then_some(is_open)
    }

    /// Whether a server is open to every caller: no policy that enforces governs it, and such servers are open.
    pub fn is_open_to_all(&self, governance: &Governance, is_open: bool) -> bool {
        self.openness(governance, is_open) == Some(true)
    }

    /// The rules of policies that enforce, and that speak of the callers of a class.
    fn rules<'a>(
        &'a self,
        governance: &'a Governance,
        class: &'a Class,
    ) -> impl Iterator<Item = &'a Arc<CompiledRule>> {
        self.speaking(self.governing(governance).filter(|(_, policy)| policy.enforces()), class)
    }

    /// The rules of these policies that speak of the callers of a class.
    fn speaking<'a>(
        &'a self,
        policies: impl Iterator<Item = (usize, &'a Arc<CompiledPolicy>)>,
        class: &'a Class,
    ) -> impl Iterator<Item = &'a Arc<CompiledRule>> {
        policies.flat_map(|(at, policy)| {
            let bits = class.rules.get(at).copied().unwrap_or_default();
            policy.rules.iter().enumerate().filter(move |(rule, _)| bits >> rule & 1 == 1).map(|(_, rule)| rule)
        })
    }
}

impl Reach<'_> {
    /// Whether a caller of the class may use an item, as far as can be said before a call: what [`Table::permission`] says,
    /// for lists.
    pub fn allows(&self, caller: &Caller<'_>, target: &Target<'_>, budget: &Budget) -> bool {
        match self {
            Self::Open => true,
            Self::Closed => false,
            Self::Rules(rules) => rules.iter().any(|rule| rule.may_allow(caller, target, budget)),
        }
    }
}

fn digest_of(caller: &Caller<'_>) -> [u8; 32] {
    let claims = serde_json::to_string(caller.claims).unwrap_or_default();
    let text = serde_json::json!([caller.subject, caller.issuer, caller.is_of_cluster, claims]).to_string();
    let mut digest = [0; 32];
    digest.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    digest
}

impl fmt::Debug for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Table").field("policies", &self.policies.len()).finish_non_exhaustive()
    }
}

/// A copy of an identity finds its class again.
impl Clone for Memo {
    fn clone(&self) -> Self {
        Self::default()
    }
}

/// What is remembered does not tell identities apart.
impl PartialEq for Memo {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Memo {}

impl fmt::Debug for Memo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Memo")
    }
}
