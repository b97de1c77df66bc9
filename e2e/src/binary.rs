//! The gateway and the operator as processes of their own, for what only a process has: commands, exit codes and signals.

use std::fs::File;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::LazyLock;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::gateway::LIMIT;
use crate::memory_group::MemoryGroup;

/// The binaries, opened: another build may replace the files while tests run.
static GATEWAY: LazyLock<File> = LazyLock::new(|| open(OwnProgram::Gateway));
static OPERATOR: LazyLock<File> = LazyLock::new(|| open(OwnProgram::Operator));

/// The programs that tests start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnProgram {
    /// `portcullis-gateway`.
    Gateway,
    /// `portcullis-operator`.
    Operator,
}

/// The output and exit status of a command.
#[derive(Debug, PartialEq, Eq)]
pub struct CommandEnd {
    /// Its exit code; `None` when a signal ended it.
    pub code: Option<i32>,
    /// All of its standard output.
    pub stdout: String,
    /// All of its standard error.
    pub stderr: String,
}

/// A process that serves. Dropping it kills it.
#[derive(Debug)]
pub struct RunningProgram {
    /// The address for callers; of the operator, the address of metrics and probes.
    pub address: SocketAddr,
    child: Child,
    output: Outputs,
}

#[derive(Debug)]
struct Outputs {
    stdout: File,
    stderr: File,
}

impl OwnProgram {
    fn name(self) -> &'static str {
        match self {
            Self::Gateway => "portcullis-gateway",
            Self::Operator => "portcullis-operator",
        }
    }

    fn file(self) -> &'static File {
        match self {
            Self::Gateway => &GATEWAY,
            Self::Operator => &OPERATOR,
        }
    }

    /// The log message with the address, written once it listens.
    fn first_word(self) -> &'static str {
        match self {
            Self::Gateway => "listening",
            Self::Operator => "reconciling",
        }
    }
}

/// Runs a command of the gateway to its end, with nothing in its environment but this; panics if it takes longer than 20 s.
pub fn run(arguments: &[&str], environment: &[(&str, &str)]) -> CommandEnd {
    run_program(OwnProgram::Gateway, arguments, environment)
}

/// The same of either.
pub fn run_program(program: OwnProgram, arguments: &[&str], environment: &[(&str, &str)]) -> CommandEnd {
    let (mut child, output) = spawn(program, arguments, environment);
    let status = wait(&mut child);
    CommandEnd { code: status.code(), stdout: text(&output.stdout), stderr: text(&output.stderr) }
}

/// Runs a command with a standard output that nobody reads any more.
pub fn run_without_reader(program: OwnProgram, arguments: &[&str], environment: &[(&str, &str)]) -> CommandEnd {
    let (reader, writer) = std::io::pipe().expect("a pipe");
    drop(reader);
    let stderr = tempfile::tempfile().expect("a file for the output");
    let mut command = command_by(&[], program, arguments, environment);
    let mut child =
        command.stdout(writer).stderr(stderr.try_clone().expect("a second handle")).spawn().expect("the binary starts");
    let status = wait(&mut child);
    CommandEnd { code: status.code(), stdout: String::new(), stderr: text(&stderr) }
}

impl RunningProgram {
    /// Starts a gateway on a free port and waits until it listens; panics with its output if it ends before.
    pub fn start(arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        let mut all = vec![("HOST", "127.0.0.1"), ("PORT", "0")];
        all.extend(environment);
        Self::program(OwnProgram::Gateway, arguments, &all)
    }

    /// The same within a control group.
    pub fn start_in(group: &MemoryGroup, environment: &[(&str, &str)]) -> Self {
        let mut all = vec![("HOST", "127.0.0.1"), ("PORT", "0")];
        all.extend(environment);
        let file = group.processes();
        Self::spawned(
            OwnProgram::Gateway,
            spawn_by(&["sh", "-c", JOIN, &file.display().to_string()], OwnProgram::Gateway, &[], &all),
        )
    }

    /// Starts either, with nothing in its environment but this, and waits until it listens; panics with its output if it
    /// ends before.
    pub fn program(program: OwnProgram, arguments: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::spawned(program, spawn(program, arguments, environment))
    }

    fn spawned(program: OwnProgram, (mut child, output): (Child, Outputs)) -> Self {
        let end = Instant::now() + LIMIT;
        loop {
            let log = text(&output.stdout);
            if let Some(address) =
                lines(&log).find_map(|line| (line["message"] == program.first_word()).then(|| line["address"].clone()))
            {
                let address = address.as_str().and_then(|text| text.parse().ok()).expect("an address");
                return Self { address, child, output };
            }
            let ended = child.try_wait().expect("it is ours");
            assert!(ended.is_none(), "it ended: {log}{}", text(&output.stderr));
            assert!(Instant::now() < end, "it does not listen in time: {log}");
            sleep(Duration::from_millis(10));
        }
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("it runs");
    }

    /// The lines of its log until now.
    pub fn log(&self) -> Vec<Value> {
        lines(&text(&self.output.stdout)).collect()
    }

    /// Waits until it has ended; panics if it takes longer than 20 s.
    pub fn ended(mut self) -> CommandEnd {
        let status = wait(&mut self.child);
        CommandEnd { code: status.code(), stdout: text(&self.output.stdout), stderr: text(&self.output.stderr) }
    }
}

impl Drop for RunningProgram {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = text(&self.output.stdout);
            let from = log.lines().count().saturating_sub(60);
            log.lines().skip(from).for_each(|line| eprintln!("{line}"));
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A script that goes into the control group of its first argument and becomes what the others say.
const JOIN: &str = r#"echo $$ > "$0" && exec "$@""#;

fn spawn(program: OwnProgram, arguments: &[&str], environment: &[(&str, &str)]) -> (Child, Outputs) {
    spawn_by(&[], program, arguments, environment)
}

/// The same, started by another program.
fn spawn_by(by: &[&str], program: OwnProgram, arguments: &[&str], environment: &[(&str, &str)]) -> (Child, Outputs) {
    let file = || tempfile::tempfile().expect("a file for the output");
    let output = Outputs { stdout: file(), stderr: file() };
    let child = command_by(by, program, arguments, environment)
        .stdout(output.stdout.try_clone().expect("a second handle"))
        .stderr(output.stderr.try_clone().expect("a second handle"))
        .spawn()
        .expect("the binary starts");
    (child, output)
}

fn command_by(by: &[&str], program: OwnProgram, arguments: &[&str], environment: &[(&str, &str)]) -> Command {
    let binary = format!("/proc/{}/fd/{}", std::process::id(), program.file().as_raw_fd());
    let words: Vec<&str> = by.iter().copied().chain([binary.as_str()]).chain(arguments.iter().copied()).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env_clear().envs(environment.iter().copied()).stdin(Stdio::null());
    command
}

fn wait(child: &mut Child) -> ExitStatus {
    let end = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().expect("it is ours") {
            return status;
        }
        if Instant::now() > end {
            drop(child.kill());
            panic!("it has not ended in {LIMIT:?}");
        }
        sleep(Duration::from_millis(10));
    }
}

fn text(file: &File) -> String {
    use std::os::unix::fs::FileExt as _;
    let length = file.metadata().map_or(0, |it| it.len());
    let mut bytes = vec![0; usize::try_from(length).expect("a short output")];
    // Positioned reads: the child writes at the offset that the handles share.
    let read = file.read_at(&mut bytes, 0).expect("readable");
    String::from_utf8_lossy(&bytes[..read]).into_owned()
}

fn lines(log: &str) -> impl Iterator<Item = Value> {
    log.lines().filter_map(|line| serde_json::from_str(line).ok())
}

fn open(program: OwnProgram) -> File {
    File::open(built(program.name())).expect("it was built")
}

/// Builds the project's binaries in the profile and folder of this test, and gives the path of one.
pub fn built(name: &str) -> PathBuf {
    static FOLDER: LazyLock<PathBuf> = LazyLock::new(build);
    FOLDER.join(name)
}

/// With the tests of the whole workspace, as `cargo xtask test` builds them: any other selection would choose other
/// features of the dependencies, and compile all of them again. Binaries come with their packages' own tests.
fn build() -> PathBuf {
    let own = std::env::current_exe().expect("a path");
    let folder = own.ancestors().nth(2).expect("target/PROFILE/deps/TEST").to_owned();
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(["test", "--quiet", "--workspace", "--no-run"]);
    cargo.arg("--target-dir").arg(folder.parent().expect("the target folder"));
    if folder.ends_with("release") {
        cargo.arg("--release");
    }
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut output = String::new();
    let mut child = cargo.current_dir(workspace).stderr(Stdio::piped()).spawn().expect("cargo starts");
    let read = child.stderr.take().expect("it is piped").read_to_string(&mut output);
    assert!(child.wait().is_ok_and(|status| status.success()) && read.is_ok(), "building failed: {output}");
    folder
}
