//! Calls to the script `e2e/cluster/cluster`, and the watchman that takes a cluster down when this process has ended.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::sleep;
use std::time::{Duration, Instant};

use xtask::cluster::{Tier, script};

/// A control plane needs 4 s and a full node 7 s on an idle machine.
const UP_LIMIT: Duration = Duration::from_secs(240);
const LIMIT: Duration = Duration::from_secs(60);

/// Reads our end of a pipe: when we are gone, however we went, the pipe ends.
const WATCHMAN: &str = r#"read -r _; exec "$0" --name "$1" down"#;

/// The output of a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScriptOutput {
    /// Whether it ended with exit code 0.
    pub ok: bool,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
    command: String,
}

/// One cluster of the script.
#[derive(Debug)]
pub(super) struct Script {
    name: String,
    watchman: Child,
}

impl ScriptOutput {
    /// Its standard output; panics with everything it said if it failed.
    pub fn good(self) -> String {
        assert!(self.ok, "{} failed:\n{}{}", self.command, self.stdout, self.stderr);
        self.stdout
    }

    /// Everything it said, if it failed; panics if it did not.
    pub fn bad(self) -> String {
        assert!(!self.ok, "{} did not fail:\n{}{}", self.command, self.stdout, self.stderr);
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl Script {
    pub(super) fn up(tier: Tier) -> Result<Self, String> {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("test-{}-{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        // Before the cluster, so that no moment is left in which nobody would take it down.
        let mut watchman = Command::new("sh");
        watchman.args(["-c", WATCHMAN]).arg(script()).arg(&name);
        watchman.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::null());
        // Not in our process group, so that Ctrl-C does not end it.
        let watchman = watchman.process_group(0).spawn().map_err(|error| format!("sh: {error}"))?;
        let cluster = Self { name, watchman };
        let arguments: &[&str] = match tier {
            Tier::ControlPlane => &["up", "--control-plane-only"],
            Tier::Node => &["up"],
        };
        let said = run(cluster.command().args(arguments), UP_LIMIT);
        if said.ok { Ok(cluster) } else { Err(format!("the cluster cannot be started: {}", said.stderr)) }
    }

    /// The kubeconfig, and the folder of kubectl and helm.
    pub(super) fn paths(&self) -> Result<(PathBuf, PathBuf), String> {
        let mut shell = Command::new("bash");
        shell.args(["-c", r#"eval "$("$0" --name "$1" env)" && printf '%s\n' "$KUBECONFIG" "${PATH%%:*}""#]);
        let said = run(shell.arg(script()).arg(&self.name), LIMIT);
        match said.stdout.lines().collect::<Vec<_>>()[..] {
            [kubeconfig, programs] => Ok((kubeconfig.into(), programs.into())),
            _ => Err(format!("the cluster does not say where it is: {}", said.stderr)),
        }
    }

    /// Runs another verb of the script.
    pub(super) fn run(&self, arguments: &[&str]) -> ScriptOutput {
        run(self.command().args(arguments), LIMIT)
    }

    fn command(&self) -> Command {
        let mut command = Command::new(script());
        command.arg("--name").arg(&self.name);
        command
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        // Its standard input ends, and it does its duty.
        drop(self.watchman.stdin.take());
        drop(self.watchman.wait());
    }
}

/// Runs a command to its end; one that takes longer is killed, and has failed.
pub fn run(command: &mut Command, limit: Duration) -> ScriptOutput {
    let file = || tempfile::tempfile().expect("a file for the output");
    let (stdout, stderr) = (file(), file());
    command.stdin(Stdio::null());
    command.stdout(stdout.try_clone().expect("a second handle")).stderr(stderr.try_clone().expect("a second handle"));
    let shown = format!("{} {:?}", command.get_program().display(), command.get_args().collect::<Vec<_>>());
    let mut child = command.spawn().unwrap_or_else(|error| panic!("{shown}: {error}"));
    let end = Instant::now() + limit;
    let mut late = String::new();
    let ok = loop {
        if let Some(status) = child.try_wait().expect("it is ours") {
            break status.success();
        }
        if Instant::now() > end {
            late = format!("\nkilled, for it has not ended in {limit:?}");
            drop(child.kill());
        }
        sleep(Duration::from_millis(5));
    };
    ScriptOutput { ok, stdout: text(&stdout), stderr: text(&stderr) + &late, command: shown }
}

fn text(file: &File) -> String {
    let length = file.metadata().map_or(0, |it| it.len());
    let mut bytes = vec![0; usize::try_from(length).expect("a short output")];
    // Positioned reads: the child writes at the offset that the handles share.
    let read = file.read_at(&mut bytes, 0).expect("readable");
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}
