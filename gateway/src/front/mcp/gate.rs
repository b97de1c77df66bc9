//! Who may come in from where: the page that asks (`Origin`), and the name by which the gateway is asked (`Host`).
//!
//! A page that has its own name lead to the gateway's address (DNS rebinding) shows both as that name. Source: MCP
//! 2026-07-28, streamable HTTP, "Security warning".

use std::net::{IpAddr, Ipv6Addr};

use axum::extract::Request;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode, header, uri::Authority};
use portcullis_runtime::serve::{Fields, as_text};
use thiserror::Error;
use url::Url;

use crate::front::observe::recorder;
use crate::front::{ApiError, App};
use crate::setting_names::Setting;

const ORIGIN: &str = "origin";

/// How long a browser may remember what it was allowed, in seconds.
const REMEMBER: &str = "600";
const METHODS: &str = "GET, POST, DELETE";
/// What pages may read of answers besides the body.
const SHOWN: &str = "Mcp-Session-Id, MCP-Protocol-Version, WWW-Authenticate, X-Request-Id, Retry-After";

/// Which origins and hosts are admitted.
#[derive(Clone, Debug)]
pub struct Rules {
    /// Origins of pages.
    pub origins: Origins,
    /// Names of the gateway; with none, any will do.
    pub hosts: Vec<AllowedHost>,
    /// Where callers find the gateway: its origin and its host are admitted.
    pub public: Option<Url>,
}

/// Origins of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origins {
    /// Any.
    All,
    /// These.
    Listed(Vec<Origin>),
}

/// The origin of a page, as browsers write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Origin(String);

/// A name of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AllowedHost {
    /// In lower case; with a dot at its beginning, everything below it.
    name: String,
    /// Any, if none is given.
    port: Option<u16>,
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    /// A page of another origin sent it.
    #[error("pages of this origin may not use the gateway: add the origin to {}", Setting::AllowedOrigins.name())]
    Origin,
    /// It was meant for another name.
    #[error("the gateway does not go by this name: use another, or add it to {}", Setting::AllowedHosts.name())]
    Host,
}

impl Refused {
    /// As a metric label.
    pub const fn kind(self) -> &'static str {
        match self {
            Self::Origin => "origin",
            Self::Host => "host",
        }
    }

    /// Both, for docs/metrics.md.
    pub const ALL: [Self; 2] = [Self::Origin, Self::Host];
}

/// Admits requests.
#[derive(Clone, Debug)]
pub struct Gate {
    rules: Rules,
    public: Option<Origin>,
}

impl Gate {
    /// By these rules.
    pub fn new(rules: Rules) -> Self {
        let public = rules.public.as_ref().map(|url| Origin(url.origin().ascii_serialization()));
        Self { rules, public }
    }

    /// Whether a request with these headers may come in.
    ///
    /// # Errors
    /// Why not: HTTP status 403.
    pub fn admits(&self, fields: &Fields) -> Result<(), Refused> {
        if self.rules.hosts.is_empty() && fields.get(ORIGIN).is_none() {
            return Ok(());
        }
        let host = host(fields);
        if !self.rules.hosts.is_empty() && !host.as_ref().is_some_and(|host| self.knows(host)) {
            return Err(Refused::Host);
        }
        let mut origins = fields.all(ORIGIN);
        match (origins.next(), origins.next()) {
            (None, _) => Ok(()),
            (Some(origin), None) if self.admits_origin(origin, host.as_ref()) => Ok(()),
            _ => Err(Refused::Origin),
        }
    }

    fn admits_origin(&self, origin: &[u8], host: Option<&Authority>) -> bool {
        let Origins::Listed(listed) = &self.rules.origins else { return true };
        let Some(origin) = as_text(origin).and_then(Origin::parse) else { return false };
        listed.contains(&origin)
            || self.public.as_ref() == Some(&origin)
            || host.is_some_and(|host| self.is_own(&origin, host))
    }

    /// Whether the page came from the gateway itself: from the very host that is asked, by a name that cannot lie.
    fn is_own(&self, origin: &Origin, host: &Authority) -> bool {
        let sure = is_loopback(host.host()) || ip(host.host()).is_some() || !self.rules.hosts.is_empty();
        let same = |scheme: &str| Origin::parse(&format!("{scheme}://{host}")).as_ref() == Some(origin);
        sure && (same("http") || same("https"))
    }

    fn knows(&self, host: &Authority) -> bool {
        let name = host.host().trim_end_matches('.').to_ascii_lowercase();
        let port = host.port_u16();
        let listed = |allowed: &AllowedHost| {
            let named = match allowed.name.strip_prefix('.') {
                Some(_) => name.ends_with(&allowed.name),
                None => name == allowed.name,
            };
            named && allowed.port.is_none_or(|allowed| port == Some(allowed))
        };
        let in_cluster = name.ends_with(".svc") || name.ends_with(".svc.cluster.local");
        let public = self.rules.public.as_ref().and_then(Url::host_str).is_some_and(|public| public == name);
        in_cluster || public || is_loopback(&name) || ip(&name).is_some() || self.rules.hosts.iter().any(listed)
    }
}

impl Origin {
    /// Reads `scheme://host[:port]`, or `null`. A slash at the end, upper case and the usual port make no difference.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        if text.eq_ignore_ascii_case("null") {
            return Some(Self("null".to_owned()));
        }
        let text = text.strip_suffix('/').unwrap_or(text).to_ascii_lowercase();
        let (scheme, rest) = text.split_once("://")?;
        let plain = !rest.is_empty() && rest.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~:[]".contains(&b));
        if !plain || !scheme.starts_with(|first: char| first.is_ascii_alphabetic()) {
            return None;
        }
        let url = Url::parse(&text).ok()?;
        // Of other schemes, such as those of extensions, no origin is defined: their text counts.
        Some(Self(if url.origin().is_tuple() { url.origin().ascii_serialization() } else { text }))
    }
}

impl AllowedHost {
    /// Reads `name`, `name:port`, `*.name` or `*.name:port`.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.to_ascii_lowercase();
        let (below, rest) = text.strip_prefix("*.").map_or((false, text.as_str()), |rest| (true, rest));
        let authority: Authority = rest.parse().ok()?;
        let name = authority.host();
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._".contains(&b);
        let valid = ip(name).is_some() || (!name.starts_with('.') && name.bytes().all(plain));
        let with_port = authority.as_str().len() > name.len();
        if !valid || name.is_empty() || (with_port && authority.port_u16().is_none()) {
            return None;
        }
        Some(Self { name: format!("{}{name}", if below { "." } else { "" }), port: authority.port_u16() })
    }
}

/// The one host that a request is for, if it names one that is well-formed.
pub(super) fn host(fields: &Fields) -> Option<Authority> {
    let mut hosts = fields.all("host");
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return None };
    let host: Authority = as_text(host)?.parse().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    (!host.host().is_empty() && host.as_str().bytes().all(plain)).then_some(host)
}

/// Whether a host is this machine, whoever answers for names.
pub fn is_loopback(host: &str) -> bool {
    let name = host.trim_end_matches('.').to_ascii_lowercase();
    name == "localhost" || name.ends_with(".localhost") || ip(&name).is_some_and(|ip| ip.is_loopback())
}

/// The address that a host is, if it is no name.
fn ip(host: &str) -> Option<IpAddr> {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(v6) => v6.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
        None => host.parse().ok(),
    }
}

// === around requests ===

/// Refuses who is not admitted, and tells browsers that an admitted page may read the answer.
///
/// Routes below it take `OPTIONS` with [`preflight`].
pub async fn keep(request: Request, next: Next) -> Response {
    let recorder = recorder(&request);
    match admitted(recorder.app(), &recorder.head().fields) {
        Ok(origin) => {
            let mut response = next.run(request).await;
            show_to(origin, &mut response);
            response
        }
        Err(refused) => refused.into_response(),
    }
}

/// The page that a request comes from, if it comes from one.
///
/// # Errors
/// It is not admitted.
pub(super) fn admitted(app: &App, fields: &Fields) -> Result<Option<HeaderValue>, ApiError> {
    match app.gate.admits(fields) {
        Ok(()) => Ok(fields.get(ORIGIN).and_then(|origin| HeaderValue::from_bytes(origin).ok())),
        Err(refused) => {
            app.metrics.gate_refusals.with_label_values(&[refused.kind()]).inc();
            Err(ApiError::Gate(refused))
        }
    }
}

/// Tells a browser that this page may read the answer.
pub(super) fn show_to(origin: Option<HeaderValue>, response: &mut Response) {
    let Some(origin) = origin else { return };
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
    headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(SHOWN));
    headers.append(header::VARY, HeaderValue::from_static("Origin"));
}

/// Answers `OPTIONS`: what a browser asks before it sends the request of a page.
pub async fn preflight(asked: HeaderMap) -> Response {
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(header::ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
    headers.insert(header::ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static(REMEMBER));
    // Arguments of tools may travel as headers of any name, so no list would do.
    if let Some(wanted) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn gate(origins: &[&str], hosts: &[&str]) -> Gate {
        let origins = Origins::Listed(origins.iter().map(|text| Origin::parse(text).unwrap()).collect());
        let hosts = hosts.iter().map(|text| AllowedHost::parse(text).unwrap()).collect();
        Gate::new(Rules { origins, hosts, public: None })
    }

    fn outcome(gate: &Gate, host: &str, origin: Option<&str>) -> Result<(), Refused> {
        let origin = origin.map(|origin| ("Origin", origin));
        gate.admits(&[("Host", host)].into_iter().chain(origin).collect())
    }

    #[test]
    fn an_origin_is_absent_or_listed_or_the_gateway_itself() {
        let gate = gate(&["https://app.example.com", "vscode-webview://Abc", "null"], &[]);
        for origin in [
            None,
            Some("https://app.example.com"),
            Some("https://APP.example.com:443"),
            Some("vscode-webview://abc"),
            Some("null"),
        ] {
            assert_eq!(outcome(&gate, "gateway.example.com", origin), Ok(()), "{origin:?}");
        }
        for origin in [
            "http://app.example.com",
            "https://app.example.com:8443",
            "https://app.example.com.evil.example",
            "https://evil.example/https://app.example.com",
            "https://app.example.com@evil.example",
            "vscode-webview://other",
            "https://gateway.example.com",
            "https://",
            "",
            "*",
        ] {
            assert_eq!(outcome(&gate, "gateway.example.com", Some(origin)), Err(Refused::Origin), "{origin}");
        }
        let twice = [("host", "a"), ("origin", "https://app.example.com"), ("origin", "https://evil.example")];
        assert_eq!(gate.admits(&twice.into_iter().collect()), Err(Refused::Origin));
    }

    #[test]
    fn a_page_of_the_gateway_itself_is_admitted_unless_its_name_could_lie() {
        let gate = gate(&[], &[]);
        for (host, origin) in [
            ("localhost:5000", "http://localhost:5000"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("[::1]:5000", "http://[::1]:5000"),
            ("10.0.0.7", "https://10.0.0.7"),
        ] {
            assert_eq!(outcome(&gate, host, Some(origin)), Ok(()), "{origin}");
        }
        for (host, origin) in [
            ("evil.example.com", "http://evil.example.com"),
            ("localhost:5000", "http://localhost:5001"),
            ("localhost:5000", "http://127.0.0.1:5000"),
            ("localhost.evil.example", "http://localhost.evil.example"),
        ] {
            assert_eq!(outcome(&gate, host, Some(origin)), Err(Refused::Origin), "{origin}");
        }
        let named = super::tests::gate(&[], &["gateway.example.com"]);
        assert_eq!(outcome(&named, "gateway.example.com", Some("https://gateway.example.com")), Ok(()));
        let public = Some(Url::parse("https://gateway.example.com/tools").unwrap());
        let public = Gate::new(Rules { origins: Origins::Listed(vec![]), hosts: vec![], public });
        assert_eq!(outcome(&public, "10.0.0.7", Some("https://gateway.example.com")), Ok(()));
    }

    #[test]
    fn all_origins_are_admitted_when_asked_for() {
        let all = Gate::new(Rules { origins: Origins::All, hosts: vec![], public: None });
        assert_eq!(outcome(&all, "a", Some("https://evil.example")), Ok(()));
    }

    #[test]
    fn hosts_are_looked_at_only_when_some_are_listed() {
        let open = gate(&[], &[]);
        assert_eq!([outcome(&open, "evil.example", None), open.admits(&Fields::default())], [Ok(()); 2]);
        let gate = gate(&[], &["mcp.example.com", "*.tools.example.com:8443"]);
        for host in [
            "mcp.example.com",
            "MCP.example.com.:8080",
            "a.b.tools.example.com:8443",
            "portcullis.mcp.svc",
            "portcullis.mcp.svc.cluster.local:5000",
            "localhost:1",
            "127.0.0.1",
            "10.1.2.3:5000",
            "[fd00::1]:5000",
        ] {
            assert_eq!(outcome(&gate, host, None), Ok(()), "{host}");
        }
        for host in [
            "evil.example",
            "mcp.example.com.evil.example",
            "xmcp.example.com",
            "a.tools.example.com",
            "tools.example.com:8443",
            "svc",
            "evilsvc.cluster.local",
            "user@mcp.example.com",
            "10.1.2",
        ] {
            assert_eq!(outcome(&gate, host, None), Err(Refused::Host), "{host}");
        }
        assert_eq!(gate.admits(&Fields::default()), Err(Refused::Host));
        let twice = [("host", "mcp.example.com"), ("host", "evil.example")];
        assert_eq!(gate.admits(&twice.into_iter().collect()), Err(Refused::Host));
    }

    #[test]
    fn what_is_no_host_cannot_be_listed() {
        for text in ["", "*", "*.", "http://a", "a/b", "a:b", "a:70000", "user@a", "a b", "*.*.a", "a,b"] {
            assert_eq!(AllowedHost::parse(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(host in ".{0,40}", origin in ".{0,40}") {
            let gate = gate(&["https://a"], &["a"]);
            let _ = gate.admits(&[("host", host), ("origin", origin)].into_iter().collect());
        }
    }
}
