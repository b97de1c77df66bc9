//! One request, one answer, one connection: enough to wait for a server and to fetch a file.

use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::Duration;

/// For each read and write.
const LIMIT: Duration = Duration::from_secs(10);

/// The status and the body of `GET path` at this port of 127.0.0.1.
///
/// # Errors
/// When nothing listens there, or what comes is not an answer of HTTP/1.
pub fn get(port: u16, path: &str, token: &str) -> io::Result<(u16, Vec<u8>)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    // 1.0: the answer is not chunked, and the connection ends with it.
    write!(stream, "GET {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Bearer {token}\r\n\r\n")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parts(&answer).ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "no answer of HTTP/1"))
}

fn parts(answer: &[u8]) -> Option<(u16, Vec<u8>)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let status = head.strip_prefix("HTTP/1.")?.get(2..5)?.parse().ok()?;
    Some((status, answer[end + 4..].to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_has_a_status_and_a_body() {
        assert_eq!(parts(b"HTTP/1.1 401 Unauthorized\r\na: b\r\n\r\nno\r\n\r\n"), Some((401, b"no\r\n\r\n".to_vec())));
        assert_eq!(parts(b"HTTP/1.0 200 OK\r\n"), None);
        assert_eq!(parts(b"SSH-2.0-x\r\n\r\n"), None);
    }
}
