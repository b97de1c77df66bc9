//! Reads a server's lists when a session opens and when they change, and publishes them.
//!
//! Tools decide whether a server is usable. Any other unreadable list affects only itself.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::{join3, join4, pending};
use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tracing::warn;

use super::task::Task;
use crate::offer::item::{Kind, ParsedItems};
use crate::offer::listing;
use crate::offer::listing::{ListError, Listed};
use crate::offer::raw_tools::RawTools;
use crate::server::handle::Lists;
use crate::util::backoff;
use portcullis_mcp::protocol::extensions::SKILLS;
use portcullis_mcp::upstream::{Notices, ServerCapabilities, Session};

/// Changes within this time are read once.
const LIST_DEBOUNCE: Duration = Duration::from_millis(250);

/// If a list keeps changing, changes within this time are read together: each read takes time from other work.
const LIST_DEBOUNCE_LONGEST: Duration = Duration::from_secs(2);

/// A list that has not changed for this long is read quickly again.
const LIST_CALM: Duration = Duration::from_secs(10);

/// The interval for reading the lists of a server that does not announce changes.
const LIST_POLL: Duration = Duration::from_secs(60);

/// The same for one that does: makes up for a missed announcement.
const LIST_POLL_ANNOUNCED: Duration = Duration::from_secs(600);

/// The delay before an unreadable list is read again.
const LIST_AGAIN: Duration = Duration::from_secs(10);

/// Lists that are not read by then when a session opens are read while its tools are already served.
const OTHERS_LIMIT: Duration = Duration::from_secs(2);

/// Lists that change together.
#[derive(Clone, Copy)]
enum Group {
    Tools,
    Prompts,
    Resources,
}

impl Group {
    fn kinds(self) -> &'static [Kind] {
        match self {
            Self::Tools => &[Kind::Tools],
            Self::Prompts => &[Kind::Prompts],
            Self::Resources => &[Kind::Resources, Kind::Templates],
        }
    }

    /// Whether to request it from a server: some have tools without declaring them.
    fn is_there(self, capabilities: ServerCapabilities) -> bool {
        match self {
            Self::Tools => true,
            Self::Prompts => capabilities.prompts,
            Self::Resources => capabilities.resources,
        }
    }

    fn is_announced(self, capabilities: ServerCapabilities) -> bool {
        match self {
            Self::Tools => capabilities.announces_tools,
            Self::Prompts => capabilities.announces_prompts,
            Self::Resources => capabilities.announces_resources,
        }
    }

    fn changed(self, notices: &Notices) -> &Notify {
        match self {
            Self::Tools => &notices.tools_changed,
            Self::Prompts => &notices.prompts_changed,
            Self::Resources => &notices.resources_changed,
        }
    }

    async fn read(self, session: &Session) -> Result<Lists, ListError> {
        let mut lists = Lists::new();
        for kind in self.kinds() {
            lists.push((*kind, listing::list(session, *kind).await?));
        }
        Ok(lists)
    }

    fn nothing(self) -> Lists {
        self.kinds().iter().map(|kind| (*kind, Listed::Others(ParsedItems::default()))).collect()
    }
}

impl Task {
    /// Reads the lists of a new session. Failed lists other than the tools are soon read again.
    pub(super) async fn first_lists(
        &self,
        session: &Session,
        capabilities: ServerCapabilities,
    ) -> Result<Lists, ListError> {
        if self.handle.spec().listing.per_caller {
            return Ok(vec![(Kind::Tools, Listed::Tools(Arc::new(RawTools::pack(&[], 0))))]);
        }
        let other = |group: Group| async move {
            if !group.is_there(capabilities) {
                return group.nothing();
            }
            let read = timeout(OTHERS_LIMIT, Box::pin(group.read(session))).await;
            read.ok().and_then(Result::ok).unwrap_or_else(|| {
                group.changed(&self.handle.notices).notify_one();
                Lists::new()
            })
        };
        let tools = Box::pin(Group::Tools.read(session));
        let (tools, prompts, resources) = join3(tools, other(Group::Prompts), other(Group::Resources)).await;
        Ok([tools?, prompts, resources].into_iter().flatten().collect())
    }

    /// Reads each list when it changes.
    pub(super) async fn keep_lists(&self, session: &Session, capabilities: ServerCapabilities) -> Infallible {
        if self.handle.spec().listing.per_caller {
            return self.watch_caller_lists().await;
        }
        let keep = |group: Group| -> Pin<Box<dyn Future<Output = Infallible> + Send + '_>> {
            match group.is_there(capabilities) {
                true => Box::pin(self.keep(group, session, capabilities)),
                false => Box::pin(pending()),
            }
        };
        let (tools, prompts, resources) = (keep(Group::Tools), keep(Group::Prompts), keep(Group::Resources));
        match join4(tools, prompts, resources, self.keep_skills(session)).await.0 {}
    }

    /// Records announced changes of lists that are read for each caller.
    async fn watch_caller_lists(&self) -> Infallible {
        let notices = &self.handle.notices;
        loop {
            tokio::select! {
                () = notices.tools_changed.notified() => {}
                () = notices.prompts_changed.notified() => {}
                () = notices.resources_changed.notified() => {}
            }
            sleep(LIST_DEBOUNCE).await;
            self.handle.note_caller_lists();
            self.shared.dirty.notify_one();
        }
    }

    /// Reads the skills at first, with the list of resources, and once in a while: their changes are announced with those.
    async fn keep_skills(&self, session: &Session) -> Infallible {
        if !self.handle.declared().has(SKILLS) {
            return pending().await;
        }
        loop {
            // Boxed as below. What cannot be read costs only itself: what was read before stays.
            if let Some(skills) = Box::pin(listing::skills(session)).await
                && self.handle.take_skills(skills)
            {
                self.shared.dirty.notify_one();
            }
            tokio::select! {
                () = self.resources_read.notified() => {}
                () = sleep(backoff::jittered(LIST_POLL)) => {}
            }
        }
    }

    async fn keep(&self, group: Group, session: &Session, capabilities: ServerCapabilities) -> Infallible {
        let changed = group.changed(&self.handle.notices);
        let announced = group.is_announced(capabilities);
        let (mut debounce, mut read_at) = (LIST_DEBOUNCE, Instant::now());
        loop {
            let poll = if announced && session.hears() { LIST_POLL_ANNOUNCED } else { LIST_POLL };
            tokio::select! {
                () = changed.notified() => {
                    let is_calm = read_at.elapsed() >= LIST_CALM;
                    debounce = if is_calm { LIST_DEBOUNCE } else { debounce };
                    sleep(debounce).await;
                    debounce = (2 * debounce).min(LIST_DEBOUNCE_LONGEST);
                }
                () = sleep(backoff::jittered(poll)) => {}
            }
            read_at = Instant::now();
            // Boxed: it rarely exists, and each of thousands of servers reserves space for it.
            match Box::pin(group.read(session)).await {
                Ok(lists) => {
                    self.handle.alive();
                    self.handle.update_status(|status| status.clear_lists(group.kinds()));
                    Box::pin(self.publish(lists, capabilities)).await;
                    if let Group::Resources = group {
                        self.resources_read.notify_one();
                    }
                }
                Err(error) => {
                    self.handle.update_status(|status| status.note(&error.into()));
                    sleep(backoff::jittered(LIST_AGAIN)).await;
                    changed.notify_one();
                }
            }
        }
    }

    /// Stores lists in the offer; others stay.
    pub(super) async fn publish(&self, lists: Lists, capabilities: ServerCapabilities) {
        let is_large = lists.iter().any(|(_, listed)| matches!(listed, Listed::Tools(tools) if tools.is_large()));
        let handle = self.handle.clone();
        let take = move || handle.take_lists(lists, capabilities);
        // Parsing thousands of tools must not delay the calls that this thread serves too.
        let changed = if is_large { spawn_blocking(take).await.unwrap_or(false) } else { take() };
        if changed {
            self.shared.dirty.notify_one();
        }
    }

    pub(super) fn unlist(&self) {
        self.handle.unlist();
        warn!(server = %self.handle.name, "server was away too long; its tools, prompts and resources are no longer listed");
        self.shared.dirty.notify_one();
    }
}
