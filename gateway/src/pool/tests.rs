//! The pool with many servers, and after one of its tasks has failed.

use std::sync::LazyLock;

use portcullis_crds::mcpserver::ToolRules;
use portcullis_runtime::Readiness;
use tokio::sync::{Notify, Semaphore};

use super::*;
use crate::client_sessions::NobodyListens;
use crate::credentials::Credentials;
use crate::offer::tools::read_tools;
use crate::secrets::Secrets;
use crate::server::HANDSHAKES;
use crate::server::handle::Offer;
use crate::telemetry::metrics::Metrics;

fn pool() -> Pool {
    let shared = Arc::new(ServerContext {
        roots: LazyLock::new(|| unreachable!("no https server")),
        credentials: Credentials { secrets: Secrets::Folder(None), tokens: Arc::default(), outbound: Arc::default() },
        guard: Arc::default(),
        max_message: 1024,
        metrics: Metrics::new(),
        dirty: Notify::new(),
        published: Notify::new(),
        updates: tokio::sync::mpsc::channel(1).0,
        handshakes: Semaphore::new(HANDSHAKES),
        touched: Arc::default(),
        loops: crate::server::loops::Loops::new(crate::seal::Sealer::random()),
        quotas: Arc::default(),
        inbox: Arc::new(NobodyListens),
        away: Default::default(),
    });
    let published = PublishedCatalog::default();
    let board = Arc::new(Board::new(published.clone(), shared.touched.clone()));
    Pool::new(shared, published, board)
}

fn server(n: usize) -> Arc<Server> {
    Arc::new(Server::from_url(&format!("server-{n:05}"), &format!("http://127.0.0.1:1/{n}")))
}

/// Gives each server five tools, as if it were connected.
fn connect(pool: &mut Pool) {
    for (n, member) in pool.members.values().enumerate() {
        let texts: Vec<String> =
            (0..5).map(|tool| format!(r#"{{"name":"tool-{n}-{tool}","inputSchema":{{"type":"object"}}}}"#)).collect();
        let tools = read_tools(texts.iter().map(String::as_str), &ToolRules::default()).shared();
        member.handle.set_offer(Offer { tools, listed: true, ..Offer::default() });
    }
    pool.publish();
}

#[tokio::test]
#[ignore = "tells figures; run it alone, with optimisation: --ignored --nocapture"]
async fn one_change_among_many_servers_costs_little() {
    for count in [1_000, 10_000] {
        let mut pool = pool();
        let mut servers: Vec<_> = (0..count).map(server).collect();
        let timed = async |pool: &mut Pool, servers: &[Arc<Server>], what: &str| {
            let began = Instant::now();
            pool.apply(servers, false).await;
            println!("{count} servers, {what}: {:?}", began.elapsed());
        };
        timed(&mut pool, &servers, "all new").await;
        connect(&mut pool);
        timed(&mut pool, &servers, "no change").await;
        servers[7] = Arc::new(Server { weight: 7, ..(*servers[7]).clone() });
        timed(&mut pool, &servers, "one updated").await;
        servers[8] = Arc::new(Server { url: "http://127.0.0.1:2/".into(), ..(*servers[8]).clone() });
        timed(&mut pool, &servers, "one restarted").await;
        servers.remove(9);
        timed(&mut pool, &servers, "one removed").await;
        servers.push(server(count));
        timed(&mut pool, &servers, "one added").await;
        let began = Instant::now();
        let whole = pool.board.report(None);
        println!("{count} servers, the whole status: {:?}", began.elapsed());
        let began = Instant::now();
        let change = pool.board.report(Some(whole.change)).change;
        println!("{count} servers, nothing since {change}: {:?}", began.elapsed());
    }
}

#[tokio::test]
async fn an_incomplete_configuration_is_not_applied_and_slots_tell_revisions_and_the_replicas_that_share_limits() {
    let mut pool = pool();
    let slot = |origin: &str| Slot {
        report: SlotReport { name: "s".into(), revision: "abc".into(), origin: origin.into(), problem: None },
        written: Some(SystemTime::now()),
        replicas: None,
    };
    pool.take(&Configuration { servers: None, slots: vec![slot("api")], ..Configuration::default() }).await;
    assert!(pool.servers.is_none() && pool.members.is_empty());
    assert_eq!(pool.board.report(None).slots[0].revision, "");
    let delays = |pool: &Pool| pool.shared.metrics.snapshot_delay.get_sample_count();

    pool.take(&Configuration {
        servers: Some(Arc::new(vec![server(1)])),
        slots: vec![slot("api")],
        ..Configuration::default()
    })
    .await;
    assert_eq!((pool.members.len(), delays(&pool)), (1, 0), "the first configuration is of any age");
    assert_eq!(pool.board.report(None).slots[0].revision, "abc");

    assert_eq!(pool.shared.quotas.replicas(), 1);
    let shared_by = |replicas| Slot { replicas, ..slot("api") };
    let slots = [None, Some(2), Some(3)].map(shared_by).to_vec();
    pool.take(&Configuration { servers: pool.servers.clone(), slots, ..Configuration::default() }).await;
    assert_eq!(pool.shared.quotas.replicas(), 3, "slots are rewritten one after the other");
    pool.take(&Configuration { servers: pool.servers.clone(), slots: vec![slot("api")], ..Configuration::default() })
        .await;
    assert_eq!(pool.shared.quotas.replicas(), 1);

    let mut next = slot("api");
    next.report.revision = "def".into();
    next.written = Some(SystemTime::now() + Duration::from_secs(60));
    pool.take(&Configuration { servers: pool.servers.clone(), slots: vec![next], ..Configuration::default() }).await;
    assert_eq!(delays(&pool), 1);
    assert!(pool.shared.metrics.snapshot_delay.get_sample_sum() < f64::EPSILON, "a clock ahead of ours is no delay");
}

#[tokio::test]
async fn a_server_whose_task_broke_off_goes_on_with_a_new_one_that_callers_get() {
    let mut pool = pool();
    pool.apply(&[server(1)], false).await;
    connect(&mut pool);
    let before = pool.published.load().servers()[0].clone();
    pool.tasks.abort_all();
    let ended = pool.tasks.join_next_with_id().await.unwrap();
    pool.ended(ended);
    timeout_at(Instant::now() + Duration::from_secs(10), pool.shared.dirty.notified()).await.unwrap();
    pool.publish();
    let catalog = pool.published.load_full();
    let after = &catalog.servers()[0];
    assert!(Arc::ptr_eq(after, &pool.members.values().next().unwrap().handle) && !Arc::ptr_eq(after, &before));
    assert_eq!(after.offer(), before.offer(), "its tools stay listed");
}

#[tokio::test(start_paused = true)]
async fn the_first_sessions_are_waited_for_but_not_for_ever() {
    let pool = pool();
    // No server can try anything: all turns are taken.
    let shared = pool.shared.clone();
    let turns = shared.handshakes.acquire_many(u32::try_from(HANDSHAKES).unwrap()).await.unwrap();
    let readiness = Readiness::default();
    let latches =
        Latches { configuration: readiness.latch("configuration"), sessions: readiness.latch("first sessions") };
    let first = Configuration { servers: Some(Arc::new(vec![server(1)])), slots: vec![], ..Configuration::default() };
    let (sender, configurations) = watch::channel(Arc::new(Configuration::default()));
    let (_secrets, secrets) = watch::channel(0);
    let began = Instant::now();
    let checks = async {
        sleep(Duration::from_secs(60)).await;
        assert_eq!(readiness.ready(), Err(vec!["configuration", "first sessions"]));
        sender.send_replace(Arc::new(first));
        sleep(FIRST_SESSIONS - Duration::from_millis(1)).await;
        assert_eq!(readiness.ready(), Err(vec!["first sessions"]));
        sleep(Duration::from_millis(2)).await;
        assert_eq!(readiness.ready(), Ok(()));
    };
    pool.run(configurations, CredentialChanges { tokens: secrets.clone(), secrets }, latches, checks).await;
    assert!(began.elapsed() < Duration::from_secs(80));
    drop(turns);
}
