//! Adds up what the gateway replicas count of calls that policies in `Audit` mode would have denied.
//!
//! Pure: the caller passes the time. Counts of a replica begin with its process, those of a policy with its generation.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use portcullis_crds::{Report, ServerKey};
use tokio::time::Instant;

/// Between two writes of a status for nothing but its count.
pub(crate) const PUBLISH_SPACING: Duration = Duration::from_secs(60);

/// The counts of all policies in `Audit` mode.
#[derive(Debug, Default)]
pub(crate) struct AuditCounts {
    policies: BTreeMap<ServerKey, PolicyCount>,
}

/// The count of one policy.
#[derive(Debug, Default)]
struct PolicyCount {
    /// The revision of what is counted.
    revision: String,
    /// What replicas have counted that are gone.
    gone: u64,
    /// What each replica counts, by the start of its process.
    replicas: BTreeMap<SocketAddr, (String, u64)>,
    /// The count that the status has, and since when; `None`: it never had one.
    published: Option<(u64, Instant)>,
}

impl AuditCounts {
    /// Begins to count for a policy in `Audit` mode of this revision. `known`: the count that its status has for it already.
    pub(crate) fn begin(&mut self, key: &ServerKey, revision: &str, known: Option<u64>) {
        let count = self.policies.entry(key.clone()).or_default();
        if count.revision != revision {
            *count = PolicyCount { revision: revision.into(), gone: known.unwrap_or(0), ..PolicyCount::default() };
        }
    }

    /// Ends counting for a policy.
    pub(crate) fn end(&mut self, key: &ServerKey) {
        self.policies.remove(key);
    }

    /// Takes the counts of a replica. Returns the policies whose counts have changed.
    pub(crate) fn told(&mut self, address: SocketAddr, report: &Report) -> Vec<ServerKey> {
        let mut changed = Vec::new();
        for told in &report.policies {
            let Some(count) = self.policies.get_mut(&told.key).filter(|count| count.revision == told.revision) else {
                continue;
            };
            let before = count.total();
            count.tell(address, &report.instance, told.would_deny);
            if count.total() != before {
                changed.push(told.key.clone());
            }
        }
        changed
    }

    /// The count that the status of a policy should have now; `None`: it is not in `Audit` mode.
    pub(crate) fn publishable(&self, key: &ServerKey, now: Instant) -> Option<u64> {
        let count = self.policies.get(key)?;
        Some(match count.published {
            Some((published, at)) if now < at + PUBLISH_SPACING => published,
            _ => count.total(),
        })
    }

    /// Notes the count that the status of a policy has now.
    pub(crate) fn published(&mut self, key: &ServerKey, value: Option<u64>, now: Instant) {
        let Some((count, value)) = self.policies.get_mut(key).zip(value) else { return };
        if count.published.is_none_or(|(published, _)| published != value) {
            count.published = Some((value, now));
        }
    }

    /// The policies whose counts may be published now, but differ from what their statuses have.
    pub(crate) fn due(&self, now: Instant) -> impl Iterator<Item = &ServerKey> {
        let is_due = move |count: &PolicyCount| count.next().is_some_and(|at| at <= now);
        self.policies.iter().filter(move |(_, count)| is_due(count)).map(|(key, _)| key)
    }

    /// When the next count may be published.
    pub(crate) fn next(&self, now: Instant) -> Option<Instant> {
        self.policies.values().filter_map(PolicyCount::next).filter(|at| *at > now).min()
    }
}

impl PolicyCount {
    fn total(&self) -> u64 {
        self.replicas.values().fold(self.gone, |total, (_, count)| total.saturating_add(*count))
    }

    fn tell(&mut self, address: SocketAddr, instance: &str, count: u64) {
        let is_new = !self.replicas.contains_key(&address);
        // A process that counts less than before has begun anew: for a moment the policy governed no server there.
        let begins = |(known, before): &&(String, u64)| known != instance || count < *before;
        if let Some((_, before)) = self.replicas.get(&address).filter(begins) {
            self.gone = self.gone.saturating_add(*before);
        } else if is_new && self.published.is_none() {
            // The status of another operator has counted it already.
            self.gone = self.gone.saturating_sub(count);
        }
        self.replicas.insert(address, (instance.to_owned(), count));
    }

    fn next(&self) -> Option<Instant> {
        let (published, at) = self.published?;
        (published != self.total()).then_some(at + PUBLISH_SPACING)
    }
}

#[cfg(test)]
mod tests {
    use portcullis_crds::report::PolicyReport;

    use super::*;

    fn key() -> ServerKey {
        ServerKey::new("n", "p")
    }

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from(([10, 0, 0, 1], port))
    }

    fn report(instance: &str, revision: &str, would_deny: u64) -> Report {
        let policies = vec![PolicyReport { key: key(), revision: revision.into(), would_deny }];
        Report { instance: instance.into(), policies, ..Report::default() }
    }

    #[test]
    fn counts_of_replicas_add_up_over_their_restarts_and_begin_anew_with_a_generation() {
        let (mut counts, now) = (AuditCounts::default(), Instant::now());
        counts.begin(&key(), "1", None);
        counts.published(&key(), counts.publishable(&key(), now), now);
        let later = now + PUBLISH_SPACING;
        assert_eq!(counts.told(address(1), &report("a", "1", 3)), [key()]);
        assert_eq!(counts.told(address(1), &report("a", "1", 3)), []);
        assert_eq!(counts.told(address(2), &report("b", "1", 4)), [key()]);
        assert_eq!(counts.publishable(&key(), later), Some(7));
        // The first replica has started again, and the second counts for another generation.
        counts.told(address(1), &report("c", "1", 2));
        assert_eq!(counts.told(address(2), &report("b", "2", 9)), []);
        assert_eq!(counts.publishable(&key(), later), Some(9));
        // It governed no server for a moment, so that the first replica has forgotten its count.
        counts.told(address(1), &report("c", "1", 1));
        assert_eq!(counts.publishable(&key(), later), Some(10));
        counts.begin(&key(), "1", Some(100));
        assert_eq!(counts.publishable(&key(), later), Some(10), "it is counted already");
        counts.begin(&key(), "2", None);
        assert_eq!(counts.publishable(&key(), later), Some(0));
        counts.end(&key());
        assert_eq!(counts.publishable(&key(), later), None);
    }

    #[test]
    fn an_operator_that_takes_over_goes_on_where_the_status_is() {
        let (mut counts, now) = (AuditCounts::default(), Instant::now());
        counts.begin(&key(), "1", Some(10));
        // Six of the ten are those of a replica that is still there.
        counts.told(address(1), &report("a", "1", 6));
        assert_eq!(counts.publishable(&key(), now), Some(10));
        counts.told(address(1), &report("a", "1", 8));
        assert_eq!(counts.publishable(&key(), now), Some(12));
    }

    #[test]
    fn a_count_alone_is_published_at_most_once_a_minute() {
        let (mut counts, now) = (AuditCounts::default(), Instant::now());
        counts.begin(&key(), "1", None);
        assert_eq!((counts.next(now), counts.publishable(&key(), now)), (None, Some(0)));
        counts.published(&key(), Some(0), now);
        counts.told(address(1), &report("a", "1", 1));
        let later = now + PUBLISH_SPACING;
        assert_eq!((counts.publishable(&key(), now), counts.next(now)), (Some(0), Some(later)));
        assert_eq!((counts.due(now).count(), counts.due(later).count()), (0, 1));
        assert_eq!(counts.publishable(&key(), later), Some(1));
        counts.published(&key(), Some(1), later);
        assert_eq!((counts.next(later), counts.due(later + PUBLISH_SPACING).count()), (None, 0));
    }
}
