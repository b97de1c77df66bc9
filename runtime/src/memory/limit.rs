//! Computes the memory limit of the process, and the account's share of it.

use std::path::Path;
use std::time::Duration;
use std::{fs, str};

use tokio::time::sleep;
use tracing::info;

use super::Account;
use crate::shutdown::Shutdown;

/// Between two readings of the process's memory outside the account.
const LOOK: Duration = Duration::from_secs(1);

/// Of the whole limit, in percent: the account's maximum and minimum.
const MOST: u64 = 55;
const LEAST: u64 = 20;

/// The used part of the limit; the rest is for the unexpected.
const FILLED: u64 = 85;

/// A limit above this means none: cgroup v1 reports "no limit" as the largest number of pages.
const NO_LIMIT: u64 = 1 << 60;

/// The source of a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitSource {
    /// The setting.
    Setting,
    /// The control group of the process.
    ControlGroup,
    /// Half of the memory of the machine, if there is no other limit.
    Machine,
}

/// The memory limit of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Bytes.
    pub bytes: u64,
    /// The source of the limit.
    pub source: LimitSource,
}

/// The limit of this process: as set, else that of its control group, else half of the machine's memory.
pub fn available(setting: Option<u64>) -> Limit {
    if let Some(bytes) = setting {
        return Limit { bytes, source: LimitSource::Setting };
    }
    let machine = read("/proc/meminfo").as_deref().and_then(|text| kibibytes(text, "MemTotal:")).unwrap_or(1 << 30);
    match control_group(Path::new("/sys/fs/cgroup"), &read("/proc/self/cgroup").unwrap_or_default()) {
        Some(bytes) if bytes < machine => Limit { bytes, source: LimitSource::ControlGroup },
        _ => Limit { bytes: machine / 2, source: LimitSource::Machine },
    }
}

/// Adapts the account to the memory that the process uses elsewhere, within the limit, until `shutdown`.
pub async fn follow(account: &'static Account, limit: Limit, shutdown: Shutdown) {
    account.set_limit(bytes(limit.bytes * MOST / 100));
    info!(bytes = limit.bytes, source = ?limit.source, "memory limit");
    let looking = async {
        loop {
            if let Some(resident) = read("/proc/self/status").as_deref().and_then(|text| kibibytes(text, "VmRSS:")) {
                account.set_limit(bytes(share(limit.bytes, resident, account.held() as u64)));
            }
            sleep(LOOK).await;
        }
    };
    tokio::select! {
        () = looking => {}
        () = shutdown.requested() => {}
    }
}

/// The account's share, if the process has `resident` bytes and the account holds `held` of them.
fn share(limit: u64, resident: u64, held: u64) -> u64 {
    let others = resident.saturating_sub(held);
    let left = (limit * FILLED / 100).saturating_sub(others);
    left.clamp(limit * LEAST / 100, limit * MOST / 100)
}

/// The smallest limit of a process's control groups and of their ancestors, which a container sees at the root.
/// `membership` is the content of `/proc/self/cgroup`.
fn control_group(root: &Path, membership: &str) -> Option<u64> {
    let limits = membership.lines().filter_map(|line| {
        let mut fields = line.splitn(3, ':');
        let (number, controllers, path) = (fields.next()?, fields.next()?, fields.next()?);
        // cgroups(7): version 2 has the number 0 and no controllers.
        let (folder, file) = if number == "0" && controllers.is_empty() {
            (root.to_owned(), "memory.max")
        } else if controllers.split(',').any(|one| one == "memory") {
            (root.join("memory"), "memory.limit_in_bytes")
        } else {
            return None;
        };
        let own = folder.join(path.trim_start_matches('/'));
        let above = own.ancestors().take_while(|folder| folder.starts_with(root));
        above.filter_map(|folder| fs::read_to_string(folder.join(file)).ok()?.trim().parse::<u64>().ok()).min()
    });
    limits.filter(|bytes| *bytes < NO_LIMIT).min()
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

/// The value of a line such as `VmRSS:  4092 kB`, in bytes.
fn kibibytes(text: &str, name: &str) -> Option<u64> {
    let value = text.lines().find_map(|line| line.strip_prefix(name))?.trim();
    value.strip_suffix(" kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

fn bytes(count: u64) -> usize {
    usize::try_from(count).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn the_account_leaves_room_for_what_else_the_process_uses() {
        let limit = 256 * MIB;
        for (resident, held, expected) in
            [(30, 0, 140), (170, 140, 140), (100, 0, 117), (200, 20, 51), (400, 0, 51), (10, 20, 140)]
        {
            assert_eq!(share(limit, resident * MIB, held * MIB) / MIB, expected, "{resident} {held}");
        }
    }

    #[test]
    fn the_limit_is_that_of_the_control_group_or_of_one_above() {
        let folder = std::env::temp_dir().join(format!("portcullis-cgroup-{}", std::process::id()));
        let write = |path: &str, text: &str| {
            let file = folder.join(path);
            fs::create_dir_all(file.parent().expect("a folder")).expect("it is made");
            fs::write(file, text).expect("it is written");
        };
        write("memory/a/b/memory.limit_in_bytes", "9223372036854771712\n");
        write("memory/a/memory.limit_in_bytes", "268435456\n");
        write("c/memory.max", "max\n");
        write("memory.max", "1000000000\n");
        write("memory/memory.limit_in_bytes", "2000000000\n");
        for (membership, expected) in [
            ("9:name=systemd:/\n4:cpu,memory:/a/b\n0::/", Some(268_435_456)),
            ("0::/c", Some(1_000_000_000)),
            // In a container, the path may be the host's and the root the container's own.
            ("0::/kubepods/pod1/x", Some(1_000_000_000)),
            ("4:memory:/docker/x", Some(2_000_000_000)),
            ("3:cpu:/a", None),
            ("", None),
        ] {
            assert_eq!(control_group(&folder, membership), expected, "{membership}");
        }
        fs::remove_dir_all(folder).expect("it is removed");
    }

    #[test]
    fn a_setting_counts_before_what_is_found() {
        assert_eq!(available(Some(7)), Limit { bytes: 7, source: LimitSource::Setting });
        assert!(available(None).bytes > MIB);
    }

    #[test]
    fn figures_of_the_system_are_read_or_left_out() {
        assert_eq!(kibibytes("VmHWM:\t  9 kB\nVmRSS:\t   4092 kB\n", "VmRSS:"), Some(4092 * 1024));
        for text in ["", "VmRSS:\t12 MB\n", "VmRSS:\tx kB\n", "VmRSS:\t99999999999999999999 kB\n"] {
            assert_eq!(kibibytes(text, "VmRSS:"), None, "{text}");
        }
    }
}
