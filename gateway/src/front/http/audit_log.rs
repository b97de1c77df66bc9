//! Writes the audit log: one JSON line for each decision on a call, a prompt or the reading of a resource. Never arguments.
//!
//! Not sampled and apart from the access log. Lines that cannot be written are kept and tried again, up to a bound.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use portcullis_access::CompiledRule;
use portcullis_crds::ServerKey;
use portcullis_runtime::LogSink;
use portcullis_runtime::log::timestamp;

use crate::auth::Identity;
use crate::front::http::json_line::{member, millis, number_member, string};

/// Bytes that a line may take: five texts of callers, at most ten names of objects, and what is always there.
const MAX_LINE: usize = 5 * 1024;

/// Bytes of one text in a line, escaped: longer ones are cut.
const MAX_TEXT: usize = 512;

/// Writes the lines of all decisions.
pub(crate) struct AuditLog {
    sink: LogSink,
    /// Refuse calls rather than lose lines.
    refuses: bool,
    /// Calls whose lines are to come.
    under_way: AtomicUsize,
}

/// What was decided.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// The call was made.
    Allowed,
    /// No rule allows it.
    Denied,
    /// The limit of every rule that allows it is used up.
    Limited,
}

/// One decision.
pub(crate) struct AuditLine<'a> {
    /// When the request came.
    pub(crate) arrived: SystemTime,
    /// The id of the request.
    pub(crate) request_id: &'a str,
    /// The caller.
    pub(crate) identity: &'a Identity,
    /// `tools/call`, `prompts/get` or `resources/read`.
    pub(crate) method: &'a str,
    /// The tool, the prompt or the URI, as the caller named it.
    pub(crate) name: &'a str,
    /// SHA-256 of the arguments as the caller sent them; `None`: there were none.
    pub(crate) args: Option<&'a [u8; 32]>,
    /// The server that answered, or that would have.
    pub(crate) server: Option<&'a ServerKey>,
    /// What was decided.
    pub(crate) verdict: Verdict,
    /// By which rule; `None`: by none.
    pub(crate) rule: Option<&'a CompiledRule>,
    /// The policies for want of whose rules it was denied, or would have been.
    pub(crate) policies: &'a [ServerKey],
    /// Policies in `Audit` mode would have denied it.
    pub(crate) would_deny: bool,
    /// Why it was denied, or would have been.
    pub(crate) reason: Option<&'static str>,
    /// The HTTP status of the answer.
    pub(crate) status: u16,
    /// A word for what became of the call.
    pub(crate) outcome: &'a str,
    /// How long it took.
    pub(crate) took: Duration,
}

impl AuditLog {
    /// Lines go to `sink`.
    pub(crate) fn new(sink: LogSink, refuses: bool) -> Self {
        Self { sink, refuses, under_way: AtomicUsize::new(0) }
    }

    /// Makes room for the line of a call that is about to be made; false if the call must not be made without.
    pub(crate) fn begin(&self) -> bool {
        let reserved = self.under_way.fetch_add(1, Ordering::Relaxed).saturating_add(1).saturating_mul(MAX_LINE);
        let fits = !self.refuses || (!self.sink.is_failing() && self.sink.has_room(reserved));
        if !fits {
            self.cancel();
        }
        fits
    }

    /// Gives back the room of a call that is not made after all.
    pub(crate) fn cancel(&self) {
        self.under_way.fetch_sub(1, Ordering::Relaxed);
    }

    /// Writes the line of a call that [`AuditLog::begin`] made room for.
    pub(crate) fn end(&self, line: &AuditLine<'_>) {
        self.sink.append(&line.bytes());
        self.cancel();
    }

    /// Writes the line of a call that is refused. It takes no room that is reserved: nobody can make room scarce for the
    /// lines of calls by asking for what is denied.
    pub(crate) fn write(&self, line: &AuditLine<'_>) {
        let reserved = if self.refuses { self.under_way.load(Ordering::Relaxed).saturating_mul(MAX_LINE) } else { 0 };
        self.sink.append_leaving(&line.bytes(), reserved);
    }
}

impl Verdict {
    fn as_str(self) -> &'static str {
        match self {
            Self::Allowed => "allowed",
            Self::Denied => "denied",
            Self::Limited => "limited",
        }
    }
}

impl AuditLine<'_> {
    fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(768);
        self.write_to(&mut out);
        out
    }

    fn write_to(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(br#"{"timestamp":""#);
        timestamp(self.arrived + self.took, out);
        out.extend_from_slice(br#"","stream":"audit""#);
        member(out, r#","request_id":"#, Some(cut(self.request_id)));
        member(out, r#","subject":"#, Some(cut(&self.identity.subject)));
        member(out, r#","issuer":"#, self.identity.issuer.as_deref().map(cut));
        out.extend_from_slice(br#","service_account":"#);
        match self.identity.caller().service_account() {
            Some((namespace, name)) => string(out, cut(&format!("{namespace}/{name}"))),
            None => out.extend_from_slice(b"null"),
        }
        member(out, r#","method":"#, Some(self.method));
        let kind = match self.method {
            "prompts/get" => r#","prompt":"#,
            "resources/read" => r#","resource":"#,
            _ => r#","tool":"#,
        };
        member(out, kind, Some(cut(self.name)));
        self.write_decision(out);
        number_member(out, r#","status":"#, self.status.into());
        member(out, r#","outcome":"#, Some(self.outcome));
        out.extend_from_slice(br#","duration_ms":"#);
        millis(out, self.took);
        member(out, r#","args_sha256":"#, self.args.map(hex).as_deref());
        out.extend_from_slice(b"}\n");
    }

    fn write_decision(&self, out: &mut Vec<u8>) {
        let name = |key: &ServerKey| cut(&key.to_string()).to_owned();
        member(out, r#","server":"#, self.server.map(name).as_deref());
        member(out, r#","decision":"#, Some(self.verdict.as_str()));
        member(out, r#","policy":"#, self.rule.map(|rule| name(&rule.policy)).as_deref());
        member(out, r#","rule":"#, self.rule.map(|rule| rule.name.as_str()));
        let enforced = self.rule.is_some() || self.verdict != Verdict::Allowed;
        let mode = if self.would_deny { Some("Audit") } else { enforced.then_some("Enforce") };
        member(out, r#","mode":"#, mode);
        member(out, r#","reason":"#, self.reason);
        out.extend_from_slice(br#","policies":["#);
        for (at, policy) in self.policies.iter().enumerate() {
            if at > 0 {
                out.push(b',');
            }
            string(out, &name(policy));
        }
        out.push(b']');
    }
}

/// SHA-256 of a text.
pub(crate) fn sha256(text: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    bytes
}

fn hex(bytes: &[u8; 32]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The beginning of a text, as much as takes [`MAX_TEXT`] bytes in JSON.
fn cut(text: &str) -> &str {
    let mut bytes = 0;
    let end = text.char_indices().find(|(_, one)| {
        bytes += match one {
            '"' | '\\' => 2,
            '\0'..='\x1f' => 6,
            one => one.len_utf8(),
        };
        bytes > MAX_TEXT
    });
    text.get(..end.map_or(text.len(), |(at, _)| at)).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::{AccessFacts, SubjectId};

    fn identity(subject: &str) -> Identity {
        Identity {
            subject: subject.into(),
            issuer: Some("https://idp.example".into()),
            expires_at: SystemTime::UNIX_EPOCH,
            claims: "{}".into(),
            subject_id: SubjectId::new(None, subject),
            access: AccessFacts::of_only_source(),
        }
    }

    fn text(line: &AuditLine<'_>) -> String {
        let mut out = Vec::new();
        line.write_to(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_line_tells_who_asked_for_what_and_why_it_was_decided_so() {
        let (identity, server) = (identity("alice"), ServerKey::new("team-a", "search"));
        let digest = sha256("{}");
        let line = AuditLine {
            arrived: SystemTime::UNIX_EPOCH,
            request_id: "r1",
            identity: &identity,
            method: "tools/call",
            name: "get",
            args: Some(&digest),
            server: Some(&server),
            verdict: Verdict::Denied,
            rule: None,
            policies: &[ServerKey::new("team-a", "readers")],
            would_deny: false,
            reason: Some("no_rule"),
            status: 403,
            outcome: "denied",
            took: Duration::from_micros(1_500),
        };
        let expected = concat!(
            r#"{"timestamp":"1970-01-01T00:00:00.001Z","stream":"audit","request_id":"r1","subject":"alice","#,
            r#""issuer":"https://idp.example","service_account":null,"method":"tools/call","tool":"get","#,
            r#""server":"team-a/search","decision":"denied","policy":null,"rule":null,"mode":"Enforce","reason":"no_rule","#,
            r#""policies":["team-a/readers"],"status":403,"outcome":"denied","duration_ms":1.500,"#,
            r#""args_sha256":"44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a"}"#,
            "\n"
        );
        assert_eq!(text(&line), expected);
        let audited = AuditLine { verdict: Verdict::Allowed, would_deny: true, args: None, ..line };
        let told = |line: &AuditLine<'_>| -> [serde_json::Value; 3] {
            let mut line: serde_json::Value = serde_json::from_str(&text(line)).unwrap();
            ["decision", "mode", "args_sha256"].map(|member| line[member].take())
        };
        assert_eq!(told(&audited), ["allowed".into(), "Audit".into(), serde_json::Value::Null]);
        let open = AuditLine { would_deny: false, policies: &[], reason: None, ..audited };
        assert_eq!(told(&open), ["allowed".into(), serde_json::Value::Null, serde_json::Value::Null]);
    }

    #[test]
    fn lines_of_what_is_refused_take_no_room_from_calls_under_way() {
        /// Takes nothing until the test ends.
        struct Stuck(std::sync::mpsc::Receiver<()>);
        impl std::io::Write for Stuck {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                let _ = self.0.recv();
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let (end, stuck) = std::sync::mpsc::channel();
        let (sink, guard) = LogSink::keeping(Stuck(stuck)).unwrap();
        let (log, identity) = (AuditLog::new(sink.clone(), true), identity(&"s".repeat(600)));
        let line = AuditLine {
            arrived: SystemTime::UNIX_EPOCH,
            request_id: "r1",
            identity: &identity,
            method: "tools/call",
            name: "get",
            args: None,
            server: None,
            verdict: Verdict::Denied,
            rule: None,
            policies: &[],
            would_deny: false,
            reason: Some("no_rule"),
            status: 403,
            outcome: "denied",
            took: Duration::ZERO,
        };
        let under_way = (0..100).filter(|_| log.begin()).count();
        assert_eq!(under_way, 100);
        while sink.dropped() == 0 {
            log.write(&line);
        }
        let dropped = sink.dropped();
        assert!(!log.begin(), "there is no room for another call");
        (0..under_way).for_each(|_| log.end(&line));
        assert_eq!((sink.dropped(), log.under_way.load(Ordering::Relaxed)), (dropped, 0));
        drop(end);
        drop(guard);
    }

    #[test]
    fn a_line_is_never_longer_than_what_is_reserved_for_it() {
        for hostile in ["\u{1}", "\"", "x", "\u{1F600}"] {
            let long = hostile.repeat(10_000);
            let mut identity = identity(&long);
            identity.issuer = Some(long.clone());
            let name = ServerKey::new("n".repeat(63), "s".repeat(63));
            let policies = vec![name.clone(); 8];
            let line = AuditLine {
                arrived: SystemTime::now(),
                request_id: &long,
                identity: &identity,
                method: "resources/read",
                name: &long,
                args: Some(&[0; 32]),
                server: Some(&name),
                verdict: Verdict::Limited,
                rule: None,
                policies: &policies,
                would_deny: false,
                reason: Some("unknown_policies"),
                status: 429,
                outcome: "unavailable",
                took: Duration::from_secs(1_000_000),
            };
            let text = text(&line);
            assert!(text.len() <= MAX_LINE, "{}", text.len());
            assert!(serde_json::from_str::<serde_json::Value>(&text).is_ok(), "{text}");
        }
    }
}
