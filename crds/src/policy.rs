//! Reads McpAccessPolicies and says which McpServers they govern.
//!
//! Pure. A policy that cannot be read whole still governs: what cannot be read of it allows nothing.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::glob;
use crate::mcpaccesspolicy::{
    AccessRule, AccessSource, AllowedItems, LabelOperator, LabelRequirement, LabelSelector, MAX_CALLS,
    MAX_EXPRESSION_BYTES, MAX_PATTERNS, MAX_RULE_VIEWS, MAX_RULES, MAX_SOURCES, PolicyMode, ServerSelector,
};
use crate::names::{DEFAULT_NAMESPACE, ServerKey};
use crate::rules::{is_dns_label, is_pattern};
use crate::snapshot::{Governing, ReadFrom, Server, revision_of};
use crate::strict::strict;
use crate::view::Views;

/// Patterns for names of servers.
const MAX_NAMES: usize = 64;

/// Bytes of one policy's text form.
pub const MAX_POLICY_BYTES: usize = 64 * 1024;

/// What the gateway needs of a policy. It is the same for all servers that the policy governs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Policy {
    /// Its namespace and name.
    pub key: ServerKey,
    /// What it does.
    #[serde(default)]
    pub mode: PolicyMode,
    /// The rules that could be read.
    #[serde(default)]
    pub rules: Vec<AccessRule>,
    /// The text that it was read from.
    #[serde(skip)]
    pub read_from: ReadFrom,
}

/// A policy in its text form.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyText {
    /// JSON, the same bytes for equal policies.
    pub text: Arc<str>,
    /// [`revision_of`] the text.
    pub revision: Arc<str>,
    /// Whether a rule has a limit, which gateway replicas share.
    pub is_limited: bool,
    /// Whether a rule allows only calls through some McpViews, which older gateways would not know.
    pub names_views: bool,
}

/// Names a policy of the server's namespace, and its text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct PolicyRef {
    /// `metadata.name`.
    pub name: String,
    /// [`revision_of`] its text form.
    pub revision: String,
}

/// A policy that was read.
#[derive(Clone, Debug, PartialEq)]
pub struct ReadPolicy {
    /// What the gateway needs of it.
    pub policy: Arc<Policy>,
    /// Its text form.
    pub text: PolicyText,
    /// `metadata.generation`.
    pub generation: i64,
    /// What could not be read, one sentence each. What could be read counts.
    pub problems: Vec<String>,
    /// The servers that it governs.
    selection: Selection,
}

/// The servers that a policy governs, in its namespace.
#[derive(Clone, Debug, PartialEq)]
enum Selection {
    All,
    Some(ServerSelector),
}

/// Policies by namespace and name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Policies(BTreeMap<String, BTreeMap<String, ReadPolicy>>);

impl Policies {
    /// Adds or replaces a policy.
    pub fn insert(&mut self, policy: ReadPolicy) -> Option<ReadPolicy> {
        let ServerKey { namespace, name } = policy.policy.key.clone();
        self.0.entry(namespace).or_default().insert(name, policy)
    }

    /// Removes a policy.
    pub fn remove(&mut self, key: &ServerKey) -> Option<ReadPolicy> {
        let namespace = self.0.get_mut(&key.namespace)?;
        let removed = namespace.remove(&key.name);
        if namespace.is_empty() {
            self.0.remove(&key.namespace);
        }
        removed
    }

    /// One policy.
    pub fn get(&self, key: &ServerKey) -> Option<&ReadPolicy> {
        self.0.get(&key.namespace)?.get(&key.name)
    }

    /// All of them, sorted by namespace and name.
    pub fn iter(&self) -> impl Iterator<Item = &ReadPolicy> {
        self.0.values().flat_map(BTreeMap::values)
    }

    /// The server with the policies that govern it, and the labels that conditions see.
    pub fn govern(&self, server: Server, labels: &BTreeMap<String, String>) -> Server {
        self.govern_beside(None, server, labels)
    }

    /// The same, with the labels that one of these views sees as well.
    pub fn govern_beside(&self, views: Option<&Views>, server: Server, labels: &BTreeMap<String, String>) -> Server {
        let governing: Vec<_> = self.governing(&server.key, labels).collect();
        let governed_by = governing.iter().map(|policy| policy.to_ref()).collect();
        let policies = Governing::new(governing.iter().map(|read| read.policy.clone()).collect());
        let seen = !governing.is_empty()
            || views.is_some_and(|views| views.look_at_labels_of(&server.key, &server.allowed_views));
        let labels = if seen { labels.clone() } else { BTreeMap::new() };
        Server { labels, governed_by, policies, ..server }
    }

    /// Those that govern a server, sorted by name.
    pub fn governing<'a>(
        &'a self,
        server: &'a ServerKey,
        labels: &'a BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a ReadPolicy> {
        let namespace = self.0.get(&server.namespace).into_iter().flat_map(BTreeMap::values);
        namespace.filter(|policy| policy.governs(&server.name, labels))
    }
}

impl Policy {
    /// Whether both are equal; does not look at rules where the texts are known.
    pub fn is_same(&self, other: &Self) -> bool {
        self.key == other.key && self.read_from.is_same(&other.read_from).unwrap_or_else(|| self == other)
    }

    /// The text form and its revision.
    pub fn to_text(&self) -> PolicyText {
        let text = serde_json::to_string(self).expect("a policy holds only strings, numbers and lists");
        let revision = revision_of(&text).into();
        let is_limited = self.rules.iter().any(|rule| rule.limit.is_some());
        let names_views = self.rules.iter().any(|rule| !rule.views.is_empty());
        PolicyText { text: text.into(), revision, is_limited, names_views }
    }
}

impl ReadPolicy {
    /// Reads a policy from the JSON of its object. What cannot be read of it allows nothing; if its selection of servers
    /// cannot be read, it governs all servers of its namespace.
    pub fn of(object: &Value) -> Self {
        let metadata = &object["metadata"];
        let text = |member: &str| metadata[member].as_str().filter(|text| !text.is_empty());
        let namespace = text("namespace").unwrap_or(DEFAULT_NAMESPACE);
        let key = ServerKey::new(namespace, text("name").unwrap_or_default());
        let generation = metadata["generation"].as_i64().unwrap_or(0);
        let mut problems = Vec::new();
        let policy = Policy::read(key.clone(), &object["spec"], &mut problems);
        let selection = Selection::read(&object["spec"]["servers"], &mut problems);
        let mut read = Self { text: policy.to_text(), policy: Arc::new(policy), generation, problems, selection };
        let bytes = read.text.text.len();
        if bytes > MAX_POLICY_BYTES {
            read.problems.push(format!(
                "the policy takes {bytes} bytes, more than {MAX_POLICY_BYTES}, so none of its rules counts: split it"
            ));
            let empty = Policy { rules: Vec::new(), ..Policy::clone(&read.policy) };
            (read.text, read.policy) = (empty.to_text(), Arc::new(empty));
        }
        read
    }

    /// A policy that governs all servers of its namespace and allows nothing.
    pub fn closed(key: ServerKey) -> Self {
        let (mode, rules, read_from) = (PolicyMode::Enforce, Vec::new(), ReadFrom::default());
        let policy = Policy { key, mode, rules, read_from };
        let (text, policy) = (policy.to_text(), Arc::new(policy));
        Self { policy, text, generation: 0, problems: Vec::new(), selection: Selection::All }
    }

    /// The reference that a governed server carries.
    pub fn to_ref(&self) -> PolicyRef {
        PolicyRef { name: self.policy.key.name.clone(), revision: self.text.revision.as_ref().to_owned() }
    }

    /// Whether it governs a server of its namespace.
    pub fn governs(&self, server: &str, labels: &BTreeMap<String, String>) -> bool {
        match &self.selection {
            Selection::All => true,
            Selection::Some(selector) => {
                let named = |names: &Vec<String>| names.iter().any(|pattern| glob::matches(pattern, server));
                selector.names.as_ref().is_none_or(named)
                    && selector.selector.as_ref().is_none_or(|selector| selector.selects(labels))
            }
        }
    }
}

impl Policy {
    fn read(key: ServerKey, spec: &Value, problems: &mut Vec<String>) -> Self {
        for (field, name) in [("name", &key.name), ("namespace", &key.namespace)] {
            if !is_dns_label(name) {
                problems.push(format!(
                    "metadata.{field} {name:?} is not a DNS label: use at most 63 of a-z, 0-9 and '-', not '-' at an end"
                ));
            }
        }
        if !spec.is_object() {
            problems.push("spec is missing".into());
        }
        for member in spec.as_object().into_iter().flat_map(serde_json::Map::keys) {
            if !["mode", "servers", "rules"].contains(&member.as_str()) {
                problems.push(format!("spec has no member {member:?}: remove it"));
            }
        }
        // A mode that a newer version knows must not open what this policy would close.
        let mode = read_member(&spec["mode"], "mode", problems).unwrap_or_default();
        let rules = match &spec["rules"] {
            Value::Null => &Vec::new(),
            Value::Array(rules) => rules,
            _ => {
                problems.push("rules must be a list".into());
                &Vec::new()
            }
        };
        if rules.len() > MAX_RULES {
            problems.push(format!("the policy has more than {MAX_RULES} rules, and only the first count: split it"));
        }
        let mut read: Vec<AccessRule> = Vec::new();
        for (index, rule) in rules.iter().take(MAX_RULES).enumerate() {
            match read_rule(rule) {
                Ok(rule) if read.iter().any(|other| other.name == rule.name) => {
                    problems.push(format!("rules[{index}]: the name {:?} is taken: rename the rule", rule.name));
                }
                Ok(rule) => read.push(rule),
                Err(problem) => problems.push(format!("rules[{index}]: {problem}")),
            }
        }
        Self { key, mode, rules: read, read_from: ReadFrom::default() }
    }
}

impl Selection {
    fn read(servers: &Value, problems: &mut Vec<String>) -> Self {
        if servers.is_null() {
            return Self::All;
        }
        let before = problems.len();
        let selector = strict::<ServerSelector>(servers);
        match selector {
            Err(problem) => problems.push(format!("servers: {problem}")),
            Ok(selector) => {
                if selector.names.is_none() && selector.selector.is_none() {
                    problems.push("servers: set names or selector, or leave servers out to select all".into());
                }
                if let Some(names) = &selector.names {
                    if names.is_empty() || names.len() > MAX_NAMES {
                        problems.push(format!("servers: names takes 1 to {MAX_NAMES} patterns"));
                    } else if !names.iter().all(|name| is_pattern(name, "-")) {
                        // It would match no server, and so leave open what it is to close.
                        problems.push("servers: a name holds only a-z, 0-9, '-' and '*'".into());
                    }
                }
                let requirements = selector.selector.iter().flat_map(|selector| &selector.match_expressions);
                if requirements.into_iter().any(|requirement| !requirement.is_complete()) {
                    problems
                        .push("servers: values belong to the operators In and NotIn, which need at least one".into());
                }
                if problems.len() == before {
                    return Self::Some(selector);
                }
            }
        }
        Self::All
    }
}

impl LabelSelector {
    /// Whether all requirements hold.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.holds(labels))
    }
}

impl LabelRequirement {
    fn holds(&self, labels: &BTreeMap<String, String>) -> bool {
        let value = labels.get(&self.key);
        let among = || value.is_some_and(|value| self.values.contains(value));
        match self.operator {
            LabelOperator::In => among(),
            LabelOperator::NotIn => !among(),
            LabelOperator::Exists => value.is_some(),
            LabelOperator::DoesNotExist => value.is_none(),
        }
    }

    pub(crate) fn is_complete(&self) -> bool {
        matches!(self.operator, LabelOperator::In | LabelOperator::NotIn) != self.values.is_empty()
    }
}

fn read_member<T: DeserializeOwned + Default>(value: &Value, name: &str, problems: &mut Vec<String>) -> Option<T> {
    if value.is_null() {
        return None;
    }
    T::deserialize(value).map_err(|problem| problems.push(format!("{name}: {problem}"))).ok()
}

fn read_rule(value: &Value) -> Result<AccessRule, String> {
    let rule: AccessRule = strict(value)?;
    if !is_dns_label(&rule.name) {
        return Err("name: use at most 63 of a-z, 0-9 and '-', not '-' at an end".into());
    }
    let count = rule.from.len();
    if count == 0 || count > MAX_SOURCES {
        return Err(format!("from needs 1 to {MAX_SOURCES} sources"));
    }
    if rule.allow.is_empty() || rule.allow.len() > MAX_SOURCES {
        return Err(format!("allow needs 1 to {MAX_SOURCES} entries"));
    }
    rule.from.iter().try_for_each(check_source)?;
    rule.allow.iter().try_for_each(check_items)?;
    let of_claims = rule.from.iter().flat_map(|source| &source.claims).map(|claim| claim.values.len());
    let lists = |items: &AllowedItems| {
        [&items.tools, &items.prompts, &items.resources].map(|list| list.as_ref().map_or(0, Vec::len)).iter().sum()
    };
    if of_claims.chain(rule.allow.iter().map(lists)).sum::<usize>() > MAX_PATTERNS {
        return Err(format!("the rule has more than {MAX_PATTERNS} patterns: split it into several rules"));
    }
    // An empty list would be as none: open to calls through any view.
    if rule.views.len() > MAX_RULE_VIEWS || value["views"].as_array().is_some_and(Vec::is_empty) {
        return Err(format!("views takes 1 to {MAX_RULE_VIEWS} names of McpViews"));
    }
    if !rule.views.iter().all(|view| is_object_name(view)) {
        return Err("views: write each as NAME, or as NAMESPACE/NAME, of an McpView".into());
    }
    if rule.when.as_ref().is_some_and(|when| when.is_empty() || when.len() > MAX_EXPRESSION_BYTES) {
        return Err(format!("when takes 1 to {MAX_EXPRESSION_BYTES} bytes"));
    }
    if rule.limit.is_some_and(|limit| limit.calls == 0 || limit.calls > MAX_CALLS) {
        return Err(format!("limit: calls takes 1 to {MAX_CALLS}"));
    }
    Ok(rule)
}

fn check_source(source: &AccessSource) -> Result<(), String> {
    let AccessSource { service_account, issuer, subject, claims, authenticated } = source;
    let by_token = issuer.is_some() || subject.is_some() || !claims.is_empty();
    if *authenticated == Some(false) {
        return Err("from: authenticated can only be true".into());
    }
    if service_account.is_none() && !by_token && authenticated.is_none() {
        return Err("from: set serviceAccount, issuer, subject, claims or authenticated".into());
    }
    if service_account.is_some() && (issuer.is_some() || subject.is_some()) {
        return Err("from: serviceAccount already names issuer and subject: leave those out".into());
    }
    if let Some(account) = service_account {
        if !is_pattern(&account.namespace, "-") {
            return Err("from: serviceAccount.namespace takes a-z, 0-9, '-' and '*'".into());
        }
        if !is_pattern(&account.name, "-.") {
            return Err("from: serviceAccount.name takes a-z, 0-9, '-', '.' and '*'".into());
        }
    }
    if authenticated.is_some() && (service_account.is_some() || by_token) {
        return Err("from: authenticated matches every caller: use it alone".into());
    }
    if claims.iter().any(|claim| claim.path.is_empty() || claim.values.is_empty()) {
        return Err("from: a claim needs a path and at least one value".into());
    }
    Ok(())
}

/// Whether a text names an object: `NAME` or `NAMESPACE/NAME`.
pub(crate) fn is_object_name(text: &str) -> bool {
    match text.split_once('/') {
        Some((namespace, name)) => is_dns_label(namespace) && is_dns_label(name),
        None => is_dns_label(text),
    }
}

fn check_items(items: &AllowedItems) -> Result<(), String> {
    let AllowedItems { tools, hints, prompts, resources } = items;
    let kinds = [tools.is_some() || hints.is_some(), prompts.is_some(), resources.is_some()];
    if kinds.into_iter().filter(|kind| *kind).count() != 1 {
        return Err(
            "allow: set exactly one of tools (with hints, if wanted), prompts and resources: write an entry for \
                    each"
                .into(),
        );
    }
    if [tools, prompts, resources].into_iter().flatten().any(Vec::is_empty) {
        return Err("allow: a list of patterns is empty: write \"*\" for all".into());
    }
    let is_empty = hints.is_some_and(|hints| hints == crate::mcpaccesspolicy::RequiredHints::default());
    if is_empty { Err("allow: hints is empty: set one, or leave hints out".into()) } else { Ok(()) }
}

impl fmt::Display for PolicyRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)
    }
}
