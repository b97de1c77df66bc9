//! Mirrors arguments that a tool's schema marks with `x-mcp-header` into headers (revision 2026-07-28).
//!
//! Pure. Source of the rules: MCP 2026-07-28, streamable HTTP, "Custom headers from tool parameters".

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName, HeaderValue};
use serde_json::{Map, Value};

/// The limit for the marks of a tool: each becomes a header of every call.
pub const MOST_MARKS: usize = 64;

/// An argument that is mirrored into a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParamHeader {
    /// `mcp-param-NAME`.
    pub name: HeaderName,
    /// The chain of property names that leads to it.
    pub(crate) path: Vec<String>,
}

/// Finds the mirrored arguments of a tool with this input schema.
///
/// # Errors
/// The problem of a mark: such a tool must not be offered.
pub fn param_headers(schema: &Value) -> Result<Vec<ParamHeader>, &'static str> {
    let mut found = Vec::new();
    let mut marks = 0;
    count_marks(schema, &mut marks);
    if marks > MOST_MARKS {
        return Err("there are more than 64 x-mcp-header marks");
    }
    if marks > 0 {
        collect(schema, &mut Vec::new(), &mut found)?;
    }
    if found.len() < marks {
        return Err("an x-mcp-header mark is not on a property that can be reached by properties alone");
    }
    Ok(found)
}

fn count_marks(schema: &Value, marks: &mut usize) {
    match schema {
        Value::Object(members) => {
            *marks += usize::from(members.contains_key("x-mcp-header"));
            members.values().for_each(|member| count_marks(member, marks));
        }
        Value::Array(items) => items.iter().for_each(|item| count_marks(item, marks)),
        _ => {}
    }
}

fn collect(schema: &Value, path: &mut Vec<String>, found: &mut Vec<ParamHeader>) -> Result<(), &'static str> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Ok(()) };
    for (key, property) in properties {
        path.push(key.clone());
        if let Some(mark) = property.get("x-mcp-header") {
            let header = mark_header(mark, property)?;
            if found.iter().any(|other: &ParamHeader| other.name == header) {
                return Err("two properties have the same x-mcp-header");
            }
            found.push(ParamHeader { name: header, path: path.clone() });
        }
        collect(property, path, found)?;
        path.pop();
    }
    Ok(())
}

fn mark_header(mark: &Value, property: &Value) -> Result<HeaderName, &'static str> {
    let name = mark.as_str().filter(|name| !name.is_empty()).ok_or("an x-mcp-header is not a name")?;
    if !matches!(property.get("type").and_then(Value::as_str), Some("string" | "integer" | "boolean" | "number")) {
        return Err("an x-mcp-header mark is on a property that is not a string, integer or boolean");
    }
    HeaderName::from_bytes(format!("mcp-param-{name}").as_bytes()).map_err(|_| "an x-mcp-header is not a header name")
}

/// Writes the mirrored arguments of a call into `headers`.
pub fn mirror(params: &[ParamHeader], arguments: &str, headers: &mut HeaderMap) {
    let Ok(arguments) = serde_json::from_str::<Map<String, Value>>(arguments) else { return };
    for param in params {
        let mut value = arguments.get(&param.path[0]);
        for key in &param.path[1..] {
            value = value.and_then(|value| value.get(key));
        }
        let text = match value {
            Some(Value::String(text)) => encode_value(text),
            Some(Value::Number(number)) => number.to_string(),
            Some(Value::Bool(yes)) => yes.to_string(),
            _ => continue,
        };
        if let Ok(value) = HeaderValue::from_str(&text) {
            headers.insert(param.name.clone(), value);
        }
    }
}

/// Encodes a value for a header: verbatim, or in Base64 between `=?base64?` and `?=`.
pub(crate) fn encode_value(text: &str) -> String {
    let plain = text.bytes().all(|b| (0x20..0x7f).contains(&b) || b == b'\t') && text.trim() == text;
    let sentinel = text.starts_with("=?base64?") && text.ends_with("?=");
    if plain && !sentinel { text.to_owned() } else { format!("=?base64?{}?=", STANDARD.encode(text)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_are_encoded_as_the_specification_shows() {
        let cases = [
            ("us-west1", "us-west1"),
            ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
            (" padded ", "=?base64?IHBhZGRlZCA=?="),
            ("line1\nline2", "=?base64?bGluZTEKbGluZTI=?="),
            ("=?base64?literal?=", "=?base64?PT9iYXNlNjQ/bGl0ZXJhbD89?="),
        ];
        for (value, encoded) in cases {
            assert_eq!(encode_value(value), encoded);
        }
    }

    #[test]
    fn marked_arguments_become_headers() {
        let schema = json!({"type": "object", "properties": {
            "region": {"type": "string", "x-mcp-header": "Region"},
            "deep": {"type": "object", "properties": {"n": {"type": "integer", "x-mcp-header": "N"}}},
            "absent": {"type": "boolean", "x-mcp-header": "Absent"},
        }});
        let params = param_headers(&schema).unwrap();
        let mut headers = HeaderMap::new();
        mirror(&params, r#"{"region":"eu","deep":{"n":-7},"absent":null}"#, &mut headers);
        let mut expected = HeaderMap::new();
        expected.insert("mcp-param-region", HeaderValue::from_static("eu"));
        expected.insert("mcp-param-n", HeaderValue::from_static("-7"));
        assert_eq!(headers, expected);
    }

    #[test]
    fn bad_marks_are_refused() {
        let property = |mark: Value| json!({"properties": {"a": mark}});
        let bad = [
            property(json!({"type": "string", "x-mcp-header": ""})),
            property(json!({"type": "string", "x-mcp-header": "a b"})),
            property(json!({"type": "string", "x-mcp-header": 7})),
            property(json!({"type": "object", "x-mcp-header": "A"})),
            property(json!({"items": {"type": "string", "x-mcp-header": "A"}})),
            json!({"properties": {"a": {"type": "string", "x-mcp-header": "X"}, "b": {"type": "string", "x-mcp-header": "x"}}}),
            json!({"anyOf": [{"properties": {"a": {"type": "string", "x-mcp-header": "A"}}}]}),
        ];
        for schema in bad {
            assert!(param_headers(&schema).is_err(), "{schema}");
        }
        assert_eq!(param_headers(&json!({"type": "object"})), Ok(vec![]));
    }
}
