//! Around every request: an id, a measure, and the line in the access log.

use std::borrow::Cow;
use std::cell::Cell;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Instant, SystemTime};

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use portcullis_runtime::serve::Fields;

use super::access_log::{Facts, Line, short};
use super::app::App;
use super::head::Head;
use super::service::Connection;

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a handler tells about the request for its log line, which is written when all of these are gone.
pub type Recorder = Arc<Recording>;

/// See [`Recorder`].
pub struct Recording {
    /// When the request came. Reading the clock takes longer than most of what it is read for.
    pub arrived: SystemTime,
    record: Mutex<Record>,
}

/// What is known of one request.
#[derive(Default)]
pub struct Record {
    facts: Facts,
    watch: Option<Watch>,
}

/// What is known of a request from the start, and how it was answered.
struct Watch {
    line: Line,
    route: Option<Cow<'static, str>>,
    status: u16,
    bytes: Option<u64>,
    /// It is over with its answer, whoever still holds the record.
    ends_with_answer: bool,
}

/// The status of a request that has not been answered.
const UNANSWERED: u16 = 499;

/// The id of a request: the caller's own, or 16 hexadecimal digits.
pub enum RequestId {
    /// The caller's, if it is harmless.
    Given(Box<str>),
    /// A new one.
    Own([u8; 16]),
}

/// Where the log line of a request is gathered.
pub fn recorder(request: &Request) -> Recorder {
    request.extensions().get::<Recorder>().cloned().unwrap_or_default()
}

/// What a handler tells.
pub fn record(recorder: &Recording) -> MutexGuard<'_, Record> {
    recorder.record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request has come. `route` is what its path is called where that is known already.
pub(super) fn begin(connection: Arc<Connection>, method: Method, head: &Head, route: Option<&'static str>) -> Recorder {
    let path = route.map_or_else(|| Cow::Owned(short(head.uri.path())), Cow::Borrowed);
    let (fields, request_id) = (head.fields.clone(), RequestId::of(&head.fields));
    let (arrived, began) = (SystemTime::now(), Instant::now());
    let line = Line { method, path, fields, connection, request_id, arrived, began };
    let route = route.map(Cow::Borrowed);
    let watch = Watch { line, route, status: UNANSWERED, bytes: None, ends_with_answer: false };
    let record = Mutex::new(Record { facts: Facts::default(), watch: Some(watch) });
    Arc::new(Recording { arrived, record })
}

/// Notes by which route the router answers a request.
pub(super) async fn note_route(request: Request, next: Next) -> Response {
    if let Some(watch) = &mut record(&recorder(&request)).watch {
        watch.route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned().into());
    }
    next.run(request).await
}

/// An answer is about to be sent.
pub(super) fn end(app: &App, recorder: &Recorder, response: &mut Response) {
    let request_id = {
        let mut record = record(recorder);
        record.answered(response);
        let request_id = record.watch.as_ref().and_then(|watch| watch.line.request_id.value());
        if record.watch.as_ref().is_some_and(|watch| watch.ends_with_answer) {
            record.write();
        }
        request_id
    };
    let headers = response.headers_mut();
    headers.reserve(4);
    if let Some(value) = request_id {
        headers.insert(X_REQUEST_ID, value);
    }
    // Addresses of requests may hold tokens, and answers are for their callers alone.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A client that keeps connections leaves by itself then, rather than meet one that is closed under its next request.
    if app.readiness.is_draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

// === impl Recording ===

impl Default for Recording {
    fn default() -> Self {
        Self { arrived: SystemTime::now(), record: Mutex::default() }
    }
}

// === impl Record ===

impl Record {
    fn answered(&mut self, response: &Response) {
        if let Some(watch) = &mut self.watch {
            watch.status = response.status().as_u16();
            watch.bytes = response.body().size_hint().exact();
        }
    }

    /// The request is over with its answer, though the call that it began goes on.
    pub fn end_with_answer(&mut self) {
        match &mut self.watch {
            Some(watch) if watch.status == UNANSWERED => watch.ends_with_answer = true,
            _ => self.write(),
        }
    }

    /// What was found out within another request is told of this one.
    pub fn take_over(&mut self, facts: Facts) {
        self.facts = Facts { bytes: self.facts.bytes, ..facts };
    }

    /// Writes the line, once.
    fn write(&mut self) {
        let Some(watch) = self.watch.take() else { return };
        let route = watch.route.as_deref().unwrap_or("other");
        let method = known_method(&watch.line.method);
        let status = StatusCode::from_u16(watch.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let labels = [route, method, status.as_str()];
        let elapsed = watch.line.began.elapsed();
        let app = watch.line.connection.app();
        app.metrics.http_duration.own().with_label_values(&labels).observe(elapsed.as_secs_f64());
        app.log.write(&watch.line, &self.facts, elapsed, watch.status, watch.bytes);
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
        self.write();
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

// === impl RequestId ===

impl RequestId {
    fn of(fields: &Fields) -> Self {
        let harmless = |id: &&str| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
        fields.text("x-request-id").filter(harmless).map_or_else(Self::unique, |id| Self::Given(id.into()))
    }

    /// No two of one thread are the same; those of two are as unlikely to be as random ones.
    fn unique() -> Self {
        thread_local! {
            static NEXT: Cell<u64> = {
                let mut seed = [0; 8];
                let _ = aws_lc_rs::rand::fill(&mut seed);
                Cell::new(u64::from_be_bytes(seed))
            };
        }
        let mut id = mixed(NEXT.replace(NEXT.get().wrapping_add(1)));
        Self::Own(std::array::from_fn(|_| {
            id = id.rotate_left(4);
            b"0123456789abcdef"[(id & 15) as usize]
        }))
    }

    /// As text.
    pub fn as_str(&self) -> &str {
        match self {
            Self::Given(id) => id,
            Self::Own(digits) => std::str::from_utf8(digits).unwrap_or_default(),
        }
    }

    fn value(&self) -> Option<HeaderValue> {
        match self {
            Self::Given(id) => HeaderValue::from_str(id).ok(),
            Self::Own(digits) => HeaderValue::from_bytes(digits).ok(),
        }
    }
}

/// Another number for each number, which looks random (the finalizer of SplitMix64, S. Vigna).
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_callers_id_is_kept_if_it_is_harmless_and_each_other_request_gets_one_of_its_own() {
        let id_of = |given: &str| RequestId::of(&Fields::from_iter([("X-Request-Id", given)])).as_str().to_owned();
        for kept in ["7", "a/b!x.-_", &"x".repeat(128)] {
            assert_eq!(id_of(kept), kept);
        }
        let mut own: Vec<String> = ["", "a b", "é", &"x".repeat(129)].map(id_of).into();
        own.push(RequestId::of(&Fields::default()).as_str().to_owned());
        for id in &own {
            assert!(id.len() == 16 && id.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')), "{id}");
        }
        own.sort();
        own.dedup();
        assert_eq!(own.len(), 5);
    }
}
