//! Servers at forbidden addresses: no packet reaches them.

use portcullis_e2e::faulty::{Faulty, FaultyMode};
use portcullis_e2e::gateway::TestGateway;
use portcullis_e2e::manifests::Manifests;
use portcullis_gateway::Options;

const LOOPBACK: &str = "has an address that the gateway must not connect to: a loopback address; use another address, \
                        or allow it with ALLOWED_ADDRESSES";

/// A gateway in front of one server under this host, with these settings.
async fn start(server: &Faulty, host: &str, settings: impl FnOnce(&mut Options)) -> TestGateway {
    let manifests = Manifests::new();
    manifests.add("one", &format!("'{}'", server.url().replace("127.0.0.1", host)), "");
    let mut options = manifests.options();
    settings(&mut options);
    let gateway = TestGateway::start(options).await;
    // The manifests are read when it starts.
    drop(manifests);
    gateway
}

fn guarded(options: &mut Options) {
    options.guard_addresses = Some("true".into());
}

async fn is_connected(gateway: &TestGateway) {
    gateway.is_connected("one").await;
    assert_eq!(gateway.server("one").await["reason"], serde_json::Value::Null);
}

#[tokio::test]
async fn a_guarded_gateway_sends_nothing_to_loopback_however_it_is_written() {
    let spellings = [
        "127.0.0.1",
        "localhost",
        "LOCALHOST",
        "127.1",
        "0x7f.1",
        "2130706433",
        "0177.0.0.1",
        "0",
        "[::ffff:127.0.0.1]",
    ];
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        let server = Faulty::start(mode).await;
        for host in spellings {
            let gateway = start(&server, host, guarded).await;
            gateway.fails("one", LOOPBACK).await;
            assert_eq!(gateway.server("one").await["reason"], "BlockedAddress", "{host}");
        }
        assert_eq!(server.seen().connections, 0);
    }
}

#[tokio::test]
async fn what_is_allowed_is_connected_to_and_what_is_blocked_is_not() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let allowed = |options: &mut Options| {
        guarded(options);
        options.allowed_addresses = Some("127.0.0.0/8, ::1".into());
    };
    is_connected(&start(&server, "127.0.0.1", allowed).await).await;
    is_connected(&start(&server, "localhost", allowed).await).await;
    is_connected(&start(&server, "127.0.0.1", |_| ()).await).await;
    let before = server.seen().connections;
    let blocked = start(&server, "127.0.0.1", |options| {
        allowed(options);
        options.blocked_addresses = Some("127.0.0.1".into());
    });
    let text = "has an address that the gateway must not connect to: one of BLOCKED_ADDRESSES; use another address";
    blocked.await.fails("one", text).await;
    let own = start(&server, "127.0.0.1", |options| options.own_addresses = Some("10.0.0.9,localhost".into()));
    let text = "has an address that the gateway must not connect to: the gateway itself; use another address, or \
                allow it with ALLOWED_ADDRESSES";
    own.await.fails("one", text).await;
    assert_eq!(server.seen().connections, before);
}
