//! Tells people what happened to an McpServer, as Events of the cluster: on transitions only.

use k8s_openapi::api::core::v1::ObjectReference;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use portcullis_crds::mcpserver::McpServerStatus;
use portcullis_crds::names::GROUP;
use portcullis_crds::{ConditionType, Reason, ServerKey};
use portcullis_runtime::Shutdown;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use crate::bucket::Bucket;
use crate::metrics::Metrics;
use crate::publish::REQUEST_LIMIT;
use crate::status::find;

/// Events that may wait to be written; more are left out and counted.
const QUEUE: usize = 256;

/// Events at once and per second: they are for people.
const RATE: (u32, u32) = (50, 10);

/// The longest note, in characters; Kubernetes takes 1,024 bytes.
const MAX_NOTE: usize = 250;

/// Something to tell.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    /// Of which McpServer.
    pub about: ObjectReference,
    /// Whether it is bad.
    pub warning: bool,
    /// The reason of the condition.
    pub reason: String,
    /// What to tell.
    pub note: String,
}

/// Takes stories, without ever waiting.
#[derive(Clone)]
pub struct Teller {
    stories: mpsc::Sender<Story>,
    metrics: Metrics,
}

/// A place for stories, and the end that writes them.
pub fn channel(metrics: Metrics) -> (Teller, mpsc::Receiver<Story>) {
    let (stories, receiver) = mpsc::channel(QUEUE);
    (Teller { stories, metrics }, receiver)
}

impl Teller {
    /// Tells what is different between two statuses of a server.
    pub fn tell(&self, key: &ServerKey, uid: &str, old: &McpServerStatus, new: &McpServerStatus) {
        for told in transitions(old, new) {
            self.story(key, uid, told);
        }
    }

    /// Tells something of a server: whether it is bad, the reason, and a sentence.
    pub fn story(&self, key: &ServerKey, uid: &str, (warning, reason, note): (bool, String, String)) {
        let about = ObjectReference {
            api_version: Some(format!("{GROUP}/v1alpha1")),
            kind: Some("McpServer".into()),
            namespace: Some(key.namespace.clone()),
            name: Some(key.name.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let note = note.chars().take(MAX_NOTE).collect();
        if self.stories.try_send(Story { about, warning, reason, note }).is_err() {
            self.metrics.events.with_label_values(&["dropped"]).inc();
        }
    }
}

/// What people should hear of: whether it is bad, the reason, and a sentence.
fn transitions(old: &McpServerStatus, new: &McpServerStatus) -> Vec<(bool, String, String)> {
    // What is under way is no news, and what follows from another condition was told with that one.
    const SILENT: [Reason; 6] = [
        Reason::NotProgrammed,
        Reason::NotAccepted,
        Reason::RefsNotResolved,
        Reason::Pending,
        Reason::Probing,
        Reason::NoGateway,
    ];
    let mut told = Vec::new();
    for kind in ConditionType::ALL {
        let (Some(now), before) = (find(new, kind), find(old, kind)) else { continue };
        let same = before.is_some_and(|before| before.status == now.status && before.reason == now.reason);
        let silent = SILENT.iter().any(|reason| reason.as_str() == now.reason);
        let good = now.status == "True";
        // Only that it can be called is good news of its own; that something is well again is told if it was not.
        let was_bad = before.is_some_and(|before| before.status == "False");
        // Good, as far as it goes.
        let dangerous = now.reason == Reason::InsecureSkipVerify.as_str();
        if same || silent || (good && kind != ConditionType::Ready && !was_bad && !dangerous) {
            continue;
        }
        let quiet = [Reason::Disabled, Reason::Draining].iter().any(|reason| reason.as_str() == now.reason);
        let note =
            if now.message.is_empty() { format!("{} is {}", now.type_, now.status) } else { now.message.clone() };
        told.push(((!good && !quiet) || dangerous, now.reason.clone(), note));
    }
    told
}

/// Writes stories until the process stops.
pub async fn run(client: Client, pod: String, mut stories: mpsc::Receiver<Story>, metrics: Metrics, stop: Shutdown) {
    let reporter = Reporter { controller: format!("{GROUP}/operator"), instance: Some(pod) };
    let recorder = Recorder::new(client, reporter);
    let mut bucket = Bucket::new(RATE.0, RATE.1, Instant::now());
    loop {
        let story = tokio::select! {
            story = stories.recv() => story,
            () = stop.requested() => return,
        };
        let Some(story) = story else { return stop.requested().await };
        while !bucket.take(Instant::now()) {
            tokio::select! {
                () = sleep_until(bucket.next(Instant::now())) => {}
                () = stop.requested() => return,
            }
        }
        let event = Event {
            type_: if story.warning { EventType::Warning } else { EventType::Normal },
            reason: story.reason,
            note: Some(story.note),
            action: "Reconcile".into(),
            secondary: None,
        };
        let outcome = match timeout(REQUEST_LIMIT, recorder.publish(&event, &story.about)).await {
            Ok(Ok(())) => "ok",
            Ok(Err(error)) => {
                warn!(%error, "an Event could not be written");
                "error"
            }
            Err(_) => "error",
        };
        metrics.events.with_label_values(&[outcome]).inc();
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

    use super::*;

    fn status(conditions: &[(ConditionType, &str, Reason)]) -> McpServerStatus {
        let condition = |(kind, status, reason): &(ConditionType, &str, Reason)| Condition {
            type_: kind.as_str().into(),
            status: (*status).into(),
            reason: reason.as_str().into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
        };
        McpServerStatus { conditions: conditions.iter().map(condition).collect(), ..Default::default() }
    }

    #[test]
    fn only_transitions_that_people_care_for_are_told() {
        use ConditionType::{Accepted, Programmed, Ready, ResolvedRefs};
        let none = status(&[]);
        let well = status(&[(ResolvedRefs, "True", Reason::ResolvedRefs), (Ready, "True", Reason::Ready)]);
        let away = status(&[(Ready, "False", Reason::BackendUnreachable)]);
        let secret = status(&[
            (ResolvedRefs, "False", Reason::SecretNotFound),
            (Programmed, "True", Reason::Programmed),
            (Ready, "False", Reason::RefsNotResolved),
        ]);
        let off = status(&[(Ready, "False", Reason::Disabled)]);
        let words = |old, new| {
            let told = transitions(old, new).into_iter();
            told.map(|(warning, reason, _)| format!("{}{reason}", if warning { "!" } else { "" })).collect::<Vec<_>>()
        };
        assert_eq!(words(&none, &well), ["Ready"]);
        assert_eq!(words(&well, &well), Vec::<String>::new());
        assert_eq!(words(&well, &away), ["!BackendUnreachable"]);
        assert_eq!(words(&well, &secret), ["!SecretNotFound"]);
        assert_eq!(words(&secret, &well), ["ResolvedRefs", "Ready"]);
        assert_eq!(words(&well, &off), ["Disabled"]);
        let insecure = status(&[(Accepted, "True", Reason::InsecureSkipVerify)]);
        assert_eq!(words(&none, &insecure), ["!InsecureSkipVerify"]);
        assert_eq!(words(&insecure, &insecure), Vec::<String>::new());
        assert_eq!(words(&insecure, &status(&[(Accepted, "True", Reason::Accepted)])), Vec::<String>::new());
    }
}
