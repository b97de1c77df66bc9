//! Flags and environment variables → a configuration, or everything that is wrong with them.
//!
//! Pure. Each setting is one flag and one variable of the same meaning; an empty variable counts as absent.

mod mcp;

use std::collections::HashSet;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use portcullis_crds::{Server, rules};
use url::Url;

pub use mcp::{McpConfig, ReplicaAddress};

use crate::auth::{self, Secret, parse_algorithm};
use crate::catalog::Tenancy;
use crate::guard;
use crate::secrets::Namespaces;
use crate::shown;

/// Each is watched over a connection of its own.
const MAX_CONFIGMAPS: usize = 64;

/// What can be set. Every field is as text, so that all problems can be told at once.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// URL of one MCP server (legacy HTTP+SSE or streamable HTTP)
    #[arg(long, global = true, env = "MCP_URL", value_name = "URL", hide_env_values = true)]
    pub mcp_url: Option<String>,
    /// URLs of several MCP servers, separated by commas
    #[arg(long, global = true, env = "MCP_URLS", value_name = "URLS", hide_env_values = true)]
    pub mcp_urls: Option<String>,
    /// File or folder of McpServer manifests (YAML), watched for changes; instead of URLs
    #[arg(long, global = true, env = "SERVERS", value_name = "PATH")]
    pub servers: Option<PathBuf>,
    /// Names of the ConfigMaps that hold the servers, separated by commas; watched through the Kubernetes API
    #[arg(long, global = true, env = "CONFIGMAPS", value_name = "NAMES")]
    pub configmaps: Option<String>,
    /// Folder with mounted copies of these ConfigMaps, as DIR/NAME/KEY, to start from while the API server is away
    #[arg(long, global = true, env = "CONFIGMAPS_MOUNTED", value_name = "DIR")]
    pub configmaps_mounted: Option<PathBuf>,
    /// Namespace of these ConfigMaps; without it, that of the pod or of the kubeconfig
    #[arg(long, global = true, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// kubeconfig file to reach the Kubernetes API with; without it, ~/.kube/config or the service account of the pod
    #[arg(long, global = true, env = "KUBECONFIG", value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,
    /// Isolated: names of tools say their namespace, but for the home namespace's; Shared: all stand side by side
    #[arg(long, global = true, env = "TENANCY", value_name = "TENANCY", default_value = "Isolated")]
    pub tenancy: Option<String>,
    /// Folder with what manifests name in Secrets and ConfigMaps, as DIR/NAME/KEY
    #[arg(long, global = true, env = "SECRETS_DIR", value_name = "DIR")]
    pub secrets: Option<PathBuf>,
    /// Namespaces whose labelled Secrets and ConfigMaps may be read, separated by commas; * for all; instead of a folder
    #[arg(long, global = true, env = "CREDENTIAL_NAMESPACES", value_name = "NAMESPACES")]
    pub credential_namespaces: Option<String>,
    /// Refuse special addresses of servers (loopback, link-local, metadata, API server, ...): true or false
    #[arg(long, global = true, env = "GUARD_ADDRESSES", value_name = "BOOL")]
    pub guard_addresses: Option<String>,
    /// Addresses and ranges (CIDR) that servers may have all the same, separated by commas
    #[arg(long, global = true, env = "ALLOWED_ADDRESSES", value_name = "CIDRS")]
    pub allowed_addresses: Option<String>,
    /// Addresses and ranges (CIDR) that servers must not have, separated by commas
    #[arg(long, global = true, env = "BLOCKED_ADDRESSES", value_name = "CIDRS")]
    pub blocked_addresses: Option<String>,
    /// Addresses and host names of the gateway itself, which servers must not have, separated by commas
    #[arg(long, global = true, env = "OWN_ADDRESSES", value_name = "HOSTS")]
    pub own_addresses: Option<String>,
    /// Address to listen on; `::` is IPv6 and IPv4
    #[arg(long, global = true, env = "HOST", default_value = "::")]
    pub host: Option<String>,
    /// Port to listen on
    #[arg(long, global = true, env = "PORT", default_value = "5000")]
    pub port: Option<String>,
    /// ADDRESS:PORT for /metrics, /livez, /readyz and /status; without it the first three are on the main port
    #[arg(long, global = true, env = "ADMIN_ADDRESS", value_name = "ADDRESS:PORT")]
    pub admin_address: Option<String>,
    /// The shared secret that tokens are signed with; only as a variable, because everybody can read flags
    #[arg(skip)]
    pub jwt_secret: Option<String>,
    /// File with the shared secret, instead of the variable JWT_SECRET
    #[arg(long, global = true, env = "JWT_SECRET_FILE", value_name = "FILE")]
    pub jwt_secret_file: Option<PathBuf>,
    /// Algorithm of the tokens: HS256, HS384, HS512, or with a public key RS*, PS*, ES256, ES384, EdDSA
    #[arg(long, global = true, env = "JWT_ALGORITHM", default_value = "HS256")]
    pub jwt_algorithm: Option<String>,
    /// PEM file with the public key that tokens are signed for
    #[arg(long, global = true, env = "JWT_PUBLIC_KEY_FILE", value_name = "FILE")]
    pub jwt_public_key_file: Option<PathBuf>,
    /// File with a JSON Web Key Set
    #[arg(long, global = true, env = "JWT_JWKS_FILE", value_name = "FILE")]
    pub jwt_jwks_file: Option<PathBuf>,
    /// Issuer (iss) that tokens must have
    #[arg(long, global = true, env = "JWT_ISSUER")]
    pub jwt_issuer: Option<String>,
    /// Audience (aud) that tokens must have
    #[arg(long, global = true, env = "JWT_AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// How far clocks may differ, in seconds, 0 to 60
    #[arg(long, global = true, env = "JWT_LEEWAY", value_name = "SECONDS", default_value = "10")]
    pub jwt_leeway: Option<String>,
    /// Longest life of a token that is accepted, in seconds; without it, any
    #[arg(long, global = true, env = "JWT_MAX_LIFETIME", value_name = "SECONDS")]
    pub jwt_max_lifetime: Option<String>,
    /// Accept service-account tokens of this cluster: true or false
    #[arg(long, global = true, env = "KUBERNETES_TOKENS", value_name = "BOOL", default_value = "false")]
    pub kubernetes_tokens: Option<String>,
    /// Audience (aud) that service-account tokens must have
    #[arg(long, global = true, env = "KUBERNETES_AUDIENCE", value_name = "AUDIENCE", default_value = "portcullis")]
    pub kubernetes_audience: Option<String>,
    /// File with the cluster's public keys, as the operator keeps them: used if the API server is away at the start
    #[arg(long, global = true, env = "KUBERNETES_KEYS_FILE", value_name = "FILE")]
    pub kubernetes_keys_file: Option<PathBuf>,
    /// Ask the API server too whether a service-account token still holds, once in 30 s for each: true or false
    #[arg(long, global = true, env = "TOKEN_REVIEW", value_name = "BOOL", default_value = "false")]
    pub token_review: Option<String>,
    /// YAML file with more issuers of tokens
    #[arg(long, global = true, env = "ISSUERS_FILE", value_name = "FILE")]
    pub issuers: Option<PathBuf>,
    /// Accept ?token= on the REST routes: true or false
    #[arg(long, global = true, env = "ALLOW_QUERY_TOKEN", value_name = "BOOL", default_value = "true")]
    pub allow_query_token: Option<String>,
    /// Scopes that every token must have, but for those of service accounts, separated by commas or spaces
    #[arg(long, global = true, env = "REQUIRED_SCOPES", value_name = "SCOPES")]
    pub required_scopes: Option<String>,
    /// Accept ?token= on /mcp and /sse too, for clients that cannot send headers: true or false
    #[arg(long, global = true, env = "ALLOW_QUERY_TOKEN_MCP", value_name = "BOOL", default_value = "false")]
    pub allow_query_token_mcp: Option<String>,
    /// Origins of web pages that may use /mcp, separated by commas; * for all
    #[arg(long, global = true, env = "ALLOWED_ORIGINS", value_name = "ORIGINS")]
    pub allowed_origins: Option<String>,
    /// Host names by which /mcp may be asked, separated by commas; without them, any
    #[arg(long, global = true, env = "ALLOWED_HOSTS", value_name = "HOSTS")]
    pub allowed_hosts: Option<String>,
    /// URL by which callers find the gateway; without it, as each request found it
    #[arg(long, global = true, env = "PUBLIC_URL", value_name = "URL")]
    pub public_url: Option<String>,
    /// URLs of the servers that give tokens, separated by commas; without them, the configured issuers
    #[arg(long, global = true, env = "AUTHORIZATION_SERVERS", value_name = "URLS")]
    pub authorization_servers: Option<String>,
    /// File with the keys that seal sessions of /mcp, the same for all replicas; without it, a random key
    #[arg(long, global = true, env = "SESSION_KEYS_FILE", value_name = "FILE")]
    pub session_keys: Option<PathBuf>,
    /// How long a session of /mcp lasts, in seconds, 60 to 31536000
    #[arg(long, global = true, env = "SESSION_SECONDS", value_name = "SECONDS", default_value = "604800")]
    pub session_seconds: Option<String>,
    /// A call that is not answered after so long goes on as a stream of events, for clients of /mcp that take one, in seconds
    #[arg(long, global = true, env = "STREAM_AFTER_SECONDS", value_name = "SECONDS", default_value = "10")]
    pub stream_after_seconds: Option<String>,
    /// Streams of clients of /mcp that may be open at the same time
    #[arg(long, global = true, env = "MAX_SESSIONS", value_name = "COUNT", default_value = "8000")]
    pub max_sessions: Option<String>,
    /// Of these, streams of one caller
    #[arg(long, global = true, env = "MAX_SESSIONS_PER_SUBJECT", value_name = "COUNT", default_value = "2000")]
    pub max_sessions_per_subject: Option<String>,
    /// Address of this replica for the others: an IP address, or http://HOST:PORT
    #[arg(long, global = true, env = "REPLICA_ADDRESS", value_name = "ADDRESS")]
    pub replica_address: Option<String>,
    /// Log more: true is the same as LOG_LEVEL=DEBUG
    #[arg(long, global = true, env = "DEBUG", value_name = "BOOL", num_args = 0..=1, default_missing_value = "true")]
    pub debug: Option<String>,
    /// DEBUG, INFO, WARNING, ERROR, or filter directives
    #[arg(long, global = true, env = "LOG_LEVEL", value_name = "LEVEL", default_value = "INFO")]
    pub log_level: Option<String>,
    /// Form of the log lines: json or text (lines about requests are always JSON)
    #[arg(long, global = true, env = "LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    pub log_format: Option<String>,
    /// Log arguments and results too, cut at 2 KiB, with what looks like a secret masked: true or false
    #[arg(long, global = true, env = "LOG_PAYLOADS", value_name = "BOOL", default_value = "false")]
    pub log_payloads: Option<String>,
    /// Largest request body, in bytes
    #[arg(long, global = true, env = "MAX_BODY_BYTES", value_name = "BYTES", default_value = "1048576")]
    pub max_body_bytes: Option<String>,
    /// Largest message of a server, in bytes
    #[arg(long, global = true, env = "MAX_RESULT_BYTES", value_name = "BYTES", default_value = "8388608")]
    pub max_result_bytes: Option<String>,
    /// Memory of the process, in bytes or as 256Mi; without it, that of its control group, or half of the machine's
    #[arg(long, global = true, env = "MEMORY_LIMIT", value_name = "BYTES")]
    pub memory_limit: Option<String>,
    /// Connections of callers at the same time
    #[arg(long, global = true, env = "MAX_CONNECTIONS", value_name = "COUNT", default_value = "10000")]
    pub max_connections: Option<String>,
    /// After the signal to stop, go on serving so long while readiness already fails, in seconds
    #[arg(long, global = true, env = "DRAIN_SECONDS", value_name = "SECONDS", default_value = "0")]
    pub drain_seconds: Option<String>,
    /// Then give running calls so long to finish, in seconds
    #[arg(long, global = true, env = "GRACE_SECONDS", value_name = "SECONDS", default_value = "25")]
    pub grace_seconds: Option<String>,
}

/// A configuration without contradictions.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where callers come in.
    pub listen: SocketAddr,
    /// Where metrics and probes are, if not there.
    pub admin: Option<SocketAddr>,
    /// Where the servers come from.
    pub source: SourceConfig,
    /// Whether names say their namespace.
    pub tenancy: Tenancy,
    /// Which kubeconfig leads to the cluster, if not the usual one.
    pub kubeconfig: Option<PathBuf>,
    /// Where Secrets lie.
    pub secrets: SecretsConfig,
    /// Which addresses servers may have.
    pub guard: guard::Rules,
    /// How tokens are checked.
    pub auth: auth::Settings,
    /// Whether `?token=` counts on the REST routes.
    pub allow_query_token: bool,
    /// How `/mcp` is served.
    pub mcp: McpConfig,
    /// What is logged.
    pub log: LogConfig,
    /// Bytes of a request body.
    pub max_body: usize,
    /// Bytes of a message of a server.
    pub max_message: usize,
    /// Bytes of memory, if they are set.
    pub memory_limit: Option<u64>,
    /// Connections of callers.
    pub max_connections: usize,
    /// From the signal to stop to the end of accepting.
    pub drain: Duration,
    /// From then to the end of the process.
    pub grace: Duration,
}

/// Where the servers come from.
#[derive(Clone, Debug, PartialEq)]
pub enum SourceConfig {
    /// `MCP_URL` and `MCP_URLS`: fixed.
    Urls(Vec<Server>),
    /// A file or folder of manifests, watched.
    Path(PathBuf),
    /// ConfigMaps, watched through the API server.
    ConfigMaps(ConfigMapNames),
}

/// Which ConfigMaps, and how they are reached.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ConfigMapNames {
    /// Their names, each once.
    pub names: Vec<String>,
    /// Their namespace, if it is not that of the client.
    pub namespace: Option<String>,
    /// Where copies of them are mounted.
    pub mounted: Option<PathBuf>,
}

/// Where what servers name in Secrets and ConfigMaps is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SecretsConfig {
    /// Nowhere.
    None,
    /// A folder, as `DIR/NAME/KEY`.
    Folder(PathBuf),
    /// The API server, in these namespaces.
    Cluster(Namespaces),
}

/// What is logged, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogConfig {
    /// Level or directives.
    pub level: String,
    /// JSON lines rather than text.
    pub json: bool,
    /// Arguments and results too.
    pub payloads: bool,
}

/// One thing that is wrong, in one line. It names the setting and never holds a secret.
pub type Problem = String;

impl Options {
    /// The same with this shared secret.
    #[must_use]
    pub fn with_secret(self, jwt_secret: Option<String>) -> Self {
        Self { jwt_secret, ..self }
    }

    /// Checks everything and fills in the defaults.
    ///
    /// # Errors
    /// Every problem there is, one line each.
    pub fn check(&self) -> Result<Config, Vec<Problem>> {
        let mut problems = Vec::new();
        let host = parsed(&mut problems, "HOST", &self.host, "::", "an IP address", IpAddr::from_str);
        let port = number(&mut problems, "PORT", &self.port, 5000, 0..=65_535);
        let config = Config {
            listen: SocketAddr::new(host, u16::try_from(port).unwrap_or_default()),
            admin: self.admin(&mut problems),
            source: self.source(&mut problems),
            tenancy: parsed(
                &mut problems,
                "TENANCY",
                &self.tenancy,
                "Isolated",
                "Isolated or Shared",
                Tenancy::from_str,
            ),
            kubeconfig: path(&self.kubeconfig),
            secrets: self.secrets(&mut problems),
            guard: self.guard(&mut problems),
            auth: self.auth(&mut problems),
            allow_query_token: boolean(&mut problems, "ALLOW_QUERY_TOKEN", &self.allow_query_token, true),
            mcp: self.mcp(&mut problems),
            log: self.log(&mut problems),
            max_body: size(&mut problems, "MAX_BODY_BYTES", &self.max_body_bytes, 1024 * 1024),
            max_message: size(&mut problems, "MAX_RESULT_BYTES", &self.max_result_bytes, 8 * 1024 * 1024),
            memory_limit: memory(&mut problems, &self.memory_limit),
            max_connections: usize::try_from(number(
                &mut problems,
                "MAX_CONNECTIONS",
                &self.max_connections,
                10_000,
                1..=1_000_000,
            ))
            .unwrap_or(10_000),
            drain: seconds(&mut problems, "DRAIN_SECONDS", &self.drain_seconds, 0),
            grace: seconds(&mut problems, "GRACE_SECONDS", &self.grace_seconds, 25),
        };
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// How tokens are made and checked; the only part that the `token` command needs.
    pub fn auth(&self, problems: &mut Vec<Problem>) -> auth::Settings {
        let algorithm = text(&self.jwt_algorithm).map(parse_algorithm);
        let algorithm = match algorithm.transpose() {
            Ok(algorithm) => algorithm.unwrap_or(auth::Algorithm::HS256),
            Err(error) => {
                problems.push(format!("JWT_ALGORITHM: {error}"));
                auth::Algorithm::HS256
            }
        };
        let lifetime = text(&self.jwt_max_lifetime)
            .map(|_| number(problems, "JWT_MAX_LIFETIME", &self.jwt_max_lifetime, 0, 1..=u64::from(u32::MAX)));
        auth::Settings {
            secret: text(&self.jwt_secret).map(|secret| Secret::new(secret.as_bytes())),
            secret_file: path(&self.jwt_secret_file),
            algorithm,
            public_key_file: path(&self.jwt_public_key_file),
            jwks_file: path(&self.jwt_jwks_file),
            issuer: text(&self.jwt_issuer).map(str::to_owned),
            audience: text(&self.jwt_audience).map(str::to_owned),
            leeway: Duration::from_secs(number(problems, "JWT_LEEWAY", &self.jwt_leeway, 10, 0..=60)),
            max_lifetime: lifetime.map(Duration::from_secs),
            issuers_file: path(&self.issuers),
            required_scopes: self.required_scopes(problems),
            kubernetes: self.kubernetes(problems),
        }
    }

    /// Those alone that a token is made with.
    pub fn of_tokens(&self) -> Self {
        Self {
            jwt_secret: self.jwt_secret.clone(),
            jwt_secret_file: self.jwt_secret_file.clone(),
            jwt_algorithm: self.jwt_algorithm.clone(),
            jwt_issuer: self.jwt_issuer.clone(),
            jwt_audience: self.jwt_audience.clone(),
            jwt_max_lifetime: self.jwt_max_lifetime.clone(),
            ..Self::default()
        }
    }

    /// Whether and how service-account tokens are checked.
    fn kubernetes(&self, problems: &mut Vec<Problem>) -> Option<auth::Kubernetes> {
        let wanted = boolean(problems, "KUBERNETES_TOKENS", &self.kubernetes_tokens, false);
        let review = boolean(problems, "TOKEN_REVIEW", &self.token_review, false);
        if review && !wanted {
            problems.push("TOKEN_REVIEW is true without KUBERNETES_TOKENS: set KUBERNETES_TOKENS=true too".into());
        }
        let audience = text(&self.kubernetes_audience).unwrap_or("portcullis").to_owned();
        let kept = path(&self.kubernetes_keys_file);
        wanted.then_some(auth::Kubernetes { audience, kept, review })
    }

    /// Where the servers come from.
    pub fn source(&self, problems: &mut Vec<Problem>) -> SourceConfig {
        let urls: Vec<&str> = text(&self.mcp_url)
            .into_iter()
            .chain(text(&self.mcp_urls).into_iter().flat_map(|list| list.split(',')))
            .map(str::trim)
            .filter(|url| !url.is_empty())
            .collect();
        let (configmaps, servers) = (text(&self.configmaps), path(&self.servers));
        let given =
            [("CONFIGMAPS", configmaps.is_some()), ("SERVERS", servers.is_some()), ("MCP_URL(S)", !urls.is_empty())];
        let given: Vec<&str> = given.into_iter().filter_map(|(name, set)| set.then_some(name)).collect();
        match given.len() {
            0 => problems.push(
                "no MCP server is configured: set MCP_URLS to URLs, SERVERS to a file or folder of manifests, or \
                 CONFIGMAPS to names of ConfigMaps"
                    .into(),
            ),
            1 => {}
            2 => problems.push(format!("{} are both set: keep one of them", given.join(" and "))),
            _ => problems.push(format!("{} are all set: keep one of them", given.join(", "))),
        }
        if configmaps.is_none() && path(&self.configmaps_mounted).is_some() {
            problems.push("CONFIGMAPS_MOUNTED is set without CONFIGMAPS: set that too".into());
        }
        match (configmaps, servers) {
            (Some(names), _) => SourceConfig::ConfigMaps(self.configmap_names(names, problems)),
            (None, Some(path)) => SourceConfig::Path(path),
            (None, None) => SourceConfig::Urls(servers_of(&urls, problems)),
        }
    }

    fn configmap_names(&self, list: &str, problems: &mut Vec<Problem>) -> ConfigMapNames {
        let names: Vec<String> = list.split(',').map(|name| name.trim().to_owned()).collect();
        for (index, name) in names.iter().enumerate() {
            if !is_object_name(name) {
                problems.push(format!("CONFIGMAPS, entry {}: {name:?} is no name of a ConfigMap", index + 1));
            } else if names[..index].contains(name) {
                problems.push(format!("CONFIGMAPS, entry {}: the name is there twice", index + 1));
            }
        }
        if names.len() > MAX_CONFIGMAPS {
            problems.push(format!("CONFIGMAPS has {} names: {MAX_CONFIGMAPS} are the most", names.len()));
        }
        let namespace = text(&self.namespace).map(str::to_owned);
        if let Some(namespace) = namespace.as_deref().filter(|name| !is_object_name(name)) {
            problems.push(format!("POD_NAMESPACE is {namespace:?}: that is no name of a namespace"));
        }
        ConfigMapNames { names, namespace, mounted: path(&self.configmaps_mounted) }
    }

    fn admin(&self, problems: &mut Vec<Problem>) -> Option<SocketAddr> {
        let address = text(&self.admin_address)?;
        let parsed = address.parse();
        if parsed.is_err() {
            problems.push(format!("ADMIN_ADDRESS is {address:?}: write ADDRESS:PORT, as in 0.0.0.0:9090 or [::]:9090"));
        }
        parsed.ok()
    }

    fn secrets(&self, problems: &mut Vec<Problem>) -> SecretsConfig {
        match (path(&self.secrets), text(&self.credential_namespaces)) {
            (Some(_), Some(_)) => {
                problems.push("SECRETS_DIR and CREDENTIAL_NAMESPACES are both set: keep one of them".into());
                SecretsConfig::None
            }
            (Some(folder), None) => {
                if !folder.is_dir() {
                    problems.push(format!("SECRETS_DIR is {}: there is no such folder", folder.display()));
                }
                SecretsConfig::Folder(folder)
            }
            (None, Some(namespaces)) => match namespaces.parse() {
                Ok(namespaces) => SecretsConfig::Cluster(namespaces),
                Err(part) => {
                    problems.push(format!(
                        "CREDENTIAL_NAMESPACES holds {part:?}: use names of namespaces separated by commas, or * alone"
                    ));
                    SecretsConfig::None
                }
            },
            (None, None) => SecretsConfig::None,
        }
    }

    fn guard(&self, problems: &mut Vec<Problem>) -> guard::Rules {
        let special = boolean(problems, "GUARD_ADDRESSES", &self.guard_addresses, text(&self.configmaps).is_some());
        let mut ranges = |name: &str, value: &Option<String>| {
            text(value).unwrap_or_default().parse().unwrap_or_else(|part: String| {
                problems.push(format!("{name} holds {part:?}: use addresses or ranges such as 10.0.0.0/8"));
                guard::Ranges::default()
            })
        };
        let allowed = ranges("ALLOWED_ADDRESSES", &self.allowed_addresses);
        let blocked = ranges("BLOCKED_ADDRESSES", &self.blocked_addresses);
        let own = text(&self.own_addresses).unwrap_or_default().split(',').map(str::trim);
        let own = own.filter(|host| !host.is_empty()).map(str::to_owned).collect();
        guard::Rules { special, allowed, blocked, own }
    }

    fn log(&self, problems: &mut Vec<Problem>) -> LogConfig {
        let debug = boolean(problems, "DEBUG", &self.debug, false);
        let format = text(&self.log_format).unwrap_or("json").to_ascii_lowercase();
        if !matches!(format.as_str(), "json" | "text") {
            problems.push(format!("LOG_FORMAT is {format:?}: use json or text"));
        }
        let level = if debug { "DEBUG" } else { text(&self.log_level).unwrap_or("INFO") };
        if let Err(problem) = portcullis_runtime::log::check(level) {
            problems.push(format!("LOG_LEVEL: {problem}"));
        }
        LogConfig {
            level: level.to_owned(),
            json: format == "json",
            payloads: boolean(problems, "LOG_PAYLOADS", &self.log_payloads, false),
        }
    }
}

/// A DNS subdomain: lower-case letters, digits, `-` and `.`; see kubernetes.io/docs/concepts/overview/working-with-objects/names.
fn is_object_name(name: &str) -> bool {
    let plain = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    let ends = name.bytes().next().is_some_and(plain) && name.bytes().last().is_some_and(plain);
    ends && name.len() <= 253 && name.bytes().all(|c| plain(c) || matches!(c, b'-' | b'.'))
}

/// Servers for plain URLs: the URL is what `/servers` calls them, a short name is what tools and logs use.
///
/// Queries often hold keys, so the URL is shown without; of several that differ in nothing else, all but the first are
/// shown by their names.
fn servers_of(urls: &[&str], problems: &mut Vec<Problem>) -> Vec<Server> {
    let (mut seen, mut labels) = (HashSet::new(), HashSet::new());
    let mut names = HashSet::new();
    let mut servers = Vec::new();
    for (index, text) in urls.iter().enumerate() {
        match rules::check_url(text) {
            Err(problem) => problems.push(format!("MCP_URLS, entry {}: {problem}", index + 1)),
            Ok(_) if !seen.insert(*text) => {
                problems.push(format!("MCP_URLS, entry {}: the URL is there twice", index + 1))
            }
            Ok(url) => {
                let name = free_name(&slug(&url), &mut names);
                let created = i64::try_from(index).unwrap_or(i64::MAX);
                // A URL that is written without a query means its own server.
                let label = Some(shown::address(text)).filter(|label| label == text || !urls.contains(&&**label));
                let label = label.filter(|label| labels.insert(label.clone()));
                servers.push(Server { label, created, ..Server::from_url(&name, text) });
            }
        }
    }
    servers
}

/// `http://localhost:9000/sse?x=1` → `localhost-9000-sse`: a DNS label, and nothing of the query.
fn slug(url: &Url) -> String {
    let port = url.port().map(|port| format!("-{port}")).unwrap_or_default();
    let text = format!("{}{port}{}", url.host_str().unwrap_or_default(), url.path()).to_ascii_lowercase();
    let plain: String = text.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).collect();
    let parts: Vec<&str> = plain.split('-').filter(|part| !part.is_empty()).collect();
    let mut name = parts.join("-");
    name.truncate(55);
    let name = name.trim_end_matches('-');
    if name.is_empty() { "server".to_owned() } else { name.to_owned() }
}

fn free_name(wanted: &str, taken: &mut HashSet<String>) -> String {
    let names = (1..).map(|n| if n == 1 { wanted.to_owned() } else { format!("{wanted}-{n}") });
    let name = names.into_iter().find(|name| !taken.contains(name)).unwrap_or_default();
    taken.insert(name.clone());
    name
}

// === one setting ===

fn text(value: &Option<String>) -> Option<&str> {
    value.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

fn path(value: &Option<PathBuf>) -> Option<PathBuf> {
    value.clone().filter(|path| !path.as_os_str().is_empty())
}

fn parsed<T: FromStr, E>(
    problems: &mut Vec<Problem>,
    name: &str,
    value: &Option<String>,
    default: &str,
    what: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> T {
    let given = text(value).unwrap_or(default);
    parse(given).unwrap_or_else(|_| {
        problems.push(format!("{name} is {given:?}: it must be {what}"));
        parse(default).unwrap_or_else(|_| unreachable!("the default of {name} is {what}"))
    })
}

fn number(
    problems: &mut Vec<Problem>,
    name: &str,
    value: &Option<String>,
    default: u64,
    range: std::ops::RangeInclusive<u64>,
) -> u64 {
    let Some(given) = text(value) else { return default };
    match given.parse() {
        Ok(number) if range.contains(&number) => number,
        _ => {
            problems.push(format!(
                "{name} is {given:?}: it must be a whole number from {} to {}",
                range.start(),
                range.end()
            ));
            default
        }
    }
}

fn size(problems: &mut Vec<Problem>, name: &str, value: &Option<String>, default: u64) -> usize {
    usize::try_from(number(problems, name, value, default, 1024..=1024 * 1024 * 1024)).unwrap_or(usize::MAX)
}

/// The least memory with which anything can be done.
const LEAST_MEMORY: u64 = 64 * 1024 * 1024;

/// A number of bytes, as Kubernetes writes it.
fn memory(problems: &mut Vec<Problem>, value: &Option<String>) -> Option<u64> {
    let given = text(value)?;
    let units = [("Ki", 1 << 10), ("Mi", 1 << 20), ("Gi", 1 << 30), ("", 1)];
    let bytes = units.iter().find_map(|(unit, factor)| {
        let number: u64 = given.strip_suffix(unit)?.parse().ok()?;
        number.checked_mul(*factor)
    });
    if bytes.is_none_or(|bytes| bytes < LEAST_MEMORY) {
        problems.push(format!("MEMORY_LIMIT is {given:?}: it must be a number of bytes such as 256Mi, at least 64Mi"));
    }
    bytes
}

fn seconds(problems: &mut Vec<Problem>, name: &str, value: &Option<String>, default: u64) -> Duration {
    Duration::from_secs(number(problems, name, value, default, 0..=3600))
}

fn boolean(problems: &mut Vec<Problem>, name: &str, value: &Option<String>, default: bool) -> bool {
    match text(value).map(str::to_ascii_lowercase).as_deref() {
        None => default,
        Some("true" | "1" | "yes" | "on") => true,
        Some("false" | "0" | "no" | "off") => false,
        Some(other) => {
            problems.push(format!("{name} is {other:?}: it must be true or false"));
            default
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let options = Options {
            host: given("nowhere"),
            port: given("70000"),
            mcp_urls: given("http://a/sse, ftp://b, http://u:p@c/, http://a/sse,"),
            jwt_algorithm: given("none"),
            jwt_leeway: given("61"),
            debug: given("perhaps"),
            log_format: given("xml"),
            log_level: given("loud"),
            max_body_bytes: given("12"),
            admin_address: given("9090"),
            ..Options::default()
        };
        let problems = options.check().unwrap_err();
        let settings: Vec<&str> = problems.iter().map(|p| p.split([' ', ',', ':']).next().unwrap()).collect();
        assert_eq!(
            settings,
            [
                "HOST",
                "PORT",
                "ADMIN_ADDRESS",
                "MCP_URLS",
                "MCP_URLS",
                "MCP_URLS",
                "JWT_ALGORITHM",
                "JWT_LEEWAY",
                "DEBUG",
                "LOG_FORMAT",
                "LOG_LEVEL",
                "MAX_BODY_BYTES"
            ]
        );
        assert!(problems.iter().all(|problem| !problem.contains("u:p") && !problem.contains('\n')), "{problems:?}");
    }

    #[test]
    fn memory_is_told_in_bytes_or_as_kubernetes_does() {
        let limit = |text: &str| {
            let options = Options { mcp_urls: given("http://a/"), memory_limit: given(text), ..Options::default() };
            options.check().map(|config| config.memory_limit)
        };
        for (text, bytes) in [("", None), ("268435456", Some(268_435_456)), ("65536Ki", Some(67_108_864))] {
            assert_eq!(limit(text).unwrap(), bytes, "{text}");
        }
        assert_eq!([limit("256Mi").unwrap(), limit("2Gi").unwrap()], [Some(268_435_456), Some(2_147_483_648)]);
        for text in ["1", "63Mi", "256M", "0.5Gi", "-1", "99999999999Gi", "lots"] {
            let problem =
                format!("MEMORY_LIMIT is {text:?}: it must be a number of bytes such as 256Mi, at least 64Mi");
            assert_eq!(limit(text).unwrap_err(), [problem]);
        }
    }

    #[test]
    fn urls_become_servers_with_short_names() {
        let options = Options {
            mcp_url: given("http://localhost:9000/sse?key=1"),
            mcp_urls: given("http://localhost:9000/sse?key=2,https://api.example.com/"),
            ..Options::default()
        };
        let SourceConfig::Urls(servers) = options.check().unwrap().source else { panic!("urls") };
        let found: Vec<_> = servers.iter().map(|s| (s.name.as_str(), s.label(), s.created)).collect();
        assert_eq!(
            found,
            [
                ("localhost-9000-sse", "http://localhost:9000/sse", 0),
                ("localhost-9000-sse-2", "localhost-9000-sse-2", 1),
                ("api-example-com", "https://api.example.com/", 2)
            ]
        );
    }

    #[test]
    fn a_url_that_is_written_without_a_query_is_shown_for_its_own_server() {
        let options =
            Options { mcp_urls: given("http://a/sse?key=1,http://a/sse,http://a/sse?"), ..Options::default() };
        let SourceConfig::Urls(servers) = options.check().unwrap().source else { panic!("urls") };
        let labels: Vec<_> = servers.iter().map(|server| server.label()).collect();
        assert_eq!(labels, ["a-sse", "http://a/sse", "a-sse-3"]);
    }

    #[test]
    fn empty_variables_count_as_absent() {
        let options =
            Options { mcp_urls: given("http://a/"), port: given(""), debug: given(" "), ..Options::default() };
        let config = options.check().unwrap();
        assert_eq!((config.listen.port(), config.log.level.as_str()), (5000, "INFO"));
    }

    #[test]
    fn a_gateway_without_servers_or_with_two_sources_is_refused() {
        assert_eq!(Options::default().check().unwrap_err().len(), 1);
        let both = Options { mcp_urls: given("http://a/"), servers: Some("x".into()), ..Options::default() };
        assert_eq!(both.check().unwrap_err(), ["SERVERS and MCP_URL(S) are both set: keep one of them"]);
        let all = Options { configmaps: given("a"), ..both };
        assert_eq!(all.check().unwrap_err(), ["CONFIGMAPS, SERVERS, MCP_URL(S) are all set: keep one of them"]);
    }

    #[test]
    fn names_of_configmaps_are_read_and_wrong_ones_are_told() {
        let options = Options {
            configmaps: given("p-servers-2-0, p-servers-2-1"),
            configmaps_mounted: Some("/slots".into()),
            namespace: given("mcp"),
            ..Options::default()
        };
        let expected = ConfigMapNames {
            names: vec!["p-servers-2-0".into(), "p-servers-2-1".into()],
            namespace: Some("mcp".into()),
            mounted: Some("/slots".into()),
        };
        assert_eq!(options.check().unwrap().source, SourceConfig::ConfigMaps(expected));

        let wrong = Options { configmaps: given("a,a,,B,x=y"), namespace: given("No"), ..Options::default() };
        assert_eq!(
            wrong.check().unwrap_err(),
            [
                "CONFIGMAPS, entry 2: the name is there twice",
                "CONFIGMAPS, entry 3: \"\" is no name of a ConfigMap",
                "CONFIGMAPS, entry 4: \"B\" is no name of a ConfigMap",
                "CONFIGMAPS, entry 5: \"x=y\" is no name of a ConfigMap",
                "POD_NAMESPACE is \"No\": that is no name of a namespace",
            ]
        );
        let lonely =
            Options { mcp_urls: given("http://a/"), configmaps_mounted: Some("x".into()), ..Options::default() };
        assert_eq!(lonely.check().unwrap_err(), ["CONFIGMAPS_MOUNTED is set without CONFIGMAPS: set that too"]);
    }

    #[test]
    fn addresses_are_guarded_with_configmaps_and_else_when_asked() {
        let guards = |options: Options| options.check().unwrap().guard.special;
        let urls = || Options { mcp_urls: given("http://a/"), ..Options::default() };
        let maps = || Options { configmaps: given("a"), ..Options::default() };
        assert_eq!([guards(urls()), guards(maps())], [false, true]);
        let urls = Options { guard_addresses: given("true"), ..urls() };
        let maps = Options { guard_addresses: given("false"), ..maps() };
        assert_eq!([guards(urls), guards(maps)], [true, false]);
    }

    #[test]
    fn settings_of_addresses_and_credentials_are_read_and_wrong_ones_are_told() {
        let options = Options {
            mcp_urls: given("http://a/"),
            credential_namespaces: given("a, b"),
            allowed_addresses: given("10.0.0.0/8, fd00::1"),
            own_addresses: given("10.1.2.3, gateway.mcp.svc,"),
            ..Options::default()
        };
        let config = options.check().unwrap();
        assert_eq!(config.secrets, SecretsConfig::Cluster("a,b".parse().unwrap()));
        assert_eq!(config.guard.allowed, "10.0.0.0/8,fd00::1".parse().unwrap());
        assert_eq!(config.guard.own, ["10.1.2.3", "gateway.mcp.svc"]);
        let wrong = Options {
            secrets: Some("/".into()),
            allowed_addresses: given("10.0.0.0/33"),
            blocked_addresses: given("localhost"),
            ..options.clone()
        };
        assert_eq!(
            wrong.check().unwrap_err(),
            [
                "SECRETS_DIR and CREDENTIAL_NAMESPACES are both set: keep one of them",
                "ALLOWED_ADDRESSES holds \"10.0.0.0/33\": use addresses or ranges such as 10.0.0.0/8",
                "BLOCKED_ADDRESSES holds \"localhost\": use addresses or ranges such as 10.0.0.0/8",
            ]
        );
        let star = Options { credential_namespaces: given("a,*"), ..options };
        assert_eq!(
            star.check().unwrap_err(),
            ["CREDENTIAL_NAMESPACES holds \"*\": use names of namespaces separated by commas, or * alone"]
        );
    }
}
