//! What allows a call: the rules, and the limits that they set.

use std::sync::Arc;
use std::time::Instant;

use portcullis_access::{CompiledRule, Exhausted, Places, Quotas};
use smallvec::SmallVec;

use super::Kind;
use super::governed::item_kind;
use super::table::{Candidate, Entry};
use crate::auth::Identity;
use crate::server::handle::Handle;

/// What allows a call, for the servers that are left in its entry.
#[derive(Clone, Debug)]
pub(crate) enum Basis {
    /// Rules that look at nothing of a call, or no policy at all.
    Plain,
    /// For each server a rule without a limit; `None` if no policy governs it.
    Rules(SmallVec<[Option<usize>; 1]>),
    /// For each server rules that all have a limit.
    Limited(SmallVec<[Places; 1]>),
}

/// No rule that allows the call has calls left.
#[derive(Clone, Debug)]
pub(crate) struct OverLimit {
    /// The rule that has calls again first.
    pub(crate) rule: Arc<CompiledRule>,
    /// When.
    pub(crate) exhausted: Exhausted,
}

impl Basis {
    /// Of the servers for which rules hold, leaves those that a call may use without a limit, or else all. `places`: the rules
    /// for each server of the entry; `None` if none holds.
    pub(super) fn of(candidates: &[Candidate], places: &[Option<Places>]) -> (Self, SmallVec<[bool; 4]>) {
        let is_free = |(candidate, places): (&Candidate, &Option<Places>)| {
            let rule = |place: &usize| candidate.grant.as_ref().and_then(|grant| grant.rules().get(*place));
            places.as_ref().is_some_and(|places| places.first().and_then(rule).is_none_or(|rule| rule.limit.is_none()))
        };
        let free: SmallVec<[bool; 4]> = candidates.iter().zip(places).map(is_free).collect();
        if free.contains(&true) {
            let left = free.iter().zip(places).filter(|(is_free, _)| **is_free);
            let rules = left.map(|(_, places)| places.as_ref().and_then(|places| places.first().copied()));
            return (Self::Rules(rules.collect()), free);
        }
        (Self::Limited(places.iter().flatten().cloned().collect()), places.iter().map(Option::is_some).collect())
    }

    /// Takes one call from the first limit that has one left, and leaves the servers to which it applies.
    ///
    /// # Errors
    /// No limit has a call left.
    pub(crate) fn take(
        &mut self,
        entry: &mut Arc<Entry>,
        (identity, kind): (&Identity, Kind),
        quotas: &Quotas,
        now: Instant,
    ) -> Result<(), OverLimit> {
        let Self::Limited(places) = self else { return Ok(()) };
        let who = (identity.issuer.as_deref(), identity.subject.as_str());
        let mut over: Option<OverLimit> = None;
        let mut taken: Option<Arc<CompiledRule>> = None;
        let mut seen: SmallVec<[*const CompiledRule; 4]> = SmallVec::new();
        'all: for (candidate, places) in entry.candidates.iter().zip(places.iter()) {
            let Some(grant) = &candidate.grant else { continue };
            for rule in places.iter().filter_map(|place| grant.rules().get(*place)) {
                if seen.contains(&Arc::as_ptr(rule)) {
                    continue;
                }
                seen.push(Arc::as_ptr(rule));
                let what = (&candidate.server.key, item_kind(kind), &*candidate.item.own_name);
                match quotas.take(rule, who, what, now) {
                    Ok(()) => {
                        taken = Some(rule.clone());
                        break 'all;
                    }
                    Err(exhausted) => {
                        let is_sooner = |over: &OverLimit| exhausted.retry_after < over.exhausted.retry_after;
                        if over.as_ref().is_none_or(is_sooner) {
                            over = Some(OverLimit { rule: rule.clone(), exhausted });
                        }
                    }
                }
            }
        }
        let Some(rule) = taken else {
            // A limited basis has a rule for each server.
            return over.map_or(Ok(()), Err);
        };
        self.keep(entry, &rule);
        Ok(())
    }

    /// Leaves the servers for which this rule allows the call: its condition may hold for some only.
    fn keep(&mut self, entry: &mut Arc<Entry>, rule: &Arc<CompiledRule>) {
        let Self::Limited(places) = self else { return };
        let place = |(candidate, places): (&Candidate, &Places)| {
            let rules = candidate.grant.as_ref()?.rules();
            places.iter().copied().find(|place| rules.get(*place).is_some_and(|one| Arc::ptr_eq(one, rule)))
        };
        let held: SmallVec<[Option<usize>; 4]> = entry.candidates.iter().zip(places.iter()).map(place).collect();
        if held.contains(&None) {
            let mut left = held.iter().map(Option::is_some);
            Arc::make_mut(entry).candidates.retain(|_| left.next().unwrap_or_default());
        }
        *self = Self::Rules(held.into_iter().filter(Option::is_some).collect());
    }

    /// The rule that allows a call to this server, or to the first one.
    pub(crate) fn rule_of<'a>(&self, entry: &'a Entry, server: Option<&Handle>) -> Option<&'a Arc<CompiledRule>> {
        let is_it = |candidate: &Candidate| server.is_none_or(|server| candidate.server.key == server.key);
        let at = entry.candidates.iter().position(is_it)?;
        let grant = entry.candidates[at].grant.as_ref()?;
        let place = match self {
            Self::Plain => grant.plain(),
            Self::Rules(rules) => rules.get(at).copied().flatten(),
            Self::Limited(places) => places.get(at)?.first().copied(),
        };
        grant.rules().get(place?)
    }
}
