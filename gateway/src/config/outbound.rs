//! The settings by which servers learn who calls.

use std::path::PathBuf;

use portcullis_runtime::settings::{path, text};

use super::mcp::absolute;
use super::{Options, Problem};

/// How servers are shown who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutboundConfig {
    /// The file with the keys that sign assertions, if there is one.
    pub(crate) assertion_keys: Option<PathBuf>,
    /// `iss` of assertions, without a slash at the end.
    pub(crate) issuer: Option<String>,
}

impl Options {
    /// Checks these settings.
    pub(crate) fn outbound(&self, problems: &mut Vec<Problem>) -> OutboundConfig {
        let issuer = text(&self.assertion_issuer).inspect(|given| {
            if absolute(given).is_none() {
                let must = "must be an http or https URL without user name, query and fragment";
                problems.push(format!("ASSERTION_ISSUER {must}"));
            }
        });
        let issuer = issuer.or_else(|| text(&self.public_url)).map(|url| url.trim_end_matches('/').to_owned());
        let assertion_keys = path(&self.assertion_keys);
        if assertion_keys.is_some() && issuer.is_none() {
            problems
                .push("ASSERTION_KEYS_FILE is set without an issuer: set ASSERTION_ISSUER or PUBLIC_URL too".into());
        }
        OutboundConfig { assertion_keys, issuer }
    }
}
