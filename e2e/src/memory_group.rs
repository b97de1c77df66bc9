//! A control group with a bound on memory, like a container: the system kills its processes rather than let them grow.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The mount point of control groups.
const ROOT: &str = "/sys/fs/cgroup";

/// Makes the names of one process differ.
static NEXT: AtomicU32 = AtomicU32::new(0);

/// A group of its own, removed when it is dropped. What runs in it has to have ended by then.
#[derive(Debug)]
pub struct MemoryGroup {
    folder: PathBuf,
    is_v2: bool,
}

impl MemoryGroup {
    /// A group with a bound of `bytes`.
    ///
    /// # Errors
    /// Why this machine lets us make none: not root, or no controller of memory.
    pub fn new(bytes: u64) -> Result<Self, String> {
        let is_v2 = Path::new(ROOT).join("cgroup.controllers").exists();
        let parent = if is_v2 { PathBuf::from(ROOT) } else { Path::new(ROOT).join("memory") };
        if is_v2 {
            // It is refused where processes are in the root itself, and then there is no file for the limit below.
            let _ = fs::write(parent.join("cgroup.subtree_control"), "+memory");
        }
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let folder = parent.join(format!("portcullis-test-{}-{number}", std::process::id()));
        let fail = |what: &str, error: std::io::Error| format!("no control group for memory: {what}: {error}");
        fs::create_dir(&folder).map_err(|error| fail("it cannot be made", error))?;
        let group = Self { folder, is_v2 };
        let limit = if is_v2 { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(group.folder.join(limit), bytes.to_string()).map_err(|error| fail("it takes no limit", error))?;
        if is_v2 {
            let _ = fs::write(group.folder.join("memory.swap.max"), "0");
        }
        Ok(group)
    }

    /// The file that takes the ids of the processes that are to be in it.
    pub fn processes(&self) -> PathBuf {
        self.folder.join("cgroup.procs")
    }

    /// The most that was used in it, in bytes.
    pub fn peak(&self) -> Option<u64> {
        let file = if self.is_v2 { "memory.peak" } else { "memory.max_usage_in_bytes" };
        self.read(file).trim().parse().ok()
    }

    /// Number of processes of the group that the system has killed for want of memory.
    pub fn kills(&self) -> u64 {
        let text = self.read(if self.is_v2 { "memory.events" } else { "memory.oom_control" });
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")).map(str::parse);
        count.and_then(Result::ok).unwrap_or_default()
    }

    fn read(&self, file: &str) -> String {
        fs::read_to_string(self.folder.join(file)).unwrap_or_default()
    }
}

impl Drop for MemoryGroup {
    fn drop(&mut self) {
        // A process that was just killed may still be on its way out.
        for _ in 0..100 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
    }
}
