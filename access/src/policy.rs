//! Policies, ready to decide: expressions are compiled, what cannot be compiled allows nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use portcullis_crds::mcpaccesspolicy::{AccessSource, AllowedItems, CallLimit, PolicyMode};
use portcullis_crds::{Policy, ReadPolicy, ServerKey};

use crate::cel::Condition;

/// A policy, ready to decide.
#[derive(Debug)]
pub struct CompiledPolicy {
    /// The policy that it comes from.
    pub policy: Arc<Policy>,
    /// Its rules that can be used, at most 64.
    pub rules: Vec<Arc<CompiledRule>>,
    /// Why rules cannot be used, one sentence each.
    pub problems: Vec<String>,
    would_deny: AtomicU64,
}

/// A rule, ready to decide.
#[derive(Debug)]
pub struct CompiledRule {
    /// Namespace and name of its policy.
    pub policy: ServerKey,
    /// Its name.
    pub name: String,
    pub(crate) from: Vec<AccessSource>,
    pub(crate) allow: Vec<AllowedItems>,
    /// The views through which it allows calls; empty: any address.
    pub(crate) views: Vec<ServerKey>,
    /// Its condition.
    pub when: Option<Condition>,
    /// How often it allows calls.
    pub limit: Option<CallLimit>,
    refusals: AtomicU64,
}

impl CompiledPolicy {
    /// Compiles a policy.
    pub fn of(policy: &Arc<Policy>) -> Self {
        let (mut rules, mut problems) = (Vec::new(), Vec::new());
        for rule in policy.rules.iter().take(portcullis_crds::mcpaccesspolicy::MAX_RULES) {
            let when = rule.when.as_deref().map(Condition::compile).transpose();
            let fits = when.map_err(|error| error.to_string()).and_then(|when| fitting(when, &rule.allow));
            match fits {
                Ok(when) => rules.push(Arc::new(CompiledRule {
                    policy: policy.key.clone(),
                    name: rule.name.clone(),
                    from: rule.from.clone(),
                    allow: rule.allow.clone(),
                    views: rule.views.iter().map(|view| ServerKey::named(view, &policy.key.namespace)).collect(),
                    when,
                    limit: rule.limit,
                    refusals: AtomicU64::new(0),
                })),
                Err(problem) => problems.push(format!("rule {:?}: {problem}", rule.name)),
            }
        }
        Self { policy: policy.clone(), rules, problems, would_deny: AtomicU64::new(0) }
    }

    /// What of a policy cannot be read or used, one sentence each.
    pub fn problems_of(read: &ReadPolicy) -> Vec<String> {
        read.problems.iter().cloned().chain(Self::of(&read.policy).problems).collect()
    }

    /// Whether it denies what no rule allows.
    pub fn enforces(&self) -> bool {
        self.policy.mode == PolicyMode::Enforce
    }

    /// Counts a call that it would have denied if it were enforced.
    pub fn count_would_deny(&self) {
        self.would_deny.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of these calls since it came into force in this process.
    pub fn would_deny(&self) -> u64 {
        self.would_deny.load(Ordering::Relaxed)
    }
}

impl CompiledRule {
    /// Counts a call that was refused because the limit was used up.
    pub fn count_refusal(&self) {
        self.refusals.fetch_add(1, Ordering::Relaxed);
    }

    /// The number of these calls since the policy came into force in this process.
    pub fn refusals(&self) -> u64 {
        self.refusals.load(Ordering::Relaxed)
    }
}

/// A condition that makes sense for all items that its rule allows.
fn fitting(when: Option<Condition>, allow: &[AllowedItems]) -> Result<Option<Condition>, String> {
    let Some(condition) = when else { return Ok(None) };
    if condition.uses_tool && allow.iter().any(|items| items.prompts.is_some() || items.resources.is_some()) {
        return Err(
            "when names tool, but the rule allows prompts or resources: write a rule for the tools alone".into()
        );
    }
    if condition.uses_args && allow.iter().any(|items| items.resources.is_some()) {
        return Err(
            "when names args, but the rule allows resources, which have none: write a rule for the others alone".into(),
        );
    }
    Ok(Some(condition))
}
