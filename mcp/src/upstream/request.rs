//! Composes the text of a request from parts that are spliced and never decoded.
//!
//! Pure.

use smallvec::SmallVec;

use super::call::Call;

/// The parts of a text, in their order.
pub(super) type Parts<'a> = SmallVec<[&'a str; 24]>;

/// The text of a request with this id. `meta` are members of `_meta`, in parts.
pub(super) fn request<'a>(id: &'a str, call: &Call<'a>, meta: &[&'a str]) -> Parts<'a> {
    let mut parts = Parts::new();
    parts.extend_from_slice(&[r#"{"jsonrpc":"2.0","id":"#, id, r#","method":""#, call.method]);
    parts.push(r#"","params":{"#);
    parts.extend_from_slice(call.params);
    let (has_params, has_meta) = (holds(call.params), holds(meta));
    if call.progress || has_meta {
        parts.push(if has_params { r#","_meta":{"# } else { r#""_meta":{"# });
        parts.extend_from_slice(meta);
        if call.progress {
            parts.push(if has_meta { r#","progressToken":"# } else { r#""progressToken":"# });
            parts.push(id);
        }
        parts.push("}");
    }
    parts.push("}}");
    parts
}

/// The text of a request of 2026-07-28: `_meta` contains everything that a session established in earlier revisions.
pub(super) fn modern_request<'a>(id: &'a str, call: &Call<'a>) -> Parts<'a> {
    const VERSION: &str = concat!(
        r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":"#,
        client_info!(),
        r#","io.modelcontextprotocol/clientCapabilities":"#
    );
    let caller = &call.caller;
    let capabilities = if caller.capabilities.is_empty() { "{}" } else { caller.capabilities };
    let (level_name, level) = match caller.log_level {
        Some(level) => (r#","io.modelcontextprotocol/logLevel":"#, level),
        None => ("", ""),
    };
    let comma = if caller.meta.is_empty() { "" } else { "," };
    request(id, call, &[VERSION, capabilities, level_name, level, comma, caller.meta])
}

fn holds(parts: &[&str]) -> bool {
    parts.iter().any(|part| !part.is_empty())
}

#[cfg(test)]
mod tests {
    use ::http::HeaderMap;

    use super::super::call::CallerMeta;
    use super::*;

    fn call<'a>(params: &'a [&'a str], headers: &'a HeaderMap, progress: bool) -> Call<'a> {
        Call { progress, caller: CallerMeta::default(), ..Call::of_our_own("m", params, headers) }
    }

    #[test]
    fn a_request_is_valid_whatever_it_holds() {
        let none = HeaderMap::new();
        let cases: [(&[&str], bool, &[&str], &str); 6] = [
            (&[], false, &[""], r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{}}"#),
            (&[r#""a":"#, "1"], false, &[], r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":1}}"#),
            (&[""], true, &[], r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{"_meta":{"progressToken":7}}}"#),
            (
                &[r#""a":1"#],
                true,
                &[""],
                r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":1,"_meta":{"progressToken":7}}}"#,
            ),
            (&[], false, &[r#""b":2"#], r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{"_meta":{"b":2}}}"#),
            (
                &[r#""a":1"#],
                true,
                &[r#""b":"#, "2"],
                r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{"a":1,"_meta":{"b":2,"progressToken":7}}}"#,
            ),
        ];
        for (params, progress, meta, expected) in cases {
            assert_eq!(request("7", &call(params, &none, progress), meta).concat(), expected);
        }
    }

    #[test]
    fn a_request_of_the_newest_revision_says_everything_anew() {
        let none = HeaderMap::new();
        let begin = concat!(
            r#"{"jsonrpc":"2.0","id":7,"method":"m","params":{"_meta":{"#,
            r#""io.modelcontextprotocol/protocolVersion":"2026-07-28","io.modelcontextprotocol/clientInfo":"#,
            client_info!(),
            r#","io.modelcontextprotocol/clientCapabilities":"#
        );
        let told = CallerMeta { meta: r#""b":2"#, capabilities: r#"{"sampling":{}}"#, log_level: Some(r#""info""#) };
        let level = r#","io.modelcontextprotocol/logLevel":"info""#;
        let cases = [
            (CallerMeta::default(), r#"{}}}}"#.to_owned()),
            (told, format!(r#"{{"sampling":{{}}}}{level},"b":2}}}}}}"#)),
        ];
        for (caller, end) in cases {
            let call = Call { caller, ..call(&[], &none, false) };
            assert_eq!(modern_request("7", &call).concat(), format!("{begin}{end}"));
        }
    }
}
