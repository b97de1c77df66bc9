//! The gateway's own service account, and what its mounted token says of it and of the API server.

use std::collections::BTreeSet;
use std::fmt;
use std::io::Read as _;
use std::path::Path;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use portcullis_crds::rules::is_dns_label;
use serde::Deserialize;

/// The token that Kubernetes mounts into a pod.
const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount/token";

/// The limit for such a token, in bytes.
const MAX_BYTES: u64 = 64 * 1024;

/// A service account by its namespace and name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ServiceAccount {
    /// Its namespace.
    pub(crate) namespace: String,
    /// Its name.
    pub(crate) name: String,
}

/// The pod that the gateway runs in: tokens that are bound to it end with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct OwnPod {
    pub(super) name: String,
    pub(super) uid: String,
}

/// The service account for which the gateway requests tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// The service account.
    pub(crate) account: ServiceAccount,
    /// The pod to bind tokens to.
    pub(super) pod: Option<OwnPod>,
}

/// What the mounted token says.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct MountedToken {
    pod: Option<(ServiceAccount, OwnPod)>,
    /// The audiences of the API server, and its own name.
    pub(crate) api_audiences: BTreeSet<String>,
}

#[derive(Deserialize)]
struct Claims {
    #[serde(default)]
    iss: Option<String>,
    #[serde(default)]
    aud: Audiences,
    #[serde(default, rename = "kubernetes.io")]
    bound: Option<Bound>,
}

#[derive(Deserialize)]
struct Bound {
    namespace: String,
    serviceaccount: Named,
    #[serde(default)]
    pod: Option<Named>,
}

#[derive(Deserialize)]
struct Named {
    name: String,
    #[serde(default)]
    uid: String,
}

/// The claim `aud`: one audience or several.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Audiences {
    One(String),
    Several(Vec<String>),
}

impl Default for Audiences {
    fn default() -> Self {
        Self::Several(Vec::new())
    }
}

impl Audiences {
    pub(super) fn all(self) -> Vec<String> {
        match self {
            Self::One(one) => vec![one],
            Self::Several(all) => all,
        }
    }
}

impl Account {
    /// The account, with the pod of the mounted token if the token is of this account.
    pub(crate) fn new(account: ServiceAccount, mounted: &MountedToken) -> Self {
        let pod = mounted.pod.as_ref().filter(|(of, _)| *of == account).map(|(_, pod)| pod.clone());
        Self { account, pod }
    }
}

/// Reads the token that Kubernetes has mounted; nothing, if there is none.
pub(crate) fn mounted() -> MountedToken {
    read(Path::new(MOUNTED)).unwrap_or_default()
}

fn read(path: &Path) -> Option<MountedToken> {
    let mut token = String::new();
    std::fs::File::open(path).ok()?.take(MAX_BYTES).read_to_string(&mut token).ok()?;
    let claims: Claims = claims_of(token.trim())?;
    let pod = claims.bound.and_then(|bound| {
        let account = ServiceAccount { namespace: bound.namespace, name: bound.serviceaccount.name };
        bound.pod.map(|pod| (account, OwnPod { name: pod.name, uid: pod.uid }))
    });
    let mut api_audiences: BTreeSet<String> = claims.aud.all().into_iter().collect();
    api_audiences.extend(claims.iss);
    Some(MountedToken { pod, api_audiences })
}

/// The claims of a token, which is not checked.
pub(super) fn claims_of<T: for<'de> Deserialize<'de>>(token: &str) -> Option<T> {
    let payload = token.split('.').nth(1)?;
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

impl FromStr for ServiceAccount {
    type Err = ();

    /// Parses `NAMESPACE/NAME`.
    fn from_str(text: &str) -> Result<Self, ()> {
        let (namespace, name) = text.split_once('/').ok_or(())?;
        // A DNS subdomain: it becomes part of a path.
        let is_name = (1..=253).contains(&name.len()) && name.split('.').all(is_dns_label);
        if !is_dns_label(namespace) || !is_name {
            return Err(());
        }
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mounted_token_names_its_pod_and_the_audiences_of_the_api_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("token");
        let claims = r#"{"iss":"https://issuer","aud":["https://kubernetes.default.svc","k3s"],"kubernetes.io":
            {"namespace":"portcullis","serviceaccount":{"name":"gw","uid":"1"},"pod":{"name":"gw-0","uid":"2"}}}"#;
        std::fs::write(&path, format!("e30.{}.c2ln\n", URL_SAFE_NO_PAD.encode(claims))).unwrap();
        let found = read(&path).unwrap();
        let audiences = ["https://issuer", "https://kubernetes.default.svc", "k3s"].map(str::to_owned);
        assert_eq!(found.api_audiences, BTreeSet::from(audiences));
        let pod = Some(OwnPod { name: "gw-0".into(), uid: "2".into() });
        assert_eq!(Account::new("portcullis/gw".parse().unwrap(), &found).pod, pod);
        assert_eq!(Account::new("portcullis/other".parse().unwrap(), &found).pod, None);
        for broken in ["", "a.b.c", "e30.bm9wZQ.c2ln"] {
            std::fs::write(&path, broken).unwrap();
            assert_eq!(read(&path), None, "{broken}");
        }
        assert_eq!(read(&folder.path().join("none")), None);
    }

    #[test]
    fn a_service_account_is_a_namespace_and_a_name() {
        let account = "team-a/gate.way-1".parse::<ServiceAccount>();
        assert_eq!(account.as_ref().map(ToString::to_string), Ok("team-a/gate.way-1".to_owned()));
        for wrong in ["", "a", "/a", "a/", "a/b/c", "a/../b", "A/b", "a/b?c"] {
            assert_eq!(wrong.parse::<ServiceAccount>(), Err(()), "{wrong}");
        }
    }
}
