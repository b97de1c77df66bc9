//! Finds references of a schema that clients cannot resolve: they know only this document, and fetch nothing.

use std::borrow::Cow;

use super::SchemaFault;
use super::keyword::{Form, form_of};
use portcullis_mcp::protocol::json::tree::Tree;

/// The limit for the steps of all references of a schema together.
const MOST_STEPS: usize = 1_000_000;

/// The limit for reported places.
const MOST_FOUND: usize = 512;

/// The limit for references to references.
const LONGEST_CHAIN: usize = 32;

/// Keywords whose values are data, without references.
const DATA: [&str; 4] = ["const", "enum", "default", "examples"];

/// Identifiers, which are removed if they are keywords; compilers also find them elsewhere.
const IDENTIFIERS: [&str; 3] = ["$id", "$anchor", "$dynamicAnchor"];

const NOWHERE: &str = "refers to something that is not in the schema";
const NAMED: &str = "looks to clients like the identifier of a schema";

/// Each place with an unresolvable reference. `own_id` is the prefix of references to the schema itself; `None` if they
/// are relative to places within it.
pub(super) fn wrong(root: &Tree<'_>, own_id: Option<&str>) -> Vec<SchemaFault> {
    let mut search = Search { root, own_id, steps: MOST_STEPS, path: Vec::new(), found: Vec::new() };
    search.look(root);
    search.found
}

struct Search<'t, 'a> {
    root: &'t Tree<'a>,
    own_id: Option<&'t str>,
    steps: usize,
    path: Vec<&'t str>,
    found: Vec<SchemaFault>,
}

/// The kind of a value in a schema.
#[derive(Clone, Copy)]
enum Place {
    Schema,
    /// The value of a keyword of this form.
    Of(Form),
}

impl<'t> Search<'t, '_> {
    fn look(&mut self, tree: &'t Tree<'_>) {
        match tree {
            Tree::Object(members) => {
                for (key, value) in members.iter().filter(|(key, _)| !DATA.contains(&&**key)) {
                    self.path.push(key);
                    if key == "$ref" && value.is_text() && !self.is_good(value) {
                        self.note(NOWHERE);
                    } else if IDENTIFIERS.contains(&&**key) && value.is_text() {
                        self.note(NAMED);
                    } else {
                        self.look(value);
                    }
                    self.path.pop();
                }
            }
            Tree::Array(items) => items.iter().for_each(|item| self.look(item)),
            Tree::Scalar(_) => {}
        }
    }

    /// Of several problems in one place the first is reported: the place is removed as a whole.
    fn note(&mut self, why: &'static str) {
        let path: Vec<String> = self.path.iter().map(|key| key.chars().take(64).collect()).collect();
        let place = |path: &[String]| (path.first().cloned(), path.get(1).cloned());
        if self.found.len() < MOST_FOUND && self.found.last().is_none_or(|last| place(&last.path) != place(&path)) {
            self.found.push(SchemaFault { path, why });
        }
    }

    /// Whether a reference leads to a schema, in any number of steps.
    fn is_good(&mut self, reference: &Tree<'_>) -> bool {
        let mut reference = reference.text().map(Cow::into_owned);
        for _ in 0..LONGEST_CHAIN {
            let Some(target) = reference.and_then(|reference| self.target(&reference)) else { return false };
            match target.get("$ref") {
                Some(next) => reference = next.text().map(Cow::into_owned),
                None => return true,
            }
        }
        false
    }

    /// The schema at the end of a reference.
    fn target(&mut self, reference: &str) -> Option<&'t Tree<'t>> {
        let (document, pointer) = reference.split_once('#').unwrap_or((reference, ""));
        self.own_id.filter(|id| document.is_empty() || document == *id)?;
        let pointer = percent_decoded(pointer)?;
        let mut at = (self.root, Place::Schema);
        if !pointer.is_empty() {
            for step in pointer.strip_prefix('/')?.split('/') {
                at = self.step(at, &step.replace("~1", "/").replace("~0", "~"))?;
            }
        }
        match at {
            (tree @ Tree::Object(_), Place::Schema) => Some(tree),
            (tree, Place::Schema | Place::Of(Form::SchemaOrFlag)) if tree.is_flag() => Some(tree),
            _ => None,
        }
    }

    fn step(&mut self, (tree, place): (&'t Tree<'t>, Place), step: &str) -> Option<(&'t Tree<'t>, Place)> {
        let cost = match tree {
            Tree::Object(members) => members.len(),
            Tree::Array(_) | Tree::Scalar(_) => 1,
        };
        self.steps = self.steps.checked_sub(cost)?;
        match (tree, place) {
            (Tree::Object(_), Place::Schema) => {
                let value = tree.get(step)?;
                let place = match (form_of(step)?, value) {
                    (Form::Schema | Form::SchemaOrFlag | Form::Items, Tree::Object(_)) => Place::Schema,
                    (form, _) => Place::Of(form),
                };
                Some((value, place))
            }
            // Compilers read a schema named `$id` as the identifier of its parent.
            (Tree::Object(_), Place::Of(Form::Map | Form::PatternMap | Form::Dependencies)) => {
                tree.get(step).filter(|_| tree.get("$id").is_none()).map(|schema| (schema, Place::Schema))
            }
            (Tree::Array(items), Place::Of(Form::Schemas | Form::Items)) => {
                Some((items.get(step.parse::<usize>().ok()?)?, Place::Schema))
            }
            _ => None,
        }
    }
}

/// A fragment of a URI, decoded.
fn percent_decoded(text: &str) -> Option<String> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(decoded).ok()
}
