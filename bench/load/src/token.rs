//! Signs tokens for `--token`.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::Mac;

/// An HS256 token with these claims.
pub fn token(secret: &str, ttl: u64, claims: &str) -> Result<String, String> {
    let mut payload: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(claims).map_err(|e| format!("--claims: {e}"))?;
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_err(|e| e.to_string())?.as_secs();
    payload.entry("sub").or_insert("bench".into());
    payload.entry("iat").or_insert(now.into());
    payload.entry("exp").or_insert((now + ttl).into());
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256","typ":"JWT"}"#),
        URL_SAFE_NO_PAD.encode(serde_json::Value::Object(payload).to_string())
    );
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(secret.as_bytes()).map_err(|e| e.to_string())?;
    mac.update(signed.as_bytes());
    Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(mac.finalize().into_bytes())))
}
