//! Sends keep-alive probes over a connection, so that a peer that disappears silently is noticed.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// Before the first probe: address translators on the path often forget a quiet connection after 350 s.
const QUIET: Duration = Duration::from_secs(60);

/// Between unanswered probes.
const AGAIN: Duration = Duration::from_secs(15);

/// The number of unanswered probes that ends the connection.
const MOST: u32 = 4;

/// Unconfirmed data ends the connection after the same time. By default, Linux retries for a quarter of an hour, and
/// sends no probes meanwhile.
const UNCONFIRMED: Duration = QUIET.saturating_add(AGAIN.saturating_mul(MOST));

/// The system's buffer for received and unread bytes; the system doubles it.
const UNREAD: usize = 256 * 1024;

/// Limits the system's buffer for unread bytes: by default it grows to megabytes.
///
/// # Errors
/// The error of the system.
pub fn bound_buffer(connection: &impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_recv_buffer_size(connection, UNREAD)?)
}

/// Enables keep-alive probes on a quiet TCP connection, which ends after two minutes without an answer. Accepted
/// connections inherit this from their listener.
///
/// # Errors
/// The error of the system.
pub fn keep_alive(connection: &impl AsFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(connection, true)?;
    sockopt::set_tcp_keepidle(connection, QUIET)?;
    sockopt::set_tcp_keepintvl(connection, AGAIN)?;
    sockopt::set_tcp_keepcnt(connection, MOST)?;
    let milliseconds = u32::try_from(UNCONFIRMED.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(connection, milliseconds)?)
}
