//! Turns the settings into an issuer with its keys, or into the list of everything that is wrong with them.
use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

use jsonwebtoken::AlgorithmFamily;

use super::{
    Issuer, KeySet, Problem, Secret, Settings,
    settings::{MAX_LEEWAY, MIN_SECRET_BYTES},
    weak::is_weak,
};

const SECRET: &str = "JWT_SECRET";
const SECRET_FILE: &str = "JWT_SECRET_FILE";
const PUBLIC_KEY_FILE: &str = "JWT_PUBLIC_KEY_FILE";
const JWKS_FILE: &str = "JWT_JWKS_FILE";
const HS: &str = "HS256, HS384, HS512";
const PUBLIC: &str = "RS256, RS384, RS512, PS256, PS384, PS512, ES256, ES384, EdDSA";

/// Bounds of the files, in bytes: far above what they hold.
const MAX_SECRET_FILE: u64 = 64 * 1024;
const MAX_KEY_FILE: u64 = 1024 * 1024;

/// The issuer that the settings describe.
///
/// # Errors
/// All that is wrong, at once.
pub(super) fn issuer(settings: &Settings) -> Result<Issuer, Vec<Problem>> {
    let mut problems = plain_values(settings);
    problems.extend(key_choice(settings));
    let mut keys = Vec::new();
    for source in sources(settings) {
        match source {
            Ok(set) => keys.push(set),
            Err(problem) => problems.push(problem),
        }
    }
    match keys.pop() {
        Some(keys) if problems.is_empty() => Ok(Issuer::new(settings, keys)),
        _ => Err(problems),
    }
}

/// The shared secret that the settings name.
///
/// # Errors
/// All that is wrong with the choice of it and with itself, at once.
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

/// Whether exactly one key source is set, and one of the algorithm's kind.
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

/// Reads every source of the algorithm's kind.
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

/// Reads every shared secret that is set, fit or not.
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
