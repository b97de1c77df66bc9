//! Loads the issuers and keys that the settings describe, or returns all problems of the settings.
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use jsonwebtoken::AlgorithmFamily;

use super::{
    Algorithm, Issuer, KeySet, Problem, Secret, Settings,
    fetch::KeySource,
    issuers::{self, KeyPlace, ListedIssuer, label},
    settings::{Kubernetes, MAX_LEEWAY, MIN_SECRET_BYTES},
    verify::{Name, Trust},
    weak::is_weak,
};
use portcullis_mcp::http1::stream::holds_certificates;

const SECRET: &str = "JWT_SECRET";
const SECRET_FILE: &str = "JWT_SECRET_FILE";
const PUBLIC_KEY_FILE: &str = "JWT_PUBLIC_KEY_FILE";
const JWKS_FILE: &str = "JWT_JWKS_FILE";
const ISSUERS_FILE: &str = "ISSUERS_FILE";
const JWKS: &str = "jwksFile";
const CA: &str = "caFile";
/// The algorithms with which API servers sign service-account tokens; ES512, the fourth, is not supported.
const CLUSTER_ALGORITHMS: [Algorithm; 3] = [Algorithm::RS256, Algorithm::ES256, Algorithm::ES384];
const HS: &str = "HS256, HS384, HS512";
const PUBLIC: &str = "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";

/// Size limits for the files, in bytes: far above their usual size.
const MAX_SECRET_FILE: u64 = 64 * 1024;
const MAX_KEY_FILE: u64 = 1024 * 1024;

/// An issuer, and the source of its keys if they are fetched.
pub(super) struct Loaded {
    pub(super) issuer: Issuer,
    pub(super) source: Option<KeySource>,
    /// Whether the cluster also reviews its tokens.
    pub(super) review: Option<Kubernetes>,
}

/// All issuers that the settings describe: that of the `JWT_` settings, those of the file, the cluster.
///
/// Without a `client` the cluster's keys are never known: sufficient for checking settings.
///
/// # Errors
/// All problems at once.
pub(super) fn issuers(settings: &Settings, client: Option<&kube::Client>) -> Result<Vec<Loaded>, Vec<Problem>> {
    let elsewhere = settings.issuers_file.is_some() || settings.kubernetes.is_some();
    let (own, listed) = (own(settings, !elsewhere), of_file(settings));
    let mut loaded = match (own, listed) {
        (Ok(own), Ok(listed)) => own.into_iter().map(Loaded::fixed).chain(listed).collect::<Vec<_>>(),
        (own, listed) => return Err([own.err(), listed.err()].into_iter().flatten().flatten().collect()),
    };
    loaded.extend(settings.kubernetes.as_ref().map(|kubernetes| of_cluster(settings, kubernetes, client)));
    Ok(loaded)
}

impl Loaded {
    pub(super) fn fixed(issuer: Issuer) -> Self {
        Self { issuer, source: None, review: None }
    }
}

/// The issuer of the `JWT_` settings; `None` if they name no key and need none.
fn own(settings: &Settings, required: bool) -> Result<Option<Issuer>, Vec<Problem>> {
    let mut problems = plain_values(settings);
    let sources = sources(settings);
    let choice = key_choice(settings);
    problems.extend(choice.into_iter().filter(|problem| required || *problem != Problem::NoKeySource));
    let mut keys = Vec::new();
    for source in sources {
        match source {
            Ok(set) => keys.push(set),
            Err(problem) => problems.push(problem),
        }
    }
    if !problems.is_empty() {
        return Err(problems);
    }
    Ok(keys.pop().map(|keys| Issuer::new(settings, keys)))
}

fn of_file(settings: &Settings) -> Result<Vec<Loaded>, Vec<Problem>> {
    let Some(path) = &settings.issuers_file else { return Ok(Vec::new()) };
    let yaml = read(ISSUERS_FILE, path, MAX_KEY_FILE).map_err(|problem| vec![problem])?;
    let has_own = key_choice(settings) != [Problem::NoKeySource];
    let own = settings.issuer.as_deref().filter(|_| has_own);
    let listed =
        issuers::read(&yaml, own).map_err(|faults| faults.into_iter().map(Problem::from).collect::<Vec<Problem>>())?;
    let (mut loaded, mut problems) = (Vec::new(), Vec::new());
    for listed in listed {
        let number = listed.number;
        match of_list(settings, listed) {
            Ok(issuer) => loaded.push(issuer),
            Err(problem) => problems.push(Problem::IssuerFile { number, problem: Box::new(problem) }),
        }
    }
    if problems.is_empty() { Ok(loaded) } else { Err(problems) }
}

/// An issuer of the file; keys and certificates in files are read now, so that problems appear at start.
fn of_list(settings: &Settings, listed: ListedIssuer) -> Result<Loaded, Problem> {
    let mut keys = KeySet::default();
    if let KeyPlace::File(path) = &listed.keys {
        let json = read(JWKS, path, MAX_KEY_FILE)?;
        let read = KeySet::from_jwks(&json, &listed.algorithms);
        keys = read.map_err(|fault| Problem::KeySet { setting: JWKS, fault })?.0;
    }
    if let Some(path) = &listed.ca_file
        && !holds_certificates(&read(CA, path, MAX_KEY_FILE)?)
    {
        return Err(Problem::NoCertificate(CA));
    }
    let issuer = Issuer {
        label: label(&listed.issuer),
        audiences: listed.audiences,
        algorithms: listed.algorithms,
        ..Issuer::bare(settings, Trust { name: Name::Is(listed.issuer), keys })
    };
    let source = KeySource::Listed { place: listed.keys, ca_file: listed.ca_file };
    Ok(Loaded { issuer, source: Some(source), review: None })
}

fn of_cluster(settings: &Settings, kubernetes: &Kubernetes, client: Option<&kube::Client>) -> Loaded {
    let issuer = Issuer {
        label: "cluster".into(),
        is_cluster: true,
        audiences: vec![kubernetes.audience.clone()],
        algorithms: CLUSTER_ALGORITHMS.to_vec(),
        // Kubernetes puts no scopes into tokens: the token does not decide the rights of a service account.
        scopes: Vec::new(),
        ..Issuer::bare(settings, Trust { name: Name::Unknown, keys: KeySet::default() })
    };
    let source = client.cloned().map(|client| KeySource::Cluster { client, kept: kubernetes.kept.clone() });
    Loaded { issuer, source, review: kubernetes.review.then(|| kubernetes.clone()) }
}

/// The shared secret that the settings name.
///
/// # Errors
/// All problems of the choice and of the secret at once.
pub(crate) fn shared_secret(settings: &Settings) -> Result<Secret, Vec<Problem>> {
    let mut problems = key_choice(settings);
    let mut found = None;
    for secret in secrets(settings) {
        match secret {
            Ok(secret) => found = Some(secret),
            Err(problem) => problems.push(problem),
        }
    }
    match found {
        Some(secret) if problems.is_empty() => Ok(secret),
        _ => Err(problems),
    }
}

fn plain_values(settings: &Settings) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (name, value) in [("JWT_ISSUER", &settings.issuer), ("JWT_AUDIENCE", &settings.audience)] {
        if value.as_ref().is_some_and(|value| value.trim().is_empty()) {
            problems.push(Problem::Empty(name));
        }
    }
    if settings.leeway > MAX_LEEWAY {
        problems.push(Problem::Leeway);
    }
    if settings.max_lifetime.is_some_and(|bound| bound.as_secs() == 0) {
        problems.push(Problem::MaxLifetime);
    }
    problems
}

/// Checks that exactly one key source is set, of the algorithm's kind.
fn key_choice(settings: &Settings) -> Vec<Problem> {
    let hmac = settings.algorithm.family() == AlgorithmFamily::Hmac;
    let shared = [(SECRET, settings.secret.is_some()), (SECRET_FILE, settings.secret_file.is_some())];
    let public = [(PUBLIC_KEY_FILE, settings.public_key_file.is_some()), (JWKS_FILE, settings.jwks_file.is_some())];
    let mut problems = Vec::new();
    for (pair, fits, fitting) in [(shared, hmac, HS), (public, !hmac, PUBLIC)] {
        if pair[0].1 && pair[1].1 {
            problems.push(Problem::Both(pair[0].0, pair[1].0));
        }
        for (setting, _) in pair.into_iter().filter(|(_, set)| *set && !fits) {
            problems.push(Problem::WrongKind { setting, algorithm: settings.algorithm, fitting });
        }
    }
    if !shared.into_iter().chain(public).any(|(_, set)| set) {
        problems.push(Problem::NoKeySource);
    }
    problems
}

/// Reads every key source of the algorithm's kind.
fn sources(settings: &Settings) -> Vec<Result<KeySet, Problem>> {
    let algorithm = settings.algorithm;
    if algorithm.family() == AlgorithmFamily::Hmac {
        let keys = |secret: Secret| KeySet::from_secret(&secret, algorithm);
        return secrets(settings).into_iter().map(|secret| secret.map(keys)).collect();
    }
    let pem = settings.public_key_file.as_deref().map(|path| {
        let pem = read(PUBLIC_KEY_FILE, path, MAX_KEY_FILE)?;
        KeySet::from_public_pem(&pem, algorithm).map_err(|fault| Problem::Key { setting: PUBLIC_KEY_FILE, fault })
    });
    let jwks = settings.jwks_file.as_deref().map(|path| {
        let json = read(JWKS_FILE, path, MAX_KEY_FILE)?;
        let (keys, skipped) =
            KeySet::from_jwks(&json, &[algorithm]).map_err(|fault| Problem::KeySet { setting: JWKS_FILE, fault })?;
        for key in skipped {
            tracing::warn!(setting = JWKS_FILE, "not used: {key}");
        }
        Ok(keys)
    });
    pem.into_iter().chain(jwks).collect()
}

/// Reads every shared secret that is set, valid or not.
fn secrets(settings: &Settings) -> Vec<Result<Secret, Problem>> {
    let inline = settings.secret.clone().map(|secret| checked(SECRET, secret));
    let file = settings.secret_file.as_deref().map(|path| {
        let mut bytes = read(SECRET_FILE, path, MAX_SECRET_FILE)?;
        while bytes.pop_if(|byte| matches!(byte, b'\n' | b'\r')).is_some() {}
        checked(SECRET_FILE, Secret::new(bytes))
    });
    inline.into_iter().chain(file).collect()
}

fn checked(setting: &'static str, secret: Secret) -> Result<Secret, Problem> {
    let bytes = secret.expose();
    if bytes.is_empty() {
        Err(Problem::Empty(setting))
    } else if is_weak(bytes) {
        Err(Problem::WellKnownSecret(setting))
    } else if bytes.len() < MIN_SECRET_BYTES {
        Err(Problem::ShortSecret(setting))
    } else {
        Ok(secret)
    }
}

fn read(setting: &'static str, path: &Path, limit: u64) -> Result<Vec<u8>, Problem> {
    let unreadable = |error: io::Error| Problem::Unreadable { setting, path: path.to_owned(), reason: error.kind() };
    let mut bytes = Vec::new();
    File::open(path).map_err(unreadable)?.take(limit + 1).read_to_end(&mut bytes).map_err(unreadable)?;
    match bytes.len() as u64 {
        0 => Err(Problem::Empty(setting)),
        length if length > limit => Err(Problem::TooLarge { setting, limit }),
        _ => Ok(bytes),
    }
}
