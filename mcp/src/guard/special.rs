//! Lists the addresses that no MCP server has, after the registries of special-purpose addresses (RFC 6890).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

use super::AddressRefusal;

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(high: [u16; 4], low: [u16; 4], prefix: u8) -> Ipv6Net {
    let ([a, b, c, d], [e, f, g, h]) = (high, low);
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, d, e, f, g, h), prefix)
}

/// Narrow ranges first. 100.64.0.0/10, 198.18.0.0/15 and 240.0.0.0/4 are not here: clusters use them for pods.
const V4: [(Ipv4Net, AddressRefusal); 16] = [
    // AWS, GCP, Azure and most others; AWS ECS; AWS EKS; Alibaba; Azure's agent; Oracle's old one.
    (v4(169, 254, 169, 254, 32), AddressRefusal::Metadata),
    (v4(169, 254, 170, 2, 32), AddressRefusal::Metadata),
    (v4(169, 254, 170, 23, 32), AddressRefusal::Metadata),
    (v4(100, 100, 100, 200, 32), AddressRefusal::Metadata),
    (v4(168, 63, 129, 16, 32), AddressRefusal::Metadata),
    (v4(192, 0, 0, 192, 32), AddressRefusal::Metadata),
    // Linux takes "this network" for itself.
    (v4(0, 0, 0, 0, 8), AddressRefusal::Loopback),
    (v4(127, 0, 0, 0, 8), AddressRefusal::Loopback),
    (v4(169, 254, 0, 0, 16), AddressRefusal::LinkLocal),
    (v4(224, 0, 0, 0, 4), AddressRefusal::Multicast),
    (v4(255, 255, 255, 255, 32), AddressRefusal::Multicast),
    (v4(192, 0, 0, 0, 24), AddressRefusal::Reserved),
    (v4(192, 0, 2, 0, 24), AddressRefusal::Reserved),
    (v4(198, 51, 100, 0, 24), AddressRefusal::Reserved),
    (v4(203, 0, 113, 0, 24), AddressRefusal::Reserved),
    // The relays of 6to4.
    (v4(192, 88, 99, 0, 24), AddressRefusal::Disguised),
];

/// Narrow ranges first.
const V6: [(Ipv6Net, AddressRefusal); 17] = [
    (v6([0; 4], [0, 0, 0, 0], 128), AddressRefusal::Loopback),
    (v6([0; 4], [0, 0, 0, 1], 128), AddressRefusal::Loopback),
    // AWS, GCP, Oracle, Scaleway.
    (v6([0xfd00, 0xec2, 0, 0], [0; 4], 32), AddressRefusal::Metadata),
    (v6([0xfd20, 0xce, 0, 0], [0, 0, 0, 0x254], 128), AddressRefusal::Metadata),
    (v6([0xfd00, 0xc1, 0, 0], [0, 0, 0xa9fe, 0xa9fe], 128), AddressRefusal::Metadata),
    (v6([0xfd00, 0x42, 0, 0], [0, 0, 0, 0x42], 128), AddressRefusal::Metadata),
    (v6([0xfe80, 0, 0, 0], [0; 4], 10), AddressRefusal::LinkLocal),
    (v6([0xfec0, 0, 0, 0], [0; 4], 10), AddressRefusal::LinkLocal),
    (v6([0xff00, 0, 0, 0], [0; 4], 8), AddressRefusal::Multicast),
    // IPv4-compatible, IPv4-translated, NAT64 of the operator's own, Teredo, 6to4.
    (v6([0; 4], [0; 4], 96), AddressRefusal::Disguised),
    (v6([0; 4], [0xffff, 0, 0, 0], 96), AddressRefusal::Disguised),
    (v6([0x64, 0xff9b, 1, 0], [0; 4], 48), AddressRefusal::Disguised),
    (v6([0x2001, 0, 0, 0], [0; 4], 32), AddressRefusal::Disguised),
    (v6([0x2002, 0, 0, 0], [0; 4], 16), AddressRefusal::Disguised),
    // Discarded; documentation.
    (v6([0x100, 0, 0, 0], [0; 4], 64), AddressRefusal::Reserved),
    (v6([0x2001, 0xdb8, 0, 0], [0; 4], 32), AddressRefusal::Reserved),
    (v6([0x3fff, 0, 0, 0], [0; 4], 20), AddressRefusal::Reserved),
];

/// The reason a canonical address is refused.
pub(super) fn refusal(address: IpAddr) -> Option<AddressRefusal> {
    match address {
        IpAddr::V4(v4) => V4.iter().find(|(range, _)| range.contains(&v4)).map(|(_, refusal)| *refusal),
        IpAddr::V6(v6) => V6.iter().find(|(range, _)| range.contains(&v6)).map(|(_, refusal)| *refusal),
    }
}
