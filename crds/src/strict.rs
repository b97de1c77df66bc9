//! Reads JSON as strictly as the API server: a member that this version does not know is refused.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Reads a value that must have no members that are unknown here: a member that restricts, and that only a newer version
/// knows, must not be passed over.
pub(crate) fn strict<T: DeserializeOwned + Serialize>(value: &Value) -> Result<T, String> {
    let read = T::deserialize(value).map_err(|problem| problem.to_string())?;
    let written = serde_json::to_value(&read).map_err(|problem| problem.to_string())?;
    match unknown_member(value, &written) {
        Some(member) => Err(format!("member {member:?} is unknown to this version: remove it, or update")),
        None => Ok(read),
    }
}

/// A member of `value` that `written` lacks and that says something.
fn unknown_member(value: &Value, written: &Value) -> Option<String> {
    match (value, written) {
        (Value::Object(members), Value::Object(kept)) => members.iter().find_map(|(name, member)| {
            let says_nothing = member.is_null()
                || member.as_array().is_some_and(Vec::is_empty)
                || member.as_object().is_some_and(serde_json::Map::is_empty);
            match kept.get(name) {
                None if says_nothing => None,
                None => Some(name.clone()),
                Some(kept) => unknown_member(member, kept),
            }
        }),
        (Value::Array(items), Value::Array(kept)) => {
            items.iter().zip(kept).find_map(|(item, kept)| unknown_member(item, kept))
        }
        _ => None,
    }
}
