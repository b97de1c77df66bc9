//! Threads with a runtime each: the data of a connection stays with one thread.
//!
//! A multi-threaded runtime shares its sockets, timers and queues among threads, and moves tasks. Each of these is
//! memory that two processors write in turn, and processors that share no cache take a tenth of a microsecond and more
//! for each such turn. Here a connection stays on one thread from its first byte to its last, and state for all calls
//! can be split into a part for each thread ([`Parts`]).

use std::cell::Cell;
use std::io;
use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, LazyLock};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::{Builder, Handle};
use tokio::task::{AbortHandle, JoinSet};

use crate::shutdown::{self, Shutdown, Stop};

/// On a large machine without a limit, more workers would mostly sleep, and each takes memory for each server.
const MOST: usize = 16;

/// The threads of all workers together for blocking system calls, such as name lookups: as many as tokio's default for
/// one runtime.
const BLOCKING: usize = 512;

/// How long the threads may take to end.
const ENDING: Duration = Duration::from_secs(2);

thread_local! {
    static PART: Cell<usize> = const { Cell::new(0) };
}

/// The number of workers of a process: one for each processor that it may use, by affinity and quota. Read once.
pub fn count() -> usize {
    static COUNT: LazyLock<usize> = LazyLock::new(|| thread::available_parallelism().map_or(1, NonZero::get).min(MOST));
    *COUNT
}

/// Owns the threads: dropping it ends them, and waits at most two seconds for that.
#[derive(Debug)]
pub struct WorkerThreads {
    handles: Vec<Handle>,
    stop: Stop,
    /// Closed when the last thread has ended.
    ended: Receiver<()>,
}

/// Distributes work of one kind. The default has no threads: all work stays in the caller's runtime.
#[derive(Clone, Debug, Default)]
pub struct Workers(Arc<[Worker]>);

#[derive(Debug)]
struct Worker {
    handle: Handle,
    /// The number of pieces of work that have not ended.
    load: AtomicUsize,
}

/// A place for one piece of work, which counts there until this is dropped.
#[derive(Debug)]
pub struct Seat {
    workers: Workers,
    number: usize,
}

/// One value for each worker, apart from one another in memory. Threads that are not workers share the first.
#[derive(Debug)]
pub struct Parts<T>(Box<[Apart<T>]>);

/// Two lines of 64 bytes: processors fetch adjacent lines in pairs.
#[derive(Debug)]
#[repr(align(128))]
struct Apart<T>(T);

// === impl Parts ===

impl<T> Parts<T> {
    /// Creates as many parts as there can be workers.
    pub fn new(mut part: impl FnMut() -> T) -> Self {
        Self((0..count()).map(|_| Apart(part())).collect())
    }

    /// The part of this thread's worker.
    pub fn own(&self) -> &T {
        &self.0[self.place()].0
    }

    /// All parts but [`Self::own`].
    pub fn others(&self) -> impl Iterator<Item = &T> {
        let own = self.place();
        self.0.iter().enumerate().filter(move |(place, _)| *place != own).map(|(_, part)| &part.0)
    }

    /// All parts.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().map(|part| &part.0)
    }

    fn place(&self) -> usize {
        PART.get() % self.0.len()
    }
}

impl<T: Default> Default for Parts<T> {
    fn default() -> Self {
        Self::new(T::default)
    }
}

// === impl WorkerThreads ===

impl WorkerThreads {
    /// Starts this many threads.
    ///
    /// # Errors
    /// The system cannot create a thread, or a socket.
    pub fn start(count: usize) -> io::Result<Self> {
        let (stop, shutdown) = shutdown::channel();
        let (ending, ended) = channel();
        let blocking = BLOCKING.div_ceil(count.max(1));
        let start = |number| start(number, blocking, shutdown.clone(), ending.clone());
        let handles = (0..count).map(start).collect::<io::Result<_>>()?;
        Ok(Self { handles, stop, ended })
    }

    /// A distributor for work of one kind: each kind is spread evenly, independently of the others.
    pub fn workers(&self) -> Workers {
        let worker = |handle: &Handle| Worker { handle: handle.clone(), load: AtomicUsize::new(0) };
        Workers(self.handles.iter().map(worker).collect())
    }
}

impl Drop for WorkerThreads {
    fn drop(&mut self) {
        self.stop.request();
        let until = Instant::now() + ENDING;
        // Nothing is ever sent: the channel closes when the last thread has dropped its sender.
        while self.ended.recv_timeout(until.saturating_duration_since(Instant::now())).is_ok() {}
    }
}

fn start(number: usize, blocking: usize, shutdown: Shutdown, ending: Sender<()>) -> io::Result<Handle> {
    let runtime = Builder::new_current_thread().enable_all().max_blocking_threads(blocking).build()?;
    let handle = runtime.handle().clone();
    thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        PART.set(number);
        runtime.block_on(shutdown.requested());
        // Does not wait for operations that still block elsewhere.
        runtime.shutdown_background();
        drop(ending);
    })?;
    Ok(handle)
}

// === impl Workers ===

impl Workers {
    /// A place with the least loaded worker; `None` if there are no threads.
    pub fn seat(&self) -> Option<Seat> {
        let load = |number: &usize| self.0[*number].load.load(Ordering::Relaxed);
        let number = (0..self.0.len()).min_by_key(load)?;
        self.0[number].load.fetch_add(1, Ordering::Relaxed);
        Some(Seat { workers: self.clone(), number })
    }
}

// === impl Seat ===

impl Seat {
    /// Starts work in the thread of this seat, which it holds until it ends.
    pub fn spawn<F>(self, tasks: &mut JoinSet<F::Output>, work: F) -> AbortHandle
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let handle = self.workers.0[self.number].handle.clone();
        let work = async move {
            let _seat = self;
            work.await
        };
        tasks.spawn_on(work, &handle)
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.workers.0[self.number].load.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use tokio::sync::oneshot;

    use super::*;

    /// Where work runs that is given to them in turn; all of it holds its seat.
    async fn threads_of(seats: impl IntoIterator<Item = Option<Seat>>) -> (Vec<String>, JoinSet<()>) {
        let (mut names, mut tasks) = (Vec::new(), JoinSet::new());
        for seat in seats {
            let (tell, told) = oneshot::channel();
            seat.expect("there are threads").spawn(&mut tasks, async move {
                tell.send(thread::current().name().unwrap_or_default().to_owned()).expect("somebody waits");
                std::future::pending().await
            });
            names.push(told.await.expect("it begins"));
        }
        (names, tasks)
    }

    #[tokio::test]
    async fn work_goes_to_the_worker_that_has_the_least() {
        let threads = WorkerThreads::start(2).expect("threads");
        let workers = threads.workers();
        let unused = workers.seat();

        let (names, held) = threads_of((0..3).map(|_| workers.seat())).await;
        drop(unused);
        let (next, _held) = threads_of([workers.seat()]).await;

        assert_eq!(
            (names.as_slice(), next.as_slice(), held.len()),
            (["worker-1", "worker-0", "worker-1"].map(str::to_owned).as_slice(), ["worker-0".to_owned()].as_slice(), 3)
        );
    }

    #[tokio::test]
    async fn work_that_ends_leaves_its_seat() {
        let threads = WorkerThreads::start(2).expect("threads");
        let workers = threads.workers();
        let (_, mut tasks) = threads_of((0..2).map(|_| workers.seat())).await;
        tasks.shutdown().await;

        let (names, _held) = threads_of((0..2).map(|_| workers.seat())).await;

        assert_eq!(names, ["worker-0", "worker-1"]);
    }

    #[tokio::test]
    async fn each_kind_of_work_is_spread_for_itself() {
        let threads = WorkerThreads::start(2).expect("threads");

        let (names, _held) = threads_of((0..2).map(|_| threads.workers().seat())).await;

        assert_eq!(names, ["worker-0", "worker-0"]);
    }

    #[test]
    fn without_threads_there_is_no_seat() {
        assert!(Workers::default().seat().is_none());
        assert!(WorkerThreads::start(0).expect("none").workers().seat().is_none());
    }

    #[tokio::test]
    async fn who_drops_the_threads_ends_their_work() {
        let threads = WorkerThreads::start(2).expect("threads");
        let (_, mut tasks) = threads_of([threads.workers().seat()]).await;

        tokio::task::spawn_blocking(move || drop(threads)).await.expect("no panic");

        assert!(tasks.join_next().await.expect("one").expect_err("it has no end").is_cancelled());
    }

    #[tokio::test]
    async fn every_worker_has_a_part_of_its_own() {
        let threads = WorkerThreads::start(count()).expect("threads");
        let (parts, workers) = (Arc::new(Parts::<Mutex<Vec<String>>>::default()), threads.workers());

        let mut tasks = JoinSet::new();
        let seats: Vec<_> = (0..2 * count()).map(|_| workers.seat().expect("there are threads")).collect();
        for seat in seats {
            let parts = parts.clone();
            let name = || thread::current().name().unwrap_or_default().to_owned();
            seat.spawn(&mut tasks, async move { parts.own().lock().unwrap().push(name()) });
        }
        tasks.join_all().await;

        let found: Vec<Vec<String>> = parts.iter().map(|part| part.lock().unwrap().clone()).collect();
        let twice = |number| vec![format!("worker-{number}"); 2];
        assert_eq!(found, (0..count()).map(twice).collect::<Vec<_>>());
    }
}
