//! A server of a test's own on 127.0.0.1: one thread a connection.
#![allow(unreachable_pub, reason = "shared by the modules of one binary")]

use std::io::{self, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};

use kling_video::Sandbox;

/// Dropping it closes its port and its connections and ends its threads.
pub struct Service {
    address: SocketAddr,
    stopped: Arc<AtomicBool>,
    acceptor: Option<JoinHandle<()>>,
}

impl Service {
    pub fn start(serve: impl Fn(&TcpStream) + Send + Sync + 'static) -> Service {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let stopped = Arc::new(AtomicBool::new(false));
        let acceptor = thread::spawn({
            let (stopped, serve) = (Arc::clone(&stopped), Arc::new(serve));
            move || accept_all(&listener, &stopped, &serve)
        });
        Service { address, stopped, acceptor: Some(acceptor) }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Service {
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

/// The sandbox's port.
pub fn address_of(sandbox: &Sandbox) -> SocketAddr {
    sandbox.url().trim_start_matches("http://").parse().unwrap()
}

/// Hands on what comes until it ends, and that it has ended.
fn pump(mut from: &TcpStream, mut to: &TcpStream, mut see: impl FnMut(&[u8])) {
    let mut buffer = [0; 16 * 1024];
    let copied: io::Result<()> = (|| {
        loop {
            match from.read(&mut buffer)? {
                0 => return Ok(()),
                n => {
                    see(&buffer[..n]);
                    to.write_all(&buffer[..n])?;
                }
            }
        }
    })();
    let _ = to.shutdown(if copied.is_ok() { Shutdown::Write } else { Shutdown::Both });
}

/// Hands the bytes on as they are, both ways.
pub fn join(client: &TcpStream, server: &TcpStream, mut see: impl FnMut(&[u8])) {
    thread::scope(|scope| {
        scope.spawn(|| pump(server, client, |_| {}));
        pump(client, server, &mut see);
    });
}
