//! The public keys of the cluster's service accounts, which the operator keeps beside the slots: a gateway that starts
//! while the API server is away checks tokens with its mounted copy.
//!
//! Pure. Keys are public, but a writer of this text can forge tokens for a gateway that starts in such a moment.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

/// The version of the text form that this build writes and reads.
pub const VERSION: u32 = 1;

/// Largest text, in bytes: an issuer publishes a few keys of some hundred bytes each.
pub const MAX_BYTES: usize = 256 * 1024;

/// Keys older than this are not used: a revoked key must not count forever.
const MAX_AGE_SECONDS: i64 = 24 * 3600;

/// Largest lead of the operator's clock.
const MAX_AHEAD_SECONDS: i64 = 300;

/// The keys that an API server has published.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct KeptKeys {
    /// [`VERSION`] of its writer.
    pub version: u32,
    /// When the operator fetched them, in seconds since 1970.
    pub fetched: i64,
    /// The issuer in the API server's tokens.
    pub issuer: String,
    /// The signing algorithms, if the API server publishes them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub algorithms: Option<Vec<String>>,
    /// The JSON Web Key Set, unchanged.
    pub keys: Box<RawValue>,
}

/// Why a text is refused.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum KeptKeysError {
    /// The text is not the text form.
    #[error("they cannot be read")]
    Syntax,
    /// A newer operator wrote the text.
    #[error("they have version {0} and this gateway reads up to {VERSION}")]
    Version(u32),
    /// The keys are too old.
    #[error("they were fetched more than {} hours ago", MAX_AGE_SECONDS / 3600)]
    Old,
    /// The keys are from the future.
    #[error("they were fetched in the future: correct the clocks of the nodes")]
    Future,
}

impl KeptKeys {
    /// The text form.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("kept keys hold only strings and numbers, and JSON")
    }

    /// Parses the text form, of which `now` is the time in seconds since 1970.
    ///
    /// # Errors
    /// See [`KeptKeysError`].
    pub fn parse(text: &[u8], now: i64) -> Result<Self, KeptKeysError> {
        #[derive(Deserialize)]
        struct KeptKeysHead {
            version: u32,
        }
        let head: KeptKeysHead = serde_json::from_slice(text).map_err(|_| KeptKeysError::Syntax)?;
        if head.version > VERSION {
            return Err(KeptKeysError::Version(head.version));
        }
        let kept: Self = serde_json::from_slice(text).map_err(|_| KeptKeysError::Syntax)?;
        match now.saturating_sub(kept.fetched) {
            age if age > MAX_AGE_SECONDS => Err(KeptKeysError::Old),
            age if age < -MAX_AHEAD_SECONDS => Err(KeptKeysError::Future),
            _ => Ok(kept),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_as_long_as_it_is_not_too_old() {
        let text = r#"{"version":1,"fetched":1000,"issuer":"https://a","algorithms":["RS256"],"keys":{"keys":[ ]}}"#;
        let kept = KeptKeys::parse(text.as_bytes(), 1000).unwrap();
        assert_eq!(kept.to_text(), text);
        let at = |now: i64| KeptKeys::parse(text.as_bytes(), now).map(|kept| kept.issuer);
        assert_eq!(at(1000 + MAX_AGE_SECONDS), Ok("https://a".to_owned()));
        assert_eq!(at(1000 + MAX_AGE_SECONDS + 1), Err(KeptKeysError::Old));
        assert_eq!(at(1000 - MAX_AHEAD_SECONDS), Ok("https://a".to_owned()));
        assert_eq!(at(1000 - MAX_AHEAD_SECONDS - 1), Err(KeptKeysError::Future));
        for (text, error) in [
            (r#"{"version":2}"#, KeptKeysError::Version(2)),
            ("", KeptKeysError::Syntax),
            ("[]", KeptKeysError::Syntax),
            (r#"{"version":1,"fetched":1000,"issuer":"https://a"}"#, KeptKeysError::Syntax),
        ] {
            assert_eq!(KeptKeys::parse(text.as_bytes(), 1000).map(|kept| kept.issuer), Err(error), "{text}");
        }
    }
}
