//! Checks a token's claims. Examines only text whose signature was checked.
use std::{
    fmt,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use serde_json::{Map, Value};

use super::{AuthError, Issuer, verify::Name};

/// The start of the year 10000. A later expiry is a mistake, such as a time in milliseconds.
const END_OF_TIME: Duration = Duration::from_secs(253_402_300_800);

/// The claims of a token, each name once.
///
/// Two parsers could take different values of a duplicate name, so it is refused.
pub(super) struct Claims(Map<String, Value>);

impl<'de> Deserialize<'de> for Claims {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ClaimsVisitor;
        impl<'de> Visitor<'de> for ClaimsVisitor {
            type Value = Claims;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Claims, A::Error> {
                let mut map = Map::new();
                while let Some((name, value)) = members.next_entry::<String, Value>()? {
                    if map.insert(name, value).is_some() {
                        return Err(A::Error::custom("a doubled name"));
                    }
                }
                Ok(Claims(map))
            }
        }
        deserializer.deserialize_map(ClaimsVisitor)
    }
}

impl Claims {
    /// Checks times, issuer, audience and scopes, and returns the expiry.
    pub(super) fn check(&self, issuer: &Issuer, name: &Name, now: SystemTime) -> Result<SystemTime, AuthError> {
        let expiry = self.check_times(issuer, now)?;
        if !name.vouches_for(self.issuer()?) {
            return Err(AuthError::Issuer);
        }
        if !issuer.audiences.is_empty() && !self.is_meant_for(&issuer.audiences) {
            return Err(AuthError::Audience);
        }
        if !issuer.scopes.iter().all(|scope| self.grants(scope)) {
            return Err(AuthError::Scope);
        }
        Ok(expiry)
    }

    fn check_times(&self, issuer: &Issuer, now: SystemTime) -> Result<SystemTime, AuthError> {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let expiry = self.time("exp").map_err(|_| AuthError::NoExp)?.ok_or(AuthError::NoExp)?;
        if expiry >= END_OF_TIME {
            return Err(AuthError::NoExp);
        }
        if now >= expiry.saturating_add(issuer.leeway) {
            return Err(AuthError::Expired);
        }
        let issued = self.time("iat")?;
        if [issued, self.time("nbf")?].into_iter().flatten().any(|start| start > now.saturating_add(issuer.leeway)) {
            return Err(AuthError::NotYetValid);
        }
        // A token without `iat`, or with one in the future, counts as issued now.
        let lifetime = expiry.saturating_sub(issued.unwrap_or(now).min(now));
        if issuer.max_lifetime.is_some_and(|bound| lifetime > bound.saturating_add(issuer.leeway)) {
            return Err(AuthError::Lifetime);
        }
        Ok(UNIX_EPOCH + expiry)
    }

    /// The issuer, if the token names one.
    pub(super) fn issuer(&self) -> Result<Option<&str>, AuthError> {
        self.text("iss").map_err(|_| AuthError::Issuer)
    }

    /// `sub`, else `user_id`, which older proxies use for the bearer, else nothing.
    pub(super) fn subject(&self) -> Result<String, AuthError> {
        let subject = self.text("sub")?.unwrap_or_default();
        if !subject.is_empty() {
            return Ok(subject.to_owned());
        }
        match self.0.get("user_id") {
            Some(Value::Number(number)) if number.is_u64() || number.is_i64() => Ok(number.to_string()),
            _ => Ok(self.text("user_id")?.unwrap_or_default().to_owned()),
        }
    }

    fn is_meant_for(&self, audiences: &[String]) -> bool {
        let ours = |one: &Value| audiences.iter().any(|audience| one == audience);
        match self.0.get("aud") {
            Some(one @ Value::String(_)) => ours(one),
            Some(Value::Array(many)) => many.iter().all(Value::is_string) && many.iter().any(ours),
            _ => false,
        }
    }

    /// Whether `scope` (RFC 9068) or `scp` (used by some issuers) contains a scope: a text of words, or a list.
    fn grants(&self, scope: &str) -> bool {
        let words = |text: &str| text.split(' ').any(|word| word == scope);
        ["scope", "scp"].iter().any(|name| match self.0.get(*name) {
            Some(Value::String(text)) => words(text),
            Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).any(|one| one == scope),
            _ => false,
        })
    }

    fn text(&self, name: &str) -> Result<Option<&str>, AuthError> {
        match self.0.get(name) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(AuthError::Malformed),
        }
    }

    /// A time in seconds since 1970, possibly fractional (RFC 7519, NumericDate).
    fn time(&self, name: &str) -> Result<Option<Duration>, AuthError> {
        let number = match self.0.get(name) {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Number(number)) => number,
            Some(_) => return Err(AuthError::Malformed),
        };
        if let Some(seconds) = number.as_u64() {
            // Capped, so that a sum with a leeway cannot overflow; the cap is far beyond any relevant time.
            return Ok(Some(Duration::from_secs(seconds).min(END_OF_TIME)));
        }
        let seconds = number.as_f64().ok_or(AuthError::Malformed)?;
        Duration::try_from_secs_f64(seconds).map(|time| Some(time.min(END_OF_TIME))).map_err(|_| AuthError::Malformed)
    }
}
