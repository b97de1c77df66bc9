//! Forwarded content arrives byte for byte over every transport.

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use portcullis_e2e::gateway::TestGateway;

/// Arguments that a decoder on the way would change.
const ARGUMENTS: [&str; 8] = [
    "{}",
    r#"{"big":123456789012345678901234567890,"exact":1.10,"e":1E+2,"minus":-0}"#,
    r#"{"z":1,"a":2,"m":{"z":1,"a":2}}"#,
    r#"{"twice":1,"twice":2,"deep":{"x":1,"x":1}}"#,
    r#"{"lone":"\ud800","pair":"\ud83d\ude00","swapped":"\udc00\ud800"}"#,
    "{ \"spaces\" :\t[ 1 ,2 ],\r\n \"lines\":\n{ } }",
    r#"{"unknown":null,"slash":"\/","nul":"\u0000","plain":"Grüße 😀 \u2028"}"#,
    r#"{"":{"":[[[[[[]]]]]]},"message":"data: x\\n\\nevent: y"}"#,
];

/// Results that a decoder on the way would change.
const RESULTS: [&str; 5] = [
    r#"{"content":[],"_meta":{"n":123456789012345678901234567890,"f":1.10},"vendor":{"z":1,"a":2}}"#,
    r#"{"structuredContent":{"z":1,"a":{"x":1,"x":2}},"content":[{"type":"text","text":"\ud800 \/ \u0000"}],"isError":false}"#,
    r#"{ "content" : [ ] , "isError" : true }"#,
    r#"{"content":[{"type":"resource","resource":{"uri":"a:b","blob":"AA==","odd":[1,2,{}]}}],"resultType":"complete"}"#,
    r#"{"nothing":"that is known"}"#,
];

const MODES: [FaultyMode; 3] = [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern];

#[tokio::test]
async fn arguments_reach_the_server_as_they_were_sent() {
    for mode in MODES {
        let server = Faulty::start(mode).await;
        let gateway = TestGateway::before(&[&server.url()]).await;
        gateway.connected(1).await;
        for arguments in ARGUMENTS {
            let answer = gateway.call("echo", arguments).await;
            assert_eq!(answer.status, 200, "{mode:?} {arguments}: {}", answer.text());
            assert_eq!(server.seen().last_arguments().as_deref(), Some(arguments), "{mode:?}");
        }
        let bare = gateway.post(r#"{"method":"echo"}"#).send().await.expect("an answer");
        assert_eq!((bare.status, server.seen().last_arguments().as_deref()), (200, Some("{}")));
    }
}

#[tokio::test]
async fn results_reach_the_caller_as_they_were_sent() {
    for mode in MODES {
        let tools = (0..).zip(RESULTS).map(|(index, result)| Tool::result(&format!("tool-{index}"), result));
        let server = Faulty::with_tools(mode, tools.collect()).await;
        let gateway = TestGateway::before(&[&server.url()]).await;
        gateway.connected(1).await;
        for (index, result) in (0..).zip(RESULTS) {
            let answer = gateway.call(&format!("tool-{index}"), "{}").await;
            assert_eq!((answer.status, answer.text()), (200, result), "{mode:?}");
        }
    }
}

#[tokio::test]
async fn definitions_are_listed_as_they_were_written() {
    let odd = r#"{"vendor":{"z":1,"a":1.10},"name":"odd","title":"T","inputSchema":{"type":"object","x":12345678901234567890123,"b":1,"a":2},"execution":{"taskSupport":"optional"},"outputSchema":{"type":"object"},"description":"d\u00e9","server_count":7,"icons":[]}"#;
    let server = Faulty::with_tools(FaultyMode::Sse, vec![Tool::echo("odd").listed_as(odd)]).await;
    let gateway = TestGateway::before(&[&server.url()]).await;
    gateway.connected(1).await;
    let shown = r#"{"name":"odd","vendor":{"z":1,"a":1.10},"title":"T","inputSchema":{"type":"object","x":12345678901234567890123,"b":1,"a":2},"execution":{"taskSupport":"optional"},"outputSchema":{"type":"object"},"description":"d\u00e9","icons":[]"#;
    let list = gateway.get("/tools/list").send().await.expect("a list");
    let url = server.url();
    assert_eq!(list.text(), format!(r#"{{"tools":[{shown},"available_servers":["{url}"],"server_count":1}}]}}"#));
    let own = gateway.get(&format!("/tools/list?server={url}")).send().await.expect("a list");
    assert_eq!(own.text(), format!(r#"{{"tools":[{shown}}}]}}"#));
}

#[tokio::test]
async fn a_large_result_comes_whole_and_a_larger_one_is_refused() {
    for mode in MODES {
        let tools = vec![Tool::big("large", 5_000_000), Tool::big("too-large", 9_000_000), Tool::echo("echo")];
        let server = Faulty::with_tools(mode, tools).await;
        let gateway = TestGateway::before(&[&server.url()]).await;
        gateway.connected(1).await;
        let large = gateway.call("large", "{}").await;
        let frame = r#"{"content":[{"type":"text","text":""}]}"#.len();
        assert_eq!((large.status, large.body.len()), (200, 5_000_000 + frame), "{mode:?}");
        let refused = gateway.call("too-large", "{}").await;
        assert_eq!(refused.status, 502, "{mode:?}: {}", refused.text());
    }
}
