//! The tools: their definitions, and those that answer by themselves.
#![expect(deprecated, reason = "logging is part of what is shown")]

use std::time::Duration;

use rmcp::ErrorData;
use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, LoggingLevel,
    LoggingMessageNotificationParam, ProgressNotificationParam,
};
use serde_json::{Value, json};
use tokio::time::sleep;

use super::handler::{ConformanceHandler, Context};
use super::{plan, result, typed};

/// A PNG of one pixel.
pub(super) const PNG: &str =
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
/// A WAV without any sound.
const WAV: &str = "UklGRiYAAABXQVZFZm10IBAAAAABAAEAQB8AAAB9AAACABAAZGF0YQIAAAAAAA==";

/// Between two messages of a tool that sends several.
const STEP_PAUSE: Duration = Duration::from_millis(50);

/// Tools without arguments: names and descriptions.
const PLAIN: [(&str, &str); 24] = [
    ("test_simple_text", "Answers with a text"),
    ("test_image_content", "Answers with an image"),
    ("test_audio_content", "Answers with a sound"),
    ("test_embedded_resource", "Answers with a resource"),
    ("test_multiple_content_types", "Answers with a text, an image and a resource"),
    ("test_error_handling", "Fails"),
    ("test_tool_with_logging", "Sends three log messages before it answers"),
    ("test_tool_with_progress", "Sends its progress three times before it answers"),
    ("test_logging_tool", "Sends one log message before it answers"),
    ("test_missing_capability", "Answers clients that declare sampling"),
    ("test_trigger_tool_change", "Adds a tool or removes it"),
    ("test_trigger_prompt_change", "Adds a prompt or removes it"),
    ("test_trigger_resource_change", "Changes test://watched-resource"),
    ("test_elicitation_sep1034_defaults", "Asks the user for values that have defaults"),
    ("test_elicitation_sep1330_enums", "Asks the user for values of every kind of enumeration"),
    ("test_streaming_elicitation", "Asks the user for a value"),
    ("test_input_required_result_elicitation", "Asks the user for a name"),
    ("test_input_required_result_sampling", "Asks the model for a capital"),
    ("test_input_required_result_list_roots", "Asks the client for its roots"),
    ("test_input_required_result_request_state", "Asks the user to confirm, and has a state handed back"),
    ("test_input_required_result_tampered_state", "Asks the user to confirm, and checks the state handed back"),
    ("test_input_required_result_multiple_inputs", "Asks for three things at once"),
    ("test_input_required_result_multi_round", "Asks for one thing, then for another"),
    ("test_input_required_result_capabilities", "Asks for what the client can give"),
];

/// All tools; one more or one less.
pub(super) fn all(more: bool) -> Vec<Value> {
    let plain = json!({"type": "object", "properties": {}});
    let tool =
        |name: &str, what: &str, schema: &Value| json!({"name": name, "description": what, "inputSchema": schema});
    let mut tools: Vec<Value> = PLAIN.iter().map(|(name, what)| tool(name, what, &plain)).collect();
    tools.push(tool("test_sampling", "Asks the model", &one_text("prompt", "The prompt to send")));
    tools.push(tool("test_elicitation", "Asks the user", &one_text("message", "The message to show")));
    tools.push(tool("json_schema_2020_12_tool", "Has a schema with everything in it", &schema_2020_12()));
    tools.push(tool("test_custom_header", "Answers what a header says too", &mirrored()));
    if more {
        tools.push(tool("test_coming_and_going", "Is here for a while", &plain));
    }
    tools
}

fn one_text(name: &str, what: &str) -> Value {
    let properties = json!({name: {"type": "string", "description": what}});
    json!({"type": "object", "properties": properties, "required": [name]})
}

/// An argument that clients of 2026-07-28 repeat in a header.
fn mirrored() -> Value {
    let properties = json!({"value": {"type": "string", "x-mcp-header": "Value"}});
    json!({"type": "object", "properties": properties, "required": ["value"]})
}

fn schema_2020_12() -> Value {
    let address = json!({"$anchor": "addressDef", "type": "object", "properties": {
        "street": {"type": "string"}, "city": {"type": "string"},
    }});
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "type": "object",
        "$defs": {"address": address},
        "properties": {
            "name": {"type": "string"},
            "address": {"$ref": "#/$defs/address"},
            "contactMethod": {"type": "string", "enum": ["phone", "email"]},
            "phone": {"type": "string"},
            "email": {"type": "string"},
        },
        "allOf": [{"anyOf": [{"required": ["phone"]}, {"required": ["email"]}]}],
        "if": {"properties": {"contactMethod": {"const": "phone"}}, "required": ["contactMethod"]},
        "then": {"required": ["phone"]},
        "else": {"required": ["email"]},
        "additionalProperties": false,
    })
}

/// Calls a tool.
pub(super) async fn call(
    handler: &ConformanceHandler,
    call: CallToolRequestParams,
    context: &Context,
) -> Result<CallToolResponse, ErrorData> {
    if let Some(fixed) = fixed(&call.name) {
        return Ok(result::<CallToolResult>(fixed).into());
    }
    match call.name.as_ref() {
        "test_tool_with_logging" => {
            for message in ["Tool execution started", "Tool processing data", "Tool execution completed"] {
                log(handler, message, context).await?;
                sleep(STEP_PAUSE).await;
            }
        }
        "test_logging_tool" => log(handler, "Tool is called", context).await?,
        "test_tool_with_progress" => progress(context).await?,
        "test_trigger_tool_change" => handler.shared.change_tools().await,
        "test_trigger_prompt_change" => handler.shared.change_prompts().await,
        "test_trigger_resource_change" => handler.shared.change_watched_resource().await,
        "test_missing_capability" => needs_sampling(context)?,
        // The SDK has compared it with the header.
        "test_custom_header" => {
            let value = call.arguments.as_ref().and_then(|arguments| arguments["value"].as_str()).unwrap_or("nothing");
            return Ok(CallToolResult::success(vec![ContentBlock::text(value)]).into());
        }
        _ => return plan::call(handler, &call, context).await,
    }
    Ok(CallToolResult::success(vec![ContentBlock::text(format!("{} is done", call.name))]).into())
}

/// The result of a tool that always answers the same.
fn fixed(name: &str) -> Option<Value> {
    let text = |text: &str| json!({"type": "text", "text": text});
    let image = json!({"type": "image", "data": PNG, "mimeType": "image/png"});
    let resource = |uri: &str, kind: &str, text: &str| json!({"type": "resource", "resource": {"uri": uri, "mimeType": kind, "text": text}});
    let content = match name {
        "test_simple_text" => json!([text("This is a simple text response for testing.")]),
        "test_image_content" => json!([image]),
        "test_audio_content" => json!([{"type": "audio", "data": WAV, "mimeType": "audio/wav"}]),
        "test_embedded_resource" => {
            json!([resource("test://embedded-resource", "text/plain", "This is an embedded resource content.")])
        }
        "test_multiple_content_types" => {
            let data = resource("test://mixed-content-resource", "application/json", r#"{"test":"data","value":123}"#);
            json!([text("Multiple content types test:"), image, data])
        }
        "test_error_handling" => {
            let content = json!([text("This tool intentionally returns an error for testing")]);
            return Some(json!({"content": content, "isError": true}));
        }
        "json_schema_2020_12_tool" | "test_coming_and_going" => json!([text("It was called.")]),
        _ => return None,
    };
    Some(json!({"content": content}))
}

async fn log(handler: &ConformanceHandler, message: &str, context: &Context) -> Result<(), ErrorData> {
    if !handler.logs(LoggingLevel::Info, context) {
        return Ok(());
    }
    let message = LoggingMessageNotificationParam::new(LoggingLevel::Info, json!(message)).with_logger("conforming");
    context.peer.notify_logging_message(message).await.map_err(gone)
}

async fn progress(context: &Context) -> Result<(), ErrorData> {
    let token = context.meta.get_progress_token();
    for done in [0.0, 50.0, 100.0] {
        if let Some(token) = &token {
            let progress = ProgressNotificationParam::new(token.clone(), done).with_total(100.0);
            context.peer.notify_progress(progress).await.map_err(gone)?;
        }
        sleep(STEP_PAUSE).await;
    }
    Ok(())
}

fn needs_sampling(context: &Context) -> Result<(), ErrorData> {
    match context.client_capabilities().unwrap_or_default().sampling {
        Some(_) => Ok(()),
        None => Err(ErrorData::missing_required_client_capability(typed(json!({"sampling": {}})))),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn gone(error: rmcp::ServiceError) -> ErrorData {
    ErrorData::internal_error(error.to_string(), None)
}
