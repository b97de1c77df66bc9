//! Exports memory, CPU time, open files and start time of this process, read from /proc on each scrape; and configures
//! how the system hands out memory.
//!
//! Names as in prometheus.io/docs/instrumenting/writing_clientlibs, "Standard and runtime collectors". Values that the
//! system does not provide (there is no /proc outside Linux) are omitted.

use std::fs;

use prometheus::core::{Collector, Desc};
use prometheus::proto::MetricFamily;
use prometheus::{Counter, Gauge, IntGauge, Registry};

/// Ticks per second of the times in /proc/self/stat: USER_HZ, 100 on every supported architecture (time(7)).
const TICKS_PER_SECOND: f64 = 100.0;

/// Reads the values on each scrape.
struct ProcessCollector {
    resident: IntGauge,
    cpu: Counter,
    files: IntGauge,
    start: Gauge,
}

/// The relevant fields of a line of /proc/self/stat, in ticks.
#[derive(Debug, PartialEq)]
struct Stat {
    cpu: u64,
    /// Since the system started.
    start: u64,
}

/// Adds the metrics of this process to a registry.
///
/// # Errors
/// The registry already has metrics of these names.
pub fn register(registry: &Registry) -> prometheus::Result<()> {
    registry.register(Box::new(ProcessCollector::new()?))
}

/// Makes the system hand out memory in pages of 4 KiB.
///
/// With pages of 2 MiB, which the allocator requests, an unfilled buffer counts in full: with 10,000 idle connections
/// that is 40 % of the memory. If the request fails, only this saving is lost.
pub fn use_small_pages() {
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}

// === impl ProcessCollector ===

impl ProcessCollector {
    fn new() -> prometheus::Result<Self> {
        Ok(Self {
            resident: IntGauge::new("process_resident_memory_bytes", "Resident memory size in bytes.")?,
            cpu: Counter::new("process_cpu_seconds_total", "User and system CPU time spent in seconds.")?,
            files: IntGauge::new("process_open_fds", "Number of open file descriptors.")?,
            start: Gauge::new("process_start_time_seconds", "Start time since the Unix epoch in seconds.")?,
        })
    }
}

impl Collector for ProcessCollector {
    fn desc(&self) -> Vec<&Desc> {
        [self.resident.desc(), self.cpu.desc(), self.files.desc(), self.start.desc()].concat()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut families = Vec::with_capacity(4);
        if let Some(bytes) = read("/proc/self/status").as_deref().and_then(resident_bytes) {
            self.resident.set(bytes);
            families.extend(self.resident.collect());
        }
        if let Some(count) = open_files() {
            self.files.set(count);
            families.extend(self.files.collect());
        }
        let Some(stat) = read("/proc/self/stat").as_deref().and_then(parse_stat) else {
            return families;
        };
        // A counter can only grow. Two concurrent scrapes may add slightly too much; the next ones wait for it.
        self.cpu.inc_by((seconds(stat.cpu) - self.cpu.get()).max(0.0));
        families.extend(self.cpu.collect());
        if let Some(boot) = read("/proc/stat").as_deref().and_then(boot_seconds) {
            self.start.set(boot + seconds(stat.start));
            families.extend(self.start.collect());
        }
        families
    }
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path).ok()
}

fn seconds(ticks: u64) -> f64 {
    ticks as f64 / TICKS_PER_SECOND
}

/// From /proc/self/status rather than statm, which counts pages of a size that only libc reports.
fn resident_bytes(status: &str) -> Option<i64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kibibytes: i64 = line.trim().strip_suffix(" kB")?.parse().ok()?;
    kibibytes.checked_mul(1024)
}

fn open_files() -> Option<i64> {
    let count = fs::read_dir("/proc/self/fd").ok()?.count();
    // Reading the folder takes a file descriptor too.
    i64::try_from(count).ok().map(|count| count - 1)
}

/// The name in parentheses may contain spaces and parentheses, so fields count from the last one (proc(5)).
fn parse_stat(line: &str) -> Option<Stat> {
    let (_, rest) = line.rsplit_once(')')?;
    // The first remaining field is number 3, the state.
    let field = |number: usize| rest.split_ascii_whitespace().nth(number - 3)?.parse::<u64>().ok();
    Some(Stat { cpu: field(14)?.checked_add(field(15)?)?, start: field(22)? })
}

fn boot_seconds(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::{SystemTime, UNIX_EPOCH};

    use super::*;

    #[cfg(target_os = "linux")]
    #[test]
    fn pages_are_small_once_that_was_asked_for() {
        use_small_pages();

        assert_eq!(rustix::thread::transparent_huge_pages_are_disabled(), Ok(true));
    }

    #[test]
    fn a_process_name_with_spaces_and_parentheses_does_not_shift_the_fields() {
        let line = "7 (a) (b c) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 3 0 12345 1000 200";

        assert_eq!(parse_stat(line), Some(Stat { cpu: 300, start: 12345 }));
    }

    #[test]
    fn text_that_is_not_as_expected_gives_no_figure() {
        for line in ["", "7 (a", "7 (a) S 1", "7 (a) S 1 7 7 0 -1 4194560 100 0 0 0 x 50 0 0 20 0 3 0 1 1"] {
            assert_eq!(parse_stat(line), None, "{line}");
        }
        for status in ["", "VmRSS:\t12 MB\n", "VmRSS:\tx kB\n", "VmRSS:\t9223372036854775807 kB\n"] {
            assert_eq!(resident_bytes(status), None, "{status}");
        }
        assert_eq!(boot_seconds("cpu 1 2\n"), None);
    }

    #[test]
    fn memory_and_boot_time_are_found_in_their_files() {
        assert_eq!(resident_bytes("VmHWM:\t  9 kB\nVmRSS:\t   4092 kB\n"), Some(4092 * 1024));
        assert_eq!(boot_seconds("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn this_process_shows_plausible_figures() {
        let registry = Registry::new();
        register(&registry).expect("new names");

        let families = registry.gather();

        let names: Vec<_> = families.iter().map(MetricFamily::name).collect();
        let expected = [
            "process_cpu_seconds_total",
            "process_open_fds",
            "process_resident_memory_bytes",
            "process_start_time_seconds",
        ];
        assert_eq!(names, expected);
        let gauge = |index: usize| families[index].get_metric()[0].get_gauge().get_value();
        assert!(gauge(1) >= 3.0, "standard streams at least");
        assert!(gauge(2) > 1_000_000.0, "a megabyte at least");
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs_f64();
        assert!((now - 3600.0..now + 2.0).contains(&gauge(3)), "started within the hour");
    }
}
