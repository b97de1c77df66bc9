//! The `token` subcommand: makes a token that this gateway accepts, signed with its shared secret.
use std::{
    io::{self, BufRead, IsTerminal, Write},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use clap::Args;
use jsonwebtoken::{AlgorithmFamily, EncodingKey, Header};
use serde_json::{Map, Value};

use crate::auth::{Algorithm, MAX_TOKEN_BYTES, Problem, Settings, shared_secret};

/// How long a token is valid unless told.
const DEFAULT_TTL: Duration = Duration::from_secs(24 * 60 * 60);
/// The longest time that can be asked for: a shared secret should not live longer.
const MAX_TTL: Duration = Duration::from_secs(365 * 24 * 60 * 60);
/// Longer answers to a question are cut.
const MAX_ANSWER_BYTES: u64 = 1024;
/// Claims that have a flag of their own or follow from one.
const RESERVED: [&str; 6] = ["exp", "iat", "nbf", "sub", "aud", "iss"];

/// What the token shall say.
#[derive(Debug, Clone, Default, Args)]
pub struct TokenArgs {
    /// Who the bearer is (sub); asked for if not given
    #[arg(long)]
    pub subject: Option<String>,
    /// How long the token is valid, as in 90s, 30m, 24h or 7d; at most 365d [default: 24h]
    #[arg(long, value_parser = parse_ttl)]
    pub ttl: Option<Duration>,
    /// Whom the token is meant for (aud) [default: the configured audience]
    #[arg(long)]
    pub audience: Option<String>,
    /// Who has made the token (iss) [default: the configured issuer]
    #[arg(long)]
    pub issuer: Option<String>,
    /// Another claim; the value is JSON if it can be read as such, else text. May be repeated
    #[arg(long = "claim", value_name = "NAME=VALUE", value_parser = parse_claim)]
    pub claims: Vec<(String, Value)>,
}

/// Why no token was made.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// There is nobody to ask for the subject.
    #[error("who is the token for? Give --subject NAME")]
    NoSubject,
    /// A token for nobody.
    #[error("the subject is empty: give --subject NAME")]
    EmptySubject,
    /// The time of validity cannot be read, is nothing, or too long.
    #[error("the time must be a whole number with s, m, h or d, as in 24h, and at most 365d")]
    Ttl,
    /// The gateway would refuse a token that is valid for so long.
    #[error("the gateway accepts tokens for at most {} seconds (JWT_MAX_LIFETIME): give a shorter --ttl", .0.as_secs())]
    LongerThanAccepted(Duration),
    /// A claim without a name or a value.
    #[error("a claim must have the form NAME=VALUE")]
    Claim,
    /// A claim that the other flags make.
    #[error("the claim '{0}' cannot be given with --claim: use --subject, --ttl, --audience or --issuer")]
    ReservedClaim(String),
    /// A claim that is given twice.
    #[error("the claim '{0}' is given more than once")]
    DoubledClaim(String),
    /// There is no private key here, and there should be none.
    #[error(
        "JWT_ALGORITHM is {0:?}, so tokens come from whoever has the private key: \
         only HS256, HS384 and HS512 tokens can be made here"
    )]
    NoSharedSecret(Algorithm),
    /// The settings are not those of a working gateway.
    #[error("{}", sentences(.0))]
    Settings(Vec<Problem>),
    /// The claims are too long.
    #[error("the token would be longer than 8192 bytes, which the gateway refuses: give fewer or shorter claims")]
    TooLarge,
    /// The terminal has gone.
    #[error("cannot ask on the terminal: give --subject and --ttl")]
    Terminal(#[source] io::Error),
    /// The library could not sign.
    #[error("the token could not be signed")]
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
        return Err(crate::run_command::told(problems));
    }
    println!("{}", run(args, &settings)?);
    Ok(())
}

/// Makes a token, asking on the terminal (standard error) for a missing subject. The caller prints it.
///
/// # Errors
/// What is missing or wrong, in a sentence that says what to do.
pub fn run(args: TokenArgs, settings: &Settings) -> Result<String, TokenError> {
    let args = complete(args, io::stdin().is_terminal(), &mut io::stdin().lock(), &mut io::stderr())?;
    mint(&args, settings, SystemTime::now())
}

/// Without a subject, asks for it and, unless given, for the time of validity.
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

/// The claims that every token has, and issuer and audience.
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

/// Reads `90s`, `30m`, `24h` or `7d`, up to 365 days.
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
