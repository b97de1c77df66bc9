//! Polls one gateway replica for its report; the replica answers as soon as something has changed.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use portcullis_crds::{Report, report};
use thiserror::Error;
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

/// Bound for connecting inside a cluster.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// Time that the replica waits for a change before it answers without one.
const REPORT_WAIT: Duration = Duration::from_secs(20);

/// Time that an answer may take beyond that.
const REPORT_SLACK: Duration = Duration::from_secs(5);

/// Delay after a failure: a pod that has just become ready may not be reachable yet.
const RETRY_DELAY: Duration = Duration::from_millis(500);

/// Largest report; 10,000 servers take about 4 MiB.
const MAX_REPORT_BYTES: usize = 64 * 1024 * 1024;

/// The report of a replica, or why there is none.
#[derive(Debug)]
pub(crate) struct ReplicaReport {
    /// The replica.
    pub(crate) address: SocketAddr,
    /// Its report.
    pub(crate) report: Result<Report, PollError>,
}

/// Why a replica gave no report.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum PollError {
    /// No connection.
    #[error("no connection")]
    Connect,
    /// The connection broke, or there was no answer in time.
    #[error("no answer")]
    Lost,
    /// The status was not 200.
    #[error("HTTP status {0}")]
    Status(u16),
    /// The answer is not a report, or is too long.
    #[error("the answer is not a report")]
    Nonsense,
}

/// Polls `address` until the receiver is dropped.
pub(crate) async fn run(address: SocketAddr, told: mpsc::Sender<ReplicaReport>) {
    let mut known: Option<(String, u64)> = None;
    let mut connection: Option<ReplicaConnection> = None;
    loop {
        let asked = Instant::now();
        let report = ask(address, &mut connection, known.as_ref()).await;
        let before = known.take();
        if let Ok(report) = &report {
            known = Some((report.instance.clone(), report.change));
        } else {
            // After a failure the next report is complete.
            connection = None;
        }
        // A replica that answers at once without a change, as while it stops, is polled with a pause.
        let hasty = before == known && asked.elapsed() < RETRY_DELAY;
        let failed = report.is_err();
        if told.send(ReplicaReport { address, report }).await.is_err() {
            return;
        }
        if failed || hasty {
            sleep(RETRY_DELAY).await;
        }
    }
}

/// A connection and the driver that moves its bytes; the wait for an answer drives it.
struct ReplicaConnection {
    sender: SendRequest<Empty<Bytes>>,
    driver: std::pin::Pin<Box<http1::Connection<TokioIo<TcpStream>, Empty<Bytes>>>>,
}

async fn ask(
    address: SocketAddr,
    connection: &mut Option<ReplicaConnection>,
    known: Option<&(String, u64)>,
) -> Result<Report, PollError> {
    let open = match connection.take() {
        Some(open) if !open.sender.is_closed() => open,
        _ => timeout(CONNECT_LIMIT, connect(address)).await.map_err(|_| PollError::Connect)??,
    };
    let ReplicaConnection { mut sender, mut driver } = open;
    let exchange = timeout(REPORT_WAIT + REPORT_SLACK, exchange(&mut sender, address, known));
    let bytes = tokio::select! {
        bytes = exchange => bytes.map_err(|_| PollError::Lost)??,
        _ = &mut driver => return Err(PollError::Lost),
    };
    *connection = Some(ReplicaConnection { sender, driver });
    serde_json::from_slice(&bytes).map_err(|_| PollError::Nonsense)
}

async fn connect(address: SocketAddr) -> Result<ReplicaConnection, PollError> {
    let stream = TcpStream::connect(address).await.map_err(|_| PollError::Connect)?;
    // The requests are small, and each waits for its answer.
    let _ = stream.set_nodelay(true);
    let (sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| PollError::Connect)?;
    Ok(ReplicaConnection { sender, driver: Box::pin(driver) })
}

async fn exchange(
    sender: &mut SendRequest<Empty<Bytes>>,
    address: SocketAddr,
    known: Option<&(String, u64)>,
) -> Result<Bytes, PollError> {
    let query = known.map_or_else(String::new, |(instance, change)| {
        format!("?instance={instance}&since={change}&wait={}", REPORT_WAIT.as_secs().min(report::MAX_WAIT_SECONDS))
    });
    let request = Request::get(format!("{}{query}", report::PATH)).header(header::HOST, address.to_string());
    let request = request.body(Empty::new()).map_err(|_| PollError::Nonsense)?;
    let answer = sender.send_request(request).await.map_err(|_| PollError::Lost)?;
    if answer.status() != StatusCode::OK {
        return Err(PollError::Status(answer.status().as_u16()));
    }
    let body = Limited::new(answer.into_body(), MAX_REPORT_BYTES).collect().await.map_err(|_| PollError::Nonsense)?;
    Ok(body.to_bytes())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use axum::Router;
    use portcullis_runtime::serve::{router, serve};
    use portcullis_runtime::{Limits, Supervisor};
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_replica_that_answers_without_news_is_not_asked_without_a_pause() {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let body = serde_json::to_string(&Report { instance: "i".into(), ..Report::default() }).expect("JSON");
        let (tasks, routes) = (Supervisor::new(), Router::new().fallback(async move || body));
        let serving = serve(listener, router(routes), Limits::default(), Arc::default(), tasks.shutdown());
        let (sender, mut told) = mpsc::channel::<ReplicaReport>(64);
        let listening = async {
            for _ in 0..2 {
                let told = timeout(Duration::from_secs(10), told.recv()).await.expect("in time").expect("an answer");
                assert!(told.report.is_ok());
            }
            assert!(timeout(RETRY_DELAY / 2, told.recv()).await.is_err(), "asked again at once");
        };
        tokio::select! {
            _ = serving => panic!("the server ended"),
            () = run(address, sender) => panic!("the asking ended"),
            () = listening => {}
        }
    }
}
