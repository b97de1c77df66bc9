//! Rewrites schemas for strict clients: some compile every schema of a list, and refuse the whole list for one.
//!
//! Pure. A part with an equivalent form that they accept gets that form; any other is removed, and reported with its
//! path. Schemas are untrusted: they are traversed once, within limits of depth, size and work.

mod ecma;
mod keyword;
mod refs;

use std::borrow::Cow;
use std::fmt;

use self::keyword::{Form, Mender};
use portcullis_mcp::protocol::json::tree::Tree;

/// The limit for values in one schema; no model can use a larger one.
const MOST_VALUES: usize = 20_000;

/// The limit for rounds of removing references to removed parts; after it, the schema is rejected.
const MOST_ROUNDS: usize = 4;

/// A part that clients would refuse, and the reason.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SchemaFault {
    /// Names of members and indices of items, the outermost first.
    pub(crate) path: Vec<String>,
    /// The reason, as the rest of a sentence.
    pub(crate) why: &'static str,
}

/// The listed form of a schema of arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mended<'a> {
    /// The schema.
    pub(crate) text: Cow<'a, str>,
    /// The removed parts.
    pub(crate) without: Vec<SchemaFault>,
}

/// A schema of results, which is listed whole or not at all.
///
/// # Errors
/// The part that clients would refuse.
pub(crate) fn of_results(text: &str) -> Result<Cow<'_, str>, SchemaFault> {
    let mut tree = read(text)?;
    let mut mender = Mender::default();
    make_one_of_objects(&mut tree, &mut mender);
    mender.whole(&mut tree)?;
    match refs::wrong(&tree, mender.own_id()).into_iter().next() {
        Some(wrong) => Err(wrong),
        None => Ok(written(text, &tree, &mender)),
    }
}

/// A schema of arguments: parts that clients would refuse are removed, so that the tool stays callable.
///
/// # Errors
/// The schema is not one of objects, exceeds a limit, or keeps unresolvable references.
pub(crate) fn of_arguments(text: &str) -> Result<Mended<'_>, SchemaFault> {
    let mut tree = read(text)?;
    let mut mender = Mender::default();
    make_one_of_objects(&mut tree, &mut mender);
    let mut without = mender.place_by_place(&mut tree)?;
    for _ in 0..MOST_ROUNDS {
        let wrong = refs::wrong(&tree, mender.own_id());
        if wrong.is_empty() {
            return Ok(Mended { text: written(text, &tree, &mender), without });
        }
        for wrong in wrong {
            leave_out(&mut tree, &wrong.path);
            mender.changed = true;
            without.push(wrong);
        }
    }
    Err(SchemaFault { path: Vec::new(), why: "has references that do not resolve" })
}

fn read(text: &str) -> Result<Tree<'_>, SchemaFault> {
    let wrong = |why| SchemaFault { path: Vec::new(), why };
    let tree = Tree::read(text, MOST_VALUES).ok_or_else(|| wrong("is too large, too deep or not valid JSON"))?;
    match tree {
        Tree::Object(_) => Ok(tree),
        Tree::Array(_) | Tree::Scalar(_) => Err(wrong("is not an object")),
    }
}

/// The type of the root must be one word, because clients check for that.
fn make_one_of_objects(tree: &mut Tree<'_>, mender: &mut Mender) {
    let Tree::Object(members) = tree else { return };
    if let Some((_, kind)) = members.iter_mut().find(|(key, _)| key == "type")
        && matches!(kind, Tree::Array(kinds) if matches!(&kinds[..], [only] if only.text().as_deref() == Some("object")))
    {
        *kind = Tree::text_of("object");
        mender.changed = true;
    }
}

fn written<'a>(text: &'a str, tree: &Tree<'_>, mender: &Mender) -> Cow<'a, str> {
    if !mender.changed {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 16);
    tree.write(&mut out);
    Cow::Owned(out)
}

/// Removes the part at this path: a named schema becomes one of anything, any other part disappears.
fn leave_out(root: &mut Tree<'_>, path: &[String]) {
    let Tree::Object(members) = root else { return };
    let Some(first) = path.first() else { return };
    let Some(at) = members.iter().position(|(key, _)| key == first) else { return };
    let named = keyword::form_of(first) == Some(Form::Map);
    match (named, path.get(1), &mut members[at].1) {
        (true, Some(name), Tree::Object(schemas)) => {
            schemas.iter_mut().filter(|(key, _)| key == name).for_each(|(_, schema)| *schema = anything(schema));
        }
        _ => drop(members.remove(at)),
    }
}

/// A schema of anything, with the descriptions of the original.
fn anything<'a>(schema: &Tree<'a>) -> Tree<'a> {
    let description = schema.get("description").filter(|description| description.is_text());
    Tree::Object(description.into_iter().map(|text| ("description".into(), text.clone())).collect())
}

impl SchemaFault {
    /// The same, as seen from the parent.
    #[must_use]
    pub(crate) fn below(mut self, key: &str) -> Self {
        self.path.insert(0, key.chars().take(64).collect());
        self
    }
}

impl fmt::Display for SchemaFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.join(".");
        let path: String = path.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
        write!(f, "{path} {}", self.why)
    }
}

#[cfg(test)]
mod tests;
