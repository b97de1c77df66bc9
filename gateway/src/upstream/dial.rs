//! Makes TCP connections: resolves a host once, asks the guard about each address, and connects to an allowed one.

use std::io;

use tokio::net::{TcpStream, lookup_host};

use super::http::HttpError;
use crate::guard::Guard;

/// Connects to a host. Nothing is looked up again after the guard has agreed. The caller sets the deadline.
///
/// # Errors
/// [`HttpError::Blocked`] if it has only refused addresses, [`HttpError::Connect`] if it cannot be reached.
pub(super) async fn dial(host: &str, port: u16, guard: &Guard) -> Result<TcpStream, HttpError> {
    guard.ready().await;
    let addresses = lookup_host((host, port)).await.map_err(|error| HttpError::Connect(problem(&error)))?;
    let (mut failed, mut refused) = (None, None);
    for address in addresses {
        match guard.check(address.ip()) {
            Err(refusal) => refused = Some(HttpError::Blocked(refusal)),
            Ok(()) => match TcpStream::connect(address).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failed = Some(HttpError::Connect(problem(&error))),
            },
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
