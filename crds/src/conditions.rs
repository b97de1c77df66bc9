//! Types of conditions, and every reason with the condition that it explains.
//!
//! Reasons are API: people and scripts wait for them, so reasons are added, and never changed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A type of condition. All are good when `True`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The object is valid.
    Accepted,
    /// All references were found and may be used.
    ResolvedRefs,
    /// Every gateway replica has applied this generation.
    Programmed,
    /// Every gateway replica has made the MCP handshake and listed the tools: they can be called.
    Ready,
    /// The server shares its tools with its pool. Only where `spec.pool` is set; the tools can be called either way.
    Pooled,
}

impl ConditionType {
    /// All of them, in the order in which they come true.
    pub const ALL: [Self; 5] = [Self::Accepted, Self::ResolvedRefs, Self::Programmed, Self::Ready, Self::Pooled];

    /// The word in `status.conditions[].type`.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "Accepted",
            Self::ResolvedRefs => "ResolvedRefs",
            Self::Programmed => "Programmed",
            Self::Ready => "Ready",
            Self::Pooled => "Pooled",
        }
    }
}

/// Declares every reason once: its word, the condition it belongs to, and what to do about it.
macro_rules! reasons {
    ($($(#[doc = $meaning:literal])+ $name:ident => $condition:ident, $cure:literal;)+) => {
        /// Why a condition is as it is.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        pub enum Reason {
            $($(#[doc = $meaning])+ $name,)+
            /// A word that only a newer version knows.
            #[serde(other)]
            Other,
        }

        impl Reason {
            /// All that this version says, in the order of the reference.
            pub const ALL: &[Self] = &[$(Self::$name,)+];

            /// The word in `status.conditions[].reason`.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => stringify!($name),)+
                    Self::Other => "Other",
                }
            }

            /// The condition that it explains.
            pub const fn condition(self) -> ConditionType {
                match self {
                    $(Self::$name => ConditionType::$condition,)+
                    Self::Other => ConditionType::Ready,
                }
            }

            /// Its meaning, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($meaning),+),)+
                    Self::Other => "",
                }
            }

            /// The remedy; empty where there is nothing to do.
            pub const fn cure(self) -> &'static str {
                match self {
                    $(Self::$name => $cure,)+
                    Self::Other => "",
                }
            }
        }
    };
}

reasons! {
    /// The object is valid.
    Accepted => Accepted, "";
    /// The object is valid, but the gateway does not verify the server's certificate: anyone on the network path can read and change calls.
    InsecureSkipVerify => Accepted, "Name the certificate authority in tls.caRef, and remove tls.insecureSkipVerify.";
    /// A field has an invalid value; the message names it.
    Invalid => Accepted, "Correct the field that the message names.";
    /// The object takes more than 64 KiB, the limit for one server.
    TooLarge => Accepted, "Shorten or remove the largest parts: descriptions in tools.overrides, values of headers.";
    /// The operator does not serve this namespace.
    NamespaceNotSelected => Accepted, "Give the namespace the labels that watch.namespaceSelector of the chart asks for.";
    /// The namespace has more McpViews than 256, and the oldest are served.
    TooMany => Accepted, "Remove McpViews of the namespace that nobody uses.";
    /// Two manifests declare the same namespace and name.
    Duplicate => Accepted, "Keep one of them.";

    /// All references were found.
    ResolvedRefs => ResolvedRefs, "";
    /// `spec.service` names a Service that does not exist.
    ServiceNotFound => ResolvedRefs, "Create the Service in the same namespace, or correct its name.";
    /// The Service has no such port, or the pods' port behind it cannot be resolved.
    PortNotFound => ResolvedRefs, "Use a port that the message lists; give a headless Service a number as targetPort.";
    /// The Service is of type ExternalName, an alias for a host outside the cluster.
    ServiceExternal => ResolvedRefs, "Set spec.url to the URL at that host instead of spec.service.";
    /// A Secret does not exist.
    SecretNotFound => ResolvedRefs, "Create the Secret in the namespace of the McpServer.";
    /// The Secret, or the ConfigMap, has no such key.
    SecretKeyMissing => ResolvedRefs, "Add the key, or correct its name.";
    /// The Secret exists, but lacks the label that lets the gateway read it.
    SecretNotLabelled => ResolvedRefs, "Label it: kubectl label secret NAME portcullis.dev/credentials=true";
    /// The Secret may not be sent to the origin of the server's URL.
    OriginMismatch => ResolvedRefs, "Set its annotation portcullis.dev/origin to the origin, such as https://mcp.example.com";
    /// The Secret's value is not valid for its use.
    SecretInvalid => ResolvedRefs, "Put one line of visible characters, or a PEM pair, into the key.";
    /// The gateway may not read Secrets of this namespace.
    NamespaceNotAllowed => ResolvedRefs, "Add the namespace to credentials.namespaces of the chart.";
    /// The ConfigMap or Secret of `tls.caRef` does not exist.
    CaNotFound => ResolvedRefs, "Create it in the namespace of the McpServer, with the label portcullis.dev/credentials=true.";
    /// `tls.caRef` contains no certificate.
    CaInvalid => ResolvedRefs, "Put PEM certificates into the key.";
    /// The gateway must not have a token for this audience sent to this server.
    AudienceNotAllowed => ResolvedRefs, "Leave the audience out, or ask for identity.allowedAudiences of the chart; the message says what is wrong.";
    /// The API server refuses the gateway a token of its own service account.
    TokenRequestDenied => ResolvedRefs, "Upgrade the release with identity.serviceAccountTokens, which gives the gateway the right.";
    /// An authorization server gives the gateway no token for `spec.identity`, or none in exchange for those of callers.
    ExchangeFailed => ResolvedRefs, "Do what the message says; the gateway tries again by itself.";
    /// The gateway must not send tokens to the token endpoint of `spec.identity`.
    TokenUrlNotAllowed => ResolvedRefs, "Correct tokenUrl, or ask for identity.tokenUrls of the chart.";
    /// The gateway cannot get what `spec.identity` asks for.
    IdentityUnavailable => ResolvedRefs, "Do what the message says; the gateway tries again by itself.";

    /// Every gateway replica has applied this generation.
    Programmed => Programmed, "";
    /// Some gateway replica has not applied this generation yet.
    Pending => Programmed, "Wait a second; if the condition stays, check the log of the gateway.";
    /// No gateway replica is ready.
    NoGateway => Programmed, "Check the pods of the gateway.";
    /// A gateway replica does not answer the operator.
    GatewayUnreachable => Programmed, "Check the pods of the gateway, and the NetworkPolicies for their admin port.";
    /// The ConfigMap has no room for the object, because its namespace exceeds its share; no gateway serves it.
    SnapshotTooLarge => Programmed, "Shorten or remove servers and views of this namespace: the youngest and largest are left out first. Or raise snapshot.slots of the chart.";
    /// The installation that served the object was uninstalled, or no longer watches this namespace.
    NotServed => Programmed, "Install it again, or add the namespace to watch.namespaces of the chart.";
    /// The gateway does not get the object, because of another condition.
    NotAccepted => Programmed, "See the other conditions.";

    /// The tools can be called.
    Ready => Ready, "";
    /// The gateway is connecting for the first time.
    Probing => Ready, "Wait a few seconds.";
    /// The gateway cannot connect, or the connection breaks.
    BackendUnreachable => Ready, "Check the URL, the port, and whether the server runs.";
    /// The server refuses the gateway's credentials.
    Unauthorized => Ready, "Check spec.headers and the Secret behind it.";
    /// The server does not speak MCP at this URL.
    HandshakeFailed => Ready, "Check the URL and spec.transport.";
    /// The server is the gateway itself, or a gateway that leads back to it.
    Loop => Ready, "Point url or service at the server itself, not at the gateway.";
    /// The session is open, but the tools cannot be listed.
    ListFailed => Ready, "Check the log of the server.";
    /// The address of the server is one that the gateway must not connect to.
    BlockedAddress => Ready, "Use another address, or allow it with egress.allowedAddresses of the chart.";
    /// The server fails its health checks.
    Unhealthy => Ready, "Check the log of the server.";
    /// `spec.state` is `Disabled`.
    Disabled => Ready, "";
    /// `spec.state` is `Draining`.
    Draining => Ready, "";
    /// A reference is not usable, so the gateway does not contact the server.
    RefsNotResolved => Ready, "See the condition ResolvedRefs.";
    /// Some gateway replicas have not applied this generation yet.
    NotProgrammed => Ready, "See the condition Programmed.";

    /// The server and its pool agree on the tools that they share.
    Pooled => Pooled, "";
    /// An older server of the pool has tools of the same names with other input schemas; the message names them. These
    /// tools get names of their own, as if there were no pool.
    PoolMismatch => Pooled, "Give the servers the same version, rename the tools with spec.tools.overrides, or take one out of the pool.";
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_of_a_newer_version_is_understood_as_other() {
        assert_eq!(serde_json::from_str::<Reason>("\"Sunspots\"").unwrap(), Reason::Other);
        assert_eq!(serde_json::from_str::<Reason>("\"OriginMismatch\"").unwrap(), Reason::OriginMismatch);
    }

    #[test]
    fn every_reason_says_what_it_means_and_every_condition_has_a_good_one() {
        for reason in Reason::ALL {
            assert!(reason.meaning().trim_start().ends_with('.'), "{reason}");
            assert_eq!(serde_json::to_string(reason).unwrap(), format!("\"{reason}\""));
        }
        for condition in ConditionType::ALL {
            assert!(Reason::ALL.iter().any(|reason| reason.as_str() == condition.as_str()), "{condition:?}");
        }
    }
}
