//! How the gateway authenticates to token endpoints, and which of them get tokens from it.

use std::collections::{BTreeMap, BTreeSet};

use portcullis_crds::Server;
use portcullis_crds::mcpserver::{ClientAuth, SecretMethod};
use url::{Position, Url};

use super::error::OutboundError;
use super::{Endpoints, ExchangeTerms};

/// The parameter of a client that authenticates by a token (RFC 7523, section 2.2).
const JWT_BEARER: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

/// Token endpoints to which the gateway sends tokens, by namespace of the servers; `*`: of all.
pub(crate) type TokenUrls = BTreeMap<String, BTreeSet<String>>;

/// What proves that the gateway is a client.
pub(super) enum ClientProof {
    /// Its id and secret, and how they are sent.
    Secret(String, String, SecretMethod),
    /// The gateway's own service-account token, and its id, if it has one there.
    Assertion { id: Option<String>, token: String },
}

impl ClientProof {
    /// Adds it to a request: the parameters of a token, or id and secret for HTTP Basic authentication.
    pub(super) fn put(self, form: &mut Vec<(&'static str, String)>) -> Option<(String, String)> {
        match self {
            Self::Secret(id, secret, SecretMethod::Basic) => Some((id, secret)),
            Self::Secret(id, secret, SecretMethod::Post) => {
                form.extend([("client_id", id), ("client_secret", secret)]);
                None
            }
            Self::Assertion { id, token } => {
                form.extend(id.map(|id| ("client_id", id)));
                form.push(("client_assertion_type", JWT_BEARER.to_owned()));
                form.push(("client_assertion", token));
                None
            }
        }
    }
}

impl Endpoints {
    /// Whether the gateway may send a caller's token, or one of its own, to this endpoint for this server. Whoever writes an
    /// McpServer must not get such tokens by an endpoint of its own.
    pub(super) fn check_url(&self, server: &Server, url: &Url) -> Result<(), OutboundError> {
        let (namespace, given) = (&server.key.namespace, url.as_str());
        let allows = |of: &str| self.token_urls.get(of).is_some_and(|urls| urls.contains(given));
        if allows(namespace) || allows("*") {
            return Ok(());
        }
        let url = url[..Position::AfterPath].to_owned();
        Err(OutboundError::TokenUrl { url, namespace: namespace.clone() })
    }

    /// Checks what an exchange needs, without asking anyone.
    pub(super) fn check_exchange(&self, terms: &ExchangeTerms) -> Result<(), OutboundError> {
        self.check_url(&terms.server, &terms.url)?;
        let Some(spec) = terms.spec() else { return Ok(()) };
        // The token is sent to the server, so it must be of no use elsewhere.
        for wanted in [&spec.audience, &spec.resource].into_iter().flatten() {
            self.check_target(&terms.server, wanted)?;
        }
        spec.client_auth.as_ref().map_or(Ok(()), |auth| self.proof(&terms.server, &terms.url, auth).map(drop))
    }

    /// Whether a server may be sent a token for this audience or resource: its own URL, its origin, or what is allowed.
    pub(super) fn check_target(&self, server: &Server, wanted: &str) -> Result<(), OutboundError> {
        let Ok(url) = Url::parse(&server.url) else { return Ok(()) };
        let of_wanted = Url::parse(wanted).ok().filter(|of| of.origin().is_tuple() && of.origin() == url.origin());
        // A resource below the origin of the server is the server's too.
        let origin = url.origin().ascii_serialization();
        let is_below = of_wanted.is_some() && wanted.strip_prefix(&origin).is_some_and(|rest| rest.starts_with('/'));
        self.decide(server, Some(if is_below { &origin } else { wanted }))
    }

    /// What proves that the gateway is a client of this endpoint.
    pub(super) fn proof(&self, server: &Server, url: &Url, auth: &ClientAuth) -> Result<ClientProof, OutboundError> {
        if let Some(secret) = &auth.secret_ref {
            let id = auth.client_id.clone().unwrap_or_default();
            let method = auth.secret_method.unwrap_or(SecretMethod::Basic);
            return Ok(ClientProof::Secret(id, self.secrets.client_secret(server, secret, url.origin())?, method));
        }
        // The gateway is the client: its tokens are for nobody's endpoint but those that are allowed.
        self.check_url(server, url)?;
        let wanted = auth.service_account_token.as_ref().and_then(|token| token.audience.as_deref());
        let (_, header) = self.own_tokens.for_endpoint(&server.key.namespace, url, wanted)?;
        let token = header.to_str().ok().and_then(|value| value.strip_prefix("Bearer ")).unwrap_or_default();
        Ok(ClientProof::Assertion { id: auth.client_id.clone(), token: token.to_owned() })
    }
}

/// Adds the target of a token: for exchanges and for the gateway's own tokens. Without one, the token is for the server.
pub(super) fn put_target(
    form: &mut Vec<(&'static str, String)>,
    (audience, resource): (Option<&String>, Option<&String>),
    server: &Server,
) {
    form.extend(audience.map(|audience| ("audience", audience.clone())));
    // A query may hold a secret, and a resource has no fragment (RFC 8707, section 2).
    let of_server = Url::parse(&server.url).ok().filter(|_| audience.is_none());
    let of_server = of_server.as_ref().map(|url| url[..Position::AfterPath].to_owned());
    let of_server = of_server.as_ref();
    form.extend(resource.or(of_server).map(|resource| ("resource", resource.clone())));
}

/// Adds the scopes to ask for, if there are any.
pub(super) fn put_scopes(form: &mut Vec<(&'static str, String)>, scopes: &[String]) {
    if !scopes.is_empty() {
        form.push(("scope", scopes.join(" ")));
    }
}
