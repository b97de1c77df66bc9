//! Sets up the log: the written lines (`LOG_LEVEL`), their format, and their [`LogSink`].

mod level;
mod sink;
mod time;

use tracing::Dispatch;
use tracing::dispatcher::set_global_default;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::MakeWriter;

pub use self::sink::{LogGuard, LogSink};
pub use self::time::timestamp;

/// The reason the log cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is neither a known word nor a list of directives.
    #[error(
        "log level `{text}` is not known: use DEBUG, INFO, WARNING, ERROR or CRITICAL, \
         or directives such as `info,hyper=debug`"
    )]
    Level {
        /// The given text.
        text: String,
        /// The parse error, if the text resembled directives.
        source: Option<ParseError>,
    },
    /// The process already has a log.
    #[error("the log is already set up")]
    AlreadySet,
    /// The writing thread cannot be started.
    #[error("cannot start the log thread")]
    Thread(#[source] std::io::Error),
}

/// Sets up the log of this process, once.
///
/// `level` is a word in the spelling of Python (`DEBUG`, `INFO`, `WARN`, `WARNING`, `ERROR`, `CRITICAL`, `TRACE`,
/// `OFF`, any case; empty means `INFO`) or a comma-separated list of such words and `target=level` pairs. A bare
/// `DEBUG` or `TRACE` applies to this project's own lines: libraries stay at `INFO` unless they are named, because
/// their `DEBUG` lines may contain addresses with secrets.
///
/// With `json`, each line is one object with `timestamp`, `level`, the event's fields (`message` among them) and
/// `target`; otherwise it is text for users.
///
/// # Errors
/// [`LogError::Level`] if `level` is invalid, [`LogError::AlreadySet`] the second time.
pub fn init(level: &str, json: bool, sink: LogSink) -> Result<(), LogError> {
    let dispatch = dispatch(level::filter(level)?, json, sink);
    set_global_default(dispatch).map_err(|_| LogError::AlreadySet)
}

/// Checks whether [`init`] would accept this level.
///
/// # Errors
/// [`LogError::Level`] if the level is invalid.
pub fn check(level: &str) -> Result<(), LogError> {
    level::filter(level).map(drop)
}

fn dispatch(filter: EnvFilter, json: bool, sink: LogSink) -> Dispatch {
    let text = tracing_subscriber::fmt().with_env_filter(filter).with_writer(sink).with_timer(time::Utc);
    if json {
        let json = text.json().flatten_event(true).with_current_span(false).with_span_list(false);
        Dispatch::new(json.finish())
    } else {
        Dispatch::new(text.finish())
    }
}

/// Passes each line to the sink; the subscriber writes a line with one call.
#[derive(Debug)]
pub struct LineWriter<'a>(&'a LogSink);

impl<'a> MakeWriter<'a> for LogSink {
    type Writer = LineWriter<'a>;

    fn make_writer(&'a self) -> Self::Writer {
        LineWriter(self)
    }
}

impl std::io::Write for LineWriter<'_> {
    fn write(&mut self, line: &[u8]) -> std::io::Result<usize> {
        self.0.append(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use serde_json::{Value, json};
    use tracing::dispatcher::with_default;
    use tracing::{debug, info, warn};

    use super::sink::tests::Memory;
    use super::*;

    /// What `events` leaves in a log of this level and form.
    fn logged(level: &str, json: bool, events: impl FnOnce()) -> String {
        let memory = Memory::default();
        let (sink, guard) = LogSink::to(memory.clone()).expect("thread");
        with_default(&dispatch(level::filter(level).expect("level"), json, sink.clone()), events);
        assert!(sink.flush(Duration::from_secs(5)));
        drop(guard);
        memory.text()
    }

    #[test]
    fn a_json_line_has_its_fields_at_the_top() {
        let text = logged("info", true, || {
            let _span = tracing::info_span!("request", id = 7).entered();
            info!(server = "weather", tools = 12, "backend ready");
        });

        let mut line: Value = serde_json::from_str(text.strip_suffix('\n').expect("one line")).expect("json");
        let stamp = line.as_object_mut().and_then(|line| line.remove("timestamp")).expect("timestamp");
        let stamp = stamp.as_str().expect("text").to_owned();
        let expected = json!({
            "level": "INFO", "message": "backend ready", "server": "weather", "tools": 12,
            "target": "portcullis_runtime::log::tests",
        });
        assert_eq!(line, expected);
        assert_eq!((stamp.len(), &stamp[10..11], &stamp[23..]), (24, "T", "Z"));
    }

    #[test]
    fn a_client_that_logs_whole_answers_is_never_heard() {
        for level in ["info", "trace", "trace,kube_client=trace", "kube_client::client=trace"] {
            let text = logged(level, true, || {
                tracing::warn!(target: "kube_client::client", "an answer");
                tracing::error!(target: "kube_client::client::builder", "an answer");
                tracing::error!(target: "kube_client::config", "a line");
            });
            assert_eq!(
                (text.contains("an answer"), text.contains("a line")),
                (false, level != "kube_client::client=trace"),
                "{level}"
            );
        }
    }

    #[test]
    fn a_text_line_is_for_people() {
        let text = logged("info", false, || info!(tools = 12, "backend ready"));

        let (_, rest) = text.split_once(' ').expect("a timestamp first");
        assert_eq!(rest, " INFO portcullis_runtime::log::tests: backend ready tools=12\n");
    }

    #[test]
    fn debug_shows_our_lines_and_not_those_of_libraries() {
        let text = logged("DEBUG", true, || {
            debug!("ours");
            debug!(target: "hyper_util::client", "theirs");
            info!(target: "hyper_util::client", "their news");
        });

        let messages: Vec<Value> =
            text.lines().map(|line| serde_json::from_str::<Value>(line).expect("json")["message"].clone()).collect();
        assert_eq!(messages, ["ours", "their news"]);
    }

    #[test]
    fn warning_hides_what_is_below_it() {
        let text = logged("Warning", false, || {
            info!("hidden");
            warn!("shown");
        });

        assert!(text.ends_with("shown\n") && text.lines().count() == 1, "{text}");
    }
}
