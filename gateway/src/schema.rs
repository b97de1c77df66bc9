//! Schemas as strict clients take them: some compile every schema of a list, and refuse the whole list for one.
//!
//! Pure. What has an equal form that they take is written in that form; what has none is left out, and told with its path.
//! Schemas are a stranger's: they are passed through once, within bounds of depth, size and work.

mod ecma;
mod keyword;
mod refs;

use std::borrow::Cow;
use std::fmt;

use self::keyword::{Form, Mender};
use crate::json::tree::Tree;

/// Values in one schema; no model gets on with a larger one.
const MOST_VALUES: usize = 20_000;

/// After so many places that were left out, nothing refers to one of them any more, or the schema is given up.
const MOST_ROUNDS: usize = 4;

/// What clients would refuse, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// Names of members and numbers of items, the outermost first.
    pub path: Vec<String>,
    /// What is wrong with it, as the rest of a sentence.
    pub why: &'static str,
}

/// A schema of arguments as it can be shown.
#[derive(Debug, PartialEq, Eq)]
pub struct Mended<'a> {
    /// The schema.
    pub text: Cow<'a, str>,
    /// What it is shown without.
    pub without: Vec<Wrong>,
}

/// A schema of results, which is shown whole or not at all.
///
/// # Errors
/// What has no form that clients take.
pub fn of_results(text: &str) -> Result<Cow<'_, str>, Wrong> {
    let mut tree = read(text)?;
    let mut mender = Mender::default();
    make_one_of_objects(&mut tree, &mut mender);
    mender.whole(&mut tree)?;
    match refs::wrong(&tree, mender.own_id()).into_iter().next() {
        Some(wrong) => Err(wrong),
        None => Ok(written(text, &tree, &mender)),
    }
}

/// A schema of arguments: what of it clients would refuse is left out, so that the tool can still be called.
///
/// # Errors
/// It is not one of objects, or endless.
pub fn of_arguments(text: &str) -> Result<Mended<'_>, Wrong> {
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
    Err(Wrong { path: Vec::new(), why: "has references that lead nowhere" })
}

fn read(text: &str) -> Result<Tree<'_>, Wrong> {
    let wrong = |why| Wrong { path: Vec::new(), why };
    let tree = Tree::read(text, MOST_VALUES).ok_or_else(|| wrong("is too large, too deep or no valid JSON"))?;
    match tree {
        Tree::Object(_) => Ok(tree),
        Tree::Array(_) | Tree::Scalar(_) => Err(wrong("is no object")),
    }
}

/// At its root the type is one word, and so are clients' checks of it.
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

/// Leaves out the place that this path is in: a schema that has a name is shown as one of anything, all else not at all.
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

/// A schema of anything, with what is said of it for people.
fn anything<'a>(schema: &Tree<'a>) -> Tree<'a> {
    let description = schema.get("description").filter(|description| description.is_text());
    Tree::Object(description.into_iter().map(|text| ("description".into(), text.clone())).collect())
}

impl Wrong {
    /// The same, seen from one level further out.
    #[must_use]
    pub fn below(mut self, key: &str) -> Self {
        self.path.insert(0, key.chars().take(64).collect());
        self
    }
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = self.path.join(".");
        let path: String = path.chars().take(200).map(|c| if c.is_control() { ' ' } else { c }).collect();
        write!(f, "{path} {}", self.why)
    }
}

#[cfg(test)]
mod tests;
