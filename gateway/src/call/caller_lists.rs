//! Reads what servers list for one caller (`spec.listing.perCaller`), with the caller's identity, and keeps it for a while.
//!
//! A list belongs to one caller at one server. It is read once, however many requests of the caller wait for it.

mod kept;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{BoxFuture, Shared, WeakShared, join};
use futures_util::{FutureExt as _, StreamExt as _, stream};
use parking_lot::Mutex;
use portcullis_crds::Server;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::upstream::{CallError, CallerMeta};
use portcullis_runtime::serve::Fields;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout, timeout_at};

use self::kept::{KeptLists, ListKey};
use crate::auth::Identity;
use crate::call::{Failure, Request, Subject};
use crate::catalog::{CallerListing, Entry};
use crate::client_sessions::Client;
use crate::offer::item::{Kind, ParsedItems};
use crate::offer::listing::{ListError, ListSource, Why, cursor_member, definitions, result_of};
use crate::offer::prompts_and_resources;
use crate::offer::tools::read_tools;
use crate::outbound::{Outbound, ShownCaller as _};
use crate::server::handle::{Handle, Offer};
use crate::telemetry::metrics::Metrics;
use crate::util::short_digest;

/// A caller waits no longer for lists; a server that takes longer is missing from them.
const DEADLINE: Duration = Duration::from_secs(5);

/// The limit for the definitions of one kind for one caller, in bytes.
const MAX_BYTES: usize = 1024 * 1024;

/// Lists that one request reads at the same time.
const AT_ONCE: usize = 64;

/// The limit for lists that are being read.
const MAX_RUNNING: usize = 1024;

const BUSY: Why = Why::Call(CallError::NotSent("too many lists are being read: try again"));

/// A caller that lists, and how it asks.
#[derive(Clone)]
pub(crate) struct ListingCaller {
    /// The bearer of its token.
    pub(crate) identity: Arc<Identity>,
    /// Header fields of its request, some of which may be forwarded.
    pub(crate) fields: Fields,
    /// The query of its request, which may hold its token.
    pub(crate) query: Option<String>,
}

type Outcome = Result<CallerListing, ListError>;
type Running = Shared<BoxFuture<'static, Outcome>>;

/// The lists that servers show single callers.
pub(crate) struct CallerLists {
    outbound: Arc<Outbound>,
    metrics: Metrics,
    kept: Arc<KeptLists>,
    /// Owned by the requests that wait, not here: what no request waits for ends.
    running: Mutex<HashMap<ListKey, WeakShared<BoxFuture<'static, Outcome>>>>,
}

impl CallerLists {
    /// Keeps no list yet.
    pub(crate) fn new(outbound: Arc<Outbound>, metrics: Metrics) -> Self {
        Self { outbound, metrics, kept: Arc::default(), running: Mutex::default() }
    }

    /// What these servers list for a caller, or why that could not be read; after 5 s at most.
    pub(crate) async fn of(
        &self,
        servers: Vec<Arc<Handle>>,
        caller: &ListingCaller,
    ) -> Vec<(Arc<Handle>, Result<CallerListing, String>)> {
        let until = Instant::now() + DEADLINE;
        let slow = |kind| ListError { kind, why: Why::Slow };
        let reads = servers.into_iter().map(|server| async move {
            let read = timeout_at(until, self.one(&server, caller)).await;
            let outcome = read.unwrap_or_else(|_| Err(slow(Kind::Tools)));
            (server, outcome.map_err(|error| error.to_string()))
        });
        stream::iter(reads).buffer_unordered(AT_ONCE).collect().await
    }

    async fn one(&self, server: &Arc<Handle>, caller: &ListingCaller) -> Outcome {
        let (spec, changes) = (server.spec(), server.caller_lists());
        let key = key_of(server, &spec, caller);
        if let Some(kept) = self.kept.get(&key, (&spec, changes), Instant::now()) {
            return kept;
        }
        let running = {
            let mut all = self.running.lock();
            match all.get(&key).and_then(WeakShared::upgrade) {
                Some(running) => running,
                None => {
                    all.retain(|_, other| other.upgrade().is_some_and(|running| running.peek().is_none()));
                    if all.len() >= MAX_RUNNING {
                        return Err(ListError { kind: Kind::Tools, why: BUSY });
                    }
                    let running = self.start(key, (server.clone(), spec, changes), caller.clone());
                    running.downgrade().into_iter().for_each(|weak| drop(all.insert(key, weak)));
                    running
                }
            }
        };
        running.await
    }

    fn start(&self, key: ListKey, of: (Arc<Handle>, Arc<Server>, u64), caller: ListingCaller) -> Running {
        let (outbound, metrics, kept) = (self.outbound.clone(), self.metrics.clone(), self.kept.clone());
        let (server, spec, changes) = of;
        let reading = async move {
            let source = CallerSource { server: &server, caller: &caller, outbound: &outbound, metrics: &metrics };
            let read = timeout(DEADLINE, source.read(&spec)).await;
            let slow = || Err(ListError { kind: Kind::Tools, why: Why::Slow });
            let outcome = read.unwrap_or_else(|_| slow());
            kept.put(key, (spec, changes), &outcome, Instant::now());
            outcome
        };
        reading.boxed().shared()
    }
}

/// Identifies the lists of a caller: whatever of the request the server is shown makes another list.
fn key_of(server: &Handle, spec: &Server, caller: &ListingCaller) -> ListKey {
    let own = spec.forward_caller_token.iter().map(|forward| &forward.from);
    let mut sent = Vec::new();
    for name in spec.forward_headers.iter().chain(own) {
        for value in caller.fields.all(name) {
            sent.extend([name.clone(), value.escape_ascii().to_string()]);
        }
    }
    let sent: Vec<&str> = sent.iter().map(String::as_str).collect();
    ListKey {
        server: short_digest(&[&server.key.namespace, &server.key.name]),
        caller: caller.identity.id(),
        sent: short_digest(&sent),
    }
}

/// One server, asked for its lists as one caller.
struct CallerSource<'a> {
    server: &'a Arc<Handle>,
    caller: &'a ListingCaller,
    outbound: &'a Arc<Outbound>,
    metrics: &'a Metrics,
}

impl CallerSource<'_> {
    /// All lists. Tools decide; another list that cannot be read is empty.
    async fn read(&self, spec: &Arc<Server>) -> Outcome {
        let declared = self.server.offer();
        let (prompts, resources) = (declared.capabilities.prompts, declared.capabilities.resources);
        let others = join(
            self.others(Kind::Prompts, prompts),
            join(self.others(Kind::Resources, resources), self.others(Kind::Templates, resources)),
        );
        let (tools, (prompts, (resources, templates))) = join(self.tools(spec), others).await;
        let mut offer = Offer::clone(&declared);
        let mut left_out = 0;
        let lists = [
            (Kind::Tools, tools?),
            (Kind::Prompts, prompts),
            (Kind::Resources, resources),
            (Kind::Templates, templates),
        ];
        for (kind, items) in lists {
            left_out += items.left_out;
            *offer.of_mut(kind) = items.shared();
        }
        Ok(CallerListing { offer: Arc::new(offer), left_out })
    }

    async fn tools(&self, spec: &Arc<Server>) -> Result<ParsedItems, ListError> {
        let read = definitions(self, Kind::Tools, MAX_BYTES).await;
        let (definitions, beyond) = read.map_err(|why| ListError { kind: Kind::Tools, why })?;
        let spec = spec.clone();
        // Parsing many tools must not delay the calls that this thread serves too.
        let parsing = spawn_blocking(move || read_tools(definitions.iter().map(String::as_str), &spec.tools));
        let mut found = parsing.await.unwrap_or_default();
        found.left_out += beyond;
        Ok(found)
    }

    async fn others(&self, kind: Kind, is_there: bool) -> ParsedItems {
        if !is_there {
            return ParsedItems::default();
        }
        let (definitions, beyond) = definitions(self, kind, MAX_BYTES).await.unwrap_or_default();
        let mut found = prompts_and_resources::read(kind, definitions.iter().map(String::as_str));
        found.left_out += beyond;
        found
    }
}

impl ListSource for CallerSource<'_> {
    async fn page(&self, method: &'static str, cursor: Option<&str>) -> Result<Option<Bytes>, Why> {
        let ListingCaller { identity, fields, query } = self.caller;
        let (member, extensions) = (cursor.map(cursor_member).unwrap_or_default(), Extensions::of_lists());
        let request = Request {
            method,
            custom: None,
            subject: Subject::Given(&member, ""),
            params: &[],
            arguments: "{}",
            preferred: Some(self.server),
            fields,
            client: Client::Identity(identity),
            identity,
            query: query.as_deref(),
            outbound: self.outbound,
            caller: CallerMeta::default(),
            extensions: &extensions,
            mailbox: None,
            answers_input: false,
            // A list is no task: nobody waits for one.
            takes_tasks: true,
            looks_up: None,
        };
        let entry = Entry::custom(self.server, method);
        match super::call(&entry, &request, self.metrics).await.answer {
            Ok(reply) => result_of(reply),
            Err(Failure::Server(error)) => Err(Why::Call(error)),
            Err(Failure::Identity(error)) => Err(Why::Identity(error)),
            Err(Failure::Busy | Failure::TooManySessions) => Err(Why::Call(CallError::NotSent("it is busy"))),
            Err(Failure::Unavailable | Failure::SessionLost) => {
                Err(Why::Call(CallError::NotSent("it is not connected")))
            }
        }
    }
}
