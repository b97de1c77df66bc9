//! Processes that end with the value that stands for them, or with this process, whatever ends it.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

/// To end in good order, before it is killed.
const GRACE: Duration = Duration::from_secs(3);

/// Between two looks at something that is waited for.
const LOOK: Duration = Duration::from_millis(20);

/// A process that ends with this value.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    log: PathBuf,
}

/// What a process is started with.
#[derive(Debug)]
pub struct Start<'a> {
    /// For messages, and the name of its log file.
    pub name: &'a str,
    /// Processors it may use, as `taskset` takes them; none for all.
    pub cpus: Option<&'a str>,
    /// What to run.
    pub program: &'a Path,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(&'static str, String)>,
}

impl Process {
    /// Starts it; both its outputs go to one file in `folder`.
    pub fn start(start: Start<'_>, folder: &Path) -> anyhow::Result<Self> {
        let log = folder.join(format!("{}.log", start.name));
        // Appending, so that the file can be emptied meanwhile.
        fs::write(&log, "").context("a log file")?;
        let file = File::options().append(true).open(&log).context("a log file")?;
        // The system tells it to end when this process is gone, even killed.
        let mut command = Command::new("setpriv");
        command.args(["--pdeathsig", "TERM"]);
        if let Some(cpus) = start.cpus {
            command.args(["taskset", "--cpu-list", cpus]);
        }
        command.arg(start.program).args(&start.arguments);
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).envs(start.environment);
        command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
        let child = command.spawn().with_context(|| format!("starting {} with setpriv (util-linux)", start.name))?;
        Ok(Self { name: start.name.to_owned(), child, log })
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Looks again and again, until it is so.
    ///
    /// # Errors
    /// When the process has ended, or it takes longer than `limit`: what it wrote last is told.
    pub fn until(&mut self, what: &str, limit: Duration, mut look: impl FnMut() -> bool) -> anyhow::Result<Duration> {
        let began = Instant::now();
        while !look() {
            let ended = self.child.try_wait()?;
            if ended.is_some() || began.elapsed() > limit {
                let end = ended.map_or_else(|| format!("after {limit:?}"), |status| status.to_string());
                bail!("{} is not {what} ({end}): {}", self.name, self.last_words());
            }
            sleep(LOOK);
        }
        Ok(began.elapsed())
    }

    /// Waits for its end, and gives what it wrote.
    ///
    /// # Errors
    /// When it fails, or it takes longer than `limit`.
    pub fn finish(mut self, limit: Duration) -> anyhow::Result<String> {
        let began = Instant::now();
        loop {
            match self.child.try_wait()? {
                Some(end) if end.success() => return Ok(fs::read_to_string(&self.log)?),
                Some(end) => bail!("{} failed ({end}): {}", self.name, self.last_words()),
                None => ensure!(began.elapsed() < limit, "{} takes longer than {limit:?}", self.name),
            }
            sleep(LOOK);
        }
    }

    fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let from = text.char_indices().rev().nth(1000).map_or(0, |(index, _)| index);
        text[from..].trim().to_owned()
    }

    /// Empties its log: with a line for each call it would fill the disk.
    pub fn forget_log(&self) -> anyhow::Result<()> {
        Ok(File::options().write(true).open(&self.log)?.set_len(0)?)
    }

    /// Its resident set, in MiB.
    pub fn resident(&self) -> anyhow::Result<f64> {
        let path = format!("/proc/{}/status", self.pid());
        let status = fs::read_to_string(&path).with_context(|| path.clone())?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().context("VmRSS")?;
        Ok(kib / 1024.0)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Some(pid) = i32::try_from(self.pid()).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let began = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && began.elapsed() < GRACE {
            sleep(LOOK);
        }
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(script: &str, folder: &Path) -> Process {
        let arguments = vec!["-c".to_owned(), script.to_owned()];
        let program = Path::new("/bin/sh");
        Process::start(Start { name: "it", cpus: None, program, arguments, environment: vec![] }, folder).unwrap()
    }

    #[test]
    fn a_process_ends_with_its_value() {
        let folder = tempfile::tempdir().unwrap();
        let process = shell("exec sleep 60", folder.path());
        let place = PathBuf::from(format!("/proc/{}", process.pid()));
        assert!(place.exists());
        drop(process);
        assert!(!place.exists());
    }

    #[test]
    fn what_it_wrote_is_there_when_it_has_ended_well() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(shell("echo done", folder.path()).finish(GRACE).unwrap(), "done\n");
        let error = shell("echo no; exit 2", folder.path()).finish(GRACE).unwrap_err();
        assert_eq!(error.to_string(), "it failed (exit status: 2): no");
    }

    #[test]
    fn one_that_ends_too_early_is_told_with_its_last_words() {
        let folder = tempfile::tempdir().unwrap();
        let error = shell("echo no such thing; exit 3", folder.path()).until("up", GRACE, || false).unwrap_err();
        assert_eq!(error.to_string(), "it is not up (exit status: 3): no such thing");
    }
}
