//! What searching 20,000 tools costs: time to read and index them, memory, and time of a search.
//!
//! `cargo run --release -p portcullis-search --example cost`. Times are of the processor, so that others on it count less; Linux
//! tells them. The tools are those of search/testdata, again and again for other teams, each with
//! words of its own; the queries are those that quality is measured with.

use std::fs;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use portcullis_search::{Document, Index, IndexedTool, estimate_tokens};
use serde_json::Value;

const TOOLS: usize = 20_000;

/// The worst that a query can ask for: words of most tools, and words that nearly look like many.
const HOSTILE: [&str; 2] = [
    "page name type list get data file id url string object query project set create default value text time search result \
     item content number",
    "repositorxz collectiqn parametxrs docxmentz organizatixm connectixms configuratxn descriptxn authenticatx infxrmatxn \
     applicatiqz relatixnshp propertiezx directxriez administratz notificatxz performxncz environmxntz implementatz \
     transactixz subscriptqn visualizatxz synchronizx calculatixz",
];

/// Searches in a second, which are few enough that each begins on time.
const RATE: u32 = 100;

const SEARCHES: usize = 3_000;

struct Tool {
    server: String,
    name: String,
    title: Option<String>,
    description: String,
    schema: String,
}

impl Tool {
    fn index(&self) -> Arc<IndexedTool> {
        Arc::new(IndexedTool::new(&Document {
            name: &self.name,
            title: self.title.as_deref(),
            description: Some(&self.description),
            input_schema: Some(&self.schema),
            server: &self.server,
        }))
    }
}

fn read(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A word that no text has.
fn invented(number: usize) -> String {
    let syllables = ["ba", "ko", "ri", "zu", "me", "ta", "lo", "vi", "ne", "sha"];
    (0..4).map(|place| syllables[number / 10_usize.pow(place) % 10]).collect()
}

fn tools() -> Vec<Tool> {
    let servers: Value = serde_json::from_str(&read("tools.json")).expect("tools.json is JSON");
    let of = |value: &Value, key: &str| value[key].as_str().unwrap_or_default().to_owned();
    let real: Vec<(String, Value)> = servers
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|server| {
            let tools = server["tools"].as_array().cloned().unwrap_or_default();
            tools.into_iter().map(move |tool| (of(server, "server"), tool))
        })
        .collect();
    let copies = real.iter().cycle().take(TOOLS).enumerate();
    let copy = |(number, (server, tool)): (usize, &(String, Value))| Tool {
        server: format!("{server}-{}", invented(number / real.len())),
        name: of(tool, "name"),
        title: tool["title"].as_str().map(str::to_owned),
        description: format!("{} {} {}", invented(number), of(tool, "description"), invented(number % 3_000)),
        schema: tool["inputSchema"].to_string(),
    };
    copies.map(copy).collect()
}

fn queries() -> Vec<String> {
    let lines = ["tuned.jsonl", "held-out.jsonl"].map(read).concat();
    let query = |line: &str| {
        let query: Value = serde_json::from_str(line).expect("a query is JSON");
        query["query"].as_str().unwrap_or_default().to_owned()
    };
    lines.lines().map(query).collect()
}

/// The time that a share of all searches stays below.
fn percentile(times: &[Duration], share: f64) -> Duration {
    times[((times.len() - 1) as f64 * share) as usize]
}

/// What this thread has had of the processor.
fn used() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").expect("Linux tells what a thread has used");
    let nanoseconds = text.split(' ').next().and_then(|first| first.parse().ok());
    Duration::from_nanos(nanoseconds.expect("the first number is nanoseconds"))
}

/// What something takes in the mean of some runs, and what comes of it.
fn timed<T>(runs: u32, mut make: impl FnMut() -> T) -> (Duration, T) {
    let begun = used();
    for _ in 1..runs {
        black_box(make());
    }
    let made = make();
    // The account moves with the timer of the system, a few milliseconds at a time.
    ((used() - begun) / runs, made)
}

fn main() {
    let (tools, queries) = (tools(), queries());
    let (time, read) = timed(2, || tools.iter().map(Tool::index).collect::<Vec<_>>());
    println!("read {} tools: {} ms", read.len(), time.as_millis());
    let (time, index) = timed(10, || Index::new(read.iter().cloned()));
    println!("index them: {time:.1?}");
    let (time, _) = timed(10, || {
        let changed = tools[..20].iter().map(Tool::index);
        Index::new(changed.chain(read[20..].iter().cloned()))
    });
    println!("read 20 of them again, and index all anew: {time:.1?}");
    let (time, _) = timed(1000, || Index::new(read[..200].iter().cloned()));
    println!("index 200: {time:.1?}");
    let held: usize = read.iter().map(|tool| tool.held_bytes()).sum();
    let mib = |bytes: usize| bytes as f64 / f64::from(1 << 20);
    println!("memory: {:.1} MiB for tools, {:.1} MiB for the index", mib(held), mib(index.held_bytes()));
    search(&index, &queries);
    let list = fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/tools.json")).unwrap_or_default();
    let (time, tokens) = timed(100, || estimate_tokens(&list));
    println!("estimate {tokens} tokens of {} KiB: {time:.1?}", list.len() / 1024);
}

/// Searches at a rate, whose times are those on the clock, then once more without pause.
fn search(index: &Index, queries: &[String]) {
    let mut times = Vec::with_capacity(SEARCHES);
    let begun = Instant::now();
    for (number, query) in (0..).zip(queries.iter().cycle().take(SEARCHES)) {
        let due = Duration::from_secs(1) * number / RATE;
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        let search = Instant::now();
        black_box(index.search(query, 10, |at| at % 3 != 0));
        times.push(search.elapsed());
    }
    times.sort_unstable();
    let [p50, p99, most] = [0.5, 0.99, 1.0].map(|share| percentile(&times, share));
    println!("{SEARCHES} searches, {RATE} a second: p50 {p50:.2?}, p99 {p99:.2?}, at most {most:.2?} on the clock");
    let (time, _) = timed(5, || {
        for query in queries {
            black_box(index.search(query, 10, |at| at % 3 != 0));
        }
    });
    println!("of the processor: {:.0?} for a search", time / queries.len() as u32);
    for query in HOSTILE {
        let (time, hits) = timed(50, || index.search(query, 10, |_| true));
        println!("a hostile query, {} hits: {time:.1?}", hits.len());
    }
}
