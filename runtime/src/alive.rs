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

/// Has the system ask for signs of life while nothing comes over a TCP connection.
///
/// # Errors
/// The system's.
pub fn keep_alive(connection: &impl AsFd) -> io::Result<()> {
    sockopt::set_socket_keepalive(connection, true)?;
    sockopt::set_tcp_keepidle(connection, QUIET)?;
    sockopt::set_tcp_keepintvl(connection, AGAIN)?;
    Ok(sockopt::set_tcp_keepcnt(connection, MOST)?)
}
