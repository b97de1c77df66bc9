//! The signals that this process handles: SIGTERM and SIGINT to stop, SIGHUP to reload. Unix only.
//!
//! A separate thread watches for stop signals, so that a second signal and the time limit work whatever the rest of the
//! process is doing.

use std::future::pending;
use std::sync::mpsc;
use std::time::Duration;
use std::{io, process, thread};

use tokio::runtime::Builder;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::oneshot;
use tokio::time::sleep;
use tracing::info;

/// The reason a signal cannot be handled.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The operating system refused the handler.
    #[error("cannot listen for {name}")]
    Listen {
        /// Name of the signal.
        name: &'static str,
        /// The error of the operating system.
        source: io::Error,
    },
    /// The thread that watches the signals cannot be started.
    #[error("cannot start the thread that watches signals")]
    Thread(#[source] io::Error),
}

/// The stream of SIGHUPs.
#[derive(Debug)]
pub struct Reload {
    hangup: Signal,
}

/// The reason a process ends before it has stopped in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cut {
    /// A second signal came.
    Again(Stopping),
    /// Stopping took longer than this.
    Late(Duration),
}

/// A signal that requests a process to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stopping {
    Terminate,
    Interrupt,
}

/// Handles the signals from now on; the future ends with the first SIGTERM or SIGINT.
///
/// After the first one, a second ends the process at once, and so does `limit`: a process that is told to stop is gone
/// by then, whatever it is doing.
///
/// # Errors
/// [`SignalError`] if a handler cannot be installed.
pub fn termination(limit: Duration) -> Result<impl Future<Output = ()> + Send, SignalError> {
    watch(limit, |cut| {
        eprintln!("{}", cut.message());
        process::exit(cut.exit_code())
    })
}

/// The same with an action in place of ending the process.
fn watch(
    limit: Duration,
    end: impl FnOnce(Cut) + Send + 'static,
) -> Result<impl Future<Output = ()> + Send, SignalError> {
    let (began, beginning) = mpsc::channel();
    let (mut first, asked) = oneshot::channel::<()>();
    let watching = move || {
        let runtime = Builder::new_current_thread().enable_all().build().map_err(SignalError::Thread);
        let entered = runtime.as_ref().map(|runtime| runtime.enter());
        let signals = entered.is_ok().then(both).transpose();
        drop(entered);
        let (runtime, (mut terminate, mut interrupt)) = match (runtime, signals) {
            (Ok(runtime), Ok(Some(signals))) => (runtime, signals),
            (Err(error), _) | (_, Err(error)) => return drop(began.send(Err(error))),
            (Ok(_), Ok(None)) => return,
        };
        let _ = began.send(Ok(()));
        runtime.block_on(async {
            let asked = tokio::select! {
                signal = next(&mut terminate, &mut interrupt) => signal,
                // The future was dropped.
                () = first.closed() => return,
            };
            info!(signal = asked.name(), "asked to stop");
            let _ = first.send(());
            let cut = tokio::select! {
                signal = next(&mut terminate, &mut interrupt) => Cut::Again(signal),
                () = sleep(limit) => Cut::Late(limit),
            };
            end(cut);
        });
    };
    thread::Builder::new().name("signals".into()).spawn(watching).map_err(SignalError::Thread)?;
    beginning.recv().map_err(|_| SignalError::Thread(io::ErrorKind::Other.into()))??;
    Ok(async move {
        if asked.await.is_err() {
            pending::<()>().await;
        }
    })
}

fn both() -> Result<(Signal, Signal), SignalError> {
    Ok((listen("SIGTERM", SignalKind::terminate())?, listen("SIGINT", SignalKind::interrupt())?))
}

async fn next(terminate: &mut Signal, interrupt: &mut Signal) -> Stopping {
    tokio::select! {
        _ = terminate.recv() => Stopping::Terminate,
        _ = interrupt.recv() => Stopping::Interrupt,
    }
}

/// Handles SIGHUP from now on, which no longer ends the process.
///
/// # Errors
/// [`SignalError::Listen`] if the handler cannot be installed.
pub fn reload() -> Result<Reload, SignalError> {
    Ok(Reload { hangup: listen("SIGHUP", SignalKind::hangup())? })
}

fn listen(name: &'static str, kind: SignalKind) -> Result<Signal, SignalError> {
    signal(kind).map_err(|source| SignalError::Listen { name, source })
}

// === impl Cut, Stopping ===

impl Cut {
    fn message(self) -> String {
        match self {
            Self::Again(signal) => format!("stopped at once: {} came a second time", signal.name()),
            Self::Late(limit) => format!("stopped at once: stopping took longer than {} s", limit.as_secs_f64()),
        }
    }

    /// As a shell reports the end by a signal; 1 for a process that did not stop in time.
    fn exit_code(self) -> i32 {
        match self {
            Self::Again(Stopping::Interrupt) => 130,
            Self::Again(Stopping::Terminate) => 143,
            Self::Late(_) => 1,
        }
    }
}

impl Stopping {
    fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }
}

// === impl Reload ===

impl Reload {
    /// Waits for the next SIGHUP; several that arrive at once count as one. Cancel safe.
    pub async fn recv(&mut self) {
        if self.hangup.recv().await.is_none() {
            // Only a runtime without a signal driver ends the stream: there is nothing to wait for.
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::{Command, id};
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const PATIENCE: Duration = Duration::from_secs(5);

    fn send(signal: &str) {
        let status = Command::new("kill").args(["-s", signal, &id().to_string()]).status().expect("kill runs");
        assert!(status.success());
    }

    /// One test, because a signal reaches every watch of this process.
    #[tokio::test]
    async fn the_first_signal_ends_the_wait_and_a_second_or_the_limit_ends_the_process() {
        for (signals, limit, cut) in [
            (&["TERM", "INT"][..], PATIENCE, Cut::Again(Stopping::Interrupt)),
            (&["INT", "TERM"], PATIENCE, Cut::Again(Stopping::Terminate)),
            (&["TERM"], Duration::from_millis(10), Cut::Late(Duration::from_millis(10))),
        ] {
            let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
            let unused = watch(limit, |_| unreachable!("nobody waits for it")).expect("handlers");
            drop(unused);
            let stopped = watch(limit, move |cut| tell.send(cut).expect("the test waits")).expect("handlers");
            send(signals[0]);
            assert_eq!(timeout(PATIENCE, stopped).await, Ok(()), "{signals:?}");
            signals[1..].iter().for_each(|signal| send(signal));
            assert_eq!(timeout(PATIENCE, told.recv()).await, Ok(Some(cut)), "{signals:?}");
        }
    }

    #[test]
    fn a_process_that_is_cut_tells_why() {
        for (cut, message, code) in [
            (Cut::Again(Stopping::Terminate), "stopped at once: SIGTERM came a second time", 143),
            (Cut::Again(Stopping::Interrupt), "stopped at once: SIGINT came a second time", 130),
            (Cut::Late(Duration::from_secs(29)), "stopped at once: stopping took longer than 29 s", 1),
        ] {
            assert_eq!((cut.message().as_str(), cut.exit_code()), (message, code));
        }
    }

    #[tokio::test]
    async fn each_sighup_is_one_reload() {
        let mut reload = reload().expect("handler");
        for _ in 0..2 {
            send("HUP");

            assert_eq!(timeout(PATIENCE, reload.recv()).await, Ok(()));
        }
    }
}
