//! Explains a decision: which policies and rules make it, and why each rule does or does not allow the item.

use std::sync::Arc;

use serde_json::Value;

use crate::budget::Budget;
use crate::caller::Caller;
use crate::cel::Failure;
use crate::class::{Governance, Table};
use crate::decision::{ItemKind, Target, unreadable_arguments};
use crate::policy::{CompiledPolicy, CompiledRule};

/// What is known of the call.
#[derive(Clone, Copy, Debug)]
pub struct Call<'a> {
    /// Its arguments.
    pub args: Arguments<'a>,
    /// When it is made.
    pub now: jiff::Timestamp,
}

/// The arguments of a call that is explained.
#[derive(Clone, Copy, Debug)]
pub enum Arguments<'a> {
    /// They are not known: the explanation says what depends on them.
    Unknown,
    /// They cannot be decoded, or are larger than [`crate::decision::MAX_CONDITION_ARGS`]. Conditions that need them fail.
    Unreadable,
    /// These.
    Known(&'a Value),
}

/// Why a caller may or may not use an item of a server.
#[derive(Clone, Debug)]
pub struct Explanation {
    /// The decision, and what makes it.
    pub verdict: Verdict,
    /// The policies that govern the server, in their order; none if they are not all known.
    pub policies: Vec<PolicyExplanation>,
    kind: ItemKind,
}

/// A decision and what makes it.
#[derive(Clone, Debug)]
pub enum Verdict {
    /// No policy that enforces governs the server, and such servers are open.
    OpenByDefault,
    /// No policy that enforces governs the server, and such servers are closed.
    ClosedByDefault,
    /// Some policy that governs the server is not known, so nobody may use it.
    PoliciesUnknown,
    /// This rule allows it.
    AllowedBy(Arc<CompiledRule>),
    /// This rule allows it for some arguments, and no rule for all.
    DependsOnArguments(Arc<CompiledRule>),
    /// No rule speaks of the caller.
    NoRuleForCaller,
    /// Rules speak of the caller, but not of the item.
    NoRuleForItem,
    /// This rule speaks of both, but its condition does not hold.
    ConditionFails(Arc<CompiledRule>),
    /// This rule speaks of both, but its condition has no result.
    ConditionError(Arc<CompiledRule>, Failure),
}

/// What a policy says of a caller and an item.
#[derive(Clone, Debug)]
pub struct PolicyExplanation {
    /// The policy. One that does not enforce decides nothing.
    pub policy: Arc<CompiledPolicy>,
    /// Each of its rules that speak of the caller, in their order.
    pub rules: Vec<(Arc<CompiledRule>, RuleResult)>,
    /// The number of its other rules.
    pub other_rules: usize,
}

/// What a rule that speaks of the caller says of an item.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleResult {
    /// It allows the item.
    Allows,
    /// It does not speak of the item.
    OtherItems,
    /// It speaks of the item, but its condition does not hold.
    ConditionFails,
    /// It speaks of the item, but its condition has no result.
    ConditionError(Failure),
    /// It allows the item for some arguments.
    DependsOnArguments,
}

impl Table {
    /// Explains the decision about an item of a server. `is_open` says whether servers without a policy are open.
    pub fn explain(
        &self,
        (governance, is_open): (&Governance, bool),
        caller: &Caller<'_>,
        target: &Target<'_>,
        call: Call<'_>,
    ) -> Explanation {
        let kind = target.item.kind;
        if *governance == Governance::Unknown {
            return Explanation { verdict: Verdict::PoliciesUnknown, policies: Vec::new(), kind };
        }
        let governing = self.governing(governance);
        let policies: Vec<_> =
            governing.map(|(_, policy)| PolicyExplanation::of(policy, caller, target, call)).collect();
        let verdict = verdict(&policies, is_open);
        Explanation { verdict, policies, kind }
    }
}

/// The decision of policies, as [`crate::decision::Grant::decide`] makes it: a rule without condition and limit comes first,
/// then one without a limit.
fn verdict(policies: &[PolicyExplanation], is_open: bool) -> Verdict {
    let enforcing = || policies.iter().filter(|explained| explained.policy.enforces());
    if enforcing().next().is_none() {
        return if is_open { Verdict::OpenByDefault } else { Verdict::ClosedByDefault };
    }
    let rules = || enforcing().flat_map(|explained| &explained.rules);
    let first = |wanted: &RuleResult| rules().find(|(_, result)| result == wanted).map(|(rule, _)| rule.clone());
    let allowing = |is_wanted: fn(&CompiledRule) -> bool| {
        let mut allowing = rules().filter(|(_, result)| *result == RuleResult::Allows).map(|(rule, _)| rule);
        allowing.find(|rule| is_wanted(rule)).cloned()
    };
    let plain = allowing(|rule| rule.when.is_none() && rule.limit.is_none());
    if let Some(rule) = plain.or_else(|| allowing(|rule| rule.limit.is_none())).or_else(|| allowing(|_| true)) {
        return Verdict::AllowedBy(rule);
    }
    if let Some(rule) = first(&RuleResult::DependsOnArguments) {
        return Verdict::DependsOnArguments(rule);
    }
    if let Some(rule) = first(&RuleResult::ConditionFails) {
        return Verdict::ConditionFails(rule);
    }
    let failed = rules().find_map(|(rule, result)| match result {
        RuleResult::ConditionError(failure) => Some((rule.clone(), failure.clone())),
        _ => None,
    });
    match failed {
        Some((rule, failure)) => Verdict::ConditionError(rule, failure),
        None if rules().next().is_some() => Verdict::NoRuleForItem,
        None => Verdict::NoRuleForCaller,
    }
}

impl PolicyExplanation {
    fn of(policy: &Arc<CompiledPolicy>, caller: &Caller<'_>, target: &Target<'_>, call: Call<'_>) -> Self {
        let (of_class, budget) = (Budget::of_class(), Budget::of_call());
        let of_caller = policy.rules.iter().filter(|rule| rule.speaks_of(caller, &of_class));
        let rules: Vec<_> =
            of_caller.map(|rule| (rule.clone(), RuleResult::of(rule, (caller, target), call, &budget))).collect();
        Self { policy: policy.clone(), other_rules: policy.rules.len() - rules.len(), rules }
    }
}

impl RuleResult {
    fn of(rule: &CompiledRule, (caller, target): (&Caller<'_>, &Target<'_>), call: Call<'_>, budget: &Budget) -> Self {
        if !rule.covers(&target.item, budget) {
            return Self::OtherItems;
        }
        // What is certain without the call decides first, as it does for lists.
        match rule.holds_for((caller, target), None, None, budget) {
            Ok(Some(false)) => return Self::ConditionFails,
            Err(failure) => return Self::ConditionError(failure),
            Ok(_) => {}
        }
        let args = match call.args {
            Arguments::Known(args) => Some(args),
            Arguments::Unknown | Arguments::Unreadable => None,
        };
        match rule.holds_for((caller, target), args, Some(call.now), budget) {
            Ok(Some(true)) => Self::Allows,
            Ok(Some(false)) => Self::ConditionFails,
            Ok(None) if matches!(call.args, Arguments::Unknown) => Self::DependsOnArguments,
            Ok(None) => Self::ConditionError(unreadable_arguments()),
            Err(failure) => Self::ConditionError(failure),
        }
    }

    /// The result in one word.
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Allows => "allows",
            Self::OtherItems => "other_items",
            Self::ConditionFails => "condition_fails",
            Self::ConditionError(_) => "condition_error",
            Self::DependsOnArguments => "depends_on_arguments",
        }
    }
}

impl Explanation {
    /// That of a server in a gateway without policies.
    pub fn without_policies(kind: ItemKind) -> Self {
        Self { verdict: Verdict::OpenByDefault, policies: Vec::new(), kind }
    }

    /// Whether the caller may use the item. Not where that depends on arguments that are not known.
    pub fn is_allowed(&self) -> bool {
        matches!(self.verdict, Verdict::OpenByDefault | Verdict::AllowedBy(_))
    }

    /// Whether that depends on arguments that are not known.
    pub fn depends_on_arguments(&self) -> bool {
        matches!(self.verdict, Verdict::DependsOnArguments(_))
    }

    /// The rule that allows the item, for some arguments at least.
    pub fn allowed_by(&self) -> Option<&CompiledRule> {
        match &self.verdict {
            Verdict::AllowedBy(rule) | Verdict::DependsOnArguments(rule) => Some(rule),
            _ => None,
        }
    }

    /// The rules that allow the item.
    pub fn allowing(&self) -> impl Iterator<Item = &CompiledRule> {
        let enforcing = self.policies.iter().filter(|explained| explained.policy.enforces());
        let rules = enforcing.flat_map(|explained| &explained.rules);
        rules.filter(|(_, result)| *result == RuleResult::Allows).map(|(rule, _)| &**rule)
    }

    /// The rule whose condition denies the item.
    pub fn denied_by(&self) -> Option<&CompiledRule> {
        match &self.verdict {
            Verdict::ConditionFails(rule) | Verdict::ConditionError(rule, _) => Some(rule),
            _ => None,
        }
    }

    /// The reason, in one sentence without a full stop.
    pub fn reason(&self) -> String {
        let kind = self.kind.word();
        let name = |rule: &CompiledRule| format!("rule {} of policy {}", rule.name, rule.policy);
        match &self.verdict {
            Verdict::OpenByDefault => "no policy restricts the server".into(),
            Verdict::ClosedByDefault => "no policy opens the server, and POLICY_DEFAULT is Deny".into(),
            Verdict::PoliciesUnknown => {
                "the policies of the server are not known yet, and until then it is closed".into()
            }
            Verdict::AllowedBy(rule) => format!("{} allows it", name(rule)),
            Verdict::DependsOnArguments(rule) => format!("{} allows it for some arguments only", name(rule)),
            Verdict::NoRuleForCaller => "no rule speaks of this caller".into(),
            Verdict::NoRuleForItem => format!("no rule that speaks of this caller allows this {kind}"),
            Verdict::ConditionFails(rule) => format!("the condition of {} does not hold", name(rule)),
            Verdict::ConditionError(rule, failure) => {
                format!("the condition of {} cannot be evaluated: {failure}", name(rule))
            }
        }
    }
}

#[cfg(test)]
mod tests;
