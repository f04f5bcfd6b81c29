//! A TCP server on 127.0.0.1 with one thread per connection.
#![allow(unreachable_pub, reason = "shared by the modules of one binary")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use kling_video::sandbox::Sandbox;

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

/// The sandbox's socket address.
pub fn sandbox_addr(sandbox: &Sandbox) -> SocketAddr {
    sandbox.url().trim_start_matches("http://").parse().unwrap()
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
