//! Decides which addresses a server may have: on resolved addresses, each time a connection is made.
//!
//! The author of an McpServer must not reach, through the gateway, what only the gateway can reach. Private addresses
//! are normal in a cluster and allowed; special addresses are refused in every notation.

mod special;

use std::collections::HashSet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use arc_swap::ArcSwap;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use thiserror::Error;
use tokio::sync::watch;

use portcullis_runtime::setting_names::Setting;

/// The configured rules.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    /// Refuse the special ranges and the API server.
    pub special: bool,
    /// Ranges that are allowed unless `blocked` contains them.
    pub allowed: Ranges,
    /// Ranges that are always refused.
    pub blocked: Ranges,
    /// The gateway's own addresses and host names.
    pub own: Vec<String>,
}

/// Ranges of addresses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<IpNet>);

/// The reason an address is refused. Each text says what to do and names no address, because users see it.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub enum AddressRefusal {
    /// 127.0.0.0/8, `::1`, and 0.0.0.0/8 and `::`, which lead there too.
    #[error("a loopback address; use another address, or allow it with {}", Setting::AllowedAddresses.name())]
    Loopback,
    /// 169.254.0.0/16, fe80::/10, fec0::/10.
    #[error("a link-local address; use another address, or allow it with {}", Setting::AllowedAddresses.name())]
    LinkLocal,
    /// The addresses at which clouds hand credentials to any client.
    #[error("the metadata service of a cloud; use another address, or allow it with {}", Setting::AllowedAddresses.name())]
    Metadata,
    /// Multicast and broadcast.
    #[error("a multicast or broadcast address; use the address of one host")]
    Multicast,
    /// Ranges for documentation and for protocols.
    #[error("a reserved address; use another address, or allow it with {}", Setting::AllowedAddresses.name())]
    Reserved,
    /// Tunnels and translations that hide the far end.
    #[error("an address that embeds another address; use that other address, or allow it with {}", Setting::AllowedAddresses.name())]
    Disguised,
    /// The API server.
    #[error("the API server of the cluster; use another address, or allow it with {}", Setting::AllowedAddresses.name())]
    ApiServer,
    /// The gateway.
    #[error("the gateway itself; use another address, or allow it with {}", Setting::AllowedAddresses.name())]
    Own,
    /// `BLOCKED_ADDRESSES`.
    #[error("one of {}; use another address", Setting::BlockedAddresses.name())]
    Configured,
}

/// Addresses that only the environment can supply.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct KnownAddresses {
    /// Addresses of the API server.
    pub api: HashSet<IpAddr>,
    /// Addresses of the gateway.
    pub own: HashSet<IpAddr>,
}

/// Checks addresses against the rules.
#[derive(Debug)]
pub struct Guard {
    rules: Rules,
    known: ArcSwap<KnownAddresses>,
    learned: watch::Sender<bool>,
}

// === impl Guard ===

impl Default for Guard {
    /// Refuses nothing.
    fn default() -> Self {
        Self::new(Rules::default())
    }
}

impl Guard {
    /// Creates a guard with these rules, which knows nothing of the environment yet.
    pub fn new(rules: Rules) -> Self {
        let own = rules.own.iter().filter_map(|text| text.parse::<IpAddr>().ok()).map(|it| it.to_canonical()).collect();
        let nothing_to_learn = !rules.special && rules.own.is_empty();
        let known = ArcSwap::from_pointee(KnownAddresses { own, ..KnownAddresses::default() });
        Self { rules, known, learned: watch::Sender::new(nothing_to_learn) }
    }

    /// Checks whether a connection to this address is allowed.
    ///
    /// # Errors
    /// The reason it is not.
    pub fn check(&self, address: IpAddr) -> Result<(), AddressRefusal> {
        self.rules.judge(address, &self.known.load())
    }

    /// Waits until the environment has been examined once.
    pub async fn ready(&self) {
        // The sender lives as long as this guard, so the wait ends with the first examination.
        let _ = self.learned.subscribe().wait_for(|learned| *learned).await;
    }

    /// The rules of this guard.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The addresses learned from the environment.
    pub fn known(&self) -> Arc<KnownAddresses> {
        self.known.load_full()
    }

    /// Stores the addresses learned from the environment.
    pub fn learned(&self, known: KnownAddresses) {
        self.known.store(Arc::new(known));
        self.learned.send_replace(true);
    }
}

impl Rules {
    /// Whether these rules refuse anything at all.
    pub fn is_empty(&self) -> bool {
        !self.special && self.blocked.0.is_empty() && self.own.is_empty()
    }

    /// Pure: judges one address.
    ///
    /// # Errors
    /// The reason it is refused.
    pub(crate) fn judge(&self, address: IpAddr, known: &KnownAddresses) -> Result<(), AddressRefusal> {
        let address = address.to_canonical();
        let behind = translated(address).map(IpAddr::V4);
        let faces = || std::iter::once(address).chain(behind);
        if faces().any(|face| self.blocked.contains(face)) {
            return Err(AddressRefusal::Configured);
        }
        let refused = faces().filter(|face| !self.allowed.contains(*face)).find_map(|face| self.refusal(face, known));
        refused.map_or(Ok(()), Err)
    }

    fn refusal(&self, address: IpAddr, known: &KnownAddresses) -> Option<AddressRefusal> {
        if known.own.contains(&address) {
            return Some(AddressRefusal::Own);
        }
        if !self.special {
            return None;
        }
        if known.api.contains(&address) {
            return Some(AddressRefusal::ApiServer);
        }
        special::refusal(address)
    }
}

/// The address that a well-known NAT64 prefix (RFC 6052) leads to.
fn translated(address: IpAddr) -> Option<Ipv4Addr> {
    const NAT64: Ipv6Net = Ipv6Net::new_assert(Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, 0, 0), 96);
    match address {
        IpAddr::V6(v6) if NAT64.contains(&v6) => {
            let [.., a, b, c, d] = v6.octets();
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

// === impl Ranges ===

impl Ranges {
    fn contains(&self, address: IpAddr) -> bool {
        self.0.iter().any(|range| range.contains(&address))
    }
}

impl FromStr for Ranges {
    type Err = String;

    /// Parses ranges and single addresses, separated by commas. Fails with the first part that is neither.
    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
        parts.map(|part| range(part).ok_or_else(|| part.to_owned())).collect::<Result<_, _>>().map(Self)
    }
}

/// A range in the form in which addresses are compared: an IPv4 range may be written in its IPv6 form.
fn range(text: &str) -> Option<IpNet> {
    let range = text.parse::<IpNet>().ok().or_else(|| text.parse::<IpAddr>().ok().map(IpNet::from))?;
    let IpNet::V6(v6) = range else { return Some(range) };
    match (v6.addr().to_ipv4_mapped(), v6.prefix_len().checked_sub(96)) {
        (Some(v4), Some(prefix)) => Ipv4Net::new(v4, prefix).ok().map(IpNet::V4),
        _ => Some(range),
    }
}

#[cfg(test)]
mod tests;
