//! The minimal server over TLS, with a certificate generated at startup. It records the handshake
//! kind of each connection and the method of its first request.

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

use anyhow::{Result, bail};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::crypto::ring;
use rustls::pki_types::PrivateKeyDer;
use rustls::{HandshakeKind, ServerConfig, ServerConnection, StreamOwned};
use serde_json::{Value, json};

use super::http::Connection;
use super::minimal::Api;

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
        let api = Arc::new(Api::new(format!("https://127.0.0.1:{port}")));
        let handshakes = Handshakes::default();
        let recorded = Arc::clone(&handshakes);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, api, handshakes) =
                    (Arc::clone(&config), Arc::clone(&api), Arc::clone(&recorded));
                thread::spawn(move || handle_connection(stream, config, &api, &handshakes));
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

/// Serves a connection. `None` if it fails, which the client reports.
fn handle_connection(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    api: &Api,
    handshakes: &Mutex<Vec<String>>,
) -> Option<()> {
    stream.set_nodelay(true).ok()?;
    let mut tls = ServerConnection::new(config).ok()?;
    let mut stream = stream;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream).ok()?;
    }
    let kind = match tls.handshake_kind() {
        Some(HandshakeKind::Resumed) => "resumed",
        _ => "full",
    };
    let mut stream = StreamOwned::new(tls, stream);
    stream.flush().ok()?;
    let mut connection = Connection::new(stream);
    let mut first = true;
    while let Ok(Some(request)) = connection.next_request(false) {
        if std::mem::take(&mut first) {
            let handshake = format!("{kind} {}", request.method());
            handshakes.lock().unwrap_or_else(PoisonError::into_inner).push(handshake);
        }
        api.handle(&mut connection, &request).ok()?;
    }
    Some(())
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
