//! One form for every kind of item: a tool, a prompt, a resource or a resource template.
//!
//! Pure. Definitions stay as the server wrote them; only the member that names them is replaced.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use portcullis_access::decision::DEFAULT_HINTS;
use portcullis_search::{IndexedTool, estimate_tokens};
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::offer::definition::Problems;
use crate::offer::links;
use crate::offer::links::Link;
use portcullis_mcp::protocol::json::{Members, json_string};
use portcullis_mcp::protocol::param_headers::ParamHeader;

/// The limit for items of one kind from one server; further ones are left out.
pub(crate) const MAX_ITEMS: usize = 1_000;

/// The limit for the bytes of one kind's definitions from one server.
pub(crate) const MAX_LIST_BYTES: usize = 8 * 1024 * 1024;

/// The limit for members of a definition: each key is compared with the ones before it.
pub(crate) const MOST_MEMBERS: usize = 256;

/// The kinds of items.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// Callable items.
    Tools,
    /// Templates for the start of a conversation.
    Prompts,
    /// Readable items.
    Resources,
    /// URI patterns of readable items (`resources/templates/list`).
    Templates,
}

/// Items of one kind of one server, sorted by name; shared by every catalog that lists them.
pub(crate) type Items = Arc<Vec<Arc<Item>>>;

/// One item of one server, ready to be listed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Item {
    /// The server's own name of the item, as a JSON string.
    pub(crate) own_name_json: Box<str>,
    /// The server's own name of the item; for a resource its URI, for a template its pattern.
    pub(crate) own_name: Arc<str>,
    /// The name for callers, unless another server has it. Shared by every catalog that lists the item.
    pub(crate) name: Arc<str>,
    /// The full name, if `name` is its short form.
    pub(crate) full: Option<Arc<str>>,
    /// The members of the definition except the naming one, as JSON without braces; may be empty.
    pub(crate) members: Box<str>,
    /// Distinguishes texts of `members` within this process.
    pub(crate) shown: u64,
    /// SHA-256 of the part that callers rely on, independent of member order: for a tool its input schema, for a prompt
    /// its arguments. Servers of one declared pool must agree on it.
    pub(crate) digest: [u8; 32],
    /// SHA-256 of everything that is listed except the name, independent of member order.
    pub(crate) same: [u8; 32],
    /// Resources that the definition names: its page, if it has one.
    pub(crate) links: Box<[Link]>,
    /// The name with its namespace; built on first use.
    pub(crate) spaced: SpacedName,
    /// The tool as it is searched; built on first use.
    pub(crate) searched: SearchedItem,
    /// The call may be repeated after a lost answer: the item is declared read-only or idempotent, or is only read.
    pub(crate) repeatable: bool,
    /// Whether a tool is read-only, destructive, idempotent, open to the world, as declared or as MCP assumes.
    pub(crate) hints: [bool; 4],
    /// Arguments that travel as headers too.
    pub(crate) params: Vec<ParamHeader>,
}

/// A name that is built once for an item; adds no information to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpacedName(pub(crate) OnceLock<(Arc<str>, bool)>);

/// What is read once of an item that is searched; adds no information to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct SearchedItem(pub(crate) OnceLock<Arc<IndexedTool>>);

impl PartialEq for SearchedItem {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for SearchedItem {}

impl PartialEq for SpacedName {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for SpacedName {}

/// The result of parsing a list of definitions.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ParsedItems {
    /// The valid items, sorted by name.
    pub(crate) items: Vec<Item>,
    /// The number of definitions left out because they are invalid, duplicate or too many.
    pub(crate) left_out: usize,
    /// The problems of these, and of those that are listed without a part.
    pub(crate) problems: Problems,
}

// === impl Kind ===

impl Kind {
    /// All kinds.
    pub(crate) const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// The word for one item.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Tools => "tool",
            Self::Prompts => "prompt",
            Self::Resources => "resource",
            Self::Templates => "resource template",
        }
    }

    /// The member of a list's result that holds the definitions.
    pub(crate) fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// The member of a definition that contains the name.
    pub(crate) fn naming(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }
}

// === impl Item ===

impl Item {
    /// The full name for callers.
    pub(crate) fn full_name(&self) -> &Arc<str> {
        self.full.as_ref().unwrap_or(&self.name)
    }

    /// A resource that its server can read but does not list.
    pub(crate) fn unlisted(uri: &str) -> Self {
        let name: Arc<str> = uri.into();
        Self {
            own_name_json: json_string(uri).into(),
            own_name: name.clone(),
            name,
            full: None,
            members: "".into(),
            shown: 0,
            digest: [0; 32],
            same: [0; 32],
            links: Box::default(),
            spaced: SpacedName::default(),
            searched: SearchedItem::default(),
            repeatable: true,
            hints: DEFAULT_HINTS,
            params: Vec::new(),
        }
    }

    /// The same item with other resources in its definition; `rename` returns the new URI of one, if there is one.
    pub(crate) fn relinked(&self, rename: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let members = links::renamed(&self.members, &self.links, rename)?;
        Some(self.with_members(members))
    }

    /// The same item under another name, which is the same wherever it is listed, and with another description; `None` if
    /// nothing would be different.
    pub(crate) fn redefined(&self, name: Option<&str>, description: Option<&str>) -> Option<Self> {
        let mut item = match description {
            Some(description) => self.with_members(self.described(description)?),
            None => self.with_members(self.members.to_string()),
        };
        if let Some(name) = name {
            item.name = name.into();
            item.full = None;
            item.spaced = SpacedName(OnceLock::from((item.name.clone(), false)));
        }
        (item != *self).then_some(item)
    }

    fn with_members(&self, members: String) -> Self {
        Self {
            own_name_json: self.own_name_json.clone(),
            own_name: self.own_name.clone(),
            name: self.name.clone(),
            full: self.full.clone(),
            shown: number_of(&members),
            members: members.into(),
            digest: self.digest,
            same: self.same,
            links: self.links.clone(),
            spaced: self.spaced.clone(),
            searched: SearchedItem::default(),
            repeatable: self.repeatable,
            hints: self.hints,
            params: self.params.clone(),
        }
    }

    /// The definition without its name, as a JSON object.
    pub(crate) fn members_as_object(&self) -> String {
        format!("{{{}}}", self.members.strip_prefix(',').unwrap_or_default())
    }

    /// The members with another description.
    fn described(&self, description: &str) -> Option<String> {
        let (object, description) = (self.members_as_object(), json_string(description));
        let read = Members::read(&object).ok()?;
        let mut text = String::with_capacity(self.members.len() + description.len());
        let mut is_there = false;
        for (key, value) in &read.0 {
            let is_it = key == "description";
            is_there |= is_it;
            add_member(&mut text, key, if is_it { &description } else { value.get() });
        }
        if !is_there {
            add_member(&mut text, "description", &description);
        }
        Some(text)
    }

    /// Tokens of the definition in a list, under this name: an estimate.
    pub(crate) fn tokens(&self, name: &str) -> usize {
        estimate_tokens(name.as_bytes()) + estimate_tokens(self.members.as_bytes())
    }
}

// === impl Found ===

impl ParsedItems {
    /// Leaves a definition out, and records the reason.
    pub(crate) fn leave_out(&mut self, kind: Kind, name: Option<&str>, why: &str) {
        self.left_out += 1;
        self.problems.add(kind, name, "left out", why);
    }

    /// The valid items, to be shared.
    pub(crate) fn shared(self) -> Items {
        Arc::new(self.items.into_iter().map(Arc::new).collect())
    }
}

/// A number for a text, constant within this process.
pub(crate) fn number_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// Appends a member to JSON without braces.
pub(crate) fn add_member(text: &mut String, key: &str, value: &str) {
    text.push(',');
    text.push_str(&json_string(key));
    text.push(':');
    text.push_str(value);
}

/// The members of an object in their order; a duplicate key makes the object invalid, as do more than [`MOST_MEMBERS`].
pub(crate) struct UniqueMembers<'a>(pub(crate) Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for UniqueMembers<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = UniqueMembers<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all: Vec<(String, &'de RawValue)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if all.len() >= MOST_MEMBERS || all.iter().any(|(other, _)| *other == key) {
                        return Err(serde::de::Error::custom("a member appears twice, or there are too many"));
                    }
                    all.push((key, value));
                }
                Ok(UniqueMembers(all))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// SHA-256 of a value with sorted members, so that their order does not matter.
pub(crate) fn digest_of(value: &Value) -> [u8; 32] {
    let mut text = String::new();
    write_sorted(value, &mut text);
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    out
}

/// SHA-256 of a definition in the form of members, independent of their order.
pub(crate) fn digest_of_members(members: &str) -> [u8; 32] {
    let object = format!("{{{}}}", members.strip_prefix(',').unwrap_or(members));
    digest_of(&serde_json::from_str(&object).unwrap_or_default())
}

fn write_sorted(value: &Value, text: &mut String) {
    match value {
        Value::Object(members) => {
            let mut keys: Vec<_> = members.keys().collect();
            keys.sort();
            text.push('{');
            for key in keys {
                text.push_str(&json_string(key));
                text.push(':');
                write_sorted(&members[key], text);
                text.push(',');
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for item in items {
                write_sorted(item, text);
                text.push(',');
            }
            text.push(']');
        }
        other => text.push_str(&other.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_one_whatever_the_order_of_their_members() {
        let digest = |text: &str| digest_of(&serde_json::from_str(text).unwrap());
        assert_eq!(digest(r#"{"a":1,"b":{"c":[1],"d":2}}"#), digest(r#"{ "b":{"d":2,"c":[1]},"a":1}"#));
        assert_ne!(digest(r#"{"a":[1,2]}"#), digest(r#"{"a":[2,1]}"#));
        let members = r#","b":[1],"a":{"d":2,"c":1}"#;
        assert_eq!(digest_of_members(members), digest(r#"{"a":{"c":1,"d":2},"b":[1]}"#));
        assert_eq!(digest_of_members(""), digest("{}"));
    }
}
