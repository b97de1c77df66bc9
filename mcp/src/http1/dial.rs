//! Opens TCP connections: resolves a host once, checks each address with the guard, and connects to an allowed one.

use std::io;
use std::net::SocketAddr;

use portcullis_runtime::alive::bound_buffer;
use portcullis_runtime::keep_alive;
use tokio::net::{TcpStream, lookup_host};
use tokio::time::{Instant, timeout, timeout_at};

use crate::guard::Guard;
use crate::http1::HttpError;
use url::Url;

/// The error for a host or an address that does not respond.
const SILENT: HttpError = HttpError::Connect("no answer in time");

/// Connects to a host before the deadline. No name is resolved again after the guard has agreed.
///
/// # Errors
/// [`HttpError::Blocked`] if all addresses are refused, [`HttpError::Connect`] if the host cannot be reached.
pub async fn dial(host: &str, port: u16, guard: &Guard, until: Instant) -> Result<TcpStream, HttpError> {
    let found = timeout_at(until, async {
        guard.ready().await;
        lookup_host((host, port)).await
    });
    let addresses = found.await.map_err(|_| SILENT)?.map_err(|error| HttpError::Connect(problem(&error)))?;
    first_of(&addresses.collect::<Vec<_>>(), guard, until).await
}

/// Connects to the first allowed address that answers. Each gets an equal share of the remaining time: a silent
/// address, such as that of a dead node, must not block the others.
async fn first_of(addresses: &[SocketAddr], guard: &Guard, until: Instant) -> Result<TcpStream, HttpError> {
    let (mut failed, mut refused) = (None, None);
    for (address, left) in addresses.iter().zip((1..=addresses.len()).rev()) {
        if let Err(refusal) = guard.check(address.ip()) {
            refused = Some(HttpError::Blocked(refusal));
            continue;
        }
        let share = until.saturating_duration_since(Instant::now()) / u32::try_from(left).unwrap_or(u32::MAX);
        match timeout(share, TcpStream::connect(address)).await {
            Ok(Ok(tcp)) => {
                // Streams may be quiet for hours. Without keep-alive they work as before, so a failure does not matter.
                let _ = keep_alive(&tcp);
                // Otherwise the system would buffer megabytes of an unread response.
                let _ = bound_buffer(&tcp);
                return Ok(tcp);
            }
            Ok(Err(error)) => failed = Some(HttpError::Connect(problem(&error))),
            Err(_) => failed = Some(SILENT),
        }
    }
    Err(failed.or(refused).unwrap_or(HttpError::Connect("the host name cannot be resolved")))
}

fn problem(error: &io::Error) -> &'static str {
    use io::ErrorKind::*;
    match error.kind() {
        ConnectionRefused => "connection refused",
        HostUnreachable | NetworkUnreachable => "host unreachable",
        TimedOut => "no answer in time",
        _ if error.raw_os_error().is_none() => "the host name cannot be resolved",
        _ => "the connection failed",
    }
}

/// The host without the brackets of an IPv6 address.
pub fn host_of(url: &Url) -> String {
    url.host_str().unwrap_or_default().trim_matches(['[', ']']).to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::net::{TcpListener, TcpSocket};

    use super::*;

    /// An address that answers nothing: as many connections as may wait there to be accepted.
    async fn silent() -> (SocketAddr, TcpListener, Vec<TcpStream>) {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(1).unwrap();
        let (address, mut waiting) = (listener.local_addr().unwrap(), Vec::new());
        while let Ok(connected) = timeout(Duration::from_millis(300), TcpStream::connect(address)).await {
            waiting.push(connected.unwrap());
        }
        (address, listener, waiting)
    }

    #[tokio::test]
    async fn a_connection_over_which_nothing_comes_is_asked_for_signs_of_life() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let port = listener.local_addr().unwrap().port();
        let tcp = dial("127.0.0.1", port, &Guard::default(), until).await.unwrap();
        // proc(5): the timer of a connection, and when it is due, in hundredths of a second.
        let table = std::fs::read_to_string("/proc/self/net/tcp").unwrap();
        // Both ends: a connection to elsewhere that has just ended may have had the same port here.
        let ends = [tcp.local_addr().unwrap().port(), port].map(|port| format!("0100007F:{port:04X}"));
        let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
        let own = lines.into_iter().find(|fields| fields.get(1..3).is_some_and(|found| found == ends)).unwrap();
        let (timer, due) = own[5].split_once(':').unwrap();
        let due = u64::from_str_radix(due, 16).unwrap();
        assert!(timer == "02" && (1..=6_000).contains(&due), "{timer} {due}");
    }

    #[tokio::test]
    async fn an_address_that_is_silent_does_not_keep_from_the_others() {
        let (silent, _full, _waiting) = silent().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let good = listener.local_addr().unwrap();
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let connected = async |addresses: &[SocketAddr]| {
            let until = Instant::now() + Duration::from_secs(2);
            first_of(addresses, &Guard::default(), until).await.map(|tcp| tcp.peer_addr().unwrap())
        };
        let began = Instant::now();
        assert_eq!(connected(&[closed, silent, good]).await, Ok(good));
        assert!(began.elapsed() < Duration::from_millis(1_800), "{:?}", began.elapsed());
        assert_eq!(connected(&[closed, silent]).await, Err(SILENT));
        assert_eq!(connected(&[silent, closed]).await, Err(HttpError::Connect("connection refused")));
    }
}
