//! Servers that reject a create before they have read its body. The rejection must be reported as
//! what it is, and must not leave a run of `generate_to` behind that cannot continue.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    CancelToken, ClientBuilder, ErrorKind, EventKind, Image, ImageToVideo, RetryPolicy,
};

use crate::helpers::clients::{
    IDLE_TIMEOUT, create_counts, quick_wait, request, sandbox, sandbox_addr, short_idle_timeout,
};
use crate::helpers::files::TestDir;
use crate::helpers::media::png_of_len;
use crate::helpers::tcp_server::{RawServer, TcpServer, idle_for, read_head, relay};
use crate::helpers::timing::wait_until;
use crate::helpers::tls_server::{CertificateAuthority, TlsServer};

fn image_of(len: usize) -> ImageToVideo {
    ImageToVideo::new(Image::bytes(png_of_len(len)))
}

/// A gateway in front of the sandbox. It rejects the first creates as haproxy does: it responds
/// after the headers and closes the connection, so that the rest of the body meets a closed socket.
struct Gateway {
    address: SocketAddr,
    rejected: Arc<AtomicUsize>,
}

impl Gateway {
    fn start(sandbox: &Sandbox, status: u16, rejections: usize) -> Gateway {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let gateway = Gateway { address: listener.local_addr().unwrap(), rejected: Arc::default() };
        let (rejected, upstream) = (Arc::clone(&gateway.rejected), sandbox_addr(sandbox));
        // Ends with the process: nothing connects to it after its test.
        thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                if rejected.load(Ordering::SeqCst) < rejections {
                    read_head(&stream).unwrap();
                    let head = format!("HTTP/1.1 {status} No\r\nContent-Length: 2\r\n");
                    (&stream)
                        .write_all(format!("{head}Connection: close\r\n\r\nno").as_bytes())
                        .unwrap();
                    drop(stream);
                    rejected.fetch_add(1, Ordering::SeqCst);
                } else {
                    let upstream = TcpStream::connect(upstream).unwrap();
                    thread::spawn(move || relay(&stream, &upstream, |_| {}));
                }
            }
        });
        gateway
    }

    /// A client whose first attempt sends its body after the gateway has closed the connection.
    #[cfg(unix)]
    fn client_builder(&self, sandbox: &Sandbox) -> ClientBuilder {
        let rejected = Arc::clone(&self.rejected);
        let builder = sandbox.client_builder().base_url(format!("http://{}", self.address));
        builder.event_handler(move |event| {
            if let EventKind::Uploading { .. } = event.kind {
                wait_until("the gateway to close", || rejected.load(Ordering::SeqCst) > 0);
                // The response to the first part of the body, a RST, arrives before the rest.
                thread::sleep(Duration::from_millis(5));
            }
        })
    }
}

// ---------------------------------------------------------------- a body that meets a closed socket

#[cfg(unix)]
#[test]
fn early_rejection_over_tcp_is_reported_with_its_status() {
    for (status, request) in [(403, request()), (429, request()), (403, image_of(300_000))] {
        let sandbox = sandbox();
        let gateway = Gateway::start(&sandbox, status, usize::MAX);
        let builder = gateway.client_builder(&sandbox).retry_policy(RetryPolicy::none());
        let error = builder.build().unwrap().create(&request).unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)), "{error:?}");
        assert!(!error.may_have_been_billed());
        // The second asked first, and its body was not sent.
        wait_until("both to be rejected", || gateway.rejected.load(Ordering::SeqCst) == 2);
        assert_eq!((error.attempts(), create_counts(&sandbox)), (2, (0, 0)));
    }
}

#[cfg(unix)]
#[test]
fn early_rejections_with_429_cost_retries_and_never_an_unknown() {
    for rejections in 1..=3 {
        let sandbox = sandbox();
        let gateway = Gateway::start(&sandbox, 429, rejections);
        let client = gateway.client_builder(&sandbox).build().unwrap();
        client.create(&request()).unwrap();
        assert_eq!(create_counts(&sandbox), (1, 1));
    }
}

#[cfg(unix)]
#[test]
fn early_rejection_leaves_a_run_that_continues() {
    let (sandbox, dir) = (sandbox(), TestDir::new());
    let gateway = Gateway::start(&sandbox, 403, 2);
    let client = gateway.client_builder(&sandbox).wait_options(quick_wait()).build().unwrap();
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(403)), "{error:?}");
    // The second attempt was not committed.
    assert_eq!(dir.journal_steps(), ["intent", "sending", "rejected"]);
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (1, 1));
}

/// rustls reports a failed write only at the next one.
#[test]
fn early_rejection_over_tls_is_reported_with_its_status() {
    let (sandbox, ca) = (sandbox(), CertificateAuthority::new("test CA"));
    let gateway = Gateway::start(&sandbox, 403, usize::MAX);
    let server = TlsServer::start(&ca.issue_certificate("localhost"), gateway.address);
    let server = Arc::new(server);
    let closing = Arc::clone(&server);
    let client = sandbox
        .client_builder()
        .base_url(server.url("localhost"))
        .root_certificates_pem(ca.pem().as_bytes())
        .event_handler(move |event| {
            if let EventKind::Uploading { .. } = event.kind {
                wait_until("the server to close", || closing.closed() > 0);
                thread::sleep(Duration::from_millis(5));
            }
        })
        .retry_policy(RetryPolicy::none())
        .build()
        .unwrap();
    let error = client.create(&request()).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(403)), "{error:?}");
    assert_eq!((error.attempts(), error.may_have_been_billed()), (2, false));
}

/// A server that interrupts uploads, and does not know `Expect`.
#[test]
fn create_is_not_repeated_endlessly_with_and_without_an_expectation() {
    let server = RawServer::start(|mut stream| {
        if idle_for(Duration::from_millis(200), stream) {
            // The client waits for `100 Continue`.
            let response = "HTTP/1.1 417 Expectation Failed\r\nContent-Length: 0\r\n\r\n";
            stream.write_all(response.as_bytes()).unwrap();
        }
    });
    let sandbox = sandbox();
    let retries = RetryPolicy::new().max_retries(1).base_delay(Duration::from_millis(1));
    let builder = sandbox.client_builder().base_url(server.url()).retry_policy(retries);
    let token = CancelToken::new();
    let client = builder.build().unwrap().with_cancel_token(token.clone());
    let create = thread::spawn(move || client.create(&image_of(3_000_000)).unwrap_err());
    wait_until("the create to end", || create.is_finished() || server.heads().len() > 10);
    token.cancel();
    let error = create.join().unwrap();
    assert_eq!(error.kind(), ErrorKind::Transport, "{error:?}");
    let expects = |head: &String| head.to_ascii_lowercase().contains("expect:");
    let expectations: Vec<_> = server.heads().iter().map(expects).collect();
    assert_eq!(expectations, [false, true, false]);
}

// ---------------------------------------------------------------- connections that stay open

#[test]
fn create_asks_the_server_to_close_its_connection() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    client.generate(&request()).unwrap();
    let connection = |endpoint| {
        let requests = sandbox.requests();
        let request = requests.iter().find(|request| request.endpoint == Some(endpoint)).unwrap();
        request.header("connection").map(str::to_owned)
    };
    assert_eq!(connection(Endpoint::Create).as_deref(), Some("close"));
    assert_eq!(connection(Endpoint::Retrieve), None);
}

/// After an `Expect`, ureq waits for more than the response that it has already received.
#[test]
fn rejection_of_a_large_create_does_not_wait_for_the_idle_timeout() {
    let server = TcpServer::start(|mut stream| {
        let head = read_head(stream).unwrap();
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        // Like most servers, it keeps the connection open unless it is asked not to.
        if !head.to_ascii_lowercase().contains("connection: close") {
            let _ = stream.read(&mut [0]);
        }
    });
    let sandbox = sandbox();
    let url = format!("http://{}", server.address());
    let client = short_idle_timeout(&sandbox).base_url(url).build().unwrap();
    let started = Instant::now();
    let error = client.create(&image_of(3_000_000)).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(401)), "{error:?}");
    // The first lost its connection during the upload, and with it the response.
    assert_eq!(error.attempts(), 2);
    assert!(started.elapsed() < IDLE_TIMEOUT, "{:?}", started.elapsed());
}

#[test]
fn rejection_by_a_server_that_holds_the_connection_is_received_after_the_upload() {
    let server = TcpServer::start(|mut stream| {
        read_head(stream).unwrap();
        stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}").unwrap();
        while stream.read(&mut [0; 65536]).is_ok_and(|read| read > 0) {}
    });
    let sandbox = sandbox();
    let url = format!("http://{}", server.address());
    let client = sandbox.client_builder().base_url(url).build().unwrap();
    let error = client.create(&image_of(3_000_000)).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(401)), "{error:?}");
    assert_eq!(error.attempts(), 1);
}

// ---------------------------------------------------------------- slow networks

/// When the last byte of a large body is written, much of it may still be in the buffers of the
/// operating system.
#[test]
fn response_to_a_large_create_may_take_longer_than_the_idle_timeout() {
    let sandbox = sandbox();
    let idle_timeout = Duration::from_millis(500);
    let client = sandbox.client_builder().idle_timeout(idle_timeout).build().unwrap();
    sandbox.fault(Endpoint::Create, Fault::delay(idle_timeout * 2), 2);
    client.create(&image_of(1_000_000)).unwrap();
    let error = client.create(&request()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateUnknown, "{error:?}");
}

#[test]
fn slow_network_is_no_error() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::default().upload_bandwidth(10_000_000), 1);
    let client = short_idle_timeout(&sandbox).build().unwrap();
    let started = Instant::now();
    client.create(&image_of(1_000_000)).unwrap();
    assert!(started.elapsed() > Duration::from_millis(130), "{:?}", started.elapsed());
}
