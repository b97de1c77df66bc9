//! A tiny Kubernetes API server of Secrets and ConfigMaps: lists and watches by label, and metadata alone.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::stream::unfold;
use http::{Request, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portcullis_crds::names::{CREDENTIALS_LABEL, CREDENTIALS_VALUE, ORIGIN_ANNOTATION};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::fake_kubeconfig::fake_kubeconfig;
use crate::port::{self, HeldPort};

/// A running API server. It ends with this value.
#[derive(Debug)]
pub struct FakeSecrets {
    state: Arc<SecretsState>,
    port: HeldPort,
    tasks: JoinSet<()>,
    folder: tempfile::TempDir,
}

#[derive(Debug, Default)]
struct SecretsState {
    data: Mutex<SecretStore>,
    pulse: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct SecretStore {
    /// Every request is answered with this.
    refusal: Option<StatusCode>,
    /// Lists are answered with this.
    garbled: Option<String>,
    /// Watches of another epoch end.
    epoch: u64,
    version: u64,
    /// By path below `/api/v1`.
    objects: BTreeMap<String, Value>,
    /// Version, path, event.
    events: Vec<(u64, String, Value)>,
    requests: Vec<String>,
}

/// One Secret, as `kubectl` writes it.
#[derive(Clone, Copy, Debug)]
pub struct TestSecret<'a> {
    /// Its namespace.
    pub namespace: &'a str,
    /// Its name.
    pub name: &'a str,
    /// Whether it has the label.
    pub labelled: bool,
    /// Its annotation.
    pub origin: &'a str,
    /// Its only key and value.
    pub entry: (&'a str, &'a str),
}

impl FakeSecrets {
    /// Starts one that holds nothing.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut api = Self { state: Arc::default(), port: port::hold(), tasks: JoinSet::new(), folder };
        std::fs::write(api.kubeconfig(), fake_kubeconfig(&api.port.origin(), None)).expect("a file");
        api.listen().await;
        api
    }

    /// A kubeconfig file that leads to it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Creates or changes a Secret.
    pub fn put(&self, secret: &TestSecret<'_>) {
        let (key, value) = secret.entry;
        let labels = if secret.labelled { json!({CREDENTIALS_LABEL: CREDENTIALS_VALUE}) } else { json!({}) };
        let annotations = json!({
            ORIGIN_ANNOTATION: secret.origin,
            "kubectl.kubernetes.io/last-applied-configuration": format!("{{\"stringData\": {{\"{key}\": \"{value}\"}}}}"),
        });
        let metadata = json!({
            "name": secret.name, "namespace": secret.namespace, "labels": labels, "annotations": annotations,
        });
        let data = json!({key: STANDARD.encode(value)});
        let object = json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data});
        self.change(&path(secret), Some(object));
    }

    /// Deletes a Secret.
    pub fn delete(&self, secret: &TestSecret<'_>) {
        self.change(&path(secret), None);
    }

    /// Refuses all requests with this status from now on, or no longer; watches that stand go on.
    pub fn refuse(&self, refusal: Option<StatusCode>) {
        self.state.data().refusal = refusal;
    }

    /// Answers lists with this text from now on, and ends all watches in a way that makes their callers list again.
    pub fn garble(&self, text: &str) {
        let mut data = self.state.data();
        data.garbled = Some(text.to_owned());
        data.epoch += 1;
        drop(data);
        self.state.pulse.send_modify(|pulse| *pulse += 1);
    }

    /// Cuts all connections, and refuses new ones until [`FakeSecrets::listen`].
    pub async fn go_away(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Takes connections again.
    pub async fn listen(&mut self) {
        let (listener, state) = (self.port.listen().await, self.state.clone());
        self.tasks.spawn(accept(listener, state));
    }

    /// The requests until now: path, query, and whether only metadata was asked for.
    pub fn requests(&self) -> Vec<String> {
        self.state.data().requests.clone()
    }

    fn change(&self, path: &str, object: Option<Value>) {
        let mut data = self.state.data();
        data.version += 1;
        let version = data.version;
        let before = data.objects.remove(path);
        let was = before.as_ref().is_some_and(is_labelled);
        let is = object.as_ref().is_some_and(is_labelled);
        let mut shown = object.clone().or(before).expect("it is or was there");
        shown["metadata"]["resourceVersion"] = json!(version.to_string());
        if object.is_some() {
            data.objects.insert(path.to_owned(), shown.clone());
        }
        // What no longer matches the selector of a watch is deleted for it.
        let event = match (was, is) {
            (false, true) => "ADDED",
            (true, true) => "MODIFIED",
            (true, false) => "DELETED",
            (false, false) => return,
        };
        data.events.push((version, path.to_owned(), json!({"type": event, "object": shown})));
        drop(data);
        self.state.pulse.send_modify(|pulse| *pulse += 1);
    }
}

impl SecretsState {
    fn data(&self) -> MutexGuard<'_, SecretStore> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn path(secret: &TestSecret<'_>) -> String {
    format!("/namespaces/{}/secrets/{}", secret.namespace, secret.name)
}

fn is_labelled(object: &Value) -> bool {
    object["metadata"]["labels"][CREDENTIALS_LABEL] == CREDENTIALS_VALUE
}

/// Whether an object lies in the collection with this path, which may be that of all namespaces.
fn is_in(collection: &str, object: &str) -> bool {
    match collection.strip_prefix("/namespaces/") {
        Some(_) => object.strip_prefix(collection).is_some_and(|rest| rest.starts_with('/')),
        None => object.split('/').nth(3) == collection.strip_prefix('/'),
    }
}

async fn accept(listener: TcpListener, state: Arc<SecretsState>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        connections.spawn(async move {
            let service = service_fn(|request| {
                let answer = answer(state.clone(), &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

fn answer(state: Arc<SecretsState>, request: &Request<Incoming>) -> Response {
    let accept = request.headers().get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let metadata_only = accept.contains("as=PartialObjectMetadata;");
    let Some(path) = request.uri().path().strip_prefix("/api/v1").map(str::to_owned) else {
        return refused(StatusCode::NOT_FOUND);
    };
    let query = request.uri().query().unwrap_or_default().replace("%3D", "=").replace("%2F", "/");
    let parameter = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    let mut data = state.data();
    data.requests.push(format!("{path}?{query}{}", if metadata_only { " metadata" } else { "" }));
    if let Some(status) = data.refusal {
        return refused(status);
    }
    if path.ends_with("/secrets") || path.ends_with("/configmaps") {
        if parameter("labelSelector") != Some(&format!("{CREDENTIALS_LABEL}={CREDENTIALS_VALUE}")) {
            return refused(StatusCode::BAD_REQUEST);
        }
        if parameter("watch") == Some("true") {
            let from = parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
            drop(data);
            return watch_from(state, path, from);
        }
        if let Some(text) = &data.garbled {
            return ([(header::CONTENT_TYPE, "application/json")], text.clone()).into_response();
        }
        let items = data.objects.iter().filter(|(key, object)| is_in(&path, key) && is_labelled(object));
        let items: Vec<&Value> = items.map(|(_, object)| object).collect();
        let metadata = json!({"resourceVersion": data.version.to_string()});
        return json_answer(&json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}));
    }
    match data.objects.get(&path) {
        None => refused(StatusCode::NOT_FOUND),
        Some(object) if metadata_only => json_answer(&json!({
            "apiVersion": "meta.k8s.io/v1", "kind": "PartialObjectMetadata", "metadata": object["metadata"],
        })),
        Some(object) => json_answer(object),
    }
}

fn watch_from(state: Arc<SecretsState>, path: String, from: u64) -> Response {
    let pulse = state.pulse.subscribe();
    let epoch = state.data().epoch;
    let stream = unfold((state, pulse, from), move |(state, mut pulse, from)| {
        let path = path.clone();
        async move {
            loop {
                let found = {
                    let data = state.data();
                    if data.epoch != epoch {
                        let gone =
                            json!({"type": "ERROR", "object": {"code": 410, "status": "Failure", "reason": "Expired"}});
                        let line = Bytes::from(gone.to_string() + "\n");
                        return (from < u64::MAX)
                            .then_some((Ok::<_, Infallible>(line), (state.clone(), pulse, u64::MAX)));
                    }
                    let mut later =
                        data.events.iter().filter(|(version, object, _)| *version > from && is_in(&path, object));
                    later.next().map(|(version, _, event)| (*version, event.to_string() + "\n"))
                };
                if let Some((version, line)) = found {
                    return Some((Ok::<_, Infallible>(Bytes::from(line)), (state, pulse, version)));
                }
                pulse.changed().await.ok()?;
            }
        }
    });
    ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(stream)).into_response()
}

fn json_answer(body: &Value) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

fn refused(status: StatusCode) -> Response {
    let body = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no", "reason": "No",
        "code": status.as_u16(),
    });
    (status, json_answer(&body)).into_response()
}
