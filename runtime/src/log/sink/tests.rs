//! Lines come out whole and in order; a slow or broken reader costs lines and never time.

use std::sync::mpsc;
use std::time::Instant;

use super::*;

const PATIENCE: Duration = Duration::from_secs(5);

/// An output that remembers each write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    writes: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Memory {
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.writes.lock().expect("lock").concat()).expect("utf-8")
    }
}

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.writes.lock().expect("lock").push(bytes.to_vec());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An output whose reader has stopped: each write waits for the test.
struct Stuck {
    go_on: mpsc::Receiver<()>,
    memory: Memory,
}

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.go_on.recv();
        self.memory.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

struct Broken;

impl Write for Broken {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::BrokenPipe.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lines_of_several_threads_come_out_whole() {
    let memory = Memory::default();
    let (sink, guard) = LogSink::to(memory.clone()).expect("thread");
    thread::scope(|scope| {
        for name in ["a", "b", "c", "d"] {
            let sink = sink.clone();
            scope.spawn(move || (0..500).for_each(|n| sink.append(format!("{name} {n}\n").as_bytes())));
        }
    });
    drop(guard);

    let text = memory.text();
    for name in ["a", "b", "c", "d"] {
        let lines: Vec<_> = text.lines().filter(|line| line.starts_with(name)).map(str::to_owned).collect();
        let expected: Vec<_> = (0..500).map(|n| format!("{name} {n}")).collect();
        assert_eq!(lines, expected);
    }
    assert_eq!((text.lines().count(), sink.dropped()), (2000, 0));
}

#[test]
fn lines_are_written_without_being_asked_for() {
    let memory = Memory::default();
    let (sink, _guard) = LogSink::to(memory.clone()).expect("thread");

    sink.append(b"alone\n");

    let start = Instant::now();
    while memory.text() != "alone\n" {
        assert!(start.elapsed() < PATIENCE);
        thread::yield_now();
    }
}

#[test]
fn lines_of_one_moment_are_written_with_one_call() {
    let memory = Memory::default();
    let (go_on, stuck) = mpsc::channel();
    let (sink, guard) = LogSink::to(Stuck { go_on: stuck, memory: memory.clone() }).expect("thread");
    sink.append(b"first\n");
    wait_until_taken(&sink);
    (0..100).for_each(|_| sink.append(b"later\n"));
    drop(go_on);
    drop(guard);

    let sizes: Vec<_> = memory.writes.lock().expect("lock").iter().map(Vec::len).collect();
    assert_eq!(sizes, [6, 600]);
}

#[test]
fn a_stuck_reader_costs_lines_and_no_time() {
    let memory = Memory::default();
    let (go_on, stuck) = mpsc::channel();
    let (sink, guard) = LogSink::to(Stuck { go_on: stuck, memory: memory.clone() }).expect("thread");
    let line = [b'x'; 1023].into_iter().chain([b'\n']).collect::<Vec<_>>();
    sink.append(b"first\n");
    wait_until_taken(&sink);

    (0..1024 + 7).for_each(|_| sink.append(&line));

    assert_eq!(sink.dropped(), 7);
    assert!(!sink.flush(Duration::from_millis(50)), "nothing can be written");
    drop(go_on);
    assert!(sink.flush(PATIENCE));
    sink.append(b"last\n");
    drop(guard);
    assert_eq!(memory.text().lines().count(), 1 + 1024 + 1);
    assert!(memory.text().ends_with("x\nlast\n"));
}

#[test]
fn a_guard_does_not_wait_for_ever() {
    let (_go_on, stuck) = mpsc::channel();
    let (sink, guard) = LogSink::to(Stuck { go_on: stuck, memory: Memory::default() }).expect("thread");
    sink.append(b"never\n");

    let start = Instant::now();
    drop(guard);

    assert!((LAST_LINES..LAST_LINES + PATIENCE).contains(&start.elapsed()));
}

#[test]
fn lines_that_cannot_be_written_are_counted() {
    let (sink, guard) = LogSink::to(Broken).expect("thread");

    sink.append(b"one\n");
    sink.append(b"two\n");
    assert!(sink.flush(PATIENCE), "flush does not wait for what is lost");
    drop(guard);
    sink.append(b"after the end\n");

    assert_eq!(sink.dropped(), 3);
}

/// An output that fails a few times, and then works.
struct Recovering {
    failures: usize,
    memory: Memory,
}

impl Write for Recovering {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.failures > 0 {
            self.failures -= 1;
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.memory.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_log_that_keeps_its_lines_tries_again_until_they_are_written() {
    let memory = Memory::default();
    let (sink, guard) = LogSink::keeping(Recovering { failures: 2, memory: memory.clone() }).expect("thread");
    sink.append(b"one\n");
    let start = Instant::now();
    while !sink.is_failing() {
        assert!(start.elapsed() < PATIENCE);
        thread::yield_now();
    }
    sink.append(b"two\n");
    assert!(sink.flush(RETRY * 2 + PATIENCE));
    drop(guard);
    assert_eq!((memory.text().as_str(), sink.dropped(), sink.is_failing()), ("one\ntwo\n", 0, false));
}

#[test]
fn a_line_that_leaves_room_for_others_takes_none_of_it() {
    let memory = Memory::default();
    let (go_on, stuck) = mpsc::channel();
    let (sink, guard) = LogSink::keeping(Stuck { go_on: stuck, memory: memory.clone() }).expect("thread");
    sink.append(b"first\n");
    wait_until_taken(&sink);
    let room = BOUND_OF_KEPT - 16;
    sink.append_leaving(b"fits-fits\n", room);
    sink.append_leaving(b"not\n", room);
    assert_eq!([sink.has_room(room), sink.has_room(room + 1)], [true, false]);
    sink.append(b"room\n");
    drop(go_on);
    drop(guard);
    assert_eq!((memory.text().as_str(), sink.dropped()), ("first\nfits-fits\nroom\n", 1));
}

/// Waits until the thread has taken the appended lines, and so is stuck in its write.
fn wait_until_taken(sink: &LogSink) {
    let start = Instant::now();
    while !sink.shared.lock().waiting.is_empty() {
        assert!(start.elapsed() < PATIENCE);
        thread::yield_now();
    }
}
