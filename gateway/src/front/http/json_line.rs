//! Writes the members of a JSON line into a buffer.

use std::time::Duration;

use portcullis_mcp::protocol::json::is_plain;

/// `name` is written as it is: with comma, quotes and colon.
pub(super) fn member(out: &mut Vec<u8>, name: &str, value: Option<&str>) {
    out.extend_from_slice(name.as_bytes());
    match value {
        Some(value) => string(out, value),
        None => out.extend_from_slice(b"null"),
    }
}

/// The same for a number.
pub(super) fn number_member(out: &mut Vec<u8>, name: &str, value: u64) {
    out.extend_from_slice(name.as_bytes());
    number(out, value);
}

/// A whole number.
pub(super) fn number(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(itoa::Buffer::new().format(value).as_bytes());
}

/// Milliseconds with three digits behind the point.
pub(super) fn millis(out: &mut Vec<u8>, took: Duration) {
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    number(out, micros / 1_000);
    let rest = micros % 1_000;
    out.push(b'.');
    out.extend([rest / 100, rest / 10 % 10, rest % 10].map(|digit| b'0' + digit as u8));
}

/// A text, escaped where it must be.
pub(super) fn string(out: &mut Vec<u8>, text: &str) {
    if is_plain(text) {
        out.push(b'"');
        out.extend_from_slice(text.as_bytes());
        out.push(b'"');
    } else {
        // Writing JSON into memory cannot fail.
        let _ = serde_json::to_writer(out, text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn texts_and_times_are_written_as_json_has_them() {
        for (text, expected) in [("", r#""""#), ("a é", r#""a é""#), ("\"\\\n\u{1}", r#""\"\\\n\u0001""#)] {
            assert_eq!(written(|out| string(out, text)), expected);
        }
        for (micros, expected) in [(0, "0.000"), (7, "0.007"), (1_234_560, "1234.560")] {
            assert_eq!(written(|out| millis(out, Duration::from_micros(micros))), expected);
        }
    }
}
