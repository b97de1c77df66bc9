//! Builds the bytes of HTTP requests.

use mcp_load::http::Url;

use crate::args::{LoadArgs, LoadMode};

pub(crate) fn post(url: &Url, args: &LoadArgs, extra: &[(&str, &str)], body: &str) -> Vec<u8> {
    let mut r = format!(
        "POST {} HTTP/1.1\r\nHost: {}:{}\r\nContent-Type: application/json\r\nAccept: application/json, text/event-stream\r\nContent-Length: {}\r\n",
        url.path,
        url.host,
        url.port,
        body.len()
    );
    if let Some(t) = &args.token {
        r.push_str(&format!("Authorization: Bearer {t}\r\n"));
    }
    for (k, v) in extra {
        r.push_str(&format!("{k}: {v}\r\n"));
    }
    for h in &args.header {
        r.push_str(&format!("{h}\r\n"));
    }
    r.push_str("\r\n");
    r.push_str(body);
    r.into_bytes()
}

pub(crate) fn get(url: &Url, args: &LoadArgs, extra: &[(&str, &str)]) -> Vec<u8> {
    let mut r = format!("GET {} HTTP/1.1\r\nHost: {}:{}\r\n", url.path, url.host, url.port);
    if let Some(t) = &args.token {
        r.push_str(&format!("Authorization: Bearer {t}\r\n"));
    }
    for (k, v) in extra {
        r.push_str(&format!("{k}: {v}\r\n"));
    }
    r.push_str("\r\n");
    r.into_bytes()
}

pub(crate) fn call_body(mode: LoadMode, args: &LoadArgs, tool: &str, message: &str) -> String {
    match mode {
        LoadMode::Rest => match (&args.body, &args.server) {
            (Some(b), _) => b.replace("{tool}", tool).replace("{message}", message),
            (None, Some(s)) => {
                format!(r#"{{"method":"{tool}","args":{{"message":"{message}"}},"server":"{s}"}}"#)
            }
            (None, None) => {
                format!(r#"{{"method":"{tool}","args":{{"message":"{message}"}}}}"#)
            }
        },
        LoadMode::Stateless => format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"message":"{message}"}},"_meta":{{"io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":{{"name":"mcp-load","version":"0.1.0"}},"io.modelcontextprotocol/clientCapabilities":{{}}}}}}}}"#
        ),
        _ => format!(
            r#"{{"jsonrpc":"2.0","id":7,"method":"tools/call","params":{{"name":"{tool}","arguments":{{"message":"{message}"}}}}}}"#
        ),
    }
}
