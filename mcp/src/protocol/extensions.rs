//! The extensions that one side declares (`capabilities.extensions`): read within bounds, compared, written.
//!
//! Pure. Source: MCP 2026-07-28, `extensions` of `ClientCapabilities` and `ServerCapabilities`; the names are those of the
//! official extensions.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::{Arc, LazyLock};

use super::json::{Members, json_string};

/// MCP Apps: tools that have a page.
pub const APPS: &str = "io.modelcontextprotocol/ui";

/// Tasks: calls that go on after their answer (SEP-2663).
pub const TASKS: &str = "io.modelcontextprotocol/tasks";

/// Skills: instructions for agents, as resources (SEP-2640).
pub const SKILLS: &str = "io.modelcontextprotocol/skills";

/// What hosts of MCP Apps declare: the only media type that pages have.
macro_rules! apps_json {
    () => {
        r#"{"io.modelcontextprotocol/ui":{"mimeTypes":["text/html;profile=mcp-app"]}}"#
    };
}

/// The capabilities of the gateway itself, for lists: servers show the tools that have a page to hosts of MCP Apps alone.
pub(crate) const OWN_CAPABILITIES: &str = concat!(r#"{"extensions":"#, apps_json!(), "}");

/// The limit for the extensions of one side.
const MAX_EXTENSIONS: usize = 32;

/// The limit for a name, in bytes.
const MAX_NAME: usize = 128;

/// The limit for all settings of one side together, in bytes.
const MAX_SETTINGS: usize = 4096;

/// The extensions that one side declares, sorted by name. Cheap to clone.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions(Option<Arc<[Extension]>>);

/// An extension: its name, and its settings as the JSON of an object.
type Extension = (Box<str>, Box<str>);

impl Extensions {
    /// Reads the JSON of `extensions`. What is not of its form, or beyond a bound, is left out: it must not cost the rest.
    pub fn from_json(text: &str) -> Self {
        let members = Members::read(text).unwrap_or_default();
        let (mut found, mut left) = (Vec::new(), MAX_SETTINGS);
        for (name, settings) in &members.0 {
            let settings = settings.get();
            if is_name(name) && settings.starts_with('{') && settings.len() <= left && found.len() < MAX_EXTENSIONS {
                left -= settings.len();
                found.push((name.as_ref().into(), settings.into()));
            }
        }
        Self::of(found)
    }

    /// What the gateway declares for itself, in a session that all clients share.
    pub fn of_lists() -> Self {
        static OWN: LazyLock<Extensions> = LazyLock::new(|| Extensions::from_json(apps_json!()));
        OWN.clone()
    }

    /// Tasks alone.
    pub fn tasks() -> &'static Self {
        static TASKS_ALONE: LazyLock<Extensions> = LazyLock::new(|| Extensions::default().with(TASKS, "{}"));
        &TASKS_ALONE
    }

    fn of(mut all: Vec<Extension>) -> Self {
        all.sort_unstable();
        Self(if all.is_empty() { None } else { Some(all.into()) })
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_none()
    }

    /// Whether this one is among them.
    pub fn has(&self, name: &str) -> bool {
        self.settings(name).is_some()
    }

    /// The settings of this one, as the JSON of an object; `None` if it is not declared.
    pub fn settings(&self, name: &str) -> Option<&str> {
        self.all().iter().find(|(known, _)| **known == *name).map(|(_, settings)| &**settings)
    }

    /// Their names, sorted.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.all().iter().map(|(name, _)| &**name)
    }

    /// With another one, unless it is there.
    #[must_use]
    pub fn with(&self, name: &str, settings: &str) -> Self {
        if self.has(name) {
            return self.clone();
        }
        Self::of(self.all().iter().cloned().chain([(name.into(), settings.into())]).collect())
    }

    /// Those for whose names this holds.
    #[must_use]
    pub fn filtered(&self, keep: impl Fn(&str) -> bool) -> Self {
        if self.all().iter().all(|(name, _)| keep(name)) {
            return self.clone();
        }
        Self::of(self.all().iter().filter(|(name, _)| keep(name)).cloned().collect())
    }

    /// What a server with the extensions `server` is told of these of a client: those that it has too. Servers of MCP Apps
    /// need not declare that they are.
    #[must_use]
    pub fn understood_by(&self, server: &Self) -> Self {
        self.filtered(|name| name == APPS || server.has(name))
    }

    /// The JSON of `extensions`.
    pub fn to_json(&self) -> String {
        let members: Vec<String> =
            self.all().iter().map(|(name, settings)| format!("{}:{settings}", json_string(name))).collect();
        format!("{{{}}}", members.join(","))
    }

    /// The JSON of `capabilities` with these: `others` are the other capabilities, as the JSON of an object or empty.
    pub fn in_capabilities(&self, others: &str) -> String {
        let others = others.trim().strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).unwrap_or_default().trim();
        match (others.is_empty(), self.is_empty()) {
            (_, true) => format!("{{{others}}}"),
            (true, false) => format!(r#"{{"extensions":{}}}"#, self.to_json()),
            (false, false) => format!(r#"{{{others},"extensions":{}}}"#, self.to_json()),
        }
    }

    /// A number that differs where they do; 0 if there are none. The same within this process alone.
    pub fn number(&self) -> u64 {
        if self.is_empty() {
            return 0;
        }
        let mut hasher = DefaultHasher::new();
        self.all().hash(&mut hasher);
        hasher.finish()
    }

    fn all(&self) -> &[Extension] {
        self.0.as_deref().unwrap_or_default()
    }
}

/// Whether the gateway knows how the messages of an extension are routed among several servers.
pub fn is_routed(name: &str) -> bool {
    [APPS, TASKS, SKILLS].contains(&name)
}

/// A name has a prefix, as keys of `_meta` have it.
fn is_name(name: &str) -> bool {
    let fits = |part: &str| {
        !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_'))
    };
    name.len() <= MAX_NAME && name.split_once('/').is_some_and(|(prefix, name)| fits(prefix) && fits(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Vec<String> {
        Extensions::from_json(text).names().map(str::to_owned).collect()
    }

    #[test]
    fn extensions_are_read_sorted_and_what_is_not_of_its_form_is_left_out() {
        let given = r#"{"b.c/x":{"a": 1.10},"a.b/y":{},"none":{},"a/b/c":{},"/x":{},"a/":{},"a/ä":{},"a/n":null,"a/t":true,"a/l":[]}"#;
        assert_eq!(names(given), ["a.b/y", "b.c/x"]);
        let read = Extensions::from_json(given);
        assert_eq!(read.settings("b.c/x"), Some(r#"{"a": 1.10}"#));
        assert_eq!(read.to_json(), r#"{"a.b/y":{},"b.c/x":{"a": 1.10}}"#);
        for text in ["", "[]", "null", "7", r#"{"a/b":{},"a/b":{}}"#, "{"] {
            assert!(Extensions::from_json(text).is_empty(), "{text}");
        }
    }

    #[test]
    fn no_side_has_more_than_the_bounds() {
        let many: Vec<String> = (10..60).map(|at| format!(r#""a/x{at}":{{}}"#)).collect();
        assert_eq!(names(&format!("{{{}}}", many.join(","))).len(), MAX_EXTENSIONS);
        assert_eq!(names(&format!(r#"{{"a/{}":{{}},"a/b":{{}}}}"#, "x".repeat(MAX_NAME))), ["a/b"]);
        let long = format!(r#"{{"a":"{}"}}"#, "x".repeat(MAX_SETTINGS / 2));
        assert_eq!(names(&format!(r#"{{"a/a":{long},"a/b":{long},"a/c":{{}}}}"#)), ["a/a", "a/c"]);
    }

    #[test]
    fn a_server_is_told_of_the_extensions_that_it_has_and_of_apps() {
        let client = Extensions::from_json(&format!(r#"{{"{APPS}":{{}},"{TASKS}":{{}},"a/b":{{"c":1}}}}"#));
        let server = Extensions::from_json(r#"{"a/b":{},"c/d":{}}"#);
        assert_eq!(client.understood_by(&server).to_json(), format!(r#"{{"a/b":{{"c":1}},"{APPS}":{{}}}}"#));
        assert_eq!(Extensions::tasks().understood_by(&server), Extensions::default());
        assert_eq!(Extensions::default().understood_by(&server), Extensions::default());
    }

    #[test]
    fn extensions_stand_beside_other_capabilities() {
        let (some, none) = (Extensions::tasks().clone(), Extensions::default());
        let tasks = r#""extensions":{"io.modelcontextprotocol/tasks":{}}"#;
        assert_eq!(some.in_capabilities(""), format!("{{{tasks}}}"));
        assert_eq!(some.in_capabilities("{ }"), format!("{{{tasks}}}"));
        assert_eq!(some.in_capabilities(r#"{"roots":{}}"#), format!(r#"{{"roots":{{}},{tasks}}}"#));
        assert_eq!(none.in_capabilities(r#"{"roots":{}}"#), r#"{"roots":{}}"#);
        assert_eq!([none.number() == 0, some.number() == 0], [true, false]);
        assert!(Extensions::of_lists().has(APPS));
    }
}
