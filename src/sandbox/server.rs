//! The listener: accepts connections, one thread each, and ends them all when dropped.

use std::io;
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, MutexGuard, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, Socket, Type};

use super::api::Api;
use super::connection::{ServerState, serve};
use super::request_log::RequestLog;

const BACKLOG: i32 = 1024;

pub(super) struct Server {
    address: SocketAddr,
    state: Arc<ServerState>,
    acceptor: Option<JoinHandle<()>>,
}

impl Server {
    pub(super) fn start(port: u16) -> io::Result<Server> {
        let listener = listen(port)?;
        let address = listener.local_addr()?;
        let state = Arc::new(ServerState::new(Api::new(address.port())));
        let acceptor = thread::Builder::new().name("sandbox".to_owned()).spawn({
            let state = Arc::clone(&state);
            move || accept_connections(&listener, &state)
        })?;
        Ok(Server { address, state, acceptor: Some(acceptor) })
    }

    pub(super) fn api(&self) -> &Api {
        &self.state.api
    }

    pub(super) fn request_log(&self) -> MutexGuard<'_, RequestLog> {
        self.state.request_log()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.state.shutdown.trigger();
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        // `accept` cannot be interrupted, but one more connection makes it return. The loop is
        // bounded, so that a process that has run out of sockets leaks a thread rather than hangs.
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

/// Listens with a larger backlog than std's 128, which is too small for hundreds of clients.
fn listen(port: u16) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    // Or the connections of an earlier sandbox would block a fixed port for a minute. On Windows it
    // means something else: that several servers may share the port.
    #[cfg(unix)]
    socket.set_reuse_address(port != 0)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, port)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// The acceptor's handle of a connection.
///
/// The connection's thread alone owns the socket, so that the socket closes when the thread ends.
struct ConnectionHandle {
    stream: Weak<TcpStream>,
    thread: JoinHandle<()>,
}

fn accept_connections(listener: &TcpListener, state: &Arc<ServerState>) {
    let mut connections: Vec<ConnectionHandle> = Vec::new();
    loop {
        let accepted = listener.accept();
        if state.shutdown.is_triggered() {
            break;
        }
        connections.retain(|connection| !connection.thread.is_finished());
        match accepted {
            Ok((stream, _)) => connections.extend(spawn(stream, state)),
            // Most likely out of file descriptors: wait for a connection to end.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    for connection in &connections {
        if let Some(stream) = connection.stream.upgrade() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
    for connection in connections {
        let _ = connection.thread.join();
    }
}

fn spawn(stream: TcpStream, state: &Arc<ServerState>) -> Option<ConnectionHandle> {
    state.request_log().connection_count += 1;
    // Successive small writes (a throttled response, a 100 Continue) must be sent at once.
    let _ = stream.set_nodelay(true);
    let stream = Arc::new(stream);
    let weak_stream = Arc::downgrade(&stream);
    let state = Arc::clone(state);
    let thread = thread::Builder::new()
        .name("sandbox client".to_owned())
        .spawn(move || serve(&stream, &state))
        .ok()?;
    Some(ConnectionHandle { stream: weak_stream, thread })
}
