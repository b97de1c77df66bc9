//! The answer: what a caller may do with an item, at each server that offers it.
//!
//! Pure. Rules that do not speak of the caller are only counted.

use portcullis_access::explain::PolicyExplanation;
use portcullis_access::quota::QuotaState;
use portcullis_access::{Caller, CompiledRule, Explanation, RuleResult};
use portcullis_crds::mcpaccesspolicy::PolicyMode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::explain::question::AskedItem;
use crate::offer::item::Kind;

/// The limit for servers in one answer; more are counted.
pub(crate) const MAX_SERVERS: usize = 64;

/// The limit for policies in one answer, and for rules; more are left out.
const MAX_POLICIES: usize = 1_000;
const MAX_RULES: usize = 2_000;

/// The body of `GET /explain`.
#[derive(Serialize, ToSchema)]
#[schema(as = Explanation)]
pub(crate) struct ExplainAnswer {
    /// The caller.
    caller: ExplainedCaller,
    /// The tool, as asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    tool: Option<String>,
    /// The prompt, as asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    prompt: Option<String>,
    /// The URI of the resource, as asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    resource: Option<String>,
    /// Whether the caller may use it: through one of the servers at least to which a call by this name may go, or, if
    /// no call goes anywhere by this name, at one of the servers at least.
    pub(crate) allowed: bool,
    /// Whether that depends on the arguments of the call: then `allowed` is false.
    pub(crate) depends_on_arguments: bool,
    /// The servers that offer it, at most 64. Those to which a call by this name may go come first.
    pub(crate) servers: Vec<ExplainedServer>,
    /// Number of all servers that offer it.
    servers_count: usize,
}

/// Who is explained.
#[derive(Serialize, ToSchema)]
struct ExplainedCaller {
    /// `sub` of its token.
    subject: String,
    /// `iss` of its token, if that is the name of the issuer whose keys verified it.
    #[schema(required = true)]
    issuer: Option<String>,
    /// The service account of the cluster that it is.
    #[schema(required = true)]
    service_account: Option<ExplainedAccount>,
}

/// A service account of the cluster.
#[derive(Serialize, ToSchema)]
struct ExplainedAccount {
    /// Its namespace.
    namespace: String,
    /// Its name.
    name: String,
}

/// An item of one server, and whether the caller may use it.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExplainedServer {
    /// The name that logs, metrics and `X-Portcullis-Server` use.
    pub(crate) server: String,
    /// The server's own name of the item, which policies use; of a resource the server's own URI.
    pub(crate) own_name: String,
    /// The name by which callers use it; null if they cannot, because an older server has that name.
    #[schema(required = true)]
    pub(crate) name: Option<String>,
    /// `connecting`, `ready`, `degraded`, `backoff`, `draining` or `disabled`; null if nobody is connected to it.
    #[schema(required = true)]
    state: Option<&'static str>,
    /// Whether a call can be made at the moment; null if nobody is connected to it.
    #[schema(required = true)]
    healthy: Option<bool>,
    /// Whether the caller may use it. False if that depends on arguments.
    pub(crate) allowed: bool,
    /// Whether that depends on the arguments of the call.
    pub(crate) depends_on_arguments: bool,
    /// The reason, in a sentence.
    pub(crate) reason: String,
    /// The rule that allows it, for some arguments at least.
    #[schema(required = true)]
    pub(crate) by: Option<RuleName>,
    /// The policies that govern the server.
    policies: Vec<ExplainedPolicy>,
    /// The limit that the next call counts against, if a rule sets one.
    #[schema(required = true)]
    limit: Option<ExplainedLimit>,
    /// The rule whose condition denies it.
    #[serde(skip)]
    pub(crate) denied_by: Option<RuleName>,
}

/// A rule of a policy.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
pub(crate) struct RuleName {
    /// Namespace and name of the policy.
    pub(crate) policy: String,
    /// Name of the rule.
    pub(crate) rule: String,
}

/// A policy that governs a server.
#[derive(Serialize, ToSchema)]
struct ExplainedPolicy {
    /// Its namespace and name.
    policy: String,
    /// `Enforce` or `Audit`. A policy that audits allows and denies nothing.
    mode: &'static str,
    /// Its rules that speak of the caller.
    rules: Vec<ExplainedRule>,
    /// Number of its other rules.
    other_rules: usize,
}

/// A rule that speaks of the caller.
#[derive(Serialize, ToSchema)]
struct ExplainedRule {
    /// Its name.
    rule: String,
    /// `allows`; `other_items`: it allows others; `condition_fails`: its condition does not hold; `condition_error`: its
    /// condition cannot be evaluated; `depends_on_arguments`: it allows the item for some arguments.
    result: &'static str,
    /// Why its condition cannot be evaluated.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(required = false, nullable = false)]
    error: Option<String>,
}

/// The limit that the next call counts against.
#[derive(Serialize, ToSchema)]
pub(crate) struct ExplainedLimit {
    /// The rule that sets it.
    rule: RuleName,
    /// Calls in each period, of all replicas of the gateway together.
    calls: u32,
    /// `second`, `minute`, `hour` or `day`.
    per: &'static str,
    /// Calls that this replica allows at once at the moment.
    remaining: u32,
    /// Whether it is used up: then a call is refused.
    used_up: bool,
    /// When it allows a call again (RFC 3339), if it is used up.
    #[schema(required = true)]
    until: Option<String>,
}

/// An item of a server, to be put into an answer.
pub(crate) struct ExplainedPlace<'a> {
    /// Name of the server.
    pub(crate) server: &'a str,
    /// The server's own name of the item.
    pub(crate) own_name: &'a str,
    /// The name by which callers use it.
    pub(crate) name: Option<&'a str>,
    /// The state of the server, and whether a call can be made, where that is known.
    pub(crate) health: Option<(&'static str, bool)>,
    /// What policies say.
    pub(crate) explanation: &'a Explanation,
    /// Why nobody may use it, whatever policies say.
    pub(crate) hidden: Option<&'static str>,
    /// A call by the name that was asked for may go there.
    pub(crate) is_meant: bool,
    /// The limit.
    pub(crate) limit: Option<ExplainedLimit>,
}

impl ExplainAnswer {
    /// The answer about these places, `count` in all.
    pub(crate) fn new<'a>(
        caller: &Caller<'_>,
        item: &AskedItem,
        places: impl IntoIterator<Item = ExplainedPlace<'a>>,
        count: usize,
    ) -> Self {
        let mut room = (MAX_POLICIES, MAX_RULES);
        let (mut meant, mut servers) = (Vec::new(), Vec::new());
        for place in places.into_iter().take(MAX_SERVERS) {
            meant.push(place.is_meant);
            servers.push(ExplainedServer::new(place, &mut room));
        }
        let is_meant = |at: usize| meant[at] || !meant.contains(&true);
        let counting = || servers.iter().enumerate().filter(|(at, _)| is_meant(*at)).map(|(_, server)| server);
        let allowed = counting().any(|server: &ExplainedServer| server.allowed);
        let depends_on_arguments = !allowed && counting().any(|server| server.depends_on_arguments);
        let named = |kind: Kind| (item.kind == kind).then(|| item.name.clone());
        let account = caller.service_account();
        Self {
            caller: ExplainedCaller {
                subject: caller.subject.to_owned(),
                issuer: caller.issuer.map(str::to_owned),
                service_account: account.map(|(namespace, name)| ExplainedAccount {
                    namespace: namespace.to_owned(),
                    name: name.to_owned(),
                }),
            },
            tool: named(Kind::Tools),
            prompt: named(Kind::Prompts),
            resource: named(Kind::Resources),
            allowed,
            depends_on_arguments,
            servers,
            servers_count: count,
        }
    }
}

impl ExplainedServer {
    /// `room` is what is left for policies and for rules in the whole answer.
    fn new(place: ExplainedPlace<'_>, room: &mut (usize, usize)) -> Self {
        let ExplainedPlace { server, own_name, name, health, explanation, hidden, limit, .. } = place;
        let mut policies = Vec::new();
        for explained in explanation.policies.iter().take(room.0) {
            policies.push(ExplainedPolicy::new(explained, &mut room.1));
        }
        room.0 -= policies.len();
        Self {
            server: server.to_owned(),
            own_name: own_name.to_owned(),
            name: name.map(str::to_owned),
            state: health.map(|(state, _)| state),
            healthy: health.map(|(_, healthy)| healthy),
            allowed: hidden.is_none() && explanation.is_allowed(),
            depends_on_arguments: hidden.is_none() && explanation.depends_on_arguments(),
            reason: hidden.map_or_else(|| explanation.reason(), str::to_owned),
            by: explanation.allowed_by().filter(|_| hidden.is_none()).map(RuleName::of),
            policies,
            limit,
            denied_by: explanation.denied_by().filter(|_| hidden.is_none()).map(RuleName::of),
        }
    }
}

impl ExplainedPolicy {
    fn new(explained: &PolicyExplanation, room: &mut usize) -> Self {
        let rules: Vec<_> = explained.rules.iter().take(*room).map(ExplainedRule::new).collect();
        *room -= rules.len();
        Self {
            policy: explained.policy.policy.key.to_string(),
            mode: match explained.policy.policy.mode {
                PolicyMode::Enforce => "Enforce",
                PolicyMode::Audit => "Audit",
            },
            rules,
            other_rules: explained.other_rules,
        }
    }
}

impl ExplainedRule {
    fn new((rule, result): &(std::sync::Arc<CompiledRule>, RuleResult)) -> Self {
        let error = match result {
            RuleResult::ConditionError(failure) => Some(failure.to_string()),
            _ => None,
        };
        Self { rule: rule.name.clone(), result: result.as_str(), error }
    }
}

impl ExplainedLimit {
    /// The state of a rule's limit.
    pub(crate) fn new(rule: &CompiledRule, state: QuotaState, now: jiff::Timestamp) -> Self {
        let QuotaState { calls, per, remaining, retry_after, .. } = state;
        let wait = retry_after.as_secs() + u64::from(retry_after.subsec_nanos() > 0);
        let until = now.as_second().saturating_add(i64::try_from(wait).unwrap_or(i64::MAX));
        let until = jiff::Timestamp::from_second(until).unwrap_or(jiff::Timestamp::MAX);
        Self {
            rule: RuleName::of(rule),
            calls,
            per: per.as_str(),
            remaining,
            used_up: remaining == 0,
            until: (remaining == 0).then(|| until.to_string()),
        }
    }
}

impl RuleName {
    fn of(rule: &CompiledRule) -> Self {
        Self { policy: rule.policy.to_string(), rule: rule.name.clone() }
    }
}
