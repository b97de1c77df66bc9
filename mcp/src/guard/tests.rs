//! Every special range, its edges, its disguises, and a slower way to the same answers.

use proptest::prelude::*;
use url::{Host, Url};

use super::*;

fn rules(allowed: &str, blocked: &str) -> Rules {
    let (allowed, blocked) = (allowed.parse().unwrap(), blocked.parse().unwrap());
    Rules { special: true, allowed, blocked, own: Vec::new() }
}

fn judged(text: &str) -> Result<(), AddressRefusal> {
    rules("", "").judge(text.parse().unwrap(), &KnownAddresses::default())
}

#[test]
fn special_ranges_are_refused_up_to_their_edges_and_their_neighbours_are_not() {
    use AddressRefusal::*;
    let cases = [
        ("0.0.0.0 0.255.255.255 127.0.0.0 127.0.0.1 127.255.255.255", Err(Loopback)),
        ("1.0.0.0 126.255.255.255 128.0.0.0", Ok(())),
        ("169.254.0.0 169.254.255.255 169.254.169.253", Err(LinkLocal)),
        ("169.253.255.255 169.255.0.0", Ok(())),
        ("169.254.169.254 169.254.170.2 169.254.170.23 100.100.100.200 168.63.129.16 192.0.0.192", Err(Metadata)),
        ("100.100.100.199 100.64.0.1 168.63.129.17", Ok(())),
        ("224.0.0.0 239.255.255.255 255.255.255.255", Err(Multicast)),
        ("223.255.255.255 240.0.0.1 255.255.255.254", Ok(())),
        ("192.0.0.1 192.0.2.0 192.0.2.255 198.51.100.7 203.0.113.7", Err(Reserved)),
        ("192.0.1.0 192.0.3.0 198.18.0.1 203.0.114.0", Ok(())),
        ("192.88.99.1", Err(Disguised)),
        ("10.0.0.1 10.96.0.1 172.16.0.1 192.168.1.1 8.8.8.8", Ok(())),
        (":: ::1", Err(Loopback)),
        ("fe80:: fe80::1 febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff fec0::1 feff::1", Err(LinkLocal)),
        ("fe7f::1", Ok(())),
        ("fd00:ec2::254 fd00:ec2::23 fd20:ce::254 fd00:c1::a9fe:a9fe fd00:42::42", Err(Metadata)),
        ("fd00:ec3::254 fd20:ce::255 fd00:c1::1 fd00:42::43 fd00::1 fc00::1", Ok(())),
        ("ff00:: ff02::1 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", Err(Multicast)),
        ("100::1 2001:db8::1 3fff::1 3fff:fff::1", Err(Reserved)),
        ("100:0:0:1::1 2001:db9::1 3fff:1000::1 2606:4700::1111", Ok(())),
    ];
    for (texts, expected) in cases {
        for text in texts.split(' ') {
            assert_eq!(judged(text), expected, "{text}");
        }
    }
}

#[test]
fn an_ipv4_address_within_an_ipv6_address_gets_nobody_around() {
    use AddressRefusal::*;
    let cases = [
        ("::ffff:127.0.0.1", Err(Loopback)),
        ("::ffff:7f00:1", Err(Loopback)),
        ("::ffff:0.0.0.0", Err(Loopback)),
        ("::ffff:169.254.169.254", Err(Metadata)),
        ("::ffff:10.0.0.1", Ok(())),
        ("64:ff9b::127.0.0.1", Err(Loopback)),
        ("64:ff9b::a9fe:a9fe", Err(Metadata)),
        ("64:ff9b::10.0.0.1", Ok(())),
        ("64:ff9b::8.8.8.8", Ok(())),
        ("::127.0.0.1", Err(Disguised)),
        ("::169.254.169.254", Err(Disguised)),
        ("::ffff:0:169.254.169.254", Err(Disguised)),
        ("64:ff9b:1::169.254.169.254", Err(Disguised)),
        ("64:ff9b:1:a9fe:a9:fe00::", Err(Disguised)),
        ("2002:a9fe:a9fe::1", Err(Disguised)),
        ("2002:7f00:1::", Err(Disguised)),
        ("2001:0:4136:e378:8000:63bf:3fff:fdd2", Err(Disguised)),
    ];
    for (text, expected) in cases {
        assert_eq!(judged(text), expected, "{text}");
    }
}

#[test]
fn odd_spellings_of_a_host_come_down_to_the_same_address() {
    let loopback = [
        "127.1",
        "127.0.1",
        "2130706433",
        "0x7f000001",
        "0x7F.1",
        "0177.0.0.1",
        "0177.0x0.01",
        "017700000001",
        "127.0.0.1.",
        "%31%32%37.0.0.1",
        "%3127.1",
        "1２7.0.0.1",
        "①27.0.0.1",
        "127。0。0。1",
        "[::1]",
        "[0:0:0:0:0:0:0:1]",
        "[::ffff:127.0.0.1]",
        "[::FFFF:7F00:1]",
        "0",
        "0x0",
        "00000000000",
    ];
    for host in loopback {
        let url = Url::parse(&format!("http://{host}/")).unwrap_or_else(|error| panic!("{host}: {error}"));
        let address = match url.host().unwrap() {
            Host::Ipv4(v4) => IpAddr::V4(v4),
            Host::Ipv6(v6) => IpAddr::V6(v6),
            Host::Domain(name) => panic!("{host} is the name {name}"),
        };
        assert_eq!(rules("", "").judge(address, &KnownAddresses::default()), Err(AddressRefusal::Loopback), "{host}");
    }
    for host in ["127.0.0.256", "127.0.0.0.1", "[::1%25lo]", "0x7g.1", "4294967296", "[127.0.0.1]"] {
        assert!(Url::parse(&format!("http://{host}/")).is_err(), "{host}");
    }
    let name = Url::parse("http://LOCALHOST./").unwrap();
    assert_eq!(name.host_str(), Some("localhost."), "names are judged by what they resolve to");
}

#[test]
fn what_is_allowed_wins_over_what_is_special_and_what_is_blocked_over_both() {
    let rules = rules("127.0.0.0/8, fd00:ec2::/32, 192.0.2.7,", "127.0.0.5, 10.1.0.0/16, ::ffff:10.2.0.0/112");
    let known = KnownAddresses::default();
    let cases = [
        ("127.0.0.1", Ok(())),
        ("::ffff:127.0.0.1", Ok(())),
        ("64:ff9b::127.0.0.1", Ok(())),
        ("127.0.0.5", Err(AddressRefusal::Configured)),
        ("::ffff:127.0.0.5", Err(AddressRefusal::Configured)),
        ("64:ff9b::127.0.0.5", Err(AddressRefusal::Configured)),
        ("10.1.2.3", Err(AddressRefusal::Configured)),
        ("64:ff9b::10.1.2.3", Err(AddressRefusal::Configured)),
        ("10.2.255.255", Err(AddressRefusal::Configured)),
        ("10.3.0.0", Ok(())),
        ("192.0.2.7", Ok(())),
        ("192.0.2.8", Err(AddressRefusal::Reserved)),
        ("fd00:ec2::254", Ok(())),
        ("169.254.169.254", Err(AddressRefusal::Metadata)),
    ];
    for (text, expected) in cases {
        assert_eq!(rules.judge(text.parse().unwrap(), &known), expected, "{text}");
    }
    let translated = Rules { allowed: "64:ff9b::/96".parse().unwrap(), ..rules };
    assert_eq!(translated.judge("64:ff9b::a9fe:a9fe".parse().unwrap(), &known), Err(AddressRefusal::Metadata));
}

#[test]
fn the_api_server_and_the_gateway_are_refused_in_every_form_unless_allowed() {
    let known = KnownAddresses {
        api: HashSet::from(["10.96.0.1".parse().unwrap(), "fd00::10".parse().unwrap()]),
        own: HashSet::from(["10.244.0.7".parse().unwrap()]),
    };
    let judged = |rules: &Rules, text: &str| rules.judge(text.parse().unwrap(), &known);
    let rules = rules("", "");
    for text in ["10.96.0.1", "::ffff:10.96.0.1", "64:ff9b::10.96.0.1", "fd00::10"] {
        assert_eq!(judged(&rules, text), Err(AddressRefusal::ApiServer), "{text}");
    }
    for text in ["10.244.0.7", "::ffff:10.244.0.7", "64:ff9b::10.244.0.7"] {
        assert_eq!(judged(&rules, text), Err(AddressRefusal::Own), "{text}");
    }
    assert_eq!(judged(&rules, "10.96.0.2"), Ok(()));
    let open = Rules { allowed: "10.0.0.0/8".parse().unwrap(), ..rules.clone() };
    assert_eq!((judged(&open, "10.96.0.1"), judged(&open, "10.244.0.7")), (Ok(()), Ok(())));
    let off = Rules { special: false, ..rules };
    let found = (judged(&off, "10.96.0.1"), judged(&off, "127.0.0.1"), judged(&off, "10.244.0.7"));
    assert_eq!(found, (Ok(()), Ok(()), Err(AddressRefusal::Own)));
}

#[test]
fn what_is_no_range_is_named() {
    for (text, expected) in [("10.0.0.0/33", "10.0.0.0/33"), ("10.0.0.1, x", "x"), ("fe80::/129", "fe80::/129")] {
        assert_eq!(text.parse::<Ranges>(), Err(expected.to_owned()));
    }
}

/// The same decision without a table: one plain question after another.
fn slow(address: IpAddr) -> bool {
    let number = match address {
        IpAddr::V4(v4) => return slow_v4(v4),
        IpAddr::V6(v6) => u128::from(v6),
    };
    let starts = |prefix: &str, bits: u32| {
        number >> (128 - bits) == u128::from(prefix.parse::<Ipv6Addr>().unwrap()) >> (128 - bits)
    };
    let tail = Ipv4Addr::from((number & 0xffff_ffff) as u32);
    if starts("::ffff:0:0", 96) || starts("64:ff9b::", 96) {
        return slow_v4(tail);
    }
    let ranges = [
        ("::", 96),
        ("::ffff:0:0:0", 96),
        ("64:ff9b:1::", 48),
        ("100::", 64),
        ("2001::", 32),
        ("2001:db8::", 32),
        ("2002::", 16),
        ("3fff::", 20),
        ("fd00:42::42", 128),
        ("fd00:c1::a9fe:a9fe", 128),
        ("fd00:ec2::", 32),
        ("fd20:ce::254", 128),
        ("fe80::", 9),
        ("ff00::", 8),
    ];
    ranges.iter().any(|(prefix, bits)| starts(prefix, *bits))
}

fn slow_v4(v4: Ipv4Addr) -> bool {
    let [a, b, c, _] = v4.octets();
    a == 0
        || v4.is_loopback()
        || v4.is_link_local()
        || v4.is_multicast()
        || v4.is_broadcast()
        || v4.is_documentation()
        || (a, b, c) == (192, 0, 0)
        || (a, b, c) == (192, 88, 99)
        || v4 == Ipv4Addr::new(100, 100, 100, 200)
        || v4 == Ipv4Addr::new(168, 63, 129, 16)
}

/// Addresses near the special ranges: random ones almost never are.
fn address() -> impl Strategy<Value = IpAddr> {
    let interesting: Vec<u32> = [
        [0, 0, 0, 0],
        [127, 0, 0, 1],
        [169, 254, 169, 254],
        [100, 100, 100, 200],
        [168, 63, 129, 16],
        [192, 0, 0, 192],
        [192, 0, 2, 0],
        [192, 88, 99, 0],
        [198, 51, 100, 0],
        [203, 0, 113, 0],
        [224, 0, 0, 0],
        [255, 255, 255, 255],
        [10, 0, 0, 1],
    ]
    .map(u32::from_be_bytes)
    .to_vec();
    let v4 = (prop::sample::select(interesting), 0u32..33, any::<bool>())
        .prop_flat_map(|(base, bits, far)| {
            let noise = if far { any::<u32>().boxed() } else { (0u32..3).boxed() };
            noise.prop_map(move |noise| base ^ noise.checked_shr(32 - bits).unwrap_or(0))
        })
        .prop_map(Ipv4Addr::from);
    let prefixes =
        ["::", "::ffff:0:0", "::ffff:0:0:0", "64:ff9b::", "64:ff9b:1::", "2001::", "2002::", "fe80::", "fec0::"];
    let more = ["fd00:ec2::", "fd20:ce::254", "ff00::", "100::", "2001:db8::", "3fff::", "fd00::", "2600::"];
    let prefix = prop::sample::select([prefixes.as_slice(), more.as_slice()].concat());
    let v6 = (prefix, v4.clone(), 0u32..129, any::<u128>()).prop_map(|(prefix, tail, bits, noise)| {
        let base = u128::from(prefix.parse::<Ipv6Addr>().unwrap()) ^ u128::from(u32::from(tail));
        Ipv6Addr::from(base ^ noise.checked_shr(128 - bits).unwrap_or(0))
    });
    prop_oneof![v4.prop_map(IpAddr::V4), v6.prop_map(IpAddr::V6)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn the_table_says_what_the_slow_questions_say(address in address()) {
        let fast = rules("", "").judge(address, &KnownAddresses::default()).is_err();
        prop_assert_eq!(fast, slow(address), "{}", address);
    }

    #[test]
    fn a_mapped_address_is_judged_as_what_it_stands_for(bits in any::<u32>()) {
        let v4 = Ipv4Addr::from(bits);
        let rules = rules("127.0.0.0/9", "10.0.0.0/8");
        let known = KnownAddresses::default();
        let expected = rules.judge(IpAddr::V4(v4), &known);
        prop_assert_eq!(rules.judge(IpAddr::V6(v4.to_ipv6_mapped()), &known), expected);
    }

    #[test]
    fn nothing_is_refused_by_no_rules(address in address()) {
        prop_assert_eq!(Rules::default().judge(address, &KnownAddresses::default()), Ok(()));
    }
}
