//! The list of tools as the server reported it, kept so that changed rules apply at once, without another request.
//!
//! Compressed: thousands of servers each keep one, and it is parsed only when the rules or the list change.

use std::io::{Read as _, Write as _};

use aws_lc_rs::digest::{SHA256, digest};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use portcullis_crds::mcpserver::ToolRules;
use serde_json::value::RawValue;

use crate::offer::item::ParsedItems;
use crate::offer::tools::read_tools;

/// Lists above this many bytes are parsed in a separate thread: parsing them would delay the calls of this thread.
pub(crate) const LARGE: usize = 256 * 1024;

/// One list, within the limits for fetching it, see [`crate::offer::item::MAX_LIST_BYTES`].
pub(crate) struct RawTools {
    digest: [u8; 32],
    packed: Box<[u8]>,
    /// Bytes of the definitions.
    length: usize,
    /// The number of definitions beyond the limits.
    beyond: usize,
}

impl RawTools {
    /// Stores these definitions; `beyond`: the number of definitions beyond the limits.
    pub(crate) fn pack(definitions: &[String], beyond: usize) -> Self {
        let text = format!("[{}]", definitions.join(","));
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        let packed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
        let packed = packed.expect("writing into memory cannot fail").into();
        Self { digest: hash, packed, length: text.len(), beyond }
    }

    /// Whether another list is equal.
    pub(crate) fn is(&self, other: &Self) -> bool {
        (self.digest, self.beyond) == (other.digest, other.beyond)
    }

    /// Whether parsing takes long.
    pub(crate) fn is_large(&self) -> bool {
        self.length > LARGE
    }

    /// Applies these rules to the list.
    pub(crate) fn offered(&self, rules: &ToolRules) -> ParsedItems {
        let mut text = String::with_capacity(self.length);
        let unpacked = DeflateDecoder::new(&*self.packed).read_to_string(&mut text);
        let definitions: Vec<&RawValue> =
            unpacked.ok().and_then(|_| serde_json::from_str(&text).ok()).unwrap_or_default();
        let mut found = read_tools(definitions.into_iter().map(RawValue::get), rules);
        found.left_out += self.beyond;
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_list_offers_what_the_list_itself_would_by_any_rules() {
        let definitions: Vec<String> = [
            r#"{"name":"a","inputSchema":{"type":"object","x":12345678901234567890123},"description":"d\u00e9\n"}"#,
            "{ \"inputSchema\" : {} ,\n \"name\" : \"b\" }",
            r#"{"name":"c"}"#,
            "7",
        ]
        .map(str::to_owned)
        .to_vec();
        let rules: [ToolRules; 3] =
            ["{}", "{prefix: p, exclude: [b]}", "{overrides: [{name: a, rename: z, description: other}]}"]
                .map(|rules| serde_yaml::from_str(rules).unwrap());
        let kept = RawTools::pack(&definitions, 5);
        for rules in &rules {
            let mut expected = read_tools(definitions.iter().map(String::as_str), rules);
            expected.left_out += 5;
            assert_eq!(kept.offered(rules), expected, "{rules:?}");
        }
        assert_eq!(RawTools::pack(&[], 0).offered(&rules[0]), ParsedItems::default());
    }

    #[test]
    fn lists_are_the_same_if_they_say_the_same() {
        let list = |names: &[&str], beyond| {
            let texts: Vec<String> = names.iter().map(|name| format!(r#"{{"name":"{name}"}}"#)).collect();
            RawTools::pack(&texts, beyond)
        };
        assert!(list(&["a", "b"], 1).is(&list(&["a", "b"], 1)));
        assert!(!list(&["a", "b"], 1).is(&list(&["b", "a"], 1)) && !list(&["a"], 0).is(&list(&["a"], 1)));
    }
}
