//! A proxy that knows CONNECT and nothing else, with a name service of its own.
#![allow(unreachable_pub, reason = "shared by the modules of one binary")]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use crate::service::{Service, join};

pub struct ConnectProxy {
    service: Service,
    seen: Arc<Mutex<Seen>>,
}

#[derive(Default)]
struct Seen {
    heads: Vec<String>,
    /// All that clients sent.
    bytes: Vec<u8>,
}

/// How it treats who connects.
#[derive(Clone, Debug)]
pub enum Manner {
    /// Connects these, and knows no other.
    Tunnel(Vec<(&'static str, SocketAddr)>),
    /// Says this and closes.
    Answer(&'static str),
    /// Closes with the request unread, which is a reset.
    Reset,
    /// Reads the request and says nothing.
    Stall,
}

impl ConnectProxy {
    /// Connects `api.test:443`.
    pub fn to(api: SocketAddr) -> ConnectProxy {
        ConnectProxy::start(Manner::Tunnel(vec![("api.test:443", api)]))
    }

    pub fn start(manner: Manner) -> ConnectProxy {
        let seen = Arc::new(Mutex::new(Seen::default()));
        let service = Service::start({
            let seen = Arc::clone(&seen);
            move |stream| serve(stream, &manner, &seen)
        });
        ConnectProxy { service, seen }
    }

    pub fn address(&self) -> SocketAddr {
        self.service.address()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The requests it got.
    pub fn heads(&self) -> Vec<String> {
        self.seen.lock().unwrap().heads.clone()
    }

    /// Their first lines.
    pub fn asked(&self) -> Vec<String> {
        self.heads().iter().filter_map(|head| Some(head.lines().next()?.to_owned())).collect()
    }

    /// Whether a client sent this, in a request or in a tunnel.
    pub fn saw(&self, text: &str) -> bool {
        let seen = self.seen.lock().unwrap();
        seen.bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

fn serve(stream: &TcpStream, manner: &Manner, seen: &Mutex<Seen>) {
    if let Manner::Reset = manner {
        let _ = stream.peek(&mut [0]);
        return;
    }
    let Some(head) = read_head(stream) else { return };
    {
        let mut seen = seen.lock().unwrap();
        seen.bytes.extend(head.as_bytes());
        seen.heads.push(head.clone());
    }
    let say = |text: &str| (&*stream).write_all(text.as_bytes());
    match manner {
        Manner::Tunnel(names) => {
            let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
            let known = names.iter().find(|(name, _)| Some(*name) == target);
            let server = known.and_then(|(_, address)| TcpStream::connect(address).ok());
            let Some(server) = server else {
                let _ = say("HTTP/1.1 502 Bad Gateway\r\n\r\n");
                return;
            };
            if say("HTTP/1.1 200 Connection established\r\n\r\n").is_ok() {
                join(stream, &server, |bytes| seen.lock().unwrap().bytes.extend(bytes));
            }
        }
        Manner::Answer(text) => {
            let _ = say(text);
        }
        Manner::Stall => {
            let _ = (&*stream).read(&mut [0]);
        }
        Manner::Reset => {}
    }
}

fn read_head(mut stream: &TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).ok()?;
        head.push(byte[0]);
    }
    String::from_utf8(head).ok()
}
