//! Checks flags and environment variables: returns a configuration, or all of its problems.
//!
//! Pure. Each setting is one flag and one variable of the same meaning; an empty variable counts as absent.

mod identity;
mod mcp;
mod options;
mod outbound;
mod sources;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use portcullis_runtime::settings::{
    admin_address, boolean, list, log_json, log_level, number, parsed, path, seconds, text,
};

pub(crate) use identity::IdentityConfig;
pub(crate) use mcp::McpConfig;
pub use options::Options;
pub(crate) use outbound::OutboundConfig;
pub(crate) use portcullis_runtime::settings::Problem;

use crate::auth::{self, Secret, parse_algorithm};
use crate::catalog::{PolicyDefault, Tenancy};
use crate::secrets::Namespaces;
use crate::source::SourceConfig;
use crate::tls::{ClientAuthorities, TlsFiles};
use portcullis_mcp::guard;

/// A configuration without contradictions.
#[derive(Clone, Debug)]
pub struct Config {
    /// The address for callers.
    pub(crate) listen: SocketAddr,
    /// The address for metrics and probes, if a separate one.
    pub admin: Option<SocketAddr>,
    /// The files of TLS on the address for callers, if it speaks TLS.
    pub(crate) tls: Option<TlsFiles>,
    /// The source of the servers.
    pub(crate) source: SourceConfig,
    /// Whether names include their namespace.
    pub(crate) tenancy: Tenancy,
    /// Whether servers that no access policy governs are open.
    pub(crate) policy_default: PolicyDefault,
    /// The kubeconfig of the cluster, if not the default one.
    pub(crate) kubeconfig: Option<PathBuf>,
    /// The source of Secrets.
    pub(crate) secrets: SecretsConfig,
    /// The tokens that servers may get.
    pub(crate) identity: IdentityConfig,
    /// The addresses that servers may have.
    pub guard: guard::Rules,
    /// The settings for checking tokens.
    pub(crate) auth: auth::Settings,
    /// Whether the REST routes accept `?token=`.
    pub(crate) allow_query_token: bool,
    /// The settings of `/mcp`.
    pub mcp: McpConfig,
    /// How servers are shown who calls.
    pub(crate) outbound: OutboundConfig,
    /// The settings of the log.
    pub(crate) log: LogConfig,
    /// The settings of the audit log, if there is one.
    pub(crate) audit: Option<AuditConfig>,
    /// The limit for a request body, in bytes.
    pub(crate) max_body: usize,
    /// The limit for a message of a server, in bytes.
    pub(crate) max_message: usize,
    /// The memory limit in bytes, if set.
    pub(crate) memory_limit: Option<u64>,
    /// The limit for connections of callers.
    pub(crate) max_connections: usize,
    /// The time from the stop signal to the end of accepting.
    pub(crate) drain: Duration,
    /// The time from then to the end of the process.
    pub(crate) grace: Duration,
}

/// The source of the Secrets and ConfigMaps that servers reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum SecretsConfig {
    /// None.
    None,
    /// A folder, as `DIR/NAME/KEY`.
    Folder(PathBuf),
    /// The API server, in these namespaces.
    Cluster(Namespaces),
}

/// The settings of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct LogConfig {
    /// Level or directives.
    pub(crate) level: String,
    /// JSON lines rather than text.
    pub(crate) json: bool,
    /// Also log arguments and results.
    pub(crate) payloads: bool,
}

/// The settings of the audit log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AuditConfig {
    /// The file; `None`: standard output.
    pub(crate) path: Option<PathBuf>,
    /// Make no call whose line could be lost.
    pub(crate) required: bool,
}

impl Options {
    /// The same with this shared secret.
    #[must_use]
    pub fn with_secret(self, jwt_secret: Option<String>) -> Self {
        Self { jwt_secret, ..self }
    }

    /// Checks all settings and fills in the defaults.
    ///
    /// # Errors
    /// All problems, one line each.
    pub fn check(&self) -> Result<Config, Vec<Problem>> {
        let mut problems = Vec::new();
        let host = parsed(&mut problems, "HOST", &self.host, "::", "an IP address", IpAddr::from_str);
        let port = number(&mut problems, "PORT", &self.port, 5000, 0..=65_535);
        let config = Config {
            listen: SocketAddr::new(host, u16::try_from(port).unwrap_or_default()),
            admin: admin_address(&mut problems, &self.admin_address),
            tls: self.tls(&mut problems),
            source: self.source(&mut problems),
            tenancy: parsed(
                &mut problems,
                "TENANCY",
                &self.tenancy,
                "Isolated",
                "Isolated or Shared",
                Tenancy::from_str,
            ),
            policy_default: parsed(
                &mut problems,
                "POLICY_DEFAULT",
                &self.policy_default,
                "Allow",
                "Allow or Deny",
                PolicyDefault::from_str,
            ),
            kubeconfig: path(&self.kubeconfig),
            secrets: self.secrets(&mut problems),
            identity: self.identity(&mut problems),
            guard: self.guard(&mut problems),
            auth: self.auth(&mut problems),
            allow_query_token: boolean(&mut problems, "ALLOW_QUERY_TOKEN", &self.allow_query_token, true),
            mcp: self.mcp(&mut problems),
            outbound: self.outbound(&mut problems),
            log: self.log(&mut problems),
            audit: self.audit(&mut problems),
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

    /// The settings for issuing and checking tokens; the only part that the `token` command needs.
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

    /// Only the settings for issuing tokens.
    pub(crate) fn of_tokens(&self) -> Self {
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

    /// The settings for checking service-account tokens, if enabled.
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

    fn secrets(&self, problems: &mut Vec<Problem>) -> SecretsConfig {
        match (path(&self.secrets), text(&self.credential_namespaces)) {
            (Some(_), Some(_)) => {
                problems.push("SECRETS_DIR and CREDENTIAL_NAMESPACES are both set: keep one of them".into());
                SecretsConfig::None
            }
            (Some(folder), None) => {
                if !folder.is_dir() {
                    problems.push(format!("SECRETS_DIR is {}: this folder does not exist", folder.display()));
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

    /// The files of TLS towards callers, if there are any.
    pub(crate) fn tls(&self, problems: &mut Vec<Problem>) -> Option<TlsFiles> {
        let required = parsed(
            problems,
            "TLS_CLIENT_CERTIFICATES",
            &self.tls_client_certificates,
            "Required",
            "Required or Optional",
            |text| match text {
                "Required" => Ok(true),
                "Optional" => Ok(false),
                _ => Err(()),
            },
        );
        let clients = path(&self.tls_client_ca_file).map(|file| ClientAuthorities { file, required });
        match (path(&self.tls_cert_file), path(&self.tls_key_file)) {
            (Some(certificate), Some(key)) => Some(TlsFiles { certificate, key, clients }),
            (None, None) => {
                if clients.is_some() {
                    problems.push(
                        "TLS_CLIENT_CA_FILE is set without TLS_CERT_FILE: set TLS_CERT_FILE and TLS_KEY_FILE too"
                            .into(),
                    );
                }
                None
            }
            (certificate, _) => {
                let (set, absent) = match certificate {
                    Some(_) => ("TLS_CERT_FILE", "TLS_KEY_FILE"),
                    None => ("TLS_KEY_FILE", "TLS_CERT_FILE"),
                };
                problems.push(format!("{set} is set without {absent}: set both"));
                None
            }
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
        guard::Rules { special, allowed, blocked, own: list(&self.own_addresses) }
    }

    /// The settings of the audit log, if there is one.
    fn audit(&self, problems: &mut Vec<Problem>) -> Option<AuditConfig> {
        let required = boolean(problems, "AUDIT_REQUIRED", &self.audit_required, false);
        let Some(given) = path(&self.audit_log) else {
            if required {
                problems.push("AUDIT_REQUIRED is true without AUDIT_LOG: set AUDIT_LOG to stdout or a path too".into());
            }
            return None;
        };
        Some(AuditConfig { path: Some(given).filter(|path| path.as_os_str() != "stdout"), required })
    }

    fn log(&self, problems: &mut Vec<Problem>) -> LogConfig {
        let debug = boolean(problems, "DEBUG", &self.debug, false);
        let json = log_json(problems, &self.log_format);
        let level = if debug { "DEBUG" } else { text(&self.log_level).unwrap_or("INFO") };
        let level = log_level(problems, level);
        LogConfig { level, json, payloads: boolean(problems, "LOG_PAYLOADS", &self.log_payloads, false) }
    }
}

fn size(problems: &mut Vec<Problem>, name: &str, value: &Option<String>, default: u64) -> usize {
    usize::try_from(number(problems, name, value, default, 1024..=1024 * 1024 * 1024)).unwrap_or(usize::MAX)
}

/// The minimum memory for any work.
const LEAST_MEMORY: u64 = 64 * 1024 * 1024;

/// Parses a number of bytes in Kubernetes notation.
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
