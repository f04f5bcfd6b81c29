//! TLS and proxies over real sockets: which certificates are trusted, how many handshakes a call
//! takes, and which proxy is used. A server that is not trusted receives nothing, so nothing is
//! billed.

use std::io::Read;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{Client, ClientBuilder, Error, ErrorKind, Operation, RetryPolicy};

use crate::helpers::clients::{request, sandbox, sandbox_addr, video_at};
use crate::helpers::connect_proxy::{ConnectProxy, ProxyBehavior};
use crate::helpers::error_output::{full_error_output, full_message};
use crate::helpers::subprocess::{emit_result, run_in_subprocess};
use crate::helpers::tcp_server::TcpServer;
use crate::helpers::tls_server::Handshake::{Failed, Full, Resumed};
use crate::helpers::tls_server::{
    CertificateAuthority, Identity, TlsServer, client_auth_params, server_params_with_validity,
};

/// The base URL of a sandbox behind a TLS server. Only a [`ConnectProxy`] can resolve its host.
const API: &str = "https://api.test";

/// Whether the tests run with rustls. With native-tls, the words of a certificate error are those of
/// the system's library, no session is resumed, and an intermediate certificate alone is no root.
const RUSTLS: bool = cfg!(feature = "rustls");

/// A host with a label that is too long for DNS. Without a proxy, connecting to it fails at once,
/// before any query is sent.
fn unknown_host() -> String {
    format!("{}.api.test", "a".repeat(64))
}

/// The builder of a client that trusts these root certificates and makes a single attempt at every
/// request.
fn tls_client_builder(sandbox: &Sandbox, pem: &str) -> ClientBuilder {
    sandbox
        .client_builder()
        .root_certificates_pem(pem.as_bytes())
        .retry_policy(RetryPolicy::none())
        .connect_timeout(Duration::from_secs(5))
}

/// Starts a TLS server for `host` in front of the sandbox.
fn start_tls_server(sandbox: &Sandbox, ca: &CertificateAuthority, host: &str) -> TlsServer {
    TlsServer::start(&ca.issue_certificate(host), sandbox_addr(sandbox))
}

fn elapsed(work: impl FnOnce()) -> Duration {
    let start = Instant::now();
    work();
    start.elapsed()
}

/// Asserts that no request was sent, and that repeating the same call may help.
fn assert_not_connected(error: &Error, case: &str) {
    check_not_connected(error, case, true);
}

/// Asserts that no request was sent, and that repeating the same call is pointless.
fn assert_not_permitted(error: &Error, case: &str) {
    check_not_connected(error, case, false);
}

fn check_not_connected(error: &Error, case: &str, retryable: bool) {
    assert_eq!(error.kind(), ErrorKind::Connect, "{case}: {}", full_message(error));
    assert!(!error.may_have_been_billed(), "{case}");
    assert_eq!(error.is_retryable(), retryable, "{case}: {error:?}");
    assert_eq!(error.generation_id(), None, "{case}");
    assert_eq!(error.status(), None, "{case}");
}

// ---------------------------------------------------------------- certificate verification

#[test]
fn root_certificates_are_trusted() {
    let sandbox = sandbox();
    let ca = CertificateAuthority::new("test CA");
    let directory = tempfile::tempdir().unwrap();
    for host in ["localhost", "127.0.0.1"] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let identity = ca.issue_certificate(host);
            let server =
                TlsServer::start_with_versions(&[version], &identity, sandbox_addr(&sandbox));
            let client =
                tls_client_builder(&sandbox, &ca.pem()).base_url(server.url(host)).build().unwrap();
            let target = directory.path().join(format!("{host} {version:?}.mp4"));
            let saved = client.generate_to(&request(), &target).unwrap();
            assert_eq!(saved.bytes, sandbox.default_video().len() as u64, "{host} {version:?}");
            assert_eq!(client.find("unknown").unwrap(), None);
            assert!(client.balance().unwrap().amount < 100.0);
        }
    }
    assert_eq!(sandbox.generations().len(), 4);
}

#[test]
fn root_certificates_may_be_several_with_text_between_them() {
    let sandbox = sandbox();
    let (first, second) = (CertificateAuthority::new("first"), CertificateAuthority::new("second"));
    let unlisted = CertificateAuthority::new("unlisted");
    let pem = format!("# roots\n{}\nSubject: second\n\n{}\n", first.pem(), second.pem());
    for (ca, trusted) in [(&first, true), (&second, true), (&unlisted, false)] {
        let server = start_tls_server(&sandbox, ca, "localhost");
        let client =
            tls_client_builder(&sandbox, &pem).base_url(server.url("localhost")).build().unwrap();
        assert_eq!(client.balance().is_ok(), trusted);
    }
}

#[test]
fn intermediate_certificate_is_trusted_through_its_root_or_directly() {
    let sandbox = sandbox();
    let root = CertificateAuthority::new("root");
    let identity = root.intermediate("intermediate").issue_certificate("localhost");
    let server = TlsServer::start(&identity, sandbox_addr(&sandbox));
    let client = tls_client_builder(&sandbox, &root.pem())
        .base_url(server.url("localhost"))
        .build()
        .unwrap();
    client.generate(&request()).unwrap();
    // With rustls, the intermediate itself can be the configured root.
    let intermediate = root.intermediate("intermediate");
    let server = start_tls_server(&sandbox, &intermediate, "localhost");
    let client = tls_client_builder(&sandbox, &intermediate.pem())
        .base_url(server.url("localhost"))
        .build()
        .unwrap();
    let result = client.generate(&request());
    assert_eq!(result.is_ok(), RUSTLS, "{result:?}");
    if let Err(error) = result {
        assert_not_permitted(&error, "an intermediate alone");
    }
}

#[test]
fn untrusted_certificate_fails_every_call_before_anything_is_sent() {
    let ca = CertificateAuthority::new("test CA");
    let host = "localhost";
    let unknown_ca = CertificateAuthority::new("unknown CA");
    let ca_of_the_same_name = CertificateAuthority::new("test CA");
    let expired = server_params_with_validity(host, 2001, 2020);
    let not_valid_yet = server_params_with_validity(host, 2900, 3000);
    let below_intermediate = ca.intermediate("intermediate").issue_certificate(host);
    let cases: Vec<(&str, Identity, &str)> = vec![
        ("unknown CA", unknown_ca.issue_certificate(host), "UnknownIssuer"),
        ("CA of the same name", ca_of_the_same_name.issue_certificate(host), "certificate"),
        ("other host", ca.issue_certificate("other.test"), "not valid for name"),
        ("wildcard of a subdomain", ca.issue_certificate("*.localhost"), "not valid for name"),
        ("IP address of the host", ca.issue_certificate("127.0.0.1"), "not valid for name"),
        ("expired", ca.sign(expired), "expired"),
        ("not valid yet", ca.sign(not_valid_yet), "not valid yet"),
        ("self-signed", Identity::self_signed(host), "certificate"),
        ("client authentication only", ca.sign(client_auth_params(host)), "certificate"),
        ("no intermediate", below_intermediate.without_intermediates(), "UnknownIssuer"),
    ];
    for (case, identity, rustls_reason) in cases {
        let reason = if RUSTLS { rustls_reason } else { "certificate" };
        let sandbox = sandbox();
        let server = TlsServer::start(&identity, sandbox_addr(&sandbox));
        let client = tls_client_builder(&sandbox, &ca.pem())
            .base_url(server.url(host))
            .max_generations(1)
            .build()
            .unwrap();
        let directory = tempfile::tempdir().unwrap();
        let id = "789".parse().unwrap();
        // Twice, because an attempt that was not sent does not count against the limit.
        for _ in 0..2 {
            let error = client.create(&request()).unwrap_err();
            assert_not_permitted(&error, case);
            assert!(full_message(&error).contains(reason), "{case}: {}", full_message(&error));
            assert_eq!(error.operation(), Operation::Create);
            assert!(error.client_request_id().is_some());
        }
        assert_not_permitted(&client.generate(&request()).unwrap_err(), case);
        let target = directory.path().join("cat.mp4");
        assert_not_permitted(&client.generate_to(&request(), &target).unwrap_err(), case);
        assert_not_permitted(&client.find("1").unwrap_err(), case);
        assert_not_permitted(&client.balance().unwrap_err(), case);
        let error = client.retrieve(&id).unwrap_err();
        assert_eq!((error.kind(), error.generation_id()), (ErrorKind::Connect, Some(&id)));
        let video = video_at(&format!("{}/videos/1", server.url(host)));
        let error = client.download(&video, &target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{case}: {}", full_message(&error));
        assert!(!target.exists(), "{case}");

        assert_eq!(server.handshakes(8), [Failed; 8], "{case}");
        assert_eq!((server.decrypted_bytes(), sandbox.requests().len()), (0, 0), "{case}");
    }
}

#[test]
fn private_ca_is_not_trusted_by_default() {
    let sandbox = sandbox();
    let server = start_tls_server(&sandbox, &CertificateAuthority::new("test CA"), "localhost");
    let client = sandbox
        .client_builder()
        .base_url(server.url("localhost"))
        .retry_policy(RetryPolicy::none())
        .build()
        .unwrap();
    assert_not_permitted(&client.create(&request()).unwrap_err(), "bundled roots");
    assert_eq!((server.handshakes(1), server.decrypted_bytes()), (vec![Failed], 0));
}

#[test]
fn generate_to_succeeds_after_the_certificate_is_fixed() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("cat.mp4");
    let run = |identity: Identity| {
        let server = TlsServer::start(&identity, sandbox_addr(&sandbox));
        let builder = tls_client_builder(&sandbox, &ca.pem()).base_url(server.url("localhost"));
        builder.build().unwrap().generate_to(&request(), &target)
    };
    assert_not_permitted(&run(Identity::self_signed("localhost")).unwrap_err(), "self-signed");
    let journal = std::fs::read_to_string(directory.path().join("cat.mp4.kling.jsonl")).unwrap();
    assert!(!journal.contains("sending"), "{journal}");
    assert!(!run(ca.issue_certificate("localhost")).unwrap().reused);
    assert_eq!(sandbox.generations().len(), 1);
}

#[test]
fn download_trusts_the_root_certificates_and_never_sends_the_key() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let server = start_tls_server(&sandbox, &ca, "localhost");
    let client =
        tls_client_builder(&sandbox, &ca.pem()).base_url(server.url("localhost")).build().unwrap();
    let mut video = client.generate(&request()).unwrap();
    video.url = video.url.replace(&sandbox.url(), &server.url("localhost"));
    let directory = tempfile::tempdir().unwrap();
    let target = directory.path().join("cat.mp4");
    client.download(&video, &target).unwrap();
    assert_eq!(std::fs::read(&target).unwrap(), sandbox.default_video());
    let requests = sandbox.requests();
    let download = requests.iter().find(|r| r.endpoint == Some(Endpoint::Video)).unwrap();
    assert_eq!(download.header("authorization"), None);
}

#[test]
fn download_redirect_from_https_to_http_is_rejected() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let server = start_tls_server(&sandbox, &ca, "localhost");
    let client =
        tls_client_builder(&sandbox, &ca.pem()).base_url(server.url("localhost")).build().unwrap();
    let mut video = client.generate(&request()).unwrap();
    let http_url = video.url.clone();
    video.url = video.url.replace(&sandbox.url(), &server.url("localhost"));
    sandbox.fault(Endpoint::Video, Fault::redirect(302, &http_url), 1);
    let directory = tempfile::tempdir().unwrap();
    let error = client.download(&video, directory.path().join("cat.mp4")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert!(error.to_string().contains("must start with https://"), "{error}");
    assert_eq!(sandbox.request_count(Endpoint::Video), 1);
}

#[test]
fn root_certificates_are_validated_at_build() {
    let valid = CertificateAuthority::new("test CA").pem();
    let truncated = &valid[..valid.len() / 2];
    let lines: Vec<&str> = valid.lines().collect();
    let without_end = lines[..lines.len() - 1].join("\n");
    let first_data_line = format!("{}\n{}\n{}\n", lines[0], lines[1], lines[lines.len() - 1]);
    let not_base64 = valid.replace(lines[1], &"!".repeat(lines[1].len()));
    // The data is "hunter2".
    let private_key = "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n";
    let not_der = "-----BEGIN CERTIFICATE-----\naHVudGVyMg==\n-----END CERTIFICATE-----\n";
    let wrong_structure = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    let no_data = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
    let valid_and_not_der = format!("{valid}{not_der}");
    let cases: [(&str, &[u8]); 12] = [
        ("empty", b""),
        ("text", b"trust me"),
        ("DER instead of PEM", b"\x30\x82\x01\x01\xFF\x00"),
        ("truncated", truncated.as_bytes()),
        ("without the END line", without_end.as_bytes()),
        ("only the first line of data", first_data_line.as_bytes()),
        ("not base64", not_base64.as_bytes()),
        ("private key", private_key.as_bytes()),
        ("not DER", not_der.as_bytes()),
        ("wrong structure", wrong_structure.as_bytes()),
        ("no data", no_data.as_bytes()),
        ("valid, then not DER", valid_and_not_der.as_bytes()),
    ];
    for (case, pem) in cases {
        let built = Client::builder("key").no_proxy().root_certificates_pem(pem).build();
        let error = built.map(|_| ()).expect_err(case);
        let at = (error.kind(), error.operation());
        assert_eq!(at, (ErrorKind::Config, Operation::Build), "{case}");
        assert!(error.to_string().contains("root_certificates_pem"), "{case}: {error}");
        assert!(!full_error_output(&error).contains("hunter2"), "{case}: {error:?}");
    }
}

// ---------------------------------------------------------------- the number of handshakes

#[test]
fn generate_takes_two_handshakes_and_the_next_one_resumes() {
    let ca = CertificateAuthority::new("test CA");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let sandbox = sandbox();
        sandbox.complete_after_polls(5);
        let identity = ca.issue_certificate("localhost");
        let server = TlsServer::start_with_versions(&[version], &identity, sandbox_addr(&sandbox));
        let client = tls_client_builder(&sandbox, &ca.pem())
            .base_url(server.url("localhost"))
            .build()
            .unwrap();
        client.generate(&request()).unwrap();
        assert_eq!(server.handshakes(2), [Full, Full], "one for the create, one for six polls");
        assert_eq!(sandbox.request_count(Endpoint::Retrieve), 6);
        client.clone().generate(&request()).unwrap();
        let third = if RUSTLS { Resumed } else { Full };
        assert_eq!(server.handshakes(3), [Full, Full, third], "one for the create only");
        // Other reads use the same pooled connection as the polls.
        client.balance().unwrap();
        client.find("unknown").unwrap();
        assert_eq!(server.handshakes(3).len(), 3);
    }
}

#[test]
fn create_retry_resumes_the_tls_session() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let server = start_tls_server(&sandbox, &ca, "localhost");
    sandbox.fault(Endpoint::Create, Fault::status(429), 2);
    let client = sandbox
        .client_builder()
        .root_certificates_pem(ca.pem().as_bytes())
        .base_url(server.url("localhost"))
        .build()
        .unwrap();
    client.create(&request()).unwrap();
    let retry = if RUSTLS { Resumed } else { Full };
    assert_eq!(server.handshakes(3), [Full, retry, retry]);
    assert_eq!(sandbox.generations().len(), 1);
}

#[test]
fn interrupted_download_resumes_the_tls_session() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let server = start_tls_server(&sandbox, &ca, "api.test");
    let proxy = ConnectProxy::tunnel_to(server.address());
    sandbox.fault(Endpoint::Video, Fault::truncate(5_000), 2);
    let client = sandbox
        .client_builder()
        .root_certificates_pem(ca.pem().as_bytes())
        .base_url(API)
        .proxy(proxy.url())
        .build()
        .unwrap();
    let mut video = client.generate(&request()).unwrap();
    video.url = video.url.replace(&sandbox.url(), API);
    let directory = tempfile::tempdir().unwrap();
    client.download(&video, directory.path().join("cat.mp4")).unwrap();
    let next = if RUSTLS { Resumed } else { Full };
    let handshakes = server.handshakes(5);
    assert_eq!(
        handshakes[2..],
        [Full, next, next],
        "the first two are the create's and the polls'"
    );
}

// ---------------------------------------------------------------- incomplete handshakes

#[test]
fn tls_handshake_without_a_server_hello_ends_after_connect_timeout() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let server = TcpServer::start(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let client = tls_client_builder(&sandbox, &ca.pem())
        .base_url(format!("https://localhost:{}", server.address().port()))
        .connect_timeout(Duration::from_millis(100))
        .build()
        .unwrap();
    let took = elapsed(|| {
        assert_not_connected(&client.create(&request()).unwrap_err(), "create");
        assert_not_connected(&client.balance().unwrap_err(), "balance");
    });
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn server_without_tls_is_a_connect_error() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let url = format!("https://localhost:{}", sandbox_addr(&sandbox).port());
    let client = tls_client_builder(&sandbox, &ca.pem()).base_url(url).build().unwrap();
    assert_not_connected(&client.create(&request()).unwrap_err(), "create");
    assert_not_connected(&client.balance().unwrap_err(), "balance");
    assert!(sandbox.requests().iter().all(|request| request.endpoint.is_none()));
    assert!(sandbox.generations().is_empty());
}

#[test]
fn tls_handshake_closed_by_the_server_is_retryable_and_not_billed() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let server = TcpServer::start(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
    });
    let client = tls_client_builder(&sandbox, &ca.pem())
        .base_url(format!("https://localhost:{}", server.address().port()))
        .build()
        .unwrap();
    for error in [client.create(&request()).unwrap_err(), client.balance().unwrap_err()] {
        // The HTTP library does not distinguish this from a connection that is lost later.
        let kind = error.kind();
        assert!(
            matches!(kind, ErrorKind::Connect | ErrorKind::Transport),
            "{}",
            full_message(&error)
        );
        assert!(!error.may_have_been_billed() && error.is_retryable());
    }
}

// ---------------------------------------------------------------- validation at build

#[test]
fn port_of_base_url_and_proxy_is_validated_at_build() {
    for port in ["port", "99999", "-1", "4 43", ""] {
        let url = format!("localhost:{port}");
        let built = Client::builder("key").no_proxy().base_url(format!("https://{url}")).build();
        let error = built.map(|_| ()).expect_err(&url);
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        let built = Client::builder("key").proxy(format!("http://cat:hunter2@{url}")).build();
        let error = built.map(|_| ()).expect_err(&url);
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        assert!(!format!("{error:?}").contains("hunter2"), "{error:?}");
    }
}

// ---------------------------------------------------------------- proxies

#[test]
fn proxy_tunnels_all_requests_and_sees_only_host_names() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let server = start_tls_server(&sandbox, &ca, "api.test");
    let proxy = ConnectProxy::tunnel_to(server.address());
    let client =
        tls_client_builder(&sandbox, &ca.pem()).base_url(API).proxy(proxy.url()).build().unwrap();
    let mut video = client.generate(&request()).unwrap();
    assert_eq!(server.handshakes(2), [Full, Full]);
    let directory = tempfile::tempdir().unwrap();
    // The sandbox's own URLs are on the loopback, and this API is not.
    client.download(&video, directory.path().join("local.mp4")).unwrap_err();
    assert_eq!(proxy.request_lines(), ["CONNECT api.test:443 HTTP/1.1"; 2]);
    assert_eq!(sandbox.request_count(Endpoint::Video), 0);
    video.url = video.url.replace(&sandbox.url(), API);
    client.download(&video, directory.path().join("proxied.mp4")).unwrap();
    assert_eq!(proxy.request_lines(), ["CONNECT api.test:443 HTTP/1.1"; 3]);
    for secret in [sandbox.key(), "Bearer", "the cat yawns", "generation"] {
        assert!(!proxy.received(secret), "{secret}");
    }
}

#[test]
fn https_proxy_is_connected_to_over_tls() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let server = start_tls_server(&sandbox, &ca, "api.test");
    let proxy = ConnectProxy::tunnel_to(server.address());
    let front = TlsServer::start(&ca.issue_certificate("localhost"), proxy.address());
    let client = tls_client_builder(&sandbox, &ca.pem())
        .base_url(API)
        .proxy(front.url("localhost"))
        .build()
        .unwrap();
    client.generate(&request()).unwrap();
    assert_eq!(proxy.request_lines(), ["CONNECT api.test:443 HTTP/1.1"; 2]);
    // A proxy with an untrusted certificate does not even learn the name of the host.
    let untrusted = TlsServer::start(&Identity::self_signed("localhost"), proxy.address());
    let client = tls_client_builder(&sandbox, &ca.pem())
        .base_url(API)
        .proxy(untrusted.url("localhost"))
        .build()
        .unwrap();
    assert_not_permitted(&client.create(&request()).unwrap_err(), "untrusted proxy");
    assert_eq!((proxy.request_lines().len(), untrusted.decrypted_bytes()), (2, 0));
}

#[test]
fn proxy_password_is_sent_to_the_proxy_only() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let server = start_tls_server(&sandbox, &ca, "api.test");
    let proxy = ConnectProxy::tunnel_to(server.address());
    let url = format!("http://cat:se%3Acr%40et@{}", proxy.address());
    let builder = tls_client_builder(&sandbox, &ca.pem()).base_url(API).proxy(url);
    let mut debug_output = format!("{builder:?} {builder:#?}");
    let client = builder.build().unwrap();
    client.balance().unwrap();
    debug_output += &format!(" {client:?} {client:#?}");
    let authorization = format!("Proxy-Authorization: Basic {}", STANDARD.encode("cat:se:cr@et"));
    assert!(proxy.request_heads()[0].contains(&authorization), "{:?}", proxy.request_heads());
    let [request] = &sandbox.requests()[..] else { panic!("not one request") };
    assert_eq!(request.header("proxy-authorization"), None);
    let encoded = STANDARD.encode("cat:se:cr@et");
    for secret in ["se:cr@et", "se%3Acr", "cr%40et", &encoded, sandbox.key()] {
        assert!(!debug_output.contains(secret), "{debug_output}");
    }
    assert_eq!(debug_output.matches("Client").count(), 4, "{debug_output}");
}

#[test]
fn proxy_password_is_not_in_errors() {
    let sandbox = sandbox();
    let secrets = ["hunter2", &STANDARD.encode("cat:hunter2"), sandbox.key()];
    let check = |error: &Error, case: &str| {
        let output = full_error_output(error);
        assert!(!secrets.iter().any(|secret| output.contains(secret)), "{case}: {output}");
    };
    for url in [
        "http://cat:hunter2@",
        "http://cat:hunter2@[",
        "http://cat:hunter2 @host",
        "ftp://cat:hunter2@host",
        "socks5://cat:hunter2@host",
        "://cat:hunter2@host",
        "http://cat:%FFhunter2@host",
    ] {
        let built = sandbox.client_builder().proxy(url).build();
        let error = built.map(|_| ()).expect_err(url);
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        check(&error, url);
    }
    for behavior in [
        ProxyBehavior::Respond("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
        ProxyBehavior::Respond("cat:hunter2 is not HTTP\r\n\r\n"),
        ProxyBehavior::Respond(""),
    ] {
        let proxy = ConnectProxy::start(behavior.clone());
        let url = format!("http://cat:hunter2@{}", proxy.address());
        let client = sandbox
            .client_builder()
            .base_url(API)
            .proxy(url)
            .retry_policy(RetryPolicy::none())
            .build()
            .unwrap();
        check(&client.create(&request()).unwrap_err(), &format!("{behavior:?}"));
        check(&client.balance().unwrap_err(), &format!("{behavior:?}"));
    }
}

#[test]
fn connect_error_names_host_and_proxy_without_credentials() {
    let sandbox = sandbox();
    let failing = ConnectProxy::start(ProxyBehavior::Respond("HTTP/1.1 503 No\r\n\r\n"));
    let with_password = |proxy: SocketAddr| format!("http://cat:hunter2@{proxy}");
    let closed_port = SocketAddr::from(([127, 0, 0, 1], 1));
    let long = unknown_host();
    for (base_url, proxy, expected) in [
        ("http://localhost:1", None, "localhost:1".to_owned()),
        ("https://[::1]:1", Some(closed_port), "[::1]:1".to_owned()),
        (&format!("https://{long}/v1"), None, long.clone()),
        (&format!("https://{long}:443"), None, long.clone()),
        (&format!("https://{long}:8443"), None, format!("{long}:8443")),
        (&format!("https://{}.{long}", sandbox.key()), None, format!("[key].{long}")),
        (API, Some(closed_port), "api.test through proxy 127.0.0.1:1".to_owned()),
        (API, Some(failing.address()), format!("api.test through proxy {}", failing.address())),
    ] {
        let builder = sandbox.client_builder().base_url(base_url).retry_policy(RetryPolicy::none());
        let builder = match proxy {
            Some(proxy) => builder.proxy(with_password(proxy)),
            None => builder.no_proxy(),
        };
        let client = builder.build().unwrap();
        for error in [client.create(&request()).unwrap_err(), client.balance().unwrap_err()] {
            assert_not_connected(&error, base_url);
            let message = error.to_string();
            let message = message.trim_end_matches("; nothing was created");
            assert_eq!(message, format!("cannot connect to {expected}"));
            assert!(!full_error_output(&error).contains("hunter2"), "{error:?}");
        }
    }
    // A download error names the host of the video, but neither its credentials nor its signature.
    let client = sandbox
        .client_builder()
        .proxy(with_password(failing.address()))
        .retry_policy(RetryPolicy::none())
        .build()
        .unwrap();
    let video = video_at("https://dog:hunter3@cdn.test:8443/cat.mp4?signature=hunter4");
    let directory = tempfile::tempdir().unwrap();
    let error = client.download(&video, directory.path().join("cat.mp4")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Connect, "{error}");
    let expected = format!("cannot connect to cdn.test:8443 through proxy {}", failing.address());
    assert_eq!(error.to_string(), expected);
    assert!(!full_error_output(&error).contains("hunter"), "{error:?}");
}

#[test]
fn proxy_that_opens_no_tunnel_is_a_connect_error() {
    let cases = [
        (ProxyBehavior::Respond("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"), true),
        (ProxyBehavior::Respond("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"), true),
        (ProxyBehavior::Respond("HTTP/1.1 502 Bad Gateway\r\n\r\n"), false),
        (
            ProxyBehavior::Respond("HTTP/1.1 302 Found\r\nLocation: https://evil.test/\r\n\r\n"),
            true,
        ),
        (ProxyBehavior::Respond("HTTP/1.1 200"), false),
        (ProxyBehavior::Respond(""), false),
        (ProxyBehavior::Stall, false),
    ];
    for (behavior, permanent) in cases {
        let (sandbox, case) = (sandbox(), format!("{behavior:?}"));
        let proxy = ConnectProxy::start(behavior);
        let client = sandbox
            .client_builder()
            .base_url(API)
            .proxy(proxy.url())
            .retry_policy(RetryPolicy::none())
            .connect_timeout(Duration::from_millis(200))
            .max_generations(1)
            .build()
            .unwrap();
        let took = elapsed(|| {
            check_not_connected(&client.create(&request()).unwrap_err(), &case, !permanent);
            check_not_connected(&client.create(&request()).unwrap_err(), &case, !permanent);
            check_not_connected(&client.balance().unwrap_err(), &case, !permanent);
        });
        assert!(took < Duration::from_secs(3), "{case}: {took:?}");
        assert!(sandbox.requests().is_empty(), "{case}");
        assert_eq!(proxy.request_lines(), ["CONNECT api.test:443 HTTP/1.1"; 3], "{case}");
        for secret in [sandbox.key(), "Bearer", "the cat yawns", "generation", "billing"] {
            assert!(!proxy.received(secret), "{case}: {secret}");
        }
    }
}

#[test]
fn proxy_that_is_down_or_resets_is_retryable_and_not_billed() {
    let sandbox = sandbox();
    let client = |proxy: String| {
        let builder = sandbox.client_builder().base_url(API).proxy(proxy);
        builder.retry_policy(RetryPolicy::none()).build().unwrap()
    };
    let closed_port = "http://127.0.0.1:1".to_owned();
    assert_not_connected(&client(closed_port).create(&request()).unwrap_err(), "closed port");
    let resetting = ConnectProxy::start(ProxyBehavior::Reset);
    for error in [
        client(resetting.url()).create(&request()).unwrap_err(),
        client(resetting.url()).balance().unwrap_err(),
    ] {
        // The HTTP library does not distinguish this from a connection that is lost later.
        let kind = error.kind();
        assert!(
            matches!(kind, ErrorKind::Connect | ErrorKind::Transport),
            "{}",
            full_message(&error)
        );
        assert!(!error.may_have_been_billed() && error.is_retryable());
    }
    assert!(sandbox.requests().is_empty());
}

#[test]
fn proxy_that_connects_to_another_server_is_detected() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let other = start_tls_server(&sandbox, &ca, "other.test");
    let proxy = ConnectProxy::tunnel_to(other.address());
    let client =
        tls_client_builder(&sandbox, &ca.pem()).base_url(API).proxy(proxy.url()).build().unwrap();
    assert_not_permitted(&client.create(&request()).unwrap_err(), "another server");
    assert_eq!((other.handshakes(1), other.decrypted_bytes()), (vec![Failed], 0));
}

#[test]
fn loopback_bypasses_the_proxy() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let server = start_tls_server(&sandbox, &ca, "localhost");
    let proxy = ConnectProxy::start(ProxyBehavior::Respond("HTTP/1.1 502 Bad Gateway\r\n\r\n"));
    let http_port = sandbox_addr(&sandbox).port();
    for base_url in [
        format!("http://127.0.0.1:{http_port}"),
        format!("http://localhost:{http_port}"),
        format!("http://LocalHost:{http_port}"),
        server.url("localhost"),
    ] {
        let client = tls_client_builder(&sandbox, &ca.pem())
            .base_url(&base_url)
            .proxy(proxy.url())
            .build()
            .unwrap();
        let video = client.generate(&request()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        client.download(&video, directory.path().join("cat.mp4")).unwrap();
        client.balance().unwrap();
    }
    // The proxy is bypassed on closed ports, too.
    for base_url in ["http://127.0.0.2:1", "http://[::1]:1", "https://[::1]:1"] {
        let client = tls_client_builder(&sandbox, &ca.pem())
            .base_url(base_url)
            .proxy(proxy.url())
            .build()
            .unwrap();
        assert_eq!(client.balance().unwrap_err().kind(), ErrorKind::Connect, "{base_url}");
    }
    assert_eq!(proxy.request_lines(), [""; 0]);
}

// ---------------------------------------------------------------- proxies from the environment

/// Runs in the subprocesses of the tests below, which set environment variables.
#[test]
fn subprocess_entry_for_balance() {
    let Ok(base_url) = std::env::var("TEST_API") else { return };
    let ca = std::env::var("TEST_CA").unwrap();
    let mut builder = Client::builder("sandbox-key")
        .base_url(base_url)
        .root_certificates_pem(ca.as_bytes())
        .retry_policy(RetryPolicy::none());
    match std::env::var("TEST_PROXY").as_deref() {
        Ok("none") => builder = builder.no_proxy(),
        Ok(url) => builder = builder.proxy(url),
        Err(_) => {}
    }
    match builder.build().and_then(|client| client.balance()) {
        Ok(_) => emit_result("ok"),
        Err(error) => emit_result(&format!("{:?}: {}", error.kind(), full_message(&error))),
    }
}

/// Calls `balance` in a subprocess with these environment variables. Returns "ok" or the error.
fn balance_in_subprocess(
    base_url: &str,
    ca: &CertificateAuthority,
    variables: &[(&str, &str)],
) -> String {
    let ca = ca.pem();
    let arguments = [("TEST_API", base_url), ("TEST_CA", ca.as_str())];
    let variables: Vec<(&str, &str)> =
        arguments.into_iter().chain(variables.iter().copied()).collect();
    run_in_subprocess("tls::subprocess_entry_for_balance", &variables)
}

#[test]
fn proxy_is_read_from_the_environment() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let server = start_tls_server(&sandbox, &ca, "api.test");
    let proxy = ConnectProxy::tunnel_to(server.address());
    let (url, closed_port) = (proxy.url(), "http://127.0.0.1:1");
    let without_scheme = proxy.address().to_string();
    let padded = format!(" {url} ");
    let cases: [&[(&str, &str)]; 10] = [
        &[("HTTPS_PROXY", &url)],
        &[("https_proxy", &url)],
        &[("ALL_PROXY", &url)],
        &[("all_proxy", &without_scheme)],
        &[("HTTP_PROXY", &url)],
        &[("HTTPS_PROXY", &padded)],
        // The variable for https takes precedence.
        &[("HTTPS_PROXY", &url), ("ALL_PROXY", closed_port), ("HTTP_PROXY", closed_port)],
        &[("ALL_PROXY", &url), ("HTTP_PROXY", closed_port)],
        // An empty variable counts as unset.
        &[("HTTPS_PROXY", ""), ("ALL_PROXY", &url)],
        // The builder's setting takes precedence over all variables.
        &[("TEST_PROXY", &url), ("HTTPS_PROXY", closed_port), ("NO_PROXY", "*")],
    ];
    for (number, variables) in cases.into_iter().enumerate() {
        assert_eq!(balance_in_subprocess(API, &ca, variables), "ok", "{variables:?}");
        assert_eq!(proxy.request_lines().len(), number + 1, "{variables:?}");
    }
}

#[test]
fn proxy_from_the_environment_is_validated_at_build() {
    let ca = CertificateAuthority::new("test CA");
    let unknown = format!("https://{}", unknown_host());
    for (variable, url) in [
        ("ALL_PROXY", "socks5://cat:hunter2@127.0.0.1:1080"),
        ("all_proxy", "socks://127.0.0.1:1080"),
        ("HTTPS_PROXY", "ftp://cat:hunter2@127.0.0.1"),
        ("https_proxy", "socks5://cat:hunter2@127.0.0.1:1"),
        ("http_proxy", "http://cat:hunter2@"),
    ] {
        let result = balance_in_subprocess(API, &ca, &[(variable, url)]);
        // Windows ignores the case of a variable's name, so it is read as the uppercase one.
        let uppercase = variable.to_uppercase();
        let reported = if cfg!(windows) { &uppercase } else { variable };
        assert!(
            result.starts_with("Config: ") && result.contains(reported),
            "{variable}: {result}"
        );
        assert!(!result.contains("hunter2"), "{result}");
        // It is not read if the builder disables proxies.
        let variables = [(variable, url), ("TEST_PROXY", "none")];
        let result = balance_in_subprocess(&unknown, &ca, &variables);
        assert!(result.starts_with("Connect: "), "{variable}: {result}");
    }
}

#[test]
fn no_proxy_lists_hosts_and_domains() {
    let ca = CertificateAuthority::new("test CA");
    let host = unknown_host();
    let (base_url, exact) = (format!("https://{host}"), format!("x.test, {host} ,y.test"));
    let blanks = format!("x.test {host}\ty.test");
    let proxy = ConnectProxy::start(ProxyBehavior::Respond("HTTP/1.1 403 Forbidden\r\n\r\n"));
    let url = proxy.url();
    for (list, bypassed) in [
        (exact.as_str(), true),
        ("x.test, api.test", true),
        ("x.test, .api.test", true),
        ("*.api.test", true),
        ("API.TEST", true),
        ("test", true),
        ("x.test, *", true),
        (blanks.as_str(), true),
        ("api.test:443", true),
        ("api.test:8443", false),
        ("pi.test", false),
        (".pi.test, x.test", false),
        ("api.test.evil", false),
        (" , ,", false),
        ("", false),
    ] {
        for name in ["NO_PROXY", "no_proxy"] {
            if name == "no_proxy" && list != "x.test, .api.test" {
                continue;
            }
            let before = proxy.request_lines().len();
            let variables = [("HTTPS_PROXY", url.as_str()), (name, list)];
            let result = balance_in_subprocess(&base_url, &ca, &variables);
            assert!(result.starts_with("Connect"), "{list:?}: {result}");
            assert_eq!(result.contains("through proxy"), !bypassed, "{list:?}: {result}");
            assert_eq!(proxy.request_lines().len() == before, bypassed, "{list:?}");
        }
    }
    let variables = [("HTTPS_PROXY", url.as_str()), ("TEST_PROXY", "none")];
    let before = proxy.request_lines().len();
    balance_in_subprocess(&base_url, &ca, &variables);
    assert_eq!(proxy.request_lines().len(), before, "no_proxy() overrides the environment");
}

/// 0.0.0.0 reaches this machine without being a loopback address.
#[cfg(target_os = "linux")]
#[test]
fn no_proxy_host_is_connected_to_directly() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let server = start_tls_server(&sandbox, &ca, "0.0.0.0");
    let proxy = ConnectProxy::start(ProxyBehavior::Respond("HTTP/1.1 403 Forbidden\r\n\r\n"));
    let url = proxy.url();
    let variables = [("ALL_PROXY", url.as_str()), ("NO_PROXY", "x.test, 0.0.0.0")];
    assert_eq!(balance_in_subprocess(&server.url("0.0.0.0"), &ca, &variables), "ok");
    assert_eq!(proxy.request_lines().len(), 0);
    for (number, no_proxy) in ["", "0.0.0.1, example.com"].into_iter().enumerate() {
        let variables = [("ALL_PROXY", url.as_str()), ("NO_PROXY", no_proxy)];
        let result = balance_in_subprocess(&server.url("0.0.0.0"), &ca, &variables);
        assert!(result.starts_with("Connect"), "{no_proxy:?}: {result}");
        assert_eq!(proxy.request_lines().len(), number + 1, "{no_proxy:?}");
    }
}

#[test]
fn loopback_bypasses_the_proxy_from_the_environment() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let proxy = ConnectProxy::start(ProxyBehavior::Respond("HTTP/1.1 502 Bad Gateway\r\n\r\n"));
    let (url, port) = (proxy.url(), sandbox_addr(&sandbox).port());
    for base_url in [sandbox.url(), format!("http://localhost:{port}")] {
        for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY", "all_proxy"] {
            let result = balance_in_subprocess(&base_url, &ca, &[(variable, &url)]);
            assert_eq!(result, "ok", "{base_url} {variable}");
        }
    }
    assert_eq!(proxy.request_lines(), [""; 0]);
}
