//! Validates McpServers from sources without an API server.
//!
//! The CRD has the same rules as CEL and schema; each message says what to do.

mod identity;

use url::Url;

use crate::mcpserver::{
    Header, InstructionsMode, McpServerSpec, PROTOCOL_VERSIONS, ServicePort, ServiceRef, Tls, ToolRules, Transport,
};

/// Largest URL, in bytes.
const MAX_URL_BYTES: usize = 2048;

/// Largest size of all headers and identities in a slot, in bytes. With [`MAX_TOOLS_BYTES`] and the bounds of all other fields, a
/// valid server takes no more than [`crate::slots::MAX_ENTRY_BYTES`].
const MAX_HEADERS_BYTES: usize = 12 * 1024;

/// Largest size of all rules about tools in a slot, in bytes.
const MAX_TOOLS_BYTES: usize = 36 * 1024;

/// Headers that carry the protocol itself, or would forward the caller's identity.
const OWN_HEADERS: [&str; 9] = [
    "accept",
    "connection",
    "content-length",
    "content-type",
    "host",
    "mcp-protocol-version",
    "mcp-session-id",
    "te",
    "transfer-encoding",
];

/// MCP forbids passing a caller's token on to a server.
const NEVER_FORWARDED: [&str; 4] = ["authorization", "cookie", "host", "proxy-authorization"];

/// Parses the URL of a server.
///
/// # Errors
/// One sentence with the problem and what to write instead. It never repeats user information.
pub fn check_url(text: &str) -> Result<Url, String> {
    if text.len() > MAX_URL_BYTES {
        return Err(format!("url is longer than {MAX_URL_BYTES} bytes: shorten it"));
    }
    let url = Url::parse(text).map_err(|problem| {
        format!("url is not an absolute URL ({problem}): write http://HOST/PATH or https://HOST/PATH")
    })?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(format!("url has scheme {:?}: use http or https", url.scheme()));
    }
    if url.host_str().is_none_or(str::is_empty) {
        return Err("url has no host: write http://HOST/PATH".into());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("url holds a user name or password: send them with headers[].secretRef instead".into());
    }
    if url.fragment().is_some() {
        return Err("url has a fragment (#...): leave it out".into());
    }
    Ok(url)
}

/// All problems of a spec, one sentence each, in the order of its fields.
pub fn problems(spec: &McpServerSpec) -> Vec<String> {
    let mut found = Vec::new();
    let https = match (&spec.url, &spec.service) {
        (Some(_), Some(_)) | (None, None) => {
            found.push("set exactly one of url and service".into());
            true
        }
        (Some(url), None) => match check_url(url) {
            Ok(url) => url.scheme() == "https",
            Err(problem) => {
                found.push(problem);
                true
            }
        },
        (None, Some(service)) => service.scheme == crate::mcpserver::Scheme::Https,
    };
    if let Some(service) = &spec.service {
        service_ref(service, &mut found);
    }
    let mut check = |ok: bool, text: &str| {
        if !ok {
            found.push(text.to_owned());
        }
    };
    check(spec.weight <= 1000, "weight is over 1000: use 0 to 1000");
    check(spec.priority <= 9, "priority is over 9: use 0 to 9");
    check(
        spec.protocol_version.as_deref().is_none_or(|version| PROTOCOL_VERSIONS.contains(&version)),
        &format!(
            "protocolVersion is not one that the gateway speaks: use one of {}, or leave it out to negotiate",
            PROTOCOL_VERSIONS.join(", ")
        ),
    );
    check(
        spec.transport != Transport::Sse || spec.protocol_version.as_deref().is_none_or(|v| v < "2026-07-28"),
        "protocolVersion 2026-07-28 does not work over transport sse: use streamable-http",
    );
    check((1..=60).contains(&spec.timeouts.connect_seconds), "timeouts.connectSeconds must be from 1 to 60");
    check((1..=3600).contains(&spec.timeouts.request_seconds), "timeouts.requestSeconds must be from 1 to 3600");
    check((10..=86400).contains(&spec.timeouts.idle_seconds), "timeouts.idleSeconds must be from 10 to 86400");
    check(
        (5..=3600).contains(&spec.health_check.interval_seconds),
        "healthCheck.intervalSeconds must be from 5 to 3600",
    );
    check(
        (1..=10).contains(&spec.health_check.unhealthy_threshold),
        "healthCheck.unhealthyThreshold must be from 1 to 10",
    );
    check((1..=10).contains(&spec.health_check.healthy_threshold), "healthCheck.healthyThreshold must be from 1 to 10");
    check(
        (1..=10000).contains(&spec.limits.max_concurrent_requests),
        "limits.maxConcurrentRequests must be from 1 to 10000",
    );
    check(
        spec.pool.as_deref().is_none_or(is_dns_label),
        "pool: use at most 63 of a-z, 0-9 and '-', and neither begin nor end with '-'",
    );
    let own = &spec.client_sessions;
    check((10..=86400).contains(&own.idle_seconds), "clientSessions.idleSeconds must be from 10 to 86400");
    check((1..=100_000).contains(&own.max), "clientSessions.max must be from 1 to 100000");
    check((1..=100_000).contains(&own.max_per_caller), "clientSessions.maxPerCaller must be from 1 to 100000");
    let (mode, text) = (spec.instructions.mode, spec.instructions.text.as_deref());
    check(
        (mode == InstructionsMode::Replace) == text.is_some(),
        "instructions.text belongs to the mode Replace, which needs it",
    );
    check(
        text.is_none_or(|text| (1..=1024).contains(&text.chars().count())),
        "instructions.text must have 1 to 1024 characters",
    );
    headers(spec, &mut found);
    identity::identities(spec, &mut found);
    forwarded(&spec.forward_headers, &mut found);
    allowed_views(&spec.allowed_views.namespaces, &mut found);
    tls(spec.tls.as_ref(), https, &mut found);
    tools(&spec.tools, &mut found);
    found
}

fn service_ref(service: &ServiceRef, found: &mut Vec<String>) {
    if !is_dns_label(&service.name) {
        found.push("service.name: use the name of a Service of the same namespace".into());
    }
    let fits = match &service.port {
        ServicePort::Number(number) => *number > 0,
        ServicePort::Name(name) => name.len() <= 15 && is_dns_label(name),
    };
    if !fits {
        found.push("service.port must be a number from 1 to 65535 or the name of a port".into());
    }
    if service.path.as_deref().is_some_and(|path| !is_path(path)) {
        found.push("service.path must begin with / and contain no space or #".into());
    }
}

fn is_path(path: &str) -> bool {
    path.starts_with('/') && path.len() <= 1024 && path.bytes().all(|b| b.is_ascii_graphic() && b != b'#')
}

/// Whether a name is a DNS label: 1 to 63 of `a-z`, `0-9` and `-`, not `-` at an end (RFC 1123).
pub fn is_dns_label(name: &str) -> bool {
    let inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    (1..=63).contains(&name.len()) && name.bytes().all(inner) && !name.starts_with('-') && !name.ends_with('-')
}

/// Whether a pattern for names holds only what such names may hold, and `*`.
pub(crate) fn is_pattern(pattern: &str, more: &str) -> bool {
    let fits = |letter: char| matches!(letter, 'a'..='z' | '0'..='9' | '*') || more.contains(letter);
    !pattern.is_empty() && pattern.chars().all(fits)
}

/// The text of an error without its double-quoted parts: they are values, which may be secrets.
pub fn without_values(error: &str) -> String {
    let parts: Vec<&str> = error.split('"').collect();
    match parts.as_slice() {
        [first, .., last] => format!("{first}\"...\"{last}"),
        _ => error.to_owned(),
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

fn headers(spec: &McpServerSpec, found: &mut Vec<String>) {
    if spec.headers.len() > 32 {
        found.push("headers has more than 32 entries: remove some".into());
    }
    headers_of(&spec.headers, "headers", found);
    let bytes = spec.headers.iter().map(bytes_of_header).sum::<usize>();
    if bytes > MAX_HEADERS_BYTES {
        found.push("headers exceed 12 KiB in total: shorten or remove some".into());
    } else if bytes + identity::bytes_of_identities(spec) > MAX_HEADERS_BYTES {
        found.push(
            "headers, listing.headers, identity and forwardCallerToken exceed 12 KiB in total: shorten or remove some"
                .into(),
        );
    }
}

fn headers_of(headers: &[Header], field: &str, found: &mut Vec<String>) {
    let mut seen = Vec::new();
    for header in headers {
        let (name, lower) = (&header.name, header.name.to_ascii_lowercase());
        if !is_token(name) {
            found.push(format!("{field}: {name:?} is not a header name"));
        } else if OWN_HEADERS.contains(&lower.as_str()) || lower.starts_with("mcp-param-") {
            found.push(format!("{field}: {name} is set by the gateway itself: leave it out"));
        }
        if header.value.is_some() == header.secret_ref.is_some() {
            found.push(format!("{field}: {name}: set exactly one of value and secretRef"));
        }
        let parts = [header.value.as_deref(), header.prefix.as_deref()];
        if parts.into_iter().flatten().any(|text| text.bytes().any(|b| (b < 0x20 && b != b'\t') || b == 0x7f)) {
            found.push(format!("{field}: {name}: value and prefix must not contain control characters"));
        }
        if let Some(reference) = &header.secret_ref {
            file_name(&reference.name, &format!("{field}: {name}: secretRef.name"), found);
            file_name(&reference.key, &format!("{field}: {name}: secretRef.key"), found);
        }
        if seen.contains(&lower) {
            found.push(format!("{field}: {name} appears twice: keep one of them"));
        }
        seen.push(lower);
    }
}

/// Bytes of a text in JSON, with its quotes.
fn quoted(text: &str) -> usize {
    serde_json::to_string(text).map_or(usize::MAX, |text| text.len())
}

/// Bytes of a header in JSON, with some to spare for its punctuation. The definition counts only characters.
fn bytes_of_header(header: &Header) -> usize {
    let texts = [Some(&header.name), header.prefix.as_ref(), header.value.as_ref()];
    let reference = header.secret_ref.as_ref().map_or(0, |it| it.name.len() + it.key.len());
    50 + texts.into_iter().flatten().map(|text| quoted(text)).sum::<usize>() + reference
}

/// The same for rules about tools.
fn bytes_of_tools(rules: &ToolRules) -> usize {
    let names = rules.include.iter().chain(&rules.exclude).map(|pattern| 1 + quoted(pattern));
    let changes = rules.overrides.iter().map(|change| {
        let texts = [Some(&change.name), change.rename.as_ref(), change.description.as_ref()];
        let hints = if change.annotations.is_some() { 110 } else { 0 };
        40 + texts.into_iter().flatten().map(|text| quoted(text)).sum::<usize>() + hints
    });
    names.sum::<usize>() + changes.sum::<usize>()
}

fn forwarded(names: &[String], found: &mut Vec<String>) {
    if names.len() > 16 {
        found.push("forwardHeaders has more than 16 entries: remove some".into());
    }
    for name in names {
        if !is_token(name) || name.bytes().any(|b| b.is_ascii_uppercase()) {
            found.push(format!("forwardHeaders: {name:?} is not a header name in lower case"));
        } else if NEVER_FORWARDED.contains(&name.as_str()) || OWN_HEADERS.contains(&name.as_str()) {
            found.push(format!("forwardHeaders: the gateway must not forward {name}: leave it out"));
        } else if name.starts_with("x-") && name.ends_with("-authorization") {
            found.push(format!("forwardHeaders: {name} is a credential for one server: use forwardCallerToken"));
        }
    }
}

fn allowed_views(namespaces: &[String], found: &mut Vec<String>) {
    if namespaces.len() > 32 {
        found.push("allowedViews.namespaces has more than 32 entries: use *".into());
    }
    let fits = |name: &String| name.len() <= 63 && is_pattern(name, "-");
    if !namespaces.iter().all(fits) {
        found.push("allowedViews.namespaces: a name holds 1 to 63 of a-z, 0-9, '-' and '*'".into());
    }
}

fn tls(tls: Option<&Tls>, https: bool, found: &mut Vec<String>) {
    let Some(tls) = tls else { return };
    if !https {
        found.push("tls is set but the URL is not https: use https or leave tls out".into());
    }
    if let Some(ca) = &tls.ca_ref {
        file_name(&ca.name, "tls.caRef.name", found);
        file_name(&ca.key, "tls.caRef.key", found);
    }
    if let Some(certificate) = &tls.client_cert_ref {
        file_name(&certificate.name, "tls.clientCertRef.name", found);
    }
}

/// Names of objects and their keys become paths where Secrets are mounted.
fn file_name(name: &str, field: &str, found: &mut Vec<String>) {
    let plain = name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
    if !plain || name.is_empty() || name.len() > 253 || name.starts_with('.') {
        found.push(format!(
            "{field}: {name:?} is not a valid name: use letters, digits, '-', '_' and '.', and do not begin with '.'"
        ));
    }
}

/// Whether a tool's name is one that MCP allows: 1 to 128 characters of `A-Za-z0-9_.-`.
pub fn is_tool_name(name: &str) -> bool {
    (1..=128).contains(&name.len()) && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.-".contains(&b))
}

fn tools(rules: &ToolRules, found: &mut Vec<String>) {
    if let Some(prefix) = rules.prefix.as_deref().filter(|prefix| !prefix.is_empty())
        && (prefix.len() > 32 || !is_tool_name(prefix))
    {
        found.push("tools.prefix: use at most 32 of A-Z a-z 0-9 _ . -".into());
    }
    for (field, list) in
        [("include", rules.include.len()), ("exclude", rules.exclude.len()), ("overrides", rules.overrides.len())]
    {
        if list > 128 {
            found.push(format!("tools.{field} has more than 128 entries: remove some"));
        }
    }
    if bytes_of_tools(rules) > MAX_TOOLS_BYTES {
        found.push("tools exceed 36 KiB in total: shorten descriptions or remove entries".into());
    }
    let mut seen = Vec::new();
    for change in &rules.overrides {
        if change.rename.as_deref().is_some_and(|name| name.len() > 64 || !is_tool_name(name)) {
            found.push(format!("tools.overrides: {}: rename to at most 64 of A-Z a-z 0-9 _ . -", change.name));
        }
        if seen.contains(&&change.name) {
            found.push(format!("tools.overrides: {} appears twice: keep one of them", change.name));
        }
        seen.push(&change.name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::slots::MAX_ENTRY_BYTES;

    /// `e2e/tests/control_plane` puts the same cases to a real API server.
    #[derive(serde::Deserialize)]
    struct Cases {
        good: Vec<McpServerSpec>,
        bad: Vec<BadSpec>,
    }

    #[derive(serde::Deserialize)]
    struct BadSpec {
        spec: McpServerSpec,
        rules: String,
    }

    fn cases() -> Cases {
        serde_yaml::from_str(include_str!("../testdata/rules.yaml")).unwrap()
    }

    #[test]
    fn good_specs_have_no_problems() {
        for spec in cases().good {
            assert_eq!(problems(&spec), Vec::<String>::new(), "{spec:?}");
        }
    }

    #[test]
    fn bad_specs_are_told_what_to_do() {
        for BadSpec { spec, rules } in cases().bad {
            let problems = problems(&spec);
            assert!(problems.len() == 1 && problems[0].contains(&rules), "{spec:?} gives {problems:?}");
        }
    }

    fn over(count: usize, description: String) -> McpServerSpec {
        let overrides: Vec<_> =
            (0..count).map(|n| serde_json::json!({"name": format!("t{n}"), "description": description})).collect();
        let headers: Vec<_> =
            (0..3).map(|n| serde_json::json!({"name": format!("h{n}"), "value": "v".repeat(4000)})).collect();
        let forwarded: Vec<_> = (0..16).map(|n| format!("{n:x<128}")).collect();
        let long = |length: usize| "n".repeat(length);
        serde_json::from_value(serde_json::json!({
            "url": format!("https://a/{}", "\"".repeat(MAX_URL_BYTES - 10)),
            "displayName": "\u{1f9f1}".repeat(128),
            "description": "\u{1f9f1}".repeat(1024),
            "headers": headers,
            "forwardHeaders": forwarded,
            "tls": {
                "caRef": {"kind": "ConfigMap", "name": long(253), "key": long(253)},
                "clientCertRef": {"name": long(253)},
                "serverName": "\u{1f9f1}".repeat(253),
            },
            "session": "PerClient",
            "clientSessions": {"idleSeconds": 86399, "max": 99999, "maxPerCaller": 99999},
            "instructions": {"mode": "Replace", "text": "\u{1f9f1}".repeat(1024)},
            "allowedViews": {"namespaces": vec![long(63); 32]},
            "tools": {"prefix": long(32), "overrides": overrides},
        }))
        .unwrap()
    }

    #[test]
    fn a_valid_server_takes_no_more_than_64_kib_and_a_larger_one_is_refused() {
        for description in ["d".repeat(226), "\"".repeat(112), "\u{1f9f1}".repeat(56)] {
            let mut server = crate::McpServer::new(&"n".repeat(63), over(128, description.clone()));
            assert_eq!(problems(&server.spec), Vec::<String>::new());
            server.metadata.namespace = Some("n".repeat(63));
            let resolution = crate::resolve([&server], &crate::Policies::default(), "home", crate::Services::Unknown);
            assert_eq!(resolution.verdicts[0].refusal, None);
            let bytes = resolution.snapshot.servers[0].to_text().len();
            assert!((56 * 1024..=MAX_ENTRY_BYTES).contains(&bytes), "{bytes}");
            let problems = problems(&over(128, description.repeat(2)));
            assert_eq!(problems, ["tools exceed 36 KiB in total: shorten descriptions or remove entries"]);
        }
        // A control character takes six bytes, and the definition counts one.
        let server = crate::McpServer::new("a", over(10, "\u{1}".repeat(4096)));
        let refusal = crate::resolve([&server], &crate::Policies::default(), "home", crate::Services::Unknown)
            .verdicts
            .remove(0)
            .refusal
            .unwrap();
        assert_eq!(refusal.reason, crate::Reason::Invalid);
    }

    #[test]
    fn a_url_may_be_2048_bytes_long() {
        let url = |length: usize| format!("http://a/{}", "x".repeat(length - 9));
        assert!(check_url(&url(MAX_URL_BYTES)).is_ok());
        assert!(check_url(&url(MAX_URL_BYTES + 1)).unwrap_err().ends_with("shorten it"));
    }
}
