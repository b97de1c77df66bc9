//! The threats that seals withstand: changes, other purposes, other callers, other keys, time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use proptest::prelude::*;

use super::*;
use crate::auth::SubjectId;
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::protocol::revision::Revision;

const FIRST: &str = "k1 qmZ1xqvQb5bJ0g3yZ7fYb0d3yq4w0m0eXo1uYkq3T1A=";
const SECOND: &str = "k2 pX6n0d4hG2vJ8c1sT5yR9wQ3eU7iO0aL6kF4zB2mN8E=";

fn sealer(lines: &[&str]) -> Sealer {
    Sealer::new(Keys::parse(&lines.join("\n")).unwrap())
}

fn alice() -> SubjectId {
    SubjectId::new(Some("https://issuer"), "alice")
}

fn at(seconds: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(seconds)
}

fn session(owner: Option<&str>) -> SealedSession {
    let capabilities = ClientCapabilities::ROOTS.with(ClientCapabilities::ELICITATION_URL);
    let able = (capabilities, Extensions::default());
    SealedSession::new(alice(), Revision::V2025_11_25, able, at(2_000_000_000), owner.map(Into::into))
}

fn state(inner: Inner) -> RequestState {
    RequestState {
        server: "default/a".into(),
        subject: alice(),
        digest: digest("tools/call", "add"),
        expires: at(100),
        inner,
        owner: Some("http://10.0.0.1:5000".into()),
    }
}

#[test]
fn a_session_comes_back_whole_and_its_id_is_short_and_plain() {
    let sealer = sealer(&["a-long-key-id-16 qmZ1xqvQb5bJ0g3yZ7fYb0d3yq4w0m0eXo1uYkq3T1A="]);
    for owner in [None, Some("http://[fd00::1]:5000")] {
        let session = session(owner);
        let id = session.seal(&sealer);
        assert_eq!(SealedSession::open(&sealer, &id, &alice(), at(1_999_999_999)), Ok(session));
        assert!(id.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')), "{id}");
        assert!(id.len() < 160, "{}", id.len());
    }
}

#[test]
fn a_session_keeps_the_extensions_of_its_client_as_far_as_an_id_has_room() {
    const KNOWN: &str = r#""io.modelcontextprotocol/ui":{"mimeTypes":["text/html;profile=mcp-app"]}"#;
    let sealer = Sealer::random();
    let (long, longest) = ("x".repeat(200), "x".repeat(400));
    for (given, kept) in [
        (format!("{{{KNOWN}}}"), format!("{{{KNOWN}}}")),
        (format!(r#"{{"a/b":{{"c":"{long}"}},{KNOWN}}}"#), format!(r#"{{"a/b":{{"c":"{long}"}},{KNOWN}}}"#)),
        (format!(r#"{{"a/b":{{"c":"{longest}"}},{KNOWN}}}"#), format!("{{{KNOWN}}}")),
        (format!(r#"{{"io.modelcontextprotocol/ui":{{"c":"{longest}"}}}}"#), "{}".into()),
    ] {
        let able = (ClientCapabilities::ROOTS, Extensions::from_json(&given));
        let owner = format!("http://{}", "h".repeat(240));
        let session = SealedSession::new(alice(), Revision::V2025_11_25, able, at(2_000_000_000), Some(owner.into()));
        assert_eq!(session.extensions.to_json(), kept);
        let id = session.seal(&sealer);
        assert_eq!(SealedSession::open(&sealer, &id, &alice(), at(1_999_999_999)), Ok(session), "{}", id.len());
    }
}

#[test]
fn two_sessions_of_one_client_differ_and_so_do_two_seals_of_one_session() {
    let sealer = Sealer::random();
    let (one, other) = (session(None), session(None));
    assert_ne!(one.id, other.id);
    assert_ne!(one.seal(&sealer), one.seal(&sealer));
}

#[test]
fn a_session_is_refused_to_another_caller_and_after_its_time() {
    let sealer = sealer(&[FIRST]);
    let id = session(None).seal(&sealer);
    let open = |subject: &SubjectId, now| SealedSession::open(&sealer, &id, subject, at(now)).unwrap_err();
    let others = [(Some("https://issuer"), "bob"), (Some("https://other"), "alice"), (None, "alice"), (None, "")];
    for (issuer, subject) in others {
        assert_eq!(open(&SubjectId::new(issuer, subject), 0), SessionError::OtherSubject);
    }
    assert_eq!(open(&alice(), 2_000_000_000), SessionError::Expired);
    assert_eq!(open(&alice(), u64::from(u32::MAX)), SessionError::Expired);
}

#[test]
fn issuer_and_subject_cannot_be_shifted_into_one_another() {
    let shifted = [("ab", "c"), ("a", "bc"), ("", "abc"), ("abc", ""), ("a\0b", "c"), ("a", "b\0c")];
    let ids: std::collections::HashSet<_> = shifted.iter().map(|(i, s)| SubjectId::new(Some(i), s)).collect();
    assert_eq!(ids.len(), shifted.len());
}

#[test]
fn a_request_state_comes_back_whole() {
    let sealer = sealer(&[FIRST]);
    for inner in [Inner::Nothing, Inner::Server(Vec::new()), Inner::Server(b"\0\xff state".into()), Inner::Suspended(7)]
    {
        let state = state(inner);
        let text = state.seal(&sealer).unwrap();
        assert_eq!(RequestState::open(&sealer, &text, &alice(), &state.digest, at(99)), Ok(state));
    }
}

#[test]
fn a_request_state_is_refused_to_others_for_other_requests_and_after_its_time() {
    let sealer = sealer(&[FIRST]);
    let text = state(Inner::Suspended(1)).seal(&sealer).unwrap();
    let open = |subject: &str, method: &str, name: &str, now| {
        let subject = SubjectId::new(Some("https://issuer"), subject);
        RequestState::open(&sealer, &text, &subject, &digest(method, name), at(now)).unwrap_err()
    };
    assert_eq!(open("bob", "tools/call", "add", 0), RequestStateError::OtherSubject);
    assert_eq!(open("alice", "tools/call", "remove", 0), RequestStateError::OtherRequest);
    assert_eq!(open("alice", "prompts/get", "add", 0), RequestStateError::OtherRequest);
    assert_eq!(open("alice", "tools/call", "add", 100), RequestStateError::Expired);
}

#[test]
fn a_state_that_would_not_be_taken_back_is_not_given_out() {
    let sealer = sealer(&[FIRST]);
    let long = |length| state(Inner::Server(vec![b'x'; length])).seal(&sealer);
    assert_eq!(long(1024 * 1024), Err(StateTooLarge));
    let text = long(700 * 1024).unwrap();
    let opened = RequestState::open(&sealer, &text, &alice(), &digest("tools/call", "add"), at(0));
    assert_eq!(opened.map(|state| state.inner), Ok(Inner::Server(vec![b'x'; 700 * 1024])));
    let server = RequestState { server: "s".repeat(256), ..state(Inner::Nothing) };
    assert_eq!(server.seal(&sealer), Err(StateTooLarge));
}

#[test]
fn one_purpose_never_opens_as_another() {
    let sealer = sealer(&[FIRST]);
    for (one, other) in [(Purpose::Session, Purpose::RequestState), (Purpose::RequestState, Purpose::Session)] {
        let text = sealer.seal(one, b"content");
        assert_eq!(sealer.open(one, &text), Ok(b"content".to_vec()));
        assert_eq!(sealer.open(other, &text), Err(SealError::Forged));
    }
}

#[test]
fn every_flipped_bit_every_cut_and_every_addition_is_refused() {
    let sealer = sealer(&[FIRST, SECOND]);
    let text = session(Some("http://10.0.0.1:5000")).seal(&sealer);
    let bytes = URL_SAFE_NO_PAD.decode(&text).unwrap();
    for (place, bit) in (0..bytes.len()).flat_map(|place| (0..8).map(move |bit| (place, bit))) {
        let mut changed = bytes.clone();
        changed[place] ^= 1 << bit;
        let opened = sealer.open(Purpose::Session, &URL_SAFE_NO_PAD.encode(&changed));
        assert!(opened.is_err(), "byte {place}, bit {bit}");
    }
    for end in 0..bytes.len() {
        assert!(sealer.open(Purpose::Session, &URL_SAFE_NO_PAD.encode(&bytes[..end])).is_err(), "{end}");
    }
    assert!(sealer.open(Purpose::Session, &URL_SAFE_NO_PAD.encode([&bytes[..], &[0]].concat())).is_err());
    for changed in [format!("{text}A"), format!("{text}="), format!(" {text}"), format!("{text}.")] {
        assert!(sealer.open(Purpose::Session, &changed).is_err(), "{changed}");
    }
}

#[test]
fn no_other_spelling_of_a_sealed_text_opens() {
    let sealer = sealer(&[FIRST]);
    let text = sealer.seal(Purpose::Session, b"x");
    let last = *text.as_bytes().last().unwrap();
    let alphabet = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['-', '_']);
    for other in alphabet.filter(|other| *other != char::from(last)) {
        let changed = format!("{}{other}", &text[..text.len() - 1]);
        assert!(sealer.open(Purpose::Session, &changed).is_err(), "{changed}");
    }
}

#[test]
fn keys_are_rotated_without_a_lost_session() {
    let (old, both, swapped, new) =
        (sealer(&[FIRST]), sealer(&[FIRST, SECOND]), sealer(&[SECOND, FIRST]), sealer(&[SECOND]));
    let before = old.seal(Purpose::Session, b"before");
    assert_eq!(both.key_id(), "k1");
    let meanwhile = swapped.seal(Purpose::Session, b"meanwhile");
    for sealer in [&both, &swapped] {
        assert_eq!(sealer.open(Purpose::Session, &before), Ok(b"before".to_vec()));
        assert_eq!(sealer.open(Purpose::Session, &meanwhile), Ok(b"meanwhile".to_vec()));
    }
    assert_eq!(new.open(Purpose::Session, &before), Err(SealError::UnknownKey));
    assert_eq!(old.open(Purpose::Session, &meanwhile), Err(SealError::UnknownKey));
    let clone = old.clone();
    old.replace(Keys::parse(SECOND).unwrap());
    assert_eq!(clone.open(Purpose::Session, &meanwhile), Ok(b"meanwhile".to_vec()));
    assert_eq!((clone.key_id().as_str(), format!("{clone:?}").as_str()), ("k2", r#"Sealer(["k2"])"#));
}

#[test]
fn one_key_id_with_another_key_opens_nothing() {
    let one = sealer(&[FIRST]).seal(Purpose::Session, b"x");
    let other = sealer(&[&SECOND.replace("k2", "k1")]);
    assert_eq!(other.open(Purpose::Session, &one), Err(SealError::Forged));
    let (mine, yours) = (Sealer::random(), Sealer::random());
    assert_eq!(yours.open(Purpose::Session, &mine.seal(Purpose::Session, b"x")), Err(SealError::Forged));
}

#[test]
fn the_id_of_the_key_is_sealed_too() {
    let sealer = sealer(&[FIRST, &FIRST.replace("k1", "k2")]);
    let mut bytes = URL_SAFE_NO_PAD.decode(sealer.seal(Purpose::Session, b"x")).unwrap();
    assert_eq!(bytes[3], b'1');
    bytes[3] = b'2';
    assert_eq!(sealer.open(Purpose::Session, &URL_SAFE_NO_PAD.encode(bytes)), Err(SealError::Forged));
}

#[test]
fn files_of_keys_are_read_and_wrong_ones_are_told_by_their_line() {
    let unpadded = FIRST.trim_end_matches('=');
    let text = format!("# comment\n\n  {unpadded}\r\n{SECOND}\n");
    assert_eq!(Keys::parse(&text).unwrap().ids().collect::<Vec<_>>(), ["k1", "k2"]);
    let zeros = format!("k {}=", "A".repeat(43));
    let many: String = (0..=MAX_KEYS).map(|n| FIRST.replace("k1", &format!("k{n}")) + "\n").collect();
    for (text, expected) in [
        ("", KeysError::None),
        ("# nothing\n \n", KeysError::None),
        ("k1", KeysError::Line(1)),
        (&format!("\n{FIRST} more"), KeysError::Line(2)),
        (&FIRST.replace("k1", "k.1"), KeysError::Id(1)),
        (&FIRST.replace("k1", "abcdefghijklmnopq"), KeysError::Id(1)),
        (&format!("{FIRST}\n{}", SECOND.replace("k2", "k1")), KeysError::Twice(2)),
        ("k1 c2hvcnQ=", KeysError::Key(1)),
        (&format!("{FIRST}!"), KeysError::Key(1)),
        (&zeros, KeysError::Trivial(1)),
        (&many, KeysError::TooMany),
    ] {
        let error = Keys::parse(text).unwrap_err();
        assert_eq!(error, expected, "{text}");
        assert!(!text.contains(&error.to_string()) && !error.to_string().contains("qmZ1"), "{error}");
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics_and_never_opens(text in ".{0,200}", plain in "[A-Za-z0-9_-]{0,200}") {
        let sealer = sealer(&[FIRST]);
        for text in [text.as_str(), plain.as_str()] {
            for purpose in [Purpose::Session, Purpose::RequestState] {
                prop_assert!(sealer.open(purpose, text).is_err());
            }
            prop_assert!(Keys::parse(text).is_err());
        }
    }

    /// Another holder of the keys could be an older or a newer version.
    #[test]
    fn arbitrary_content_under_a_good_seal_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..96)) {
        let sealer = sealer(&[FIRST]);
        let session = sealer.seal(Purpose::Session, &bytes);
        prop_assert!(SealedSession::open(&sealer, &session, &alice(), at(0)).is_err());
        let state = sealer.seal(Purpose::RequestState, &bytes);
        prop_assert!(RequestState::open(&sealer, &state, &alice(), &digest("a", "b"), at(0)).is_err());
    }

    #[test]
    fn every_content_comes_back(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let sealer = sealer(&[FIRST]);
        prop_assert_eq!(sealer.open(Purpose::RequestState, &sealer.seal(Purpose::RequestState, &bytes)), Ok(bytes));
    }
}

#[test]
fn a_task_opens_for_its_caller_alone_and_as_nothing_else() {
    let sealer = Sealer::random();
    let task = TaskId { server: "n/a".into(), subject: alice(), tool: "t".repeat(300), id: "1\u{e9}".into() };
    let text = task.seal(&sealer).unwrap();
    assert_eq!(TaskId::open(&sealer, &text, &alice()), Ok(task.clone()));
    let bob = SubjectId::new(Some("https://issuer"), "bob");
    assert_eq!(TaskId::open(&sealer, &text, &bob), Err(TaskIdError::OtherSubject));
    assert_eq!(TaskId::open(&Sealer::random(), &text, &alice()), Err(TaskIdError::Seal(SealError::Forged)));
    assert_eq!(sealer.open(Purpose::Session, &text), Err(SealError::Forged));
    for text in ["", "1", "tasks-conformance-nonexistent-12345"] {
        assert!(matches!(TaskId::open(&sealer, text, &alice()), Err(TaskIdError::Seal(_))), "{text}");
    }
    for short in [&b""[..], b"\x03n/a", &[3, b'n', b'/', b'a', 0]] {
        let text = sealer.seal(Purpose::Task, short);
        assert_eq!(TaskId::open(&sealer, &text, &alice()), Err(TaskIdError::Layout));
    }
    assert!(TaskId { id: "x".repeat(4000), ..task }.seal(&sealer).is_err());
}
