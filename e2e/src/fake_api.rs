//! A tiny Kubernetes API server: lists and watches of named ConfigMaps, and the ways in which a real one fails.

use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::stream::unfold;
use http::{Request, Response};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use portcullis_crds::Snapshot;
use portcullis_crds::names::{
    REVISION_ANNOTATION, SLOT_GZIP_KEY, SLOT_REVISION_KEY, SLOT_TEXT_KEY, WRITTEN_ANNOTATION,
};
use portcullis_crds::slots::Packed;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::fake_kubeconfig::fake_kubeconfig;
use crate::port::{self, HeldPort};

/// The namespace of its ConfigMaps.
pub const NAMESPACE: &str = "mcp";

/// The behaviour of the API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mood {
    /// As it should.
    #[default]
    Well,
    /// With this status code.
    Fails(u16),
    /// Never.
    Hangs,
}

/// A running API server. It ends with this value.
#[derive(Debug)]
pub struct FakeApi {
    state: Arc<ApiState>,
    port: HeldPort,
    tasks: JoinSet<()>,
    folder: tempfile::TempDir,
}

#[derive(Debug, Default)]
struct ApiState {
    data: Mutex<ApiObjects>,
    /// Changes with each event, and when watches are to end.
    pulse: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct ApiObjects {
    mood: Mood,
    version: u64,
    objects: Vec<Value>,
    /// Events of all ConfigMaps, each with its version.
    events: Vec<(u64, Value)>,
    /// Watches from older versions are refused.
    oldest: u64,
    /// Watches of another epoch end.
    epoch: u64,
    lists: u64,
    watches: u64,
}

type WatchBody = UnsyncBoxBody<Bytes, Infallible>;

impl FakeApi {
    /// Starts one that holds nothing.
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut api = Self { state: Arc::default(), port: port::hold(), tasks: JoinSet::new(), folder };
        std::fs::write(api.kubeconfig(), fake_kubeconfig(&api.port.origin(), Some(NAMESPACE))).expect("a file");
        api.listen().await;
        api
    }

    /// A kubeconfig file that leads to it.
    pub fn kubeconfig(&self) -> PathBuf {
        self.folder.path().join("kubeconfig")
    }

    /// Number of started lists and watches.
    pub fn seen(&self) -> (u64, u64) {
        let data = self.state.data();
        (data.lists, data.watches)
    }

    // --- contents ---

    /// Creates a ConfigMap as the chart does: without content.
    pub fn create(&self, name: &str) {
        self.put(name, json!({}));
    }

    /// Writes a slot as the operator does.
    pub fn write(&self, name: &str, snapshot: &Snapshot) {
        let packed = Packed::pack(snapshot);
        let annotations = json!({REVISION_ANNOTATION: packed.revision(), WRITTEN_ANNOTATION: now()});
        let mut object = json!({"metadata": {"annotations": annotations}});
        object["data"] = json!({SLOT_REVISION_KEY: packed.revision()});
        match &packed {
            Packed::Text(text) => object["data"][SLOT_TEXT_KEY] = json!(text),
            Packed::Gzip(bytes) => {
                let bytes = k8s_openapi::ByteString(bytes.clone());
                object["binaryData"] = json!({SLOT_GZIP_KEY: bytes});
            }
        }
        self.put(name, object);
    }

    /// Writes anything as the text of a slot, as an operator that is not ours would.
    pub fn write_text(&self, name: &str, text: &str) {
        let revision = Packed::Text(text.to_owned()).revision();
        let annotations = json!({REVISION_ANNOTATION: revision});
        let data = json!({SLOT_TEXT_KEY: text, SLOT_REVISION_KEY: revision});
        self.put(name, json!({"metadata": {"annotations": annotations}, "data": data}));
    }

    /// Replaces the text of a slot and leaves everything else, as `kubectl edit` does.
    pub fn edit_text(&self, name: &str, snapshot: &Snapshot) {
        let there = self.state.data().objects.iter().find(|object| object["metadata"]["name"] == name).cloned();
        let mut object = there.expect("it was there");
        object["data"][SLOT_TEXT_KEY] = json!(snapshot.to_text());
        self.put(name, object);
    }

    /// Deletes a ConfigMap.
    pub fn delete(&self, name: &str) {
        self.change(|data| {
            let index = data.objects.iter().position(|object| object["metadata"]["name"] == name);
            let mut object = data.objects.remove(index.expect("it was there"));
            object["metadata"]["resourceVersion"] = json!(data.version.to_string());
            json!({"type": "DELETED", "object": object})
        });
    }

    /// Sends a bookmark to all watches.
    pub fn bookmark(&self) {
        self.change(|data| {
            let metadata = json!({"resourceVersion": data.version.to_string()});
            json!({"type": "BOOKMARK", "object": {"kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata}})
        });
    }

    fn put(&self, name: &str, mut object: Value) {
        self.change(|data| {
            object["apiVersion"] = json!("v1");
            object["kind"] = json!("ConfigMap");
            object["metadata"]["name"] = json!(name);
            object["metadata"]["namespace"] = json!(NAMESPACE);
            object["metadata"]["resourceVersion"] = json!(data.version.to_string());
            let before = data.objects.len();
            data.objects.retain(|old| old["metadata"]["name"] != name);
            let kind = if data.objects.len() < before { "MODIFIED" } else { "ADDED" };
            data.objects.push(object.clone());
            json!({"type": kind, "object": object})
        });
    }

    fn change(&self, event: impl FnOnce(&mut ApiObjects) -> Value) {
        let mut data = self.state.data();
        data.version += 1;
        let event = event(&mut data);
        let version = data.version;
        data.events.push((version, event));
        self.state.pulse.send_modify(|pulse| *pulse += 1);
    }

    // --- troubles ---

    /// Answers requests in another way from now on; watches that stand go on.
    pub fn set_mood(&self, mood: Mood) {
        self.state.data().mood = mood;
    }

    /// Ends all watches in good order, as a real one does every minute.
    pub fn end_watches(&self) {
        self.state.data().epoch += 1;
        self.state.pulse.send_modify(|pulse| *pulse += 1);
    }

    /// Forgets the past, as compaction does: watches from before now get 410.
    pub fn forget(&self) {
        let mut data = self.state.data();
        data.version += 1;
        (data.oldest, data.events) = (data.version, Vec::new());
    }

    /// Cuts all connections, and refuses new ones until [`FakeApi::listen`].
    pub async fn go_away(&mut self) {
        self.tasks.shutdown().await;
    }

    /// Takes connections again.
    pub async fn listen(&mut self) {
        let (listener, state) = (self.port.listen().await, self.state.clone());
        self.tasks.spawn(accept(listener, state));
    }
}

fn now() -> String {
    k8s_openapi::jiff::Timestamp::now().to_string()
}

impl ApiState {
    fn data(&self) -> MutexGuard<'_, ApiObjects> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn accept(listener: TcpListener, state: Arc<ApiState>) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        let state = state.clone();
        connections.spawn(async move {
            let service = service_fn(|request| answer(state.clone(), request));
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(state: Arc<ApiState>, request: Request<Incoming>) -> Result<Response<WatchBody>, Infallible> {
    let mood = state.data().mood;
    match mood {
        Mood::Well => {}
        Mood::Fails(code) => return Ok(refused(code)),
        Mood::Hangs => std::future::pending().await,
    }
    if request.uri().path() != format!("/api/v1/namespaces/{NAMESPACE}/configmaps") {
        return Ok(refused(404));
    }
    let query = request.uri().query().unwrap_or_default().replace("%3D", "=");
    let parameter = |name: &str| query.split('&').find_map(|part| part.strip_prefix(name)?.strip_prefix('='));
    // As a Role with resourceNames has it.
    let Some(name) = parameter("fieldSelector").and_then(|selector| selector.strip_prefix("metadata.name=")) else {
        return Ok(refused(403));
    };
    if parameter("watch") != Some("true") {
        return Ok(list(&state, name));
    }
    let from = parameter("resourceVersion").and_then(|version| version.parse().ok()).unwrap_or(0);
    Ok(watch_from(state, name.to_owned(), from))
}

fn list(state: &ApiState, name: &str) -> Response<WatchBody> {
    let mut data = state.data();
    data.lists += 1;
    let items: Vec<&Value> = data.objects.iter().filter(|object| object["metadata"]["name"] == name).collect();
    let metadata = json!({"resourceVersion": data.version.to_string()});
    json_answer(200, &json!({"kind": "ConfigMapList", "apiVersion": "v1", "metadata": metadata, "items": items}))
}

fn watch_from(state: Arc<ApiState>, name: String, from: u64) -> Response<WatchBody> {
    let epoch = {
        let mut data = state.data();
        data.watches += 1;
        if from < data.oldest {
            let gone = json!({"type": "ERROR", "object": status(410)}).to_string() + "\n";
            return response(200, Full::new(Bytes::from(gone)).boxed_unsync());
        }
        data.epoch
    };
    let pulse = state.pulse.subscribe();
    let stream = unfold((state, pulse, from), move |(state, mut pulse, from)| {
        let name = name.clone();
        async move {
            loop {
                let found = {
                    let data = state.data();
                    if data.epoch != epoch {
                        return None;
                    }
                    let concerns = |event: &Value| {
                        event["type"] == "BOOKMARK" || event["object"]["metadata"]["name"] == name.as_str()
                    };
                    let mut later = data.events.iter().filter(|(version, event)| *version > from && concerns(event));
                    later.next().map(|(version, event)| (*version, event.to_string() + "\n"))
                };
                if let Some((version, line)) = found {
                    return Some((Ok(Frame::data(Bytes::from(line))), (state, pulse, version)));
                }
                pulse.changed().await.ok()?;
            }
        }
    });
    response(200, StreamBody::new(stream).boxed_unsync())
}

fn status(code: u16) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure", "message": "no", "reason": "No", "code": code})
}

fn refused(code: u16) -> Response<WatchBody> {
    json_answer(code, &status(code))
}

fn json_answer(code: u16, body: &Value) -> Response<WatchBody> {
    response(code, Full::new(Bytes::from(body.to_string())).boxed_unsync())
}

fn response(code: u16, body: WatchBody) -> Response<WatchBody> {
    let head = Response::builder().status(code).header("content-type", "application/json");
    head.body(body).expect("a valid head")
}
