//! Short digests of texts.

use aws_lc_rs::digest::{Context, SHA256};

/// The first 16 bytes of SHA-256 over texts, each preceded by its length, so that different lists differ.
pub(crate) fn short_digest(texts: &[&str]) -> [u8; 16] {
    let mut context = Context::new(&SHA256);
    for text in texts {
        context.update(&(text.len() as u64).to_be_bytes());
        context.update(text.as_bytes());
    }
    let mut short = [0; 16];
    short.copy_from_slice(&context.finish().as_ref()[..16]);
    short
}
