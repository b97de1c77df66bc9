//! Every fault during a call: what the caller gets, that others are not hurt, and that it ends with the fault.

use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use portcullis_e2e::faulty::{
    AnswerForm, Behaviour, CallFault, ConnectionFault, EventFraming, Faulty, FaultyMode, FixedAnswer, RequestFault,
    Tool, garbage,
};

use crate::stack::{NamedFault, STATE_DEADLINE, Stack, assert_quick, server, text};

/// A text that only servers say: no error may hold it.
const INSIDE: &str = "INSIDE-OF-THE-SERVER";

/// The ways of speaking that answer calls differently.
const WAYS: [(FaultyMode, AnswerForm); 5] = [
    (FaultyMode::Sse, AnswerForm::Auto),
    (FaultyMode::Streamable, AnswerForm::Json),
    (FaultyMode::Streamable, AnswerForm::Sse),
    (FaultyMode::Modern, AnswerForm::Json),
    (FaultyMode::Modern, AnswerForm::Sse),
];

/// The result of a fault over legacy SSE, as a JSON body, and as an event stream of the call.
struct Case {
    name: &'static str,
    fault: fn(&mut Behaviour),
    sse: u16,
    json: u16,
    events: u16,
}

fn case(name: &'static str, fault: fn(&mut Behaviour), [sse, json, events]: [u16; 3]) -> Case {
    Case { name, fault, sse, json, events }
}

fn refused(status: u16) -> RequestFault {
    let headers = vec![("content-type".into(), "text/plain".into())];
    RequestFault::Answers(FixedAnswer { status, headers, body: Bytes::from_static(INSIDE.as_bytes()) })
}

fn inside() -> Bytes {
    Bytes::from_static(b"<h1>INSIDE-OF-THE-SERVER</h1>")
}

fn doors() -> Vec<Case> {
    vec![
        case("hangs", |it| it.call = RequestFault::Hangs, [504; 3]),
        case("slams", |it| it.call = RequestFault::Slams, [502; 3]),
        case("401", |it| it.call = refused(401), [502; 3]),
        case("403", |it| it.call = refused(403), [502; 3]),
        case("418", |it| it.call = refused(418), [502; 3]),
        case("429", |it| it.call = refused(429), [429; 3]),
        case("500", |it| it.call = refused(500), [502; 3]),
        case("502", |it| it.call = refused(502), [502; 3]),
        case("503", |it| it.call = refused(503), [503; 3]),
        case("302", |it| it.call = RequestFault::redirect(302, "http://127.0.0.2:1/INSIDE-OF-THE-SERVER"), [503; 3]),
        case("a page instead", |it| it.call = RequestFault::html(), [504, 502, 502]),
        case("everything hangs", |it| it.post = RequestFault::Hangs, [504; 3]),
        case("everything is 500", |it| it.post = refused(500), [502; 3]),
    ]
}

fn answers() -> Vec<Case> {
    vec![
        case("never", |it| it.answer = CallFault::Never, [504; 3]),
        case("cut before accepting", |it| it.answer = CallFault::CutBeforeAccepting, [502; 3]),
        case("cut after accepting", |it| it.answer = CallFault::CutAfterAccepting, [502; 3]),
        case("cut in the answer", |it| it.answer = CallFault::CutMidAnswer, [502; 3]),
        case("ends without", |it| it.answer = CallFault::EndWithout, [502; 3]),
        case("another id", |it| it.answer = CallFault::Id("999".into()), [504, 502, 502]),
        case("null id", |it| it.answer = CallFault::Id("null".into()), [504, 502, 502]),
        case("object id", |it| it.answer = CallFault::Id("{}".into()), [504, 502, 502]),
        case("unknown id", |it| it.answer = CallFault::OthersId, [504, 502, 502]),
        case("no id", |it| it.answer = CallFault::NoId, [504, 502, 502]),
        case("a page", |it| it.answer = CallFault::Instead(inside()), [504, 502, 502]),
        case("bad UTF-8", |it| it.answer = CallFault::Instead(garbage::BAD_UTF8), [504, 502, 502]),
        case("bad JSON", |it| it.answer = CallFault::Instead(garbage::BAD_JSON), [504, 502, 502]),
        case("no JSON-RPC", |it| it.answer = CallFault::Instead(garbage::NOT_RPC), [504, 502, 502]),
        case("empty", |it| it.answer = CallFault::Instead(Bytes::new()), [504, 502, 502]),
        case("2 MiB", |it| it.answer = CallFault::Huge(2 * 1024 * 1024), [502; 3]),
        case("an endless line", |it| it.answer = CallFault::EndlessLine, [502; 3]),
        case("endless lines", |it| it.answer = CallFault::EndlessLines, [502; 3]),
    ]
}

/// Odd but harmless: a call works.
fn oddities() -> Vec<Case> {
    let framing: [NamedFault; 10] = [
        ("id as text", |it| it.answer = CallFault::StringId),
        ("twice", |it| it.answer = CallFault::Twice),
        ("garbage before", |it| it.answer = CallFault::After(garbage::HTML)),
        ("odd events before", |it| it.answer = CallFault::AfterRaw(garbage::ODD_EVENTS)),
        ("half an event before", |it| it.answer = CallFault::AfterRaw(garbage::HALF_EVENT)),
        ("single bytes", |it| it.framing.piece = Some(1)),
        ("CRLF, BOM, comments", |it| {
            it.framing = EventFraming { line_end: "\r\n", bom: true, comments: true, ..EventFraming::default() }
        }),
        ("CR, no space", |it| it.framing = EventFraming { line_end: "\r", no_space: true, ..EventFraming::default() }),
        ("many lines, no event", |it| {
            it.framing = EventFraming { multi_line: true, no_event: true, ..EventFraming::default() }
        }),
        ("a slow drip", |it| {
            it.framing = EventFraming { piece: Some(7), pause: Duration::from_millis(5), ..EventFraming::default() }
        }),
    ];
    let plain = ["twice", "garbage before", "odd events before", "half an event before"];
    // A plain body with more than one answer in it is no JSON.
    framing.map(|(name, fault)| case(name, fault, [200, if plain.contains(&name) { 502 } else { 200 }, 200])).into()
}

async fn check(case: &Case, mode: FaultyMode, form: AnswerForm) {
    let what = format!("{} over {mode:?} as {form:?}", case.name);
    let expected = match (mode, form) {
        (FaultyMode::Sse, _) => case.sse,
        (_, AnswerForm::Json) => case.json,
        _ => case.events,
    };
    let faulty = Faulty::start(mode).await;
    let honest = Faulty::with_tools(FaultyMode::Sse, vec![Tool::text("fine", "fine")]).await;
    faulty.behave(|it| it.form = form);
    let stack = Stack::ready([server("faulty", &faulty), server("honest", &honest)]).await;
    faulty.behave(case.fault);
    let (answer, ()) = tokio::join!(stack.call("echo"), assert_quick(&stack, "fine"));
    // What does not end is given up after some time, which may be longer than the call's.
    let too_slow = case.name.contains("endless") && answer.status == 504;
    assert!(too_slow || answer.status == expected, "{what}: {} {}", answer.status, answer.text());
    assert_eq!(answer.header("x-portcullis-server"), "faulty", "{what}");
    if expected != 200 {
        assert_eq!(answer.json()["error"]["code"], answer.status, "{what}");
        assert!(!answer.text().contains("INSIDE") && !answer.text().contains("<h1>"), "{what}: {}", answer.text());
    }
    assert_quick(&stack, "fine").await;
    faulty.behave(|it| *it = Behaviour { form, ..Behaviour::default() });
    stack.works("echo").await;
    assert_eq!(honest.seen().streams, 1, "{what}: the honest server's session was touched");
}

async fn check_all(cases: Vec<Case>) {
    for (mode, form) in WAYS {
        join_all(cases.iter().map(|case| check(case, mode, form))).await;
    }
}

#[tokio::test]
async fn a_server_that_refuses_calls_hurts_only_its_own_callers() {
    check_all(doors()).await;
}

#[tokio::test]
async fn a_server_that_answers_nonsense_hurts_only_its_own_callers() {
    check_all(answers()).await;
}

#[tokio::test]
async fn odd_but_legal_answers_are_understood() {
    check_all(oddities()).await;
}

#[tokio::test]
async fn a_server_whose_connections_are_odd_hurts_only_its_own_callers() {
    let table: [(ConnectionFault, [u16; 3]); 4] = [
        (ConnectionFault::Silent, [504, 504, 504]),
        (ConnectionFault::Closed, [502, 502, 502]),
        (ConnectionFault::Raw(Bytes::from_static(b"SSH-2.0-OpenSSH_INSIDE\r\n")), [502, 502, 502]),
        (ConnectionFault::EndlessHeaders, [502, 502, 502]),
    ];
    let one = async |connection: &ConnectionFault, mode: FaultyMode, expected: u16| {
        let faulty = Faulty::start(mode).await;
        // Only new connections are odd: pooled ones are used up by calls that are never answered.
        let stack = Stack::ready([server("faulty", &faulty)]).await;
        faulty.behave(|it| (it.connection, it.answer) = (connection.clone(), CallFault::Never));
        let answers = join_all((0..4).map(|_| stack.call("echo"))).await;
        for answer in &answers {
            assert!([expected, 504].contains(&answer.status), "{connection:?} {mode:?}: {}", answer.text());
            assert!(!answer.text().contains("INSIDE"), "{}", answer.text());
        }
        faulty.reform();
        tokio::time::timeout(STATE_DEADLINE, stack.works("echo")).await.expect("it recovers");
    };
    let mut all = Vec::new();
    for (connection, expected) in &table {
        for (mode, expected) in [FaultyMode::Sse, FaultyMode::Streamable, FaultyMode::Modern].into_iter().zip(expected)
        {
            all.push(one(connection, mode, *expected));
        }
    }
    join_all(all).await;
}

#[tokio::test]
async fn an_honest_server_answers_in_every_way_of_speaking() {
    for (mode, form) in WAYS {
        let faulty = Faulty::start(mode).await;
        faulty.behave(|it| it.form = form);
        let stack = Stack::ready([server("a", &faulty)]).await;
        let answer = stack.request("echo", r#"{"message":"ü"}"#).send().await.expect("an answer");
        assert_eq!(text(&answer), r#"{"message":"ü"}"#, "{mode:?} {form:?}");
    }
}
