//! A proxy that gives each connection to the next of several servers, as a Service of Kubernetes may.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::copy_bidirectional;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::port::{self, HeldPort};

/// A running proxy. It lives on the runtime of the test and ends with this value.
#[derive(Debug)]
pub struct RoundRobin {
    port: HeldPort,
    _listener: JoinSet<()>,
}

impl RoundRobin {
    /// Starts it on a free port. A server that refuses the connection is passed over.
    pub async fn before(servers: Vec<SocketAddr>) -> Self {
        let port = port::hold();
        let listener = port.listen().await;
        let (servers, next): (Arc<[SocketAddr]>, _) = (servers.into(), AtomicUsize::new(0));
        let mut running = JoinSet::new();
        running.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                connections.spawn(serve(client, Arc::clone(&servers), next.fetch_add(1, Ordering::Relaxed)));
                while connections.try_join_next().is_some() {}
            }
        });
        Self { port, _listener: running }
    }

    /// `http://127.0.0.1:<port>`.
    pub fn origin(&self) -> String {
        self.port.origin()
    }
}

async fn serve(mut client: TcpStream, servers: Arc<[SocketAddr]>, turn: usize) {
    for index in turn..turn + servers.len() {
        if let Ok(mut server) = TcpStream::connect(servers[index % servers.len()]).await {
            drop((client.set_nodelay(true), server.set_nodelay(true)));
            drop(copy_bidirectional(&mut client, &mut server).await);
            return;
        }
    }
}
