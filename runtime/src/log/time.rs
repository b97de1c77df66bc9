//! Formats points in time as RFC 3339 in UTC with milliseconds: `2026-08-21T09:05:03.007Z`.
//!
//! Pure. One timestamp for each access line, so it does not allocate.

use std::time::{SystemTime, UNIX_EPOCH};

use jiff::Timestamp;
use jiff::fmt::StdFmtWrite;
use jiff::fmt::temporal::DateTimePrinter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

const MILLISECONDS: DateTimePrinter = DateTimePrinter::new().precision(Some(3));

/// The clock of log lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Utc;

/// Appends `now` in RFC 3339, UTC, milliseconds: always 24 bytes.
///
/// Times before 1970 are written as the first moment of 1970, times after 9999 as the last that `jiff` knows, a day
/// before the end of that year.
pub fn timestamp(now: SystemTime, out: &mut Vec<u8>) {
    // A `Vec` takes all that is written.
    let _ = MILLISECONDS.print_timestamp(&moment(now), out);
}

fn moment(now: SystemTime) -> Timestamp {
    Timestamp::try_from(now.max(UNIX_EPOCH)).unwrap_or(Timestamp::MAX)
}

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let now = moment(SystemTime::now());
        MILLISECONDS.print_timestamp(&now, StdFmtWrite(writer)).map_err(|_| std::fmt::Error)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn text(now: SystemTime) -> String {
        let mut out = b"at ".to_vec();
        timestamp(now, &mut out);
        String::from_utf8(out).expect("ascii")
    }

    #[test]
    fn known_dates_are_written_as_they_are() {
        // Seconds and milliseconds as `date -u -d @seconds` prints them.
        let cases = [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, 999, "2000-02-28T23:59:59.999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000Z"),
            (951_868_800, 1, "2000-03-01T00:00:00.001Z"),
            (1_709_210_096, 70, "2024-02-29T12:34:56.070Z"),
            (1_735_689_599, 500, "2024-12-31T23:59:59.500Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
            (253_402_127_999, 999, "9999-12-29T23:59:59.999Z"),
        ];
        for (seconds, millis, expected) in cases {
            let now = UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000 + 999_999);
            assert_eq!(text(now), format!("at {expected}"));
        }
    }

    #[test]
    fn times_that_cannot_be_written_are_moved_to_the_nearest() {
        assert_eq!(text(UNIX_EPOCH - Duration::from_secs(1)), "at 1970-01-01T00:00:00.000Z");
        assert_eq!(text(UNIX_EPOCH + Duration::from_secs(253_402_300_800)), "at 9999-12-30T22:00:00.999Z");
    }
}
