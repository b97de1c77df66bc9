//! Validates what an McpServer says of identities: tokens for the server, and credentials that callers bring.

use url::Url;

use super::{OWN_HEADERS, bytes_of_header, check_url, file_name, headers_of, is_token};
use crate::mcpserver::{
    Assertion, ClientAuth, ClientCredentials, ForwardCallerToken, Header, Identity, Listing, McpServerSpec,
    ServiceAccountToken, TokenExchange,
};

/// Claims that the gateway sets itself.
const OWN_CLAIMS: [&str; 8] = ["iss", "aud", "exp", "nbf", "iat", "jti", "act", "tool"];

/// All problems of a spec's identities.
pub(super) fn identities(spec: &McpServerSpec, found: &mut Vec<String>) {
    let has_header = |name: &str| spec.headers.iter().any(|header| header.name.eq_ignore_ascii_case(name));
    if let Some(identity) = &spec.identity {
        if has_header("authorization") {
            found.push("identity sends authorization itself: leave identity out, or the header authorization".into());
        }
        one_identity(identity, found);
    }
    if let Some(forward) = &spec.forward_caller_token {
        forwarded(forward, found);
        if has_header(&forward.to) {
            found.push("headers holds the header of forwardCallerToken.to: keep one of them".into());
        }
        if spec.identity.is_some() && forward.to == "authorization" {
            found.push(
                "identity sends authorization itself: leave identity out, or set forwardCallerToken.to to another header"
                    .into(),
            );
        }
    }
    let shows_callers = |identity: &Identity| identity.assertion.is_some() || identity.exchange.is_some();
    if spec.listing.per_caller
        && spec.forward_caller_token.is_none()
        && !spec.identity.as_ref().is_some_and(shows_callers)
    {
        found.push(
            "listing.perCaller needs identity.assertion, identity.exchange or forwardCallerToken: set one, so that the server learns who lists"
                .into(),
        );
    }
    listing(&spec.listing, found);
}

/// Bytes of all this in JSON, with some to spare.
pub(super) fn bytes_of_identities(spec: &McpServerSpec) -> usize {
    fn bytes(part: &impl serde::Serialize) -> usize {
        serde_json::to_string(part).map_or(usize::MAX / 4, |text| text.len() + 30)
    }
    let identity = spec.identity.as_ref().map_or(0, bytes);
    let forward = spec.forward_caller_token.as_ref().map_or(0, bytes);
    identity + forward + spec.listing.headers.iter().map(bytes_of_header).sum::<usize>()
}

fn one_identity(identity: &Identity, found: &mut Vec<String>) {
    let Identity { service_account_token: own, assertion, exchange, client_credentials: credentials } = identity;
    let set = [own.is_some(), assertion.is_some(), exchange.is_some(), credentials.is_some()];
    if set.into_iter().filter(|one| *one).count() != 1 {
        found
            .push("identity: set exactly one of serviceAccountToken, assertion, exchange and clientCredentials".into());
    }
    own.iter().for_each(|own| of_account(own, "identity.serviceAccountToken", found));
    assertion.iter().for_each(|assertion| signed(assertion, found));
    exchange.iter().for_each(|exchange| exchanged(exchange, found));
    credentials.iter().for_each(|credentials| of_gateway(credentials, found));
}

fn of_account(token: &ServiceAccountToken, field: &str, found: &mut Vec<String>) {
    visible(token.audience.as_deref(), 512, &format!("{field}.audience"), found);
}

fn signed(assertion: &Assertion, found: &mut Vec<String>) {
    visible(assertion.audience.as_deref(), 512, "assertion.audience", found);
    if !(10..=600).contains(&assertion.lifetime_seconds) {
        found.push("assertion.lifetimeSeconds must be from 10 to 600".into());
    }
    if assertion.claims.len() > 16 {
        found.push("assertion.claims has more than 16 entries: remove some".into());
    }
    let fits = |c: &String| {
        (1..=64).contains(&c.len()) && c.bytes().all(|b| b.is_ascii_alphanumeric() || b"_.:/-".contains(&b))
    };
    if !assertion.claims.iter().all(fits) {
        found.push("assertion.claims: use names of 1 to 64 letters, digits and _ . : / -".into());
    } else if assertion.claims.iter().any(|claim| OWN_CLAIMS.contains(&claim.as_str())) {
        found.push(
            "assertion.claims holds a claim that the gateway sets itself, such as iss or aud: leave it out".into(),
        );
    }
    unique(&assertion.claims, "assertion.claims", found);
}

fn exchanged(exchange: &TokenExchange, found: &mut Vec<String>) {
    token_url(&exchange.token_url, found);
    visible(exchange.audience.as_deref(), 512, "exchange.audience", found);
    visible(exchange.resource.as_deref(), 1024, "exchange.resource", found);
    scopes(&exchange.scopes, "exchange.scopes", found);
    exchange.client_auth.iter().for_each(|auth| client(auth, found));
}

fn of_gateway(credentials: &ClientCredentials, found: &mut Vec<String>) {
    token_url(&credentials.token_url, found);
    visible(credentials.audience.as_deref(), 512, "clientCredentials.audience", found);
    visible(credentials.resource.as_deref(), 1024, "clientCredentials.resource", found);
    scopes(&credentials.scopes, "clientCredentials.scopes", found);
    client(&credentials.client_auth, found);
}

fn client(auth: &ClientAuth, found: &mut Vec<String>) {
    if auth.service_account_token.is_some() == auth.secret_ref.is_some() {
        found.push("clientAuth: set exactly one of serviceAccountToken and secretRef".into());
    }
    if auth.secret_ref.is_some() && auth.client_id.is_none() {
        found.push("clientAuth.secretRef needs clientId".into());
    }
    if auth.secret_method.is_some() && auth.secret_ref.is_none() {
        found.push("clientAuth.secretMethod is about secretRef: leave it out".into());
    }
    visible(auth.client_id.as_deref(), 256, "clientAuth.clientId", found);
    auth.service_account_token.iter().for_each(|token| of_account(token, "clientAuth.serviceAccountToken", found));
    if let Some(secret) = &auth.secret_ref {
        file_name(&secret.name, "clientAuth.secretRef.name", found);
        file_name(&secret.key, "clientAuth.secretRef.key", found);
    }
}

/// Whoever reads the request to a token endpoint has the credentials in it.
fn token_url(text: &str, found: &mut Vec<String>) {
    let is_safe = |url: &Url| {
        let is_local = matches!(url.host_str(), Some("localhost" | "127.0.0.1" | "[::1]"));
        url.scheme() == "https" || is_local
    };
    if text.len() > 1024 || !check_url(text).is_ok_and(|url| is_safe(&url)) {
        found.push(
            "tokenUrl must be https://HOST/PATH, without user information and fragment; http works for localhost alone"
                .into(),
        );
    }
}

fn visible(text: Option<&str>, longest: usize, field: &str, found: &mut Vec<String>) {
    let fits = |text: &str| (1..=longest).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
    if !text.is_none_or(fits) {
        found.push(format!("{field} must have 1 to {longest} visible ASCII characters and no spaces"));
    }
}

fn scopes(scopes: &[String], field: &str, found: &mut Vec<String>) {
    let is_plain = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
    if scopes.len() > 16 {
        found.push(format!("{field} has more than 16 entries: remove some"));
    }
    if !scopes.iter().all(|scope| (1..=128).contains(&scope.len()) && scope.bytes().all(is_plain)) {
        found.push(format!("{field}: write each scope as an entry of its own, without spaces and quotes"));
    }
    unique(scopes, field, found);
}

fn unique(names: &[String], field: &str, found: &mut Vec<String>) {
    if names.iter().enumerate().any(|(index, name)| names[..index].contains(name)) {
        found.push(format!("{field} has a duplicate entry: keep one of them"));
    }
}

fn forwarded(forward: &ForwardCallerToken, found: &mut Vec<String>) {
    let fits = |name: &str| name.len() <= 128 && is_token(name) && !name.bytes().any(|b| b.is_ascii_uppercase());
    let from = forward.from.as_str();
    let name = from.strip_prefix("x-").and_then(|rest| rest.strip_suffix("-authorization")).unwrap_or_default();
    let is_plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty()
        || !name.bytes().all(is_plain)
        || name.starts_with('-')
        || name.ends_with('-')
        || from.len() > 144
    {
        found.push("forwardCallerToken.from must be x-NAME-authorization, with the name of this server".into());
    } else if from.starts_with("x-forwarded-") {
        found.push(
            "forwardCallerToken.from is a header that proxies set: use one of your own, such as x-search-authorization"
                .into(),
        );
    }
    let to = forward.to.as_str();
    if !fits(to) {
        found.push("forwardCallerToken.to must be a header name in lower case".into());
    } else if OWN_HEADERS.contains(&to) || to == "cookie" || to.starts_with("mcp-param-") {
        found.push(
            "forwardCallerToken.to is a header that the gateway sets itself: use another, such as authorization".into(),
        );
    }
}

fn listing(listing: &Listing, found: &mut Vec<String>) {
    if listing.headers.len() > 16 {
        found.push("listing.headers has more than 16 entries: remove some".into());
    }
    let headers: &[Header] = &listing.headers;
    headers_of(headers, "listing.headers", found);
}
