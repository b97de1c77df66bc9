//! The signals this process listens to: SIGTERM and SIGINT to stop, SIGHUP to reload. Unix only.

use std::io;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing::info;

/// Why a signal cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub enum SignalError {
    /// The operating system refused the handler.
    #[error("cannot listen for {name}")]
    Listen {
        /// Name of the signal.
        name: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
}

/// The stream of SIGHUPs.
#[derive(Debug)]
pub struct Reload {
    hangup: Signal,
}

/// Listens from now on; the future ends with the first SIGTERM or SIGINT.
///
/// # Errors
/// [`SignalError::Listen`] if a handler cannot be installed.
pub fn termination() -> Result<impl Future<Output = ()> + Send, SignalError> {
    let mut terminate = listen("SIGTERM", SignalKind::terminate())?;
    let mut interrupt = listen("SIGINT", SignalKind::interrupt())?;
    Ok(async move {
        let signal = tokio::select! {
            _ = terminate.recv() => "SIGTERM",
            _ = interrupt.recv() => "SIGINT",
        };
        info!(signal, "asked to stop");
    })
}

/// Listens for SIGHUP from now on, which no longer ends the process.
///
/// # Errors
/// [`SignalError::Listen`] if the handler cannot be installed.
pub fn reload() -> Result<Reload, SignalError> {
    Ok(Reload { hangup: listen("SIGHUP", SignalKind::hangup())? })
}

fn listen(name: &'static str, kind: SignalKind) -> Result<Signal, SignalError> {
    signal(kind).map_err(|source| SignalError::Listen { name, source })
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

    #[tokio::test]
    async fn sigterm_and_sigint_end_the_wait() {
        for signal in ["TERM", "INT"] {
            let stopped = termination().expect("handlers");

            send(signal);

            assert_eq!(timeout(PATIENCE, stopped).await, Ok(()), "SIG{signal}");
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
