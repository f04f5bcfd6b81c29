//! Certificates made on the spot, and a TLS server that hands on what it decrypts, so that the whole
//! sandbox can be reached by https. It counts handshakes.
#![allow(unreachable_pub, reason = "shared by the modules of one binary")]

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, SupportedProtocolVersion};

use crate::service::Service;

// ---------------------------------------------------------------- certificates

/// Who signs certificates.
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// What a server sends besides its own certificate.
    chain: Vec<CertificateDer<'static>>,
}

/// A certificate, what it is sent with, and its key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl Authority {
    pub fn new(name: &str) -> Authority {
        let issuer = CertifiedIssuer::self_signed(params_of_authority(name), new_key()).unwrap();
        Authority { issuer, chain: Vec::new() }
    }

    /// One that this one vouches for.
    pub fn intermediate(&self, name: &str) -> Authority {
        let params = params_of_authority(name);
        let issuer = CertifiedIssuer::signed_by(params, new_key(), &self.issuer).unwrap();
        let chain = vec![issuer.der().clone()];
        Authority { issuer, chain }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// A certificate for a host, with nothing wrong about it.
    pub fn vouch_for(&self, host: &str) -> Identity {
        self.sign(params_of_server(host))
    }

    pub fn sign(&self, params: CertificateParams) -> Identity {
        let key = new_key();
        let own = params.signed_by(&key, &self.issuer).unwrap();
        let chain = [own.der().clone()].into_iter().chain(self.chain.iter().cloned()).collect();
        Identity { chain, key: key.serialize_der() }
    }
}

impl Identity {
    pub fn self_signed(host: &str) -> Identity {
        let key = new_key();
        let own = params_of_server(host).self_signed(&key).unwrap();
        Identity { chain: vec![own.der().clone()], key: key.serialize_der() }
    }

    /// Sent without the certificates between it and its authority.
    pub fn alone(mut self) -> Identity {
        self.chain.truncate(1);
        self
    }

    fn config(&self, versions: &[&'static SupportedProtocolVersion]) -> ServerConfig {
        let key = PrivateKeyDer::try_from(self.key.clone()).unwrap();
        ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(versions)
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(self.chain.clone(), key)
            .unwrap()
    }
}

fn new_key() -> KeyPair {
    KeyPair::generate().unwrap()
}

fn params_of_authority(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// For a name or an address.
pub fn params_of_server(host: &str) -> CertificateParams {
    let mut params = CertificateParams::new([host.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "server");
    params
}

/// Valid between these years only.
pub fn valid(host: &str, from: i32, to: i32) -> CertificateParams {
    let mut params = params_of_server(host);
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    params
}

/// A certificate that only a client may show.
pub fn for_clients_only(host: &str) -> CertificateParams {
    let mut params = params_of_server(host);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

// ---------------------------------------------------------------- the server

/// How a connection began.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Handshake {
    Full,
    Resumed,
    Failed,
}

pub struct TlsServer {
    service: Service,
    seen: Arc<Seen>,
}

#[derive(Default)]
struct Seen {
    traffic: Mutex<Traffic>,
    changed: Condvar,
}

#[derive(Default)]
struct Traffic {
    handshakes: Vec<Handshake>,
    /// Bytes of the client's that were decrypted.
    plaintext: usize,
}

impl TlsServer {
    pub fn start(identity: &Identity, behind: SocketAddr) -> TlsServer {
        TlsServer::speaking(rustls::ALL_VERSIONS, identity, behind)
    }

    pub fn speaking(
        versions: &[&'static SupportedProtocolVersion],
        identity: &Identity,
        behind: SocketAddr,
    ) -> TlsServer {
        let config = Arc::new(identity.config(versions));
        let seen = Arc::new(Seen::default());
        let service = Service::start({
            let seen = Arc::clone(&seen);
            move |stream| serve(stream, &config, behind, &seen)
        });
        TlsServer { service, seen }
    }

    pub fn address(&self) -> SocketAddr {
        self.service.address()
    }

    pub fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.address().port())
    }

    /// The handshakes so far, as soon as there are `n`: the client knows of one that failed before
    /// the server does.
    pub fn handshakes(&self, n: usize) -> Vec<Handshake> {
        let traffic = self.seen.traffic.lock().unwrap();
        let fewer = |traffic: &mut Traffic| traffic.handshakes.len() < n;
        let limit = Duration::from_secs(10);
        let (traffic, _) = self.seen.changed.wait_timeout_while(traffic, limit, fewer).unwrap();
        traffic.handshakes.clone()
    }

    pub fn plaintext(&self) -> usize {
        self.seen.traffic.lock().unwrap().plaintext
    }
}

impl Seen {
    fn note(&self, change: impl FnOnce(&mut Traffic)) {
        change(&mut self.traffic.lock().unwrap());
        self.changed.notify_all();
    }
}

fn serve(stream: &TcpStream, config: &Arc<ServerConfig>, behind: SocketAddr, seen: &Seen) {
    let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
    let handshake = match shake_hands(&mut tls, stream) {
        Ok(()) if tls.handshake_kind() == Some(HandshakeKind::Resumed) => Handshake::Resumed,
        Ok(()) => Handshake::Full,
        Err(_) => Handshake::Failed,
    };
    // Before anything is handed on: who has an answer can rely on it being counted.
    seen.note(|traffic| traffic.handshakes.push(handshake));
    if handshake != Handshake::Failed {
        let _ = tunnel(tls, stream, behind, seen);
    }
    let _ = stream.shutdown(Shutdown::Both);
}

fn shake_hands(tls: &mut ServerConnection, mut stream: &TcpStream) -> io::Result<()> {
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(())
}

fn tunnel(
    tls: ServerConnection,
    stream: &TcpStream,
    behind: SocketAddr,
    seen: &Seen,
) -> io::Result<()> {
    let upstream = TcpStream::connect(behind)?;
    let tls = Mutex::new(tls);
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = encrypt(&tls, &upstream, stream);
            let _ = stream.shutdown(Shutdown::Both);
        });
        let decrypted = decrypt(&tls, stream, &upstream, seen);
        let _ = upstream.shutdown(Shutdown::Write);
        decrypted
    })
}

fn encrypt(
    tls: &Mutex<ServerConnection>,
    mut from: &TcpStream,
    mut to: &TcpStream,
) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer)?;
        let mut tls = tls.lock().unwrap();
        match read {
            0 => tls.send_close_notify(),
            n => tls.writer().write_all(&buffer[..n])?,
        }
        while tls.wants_write() {
            tls.write_tls(&mut to)?;
        }
        if read == 0 {
            return Ok(());
        }
    }
}

fn decrypt(
    tls: &Mutex<ServerConnection>,
    mut from: &TcpStream,
    mut to: &TcpStream,
    seen: &Seen,
) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let mut plain = Vec::new();
    // What came along with the handshake.
    let mut ended = take_plaintext(&mut tls.lock().unwrap(), &mut plain)?;
    loop {
        seen.note(|traffic| traffic.plaintext += plain.len());
        to.write_all(&plain)?;
        plain.clear();
        let read = if ended { 0 } else { from.read(&mut buffer)? };
        if read == 0 {
            return Ok(());
        }
        let mut tls = tls.lock().unwrap();
        let mut encrypted = &buffer[..read];
        while !encrypted.is_empty() {
            tls.read_tls(&mut encrypted)?;
            tls.process_new_packets().map_err(io::Error::other)?;
            ended |= take_plaintext(&mut tls, &mut plain)?;
        }
    }
}

/// Whether the client has said that this was all.
fn take_plaintext(tls: &mut ServerConnection, into: &mut Vec<u8>) -> io::Result<bool> {
    match tls.reader().read_to_end(into) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}
