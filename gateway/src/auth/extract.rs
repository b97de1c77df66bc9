//! Finds the one token of a request.
use std::borrow::Cow;

use portcullis_runtime::serve::Fields;

use super::AuthError;

/// The token of the Authorization header or, with `allow_query`, of the `token` parameter of the query.
///
/// # Errors
/// There is none, or more than one: the gateway never guesses which of two tokens counts.
pub(super) fn token<'a>(
    fields: &'a Fields,
    query: Option<&'a str>,
    allow_query: bool,
) -> Result<Cow<'a, str>, AuthError> {
    let mut values = fields.all("authorization");
    let header = values.next();
    if values.next().is_some() {
        return Err(AuthError::Several);
    }
    let in_query = query.filter(|_| allow_query).map(from_query).transpose()?.flatten();
    match (header, in_query) {
        (Some(_), Some(_)) => Err(AuthError::BothPlaces),
        (Some(value), None) => from_header(value).map(Cow::Borrowed),
        (None, Some(token)) if !token.is_empty() => Ok(token),
        (None, _) => Err(AuthError::Missing),
    }
}

fn from_header(value: &[u8]) -> Result<&str, AuthError> {
    let value = value.trim_ascii();
    let end = value.iter().position(|byte| is_space(*byte)).unwrap_or(value.len());
    let (scheme, token) = (&value[..end], value[end..].trim_ascii_start());
    if scheme.is_empty() {
        return Err(AuthError::Missing);
    }
    if !scheme.eq_ignore_ascii_case(b"bearer") {
        return Err(AuthError::Scheme);
    }
    if token.is_empty() {
        return Err(AuthError::Missing);
    }
    if memchr::memchr2(b' ', b'\t', token).is_some() {
        return Err(AuthError::Several);
    }
    str::from_utf8(token).map_err(|_| AuthError::Malformed)
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t')
}

fn from_query(query: &str) -> Result<Option<Cow<'_, str>>, AuthError> {
    let mut tokens = url::form_urlencoded::parse(query.as_bytes()).filter(|(name, _)| name == "token");
    let token = tokens.next().map(|(_, value)| value);
    if tokens.next().is_some() { Err(AuthError::Several) } else { Ok(token) }
}
