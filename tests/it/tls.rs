//! TLS and proxies, with real handshakes: whom a client trusts, what it costs, and which way it
//! goes. Nothing is sent to anybody else, and so nothing is billed.

use std::error::Error as StdError;
use std::io::Read;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kling_video::{
    Client, ClientBuilder, Endpoint, Error, ErrorKind, Fault, RetryPolicy, Sandbox, Video,
};

use crate::child::{rerun, say};
use crate::common::{request, sandbox};
use crate::connect_proxy::{ConnectProxy, Manner};
use crate::service::{Service, address_of};
use crate::tls_server::Handshake::{Failed, Full, Resumed};
use crate::tls_server::{Authority, Identity, TlsServer, for_clients_only, valid};

/// A sandbox behind TLS, under a name that only a proxy knows.
const API: &str = "https://api.test";

/// A name that no look-up is made for, since it is too long for one: where it is not asked of a
/// proxy, it fails at once.
fn unknown_host() -> String {
    format!("{}.api.test", "a".repeat(64))
}

/// A client that trusts this authority and tries everything once.
fn trusting(sandbox: &Sandbox, pem: &str) -> ClientBuilder {
    sandbox
        .client_builder()
        .root_certificates_pem(pem.as_bytes())
        .retry(RetryPolicy::none())
        .connect_timeout(Duration::from_secs(5))
}

fn behind_tls(sandbox: &Sandbox, authority: &Authority, host: &str) -> TlsServer {
    TlsServer::start(&authority.vouch_for(host), address_of(sandbox))
}

/// The texts of an error and of all that caused it.
fn told(error: &(dyn StdError + 'static)) -> String {
    match error.source() {
        Some(source) => format!("{error} / {}", told(source)),
        None => error.to_string(),
    }
}

fn video_at(url: String) -> Video {
    serde_json::from_value(serde_json::json!({ "id": "1", "url": url })).unwrap()
}

fn elapsed(work: impl FnOnce()) -> Duration {
    let begun = Instant::now();
    work();
    begun.elapsed()
}

/// Nothing left this machine, and the same call may be made again.
fn assert_not_connected(error: &Error, case: &str) {
    assert_eq!(error.kind(), ErrorKind::Connect, "{case}: {}", told(error));
    assert!(!error.may_have_been_billed(), "{case}");
    assert!(error.is_retryable(), "{case}");
    assert_eq!(error.generation_id(), None, "{case}");
    assert_eq!(error.status(), None, "{case}");
}

// ---------------------------------------------------------------- whom a client trusts

#[test]
fn an_authority_that_is_given_is_trusted() {
    let sandbox = sandbox();
    let authority = Authority::new("ours");
    let folder = tempfile::tempdir().unwrap();
    for host in ["localhost", "127.0.0.1"] {
        for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
            let identity = authority.vouch_for(host);
            let server = TlsServer::speaking(&[version], &identity, address_of(&sandbox));
            let client =
                trusting(&sandbox, &authority.pem()).base_url(server.url(host)).build().unwrap();
            let to = folder.path().join(format!("{host} {version:?}.mp4"));
            let saved = client.generate_to(&request(), &to).unwrap();
            assert_eq!(saved.bytes, sandbox.video().len() as u64, "{host} {version:?}");
            assert_eq!(client.find("unknown").unwrap(), None);
            assert_eq!(client.balance().unwrap().amount, 100.0);
        }
    }
    assert_eq!(sandbox.generations().len(), 4);
}

#[test]
fn several_authorities_may_be_given_in_one_pem_with_text_between_them() {
    let sandbox = sandbox();
    let (first, second) = (Authority::new("first"), Authority::new("second"));
    let stranger = Authority::new("stranger");
    let pem = format!("# ours\n{}\nSubject: second\n\n{}\n", first.pem(), second.pem());
    for (authority, trusted) in [(&first, true), (&second, true), (&stranger, false)] {
        let server = behind_tls(&sandbox, authority, "localhost");
        let client = trusting(&sandbox, &pem).base_url(server.url("localhost")).build().unwrap();
        assert_eq!(client.balance().is_ok(), trusted);
    }
}

#[test]
fn a_chain_with_an_intermediate_is_followed_when_the_server_sends_it() {
    let sandbox = sandbox();
    let root = Authority::new("root");
    let identity = root.intermediate("between").vouch_for("localhost");
    let server = TlsServer::start(&identity, address_of(&sandbox));
    let client = trusting(&sandbox, &root.pem()).base_url(server.url("localhost")).build().unwrap();
    client.generate(&request()).unwrap();
    // Who is given the one between as an authority trusts that.
    let between = root.intermediate("between");
    let server = behind_tls(&sandbox, &between, "localhost");
    let client =
        trusting(&sandbox, &between.pem()).base_url(server.url("localhost")).build().unwrap();
    client.generate(&request()).unwrap();
}

#[test]
fn a_server_that_cannot_prove_who_it_is_gets_nothing() {
    let ours = Authority::new("ours");
    let host = "localhost";
    let cases: Vec<(&str, Identity, &str)> = vec![
        ("an unknown authority", Authority::new("stranger").vouch_for(host), "UnknownIssuer"),
        ("one of the same name", Authority::new("ours").vouch_for(host), "certificate"),
        ("another host's", ours.vouch_for("other.test"), "not valid for name"),
        ("a host below", ours.vouch_for("*.localhost"), "not valid for name"),
        ("an address of its own", ours.vouch_for("127.0.0.1"), "not valid for name"),
        ("expired", ours.sign(valid(host, 2001, 2020)), "expired"),
        ("not valid yet", ours.sign(valid(host, 2900, 3000)), "not valid yet"),
        ("self-signed", Identity::self_signed(host), "certificate"),
        ("a client's", ours.sign(for_clients_only(host)), "certificate"),
        ("no link to ours", ours.intermediate("between").vouch_for(host).alone(), "UnknownIssuer"),
    ];
    for (case, identity, why) in cases {
        let sandbox = sandbox();
        let server = TlsServer::start(&identity, address_of(&sandbox));
        let client = trusting(&sandbox, &ours.pem())
            .base_url(server.url(host))
            .max_creates(1)
            .build()
            .unwrap();
        let folder = tempfile::tempdir().unwrap();
        let id = "789".parse().unwrap();
        // Twice: what was certainly not sent is not counted as a create.
        for _ in 0..2 {
            let error = client.create(&request()).unwrap_err();
            assert_not_connected(&error, case);
            assert!(told(&error).contains(why), "{case}: {}", told(&error));
            assert_eq!(error.operation(), "create");
            assert!(error.client_request_id().is_some());
        }
        assert_not_connected(&client.generate(&request()).unwrap_err(), case);
        let to = folder.path().join("cat.mp4");
        assert_not_connected(&client.generate_to(&request(), &to).unwrap_err(), case);
        assert_not_connected(&client.find("1").unwrap_err(), case);
        assert_not_connected(&client.balance().unwrap_err(), case);
        let error = client.retrieve(&id).unwrap_err();
        assert_eq!((error.kind(), error.generation_id()), (ErrorKind::Connect, Some(&id)));
        let video = video_at(format!("{}/videos/1", server.url(host)));
        let error = client.download(&video, &to).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Connect, "{case}: {}", told(&error));
        assert!(!to.exists(), "{case}");

        assert_eq!(server.handshakes(8), [Failed; 8], "{case}");
        assert_eq!((server.plaintext(), sandbox.requests().len()), (0, 0), "{case}");
    }
}

#[test]
fn nobody_is_trusted_on_a_private_authority_s_word_unless_asked_to() {
    let sandbox = sandbox();
    let server = behind_tls(&sandbox, &Authority::new("ours"), "localhost");
    let client = sandbox
        .client_builder()
        .base_url(server.url("localhost"))
        .retry(RetryPolicy::none())
        .build()
        .unwrap();
    assert_not_connected(&client.create(&request()).unwrap_err(), "bundled roots");
    assert_eq!((server.handshakes(1), server.plaintext()), (vec![Failed], 0));
}

#[test]
fn a_create_that_met_a_wrong_certificate_is_tried_again_and_then_reported() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let server = behind_tls(&sandbox, &Authority::new("stranger"), "localhost");
    let client = sandbox
        .client_builder()
        .root_certificates_pem(ours.pem().as_bytes())
        .base_url(server.url("localhost"))
        .build()
        .unwrap();
    let error = client.create(&request()).unwrap_err();
    assert_not_connected(&error, "retried");
    assert_eq!(error.attempts(), 4);
    assert_eq!(server.handshakes(4), [Failed; 4]);
    assert!(sandbox.requests().is_empty());
}

#[test]
fn a_run_that_met_a_wrong_certificate_goes_on_when_it_is_mended() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("cat.mp4");
    let run = |identity: Identity| {
        let server = TlsServer::start(&identity, address_of(&sandbox));
        let proxy = ConnectProxy::to(server.address());
        let client =
            trusting(&sandbox, &ours.pem()).base_url(API).proxy(proxy.url()).build().unwrap();
        client.generate_to(&request(), &to)
    };
    assert_not_connected(&run(Identity::self_signed("api.test")).unwrap_err(), "wrong");
    let journal = std::fs::read_to_string(folder.path().join("cat.mp4.kling.jsonl")).unwrap();
    assert!(!journal.contains("sending"), "{journal}");
    assert!(!run(ours.vouch_for("api.test")).unwrap().reused);
    assert_eq!(sandbox.generations().len(), 1);
}

#[test]
fn downloads_trust_the_same_authorities_and_never_carry_the_key() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let server = behind_tls(&sandbox, &ours, "localhost");
    let client = trusting(&sandbox, &ours.pem()).base_url(server.url("localhost")).build().unwrap();
    let mut video = client.generate(&request()).unwrap();
    video.url = video.url.replace(&sandbox.url(), &server.url("localhost"));
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("cat.mp4");
    client.download(&video, &to).unwrap();
    assert_eq!(std::fs::read(&to).unwrap(), sandbox.video());
    let requests = sandbox.requests();
    let fetched = requests.iter().find(|r| r.endpoint == Some(Endpoint::Video)).unwrap();
    assert_eq!(fetched.header("authorization"), None);
}

#[test]
fn a_secure_link_does_not_lead_out_of_tls() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let server = behind_tls(&sandbox, &ours, "localhost");
    let client = trusting(&sandbox, &ours.pem()).base_url(server.url("localhost")).build().unwrap();
    let mut video = client.generate(&request()).unwrap();
    let plain = video.url.clone();
    video.url = video.url.replace(&sandbox.url(), &server.url("localhost"));
    sandbox.fault(Endpoint::Video, Fault::redirect(302, &plain), 1);
    let folder = tempfile::tempdir().unwrap();
    let error = client.download(&video, folder.path().join("cat.mp4")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert!(error.to_string().contains("not https"), "{error}");
    assert_eq!(sandbox.count(Endpoint::Video), 1);
}

#[test]
fn certificates_that_are_none_are_refused_at_build() {
    let good = Authority::new("ours").pem();
    let cut = &good[..good.len() / 2];
    let lines: Vec<&str> = good.lines().collect();
    let without_end = lines[..lines.len() - 1].join("\n");
    let short = format!("{}\n{}\n{}\n", lines[0], lines[1], lines[lines.len() - 1]);
    let damaged = good.replace(lines[1], &"!".repeat(lines[1].len()));
    let key = "-----BEGIN PRIVATE KEY-----\nMAA=\n-----END PRIVATE KEY-----\n";
    let no_certificate = "-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n";
    let empty = "-----BEGIN CERTIFICATE-----\n-----END CERTIFICATE-----\n";
    let both = format!("{good}{no_certificate}");
    let cases: [(&str, &[u8]); 11] = [
        ("nothing", b""),
        ("text", b"trust me"),
        ("bytes", b"\x30\x82\x01\x01\xFF\x00"),
        ("cut in the middle", cut.as_bytes()),
        ("without its last line", without_end.as_bytes()),
        ("all but its first line", short.as_bytes()),
        ("no base64", damaged.as_bytes()),
        ("a key", key.as_bytes()),
        ("something else in the frame", no_certificate.as_bytes()),
        ("an empty frame", empty.as_bytes()),
        ("one good and one bad", both.as_bytes()),
    ];
    for (case, pem) in cases {
        let built = Client::builder("key").no_proxy().root_certificates_pem(pem).build();
        let error = built.map(|_| ()).expect_err(case);
        assert_eq!(error.kind(), ErrorKind::Config, "{case}");
        assert!(error.to_string().contains("root_certificates_pem"), "{case}: {error}");
    }
}

// ---------------------------------------------------------------- what it costs

#[test]
fn a_whole_generate_shakes_hands_twice_and_the_next_one_resumes() {
    let ours = Authority::new("ours");
    for version in [&rustls::version::TLS12, &rustls::version::TLS13] {
        let sandbox = sandbox();
        sandbox.finish_after(5);
        let identity = ours.vouch_for("localhost");
        let server = TlsServer::speaking(&[version], &identity, address_of(&sandbox));
        let client =
            trusting(&sandbox, &ours.pem()).base_url(server.url("localhost")).build().unwrap();
        client.generate(&request()).unwrap();
        assert_eq!(server.handshakes(2), [Full, Full], "the create, and six polls");
        assert_eq!(sandbox.count(Endpoint::Retrieve), 6);
        client.clone().generate(&request()).unwrap();
        assert_eq!(server.handshakes(3), [Full, Full, Resumed], "the create only");
        // Other reads have the same connection.
        client.balance().unwrap();
        client.find("unknown").unwrap();
        assert_eq!(server.handshakes(3).len(), 3);
    }
}

#[test]
fn a_create_that_is_tried_again_resumes() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let server = behind_tls(&sandbox, &ours, "localhost");
    sandbox.fault(Endpoint::Create, Fault::status(429), 2);
    let client = sandbox
        .client_builder()
        .root_certificates_pem(ours.pem().as_bytes())
        .base_url(server.url("localhost"))
        .build()
        .unwrap();
    client.create(&request()).unwrap();
    assert_eq!(server.handshakes(3), [Full, Resumed, Resumed]);
    assert_eq!(sandbox.generations().len(), 1);
}

// ---------------------------------------------------------------- handshakes that do not end

#[test]
fn a_server_that_never_says_hello_costs_the_connect_time_out() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let silent = Service::start(|mut stream| {
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let client = trusting(&sandbox, &ours.pem())
        .base_url(format!("https://localhost:{}", silent.address().port()))
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
fn a_server_that_speaks_no_tls_is_not_connected_to() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let plain = format!("https://localhost:{}", address_of(&sandbox).port());
    let client = trusting(&sandbox, &ours.pem()).base_url(plain).build().unwrap();
    assert_not_connected(&client.create(&request()).unwrap_err(), "create");
    assert_not_connected(&client.balance().unwrap_err(), "balance");
    assert!(sandbox.requests().iter().all(|request| request.endpoint.is_none()));
    assert!(sandbox.generations().is_empty());
}

#[test]
fn a_server_that_closes_during_the_handshake_has_got_nothing() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let closing = Service::start(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
    });
    let client = trusting(&sandbox, &ours.pem())
        .base_url(format!("https://localhost:{}", closing.address().port()))
        .build()
        .unwrap();
    for error in [client.create(&request()).unwrap_err(), client.balance().unwrap_err()] {
        // The HTTP library does not tell this from a connection that breaks later.
        let kind = error.kind();
        assert!(matches!(kind, ErrorKind::Connect | ErrorKind::Transport), "{}", told(&error));
        assert!(!error.may_have_been_billed() && error.is_retryable());
    }
}

// ---------------------------------------------------------------- what is refused at build

#[test]
fn http_is_for_the_loopback_only() {
    for url in [
        "http://example.com",
        "HTTP://example.com",
        "http://10.0.0.1",
        "http://0.0.0.0:80",
        "http://[::2]",
        "http://[::ffff:10.0.0.1]",
        "http://localhost.test",
        "http://127.0.0.1.test",
        "http://127.0.0.1@evil.test",
        "http://evil.test/127.0.0.1",
        "http://evil.test#@127.0.0.1",
        "http://2130706433",
        "ftp://127.0.0.1",
        "file:///etc/passwd",
        "127.0.0.1",
        "https://",
        "",
    ] {
        let built = Client::builder("key").no_proxy().base_url(url).build();
        let error = built.map(|_| ()).expect_err(url);
        assert_eq!(error.kind(), ErrorKind::Config, "{url}");
        assert!(error.to_string().contains("base_url"), "{url}: {error}");
    }
    for url in [
        "http://127.0.0.1:1",
        "http://127.8.9.10:1/api/",
        "http://localhost:1",
        "http://LOCALHOST:1",
        "http://[::1]:1",
        "https://example.com",
        "https://10.0.0.1",
    ] {
        assert!(Client::builder("key").no_proxy().base_url(url).build().is_ok(), "{url}");
    }
}

#[test]
fn a_port_is_a_number_up_to_65535() {
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

#[test]
fn a_certificate_of_the_right_length_is_not_yet_one() {
    let pem = "-----BEGIN CERTIFICATE-----\nMAMCAQE=\n-----END CERTIFICATE-----\n";
    let built = Client::builder("key").no_proxy().root_certificates_pem(pem.as_bytes()).build();
    assert_eq!(built.map(|_| ()).unwrap_err().kind(), ErrorKind::Config);
}

// ---------------------------------------------------------------- proxies

#[test]
fn a_proxy_carries_the_whole_job_and_learns_nothing_but_names() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let server = behind_tls(&sandbox, &ours, "api.test");
    let proxy = ConnectProxy::to(server.address());
    let client = trusting(&sandbox, &ours.pem()).base_url(API).proxy(proxy.url()).build().unwrap();
    let mut video = client.generate(&request()).unwrap();
    assert_eq!(server.handshakes(2), [Full, Full]);
    let folder = tempfile::tempdir().unwrap();
    // The sandbox's own links are on the loopback: not for a proxy.
    client.download(&video, folder.path().join("direct.mp4")).unwrap();
    assert_eq!(proxy.asked(), ["CONNECT api.test:443 HTTP/1.1"; 2]);
    video.url = video.url.replace(&sandbox.url(), API);
    client.download(&video, folder.path().join("proxied.mp4")).unwrap();
    assert_eq!(proxy.asked(), ["CONNECT api.test:443 HTTP/1.1"; 3]);
    for secret in [sandbox.key(), "Bearer", "the cat yawns", "generation"] {
        assert!(!proxy.saw(secret), "{secret}");
    }
}

#[test]
fn an_https_proxy_is_spoken_to_in_tls() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let server = behind_tls(&sandbox, &ours, "api.test");
    let proxy = ConnectProxy::to(server.address());
    let front = TlsServer::start(&ours.vouch_for("localhost"), proxy.address());
    let client = trusting(&sandbox, &ours.pem())
        .base_url(API)
        .proxy(front.url("localhost"))
        .build()
        .unwrap();
    client.generate(&request()).unwrap();
    assert_eq!(proxy.asked(), ["CONNECT api.test:443 HTTP/1.1"; 2]);
    // A proxy that cannot prove who it is gets not even the name.
    let wrong = TlsServer::start(&Identity::self_signed("localhost"), proxy.address());
    let client = trusting(&sandbox, &ours.pem())
        .base_url(API)
        .proxy(wrong.url("localhost"))
        .build()
        .unwrap();
    assert_not_connected(&client.create(&request()).unwrap_err(), "wrong proxy");
    assert_eq!((proxy.asked().len(), wrong.plaintext()), (2, 0));
}

#[test]
fn a_proxy_s_password_goes_to_the_proxy_and_nowhere_else() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let server = behind_tls(&sandbox, &ours, "api.test");
    let proxy = ConnectProxy::to(server.address());
    let url = format!("http://cat:se%3Acr%40et@{}", proxy.address());
    let builder = trusting(&sandbox, &ours.pem()).base_url(API).proxy(url);
    let shown = format!("{builder:?} {builder:#?}");
    let client = builder.build().unwrap();
    client.balance().unwrap();
    let shown = format!("{shown} {client:?} {client:#?}");
    let authorization = format!("Proxy-Authorization: Basic {}", STANDARD.encode("cat:se:cr@et"));
    assert!(proxy.heads()[0].contains(&authorization), "{:?}", proxy.heads());
    for request in sandbox.requests() {
        assert_eq!(request.header("proxy-authorization"), None);
    }
    for secret in ["se:cr@et", "se%3Acr", "cr%40et", &STANDARD.encode("cat:se:cr@et")] {
        assert!(!shown.contains(secret), "{shown}");
    }
}

#[test]
fn an_error_about_a_proxy_shows_no_password() {
    let sandbox = sandbox();
    let secrets = ["hunter2", &STANDARD.encode("cat:hunter2")];
    let check = |error: &Error, case: &str| {
        let shown = format!("{} {error:?} {error:#?}", told(error));
        assert!(!secrets.iter().any(|secret| shown.contains(secret)), "{case}: {shown}");
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
    for manner in [
        Manner::Answer("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
        Manner::Answer("cat:hunter2 is no HTTP\r\n\r\n"),
        Manner::Answer(""),
    ] {
        let proxy = ConnectProxy::start(manner.clone());
        let url = format!("http://cat:hunter2@{}", proxy.address());
        let client = sandbox
            .client_builder()
            .base_url(API)
            .proxy(url)
            .retry(RetryPolicy::none())
            .build()
            .unwrap();
        check(&client.create(&request()).unwrap_err(), &format!("{manner:?}"));
        check(&client.balance().unwrap_err(), &format!("{manner:?}"));
    }
}

#[test]
fn socks_is_refused_rather_than_passed_by() {
    for scheme in ["socks", "socks4", "socks4a", "socks5", "socks5h", "SOCKS5"] {
        let url = format!("{scheme}://127.0.0.1:1080");
        let built = Client::builder("key").base_url(API).proxy(url).build();
        let error = built.map(|_| ()).expect_err(scheme);
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains("proxy"), "{error}");
    }
}

#[test]
fn a_proxy_that_does_not_connect_ends_the_call_and_bills_nothing() {
    let cases = [
        Manner::Answer("HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"),
        Manner::Answer("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno"),
        Manner::Answer("HTTP/1.1 502 Bad Gateway\r\n\r\n"),
        Manner::Answer("HTTP/1.1 302 Found\r\nLocation: https://evil.test/\r\n\r\n"),
        Manner::Answer("HTTP/1.1 200"),
        Manner::Answer(""),
        Manner::Stall,
    ];
    for manner in cases {
        let (sandbox, case) = (sandbox(), format!("{manner:?}"));
        let proxy = ConnectProxy::start(manner);
        let client = sandbox
            .client_builder()
            .base_url(API)
            .proxy(proxy.url())
            .retry(RetryPolicy::none())
            .connect_timeout(Duration::from_millis(200))
            .max_creates(1)
            .build()
            .unwrap();
        let took = elapsed(|| {
            assert_not_connected(&client.create(&request()).unwrap_err(), &case);
            assert_not_connected(&client.create(&request()).unwrap_err(), &case);
            assert_not_connected(&client.balance().unwrap_err(), &case);
        });
        assert!(took < Duration::from_secs(3), "{case}: {took:?}");
        assert!(sandbox.requests().is_empty(), "{case}");
    }
}

#[test]
fn a_proxy_that_is_not_there_or_breaks_bills_nothing() {
    let sandbox = sandbox();
    let client = |proxy: String| {
        let builder = sandbox.client_builder().base_url(API).proxy(proxy);
        builder.retry(RetryPolicy::none()).build().unwrap()
    };
    let nobody = "http://127.0.0.1:1".to_owned();
    assert_not_connected(&client(nobody).create(&request()).unwrap_err(), "nobody there");
    let breaking = ConnectProxy::start(Manner::Reset);
    for error in [
        client(breaking.url()).create(&request()).unwrap_err(),
        client(breaking.url()).balance().unwrap_err(),
    ] {
        // The HTTP library does not tell this from a connection that breaks later.
        let kind = error.kind();
        assert!(matches!(kind, ErrorKind::Connect | ErrorKind::Transport), "{}", told(&error));
        assert!(!error.may_have_been_billed() && error.is_retryable());
    }
    assert!(sandbox.requests().is_empty());
}

#[test]
fn a_proxy_that_lies_about_the_server_is_found_out() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let other = behind_tls(&sandbox, &ours, "evil.test");
    let proxy = ConnectProxy::to(other.address());
    let client = trusting(&sandbox, &ours.pem()).base_url(API).proxy(proxy.url()).build().unwrap();
    assert_not_connected(&client.create(&request()).unwrap_err(), "another server");
    assert_eq!((other.handshakes(1), other.plaintext()), (vec![Failed], 0));
}

#[test]
fn the_loopback_is_never_reached_through_a_proxy() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let server = behind_tls(&sandbox, &ours, "localhost");
    let proxy = ConnectProxy::start(Manner::Answer("HTTP/1.1 502 Bad Gateway\r\n\r\n"));
    let plain = address_of(&sandbox).port();
    for base in [
        format!("http://127.0.0.1:{plain}"),
        format!("http://localhost:{plain}"),
        format!("http://LocalHost:{plain}"),
        server.url("localhost"),
    ] {
        let client =
            trusting(&sandbox, &ours.pem()).base_url(&base).proxy(proxy.url()).build().unwrap();
        let video = client.generate(&request()).unwrap();
        let folder = tempfile::tempdir().unwrap();
        client.download(&video, folder.path().join("cat.mp4")).unwrap();
        client.balance().unwrap();
    }
    // Whether or not somebody listens there.
    for base in ["http://127.0.0.2:1", "http://[::1]:1", "https://[::1]:1"] {
        let client =
            trusting(&sandbox, &ours.pem()).base_url(base).proxy(proxy.url()).build().unwrap();
        assert_eq!(client.balance().unwrap_err().kind(), ErrorKind::Connect, "{base}");
    }
    assert_eq!(proxy.asked(), [""; 0]);
}

// ---------------------------------------------------------------- the environment's proxies

/// What the tests below run in a process with an environment of its own.
#[test]
fn as_a_child_it_asks_for_the_balance() {
    let Ok(base) = std::env::var("TEST_API") else { return };
    let ca = std::env::var("TEST_CA").unwrap();
    let mut builder = Client::builder("sandbox-key")
        .base_url(base)
        .root_certificates_pem(ca.as_bytes())
        .retry(RetryPolicy::none());
    match std::env::var("TEST_PROXY").as_deref() {
        Ok("none") => builder = builder.no_proxy(),
        Ok(url) => builder = builder.proxy(url),
        Err(_) => {}
    }
    match builder.build().and_then(|client| client.balance()) {
        Ok(_) => say("fine"),
        Err(error) => say(&format!("{:?}: {}", error.kind(), told(&error))),
    }
}

fn in_an_environment(base: &str, ca: &Authority, variables: &[(&str, &str)]) -> String {
    let ca = ca.pem();
    let own = [("TEST_API", base), ("TEST_CA", ca.as_str())];
    let variables: Vec<(&str, &str)> = own.into_iter().chain(variables.iter().copied()).collect();
    rerun("tls::as_a_child_it_asks_for_the_balance", &variables)
}

#[test]
fn the_environment_names_the_proxy() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let server = behind_tls(&sandbox, &ours, "api.test");
    let proxy = ConnectProxy::to(server.address());
    let (url, dead) = (proxy.url(), "http://127.0.0.1:1");
    let bare = proxy.address().to_string();
    let padded = format!(" {url} ");
    let cases: [&[(&str, &str)]; 10] = [
        &[("HTTPS_PROXY", &url)],
        &[("https_proxy", &url)],
        &[("ALL_PROXY", &url)],
        &[("all_proxy", &bare)],
        &[("HTTP_PROXY", &url)],
        &[("HTTPS_PROXY", &padded)],
        // The one meant for https goes first.
        &[("HTTPS_PROXY", &url), ("ALL_PROXY", dead), ("HTTP_PROXY", dead)],
        &[("ALL_PROXY", &url), ("HTTP_PROXY", dead)],
        // An empty one is none.
        &[("HTTPS_PROXY", ""), ("ALL_PROXY", &url)],
        // What the program says goes before all.
        &[("TEST_PROXY", &url), ("HTTPS_PROXY", dead), ("NO_PROXY", "*")],
    ];
    for (number, variables) in cases.into_iter().enumerate() {
        assert_eq!(in_an_environment(API, &ours, variables), "fine", "{variables:?}");
        assert_eq!(proxy.asked().len(), number + 1, "{variables:?}");
    }
}

#[test]
fn an_environment_s_proxy_that_cannot_be_used_is_refused_at_build() {
    let ours = Authority::new("ours");
    for (variable, url) in [
        ("ALL_PROXY", "socks5://cat:hunter2@127.0.0.1:1080"),
        ("all_proxy", "socks://127.0.0.1:1080"),
        ("HTTPS_PROXY", "ftp://cat:hunter2@127.0.0.1"),
        ("http_proxy", "http://cat:hunter2@"),
    ] {
        let said = in_an_environment(API, &ours, &[(variable, url)]);
        assert!(said.starts_with("Config: ") && said.contains(variable), "{variable}: {said}");
        assert!(!said.contains("hunter2"), "{said}");
    }
}

#[test]
fn no_proxy_lists_names_and_domains() {
    let ours = Authority::new("ours");
    let host = unknown_host();
    let (base, exact) = (format!("https://{host}"), format!("x.test, {host} ,y.test"));
    let proxy = ConnectProxy::start(Manner::Answer("HTTP/1.1 403 Forbidden\r\n\r\n"));
    let url = proxy.url();
    for (list, bypassed) in [
        (exact.as_str(), true),
        ("x.test, api.test", true),
        ("x.test, .api.test", true),
        ("*.api.test", true),
        ("API.TEST", true),
        ("test", true),
        ("x.test, *", true),
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
            let before = proxy.asked().len();
            let variables = [("HTTPS_PROXY", url.as_str()), (name, list)];
            let said = in_an_environment(&base, &ours, &variables);
            assert!(said.starts_with("Connect"), "{list:?}: {said}");
            assert_eq!(proxy.asked().len() == before, bypassed, "{list:?}");
        }
    }
    let variables = [("HTTPS_PROXY", url.as_str()), ("TEST_PROXY", "none")];
    let before = proxy.asked().len();
    in_an_environment(&base, &ours, &variables);
    assert_eq!(proxy.asked().len(), before, "no_proxy() means none");
}

/// 0.0.0.0 is this machine, but not by a loopback address.
#[cfg(target_os = "linux")]
#[test]
fn what_no_proxy_lists_is_connected_to_directly() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let server = behind_tls(&sandbox, &ours, "0.0.0.0");
    let proxy = ConnectProxy::start(Manner::Answer("HTTP/1.1 403 Forbidden\r\n\r\n"));
    let url = proxy.url();
    let variables = [("ALL_PROXY", url.as_str()), ("NO_PROXY", "x.test, 0.0.0.0")];
    assert_eq!(in_an_environment(&server.url("0.0.0.0"), &ours, &variables), "fine");
    assert_eq!(proxy.asked().len(), 0);
    let said = in_an_environment(&server.url("0.0.0.0"), &ours, &[("ALL_PROXY", &url)]);
    assert!(said.starts_with("Connect") && proxy.asked().len() == 1, "{said}");
}

#[test]
fn an_environment_s_proxy_never_gets_the_loopback() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let proxy = ConnectProxy::start(Manner::Answer("HTTP/1.1 502 Bad Gateway\r\n\r\n"));
    let (url, port) = (proxy.url(), address_of(&sandbox).port());
    for base in [sandbox.url(), format!("http://localhost:{port}")] {
        for variable in ["HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "ALL_PROXY"] {
            let said = in_an_environment(&base, &ours, &[(variable, &url)]);
            assert_eq!(said, "fine", "{base} {variable}");
        }
    }
    assert_eq!(proxy.asked(), [""; 0]);
}
