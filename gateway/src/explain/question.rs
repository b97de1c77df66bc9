//! Who is asked about, and about what. Pure.

use portcullis_access::Caller;
use portcullis_crds::ServerKey;
use serde_json::{Map, Value};
use thiserror::Error;

use crate::auth::{MAX_TOKEN_BYTES, TokenSource};
use crate::offer::item::Kind;

/// Bytes of all claims together: those of a longer token would be refused.
pub(crate) const MAX_CLAIMS_BYTES: usize = MAX_TOKEN_BYTES;

/// Bytes of the path of a claim, and its parts.
const MAX_PATH: (usize, usize) = (256, 32);

/// Claims that follow from subject and issuer.
const RESERVED: [&str; 2] = ["sub", "iss"];

/// Why a question cannot be answered.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub(crate) enum BadQuestion {
    /// There is no item, or more than one.
    #[error("name exactly one of tool, prompt and resource")]
    Item,
    /// A caller asks about somebody else.
    #[error("this path explains the bearer of the token alone: leave out as, issuer and claim")]
    OneselfOnly,
    /// There is no caller.
    #[error("name the caller: as=SUBJECT, such as as=system:serviceaccount:NAMESPACE:NAME")]
    NoCaller,
    /// A parameter stands there more than once.
    #[error("{0} is given twice: give it once")]
    Repeated(&'static str),
    /// A claim without a path or a value.
    #[error("a claim must have the form PATH=VALUE")]
    Claim,
    /// The path of a claim has empty parts, or too many.
    #[error("the path of a claim has at most 256 bytes and 32 parts, none of them empty")]
    Path,
    /// The value of a claim is meant to be JSON.
    #[error("the claim {0:?} begins like JSON but is not valid JSON: write texts in quotes, such as [\"sre\"]")]
    Json(String),
    /// A claim is given twice, or inside another one.
    #[error("the claim {0:?} is given twice, or lies in another claim: give each once")]
    Twice(String),
    /// A claim that the subject or the issuer is.
    #[error("the claim {0:?} cannot be given: name subject and issuer instead")]
    Reserved(String),
    /// There are too many claims.
    #[error("the claims take more than 8192 bytes, which no token may hold: give fewer or shorter ones")]
    TooLarge,
}

/// The item that is asked about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct AskedItem {
    /// Its kind: a tool, a prompt or a resource.
    pub(crate) kind: Kind,
    /// Its name, or its URI.
    pub(crate) name: String,
}

/// A caller who is not there.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct AssumedCaller {
    /// `sub`.
    pub(crate) subject: String,
    /// Where its token would come from.
    pub(crate) source: TokenSource,
    /// All claims.
    pub(crate) claims: Map<String, Value>,
    /// The view through which it would come.
    pub(crate) view: Option<ServerKey>,
}

/// Where an item is asked about.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct AskedPlace {
    /// The server, by the name that callers use; `None`: all.
    pub(crate) server: Option<String>,
    /// The view, by the name that callers use; `None`: all that the gateway has.
    pub(crate) view: Option<String>,
}

impl AskedItem {
    /// The one item of these.
    ///
    /// # Errors
    /// [`BadQuestion::Item`].
    pub(crate) fn of(
        tool: Option<String>,
        prompt: Option<String>,
        resource: Option<String>,
    ) -> Result<Self, BadQuestion> {
        match (tool, prompt, resource) {
            (Some(name), None, None) => Ok(Self { kind: Kind::Tools, name }),
            (None, Some(name), None) => Ok(Self { kind: Kind::Prompts, name }),
            (None, None, Some(name)) => Ok(Self { kind: Kind::Resources, name }),
            _ => Err(BadQuestion::Item),
        }
    }
}

/// The parameters of a query, decoded.
pub(crate) struct Parameters(Vec<(String, String)>);

impl Parameters {
    /// Those of this query.
    pub(crate) fn of(query: Option<&str>) -> Self {
        let pairs = url::form_urlencoded::parse(query.unwrap_or_default().as_bytes());
        Self(pairs.map(|(name, value)| (name.into_owned(), value.into_owned())).collect())
    }

    /// The values of a parameter.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(one, _)| one == name).map(|(_, value)| value.as_str())
    }

    /// The value of a parameter.
    ///
    /// # Errors
    /// [`BadQuestion::Repeated`].
    pub(crate) fn one(&self, name: &'static str) -> Result<Option<String>, BadQuestion> {
        let mut values = self.all(name);
        let first = values.next().map(str::to_owned);
        if values.next().is_some() { Err(BadQuestion::Repeated(name)) } else { Ok(first) }
    }

    /// Where they ask about it.
    ///
    /// # Errors
    /// [`BadQuestion::Repeated`].
    pub(crate) fn place(&self) -> Result<AskedPlace, BadQuestion> {
        Ok(AskedPlace { server: self.one("server")?, view: self.one("view")? })
    }

    /// The item that they ask about.
    ///
    /// # Errors
    /// There is not exactly one.
    pub(crate) fn item(&self) -> Result<AskedItem, BadQuestion> {
        AskedItem::of(self.one("tool")?, self.one("prompt")?, self.one("resource")?)
    }
}

impl AssumedCaller {
    /// A caller with these claims besides its subject and issuer.
    ///
    /// # Errors
    /// A claim is reserved, or the claims are too large.
    pub(crate) fn new(
        subject: String,
        source: TokenSource,
        mut claims: Map<String, Value>,
    ) -> Result<Self, BadQuestion> {
        if let Some(name) = RESERVED.into_iter().find(|name| claims.contains_key(*name)) {
            return Err(BadQuestion::Reserved(name.to_owned()));
        }
        claims.insert("sub".into(), subject.as_str().into());
        if let Some(issuer) = &source.issuer {
            claims.insert("iss".into(), issuer.as_str().into());
        }
        if serde_json::to_string(&claims).map_or(usize::MAX, |text| text.len()) > MAX_CLAIMS_BYTES {
            return Err(BadQuestion::TooLarge);
        }
        Ok(Self { subject, source, claims, view: None })
    }

    /// The caller, for decisions.
    pub(crate) fn caller(&self) -> Caller<'_> {
        Caller {
            subject: &self.subject,
            issuer: self.source.issuer.as_deref(),
            is_of_cluster: self.source.is_cluster,
            is_of_only_source: self.source.is_only,
            claims: &self.claims,
            view: self.view.as_ref(),
        }
    }
}

/// The claims of texts such as `realm_access.roles=["viewer"]`. A value is JSON if it can be read so, else a text. A path
/// leads into objects, but one that contains `/` is a single name.
///
/// # Errors
/// A text is no claim, or two of them do not fit together.
pub(crate) fn claims<'a>(texts: impl IntoIterator<Item = &'a str>) -> Result<Map<String, Value>, BadQuestion> {
    let (mut claims, mut bytes) = (Map::new(), 0);
    for text in texts {
        bytes += text.len();
        if bytes > MAX_CLAIMS_BYTES {
            return Err(BadQuestion::TooLarge);
        }
        let (path, value) = text.split_once('=').filter(|(path, _)| !path.is_empty()).ok_or(BadQuestion::Claim)?;
        let parts: Vec<&str> = if path.contains('/') { vec![path] } else { path.split('.').collect() };
        if path.len() > MAX_PATH.0 || parts.len() > MAX_PATH.1 || parts.contains(&"") {
            return Err(BadQuestion::Path);
        }
        let value = match serde_json::from_str(value) {
            Ok(value) => value,
            Err(_) if value.starts_with(['{', '[']) => return Err(BadQuestion::Json(path.to_owned())),
            Err(_) => value.into(),
        };
        if !insert(&mut claims, &parts, value) {
            return Err(BadQuestion::Twice(path.to_owned()));
        }
    }
    Ok(claims)
}

/// Puts a value at a path; false if something else is there.
fn insert(members: &mut Map<String, Value>, path: &[&str], value: Value) -> bool {
    let Some((first, rest)) = path.split_first() else { return false };
    if rest.is_empty() {
        return members.insert((*first).to_owned(), value).is_none();
    }
    match members.entry(*first).or_insert_with(|| Value::Object(Map::new())) {
        Value::Object(inner) => insert(inner, rest, value),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    #[test]
    fn claims_are_json_or_text_at_a_path() {
        let texts =
            ["groups=[\"sre\",\"ml\"]", "level=3", "team=a=b", "realm_access.roles=[\"x\"]", "realm_access.n=1"];
        let expected =
            json!({"groups": ["sre", "ml"], "level": 3, "team": "a=b", "realm_access": {"roles": ["x"], "n": 1}});
        assert_eq!(claims(texts).map(Value::Object), Ok(expected));
        let url = claims(["https://example.com/roles=owner"]).map(Value::Object);
        assert_eq!(url, Ok(json!({"https://example.com/roles": "owner"})));
    }

    #[test]
    fn what_is_no_claim_is_told() {
        let deep = format!("a={}", "[".repeat(1_000));
        let far = format!("{}=1", vec!["a"; 40].join("."));
        let long = format!("a={}", "x".repeat(MAX_CLAIMS_BYTES));
        let many: Vec<String> = (0..2_000).map(|at| format!("c{at}=1")).collect();
        for (texts, expected) in [
            (vec!["groups"], BadQuestion::Claim),
            (vec!["=x"], BadQuestion::Claim),
            (vec!["a..b=1"], BadQuestion::Path),
            (vec![&*far], BadQuestion::Path),
            (vec!["groups=[sre]"], BadQuestion::Json("groups".into())),
            (vec![&*deep], BadQuestion::Json("a".into())),
            (vec!["a=1", "a=2"], BadQuestion::Twice("a".into())),
            (vec!["a=1", "a.b=2"], BadQuestion::Twice("a.b".into())),
            (vec!["a.b=1", "a=2"], BadQuestion::Twice("a".into())),
            (vec![&*long], BadQuestion::TooLarge),
            (many.iter().map(String::as_str).collect(), BadQuestion::TooLarge),
        ] {
            assert_eq!(claims(texts.iter().copied()), Err(expected), "{:.60}", texts.join(" "));
        }
    }

    #[test]
    fn an_assumed_caller_has_its_subject_and_issuer_among_its_claims() {
        let assumed = |subject: &str, issuer: Option<&str>, claims: Value| {
            let claims = claims.as_object().unwrap().clone();
            let source = TokenSource { issuer: issuer.map(Into::into), is_cluster: issuer.is_none(), is_only: false };
            AssumedCaller::new(subject.into(), source, claims)
        };
        let alice = assumed("alice", Some("https://idp"), json!({"n": 1})).unwrap();
        assert_eq!(Value::Object(alice.claims.clone()), json!({"sub": "alice", "iss": "https://idp", "n": 1}));
        let pod = "system:serviceaccount:agents:a";
        for (subject, issuer, account) in
            [(pod, None, Some(("agents", "a"))), (pod, Some("https://idp"), None), ("alice", None, None)]
        {
            assert_eq!(assumed(subject, issuer, json!({})).unwrap().caller().service_account(), account, "{subject}");
        }
        assert_eq!(assumed("a", None, json!({"sub": "b"})), Err(BadQuestion::Reserved("sub".into())));
        let long = json!({"x": "x".repeat(MAX_CLAIMS_BYTES)});
        assert_eq!(assumed("a", None, long), Err(BadQuestion::TooLarge));
    }

    #[test]
    fn exactly_one_item_is_asked_about() {
        let of = |tool: bool, prompt: bool, resource: bool| {
            let name = |is_there: bool| is_there.then(|| "x".to_owned());
            AskedItem::of(name(tool), name(prompt), name(resource)).map(|item| item.kind)
        };
        assert_eq!(of(true, false, false), Ok(Kind::Tools));
        assert_eq!(of(false, true, false), Ok(Kind::Prompts));
        assert_eq!(of(false, false, true), Ok(Kind::Resources));
        for (tool, prompt, resource) in [(false, false, false), (true, true, false), (true, true, true)] {
            assert_eq!(of(tool, prompt, resource), Err(BadQuestion::Item));
        }
    }

    #[test]
    fn a_parameter_stands_in_a_query_once() {
        let query = Parameters::of(Some("tool=a%20b&claim=x=1&claim=y=%5B1%5D&tool2=c"));
        assert_eq!(query.item(), Ok(AskedItem { kind: Kind::Tools, name: "a b".into() }));
        assert_eq!(query.all("claim").collect::<Vec<_>>(), ["x=1", "y=[1]"]);
        assert_eq!(query.one("claim"), Err(BadQuestion::Repeated("claim")));
        assert_eq!(Parameters::of(Some("tool=a&tool=a")).item(), Err(BadQuestion::Repeated("tool")));
        assert_eq!(Parameters::of(None).item(), Err(BadQuestion::Item));
    }

    proptest! {
        #[test]
        fn arbitrary_claims_never_panic(texts in prop::collection::vec("[ab.]{0,8}=?[a.=/{}\\[\\]\"1]{0,6}", 0..6)) {
            let _ = claims(texts.iter().map(String::as_str));
        }
    }
}
