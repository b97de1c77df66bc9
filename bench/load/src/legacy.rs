//! A session over legacy HTTP+SSE.

use mcp_load::http::{Conn, Url};

use crate::args::LoadArgs;
use crate::bytes::{get, post};

/// A legacy HTTP+SSE session: answers arrive on a stream of their own.
pub(crate) struct LegacySession {
    pub(crate) stream: Conn,
    pub(crate) post: Url,
}

impl LegacySession {
    pub(crate) async fn open(url: &Url, args: &LoadArgs, conn: &mut Conn) -> Result<LegacySession, String> {
        let mut stream = Conn::open(url).await.map_err(|e| e.to_string())?;
        let r = stream
            .open_stream(&get(url, args, &[("Accept", "text/event-stream")]))
            .await
            .map_err(|e| format!("sse: {e}"))?;
        if r.status != 200 {
            return Err(format!("sse: status {}", r.status));
        }
        let endpoint = stream.next_event().await.map_err(|e| format!("sse: {e}"))?;
        let target = if endpoint.starts_with("http://") {
            Url::parse(&endpoint)?
        } else {
            Url { path: endpoint, ..url.clone() }
        };
        let mut legacy = LegacySession { stream, post: target };
        let init = r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2024-11-05","capabilities":{},"clientInfo":{"name":"mcp-load","version":"0.1.0"}}}"#;
        let request = post(&legacy.post, args, &[], init);
        legacy.call(conn, &request).await.map_err(|e| format!("initialize: {e}"))?;
        let done = r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#;
        conn.call(&post(&legacy.post, args, &[], done)).await.map_err(|e| format!("initialized: {e}"))?;
        Ok(legacy)
    }

    /// Posts one message and waits for its answer on the stream.
    pub(crate) async fn call(&mut self, conn: &mut Conn, request: &[u8]) -> std::io::Result<(u16, String)> {
        let r = conn.call(request).await?;
        if r.status / 100 != 2 {
            return Ok((r.status, String::new()));
        }
        Ok((r.status, self.stream.next_event().await?))
    }
}
