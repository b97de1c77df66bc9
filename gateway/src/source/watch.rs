//! Watches one ConfigMap forever: its contents, and whether the API server is reachable.
//!
//! After every failure, lists it again. That is one small object, and shows at once that the watch works again.

use std::fmt::Display;
use std::time::Duration;

use futures_util::stream::{BoxStream, Stream, StreamExt as _, unfold};
use k8s_openapi::api::core::v1::ConfigMap;
use kube::Api;
use kube::runtime::watcher::{self, Event, watcher};
use tokio::time::{Instant, sleep, timeout};

use crate::kubernetes::WATCH_SECONDS;
use crate::util::backoff;
use crate::util::backoff::HEALTHY_AFTER;

/// The limit for the list before a watch.
const LIST_LIMIT: Duration = Duration::from_secs(10);

/// Pauses stop growing at the fifth attempt, at 8 s: a user who applies a change when the API server is back should not
/// wait for half a minute.
const SLOWEST: u32 = 5;

/// An event of the watch.
#[derive(Debug)]
pub(crate) enum Seen {
    /// The current ConfigMap.
    There(Box<ConfigMap>),
    /// No ConfigMap of this name exists.
    Missing,
    /// The API server is unreachable, for this reason.
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

/// Watches the ConfigMap of this name.
///
/// The selector makes the request one that `resourceNames` of a Role allow.
pub(crate) fn watch(api: Api<ConfigMap>, name: &str) -> impl Stream<Item = Seen> + Send + use<> {
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
                // The watcher has its own limits.
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
