//! Checks flags and environment variables, and turns them into a configuration or a list of all problems.
//!
//! Pure. Each setting is one flag and one variable of the same meaning; an empty variable counts as absent.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use portcullis_crds::names::DEFAULT_NAMESPACE;
use portcullis_runtime::settings::{Problem, admin_address, in_range, list, log_json, log_level, text};
use serde::Deserialize;

/// The most slots that are useful: each is a watch of every gateway replica.
const MAX_SLOTS: usize = 64;

/// `[::]:9090`.
const ADMIN_ADDRESS: SocketAddr = SocketAddr::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 9090);

/// The longest delay of a new server, in milliseconds.
const MAX_NEW_SERVER_DELAY_MS: u64 = 60_000;

/// The settings as text, so that one check reports all problems.
#[derive(Args, Clone, Debug, Default)]
pub struct OperatorOptions {
    /// Namespace of the operator, its ConfigMaps, its Lease and the gateway
    #[arg(long, global = true, env = "POD_NAMESPACE", value_name = "NAME")]
    pub(crate) namespace: Option<String>,
    /// Names of the ConfigMaps that the gateway watches, separated by commas
    #[arg(long, global = true, env = "CONFIGMAPS", value_name = "NAMES")]
    pub(crate) configmaps: Option<String>,
    /// Name of the ConfigMap that keeps the cluster's public keys for gateways that start while the API server is away
    #[arg(long, global = true, env = "KEYS_CONFIGMAP", value_name = "NAME")]
    pub(crate) keys_configmap: Option<String>,
    /// Labels and annotations of ConfigMaps that the operator creates, as JSON: {"labels": {}, "annotations": {}}
    #[arg(long, global = true, env = "SLOT_METADATA", value_name = "JSON")]
    pub(crate) slot_metadata: Option<String>,
    /// Name of the headless Service of the gateway's admin ports; the operator polls its ready pods
    #[arg(long, global = true, env = "GATEWAY_SERVICE", value_name = "NAME")]
    pub(crate) gateway_service: Option<String>,
    /// Admin ports of the gateway, as ADDRESS:PORT separated by commas, instead of a Service
    #[arg(long, global = true, env = "GATEWAYS", value_name = "ADDRESSES")]
    pub(crate) gateways: Option<String>,
    /// Namespaces whose McpServers are reconciled, separated by commas; absent or *: all
    #[arg(long, global = true, env = "NAMESPACES", value_name = "NAMES")]
    pub(crate) namespaces: Option<String>,
    /// Labels of the namespaces whose McpServers are reconciled, as in kubectl --selector
    #[arg(long, global = true, env = "NAMESPACE_SELECTOR", value_name = "SELECTOR")]
    pub(crate) namespace_selector: Option<String>,
    /// Namespace whose McpServers go by their bare names; all others are NAMESPACE/NAME
    #[arg(long, global = true, env = "HOME_NAMESPACE", value_name = "NAME", default_value = DEFAULT_NAMESPACE)]
    pub(crate) home_namespace: Option<String>,
    /// Name of this installation in the status of McpServers, as NAMESPACE/RELEASE; absent: composed of the namespace and
    /// the Lease
    #[arg(long, global = true, env = "INSTALLATION", value_name = "NAME")]
    pub(crate) installation: Option<String>,
    /// Seconds after which this installation takes over the McpServers of one that does not answer
    #[arg(long, global = true, env = "TAKEOVER_SECONDS", value_name = "SECONDS", default_value = "120")]
    pub(crate) takeover_seconds: Option<String>,
    /// Name of the Lease that elects the replica that writes; absent: no election
    #[arg(long, global = true, env = "LEASE", value_name = "NAME")]
    pub(crate) lease: Option<String>,
    /// Name of this replica in the Lease
    #[arg(long, global = true, env = "POD_NAME", value_name = "NAME")]
    pub(crate) pod_name: Option<String>,
    /// Largest number of statuses written per second
    #[arg(long, global = true, env = "STATUS_WRITES_PER_SECOND", value_name = "COUNT", default_value = "500")]
    pub(crate) status_writes_per_second: Option<String>,
    /// Milliseconds for which a new McpServer that no McpAccessPolicy governs waits for one that is applied with it; 0: it
    /// does not wait
    #[arg(long, global = true, env = "NEW_SERVER_DELAY_MS", value_name = "MILLISECONDS", default_value = "500")]
    pub(crate) new_server_delay_ms: Option<String>,
    /// ADDRESS:PORT for /metrics, /livez and /readyz
    #[arg(long, global = true, env = "ADMIN_ADDRESS", value_name = "ADDRESS:PORT", default_value = "[::]:9090")]
    pub(crate) admin_address: Option<String>,
    /// Log level: DEBUG, INFO, WARNING, ERROR, or filter directives
    #[arg(long, global = true, env = "LOG_LEVEL", value_name = "LEVEL", default_value = "INFO")]
    pub(crate) log_level: Option<String>,
    /// Format of the log lines: json or text
    #[arg(long, global = true, env = "LOG_FORMAT", value_name = "FORMAT", default_value = "json")]
    pub(crate) log_format: Option<String>,
}

/// A checked configuration.
#[derive(Clone, Debug)]
pub struct OperatorConfig {
    /// The operator's namespace; none: the namespace of the service account or the kubeconfig.
    pub(crate) namespace: Option<String>,
    /// The ConfigMaps of the slots, in order.
    pub(crate) slots: Vec<String>,
    /// The ConfigMap that keeps the cluster's public keys; none: the operator keeps no keys.
    pub(crate) keys: Option<String>,
    /// Labels and annotations of a slot's ConfigMap that the operator creates.
    pub(crate) slot_metadata: SlotMetadata,
    /// The source of the gateway replicas' addresses.
    pub(crate) gateways: Gateways,
    /// The namespaces whose McpServers the operator reconciles.
    pub(crate) scope: WatchScope,
    /// The namespace whose servers go by their bare names.
    pub(crate) home: String,
    /// Name of the installation, if one is given.
    pub(crate) installation: Option<String>,
    /// Time after which a silent installation counts as gone.
    pub(crate) takeover: Duration,
    /// Name of this replica.
    pub(crate) identity: String,
    /// The election of one of several replicas.
    pub(crate) election: Option<Election>,
    /// Statuses written per second, at most.
    pub(crate) status_writes_per_second: u32,
    /// Time for which a new server waits for its policies.
    pub(crate) new_server_delay: Duration,
    /// Address of metrics and probes.
    pub admin: SocketAddr,
    /// Log level or filter directives.
    pub(crate) log_level: String,
    /// Whether log lines are JSON rather than text.
    pub(crate) log_json: bool,
}

impl OperatorConfig {
    /// The name that identifies this installation; all its replicas have the same.
    pub(crate) fn installation(&self, namespace: &str) -> String {
        let lease = self.election.as_ref().map(|election| election.lease.as_str());
        let part = lease.or(self.slots.first().map(String::as_str)).unwrap_or_default();
        self.installation.clone().unwrap_or_else(|| format!("{namespace}/{part}"))
    }
}

/// Metadata of the installer's ConfigMaps, so that the installer accepts one that the operator creates.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct SlotMetadata {
    /// Labels.
    pub(crate) labels: BTreeMap<String, String>,
    /// Annotations.
    pub(crate) annotations: BTreeMap<String, String>,
}

/// The source of the gateway replicas' addresses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Gateways {
    /// The ready endpoints of this Service.
    Service(String),
    /// Fixed addresses.
    Fixed(Vec<SocketAddr>),
}

/// The namespaces whose McpServers the operator reconciles.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WatchScope {
    /// All namespaces.
    All,
    /// Named namespaces.
    Namespaces(Vec<String>),
    /// Namespaces with these labels.
    Selector(String),
}

/// The election of one of several replicas.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Election {
    /// Name of the Lease.
    pub(crate) lease: String,
    /// Name of this replica.
    pub(crate) identity: String,
}

impl OperatorOptions {
    /// Checks everything and fills in the defaults. `host` is the name of this host.
    ///
    /// # Errors
    /// All problems, one line each.
    pub fn check(&self, host: &str) -> Result<OperatorConfig, Vec<Problem>> {
        let mut problems = Vec::new();
        let admin = admin_address(&mut problems, &self.admin_address).unwrap_or(ADMIN_ADDRESS);
        let log_level = log_level(&mut problems, text(&self.log_level).unwrap_or("INFO"));
        let log_json = log_json(&mut problems, &self.log_format);
        let identity = text(&self.pod_name).unwrap_or(host).to_owned();
        let config = OperatorConfig {
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
            new_server_delay: self.new_server_delay(&mut problems),
            admin,
            log_level,
            log_json,
        };
        if problems.is_empty() { Ok(config) } else { Err(problems) }
    }

    /// The installation and the namespaces to retire; no namespaces: all.
    ///
    /// # Errors
    /// The installation is not named.
    pub(crate) fn retirement(&self) -> Result<(String, Vec<String>), Problem> {
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
                "SLOT_METADATA is not JSON of the form {{\"labels\": {{}}, \"annotations\": {{}}}}: {error}"
            ));
            SlotMetadata::default()
        })
    }

    fn gateways(&self, problems: &mut Vec<Problem>) -> Gateways {
        let mut addresses = Vec::new();
        for address in list(&self.gateways) {
            match address.parse() {
                Ok(address) => addresses.push(address),
                Err(_) => problems.push(format!("GATEWAYS: {address:?} is not ADDRESS:PORT, such as 10.0.0.7:9090")),
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

    fn scope(&self, problems: &mut Vec<Problem>) -> WatchScope {
        let names: Vec<String> = list(&self.namespaces).into_iter().filter(|name| name != "*").collect();
        match (text(&self.namespace_selector), names.is_empty()) {
            (Some(_), false) => {
                problems.push("NAMESPACES and NAMESPACE_SELECTOR are both set: keep one of them".into());
                WatchScope::All
            }
            (Some(selector), true) => {
                if let Err(problem) = is_selector(selector) {
                    problems.push(problem);
                }
                WatchScope::Selector(selector.to_owned())
            }
            (None, false) => WatchScope::Namespaces(names),
            (None, true) => WatchScope::All,
        }
    }

    /// A time shorter than a change of leadership would take over from running installations; only tests set it.
    fn takeover(&self, problems: &mut Vec<Problem>) -> Duration {
        let seconds = in_range(&self.takeover_seconds, 120, 1..=86_400).unwrap_or_else(|_| {
            problems.push("TAKEOVER_SECONDS must be a whole number from 1 to 86400".into());
            120
        });
        Duration::from_secs(seconds)
    }

    fn new_server_delay(&self, problems: &mut Vec<Problem>) -> Duration {
        let milliseconds = in_range(&self.new_server_delay_ms, 500, 0..=MAX_NEW_SERVER_DELAY_MS).unwrap_or_else(|_| {
            problems.push(format!("NEW_SERVER_DELAY_MS must be a whole number from 0 to {MAX_NEW_SERVER_DELAY_MS}"));
            500
        });
        Duration::from_millis(milliseconds)
    }

    fn status_writes(&self, problems: &mut Vec<Problem>) -> u32 {
        let count = in_range(&self.status_writes_per_second, 500, 1..=10_000).unwrap_or_else(|_| {
            problems.push("STATUS_WRITES_PER_SECOND must be a whole number from 1 to 10000".into());
            500
        });
        u32::try_from(count).unwrap_or(500)
    }
}

/// Checks a selector at start, because the API server would refuse it only later.
fn is_selector(text: &str) -> Result<(), Problem> {
    let fits = text.split(',').all(|part| {
        let key = part.trim().trim_start_matches('!');
        !key.is_empty() && !key.starts_with('=')
    });
    if fits { Ok(()) } else { Err(format!("NAMESPACE_SELECTOR is {text:?}: write it as in kubectl --selector")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(text: &str) -> Option<String> {
        Some(text.to_owned())
    }

    fn good() -> OperatorOptions {
        OperatorOptions {
            configmaps: given("a-0,a-1"),
            gateway_service: given("gateway-admin"),
            ..OperatorOptions::default()
        }
    }

    #[test]
    fn every_problem_is_told_at_once() {
        let options = OperatorOptions {
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
            new_server_delay_ms: given("-1"),
            ..OperatorOptions::default()
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
            "NEW_SERVER_DELAY_MS",
        ];
        assert_eq!(settings, expected);
    }

    #[test]
    fn what_is_left_out_has_a_default() {
        let config = good().check("host").unwrap();
        assert_eq!(config.slots, ["a-0", "a-1"]);
        assert_eq!(config.gateways, Gateways::Service("gateway-admin".into()));
        assert_eq!(config.installation("n"), "n/a-0");
        assert_eq!((config.scope, config.home.as_str(), config.election), (WatchScope::All, "default", None));
        assert_eq!((config.status_writes_per_second, config.admin.port()), (500, 9090));
        assert_eq!(config.new_server_delay, Duration::from_millis(500));
        assert_eq!(OperatorOptions::default().check("host").unwrap_err().len(), 2);
    }

    #[test]
    fn namespaces_are_all_a_list_or_a_selector() {
        let scope = |namespaces: &str, selector: &str| {
            let options =
                OperatorOptions { namespaces: given(namespaces), namespace_selector: given(selector), ..good() };
            options.check("host").map(|config| config.scope)
        };
        assert_eq!(scope("", ""), Ok(WatchScope::All));
        assert_eq!(scope("*", ""), Ok(WatchScope::All));
        assert_eq!(scope("a, b", ""), Ok(WatchScope::Namespaces(vec!["a".into(), "b".into()])));
        assert_eq!(scope("", "team=a,!off"), Ok(WatchScope::Selector("team=a,!off".into())));
        assert!(scope("", "=a").is_err());
    }

    #[test]
    fn a_replica_is_named_after_its_pod_or_its_host() {
        let identity = |pod: Option<String>| {
            let options = OperatorOptions { lease: given("l"), pod_name: pod, ..good() };
            options.check("host").unwrap().election.unwrap().identity
        };
        assert_eq!((identity(given("pod")), identity(None)), ("pod".into(), "host".into()));
    }
}
