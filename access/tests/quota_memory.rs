//! The memory of quotas, as the allocator counts it.

use std::time::Instant;

use portcullis_access::quota::MAX_BUCKETS;
use portcullis_access::{CompiledPolicy, ItemKind, Quotas};
use portcullis_crds::{ReadPolicy, ServerKey};
use serde_json::json;

const MIB: u64 = 1024 * 1024;

#[test]
fn a_hundred_thousand_subjects_take_less_than_20_mib_and_a_million_no_more() {
    let object = json!({"metadata": {"namespace": "n", "name": "p"}, "spec": {"rules": [{
        "name": "r", "from": [{"authenticated": true}], "allow": [{"tools": ["*"]}], "limit": {"calls": 1, "per": "Day"},
    }]}});
    let policy = CompiledPolicy::of(&ReadPolicy::of(&object).policy);
    let (rule, server, now) = (&policy.rules[0], ServerKey::new("n", "s"), Instant::now());
    let subjects: Vec<String> = (0..1_000_000).map(|n| format!("subject-{n}")).collect();
    let what = (&server, ItemKind::Tool, "t");
    let mut made = None;
    let first = allocation_counter::measure(|| {
        let quotas = made.insert(Quotas::default());
        for subject in &subjects[..MAX_BUCKETS] {
            assert!(quotas.take(rule, (None, subject), what, now).is_ok());
        }
    });
    let quotas = made.as_ref().expect("quotas");
    assert_eq!(quotas.len(), MAX_BUCKETS, "none has gone");
    assert!(first.bytes_max < 20 * MIB, "{} bytes", first.bytes_max);
    let others = allocation_counter::measure(|| {
        for subject in &subjects[MAX_BUCKETS..] {
            assert!(quotas.take(rule, (None, subject), what, now).is_ok());
        }
    });
    let most = first.bytes_current + others.bytes_max as i64;
    assert!(most < 20 * MIB as i64, "{most} bytes");
    // Whoever came last is still known, and who came first is not.
    let known = |subject: &String| quotas.peek(rule, (None, subject), what, now).is_some_and(|it| it.remaining == 0);
    assert!(subjects[subjects.len() - MAX_BUCKETS * 9 / 10..].iter().all(known));
    assert!(!subjects[..MAX_BUCKETS * 8].iter().any(known));
}
