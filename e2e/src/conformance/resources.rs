//! The resources.

use rmcp::ErrorData;
use rmcp::model::{ReadResourceResponse, ReadResourceResult};
use serde_json::{Value, json};

use super::result;
use super::tools::PNG;

/// The resource that changes.
pub(super) const WATCHED: &str = "test://watched-resource";

/// The resources that are listed.
pub(super) fn all() -> Value {
    json!([
        {"uri": "test://static-text", "name": "static-text", "description": "A text", "mimeType": "text/plain"},
        {"uri": "test://static-binary", "name": "static-binary", "description": "An image", "mimeType": "image/png"},
        {"uri": WATCHED, "name": "watched-resource", "description": "A text that changes", "mimeType": "text/plain"},
    ])
}

/// The one template.
pub(super) fn templates() -> Value {
    json!([{
        "uriTemplate": "test://template/{id}/data", "name": "template", "description": "Data by id",
        "mimeType": "application/json",
    }])
}

/// Reads a resource; `changes` is what the watched one tells.
pub(super) fn read(uri: &str, changes: u64) -> Result<ReadResourceResponse, ErrorData> {
    let text = |kind: &str, text: String| json!({"uri": uri, "mimeType": kind, "text": text});
    let content = match uri {
        "test://static-text" => text("text/plain", "This is the content of the static text resource.".into()),
        "test://static-binary" => json!({"uri": uri, "mimeType": "image/png", "blob": PNG}),
        WATCHED => text("text/plain", format!("It has changed {changes} times.")),
        _ => {
            let id = uri.strip_prefix("test://template/").and_then(|rest| rest.strip_suffix("/data"));
            let id = id
                .ok_or_else(|| ErrorData::resource_not_found("there is no such resource", Some(json!({"uri": uri}))))?;
            let data = json!({"id": id, "templateTest": true, "data": format!("Data for ID: {id}")});
            text("application/json", data.to_string())
        }
    };
    Ok(result::<ReadResourceResult>(json!({"contents": [content]})).into())
}
