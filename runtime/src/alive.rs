//! Asks the other end of a connection for signs of life, so that one that is gone without a word is noticed.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use rustix::net::sockopt;

/// Before the first question: what translates addresses on the way often forgets a quiet connection after 350 s.
const QUIET: Duration = Duration::from_secs(60);

/// Between questions that are not answered.
const AGAIN: Duration = Duration::from_secs(15);

/// The connection is over when so many were not answered.
const MOST: u32 = 4;

/// And when what was sent was not confirmed for so long: the same. Linux goes on for a quarter of an hour by itself, and does
/// not ask for signs of life meanwhile.
const UNCONFIRMED: Duration = QUIET.saturating_add(AGAIN.saturating_mul(MOST));

/// Bytes that the system keeps of what has come and nobody has read; it counts twice as many.
const UNREAD: usize = 256 * 1024;

/// Has the system keep little of what nobody has read yet: without, it lets that grow to megabytes.
///
/// # Errors
/// The system's.
pub fn bound_buffer(connection: &impl AsFd) -> io::Result<()> {
    Ok(sockopt::set_socket_recv_buffer_size(connection, UNREAD)?)
}

/// Has the system ask for signs of life while nothing comes over a TCP connection, and give up after two minutes without
/// any. What a listener accepts has it from the listener.
///
/// # Errors
/// The system's.
pub fn keep_alive(connection: &impl AsFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(connection, true)?;
    sockopt::set_tcp_keepidle(connection, QUIET)?;
    sockopt::set_tcp_keepintvl(connection, AGAIN)?;
    sockopt::set_tcp_keepcnt(connection, MOST)?;
    let milliseconds = u32::try_from(UNCONFIRMED.as_millis()).unwrap_or(u32::MAX);
    Ok(sockopt::set_tcp_user_timeout(connection, milliseconds)?)
}
