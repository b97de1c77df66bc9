//! Parses the file of issuers: YAML → the issuers, or all problems of the file. Pure.
use std::path::PathBuf;

use jsonwebtoken::AlgorithmFamily;
use portcullis_crds::yaml;
use serde_yaml::{Mapping, Value};
use url::{Host, Url};

use super::{Algorithm, parse_algorithm};

/// Far above any real number of issuers.
const MAX_ISSUERS: usize = 100;
/// The path of an issuer's metadata (OpenID Connect Discovery 1.0, section 4).
const WELL_KNOWN: &str = "/.well-known/openid-configuration";
const FIELDS: &str = "issuer, audience, jwksUri, jwksFile, caFile and algorithms";

/// One issuer of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ListedIssuer {
    /// The number of its entry, from 1.
    pub(super) number: usize,
    pub(super) issuer: String,
    pub(super) audiences: Vec<String>,
    pub(super) keys: KeyPlace,
    pub(super) ca_file: Option<PathBuf>,
    pub(super) algorithms: Vec<Algorithm>,
}

/// The location of an issuer's keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum KeyPlace {
    /// At an address that this document contains.
    Discovery(Url),
    /// At this address.
    Uri(Url),
    /// In this file.
    File(PathBuf),
}

/// A problem of the whole file, or of one issuer in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IssuerFault {
    /// Not YAML.
    #[error("the file is not valid YAML: {0}")]
    Yaml(String),
    /// Not a list of issuers.
    #[error("the file must be a list of issuers, each with at least 'issuer' and 'audience'")]
    NoList,
    /// Too many issuers.
    #[error("the file has more than {MAX_ISSUERS} issuers")]
    TooMany,
    /// Not a mapping.
    #[error("entry {0} must be an object with the fields {FIELDS}")]
    NoFields(usize),
    /// An unknown field, usually a typing error.
    #[error("entry {0} has the unknown field {1:?}: an issuer has {FIELDS}")]
    UnknownField(usize, String),
    /// A field is missing, empty, or of another type.
    #[error("entry {0}: {1}")]
    Field(usize, &'static str),
    /// Not an allowed address for keys.
    #[error(
        "entry {0}: {1} must be an https URL without user name and fragment, because anyone who can change the keys in \
         transit can forge tokens"
    )]
    Url(usize, &'static str),
    /// Not a public-key algorithm.
    #[error(
        "entry {0}: the algorithm {1:?} is not accepted: use RS256 to RS512, PS256 to PS512, ES256, ES384 or EdDSA"
    )]
    Algorithm(usize, String),
    /// Another issuer has the same name.
    #[error("entry {0} has the same issuer as {1}: keep one of them")]
    Twice(usize, String),
}

/// Parses the issuers of a file. `own` is the name in tokens of the `JWT_` settings.
///
/// # Errors
/// All problems at once.
pub(super) fn read(file: &[u8], own: Option<&str>) -> Result<Vec<ListedIssuer>, Vec<IssuerFault>> {
    let fault = |problem: String| vec![IssuerFault::Yaml(problem)];
    let text = str::from_utf8(file).map_err(|_| fault("it is not text".to_owned()))?;
    yaml::check(text).map_err(fault)?;
    let value: Value = serde_yaml::from_str(text).map_err(|error| fault(error.to_string()))?;
    let Value::Sequence(entries) = value else { return Err(vec![IssuerFault::NoList]) };
    if entries.is_empty() {
        return Err(vec![IssuerFault::NoList]);
    }
    if entries.len() > MAX_ISSUERS {
        return Err(vec![IssuerFault::TooMany]);
    }
    let (mut found, mut faults) = (Vec::<ListedIssuer>::new(), Vec::new());
    for (number, value) in (1..).zip(entries) {
        let Value::Mapping(fields) = value else {
            faults.push(IssuerFault::NoFields(number));
            continue;
        };
        let listed = IssuerEntry { number, fields, faults: &mut faults }.read();
        let twin = found.iter().find(|other| other.issuer == listed.issuer);
        if own.is_some_and(|own| own == listed.issuer) {
            faults.push(IssuerFault::Twice(number, "JWT_ISSUER".into()));
        } else if let Some(twin) = twin.filter(|_| !listed.issuer.is_empty()) {
            faults.push(IssuerFault::Twice(number, format!("entry {}", twin.number)));
        }
        found.push(listed);
    }
    if faults.is_empty() { Ok(found) } else { Err(faults) }
}

/// One entry during parsing: taken fields are removed.
struct IssuerEntry<'a> {
    number: usize,
    fields: Mapping,
    faults: &'a mut Vec<IssuerFault>,
}

impl IssuerEntry<'_> {
    fn read(mut self) -> ListedIssuer {
        let issuer = self.text("issuer", "issuer must be a string, the iss of its tokens").unwrap_or_default();
        if issuer.is_empty() && self.is_sound("issuer") {
            self.fault("issuer is missing: set it to the iss of its tokens");
        }
        let audiences = self.texts("audience", "audience must be a string or a list of strings");
        if audiences.is_empty() && self.is_sound("audience") {
            self.fault("audience is missing: set it to the aud of tokens for this gateway");
        }
        let keys = self.keys(&issuer);
        let ca_file = self.text("caFile", "caFile must be the name of a file").map(PathBuf::from);
        if ca_file.is_some() && matches!(keys, KeyPlace::File(_)) {
            self.fault("caFile has no effect with jwksFile: remove it");
        }
        let algorithms = self.algorithms();
        for (field, _) in std::mem::take(&mut self.fields) {
            let name = field.as_str().unwrap_or("(no text)").chars().take(64).collect();
            self.faults.push(IssuerFault::UnknownField(self.number, name));
        }
        ListedIssuer { number: self.number, issuer, audiences, keys, ca_file, algorithms }
    }

    fn keys(&mut self, issuer: &str) -> KeyPlace {
        let uri = self.text("jwksUri", "jwksUri must be a URL");
        let file = self.text("jwksFile", "jwksFile must be the name of a file");
        match (uri, file) {
            (Some(uri), None) => KeyPlace::Uri(self.url("jwksUri", &uri)),
            (None, Some(file)) => KeyPlace::File(file.into()),
            (Some(_), Some(file)) => {
                self.fault("jwksUri and jwksFile are both set: keep one of them");
                KeyPlace::File(file.into())
            }
            // The missing field was reported already.
            (None, None) if issuer.is_empty() => KeyPlace::File(PathBuf::new()),
            (None, None) => {
                // A query would swallow the path that is appended.
                let base = if issuer.contains('?') { "" } else { issuer.trim_end_matches('/') };
                let uri = format!("{base}{WELL_KNOWN}");
                KeyPlace::Discovery(self.url("issuer (where neither jwksUri nor jwksFile is set)", &uri))
            }
        }
    }

    fn url(&mut self, field: &'static str, text: &str) -> Url {
        let url = Url::parse(text).ok().filter(|url| may_hold_keys(url, true));
        url.unwrap_or_else(|| {
            self.faults.push(IssuerFault::Url(self.number, field));
            Url::parse("https://invalid.invalid").expect("a URL")
        })
    }

    fn algorithms(&mut self) -> Vec<Algorithm> {
        if !self.fields.contains_key("algorithms") {
            return vec![Algorithm::RS256, Algorithm::ES256];
        }
        let names = self.texts("algorithms", "algorithms must be a list such as [RS256, ES256]");
        let mut found: Vec<Algorithm> = Vec::new();
        for name in names {
            match parse_algorithm(&name) {
                Ok(algorithm) if algorithm.family() == AlgorithmFamily::Hmac => {
                    self.faults.push(IssuerFault::Algorithm(self.number, name));
                }
                Ok(algorithm) if found.contains(&algorithm) => {}
                Ok(algorithm) => found.push(algorithm),
                Err(_) => self.faults.push(IssuerFault::Algorithm(self.number, name.chars().take(64).collect())),
            }
        }
        found
    }

    /// A text, if present; an empty one is a fault.
    fn text(&mut self, field: &'static str, fault: &'static str) -> Option<String> {
        match self.fields.shift_remove(field) {
            None => None,
            Some(Value::String(text)) if !text.trim().is_empty() => Some(text),
            Some(_) => {
                self.fault(fault);
                None
            }
        }
    }

    /// One text or several.
    fn texts(&mut self, field: &'static str, fault: &'static str) -> Vec<String> {
        let values = match self.fields.shift_remove(field) {
            None => return Vec::new(),
            Some(Value::Sequence(values)) => values,
            Some(value) => vec![value],
        };
        let text = |value: Value| value.as_str().filter(|text| !text.trim().is_empty()).map(str::to_owned);
        let texts: Option<Vec<String>> = values.into_iter().map(text).collect();
        texts.filter(|texts| !texts.is_empty()).unwrap_or_else(|| {
            self.fault(fault);
            Vec::new()
        })
    }

    fn fault(&mut self, fault: &'static str) {
        self.faults.push(IssuerFault::Field(self.number, fault));
    }

    /// Whether no fault of a field was reported yet.
    fn is_sound(&self, field: &str) -> bool {
        let about = |fault: &IssuerFault| matches!(fault, IssuerFault::Field(n, text) if *n == self.number && text.starts_with(field));
        !self.faults.iter().any(about)
    }
}

/// Whether keys may be fetched from an address: https, or this machine for tests (`local`).
pub(super) fn may_hold_keys(url: &Url, local: bool) -> bool {
    let plain = url.username().is_empty() && url.password().is_none() && url.fragment().is_none();
    plain && (url.scheme() == "https" || (local && is_local(url)))
}

/// Whether the address is on this machine, so that no third party can alter its responses.
pub(super) fn is_local(url: &Url) -> bool {
    let loopback = match url.host() {
        Some(Host::Ipv4(address)) => address.is_loopback(),
        Some(Host::Ipv6(address)) => address.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    url.scheme() == "http" && loopback
}

/// The issuer's label in the log and in metrics: its name without the scheme.
pub(super) fn label(issuer: &str) -> String {
    let name = issuer.split_once("://").map_or(issuer, |(_, rest)| rest);
    name.trim_end_matches('/').chars().take(100).collect()
}
