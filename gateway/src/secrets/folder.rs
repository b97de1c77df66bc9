//! Values from a folder with the layout `DIR/NAME/KEY`, so that one manifest works with and without a cluster.

use std::io::{ErrorKind, Read as _};
use std::path::Path;

use portcullis_crds::Reason;

use super::{Reference, SecretError};

/// The limit for a value: that of a whole Secret in Kubernetes.
const MAX_BYTES: usize = 1024 * 1024;

/// The file of a value.
pub(super) fn place(reference: &Reference) -> String {
    format!("{}/{}", reference.object.name, reference.key)
}

/// Reads a value.
///
/// # Errors
/// The file is unreadable, or no folder is configured.
pub(super) fn read(folder: Option<&Path>, reference: &Reference) -> Result<Vec<u8>, SecretError> {
    let place = place(reference);
    let Some(folder) = folder else { return Err(SecretError::NoFolder(place)) };
    // `rules` has refused names that could lead out of the folder.
    let object = folder.join(&reference.object.name);
    let value = read_bounded(&object.join(&reference.key)).map_err(|error| {
        let reason = match (error.kind(), reference.origin.is_some()) {
            (ErrorKind::NotFound, _) if object.is_dir() => Reason::SecretKeyMissing,
            (_, true) => Reason::SecretNotFound,
            (_, false) => Reason::CaNotFound,
        };
        SecretError::Unreadable { place: place.clone(), reason }
    })?;
    if value.len() > MAX_BYTES {
        return Err(SecretError::TooLong { place, limit: MAX_BYTES, authority: reference.origin.is_none() });
    }
    Ok(value)
}

fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    // Opening a pipe would wait for a writer.
    if !std::fs::metadata(path)?.is_file() {
        return Err(ErrorKind::InvalidInput.into());
    }
    let mut value = Vec::new();
    std::fs::File::open(path)?.take(MAX_BYTES as u64 + 1).read_to_end(&mut value)?;
    Ok(value)
}
