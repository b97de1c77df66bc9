//! Parses `LOG_LEVEL`: one word in the spelling of Python, or a list of directives.
//!
//! Pure.

use tracing_subscriber::EnvFilter;

use super::LogError;

/// Always off: this module logs unreadable answers of the API server in full, and they may be Secrets. The callers
/// report the failures.
const QUIET: &str = "kube_client::client=off";

/// Builds the filter for a level; see [`super::init`] for the accepted forms.
pub(super) fn filter(text: &str) -> Result<EnvFilter, LogError> {
    let directives = directives(text)?;
    let filter = EnvFilter::builder().parse(&directives);
    let filter = filter.map_err(|source| LogError::Level { text: text.to_owned(), source: Some(source) })?;
    Ok(match QUIET.parse() {
        Ok(quiet) => filter.add_directive(quiet),
        Err(_) => filter,
    })
}

/// Translates the level to the syntax of [`EnvFilter`].
fn directives(text: &str) -> Result<String, LogError> {
    let trimmed = text.trim();
    if trimmed.is_empty() {
        return Ok("info".to_owned());
    }
    // Directives for spans may contain commas.
    if trimmed.contains('[') {
        return Ok(trimmed.to_owned());
    }
    let parts: Option<Vec<_>> = trimmed.split(',').map(|part| directive(part.trim())).collect();
    parts.map(|parts| parts.join(",")).ok_or_else(|| LogError::Level { text: text.to_owned(), source: None })
}

fn directive(part: &str) -> Option<String> {
    match part.split_once('=') {
        Some((target, level)) => Some(format!("{}={}", module(target.trim())?, word(level.trim())?)),
        // A bare target would mean "all of it": more likely a misspelt level.
        None => match word(part)? {
            level @ ("debug" | "trace") => Some(format!("info,portcullis={level}")),
            level => Some(level.to_owned()),
        },
    }
}

/// A target is a path of Rust modules; anything else would silently match nothing.
fn module(target: &str) -> Option<&str> {
    let known = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ':' | '.');
    (!target.is_empty() && target.chars().all(known)).then_some(target)
}

fn word(level: &str) -> Option<&'static str> {
    Some(match level.to_ascii_uppercase().as_str() {
        "TRACE" => "trace",
        "DEBUG" => "debug",
        "INFO" => "info",
        "WARN" | "WARNING" => "warn",
        "ERROR" | "CRITICAL" | "FATAL" => "error",
        "OFF" => "off",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_of_python_are_understood_in_any_case() {
        let cases = [
            ("DEBUG", "info,portcullis=debug"),
            ("trace", "info,portcullis=trace"),
            ("INFO", "info"),
            ("Warning", "warn"),
            ("WARN", "warn"),
            ("error", "error"),
            ("CRITICAL", "error"),
            ("off", "off"),
            ("", "info"),
            (" info ", "info"),
        ];
        for (text, expected) in cases {
            assert_eq!(directives(text).expect(text), expected, "{text}");
        }
    }

    #[test]
    fn directives_are_understood() {
        let cases = [
            ("info,hyper=debug", "info,hyper=debug"),
            ("WARNING, kube = DEBUG", "warn,kube=debug"),
            ("debug,portcullis_gateway=trace", "info,portcullis=debug,portcullis_gateway=trace"),
            ("portcullis[call{server=a}]=debug", "portcullis[call{server=a}]=debug"),
        ];
        for (text, expected) in cases {
            assert_eq!(directives(text).expect(text), expected, "{text}");
            assert!(filter(text).is_ok(), "{text}");
        }
    }

    #[test]
    fn anything_else_is_refused_with_one_sentence() {
        for text in ["VERBOSE", "hyper", "info,", "hyper=loud", "10", "info hyper=debug", "=debug", "a[b=debug"] {
            let error = filter(text).expect_err(text).to_string();

            let expected = format!(
                "log level `{text}` is not known: use DEBUG, INFO, WARNING, ERROR or CRITICAL, \
                 or directives such as `info,hyper=debug`"
            );
            assert_eq!(error, expected);
        }
    }
}
