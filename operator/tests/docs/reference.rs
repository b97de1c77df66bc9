//! Writes docs/mcpserver.md and docs/mcpview.md from the definitions of McpServer and McpView.

use serde_json::Value;

const HEAD: &str = "\
# McpServer

<!-- Written by `cargo xtask generate`: change the code, not this file. -->

`mcpservers.portcullis.dev/v1alpha1`, short name `mcpsrv`. `kubectl explain mcpserver.spec` shows the same. One object is
one MCP server behind the gateway; [examples](examples) are ready to be applied.

";

const VIEW_HEAD: &str = "\
# McpView

<!-- Written by `cargo xtask generate`: change the code, not this file. -->

`mcpviews.portcullis.dev/v1alpha1`, short name `mcpv`. `kubectl explain mcpview.spec` shows the same. One object is a selection
of tools, prompts and resources that agents use at an address of its own. A view narrows what callers may use, and never widens
it: what an [access policy](policies.md) denies is not in it. A namespace may have 256 of them; of more, the oldest are served.

";

/// The whole page about McpServer.
pub fn page() -> String {
    page_of(HEAD, &portcullis_crds::crd::yaml())
}

/// The whole page about McpView.
pub fn view_page() -> String {
    page_of(VIEW_HEAD, &portcullis_crds::crd::view_yaml())
}

fn page_of(head: &str, yaml: &str) -> String {
    let definition: Value = serde_yaml::from_str(yaml).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut text = String::from(head);
    for (part, title) in [("spec", "What you write"), ("status", "What you are told")] {
        text.push_str(&format!("## `{part}`: {title}\n\n| field | type | default | meaning |\n|---|---|---|---|\n"));
        fields(&mut text, "", &schema["properties"][part]);
        text.push('\n');
    }
    text.push_str("What the conditions mean is in [troubleshooting](troubleshooting.md).\n\n## Rules\n\n");
    text.push_str(
        "The API server refuses an object that breaks one, with this message:\n\n| where | message |\n|---|---|\n",
    );
    rules(&mut text, "", schema);
    text
}

fn fields(text: &mut String, path: &str, schema: &Value) {
    let required: Vec<&str> = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let (inner, list) = if field["type"] == "array" { (&field["items"], "[]") } else { (field, "") };
        let here = format!("{path}{name}{list}");
        let default = match &field["default"] {
            Value::Null if required.contains(&name.as_str()) => "required".to_owned(),
            Value::Null | Value::Object(_) => String::new(),
            default => format!("`{default}`"),
        };
        let meaning = field["description"].as_str().unwrap_or_default().replace('\n', " ").replace('|', "\\|");
        text.push_str(&format!("| `{here}` | {} | {default} | {meaning} |\n", kind(field, inner)));
        // Conditions are the same for every kind of object.
        if name != "conditions" {
            fields(text, &format!("{here}."), inner);
        }
    }
}

fn kind(field: &Value, inner: &Value) -> String {
    if inner["x-kubernetes-int-or-string"] == true {
        return "number or name".into();
    }
    let choices: Vec<String> =
        inner["enum"].as_array().into_iter().flatten().filter_map(Value::as_str).map(|c| format!("`{c}`")).collect();
    let mut parts = vec![if choices.is_empty() {
        inner["type"].as_str().unwrap_or("object").to_owned()
    } else {
        choices.join(", ")
    }];
    match (inner["minimum"].as_i64(), inner["maximum"].as_i64()) {
        (Some(least), Some(most)) => parts.push(format!("{least} to {most}")),
        (None, Some(most)) => parts.push(format!("at most {most}")),
        _ => {}
    }
    if let Some(most) = inner["maxLength"].as_i64() {
        parts.push(format!("at most {most} characters"));
    }
    if let Some(most) = field["maxItems"].as_i64() {
        parts.push(format!("at most {most} entries"));
    }
    parts.join(", ")
}

fn rules(text: &mut String, path: &str, schema: &Value) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let place = if path.is_empty() { "the object" } else { path };
        text.push_str(&format!(
            "| `{place}` | {} |\n",
            rule["message"].as_str().unwrap_or_default().replace('|', "\\|")
        ));
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let (inner, list) = if field["type"] == "array" { (&field["items"], "[]") } else { (field, "") };
        let here = if path.is_empty() { format!("{name}{list}") } else { format!("{path}.{name}{list}") };
        if std::ptr::eq(inner, field) {
            rules(text, &here, inner);
        } else {
            rules(text, here.trim_end_matches("[]"), &without_properties(field));
            rules(text, &here, inner);
        }
    }
}

/// A list's own rules, apart from those of its entries.
fn without_properties(field: &Value) -> Value {
    serde_json::json!({"x-kubernetes-validations": field["x-kubernetes-validations"]})
}
