//! A gateway replica as the operator sees it: applies the slots as they come, and answers `/status` as the test says.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::extract::{Query, State};
use axum::{Router, routing};
use futures_util::{Stream, StreamExt as _};
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::watcher::{self, Event, watcher};
use portcullis_crds::names::{SLOT_GZIP_KEY, SLOT_TEXT_KEY};
use portcullis_crds::report::PolicyReport;
use portcullis_crds::slots::Packed;
use portcullis_crds::{Reason, Report, Server, ServerKey, ServerReport, Snapshot, View, ViewReport, report};
use serde::Deserialize;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::cluster::TestNamespace;

/// A fake replica on a free port of 127.0.0.1. It ends when dropped.
#[derive(Debug)]
pub struct FakeGateway {
    /// Its admin port.
    pub address: SocketAddr,
    shared: Arc<FakeGatewayState>,
    _tasks: JoinSet<()>,
}

#[derive(Debug)]
struct FakeGatewayState {
    state: Mutex<AppliedState>,
    changed: watch::Sender<u64>,
    instance: String,
}

#[derive(Debug, Default)]
struct AppliedState {
    change: u64,
    slots: BTreeMap<String, Snapshot>,
    reports: BTreeMap<ServerKey, (u64, ServerReport)>,
    gone: BTreeMap<ServerKey, u64>,
    said: BTreeMap<ServerKey, (Reason, String)>,
    /// Calls that each policy would have denied.
    would_deny: u64,
}

#[derive(Deserialize)]
struct ReportQuery {
    instance: Option<String>,
    since: Option<u64>,
    wait: Option<u64>,
}

impl FakeGateway {
    /// Starts a replica that watches these ConfigMaps of a namespace. Every server is ready at once, with two tools.
    pub async fn start(space: &TestNamespace<'_>, slots: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let shared = Arc::new(FakeGatewayState {
            state: Mutex::default(),
            changed: watch::Sender::new(0),
            instance: address.port().to_string(),
        });
        let mut tasks = JoinSet::new();
        for slot in slots {
            let one = watcher::Config::default().fields(&format!("metadata.name={slot}"));
            tasks.spawn(follow(watcher(space.api::<ConfigMap>(), one), shared.clone()));
        }
        let router = Router::new().route(report::PATH, routing::get(answer)).with_state(shared.clone());
        tasks.spawn(serve(listener, router));
        Self { address, shared, _tasks: tasks }
    }

    /// Tells of a server that it is as this reason says, from now on.
    pub fn say(&self, key: &ServerKey, reason: Reason, message: &str) {
        self.shared.with(|known| {
            known.said.insert(key.clone(), (reason, message.to_owned()));
            known.report_anew();
        });
    }

    /// Tells of every policy that it would have denied so many calls.
    pub fn count(&self, would_deny: u64) {
        self.shared.with(|known| known.would_deny = would_deny);
    }

    /// The servers that it has applied.
    pub fn servers(&self) -> Vec<Server> {
        let state = self.shared.state.lock().expect("no holder panics");
        state.slots.values().flat_map(|slot| slot.servers.clone()).collect()
    }
}

impl FakeGatewayState {
    fn with(&self, change: impl FnOnce(&mut AppliedState)) {
        let mut state = self.state.lock().expect("no holder panics");
        change(&mut state);
        self.changed.send_replace(state.change);
    }

    fn report(&self, asked: &ReportQuery) -> Report {
        let state = self.state.lock().expect("no holder panics");
        let since = asked.since.filter(|_| asked.instance.as_deref() == Some(&self.instance));
        let is_news = |change: u64| since.is_none_or(|since| change > since);
        Report {
            instance: self.instance.clone(),
            change: state.change,
            complete: since.is_none(),
            slots: Vec::new(),
            servers: state.reports.values().filter(|it| is_news(it.0)).map(|it| it.1.clone()).collect(),
            gone: state.gone.iter().filter(|it| is_news(*it.1)).map(|it| it.0.clone()).collect(),
            policies: state.policies(),
            views: state.views(),
        }
    }
}

impl AppliedState {
    /// Every view with the servers that it selects, of which each has two tools.
    fn views(&self) -> Vec<ViewReport> {
        let servers: Vec<&Server> = self.slots.values().flat_map(|slot| &slot.servers).collect();
        let report = |view: &Arc<View>| {
            let count = servers.iter().filter(|server| view.of_server(server).is_some()).count();
            let count = u32::try_from(count).expect("a small number");
            ViewReport {
                key: view.key.clone(),
                revision: view.revision(),
                servers: count,
                tools: 2 * count,
                hidden: 1,
                bytes: 1000,
                tokens: 250,
                unmatched: if count == 0 { vec!["nothing".into()] } else { Vec::new() },
            }
        };
        let mut views: Vec<ViewReport> = self.slots.values().flat_map(|slot| &slot.views).map(report).collect();
        views.sort_by(|a, b| a.key.cmp(&b.key));
        views
    }

    fn policies(&self) -> Vec<PolicyReport> {
        let servers = self.slots.values().flat_map(|slot| &slot.servers);
        let policies = servers.flat_map(|server| {
            let key = |name: &str| ServerKey::new(&*server.key.namespace, name);
            server.governed_by.iter().map(move |policy| (key(&policy.name), policy.revision.clone()))
        });
        let policies: BTreeMap<ServerKey, String> = policies.collect();
        let report = |(key, revision)| PolicyReport { key, revision, would_deny: self.would_deny };
        policies.into_iter().map(report).collect()
    }

    fn apply(&mut self, slot: String, snapshot: Option<Snapshot>) {
        match snapshot {
            Some(snapshot) => drop(self.slots.insert(slot, snapshot)),
            // As the real one: a slot that is away, or empty, changes nothing.
            None => return,
        }
        self.report_anew();
    }

    fn report_anew(&mut self) {
        let change = self.change + 1;
        let servers = self.slots.values().flat_map(|slot| &slot.servers);
        let reports: BTreeMap<_, _> = servers.map(|server| (server.key.clone(), self.report_of(server))).collect();
        for key in self.reports.keys().filter(|key| !reports.contains_key(key)) {
            self.gone.insert(key.clone(), change);
        }
        self.reports.retain(|key, _| reports.contains_key(key));
        for (key, report) in reports {
            self.gone.remove(&key);
            if self.reports.get(&key).is_none_or(|(_, old)| *old != report) {
                self.reports.insert(key, (change, report));
            }
        }
        self.change = change;
    }

    fn report_of(&self, server: &Server) -> ServerReport {
        let (reason, message) = self.said.get(&server.key).cloned().unwrap_or((Reason::Ready, String::new()));
        ServerReport {
            key: server.key.clone(),
            revision: server.revision(),
            ready: reason == Reason::Ready,
            reason,
            message,
            transport: Some("streamable-http".into()),
            protocol_version: Some("2025-11-25".into()),
            server_name: Some("fake".into()),
            server_version: Some("1".into()),
            extensions: vec!["io.modelcontextprotocol/ui".into()],
            tools: 2,
            renamed: 0,
            shortened: 0,
            left_out: 0,
            list_problems: 0,
            first_list_problems: Vec::new(),
            prompts: 0,
            resources: 0,
            templates: 0,
            hidden: 0,
            disagreed: vec![],
            disagreements: 0,
        }
    }
}

async fn follow(events: impl Stream<Item = watcher::Result<Event<ConfigMap>>>, shared: Arc<FakeGatewayState>) {
    let mut events = std::pin::pin!(events);
    while let Some(event) = events.next().await {
        if let Ok(Event::Apply(slot) | Event::InitApply(slot)) = event {
            let name = slot.metadata.name.clone().unwrap_or_default();
            shared.with(|known| known.apply(name, content(&slot)));
        }
    }
}

/// The snapshot in a ConfigMap of the operator; panics if it is not well-formed.
pub fn content(slot: &ConfigMap) -> Option<Snapshot> {
    let text = slot.data.as_ref().and_then(|data| data.get(SLOT_TEXT_KEY)).cloned().map(Packed::Text);
    let gzip = slot.binary_data.as_ref().and_then(|data| data.get(SLOT_GZIP_KEY)).cloned();
    let packed = text.or(gzip.map(|bytes| Packed::Gzip(bytes.0)))?;
    packed.unpack().ok()
}

async fn serve(listener: TcpListener, router: Router) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.expect("a connection");
        let service = TowerToHyperService::new(router.clone());
        connections
            .spawn(async move { drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await) });
    }
}

async fn answer(State(shared): State<Arc<FakeGatewayState>>, Query(asked): Query<ReportQuery>) -> String {
    let mut changed = shared.changed.subscribe();
    let known = asked.instance.as_deref() == Some(&shared.instance);
    if let (true, Some(since), Some(wait)) = (known, asked.since, asked.wait) {
        let news = changed.wait_for(|change| *change > since);
        drop(timeout(Duration::from_secs(wait), news).await);
    }
    serde_json::to_string(&shared.report(&asked)).expect("JSON")
}
