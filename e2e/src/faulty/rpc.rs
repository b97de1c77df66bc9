//! JSON-RPC as text: the envelope is read raw and written by hand, so that nothing is tidied up on the way.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::value::RawValue;

/// A message of the caller; everything but the method is raw.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct RpcMessage {
    pub(super) id: Option<Box<RawValue>>,
    pub(super) method: Option<String>,
    #[serde(default)]
    pub(super) params: Option<Box<RawValue>>,
    /// Whose credential came with it.
    #[serde(skip)]
    pub(super) caller: String,
}

/// The parameters that matter here.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct RpcParams {
    pub(super) name: Option<String>,
    pub(super) uri: Option<String>,
    pub(super) arguments: Option<Box<RawValue>>,
    pub(super) cursor: Option<String>,
    #[serde(rename = "requestId")]
    pub(super) request_id: Option<Box<RawValue>>,
    #[serde(rename = "protocolVersion")]
    pub(super) version: Option<String>,
    #[serde(rename = "_meta", default)]
    pub(super) meta: HashMap<String, Box<RawValue>>,
}

impl RpcMessage {
    pub(super) fn read(body: &[u8]) -> Option<Self> {
        serde_json::from_slice(body).ok()
    }

    pub(super) fn id(&self) -> Option<&str> {
        self.id.as_deref().map(RawValue::get)
    }

    pub(super) fn method(&self) -> &str {
        self.method.as_deref().unwrap_or_default()
    }

    pub(super) fn params(&self) -> RpcParams {
        self.params.as_deref().and_then(|raw| serde_json::from_str(raw.get()).ok()).unwrap_or_default()
    }
}

impl RpcParams {
    /// A string in `_meta`.
    pub(super) fn meta_text(&self, key: &str) -> Option<String> {
        self.meta.get(key).and_then(|raw| serde_json::from_str(raw.get()).ok())
    }
}

pub(super) fn result(id: &str, result: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{result}}}"#)
}

pub(super) fn error(id: &str, error: &str) -> String {
    format!(r#"{{"jsonrpc":"2.0","id":{id},"error":{error}}}"#)
}

pub(super) fn error_of(id: &str, code: i64, message: &str) -> String {
    error(id, &format!(r#"{{"code":{code},"message":"{message}"}}"#))
}

/// Whether a message of ours is an error.
pub(super) fn is_error(text: &str) -> bool {
    text.contains(r#","error":{"#)
}
