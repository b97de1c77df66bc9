//! Huge answers and endless lines are cut: memory does not grow with them. Measured in a process of its own.

use std::process::Command;
use std::time::Duration;

use portcullis_e2e::faulty::{AnswerForm, CallFault, EndpointFault, Faulty, FaultyMode};
use tokio::time::sleep;

use crate::stack::{NamedFault, Stack, server};

/// Set in the process that is measured.
const ALONE: &str = "PORTCULLIS_TEST_ALONE";

/// More than this may not be kept of 100 MB.
const MAX_GROWTH_KIB: u64 = 32 * 1024;

#[test]
fn memory_does_not_grow_with_what_servers_send() {
    let name = "memory::in_a_process_of_its_own";
    let test = std::env::current_exe().expect("this test has a file");
    let run = Command::new(test).args([name, "--exact", "--ignored", "--nocapture"]).env(ALONE, "1").output();
    let run = run.expect("it runs");
    let (out, err) = (String::from_utf8_lossy(&run.stdout), String::from_utf8_lossy(&run.stderr));
    assert!(run.status.success() && out.contains("1 passed"), "{out}\n{err}");
}

#[tokio::test]
#[ignore = "run by memory_does_not_grow_with_what_servers_send, in a process of its own"]
async fn in_a_process_of_its_own() {
    assert!(std::env::var_os(ALONE).is_some(), "it measures the whole process");
    let faults: [NamedFault; 3] = [
        ("100 MB in one message", |it| it.answer = CallFault::Huge(100_000_000)),
        ("an endless line", |it| it.answer = CallFault::EndlessLine),
        ("endless lines", |it| it.answer = CallFault::EndlessLines),
    ];
    for (mode, form) in [
        (FaultyMode::Sse, AnswerForm::Auto),
        (FaultyMode::Streamable, AnswerForm::Json),
        (FaultyMode::Streamable, AnswerForm::Sse),
    ] {
        for (name, fault) in faults {
            let faulty = Faulty::start(mode).await;
            faulty.behave(|it| it.form = form);
            let stack = Stack::with_messages(4 * 1024 * 1024, [server("a", &faulty).calls_take(20)]).await;
            stack.connected("a").await;
            assert_eq!(stack.call("echo").await.status, 200);
            let before = resident();
            faulty.behave(fault);
            let answer = stack.call("echo").await;
            let growth = peak().saturating_sub(before);
            assert_eq!(answer.status, 502, "{mode:?} {form:?} {name}: {}", answer.text());
            assert!(growth < MAX_GROWTH_KIB, "{mode:?} {form:?} {name}: {growth} KiB");
        }
    }
    endless_endpoint().await;
}

async fn endless_endpoint() {
    let faulty = Faulty::start(FaultyMode::Sse).await;
    faulty.behave(|it| it.endpoint = EndpointFault::EndlessLine);
    let before = resident();
    let _stack = Stack::with_messages(4 * 1024 * 1024, [server("a", &faulty)]).await;
    sleep(Duration::from_secs(2)).await;
    let growth = peak().saturating_sub(before);
    assert!(growth < MAX_GROWTH_KIB, "an endless endpoint: {growth} KiB");
}

fn resident() -> u64 {
    kib("VmRSS:")
}

fn peak() -> u64 {
    kib("VmHWM:")
}

fn kib(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("the state of this process");
    let line = status.lines().find_map(|line| line.strip_prefix(name)).expect("a line of this name");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
