//! The caller of a decision, and which sources of a rule it matches.

use portcullis_crds::ServerKey;
use portcullis_crds::mcpaccesspolicy::{AccessSource, ClaimSource, ServiceAccountSource};
use serde_json::{Map, Value};

use crate::budget::Budget;

/// What the subject of a service account of Kubernetes begins with.
const SERVICE_ACCOUNT: &str = "system:serviceaccount:";

/// The bearer of a checked token.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// `sub`.
    pub subject: &'a str,
    /// `iss`, if it is the name of the issuer whose keys verified the token.
    pub issuer: Option<&'a str>,
    /// The token was verified with the keys of the cluster's own issuer.
    pub is_of_cluster: bool,
    /// The gateway has a single source of keys, so a subject or a claim without an issuer is unambiguous.
    pub is_of_only_source: bool,
    /// All claims.
    pub claims: &'a Map<String, Value>,
    /// The McpView through which the caller comes.
    pub view: Option<&'a ServerKey>,
}

/// Whether a subject has the form of a service account of Kubernetes.
pub fn names_service_account(subject: &str) -> bool {
    subject.starts_with(SERVICE_ACCOUNT)
}

impl<'a> Caller<'a> {
    /// Namespace and name of the service account, if the cluster's own issuer says that the caller is one.
    pub fn service_account(&self) -> Option<(&'a str, &'a str)> {
        let account = self.subject.strip_prefix(SERVICE_ACCOUNT).filter(|_| self.is_of_cluster)?;
        account.split_once(':').filter(|(namespace, name)| !namespace.is_empty() && !name.is_empty())
    }

    /// Whether the caller matches a source of a rule: all of its members. Not if the budget does not suffice to say so.
    pub fn matches(&self, source: &AccessSource, budget: &Budget) -> bool {
        let AccessSource { service_account, issuer, subject, claims, authenticated } = source;
        if !budget.take(1) {
            return false;
        }
        if authenticated.is_some() {
            return *authenticated == Some(true);
        }
        // Text of a subject or a claim says nothing without the issuer that vouches for it.
        let is_sure = issuer.is_some() || service_account.is_some() || self.is_of_only_source;
        let says_something = issuer.is_some() || service_account.is_some() || subject.is_some() || !claims.is_empty();
        says_something
            && is_sure
            && issuer.as_deref().is_none_or(|issuer| self.issuer == Some(issuer))
            && service_account.as_ref().is_none_or(|wanted| self.is_service_account(wanted, budget))
            && subject.as_deref().is_none_or(|pattern| budget.matches(pattern, self.subject))
            && claims.iter().all(|claim| self.has_claim(claim, budget))
    }

    fn is_service_account(&self, wanted: &ServiceAccountSource, budget: &Budget) -> bool {
        self.service_account().is_some_and(|(namespace, name)| {
            budget.matches(&wanted.namespace, namespace) && budget.matches(&wanted.name, name)
        })
    }

    fn has_claim(&self, claim: &ClaimSource, budget: &Budget) -> bool {
        // A name that holds dots itself, such as https://example.com/roles, is taken as it is.
        let whole = self.claims.get(&claim.path);
        whole.is_some_and(|value| is_among(value, &claim.values, budget))
            || claim.path.split_once('.').is_some_and(|(first, rest)| {
                self.claims.get(first).is_some_and(|value| leads_to(value, rest, &claim.values, budget))
            })
    }
}

/// Whether the rest of a path leads from here to an accepted value; an array is entered at each of its members.
fn leads_to(value: &Value, path: &str, accepted: &[String], budget: &Budget) -> bool {
    match value {
        Value::Array(items) => items.iter().any(|item| budget.take(1) && leads_to(item, path, accepted, budget)),
        Value::Object(members) => {
            members.get(path).is_some_and(|value| is_among(value, accepted, budget))
                || path.split_once('.').is_some_and(|(first, rest)| {
                    members.get(first).is_some_and(|value| leads_to(value, rest, accepted, budget))
                })
        }
        _ => false,
    }
}

fn is_among(value: &Value, accepted: &[String], budget: &Budget) -> bool {
    let is_accepted = |text: &str| accepted.iter().any(|pattern| budget.matches(pattern, text));
    match value {
        Value::String(text) => is_accepted(text),
        Value::Bool(value) => is_accepted(if *value { "true" } else { "false" }),
        Value::Number(number) => is_accepted(&number.to_string()),
        Value::Array(items) => items.iter().any(|item| !item.is_array() && is_among(item, accepted, budget)),
        Value::Null | Value::Object(_) => false,
    }
}
