//! Around every request: an id, a measure, and the line in the access log.

use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use axum::extract::{ConnectInfo, MatchedPath, Request, State};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;

use super::access_log::{Facts, Line, short};
use super::app::App;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a handler tells about the request for its log line, which is written when all of these are gone.
pub type Recorder = Arc<Mutex<Record>>;

/// What is known of one request.
#[derive(Default)]
pub struct Record {
    facts: Facts,
    watch: Option<Watch>,
}

/// What is known of a request from the start, and how it was answered.
struct Watch {
    line: Line,
    route: Option<MatchedPath>,
    app: Arc<App>,
    status: u16,
    bytes: Option<u64>,
}

/// Where the log line of a request is gathered.
pub fn recorder(request: &Request) -> Recorder {
    request.extensions().get::<Recorder>().cloned().unwrap_or_default()
}

/// Gives every request an id, measures it, and writes its log line, also when its caller goes away.
pub(super) async fn observe(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let request_id = request_id(request.headers());
    let draining = app.clone();
    let watch = Watch {
        line: Line {
            method: request.method().clone(),
            path: short(request.uri().path()),
            user_agent: text(request.headers(), &header::USER_AGENT),
            peer: request.extensions().get::<ConnectInfo<SocketAddr>>().map(|info| info.0),
            request_id: request_id.clone(),
            began: Instant::now(),
        },
        route: request.extensions().get::<MatchedPath>().cloned(),
        app,
        status: 499,
        bytes: None,
    };
    let recorder: Recorder = Arc::new(Mutex::new(Record { facts: Facts::default(), watch: Some(watch) }));
    request.extensions_mut().insert(recorder.clone());
    let mut response = next.run(request).await;
    recorder.lock().unwrap_or_else(PoisonError::into_inner).answered(&response);
    let headers = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&request_id) {
        headers.insert(X_REQUEST_ID, value);
    }
    // Addresses of requests may hold tokens, and answers are for their callers alone.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A client that keeps connections leaves by itself then, rather than meet one that is closed under its next request.
    if draining.readiness.is_draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

// === impl Record ===

impl Record {
    fn answered(&mut self, response: &Response) {
        if let Some(watch) = &mut self.watch {
            watch.status = response.status().as_u16();
            watch.bytes = response.body().size_hint().exact();
        }
    }

    /// The id of the request.
    pub fn request_id(&self) -> Option<&str> {
        self.watch.as_ref().map(|watch| watch.line.request_id.as_str())
    }
}

impl Deref for Record {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.facts
    }
}

impl DerefMut for Record {
    fn deref_mut(&mut self) -> &mut Facts {
        &mut self.facts
    }
}

/// When the request is over, or its caller has gone away; where the answer follows on a stream, when it has been given.
impl Drop for Record {
    fn drop(&mut self) {
        let Some(watch) = &self.watch else { return };
        let route = watch.route.as_ref().map_or("other", MatchedPath::as_str);
        let method = known_method(&watch.line.method);
        let status = StatusCode::from_u16(watch.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let labels = [route, method, status.as_str()];
        watch.app.metrics.http_duration.with_label_values(&labels).observe(watch.line.began.elapsed().as_secs_f64());
        watch.app.log.write(&watch.line, &self.facts, watch.status, watch.bytes);
    }
}

/// Callers can invent methods; a metric must not grow with them.
fn known_method(method: &Method) -> &'static str {
    match *method {
        Method::GET => "GET",
        Method::POST => "POST",
        Method::HEAD => "HEAD",
        Method::PUT => "PUT",
        Method::DELETE => "DELETE",
        Method::OPTIONS => "OPTIONS",
        Method::PATCH => "PATCH",
        _ => "other",
    }
}

/// The caller's id if it is harmless, else a new one: 16 hexadecimal digits.
fn request_id(headers: &HeaderMap) -> String {
    let given = headers.get(&X_REQUEST_ID).and_then(|value| value.to_str().ok());
    match given.filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|b| b.is_ascii_graphic())) {
        Some(id) => id.to_owned(),
        None => {
            let mut bytes = [0; 8];
            let _ = aws_lc_rs::rand::fill(&mut bytes);
            format!("{:016x}", u64::from_be_bytes(bytes))
        }
    }
}

fn text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    headers.get(name).and_then(|value| value.to_str().ok()).map(|text| text.chars().take(256).collect())
}
