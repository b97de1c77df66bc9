//! Shortens names that some clients refuse.
//!
//! Pure, and the same everywhere: a name has the same short form in every replica and at every time.

use aws_lc_rs::digest;
use portcullis_crds::rules::is_tool_name;

/// The longest name that clients of all kinds accept, in characters: the APIs of language models allow no more.
pub(crate) const MAX_SHORT: usize = 64;

/// The longest accepted name of a server's item, in bytes.
pub(crate) const MAX_NAME_BYTES: usize = 1_024;

/// Characters of a name that are kept; the rest of the short form is `_` and the digest.
const KEPT: usize = 55;

/// Whether a name can be listed unchanged: at most 64 characters, all of `A-Za-z0-9_.-`.
pub(crate) fn is_short(name: &str) -> bool {
    name.len() <= MAX_SHORT && is_tool_name(name)
}

/// Whether the gateway may compose a name: at most 64 characters, all of `A-Za-z0-9_-`. Several APIs of language models
/// refuse the dot, which a server may use in its own names.
pub(crate) fn is_makeable(name: &str) -> bool {
    is_short(name) && !name.contains('.')
}

/// The short form of a name: its first 55 characters, with `_` for each dot and for each that clients refuse, then `_`,
/// and 8 hexadecimal digits of the SHA-256 of the whole name.
pub(crate) fn short_form(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
    let mut short: String = name.chars().take(KEPT).map(|c| if fits(c) { c } else { '_' }).collect();
    short.push('_');
    let digest = digest::digest(&digest::SHA256, name.as_bytes());
    short.extend(digest.as_ref()[..4].iter().map(|byte| format!("{byte:02x}")));
    short
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_short_form_keeps_the_beginning_and_tells_names_apart() {
        let cases = [
            ("has space", "has_space_47b5c36f"),
            ("Größe/Δ", "Gr__e___dea71bbd"),
            ("", "_e3b0c442"),
            ("a.b c", "a_b_c_"),
        ];
        for (name, begins) in cases {
            assert!(!is_short(name) && short_form(name).starts_with(begins), "{name}: {}", short_form(name));
        }
        let (a, b) = (format!("{}a", "n".repeat(64)), format!("{}b", "n".repeat(64)));
        assert_eq!(short_form(&a)[..56], format!("{}_", "n".repeat(55)));
        assert_eq!((short_form(&a).len(), is_short(&"n".repeat(64)), is_short(&a)), (64, true, false));
        assert_ne!(short_form(&a), short_form(&b));
    }

    proptest! {
        #[test]
        fn every_short_form_can_be_offered(name in ".{0,200}") {
            prop_assert!(is_makeable(&short_form(&name)));
        }
    }
}
