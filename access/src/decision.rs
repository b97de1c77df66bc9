//! The decision: which rules allow an item to a caller.

use std::sync::Arc;

use portcullis_crds::ServerKey;
use portcullis_crds::mcpaccesspolicy::AllowedItems;
use serde_json::{Map, Value};
use smallvec::{SmallVec, smallvec};

use crate::budget::Budget;
use crate::caller::Caller;
use crate::cel::{Failure, Input, Outcome};
use crate::policy::CompiledRule;

/// The kind of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ItemKind {
    /// A tool.
    Tool,
    /// A prompt.
    Prompt,
    /// A resource, by its URI.
    Resource,
    /// A template of URIs.
    Template,
}

/// An item as its server names it.
#[derive(Clone, Copy, Debug)]
pub struct Item<'a> {
    /// Its kind.
    pub kind: ItemKind,
    /// Its own name, or its own URI; of a template a pattern in which `*` stands for each expression.
    pub name: &'a str,
    /// Whether a tool is read-only, destructive, idempotent, open to the world, as it declares or as MCP assumes.
    pub hints: [bool; 4],
}

/// The hints of a tool that declares none, as MCP defines them.
pub const DEFAULT_HINTS: [bool; 4] = [false, true, false, true];

/// Bytes of arguments that a condition looks at. A call with more is denied by a condition that names them.
pub const MAX_CONDITION_ARGS: usize = 256 * 1024;

/// What a caller may do with an item, before anything about a call is known.
#[derive(Clone, Debug)]
pub enum Permission {
    /// No policy governs the server, and servers without a policy are open.
    Open,
    /// Rules allow it.
    Granted(Grant),
    /// Nothing allows it.
    Denied,
}

/// The rules that allow an item to a caller, some of them under a condition that depends on the call. Never empty.
#[derive(Clone, Debug)]
pub struct Grant {
    rules: Arc<[Arc<CompiledRule>]>,
    /// The place of the first rule that allows every call.
    plain: Option<usize>,
}

/// The rules of a [`Grant`] that allow one call, by their places: one that has no limit, or else all that have one.
pub type Places = SmallVec<[usize; 2]>;

/// Why a call is not allowed.
#[derive(Clone, Debug)]
pub enum Denial {
    /// No rule allows this item to this caller.
    NoRule,
    /// No policy governs the server, and servers without a policy are closed.
    NoPolicy,
    /// Not all policies that govern the server are known.
    UnknownPolicies,
    /// The condition of the rule does not hold.
    Condition(Arc<CompiledRule>),
    /// The condition of the rule has no result.
    Failed(Arc<CompiledRule>, Failure),
}

/// The server of a decision.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    /// Its key.
    pub server: &'a ServerKey,
    /// Its labels.
    pub labels: &'a Map<String, Value>,
    /// The item.
    pub item: Item<'a>,
}

impl Permission {
    /// The grant of what is not denied: none for what is open.
    pub fn granted(self) -> Option<Option<Grant>> {
        match self {
            Self::Open => Some(None),
            Self::Granted(grant) => Some(Some(grant)),
            Self::Denied => None,
        }
    }
}

impl ItemKind {
    /// The word for one item.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tool => "tool",
            Self::Prompt => "prompt",
            Self::Resource => "resource",
            Self::Template => "resource template",
        }
    }
}

impl CompiledRule {
    /// Whether the rule speaks of this caller.
    pub fn speaks_of(&self, caller: &Caller<'_>, budget: &Budget) -> bool {
        self.is_open_to(caller.view) && self.from.iter().any(|source| caller.matches(source, budget))
    }

    /// Whether the rule allows calls that come through this view, or through none.
    fn is_open_to(&self, view: Option<&ServerKey>) -> bool {
        self.views.is_empty() || view.is_some_and(|view| self.views.contains(view))
    }

    /// Whether the rule speaks of this item.
    pub fn covers(&self, item: &Item<'_>, budget: &Budget) -> bool {
        self.allow.iter().any(|items| covers(items, item, budget))
    }

    /// Whether the rule, which speaks of the caller, allows an item, as far as can be said without its arguments and the time.
    pub(crate) fn may_allow(&self, caller: &Caller<'_>, target: &Target<'_>, budget: &Budget) -> bool {
        let may_hold = || !matches!(self.holds(&input(caller, target), budget), Ok(Some(false)) | Err(_));
        self.covers(&target.item, budget) && (self.when.is_none() || may_hold())
    }

    /// Whether the rule's condition holds for this caller and this item; `None`: that depends on something that is not known.
    pub(crate) fn holds_for(
        &self,
        (caller, target): (&Caller<'_>, &Target<'_>),
        args: Option<&Value>,
        now: Option<jiff::Timestamp>,
        budget: &Budget,
    ) -> Result<Option<bool>, Failure> {
        self.holds(&Input { args, now, ..input(caller, target) }, budget)
    }

    /// Whether the rule's condition holds; `None`: that depends on something that is not known yet.
    fn holds(&self, input: &Input<'_>, budget: &Budget) -> Result<Option<bool>, Failure> {
        let Some(condition) = &self.when else { return Ok(Some(true)) };
        Ok(match condition.evaluate_within(input, budget)? {
            Outcome::Holds => Some(true),
            Outcome::Fails => Some(false),
            Outcome::Open => None,
        })
    }
}

fn covers(items: &AllowedItems, item: &Item<'_>, budget: &Budget) -> bool {
    if !budget.take(1) {
        return false;
    }
    let AllowedItems { tools, hints, prompts, resources } = items;
    let matches = |patterns: &Vec<String>| patterns.iter().any(|pattern| budget.matches(pattern, item.name));
    match item.kind {
        ItemKind::Tool => {
            (tools.is_some() || hints.is_some())
                && tools.as_ref().is_none_or(matches)
                && hints.is_none_or(|wanted| wanted.hold_for(item.hints))
        }
        ItemKind::Prompt => prompts.as_ref().is_some_and(matches),
        ItemKind::Resource => resources.as_ref().is_some_and(matches),
        // A template is worth showing if some of its resources may be read.
        ItemKind::Template => {
            resources.as_ref().is_some_and(|list| list.iter().any(|pattern| budget.overlap(pattern, item.name)))
        }
    }
}

/// Which of `rules`, all of which speak of the caller, allow an item, as far as can be said without its arguments and the
/// time, and within a budget.
pub fn grant<'r>(
    rules: impl Iterator<Item = &'r Arc<CompiledRule>>,
    caller: &Caller<'_>,
    target: &Target<'_>,
    budget: &Budget,
) -> Option<Grant> {
    let may_allow = |rule: &&Arc<CompiledRule>| rule.may_allow(caller, target, budget);
    let granted: Vec<Arc<CompiledRule>> = rules.filter(may_allow).cloned().collect();
    (!granted.is_empty()).then(|| Grant::of(granted))
}

/// Why a condition has no result where the arguments cannot be decoded.
pub(crate) fn unreadable_arguments() -> Failure {
    Failure::Values("the arguments cannot be read".into())
}

fn input<'a>(caller: &Caller<'a>, target: &Target<'a>) -> Input<'a> {
    Input {
        subject: caller.subject,
        issuer: caller.issuer,
        service_account: caller.service_account(),
        claims: Some(caller.claims),
        server: (&target.server.namespace, &target.server.name),
        labels: Some(target.labels),
        tool: (target.item.kind == ItemKind::Tool).then_some((target.item.name, target.item.hints)),
        args: None,
        now: None,
    }
}

impl Grant {
    fn of(rules: Vec<Arc<CompiledRule>>) -> Self {
        let plain = rules.iter().position(|rule| rule.when.is_none() && rule.limit.is_none());
        Self { rules: rules.into(), plain }
    }

    /// The rules.
    pub fn rules(&self) -> &[Arc<CompiledRule>] {
        &self.rules
    }

    /// The place of a rule that allows every call: then nothing about a call has to be looked at.
    pub fn plain(&self) -> Option<usize> {
        self.plain
    }

    /// Whether a condition names the arguments, so that they have to be decoded.
    pub fn needs_args(&self) -> bool {
        self.plain.is_none() && self.rules.iter().any(|rule| rule.when.as_ref().is_some_and(|when| when.uses_args))
    }

    /// Decides a call: which rules allow it. `args` is `None` where the arguments cannot be decoded; then conditions that
    /// need them fail.
    ///
    /// # Errors
    /// None does.
    pub fn decide(
        &self,
        caller: &Caller<'_>,
        target: &Target<'_>,
        args: Option<&Value>,
        now: jiff::Timestamp,
    ) -> Result<Places, Denial> {
        if let Some(plain) = self.plain {
            return Ok(smallvec![plain]);
        }
        let input = Input { args, now: Some(now), ..input(caller, target) };
        let budget = Budget::of_call();
        let (mut limited, mut denial) = (Places::new(), Denial::NoRule);
        for (place, rule) in self.rules.iter().enumerate() {
            match rule.holds(&input, &budget) {
                Ok(Some(true)) if rule.limit.is_none() => return Ok(smallvec![place]),
                Ok(Some(true)) => limited.push(place),
                Ok(Some(false)) => denial = Denial::Condition(rule.clone()),
                Ok(None) => denial = Denial::Failed(rule.clone(), unreadable_arguments()),
                Err(failure) => denial = Denial::Failed(rule.clone(), failure),
            }
        }
        if limited.is_empty() { Err(denial) } else { Ok(limited) }
    }
}

impl Denial {
    /// A word for it, as the audit log and metrics have it.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::NoRule => "no_rule",
            Self::NoPolicy => "no_policy",
            Self::UnknownPolicies => "unknown_policies",
            Self::Condition(_) => "condition",
            Self::Failed(..) => "condition_failed",
        }
    }

    /// The rule whose condition denies.
    pub fn rule(&self) -> Option<&CompiledRule> {
        match self {
            Self::Condition(rule) | Self::Failed(rule, _) => Some(rule),
            Self::NoRule | Self::NoPolicy | Self::UnknownPolicies => None,
        }
    }
}

/// The words of [`Denial::reason`].
pub const DENIAL_REASONS: [&str; 5] = ["no_rule", "no_policy", "unknown_policies", "condition", "condition_failed"];

#[cfg(test)]
mod tests;
