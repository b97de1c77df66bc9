//! Identifies the request that an oversized message answers, by the start and the end of its text.
//!
//! Pure. Text of callers and tools is nested inside members, which are not searched.

use super::message::number;

/// The kind of a message, by its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Large {
    /// An answer, to this request if the id precedes the rest.
    Answer(Option<u64>),
    /// A request or notification of the server.
    Other,
    /// Undecidable.
    Unknown,
}

impl Large {
    /// Classifies a message by its start.
    pub(super) fn of_head(head: &[u8]) -> Self {
        let mut id = None;
        let mut rest = match skip_space(head) {
            [b'{', rest @ ..] => rest,
            _ => return Self::Unknown,
        };
        while let Some((key, after)) = string(skip_space(rest)) {
            let [b':', value @ ..] = skip_space(after) else { return Self::Unknown };
            let value = skip_space(value);
            match key {
                b"method" => return Self::Other,
                b"result" | b"error" => return Self::Answer(id),
                _ => {}
            }
            let Some((text, after)) = scalar(value) else { return Self::Unknown };
            if key == b"id" {
                id = std::str::from_utf8(text).ok().and_then(number);
            }
            let [b',', next @ ..] = skip_space(after) else { return Self::Unknown };
            rest = next;
        }
        Self::Unknown
    }

    /// The request that the message answers, by its end: if the id, or `jsonrpc` and the id, are its last members.
    pub(super) fn id_in_tail(tail: &[u8]) -> Option<u64> {
        let tail = std::str::from_utf8(&tail[tail.iter().rposition(|byte| !byte.is_ascii()).map_or(0, |at| at + 1)..]);
        let tail = tail.ok()?.trim_end().strip_suffix('}')?.trim_end();
        let tail = match last_member(tail)? {
            (rest, "jsonrpc", "\"2.0\"") => rest.trim_end(),
            _ => tail,
        };
        match last_member(tail)? {
            (_, "id", value) => number(value),
            _ => None,
        }
    }
}

/// The last member of an object, if its value contains no comma, and the text before it.
fn last_member(text: &str) -> Option<(&str, &str, &str)> {
    let (rest, member) = text.rsplit_once(',')?;
    let (key, value) = member.split_once(':')?;
    let key = key.trim().strip_prefix('"')?.strip_suffix('"')?;
    Some((rest, key, value.trim()))
}

fn skip_space(text: &[u8]) -> &[u8] {
    text.trim_ascii_start()
}

/// The string at the start of the text, as written, and the text after it.
fn string(text: &[u8]) -> Option<(&[u8], &[u8])> {
    let [b'"', rest @ ..] = text else { return None };
    let mut escaped = false;
    for (at, byte) in rest.iter().enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => return Some((&rest[..at], &rest[at + 1..])),
            _ => {}
        }
    }
    None
}

/// The string, number or word at the start of the text, and the text after it.
fn scalar(text: &[u8]) -> Option<(&[u8], &[u8])> {
    match text {
        [b'"', ..] => string(text).map(|(inner, after)| (&text[..inner.len() + 2], after)),
        [b'{' | b'[', ..] => None,
        _ => {
            let end = text.iter().position(|byte| matches!(byte, b',' | b'}') || byte.is_ascii_whitespace())?;
            Some(text.split_at(end))
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_begin_of_a_message_tells_whose_answer_it_is() {
        let table = [
            (r#"{"jsonrpc":"2.0","id":7,"result":{"content":[{"id":8"#, Large::Answer(Some(7))),
            (r#" { "id" : "7" , "error" : {"#, Large::Answer(Some(7))),
            (r#"{"jsonrpc":"2.0","result":{"id":8,"#, Large::Answer(None)),
            (r#"{"id":"s","result":"x"#, Large::Answer(None)),
            (r#"{"jsonrpc":"2.0","id":7,"method":"sampling/createMessage","params":{"#, Large::Other),
            (r#"{"method":"notifications/message","params":{"#, Large::Other),
            (r#"{"jsonrpc":"2.0","id":7"#, Large::Unknown),
            (r#"{"x":{"id":7,"result":1"#, Large::Unknown),
            (r#"[{"id":7,"result":"#, Large::Unknown),
            ("xxxxxxxx", Large::Unknown),
            ("", Large::Unknown),
        ];
        for (head, expected) in table {
            assert_eq!(Large::of_head(head.as_bytes()), expected, "{head}");
        }
    }

    #[test]
    fn the_end_of_a_message_tells_whose_answer_it_is_but_not_what_stands_inside() {
        let table = [
            (r#"xxx"}]},"id":7}"#, Some(7)),
            ("xé\u{1f600}\"}]} , \"id\" : \"7\" }\n", Some(7)),
            (r#"xxx"}]},"id":7,"jsonrpc":"2.0"}"#, Some(7)),
            (r#"xxx"}]},"jsonrpc":"2.0","id":7}"#, Some(7)),
            (r#"xxx","id":7}}"#, None),
            (r#"xxx,\"id\":7"}"#, None),
            (r#"xxx"}]},"jsonrpc":"2.0"}"#, None),
            (r#"xxx"}]},"id":7"#, None),
            ("", None),
        ];
        for (tail, expected) in table {
            assert_eq!(Large::id_in_tail(tail.as_bytes()), expected, "{tail}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = (Large::of_head(&text), Large::id_in_tail(&text));
        }

        #[test]
        fn of_a_valid_answer_both_ends_tell_the_same(id in 0u64..1 << 31, inner in "[a-z,:{}\"\\\\ ]{0,20}") {
            let inner = serde_json::to_string(&inner).unwrap();
            let first = format!(r#"{{"jsonrpc":"2.0","id":{id},"result":{{"text":{inner}}}}}"#);
            prop_assert_eq!(Large::of_head(first.as_bytes()), Large::Answer(Some(id)));
            prop_assert_eq!(Large::id_in_tail(first.as_bytes()), None);
            let last = format!(r#"{{"jsonrpc":"2.0","result":{{"text":{inner}}},"id":{id}}}"#);
            prop_assert_eq!(Large::of_head(last.as_bytes()), Large::Answer(None));
            prop_assert_eq!(Large::id_in_tail(last.as_bytes()), Some(id));
        }
    }
}
