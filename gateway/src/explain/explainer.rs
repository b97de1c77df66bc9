//! Makes answers from the published catalog, a few at a time and beside the threads that serve calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_access::quota::CallerId;
use portcullis_access::{Caller, CompiledRule, Quotas};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::auth::Identity;
use crate::catalog::{Catalog, ExplainBounds, ExplainedItem, PublishedCatalog, item_kind};
use crate::explain::answer::{ExplainAnswer, ExplainedLimit, ExplainedPlace, MAX_SERVERS};
use crate::explain::question::{AskedItem, AskedPlace, AssumedCaller};
use crate::offer::item::Kind;
use crate::status::report;

/// Answers that are made at the same time: each may evaluate the conditions of many rules.
const AT_ONCE: usize = 2;

/// A question waits this long for its turn.
const WAIT: Duration = Duration::from_secs(2);

/// The bounds of an answer.
const BOUNDS: ExplainBounds = ExplainBounds { items: MAX_SERVERS, time: Duration::from_secs(2) };

/// Makes answers.
pub(crate) struct Explainer {
    published: PublishedCatalog,
    quotas: Arc<Quotas>,
    places: Arc<Semaphore>,
}

/// Who is explained.
pub(crate) enum Asker {
    /// The bearer of the request's token.
    Bearer(Arc<Identity>),
    /// Somebody who is not here.
    Assumed(AssumedCaller),
}

/// Why there is no answer.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum NotExplained {
    /// There is no server of this name.
    UnknownServer(String),
    /// There is no view of this name.
    UnknownView(String),
    /// No server offers the item.
    UnknownItem,
    /// No server is known to offer it, but some are connected to for the first time.
    Incomplete,
    /// Too many answers are being made.
    Busy,
    /// A bug.
    Failed,
}

impl Explainer {
    /// Explains the newest catalog.
    pub(crate) fn new(published: PublishedCatalog, quotas: Arc<Quotas>) -> Self {
        Self { published, quotas, places: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The answer as JSON.
    ///
    /// # Errors
    /// See [`NotExplained`].
    pub(crate) async fn explain(&self, asker: Asker, item: AskedItem, of: AskedPlace) -> Result<Vec<u8>, NotExplained> {
        let place = timeout(WAIT, self.places.clone().acquire_owned()).await;
        let Ok(Ok(place)) = place else { return Err(NotExplained::Busy) };
        let (catalog, quotas) = (self.published.load_full(), self.quotas.clone());
        let making = tokio::task::spawn_blocking(move || {
            let _place = place;
            let answer = answer(&catalog, &quotas, &asker, &item, &of)?;
            serde_json::to_vec(&answer).map_err(|_| NotExplained::Failed)
        });
        making.await.unwrap_or(Err(NotExplained::Failed))
    }
}

fn answer(
    catalog: &Catalog,
    quotas: &Quotas,
    asker: &Asker,
    item: &AskedItem,
    of: &AskedPlace,
) -> Result<ExplainAnswer, NotExplained> {
    let catalog = match &of.view {
        None => catalog,
        Some(name) => catalog.view(name).ok_or_else(|| NotExplained::UnknownView(name.clone()))?,
    };
    let server = match &of.server {
        None => None,
        Some(name) => Some(catalog.server(name).ok_or_else(|| NotExplained::UnknownServer(name.clone()))?),
    };
    let (caller, who) = match asker {
        Asker::Bearer(identity) => (identity.caller(), (identity.issuer.as_deref(), &*identity.subject)),
        Asker::Assumed(assumed) => (assumed.caller(), (assumed.source.issuer.as_deref(), &*assumed.subject)),
    };
    let caller = Caller { view: catalog.view_key(), ..caller };
    let now = jiff::Timestamp::now();
    let (explained, count) = catalog.explain(&caller, (item.kind, &item.name), server, (now, BOUNDS));
    if explained.is_empty() {
        let incomplete = catalog.is_incomplete();
        return Err(if incomplete { NotExplained::Incomplete } else { NotExplained::UnknownItem });
    }
    let places = explained.iter().map(|one| ExplainedPlace {
        server: &one.server.name,
        own_name: &one.own_name,
        name: one.name.as_deref(),
        health: Some(health(catalog, one)),
        explanation: &one.explanation,
        hidden: None,
        is_meant: one.is_meant,
        limit: limit(quotas, who, item.kind, one, now),
    });
    Ok(ExplainAnswer::new(&caller, item, places, count))
}

/// The state of the server, and whether a call can be made there.
fn health(catalog: &Catalog, one: &ExplainedItem) -> (&'static str, bool) {
    let (spec, status) = (one.server.spec(), one.server.status());
    let is_ready = report::is_ready(catalog, &one.server, &spec, &status);
    (report::state_of(&spec, status.phase), is_ready && !one.server.is_ejected())
}

/// The limit that the next call counts against: none if a rule without a limit allows it; else that of the first rule
/// with a call left, or of the one that has a call again first.
fn limit(
    quotas: &Quotas,
    who: CallerId<'_>,
    kind: Kind,
    one: &ExplainedItem,
    now: jiff::Timestamp,
) -> Option<ExplainedLimit> {
    let rules: Vec<&CompiledRule> = one.explanation.allowing().collect();
    if rules.iter().any(|rule| rule.limit.is_none()) {
        return None;
    }
    let what = (&one.server.key, item_kind(kind), &*one.own_name);
    let states = rules.iter().filter_map(|rule| Some((*rule, quotas.peek(rule, who, what, Instant::now())?)));
    let (rule, state) = states.min_by_key(|(_, state)| state.retry_after)?;
    Some(ExplainedLimit::new(rule, state, now))
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use portcullis_crds::Server;
    use serde_json::json;

    use super::*;
    use crate::auth::{AccessFacts, SubjectId};
    use crate::server::handle::{Handle, Phase};
    use crate::telemetry::metrics::Metrics;

    fn explainer(server: &Arc<Handle>) -> Explainer {
        let published = PublishedCatalog::default();
        published.store(Arc::new(Catalog::build(vec![server.clone()])));
        Explainer::new(published, Arc::default())
    }

    async fn explained(explainer: &Explainer, server: Option<&str>) -> Result<Vec<u8>, NotExplained> {
        let identity = Identity {
            subject: "alice".into(),
            issuer: None,
            expires_at: SystemTime::UNIX_EPOCH,
            claims: json!({"sub": "alice"}).to_string().into(),
            subject_id: SubjectId::new(None, "alice"),
            access: AccessFacts::of_only_source(),
        };
        let item = AskedItem { kind: Kind::Tools, name: "t".into() };
        explainer
            .explain(
                Asker::Bearer(Arc::new(identity)),
                item,
                AskedPlace { server: server.map(str::to_owned), view: None },
            )
            .await
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_waits_for_its_turn_only_for_a_while() {
        let server = Arc::new(Handle::new(Server::from_url("a", "http://a/"), &Metrics::new()));
        let explainer = explainer(&server);
        let turns = explainer.places.acquire_many(2).await.unwrap();
        assert_eq!(explained(&explainer, None).await, Err(NotExplained::Busy));
        drop(turns);
        assert_ne!(explained(&explainer, None).await, Err(NotExplained::Busy));
    }

    #[tokio::test]
    async fn what_nobody_offers_is_unknown_only_after_all_servers_were_asked_once() {
        let server = Arc::new(Handle::new(Server::from_url("a", "http://a/"), &Metrics::new()));
        let explainer = explainer(&server);
        assert_eq!(explained(&explainer, None).await, Err(NotExplained::Incomplete));
        server.update_status(|status| status.phase = Phase::Backoff);
        assert_eq!(explained(&explainer, None).await, Err(NotExplained::UnknownItem));
        assert_eq!(explained(&explainer, Some("b")).await, Err(NotExplained::UnknownServer("b".into())));
    }
}
