//! An HTTP proxy that supports only CONNECT and has its own host table instead of DNS.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};

use crate::helpers::tcp_server::{TcpServer, read_head, relay};

pub struct ConnectProxy {
    server: TcpServer,
    record: Arc<Mutex<Record>>,
}

#[derive(Default)]
struct Record {
    request_heads: Vec<String>,
    /// Everything that clients sent.
    bytes: Vec<u8>,
}

/// What the proxy does with a connection.
#[derive(Clone, Debug)]
pub enum ProxyBehavior {
    /// Opens tunnels to the targets in this host table, and to no other.
    Tunnel(Vec<(&'static str, SocketAddr)>),
    /// Reads the request, sends these bytes and closes the connection.
    Respond(&'static str),
    /// Closes the connection with the request unread, which resets it.
    Reset,
    /// Reads the request and sends nothing.
    Stall,
}

impl ConnectProxy {
    /// Opens tunnels for `api.test:443` to this address.
    pub fn tunnel_to(api: SocketAddr) -> ConnectProxy {
        ConnectProxy::start(ProxyBehavior::Tunnel(vec![("api.test:443", api)]))
    }

    pub fn start(behavior: ProxyBehavior) -> ConnectProxy {
        let record = Arc::new(Mutex::new(Record::default()));
        let server = TcpServer::start({
            let record = Arc::clone(&record);
            move |stream| serve(stream, &behavior, &record)
        });
        ConnectProxy { server, record }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address())
    }

    /// The request lines and headers of all requests.
    pub fn request_heads(&self) -> Vec<String> {
        self.record.lock().unwrap().request_heads.clone()
    }

    pub fn request_lines(&self) -> Vec<String> {
        let heads = self.request_heads();
        heads.iter().filter_map(|head| Some(head.lines().next()?.to_owned())).collect()
    }

    /// Whether a client sent this text, in a request to the proxy or in a tunnel.
    pub fn received(&self, text: &str) -> bool {
        let record = self.record.lock().unwrap();
        record.bytes.windows(text.len()).any(|window| window == text.as_bytes())
    }
}

fn serve(stream: &TcpStream, behavior: &ProxyBehavior, record: &Mutex<Record>) {
    if let ProxyBehavior::Reset = behavior {
        let _ = stream.peek(&mut [0]);
        return;
    }
    let Some(head) = read_head(stream) else { return };
    {
        let mut record = record.lock().unwrap();
        record.bytes.extend(head.as_bytes());
        record.request_heads.push(head.clone());
    }
    let send = |text: &str| (&*stream).write_all(text.as_bytes());
    match behavior {
        ProxyBehavior::Tunnel(hosts) => {
            let target = head.strip_prefix("CONNECT ").and_then(|rest| rest.split(' ').next());
            let host = hosts.iter().find(|(name, _)| Some(*name) == target);
            let server = host.and_then(|(_, address)| TcpStream::connect(address).ok());
            let Some(server) = server else {
                let _ = send("HTTP/1.1 502 Bad Gateway\r\n\r\n");
                return;
            };
            if send("HTTP/1.1 200 Connection established\r\n\r\n").is_ok() {
                relay(stream, &server, |bytes| record.lock().unwrap().bytes.extend(bytes));
            }
        }
        ProxyBehavior::Respond(text) => {
            let _ = send(text);
        }
        ProxyBehavior::Stall => {
            let _ = (&*stream).read(&mut [0]);
        }
        ProxyBehavior::Reset => {}
    }
}
