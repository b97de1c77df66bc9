//! Ports that stay ours: bound but not listening, so they refuse callers until a server takes them.

use std::net::SocketAddr;

use tokio::net::{TcpListener, TcpSocket};

/// A port of 127.0.0.1 that nobody else gets while this value lives.
///
/// The socket is bound and never listens: callers are refused, the kernel hands the port to nobody, and a server that
/// sets `SO_REUSEADDR` (node, uvicorn and tokio do) may listen on it, again and again.
#[derive(Debug)]
pub struct HeldPort {
    socket: TcpSocket,
    address: SocketAddr,
}

/// Takes a free port and holds it; panics when the machine has none left.
pub fn hold() -> HeldPort {
    let socket = TcpSocket::new_v4().expect("a socket");
    socket.set_reuseaddr(true).expect("SO_REUSEADDR");
    socket.bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let address = socket.local_addr().expect("a bound socket has an address");
    HeldPort { socket, address }
}

impl HeldPort {
    /// The port number.
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// `127.0.0.1:<port>`.
    pub fn address(&self) -> SocketAddr {
        debug_assert_eq!(self.socket.local_addr().ok(), Some(self.address));
        self.address
    }

    /// `http://127.0.0.1:<port>`; connections to it are refused until somebody listens.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address())
    }

    /// Listens on the port; drop the listener to refuse callers again.
    pub async fn listen(&self) -> TcpListener {
        let open = || {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(self.address)?;
            // A test may open some hundred connections at once; one that does not fit waits for a second.
            socket.listen(1024)
        };
        open().expect("the held port takes a listener")
    }
}
