//! As much of HTTP/1.1 as the counted calls need: both sides keep their connections and know each body's length.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

/// For a byte of the other side to come. Under valgrind everything takes fifty times as long.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Longest body that is read.
const MAX_BODY: usize = 1 << 20;

/// One side of a connection.
pub struct Connection(BufReader<TcpStream>);

/// A request, or an answer.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its first line.
    pub first: String,
    /// Its headers: names in lower case.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: String,
}

impl Connection {
    /// Opens one.
    ///
    /// # Errors
    /// What the system says.
    pub fn open(address: SocketAddr) -> anyhow::Result<Self> {
        Self::of(TcpStream::connect(address)?)
    }

    /// The other side of one that was accepted.
    ///
    /// # Errors
    /// What the system says.
    pub fn of(stream: TcpStream) -> anyhow::Result<Self> {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Sends bytes as they are, at once.
    ///
    /// # Errors
    /// What the system says.
    pub fn send(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.0.get_mut().write_all(bytes)?)
    }

    /// Waits for a whole message. `None`: the other side has closed.
    ///
    /// # Errors
    /// When it is not HTTP, or does not come.
    pub fn receive(&mut self) -> anyhow::Result<Option<Message>> {
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            if self.0.read_line(&mut head).context("waiting for a message")? == 0 {
                ensure!(head.is_empty(), "the connection has closed within a message");
                return Ok(None);
            }
        }
        let mut message = Message::of(&head)?;
        let length = message.header("content-length").unwrap_or("0").parse().context("content-length")?;
        ensure!(length <= MAX_BODY, "a body of {length} bytes");
        ensure!(message.header("transfer-encoding").is_none(), "a body without a length");
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).context("waiting for a body")?;
        message.body = String::from_utf8(body).context("a body")?;
        Ok(Some(message))
    }

    /// Waits until the other side closes; whatever it says is not looked at.
    pub fn drain(mut self) {
        let _ = self.0.get_mut().set_read_timeout(None);
        let _ = std::io::copy(&mut self.0, &mut std::io::sink());
    }

    /// Sends a request and waits for its answer.
    ///
    /// # Errors
    /// When there is none.
    pub fn ask(&mut self, request: &[u8]) -> anyhow::Result<Message> {
        self.send(request)?;
        self.receive()?.context("the connection was closed instead of an answer")
    }
}

impl Message {
    /// A message without its body.
    fn of(head: &str) -> anyhow::Result<Self> {
        let mut lines = head.trim_end().split("\r\n");
        let first = lines.next().unwrap_or_default().to_owned();
        let mut headers = Vec::new();
        for line in lines {
            let Some((name, value)) = line.split_once(':') else { bail!("a header without a colon: {line}") };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        Ok(Self { first, headers, body: String::new() })
    }

    /// The value of a header, by its name in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }
}

/// A whole request or answer: its first line, its headers as lines, and its body.
pub fn written(first: &str, headers: &str, body: &str) -> Vec<u8> {
    format!("{first}\r\n{headers}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let text = String::from_utf8(written("HTTP/1.1 200 OK", "Mcp-Session-Id:  a:b \r\n", "{}")).unwrap();

        let (head, body) = text.split_at(text.len() - 2);
        let message = Message::of(head).unwrap();

        let headers = vec![("mcp-session-id".into(), "a:b".into()), ("content-length".into(), "2".into())];
        assert_eq!(message, Message { first: "HTTP/1.1 200 OK".into(), headers, body: String::new() });
        assert_eq!((message.header("mcp-session-id"), message.header("date"), body), (Some("a:b"), None, "{}"));
    }
}
