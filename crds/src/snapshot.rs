//! What the gateway is to connect to: the one internal representation, whatever source it came from.

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::mcpserver::{
    ClientSessions, Header, HealthCheck, Limits, SessionMode, State, Timeouts, Tls, ToolRules, Transport,
};
use crate::names::ServerKey;

/// The version of the text form that this build writes and reads.
pub const VERSION: u32 = 1;

/// Every server that the gateway serves, sorted by key.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// [`VERSION`] of its writer.
    pub version: u32,
    /// The servers, sorted by key, each key once.
    pub servers: Vec<Server>,
}

/// One server with everything filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// Which McpServer it comes from.
    pub key: ServerKey,
    /// The name callers know it by.
    pub name: String,
    /// What `/servers` calls it, where that is not the name: the URL as configured, without its query.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// `metadata.generation`.
    #[serde(default)]
    pub generation: i64,
    /// When it was created, in seconds since 1970: of two servers of a namespace the older one keeps a contested name.
    #[serde(default)]
    pub created: i64,
    /// Absolute URL of the MCP endpoint.
    pub url: String,
    /// How it speaks MCP.
    #[serde(default)]
    pub transport: Transport,
    /// Speak only this protocol version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<String>,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// What it is for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Share of calls within a priority.
    pub weight: u16,
    /// Lower is tried first.
    #[serde(default)]
    pub priority: u8,
    /// Whether it is used.
    #[serde(default)]
    pub state: State,
    /// Headers sent to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
    /// Headers of the caller passed on to it, in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forward_headers: Vec<String>,
    /// TLS settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// How long to wait for what.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// How its health is watched.
    #[serde(default)]
    pub health_check: HealthCheck,
    /// How much it is given at once.
    #[serde(default)]
    pub limits: Limits,
    /// The pool that it belongs to: its tools are one with those of other members.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Whether clients share one session with it.
    #[serde(default, skip_serializing_if = "SessionMode::is_shared")]
    pub session: SessionMode,
    /// Bounds for the sessions that clients have for themselves.
    #[serde(default, skip_serializing_if = "ClientSessions::is_default")]
    pub client_sessions: ClientSessions,
    /// Which tools are offered.
    #[serde(default)]
    pub tools: ToolRules,
    /// What it was read from.
    #[serde(skip)]
    pub read_from: ReadFrom,
}

/// The revision of the text that a server was read from, if it was read from one.
///
/// A newer operator may write fields that are not known here. What was read must still be told from what was not, and
/// must be named as its writer names it; so two texts differ even if all that is known of them is the same.
#[derive(Clone, Debug, Default)]
pub struct ReadFrom(Option<String>);

impl PartialEq for ReadFrom {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_none() || other.0.is_none() || self.0 == other.0
    }
}

/// Why a text is no snapshot.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// Written by a newer operator: keep the previous snapshot.
    #[error("the snapshot has version {found}, this build reads up to {VERSION}")]
    Version {
        /// The version it has.
        found: u32,
    },
    /// Not the text form at all.
    #[error("the snapshot is not valid JSON of its form")]
    Syntax(#[from] serde_json::Error),
}

impl Snapshot {
    /// A snapshot of these servers, sorted by key.
    pub fn new(mut servers: Vec<Server>) -> Self {
        servers.sort_by(|a, b| a.key.cmp(&b.key));
        Self { version: VERSION, servers }
    }

    /// The text form: JSON, the same bytes for equal snapshots.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a snapshot holds only strings, numbers and lists")
    }

    /// Parses the text form. Unknown fields are left out.
    ///
    /// # Errors
    /// [`SnapshotError::Version`] if a newer operator wrote it, [`SnapshotError::Syntax`] otherwise.
    pub fn parse(text: &str) -> Result<Self, SnapshotError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        #[derive(Deserialize)]
        struct Texts<'a> {
            #[serde(borrow)]
            servers: Vec<&'a RawValue>,
        }
        let head: Head = serde_json::from_str(text)?;
        if head.version > VERSION {
            return Err(SnapshotError::Version { found: head.version });
        }
        let texts: Texts<'_> = serde_json::from_str(text)?;
        let servers = texts.servers.into_iter().map(|text| {
            let server: Server = serde_json::from_str(text.get())?;
            Ok(Server { read_from: ReadFrom(Some(revision_of(text.get()))), ..server })
        });
        Ok(Self::new(servers.collect::<Result<_, serde_json::Error>>()?))
    }

    /// SHA-256 of the text form, in hexadecimal.
    pub fn digest(&self) -> String {
        hex(digest::digest(&digest::SHA256, self.to_text().as_bytes()).as_ref())
    }
}

/// The revision of a server with this text form: 64 bits of its SHA-256, in hexadecimal.
pub fn revision_of(server: &str) -> String {
    hex(&digest::digest(&digest::SHA256, server.as_bytes()).as_ref()[..8])
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

impl Server {
    /// The text form: JSON, the same bytes for equal servers.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a server holds only strings, numbers and lists")
    }

    /// Tells one content of a server from another: that of the text it was read from, else [`revision_of`] its own.
    pub fn revision(&self) -> String {
        self.read_from.0.clone().unwrap_or_else(|| revision_of(&self.to_text()))
    }

    /// A server with nothing but a name and a URL, everything else at its default.
    pub fn from_url(name: &str, url: &str) -> Self {
        Self {
            key: ServerKey::new(crate::names::DEFAULT_NAMESPACE, name),
            name: name.to_owned(),
            label: None,
            generation: 0,
            created: 0,
            url: url.to_owned(),
            transport: Transport::Auto,
            protocol_version: None,
            display_name: None,
            description: None,
            weight: 100,
            priority: 0,
            state: State::Enabled,
            headers: Vec::new(),
            forward_headers: Vec::new(),
            tls: None,
            timeouts: Timeouts::default(),
            health_check: HealthCheck::default(),
            limits: Limits::default(),
            pool: None,
            session: SessionMode::default(),
            client_sessions: ClientSessions::default(),
            tools: ToolRules::default(),
            read_from: ReadFrom::default(),
        }
    }

    /// Whether it belongs to the home namespace, whose servers and tools go by their bare names.
    pub fn is_home(&self) -> bool {
        self.name == self.key.name
    }

    /// What `/servers` calls it.
    pub fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_form_of_version_1_stays_as_it_is() {
        let server = Server { label: Some("http://a/sse".into()), ..Server::from_url("a", "http://a/sse") };
        let text = Snapshot::new(vec![server]).to_text();
        insta::assert_snapshot!(text, @r#"{"version":1,"servers":[{"key":{"namespace":"default","name":"a"},"name":"a","label":"http://a/sse","generation":0,"created":0,"url":"http://a/sse","transport":"auto","weight":100,"priority":0,"state":"Enabled","timeouts":{"connectSeconds":5,"requestSeconds":60,"idleSeconds":300},"healthCheck":{"mode":"Ping","intervalSeconds":15,"unhealthyThreshold":3,"healthyThreshold":1},"limits":{"maxConcurrentRequests":64},"tools":{}}]}"#);
    }

    #[test]
    fn a_newer_version_and_other_texts_are_refused() {
        assert!(matches!(
            Snapshot::parse(r#"{"version":2,"servers":[{"new":1}]}"#),
            Err(SnapshotError::Version { found: 2 })
        ));
        for text in
            ["", "{}", "[]", r#"{"version":1}"#, r#"{"version":"1","servers":[]}"#, r#"{"version":1,"servers":[{}]}"#]
        {
            assert!(matches!(Snapshot::parse(text), Err(SnapshotError::Syntax(_))), "{text}");
        }
    }

    #[test]
    fn a_server_is_named_as_its_writer_names_it_whatever_else_he_knows() {
        let server = Server::from_url("a", "http://a/sse");
        let text = |more: &str| server.to_text().replacen('{', &format!("{{{more}"), 1);
        let read = |text: &str| {
            let snapshot = Snapshot::parse(&format!(r#"{{"version":1,"servers":[{text}]}}"#)).unwrap();
            snapshot.servers.into_iter().next().unwrap()
        };
        let (plain, newer) = (text(""), text(r#""moods":["calm"],"#));
        assert_eq!((read(&plain).revision(), read(&newer).revision()), (server.revision(), revision_of(&newer)));
        assert_eq!((read(&plain), read(&newer)), (server.clone(), server.clone()));
        assert_ne!(read(&plain), read(&newer));
    }

    fn server() -> impl Strategy<Value = Server> {
        ("[a-z]{1,3}", "[a-z]{1,3}", 0u16..1000, 0u8..10, any::<bool>(), prop::option::of(".{0,9}")).prop_map(
            |(namespace, name, weight, priority, off, description)| Server {
                key: ServerKey::new(namespace, name.clone()),
                weight,
                priority,
                description,
                state: if off { State::Disabled } else { State::Enabled },
                ..Server::from_url(&name, "http://x/")
            },
        )
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_and_order_does_not_matter(
            servers in prop::collection::vec(server(), 0..6),
            turn in 0usize..6,
        ) {
            let mut servers = servers;
            servers.sort_by(|a, b| a.key.cmp(&b.key));
            servers.dedup_by(|a, b| a.key == b.key);
            let snapshot = Snapshot::new(servers.clone());
            prop_assert_eq!(&Snapshot::parse(&snapshot.to_text()).unwrap(), &snapshot);
            let middle = turn.min(servers.len());
            servers.rotate_left(middle);
            prop_assert_eq!(Snapshot::new(servers).digest(), snapshot.digest());
        }

        #[test]
        fn arbitrary_text_never_panics(text in ".{0,60}") {
            let _ = Snapshot::parse(&text);
        }
    }
}
