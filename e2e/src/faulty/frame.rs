//! Writes server-sent events in any of the ways that the standard allows.

use super::fault::EventFraming;

/// One event. `first` says whether it opens the stream.
pub(super) fn event(framing: &EventFraming, kind: &str, data: &str, first: bool) -> Vec<u8> {
    let mut lines = Vec::new();
    if framing.comments {
        lines.extend([": ping - 2026-01-01 00:00:00".to_owned(), String::new(), "id: 7".into(), "retry: 500".into()]);
    }
    if !(framing.no_event && kind == "message") {
        lines.push(field(framing, "event", kind));
    }
    lines.extend(data_lines(framing, kind, data));
    if framing.comments {
        lines.extend([":".to_owned(), "unknown: field".into()]);
    }
    lines.push(String::new());
    let mark = if framing.bom && first { "\u{feff}" } else { "" };
    let text: String = lines.iter().flat_map(|line| [line.as_str(), framing.line_end]).collect();
    format!("{mark}{text}").into_bytes()
}

/// A JSON object may hold line breaks after its first and before its last brace; an endpoint may hold none.
fn data_lines(framing: &EventFraming, kind: &str, data: &str) -> Vec<String> {
    let inner = data.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
    match inner.filter(|_| framing.multi_line && kind == "message") {
        Some(inner) => ["{", inner, "}"].map(|part| field(framing, "data", part)).into(),
        None => vec![field(framing, "data", data)],
    }
}

fn field(framing: &EventFraming, name: &str, value: &str) -> String {
    let space = if framing.no_space { "" } else { " " };
    format!("{name}:{space}{value}")
}

#[cfg(test)]
mod tests {
    use super::super::fault::EventFraming;
    use super::event;

    fn text(framing: EventFraming, first: bool) -> String {
        String::from_utf8(event(&framing, "message", r#"{"a":1}"#, first)).expect("text")
    }

    #[test]
    fn an_honest_event_looks_like_that_of_the_typescript_sdk() {
        assert_eq!(text(EventFraming::default(), true), "event: message\ndata: {\"a\":1}\n\n");
    }

    #[test]
    fn every_framing_writes_what_its_name_says() {
        let honest = EventFraming::default;
        let table = [
            (EventFraming { line_end: "\r\n", ..honest() }, "event: message\r\ndata: {\"a\":1}\r\n\r\n"),
            (EventFraming { line_end: "\r", ..honest() }, "event: message\rdata: {\"a\":1}\r\r"),
            (EventFraming { bom: true, ..honest() }, "\u{feff}event: message\ndata: {\"a\":1}\n\n"),
            (EventFraming { no_space: true, ..honest() }, "event:message\ndata:{\"a\":1}\n\n"),
            (EventFraming { no_event: true, ..honest() }, "data: {\"a\":1}\n\n"),
            (EventFraming { multi_line: true, ..honest() }, "event: message\ndata: {\ndata: \"a\":1\ndata: }\n\n"),
        ];
        for (framing, wanted) in table {
            assert_eq!(text(framing.clone(), true), wanted, "{framing:?}");
        }
        assert!(text(EventFraming { comments: true, ..honest() }, true).starts_with(": ping"));
    }

    #[test]
    fn a_byte_order_mark_comes_only_first() {
        assert!(!text(EventFraming { bom: true, ..EventFraming::default() }, false).contains('\u{feff}'));
    }
}
