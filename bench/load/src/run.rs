//! Runs the workers, measures for a while, and reports the figures.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use clap::ValueEnum as _;
use hdrhistogram::Histogram;
use mcp_load::http::Url;
use mcp_load::proc;

use crate::args::LoadArgs;
use crate::worker::{LoadState, WorkerTally, worker};

fn raise_file_limit() {
    // SAFETY: plain calls on a local struct.
    unsafe {
        let mut l: libc::rlimit = std::mem::zeroed();
        if libc::getrlimit(libc::RLIMIT_NOFILE, &mut l) == 0 {
            l.rlim_cur = l.rlim_max;
            libc::setrlimit(libc::RLIMIT_NOFILE, &l);
        }
    }
}

/// Runs the load and prints its result.
pub(crate) fn run(args: LoadArgs) -> Result<ExitCode, String> {
    raise_file_limit();
    let url = Url::parse(&args.url)?;
    let state = Arc::new(LoadState {
        measuring: AtomicBool::new(false),
        stop: AtomicBool::new(false),
        ready: AtomicU64::new(0),
        failed: AtomicU64::new(0),
    });
    let rss_before = proc::usage(&args.pid).rss_kb;
    let handles = start_threads(&url, &args, &state);
    let open_seconds = wait_until_open(&args, &state);
    std::thread::sleep(Duration::from_secs_f64(args.warmup));
    proc::reset_peak(&args.pid);
    let measured = measure(&args, &state);
    let mut total = RunTotal::new();
    for handle in handles {
        for tally in handle.join().map_err(|_| "a generator thread panicked")? {
            total.add(tally);
        }
    }
    let sessions = state.ready.load(Ordering::Relaxed);
    println!("{}", report(&args, &Opening { rss_before, open_seconds, sessions }, &measured, &total));
    Ok(if total.ok == 0 || total.errors > 0 { ExitCode::from(2) } else { ExitCode::SUCCESS })
}

/// Starts the generator threads, each with its share of the connections.
fn start_threads(url: &Url, args: &LoadArgs, state: &Arc<LoadState>) -> Vec<JoinHandle<Vec<WorkerTally>>> {
    let threads = args.threads.clamp(1, args.concurrency.max(1));
    let start = |thread: usize| {
        let (url, args, state) = (url.clone(), args.clone(), state.clone());
        std::thread::spawn(move || {
            let rt = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            let local = tokio::task::LocalSet::new();
            local.block_on(&rt, async {
                let mut tasks = Vec::new();
                for i in (thread..args.concurrency).step_by(threads) {
                    tasks.push(tokio::task::spawn_local(worker(i, url.clone(), args.clone(), state.clone())));
                    // Opening sessions in a burst is a test of its own.
                    if i % 64 == 63 {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                }
                let mut tallies = Vec::new();
                for task in tasks {
                    tallies.push(task.await.expect("worker"));
                }
                tallies
            })
        })
    };
    (0..threads).map(start).collect()
}

/// Waits until all sessions are open, or failed. Returns the seconds that took.
fn wait_until_open(args: &LoadArgs, state: &LoadState) -> f64 {
    let opening = Instant::now();
    loop {
        let done = state.ready.load(Ordering::Relaxed) + state.failed.load(Ordering::Relaxed);
        if done as usize >= args.concurrency || opening.elapsed() > Duration::from_secs(120) {
            return opening.elapsed().as_secs_f64();
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Figures from before the measurement.
struct Opening {
    rss_before: u64,
    open_seconds: f64,
    sessions: u64,
}

/// CPU seconds and memory over the measured time.
struct Measured {
    seconds: f64,
    server_cpu: f64,
    backend_cpu: f64,
    own_cpu: f64,
    /// The share of the machine that all other processes took.
    foreign_fraction: f64,
    server: proc::Usage,
}

/// Measures for the duration of the run, then stops the workers.
fn measure(args: &LoadArgs, state: &LoadState) -> Measured {
    let (server0, backend0) = (proc::usage(&args.pid), proc::usage(&args.backend_pid));
    let (own0, machine0) = (proc::own_cpu(), proc::machine_cpu());
    state.measuring.store(true, Ordering::Relaxed);
    let start = Instant::now();
    std::thread::sleep(Duration::from_secs_f64(args.duration));
    state.measuring.store(false, Ordering::Relaxed);
    let seconds = start.elapsed().as_secs_f64();
    let (own1, machine1) = (proc::own_cpu(), proc::machine_cpu());
    let (server, backend1) = (proc::usage(&args.pid), proc::usage(&args.backend_pid));
    state.stop.store(true, Ordering::Relaxed);
    let server_cpu = server.cpu_s - server0.cpu_s;
    let backend_cpu = backend1.cpu_s - backend0.cpu_s;
    let own_cpu = own1 - own0;
    let busy = machine1.0 - machine0.0;
    let foreign_fraction = (busy - server_cpu - backend_cpu - own_cpu).max(0.0) / (machine1.1 - machine0.1);
    Measured { seconds, server_cpu, backend_cpu, own_cpu, foreign_fraction, server }
}

/// The calls of all workers.
struct RunTotal {
    latency: Histogram<u64>,
    ok: u64,
    errors: u64,
    first_error: Option<String>,
}

impl RunTotal {
    fn new() -> Self {
        let latency = Histogram::new_with_bounds(1, 120_000_000, 3).expect("bounds");
        Self { latency, ok: 0, errors: 0, first_error: None }
    }

    fn add(&mut self, tally: WorkerTally) {
        let _ = self.latency.add(&tally.latency);
        self.ok += tally.ok;
        self.errors += tally.errors;
        self.first_error = self.first_error.take().or(tally.first_error);
    }
}

/// The result, as one JSON object.
fn report(args: &LoadArgs, opening: &Opening, measured: &Measured, total: &RunTotal) -> serde_json::Value {
    let Measured { seconds, server_cpu, backend_cpu, own_cpu, foreign_fraction, server } = measured;
    let RunTotal { latency, ok, errors, first_error } = total;
    // Latencies are recorded in tenths of a microsecond.
    let ms = |v: u64| (v as f64 / 10.0).round() / 1000.0;
    let round = |v: f64, d: i32| (v * 10f64.powi(d)).round() / 10f64.powi(d);
    let per_call = |cpu: f64, factor: f64, digits: i32| {
        if *ok == 0 { serde_json::Value::Null } else { round(cpu * factor / *ok as f64, digits).into() }
    };
    let mode = args.mode.to_possible_value().map_or(String::new(), |v| v.get_name().to_string());
    serde_json::json!({
        "label": args.label,
        "mode": mode,
        "url": args.url,
        "concurrency": args.concurrency,
        "payload": args.payload,
        "rate": args.rate,
        "seconds": round(*seconds, 3),
        "open_s": round(opening.open_seconds, 3),
        "sessions_open": opening.sessions,
        "ok": ok,
        "errors": errors,
        "rps": round(*ok as f64 / seconds, 1),
        "mean_ms": round(latency.mean() / 10_000.0, 4),
        "p50_ms": ms(latency.value_at_quantile(0.50)),
        "p90_ms": ms(latency.value_at_quantile(0.90)),
        "p99_ms": ms(latency.value_at_quantile(0.99)),
        "p999_ms": ms(latency.value_at_quantile(0.999)),
        "max_ms": ms(latency.max()),
        "server_cpu_s": round(*server_cpu, 3),
        "server_cpu_s_per_1000": per_call(*server_cpu, 1000.0, 5),
        "server_cpu_us_per_call": per_call(*server_cpu, 1e6, 2),
        "server_rss_kb_before": opening.rss_before,
        "server_rss_kb": server.rss_kb,
        "server_peak_rss_kb": server.peak_rss_kb,
        "server_threads": server.threads,
        "backend_cpu_us_per_call": per_call(*backend_cpu, 1e6, 2),
        "load_cpu_us_per_call": per_call(*own_cpu, 1e6, 2),
        "foreign_cpu_fraction": round(*foreign_fraction, 3),
        "first_error": first_error,
    })
}
