//! Takes a body from the received bytes, piece by piece and without copying: chunks, or a known number of bytes.
//!
//! Pure. Source of the rules: RFC 9112 §7.1.

use bytes::{Buf as _, Bytes, BytesMut};

/// The most hexadecimal digits whose chunk size fits in a `u64`.
const MAX_SIZE_DIGITS: u8 = 15;

/// The allowed content of chunk extensions and trailers, which are ignored; sizes and line ends are always parsed
/// strictly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strictness {
    /// Text, up to the CRLF.
    Strict,
    /// Any byte up to the LF.
    Lenient,
}

/// The result of taking a piece.
#[derive(Debug, PartialEq, Eq)]
pub enum Taken {
    /// Some of the body, not empty.
    Piece(Bytes),
    /// Nothing until more has arrived.
    More,
    /// The body has ended.
    End,
}

/// The position of the next byte in a chunked body.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunks {
    strictness: Strictness,
    at: At,
    /// Bytes left of this chunk.
    left: u64,
    digits: u8,
    aside: usize,
}

/// The chunks are malformed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum At {
    Size,
    SpaceAfterSize,
    Extension,
    SizeEnd,
    Data,
    DataCr,
    DataLf,
    LineBegin,
    Trailer,
    TrailerEnd,
    LastLf,
    End,
}

impl Strictness {
    /// The limit for chunk extensions and trailers of one body together.
    pub const fn max_aside(self) -> usize {
        match self {
            Self::Strict => 8 * 1024,
            Self::Lenient => 16 * 1024,
        }
    }

    /// Whether a byte, other than a line end, may be part of an extension or a trailer.
    fn allows(self, byte: u8) -> bool {
        match self {
            Self::Strict => byte == b'\t' || (byte >= b' ' && byte != 0x7f),
            Self::Lenient => byte != b'\n',
        }
    }
}

impl Taken {
    /// Takes the next of `left` bytes.
    #[inline]
    pub fn of(left: &mut u64, arrived: &mut BytesMut) -> Self {
        let here = usize::try_from(*left).unwrap_or(usize::MAX).min(arrived.len());
        match (*left, here) {
            (0, _) => Self::End,
            (_, 0) => Self::More,
            _ => {
                *left -= here as u64;
                Self::Piece(arrived.split_to(here).freeze())
            }
        }
    }
}

impl Chunks {
    /// The start of a body.
    #[must_use]
    #[inline]
    pub const fn new(strictness: Strictness) -> Self {
        Self { strictness, at: At::Size, left: 0, digits: 0, aside: 0 }
    }

    /// Takes the next piece from the front of the received bytes.
    ///
    /// # Errors
    /// [`Malformed`].
    #[inline]
    pub fn take(&mut self, arrived: &mut BytesMut) -> Result<Taken, Malformed> {
        let mut read = 0;
        while !matches!(self.at, At::Data | At::End) && read < arrived.len() {
            self.at = self.after(arrived[read])?;
            read += 1;
        }
        arrived.advance(read);
        match self.at {
            At::End => Ok(Taken::End),
            At::Data => {
                let taken = Taken::of(&mut self.left, arrived);
                if self.left == 0 {
                    self.at = At::DataCr;
                }
                Ok(taken)
            }
            _ => Ok(Taken::More),
        }
    }

    /// Whether the whole body was taken.
    #[must_use]
    #[inline]
    pub fn has_ended(&self) -> bool {
        self.at == At::End
    }

    #[inline]
    fn after(&mut self, byte: u8) -> Result<At, Malformed> {
        let is_lenient = self.strictness == Strictness::Lenient;
        Ok(match (self.at, byte) {
            (At::Size, _) if byte.is_ascii_hexdigit() => self.digit(byte)?,
            (At::Size | At::SpaceAfterSize, b' ' | b'\t' | b';' | b'\r') if self.digits > 0 => match byte {
                b'\r' => At::SizeEnd,
                b';' => At::Extension,
                _ => self.aside(At::SpaceAfterSize)?,
            },
            (At::Extension, b'\r') => At::SizeEnd,
            (At::Extension, _) if self.strictness.allows(byte) => self.aside(At::Extension)?,
            (At::SizeEnd, b'\n') => {
                self.digits = 0;
                if self.left == 0 { At::LineBegin } else { At::Data }
            }
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => At::Size,
            (At::LineBegin, b'\r') => At::LastLf,
            (At::Trailer, b'\n') if is_lenient => At::LineBegin,
            (At::Trailer, b'\r') if !is_lenient => At::TrailerEnd,
            (At::LineBegin | At::Trailer, _) if self.strictness.allows(byte) => self.aside(At::Trailer)?,
            (At::TrailerEnd, b'\n') => At::LineBegin,
            (At::LastLf, b'\n') => At::End,
            _ => return Err(Malformed),
        })
    }

    #[inline]
    fn digit(&mut self, byte: u8) -> Result<At, Malformed> {
        if self.digits == MAX_SIZE_DIGITS {
            return Err(Malformed);
        }
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            _ => (byte | 0x20) - b'a' + 10,
        };
        self.digits += 1;
        self.left = self.left * 16 + u64::from(digit);
        Ok(At::Size)
    }

    fn aside(&mut self, at: At) -> Result<At, Malformed> {
        self.aside += 1;
        if self.aside > self.strictness.max_aside() { Err(Malformed) } else { Ok(at) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[derive(Debug, PartialEq, Eq)]
    enum Broken {
        Incomplete,
        Malformed,
    }

    /// The decoded part of a body that arrives in pieces of this size, and the bytes behind it.
    fn decoded(strictness: Strictness, text: &[u8], size: usize) -> Result<(Vec<u8>, Vec<u8>), Broken> {
        let (mut chunks, mut arrived, mut body) = (Chunks::new(strictness), BytesMut::new(), Vec::new());
        let mut pieces = text.chunks(size);
        loop {
            match chunks.take(&mut arrived).map_err(|Malformed| Broken::Malformed)? {
                Taken::Piece(piece) => body.extend_from_slice(&piece),
                Taken::End => {
                    let behind: Vec<u8> = pieces.flatten().copied().collect();
                    return Ok((body, [&arrived[..], &behind].concat()));
                }
                Taken::More => arrived.extend_from_slice(pieces.next().ok_or(Broken::Incomplete)?),
            }
        }
    }

    const BOTH: [Strictness; 2] = [Strictness::Strict, Strictness::Lenient];

    #[test]
    fn chunks_are_joined_and_their_extensions_and_trailers_passed_over() {
        let good = |body: &str, behind: &str| Ok((body.as_bytes().to_vec(), behind.as_bytes().to_vec()));
        for strictness in BOTH {
            let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(strictness.max_aside()));
            let longer = long.replace(";x", ";xx");
            for (text, expected) in [
                ("0\r\n\r\n", good("", "")),
                ("4\r\nbody\r\n0\r\n\r\nGET", good("body", "GET")),
                ("2;a=b\r\nbo\r\n02 \t;c\r\ndy\r\n000\r\nx: y\r\nz:\r\n\r\n", good("body", "")),
                ("A\r\n0123456789\r\n0\r\n\r\n", good("0123456789", "")),
                (&long, good("a", "")),
                (&longer, Err(Broken::Malformed)),
                ("4\r\nbody\r\n0\r\n", Err(Broken::Incomplete)),
                ("4\r\nbod", Err(Broken::Incomplete)),
                ("", Err(Broken::Incomplete)),
            ] {
                for size in [1, 3, 1000] {
                    assert_eq!(decoded(strictness, text.as_bytes(), size), expected, "{strictness:?} {text} by {size}");
                }
            }
            for malformed in [
                "x\r\n",
                "\r\n",
                "-1\r\n",
                "+1\r\n",
                " 1\r\n",
                "0x1\r\n",
                "1\n",
                "1\rx",
                "1;a\nb\r\n",
                "1 x\r\n",
                "1\r\nab",
                "1\r\na\n",
                "1\r\na\r\r",
                "0\r\n\n",
                "0\r\n\rx",
                "1,2\r\n",
                "1111111111111111\r\n",
                "FFFFFFFFFFFFFFFFF\r\n",
            ] {
                let found = decoded(strictness, malformed.as_bytes(), 7);
                assert_eq!(found, Err(Broken::Malformed), "{strictness:?} {malformed:?}");
            }
        }
    }

    #[test]
    fn extensions_and_trailers_are_text_unless_that_is_not_minded() {
        for text in ["0;\0\r\n\r\n", "0;\x7f\r\n\r\n", "0\r\nx\n\r\n", "0\r\nx\ry: z\r\n\r\n", "0\r\n\0: y\r\n\r\n"] {
            for size in [1, 1000] {
                let found = BOTH.map(|strictness| decoded(strictness, text.as_bytes(), size));
                assert_eq!(found, [Err(Broken::Malformed), Ok((vec![], vec![]))], "{text:?} by {size}");
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_comes_ends_or_breaks(text in prop::collection::vec(any::<u8>(), 0..200), size in 1usize..50) {
            for strictness in BOTH {
                let _ = decoded(strictness, &text, size);
            }
        }
    }
}
