//! The servers that the gateway connects to, in one representation for all sources.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use aws_lc_rs::digest;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use thiserror::Error;

use crate::mcpserver::{
    AllowedViews, ClientSessions, ForwardCallerToken, Header, HealthCheck, Identity, Instructions, Listing,
    ServerLimits, ServingState, SessionMode, Timeouts, Tls, ToolRules, Transport,
};
use crate::names::ServerKey;
use crate::policy::{Policy, PolicyRef, PolicyText};
use crate::view::View;

/// The newest version of the text form that this build reads.
pub const VERSION: u32 = 3;

/// The version of a text without policies.
const VERSION_WITHOUT_POLICIES: u32 = 1;

/// The version of a text with policies: a gateway that does not know them must not serve what they govern.
const VERSION_WITH_POLICIES: u32 = 2;

/// The version of a text whose policies name McpViews: a gateway that does not know that would allow more than they say.
const VERSION_WITH_VIEWS_IN_POLICIES: u32 = 3;

/// The servers that the gateway serves, sorted by key.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// The servers, sorted by key, each key once.
    pub servers: Vec<Server>,
    /// The views, sorted by key, each key once.
    pub views: Vec<Arc<View>>,
    /// Gateway replicas that share the limits of policies; none where no policy has a limit.
    pub replicas: Option<u32>,
}

/// A snapshot whose servers are shared values.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SharedSnapshot {
    /// The servers, sorted by key.
    pub servers: Vec<Arc<Server>>,
    /// The views, sorted by key.
    pub views: Vec<Arc<View>>,
    /// See [`Snapshot::replicas`].
    pub replicas: Option<u32>,
}

/// One server with all defaults filled in.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Server {
    /// The McpServer that it comes from.
    pub key: ServerKey,
    /// The name by which callers know it.
    pub name: String,
    /// The name in `/servers`, where it differs: the configured URL without its query.
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
    /// Transport of MCP.
    #[serde(default)]
    pub transport: Transport,
    /// Speak only this protocol version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub protocol_version: Option<String>,
    /// Name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// Description for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Share of calls within a priority.
    pub weight: u16,
    /// Servers with a lower number are called first.
    #[serde(default)]
    pub priority: u8,
    /// Whether it is used.
    #[serde(default)]
    pub state: ServingState,
    /// Headers sent to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<Header>,
    /// Headers of the caller to forward, in lower case.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub forward_headers: Vec<String>,
    /// How it learns who calls.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// A credential for it that callers bring.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub forward_caller_token: Option<ForwardCallerToken>,
    /// How it is listed and checked.
    #[serde(default, skip_serializing_if = "Listing::is_default")]
    pub listing: Listing,
    /// TLS settings.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<Tls>,
    /// Timeouts.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Health checks.
    #[serde(default)]
    pub health_check: HealthCheck,
    /// Bounds for concurrent calls.
    #[serde(default)]
    pub limits: ServerLimits,
    /// Its pool: members share tools.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pool: Option<String>,
    /// Whether clients share one session with it.
    #[serde(default, skip_serializing_if = "SessionMode::is_shared")]
    pub session: SessionMode,
    /// Bounds for the clients' own sessions.
    #[serde(default, skip_serializing_if = "ClientSessions::is_default")]
    pub client_sessions: ClientSessions,
    /// What clients are told of it.
    #[serde(default, skip_serializing_if = "Instructions::are_passed")]
    pub instructions: Instructions,
    /// The rules that select and rename its tools.
    #[serde(default)]
    pub tools: ToolRules,
    /// The namespaces whose views may select it.
    #[serde(default, skip_serializing_if = "AllowedViews::is_default")]
    pub allowed_views: AllowedViews,
    /// `metadata.labels`, where a policy governs the server, or a view selects servers by them.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The policies of its namespace that govern it, sorted by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub governed_by: Vec<PolicyRef>,
    /// The policies that `governed_by` names.
    #[serde(skip)]
    pub policies: Governing,
    /// The text that it was read from.
    #[serde(skip)]
    pub read_from: ReadFrom,
}

/// The revision of the text that a server or a policy was read from, if it was read from one.
///
/// A newer operator may write fields that are not known here. What was read must still be told from what was not, and
/// must be named as its writer names it; so two texts differ even if all that is known of them is the same.
#[derive(Clone, Debug, Default)]
pub struct ReadFrom(Option<String>);

impl ReadFrom {
    /// The revision of the text, if there was one.
    pub(crate) fn text_revision(&self) -> Option<&str> {
        self.0.as_deref()
    }

    /// Whether both were read from the same text, as far as that is known.
    pub(crate) fn is_same(&self, other: &Self) -> Option<bool> {
        Some(self.0.as_ref()? == other.0.as_ref()?)
    }
}

impl PartialEq for ReadFrom {
    fn eq(&self, other: &Self) -> bool {
        self.0.is_none() || other.0.is_none() || self.0 == other.0
    }
}

/// The policies that govern a server, as far as they are known. `governed_by` names them with their revisions, so they do
/// not count when servers are compared.
#[derive(Clone, Debug, Default)]
pub struct Governing(Vec<Arc<Policy>>);

impl PartialEq for Governing {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Governing {
    /// These policies.
    pub fn new(policies: Vec<Arc<Policy>>) -> Self {
        Self(policies)
    }
}

/// Why a text is not a snapshot.
#[derive(Debug, Error)]
pub enum SnapshotError {
    /// A newer operator wrote the text: keep the previous snapshot.
    #[error("the snapshot has version {found}, this build reads up to {VERSION}")]
    Version {
        /// The version of the text.
        found: u32,
    },
    /// The text is not the text form.
    #[error("the snapshot is not valid JSON of the expected form")]
    Syntax(#[from] serde_json::Error),
}

impl Snapshot {
    /// A snapshot of these servers, sorted by key.
    pub fn new(mut servers: Vec<Server>) -> Self {
        servers.sort_by(|a, b| a.key.cmp(&b.key));
        Self { servers, views: Vec::new(), replicas: None }
    }

    /// The text form: JSON, the same bytes for equal snapshots.
    pub fn to_text(&self) -> String {
        let servers: Vec<String> = self.servers.iter().map(Server::to_text).collect();
        let mut policies = BTreeMap::new();
        for policy in self.servers.iter().flat_map(|server| &server.policies.0) {
            policies.entry(&policy.key).or_insert_with(|| policy.to_text());
        }
        let views: Vec<String> = self.views.iter().map(|view| view.to_text()).collect();
        let (servers, views) = (servers.iter().map(String::as_str), views.iter().map(String::as_str));
        text_of(servers, policies.values(), views, self.replicas)
    }

    /// Parses the text form. Unknown fields are left out.
    ///
    /// # Errors
    /// [`SnapshotError::Version`] if a newer operator wrote it, [`SnapshotError::Syntax`] otherwise.
    pub fn parse(text: &str) -> Result<Self, SnapshotError> {
        let SharedSnapshot { servers, views, replicas } = SharedSnapshot::parse_after(text, &[], &[])?;
        Ok(Self { servers: servers.into_iter().map(Arc::unwrap_or_clone).collect(), views, replicas })
    }

    /// SHA-256 of the text form, in hexadecimal.
    pub fn digest(&self) -> String {
        hex(digest::digest(&digest::SHA256, self.to_text().as_bytes()).as_ref())
    }
}

impl SharedSnapshot {
    /// Parses the text form. What the text has in common with the one that `before` and `views` were parsed from is not parsed
    /// again: the same servers, policies and views are the same values.
    ///
    /// # Errors
    /// See [`Snapshot::parse`].
    pub fn parse_after(text: &str, before: &[Arc<Server>], views: &[Arc<View>]) -> Result<Self, SnapshotError> {
        let texts = RawSnapshot::read(text)?;
        let known: HashMap<&str, &Arc<Server>> =
            before.iter().filter_map(|server| Some((server.read_from.0.as_deref()?, server))).collect();
        let governing = before.iter().filter_map(|server| Some(server.governed_by.iter().zip(server.governing()?)));
        let known_policies: HashMap<&str, &Arc<Policy>> =
            governing.flatten().map(|(of, policy)| (of.revision.as_str(), policy)).collect();
        let mut policies: HashMap<String, Vec<Arc<Policy>>> = HashMap::with_capacity(texts.policies.len());
        for text in texts.policies {
            let revision = revision_of(text.get());
            let policy = match known_policies.get(revision.as_str()) {
                Some(policy) => Arc::clone(policy),
                None => Arc::new(Policy {
                    read_from: ReadFrom(Some(revision.clone())),
                    ..serde_json::from_str(text.get())?
                }),
            };
            policies.entry(revision).or_default().push(policy);
        }
        let named = |namespace: &str, of: &PolicyRef| {
            let is_it = |policy: &&Arc<Policy>| policy.key.namespace == namespace && policy.key.name == of.name;
            policies.get(&of.revision)?.iter().find(is_it)
        };
        let servers = texts.servers.into_iter().map(|text| {
            let revision = revision_of(text.get());
            let has_all = |server: &Server| {
                server.governing().is_some()
                    && server.governed_by.iter().all(|of| named(&server.key.namespace, of).is_some())
            };
            if let Some(same) = known.get(revision.as_str()).filter(|server| has_all(server)) {
                return Ok(Arc::clone(same));
            }
            let server: Server = serde_json::from_str(text.get())?;
            let governing = server.governed_by.iter().filter_map(|of| named(&server.key.namespace, of).cloned());
            let policies = Governing(governing.collect());
            Ok(Arc::new(Server { read_from: ReadFrom(Some(revision)), policies, ..server }))
        });
        let mut servers = servers.collect::<Result<Vec<Arc<Server>>, serde_json::Error>>()?;
        servers.sort_by(|a, b| a.key.cmp(&b.key));
        let views = views_after(&texts.views, views)?;
        Ok(Self { servers, views, replicas: texts.replicas })
    }
}

/// Parses views, except those that are known.
fn views_after(texts: &[&RawValue], known: &[Arc<View>]) -> Result<Vec<Arc<View>>, serde_json::Error> {
    let known: HashMap<&str, &Arc<View>> =
        known.iter().filter_map(|view| Some((view.read_from.text_revision()?, view))).collect();
    let read = texts.iter().map(|text| {
        let revision = revision_of(text.get());
        if let Some(same) = known.get(revision.as_str()) {
            return Ok(Arc::clone(same));
        }
        let view: View = serde_json::from_str(text.get())?;
        Ok(Arc::new(View { read_from: ReadFrom(Some(revision)), ..view }))
    });
    let mut views = read.collect::<Result<Vec<Arc<View>>, serde_json::Error>>()?;
    views.sort_by(|a, b| a.key.cmp(&b.key));
    Ok(views)
}

/// The text form, whose servers, policies and views are still texts.
#[derive(Deserialize)]
struct RawSnapshot<'a> {
    version: u32,
    #[serde(borrow)]
    servers: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    policies: Vec<&'a RawValue>,
    #[serde(borrow, default)]
    views: Vec<&'a RawValue>,
    #[serde(default)]
    replicas: Option<u32>,
}

impl<'a> RawSnapshot<'a> {
    fn read(text: &'a str) -> Result<Self, SnapshotError> {
        #[derive(Deserialize)]
        struct SnapshotHead {
            version: u32,
        }
        let version = |found| Err(SnapshotError::Version { found });
        match serde_json::from_str::<Self>(text) {
            Ok(read) if read.version > VERSION => version(read.version),
            Ok(read) => Ok(read),
            // A newer form may have another shape.
            Err(error) => match serde_json::from_str::<SnapshotHead>(text) {
                Ok(head) if head.version > VERSION => version(head.version),
                _ => Err(error.into()),
            },
        }
    }
}

/// The text of a snapshot with these texts of servers, of the policies that govern them, and of views, each sorted by key, and
/// the number of replicas that share the limits of policies.
pub(crate) fn text_of<'a>(
    servers: impl Iterator<Item = &'a str>,
    policies: impl Iterator<Item = &'a PolicyText>,
    views: impl Iterator<Item = &'a str>,
    replicas: Option<u32>,
) -> String {
    let join = |text: &mut String, member: &str, parts: &mut dyn Iterator<Item = &'a str>| {
        text.push_str(&format!(",\"{member}\":["));
        parts.enumerate().for_each(|(index, part)| {
            text.push_str(if index > 0 { "," } else { "" });
            text.push_str(part);
        });
        text.push(']');
    };
    let policies: Vec<&PolicyText> = policies.collect();
    let governs = !policies.is_empty();
    let version = match governs {
        true if policies.iter().any(|policy| policy.names_views) => VERSION_WITH_VIEWS_IN_POLICIES,
        true => VERSION_WITH_POLICIES,
        false => VERSION_WITHOUT_POLICIES,
    };
    let mut text = format!("{{\"version\":{version}");
    if let Some(replicas) = replicas.filter(|_| governs) {
        text.push_str(&format!(",\"replicas\":{replicas}"));
    }
    join(&mut text, "servers", &mut { servers });
    if governs {
        join(&mut text, "policies", &mut policies.iter().map(|policy| &*policy.text));
    }
    let mut views = views.peekable();
    if views.peek().is_some() {
        join(&mut text, "views", &mut views);
    }
    text.push('}');
    text
}

/// The revision of a server with this text form: 64 bits of its SHA-256, in hexadecimal.
pub fn revision_of(server: &str) -> String {
    hex(&digest::digest(&digest::SHA256, server.as_bytes()).as_ref()[..8])
}

/// Bytes in hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| char::from(DIGITS[usize::from(half)]);
    bytes.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]).collect()
}

impl Server {
    /// The text form: JSON, the same bytes for equal servers.
    pub fn to_text(&self) -> String {
        serde_json::to_string(self).expect("a server holds only strings, numbers and lists")
    }

    /// The revision of the text that the server was read from, else [`revision_of`] its own text.
    pub fn revision(&self) -> String {
        self.read_from.0.clone().unwrap_or_else(|| revision_of(&self.to_text()))
    }

    /// A server with a name and a URL, and defaults for everything else.
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
            state: ServingState::Enabled,
            headers: Vec::new(),
            forward_headers: Vec::new(),
            identity: None,
            forward_caller_token: None,
            listing: Listing::default(),
            tls: None,
            timeouts: Timeouts::default(),
            health_check: HealthCheck::default(),
            limits: ServerLimits::default(),
            pool: None,
            session: SessionMode::default(),
            client_sessions: ClientSessions::default(),
            instructions: Instructions::default(),
            tools: ToolRules::default(),
            allowed_views: AllowedViews::default(),
            labels: BTreeMap::new(),
            governed_by: Vec::new(),
            policies: Governing::default(),
            read_from: ReadFrom::default(),
        }
    }

    /// The policies that govern it; `None` if one that it names is not known, so that nobody may use it.
    pub fn governing(&self) -> Option<&[Arc<Policy>]> {
        let Governing(policies) = &self.policies;
        (policies.len() == self.governed_by.len()).then_some(policies)
    }

    /// Whether it belongs to the home namespace, whose servers and tools go by their bare names.
    pub fn is_home(&self) -> bool {
        self.name == self.key.name
    }

    /// The header in which callers bring a credential for it: no other server has the same. `None` if its name leaves none.
    pub fn caller_token_header(&self) -> Option<String> {
        let ServerKey { namespace, name } = &self.key;
        // Names with `--` could be read in two ways.
        if namespace.contains("--") || name.contains("--") {
            return None;
        }
        Some(if self.is_home() {
            format!("x-{name}-authorization")
        } else {
            format!("x-{namespace}--{name}-authorization")
        })
    }

    /// The name in `/servers`.
    pub fn label(&self) -> &str {
        self.label.as_deref().unwrap_or(&self.name)
    }
}

#[cfg(test)]
mod tests;
