//! Reads two fields of an X.509 certificate: when it expires, and its subject as text. Pure.
//!
//! Source of the layout: RFC 5280 section 4.1. What else a certificate says is verified by rustls.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

const SEQUENCE: u8 = 0x30;
const SET: u8 = 0x31;
const OBJECT_IDENTIFIER: u8 = 0x06;
const VERSION: u8 = 0xa0;
const UTC_TIME: u8 = 0x17;
const GENERALIZED_TIME: u8 = 0x18;

/// Bytes of a subject's text.
const MAX_SUBJECT_BYTES: usize = 256;

/// Short names of attributes (RFC 4514 section 3); their identifiers begin with 2.5.4.
const SHORT_NAMES: [(u8, &str); 6] = [(3, "CN"), (6, "C"), (7, "L"), (8, "ST"), (10, "O"), (11, "OU")];

/// Elements of DER, one after the other.
#[derive(Clone, Copy)]
struct Der<'a>(&'a [u8]);

/// The end of a certificate's validity; `None`: it is malformed.
pub(crate) fn not_after(certificate: &[u8]) -> Option<SystemTime> {
    let (mut validity, _) = validity_and_subject(certificate)?;
    validity.next()?;
    time(validity.next()?)
}

/// The subject as in RFC 4514, the most specific part first, such as `CN=alice,O=Example`; at most 256 bytes. Parts
/// without a short name are left out. `None`: it is malformed.
pub(crate) fn subject(certificate: &[u8]) -> Option<String> {
    let (_, subject) = validity_and_subject(certificate)?;
    let mut parts: Vec<String> = subject.filter_map(|(tag, set)| (tag == SET).then(|| part(set)).flatten()).collect();
    parts.reverse();
    let mut text = parts.join(",");
    let end = (0..=MAX_SUBJECT_BYTES.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or_default());
    Some(text)
}

fn validity_and_subject(certificate: &[u8]) -> Option<(Der<'_>, Der<'_>)> {
    let mut fields = Der(Der(Der(certificate).element(SEQUENCE)?).element(SEQUENCE)?);
    if fields.0.first() == Some(&VERSION) {
        fields.next()?;
    }
    // The serial number, the algorithm and the issuer.
    for _ in 0..3 {
        fields.next()?;
    }
    Some((Der(fields.element(SEQUENCE)?), Der(fields.element(SEQUENCE)?)))
}

/// One part of a name; of several attributes in it, the first.
fn part(set: &[u8]) -> Option<String> {
    let mut attribute = Der(Der(set).element(SEQUENCE)?);
    let &[0x55, 0x04, kind] = attribute.element(OBJECT_IDENTIFIER)? else { return None };
    let (_, name) = SHORT_NAMES.iter().find(|(known, _)| *known == kind)?;
    let (_, value) = attribute.next()?;
    let mut text = format!("{name}=");
    for char in String::from_utf8_lossy(value).chars() {
        match char {
            ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=' => {
                text.push('\\');
                text.push(char);
            }
            char if char.is_control() => {
                let _ = write!(text, "\\{:02X}", u32::from(char));
            }
            char => text.push(char),
        }
    }
    Some(text)
}

/// `YYMMDDhhmmssZ` or `YYYYMMDDhhmmssZ`.
fn time((tag, text): (u8, &[u8])) -> Option<SystemTime> {
    let text = str::from_utf8(text).ok()?.strip_suffix('Z')?;
    let number = |text: &str| text.parse::<u64>().ok();
    let (year, rest) = match tag {
        UTC_TIME => (text.get(..2)?, text.get(2..)?),
        GENERALIZED_TIME => (text.get(..4)?, text.get(4..)?),
        _ => return None,
    };
    let year = match (tag, number(year)?) {
        (UTC_TIME, year) if year < 50 => 2000 + year,
        (UTC_TIME, year) => 1900 + year,
        (_, year) => year,
    };
    let at = |from: usize| number(rest.get(from..from + 2)?);
    let (month, day) = (at(0)?, at(2)?);
    if !(1..=12).contains(&month) || !(1..=31).contains(&day) || year < 1970 {
        return None;
    }
    let seconds = days_since_1970(year, month, day) * 86_400 + at(4)? * 3600 + at(6)? * 60 + at(8)?;
    Some(UNIX_EPOCH + Duration::from_secs(seconds))
}

/// Years begin in March here, so that the leap day is the last one.
fn days_since_1970(year: u64, month: u64, day: u64) -> u64 {
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let day_of_year = (153 * month + 2) / 5 + day - 1;
    year * 365 + year / 4 - year / 100 + year / 400 + day_of_year - 719_468
}

impl<'a> Der<'a> {
    /// The content of the next element, if it has this tag.
    fn element(&mut self, tag: u8) -> Option<&'a [u8]> {
        self.next().filter(|(found, _)| *found == tag).map(|(_, content)| content)
    }
}

impl<'a> Iterator for Der<'a> {
    type Item = (u8, &'a [u8]);

    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let (bytes, rest) =
                rest.split_at_checked(usize::from(first & 0x7f)).filter(|(bytes, _)| bytes.len() <= 4)?;
            (bytes.iter().fold(0, |length, byte| length << 8 | usize::from(*byte)), rest)
        };
        let (content, rest) = rest.split_at_checked(length)?;
        self.0 = rest;
        Some((tag, content))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, date_time_ymd};

    use super::*;

    fn certificate(until: (i32, u8, u8), names: &[(DnType, &str)]) -> Vec<u8> {
        let mut params = CertificateParams::new(vec!["a.example".to_owned()]).unwrap();
        params.not_after = date_time_ymd(until.0, until.1, until.2);
        params.distinguished_name = DistinguishedName::new();
        names.iter().for_each(|(kind, name)| params.distinguished_name.push(kind.clone(), *name));
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().to_vec()
    }

    #[test]
    fn the_end_of_a_certificate_is_read_in_both_forms() {
        for (until, seconds) in
            [((2026, 12, 1), 1_796_083_200), ((2000, 2, 29), 951_782_400), ((2050, 3, 1), 2_529_705_600)]
        {
            let expected = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(not_after(&certificate(until, &[])), Some(expected), "{until:?}");
        }
    }

    #[test]
    fn a_subject_is_written_with_its_most_specific_part_first() {
        let names = [(DnType::OrganizationName, "Ex, Inc"), (DnType::CommonName, "al\nice")];
        assert_eq!(subject(&certificate((2050, 1, 1), &names)).as_deref(), Some("CN=al\\0Aice,O=Ex\\, Inc"));
        assert_eq!(subject(&certificate((2050, 1, 1), &[])).as_deref(), Some(""));
        let long = [(DnType::CommonName, &*"ä".repeat(500))];
        assert_eq!(subject(&certificate((2050, 1, 1), &long)).map(|text| text.len()), Some(255));
    }

    proptest! {
        #[test]
        fn whatever_is_read_nothing_panics(at in 0usize..400, spoilt in any::<u8>(), other in prop::collection::vec(any::<u8>(), 0..60)) {
            let mut bytes = certificate((2050, 1, 1), &[(DnType::CommonName, "alice")]);
            let at = at % bytes.len();
            bytes[at] = spoilt;
            let _ = (not_after(&bytes), subject(&bytes), not_after(&bytes[..at]), not_after(&other), subject(&other));
        }
    }
}
