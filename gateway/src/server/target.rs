//! The target of a session: URL, TLS and connections of a server.

use portcullis_crds::Server;
use portcullis_mcp::http1::dial::host_of;
use portcullis_mcp::http1::stream::TlsTarget;
use portcullis_mcp::http1::{HttpPool, Origin};
use portcullis_mcp::protocol::client_capabilities::ClientCapabilities;
use portcullis_mcp::protocol::extensions::Extensions;
use portcullis_mcp::upstream::Target;
use url::Url;

use super::adapt::limits;
use super::context::ServerContext;
use super::problem::ServerProblem;
use crate::secrets::Resolved;

/// The target with these credentials, for clients with these capabilities and extensions.
pub(crate) fn target_of(
    shared: &ServerContext,
    spec: &Server,
    resolved: &Resolved,
    (capabilities, extensions): (ClientCapabilities, Extensions),
) -> Result<Target, ServerProblem> {
    let url = url_of(spec)?;
    let host = host_of(&url);
    let tls = tls(shared, &url, resolved)?;
    let authority = match url.port() {
        Some(port) => format!("{}:{port}", url.host_str().unwrap_or_default()),
        None => url.host_str().unwrap_or_default().to_owned(),
    };
    let (step, idle) = limits(spec);
    let pool = HttpPool::new(Origin {
        port: url.port_or_known_default().unwrap_or(80),
        authority: authority.parse().map_err(|_| ServerProblem::Url)?,
        host,
        guard: shared.guard.clone(),
        tls,
        connect_timeout: step,
        idle_timeout: idle,
    });
    Ok(Target {
        url,
        transport: spec.transport,
        pinned: spec.protocol_version.clone(),
        headers: resolved.headers.clone(),
        pool,
        step,
        max_message: shared.max_message,
        capabilities,
        extensions,
        loops: shared.loops.clone(),
    })
}

/// The TLS settings; `None` for plain http.
pub(super) fn tls(shared: &ServerContext, url: &Url, resolved: &Resolved) -> Result<Option<TlsTarget>, ServerProblem> {
    if url.scheme() != "https" {
        return Ok(None);
    }
    Ok(Some(TlsTarget::new(&host_of(url), &resolved.tls, &shared.roots)?))
}

pub(super) fn url_of(spec: &Server) -> Result<Url, ServerProblem> {
    Url::parse(&spec.url).map_err(|_| ServerProblem::Url)
}
