//! Writes one JSON line for each request. Never a token, and arguments or results only where that was asked for.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use portcullis_runtime::LogSink;
use portcullis_runtime::log::timestamp;
use serde_json::Value;

use crate::auth::Identity;
use crate::front::http::error::clip;
use crate::front::http::head::IncomingHead;
use crate::front::http::json_line::{member, millis, number, number_member, string};
use crate::front::http::request_id::RequestId;
use crate::server::handle::Handle;

/// Bytes at which arguments and results are cut.
const MAX_PAYLOAD: usize = 2048;

/// Members with these words in their names are masked.
const SECRET_WORDS: [&str; 9] =
    ["authorization", "credential", "cookie", "key", "passphrase", "passwd", "password", "secret", "token"];

/// Writes the lines of all requests.
#[derive(Clone)]
pub(crate) struct AccessLog {
    sink: Option<LogSink>,
    payloads: bool,
}

/// The facts about a request that its handler finds.
#[derive(Default)]
pub(crate) struct Facts {
    /// Bytes of its body.
    pub(crate) bytes: usize,
    /// The method of the message, at `/mcp`.
    pub(crate) rpc_method: Option<Cow<'static, str>>,
    /// The tool that was called.
    pub(crate) tool: Option<Arc<str>>,
    /// The server that answered, or was tried last.
    pub(crate) server: Option<Arc<Handle>>,
    /// The outcome of the call.
    pub(crate) outcome: Option<&'static str>,
    /// Servers that were tried.
    pub(crate) attempts: u32,
    /// The caller.
    pub(crate) identity: Option<Arc<Identity>>,
    /// The arguments, only where payloads are logged.
    pub(crate) arguments: Option<String>,
    /// The result, only where payloads are logged.
    pub(crate) result: Option<String>,
}

/// The part of a line that is known from the start.
pub(crate) struct RequestInfo {
    /// Method of the request.
    pub(crate) method: http::Method,
    /// Path without the query, which may hold a token.
    pub(crate) path: Cow<'static, str>,
    /// Its head.
    pub(crate) head: IncomingHead,
    /// `X-Request-Id`.
    pub(crate) request_id: RequestId,
    /// When it came.
    pub(crate) arrived: SystemTime,
    /// The same, for measuring.
    pub(crate) began: Instant,
}

impl AccessLog {
    /// Lines go to `sink`; none: nowhere.
    pub(crate) fn new(sink: Option<LogSink>, payloads: bool) -> Self {
        Self { sink, payloads: payloads && tracing::level_filters::STATIC_MAX_LEVEL >= tracing::Level::INFO }
    }

    /// Whether arguments and results are logged.
    pub(crate) fn payloads(&self) -> bool {
        self.payloads && self.sink.is_some()
    }

    /// Writes a line for a request from the address `peer`, whose client certificate has the subject `client`. `status` 499: the caller went away before the answer.
    pub(crate) fn write(
        &self,
        (peer, client): (&str, Option<&str>),
        line: &RequestInfo,
        facts: &Facts,
        took: Duration,
        status: u16,
        response_bytes: Option<u64>,
    ) {
        let Some(sink) = &self.sink else { return };
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(br#"{"timestamp":""#);
        timestamp(line.arrived + took, &mut out);
        out.extend_from_slice(br#"","level":"INFO","message":"request","request":{"method":"#);
        string(&mut out, line.method.as_str());
        member(&mut out, r#","path":"#, Some(&line.path));
        if let Some(method) = &facts.rpc_method {
            member(&mut out, r#","rpc_method":"#, Some(method));
        }
        member(&mut out, r#","tool":"#, facts.tool.as_deref());
        member(&mut out, r#","server":"#, facts.server.as_ref().map(|server| server.name.as_str()));
        number_member(&mut out, r#","bytes":"#, facts.bytes as u64);
        if let Some(arguments) = &facts.arguments {
            member(&mut out, r#","arguments":"#, Some(&masked(arguments)));
        }
        out.extend_from_slice(br#"},"response":{"bytes":"#);
        match response_bytes {
            Some(bytes) => number(&mut out, bytes),
            None => out.extend_from_slice(b"null"),
        }
        member(&mut out, r#","outcome":"#, Some(facts.outcome.unwrap_or_else(|| outcome_of(status))));
        if let Some(result) = &facts.result {
            member(&mut out, r#","result":"#, Some(&masked(result)));
        }
        out.push(b'}');
        number_member(&mut out, r#","status_code":"#, status.into());
        out.extend_from_slice(br#","execution_time_ms":"#);
        millis(&mut out, took);
        member(&mut out, r#","remote_addr":"#, Some(peer));
        member(&mut out, r#","user_agent":"#, line.head.fields.text("user-agent").map(clipped));
        member(&mut out, r#","request_id":"#, Some(line.request_id.as_str()));
        member(&mut out, r#","subject":"#, facts.identity.as_deref().map(|identity| identity.subject.as_str()));
        if client.is_some() {
            member(&mut out, r#","client_certificate":"#, client);
        }
        number_member(&mut out, r#","attempts":"#, facts.attempts.into());
        out.extend_from_slice(b"}\n");
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

/// The first 256 characters: a caller may send any.
fn clipped(text: &str) -> &str {
    text.get(..256).unwrap_or(text)
}

/// Text of a request that goes into a line: short.
pub(crate) fn short(text: &str) -> String {
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
        Value::String(text) if text.trim_start().starts_with(['{', '[']) => {
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
        assert_eq!(masked(r#"{"text":"\n {\"token\":\"t\"}"}"#), r#"{"text":"{\"token\":\"***\"}"}"#);
        assert_eq!(masked("secret=1"), "(not shown: it cannot be searched for secrets)");
        let long = masked(&format!(r#"{{"a":"{}"}}"#, "é".repeat(3000)));
        assert!(long.len() <= MAX_PAYLOAD + 3 && long.ends_with('…'));
    }
}
