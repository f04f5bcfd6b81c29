//! A server over TLS, with a certificate generated at startup. It accepts every create, completes
//! every generation at once, and records the handshake kind of each connection with the method of
//! its first request.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Result, bail};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

pub(super) struct TlsServer {
    port: u16,
    /// In PEM.
    root_certificate: String,
    handshakes: Handshakes,
}

/// One entry per connection, such as `full POST`.
type Handshakes = Arc<Mutex<Vec<String>>>;

impl TlsServer {
    pub(super) fn start() -> Result<TlsServer> {
        let (config, root_certificate) = generate_config()?;
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let handshakes = Handshakes::default();
        let recorded = Arc::clone(&handshakes);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, handshakes) = (Arc::clone(&config), Arc::clone(&recorded));
                // Failures are reported by the client.
                thread::spawn(move || handle_connection(stream, config, &handshakes));
            }
        });
        Ok(TlsServer { port, root_certificate, handshakes })
    }

    pub(super) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub(super) fn command(&self, command: &str) -> Result<Value> {
        match command {
            "root-certificate" => Ok(json!(self.root_certificate)),
            "handshakes" => {
                let handshakes = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(json!(*handshakes))
            }
            _ => bail!("unknown command `{command}`"),
        }
    }
}

fn handle_connection(
    mut stream: TcpStream,
    config: Arc<ServerConfig>,
    handshakes: &Mutex<Vec<String>>,
) -> Result<()> {
    stream.set_nodelay(true)?;
    let mut tls = ServerConnection::new(config)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    let kind = match tls.handshake_kind() {
        Some(HandshakeKind::Resumed) => "resumed",
        _ => "full",
    };
    let mut stream = BufReader::new(StreamOwned::new(tls, stream));
    let mut first = true;
    while let Some(method) = read_request(&mut stream)? {
        if std::mem::take(&mut first) {
            let mut handshakes = handshakes.lock().unwrap_or_else(PoisonError::into_inner);
            handshakes.push(format!("{kind} {method}"));
        }
        let body = match method.as_str() {
            "POST" => json!({ "id": "1", "status": "queued" }),
            _ => json!({
                "id": "1", "status": "completed", "video": { "url": "https://example.com/a.mp4" },
            }),
        };
        let body = body.to_string();
        let length = body.len();
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length:";
        stream.get_mut().write_all(format!("{head} {length}\r\n\r\n{body}").as_bytes())?;
        stream.get_mut().flush()?;
    }
    Ok(())
}

/// Reads a request with its body, and returns its method; `None` if the client has closed.
fn read_request(stream: &mut impl BufRead) -> io::Result<Option<String>> {
    let (mut method, mut length) = (None, 0);
    for line in stream.by_ref().lines() {
        let line = line?.to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("content-length: ") {
            length = value.parse().map_err(io::Error::other)?;
        }
        if line.is_empty() {
            break;
        }
        method = method.or_else(|| Some(line.split(' ').next()?.to_ascii_uppercase()));
    }
    io::copy(&mut stream.take(length), &mut io::sink())?;
    Ok(method)
}

/// A server configuration with a new certificate, and the root certificate to trust, in PEM.
fn generate_config() -> Result<(ServerConfig, String)> {
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(["127.0.0.1".to_owned()])?;
    let certificate = params.signed_by(&key, &root)?;
    let private_key = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private_key)?;
    Ok((config, root.pem()))
}
