//! Opens the session of a connection and prepares its requests.

use mcp_load::http::{Conn, Url};

use crate::args::{LoadArgs, LoadMode};
use crate::bytes::{call_body, get, post};
use crate::legacy::LegacySession;

/// Ready-made request bytes for one connection.
pub(crate) struct Requests {
    pub(crate) calls: Vec<Vec<u8>>,
    pub(crate) expect: Vec<u8>,
    pub(crate) legacy: Option<LegacySession>,
}

/// The headers that every request of a session carries.
struct SessionHeaders<'a> {
    protocol: &'a str,
    session: Option<&'a str>,
}

impl<'a> SessionHeaders<'a> {
    fn headers(&self) -> Vec<(&'a str, &'a str)> {
        let mut all = vec![("MCP-Protocol-Version", self.protocol)];
        all.extend(self.session.map(|s| ("Mcp-Session-Id", s)));
        all
    }
}

/// Opens the stream on which a session receives messages that belong to no call.
async fn listen(conn: &mut Conn, url: &Url, args: &LoadArgs, common: &SessionHeaders<'_>) -> Result<(), String> {
    let mut headers = common.headers();
    headers.push(("Accept", "text/event-stream"));
    let r = conn.open_stream(&get(url, args, &headers)).await.map_err(|e| format!("listening: {e}"))?;
    if r.status != 200 {
        return Err(format!("listening: status {}", r.status));
    }
    Ok(())
}

/// Requests for all pages of tools/list, found by asking for them.
async fn pages(
    conn: &mut Conn,
    url: &Url,
    args: &LoadArgs,
    common: &SessionHeaders<'_>,
) -> Result<Vec<Vec<u8>>, String> {
    let keep = std::mem::replace(&mut conn.keep, usize::MAX);
    let (mut requests, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let params = cursor.map_or(String::new(), |c| format!(r#""cursor":"{c}""#));
        let body = format!(r#"{{"jsonrpc":"2.0","id":7,"method":"tools/list","params":{{{params}}}}}"#);
        let request = post(url, args, &common.headers(), &body);
        let r = conn.call(&request).await.map_err(|e| format!("tools/list: {e}"))?;
        if r.status != 200 {
            return Err(format!("tools/list: status {}", r.status));
        }
        if let Some(folder) = &args.save {
            std::fs::write(folder.join(requests.len().to_string()), conn.body()).map_err(|e| format!("--save: {e}"))?;
        }
        requests.push(request);
        let page: serde_json::Value = serde_json::from_slice(conn.body()).map_err(|e| format!("tools/list: {e}"))?;
        cursor = page["result"]["nextCursor"].as_str().map(str::to_owned);
        if cursor.is_none() {
            conn.keep = keep;
            return Ok(requests);
        }
    }
}

/// Builds the requests of one connection, after opening its session if the mode
/// has one.
pub(crate) async fn prepare(conn: &mut Conn, url: &Url, args: &LoadArgs) -> Result<Requests, String> {
    let message = "m".repeat(args.payload);
    let expect = match (&args.expect, args.mode) {
        (Some(e), _) => e.clone(),
        (None, LoadMode::List) => "\"tools\"".into(),
        (None, LoadMode::Get | LoadMode::Idle | LoadMode::Listen) => String::new(),
        (None, _) => message.clone(),
    };
    let mut session = None;
    if matches!(args.mode, LoadMode::Mcp | LoadMode::List | LoadMode::Idle | LoadMode::Listen) {
        session = open_session(conn, url, args).await?;
    }
    let common = SessionHeaders { protocol: &args.protocol, session: session.as_deref() };
    let none = Requests { calls: Vec::new(), expect: expect.clone().into_bytes(), legacy: None };
    match args.mode {
        LoadMode::Idle => return Ok(none),
        LoadMode::Listen => return listen(conn, url, args, &common).await.map(|()| none),
        LoadMode::List => {
            let calls = pages(conn, url, args, &common).await?;
            return Ok(Requests { calls, ..none });
        }
        _ => {}
    }
    let mut legacy = None;
    if args.mode == LoadMode::Sse {
        legacy = Some(LegacySession::open(url, args, conn).await?);
    }
    let url = legacy.as_ref().map_or(url, |l| &l.post);
    let calls = args.tool.split(',').map(|tool| call(url, args, &common, tool, &message)).collect();
    Ok(Requests { calls, expect: expect.into_bytes(), legacy })
}

/// Initializes a session over streamable HTTP. Returns its id, if the server gives one.
async fn open_session(conn: &mut Conn, url: &Url, args: &LoadArgs) -> Result<Option<String>, String> {
    let body = format!(
        r#"{{"jsonrpc":"2.0","id":1,"method":"initialize","params":{{"protocolVersion":"{}","capabilities":{{}},"clientInfo":{{"name":"mcp-load","version":"0.1.0"}}}}}}"#,
        args.protocol
    );
    let r = conn.call(&post(url, args, &[], &body)).await.map_err(|e| format!("initialize: {e}"))?;
    if r.status != 200 {
        return Err(format!("initialize: status {}: {}", r.status, String::from_utf8_lossy(conn.body())));
    }
    let session = r.session_id;
    let mut extra = vec![("MCP-Protocol-Version", args.protocol.as_str())];
    if let Some(s) = &session {
        extra.push(("Mcp-Session-Id", s));
    }
    if conn.closed {
        *conn = Conn::open(url).await.map_err(|e| e.to_string())?;
    }
    let r = conn
        .call(&post(url, args, &extra, r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#))
        .await
        .map_err(|e| format!("initialized: {e}"))?;
    if r.status >= 300 {
        return Err(format!("initialized: status {}", r.status));
    }
    Ok(session)
}

/// The bytes of one call of `tool`.
fn call(url: &Url, args: &LoadArgs, common: &SessionHeaders<'_>, tool: &str, message: &str) -> Vec<u8> {
    let body = call_body(args.mode, args, tool, message);
    let mut extra: Vec<(&str, &str)> = Vec::new();
    match args.mode {
        LoadMode::Mcp => {
            extra.extend(common.headers());
            if args.mcp_headers {
                extra.push(("Mcp-Method", "tools/call"));
                extra.push(("Mcp-Name", tool));
            }
        }
        LoadMode::Stateless => {
            extra.push(("MCP-Protocol-Version", "2026-07-28"));
            extra.push(("Mcp-Method", "tools/call"));
            extra.push(("Mcp-Name", tool));
        }
        _ => {}
    }
    if args.mode == LoadMode::Get {
        let path = url.path.replace("{tool}", tool);
        get(&Url { path, ..url.clone() }, args, &[])
    } else {
        post(url, args, &extra, &body)
    }
}
