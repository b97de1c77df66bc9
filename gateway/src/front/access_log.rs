//! One JSON line for each request. Never a token, and arguments or results only where that was asked for.

use std::io::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use portcullis_runtime::LogSink;
use portcullis_runtime::log::timestamp;
use serde_json::Value;

use super::error::clip;
use crate::auth::Identity;

/// Arguments and results are cut at so many bytes.
const MAX_PAYLOAD: usize = 2048;

/// Members with these words in their names are masked.
const SECRET_WORDS: [&str; 9] =
    ["authorization", "credential", "cookie", "key", "passphrase", "passwd", "password", "secret", "token"];

/// Where the lines go.
#[derive(Clone)]
pub struct AccessLog {
    sink: Option<LogSink>,
    payloads: bool,
}

/// What is known of a request when it has been answered.
#[derive(Default)]
pub struct Facts {
    /// Bytes of its body.
    pub bytes: usize,
    /// The method of the message, at `/mcp`.
    pub rpc_method: Option<String>,
    /// The tool that was called.
    pub tool: Option<String>,
    /// The server that answered, or was tried last.
    pub server: Option<String>,
    /// What became of the call.
    pub outcome: Option<&'static str>,
    /// Servers that were tried.
    pub attempts: u32,
    /// Who asked.
    pub identity: Option<Arc<Identity>>,
    /// The arguments, only where payloads are logged.
    pub arguments: Option<String>,
    /// The result, only where payloads are logged.
    pub result: Option<String>,
}

/// The part of a line that is known from the start.
pub struct Line {
    /// Method of the request.
    pub method: http::Method,
    /// Path without the query, which may hold a token.
    pub path: String,
    /// `User-Agent`.
    pub user_agent: Option<String>,
    /// The caller's address, as the connection has it.
    pub peer: Option<SocketAddr>,
    /// `X-Request-Id`.
    pub request_id: String,
    /// When it came.
    pub began: Instant,
}

impl AccessLog {
    /// Lines go to `sink`; none: nowhere.
    pub fn new(sink: Option<LogSink>, payloads: bool) -> Self {
        Self { sink, payloads: payloads && tracing::level_filters::STATIC_MAX_LEVEL >= tracing::Level::INFO }
    }

    /// Whether arguments and results are logged.
    pub fn payloads(&self) -> bool {
        self.payloads && self.sink.is_some()
    }

    /// Writes a line. `status` 499: the caller went away before the answer.
    pub fn write(&self, line: &Line, facts: &Facts, status: u16, response_bytes: Option<u64>) {
        let Some(sink) = &self.sink else { return };
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(br#"{"timestamp":""#);
        timestamp(SystemTime::now(), &mut out);
        out.extend_from_slice(br#"","level":"INFO","message":"request","request":{"method":"#);
        string(&mut out, line.method.as_str());
        member(&mut out, "path", Some(&line.path));
        if let Some(method) = &facts.rpc_method {
            member(&mut out, "rpc_method", Some(method));
        }
        member(&mut out, "tool", facts.tool.as_deref());
        member(&mut out, "server", facts.server.as_deref());
        let _ = write!(out, r#","bytes":{}"#, facts.bytes);
        if let Some(arguments) = &facts.arguments {
            member(&mut out, "arguments", Some(&masked(arguments)));
        }
        out.extend_from_slice(br#"},"response":{"bytes":"#);
        match response_bytes {
            Some(bytes) => drop(write!(out, "{bytes}")),
            None => out.extend_from_slice(b"null"),
        }
        member(&mut out, "outcome", Some(facts.outcome.unwrap_or_else(|| outcome_of(status))));
        if let Some(result) = &facts.result {
            member(&mut out, "result", Some(&masked(result)));
        }
        let millis = line.began.elapsed().as_secs_f64() * 1e3;
        let _ = write!(out, r#"}},"status_code":{status},"execution_time_ms":{millis:.3},"remote_addr":"#);
        match line.peer {
            Some(peer) => drop(write!(out, r#""{}""#, peer.ip())),
            None => out.extend_from_slice(b"null"),
        }
        member(&mut out, "user_agent", line.user_agent.as_deref());
        member(&mut out, "request_id", Some(&line.request_id));
        member(&mut out, "subject", facts.identity.as_deref().map(|identity| identity.subject.as_str()));
        let _ = writeln!(out, r#","attempts":{}}}"#, facts.attempts);
        sink.append(&out);
    }
}

fn outcome_of(status: u16) -> &'static str {
    match status {
        200..=399 => "ok",
        499 => "cancelled",
        400..=498 => "refused",
        _ => "failed",
    }
}

fn member(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    let _ = write!(out, r#","{name}":"#);
    match value {
        Some(value) => string(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

fn string(out: &mut Vec<u8>, text: &str) {
    // Writing JSON into memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}

/// Text of a request that goes into a line: short.
pub fn short(text: &str) -> String {
    clip(text)
}

/// A payload as a log may hold it: what looks like a secret masked, cut at 2 KiB. What is no JSON is left out whole.
fn masked(text: &str) -> String {
    let Ok(mut value) = serde_json::from_str::<Value>(text) else {
        return "(not shown: it cannot be searched for secrets)".into();
    };
    mask(&mut value);
    let mut shown = value.to_string();
    if shown.len() > MAX_PAYLOAD {
        let end = (0..=MAX_PAYLOAD).rev().find(|at| shown.is_char_boundary(*at)).unwrap_or(0);
        shown.truncate(end);
        shown.push('…');
    }
    shown
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                let name = name.to_ascii_lowercase();
                if SECRET_WORDS.iter().any(|word| name.contains(word)) {
                    *member = Value::String("***".into());
                } else {
                    mask(member);
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        // Tools often put JSON into a text.
        Value::String(text) if text.starts_with(['{', '[']) => {
            if let Ok(mut inner) = serde_json::from_str::<Value>(text) {
                mask(&mut inner);
                *text = inner.to_string();
            }
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payloads_are_masked_and_cut() {
        assert_eq!(
            masked(r#"{"user":"a","apiKey":"k","deep":[{"Password":{"x":1}}],"text":"{\"token\":\"t\"}"}"#),
            r#"{"apiKey":"***","deep":[{"Password":"***"}],"text":"{\"token\":\"***\"}","user":"a"}"#
        );
        assert_eq!(masked("secret=1"), "(not shown: it cannot be searched for secrets)");
        let long = masked(&format!(r#"{{"a":"{}"}}"#, "é".repeat(3000)));
        assert!(long.len() <= MAX_PAYLOAD + 3 && long.ends_with('…'));
    }
}
