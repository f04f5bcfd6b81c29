//! The same server behind TLS, with a certificate made on the spot. It tells of each connection how
//! it began and what it was first used for.

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

use super::bare::Api;
use super::http::Connection;

pub(super) struct Tls {
    port: u16,
    authority: String,
    handshakes: Handshakes,
}

/// `full POST`, for example.
type Handshakes = Arc<Mutex<Vec<String>>>;

impl Tls {
    pub(super) fn start() -> Result<Tls> {
        let (config, authority) = identity()?;
        let config = Arc::new(config);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let api = Arc::new(Api::new(format!("https://127.0.0.1:{port}")));
        let handshakes = Handshakes::default();
        let seen = Arc::clone(&handshakes);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (config, api, seen) =
                    (Arc::clone(&config), Arc::clone(&api), Arc::clone(&seen));
                thread::spawn(move || attend(stream, config, &api, &seen));
            }
        });
        Ok(Tls { port, authority, handshakes })
    }

    pub(super) fn url(&self) -> String {
        format!("https://127.0.0.1:{}", self.port)
    }

    pub(super) fn command(&self, command: &str) -> Result<Value> {
        match command {
            "authority" => Ok(json!(self.authority)),
            "handshakes" => {
                let seen = self.handshakes.lock().unwrap_or_else(PoisonError::into_inner);
                Ok(json!(*seen))
            }
            _ => bail!("no command {command}"),
        }
    }
}

fn attend(
    stream: TcpStream,
    config: Arc<ServerConfig>,
    api: &Api,
    seen: &Mutex<Vec<String>>,
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
    while let Ok(Some(request)) = connection.next(false) {
        if std::mem::take(&mut first) {
            let handshake = format!("{kind} {}", request.method());
            seen.lock().unwrap_or_else(PoisonError::into_inner).push(handshake);
        }
        api.answer(&mut connection, &request).ok()?;
    }
    Some(())
}

/// A server's configuration, and the authority to trust, in PEM.
fn identity() -> Result<(ServerConfig, String)> {
    let mut authority = CertificateParams::default();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let params = CertificateParams::new(["127.0.0.1".to_owned()])?;
    let certificate = params.signed_by(&key, &authority)?;
    let private = PrivateKeyDer::try_from(key.serialize_der()).map_err(anyhow::Error::msg)?;
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], private)?;
    Ok((config, authority.pem()))
}
