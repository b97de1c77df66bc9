//! Parses settings that are given as text, and reports for each invalid one what it must be.
//!
//! Problems are collected in a list, so that all of them can be reported at once; the default is used meanwhile.

use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// One problem, on one line. It names the setting and never contains a secret.
pub type Problem = String;

/// A setting as text; an empty one counts as absent.
pub fn text(value: &Option<String>) -> Option<&str> {
    value.as_deref().map(str::trim).filter(|text| !text.is_empty())
}

/// A setting as a path; an empty one counts as absent.
pub fn path(value: &Option<PathBuf>) -> Option<PathBuf> {
    value.clone().filter(|path| !path.as_os_str().is_empty())
}

/// The parts of a setting that are separated by commas; empty ones do not count.
pub fn list(value: &Option<String>) -> Vec<String> {
    let parts = text(value).into_iter().flat_map(|text| text.split(','));
    parts.map(str::trim).filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

/// A setting that `parse` accepts. `what` describes valid values; the default always is one.
pub fn parsed<T: FromStr, E>(
    problems: &mut Vec<Problem>,
    name: &str,
    value: &Option<String>,
    default: &str,
    what: &str,
    parse: impl Fn(&str) -> Result<T, E>,
) -> T {
    let given = text(value).unwrap_or(default);
    parse(given).unwrap_or_else(|_| {
        problems.push(format!("{name} is {given:?}: it must be {what}"));
        parse(default).unwrap_or_else(|_| unreachable!("the default of {name} is {what}"))
    })
}

/// A whole number in a range.
pub fn number(
    problems: &mut Vec<Problem>,
    name: &str,
    value: &Option<String>,
    default: u64,
    range: RangeInclusive<u64>,
) -> u64 {
    let (least, most) = (*range.start(), *range.end());
    in_range(value, default, range).unwrap_or_else(|given| {
        problems.push(format!("{name} is {given:?}: it must be a whole number from {least} to {most}"));
        default
    })
}

/// The same for a setting whose problem is told by the caller.
///
/// # Errors
/// What is no such number.
pub fn in_range(value: &Option<String>, default: u64, range: RangeInclusive<u64>) -> Result<u64, &str> {
    let Some(given) = text(value) else { return Ok(default) };
    given.parse().ok().filter(|number| range.contains(number)).ok_or(given)
}

/// A number of seconds, up to an hour.
pub fn seconds(problems: &mut Vec<Problem>, name: &str, value: &Option<String>, default: u64) -> Duration {
    Duration::from_secs(number(problems, name, value, default, 0..=3600))
}

/// True or false, in the usual spellings.
pub fn boolean(problems: &mut Vec<Problem>, name: &str, value: &Option<String>, default: bool) -> bool {
    match text(value).map(str::to_ascii_lowercase).as_deref() {
        None => default,
        Some("true" | "1" | "yes" | "on") => true,
        Some("false" | "0" | "no" | "off") => false,
        Some(other) => {
            problems.push(format!("{name} is {other:?}: it must be true or false"));
            default
        }
    }
}

/// The address of the admin port; none if it is absent or invalid.
pub fn admin_address(problems: &mut Vec<Problem>, value: &Option<String>) -> Option<SocketAddr> {
    let given = text(value)?;
    let address = given.parse();
    if address.is_err() {
        problems.push(format!("ADMIN_ADDRESS is {given:?}: write ADDRESS:PORT, as in 0.0.0.0:9090 or [::]:9090"));
    }
    address.ok()
}

/// The level of the log, or filter directives.
pub fn log_level(problems: &mut Vec<Problem>, given: &str) -> String {
    if let Err(problem) = crate::log::check(given) {
        problems.push(format!("LOG_LEVEL: {problem}"));
    }
    given.to_owned()
}

/// Whether log lines are JSON rather than text.
pub fn log_json(problems: &mut Vec<Problem>, value: &Option<String>) -> bool {
    let format = text(value).unwrap_or("json").to_ascii_lowercase();
    if !matches!(format.as_str(), "json" | "text") {
        problems.push(format!("LOG_FORMAT is {format:?}: use json or text"));
    }
    format == "json"
}
