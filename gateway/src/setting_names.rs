//! What settings are called where this process runs: by the chart's values in a pod of the chart, by variables elsewhere.
//!
//! Messages say what to do, and who reads them changes values there and variables here.

use std::sync::LazyLock;

/// A setting that messages about servers and callers name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Setting {
    /// Addresses that servers may have all the same.
    AllowedAddresses,
    /// Addresses that they may not have.
    BlockedAddresses,
    /// Where credentials are read.
    Credentials,
    /// Origins whose pages may use the gateway.
    AllowedOrigins,
    /// Names that the gateway goes by.
    AllowedHosts,
}

/// The chart gives the gateway its servers in ConfigMaps, by the variable of that name.
static OF_CHART: LazyLock<bool> =
    LazyLock::new(|| std::env::var_os("CONFIGMAPS").is_some_and(|names| !names.is_empty()));

impl Setting {
    /// What it is called here.
    pub fn name(self) -> &'static str {
        self.name_in(*OF_CHART)
    }

    fn name_in(self, chart: bool) -> &'static str {
        let (value, variable) = match self {
            Self::AllowedAddresses => ("egress.allowedAddresses of the chart", "ALLOWED_ADDRESSES"),
            Self::BlockedAddresses => ("egress.blockedAddresses of the chart", "BLOCKED_ADDRESSES"),
            Self::Credentials => ("credentials.namespaces of the chart", "CREDENTIAL_NAMESPACES"),
            Self::AllowedOrigins => ("allowedOrigins of the chart", "ALLOWED_ORIGINS"),
            Self::AllowedHosts => ("allowedHosts of the chart", "ALLOWED_HOSTS"),
        };
        if chart { value } else { variable }
    }
}

/// How Secrets are given to a process that has none.
pub fn way_to_secrets() -> &'static str {
    way_to_secrets_in(*OF_CHART)
}

fn way_to_secrets_in(chart: bool) -> &'static str {
    if chart {
        "the gateway reads no credentials: add the namespace of the McpServer to credentials.namespaces of the chart"
    } else {
        "there is no folder of Secrets: give one with --secrets"
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
            Setting::AllowedOrigins,
            Setting::AllowedHosts,
        ] {
            assert!(setting.name_in(true).ends_with(" of the chart"), "{setting:?}");
            assert!(setting.name_in(false).bytes().all(|b| b.is_ascii_uppercase() || b == b'_'), "{setting:?}");
        }
        assert!(!way_to_secrets_in(true).contains("--") && way_to_secrets_in(false).contains("--secrets"));
    }
}
