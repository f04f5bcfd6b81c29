//! Generated certificates, and a TLS server that forwards the decrypted bytes, so that the complete
//! sandbox can be reached over https. It records handshakes.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, date_time_ymd,
};
use rustls::crypto::ring;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{HandshakeKind, ServerConfig, ServerConnection, SupportedProtocolVersion};

use crate::helpers::tcp_server::TcpServer;

// ---------------------------------------------------------------- certificates

/// A certificate authority, either a root or an intermediate.
pub struct CertificateAuthority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    /// The intermediate certificates that a server sends after its own.
    chain: Vec<CertificateDer<'static>>,
}

/// A certificate with its chain and its private key.
pub struct Identity {
    chain: Vec<CertificateDer<'static>>,
    key: Vec<u8>,
}

impl CertificateAuthority {
    pub fn new(name: &str) -> CertificateAuthority {
        let issuer = CertifiedIssuer::self_signed(ca_params(name), new_key()).unwrap();
        CertificateAuthority { issuer, chain: Vec::new() }
    }

    /// A new intermediate authority, signed by this one.
    pub fn intermediate(&self, name: &str) -> CertificateAuthority {
        let issuer = CertifiedIssuer::signed_by(ca_params(name), new_key(), &self.issuer).unwrap();
        let chain = vec![issuer.der().clone()];
        CertificateAuthority { issuer, chain }
    }

    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    pub fn issue_certificate(&self, host: &str) -> Identity {
        self.sign(server_params(host))
    }

    pub fn sign(&self, params: CertificateParams) -> Identity {
        let key = new_key();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let chain = [leaf.der().clone()].into_iter().chain(self.chain.iter().cloned()).collect();
        Identity { chain, key: key.serialize_der() }
    }
}

impl Identity {
    pub fn self_signed(host: &str) -> Identity {
        let key = new_key();
        let leaf = server_params(host).self_signed(&key).unwrap();
        Identity { chain: vec![leaf.der().clone()], key: key.serialize_der() }
    }

    /// Leaves out the intermediate certificates.
    pub fn without_intermediates(mut self) -> Identity {
        self.chain.truncate(1);
        self
    }

    /// The private key and the chain, as servers read them from one file.
    #[cfg(unix)]
    pub fn pem(&self) -> String {
        let chain = self.chain.iter().map(|certificate| ("CERTIFICATE", certificate.as_ref()));
        let items = [("PRIVATE KEY", self.key.as_slice())].into_iter().chain(chain);
        let encode = |(label, der): (&str, &[u8])| {
            format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
        };
        items.map(encode).collect()
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

fn ca_params(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params
}

/// The parameters of a server certificate for a DNS name or an IP address.
fn server_params(host: &str) -> CertificateParams {
    let mut params = CertificateParams::new([host.to_owned()]).unwrap();
    params.distinguished_name.push(DnType::CommonName, "server");
    params
}

/// Like a valid server certificate, but with this validity period.
pub fn server_params_with_validity(
    host: &str,
    first_year: i32,
    last_year: i32,
) -> CertificateParams {
    let mut params = server_params(host);
    params.not_before = date_time_ymd(first_year, 1, 1);
    params.not_after = date_time_ymd(last_year, 1, 1);
    params
}

/// Like a valid server certificate, but usable for client authentication only.
pub fn client_auth_params(host: &str) -> CertificateParams {
    let mut params = server_params(host);
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params
}

// ---------------------------------------------------------------- the server

/// The outcome of a handshake.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Handshake {
    Full,
    Resumed,
    Failed,
}

pub struct TlsServer {
    server: TcpServer,
    recorder: Arc<Recorder>,
}

#[derive(Default)]
struct Recorder {
    record: Mutex<Record>,
    changed: Condvar,
}

#[derive(Default)]
struct Record {
    handshakes: Vec<Handshake>,
    /// The number of bytes received from clients after decryption.
    decrypted_bytes: usize,
    closed: usize,
}

impl TlsServer {
    pub fn start(identity: &Identity, upstream: SocketAddr) -> TlsServer {
        TlsServer::start_with_versions(rustls::ALL_VERSIONS, identity, upstream)
    }

    pub fn start_with_versions(
        versions: &[&'static SupportedProtocolVersion],
        identity: &Identity,
        upstream: SocketAddr,
    ) -> TlsServer {
        let config = Arc::new(identity.config(versions));
        let recorder = Arc::new(Recorder::default());
        let server = TcpServer::start({
            let recorder = Arc::clone(&recorder);
            move |stream| serve(stream, &config, upstream, &recorder)
        });
        TlsServer { server, recorder }
    }

    pub fn address(&self) -> SocketAddr {
        self.server.address()
    }

    pub fn url(&self, host: &str) -> String {
        format!("https://{host}:{}", self.address().port())
    }

    /// Waits for at least `n` handshakes and returns all of them. Waiting is necessary because the
    /// client learns about a failed handshake before the server does.
    pub fn handshakes(&self, n: usize) -> Vec<Handshake> {
        let record = self.recorder.record.lock().unwrap();
        let too_few = |record: &mut Record| record.handshakes.len() < n;
        let timeout = Duration::from_secs(10);
        let (record, _) =
            self.recorder.changed.wait_timeout_while(record, timeout, too_few).unwrap();
        record.handshakes.clone()
    }

    /// The number of connections that have ended.
    pub fn closed(&self) -> usize {
        self.recorder.record.lock().unwrap().closed
    }

    pub fn decrypted_bytes(&self) -> usize {
        self.recorder.record.lock().unwrap().decrypted_bytes
    }
}

impl Recorder {
    fn update(&self, change: impl FnOnce(&mut Record)) {
        change(&mut self.record.lock().unwrap());
        self.changed.notify_all();
    }
}

fn serve(
    stream: &TcpStream,
    config: &Arc<ServerConfig>,
    upstream: SocketAddr,
    recorder: &Recorder,
) {
    let mut tls = ServerConnection::new(Arc::clone(config)).unwrap();
    let handshake = match complete_handshake(&mut tls, stream) {
        Ok(()) if tls.handshake_kind() == Some(HandshakeKind::Resumed) => Handshake::Resumed,
        Ok(()) => Handshake::Full,
        Err(_) => Handshake::Failed,
    };
    // Recorded before anything is forwarded, so that it is visible once a client has a response.
    recorder.update(|record| record.handshakes.push(handshake));
    if handshake != Handshake::Failed {
        let _ = forward(tls, stream, upstream, recorder);
    }
    let _ = stream.shutdown(Shutdown::Both);
    recorder.update(|record| record.closed += 1);
}

fn complete_handshake(tls: &mut ServerConnection, mut stream: &TcpStream) -> io::Result<()> {
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(())
}

fn forward(
    tls: ServerConnection,
    stream: &TcpStream,
    upstream: SocketAddr,
    recorder: &Recorder,
) -> io::Result<()> {
    let upstream = TcpStream::connect(upstream)?;
    let tls = Mutex::new(tls);
    let ended = AtomicBool::new(false);
    // On Windows, a shutdown does not wake up a thread that reads.
    stream.set_read_timeout(Some(Duration::from_millis(20)))?;
    thread::scope(|scope| {
        scope.spawn(|| {
            let _ = encrypt(&tls, &upstream, stream);
            let _ = stream.shutdown(Shutdown::Both);
            ended.store(true, Ordering::SeqCst);
        });
        let is_open = || !ended.load(Ordering::SeqCst);
        let result = decrypt(&tls, stream, &upstream, recorder, &is_open);
        let _ = upstream.shutdown(Shutdown::Write);
        result
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
    from: &TcpStream,
    mut to: &TcpStream,
    recorder: &Recorder,
    is_open: &dyn Fn() -> bool,
) -> io::Result<()> {
    let mut buffer = [0; 16 * 1024];
    let mut plaintext = Vec::new();
    // Data may have arrived together with the end of the handshake.
    let mut closed = read_plaintext(&mut tls.lock().unwrap(), &mut plaintext)?;
    loop {
        recorder.update(|record| record.decrypted_bytes += plaintext.len());
        to.write_all(&plaintext)?;
        plaintext.clear();
        let read = if closed { 0 } else { read_while(is_open, from, &mut buffer)? };
        if read == 0 {
            return Ok(());
        }
        let mut tls = tls.lock().unwrap();
        let mut encrypted = &buffer[..read];
        while !encrypted.is_empty() {
            tls.read_tls(&mut encrypted)?;
            tls.process_new_packets().map_err(io::Error::other)?;
            closed |= read_plaintext(&mut tls, &mut plaintext)?;
        }
    }
}

fn read_while(
    is_open: &dyn Fn() -> bool,
    mut from: &TcpStream,
    buffer: &mut [u8],
) -> io::Result<usize> {
    loop {
        match from.read(buffer) {
            Err(e)
                if matches!(e.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) && is_open() => {
            }
            read => return read,
        }
    }
}

/// Appends the decrypted bytes to `out`. Returns whether the client has closed its direction.
fn read_plaintext(tls: &mut ServerConnection, out: &mut Vec<u8>) -> io::Result<bool> {
    match tls.reader().read_to_end(out) {
        Ok(_) => Ok(true),
        Err(e) if e.kind() == ErrorKind::WouldBlock => Ok(false),
        Err(e) => Err(e),
    }
}
