//! Schemas and other members of definitions for which strict clients refuse a whole list: one tool costs nobody else.

use portcullis_e2e::faulty::{Faulty, FaultyMode, Tool};
use serde_json::{Value, json};

use crate::stack::{Stack, server};

/// The listed tools of a server whose tools have these members, with its state.
async fn listed(mode: FaultyMode, tools: Vec<Tool>) -> (Value, Value) {
    let (faulty, other) =
        (Faulty::with_tools(mode, tools).await, Faulty::with_tools(mode, vec![Tool::echo("other")]).await);
    let stack = Stack::ready([server("a", &faulty), server("b", &other)]).await;
    assert!(stack.tools().await.contains(&"other".to_owned()));
    (stack.listing("a").await, stack.server("a").await)
}

#[tokio::test]
async fn schemas_that_clients_refuse_are_shown_in_an_equal_form_where_there_is_one() {
    let output = r#""outputSchema":{"type":"object","properties":{"version":{"type":"string","pattern":"(?P<major>[0-9]+)"},"any":true}}"#;
    let tools = vec![
        Tool::echo("create_rule").schema(
            r#"{"type":"object","properties":{"data":true,"none":null,"never":false,"uid":{"type":"string"}}}"#,
        ),
        Tool::echo("version").with(output),
    ];
    for mode in [FaultyMode::Streamable, FaultyMode::Modern] {
        let (tools, state) = listed(mode, tools.clone()).await;
        let properties = json!({"data": {}, "none": {}, "never": {"not": {}}, "uid": {"type": "string"}});
        assert_eq!(tools["create_rule"]["inputSchema"], json!({"type": "object", "properties": properties}));
        let properties = json!({"version": {"type": "string", "pattern": "(?<major>[0-9]+)"}, "any": {}});
        assert_eq!(tools["version"]["outputSchema"], json!({"type": "object", "properties": properties}));
        assert_eq!((&state["tools_left_out"], &state["list_problems"]), (&json!(0), &json!([])));
    }
}

#[tokio::test]
async fn what_has_no_such_form_is_left_out_counted_and_named() {
    let tools = vec![
        Tool::echo("pattern").with(r#""outputSchema":{"type":"object","properties":{"v":{"pattern":"(?i)a"}}}"#),
        Tool::echo("reference")
            .with(r##""outputSchema":{"type":"object","properties":{"v":{"$ref":"#/$defs/none"}}}"##),
        Tool::echo("number").schema(r#"{"type":"object","properties":{"n":{"type":"int"},"m":{"type":"string"}}}"#),
        Tool::echo("wrong").with(r#""title":7,"icons":"a.png","annotations":{"readOnlyHint":"yes"},"_meta":[]"#),
        Tool::echo("list").schema(r#"{"type":"array"}"#),
    ];
    let (tools, state) = listed(FaultyMode::Streamable, tools).await;
    assert_eq!(tools["pattern"].get("outputSchema"), None);
    assert_eq!(tools["reference"].get("outputSchema"), None);
    let schema = json!({"type": "object", "properties": {"n": {}, "m": {"type": "string"}}});
    assert_eq!(tools["number"]["inputSchema"], schema);
    let wrong = tools["wrong"].as_object().expect("it is listed");
    assert_eq!(wrong["annotations"], json!({}));
    assert!(["title", "icons", "_meta"].iter().all(|member| !wrong.contains_key(*member)), "{wrong:?}");
    assert_eq!((&tools["list"], &state["tools_left_out"]), (&Value::Null, &json!(1)));
    let problems = json!([
        "tool \"pattern\" is shown without this: outputSchema, in which outputSchema.properties.v.pattern is not a regular expression that clients can compile (ECMAScript)",
        "tool \"reference\" is shown without this: outputSchema, in which outputSchema.properties.v.$ref refers to something that is not in the schema",
        "tool \"number\" is shown without this: inputSchema.properties.n.type is not a type of JSON Schema",
        "tool \"wrong\" is shown without this: title is not a string",
        "tool \"wrong\" is shown without this: icons is not a list",
        "tool \"wrong\" is shown without this: annotations.readOnlyHint is neither true nor false",
        "tool \"wrong\" is shown without this: _meta is not an object",
        "tool \"list\" is left out: inputSchema does not describe an object: its type must be \"object\"",
    ]);
    assert_eq!((&state["list_problems"], &state["list_problems_count"]), (&problems, &json!(8)));
}

#[tokio::test]
async fn endless_problems_are_counted_and_the_first_are_named() {
    let tools = (0..100).map(|n| Tool::echo(&format!("t{n}")).with(r#""title":7"#)).collect();
    let faulty = Faulty::with_tools(FaultyMode::Streamable, tools).await;
    let stack = Stack::ready([server("a", &faulty)]).await;
    let state = stack.server("a").await;
    assert_eq!(state["list_problems"].as_array().map(Vec::len), Some(16));
    assert_eq!((&state["list_problems_count"], &state["tools_count"]), (&json!(100), &json!(100)));
    assert!((stack.metric("portcullis_list_problems", &[r#"server="a""#]).await - 100.0).abs() < 0.5);
    // They end with what was wrong.
    faulty.change_tools(vec![Tool::echo("good")]).await;
    stack.until("a", "without problems", |it| it["list_problems_count"] == 0).await;
}
