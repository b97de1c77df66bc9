//! Reads event streams in tests: any line ends, comments skipped, everything else shown as it came.

use std::time::Duration;

use anyhow::{Context, Result};
use tokio::time::timeout;

use crate::http::{HttpRequest, HttpStream};

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SseEvent {
    /// The `event:` field, or "" when absent.
    pub event: String,
    /// The `data:` lines, joined with `\n`.
    pub data: String,
}

/// A stream of events over HTTP. Dropping it closes the connection.
#[derive(Debug)]
pub struct SseEvents {
    stream: HttpStream,
    buffer: Vec<u8>,
    /// Bytes of the buffer without the end of an event.
    searched: usize,
}

/// Opens an event stream; fails unless the answer is 2xx and `text/event-stream`.
pub async fn open(request: HttpRequest) -> Result<SseEvents> {
    let stream = request.header("accept", "text/event-stream").open().await?;
    let kind = stream.header("content-type").to_owned();
    anyhow::ensure!(stream.status / 100 == 2, "no event stream but status {}", stream.status);
    anyhow::ensure!(kind.starts_with("text/event-stream"), "no event stream but {kind:?}");
    Ok(stream.into())
}

impl From<HttpStream> for SseEvents {
    fn from(stream: HttpStream) -> Self {
        Self { stream, buffer: Vec::new(), searched: 0 }
    }
}

impl SseEvents {
    /// A header of the answer, or "" when it is absent.
    pub fn header(&self, name: &str) -> &str {
        self.stream.header(name)
    }

    /// The next event: `None` at the proper end; an error when cut, or when none is complete within `limit`.
    pub async fn next(&mut self, limit: Duration) -> Result<Option<SseEvent>> {
        timeout(limit, self.read()).await.with_context(|| {
            format!("no event in {limit:?}; unfinished: {:?}", String::from_utf8_lossy(&self.buffer))
        })?
    }

    async fn read(&mut self) -> Result<Option<SseEvent>> {
        loop {
            while let Some(block) = self.take_block() {
                if let Some(event) = parse(&block) {
                    return Ok(Some(event));
                }
            }
            match self.stream.chunk().await? {
                Some(bytes) => self.buffer.extend_from_slice(&bytes),
                None => return Ok(None),
            }
        }
    }

    fn take_block(&mut self) -> Option<String> {
        let ends: [&[u8]; 3] = [b"\n\n", b"\r\n\r\n", b"\r\r"];
        let rest = &self.buffer[self.searched..];
        let find = |end: &[u8]| rest.windows(end.len()).position(|it| it == end).map(|at| at + end.len());
        let Some(end) = ends.iter().filter_map(|end| find(end)).min() else {
            // The end may be half there: three bytes are looked at again.
            self.searched = self.buffer.len().saturating_sub(3);
            return None;
        };
        let block: Vec<u8> = self.buffer.drain(..self.searched + end).collect();
        self.searched = 0;
        Some(String::from_utf8_lossy(&block).into_owned())
    }
}

fn parse(block: &str) -> Option<SseEvent> {
    let mut event = String::new();
    let mut data = Vec::new();
    for line in block.trim_start_matches('\u{feff}').split(['\r', '\n']) {
        match line.split_once(':').map(|(name, value)| (name, value.strip_prefix(' ').unwrap_or(value))) {
            Some(("event", value)) => event = value.to_owned(),
            Some(("data", value)) => data.push(value),
            _ => {}
        }
    }
    (!data.is_empty()).then(|| SseEvent { event, data: data.join("\n") })
}

#[cfg(test)]
mod tests {
    use super::{SseEvent, parse};

    #[test]
    fn events_are_read_with_any_line_ends_and_without_comments() {
        let wanted = Some(SseEvent { event: "message".into(), data: "a\nb".into() });
        assert_eq!(parse("event: message\ndata: a\ndata: b\n\n"), wanted);
        assert_eq!(parse("\u{feff}event:message\r\ndata:a\r\n: no\r\ndata: b\r\n\r\n"), wanted);
        assert_eq!(parse("event: message\rdata: a\rdata: b\r\r"), wanted);
        assert_eq!(parse(": ping\n\n"), None);
    }
}
