//! A real Kubernetes for tests: started by the script in `e2e/cluster`, and gone when the test process is.
//!
//! A test binary shares one control plane, or one full node, among its tests; each test works in a [`TestNamespace`], a namespace
//! of its own. A test that stops or breaks the API server starts a control plane for itself.

mod node;
mod script;
mod space;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
pub use node::{inside, node};
use rustix::process::{Pid, Signal, kill_process};
use script::Script;
pub use script::{ScriptOutput, run};
pub use space::{LIMIT, TestNamespace};
use xtask::cluster::KUBECONFIG;
pub use xtask::cluster::Tier;

use crate::skip;

/// Bound for one command of kubectl or helm.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);

/// A running cluster. Dropping it stops it, and so does the end of this process, however it comes.
#[derive(Debug)]
pub struct Cluster {
    /// The kubeconfig of an administrator.
    pub kubeconfig: PathBuf,
    programs: PathBuf,
    script: Option<Script>,
}

/// Whether a cluster of this kind can be started on this machine; the error says why not. For
/// [`require!`](crate::require).
pub fn available(tier: Tier) -> Result<(), String> {
    if tier.is_given() { Ok(()) } else { startable(tier) }
}

/// The same for a test that starts a control plane for itself, whatever cluster is given.
pub fn startable(tier: Tier) -> Result<(), String> {
    match skip::reason(tier.name()) {
        Some(reason) => Err(reason),
        None => tier.ready(),
    }
}

/// The control plane that all tests of this process share, or the cluster that `PORTCULLIS_TEST_KUBECONFIG` names, with
/// the McpServer definition applied. Panics if it cannot be started; ask [`available`] before.
pub fn control_plane() -> &'static Cluster {
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    let shared = SHARED
        .get_or_init(|| Cluster::given(Tier::ControlPlane).map_or_else(|| Cluster::start(Tier::ControlPlane), Ok));
    shared.as_ref().unwrap_or_else(|why| panic!("{why}"))
}

impl Cluster {
    /// Starts a control plane for one test alone; several run side by side, each with 0.4 GB.
    pub fn own_control_plane() -> Self {
        Self::start(Tier::ControlPlane).unwrap_or_else(|why| panic!("{why}"))
    }

    fn start(tier: Tier) -> Result<Self, String> {
        let script = Script::up(tier)?;
        let (kubeconfig, programs) = script.paths()?;
        Ok(Self { kubeconfig, programs, script: Some(script) })
    }

    /// A cluster of your own, if one is given for tests of this tier.
    fn given(tier: Tier) -> Option<Self> {
        let kubeconfig = std::env::var_os(KUBECONFIG).filter(|_| tier.is_given())?.into();
        Some(Self { kubeconfig, programs: PathBuf::new(), script: None })
    }

    /// A client for the runtime of the calling test, with an administrator's rights.
    pub async fn client(&self) -> Client {
        let kubeconfig = Kubeconfig::read_from(&self.kubeconfig).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config = Config::from_custom_kubeconfig(kubeconfig, &options).await.expect("a good kubeconfig");
        Client::try_from(config).expect("a client")
    }

    /// Runs `kubectl` to its end, within 3 min.
    pub fn kubectl(&self, arguments: &[&str]) -> ScriptOutput {
        script::run(self.program("kubectl").args(arguments), COMMAND_LIMIT)
    }

    /// Runs `helm` to its end, within 3 min.
    pub fn helm(&self, arguments: &[&str]) -> ScriptOutput {
        script::run(self.program("helm").args(arguments), COMMAND_LIMIT)
    }

    /// A command of one of the kit's programs, such as `kubectl`, or of the PATH, with an administrator's rights.
    pub fn program(&self, name: &str) -> Command {
        // Without programs of the kit, those of the PATH.
        let own = self.programs.join(name);
        let mut command = Command::new(if own.exists() { own.as_path() } else { Path::new(name) });
        let path = std::env::var_os("PATH").unwrap_or_default();
        let all = std::env::split_paths(&path);
        let all = std::env::join_paths(std::iter::once(self.programs.clone()).chain(all)).expect("no colon in it");
        command.env("KUBECONFIG", &self.kubeconfig).env("PATH", all);
        if let Some(home) = self.kubeconfig.parent() {
            command.env("KUBECACHEDIR", home.join("cache")).env("HELM_CACHE_HOME", home.join("helm"));
            command.env("HELM_CONFIG_HOME", home.join("helm")).env("HELM_DATA_HOME", home.join("helm"));
        }
        command
    }

    /// Sends a signal to a daemon, such as `kube-apiserver`; panics with a cluster that is not the kit's.
    pub fn signal(&self, daemon: &str, signal: Signal) {
        let said = self.script().run(&["pid", daemon]);
        let pid = said.good().trim().parse().ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    /// Kills a daemon and starts it again with the same arguments; waits until the API server answers.
    pub fn restart(&self, daemon: &str) {
        self.script().run(&["restart", daemon]).good();
    }

    /// The URL of etcd; this machine reaches it only with a control plane.
    pub fn etcd(&self) -> String {
        let pid = self.script().run(&["pid", "etcd"]).good();
        let arguments = std::fs::read(format!("/proc/{}/cmdline", pid.trim())).expect("it runs");
        let arguments: Vec<String> = String::from_utf8_lossy(&arguments).split('\0').map(str::to_owned).collect();
        let flag = arguments.iter().position(|it| it == "--listen-client-urls").expect("the flag");
        arguments[flag + 1].clone()
    }

    /// The last lines of a daemon's log, for the message of a failure.
    pub fn log(&self, daemon: &str) -> String {
        let log = self.script().run(&["logs", daemon]).stdout;
        let from = log.lines().count().saturating_sub(40);
        log.lines().skip(from).map(|line| format!("{line}\n")).collect()
    }

    fn script(&self) -> &Script {
        self.script.as_ref().expect("only a cluster of the kit can be told so")
    }

    fn is_given(&self) -> bool {
        self.script.is_none()
    }
}
