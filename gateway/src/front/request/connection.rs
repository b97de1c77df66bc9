//! A connection of a caller, and what answers all connections of one listener.

use std::sync::{Arc, OnceLock};

use axum::Router;
use hyper_util::service::TowerToHyperService;
use portcullis_runtime::serve::{Peer, Place, TlsPeer};

use crate::front::request::app::App;
use crate::tls::subject;

/// The app and the router behind all connections of one listener.
pub(crate) struct Front {
    app: Arc<App>,
    router: TowerToHyperService<Router>,
}

impl Front {
    /// Answers by this router what does not go round it.
    pub(crate) fn with(app: Arc<App>, router: Router) -> Arc<Self> {
        Arc::new(Self { app, router: TowerToHyperService::new(router) })
    }

    /// Begins a connection.
    pub(crate) fn connection(self: &Arc<Self>, peer: Peer) -> Arc<CallerConnection> {
        let Peer { address, place, tls } = peer;
        let tls = tls.map(|peer| CallerTls { peer, client: OnceLock::new() });
        Arc::new(CallerConnection { front: self.clone(), peer: address.ip().to_string(), place, tls })
    }

    /// Answers what does not go round it.
    pub(crate) fn router(&self) -> &TowerToHyperService<Router> {
        &self.router
    }
}

/// A connection of a caller. Its requests share this, and so touch nothing that those of other connections count.
pub(crate) struct CallerConnection {
    front: Arc<Front>,
    peer: String,
    place: Arc<Place>,
    tls: Option<CallerTls>,
}

/// TLS of a connection.
struct CallerTls {
    peer: Arc<TlsPeer>,
    /// The subject of the client's certificate; `None`: the client has shown none.
    client: OnceLock<Option<String>>,
}

impl CallerConnection {
    /// The state that all routes share.
    pub(crate) fn app(&self) -> &Arc<App> {
        &self.front.app
    }

    /// The app and the router.
    pub(crate) fn front(&self) -> &Front {
        &self.front
    }

    /// The address of its other end, without the port.
    pub(crate) fn peer(&self) -> &str {
        &self.peer
    }

    /// The subject of the client's certificate, if it has shown one.
    pub(crate) fn client(&self) -> Option<&str> {
        let CallerTls { peer, client } = self.tls.as_ref()?;
        let read = || peer.client_certificate().map(|shown| subject(shown).unwrap_or_default());
        client.get_or_init(read).as_deref()
    }

    /// The certificate that the client was shown.
    pub(crate) fn own_certificate(&self) -> Option<&[u8]> {
        self.tls.as_ref()?.peer.own_certificate().map(|certificate| &**certificate)
    }

    /// A request on it has brought a good token.
    pub(crate) fn trust(&self) {
        self.place.trust();
    }
}
