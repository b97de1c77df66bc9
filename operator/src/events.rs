//! Records transitions of McpServers, McpAccessPolicies and McpViews as Events of the cluster, for people.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Client;
use kube::runtime::events::{Event, EventType, Recorder, Reporter};
use portcullis_crds::names::GROUP;
use portcullis_crds::{ConditionType, Reason};
use portcullis_runtime::Shutdown;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tracing::warn;

use crate::bucket::Bucket;
use crate::metrics::OperatorMetrics;
use crate::object_key::ObjectKey;
use crate::publish::REQUEST_LIMIT;
use crate::status::find;

/// Events that may wait to be written; further ones are dropped and counted.
const QUEUE_CAPACITY: usize = 256;

/// Events in a burst and per second: people read them.
const EVENT_RATE: (u32, u32) = (50, 10);

/// The longest note, in characters; Kubernetes takes 1,024 bytes.
const MAX_NOTE_CHARS: usize = 250;

/// One Event to be written.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct EventNote {
    /// The object that the Event is about.
    pub(crate) about: ObjectReference,
    /// Whether the Event is a warning.
    pub(crate) warning: bool,
    /// The reason of the condition.
    pub(crate) reason: String,
    /// The message for people.
    pub(crate) message: String,
}

/// Queues Events, and never waits.
#[derive(Clone)]
pub(crate) struct EventSink {
    notes: mpsc::Sender<EventNote>,
    metrics: OperatorMetrics,
}

/// The sink of the queue, and the receiver for [`run`].
pub(crate) fn channel(metrics: OperatorMetrics) -> (EventSink, mpsc::Receiver<EventNote>) {
    let (notes, receiver) = mpsc::channel(QUEUE_CAPACITY);
    (EventSink { notes, metrics }, receiver)
}

impl EventSink {
    /// Records the transitions of these types between the conditions of an object, before and now.
    pub(crate) fn record_transitions(
        &self,
        of: &ObjectKey,
        uid: &str,
        kinds: &[ConditionType],
        (old, new): (&[Condition], &[Condition]),
    ) {
        for transition in transitions(kinds, old, new) {
            self.record(of, uid, transition);
        }
    }

    /// Records one Event of an object: whether it is a warning, the reason, and the message.
    pub(crate) fn record(&self, of: &ObjectKey, uid: &str, (warning, reason, message): (bool, String, String)) {
        let about = ObjectReference {
            api_version: Some(format!("{GROUP}/v1alpha1")),
            kind: Some(of.kind.word().into()),
            namespace: Some(of.key.namespace.clone()),
            name: Some(of.key.name.clone()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let message = message.chars().take(MAX_NOTE_CHARS).collect();
        if self.notes.try_send(EventNote { about, warning, reason, message }).is_err() {
            self.metrics.events.with_label_values(&["dropped"]).inc();
        }
    }
}

/// The transitions worth an Event: whether it is a warning, the reason, and the message.
fn transitions(kinds: &[ConditionType], old: &[Condition], new: &[Condition]) -> Vec<(bool, String, String)> {
    // Steps on the way are no news, and the Event of one condition covers those that follow from it.
    const SILENT: [Reason; 6] = [
        Reason::NotProgrammed,
        Reason::NotAccepted,
        Reason::RefsNotResolved,
        Reason::Pending,
        Reason::Probing,
        Reason::NoGateway,
    ];
    let mut transitions = Vec::new();
    for kind in kinds.iter().copied() {
        let (Some(now), before) = (find(new, kind), find(old, kind)) else { continue };
        let same = before.is_some_and(|before| before.status == now.status && before.reason == now.reason);
        let silent = SILENT.iter().any(|reason| reason.as_str() == now.reason);
        let good = now.status == "True";
        // Only `Ready` is good news by itself; another condition is recorded as good only after it was bad.
        let was_bad = before.is_some_and(|before| before.status == "False");
        // Good, but dangerous.
        let dangerous = now.reason == Reason::InsecureSkipVerify.as_str();
        if same || silent || (good && kind != ConditionType::Ready && !was_bad && !dangerous) {
            continue;
        }
        let quiet = [Reason::Disabled, Reason::Draining].iter().any(|reason| reason.as_str() == now.reason);
        let note =
            if now.message.is_empty() { format!("{} is {}", now.type_, now.status) } else { now.message.clone() };
        transitions.push(((!good && !quiet) || dangerous, now.reason.clone(), note));
    }
    transitions
}

/// Writes the queued Events until the process stops.
pub(crate) async fn run(
    client: Client,
    pod: String,
    mut notes: mpsc::Receiver<EventNote>,
    metrics: OperatorMetrics,
    stop: Shutdown,
) {
    let reporter = Reporter { controller: format!("{GROUP}/operator"), instance: Some(pod) };
    let recorder = Recorder::new(client, reporter);
    let mut bucket = Bucket::new(EVENT_RATE.0, EVENT_RATE.1, Instant::now());
    loop {
        let note = tokio::select! {
            note = notes.recv() => note,
            () = stop.requested() => return,
        };
        let Some(note) = note else { return stop.requested().await };
        while !bucket.take(Instant::now()) {
            tokio::select! {
                () = sleep_until(bucket.next(Instant::now())) => {}
                () = stop.requested() => return,
            }
        }
        let event = Event {
            type_: if note.warning { EventType::Warning } else { EventType::Normal },
            reason: note.reason,
            note: Some(note.message),
            action: "Reconcile".into(),
            secondary: None,
        };
        let outcome = match timeout(REQUEST_LIMIT, recorder.publish(&event, &note.about)).await {
            Ok(Ok(())) => "ok",
            Ok(Err(error)) => {
                warn!(%error, "cannot write an Event");
                "error"
            }
            Err(_) => "error",
        };
        metrics.events.with_label_values(&[outcome]).inc();
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn status(conditions: &[(ConditionType, &str, Reason)]) -> Vec<Condition> {
        let condition = |(kind, status, reason): &(ConditionType, &str, Reason)| Condition {
            type_: kind.as_str().into(),
            status: (*status).into(),
            reason: reason.as_str().into(),
            message: String::new(),
            observed_generation: None,
            last_transition_time: Time(k8s_openapi::jiff::Timestamp::UNIX_EPOCH),
        };
        conditions.iter().map(condition).collect()
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
        let words = |old: &Vec<Condition>, new: &Vec<Condition>| {
            let told = transitions(&ConditionType::ALL, old, new).into_iter();
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
