//! Prints what a command answers.
//!
//! `println!` panics when its reader has gone, as `head` and `grep -q` go once they have read enough.

use std::io::{self, Write};

/// Writes a text to the standard output, and no newline. A reader that has gone is no error: nobody misses the text.
///
/// # Errors
/// The text cannot be written, as on a full disk.
pub fn print(text: impl AsRef<[u8]>) -> io::Result<()> {
    print_to(io::stdout().lock(), text.as_ref())
}

/// [`print()`] with a newline.
///
/// # Errors
/// As [`print()`].
pub fn print_line(line: impl Into<String>) -> io::Result<()> {
    let mut line = line.into();
    line.push('\n');
    print(line)
}

fn print_to(mut out: impl Write, text: &[u8]) -> io::Result<()> {
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(io::ErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_has_gone_is_no_error_and_a_full_disk_is_one() {
        let mut out = Vec::new();
        print_to(&mut out, b"text").unwrap();
        assert_eq!(out, b"text");
        assert!(print_to(Failing(io::ErrorKind::BrokenPipe), b"text").is_ok());
        let full = print_to(Failing(io::ErrorKind::StorageFull), b"text").unwrap_err();
        assert_eq!(full.kind(), io::ErrorKind::StorageFull);
    }
}
