//! The settings of `/mcp`: sessions, and the admitted origins and hosts.

use std::net::{IpAddr, Ipv6Addr};
use std::path::PathBuf;
use std::time::Duration;

use url::Url;

use portcullis_runtime::settings::{boolean, number, path, text};

use super::{Options, Problem};
use crate::front::http::origin_policy::{self, AllowedHost, PageOrigin};
use crate::util::shown;

/// The configured part of `/mcp`.
#[derive(Clone, Debug)]
pub struct McpConfig {
    /// File with the keys that seal sessions; without it a random key is used.
    pub session_keys: Option<PathBuf>,
    /// The lifetime of a session.
    pub(crate) session_life: Duration,
    /// A call that is unanswered by then continues as a stream, for clients that accept one.
    pub(crate) stream_after: Duration,
    /// Bytes of the instructions of several servers together.
    pub(crate) max_instructions: usize,
    /// The limit for open streams of all clients.
    pub(crate) max_sessions: usize,
    /// The limit for open streams of one caller.
    pub(crate) max_sessions_per_subject: usize,
    /// The admitted origins and hosts.
    pub(crate) origin_policy: origin_policy::OriginRules,
    /// The gateway's address for callers, without a trailing slash.
    pub(crate) public_url: Option<Url>,
    /// The servers that issue tokens, if not the configured issuers.
    pub(crate) authorization_servers: Vec<String>,
    /// Whether `/mcp` accepts `?token=`.
    pub(crate) allow_query_token: bool,
    /// The address of this replica for the others.
    pub replica: Option<ReplicaAddress>,
}

/// The address of this replica for the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplicaAddress {
    /// This address, on the port on which the gateway listens.
    Ip(IpAddr),
    /// This URL, as `http://HOST:PORT` or `https://HOST:PORT`.
    Url(String),
}

impl ReplicaAddress {
    /// The address as `SCHEME://HOST:PORT`, if the gateway listens on `port`, with TLS or without.
    pub(crate) fn url(&self, port: u16, is_secure: bool) -> String {
        let scheme = if is_secure { "https" } else { "http" };
        match self {
            Self::Ip(IpAddr::V4(ip)) => format!("{scheme}://{ip}:{port}"),
            Self::Ip(IpAddr::V6(ip)) => format!("{scheme}://[{ip}]:{port}"),
            Self::Url(url) => url.clone(),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let bare = text.strip_prefix('[').and_then(|text| text.strip_suffix(']'));
        if let Some(ip) = bare.map_or_else(|| text.parse().ok(), |ip| ip.parse::<Ipv6Addr>().ok().map(IpAddr::V6)) {
            return Some(Self::Ip(ip));
        }
        let url = absolute(text).filter(|url| url.path() == "/")?;
        Some(Self::Url(url.origin().ascii_serialization()))
    }
}

impl Options {
    /// Checks all settings of `/mcp`.
    pub(super) fn mcp(&self, problems: &mut Vec<Problem>) -> McpConfig {
        let public_url = self.public_url(problems);
        let config = McpConfig {
            session_keys: path(&self.session_keys),
            max_instructions: usize::try_from(number(
                problems,
                "MAX_INSTRUCTIONS_BYTES",
                &self.max_instructions_bytes,
                4096,
                0..=65_536,
            ))
            .unwrap_or(4096),
            session_life: Duration::from_secs(number(
                problems,
                "SESSION_SECONDS",
                &self.session_seconds,
                604_800,
                60..=31_536_000,
            )),
            stream_after: Duration::from_secs(number(
                problems,
                "STREAM_AFTER_SECONDS",
                &self.stream_after_seconds,
                10,
                1..=3600,
            )),
            max_sessions: count(problems, "MAX_SESSIONS", &self.max_sessions, 8_000),
            max_sessions_per_subject: count(problems, "MAX_SESSIONS_PER_SUBJECT", &self.max_sessions_per_subject, 2000),
            origin_policy: origin_policy::OriginRules {
                origins: self.origins(problems),
                hosts: self.hosts(problems),
                public: public_url.clone(),
            },
            public_url,
            authorization_servers: self.authorization_servers(problems),
            allow_query_token: boolean(problems, "ALLOW_QUERY_TOKEN_MCP", &self.allow_query_token_mcp, false),
            replica: self.replica(problems),
        };
        if config.replica.is_some() && config.session_keys.is_none() {
            problems.push(
                "REPLICA_ADDRESS is set without SESSION_KEYS_FILE: set both, because replicas that forward requests to \
                 each other need the same keys"
                    .into(),
            );
        }
        config
    }

    fn origins(&self, problems: &mut Vec<Problem>) -> origin_policy::Origins {
        let mut origins = Vec::new();
        for entry in entries(&self.allowed_origins) {
            match PageOrigin::parse(entry) {
                _ if entry == "*" => return origin_policy::Origins::All,
                Some(origin) => origins.push(origin),
                None => problems.push(format!(
                    "ALLOWED_ORIGINS holds {:?}: use origins such as https://app.example.com separated by commas, \
                     or * for all",
                    shown::address(entry)
                )),
            }
        }
        origin_policy::Origins::Listed(origins)
    }

    fn hosts(&self, problems: &mut Vec<Problem>) -> Vec<AllowedHost> {
        let mut hosts = Vec::new();
        for entry in entries(&self.allowed_hosts) {
            match AllowedHost::parse(entry) {
                Some(host) => hosts.push(host),
                None => problems.push(format!(
                    "ALLOWED_HOSTS holds {entry:?}: use names such as mcp.example.com, mcp.example.com:8443 or \
                     *.example.com separated by commas"
                )),
            }
        }
        hosts
    }

    fn public_url(&self, problems: &mut Vec<Problem>) -> Option<Url> {
        let given = text(&self.public_url)?;
        let mut url = absolute(given).or_else(|| {
            problems.push("PUBLIC_URL must be an http or https URL without user name, query and fragment".into());
            None
        })?;
        let path = url.path().trim_end_matches('/').to_owned();
        url.set_path(&path);
        Some(url)
    }

    fn authorization_servers(&self, problems: &mut Vec<Problem>) -> Vec<String> {
        let mut servers = Vec::new();
        for (index, entry) in entries(&self.authorization_servers).enumerate() {
            let local = |url: &Url| origin_policy::is_loopback(url.host_str().unwrap_or_default());
            match absolute(entry).filter(|url| url.scheme() == "https" || local(url)) {
                // Verbatim: issuers are compared exactly.
                Some(_) => servers.push(entry.to_owned()),
                None => problems.push(format!(
                    "AUTHORIZATION_SERVERS, entry {}: it must be an https URL without user name, query and fragment",
                    index + 1
                )),
            }
        }
        servers
    }

    /// The scopes that every token needs; part of checking tokens.
    pub(super) fn required_scopes(&self, problems: &mut Vec<Problem>) -> Vec<String> {
        let mut scopes: Vec<String> = Vec::new();
        let list = text(&self.required_scopes).unwrap_or_default();
        for scope in list.split([',', ' ']).filter(|scope| !scope.is_empty()) {
            // RFC 6749, section 3.3.
            if !scope.bytes().all(|byte| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'\\')) {
                problems.push(format!("REQUIRED_SCOPES holds {scope:?}: a scope is visible ASCII without \" and \\"));
            } else if !scopes.iter().any(|known| known == scope) {
                scopes.push(scope.to_owned());
            }
        }
        scopes
    }

    fn replica(&self, problems: &mut Vec<Problem>) -> Option<ReplicaAddress> {
        let given = text(&self.replica_address)?;
        let address = ReplicaAddress::parse(given);
        let scheme = if path(&self.tls_cert_file).is_some() { "https" } else { "http" };
        if let Some(ReplicaAddress::Url(url)) = &address
            && !url.starts_with(&format!("{scheme}:"))
        {
            problems.push(format!(
                "REPLICA_ADDRESS is {:?}: it must begin with {scheme}://, because that is what this gateway speaks",
                shown::address(given)
            ));
        } else if address.is_none() {
            problems.push(format!(
                "REPLICA_ADDRESS is {:?}: it must be an IP address, or as in http://10.0.0.1:5000",
                shown::address(given)
            ));
        }
        address
    }
}

fn entries(list: &Option<String>) -> impl Iterator<Item = &str> {
    text(list).unwrap_or_default().split(',').map(str::trim).filter(|entry| !entry.is_empty())
}

fn count(problems: &mut Vec<Problem>, name: &str, value: &Option<String>, default: u64) -> usize {
    usize::try_from(number(problems, name, value, default, 1..=1_000_000)).unwrap_or(usize::MAX)
}

/// An http or https URL without parts that do not belong to an address.
pub(super) fn absolute(text: &str) -> Option<Url> {
    let url = Url::parse(text).ok()?;
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    (matches!(url.scheme(), "http" | "https") && plain && url.query().is_none()).then_some(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn options() -> Options {
        Options { mcp_urls: given("http://a/"), ..Options::default() }
    }

    #[test]
    fn settings_of_mcp_are_read() {
        let options = Options {
            session_keys: Some("/keys".into()),
            session_seconds: given("60"),
            allowed_origins: given("https://App.example.com:443/, null"),
            public_url: given("https://mcp.example.com/tools/"),
            authorization_servers: given("https://login.example.com/, http://localhost:8080"),
            required_scopes: given("a, b  c,a"),
            allow_query_token_mcp: given("true"),
            replica_address: given("http://replica-0:5000/"),
            ..options()
        };
        let config = options.check().unwrap();
        let mcp = config.mcp;
        assert_eq!(mcp.session_life, Duration::from_secs(60));
        assert_eq!((mcp.max_sessions, mcp.max_sessions_per_subject), (8_000, 2000));
        let origins = ["https://app.example.com", "null"].map(|text| PageOrigin::parse(text).unwrap());
        assert_eq!(mcp.origin_policy.origins, origin_policy::Origins::Listed(origins.to_vec()));
        assert_eq!(mcp.public_url.unwrap().as_str(), "https://mcp.example.com/tools");
        assert_eq!(mcp.authorization_servers, ["https://login.example.com/", "http://localhost:8080"]);
        assert_eq!(config.auth.required_scopes, ["a", "b", "c"]);
        assert!(mcp.allow_query_token);
        assert_eq!(mcp.replica, Some(ReplicaAddress::Url("http://replica-0:5000".into())));
        let all = Options { allowed_origins: given("https://a,*"), ..options };
        assert_eq!(all.check().unwrap().mcp.origin_policy.origins, origin_policy::Origins::All);
    }

    #[test]
    fn a_bare_address_of_a_replica_gets_the_port_that_is_listened_on() {
        for (text, url) in [
            ("10.0.0.1", "http://10.0.0.1:5001"),
            ("fd00::1", "http://[fd00::1]:5001"),
            ("[fd00::1]", "http://[fd00::1]:5001"),
            ("http://[fd00::1]:80", "http://[fd00::1]"),
        ] {
            assert_eq!(
                ReplicaAddress::parse(text).map(|address| address.url(5001, false)).as_deref(),
                Some(url),
                "{text}"
            );
        }
    }

    #[test]
    fn wrong_settings_of_mcp_are_told_at_once() {
        let options = Options {
            session_seconds: given("59"),
            stream_after_seconds: given("0"),
            max_sessions: given("0"),
            max_sessions_per_subject: given("many"),
            allowed_origins: given("app.example.com, https://u:s3cret@a/path?s3cret"),
            allowed_hosts: given("http://a, *"),
            public_url: given("https://u:s3cret@a/"),
            authorization_servers: given("https://a, http://b, https://u:s3cret@c"),
            required_scopes: given("a\"b"),
            replica_address: given("https://u:s3cret@a"),
            ..options()
        };
        let problems = options.check().unwrap_err();
        let settings: Vec<&str> = problems.iter().map(|p| p.split([' ', ',', ':']).next().unwrap()).collect();
        assert_eq!(
            settings,
            [
                "REQUIRED_SCOPES",
                "PUBLIC_URL",
                "SESSION_SECONDS",
                "STREAM_AFTER_SECONDS",
                "MAX_SESSIONS",
                "MAX_SESSIONS_PER_SUBJECT",
                "ALLOWED_ORIGINS",
                "ALLOWED_ORIGINS",
                "ALLOWED_HOSTS",
                "ALLOWED_HOSTS",
                "AUTHORIZATION_SERVERS",
                "AUTHORIZATION_SERVERS",
                "REPLICA_ADDRESS"
            ]
        );
        assert!(problems.iter().all(|problem| !problem.contains("s3cret")), "{problems:?}");
        let lonely = Options { replica_address: given("10.0.0.1"), ..super::tests::options() };
        assert_eq!(lonely.check().unwrap_err().len(), 1);
    }
}
