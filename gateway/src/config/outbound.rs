//! The settings by which servers learn who calls.

use std::path::PathBuf;

use portcullis_crds::rules::is_dns_label;
use portcullis_runtime::settings::{path, text};
use url::Url;

use super::mcp::absolute;
use super::{Options, Problem};
use crate::outbound::TokenUrls;

/// How servers are shown who calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct OutboundConfig {
    /// The file with the keys that sign assertions, if there is one.
    pub(crate) assertion_keys: Option<PathBuf>,
    /// `iss` of assertions, without a slash at the end.
    pub(crate) issuer: Option<String>,
    /// Token endpoints to which the gateway sends tokens.
    pub(crate) token_urls: TokenUrls,
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
        OutboundConfig { assertion_keys, issuer, token_urls: self.token_urls(problems) }
    }
    fn token_urls(&self, problems: &mut Vec<Problem>) -> TokenUrls {
        let Some(given) = text(&self.token_urls) else { return TokenUrls::new() };
        let Ok(urls) = serde_json::from_str::<TokenUrls>(given) else {
            problems.push(r#"TOKEN_URLS is not JSON of the form {"NAMESPACE": ["URL"]}: write it so"#.into());
            return TokenUrls::new();
        };
        for namespace in urls.keys().filter(|namespace| *namespace != "*" && !is_dns_label(namespace)) {
            problems.push(format!("TOKEN_URLS holds {namespace:?}: it is neither the name of a namespace nor *"));
        }
        let is_good = |url: &String| Url::parse(url).is_ok_and(|url| matches!(url.scheme(), "https" | "http"));
        if !urls.values().flatten().all(is_good) {
            problems.push("TOKEN_URLS holds something else than http and https URLs: correct it".into());
        }
        // In the spelling in which they are compared.
        let plain = |url: String| Url::parse(&url).map_or(url, |url| url.into());
        urls.into_iter().map(|(namespace, urls)| (namespace, urls.into_iter().map(plain).collect())).collect()
    }
}
