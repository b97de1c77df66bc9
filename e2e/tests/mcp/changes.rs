//! Lists that change during a session: listeners get exactly one notification per change.

use std::time::Duration;

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::TestGateway;
use portcullis_e2e::manifests::Manifests;
use serde_json::json;

use crate::kit::{MessageStream, initialize, modern};

const QUIET_PERIOD: Duration = Duration::from_millis(700);

fn listen(gateway: &TestGateway, path: &str, wanted: &str) -> portcullis_e2e::http::HttpRequest {
    modern(gateway, path, "subscriptions/listen", None, &format!(r#""notifications":{{{wanted}}}"#))
}

#[tokio::test]
async fn a_server_that_comes_and_one_that_goes_are_told_on_every_stream_that_shows_them() {
    let first = Faulty::with_tools(FaultyMode::Sse, vec![Tool::text("one", "1")]).await;
    let second = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::text("two", "2")]).await;
    let manifests = Manifests::new();
    manifests.add("first", &first.url(), "");
    let gateway = TestGateway::start(manifests.options()).await;
    gateway.offers(&["one"]).await;
    let session = initialize(&gateway, "2025-06-18").await;
    let mut of_session = MessageStream::of_session(&gateway, "/mcp", Some(&session)).await;
    let mut of_one = MessageStream::of_session(&gateway, "/mcp/first", None).await;
    let mut listening = MessageStream::of(listen(&gateway, "/mcp", r#""toolsListChanged":true"#)).await;
    let mut elsewhere = MessageStream::of(listen(&gateway, "/mcp", r#""promptsListChanged":true"#)).await;
    let tag = json!({"io.modelcontextprotocol/subscriptionId": 1});
    let acknowledged = |wanted| {
        json!({"jsonrpc": "2.0", "method": "notifications/subscriptions/acknowledged",
               "params": {"_meta": tag, "notifications": wanted}})
    };
    assert_eq!(listening.next().await, Some(acknowledged(json!({"toolsListChanged": true}))));
    assert_eq!(elsewhere.next().await, Some(acknowledged(json!({"promptsListChanged": true}))));
    gateway.counts("portcullis_client_streams_open", 4.0).await;

    let changed = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed"});
    let tagged = json!({"jsonrpc": "2.0", "method": "notifications/tools/list_changed", "params": {"_meta": tag}});
    manifests.add("second", &second.url(), "");
    assert_eq!((of_session.next().await, listening.next().await), (Some(changed.clone()), Some(tagged.clone())));
    manifests.remove("second");
    assert_eq!((of_session.next().await, listening.next().await), (Some(changed), Some(tagged)));
    assert!(of_one.is_quiet(QUIET_PERIOD).await, "its one server has not changed");
    assert!(elsewhere.is_quiet(QUIET_PERIOD).await, "prompts have not changed");
    drop((of_session, of_one, listening, elsewhere));
    gateway.counts("portcullis_client_streams_open", 0.0).await;
}

#[tokio::test]
async fn changes_that_come_together_are_told_once_and_a_change_to_the_same_is_none() {
    let server = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::text("a", "1")]).await;
    let gateway = TestGateway::before(&[&server.url()]).await;
    gateway.offers(&["a"]).await;
    let mut events = MessageStream::of_session(&gateway, "/mcp", None).await;
    for _ in 0..5 {
        server.change_tools(vec![Tool::text("a", "1")]).await;
    }
    assert!(events.is_quiet(Duration::from_millis(1500)).await, "the list is the same as before");
    for n in 0..20 {
        server.change_tools(vec![Tool::text("a", "1"), Tool::text(&format!("b{n}"), "2")]).await;
    }
    gateway.offers(&["a", "b19"]).await;
    assert!(events.next().await.is_some());
    let mut more = 0;
    while !events.is_quiet(QUIET_PERIOD).await {
        more += 1;
    }
    assert!(more < 5, "{more} more than one for 20 changes");
}

#[tokio::test]
async fn a_gateway_that_stops_ends_its_streams_and_says_so_where_it_can() {
    let server = Faulty::start(FaultyMode::Streamable).await;
    let mut gateway = TestGateway::before(&[&server.url()]).await;
    gateway.connected(1).await;
    let mut of_session = MessageStream::of_session(&gateway, "/mcp", None).await;
    let mut listening = MessageStream::of(listen(&gateway, "/mcp", r#""toolsListChanged":true"#)).await;
    listening.next().await;
    gateway.tell_to_stop();
    let end = listening.next().await.expect("a result");
    let tag = json!({"io.modelcontextprotocol/subscriptionId": 1});
    assert_eq!(end, json!({"jsonrpc": "2.0", "id": 1, "result": {"resultType": "complete", "_meta": tag}}));
    assert_eq!((listening.next().await, of_session.next().await), (None, None));
    gateway.stop().await.expect("it stops in order");
}
