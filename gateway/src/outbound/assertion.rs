//! The claims of an assertion: who calls, through whom, and for which server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_crds::Server;
use portcullis_crds::mcpserver::Assertion;
use serde_json::{Map, Value, json};
use siphasher::sip128::SipHasher24;
use url::Url;

use super::ShownCaller;
use super::error::OutboundError;
use super::own::OWN_LIFE;
use super::signing::SigningKeys;
use crate::util::short_digest;

/// The limit for the claims of an assertion, in bytes of JSON: many servers refuse heads above 8 KiB.
const MAX_CLAIMS_BYTES: usize = 4 * 1024;

/// An assertion is no longer used this long before it expires, or a quarter of its life: it travels, and clocks differ.
const MARGIN: Duration = Duration::from_secs(10);

/// What the assertions for one server contain.
#[derive(Debug)]
pub(crate) struct AssertionTerms {
    server: Server,
    audience: String,
    claims: Vec<String>,
    names_tool: bool,
    life: Duration,
    /// The digest of all this.
    id: [u8; 16],
    /// Keyed with the digest.
    of_tools: SipHasher24,
}

/// A signed assertion.
pub(super) struct Made {
    pub(super) token: String,
    /// How long it is used; `None`: for one call.
    pub(super) fresh_for: Option<Duration>,
}

impl AssertionTerms {
    /// The terms of a server that learns by assertions who calls.
    pub(crate) fn of(server: &Server) -> Option<Self> {
        let spec = server.identity.as_ref()?.assertion.as_ref()?;
        // An invalid URL is refused elsewhere.
        let origin =
            || Url::parse(&server.url).map_or_else(|_| String::new(), |url| url.origin().ascii_serialization());
        let audience = spec.audience.clone().unwrap_or_else(origin);
        Some(Self::new(server, spec, audience))
    }

    fn new(server: &Server, spec: &Assertion, audience: String) -> Self {
        let Assertion { claims, include_tool: names_tool, lifetime_seconds, .. } = spec;
        let claims: Vec<String> = claims.iter().filter(|claim| *claim != "sub").cloned().collect();
        let numbers = format!("{names_tool} {lifetime_seconds}");
        let texts: Vec<&str> =
            [audience.as_str(), &numbers].into_iter().chain(claims.iter().map(String::as_str)).collect();
        let id = short_digest(&texts);
        let life = Duration::from_secs((*lifetime_seconds).into());
        let (of_tools, names_tool) = (SipHasher24::new_with_key(&id), *names_tool);
        Self { server: server.clone(), audience, claims, names_tool, life, id, of_tools }
    }

    /// The server that assertions are for.
    pub(super) fn server(&self) -> &Server {
        &self.server
    }

    /// The audience that the server asks for.
    pub(super) fn wanted(&self) -> Option<&str> {
        self.server.identity.as_ref()?.assertion.as_ref()?.audience.as_deref()
    }

    /// Identifies assertions about the gateway itself.
    pub(super) fn own_id(&self) -> [u8; 16] {
        short_digest(&["own assertion", &self.server.key.namespace, &self.audience])
    }

    /// Signs an assertion about the gateway itself.
    pub(super) fn sign_own(&self, keys: &SigningKeys, issuer: &str) -> Result<String, OutboundError> {
        let now = seconds(SystemTime::now());
        let expires = now + OWN_LIFE.as_secs();
        let (id, audience) = (random_id()?, &self.audience);
        let claims = json!({ "iss": issuer, "sub": issuer, "aud": audience, "iat": now, "exp": expires, "jti": id });
        keys.sign(&claims.to_string()).ok_or(OutboundError::Signature)
    }

    /// Whether assertions name the tool.
    pub(super) fn names_tool(&self) -> bool {
        self.names_tool
    }

    /// The digest of all this, and of the tool that is named.
    pub(super) fn id(&self, tool: Option<&str>) -> [u8; 16] {
        tool.map_or(self.id, |tool| self.of_tools.hash(tool.as_bytes()).as_bytes())
    }

    /// Signs an assertion about a caller, which expires no later than the caller's own token.
    pub(super) fn sign(
        &self,
        keys: &SigningKeys,
        issuer: &str,
        caller: &dyn ShownCaller,
        tool: Option<&str>,
    ) -> Result<Made, OutboundError> {
        let now = seconds(SystemTime::now());
        let expires = (now + self.life.as_secs()).min(seconds(caller.expires_at()));
        if expires <= now {
            return Err(OutboundError::Expires);
        }
        let claims = self.claims_of(issuer, caller, tool, (now, expires))?;
        let token = keys.sign(&claims).ok_or(OutboundError::Signature)?;
        let margin = MARGIN.min(self.life / 4);
        let fresh_for = Duration::from_secs(expires - now).checked_sub(margin).filter(|time| !time.is_zero());
        Ok(Made { token, fresh_for })
    }

    fn claims_of(
        &self,
        issuer: &str,
        caller: &dyn ShownCaller,
        tool: Option<&str>,
        (now, expires): (u64, u64),
    ) -> Result<String, OutboundError> {
        let facts = caller.caller();
        if facts.subject.is_empty() {
            return Err(OutboundError::NoSubject);
        }
        let mut all = Map::new();
        for name in &self.claims {
            if let Some(value) = facts.claims.get(name) {
                all.insert(name.clone(), value.clone());
            }
        }
        let mut set = |name: &str, value: Value| drop(all.insert(name.to_owned(), value));
        set("iss", issuer.into());
        set("sub", facts.subject.into());
        if let Some(of) = facts.issuer {
            // Two issuers may have the same subject (RFC 9493, section 3.2.4).
            set("sub_id", json!({ "format": "iss_sub", "iss": of, "sub": facts.subject }));
        }
        set("act", json!({ "sub": issuer }));
        set("aud", self.audience.as_str().into());
        set("iat", now.into());
        set("exp", expires.into());
        set("jti", random_id()?.into());
        if let Some(tool) = tool {
            set("tool", tool.into());
        }
        let claims = Value::Object(all).to_string();
        if claims.len() > MAX_CLAIMS_BYTES { Err(OutboundError::TooLong(MAX_CLAIMS_BYTES)) } else { Ok(claims) }
    }
}

fn random_id() -> Result<String, OutboundError> {
    let mut id = [0; 16];
    aws_lc_rs::rand::fill(&mut id).map_err(|_| OutboundError::Signature)?;
    Ok(URL_SAFE_NO_PAD.encode(id))
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use portcullis_crds::mcpserver;
    use rcgen::PKCS_ED25519;

    use super::super::signing::tests::{pem, verified};
    use super::*;
    use crate::auth::{AccessFacts, Identity, SubjectId};

    const ISSUER: &str = "https://gateway.example.com";

    fn terms(more: &str) -> AssertionTerms {
        let identity: mcpserver::Identity =
            serde_yaml::from_str(&format!("{{assertion: {{claims: [sub, groups, absent]{more}}}}}")).unwrap();
        let server = Server { identity: Some(identity), ..Server::from_url("search", "https://mcp.example.com/mcp?x") };
        AssertionTerms::of(&server).unwrap()
    }

    fn caller(claims: &Value, life: Duration) -> Identity {
        let text = |name: &str| claims[name].as_str().map(str::to_owned);
        let (subject, issuer) = (text("sub").unwrap_or_default(), text("iss"));
        Identity {
            subject_id: SubjectId::new(issuer.as_deref(), &subject),
            expires_at: SystemTime::now() + life,
            claims: claims.to_string().into(),
            access: AccessFacts::of_only_source(),
            subject,
            issuer,
        }
    }

    fn signed(terms: &AssertionTerms, caller: &Identity, tool: Option<&str>) -> Result<(Value, Made), OutboundError> {
        let keys = SigningKeys::parse(pem(&PKCS_ED25519).as_bytes()).unwrap();
        let made = terms.sign(&keys, ISSUER, caller, tool)?;
        Ok((verified(&made.token, keys.published()).expect("a good signature"), made))
    }

    /// The claims without those that differ each time, and the time from issue to expiry.
    fn parted(mut claims: Value) -> (Value, u64) {
        let all = claims.as_object_mut().unwrap();
        let mut number = |name: &str| all.remove(name).and_then(|value| value.as_u64()).unwrap();
        let (iat, exp) = (number("iat"), number("exp"));
        assert!(seconds(SystemTime::now()).abs_diff(iat) < 5);
        assert_eq!(all.remove("jti").unwrap().as_str().map(str::len), Some(22));
        (claims, exp - iat)
    }

    const HOUR: Duration = Duration::from_secs(3600);

    #[test]
    fn an_assertion_says_who_calls_through_whom_for_which_server_and_no_other_claim_than_those_named() {
        let alice = json!({"sub": "alice", "iss": "https://idp.example.com", "aud": "portcullis", "groups": ["sre"], "email": "a@b"});
        let (claims, made) = signed(&terms(""), &caller(&alice, HOUR), None).unwrap();
        let expected = json!({
            "iss": ISSUER,
            "sub": "alice",
            "sub_id": {"format": "iss_sub", "iss": "https://idp.example.com", "sub": "alice"},
            "act": {"sub": ISSUER},
            "aud": "https://mcp.example.com",
            "groups": ["sre"],
        });
        assert_eq!(parted(claims), (expected, 60));
        assert_eq!(made.fresh_for, Some(Duration::from_secs(50)));
        let terms = terms(", audience: search, lifetimeSeconds: 10, includeTool: true");
        let (claims, made) = signed(&terms, &caller(&json!({"sub": "bob"}), HOUR), Some("find")).unwrap();
        let expected = json!({"iss": ISSUER, "sub": "bob", "act": {"sub": ISSUER}, "aud": "search", "tool": "find"});
        assert_eq!(parted(claims), (expected, 10));
        assert_eq!(made.fresh_for, Some(Duration::from_millis(7_500)));
    }

    #[test]
    fn an_assertion_never_outlives_the_callers_token() {
        let alice = json!({"sub": "alice"});
        let (claims, made) = signed(&terms(""), &caller(&alice, Duration::from_secs(20)), None).unwrap();
        let (_, life) = parted(claims);
        assert!((19..=20).contains(&life), "{life}");
        assert!(made.fresh_for <= Some(Duration::from_secs(10)), "{:?}", made.fresh_for);
        let (_, made) = signed(&terms(""), &caller(&alice, Duration::from_secs(6)), None).unwrap();
        assert_eq!(made.fresh_for, None, "for one call");
        let ended = signed(&terms(""), &caller(&alice, Duration::ZERO), None).map(|(claims, _)| claims);
        assert_eq!(ended, Err(OutboundError::Expires));
    }

    #[test]
    fn nobody_is_asserted_without_a_subject_and_no_claims_beyond_the_limit() {
        let refused = |claims: &Value| signed(&terms(""), &caller(claims, HOUR), None).map(|(claims, _)| claims);
        assert_eq!(refused(&json!({"groups": ["a"]})), Err(OutboundError::NoSubject));
        let long = json!({"sub": "a", "groups": "x".repeat(MAX_CLAIMS_BYTES)});
        assert_eq!(refused(&long), Err(OutboundError::TooLong(MAX_CLAIMS_BYTES)));
    }

    #[test]
    fn whatever_an_assertion_depends_on_makes_another_key_in_the_cache() {
        let all = ["", ", audience: search", ", lifetimeSeconds: 61", ", includeTool: true"];
        let mut ids: Vec<_> = all.iter().map(|more| terms(more).id(None)).collect();
        ids.extend(["a", "b"].map(|tool| terms("").id(Some(tool))));
        ids.extend(["a", "b"].map(|tool| terms(", audience: search").id(Some(tool))));
        let different = ids.iter().collect::<std::collections::HashSet<_>>().len();
        assert_eq!(different, ids.len());
    }
}
