//! The `token` subcommand: issues a token that this gateway accepts, signed with its shared secret.
use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header};
use portcullis_runtime::print::print_line;
use serde_json::{Map, Value};

use crate::auth::{Algorithm, MAX_TOKEN_BYTES, Problem, Settings, shared_secret};

/// The default lifetime of a token.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The maximum lifetime: a shared secret should not live longer.
const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Longer answers to a prompt are truncated.
const MAX_ANSWER_BYTES: u64 = 1024;
/// Claims that have a separate flag or follow from one.
const RESERVED: [&str; 6] = ["exp", "iat", "nbf", "sub", "aud", "iss"];

/// The claims of the token.
#[derive(Debug, Clone, Default, Args)]
pub struct TokenArgs {
    /// Subject of the token (sub): the name of its bearer; absent: asked for on the terminal
    #[arg(long)]
    pub(crate) subject: Option<String>,
    /// Lifetime of the token, such as 90s, 30m, 24h or 7d; at most 365d [default: 24h]
    #[arg(long, value_parser = parse_ttl)]
    pub(crate) ttl: Option<Duration>,
    /// Audience of the token (aud) [default: the configured audience]
    #[arg(long)]
    pub(crate) audience: Option<String>,
    /// Issuer of the token (iss) [default: the configured issuer]
    #[arg(long)]
    pub(crate) issuer: Option<String>,
    /// Another claim, with a value in JSON or as plain text; may be repeated
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = parse_claim)]
    pub(crate) claims: Vec<(String, Value)>,
}

/// The reason no token was issued.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is no terminal to ask for the subject.
    #[error("who is the token for? Give --subject NAME")]
    NoSubject,
    /// The subject is empty.
    #[error("the subject is empty: give --subject NAME")]
    EmptySubject,
    /// The lifetime is unreadable, zero, or too long.
    #[error("the time must be a whole number with the unit s, m, h or d, such as 24h, and at most 365d")]
    Ttl,
    /// The gateway would refuse a token with this lifetime.
    #[error("the gateway accepts tokens for at most {} seconds (JWT_MAX_LIFETIME): give a shorter --ttl", .0.as_secs())]
    LongerThanAccepted(Duration),
    /// A claim without a name or a value.
    #[error("a claim must have the form NAME=VALUE")]
    Claim,
    /// A claim that other flags set.
    #[error("the claim '{0}' cannot be given with --claim: use --subject, --ttl, --audience or --issuer")]
    ReservedClaim(String),
    /// A duplicate claim.
    #[error("the claim '{0}' is given more than once")]
    DoubledClaim(String),
    /// There is no private key here, and there should be none.
    #[error(
        "JWT_ALGORITHM is {0:?}, so only the holder of the private key can sign tokens: this command signs HS256, \
         HS384 and HS512 tokens only"
    )]
    NoSharedSecret(Algorithm),
    /// The settings are not those of a working gateway.
    #[error("{}", sentences(.0))]
    Settings(Vec<Problem>),
    /// The claims are too long.
    #[error("the token would be longer than 8192 bytes, which the gateway refuses: give fewer or shorter claims")]
    TooLarge,
    /// The terminal is gone.
    #[error("cannot ask on the terminal: give --subject and --ttl")]
    Terminal(#[source] io::Error),
    /// The library could not sign.
    #[error("cannot sign the token")]
    Signing(#[source] jsonwebtoken::errors::Error),
}

/// Writes a token to the standard output.
///
/// # Errors
/// Wrong settings, one line each, or a [`TokenError`].
pub fn main(args: TokenArgs, options: &crate::config::Options) -> anyhow::Result<()> {
    let mut problems = Vec::new();
    let settings = options.of_tokens().auth(&mut problems);
    if !problems.is_empty() {
        return Err(crate::cli::run::told(problems));
    }
    Ok(print_line(run(args, &settings)?)?)
}

/// Issues a token, asking on the terminal (standard error) for a missing subject. The caller prints it.
///
/// # Errors
/// The problem, in a sentence that says what to do.
pub(crate) fn run(args: TokenArgs, settings: &Settings) -> Result<String, TokenError> {
    let args = complete(args, io::stdin().is_terminal(), &mut io::stdin().lock(), &mut io::stderr())?;
    mint(&args, settings, SystemTime::now())
}

/// Without a subject, asks for it and, unless given, for the lifetime.
fn complete(
    args: TokenArgs,
    interactive: bool,
    input: &mut dyn BufRead,
    output: &mut dyn Write,
) -> Result<TokenArgs, TokenError> {
    if args.subject.is_some() {
        return Ok(args);
    }
    if !interactive {
        return Err(TokenError::NoSubject);
    }
    let subject = answer("Subject (who the token is for): ", input, output)?;
    let ttl = match args.ttl {
        Some(ttl) => ttl,
        None => match answer("Valid for, as in 30m, 24h or 7d [24h]: ", input, output)?.as_str() {
            "" => DEFAULT_TTL,
            text => parse_ttl(text)?,
        },
    };
    Ok(TokenArgs { subject: Some(subject), ttl: Some(ttl), ..args })
}

fn answer(question: &str, input: &mut dyn BufRead, output: &mut dyn Write) -> Result<String, TokenError> {
    write!(output, "{question}").and_then(|()| output.flush()).map_err(TokenError::Terminal)?;
    let mut line = String::new();
    io::Read::take(input, MAX_ANSWER_BYTES).read_line(&mut line).map_err(TokenError::Terminal)?;
    Ok(line.trim().to_owned())
}

/// Signs the claims, as of `now`.
fn mint(args: &TokenArgs, settings: &Settings, now: SystemTime) -> Result<String, TokenError> {
    if settings.algorithm.family() != AlgorithmFamily::Hmac {
        return Err(TokenError::NoSharedSecret(settings.algorithm));
    }
    let claims = claims(args, settings, now)?;
    let secret = shared_secret(settings).map_err(TokenError::Settings)?;
    let key = EncodingKey::from_secret(secret.expose());
    let token = jsonwebtoken::encode(&Header::new(settings.algorithm), &claims, &key).map_err(TokenError::Signing)?;
    if token.len() > MAX_TOKEN_BYTES { Err(TokenError::TooLarge) } else { Ok(token) }
}

fn claims(args: &TokenArgs, settings: &Settings, now: SystemTime) -> Result<Map<String, Value>, TokenError> {
    let mut claims = own_claims(args, settings, now)?;
    for (name, value) in &args.claims {
        if RESERVED.contains(&name.as_str()) {
            return Err(TokenError::ReservedClaim(name.clone()));
        }
        if claims.insert(name.clone(), value.clone()).is_some() {
            return Err(TokenError::DoubledClaim(name.clone()));
        }
    }
    if !settings.required_scopes.is_empty() && !claims.contains_key("scope") && !claims.contains_key("scp") {
        claims.insert("scope".into(), settings.required_scopes.join(" ").into());
    }
    Ok(claims)
}

/// The claims of every token, and issuer and audience.
fn own_claims(args: &TokenArgs, settings: &Settings, now: SystemTime) -> Result<Map<String, Value>, TokenError> {
    let subject = args.subject.as_deref().ok_or(TokenError::NoSubject)?;
    if subject.trim().is_empty() {
        return Err(TokenError::EmptySubject);
    }
    let ttl = within_bounds(args.ttl.unwrap_or(DEFAULT_TTL))?;
    if let Some(bound) = settings.max_lifetime.filter(|bound| ttl > *bound) {
        return Err(TokenError::LongerThanAccepted(bound));
    }
    let now = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let mut claims = Map::new();
    claims.insert("sub".into(), subject.into());
    claims.insert("iat".into(), now.into());
    claims.insert("exp".into(), (now + ttl.as_secs()).into());
    for (name, value) in [
        ("iss", args.issuer.as_ref().or(settings.issuer.as_ref())),
        ("aud", args.audience.as_ref().or(settings.audience.as_ref())),
    ] {
        if let Some(value) = value {
            claims.insert(name.into(), value.as_str().into());
        }
    }
    Ok(claims)
}

/// Parses `90s`, `30m`, `24h` or `7d`, up to 365 days.
fn parse_ttl(text: &str) -> Result<Duration, TokenError> {
    let unit = match text.as_bytes().last() {
        Some(b's') => 1,
        Some(b'm') => 60,
        Some(b'h') => 60 * 60,
        Some(b'd') => 24 * 60 * 60,
        _ => return Err(TokenError::Ttl),
    };
    let number = &text[..text.len() - 1];
    if !number.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(TokenError::Ttl);
    }
    let seconds = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit)).ok_or(TokenError::Ttl)?;
    within_bounds(Duration::from_secs(seconds))
}

fn within_bounds(ttl: Duration) -> Result<Duration, TokenError> {
    if ttl.as_secs() == 0 || ttl > MAX_TTL { Err(TokenError::Ttl) } else { Ok(ttl) }
}

fn parse_claim(text: &str) -> Result<(String, Value), TokenError> {
    let (name, value) = text.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or(TokenError::Claim)?;
    Ok((name.to_owned(), serde_json::from_str(value).unwrap_or_else(|_| value.into())))
}

fn sentences(problems: &[Problem]) -> String {
    problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests;
