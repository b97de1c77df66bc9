//! How what is sealed lies in bytes: numbers with the highest byte first, texts after a byte with their length.

/// Appends a text of at most 255 bytes; of a longer one, the callers' bounds say that it cannot be there.
pub(super) fn put_text(bytes: &mut Vec<u8>, text: &str) {
    let length = u8::try_from(text.len()).unwrap_or_else(|_| unreachable!("no longer text is sealed"));
    bytes.push(length);
    bytes.extend_from_slice(text.as_bytes());
}

/// Reads what stands in bytes, piece by piece. `None`: there is not so much, or it is no text.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
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
