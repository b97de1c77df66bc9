//! Which terms look like a word: those it begins, and those that differ from it by a typo or two.

use crate::words::MAX_TERM_BYTES;

/// What is compared before a term's text is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Sketch {
    /// The first eight bytes, the first one highest.
    beginning: u64,
    /// A bit for every letter that occurs.
    letters: u32,
    /// How many letters, and how many bytes, at most `MAX_TERM_BYTES`.
    length: u8,
    bytes: u8,
}

impl Sketch {
    pub(crate) fn new(term: &str) -> Self {
        let mut beginning = [0; 8];
        for (to, from) in beginning.iter_mut().zip(term.bytes()) {
            *to = from;
        }
        let (mut letters, mut length) = (0, 0);
        for c in term.chars() {
            letters |= 1 << (u32::from(alike(c)) & 31);
            length += 1;
        }
        Self { beginning: u64::from_be_bytes(beginning), letters, length, bytes: term.len() as u8 }
    }

    /// Whether a longer term may begin with this one: certain if this has at most eight bytes.
    pub(crate) fn may_begin(&self, longer: &Self) -> bool {
        let shown = u32::from(self.bytes.min(8));
        self.bytes < longer.bytes && (self.beginning ^ longer.beginning).checked_shr(64 - 8 * shown).unwrap_or(0) == 0
    }

    /// Whether two terms may be so near: an edit takes one letter away and brings another.
    pub(crate) fn may_be_near(&self, other: &Self, edits: u8) -> bool {
        self.length.abs_diff(other.length) <= edits
            && (self.letters ^ other.letters).count_ones() <= 2 * u32::from(edits)
    }
}

/// The stemmer writes a final `y` as `i`, so the two are one letter.
fn alike(letter: char) -> char {
    if letter == 'y' { 'i' } else { letter }
}

/// The edits that a word of so many letters may hold and still be found.
pub(crate) fn allowed_edits(letters: usize) -> u8 {
    match letters {
        0..4 => 0,
        4..8 => 1,
        _ => 2,
    }
}

/// How many letters are missing, wrong, too many or swapped with their neighbour, if that is at most `most`.
pub(crate) fn edits(left: &str, right: &str, most: u8) -> Option<u8> {
    let (mut a, mut b) = (['\0'; MAX_TERM_BYTES], ['\0'; MAX_TERM_BYTES]);
    let (a, b) = (letters(left, &mut a)?, letters(right, &mut b)?);
    if a.len().abs_diff(b.len()) > most.into() {
        return None;
    }
    let mut rows = [[0_u8; MAX_TERM_BYTES + 1]; 3];
    let [mut before, mut above, mut row] = rows.each_mut();
    for (at, cell) in above.iter_mut().enumerate() {
        *cell = at as u8;
    }
    for (i, &x) in a.iter().enumerate() {
        row[0] = i as u8 + 1;
        let mut least = row[0];
        for (j, &y) in b.iter().enumerate() {
            let mut cell = (above[j] + u8::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && x == b[j - 1] && a[i - 1] == y {
                cell = cell.min(before[j - 1] + 1);
            }
            row[j + 1] = cell;
            least = least.min(cell);
        }
        // A swap reaches back one row, so a row beyond the bound is the end only if the next cannot come back.
        if least > most + 1 {
            return None;
        }
        (before, above, row) = (above, row, before);
    }
    Some(above[b.len()]).filter(|&edits| edits <= most)
}

/// The letters of a term.
fn letters<'b>(term: &str, buffer: &'b mut [char; MAX_TERM_BYTES]) -> Option<&'b [char]> {
    let mut count = 0;
    for c in term.chars() {
        *buffer.get_mut(count)? = alike(c);
        count += 1;
    }
    Some(&buffer[..count])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn typos_are_counted() {
        for (left, right, most, expected) in [
            ("issue", "issue", 2, Some(0)),
            ("isue", "issue", 2, Some(1)),
            ("isssue", "issue", 2, Some(1)),
            ("issie", "issue", 2, Some(1)),
            ("isseu", "issue", 2, Some(1)),
            ("histroy", "histori", 1, Some(1)),
            ("abcdefgh", "hgfedcba", 2, None),
            ("größe", "grösse", 2, Some(2)),
            ("a", "abcd", 2, None),
            ("ab", "ba", 0, None),
            ("", "", 0, Some(0)),
            ("東京", "東亰", 1, Some(1)),
        ] {
            assert_eq!(edits(left, right, most), expected, "{left} {right}");
            assert_eq!(edits(right, left, most), expected, "{right} {left}");
        }
    }

    #[test]
    fn a_beginning_is_seen() {
        for (short, long, expected) in
            [("repo", "repositori", true), ("repo", "repo", false), ("repo", "report", true), ("repx", "report", false)]
        {
            assert_eq!(Sketch::new(short).may_begin(&Sketch::new(long)), expected, "{short} {long}");
        }
    }

    proptest! {
        #[test]
        fn what_is_near_or_begins_passes_the_sketch(left in "\\PC{0,8}|[a-e]{0,12}", right in "\\PC{0,8}|[a-e]{0,12}") {
            let (a, b) = (Sketch::new(&left), Sketch::new(&right));
            for most in 0..3 {
                if edits(&left, &right, most).is_some() {
                    assert!(a.may_be_near(&b, most), "{left} {right}");
                }
            }
            if right.starts_with(&left) && left.len() < right.len() {
                assert!(a.may_begin(&b), "{left} {right}");
            }
        }
    }
}
