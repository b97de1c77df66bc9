//! Parses points in time in headers.
//!
//! Pure. As lenient as RFC 6265, section 5.1.1, requires: servers write dates in a dozen ways.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// No valid date is longer.
const MAX_LENGTH: usize = 64;

/// A point in time in UTC; before 1970 is 1970.
pub(crate) fn parse(text: &str) -> Option<SystemTime> {
    if text.len() > MAX_LENGTH {
        return None;
    }
    let (mut clock, mut day, mut month, mut year) = (None, None, None, None);
    let is_part = |c: char| c.is_ascii_alphanumeric() || c == ':';
    for part in text.split(|c| !is_part(c)).filter(|part| !part.is_empty()) {
        if clock.is_none() && part.contains(':') {
            clock = Some(seconds_of_day(part)?);
        } else if day.is_none() && part.len() <= 2 && part.parse::<u64>().is_ok() {
            day = part.parse().ok();
        } else if month.is_none() && month_of(part).is_some() {
            month = month_of(part);
        } else if year.is_none() && (2..=4).contains(&part.len()) {
            year = part.parse::<u64>().ok().map(whole_year);
        }
    }
    let (clock, day, month, year) = (clock?, day?, month?, year?);
    if !(1..=31).contains(&day) || !(1601..=9999).contains(&year) {
        return None;
    }
    let days = days_from_civil(year, month, day);
    let seconds = days * 86_400 + i64::try_from(clock).ok()?;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

fn seconds_of_day(part: &str) -> Option<u64> {
    let mut numbers = part.split(':').map(|number| number.parse::<u64>().ok().filter(|_| number.len() <= 2));
    let (hour, minute, second) = (numbers.next()??, numbers.next()??, numbers.next()??);
    let fits = hour < 24 && minute < 60 && second <= 60 && numbers.next().is_none();
    fits.then_some(hour * 3600 + minute * 60 + second)
}

fn month_of(part: &str) -> Option<u64> {
    let name = part.get(..3)?.to_ascii_lowercase();
    MONTHS.iter().zip(1..).find_map(|(month, number)| (*month == name).then_some(number))
}

fn whole_year(year: u64) -> u64 {
    match year {
        0..=69 => 2000 + year,
        70..=99 => 1900 + year,
        _ => year,
    }
}

/// Days since 1970-01-01: H. Hinnant, "chrono-Compatible Low-Level Date Algorithms", `days_from_civil`.
fn days_from_civil(year: u64, month: u64, day: u64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let (era, year_of_era) = (year / 400, year % 400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    i64::try_from(era * 146_097 + day_of_era).unwrap_or(i64::MAX) - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn seconds(text: &str) -> Option<u64> {
        parse(text).and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map(|since| since.as_secs())
    }

    #[test]
    fn dates_are_understood_in_all_ways_that_servers_write_them() {
        for text in [
            "Sun, 06 Nov 1994 08:49:37 GMT",
            "Sunday, 06-Nov-94 08:49:37 GMT",
            "Sun Nov  6 08:49:37 1994",
            "Sun, 06-Nov-1994 08:49:37 GMT",
            "6 November 1994 8:49:37",
        ] {
            assert_eq!(seconds(text), Some(784_111_777), "{text}");
        }
        for (text, expected) in [
            ("Thu, 01 Jan 1970 00:00:00 GMT", 0),
            ("Thu, 01-Jan-70 00:00:01 GMT", 1),
            ("Tue, 29 Feb 2028 23:59:60 GMT", 1_835_481_600),
            ("Fri, 31 Dec 9999 23:59:59 GMT", 253_402_300_799),
            ("Mon, 01 Jan 1601 00:00:00 GMT", 0),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_date_is_none() {
        for text in [
            "",
            "0",
            "-1",
            "tomorrow",
            "Sun, 06 Nov 1994",
            "Sun, 06 Nov 1994 24:00:00 GMT",
            "Sun, 06 Nov 1994 08:49 GMT",
            "Sun, 32 Nov 1994 08:49:37 GMT",
            "Sun, 06 Nov 1600 08:49:37 GMT",
            &"Sun, 06 Nov 1994 08:49:37 GMT".repeat(3),
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_texts_never_panic(text in ".{0,70}") {
            let _ = parse(&text);
        }
    }
}
