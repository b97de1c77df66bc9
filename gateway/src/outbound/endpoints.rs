//! What the gateway needs to ask authorization servers for tokens, and to decide which servers may have which.

use std::sync::Arc;

use portcullis_crds::Server;
use url::Url;

use super::client_auth::TokenUrls;
use super::error::OutboundError;
use super::token_endpoint::{Issued, TokenClient, TokenError, TokenRequest};
use crate::identity::Tokens;
use crate::secrets::Secrets;
use crate::telemetry::metrics::Metrics;

/// What is needed to ask authorization servers.
pub(crate) struct Endpoints {
    /// Asks them.
    pub(crate) client: TokenClient,
    /// The source of client secrets.
    pub(crate) secrets: Secrets,
    /// The service-account tokens of the gateway.
    pub(crate) own_tokens: Arc<Tokens>,
    /// The token endpoints to which the gateway sends tokens.
    pub(crate) token_urls: TokenUrls,
    /// Counts requests.
    pub(crate) metrics: Metrics,
}

impl Endpoints {
    /// Asks for a token, and counts the outcome.
    pub(super) async fn ask(&self, grant: &'static str, request: TokenRequest) -> Result<Issued, TokenError> {
        let issued = self.client.ask(request).await;
        let outcome = match &issued {
            Ok(_) => "issued",
            Err(error) if error.is_answer() => "refused",
            Err(_) => "unavailable",
        };
        self.metrics.token_endpoint_requests.with_label_values(&[grant, outcome]).inc();
        issued
    }

    /// Decides whether a server may be sent tokens for this audience; none: for its origin.
    pub(super) fn decide(&self, server: &Server, wanted: Option<&str>) -> Result<(), OutboundError> {
        // An invalid URL is refused elsewhere.
        let Ok(url) = Url::parse(&server.url) else { return Ok(()) };
        self.own_tokens.rules().decide(&server.key.namespace, &url, wanted)?;
        Ok(())
    }
}
