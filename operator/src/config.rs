//! Flags and environment variables → a configuration, or everything that is wrong with them.
//!
//! Pure. Each setting is one flag and one variable of the same meaning; an empty variable counts as absent.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;
use portcullis_crds::names::DEFAULT_NAMESPACE;
use serde::Deserialize;

/// The most slots that are useful: each is a watch of every gateway replica.
const MAX_SLOTS: usize = 64;

/// What can be set. Every field is as text, so that all problems can be told at once.
#[derive(Args, Clone, Debug, Default)]
pub struct Options {
    /// Namespace of the operator, its ConfigMaps, its Lease and the gateway
    #[arg(long, global = true, env = "POD_NAMESPACE", value_name = "NAME")]
    pub namespace: Option<String>,
    /// Names of the ConfigMaps that the gateway watches, separated by commas
    #[arg(long, global = true, env = "CONFIGMAPS", value_name = "NAMES")]
    pub configmaps: Option<String>,
    /// Name of the ConfigMap that keeps the cluster's public keys for gateways that start while the API server is away
    #[arg(long, global = true, env = "KEYS_CONFIGMAP", value_name = "NAME")]
    pub keys_configmap: Option<String>,
    /// Labels and annotations of these ConfigMaps where one has to be made anew, as JSON: {"labels": {}, "annotations": {}}
    #[arg(long, global = true, env = "SLOT_METADATA", value_name = "JSON")]
    pub slot_metadata: Option<String>,
    /// Name of the headless Service of the gateway's admin ports; its ready pods are asked what they have applied
    #[arg(long, global = true, env = "GATEWAY_SERVICE", value_name = "NAME")]
    pub gateway_service: Option<String>,
    /// Admin ports of the gateway, as ADDRESS:PORT separated by commas, instead of a Service
    #[arg(long, global = true, env = "GATEWAYS", value_name = "ADDRESSES")]
    pub gateways: Option<String>,
    /// Namespaces whose McpServers are reconciled, separated by commas; absent or *: all
    #[arg(long, global = true, env = "NAMESPACES", value_name = "NAMES")]
    pub namespaces: Option<String>,
    /// Labels of the namespaces whose McpServers are reconciled, as in kubectl --selector
    #[arg(long, global = true, env = "NAMESPACE_SELECTOR", value_name = "SELECTOR")]
    pub namespace_selector: Option<String>,
    /// Namespace whose McpServers go by their bare names; all others are NAMESPACE/NAME
    #[arg(long, global = true, env = "HOME_NAMESPACE", value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    pub home_namespace: Option<String>,
    /// Name by which McpServers say whose gateway serves them, as NAMESPACE/RELEASE; absent: made from the namespace and
    /// the Lease
    #[arg(long, global = true, env = "INSTALLATION", value_name = "NAME")]
    pub installation: Option<String>,
    /// Seconds after which an installation that does not answer counts as gone, and its McpServers are taken over
    #[arg(long, global = true, env = "TAKEOVER_SECONDS", value_name = "SECONDS", default_value = "120")]
    pub takeover_seconds: Option<String>,
    /// Name of the Lease that lets one replica write; without it there is no election
    #[arg(long, global = true, env = "LEASE", value_name = "NAME")]
    pub lease: Option<String>,
    /// Name of this replica in the Lease
    #[arg(long, global = true, env = "POD_NAME", value_name = "NAME")]
    pub pod_name: Option<String>,
    /// Statuses written in a second, at most
    #[arg(long, global = true, env = "STATUS_WRITES_PER_SECOND", value_name = "COUNT", default_value = "500")]
    pub status_writes_per_second: Option<String>,
    /// ADDRESS:PORT for /metrics, /livez and /readyz
    #[arg(long, global = true, env = "ADMIN_ADDRESS", value_name = "ADDRESS:PORT", default_value = "[::]:9090")]
    pub admin_address: Option<String>,
    /// DEBUG, INFO, WARNING, ERROR, or filter directives
    #[arg(long, global = true, env = "LOG_LEVEL", value_name = "LEVEL", default_value = "INFO")]
    pub log_level: Option<String>,
    /// Form of the log lines: json or text
    #[arg(long, global = true, env = "LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    pub log_format: Option<String>,
}

/// A configuration without contradictions.
#[derive(Clone, Debug)]
pub struct Config {
    /// Own namespace; none: that of the service account or of the kubeconfig.
    pub namespace: Option<String>,
    /// The slots' ConfigMaps, in their order.
    pub slots: Vec<String>,
    /// The ConfigMap of the cluster's public keys; none: they are not kept.
    pub keys: Option<String>,
    /// What one of them carries that is made anew.
    pub slot_metadata: SlotMetadata,
    /// Where gateway replicas are found.
    pub gateways: Gateways,
    /// Whose McpServers are reconciled.
    pub scope: Scope,
    /// Whose servers go by their bare names.
    pub home: String,
    /// Name of the installation, if one is given.
    pub installation: Option<String>,
    /// After which another installation that does not answer counts as gone.
    pub takeover: Duration,
    /// Name of this replica.
    pub identity: String,
    /// How one of several replicas is elected.
    pub election: Option<Election>,
    /// Statuses in a second.
    pub status_writes_per_second: u32,
    /// Metrics and probes.
    pub admin: SocketAddr,
    /// Level or directives.
    pub log_level: String,
    /// JSON lines rather than text.
    pub log_json: bool,
}

impl Config {
    /// What tells this installation from another: all its replicas have the same.
    pub fn installation(&self, namespace: &str) -> String {
        let lease = self.election.as_ref().map(|election| election.lease.as_str());
        let part = lease.or(self.slots.first().map(String::as_str)).unwrap_or_default();
        self.installation.clone().unwrap_or_else(|| format!("{namespace}/{part}"))
    }
}

/// What the installer gives its ConfigMaps, so that it takes one for its own that the operator has made anew.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SlotMetadata {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Annotations.
    pub annotations: BTreeMap<String, String>,
}

/// Where gateway replicas are found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gateways {
    /// The ready endpoints of this Service.
    Service(String),
    /// These, always.
    Fixed(Vec<SocketAddr>),
}

/// Whose McpServers are reconciled.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All namespaces.
    All,
    /// These.
    Namespaces(Vec<String>),
    /// Those with these labels.
    Selector(String),
}

/// How one of several replicas is elected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Election {
    /// Name of the Lease.
    pub lease: String,
    /// Name of this replica.
    pub identity: String,
}

/// One thing that is wrong, in one line.
pub type Problem = String;

impl Options {
    /// Checks everything and fills in the defaults. `host` is the name of this host.
    ///
    /// # Errors
    /// Every problem there is, one line each.
    pub fn check(&self, host: &str) -> Result<Config, Vec<Problem>> {
        let mut problems = Vec::new();
        let admin = text(&self.admin_address).unwrap_or("[::]:9090");
        let admin = admin.parse().unwrap_or_else(|_| {
            problems.push(format!("ADMIN_ADDRESS is {admin:?}: write ADDRESS:PORT, as in 0.0.0.0:9090 or [::]:9090"));
            SocketAddr::from(([0, 0, 0, 0], 0))
        });
        let level = text(&self.log_level).unwrap_or("INFO");
        if let Err(problem) = portcullis_runtime::log::check(level) {
            problems.push(format!("LOG_LEVEL: {problem}"));
        }
        let format = text(&self.log_format).unwrap_or("json").to_ascii_lowercase();
        if !matches!(format.as_str(), "json" | "text") {
            problems.push(format!("LOG_FORMAT is {format:?}: use json or text"));
        }
        let identity = text(&self.pod_name).unwrap_or(host).to_owned();
        let config = Config {
            namespace: text(&self.namespace).map(str::to_owned),
            slots: self.slots(&mut problems),
            keys: text(&self.keys_configmap).map(str::to_owned),
            slot_metadata: self.slot_metadata(&mut problems),
            gateways: self.gateways(&mut problems),
            scope: self.scope(&mut problems),
            home: text(&self.home_namespace).unwrap_or(DEFAULT_NAMESPACE).to_owned(),
            installation: text(&self.installation).map(str::to_owned),
            takeover: self.takeover(&mut problems),
            election: text(&self.lease).map(|lease| Election { lease: lease.to_owned(), identity: identity.clone() }),
            identity,
            status_writes_per_second: self.status_writes(&mut problems),
            admin,
            log_level: level.to_owned(),
            log_json: format == "json",
        };
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// Whose servers are served no more: the installation, and the namespaces; none: all.
    ///
    /// # Errors
    /// The installation is not named.
    pub fn retirement(&self) -> Result<(String, Vec<String>), Problem> {
        let installation = text(&self.installation).ok_or("INSTALLATION is not set: name it as NAMESPACE/RELEASE")?;
        Ok((installation.to_owned(), list(&self.namespaces).into_iter().filter(|name| name != "*").collect()))
    }

    fn slots(&self, problems: &mut Vec<Problem>) -> Vec<String> {
        let names = list(&self.configmaps);
        let mut sorted = names.clone();
        sorted.sort();
        sorted.dedup();
        if names.is_empty() {
            problems.push("CONFIGMAPS is not set: name the ConfigMaps that the gateway watches".into());
        } else if sorted.len() < names.len() {
            problems.push("CONFIGMAPS names one twice: name each once, in the same order as for the gateway".into());
        } else if names.len() > MAX_SLOTS {
            problems.push(format!("CONFIGMAPS has {} names: use at most {MAX_SLOTS}", names.len()));
        }
        names
    }

    fn slot_metadata(&self, problems: &mut Vec<Problem>) -> SlotMetadata {
        let Some(json) = text(&self.slot_metadata) else { return SlotMetadata::default() };
        serde_json::from_str(json).unwrap_or_else(|error| {
            problems.push(format!(
                "SLOT_METADATA is no JSON of the form {{\"labels\": {{}}, \"annotations\": {{}}}}: {error}"
            ));
            SlotMetadata::default()
        })
    }

    fn gateways(&self, problems: &mut Vec<Problem>) -> Gateways {
        let mut addresses = Vec::new();
        for address in list(&self.gateways) {
            match address.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => problems.push(format!("GATEWAYS: {address:?} is no ADDRESS:PORT, such as 10.0.0.7:9090")),
            }
        }
        match (text(&self.gateway_service), addresses.is_empty()) {
            (Some(_), false) => {
                problems.push("GATEWAY_SERVICE and GATEWAYS are both set: keep one of them".into());
                Gateways::Fixed(addresses)
            }
            (Some(service), true) => Gateways::Service(service.to_owned()),
            (None, false) => Gateways::Fixed(addresses),
            (None, true) => {
                if problems.iter().all(|problem| !problem.starts_with("GATEWAYS")) {
                    problems.push("GATEWAY_SERVICE is not set: name the Service of the gateway's admin ports".into());
                }
                Gateways::Fixed(addresses)
            }
        }
    }

    fn scope(&self, problems: &mut Vec<Problem>) -> Scope {
        let names: Vec<String> = list(&self.namespaces).into_iter().filter(|name| name != "*").collect();
        match (text(&self.namespace_selector), names.is_empty()) {
            (Some(_), false) => {
                problems.push("NAMESPACES and NAMESPACE_SELECTOR are both set: keep one of them".into());
                Scope::All
            }
            (Some(selector), true) => {
                if let Err(problem) = is_selector(selector) {
                    problems.push(problem);
                }
                Scope::Selector(selector.to_owned())
            }
            (None, false) => Scope::Namespaces(names),
            (None, true) => Scope::All,
        }
    }

    /// Less than it takes a Lease to change hands would take over from those who are there; only tests want that.
    fn takeover(&self, problems: &mut Vec<Problem>) -> Duration {
        match text(&self.takeover_seconds).unwrap_or("120").parse() {
            Ok(seconds @ 1..=86_400) => Duration::from_secs(seconds),
            _ => {
                problems.push("TAKEOVER_SECONDS must be a whole number from 1 to 86400".into());
                Duration::from_secs(120)
            }
        }
    }

    fn status_writes(&self, problems: &mut Vec<Problem>) -> u32 {
        match text(&self.status_writes_per_second).unwrap_or("500").parse() {
            Ok(count @ 1..=10_000) => count,
            _ => {
                problems.push("STATUS_WRITES_PER_SECOND must be a whole number from 1 to 10000".into());
                1
            }
        }
    }
}

/// A selector that the API server would refuse is told at start.
fn is_selector(text: &str) -> Result<(), Problem> {
    let fits = text.split(',').all(|part| {
        let key = part.trim().trim_start_matches('!');
        !key.is_empty() && !key.starts_with('=')
    });
    if fits { Ok(()) } else { Err(format!("NAMESPACE_SELECTOR is {text:?}: write it as in kubectl --selector")) }
}

fn text(value: &Option<String>) -> Option<&str> {
    value.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

fn list(value: &Option<String>) -> Vec<String> {
    let parts = text(value).into_iter().flat_map(|text| text.split(','));
    parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn good() -> Options {
        Options { configmaps: given("a-0,a-1"), gateway_service: given("gateway-admin"), ..Options::default() }
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let options = Options {
            admin_address: given("9090"),
            log_level: given("loud"),
            log_format: given("xml"),
            configmaps: given("a,a"),
            slot_metadata: given("team=a"),
            gateway_service: given("a"),
            gateways: given("x,127.0.0.1:1"),
            namespaces: given("a"),
            namespace_selector: given("b=c"),
            status_writes_per_second: given("0"),
            takeover_seconds: given("soon"),
            ..Options::default()
        };
        let problems = options.check("host").unwrap_err();
        let settings: Vec<&str> = problems.iter().map(|p| p.split([' ', ':']).next().unwrap()).collect();
        let expected = [
            "ADMIN_ADDRESS",
            "LOG_LEVEL",
            "LOG_FORMAT",
            "CONFIGMAPS",
            "SLOT_METADATA",
            "GATEWAYS",
            "GATEWAY_SERVICE",
            "NAMESPACES",
            "TAKEOVER_SECONDS",
            "STATUS_WRITES_PER_SECOND",
        ];
        assert_eq!(settings, expected);
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let config = good().check("host").unwrap();
        assert_eq!(config.slots, ["a-0", "a-1"]);
        assert_eq!(config.gateways, Gateways::Service("gateway-admin".into()));
        assert_eq!(config.installation("n"), "n/a-0");
        assert_eq!((config.scope, config.home.as_str(), config.election), (Scope::All, "default", None));
        assert_eq!((config.status_writes_per_second, config.admin.port()), (500, 9090));
        assert_eq!(Options::default().check("host").unwrap_err().len(), 2);
    }

    #[test]
    fn namespaces_are_all_a_list_or_a_selector() {
        let scope = |namespaces: &str, selector: &str| {
            let options = Options { namespaces: given(namespaces), namespace_selector: given(selector), ..good() };
            options.check("host").map(|config| config.scope)
        };
        assert_eq!(scope("", ""), Ok(Scope::All));
        assert_eq!(scope("*", ""), Ok(Scope::All));
        assert_eq!(scope("a, b", ""), Ok(Scope::Namespaces(vec!["a".into(), "b".into()])));
        assert_eq!(scope("", "team=a,!off"), Ok(Scope::Selector("team=a,!off".into())));
        assert!(scope("", "=a").is_err());
    }

    #[test]
    fn a_replica_is_named_after_its_pod_or_its_host() {
        let identity = |pod: Option<String>| {
            let options = Options { lease: given("l"), pod_name: pod, ..good() };
            options.check("host").unwrap().election.unwrap().identity
        };
        assert_eq!((identity(given("pod")), identity(None)), ("pod".into(), "host".into()));
    }
}
