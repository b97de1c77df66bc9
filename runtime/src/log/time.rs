//! Writes points in time as RFC 3339 in UTC with milliseconds: `2026-08-21T09:05:03.007Z`.
//!
//! Pure. One stamp for each access line, so it neither allocates nor goes through a formatter.

use std::time::{SystemTime, UNIX_EPOCH};

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

/// 9999-12-31T23:59:59Z, the last second that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// The clock of log lines.
#[derive(Clone, Copy, Debug)]
pub(super) struct Utc;

/// Appends `now` in RFC 3339, UTC, milliseconds: always 24 bytes.
///
/// Times before 1970 are written as the first moment of 1970, times after 9999 as the last second of 9999.
pub fn timestamp(now: SystemTime, out: &mut Vec<u8>) {
    out.extend_from_slice(&rfc3339(now));
}

fn rfc3339(now: SystemTime) -> [u8; 24] {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let seconds = since.as_secs().min(LAST_SECOND);
    let (year, month, day) = civil_from_days(seconds / 86_400);
    let clock = seconds % 86_400;
    let mut text = *b"0000-00-00T00:00:00.000Z";
    two_digits(&mut text[0..2], year / 100);
    two_digits(&mut text[2..4], year % 100);
    two_digits(&mut text[5..7], month);
    two_digits(&mut text[8..10], day);
    two_digits(&mut text[11..13], clock / 3600);
    two_digits(&mut text[14..16], clock / 60 % 60);
    two_digits(&mut text[17..19], clock % 60);
    let millis = u64::from(since.subsec_millis());
    two_digits(&mut text[20..22], millis / 10);
    text[22] = digit(millis % 10);
    text
}

/// Year, month and day of a day counted from 1970-01-01.
///
/// Counts in eras of 400 years that start on 1 March, so that the leap day is the last of its year. Source:
/// H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `civil_from_days`.
fn civil_from_days(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

fn two_digits(out: &mut [u8], value: u64) {
    out[0] = digit(value / 10);
    out[1] = digit(value % 10);
}

/// `value` is below 10.
fn digit(value: u64) -> u8 {
    b'0' + value as u8
}

impl FormatTime for Utc {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        let text = rfc3339(SystemTime::now());
        writer.write_str(std::str::from_utf8(&text).map_err(|_| std::fmt::Error)?)
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
        // Seconds and milliseconds as `date -u -d @seconds` tells them.
        let cases = [
            (0, 0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, 999, "2000-02-28T23:59:59.999Z"),
            (951_782_400, 0, "2000-02-29T00:00:00.000Z"),
            (951_868_800, 1, "2000-03-01T00:00:00.001Z"),
            (1_709_210_096, 70, "2024-02-29T12:34:56.070Z"),
            (1_735_689_599, 500, "2024-12-31T23:59:59.500Z"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000Z"),
            (LAST_SECOND, 0, "9999-12-31T23:59:59.000Z"),
        ];
        for (seconds, millis, expected) in cases {
            let now = UNIX_EPOCH + Duration::new(seconds, millis * 1_000_000 + 999_999);
            assert_eq!(text(now), format!("at {expected}"));
        }
    }

    #[test]
    fn times_that_cannot_be_written_are_moved_to_the_nearest() {
        assert_eq!(text(UNIX_EPOCH - Duration::from_secs(1)), "at 1970-01-01T00:00:00.000Z");
        assert_eq!(text(UNIX_EPOCH + Duration::from_secs(LAST_SECOND + 1)), "at 9999-12-31T23:59:59.000Z");
    }

    #[test]
    fn every_day_of_800_years_follows_the_one_before() {
        let (mut year, mut month, mut day) = (1970, 1, 1);
        for days in 0..292_194 {
            assert_eq!(civil_from_days(days), (year, month, day));
            (year, month, day) = next_day(year, month, day);
        }
    }

    fn next_day(year: u64, month: u64, day: u64) -> (u64, u64, u64) {
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let last = match month {
            2 => 28 + u64::from(leap),
            4 | 6 | 9 | 11 => 30,
            _ => 31,
        };
        match (month, day) {
            (12, 31) => (year + 1, 1, 1),
            (_, day) if day == last => (year, month + 1, 1),
            _ => (year, month, day + 1),
        }
    }
}
