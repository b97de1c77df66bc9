//! The list of tools as a server told it, kept so that changed rules hold at once, without asking the server.
//!
//! Compressed: thousands of servers each keep theirs, and it is read only when the rules or the list change.

use std::io::{Read as _, Write as _};

use aws_lc_rs::digest::{SHA256, digest};
use flate2::Compression;
use flate2::read::DeflateDecoder;
use flate2::write::DeflateEncoder;
use portcullis_crds::mcpserver::ToolRules;
use serde_json::value::RawValue;

use crate::item::Found;
use crate::tool::read_tools;

/// Lists above this many bytes are read in a thread of their own: parsing them would hold up the calls of this thread.
pub const LARGE: usize = 256 * 1024;

/// One list. It holds no more than what was read of it, see [`crate::item::MAX_LIST_BYTES`].
pub struct RawTools {
    digest: [u8; 32],
    packed: Box<[u8]>,
    /// Bytes of the definitions.
    length: usize,
    /// Definitions that were too many to be read.
    beyond: usize,
}

impl RawTools {
    /// Keeps these definitions; `beyond`: so many more were too many.
    pub fn pack(definitions: &[String], beyond: usize) -> Self {
        let text = format!("[{}]", definitions.join(","));
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, text.as_bytes()).as_ref());
        let mut encoder = DeflateEncoder::new(Vec::new(), Compression::fast());
        let packed = encoder.write_all(text.as_bytes()).and_then(|()| encoder.finish());
        let packed = packed.expect("writing into memory cannot fail").into();
        Self { digest: hash, packed, length: text.len(), beyond }
    }

    /// Whether another list says the same.
    pub fn is(&self, other: &Self) -> bool {
        (self.digest, self.beyond) == (other.digest, other.beyond)
    }

    /// Whether reading it takes its time.
    pub fn is_large(&self) -> bool {
        self.length > LARGE
    }

    /// What is offered of it by these rules.
    pub fn offered(&self, rules: &ToolRules) -> Found {
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
        assert_eq!(RawTools::pack(&[], 0).offered(&rules[0]), Found::default());
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
