//! Encodes a client's capabilities in 16 bits, so that they fit in a sealed session id.
//!
//! Pure. Source: MCP 2026-07-28, `ClientCapabilities`; keeps only what server requests depend on.

use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::extensions::Extensions;

/// The capabilities of a client that servers can use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ClientCapabilities(u16);

/// The capabilities on which server requests depend.
#[derive(Deserialize)]
struct Declared<'a> {
    roots: Option<Value>,
    sampling: Option<Value>,
    elicitation: Option<Value>,
    #[serde(borrow)]
    extensions: Option<&'a RawValue>,
}

impl ClientCapabilities {
    /// No capabilities.
    pub const NONE: Self = Self(0);
    /// Lists its roots.
    pub const ROOTS: Self = Self(1);
    /// Notifies the server when its roots change.
    pub(crate) const ROOTS_LIST_CHANGED: Self = Self(1 << 1);
    /// Samples from its model.
    pub const SAMPLING: Self = Self(1 << 2);
    /// Lets its model use tools during sampling.
    pub(crate) const SAMPLING_TOOLS: Self = Self(1 << 3);
    /// Adds context of servers for its model.
    pub(crate) const SAMPLING_CONTEXT: Self = Self(1 << 4);
    /// Asks its user to fill in a form.
    pub const ELICITATION_FORM: Self = Self(1 << 5);
    /// All capabilities that servers can use.
    pub const EVERYTHING: Self = Self(Self::ALL);
    /// Asks its user to open an address.
    pub const ELICITATION_URL: Self = Self(1 << 6);

    const ALL: u16 = (1 << 7) - 1;

    /// Parses the JSON of `capabilities`; `None` if it is not an object, or has duplicate members.
    ///
    /// `null` and `false` count as absent. `"elicitation": {}` means forms, its only meaning in earlier revisions.
    pub fn from_json(text: &str) -> Option<Self> {
        Self::with_extensions(text).map(|(capabilities, _)| capabilities)
    }

    /// The same, with the extensions.
    pub fn with_extensions(text: &str) -> Option<(Self, Extensions)> {
        if text == "{}" {
            return Some((Self::NONE, Extensions::default()));
        }
        // Serde would accept a sequence in place of an object.
        if !text.trim_start().starts_with('{') {
            return None;
        }
        let declared: Declared<'_> = serde_json::from_str(text).ok()?;
        let extensions = declared.extensions.map(|raw| Extensions::from_json(raw.get())).unwrap_or_default();
        let (roots, sampling) = (given(declared.roots.as_ref()), given(declared.sampling.as_ref()));
        let elicitation = given(declared.elicitation.as_ref());
        let url = elicitation.and_then(|it| given(it.get("url")));
        let form = elicitation.filter(|it| url.is_none() || given(it.get("form")).is_some());
        let mut found = Self::NONE;
        for (capability, declared) in [
            (Self::ROOTS, roots),
            (Self::ROOTS_LIST_CHANGED, roots.and_then(|it| given(it.get("listChanged")))),
            (Self::SAMPLING, sampling),
            (Self::SAMPLING_TOOLS, sampling.and_then(|it| given(it.get("tools")))),
            (Self::SAMPLING_CONTEXT, sampling.and_then(|it| given(it.get("context")))),
            (Self::ELICITATION_FORM, form),
            (Self::ELICITATION_URL, url),
        ] {
            if declared.is_some() {
                found = found.with(capability);
            }
        }
        Some((found, extensions))
    }

    /// Writes the JSON of `capabilities` that declares exactly these.
    pub fn to_json(self) -> String {
        let object = |members: &[(&str, Self, Value)]| {
            let members = members.iter().filter(|(_, capability, _)| self.contains(*capability));
            Value::Object(members.map(|(name, _, value)| ((*name).to_owned(), value.clone())).collect())
        };
        let empty = || Value::Object(Map::new());
        let roots = object(&[("listChanged", Self::ROOTS_LIST_CHANGED, true.into())]);
        let sampling =
            object(&[("tools", Self::SAMPLING_TOOLS, empty()), ("context", Self::SAMPLING_CONTEXT, empty())]);
        let elicitation = if self.contains(Self::ELICITATION_URL) {
            object(&[("form", Self::ELICITATION_FORM, empty()), ("url", Self::ELICITATION_URL, empty())])
        } else {
            // Servers of 2025-06-18 know only this form.
            empty()
        };
        let mut all = Map::new();
        for (name, value, there) in [
            ("roots", roots, self.intersects(Self::ROOTS)),
            ("sampling", sampling, self.intersects(Self::SAMPLING)),
            ("elicitation", elicitation, self.intersects(Self::ELICITATION_FORM.with(Self::ELICITATION_URL))),
        ] {
            if there {
                all.insert(name.to_owned(), value);
            }
        }
        Value::Object(all).to_string()
    }

    /// Whether a server may send this request to the client: every request needs a capability.
    pub fn allow(self, method: &str, params: &[u8]) -> bool {
        needed_for(method, params).is_some_and(|needed| self.contains(needed))
    }

    /// The union of both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// The part of `needed` that is missing here.
    #[must_use]
    pub(crate) const fn missing(self, needed: Self) -> Self {
        Self(needed.0 & !self.0)
    }

    /// Whether all of `other` is included.
    pub(crate) const fn contains(self, other: Self) -> bool {
        self.missing(other).0 == 0
    }

    /// Whether any of `other` is included.
    pub(crate) const fn intersects(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    /// The bits as a number.
    pub const fn bits(self) -> u16 {
        self.0
    }

    /// Parses [`ClientCapabilities::bits`]; `None` if a bit is unknown.
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & !Self::ALL == 0 { Some(Self(bits)) } else { None }
    }
}

/// The capability that a client must have declared for this request; `None` for requests that no client accepts.
fn needed_for(method: &str, params: &[u8]) -> Option<ClientCapabilities> {
    #[derive(Deserialize)]
    struct ElicitationParams<'a> {
        #[serde(borrow)]
        mode: Option<std::borrow::Cow<'a, str>>,
    }
    match method {
        "roots/list" => Some(ClientCapabilities::ROOTS),
        "sampling/createMessage" => Some(ClientCapabilities::SAMPLING),
        "elicitation/create" => {
            let mode = serde_json::from_slice::<ElicitationParams<'_>>(params).ok().and_then(|params| params.mode);
            match mode.as_deref() {
                None | Some("form") => Some(ClientCapabilities::ELICITATION_FORM),
                Some("url") => Some(ClientCapabilities::ELICITATION_URL),
                Some(_) => None,
            }
        }
        _ => None,
    }
}

fn given(value: Option<&Value>) -> Option<&Value> {
    value.filter(|value| !matches!(value, Value::Null | Value::Bool(false)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    type C = ClientCapabilities;

    fn read(text: &str) -> Option<u16> {
        C::from_json(text).map(C::bits)
    }

    #[test]
    fn what_clients_declare_is_read() {
        let sampling = C::SAMPLING.with(C::SAMPLING_TOOLS).with(C::SAMPLING_CONTEXT);
        for (text, expected) in [
            ("{}", C::NONE),
            (r#" {"roots":{}}"#, C::ROOTS),
            (r#"{"roots":{"listChanged":true}}"#, C::ROOTS.with(C::ROOTS_LIST_CHANGED)),
            (r#"{"roots":{"listChanged":false},"experimental":{"x":[1]}}"#, C::ROOTS),
            (r#"{"sampling":{}}"#, C::SAMPLING),
            (r#"{"sampling":{"tools":{},"context":{}}}"#, sampling),
            (r#"{"elicitation":{}}"#, C::ELICITATION_FORM),
            (r#"{"elicitation":{"form":{}}}"#, C::ELICITATION_FORM),
            (r#"{"elicitation":{"url":{}}}"#, C::ELICITATION_URL),
            (r#"{"elicitation":{"form":{},"url":{}}}"#, C::ELICITATION_FORM.with(C::ELICITATION_URL)),
            (r#"{"roots":null,"sampling":false,"elicitation":null}"#, C::NONE),
        ] {
            assert_eq!(C::from_json(text), Some(expected), "{text}");
        }
    }

    #[test]
    fn what_are_no_capabilities_is_not_read() {
        for text in ["", "null", "[]", "[{},{},{}]", "true", r#""roots""#, "{", r#"{"roots":{},"roots":{}}"#] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_written_says_no_more_than_what_was_read() {
        let texts = ["{}", r#"{"roots":{"listChanged":true},"sampling":{"tools":{}},"elicitation":{}}"#];
        for text in texts {
            let value: Value = serde_json::from_str(text).unwrap();
            assert_eq!(C::from_json(text).unwrap().to_json(), value.to_string());
        }
        assert_eq!(C::ELICITATION_URL.to_json(), r#"{"elicitation":{"url":{}}}"#);
    }

    #[test]
    fn missing_capabilities_are_named() {
        let have = C::ROOTS.with(C::SAMPLING);
        assert_eq!(have.missing(C::SAMPLING.with(C::SAMPLING_TOOLS)), C::SAMPLING_TOOLS);
        assert!(have.contains(C::SAMPLING) && !have.contains(C::ELICITATION_FORM));
        assert_eq!(C::from_bits(1 << 7), None);
    }

    #[test]
    fn a_question_needs_its_capability() {
        let form = C::ELICITATION_FORM;
        for (able, method, params, expected) in [
            (C::ROOTS, "roots/list", "", true),
            (C::SAMPLING, "roots/list", "{}", false),
            (C::SAMPLING, "sampling/createMessage", "{}", true),
            (form, "elicitation/create", r#"{"message":"m"}"#, true),
            (form, "elicitation/create", r#"{"mode":"form"}"#, true),
            (form, "elicitation/create", r#"{"mode":"url"}"#, false),
            (C::ELICITATION_URL, "elicitation/create", r#"{"mode":"url"}"#, true),
            (form, "elicitation/create", r#"{"mode":"other"}"#, false),
            (form.with(C::ROOTS).with(C::SAMPLING), "tools/list", "{}", false),
        ] {
            assert_eq!(able.allow(method, params.as_bytes()), expected, "{method} {params}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in ".{0,64}") {
            let _ = read(&text);
            let _ = read(&format!("{{\"elicitation\":{text}}}"));
        }

        #[test]
        fn written_capabilities_are_read_back(bits in 0..=C::ALL) {
            let given = C::from_bits(bits).unwrap();
            // Details of an absent capability cannot be expressed.
            let mut expected = given;
            for (whole, details) in [
                (C::ROOTS, C::ROOTS_LIST_CHANGED),
                (C::SAMPLING, C::SAMPLING_TOOLS.with(C::SAMPLING_CONTEXT)),
            ] {
                if !given.contains(whole) {
                    expected = details.missing(expected);
                }
            }
            prop_assert_eq!(C::from_json(&given.to_json()), Some(expected));
        }
    }
}
