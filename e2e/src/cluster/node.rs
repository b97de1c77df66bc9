//! The full node that the tests of a process share, what it runs, and how a test gets into its network.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::sync::OnceLock;
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};
use tokio::runtime::Builder;
use xtask::cluster::NODE;

use super::{Cluster, Tier};
use crate::skip;

/// Names of the image with a shell and curl: the kit's, and the one that the chart and the documents use.
const TOOLS: [&str; 2] = ["localhost/tools:1", "docker.io/curlimages/curl:8.17.0"];

/// The node that all tests of this process share, with the project's image, the real servers and tools loaded, or that
/// of a cluster of your own. Panics if it cannot be started; ask [`available`](super::available) before.
pub fn node() -> &'static Cluster {
    static SHARED: OnceLock<Result<Cluster, String>> = OnceLock::new();
    SHARED.get_or_init(start).as_ref().unwrap_or_else(|why| panic!("{why}"))
}

fn start() -> Result<Cluster, String> {
    if let Some(given) = Cluster::given(Tier::Node) {
        return Ok(given);
    }
    let archives = xtask::cluster::images().map_err(|error| format!("the images cannot be made: {error:#}"))?;
    let cluster = Cluster::start(Tier::Node)?;
    for archive in archives {
        cluster.script().run(&["load", &archive.display().to_string()]).good();
    }
    for name in TOOLS {
        cluster.script().run(&["tools-image", name]).good();
    }
    Ok(cluster)
}

/// Runs a test inside the node's network: its connections reach pods, Services by address and the API server, and so do
/// those of the processes it starts. Names of the cluster are not resolved here, only in pods.
pub fn inside<T: Send>(test: impl AsyncFnOnce(&'static Cluster) -> T + Send) -> T {
    let cluster = node();
    let pid = match std::env::var(NODE) {
        Ok(pid) if cluster.is_given() => pid,
        _ => cluster.script().run(&["pid", "node"]).good(),
    };
    let network = File::open(format!("/proc/{}/ns/net", pid.trim())).expect("the node's network");
    // A thread of its own: it stays in that network, and the harness may run a test in the main thread.
    thread::scope(|scope| {
        let run = || {
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(network.as_fd(), kind).expect("root may enter the network");
            // Its threads are made from this one, so they are in that network as well.
            let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
            runtime.block_on(test(cluster))
        };
        let thread = thread::Builder::new().name(skip::current_test()).spawn_scoped(scope, run).expect("a thread");
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}
