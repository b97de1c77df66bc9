//! The settings of tokens for servers.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_crds::rules::is_dns_label;
use portcullis_runtime::settings::text;

use super::{Options, Problem};
use crate::identity::ServiceAccount;

/// The longest audience, in bytes: that of the definition of McpServer.
const MAX_AUDIENCE_BYTES: usize = 512;

/// The configured part of tokens for servers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct IdentityConfig {
    /// The service account whose tokens the gateway requests; none: it requests none.
    pub(crate) account: Option<ServiceAccount>,
    /// Audiences besides the origins of servers, by namespace.
    pub(crate) allowed: BTreeMap<String, BTreeSet<String>>,
}

impl Options {
    /// Checks the settings of tokens for servers.
    pub(crate) fn identity(&self, problems: &mut Vec<Problem>) -> IdentityConfig {
        let account = text(&self.identity_service_account).and_then(|text| {
            let account = text.parse().ok();
            if account.is_none() {
                problems.push(format!(
                    "IDENTITY_SERVICE_ACCOUNT is {text:?}: it must be NAMESPACE/NAME of a service account"
                ));
            }
            account
        });
        IdentityConfig { account, allowed: self.allowed_audiences(problems) }
    }

    fn allowed_audiences(&self, problems: &mut Vec<Problem>) -> BTreeMap<String, BTreeSet<String>> {
        let Some(given) = text(&self.allowed_audiences) else { return BTreeMap::new() };
        let Ok(allowed) = serde_json::from_str::<BTreeMap<String, BTreeSet<String>>>(given) else {
            problems
                .push(r#"ALLOWED_AUDIENCES is not JSON of the form {"NAMESPACE": ["AUDIENCE"]}: write it so"#.into());
            return BTreeMap::new();
        };
        for (namespace, audiences) in &allowed {
            if !is_dns_label(namespace) {
                problems.push(format!("ALLOWED_AUDIENCES holds {namespace:?}: it is not the name of a namespace"));
            }
            let fits = |one: &String| {
                (1..=MAX_AUDIENCE_BYTES).contains(&one.len()) && one.bytes().all(|b| b.is_ascii_graphic())
            };
            if !audiences.iter().all(fits) {
                problems.push(format!(
                    "ALLOWED_AUDIENCES, namespace {namespace}: an audience is 1 to {MAX_AUDIENCE_BYTES} visible ASCII \
                     characters without spaces"
                ));
            }
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(account: &str, allowed: &str) -> Result<IdentityConfig, Vec<Problem>> {
        let options = Options {
            identity_service_account: Some(account.to_owned()),
            allowed_audiences: Some(allowed.to_owned()),
            mcp_urls: Some("http://a/".into()),
            ..Options::default()
        };
        options.check().map(|config| config.identity)
    }

    #[test]
    fn the_settings_of_tokens_are_read_and_wrong_ones_are_told() {
        let config = given("portcullis/gateway", r#"{"team-a": ["search", "https://b"], "team-b": []}"#).unwrap();
        assert_eq!(config.account.map(|account| account.to_string()).as_deref(), Some("portcullis/gateway"));
        let audiences = ["https://b", "search"].map(str::to_owned).into();
        assert_eq!(
            config.allowed,
            BTreeMap::from([("team-a".to_owned(), audiences), ("team-b".to_owned(), BTreeSet::new())])
        );
        assert_eq!(given("", "").unwrap(), IdentityConfig::default());
        for (account, allowed, expected) in [
            ("gateway", "", "IDENTITY_SERVICE_ACCOUNT"),
            ("a/..", "", "IDENTITY_SERVICE_ACCOUNT"),
            ("", "team-a=search", "ALLOWED_AUDIENCES is not JSON"),
            ("", r#"{"team-a": "search"}"#, "ALLOWED_AUDIENCES is not JSON"),
            ("", r#"{"*": ["search"]}"#, "it is not the name of a namespace"),
            ("", r#"{"a": ["b c"]}"#, "visible ASCII characters"),
        ] {
            let problems = given(account, allowed).unwrap_err();
            assert!(problems.len() == 1 && problems[0].contains(expected), "{problems:?}");
        }
    }
}
