//! Finds the credential by which a server learns who makes a call.

use std::sync::Arc;
use std::time::Duration;

use http::header::AUTHORIZATION;
use http::{HeaderName, HeaderValue};
use memchr::memmem;
use portcullis_crds::mcpserver::ForwardCallerToken;
use tokio::time::Instant;

use crate::auth;
use crate::call::{CALL_TOOL, CallHeaders, Failure, Request};
use crate::catalog::Candidate;
use crate::outbound::{CallerTerms, ExchangeTerms, OutboundError};

/// The credential of a call; none if the session's own is all that the server gets.
///
/// # Errors
/// There is none: the call must not be sent.
pub(super) async fn credential(
    candidate: &Candidate,
    call: &Request<'_>,
    (began, limit): (Instant, Duration),
) -> Result<Option<HeaderValue>, Failure> {
    let Some(terms) = candidate.server.caller_terms() else { return Ok(None) };
    let made = match &*terms {
        CallerTerms::Assertion(terms) => {
            let tool = (call.method == CALL_TOOL).then_some(&*candidate.item.own_name);
            call.outbound.assertion(terms, call.identity, tool, began)
        }
        CallerTerms::Exchange(terms) => match call.outbound.kept_exchange(terms, call.identity, began) {
            Some(kept) => Ok(kept),
            // Boxed, so that the future of the usual call does not include it.
            None => Box::pin(exchanged(terms, candidate, call, began + limit)).await,
        },
    };
    made.map(Some).map_err(Failure::Identity)
}

/// Adds the credential that the caller brings for this server, if it brings one.
///
/// # Errors
/// It is none, or not for a server: the call must not be sent.
pub(super) fn forward(
    forward: &ForwardCallerToken,
    call: &Request<'_>,
    headers: &mut CallHeaders,
) -> Result<(), Failure> {
    let from = forward.from.as_str();
    let mut brought = call.fields.all(from);
    let (Some(value), second) = (brought.next(), brought.next()) else { return Ok(()) };
    let refused = |error: fn(String) -> OutboundError| Failure::Identity(error(from.to_owned()));
    let is_of_gateway =
        auth::token_of(call.fields, call.query).is_some_and(|token| memmem::find(value, token.as_bytes()).is_some());
    if is_of_gateway {
        return Err(refused(OutboundError::GatewayToken));
    }
    let (Ok(mut value), Ok(to), None) = (HeaderValue::from_bytes(value), HeaderName::try_from(&forward.to), second)
    else {
        return Err(refused(OutboundError::Credential));
    };
    value.set_sensitive(true);
    if to == AUTHORIZATION {
        headers.authorization = Some(value);
    } else {
        headers.passed.insert(to, value);
    }
    Ok(())
}

async fn exchanged(
    terms: &Arc<ExchangeTerms>,
    candidate: &Candidate,
    call: &Request<'_>,
    until: Instant,
) -> Result<HeaderValue, OutboundError> {
    let token = auth::token_of(call.fields, call.query).ok_or(OutboundError::NoSubject)?;
    let exchanged = call.outbound.exchanged(terms, call.identity, &token, until).await;
    candidate.server.note_exchange(exchanged.as_ref().map(drop));
    exchanged
}
