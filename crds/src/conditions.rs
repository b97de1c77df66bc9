//! The words of a status: types of conditions, and every reason with the condition it speaks of.
//!
//! Reasons are API: people and scripts wait for them, so a word is never changed, only added.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A type of condition. All are good when `True`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ConditionType {
    /// The object is valid.
    Accepted,
    /// Everything it refers to was found and may be used.
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

            /// What it means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self {
                    $(Self::$name => concat!($($meaning),+),)+
                    Self::Other => "",
                }
            }

            /// What to do about it; empty where nothing is to be done.
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
    /// The object is valid, but its server's certificate is not checked: anybody on the way can read and change calls.
    InsecureSkipVerify => Accepted, "Name the certificate authority in tls.caRef, and leave tls.insecureSkipVerify out.";
    /// A field has a value that cannot be used; the message names it.
    Invalid => Accepted, "Correct the field that the message names.";
    /// It takes more than 64 KiB, the most that one server may take.
    TooLarge => Accepted, "Shorten or drop what takes most: descriptions in tools.overrides, values of headers.";
    /// The operator does not serve this namespace.
    NamespaceNotSelected => Accepted, "Give the namespace the labels that watch.namespaceSelector of the chart asks for.";
    /// Two manifests declare the same namespace and name.
    Duplicate => Accepted, "Keep one of them.";

    /// Everything it refers to was found.
    ResolvedRefs => ResolvedRefs, "";
    /// `spec.service` names a Service that is not there.
    ServiceNotFound => ResolvedRefs, "Create the Service in the same namespace, or correct its name.";
    /// The Service has no such port, or the pods' port behind it cannot be known.
    PortNotFound => ResolvedRefs, "Use a port that the message lists; give a headless Service a number as targetPort.";
    /// The Service is of type ExternalName: another name for a host outside of the cluster.
    ServiceExternal => ResolvedRefs, "Set spec.url to the URL at that host instead of spec.service.";
    /// A Secret is not there.
    SecretNotFound => ResolvedRefs, "Create the Secret in the namespace of the McpServer.";
    /// The Secret, or the ConfigMap, has no such key.
    SecretKeyMissing => ResolvedRefs, "Add the key, or correct its name.";
    /// The Secret is there, but is not released for the gateway.
    SecretNotLabelled => ResolvedRefs, "Label it: kubectl label secret NAME portcullis.dev/credentials=true";
    /// The Secret may not be sent to the origin of the server's URL.
    OriginMismatch => ResolvedRefs, "Set its annotation portcullis.dev/origin to the origin, such as https://mcp.example.com";
    /// The Secret's value cannot be used for what it is named for.
    SecretInvalid => ResolvedRefs, "Put one line of visible characters, or a PEM pair, into the key.";
    /// The gateway reads no Secrets of this namespace.
    NamespaceNotAllowed => ResolvedRefs, "Add the namespace to credentials.namespaces of the chart.";
    /// The ConfigMap or Secret of `tls.caRef` is not there.
    CaNotFound => ResolvedRefs, "Create it in the namespace of the McpServer, with the label portcullis.dev/credentials=true.";
    /// `tls.caRef` holds no certificate.
    CaInvalid => ResolvedRefs, "Put PEM certificates into the key.";

    /// Every gateway replica has applied this generation.
    Programmed => Programmed, "";
    /// Some gateway replica has not applied this generation yet.
    Pending => Programmed, "Wait a second; if it stays, look at the log of the gateway.";
    /// No gateway replica is ready.
    NoGateway => Programmed, "Look at the pods of the gateway.";
    /// A gateway replica does not answer the operator.
    GatewayUnreachable => Programmed, "Look at the pods of the gateway, and at NetworkPolicies towards their admin port.";
    /// Its ConfigMap has no room for it, because its namespace takes more than its share there; no gateway serves it.
    SnapshotTooLarge => Programmed, "Shorten or remove servers of this namespace: the youngest and largest are left out first. Or raise snapshot.slots of the chart.";
    /// The installation that has served it was uninstalled, or does not watch this namespace any more.
    NotServed => Programmed, "Install it again, or add the namespace to watch.namespaces of the chart.";
    /// It is not given to the gateway, because of another condition.
    NotAccepted => Programmed, "See the other conditions.";

    /// The tools can be called.
    Ready => Ready, "";
    /// The gateway is trying it for the first time.
    Probing => Ready, "Wait a few seconds.";
    /// No connection can be made, or it breaks.
    BackendUnreachable => Ready, "Check the URL, the port, and whether the server runs.";
    /// The server refuses the gateway's credentials.
    Unauthorized => Ready, "Check spec.headers and the Secret behind it.";
    /// The server does not speak MCP at this URL.
    HandshakeFailed => Ready, "Check the URL and spec.transport.";
    /// The server is the gateway itself, or a gateway that leads back to it.
    Loop => Ready, "Point url or service at the server itself, not at the gateway.";
    /// The session is open, but the tools cannot be listed.
    ListFailed => Ready, "Look at the log of the server.";
    /// The address of the server is one that the gateway must not connect to.
    BlockedAddress => Ready, "Use another address, or allow it with egress.allowedAddresses of the chart.";
    /// The server fails its health checks.
    Unhealthy => Ready, "Look at the log of the server.";
    /// `spec.state` is `Disabled`.
    Disabled => Ready, "";
    /// `spec.state` is `Draining`.
    Draining => Ready, "";
    /// Something that it refers to cannot be used, so it is not contacted.
    RefsNotResolved => Ready, "See the condition ResolvedRefs.";
    /// Not every gateway replica knows this generation yet.
    NotProgrammed => Ready, "See the condition Programmed.";

    /// The server and its pool agree on the tools that they share.
    Pooled => Pooled, "";
    /// An older server of the pool has tools of the same names with other input schemas; the message names them. They go by
    /// names of their own, as if there were no pool.
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
