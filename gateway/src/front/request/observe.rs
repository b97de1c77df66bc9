//! Observes every request: its id, its duration, and its line in the access log.

use std::borrow::Cow;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use http::{HeaderValue, Method, StatusCode, header};
use http_body::Body as _;
use parking_lot::{Mutex, MutexGuard};

use crate::front::http::access_log::{Facts, RequestInfo, short};
use crate::front::http::head::{IncomingBody, IncomingHead};
use crate::front::http::request_id::{RequestId, X_REQUEST_ID};
use crate::front::request::app::App;
use crate::front::request::connection::{CallerConnection, Front};

/// A request that is being answered: what it says, and what is noted for its log line, which is written when all of
/// these are gone.
pub(crate) type Recorder = Arc<Recording>;

/// See [`Recorder`].
pub(crate) struct Recording {
    line: RequestInfo,
    connection: Arc<CallerConnection>,
    record: Mutex<Record>,
}

/// The facts that are found while it is answered.
pub(crate) struct Record {
    facts: Facts,
    route: Option<Cow<'static, str>>,
    status: u16,
    bytes: Option<u64>,
    /// It is over with its answer, even if a call still holds the record.
    ends_with_answer: bool,
    /// Its line is.
    written: bool,
}

/// The status of a request that has not been answered.
const UNANSWERED: u16 = 499;

/// The record of a request, for its handler.
pub(crate) fn record(recorder: &Recording) -> MutexGuard<'_, Record> {
    recorder.record.lock()
}

/// A request has come. `route` is what its path is called where that is known already.
pub(crate) fn begin(
    connection: Arc<CallerConnection>,
    method: Method,
    head: IncomingHead,
    route: Option<&'static str>,
) -> Recorder {
    let path = route.map_or_else(|| Cow::Owned(short(head.path())), Cow::Borrowed);
    let request_id = RequestId::of(&head.fields);
    let (arrived, began) = (SystemTime::now(), Instant::now());
    let line = RequestInfo { method, path, head, request_id, arrived, began };
    let (facts, route) = (Facts::default(), route.map(Cow::Borrowed));
    let record = Record { facts, route, status: UNANSWERED, bytes: None, ends_with_answer: false, written: false };
    Arc::new(Recording { line, connection, record: Mutex::new(record) })
}

/// The recorder of a request that the router answers.
pub(crate) fn recorder(request: &Request) -> &Recorder {
    request.extensions().get().expect("whatever is routed has been begun")
}

/// The same, and its body.
pub(crate) fn taken_apart(request: Request) -> (Recorder, IncomingBody) {
    (recorder(&request).clone(), IncomingBody::Coming(request.into_body()))
}

/// Notes by which route the router answers a request.
pub(crate) async fn note_route(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map(|path| path.as_str().to_owned().into());
    record(recorder(&request)).route = route;
    next.run(request).await
}

/// An answer is about to be sent.
pub(crate) fn end(recorder: &Recorder, response: &mut Response) {
    {
        let mut record = record(recorder);
        record.status = response.status().as_u16();
        record.bytes = response.body().size_hint().exact();
        if record.ends_with_answer {
            record.write(&recorder.line, &recorder.connection);
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
    /// The state that all requests share.
    pub(crate) fn app(&self) -> &Arc<App> {
        self.connection.app()
    }

    /// It has brought a good token, which counts for its connection.
    pub(crate) fn trust(&self) {
        self.connection.trust();
    }

    /// The certificate that its client was shown, with TLS.
    pub(crate) fn own_certificate(&self) -> Option<&[u8]> {
        self.connection.own_certificate()
    }

    /// The app and the router.
    pub(crate) fn front(&self) -> &Front {
        self.connection.front()
    }

    /// Its head.
    pub(crate) fn head(&self) -> &IncomingHead {
        &self.line.head
    }

    /// When it came. Reading the clock takes longer than most of what it is read for.
    pub(crate) fn arrived(&self) -> SystemTime {
        self.line.arrived
    }

    /// The same by a clock that nobody sets.
    pub(crate) fn began(&self) -> Instant {
        self.line.began
    }

    /// Its id.
    pub(crate) fn request_id(&self) -> &str {
        self.line.request_id.as_str()
    }

    /// It is over with its answer, though the call that it began goes on.
    pub(crate) fn end_with_answer(&self) {
        let mut record = record(self);
        record.ends_with_answer = true;
        if record.status != UNANSWERED {
            record.write(&self.line, &self.connection);
        }
    }
}

/// When the request is over, or its caller has gone away; where the answer follows on a stream, when it has been given.
impl Drop for Recording {
    fn drop(&mut self) {
        self.record.get_mut().write(&self.line, &self.connection);
    }
}

// === impl Record ===

impl Record {
    /// Takes over the facts that were found within another request.
    pub(crate) fn take_over(&mut self, facts: Facts) {
        self.facts = Facts { bytes: self.facts.bytes, ..facts };
    }

    /// Writes the line, once.
    fn write(&mut self, line: &RequestInfo, connection: &CallerConnection) {
        if mem::replace(&mut self.written, true) {
            return;
        }
        let route = self.route.as_deref().unwrap_or("other");
        let method = known_method(&line.method);
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let labels = [route, method, status.as_str()];
        let elapsed = line.began.elapsed();
        let app = connection.app();
        app.metrics.http_duration.own().with_label_values(&labels).observe(elapsed.as_secs_f64());
        app.log.write((connection.peer(), connection.client()), line, &self.facts, elapsed, self.status, self.bytes);
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
