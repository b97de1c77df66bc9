use std::sync::Arc;

use portcullis_crds::{ReadPolicy, mcpaccesspolicy::CallLimit};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::policy::CompiledPolicy;

const SECOND: Duration = Duration::from_secs(1);

/// Rules of one policy with these limits; `null` is none.
fn rules(limits: &[serde_json::Value]) -> Vec<Arc<CompiledRule>> {
    let rule = |(at, limit): (usize, &serde_json::Value)| {
        let mut rule =
            json!({"name": format!("r{at}"), "from": [{"authenticated": true}], "allow": [{"tools": ["*"]}]});
        rule["limit"] = limit.clone();
        rule
    };
    let rules: Vec<_> = limits.iter().enumerate().map(rule).collect();
    let object = json!({"metadata": {"namespace": "n", "name": "p"}, "spec": {"rules": rules}});
    let read = ReadPolicy::of(&object);
    assert_eq!(read.problems, Vec::<String>::new());
    CompiledPolicy::of(&read.policy).rules
}

fn rule(calls: u32, per: &str, by: &str) -> Arc<CompiledRule> {
    rules(&[json!({"calls": calls, "per": per, "by": by})]).remove(0)
}

/// Calls of one subject for one tool.
struct Counting {
    quotas: Quotas,
    server: ServerKey,
    began: Instant,
}

impl Counting {
    fn new() -> Self {
        Self { quotas: Quotas::new(100), server: ServerKey::new("n", "s"), began: Instant::now() }
    }

    fn of_replicas(replicas: u32) -> Self {
        let new = Self::new();
        new.quotas.set_replicas(replicas);
        new
    }

    fn take(&self, rule: &CompiledRule, at: Duration) -> Result<(), Exhausted> {
        self.quotas.take(rule, (None, "alice"), (&self.server, ItemKind::Tool, "t"), self.began + at)
    }

    fn peek(&self, rule: &CompiledRule, at: Duration) -> Option<QuotaState> {
        self.quotas.peek(rule, (None, "alice"), (&self.server, ItemKind::Tool, "t"), self.began + at)
    }

    /// Calls that are possible at once.
    fn burst(&self, rule: &CompiledRule, at: Duration) -> usize {
        (0..1_000).take_while(|_| self.take(rule, at).is_ok()).count()
    }
}

#[test]
fn an_idle_caller_may_spend_the_whole_limit_at_once_and_gets_it_back_evenly() {
    let (counting, rule) = (Counting::new(), rule(7, "Minute", "Subject"));
    let state = |remaining, reset| {
        Some(QuotaState { calls: 7, per: LimitPeriod::Minute, remaining, retry_after: Duration::ZERO, reset })
    };
    assert_eq!(counting.peek(&rule, SECOND), state(7, Duration::ZERO));
    assert_eq!(counting.burst(&rule, SECOND), 7);
    let refused = counting.take(&rule, SECOND).unwrap_err();
    assert_eq!((refused.retry_after_seconds(), refused.reset_seconds()), (9, 61), "60 / 7 = 8.6 s, rounded up");
    let peeked = counting.peek(&rule, SECOND).unwrap();
    assert_eq!((peeked.remaining, peeked.retry_after, peeked.reset), (0, refused.retry_after, refused.reset));
    assert_eq!(refused.to_string(), "the limit of 7 calls per minute is used up: retry in 9 s");
    assert_eq!(counting.burst(&rule, 21 * SECOND), 2);
    assert_eq!(counting.peek(&rule, 21 * SECOND).unwrap().remaining, 0);
    assert_eq!(counting.burst(&rule, 3600 * SECOND), 7);
    assert_eq!(counting.take(&rules(&[json!(null)])[0], 3600 * SECOND), Ok(()));
    assert_eq!(counting.peek(&rules(&[json!(null)])[0], 3600 * SECOND), None);
}

#[test]
fn a_limit_counts_together_what_it_names() {
    let (a, b) = (ServerKey::new("n", "a"), ServerKey::new("n", "b"));
    let calls: [(CallerId<'_>, CalledItem<'_>); 6] = [
        ((Some("i"), "alice"), (&a, ItemKind::Tool, "t")),
        ((Some("i"), "bob"), (&a, ItemKind::Tool, "t")),
        ((Some("j"), "alice"), (&a, ItemKind::Tool, "t")),
        ((None, "alice"), (&a, ItemKind::Tool, "u")),
        ((Some("i"), "alice"), (&b, ItemKind::Tool, "t")),
        ((Some("i"), "alice"), (&a, ItemKind::Prompt, "t")),
    ];
    for (by, expected) in [
        ("Subject", [true, true, true, true, false, false]),
        ("Tool", [true, false, false, true, true, true]),
        ("Both", [true, true, true, true, true, true]),
    ] {
        let (quotas, rule, now) = (Quotas::new(100), rule(1, "Day", by), Instant::now());
        let taken = calls.map(|(who, what)| quotas.take(&rule, who, what, now).is_ok());
        assert_eq!(taken, expected, "by {by}");
        assert_eq!(calls.map(|(who, what)| quotas.take(&rule, who, what, now).is_ok()), [false; 6], "by {by}");
    }
}

#[test]
fn rules_and_changed_limits_have_buckets_of_their_own() {
    let counting = Counting::new();
    let both = rules(&[json!({"calls": 1, "per": "Day"}), json!({"calls": 1, "per": "Day"})]);
    for limited in [&both[0], &both[1], &rule(1, "Hour", "Subject"), &rule(1, "Day", "Both")] {
        assert_eq!([(); 2].map(|()| counting.take(limited, SECOND).is_ok()), [true, false]);
    }
    assert!(counting.take(&rule(1, "Day", "Subject"), SECOND).is_err(), "what is the same, is counted on");
    assert_eq!(counting.quotas.len(), 4);
}

#[test]
fn the_buckets_that_were_used_least_recently_go_first() {
    let (quotas, rule, server, now) =
        (Quotas::new(3), rule(1, "Day", "Subject"), ServerKey::new("n", "s"), Instant::now());
    let what = (&server, ItemKind::Tool, "t");
    let take = |who| quotas.take(&rule, (None, who), what, now).is_ok();
    let known = |who| quotas.peek(&rule, (None, who), what, now).unwrap().remaining == 0;
    assert_eq!(["a", "b", "c"].map(take), [true; 3]);
    // A refused call is a use too; a look is none.
    assert!(!take("a") && known("b"));
    assert!(take("d"));
    assert_eq!(["a", "b", "c", "d"].map(known), [true, false, true, true]);
    assert_eq!(quotas.len(), 3);
}

#[test]
fn replicas_share_a_limit_of_fewer_calls_than_there_are_replicas() {
    let rule = rule(1, "Minute", "Subject");
    let replicas = [(); 3].map(|()| Counting::of_replicas(3));
    let allowed = |from: u32, to: u32| -> usize {
        let times = || (from * 60..to * 60).map(|second| second * SECOND);
        replicas.iter().map(|replica| times().filter(|at| replica.take(&rule, *at).is_ok()).count()).sum()
    };
    assert_eq!(allowed(0, 3), 3);
    assert_eq!(allowed(3, 33), 30);
}

#[test]
fn what_is_half_full_is_half_full_with_other_replicas_and_an_empty_bucket_waits_no_longer_than_a_period() {
    let (counting, rule) = (Counting::new(), rule(60, "Minute", "Subject"));
    (0..30).for_each(|_| counting.take(&rule, Duration::ZERO).unwrap());
    for (replicas, remaining) in [(3, 10), (1, 30), (0, 30), (60, 1)] {
        counting.quotas.set_replicas(replicas);
        let state = counting.peek(&rule, Duration::ZERO).unwrap();
        assert!(state.remaining.abs_diff(remaining) <= u32::from(replicas == 60), "{replicas}: {state:?}");
    }
    counting.quotas.set_replicas(600);
    counting.burst(&rule, 120 * SECOND);
    counting.quotas.set_replicas(1);
    assert_eq!(counting.take(&rule, 120 * SECOND).unwrap_err().reset, 60 * SECOND);
}

fn any_limit(calls: std::ops::Range<u32>) -> impl Strategy<Value = Arc<CompiledRule>> {
    let pers = prop::sample::select(vec!["Second", "Minute", "Hour", "Day"]);
    (calls, pers).prop_map(|(calls, per)| rule(calls, per, "Subject"))
}

fn limit(rule: &CompiledRule) -> CallLimit {
    rule.limit.unwrap()
}

/// Periods of a limit, or a part of one.
fn periods(rule: &CompiledRule, count: f64) -> Duration {
    limit(rule).per.duration().mul_f64(count)
}

/// Calls that replicas allow from one time to another, in periods, each with a load of its own: the part of its share's
/// interval after which another call comes.
fn allowed(replicas: &[(Counting, f64)], rule: &CompiledRule, from: f64, to: f64) -> usize {
    let of = |(counting, load): &(Counting, f64)| {
        let step = load * f64::from(counting.quotas.replicas()) / f64::from(limit(rule).calls);
        let times = std::iter::successors(Some(from), |at| Some(at + step)).take_while(|at| *at < to);
        times.filter(|at| counting.take(rule, periods(rule, *at)).is_ok()).count()
    };
    replicas.iter().map(of).sum()
}

fn within_a_tenth(allowed: usize, limit: CallLimit, windows: u32) -> bool {
    let expected = f64::from(limit.calls * windows);
    let allowed = f64::from(u32::try_from(allowed).unwrap());
    (expected * 0.9..=expected * 1.1).contains(&allowed)
}

proptest! {
    #[test]
    fn in_any_stretch_of_time_no_more_calls_pass_than_the_limit_and_what_came_back(
        rule in any_limit(1..40),
        replicas in 1_u32..6,
        steps in prop::collection::vec(0.0_f64..0.3, 1..120),
    ) {
        let counting = Counting::of_replicas(replicas);
        let share = f64::from(limit(&rule).calls) / f64::from(replicas);
        let mut now = 0.0;
        let mut passed: Vec<f64> = Vec::new();
        for step in steps {
            // Most calls come at once.
            now += if step < 0.2 { 0.0 } else { step };
            if counting.take(&rule, periods(&rule, now)).is_ok() {
                passed.push(now);
            }
        }
        for (first, from) in passed.iter().enumerate() {
            for (count, until) in (1..).zip(&passed[first..]) {
                prop_assert!(f64::from(count) <= share.max(1.0) + share * (until - from) + 1e-6);
            }
        }
    }

    #[test]
    fn a_call_passes_at_the_told_time_and_not_before_and_a_look_says_how_many(
        rule in any_limit(1..2_000),
        replicas in 1_u32..40,
        skip in 0.0_f64..3.0,
    ) {
        let counting = Counting::of_replicas(replicas);
        let start = periods(&rule, skip);
        let share = f64::from(limit(&rule).calls) / f64::from(replicas);
        let state = counting.peek(&rule, start).unwrap();
        prop_assert!(f64::from(state.remaining) <= share.max(1.0) && f64::from(state.remaining) > share - 1.01);
        let refused = (0..2_001).find_map(|_| counting.take(&rule, start).err());
        let Some(Exhausted { retry_after, reset, .. }) = refused else { return Err(TestCaseError::fail("endless")) };
        prop_assert_eq!(counting.peek(&rule, start).unwrap().remaining, 0);
        let full = counting.peek(&rule, start + reset).unwrap();
        prop_assert_eq!((full.remaining, full.reset), (state.remaining, Duration::ZERO));
        prop_assert!(counting.take(&rule, start + retry_after - Duration::from_nanos(1)).is_err());
        prop_assert!(counting.take(&rule, start + retry_after).is_ok());
    }

    #[test]
    fn replicas_under_uneven_load_keep_the_limit_in_ten_windows_within_a_tenth(
        rule in any_limit(40..200),
        loads in prop::collection::vec(0.1_f64..0.9, 1..7),
    ) {
        let count = u32::try_from(loads.len()).unwrap();
        let replicas: Vec<_> = loads.into_iter().map(|load| (Counting::of_replicas(count), load)).collect();
        // Buckets are full at the beginning, which is the tenth.
        let ten = allowed(&replicas, &rule, 0.0, 10.0);
        prop_assert!(within_a_tenth(ten, limit(&rule), 10), "{} of {:?}", ten, limit(&rule));
        let more = allowed(&replicas, &rule, 10.0, 20.0);
        prop_assert!(within_a_tenth(more, limit(&rule), 10), "{} of {:?}", more, limit(&rule));
    }

    #[test]
    fn while_the_number_of_replicas_changes_they_keep_it_but_for_the_full_buckets_of_those_that_start(
        rule in any_limit(40..200),
        loads in prop::collection::vec(0.1_f64..0.9, 3),
        changes in prop::collection::vec((1_usize..4, 0.5_f64..2.0), 1..5),
    ) {
        // Each change stops replicas, or starts some.
        let mut replicas: Vec<_> = loads.iter().map(|load| (Counting::of_replicas(3), *load)).collect();
        replicas.iter().for_each(|(counting, _)| assert!(counting.burst(&rule, Duration::ZERO) > 0));
        let (mut now, mut total, mut of_fresh, mut fresh_share) = (0.0, 0, 0, 0.0);
        for (wanted, lasts) in changes {
            let count = u32::try_from(wanted).unwrap();
            replicas.truncate(wanted);
            replicas.iter().for_each(|(counting, _)| counting.quotas.set_replicas(count));
            for load in &loads[replicas.len()..wanted] {
                let fresh = Counting::of_replicas(count);
                of_fresh += fresh.burst(&rule, periods(&rule, now));
                fresh_share += 1.0 / f64::from(count);
                replicas.push((fresh, *load));
            }
            total += allowed(&replicas, &rule, now, now + lasts);
            now += lasts;
        }
        total += allowed(&replicas, &rule, now, 10.0);
        prop_assert!(within_a_tenth(total, limit(&rule), 10), "{} of {:?}", total, limit(&rule));
        let of_fresh = f64::from(u32::try_from(of_fresh).unwrap());
        prop_assert!(of_fresh <= fresh_share * f64::from(limit(&rule).calls) + 1e-6);
    }
}
