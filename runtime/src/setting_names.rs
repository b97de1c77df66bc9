//! The names of settings where this process runs: values of the chart in a pod of the chart, variables elsewhere.
//!
//! Messages say what to do, and their readers change values there and variables here.

use std::sync::LazyLock;

/// A setting that messages about servers and callers name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Addresses that servers may have despite other rules.
    AllowedAddresses,
    /// Addresses that servers must not have.
    BlockedAddresses,
    /// The source of credentials.
    Credentials,
    /// Audiences of tokens for servers.
    AllowedAudiences,
    /// Origins whose pages may use the gateway.
    AllowedOrigins,
    /// Host names of the gateway.
    AllowedHosts,
    /// Token endpoints to which the gateway sends tokens.
    TokenUrls,
    /// The keys that sign assertions.
    AssertionKeys,
    /// The issuer of assertions.
    AssertionIssuer,
}

/// The chart passes the servers to the gateway in ConfigMaps, through the variable of that name.
static OF_CHART: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("CONFIGMAPS").is_some_and(|names| !names.is_empty()));

impl Setting {
    /// The name of the setting here.
    pub fn name(self) -> &'static str {
        self.name_in(*OF_CHART)
    }

    fn name_in(self, chart: bool) -> &'static str {
        let (value, variable) = match self {
            Self::AllowedAddresses => ("egress.allowedAddresses of the chart", "ALLOWED_ADDRESSES"),
            Self::BlockedAddresses => ("egress.blockedAddresses of the chart", "BLOCKED_ADDRESSES"),
            Self::Credentials => ("credentials.namespaces of the chart", "CREDENTIAL_NAMESPACES"),
            Self::AllowedAudiences => ("identity.allowedAudiences of the chart", "ALLOWED_AUDIENCES"),
            Self::AllowedOrigins => ("allowedOrigins of the chart", "ALLOWED_ORIGINS"),
            Self::AllowedHosts => ("allowedHosts of the chart", "ALLOWED_HOSTS"),
            Self::TokenUrls => ("identity.tokenUrls of the chart", "TOKEN_URLS"),
            Self::AssertionKeys => ("identity.assertionKeys of the chart", "ASSERTION_KEYS_FILE"),
            Self::AssertionIssuer => ("identity.issuer of the chart", "ASSERTION_ISSUER"),
        };
        if chart { value } else { variable }
    }
}

/// How to give Secrets to a process that has none.
pub fn way_to_secrets() -> &'static str {
    way_to_secrets_in(*OF_CHART)
}

fn way_to_secrets_in(chart: bool) -> &'static str {
    if chart {
        "the gateway reads no credentials: add the namespace of the McpServer to credentials.namespaces of the chart"
    } else {
        "no folder of Secrets is configured: give one with --secrets"
    }
}

/// How to give tokens of its own to a process that requests none.
pub fn way_to_tokens() -> &'static str {
    way_to_tokens_in(*OF_CHART)
}

fn way_to_tokens_in(chart: bool) -> &'static str {
    if chart {
        "identity.serviceAccountTokens of the chart is false: set it to true"
    } else {
        "IDENTITY_SERVICE_ACCOUNT is not set: set it to NAMESPACE/NAME of its service account in a cluster"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_named_in_the_chart_and_variables_elsewhere() {
        for setting in [
            Setting::AllowedAddresses,
            Setting::BlockedAddresses,
            Setting::Credentials,
            Setting::AllowedAudiences,
            Setting::AllowedOrigins,
            Setting::AllowedHosts,
            Setting::TokenUrls,
            Setting::AssertionKeys,
            Setting::AssertionIssuer,
        ] {
            assert!(setting.name_in(true).ends_with(" of the chart"), "{setting:?}");
            assert!(setting.name_in(false).bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{setting:?}");
        }
        assert!(way_to_tokens_in(true).contains("of the chart") && !way_to_tokens_in(false).contains("chart"));
        assert!(!way_to_secrets_in(true).contains("--") && way_to_secrets_in(false).contains("--secrets"));
    }
}
