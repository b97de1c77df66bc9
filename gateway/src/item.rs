//! What servers offer, in one form for every kind: a tool, a prompt, a resource or a resource template.
//!
//! Pure. Definitions stay as the server wrote them; only the member that names them is replaced.

use std::hash::{DefaultHasher, Hasher as _};
use std::sync::{Arc, OnceLock};

use aws_lc_rs::digest;
use serde::Deserialize;
use serde::de::{MapAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::definition::Problems;
use crate::links::{self, Link};
use crate::upstream::message::json_string;
use crate::upstream::params::ParamHeader;

/// Items of one kind taken from one server; what comes after is left out.
pub const MAX_ITEMS: usize = 1_000;

/// Bytes of definitions of one kind taken from one server.
pub const MAX_LIST_BYTES: usize = 8 * 1024 * 1024;

/// A definition has no more members: each key is compared with those before it.
pub const MOST_MEMBERS: usize = 256;

/// What servers list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// What can be called.
    Tools,
    /// What can be got to begin a conversation with.
    Prompts,
    /// What can be read.
    Resources,
    /// Patterns of what can be read (`resources/templates/list`).
    Templates,
}

/// Items of one kind of one server, sorted by name; shared by every catalog that shows them.
pub type Items = Arc<Vec<Arc<Item>>>;

/// One thing of one server, ready to be offered.
#[derive(Debug, PartialEq, Eq)]
pub struct Item {
    /// The name the server knows it by, as a JSON string.
    pub own_name_json: Box<str>,
    /// The name the server knows it by; of a resource its URI, of a template its pattern.
    pub own_name: Arc<str>,
    /// The name it is offered under, unless another server has that name. Shared by every catalog that shows it.
    pub name: Arc<str>,
    /// The name that `name` is the short form of, if it is one.
    pub full: Option<Arc<str>>,
    /// The members of its definition besides the one that names it, as JSON without braces; may be empty.
    pub members: Box<str>,
    /// Tells one text of `members` from another, in this process.
    pub shown: u64,
    /// SHA-256 of what its callers rely on, whatever the order of members: of a tool its input schema, of a prompt its
    /// arguments. Servers of one declared pool must agree on it.
    pub digest: [u8; 32],
    /// SHA-256 of everything that is shown of it but its name, whatever the order of members.
    pub same: [u8; 32],
    /// Resources that its definition names: its page, if it has one.
    pub links: Box<[Link]>,
    /// Its name where its namespace is part of it; made when it is first needed.
    pub spaced: SpacedName,
    /// It may be called again when an answer was lost: it is said to be read-only or idempotent, or reads only.
    pub repeatable: bool,
    /// Arguments that travel as headers too.
    pub params: Vec<ParamHeader>,
}

/// A name that is made once for an item; it says nothing that the item does not.
#[derive(Clone, Debug, Default)]
pub struct SpacedName(pub OnceLock<(Arc<str>, bool)>);

impl PartialEq for SpacedName {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for SpacedName {}

/// What a list of definitions came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// What can be offered, sorted by name.
    pub items: Vec<Item>,
    /// How many were left out because they are invalid, twice there, or too many.
    pub left_out: usize,
    /// What is wrong with them, and with those that are shown without something.
    pub problems: Problems,
}

// === impl Kind ===

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::Tools, Self::Prompts, Self::Resources, Self::Templates];

    /// What one of them is called.
    pub fn word(self) -> &'static str {
        match self {
            Self::Tools => "tool",
            Self::Prompts => "prompt",
            Self::Resources => "resource",
            Self::Templates => "resource template",
        }
    }

    /// The member of a list's result that holds the definitions.
    pub fn member(self) -> &'static str {
        match self {
            Self::Tools => "tools",
            Self::Prompts => "prompts",
            Self::Resources => "resources",
            Self::Templates => "resourceTemplates",
        }
    }

    /// The member of a definition that names it.
    pub fn naming(self) -> &'static str {
        match self {
            Self::Tools | Self::Prompts => "name",
            Self::Resources => "uri",
            Self::Templates => "uriTemplate",
        }
    }
}

// === impl Item ===

impl Item {
    /// The name it is offered under, in full.
    pub fn full_name(&self) -> &Arc<str> {
        self.full.as_ref().unwrap_or(&self.name)
    }

    /// A resource that its server reads though it does not list it.
    pub fn unlisted(uri: &str) -> Self {
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
            repeatable: true,
            params: Vec::new(),
        }
    }

    /// The same item, whose definition names other resources; `rename` gives the new URI of one, if it has one.
    pub fn relinked(&self, rename: impl Fn(&str) -> Option<String>) -> Option<Self> {
        let members = links::renamed(&self.members, &self.links, rename)?;
        Some(Self {
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
            repeatable: self.repeatable,
            params: self.params.clone(),
        })
    }
}

// === impl Found ===

impl Found {
    /// One is left out, and it is told why.
    pub fn leave_out(&mut self, kind: Kind, name: Option<&str>, why: &str) {
        self.left_out += 1;
        self.problems.add(kind, name, "left out", why);
    }

    /// What can be offered, to be shared.
    pub fn shared(self) -> Items {
        Arc::new(self.items.into_iter().map(Arc::new).collect())
    }
}

/// A number for a text, the same within this process.
pub fn number_of(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(text.as_bytes());
    hasher.finish()
}

/// Adds a member to JSON without braces.
pub fn add_member(text: &mut String, key: &str, value: &str) {
    text.push(',');
    text.push_str(&json_string(key));
    text.push(':');
    text.push_str(value);
}

/// The members of an object in their order; a key that is there twice makes it invalid, as more than [`MOST_MEMBERS`] do.
pub struct Members<'a>(pub Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut all: Vec<(String, &'de RawValue)> = Vec::new();
                while let Some((key, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if all.len() >= MOST_MEMBERS || all.iter().any(|(other, _)| *other == key) {
                        return Err(serde::de::Error::custom("a member is there twice, or there are too many"));
                    }
                    all.push((key, value));
                }
                Ok(Members(all))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}

/// SHA-256 of a value with its members sorted, so that their order does not matter.
pub fn digest_of(value: &Value) -> [u8; 32] {
    let mut text = String::new();
    write_sorted(value, &mut text);
    let mut out = [0; 32];
    out.copy_from_slice(digest::digest(&digest::SHA256, text.as_bytes()).as_ref());
    out
}

/// SHA-256 of a definition that is written as members, whatever their order.
pub fn digest_of_members(members: &str) -> [u8; 32] {
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
