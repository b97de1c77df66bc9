//! The byte layout of sealed content: big-endian numbers, texts after a byte with their length.

/// Appends a text of at most 255 bytes; the callers' limits exclude longer ones.
pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).unwrap_or_else(|_| unreachable!("no longer text is sealed"));
    bytes.push(length);
    bytes.extend_from_slice(text.as_bytes());
}

/// Reads values from bytes, one by one. `None`: too few bytes, or not a text.
pub(super) struct ByteReader<'a>(&'a [u8]);

impl<'a> ByteReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn left(&self) -> usize {
        self.0.len()
    }

    pub(super) fn rest(&self) -> &'a [u8] {
        self.0
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.array().map(|[byte]: [u8; 1]| byte)
    }

    pub(super) fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (piece, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*piece)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = usize::from(self.byte()?);
        let (piece, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        str::from_utf8(piece).ok()
    }
}
