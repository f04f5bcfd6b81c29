//! The port: accepts connections and gives each a thread; dropping the server ends them all.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, MutexGuard, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::api::Api;
use super::connection::{Shared, serve};
use super::traffic::Traffic;

const BACKLOG: i32 = 1024;

pub(super) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start() -> io::Result<Server> {
        let listener = listen()?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(Api::new(address.port())));
        let acceptor = thread::Builder::new().name("sandbox".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || accept_all(&listener, &shared)
        })?;
        Ok(Server { address, shared, acceptor: Some(acceptor) })
    }

    pub(super) fn api(&self) -> &Api {
        &self.shared.api
    }

    pub(super) fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.shared.traffic()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.raise();
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        // `accept` cannot be interrupted, but it returns for one more client. Bounded, so that a
        // process that has run out of sockets leaks a thread rather than hangs.
        let deadline = Instant::now() + Duration::from_secs(5);
        while !acceptor.is_finished() && Instant::now() < deadline {
            let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(50));
            thread::sleep(Duration::from_millis(1));
        }
        if acceptor.is_finished() {
            let _ = acceptor.join();
        }
    }
}

/// std's own listener has a backlog of 128, too few for hundreds of clients at once.
fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A connection as the acceptor knows it. Only its thread owns the socket, so that the socket
/// closes when that thread ends.
struct Client {
    stream: Weak<TcpStream>,
    thread: JoinHandle<()>,
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut clients: Vec<Client> = Vec::new();
    loop {
        let accepted = listener.accept();
        if shared.stop.is_raised() {
            break;
        }
        clients.retain(|client| !client.thread.is_finished());
        match accepted {
            Ok((stream, _)) => clients.extend(spawn(stream, shared)),
            // Out of file descriptors, most likely: let some connection end first.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    for client in &clients {
        if let Some(stream) = client.stream.upgrade() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
    for client in clients {
        let _ = client.thread.join();
    }
}

fn spawn(stream: TcpStream, shared: &Arc<Shared>) -> Option<Client> {
    shared.traffic().connections += 1;
    // Small writes that follow each other (a trickle, a 100 Continue) leave at once.
    let _ = stream.set_nodelay(true);
    let stream = Arc::new(stream);
    let client = Arc::downgrade(&stream);
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new()
        .name("sandbox client".to_owned())
        .spawn(move || serve(&stream, &shared))
        .ok()?;
    Some(Client { stream: client, thread })
}
