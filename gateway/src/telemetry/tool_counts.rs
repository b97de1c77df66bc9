//! Counts the calls of each tool of a server: the only numbers whose names come from a server, so that there are no
//! more of them than it can offer, and those of removed tools end.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use portcullis_runtime::workers::Parts;

use crate::telemetry::metrics::{OUTCOMES, Outcome};

/// The limit for the tools of one server that one worker counts: twice the limit for a server's tools, for those just
/// removed.
const MOST_TOOLS: usize = 2_000;

/// Counts for each worker separately.
#[derive(Default)]
pub(crate) struct ToolCounts(Parts<Mutex<Counts>>);

type Counts = HashMap<Arc<str>, [u64; OUTCOMES.len()]>;

impl ToolCounts {
    /// Counts the end of a call of this tool. `is_there`: whether a tool of this name still exists.
    pub(crate) fn count(&self, tool: &Arc<str>, outcome: Outcome, is_there: impl Fn(&str) -> bool) {
        let mut counts = self.0.own().lock();
        if let Some(of_tool) = counts.get_mut(tool) {
            of_tool[outcome.place()] += 1;
            return;
        }
        if counts.len() >= MOST_TOOLS {
            counts.retain(|name, _| is_there(name));
        }
        // More than a server may offer: names that it has changed meanwhile.
        if counts.len() < MOST_TOOLS {
            counts.entry(tool.clone()).or_default()[outcome.place()] += 1;
        }
    }

    /// The counts of all existing tools, sorted by name; those of all others are dropped.
    pub(crate) fn all(&self, is_there: impl Fn(&str) -> bool) -> Vec<(Arc<str>, [u64; OUTCOMES.len()])> {
        let mut sums = Counts::new();
        for part in self.0.iter() {
            let mut counts = part.lock();
            counts.retain(|name, _| is_there(name));
            for (tool, counts) in counts.iter() {
                let sum = sums.entry(tool.clone()).or_default();
                sum.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
        }
        let mut all: Vec<_> = sums.into_iter().collect();
        all.sort_unstable_by(|a, b| a.0.cmp(&b.0));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counted(counts: &ToolCounts, is_there: impl Fn(&str) -> bool) -> Vec<(String, u64)> {
        counts.all(is_there).into_iter().map(|(name, of)| (name.to_string(), of.iter().sum())).collect()
    }

    #[test]
    fn calls_are_counted_by_tool_and_outcome_and_those_of_gone_tools_are_forgotten() {
        let counts = ToolCounts::default();
        let (a, b): (Arc<str>, Arc<str>) = ("a".into(), "b".into());
        for (tool, outcome) in [(&a, Outcome::Ok), (&b, Outcome::Timeout), (&a, Outcome::Ok), (&a, Outcome::Cancelled)]
        {
            counts.count(tool, outcome, |_| true);
        }
        let mut of_a = [0; OUTCOMES.len()];
        (of_a[Outcome::Ok.place()], of_a[Outcome::Cancelled.place()]) = (2, 1);
        assert_eq!(counts.all(|_| true)[0], (a.clone(), of_a));
        assert_eq!(counted(&counts, |name| name == "b"), [("b".to_owned(), 1)]);
        assert_eq!(counted(&counts, |_| true), [("b".to_owned(), 1)], "a has begun anew");
    }

    #[test]
    fn names_that_change_all_the_time_are_never_more_than_there_may_be() {
        let counts = ToolCounts::default();
        for number in 0..20_000 {
            // Ten are there at a time.
            let is_there = |name: &str| name.parse::<u32>().is_ok_and(|name| name / 10 == number / 10);
            counts.count(&number.to_string().into(), Outcome::Ok, is_there);
            assert!(counts.0.own().lock().len() <= MOST_TOOLS);
        }
        let kept = counted(&counts, |name| name.parse::<u32>().is_ok_and(|name| name >= 19_990));
        assert_eq!(kept.len(), 10);
        // Also if all of them claim to be there.
        (0..20_000).for_each(|number: u32| counts.count(&number.to_string().into(), Outcome::Ok, |_| true));
        assert_eq!(counts.0.own().lock().len(), MOST_TOOLS);
    }

    #[test]
    fn each_outcome_has_its_place() {
        assert!(OUTCOMES.iter().enumerate().all(|(place, outcome)| outcome.place() == place));
    }
}
