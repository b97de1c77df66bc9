//! Admits requests by the page that sends them (`Origin`) and by the name of the gateway that they use (`Host`).
//!
//! A page that has its own name lead to the gateway's address (DNS rebinding) shows both as that name. Source: MCP
//! 2026-07-28, streamable HTTP, "Security warning".

use std::net::{IpAddr, Ipv6Addr};

use http::uri::Authority;
use portcullis_runtime::serve::{Fields, as_text};
use portcullis_runtime::setting_names::Setting;
use thiserror::Error;
use url::Url;

/// The header of a page.
pub(crate) const ORIGIN: &str = "origin";

/// The origins and hosts that are admitted.
#[derive(Clone, Debug)]
pub(crate) struct OriginRules {
    /// Origins of pages.
    pub(crate) origins: Origins,
    /// Names of the gateway; with none, any will do.
    pub(crate) hosts: Vec<AllowedHost>,
    /// The gateway's address for callers: its origin and its host are admitted.
    pub(crate) public: Option<Url>,
}

/// Origins of pages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origins {
    /// Any.
    All,
    /// These.
    Listed(Vec<PageOrigin>),
}

/// The origin of a page, as browsers write it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PageOrigin(String);

/// A name of the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AllowedHost {
    /// In lower case; with a dot at its beginning, everything below it.
    name: String,
    /// Any, if none is given.
    port: Option<u16>,
}

/// Why a request is not admitted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OriginRefusal {
    /// A page of another origin sent it.
    #[error("pages of this origin may not use the gateway: add the origin to {}", Setting::AllowedOrigins.name())]
    Origin,
    /// It was meant for another name.
    #[error("the gateway does not accept this host name: use another, or add this one to {}", Setting::AllowedHosts.name())]
    Host,
}

impl OriginRefusal {
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
pub(crate) struct OriginPolicy {
    rules: OriginRules,
    public: Option<PageOrigin>,
}

impl OriginPolicy {
    /// By these rules.
    pub(crate) fn new(rules: OriginRules) -> Self {
        let public = rules.public.as_ref().map(|url| PageOrigin(url.origin().ascii_serialization()));
        Self { rules, public }
    }

    /// Whether a request with these headers may come in.
    ///
    /// # Errors
    /// Why not: HTTP status 403.
    pub(crate) fn admits(&self, fields: &Fields) -> Result<(), OriginRefusal> {
        if self.rules.hosts.is_empty() && fields.get(ORIGIN).is_none() {
            return Ok(());
        }
        let host = host(fields);
        if !self.rules.hosts.is_empty() && !host.as_ref().is_some_and(|host| self.knows(host)) {
            return Err(OriginRefusal::Host);
        }
        let mut origins = fields.all(ORIGIN);
        match (origins.next(), origins.next()) {
            (None, _) => Ok(()),
            (Some(origin), None) if self.admits_origin(origin, host.as_ref()) => Ok(()),
            _ => Err(OriginRefusal::Origin),
        }
    }

    fn admits_origin(&self, origin: &[u8], host: Option<&Authority>) -> bool {
        let Origins::Listed(listed) = &self.rules.origins else { return true };
        let Some(origin) = as_text(origin).and_then(PageOrigin::parse) else { return false };
        listed.contains(&origin)
            || self.public.as_ref() == Some(&origin)
            || host.is_some_and(|host| self.is_own(&origin, host))
    }

    /// Whether the page came from the gateway itself: from the very host that is asked, by a name that cannot lie.
    fn is_own(&self, origin: &PageOrigin, host: &Authority) -> bool {
        let sure = is_loopback(host.host()) || ip(host.host()).is_some() || !self.rules.hosts.is_empty();
        let same = |scheme: &str| PageOrigin::parse(&format!("{scheme}://{host}")).as_ref() == Some(origin);
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

impl PageOrigin {
    /// Reads `scheme://host[:port]`, or `null`. A slash at the end, upper case and the usual port make no difference.
    pub(crate) fn parse(text: &str) -> Option<Self> {
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
    pub(crate) fn parse(text: &str) -> Option<Self> {
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
pub(crate) fn host(fields: &Fields) -> Option<Authority> {
    let mut hosts = fields.all("host");
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return None };
    let host: Authority = as_text(host)?.parse().ok()?;
    let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    (!host.host().is_empty() && host.as_str().bytes().all(plain)).then_some(host)
}

/// Whether a host is this machine, whatever a name server says.
pub(crate) fn is_loopback(host: &str) -> bool {
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn policy(origins: &[&str], hosts: &[&str]) -> OriginPolicy {
        let origins = Origins::Listed(origins.iter().map(|text| PageOrigin::parse(text).unwrap()).collect());
        let hosts = hosts.iter().map(|text| AllowedHost::parse(text).unwrap()).collect();
        OriginPolicy::new(OriginRules { origins, hosts, public: None })
    }

    fn outcome(policy: &OriginPolicy, host: &str, origin: Option<&str>) -> Result<(), OriginRefusal> {
        let origin = origin.map(|origin| ("Origin", origin));
        policy.admits(&[("Host", host)].into_iter().chain(origin).collect())
    }

    #[test]
    fn an_origin_is_absent_or_listed_or_the_gateway_itself() {
        let policy = policy(&["https://app.example.com", "vscode-webview://Abc", "null"], &[]);
        for origin in [
            None,
            Some("https://app.example.com"),
            Some("https://APP.example.com:443"),
            Some("vscode-webview://abc"),
            Some("null"),
        ] {
            assert_eq!(outcome(&policy, "gateway.example.com", origin), Ok(()), "{origin:?}");
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
            assert_eq!(outcome(&policy, "gateway.example.com", Some(origin)), Err(OriginRefusal::Origin), "{origin}");
        }
        let twice = [("host", "a"), ("origin", "https://app.example.com"), ("origin", "https://evil.example")];
        assert_eq!(policy.admits(&twice.into_iter().collect()), Err(OriginRefusal::Origin));
    }

    #[test]
    fn a_page_of_the_gateway_itself_is_admitted_unless_its_name_could_lie() {
        let policy = policy(&[], &[]);
        for (host, origin) in [
            ("localhost:5000", "http://localhost:5000"),
            ("127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("[::1]:5000", "http://[::1]:5000"),
            ("10.0.0.7", "https://10.0.0.7"),
        ] {
            assert_eq!(outcome(&policy, host, Some(origin)), Ok(()), "{origin}");
        }
        for (host, origin) in [
            ("evil.example.com", "http://evil.example.com"),
            ("localhost:5000", "http://localhost:5001"),
            ("localhost:5000", "http://127.0.0.1:5000"),
            ("localhost.evil.example", "http://localhost.evil.example"),
        ] {
            assert_eq!(outcome(&policy, host, Some(origin)), Err(OriginRefusal::Origin), "{origin}");
        }
        let named = super::tests::policy(&[], &["gateway.example.com"]);
        assert_eq!(outcome(&named, "gateway.example.com", Some("https://gateway.example.com")), Ok(()));
        let public = Some(Url::parse("https://gateway.example.com/tools").unwrap());
        let public = OriginPolicy::new(OriginRules { origins: Origins::Listed(vec![]), hosts: vec![], public });
        assert_eq!(outcome(&public, "10.0.0.7", Some("https://gateway.example.com")), Ok(()));
    }

    #[test]
    fn all_origins_are_admitted_when_asked_for() {
        let all = OriginPolicy::new(OriginRules { origins: Origins::All, hosts: vec![], public: None });
        assert_eq!(outcome(&all, "a", Some("https://evil.example")), Ok(()));
    }

    #[test]
    fn hosts_are_looked_at_only_when_some_are_listed() {
        let open = policy(&[], &[]);
        assert_eq!([outcome(&open, "evil.example", None), open.admits(&Fields::default())], [Ok(()); 2]);
        let policy = policy(&[], &["mcp.example.com", "*.tools.example.com:8443"]);
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
            assert_eq!(outcome(&policy, host, None), Ok(()), "{host}");
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
            assert_eq!(outcome(&policy, host, None), Err(OriginRefusal::Host), "{host}");
        }
        assert_eq!(policy.admits(&Fields::default()), Err(OriginRefusal::Host));
        let twice = [("host", "mcp.example.com"), ("host", "evil.example")];
        assert_eq!(policy.admits(&twice.into_iter().collect()), Err(OriginRefusal::Host));
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
            let policy = policy(&["https://a"], &["a"]);
            let _ = policy.admits(&[("host", host), ("origin", origin)].into_iter().collect());
        }
    }
}
