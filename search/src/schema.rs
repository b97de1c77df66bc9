//! The names and descriptions of arguments in an input schema, read as a stream: nothing of it is kept.

use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// Levels of JSON that are read. A level of a schema takes two: `properties`, and a property.
const MAX_DEPTH: u8 = 24;

/// What a text in a schema is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// The name of an argument, or of a property of one.
    Name,
    /// A description or title, or a value that an argument may have.
    Description,
}

/// Gives `take` the texts of a schema in their order, until it answers `false`, the JSON ends, or it is no JSON.
pub(crate) fn each_text(schema: &str, mut take: impl FnMut(Part, &str) -> bool) {
    let mut json = serde_json::Deserializer::from_str(schema);
    // An error is the end of what can be read; what came before it counts.
    drop(Reader { take: &mut take, depth: 0, role: Role::Schema }.deserialize(&mut json));
}

/// What a value of a schema holds.
#[derive(Clone, Copy)]
enum Role {
    /// A schema, or several.
    Schema,
    /// Schemas by the names of arguments.
    Properties,
    /// Schemas by names that are the schema's own.
    Definitions,
    /// A text, or several.
    Text,
}

impl Role {
    /// What the value of a key holds, if it is of use.
    fn of(self, key: &str) -> Option<Self> {
        match (self, key) {
            (Self::Properties | Self::Definitions, _) => Some(Self::Schema),
            (Self::Text, _) => None,
            (Self::Schema, "properties") => Some(Self::Properties),
            (Self::Schema, "$defs" | "definitions") => Some(Self::Definitions),
            (Self::Schema, "description" | "title" | "enum" | "const") => Some(Self::Text),
            (Self::Schema, "items" | "prefixItems" | "additionalProperties" | "anyOf" | "oneOf" | "allOf") => {
                Some(Self::Schema)
            }
            (Self::Schema, _) => None,
        }
    }
}

struct Reader<'t, T> {
    take: &'t mut T,
    depth: u8,
    role: Role,
}

impl<T: FnMut(Part, &str) -> bool> Reader<'_, T> {
    fn below(&mut self, role: Role) -> Reader<'_, T> {
        Reader { take: self.take, depth: self.depth + 1, role }
    }

    /// Hands a text on, or ends the reading.
    fn text<E: Error>(&mut self, part: Part, text: &str) -> Result<(), E> {
        if (self.take)(part, text) { Ok(()) } else { Err(E::custom("enough")) }
    }
}

impl<'de, T: FnMut(Part, &str) -> bool> DeserializeSeed<'de> for Reader<'_, T> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        if self.depth > MAX_DEPTH {
            json.deserialize_ignored_any(IgnoredAny).map(drop)
        } else {
            json.deserialize_any(self)
        }
    }
}

impl<'de, T: FnMut(Part, &str) -> bool> Visitor<'de> for Reader<'_, T> {
    type Value = ();

    fn expecting(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("a schema")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<(), A::Error> {
        while let Some(key) = map.next_key::<String>()? {
            let Some(role) = self.role.of(&key) else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if matches!(self.role, Role::Properties) {
                self.text(Part::Name, &key)?;
            }
            map.next_value_seed(self.below(role))?;
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        let role = self.role;
        while list.next_element_seed(self.below(role))?.is_some() {}
        Ok(())
    }

    fn visit_str<E: Error>(mut self, text: &str) -> Result<(), E> {
        if matches!(self.role, Role::Text) { self.text(Part::Description, text) } else { Ok(()) }
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn texts(schema: &str) -> Vec<String> {
        let mut texts = Vec::new();
        each_text(schema, |part, text| {
            texts.push(format!("{}{text}", if part == Part::Name { "-" } else { "" }));
            texts.len() < 6
        });
        texts
    }

    #[test]
    fn names_and_descriptions_are_found_at_every_level() {
        for (schema, expected) in [
            (r#"{"type":"object","properties":{"path":{"type":"string","description":"Where"}}}"#, "-path Where"),
            (r#"{"properties":{"a":{"properties":{"b":{"enum":["x",1,"y"]}}}}}"#, "-a -b x y"),
            (r#"{"properties":{"description":{"description":"d"}}}"#, "-description d"),
            (r#"{"properties":{"a":{"type":"array","items":{"anyOf":[{"title":"t"},{"const":"c"}]}}}}"#, "-a t c"),
            (r##"{"$defs":{"Own":{"properties":{"p":true}}},"properties":{"q":{"$ref":"#/$defs/Own"}}}"##, "-p -q"),
            (r#"{"required":["a"],"default":{"properties":{"no":{}}},"examples":[{"description":"no"}]}"#, ""),
            (r#"{"properties":{"a":1,"b":null,"c":1.5,"d":"s","e":[],"f":{},"g":{}}}"#, "-a -b -c -d -e -f"),
            (r#"{"properties":{"a":{"description":"cut off"}},"#, "-a cut off"),
            ("not JSON", ""),
            ("[]", ""),
            ("null", ""),
            ("", ""),
        ] {
            assert_eq!(texts(schema).join(" "), expected, "{schema}");
        }
    }

    #[test]
    fn a_schema_of_any_depth_is_read_to_a_bound() {
        for levels in [9, 12, 13, 200, 100_000] {
            let schema = format!("{}{{}}{}", r#"{"properties":{"a":"#.repeat(levels), "}}".repeat(levels));
            let mut names = 0;
            each_text(&schema, |_, _| {
                names += 1;
                true
            });
            assert_eq!(names, levels.min(12), "{levels}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "\\PC{0,60}|[{}\\[\\]\",:a-z0-9]{0,60}|(\\{\"properties\":|\\{\"a\":|\\[|\"x\"|,|\\}|\\]){0,20}") {
            each_text(&text, |_, _| true);
        }
    }
}
