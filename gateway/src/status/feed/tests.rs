//! The changes that the board reports, and the cases in which it reports everything.

use std::sync::Arc;
use std::time::Duration;

use portcullis_crds::mcpserver::ServingState;
use portcullis_crds::report::{Report, SlotReport, ViewReport};
use portcullis_crds::{Reason, Server, ServerKey};
use tokio::time::{Instant, advance};

use super::*;
use crate::server::handle::{Handle, Phase};
use crate::telemetry::metrics::Metrics;

/// A board and the servers on it, changed as the pool does it.
struct Kit {
    board: Board,
    touched: Arc<StatusChanges>,
    published: PublishedCatalog,
}

impl Kit {
    fn new() -> Self {
        let (published, touched) = (PublishedCatalog::default(), Arc::<StatusChanges>::default());
        Self { board: Board::new(published.clone(), touched.clone()), touched, published }
    }

    fn server(&self, name: &str) -> Arc<Handle> {
        let spec = Server::from_url(name, &format!("http://{name}/mcp?key=secret"));
        Arc::new(Handle::new(spec, &Metrics::new()).telling(self.touched.clone()))
    }

    fn publish(&self, servers: &[&Arc<Handle>]) {
        let catalog =
            Arc::new(crate::catalog::Catalog::build(servers.iter().map(|server| Arc::clone(server)).collect()));
        let before = self.published.swap(catalog.clone());
        self.board.published(&catalog.since(&before));
    }

    /// The report to a client that knows everything up to this change.
    async fn after(&self, since: u64) -> (u64, Vec<String>, Vec<String>) {
        self.board.gather().await;
        let report = self.board.report(Some(since));
        assert!(!report.complete);
        let gone = report.gone.iter().map(|key| key.name.clone()).collect();
        (report.change, report.servers.iter().map(|server| server.key.name.clone()).collect(), gone)
    }
}

fn fails(server: &Handle, problem: &str) {
    server.update_status(|status| {
        status.phase = Phase::Backoff;
        status.last_error = Some(problem.to_owned());
    });
}

fn row(change: u64, servers: &[&str], gone: &[&str]) -> (u64, Vec<String>, Vec<String>) {
    let owned = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
    (change, owned(servers), owned(gone))
}

#[tokio::test]
async fn only_what_has_visibly_changed_is_new() {
    let kit = Kit::new();
    let (a, b) = (kit.server("a"), kit.server("b"));
    kit.publish(&[&a, &b]);
    assert_eq!(kit.after(0).await, row(1, &["a", "b"], &[]));
    assert_eq!(kit.after(1).await, row(1, &[], &[]));

    fails(&a, "no connection");
    assert_eq!(kit.after(1).await, row(2, &["a"], &[]));
    fails(&a, "no connection");
    a.touch();
    kit.publish(&[&a, &b]);
    assert_eq!(kit.after(2).await, row(2, &[], &[]), "nothing looks different");

    let spec = b.spec();
    b.set_spec(Arc::new(Server { weight: 7, ..(*spec).clone() }));
    b.note_published(&b.spec());
    assert_eq!(kit.after(2).await, row(3, &["b"], &[]), "its revision is another one");
    assert_eq!(kit.after(1).await, row(3, &["a", "b"], &[]));
}

#[tokio::test]
async fn a_server_that_changed_before_it_was_published_is_new_all_the_same() {
    let kit = Kit::new();
    let (a, b) = (kit.server("a"), kit.server("b"));
    fails(&a, "no connection");
    assert_eq!(kit.after(0).await, row(0, &[], &[]), "it is in no catalog yet");
    kit.publish(&[&a, &b]);
    assert_eq!(kit.after(0).await, row(1, &["a", "b"], &[]));

    let restarted = kit.server("a");
    fails(&restarted, "no connection at the other address");
    assert_eq!(kit.after(1).await, row(1, &[], &[]), "the catalog has the one of before");
    kit.publish(&[&restarted, &b]);
    assert_eq!(kit.after(1).await, row(2, &["a"], &[]));
    fails(&restarted, "no answer");
    assert_eq!(kit.after(2).await, row(3, &["a"], &[]));
}

#[tokio::test]
async fn a_removed_server_is_gone_until_it_is_back() {
    let kit = Kit::new();
    let (a, b) = (kit.server("a"), kit.server("b"));
    kit.publish(&[&a, &b]);
    assert_eq!(kit.after(0).await, row(1, &["a", "b"], &[]));
    kit.publish(&[&b]);
    assert_eq!(kit.after(1).await, row(2, &[], &["a"]));
    fails(&b, "x");
    assert_eq!(kit.after(2).await, row(3, &["b"], &[]), "it was told");
    kit.publish(&[&b, &kit.server("a")]);
    assert_eq!(kit.after(1).await, row(4, &["a", "b"], &[]));
}

#[tokio::test]
async fn whoever_knows_nothing_too_little_or_another_future_is_told_everything() {
    let kit = Kit::new();
    let kept = kit.server("kept");
    let many: Vec<_> = (0..REMEMBERED + 1).map(|n| kit.server(&format!("s{n}"))).collect();
    let all: Vec<&Arc<Handle>> = many.iter().chain([&kept]).collect();
    kit.publish(&all);
    kit.board.gather().await;
    kit.publish(&all[1..]);
    kit.board.gather().await;
    kit.publish(&[&kept]);
    kit.board.gather().await;
    let told = |since| {
        let Report { complete, servers, gone, .. } = kit.board.report(since);
        (complete, servers.len(), gone.len())
    };
    assert_eq!(told(Some(2)), (false, 0, REMEMBERED));
    assert_eq!(told(Some(3)), (false, 0, 0));
    for since in [None, Some(1), Some(4)] {
        assert_eq!(told(since), (true, 1, 0), "{since:?}");
    }
    assert_ne!(kit.board.instance(), Kit::new().board.instance());
}

#[tokio::test]
async fn slots_are_told_whole_when_they_change() {
    let kit = Kit::new();
    let slot = |problem: Option<&str>| SlotReport {
        name: "s-0".into(),
        revision: "abc".into(),
        origin: "api".into(),
        problem: problem.map(str::to_owned),
    };
    kit.board.set_slots(vec![slot(None)]);
    assert_eq!(kit.after(0).await, row(1, &[], &[]));
    kit.board.set_slots(vec![slot(None)]);
    assert_eq!(kit.after(1).await, row(1, &[], &[]));
    kit.board.set_slots(vec![slot(Some("ConfigMap s-0 is empty"))]);
    assert_eq!(kit.after(1).await, row(2, &[], &[]));
    assert_eq!(kit.board.report(None).slots, [slot(Some("ConfigMap s-0 is empty"))]);
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_are_one_change_that_a_waiting_caller_soon_gets() {
    let kit = Kit::new();
    let servers: Vec<_> = (0..1000).map(|n| kit.server(&format!("s{n}"))).collect();
    kit.publish(&servers.iter().collect::<Vec<_>>());
    let mut changes = kit.board.changes();
    let work = async {
        changes.changed().await.unwrap();
        assert_eq!(*changes.borrow(), 1);
        let began = Instant::now();
        for server in &servers {
            fails(server, "away");
            if server.key.name.ends_with('9') {
                advance(Duration::from_micros(50)).await;
            }
        }
        changes.changed().await.unwrap();
        assert_eq!((*changes.borrow_and_update(), kit.board.report(Some(1)).servers.len()), (2, 1000));
        assert!(began.elapsed() < GATHER * 2, "{:?}", began.elapsed());
    };
    tokio::select! {
        () = kit.board.follow() => {}
        () = work => {}
    }
}

#[tokio::test]
async fn a_server_is_told_by_the_words_of_the_contract_and_without_its_url() {
    let kit = Kit::new();
    let a = kit.server("a");
    kit.publish(&[&a]);
    let told = || kit.board.report(None).servers.remove(0);
    let first = told();
    assert_eq!(
        (first.key.clone(), first.ready, first.reason),
        (ServerKey::new("default", "a"), false, Reason::Probing)
    );
    assert_eq!((first.message.as_str(), first.tools), ("The gateway is connecting for the first time.", 0));
    assert_eq!(first.revision, a.spec().revision());
    assert!(!serde_json::to_string(&first).unwrap().contains("secret"));

    let phases = [
        (Phase::Ready, Reason::Probing),
        (Phase::Degraded, Reason::Unhealthy),
        (Phase::Backoff, Reason::BackendUnreachable),
    ];
    for (phase, expected) in phases {
        a.update_status(|status| status.phase = phase);
        assert_eq!((told().ready, told().reason), (false, expected), "{phase:?} without a session");
    }
    a.update_status(|status| {
        status.reason = Some(Reason::SecretNotFound);
        status.last_error = Some("Secret x is not there".into());
        status.server_info = Some(("name".into(), "1.2".into()));
    });
    let now = told();
    assert_eq!((now.reason, now.message.as_str()), (Reason::SecretNotFound, "Secret x is not there"));
    assert_eq!((now.server_name.as_deref(), now.server_version.as_deref()), (Some("name"), Some("1.2")));
    for (state, expected) in [(ServingState::Draining, Reason::Draining), (ServingState::Disabled, Reason::Disabled)] {
        a.set_spec(Arc::new(Server { state, ..(*a.spec()).clone() }));
        assert_eq!((told().ready, told().reason), (false, expected));
    }
}

#[tokio::test]
async fn views_are_told_whole_and_a_changed_one_is_a_change() {
    let kit = Kit::new();
    let view = |tools| ViewReport {
        key: ServerKey::new("n", "v"),
        revision: "1".into(),
        servers: 1,
        tools,
        hidden: 0,
        bytes: 9,
        tokens: 3,
        unmatched: Vec::new(),
    };
    kit.board.set_views(vec![view(1)]);
    assert_eq!(kit.after(0).await, row(1, &[], &[]));
    kit.board.set_views(vec![view(1)]);
    assert_eq!(kit.after(1).await, row(1, &[], &[]), "nothing has changed");
    kit.board.set_views(vec![view(2)]);
    assert_eq!(kit.after(1).await, row(2, &[], &[]));
    assert_eq!(kit.board.report(Some(2)).views, [view(2)]);
}
