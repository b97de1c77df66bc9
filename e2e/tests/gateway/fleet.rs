//! The real servers that tests share: started once, ended with the test binary.

use futures_util::future::join_all;
use portcullis_e2e::real::{RealServer, RealServerKind};
use tokio::sync::OnceCell;

/// One cell for each of [`RealServerKind::ALL`].
static SERVERS: [OnceCell<RealServer>; 7] = [const { OnceCell::const_new() }; 7];

/// The shared server of a kind. Nobody may stop it.
pub(crate) async fn server(kind: RealServerKind) -> &'static RealServer {
    let index = RealServerKind::ALL.iter().position(|other| *other == kind).expect("every kind is in the list");
    SERVERS[index].get_or_init(|| RealServer::start(kind)).await
}

/// The URLs of several shared servers, started at the same time.
pub(crate) async fn urls(kinds: &[RealServerKind]) -> Vec<&'static str> {
    join_all(kinds.iter().map(|kind| server(*kind))).await.into_iter().map(|server| server.url.as_str()).collect()
}
