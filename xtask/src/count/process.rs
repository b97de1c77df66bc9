//! A process under valgrind: started on one processor, watched until it sleeps, stopped, and its instructions read.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use rustix::process::{Signal, kill_process};
use rustix::thread::{CpuSet, sched_getaffinity};

use crate::processor::bind;

/// The process id of a process that runs.
#[derive(Clone, Copy, Debug)]
pub struct Pid(rustix::process::Pid);

/// A program under callgrind.
pub struct Counted {
    child: Child,
    /// Where callgrind writes.
    report: PathBuf,
}

/// For a process to go to sleep.
const SETTLE_LIMIT: Duration = Duration::from_secs(30);

/// Between two looks at a process.
const LOOK: Duration = Duration::from_micros(200);

/// For a process to end when it is asked to.
const STOP_LIMIT: Duration = Duration::from_secs(60);

// === impl Pid ===

impl Pid {
    /// Waits until every thread of the process sleeps, twice in a row: then it waits for others.
    ///
    /// # Errors
    /// When it does not come to rest.
    pub fn settle(self) -> anyhow::Result<()> {
        let deadline = Instant::now() + SETTLE_LIMIT;
        let mut calm = 0;
        while calm < 2 {
            ensure!(Instant::now() < deadline, "the gateway does not come to rest");
            thread::sleep(LOOK);
            calm = if self.sleeps() { calm + 1 } else { 0 };
        }
        Ok(())
    }

    fn sleeps(self) -> bool {
        let folder = format!("/proc/{}/task", self.0.as_raw_nonzero());
        let Ok(threads) = fs::read_dir(folder) else { return true };
        // A thread that has ended meanwhile has no file.
        threads.flatten().all(|thread| fs::read_to_string(thread.path().join("stat")).map_or(true, |it| asleep(&it)))
    }
}

// === impl Counted ===

impl Counted {
    /// Starts a program with nothing but these variables in its environment, on one processor, and gives what it writes.
    /// Each time it calls `mark`, callgrind writes what was counted since the last time to `report` with a number.
    ///
    /// # Errors
    /// When valgrind cannot be started.
    pub fn start(
        program: &Path,
        variables: &[(&str, &str)],
        mark: &str,
        report: &Path,
    ) -> anyhow::Result<(Self, ChildStdout)> {
        // Those of an earlier run would be taken for parts of this one.
        for old in (1..).map(|number| part(report, number)).take_while(|path| path.exists()) {
            fs::remove_file(&old).with_context(|| old.display().to_string())?;
        }
        let mut command = Command::new("valgrind");
        command.env_clear().envs(variables.iter().copied());
        command
            .arg("--tool=callgrind")
            .arg("--vgdb=no")
            .arg(format!("--dump-before={mark}"))
            .arg(format!("--log-file={}.log", report.display()));
        command.arg(format!("--callgrind-out-file={}", report.display())).arg(program);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
        let spawned = on_one_processor(move || command.spawn())?;
        let mut child = spawned.context("valgrind cannot be started: install the package of that name")?;
        let output = child.stdout.take().context("its output")?;
        Ok((Self { child, report: report.to_owned() }, output))
    }

    /// Its process id.
    pub fn pid(&self) -> Pid {
        Pid(rustix::process::Pid::from_child(&self.child))
    }

    /// Asks it to stop, waits until it has, and tells how many instructions it took up to each mark from the one before.
    ///
    /// # Errors
    /// When it fails or does not stop.
    pub fn stop(mut self) -> anyhow::Result<Vec<u64>> {
        kill_process(self.pid().0, Signal::TERM).context("stopping the gateway")?;
        let deadline = Instant::now() + STOP_LIMIT;
        let status = loop {
            if let Some(status) = self.child.try_wait()? {
                break status;
            }
            ensure!(Instant::now() < deadline, "the gateway does not stop");
            thread::sleep(Duration::from_millis(20));
        };
        ensure!(status.success(), "the gateway ended with {status}: see {}.log", self.report.display());
        let parts = (1..).map(|number| part(&self.report, number)).take_while(|path| path.exists());
        parts.map(|path| total(&fs::read_to_string(&path)?).with_context(|| path.display().to_string())).collect()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Runs `act` in a thread that may use a single processor, as may what it starts: the gateway has one thread for its
/// work then, so that nothing depends on which of several takes it up.
fn on_one_processor<T: Send + 'static>(act: impl FnOnce() -> T + Send + 'static) -> anyhow::Result<T> {
    let bound = move || {
        let allowed = sched_getaffinity(None)?;
        let first = (0..CpuSet::MAX_CPU).find(|cpu| allowed.is_set(*cpu)).context("no processor")?;
        bind(first)?;
        Ok(act())
    };
    thread::spawn(bound).join().map_err(|_| anyhow::anyhow!("the thread that starts programs has panicked"))?
}

/// Where callgrind writes what it has counted before the mark of this number.
fn part(report: &Path, number: u32) -> PathBuf {
    let mut path = report.as_os_str().to_owned();
    path.push(format!(".{number}"));
    path.into()
}

/// The instructions in what callgrind writes.
fn total(report: &str) -> anyhow::Result<u64> {
    let line = report.lines().find_map(|line| line.strip_prefix("totals: ")).context("no total")?;
    line.trim().parse().with_context(|| format!("the total {line:?}"))
}

/// Whether a thread waits, by its line in /proc.
fn asleep(stat: &str) -> bool {
    // The state stands behind the name, which is in parentheses and may hold some itself.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('S'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_state_of_a_thread_is_read_whatever_its_name() {
        assert_eq!(["1 (log) S 1", "1 (a) S b) R 1 (x", "1 (a) D 1", ""].map(asleep), [true, false, false, false]);
    }

    #[test]
    fn the_total_is_read() {
        assert_eq!(total("version: 1\nsummary: 3\nfn=(1) a\n1 2\ntotals: 42\n").unwrap(), 42);
        assert_eq!(total("version: 1\n").unwrap_err().to_string(), "no total");
    }

    #[test]
    fn parts_have_numbers() {
        assert_eq!(part(Path::new("a/b.callgrind"), 2), Path::new("a/b.callgrind.2"));
    }
}
