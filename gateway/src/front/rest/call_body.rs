//! The bodies of `POST /tools`: read once, arguments left as they are; and the older proxy's shape of an answer.
//!
//! Pure.

use std::borrow::Cow;

use portcullis_mcp::protocol::json::{Members, NoObject, Raw, text};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::front::http::error::BadCall;

/// The body of `POST /tools`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CallBody<'a> {
    /// Name of the tool.
    pub(crate) method: Cow<'a, str>,
    /// The arguments: the bytes of a JSON object.
    pub(crate) args: &'a str,
    /// The server the caller prefers, by name or URL.
    pub(crate) server: Option<Cow<'a, str>>,
    /// The view whose tool it is.
    pub(crate) view: Option<Cow<'a, str>>,
}

/// Reads the body of `POST /tools`. Unknown members are passed over.
///
/// # Errors
/// See [`BadCall`].
pub(crate) fn read_call(body: &[u8]) -> Result<CallBody<'_>, BadCall> {
    let body = body.trim_ascii();
    if body.is_empty() {
        return Err(BadCall::Empty);
    }
    let text_of_body = std::str::from_utf8(body).map_err(|_| syntax(body))?;
    let members = Members::read(text_of_body).map_err(|problem| match problem {
        NoObject::Syntax => syntax(body),
        NoObject::Kind => BadCall::NotAnObject,
        NoObject::Twice => BadCall::Twice,
        NoObject::TooMany => BadCall::TooMany,
    })?;
    // Null counts as absent: serializers of several languages write it for what is not there.
    let given = |name| members.get(name).filter(|raw| !raw.is_null());
    let method = text(given("method").ok_or(BadCall::NoMethod)?).ok_or(BadCall::Method)?;
    if method.is_empty() {
        return Err(BadCall::Method);
    }
    let args = given("args").map_or("{}", Raw::get);
    if !args.starts_with('{') {
        return Err(BadCall::Args);
    }
    let server = given("server").map(|raw| text(raw).ok_or(BadCall::Server)).transpose()?;
    let view = given("view").map(|raw| text(raw).ok_or(BadCall::View)).transpose()?;
    Ok(CallBody { method, args, server, view })
}

/// The place at which a body stops being JSON.
fn syntax(body: &[u8]) -> BadCall {
    let (line, column) = serde_json::from_slice::<serde::de::IgnoredAny>(body)
        .map_or_else(|error| (error.line(), error.column()), |_| (1, 1));
    BadCall::Syntax { line, column }
}

/// One item of a result's `content`.
#[derive(Deserialize)]
struct ContentItem<'a> {
    #[serde(rename = "type", borrow)]
    kind: Option<&'a RawValue>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct ResultContent<'a> {
    #[serde(borrow, default)]
    content: Vec<&'a RawValue>,
}

/// The older proxy's answer: the items of `content` without their wrapping.
///
/// Text that parses as JSON stands for itself, other text is a JSON string, any other item is its JSON object. A
/// single plain text is a bare string, everything else an array. `None` if the result has no such form.
pub(crate) fn unwrapped_value(result: &[u8]) -> Option<String> {
    let content: ResultContent<'_> = serde_json::from_slice(result).ok()?;
    let mut parts = Vec::with_capacity(content.content.len());
    let mut plain_texts = 0;
    for item in &content.content {
        let (part, plain) = unwrapped_item(item)?;
        plain_texts += usize::from(plain);
        parts.push(part);
    }
    match parts.as_slice() {
        [only] if plain_texts == 1 => Some(only.clone()),
        _ => Some(format!("[{}]", parts.join(","))),
    }
}

/// An item, and whether it is plain text.
fn unwrapped_item(item: &RawValue) -> Option<(String, bool)> {
    let parsed: ContentItem<'_> = serde_json::from_str(item.get()).ok()?;
    let is_text = parsed.kind.is_some_and(|kind| kind.get() == r#""text""#);
    let Some(raw) = parsed.text.filter(|_| is_text) else { return Some((item.get().to_owned(), false)) };
    // Text with half of a surrogate pair is no Unicode: it stays as it was written.
    let Some(text) = text(raw.into()) else { return Some((raw.get().to_owned(), true)) };
    match serde_json::from_str::<&RawValue>(&text) {
        Ok(json) => Some((json.get().to_owned(), false)),
        Err(_) => Some((raw.get().to_owned(), true)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn call<'a>(method: &'a str, args: &'a str, server: Option<&'a str>) -> Result<CallBody<'a>, BadCall> {
        Ok(CallBody { method: method.into(), args, server: server.map(Cow::Borrowed), view: None })
    }

    #[test]
    fn bodies_are_read_or_refused_with_a_reason() {
        let cases = [
            (r#"{"method":"t"}"#, call("t", "{}", None)),
            (r#" {"args": {"a" : 1.10}, "method":"t","server":"s"} "#, call("t", r#"{"a" : 1.10}"#, Some("s"))),
            (
                r#"{"method":"t","args":{"a":1,"a":2,"s":"\ud800"},"more":[1]}"#,
                call("t", r#"{"a":1,"a":2,"s":"\ud800"}"#, None),
            ),
            (r#"{"method":"t","server":null,"args":null,"more":null}"#, call("t", "{}", None)),
            (r#"{"m\u0065thod":"\u0074"}"#, call("t", "{}", None)),
            ("", Err(BadCall::Empty)),
            (" \n", Err(BadCall::Empty)),
            ("{", Err(BadCall::Syntax { line: 1, column: 1 })),
            ("x", Err(BadCall::Syntax { line: 1, column: 1 })),
            (r#"{"method":"t"} x"#, Err(BadCall::Syntax { line: 1, column: 16 })),
            ("[]", Err(BadCall::NotAnObject)),
            ("7", Err(BadCall::NotAnObject)),
            ("{}", Err(BadCall::NoMethod)),
            (r#"{"Method":"t"}"#, Err(BadCall::NoMethod)),
            (r#"{"method":7}"#, Err(BadCall::Method)),
            (r#"{"method":null}"#, Err(BadCall::NoMethod)),
            (r#"{"method":""}"#, Err(BadCall::Method)),
            (r#"{"method":"\ud800"}"#, Err(BadCall::Method)),
            (r#"{"method":"t","args":[]}"#, Err(BadCall::Args)),
            (r#"{"method":"t","args":"{}"}"#, Err(BadCall::Args)),
            (r#"{"method":"t","server":7}"#, Err(BadCall::Server)),
            (r#"{"method":"t","view":7}"#, Err(BadCall::View)),
            (r#"{"method":"t","method":"u"}"#, Err(BadCall::Twice)),
            (r#"{"method":"t","x":1,"x":1}"#, Err(BadCall::Twice)),
            (r#"{"method":"t","m\u0065thod":"u"}"#, Err(BadCall::Twice)),
        ];
        for (body, expected) in cases {
            assert_eq!(read_call(body.as_bytes()), expected, "{body}");
        }
        assert!(matches!(read_call(b"{\"method\":\"\xff\"}"), Err(BadCall::Syntax { .. })));
    }

    #[test]
    fn deep_arguments_are_passed_on() {
        let args = format!(r#"{{"a":{}1{}}}"#, "[".repeat(50_000), "]".repeat(50_000));
        let body = format!(r#"{{"method":"t","args":{args}}}"#);
        assert_eq!(read_call(body.as_bytes()), call("t", &args, None));
    }

    #[test]
    fn results_are_unwrapped_as_the_older_proxy_did() {
        let cases = [
            (r#"{"content":[{"type":"text","text":"hi"}]}"#, r#""hi""#),
            (r#"{"content":[{"type":"text","text":"{\"a\": 1.10}"}]}"#, r#"[{"a": 1.10}]"#),
            (r#"{"content":[{"type":"text","text":"a"},{"type":"text","text":"7"}]}"#, r#"["a",7]"#),
            (r#"{"content":[{"type":"image","data":"x"}]}"#, r#"[{"type":"image","data":"x"}]"#),
            (r#"{"content":[]}"#, "[]"),
            (r#"{"isError":true,"content":[{"type":"text","text":"no"}]}"#, r#""no""#),
            (r#"{"content":[{"type":"text","text":"\ud800"}]}"#, r#""\ud800""#),
            (r#"{}"#, "[]"),
        ];
        for (result, expected) in cases {
            assert_eq!(unwrapped_value(result.as_bytes()).as_deref(), Some(expected), "{result}");
        }
        assert_eq!(unwrapped_value(br#"{"content":7}"#), None);
        assert_eq!(unwrapped_value(br#"{"content":["x"]}"#), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(body in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = read_call(&body);
            let _ = unwrapped_value(&body);
        }

        #[test]
        fn arguments_come_out_as_they_went_in(args in "\\{(\"[a-z]\": ?(-?(0|[1-9][0-9]{0,25})|\"[ -!#-\\[\\]-~]{0,9}\"|\\[\\])(, ?\"[a-z]\":null)?)?\\}") {
            let body = format!(r#"{{"method":"t","args":{args}}}"#);
            let expected = call("t", &args, None);
            prop_assert_eq!(read_call(body.as_bytes()), expected);
        }
    }
}
