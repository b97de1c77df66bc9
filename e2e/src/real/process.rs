//! A child process with its own group, whose output is kept and which cannot outlive us.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Mutex;

use rustix::process::{Pid, Signal, kill_process_group};

/// Largest kept part of the output.
const MAX_OUTPUT_BYTES: u64 = 64 * 1024;

/// Runs "$@" beside a watchman that reads our end of a pipe: when we are gone, however we went, the pipe ends and the
/// watchman kills the group. (A parent-death signal would follow the thread that forked, and tests end their threads.)
const WATCHED: &str = r#"exec 3<&0; (read -r _ <&3; kill -KILL 0) & exec 3<&-; exec "$@" </dev/null"#;

/// A running process group. Dropping it kills the group and waits for its leader.
#[derive(Debug)]
pub struct ProcessGroup {
    child: Mutex<Child>,
    group: Pid,
    output: File,
}

impl ProcessGroup {
    /// Starts a command; panics if it cannot be started.
    pub fn start(command: Command) -> Self {
        let output = tempfile::tempfile().expect("a file for the output");
        let child = watched(&command)
            .stdin(Stdio::piped())
            .stdout(output.try_clone().expect("a second handle"))
            .stderr(output.try_clone().expect("a third handle"))
            .process_group(0)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let group = Pid::from_child(&child);
        Self { child: Mutex::new(child), group, output }
    }

    /// Whether it has ended by itself.
    pub fn ended(&self) -> bool {
        self.status().is_some()
    }

    /// The exit status, if the process has ended by itself.
    pub fn status(&self) -> Option<ExitStatus> {
        self.child.lock().expect("no holder panics").try_wait().expect("it is ours")
    }

    /// The last 64 KiB of stdout and stderr together.
    pub fn output(&self) -> String {
        let length = self.output.metadata().map_or(0, |it| it.len());
        let start = length.saturating_sub(MAX_OUTPUT_BYTES);
        let mut tail = vec![0; usize::try_from(length - start).expect("at most 64 KiB")];
        // Positioned reads: the child writes at the offset that the handles share.
        let read = self.output.read_at(&mut tail, start).unwrap_or(0);
        String::from_utf8_lossy(&tail[..read]).into_owned()
    }
}

impl Drop for ProcessGroup {
    fn drop(&mut self) {
        // An error means that the whole group is gone already.
        let _ = kill_process_group(self.group, Signal::KILL);
        let child = self.child.get_mut().unwrap_or_else(|poisoned| poisoned.into_inner());
        drop(child.wait());
    }
}

fn watched(command: &Command) -> Command {
    let mut watched = Command::new("sh");
    watched.args(["-c", WATCHED, "sh"]).arg(command.get_program()).args(command.get_args());
    watched.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    if let Some(folder) = command.get_current_dir() {
        watched.current_dir(folder);
    }
    watched
}
