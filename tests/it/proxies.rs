//! Settings and networks that must be fixed before a call can succeed: retrying is pointless, and
//! the message says what to fix.

use kling_video::sandbox::{Endpoint, Sandbox};
use kling_video::{Client, ClientBuilder, Error, ErrorKind};

use crate::helpers::clients::{request, sandbox, sandbox_addr, test_client, video_at};
use crate::helpers::connect_proxy::{ConnectProxy, ProxyBehavior};
use crate::helpers::error_output::{full_error_output, full_message};
use crate::helpers::files::TestDir;
use crate::helpers::subprocess::{Subprocess, emit_result, this_binary};
use crate::helpers::tls_server::{CertificateAuthority, TlsServer};

fn assert_permanent(error: &Error, hint: &str) {
    assert_eq!(error.kind(), ErrorKind::Connect, "{}", full_message(error));
    assert_eq!(error.attempts(), 1, "{error}");
    assert!(!error.is_retryable(), "{error}");
    assert!(error.to_string().ends_with(hint), "{error}");
}

/// The errors of a create, a read and a download.
fn errors(client: &Client, host: &str) -> [Error; 3] {
    let dir = TestDir::new();
    let video = video_at(&format!("https://{host}/cat.mp4"));
    [
        client.create(&request()).unwrap_err(),
        client.balance().unwrap_err(),
        client.download(&video, &dir.target).unwrap_err(),
    ]
}

#[test]
fn untrusted_certificate_is_not_retried_and_the_setting_is_named() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("private CA"));
    let server = TlsServer::start(&ca.issue_certificate("localhost"), sandbox_addr(&sandbox));
    let client = sandbox.client_builder().base_url(server.url("localhost")).build().unwrap();
    let host = format!("localhost:{}", server.address().port());
    for error in errors(&client, &host) {
        assert_permanent(&error, "; its certificate is not trusted; see `root_certificates_pem`");
        assert!(error.to_string().starts_with(&format!("cannot connect to {host}")), "{error}");
    }
    assert_eq!(server.handshakes(3).len(), 3);
}

fn client_with_proxy(sandbox: &Sandbox, proxy: &ConnectProxy) -> ClientBuilder {
    sandbox.client_builder().base_url("https://api.test").proxy(proxy.url())
}

#[test]
fn rejection_by_a_proxy_is_not_retried_and_the_proxy_is_named() {
    for (response, hint) in [
        ("HTTP/1.1 407 No\r\n\r\n", "; the proxy requires valid credentials in its URL"),
        ("HTTP/1.1 403 No\r\n\r\n", "; the proxy does not permit it"),
        ("HTTP/1.1 302 No\r\nLocation: /login\r\n\r\n", "; the proxy does not permit it"),
    ] {
        let (sandbox, proxy) = (sandbox(), ConnectProxy::start(ProxyBehavior::Respond(response)));
        let client = client_with_proxy(&sandbox, &proxy).build().unwrap();
        for error in errors(&client, "api.test") {
            assert_permanent(&error, hint);
            let peer = format!("api.test through proxy {}", proxy.address());
            assert!(error.to_string().contains(&peer), "{error}");
        }
        assert_eq!(proxy.request_lines().len(), 3);
    }
}

#[test]
fn proxy_that_cannot_reach_the_host_is_retried() {
    for response in ["HTTP/1.1 503 No\r\n\r\n", "HTTP/1.1 429 No\r\n\r\n"] {
        let (sandbox, proxy) = (sandbox(), ConnectProxy::start(ProxyBehavior::Respond(response)));
        let client = client_with_proxy(&sandbox, &proxy).build().unwrap();
        let error = client.create(&request()).unwrap_err();
        assert_eq!((error.kind(), error.attempts()), (ErrorKind::Connect, 4), "{error}");
        assert!(error.is_retryable());
    }
}

#[test]
fn api_key_that_was_pasted_with_more_than_the_key_is_rejected_with_a_hint() {
    for (key, hint) in [
        ("Bearer hunter2-hunter2", "starts with `Bearer `"),
        ("bearer hunter2-hunter2", "starts with `Bearer `"),
        ("hunter2 hunter2", "contains a space or a quotation mark"),
        ("\"hunter2-hunter2\"", "contains a space or a quotation mark"),
        ("'hunter2-hunter2'", "contains a space or a quotation mark"),
        ("`hunter2-hunter2`", "contains a space or a quotation mark"),
    ] {
        let error = Client::new(key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
        assert!(error.to_string().starts_with(&format!("the API key {hint}")), "{error}");
        assert!(!full_error_output(&error).contains("hunter2"), "{error:?}");
    }
}

#[cfg(unix)]
#[test]
fn variable_that_is_not_utf_8_is_named() {
    use std::ffi::OsStr;
    use std::os::unix::ffi::OsStrExt;
    const MARKER: &str = "KLING_VIDEO_TEST_NOT_UTF_8";
    if std::env::var_os(MARKER).is_some() {
        return emit_result(&match Client::from_env() {
            Ok(_) => "a client".to_owned(),
            Err(error) => format!("{:?}: {error}", error.kind()),
        });
    }
    for name in ["AIMLAPI_API_KEY", "https_proxy", "NO_PROXY"] {
        let mut command = this_binary();
        command.env(MARKER, "1").env("AIMLAPI_KEY", "a-valid-key");
        command.env("ALL_PROXY", "http://proxy.test:3128");
        command.env(name, OsStr::from_bytes(b"hunter2\xff"));
        let test = "proxies::variable_that_is_not_utf_8_is_named";
        let result = Subprocess::start(command, test).wait();
        assert_eq!(result, format!("Config: the variable {name} is not valid UTF-8"));
    }
}

#[test]
fn requests_of_the_api_do_not_accept_a_compressed_response() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let generation = client.create(&request()).unwrap();
    client.retrieve(&generation.id).unwrap();
    client.balance().unwrap();
    for endpoint in [Endpoint::Create, Endpoint::Retrieve, Endpoint::Billing] {
        let requests = sandbox.requests();
        let request = requests.iter().find(|request| request.endpoint == Some(endpoint)).unwrap();
        assert_eq!(request.header("accept-encoding"), Some("identity"), "{endpoint:?}");
    }
}
