//! TCP servers on 127.0.0.1 with one thread per connection, for what the sandbox does not offer.

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// Dropping it closes its port and its connections and joins its threads.
pub struct TcpServer {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl TcpServer {
    pub fn start(serve: impl Fn(&TcpStream) + Send + Sync + 'static) -> TcpServer {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let acceptor = thread::spawn({
            let (stopped, serve) = (Arc::clone(&stopped), Arc::new(serve));
            move || accept_all(&listener, &stopped, &serve)
        });
        TcpServer { address, stopped, acceptor: Some(acceptor) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for TcpServer {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::SeqCst);
        // Wakes `accept`.
        let _ = TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn accept_all<F>(listener: &TcpListener, stopped: &AtomicBool, serve: &Arc<F>)
where
    F: Fn(&TcpStream) + Send + Sync + 'static,
{
    let open = Mutex::new(Vec::new());
    for stream in listener.incoming().map_while(Result::ok) {
        if stopped.load(Ordering::SeqCst) {
            break;
        }
        let stream = Arc::new(stream);
        let weak = Arc::downgrade(&stream);
        let serve = Arc::clone(serve);
        let thread = thread::spawn(move || serve(&stream));
        open.lock().unwrap().push((weak, thread));
    }
    let open = open.into_inner().unwrap();
    for stream in open.iter().filter_map(|(stream, _)| stream.upgrade()) {
        let _ = stream.shutdown(Shutdown::Both);
    }
    for (_, thread) in open {
        let _ = thread.join();
    }
}

/// A server that receives HTTP requests and may respond with anything.
pub struct RawServer {
    server: TcpServer,
    heads: Arc<Mutex<Vec<String>>>,
}

impl RawServer {
    /// Calls `respond` for each connection after reading the head of its request.
    pub fn start(respond: impl Fn(&TcpStream) + Send + Sync + 'static) -> RawServer {
        let heads = Arc::new(Mutex::new(Vec::new()));
        let received = Arc::clone(&heads);
        let server = TcpServer::start(move |stream| {
            if let Some(head) = read_head(stream) {
                received.lock().unwrap().push(head);
                respond(stream);
            }
        });
        RawServer { server, heads }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.server.address())
    }

    /// The request heads received so far.
    pub fn heads(&self) -> Vec<String> {
        self.heads.lock().unwrap().clone()
    }
}

/// Reads the request line and the headers, including the empty line after them.
pub fn read_head(mut stream: &TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}

/// Waits for the given duration. Returns false at once if the client sends more or hangs up.
pub fn idle_for(duration: Duration, mut stream: &TcpStream) -> bool {
    stream.set_read_timeout(Some(duration)).unwrap();
    let timed_out = [io::ErrorKind::WouldBlock, io::ErrorKind::TimedOut];
    stream.read(&mut [0]).is_err_and(|error| timed_out.contains(&error.kind()))
}

/// Copies bytes in one direction until EOF, which is passed on as well.
fn relay_one_way(mut from: &TcpStream, mut to: &TcpStream, mut inspect: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    let copied: io::Result<()> = (|| {
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(()),
                n => {
                    inspect(&buffer[..n]);
                    to.write_all(&buffer[..n])?;
                }
            }
        }
    })();
    let _ = to.shutdown(if copied.is_ok() { Shutdown::Write } else { Shutdown::Both });
}

/// Copies bytes unchanged in both directions; `inspect` sees those that the client sent.
pub fn relay(client: &TcpStream, server: &TcpStream, mut inspect: impl FnMut(&[u8])) {
    thread::scope(|scope| {
        scope.spawn(|| relay_one_way(server, client, |_| {}));
        relay_one_way(client, server, &mut inspect);
    });
}
