//! Around every request: an id, a measure, and the line in the access log.

use std::borrow::Cow;
use std::cell::Cell;
use std::mem;
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
use super::head::{Head, Sent};
use super::service::{Connection, Front};

const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// A request that is being answered: what it says, and what is noted for its log line, which is written when all of
/// these are gone.
pub type Recorder = Arc<Recording>;

/// See [`Recorder`].
pub struct Recording {
    line: Line,
    record: Mutex<Record>,
}

/// What is found out while it is answered.
pub struct Record {
    facts: Facts,
    route: Option<Cow<'static, str>>,
    status: u16,
    bytes: Option<u64>,
    /// It is over with its answer, whoever still holds the record.
    ends_with_answer: bool,
    /// Its line is.
    written: bool,
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

/// What a handler tells.
pub fn record(recorder: &Recording) -> MutexGuard<'_, Record> {
    recorder.record.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A request has come. `route` is what its path is called where that is known already.
pub(super) fn begin(connection: Arc<Connection>, method: Method, head: Head, route: Option<&'static str>) -> Recorder {
    let path = route.map_or_else(|| Cow::Owned(short(head.path())), Cow::Borrowed);
    let request_id = RequestId::of(&head.fields);
    let (arrived, began) = (SystemTime::now(), Instant::now());
    let line = Line { method, path, head, connection, request_id, arrived, began };
    let (facts, route) = (Facts::default(), route.map(Cow::Borrowed));
    let record = Record { facts, route, status: UNANSWERED, bytes: None, ends_with_answer: false, written: false };
    Arc::new(Recording { line, record: Mutex::new(record) })
}

/// What is kept of a request of the router's.
pub fn recorder(request: &Request) -> &Recorder {
    request.extensions().get().expect("whatever is routed has been begun")
}

/// The same, and its body.
pub fn taken_apart(request: Request) -> (Recorder, Sent) {
    (recorder(&request).clone(), Sent::Coming(request.into_body()))
}

/// Notes by which route the router answers a request.
pub(super) async fn note_route(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned().into());
    record(recorder(&request)).route = route;
    next.run(request).await
}

/// An answer is about to be sent.
pub(super) fn end(recorder: &Recorder, response: &mut Response) {
    {
        let mut record = record(recorder);
        record.status = response.status().as_u16();
        record.bytes = response.body().size_hint().exact();
        if record.ends_with_answer {
            record.write(&recorder.line);
        }
    }
    let headers = response.headers_mut();
    headers.reserve(4);
    if let Some(value) = recorder.line.request_id.value() {
        headers.insert(X_REQUEST_ID, value);
    }
    // Addresses of requests may hold tokens, and answers are for their callers alone.
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // A client that keeps connections leaves by itself then, rather than meet one that is closed under its next request.
    if recorder.app().readiness.is_draining() {
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
}

// === impl Recording ===

impl Recording {
    /// What all requests share.
    pub fn app(&self) -> &Arc<App> {
        self.line.connection.app()
    }

    /// It has brought a good token, which counts for its connection.
    pub fn trust(&self) {
        self.line.connection.trust();
    }

    /// What answers it.
    pub(super) fn front(&self) -> &Front {
        self.line.connection.front()
    }

    /// What its head says.
    pub fn head(&self) -> &Head {
        &self.line.head
    }

    /// When it came. Reading the clock takes longer than most of what it is read for.
    pub fn arrived(&self) -> SystemTime {
        self.line.arrived
    }

    /// The same by a clock that nobody sets.
    pub fn began(&self) -> Instant {
        self.line.began
    }

    /// Its id.
    pub fn request_id(&self) -> &str {
        self.line.request_id.as_str()
    }

    /// It is over with its answer, though the call that it began goes on.
    pub fn end_with_answer(&self) {
        let mut record = record(self);
        record.ends_with_answer = true;
        if record.status != UNANSWERED {
            record.write(&self.line);
        }
    }
}

/// When the request is over, or its caller has gone away; where the answer follows on a stream, when it has been given.
impl Drop for Recording {
    fn drop(&mut self) {
        self.record.get_mut().unwrap_or_else(PoisonError::into_inner).write(&self.line);
    }
}

// === impl Record ===

impl Record {
    /// What was found out within another request is told of this one.
    pub fn take_over(&mut self, facts: Facts) {
        self.facts = Facts { bytes: self.facts.bytes, ..facts };
    }

    /// Writes the line, once.
    fn write(&mut self, line: &Line) {
        if mem::replace(&mut self.written, true) {
            return;
        }
        let route = self.route.as_deref().unwrap_or("other");
        let method = known_method(&line.method);
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let labels = [route, method, status.as_str()];
        let elapsed = line.began.elapsed();
        let app = line.connection.app();
        app.metrics.http_duration.own().with_label_values(&labels).observe(elapsed.as_secs_f64());
        app.log.write(line, &self.facts, elapsed, self.status, self.bytes);
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
