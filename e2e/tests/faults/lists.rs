//! Lists of tools that are endless, huge, wrong, or never the same.

use std::time::Duration;

use futures_util::future::join_all;
use portcullis_e2e::faulty::{EventFraming, Faulty, FaultyMode, ListFault, Listen, ProtocolFault, Tool, invalid_tools};
use portcullis_e2e::wait::wait_for;
use serde_json::json;
use tokio::time::{Instant, sleep};

use crate::stack::{STATE_DEADLINE, Stack, assert_quick, server};

async fn listing(mode: FaultyMode, list: ListFault) -> (Faulty, Stack) {
    let faulty = Faulty::start(mode).await;
    faulty.behave(|it| it.list = list);
    let stack = Stack::with_messages(8 * 1024 * 1024, [server("a", &faulty)]).await;
    stack.connected("a").await;
    (faulty, stack)
}

#[tokio::test]
async fn lists_have_an_end_however_long_they_are() {
    let table = [
        (ListFault::EndlessPages, 50, 0, 50),
        (ListFault::SameCursor, 1, 1, 2),
        (ListFault::Many(100_000), 1_000, 99_000, 1),
        (ListFault::Many(1_000), 1_000, 0, 1),
    ];
    for mode in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern] {
        join_all(table.iter().map(async |(list, tools, left_out, requests)| {
            let (faulty, stack) = listing(mode, list.clone()).await;
            let state = stack.server("a").await;
            let found = (&state["tools_count"], &state["tools_left_out"]);
            assert_eq!(found, (&json!(tools), &json!(left_out)), "{mode:?} {list:?}");
            assert_eq!(faulty.seen().lists, *requests, "{mode:?} {list:?}");
            assert_eq!(stack.tools().await.len(), *tools);
        }))
        .await;
    }
}

#[tokio::test]
async fn all_pages_are_read() {
    let faulty = Faulty::with_tools(FaultyMode::Sse, (0..10).map(|n| Tool::echo(&format!("t{n}"))).collect()).await;
    faulty.behave(|it| it.list = ListFault::Pages(3));
    let stack = Stack::ready([server("a", &faulty)]).await;
    assert_eq!(stack.tools().await, (0..10).map(|n| format!("t{n}")).collect::<Vec<_>>());
    assert_eq!(faulty.seen().lists, 4);
}

#[tokio::test]
async fn bad_tools_are_left_out_and_the_good_ones_stay() {
    let mut tools = invalid_tools();
    let bad = tools.len() - 1;
    tools.push(Tool::echo("double").annotated(r#"{"title":"first"}"#));
    tools.push(Tool::echo("double").annotated(r#"{"title":"second"}"#));
    tools.push(
        Tool::echo("marked").schema(r#"{"type":"object","properties":{"a":{"type":"object","x-mcp-header":"A"}}}"#),
    );
    let faulty = Faulty::with_tools(FaultyMode::Streamable, tools).await;
    let stack = Stack::ready([server("a", &faulty)]).await;
    // Those with names that not every client takes go by short forms.
    let short = ["_oce_", "has_space_", "line_break_", "nnnnnnnn"];
    let tools = stack.tools().await;
    let (named, shortened): (Vec<&String>, Vec<&String>) =
        tools.iter().partition(|tool| ["double", "fine"].contains(&tool.as_str()));
    assert_eq!(named, ["double", "fine"]);
    assert!(
        shortened.iter().zip(short).all(|(tool, begins)| tool.starts_with(begins) && tool.len() <= 64),
        "{tools:?}"
    );
    assert_eq!((shortened.len(), &stack.server("a").await["tools_left_out"]), (4, &json!(bad + 2 - 4)));
    assert_eq!(stack.call("fine").await.status, 200);
}

#[tokio::test]
async fn tools_that_change_all_the_time_are_read_now_and_then_and_end_up_right() {
    let one = async |mode| {
        let mut faulty = Faulty::start(mode).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        let before = faulty.seen().lists;
        wait_for("the stream of announcements", STATE_DEADLINE, || async { faulty.open_streams() > 0 }).await;
        faulty.churn(Duration::from_millis(10));
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(3) {
            assert_eq!(stack.call("echo").await.status, 200, "{mode:?}");
            sleep(Duration::from_millis(20)).await;
        }
        let lists = faulty.seen().lists - before;
        let most = began.elapsed().as_millis() / 250 + 2;
        assert!((2..=most).contains(&u128::from(lists)), "{mode:?}: {lists} lists in {:?}", began.elapsed());
        faulty.restart().await;
        faulty.set_tools(vec![Tool::echo("echo"), Tool::echo("last")]);
        stack.connected("a").await;
        faulty.announce().await;
        wait_for("the last tools", STATE_DEADLINE, || async {
            let tools = stack.tools().await;
            if tools == ["echo", "last"] { Ok(()) } else { Err(tools) }
        })
        .await;
    };
    join_all([FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern].map(one)).await;
}

#[tokio::test]
async fn an_announced_change_is_seen_soon_also_when_the_list_fails_at_first() {
    let one = async |mode| {
        let faulty = Faulty::start(mode).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        wait_for("the stream of announcements", STATE_DEADLINE, || async { faulty.open_streams() > 0 }).await;
        faulty.change_tools(vec![Tool::echo("other")]).await;
        stack.works("other").await;
        assert_eq!(stack.call("echo").await.status, 404);
        faulty
            .behave(|it| it.list = ListFault::Reply(ProtocolFault::Error(r#"{"code":-32603,"message":"no"}"#.into())));
        let before = faulty.seen().lists;
        faulty.change_tools(vec![Tool::echo("third")]).await;
        wait_for("a list that fails", STATE_DEADLINE, || async { faulty.seen().lists > before }).await;
        assert_eq!(stack.tools().await, ["other"], "the last good list stays");
        faulty.behave(|it| it.list = ListFault::Honest);
        stack.works("third").await;
    };
    join_all([FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern].map(one)).await;
}

#[tokio::test]
async fn a_change_of_the_rules_while_the_tools_are_listed_is_not_lost() {
    let one = async |mode| {
        let faulty = Faulty::with_tools(mode, vec![Tool::echo("echo")]).await;
        let stack = Stack::ready([server("a", &faulty)]).await;
        // Slow enough for the change to come while the session is opened.
        let drip = EventFraming { piece: Some(8), pause: Duration::from_millis(30), ..EventFraming::default() };
        faulty.behave(|it| it.framing = drip);
        let entry = server("b", &faulty);
        stack.set(&entry);
        let lists = faulty.seen().lists;
        wait_for("a list that has begun", STATE_DEADLINE, || async { faulty.seen().lists > lists }).await;
        stack.set(&server("b", &faulty).with("tools", json!({"prefix": "new"})));
        wait_for("the tools under the new rules", STATE_DEADLINE, || async {
            let tools = stack.tools().await;
            if tools.contains(&"new__echo".to_owned()) { Ok(()) } else { Err(tools) }
        })
        .await;
    };
    join_all([FaultyMode::Sse, FaultyMode::Streamable].map(one)).await;
}

#[tokio::test]
async fn a_server_without_a_listening_stream_is_used_and_not_asked_again_and_again() {
    let gets = |faulty: &Faulty| faulty.seen().requests.iter().filter(|request| request.http_method == "GET").count();
    let one = async |listen, most| {
        let faulty = Faulty::start(FaultyMode::Streamable).await;
        faulty.behave(|it| it.listen = listen);
        let stack = Stack::ready([server("a", &faulty)]).await;
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(7) {
            assert_quick(&stack, "echo").await;
            sleep(Duration::from_millis(100)).await;
        }
        let seen = faulty.seen();
        assert!((1..=most).contains(&gets(&faulty)), "{listen:?}: {} GETs", gets(&faulty));
        assert_eq!((seen.initializes, stack.tools().await), (1, vec!["echo".to_owned()]), "{listen:?}");
        assert!(seen.lists <= 3, "{listen:?}: {} lists", seen.lists);
    };
    tokio::join!(one(Listen::NotAllowed, 1), one(Listen::NotFound, 2), one(Listen::Closes, 2));
}

/// The numbers of prompts, resources and templates in the report.
async fn others(stack: &Stack, server: &str) -> [u64; 3] {
    let view = stack.server(server).await;
    ["prompts_count", "resources_count", "resource_templates_count"].map(|count| view[count].as_u64().expect("a count"))
}

async fn come_to_be(stack: &Stack, server: &str, wanted: [u64; 3]) {
    wait_for(&format!("{wanted:?} prompts, resources and templates"), STATE_DEADLINE, || async {
        let found = others(stack, server).await;
        if found == wanted { Ok(()) } else { Err(found) }
    })
    .await;
}

const PROMPTS: &str = r#"{"prompts":[{"name":"p"},{"name":"q"},{"name":7}]}"#;
const ONE_PROMPT: &str = r#"{"prompts":[{"name":"p"}]}"#;
const RESOURCES: &str = r#"{"resources":[{"uri":"f://x","name":"x"}]}"#;
const NO_RESOURCES: &str = r#"{"resources":[]}"#;
const TEMPLATES: &str =
    r#"{"resourceTemplates":[{"uriTemplate":"f://{x}","name":"x"},{"uriTemplate":"g://{x}","name":"x"}]}"#;

#[tokio::test]
async fn prompts_and_resources_are_read_where_a_server_says_that_it_has_them_and_again_when_they_change() {
    let one = async |mode| {
        let (faulty, without) = (Faulty::start(mode).await, Faulty::start(mode).await);
        faulty.behave(|it| {
            it.prompts = Some(ProtocolFault::Result(PROMPTS.into()));
            it.resources = Some(ProtocolFault::Result(RESOURCES.into()));
            it.templates = Some(ProtocolFault::Result(TEMPLATES.into()));
        });
        let stack = Stack::ready([server("a", &faulty), server("b", &without)]).await;
        assert_eq!((others(&stack, "a").await, others(&stack, "b").await), ([2, 1, 2], [0, 0, 0]), "{mode:?}");
        let asked = |faulty: &Faulty, method| faulty.seen().of(method).len();
        assert_eq!((asked(&without, "prompts/list"), asked(&without, "resources/list")), (0, 0), "{mode:?}");

        wait_for("the stream of announcements", STATE_DEADLINE, || async { faulty.open_streams() > 0 }).await;
        faulty.behave(|it| {
            it.prompts = Some(ProtocolFault::Result(ONE_PROMPT.into()));
            it.resources = Some(ProtocolFault::Result(NO_RESOURCES.into()));
        });
        faulty.announce_list("prompts").await;
        come_to_be(&stack, "a", [1, 1, 2]).await;
        faulty.announce_list("resources").await;
        come_to_be(&stack, "a", [1, 0, 2]).await;
        assert_eq!(asked(&faulty, "prompts/list"), 2, "{mode:?}: only what has changed is read again");
    };
    join_all([FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern].map(one)).await;
}

#[tokio::test]
async fn prompts_that_cannot_be_listed_cost_nothing_but_themselves() {
    let one = async |mode| {
        let faulty = Faulty::start(mode).await;
        faulty.behave(|it| {
            it.prompts = Some(ProtocolFault::Error(r#"{"code":-32603,"message":"hunter2"}"#.into()));
            it.resources = Some(ProtocolFault::Never);
        });
        let stack = Stack::ready([server("a", &faulty)]).await;
        assert_eq!(stack.call("echo").await.status, 200, "{mode:?}");
        wait_for("what is wrong", STATE_DEADLINE, || async {
            let view = stack.server("a").await;
            let wanted = json!("cannot list its prompts: it answers with JSON-RPC error -32603");
            if (&view["last_error"], &view["reason"]) == (&wanted, &json!("ListFailed")) { Ok(()) } else { Err(view) }
        })
        .await;
        assert_eq!((&stack.server("a").await["state"], others(&stack, "a").await), (&json!("ready"), [0, 0, 0]));
        faulty.behave(|it| it.prompts = Some(ProtocolFault::Result(ONE_PROMPT.into())));
        come_to_be(&stack, "a", [1, 0, 0]).await;
    };
    join_all([FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern].map(one)).await;
}

#[tokio::test]
async fn numbers_of_tools_that_are_gone_end() {
    let faulty = Faulty::with_tools(FaultyMode::Streamable, vec![Tool::echo("first"), Tool::echo("stays")]).await;
    let stack = Stack::ready([server("a", &faulty)]).await;
    for tool in ["first", "stays", "stays"] {
        assert_eq!(stack.call(tool).await.status, 200);
    }
    let count = async |tool: &str| {
        let tool = format!(r#"tool="{tool}""#);
        stack.metric("portcullis_tool_calls_total", &[r#"server="a""#, r#"outcome="ok""#, &tool]).await
    };
    assert!((count("first").await - 1.0).abs() < 0.1 && (count("stays").await - 2.0).abs() < 0.1);
    for round in 0..5 {
        let name = format!("round-{round}");
        faulty.change_tools(vec![Tool::echo(&name), Tool::echo("stays")]).await;
        stack.works(&name).await;
    }
    assert!(count("first").await.abs() < 0.1 && count("round-3").await.abs() < 0.1);
    assert!(count("round-4").await > 0.5 && (count("stays").await - 2.0).abs() < 0.1);
}
