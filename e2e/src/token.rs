//! Mints bearer tokens as a client would hold them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header, encode};
use serde_json::{Value, json};

/// A secret that is long enough (32 bytes) to be accepted, and is in no other place.
pub const SECRET: &str = "only-for-tests-0123456789-abcdef";

/// An HS256 token for `subject`, signed with [`SECRET`], that expires in an hour.
pub fn mint(subject: &str) -> String {
    mint_with(SECRET.as_bytes(), &json!({ "sub": subject, "exp": after(Duration::from_secs(3600)) }))
}

/// An HS256 token with exactly these claims.
pub fn mint_with(secret: &[u8], claims: &Value) -> String {
    encode(&Header::default(), claims, &EncodingKey::from_secret(secret)).expect("HS256 signs any JSON")
}

/// Seconds since 1970, this much from now; for `exp`, `nbf` and `iat`.
pub fn after(span: Duration) -> u64 {
    since_1970() + span.as_secs()
}

/// Seconds since 1970, this much ago.
pub fn before(span: Duration) -> u64 {
    since_1970() - span.as_secs()
}

fn since_1970() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is past 1970").as_secs()
}
