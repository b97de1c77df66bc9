//! The keywords of JSON Schema, from draft-04 to 2020-12: the required form of each value, and its repair.
//!
//! The rules combine those of a compiler (ajv, with the keywords of draft-07) and of typed decoders (Go, Java): they
//! refuse a value of another type even if it has no effect.

use std::borrow::Cow;
use std::collections::HashSet;

use super::ecma;
use super::{SchemaFault, anything};
use portcullis_mcp::protocol::json::tree::Tree;

/// The types of JSON Schema.
const TYPES: [&str; 7] = ["string", "number", "integer", "boolean", "object", "array", "null"];

/// The dialect that replaces an uncommon one: the rewritten schema means the same in it.
const DIALECT: &str = "http://json-schema.org/draft-07/schema#";

/// The prefixes of dialects that clients know.
const KNOWN_DIALECTS: [&str; 3] = [
    "//json-schema.org/draft-07/schema",
    "//json-schema.org/draft/2019-09/schema",
    "//json-schema.org/draft/2020-12/schema",
];

/// The prefixes of older dialects.
const OLD_DIALECTS: [&str; 3] =
    ["//json-schema.org/draft-04/schema", "//json-schema.org/draft-06/schema", "//json-schema.org/schema"];

/// The form of a keyword's value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A number.
    Number,
    /// A number above 0.
    Divisor,
    /// A non-negative integer.
    Count,
    /// `true` or `false`.
    Flag,
    /// Unique texts.
    Names,
    /// `type`.
    Type,
    /// Values, at least one.
    Values,
    /// A regular expression.
    Pattern,
    /// A schema.
    Schema,
    /// A schema that often is `true` or `false`, which typed decoders expect there.
    SchemaOrFlag,
    /// Schemas, at least one.
    Schemas,
    /// A schema, or one for each position.
    Items,
    /// Schemas by name.
    Map,
    /// Schemas by regular expression.
    PatternMap,
    /// Schemas, or lists of names, by name.
    Dependencies,
    /// Lists of names, by name.
    NamesMap,
    /// A text for people or tools, without constraints.
    Note,
    /// A flag of that kind.
    NoteFlag,
    /// A list of that kind.
    NoteList,
    /// A reference.
    Reference,
    /// A reference that depends on the referrer, or one that only some clients know.
    OtherReference,
    /// `$schema`.
    Dialect,
    /// A name by which others may refer to this schema.
    Identifier,
}

/// The form of a keyword's value; `None` if the key is not a keyword.
pub(super) fn form_of(key: &str) -> Option<Form> {
    Some(match key {
        "maximum" | "minimum" | "exclusiveMaximum" | "exclusiveMinimum" => Form::Number,
        "multipleOf" => Form::Divisor,
        "maxLength" | "minLength" | "maxItems" | "minItems" | "maxProperties" | "minProperties" | "maxContains"
        | "minContains" => Form::Count,
        "uniqueItems" => Form::Flag,
        "required" => Form::Names,
        "type" => Form::Type,
        "enum" => Form::Values,
        "pattern" => Form::Pattern,
        "not" | "if" | "then" | "else" | "contains" | "propertyNames" | "contentSchema" => Form::Schema,
        "additionalProperties" | "additionalItems" | "unevaluatedProperties" | "unevaluatedItems" => Form::SchemaOrFlag,
        "allOf" | "anyOf" | "oneOf" | "prefixItems" => Form::Schemas,
        "items" => Form::Items,
        "properties" | "$defs" | "definitions" | "dependentSchemas" => Form::Map,
        "patternProperties" => Form::PatternMap,
        "dependencies" => Form::Dependencies,
        "dependentRequired" => Form::NamesMap,
        "title" | "description" | "$comment" | "format" | "contentMediaType" | "contentEncoding" => Form::Note,
        "deprecated" | "readOnly" | "writeOnly" | "nullable" => Form::NoteFlag,
        "examples" => Form::NoteList,
        "$ref" => Form::Reference,
        "$dynamicRef" | "$recursiveRef" => Form::OtherReference,
        "$schema" => Form::Dialect,
        "$id" | "id" | "$anchor" | "$dynamicAnchor" | "$recursiveAnchor" | "$vocabulary" | "$async" => Form::Identifier,
        _ => return None,
    })
}

/// The fate of a keyword.
enum Fate {
    Stays,
    /// Removed: clients do not need it.
    Goes,
}

type SchemaMembers<'a> = Vec<(Cow<'a, str>, Tree<'a>)>;

/// Replaces parts by their equivalent forms.
#[derive(Debug, Default)]
pub(super) struct Mender {
    /// A part differs from the server's text.
    pub(crate) changed: bool,
    /// The `$id` of the root, with which its references may begin.
    id: Option<String>,
    /// A nested schema has an identifier of its own: references below it are relative to it.
    has_inner_ids: bool,
    /// The schema names an older dialect, in which `items` may be a list of schemas.
    is_older: bool,
    levels: usize,
}

fn wrong<T>(why: &'static str) -> Result<T, SchemaFault> {
    Err(SchemaFault { path: Vec::new(), why })
}

impl Mender {
    /// The prefix of references to the whole schema; `None` if they are relative to other places.
    pub(crate) fn own_id(&self) -> Option<&str> {
        if self.has_inner_ids { None } else { Some(self.id.as_deref().unwrap_or_default()) }
    }

    /// Repairs the whole schema.
    pub(crate) fn whole(&mut self, root: &mut Tree<'_>) -> Result<(), SchemaFault> {
        self.schema(root, false)
    }

    /// Repairs each part: one that cannot be repaired is removed and reported.
    pub(crate) fn place_by_place(&mut self, root: &mut Tree<'_>) -> Result<Vec<SchemaFault>, SchemaFault> {
        let Tree::Object(members) = root else { return wrong("is not an object") };
        let mut without = Vec::new();
        self.levels += 1;
        self.prepare(members);
        let mut kept = Vec::with_capacity(members.len());
        for (key, mut value) in members.drain(..) {
            let form = form_of(&key);
            let mended = match (form, &mut value) {
                (Some(Form::Map), Tree::Object(schemas)) => {
                    for (name, schema) in schemas {
                        let instead = anything(schema);
                        if let Err(wrong) = self.schema(schema, true) {
                            *schema = instead;
                            self.changed = true;
                            without.push(wrong.below(name).below(&key));
                        }
                    }
                    Ok(Fate::Stays)
                }
                _ => self.keyword(form, &mut value),
            };
            match mended {
                Ok(Fate::Stays) => kept.push((key, value)),
                // Without its type it would accept anything.
                Err(wrong) if form == Some(Form::Type) => return Err(wrong.below(&key)),
                Ok(Fate::Goes) => self.changed = true,
                Err(wrong) => {
                    self.changed = true;
                    without.push(wrong.below(&key));
                }
            }
        }
        *members = kept;
        Ok(without)
    }

    /// Repairs a schema. `named`: it has a name, so null and empty lists are what serializers write for `{}`.
    fn schema(&mut self, schema: &mut Tree<'_>, named: bool) -> Result<(), SchemaFault> {
        let instead = match schema {
            Tree::Object(members) => {
                self.levels += 1;
                let mended = self.members(members);
                self.levels -= 1;
                return mended;
            }
            Tree::Array(items) if named && items.is_empty() => Tree::Object(Vec::new()),
            Tree::Scalar(text) => match &**text {
                "true" => Tree::Object(Vec::new()),
                "null" if named => Tree::Object(Vec::new()),
                "false" => Tree::Object(vec![("not".into(), Tree::Object(Vec::new()))]),
                _ => return wrong("is not a schema"),
            },
            Tree::Array(_) => return wrong("is not a schema"),
        };
        self.changed = true;
        *schema = instead;
        Ok(())
    }

    fn members(&mut self, members: &mut SchemaMembers<'_>) -> Result<(), SchemaFault> {
        self.prepare(members);
        let mut kept = Vec::with_capacity(members.len());
        for (key, mut value) in members.drain(..) {
            match self.keyword(form_of(&key), &mut value).map_err(|wrong| wrong.below(&key))? {
                Fate::Stays => kept.push((key, value)),
                Fate::Goes => self.changed = true,
            }
        }
        *members = kept;
        Ok(())
    }

    /// Normalizes keywords that depend on each other.
    fn prepare(&mut self, members: &mut SchemaMembers<'_>) {
        if self.levels == 1 {
            self.is_older = members.iter().any(|(key, value)| key == "$schema" && is_older(value));
        }
        let before = members.len();
        members.retain(|(key, value)| !value.is("null") || form_of(key).is_none());
        if !self.is_older {
            self.changed |= name_positions(members);
        }
        for (limit, exclusive) in [("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")] {
            make_limit_a_number(members, limit, exclusive);
        }
        let types = members.iter().find(|(key, _)| key == "type").map(|(_, types)| types);
        let has_null = types.is_some_and(|types| types_of(types).any(|kind| kind == "null"));
        let has_type = types.is_some();
        members.retain(|(key, value)| key != "nullable" || has_type && !(has_null && value.is("false")));
        self.changed |= members.len() != before;
        let id = members.iter().find(|(key, _)| key == "$id" || key == "id").and_then(|(_, id)| id.text());
        match (id, self.levels) {
            (None, _) => {}
            (Some(id), 1) if self.id.is_none() => self.id = Some(id.trim_end_matches('#').to_owned()),
            (Some(_), _) => self.has_inner_ids = true,
        }
    }

    fn keyword(&mut self, form: Option<Form>, value: &mut Tree<'_>) -> Result<Fate, SchemaFault> {
        let Some(form) = form else { return Ok(Fate::Stays) };
        match form {
            Form::Number if is_number(value) => Ok(Fate::Stays),
            Form::Number => wrong("is not a number"),
            Form::Divisor if number(value).is_some_and(|number| number > 0.0) => Ok(Fate::Stays),
            Form::Divisor => wrong("is not a number above 0"),
            Form::Count => self.count(value),
            Form::Flag if value.is_flag() => Ok(Fate::Stays),
            Form::Flag => wrong("is neither true nor false"),
            // From draft-03, which had it beside the type of a property.
            Form::Names if value.is_flag() => Ok(Fate::Goes),
            Form::Names => self.names(value).map(|()| Fate::Stays),
            Form::Type => self.types(value),
            Form::Values => match value {
                Tree::Array(values) if !values.is_empty() => Ok(Fate::Stays),
                _ => wrong("is not a list of at least one value"),
            },
            Form::Pattern => self.pattern(value).map(|()| Fate::Stays),
            Form::SchemaOrFlag if value.is_flag() => Ok(Fate::Stays),
            Form::Schema | Form::SchemaOrFlag => self.schema(value, false).map(|()| Fate::Stays),
            Form::Schemas => self.schemas(value),
            Form::Items => match value {
                Tree::Array(_) if self.is_older => self.schemas(value),
                Tree::Array(_) => wrong("is a list of schemas beside prefixItems"),
                _ => self.schema(value, false).map(|()| Fate::Stays),
            },
            Form::Map => self.map(value, |mender, schema| mender.schema(schema, true)),
            Form::PatternMap => self.pattern_map(value),
            Form::Dependencies => self.map(value, |mender, value| match value {
                Tree::Array(_) => mender.names(value),
                _ => mender.schema(value, true),
            }),
            Form::NamesMap => self.map(value, Self::names),
            Form::Note => Ok(if value.is_text() { Fate::Stays } else { Fate::Goes }),
            Form::NoteFlag => Ok(if value.is_flag() { Fate::Stays } else { Fate::Goes }),
            Form::NoteList => Ok(if matches!(value, Tree::Array(_)) { Fate::Stays } else { Fate::Goes }),
            Form::Reference if value.text().is_some() => Ok(Fate::Stays),
            Form::Reference => wrong("is not a string"),
            Form::OtherReference => wrong("is a reference that few clients resolve"),
            Form::Dialect => Ok(self.dialect(value)),
            Form::Identifier => Ok(Fate::Goes),
        }
    }

    fn count(&mut self, value: &mut Tree<'_>) -> Result<Fate, SchemaFault> {
        let is_digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let Some(text) = value.scalar() else { return wrong("is not a whole number of at least 0") };
        if is_digits(text) {
            return Ok(Fate::Stays);
        }
        match text.split_once('.') {
            Some((whole, rest)) if is_digits(whole) && !rest.is_empty() && rest.bytes().all(|byte| byte == b'0') => {
                *value = Tree::Scalar(whole.to_owned().into());
                self.changed = true;
                Ok(Fate::Stays)
            }
            _ => wrong("is not a whole number of at least 0"),
        }
    }

    fn names(&mut self, value: &mut Tree<'_>) -> Result<(), SchemaFault> {
        let Tree::Array(names) = value else { return wrong("is not a list of names") };
        if !names.iter().all(Tree::is_text) {
            return wrong("is not a list of names");
        }
        let (before, mut seen) = (names.len(), HashSet::new());
        names.retain(|name| seen.insert(name.scalar().map(str::to_owned)));
        self.changed |= names.len() != before;
        Ok(())
    }

    fn types(&mut self, value: &mut Tree<'_>) -> Result<Fate, SchemaFault> {
        const NONE: &str = "is not a type of JSON Schema";
        let mut one = |kind: &mut Tree<'_>| {
            let name = if kind.is("null") { "null".into() } else { kind.text().unwrap_or_default() };
            let lower = name.to_ascii_lowercase();
            let Some(known) = TYPES.into_iter().find(|known| *known == lower) else { return wrong(NONE) };
            if kind.is("null") || *known != *name {
                *kind = Tree::text_of(known);
                self.changed = true;
            }
            Ok(())
        };
        match value {
            Tree::Array(kinds) if kinds.is_empty() => Ok(Fate::Goes),
            Tree::Array(kinds) => {
                kinds.iter_mut().try_for_each(one)?;
                self.names(value).map(|()| Fate::Stays)
            }
            kind => one(kind).map(|()| Fate::Stays),
        }
    }

    fn pattern(&mut self, value: &mut Tree<'_>) -> Result<(), SchemaFault> {
        const NONE: &str = "is not a regular expression that clients can compile (ECMAScript)";
        let instead = match value.text() {
            None => return wrong(NONE),
            Some(pattern) => match ecma::translated(&pattern) {
                None => return wrong(NONE),
                Some(Cow::Borrowed(_)) => return Ok(()),
                Some(Cow::Owned(pattern)) => Tree::text_of(&pattern),
            },
        };
        *value = instead;
        self.changed = true;
        Ok(())
    }

    fn schemas(&mut self, value: &mut Tree<'_>) -> Result<Fate, SchemaFault> {
        let Tree::Array(schemas) = value else { return wrong("is not a list of schemas") };
        for (at, schema) in schemas.iter_mut().enumerate() {
            self.schema(schema, false).map_err(|wrong| wrong.below(&at.to_string()))?;
        }
        // An empty list of schemas always holds.
        if schemas.is_empty() { Ok(Fate::Goes) } else { Ok(Fate::Stays) }
    }

    fn map<'a>(
        &mut self,
        value: &mut Tree<'a>,
        mut one: impl FnMut(&mut Self, &mut Tree<'a>) -> Result<(), SchemaFault>,
    ) -> Result<Fate, SchemaFault> {
        match value {
            Tree::Object(members) => {
                for (name, value) in members {
                    one(self, value).map_err(|wrong| wrong.below(name))?;
                }
                Ok(Fate::Stays)
            }
            // PHP writes this for an empty object.
            Tree::Array(items) if items.is_empty() => {
                *value = Tree::Object(Vec::new());
                self.changed = true;
                Ok(Fate::Stays)
            }
            _ => wrong("is not an object"),
        }
    }

    fn pattern_map(&mut self, value: &mut Tree<'_>) -> Result<Fate, SchemaFault> {
        const NONE: &str = "has a name that is not a regular expression that clients can compile (ECMAScript)";
        const TWICE: &str = "has a name twice";
        let fate = self.map(value, |mender, schema| mender.schema(schema, true))?;
        let Tree::Object(members) = value else { return Ok(fate) };
        for (name, _) in members.iter_mut() {
            let instead = match ecma::translated(name) {
                None => return wrong(NONE),
                Some(Cow::Borrowed(_)) => continue,
                Some(Cow::Owned(instead)) => instead,
            };
            *name = instead.into();
            self.changed = true;
        }
        let mut seen = HashSet::new();
        if members.iter().all(|(name, _)| seen.insert(name)) { Ok(fate) } else { wrong(TWICE) }
    }

    fn dialect(&mut self, value: &mut Tree<'_>) -> Fate {
        let named = value.text().unwrap_or_default().into_owned();
        let is_old = is_one_of(&named, &OLD_DIALECTS);
        if is_old {
            *value = Tree::text_of(DIALECT);
            self.changed = true;
        }
        if is_old || is_one_of(&named, &KNOWN_DIALECTS) { Fate::Stays } else { Fate::Goes }
    }
}

/// Until draft-04 a flag told whether the limit itself is excluded; since then the keyword is a limit itself.
fn make_limit_a_number(members: &mut SchemaMembers<'_>, limit: &str, exclusive: &str) {
    let place = |members: &SchemaMembers<'_>, wanted: &str| members.iter().position(|(key, _)| key == wanted);
    let Some(flag) = place(members, exclusive).filter(|at| members[*at].1.is_flag()) else { return };
    let excluded = members.remove(flag).1.is("true");
    if let Some(at) = place(members, limit).filter(|_| excluded) {
        members[at].0 = exclusive.to_owned().into();
    }
}

/// A list of schemas by position is `prefixItems` since 2020-12, the dialect of schemas that name none; what may follow it
/// is `items`. Returns whether there was one.
fn name_positions(members: &mut SchemaMembers<'_>) -> bool {
    let place = |wanted: &str| members.iter().position(|(key, _)| key == wanted);
    let Some(items) = place("items").filter(|at| matches!(members[*at].1, Tree::Array(_))) else { return false };
    if place("prefixItems").is_some() {
        return false;
    }
    let rest = place("additionalItems");
    members[items].0 = "prefixItems".into();
    if let Some(rest) = rest {
        members[rest].0 = "items".into();
    }
    true
}

fn is_older(dialect: &Tree<'_>) -> bool {
    let named = dialect.text().unwrap_or_default().into_owned();
    is_one_of(&named, &OLD_DIALECTS) || is_one_of(&named, &KNOWN_DIALECTS[..2])
}

/// Whether a dialect is one of these, with either scheme.
fn is_one_of(named: &str, dialects: &[&str]) -> bool {
    let rest = named.strip_prefix("https:").or_else(|| named.strip_prefix("http:"));
    rest.is_some_and(|rest| dialects.contains(&rest.trim_end_matches('#')))
}

fn types_of<'t>(types: &'t Tree<'_>) -> impl Iterator<Item = Cow<'t, str>> {
    let all = match types {
        Tree::Array(all) => all.as_slice(),
        one => std::slice::from_ref(one),
    };
    all.iter().map(|kind| if kind.is("null") { "null".into() } else { kind.text().unwrap_or_default() })
}

fn is_number(value: &Tree<'_>) -> bool {
    value.scalar().is_some_and(|text| text.starts_with(|first: char| first == '-' || first.is_ascii_digit()))
}

fn number(value: &Tree<'_>) -> Option<f64> {
    value.scalar().filter(|_| is_number(value))?.parse().ok()
}
