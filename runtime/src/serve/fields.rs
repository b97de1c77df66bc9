//! The header fields of a request, as positions in its head. A map would take longer to build than to read.

use std::ops::Range;
use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue};
use smallvec::SmallVec;

/// Fields that fit without another allocation: more than clients usually send.
const USUAL: usize = 14;

/// The header fields of one request, in order. Copies share them.
///
/// The values contain tokens, so there is no `Debug`.
#[derive(Clone, Default)]
pub struct Fields(Arc<Inner>);

#[derive(Default)]
struct Inner {
    text: Box<[u8]>,
    /// A bit for each length of a name: most names that are looked up are absent.
    lengths: u64,
    places: Places,
}

/// Positions of names and values in a text.
type Places = SmallVec<[(Place, Place); USUAL]>;

/// Start and end; heads are shorter than 4 GiB.
#[derive(Clone, Copy)]
struct Place(u32, u32);

impl Fields {
    /// The fields of a head that httparse has parsed.
    pub(super) fn of_head(head: &[u8], headers: &[httparse::Header<'_>]) -> Self {
        let start = head.as_ptr().addr();
        let place = |part: &[u8]| Place::of(part.as_ptr().addr().wrapping_sub(start), part.len());
        let places = headers.iter().map(|header| (place(header.name.as_bytes()), place(header.value))).collect();
        Self::new(head.into(), places)
    }

    fn new(text: Box<[u8]>, places: Places) -> Self {
        let lengths = places.iter().fold(0, |lengths, (name, _)| lengths | bit(name.len()));
        Self(Arc::new(Inner { text, lengths, places }))
    }

    /// The value of the first field of this name, in any case.
    #[inline]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.all(name).next()
    }

    /// The same as text; `None` also if the value is not ASCII.
    pub fn text(&self, name: &str) -> Option<&str> {
        self.get(name).and_then(as_text)
    }

    /// The values of all fields of this name.
    #[inline]
    pub fn all<'a, 'b>(&'a self, name: &'b str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'b> {
        let length = name.len();
        let same =
            move |place: &Place| place.len() == length && self.part(*place).eq_ignore_ascii_case(name.as_bytes());
        let places = if self.0.lengths & bit(length) == 0 { &[][..] } else { &self.0.places };
        places.iter().filter(move |(name, _)| same(name)).map(|(_, value)| self.part(*value))
    }

    /// Names, in their original case, and values.
    fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.places.iter().map(|(name, value)| (self.part(*name), self.part(*value)))
    }

    /// All fields as a map.
    pub fn to_map(&self) -> HeaderMap {
        let field = |(name, value)| Some((HeaderName::from_bytes(name).ok()?, HeaderValue::from_bytes(value).ok()?));
        let mut map = HeaderMap::with_capacity(self.0.places.len());
        self.iter().filter_map(field).for_each(|(name, value)| {
            map.append(name, value);
        });
        map
    }

    #[inline]
    fn part(&self, place: Place) -> &[u8] {
        self.0.text.get(place.range()).unwrap_or_default()
    }
}

/// The bit of a length; long ones share the last.
const fn bit(length: usize) -> u64 {
    1 << if length < 63 { length } else { 63 }
}

/// The value of a field as text, if it is ASCII.
pub fn as_text(value: &[u8]) -> Option<&str> {
    str::from_utf8(value).ok().filter(|text| text.is_ascii())
}

impl<N: AsRef<[u8]>, V: AsRef<[u8]>> FromIterator<(N, V)> for Fields {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(fields: I) -> Self {
        let (mut text, mut places) = (Vec::new(), Places::new());
        let mut put = |part: &[u8]| {
            let from = text.len();
            text.extend_from_slice(part);
            Place::of(from, part.len())
        };
        for (name, value) in fields {
            places.push((put(name.as_ref()), put(value.as_ref())));
        }
        Self::new(text.into(), places)
    }
}

impl From<&HeaderMap> for Fields {
    fn from(map: &HeaderMap) -> Self {
        map.iter().map(|(name, value)| (name.as_str(), value)).collect()
    }
}

// === impl Place ===

impl Place {
    fn of(from: usize, length: usize) -> Self {
        let short = |at: usize| u32::try_from(at).unwrap_or(u32::MAX);
        Self(short(from), short(from.saturating_add(length)))
    }

    fn len(self) -> usize {
        self.range().len()
    }

    fn range(self) -> Range<usize> {
        self.0 as usize..self.1 as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_in_any_case_and_in_their_order() {
        let fields: Fields = [("Accept", "a"), ("x", ""), ("ACCEPT", "b\u{e9}")].into_iter().collect();

        assert_eq!(fields.all("accept").collect::<Vec<_>>(), [&b"a"[..], "b\u{e9}".as_bytes()]);
        assert_eq!((fields.get("X"), fields.get("y"), fields.text("accept")), (Some(&b""[..]), None, Some("a")));
        let second: Fields = fields.iter().skip(2).collect();
        assert_eq!((second.get("accept").is_some(), second.text("accept")), (true, None), "not ASCII");
    }

    #[test]
    fn a_map_and_its_fields_are_the_same() {
        let fields: Fields = [("Host", "a"), ("x-b", "1"), ("X-B", "2")].into_iter().collect();
        let map = fields.to_map();

        assert_eq!(map.get_all("x-b").iter().collect::<Vec<_>>(), ["1", "2"]);
        assert_eq!(Fields::from(&map).to_map(), map);
        assert_eq!(map.len(), 3);
    }
}
