//! One ConfigMap, followed for ever: its contents, and whether the API server can be asked.
//!
//! After every failure it is listed anew. That is one small object, and it tells at once that the watch stands again.

use std::fmt::Display;
use std::time::Duration;

use futures_util::stream::{BoxStream, Stream, StreamExt as _, unfold};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::time::{Instant, sleep, timeout};

use crate::backoff::{self, HEALTHY_AFTER};
use crate::cluster::WATCH_SECONDS;

/// For the list that comes before a watch.
const LIST_LIMIT: Duration = Duration::from_secs(10);

/// Pauses grow no further than in the fifth attempt, to 8 s: whoever applies something when the API server is back
/// should not wait for half a minute.
const SLOWEST: u32 = 5;

/// What happened.
#[derive(Debug)]
pub enum Seen {
    /// It is like this now.
    There(Box<ConfigMap>),
    /// There is none of this name.
    Missing,
    /// The API server cannot be asked, for this reason.
    Down(String),
}

struct Watch {
    api: Api<ConfigMap>,
    fields: String,
    events: Option<BoxStream<'static, watcher::Result<Event<ConfigMap>>>>,
    since: Instant,
    attempt: u32,
    listing: bool,
    listed: bool,
}

/// Follows the ConfigMap of this name.
///
/// The selector makes it one that `resourceNames` of a Role allow.
pub fn watch(api: Api<ConfigMap>, name: &str) -> impl Stream<Item = Seen> + Send + use<> {
    let fields = format!("metadata.name={name}");
    let watch = Watch { api, fields, events: None, since: Instant::now(), attempt: 0, listing: true, listed: false };
    unfold(watch, |mut watch| async {
        let seen = watch.next().await;
        Some((seen, watch))
    })
}

impl Watch {
    async fn next(&mut self) -> Seen {
        loop {
            if self.events.is_none() {
                self.begin().await;
            }
            let Some(events) = &mut self.events else { continue };
            let event = if self.listing {
                match timeout(LIST_LIMIT, events.next()).await {
                    Ok(event) => event,
                    Err(_) => return self.failed(&format!("no answer in {} s", LIST_LIMIT.as_secs())),
                }
            } else {
                // The watcher has limits of its own.
                events.next().await
            };
            match event {
                Some(Ok(Event::Init)) => (self.listing, self.listed) = (true, false),
                Some(Ok(Event::InitApply(object))) => {
                    self.listed = true;
                    return Seen::There(Box::new(object));
                }
                Some(Ok(Event::InitDone)) => {
                    self.listing = false;
                    if !self.listed {
                        return Seen::Missing;
                    }
                }
                Some(Ok(Event::Apply(object))) => return Seen::There(Box::new(object)),
                Some(Ok(Event::Delete(_))) => return Seen::Missing,
                Some(Err(error)) => return self.failed(&error),
                None => return self.failed(&"the watch ended"),
            }
        }
    }

    async fn begin(&mut self) {
        if self.attempt > 0 {
            sleep(backoff::pause(self.attempt.min(SLOWEST), backoff::random())).await;
        }
        let config = watcher::Config::default().fields(&self.fields).timeout(WATCH_SECONDS);
        self.events = Some(watcher(self.api.clone(), config).boxed());
        self.since = Instant::now();
        self.listing = true;
    }

    fn failed(&mut self, problem: &dyn Display) -> Seen {
        let lived = self.since.elapsed() >= HEALTHY_AFTER;
        self.attempt = if lived { 1 } else { self.attempt.saturating_add(1) };
        self.events = None;
        Seen::Down(problem.to_string())
    }
}
