//! Gives every task a name and an owner: the first one that ends unexpectedly stops the process.

use std::any::Any;
use std::collections::HashMap;
use std::error::Error;
use std::time::Duration;

use tokio::task::{Id, JoinError, JoinSet};
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

use crate::chain::Chain;
use crate::ready::Readiness;
use crate::shutdown::{self, Shutdown, Stop};

type BoxError = Box<dyn Error + Send + Sync>;
type Joined = Result<(Id, Result<(), BoxError>), JoinError>;

/// Owns the long-lived tasks of a process.
#[derive(Debug)]
pub struct Supervisor {
    tasks: JoinSet<Result<(), BoxError>>,
    names: HashMap<Id, &'static str>,
    stop: Stop,
    shutdown: Shutdown,
}

/// How a process stops on request.
#[derive(Clone, Debug)]
pub struct Drain {
    /// Reports unready from the moment the process is told to stop.
    pub readiness: Readiness,
    /// How long the tasks continue to serve after that, so that load balancers can switch first.
    pub delay: Duration,
    /// How long the tasks may then take to finish before they are aborted.
    pub grace: Duration,
}

/// The reason a process stopped without a request.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// A task returned before it was told to.
    #[error("task `{task}` ended unexpectedly")]
    Ended {
        /// Name of the task.
        task: &'static str,
    },
    /// A task failed.
    #[error("task `{task}` failed")]
    Failed {
        /// Name of the task.
        task: &'static str,
        /// The error of the task.
        source: BoxError,
    },
    /// A task panicked, which is a bug.
    #[error("task `{task}` panicked: {message}")]
    Panicked {
        /// Name of the task.
        task: &'static str,
        /// The message of the panic.
        message: String,
    },
}

// === impl Supervisor ===

impl Default for Supervisor {
    fn default() -> Self {
        Self::new()
    }
}

impl Supervisor {
    /// Creates a supervisor without tasks.
    pub fn new() -> Self {
        let (stop, shutdown) = shutdown::channel();
        Self { tasks: JoinSet::new(), names: HashMap::new(), stop, shutdown }
    }

    /// The shutdown that every task should watch.
    pub fn shutdown(&self) -> Shutdown {
        self.shutdown.clone()
    }

    /// Starts a task. It must run until [`Supervisor::shutdown`] is requested, and then return.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn spawn<F, E>(&mut self, name: &'static str, future: F)
    where
        F: Future<Output = Result<(), E>> + Send + 'static,
        E: Into<BoxError>,
    {
        let task = self.tasks.spawn(async move { future.await.map_err(Into::into) });
        self.names.insert(task.id(), name);
    }

    /// Runs until `signal` ends or a task does, then stops all tasks, within `drain.grace`.
    ///
    /// After the signal the process reports unready, serves for `drain.delay` more, and tells its tasks to stop. Later
    /// results of tasks are logged and otherwise ignored. Tasks that remain after the grace period are aborted.
    ///
    /// # Errors
    /// The first [`Failure`], already logged: the process should exit with a non-zero code.
    pub async fn run(mut self, signal: impl Future<Output = ()>, drain: Drain) -> Result<(), Failure> {
        let asked = async {
            signal.await;
            drain.readiness.drain();
            info!(delay_seconds = drain.delay.as_secs_f64(), "draining");
            sleep(drain.delay).await;
        };
        let verdict = tokio::select! {
            biased;
            failure = self.first_failure() => Err(failure),
            () = asked => Ok(()),
        };
        if let Err(failure) = &verdict {
            error!(error = %Chain(failure), "stopping the process");
            drain.readiness.drain();
        }
        self.stop.request();
        self.finish(drain.grace).await;
        verdict
    }

    /// Waits for the first task that ends; forever if there is none.
    async fn first_failure(&mut self) -> Failure {
        match self.tasks.join_next_with_id().await {
            Some(joined) => self.failure(joined),
            None => std::future::pending().await,
        }
    }

    /// Waits for all tasks within the grace period; aborts the rest.
    async fn finish(mut self, grace: Duration) {
        let all = async {
            while let Some(joined) = self.tasks.join_next_with_id().await {
                let failure = self.failure(joined);
                if !matches!(failure, Failure::Ended { .. }) {
                    warn!(error = %Chain(&failure), "while stopping");
                }
            }
        };
        if timeout(grace, all).await.is_err() {
            let mut left: Vec<_> = self.names.into_values().collect();
            left.sort_unstable();
            warn!(tasks = left.join(","), grace_seconds = grace.as_secs_f64(), "tasks aborted after the grace");
        }
        // Not awaited further: a task that blocks its thread must not delay the process.
        self.tasks.abort_all();
    }

    /// Describes how a task ended; the caller knows whether it was told to.
    fn failure(&mut self, joined: Joined) -> Failure {
        let id = joined.as_ref().map_or_else(JoinError::id, |(id, _)| *id);
        let task = self.names.remove(&id).unwrap_or("unnamed");
        match joined {
            Ok((_, Ok(()))) => Failure::Ended { task },
            Ok((_, Err(source))) => Failure::Failed { task, source },
            Err(error) => Failure::Panicked { task, message: panic_message(error) },
        }
    }
}

fn panic_message(error: JoinError) -> String {
    let Ok(payload) = error.try_into_panic() else {
        return "cancelled".to_owned();
    };
    text_of(payload.as_ref()).unwrap_or("no message").to_owned()
}

/// A panic carries a `&str` when its message is a literal, a `String` when it is formatted.
fn text_of(payload: &(dyn Any + Send)) -> Option<&str> {
    payload.downcast_ref::<&str>().copied().or_else(|| payload.downcast_ref::<String>().map(String::as_str))
}

#[cfg(test)]
mod tests;
