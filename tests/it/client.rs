//! The client: complete jobs from image to video, settings, secrets, quota and connections.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, RecordedGeneration, RecordedRequest, Sandbox};
use kling_video::{
    Balance, CameraControl, CancelToken, Client, ClientBuilder, DynamicMask, Error, ErrorKind,
    Event, EventKind, Generation, GenerationError, GenerationId, Image, ImageToVideo,
    InvalidGenerationId, Operation, ResponseMetadata, RetryPolicy, Route, SavedVideo, Status,
    Usage, Video, VideoDuration, WaitOptions,
};

use crate::common::{
    error_chain, fixture, full_error_output, id, no_retry_client, png, request, sandbox, video_at,
    with_event_log,
};
use crate::subprocess::{emit_result, run_in_subprocess};

const SECRET: &str = "hunter2-hunter2";

// ---------------------------------------------------------------- complete jobs

#[test]
fn job_turns_an_image_into_a_video_file() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    let image = fixture("image.jpg");
    let dir = tempfile::tempdir().unwrap();
    let target = dir.path().join("cat.mp4");

    let request = ImageToVideo::new(Image::file(&image)).prompt("the cat yawns");
    let generation = client.create(&request).unwrap();
    let video = client.wait(&generation.id).unwrap();
    let bytes = client.download(&video, &target).unwrap();

    assert_eq!(generation.status, Status::Queued);
    assert_eq!(bytes, sandbox.default_video().len() as u64);
    assert!(std::fs::read(&target).unwrap() == sandbox.default_video());
    let created = &sandbox.generations()[..];
    assert_eq!(created.len(), 1);
    assert_eq!(created[0].id, generation.id.as_ref());
    assert_eq!(created[0].image, Some(std::fs::read(&image).unwrap()));
}

#[test]
fn job_emits_its_events_in_order() {
    let sandbox = sandbox();
    let (client, log) = with_event_log(sandbox.client_builder());
    let dir = tempfile::tempdir().unwrap();
    let video = client.generate(&ImageToVideo::new(fixture("image.png"))).unwrap();
    client.download(&video, dir.path().join("cat.mp4")).unwrap();
    assert_eq!(
        log.names(),
        [
            "uploading",
            "created",
            "polled queued",
            "polled generating",
            "polled completed",
            "downloading",
            "saved",
        ]
    );
}

#[test]
fn generation_id_is_enough_to_resume_in_another_process() {
    let sandbox = sandbox();
    let created = no_retry_client(&sandbox).create(&request()).unwrap();
    let stored = serde_json::to_string(&created.id).unwrap();
    let loaded: GenerationId = serde_json::from_str(&stored).unwrap();
    let other_client = sandbox.client_builder().build().unwrap();
    assert_eq!(other_client.wait(&loaded).unwrap().id, created.id);
}

#[test]
fn upload_progress_is_reported_up_to_the_last_byte() {
    let sandbox = sandbox();
    let events: Arc<Mutex<Vec<(String, u64, u64)>>> = Arc::default();
    let recorded = Arc::clone(&events);
    let client = sandbox.client_builder().event_handler(move |event| {
        if let EventKind::Uploading { sent, total, .. } = event.kind {
            let client_request_id = event.client_request_id.unwrap_or_default();
            recorded.lock().unwrap().push((client_request_id.to_owned(), sent, total));
        }
    });
    let image = Image::bytes(png(400, 300, 500_000));
    let request = ImageToVideo::new(image).client_request_id("order-4711");
    client.build().unwrap().create(&request).unwrap();
    let events = events.lock().unwrap();
    let total = sandbox.requests()[0].body_bytes;
    assert!(events.len() > 3, "{events:?}");
    assert!(events.is_sorted_by(|one, next| one.1 < next.1), "{events:?}");
    assert_eq!(events.last().unwrap().1, total);
    assert!(events.iter().all(|(id, _, of)| id == "order-4711" && *of == total), "{events:?}");
}

#[test]
fn balance_is_returned_with_its_currency() {
    let sandbox = sandbox();
    sandbox.set_balance(0.25);
    let balance = no_retry_client(&sandbox).balance().unwrap();
    assert_eq!((balance.amount, balance.currency.as_str()), (0.25, "USD"));
}

#[test]
fn user_agent_is_sent_with_every_request() {
    let sandbox = sandbox();
    no_retry_client(&sandbox).balance().unwrap();
    let client = sandbox.client_builder().user_agent("cats/1.0").build().unwrap();
    client.create(&request()).unwrap();
    let requests = sandbox.requests();
    let version = concat!("kling-video/", env!("CARGO_PKG_VERSION"));
    assert_eq!(requests[0].header("user-agent"), Some(version));
    assert_eq!(requests[1].header("user-agent"), Some("cats/1.0"));
}

/// The HTTP library has to fit each line of a request head into a buffer.
#[test]
fn user_agent_and_url_can_be_long() {
    let sandbox = sandbox();
    let agent = "long ".repeat(1_200);
    let client = sandbox.client_builder().user_agent(agent.trim_end()).build().unwrap();
    let video = client.generate(&request()).unwrap();
    assert!(sandbox.requests().iter().all(|r| r.header("user-agent") == Some(agent.trim_end())));
    let dir = tempfile::tempdir().unwrap();
    sandbox.fault(Endpoint::Video, Fault::response(200, sandbox.default_video()), 1);
    let signed = format!("{}&signature={}", video.url, "a".repeat(8_000));
    let bytes = client.download(&video_at(&signed), dir.path().join("cat.mp4")).unwrap();
    assert_eq!(bytes, sandbox.default_video().len() as u64);
}

#[test]
fn base_url_can_have_a_path_and_a_trailing_slash() {
    let sandbox = sandbox();
    for (base, target) in [("/", "/v2/billing"), ("/proxy//", "/proxy/v2/billing")] {
        let url = format!("{}{base}", sandbox.url());
        let client = sandbox.client_builder().base_url(url).build().unwrap();
        let _ = client.balance();
        assert_eq!(sandbox.requests().pop().unwrap().target, target);
    }
}

// ---------------------------------------------------------------- API key from the environment

/// The result of `Client::from_env` in a subprocess with these variables.
fn run_from_env(variables: &[(&str, &str)]) -> String {
    run_in_subprocess("client::from_env_takes_the_first_key_that_is_set", variables)
}

#[test]
fn from_env_takes_the_first_key_that_is_set() {
    const MARKER: &str = "KLING_VIDEO_TEST_FROM_ENV";
    if std::env::var_os(MARKER).is_some() {
        return emit_result(&match Client::from_env() {
            Ok(_) => "a client".to_owned(),
            Err(error) => format!("{:?}: {error}", error.kind()),
        });
    }
    let marker = (MARKER, "1");
    // The variables that must not be used hold an invalid key, so that using one is an error.
    let (valid, invalid) = ("a-valid-key", " hunter2-hunter2");
    let [first, second, third] = ["AIML_API_KEY", "AIMLAPI_API_KEY", "AIMLAPI_KEY"];
    for variables in [
        [(first, valid), (second, invalid), (third, invalid)],
        [(first, ""), (second, valid), (third, invalid)],
        [(first, ""), (second, ""), (third, valid)],
    ] {
        let result = run_from_env(&[&variables[..], &[marker]].concat());
        assert_eq!(result, "a client", "{variables:?}");
    }
    for variables in [
        [(first, invalid), (second, valid), (third, valid)],
        [(first, ""), (second, invalid), (third, valid)],
    ] {
        let result = run_from_env(&[&variables[..], &[marker]].concat());
        assert!(result.starts_with("Config: ") && !result.contains(SECRET), "{result}");
    }
    let result = run_from_env(&[marker]);
    assert!(result.starts_with("Config: "), "{result}");
    assert!([first, second, third].iter().all(|name| result.contains(name)), "{result}");
}

// ---------------------------------------------------------------- invalid settings

/// Asserts that `build` rejects the setting, names it, and shows no secret.
fn assert_rejected(builder: ClientBuilder, setting: &str) {
    assert!(!format!("{builder:?}").contains(SECRET), "{builder:?}");
    let error = builder.build().unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Config, Operation::Build));
    let output = full_error_output(&error);
    assert!(!output.contains("hunter2"), "{output}");
    assert!(error.to_string().contains(setting), "{setting} is not in {error}");
}

fn builder() -> ClientBuilder {
    Client::builder(SECRET)
}

#[test]
fn base_url_must_be_https_or_loopback() {
    for url in [
        "http://api.aimlapi.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://192.168.0.1",
        "http://0.0.0.0",
        "http://[2001:db8::1]",
        "ftp://127.0.0.1",
        "ws://127.0.0.1",
    ] {
        assert_rejected(builder().base_url(url), "base_url");
    }
    for url in [
        "https://api.aimlapi.com",
        "https://192.168.0.1:8443/path",
        "http://127.0.0.1:8080",
        "http://127.9.9.9",
        "http://localhost",
        "http://LOCALHOST:1",
        "http://[::1]:8080",
    ] {
        builder().base_url(url).no_proxy().build().unwrap();
    }
}

#[test]
fn base_url_must_be_absolute() {
    for url in ["", "api.aimlapi.com", "https://", "/v2", "https:// a", "not a url"] {
        assert_rejected(builder().base_url(url), "base_url");
    }
}

#[test]
fn base_url_must_not_contain_credentials() {
    for url in
        ["https://me:hunter2@example.com", "https://hunter2@example.com", "http://a@127.0.0.1"]
    {
        assert_rejected(builder().base_url(url), "base_url");
    }
}

#[test]
fn base_url_must_not_contain_a_query_or_fragment() {
    for url in ["https://example.com?key=hunter2", "https://example.com/#hunter2"] {
        assert_rejected(builder().base_url(url), "base_url");
    }
}

#[test]
fn api_key_must_be_visible_ascii() {
    for key in ["", " ", "hunter2\n", "\thunter2", "hun\0ter2", "hünter2", "hunter2 ", "h\u{7f}"] {
        assert_rejected(Client::builder(key), "API key");
        assert_eq!(Client::new(key).unwrap_err().kind(), ErrorKind::Config);
    }
}

#[test]
fn user_agent_must_be_a_valid_header_value() {
    assert_rejected(builder().user_agent("cats\r\nX-Evil: 1"), "user_agent");
}

#[test]
fn proxy_must_be_http_or_https() {
    for scheme in ["socks4", "socks4a", "socks5", "socks"] {
        assert_rejected(builder().proxy(format!("{scheme}://me:hunter2@127.0.0.1:1080")), "proxy");
    }
    for proxy in ["", "ftp://me:hunter2@127.0.0.1:1", "http://me:hunter2@", "http://hunter2:x:y"] {
        assert_rejected(builder().proxy(proxy), "proxy");
    }
    for proxy in ["http://me:hunter2@127.0.0.1:3128", "https://proxy.example.com", "127.0.0.1:1"] {
        builder().proxy(proxy).build().unwrap();
    }
}

#[test]
fn timeouts_must_be_greater_than_zero() {
    assert_rejected(builder().connect_timeout(Duration::ZERO), "connect_timeout");
    assert_rejected(builder().idle_timeout(Duration::ZERO), "idle_timeout");
}

#[test]
fn timeouts_can_be_infinite() {
    let sandbox = sandbox();
    let builder =
        sandbox.client_builder().connect_timeout(Duration::MAX).idle_timeout(Duration::MAX);
    builder.build().unwrap().generate(&request()).unwrap();
}

#[test]
fn root_certificates_must_be_valid_pem() {
    let begin = "-----BEGIN CERTIFICATE-----";
    let end = "-----END CERTIFICATE-----";
    for pem in [
        "",
        "not PEM",
        "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n",
        &format!("{begin}\naHVudGVyMg==\n{end}\n"),
        &format!("{begin}\n@@@\n{end}\n"),
        &format!("{begin}\n\n{end}\n"),
        &format!("{begin}\naHVudGVyMg=="),
    ] {
        assert_rejected(builder().root_certificates_pem(pem.as_bytes()), "root_certificates_pem");
    }
}

// ---------------------------------------------------------------- secrets

#[test]
fn debug_output_contains_no_secret() {
    let with_proxy = || builder().proxy("http://me:hunter2@127.0.0.1:3128");
    let client = with_proxy().build().unwrap();
    for output in [format!("{:?}", with_proxy()), format!("{client:?}"), format!("{client:#?}")] {
        assert!(!output.contains("hunter2"), "{output}");
        assert!(output.contains("Client"), "{output}");
    }
}

#[test]
fn proxy_receives_neither_key_nor_request_and_its_password_is_redacted() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut received = Vec::new();
        let mut buffer = [0; 1024];
        while !received.windows(4).any(|part| part == b"\r\n\r\n") {
            let read = stream.read(&mut buffer).unwrap();
            received.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").unwrap();
        String::from_utf8(received).unwrap()
    });
    let client = Client::builder("the-secret-key")
        .base_url("https://api.example.com")
        .proxy(format!("http://me:hunter2@{address}"))
        .retry_policy(RetryPolicy::none())
        .build()
        .unwrap();
    let error = client.balance().unwrap_err();
    let received = proxy.join().unwrap();
    assert!(received.starts_with("CONNECT api.example.com:443 "), "{received}");
    assert!(!received.contains("the-secret-key") && !received.contains("billing"), "{received}");
    assert_eq!(error.kind(), ErrorKind::Connect);
    let output = full_error_output(&error);
    assert!(!output.contains("hunter2") && !output.contains("the-secret-key"), "{output}");
}

#[test]
fn loopback_bypasses_the_configured_proxy() {
    let sandbox = sandbox();
    let dir = tempfile::tempdir().unwrap();
    let client = sandbox.client_builder().proxy("http://127.0.0.1:1").build().unwrap();
    let video = client.generate(&request()).unwrap();
    client.download(&video, dir.path().join("cat.mp4")).unwrap();
}

#[test]
fn loopback_bypasses_the_proxy_from_the_environment() {
    const URL: &str = "KLING_VIDEO_TEST_URL";
    if let Ok(url) = std::env::var(URL) {
        let client = Client::builder("sandbox-key").base_url(url).retry_policy(RetryPolicy::none());
        return emit_result(&client.build().unwrap().balance().unwrap().amount.to_string());
    }
    let sandbox = sandbox();
    let test = "client::loopback_bypasses_the_proxy_from_the_environment";
    for name in ["HTTPS_PROXY", "all_proxy"] {
        let variables = [(URL, &*sandbox.url()), (name, "http://127.0.0.1:1")];
        assert_eq!(run_in_subprocess(test, &variables), "100");
    }
}

#[test]
fn proxy_from_the_environment_is_validated_and_can_be_disabled() {
    const MARKER: &str = "KLING_VIDEO_TEST_PROXY";
    if std::env::var_os(MARKER).is_some() {
        let error = Client::new("key").unwrap_err();
        Client::builder("key").no_proxy().build().unwrap();
        return emit_result(&error.to_string());
    }
    let test = "client::proxy_from_the_environment_is_validated_and_can_be_disabled";
    let variables = [(MARKER, "1"), ("https_proxy", "socks5://me:hunter2@127.0.0.1:1")];
    let message = run_in_subprocess(test, &variables);
    assert!(message.contains("https_proxy") && !message.contains("hunter2"), "{message}");
}

#[test]
fn no_proxy_from_the_environment_is_honored() {
    const HOST: &str = "KLING_VIDEO_TEST_HOST";
    let timeout = Duration::from_millis(200);
    if let Ok(host) = std::env::var(HOST) {
        let client = Client::builder("key").base_url(format!("https://{host}"));
        let client = client.connect_timeout(timeout).idle_timeout(timeout);
        let error =
            client.retry_policy(RetryPolicy::none()).build().unwrap().balance().unwrap_err();
        return emit_result(&format!("{:?}", error.kind()));
    }
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let test = "client::no_proxy_from_the_environment_is_honored";
    for (host, no_proxy, is_proxied) in [
        ("192.0.2.1", "", true),
        ("192.0.2.1", "192.0.2.2,example.com", true),
        ("192.0.2.1", "example.com , 192.0.2.1 ", false),
        ("192.0.2.1", "*", false),
        ("api.video.invalid", "other.invalid", true),
        ("api.video.invalid", "eo.invalid", true),
        ("api.video.invalid", " video.invalid", false),
        ("api.video.invalid", ".video.invalid", false),
        ("api.video.invalid", "*.video.invalid", false),
    ] {
        let variables = [(HOST, host), ("HTTPS_PROXY", &url), ("NO_PROXY", no_proxy)];
        run_in_subprocess(test, &variables);
        assert_eq!(proxy.accept().is_ok(), is_proxied, "{host} with {no_proxy:?}");
    }
}

// ---------------------------------------------------------------- quota, clones and threads

#[test]
fn max_generations_is_shared_by_clones() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_generations(3).build().unwrap();
    let clone = client.clone();
    client.create(&request()).unwrap();
    clone.create(&request()).unwrap();
    clone.clone().create(&request()).unwrap();
    for client in [&client, &clone] {
        let error = client.create(&request()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::GenerationLimit);
        assert!(error.to_string().contains('3'), "{error}");
        assert!(!error.is_retryable() && !error.may_have_been_billed());
    }
    assert_eq!(sandbox.request_count(Endpoint::Create), 3);
}

#[test]
fn max_generations_of_zero_sends_nothing() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_generations(0).build().unwrap();
    assert_eq!(client.generate(&request()).unwrap_err().kind(), ErrorKind::GenerationLimit);
    assert_eq!(sandbox.connection_count(), 0);
}

#[test]
fn max_generations_holds_for_concurrent_creates() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_generations(5).build().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| drop(client.create(&request())));
        }
    });
    assert_eq!(sandbox.generations().len(), 5);
}

#[test]
fn client_can_be_shared_by_32_threads() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    let ids: BTreeSet<GenerationId> = std::thread::scope(|scope| {
        let work = || {
            let video = client.generate(&request()).unwrap();
            assert_eq!(client.retrieve(&video.id).unwrap().video.unwrap().url, video.url);
            video.id
        };
        let threads: Vec<_> = (0..32).map(|_| scope.spawn(work)).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let created: BTreeSet<GenerationId> =
        sandbox.generations().iter().map(|generation| id(&generation.id)).collect();
    assert_eq!(ids.len(), 32);
    assert_eq!(ids, created);
}

// ---------------------------------------------------------------- connections

#[test]
fn connection_is_reused_by_polls() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(20);
    let client = sandbox.client_builder().build().unwrap();
    let id = client.create(&request()).unwrap().id;
    assert_eq!(sandbox.connection_count(), 1);
    client.wait(&id).unwrap();
    client.balance().unwrap();
    assert_eq!(sandbox.connection_count(), 2);
}

#[test]
fn connection_is_shared_by_clones() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    client.balance().unwrap();
    client.clone().balance().unwrap();
    assert_eq!(sandbox.connection_count(), 1);
}

#[test]
fn connection_of_a_create_is_always_new() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    client.balance().unwrap();
    for connections in 2..5 {
        client.create(&request()).unwrap();
        assert_eq!(sandbox.connection_count(), connections);
    }
}

#[test]
fn connection_closed_by_the_server_is_replaced() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    for _ in 0..5 {
        sandbox.fault(Endpoint::Billing, Fault::close_after_response(), 1);
        client.balance().unwrap();
    }
}

// ---------------------------------------------------------------- redirects

#[test]
fn redirect_of_a_read_is_an_error() {
    for status in [301, 302, 303, 307, 308] {
        let sandbox = sandbox();
        let other = self::sandbox();
        let location = format!("{}/v2/billing", other.url());
        sandbox.fault(Endpoint::Billing, Fault::redirect(status, location), 1);
        let error = sandbox.client_builder().build().unwrap().balance().unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!((sandbox.requests().len(), other.connection_count()), (1, 0));
    }
}

#[test]
fn redirect_of_a_create_is_an_error() {
    for status in [301, 302, 303, 307, 308] {
        let sandbox = sandbox();
        let other = self::sandbox();
        let location = format!("{}/v2/generate/video/kling/generation", other.url());
        sandbox.fault(Endpoint::Create, Fault::redirect(status, location), 1);
        let error = sandbox.client_builder().build().unwrap().create(&request()).unwrap_err();
        assert_eq!(error.status(), Some(status));
        assert_eq!((sandbox.requests().len(), other.connection_count()), (1, 0));
    }
}

// ---------------------------------------------------------------- types

#[test]
fn error_is_the_size_of_a_pointer() {
    assert_eq!(size_of::<Error>(), size_of::<usize>());
    assert_eq!(size_of::<Option<Error>>(), size_of::<usize>());
}

#[test]
fn public_types_are_send_and_sync() {
    fn assert_send_sync<T: Send + Sync>() {}
    assert_send_sync::<Balance>();
    assert_send_sync::<CameraControl>();
    assert_send_sync::<CancelToken>();
    assert_send_sync::<Client>();
    assert_send_sync::<ClientBuilder>();
    assert_send_sync::<DynamicMask>();
    assert_send_sync::<Endpoint>();
    assert_send_sync::<Error>();
    assert_send_sync::<ErrorKind>();
    assert_send_sync::<Event<'static>>();
    assert_send_sync::<Fault>();
    assert_send_sync::<Generation>();
    assert_send_sync::<GenerationError>();
    assert_send_sync::<GenerationId>();
    assert_send_sync::<Image>();
    assert_send_sync::<ImageToVideo>();
    assert_send_sync::<InvalidGenerationId>();
    assert_send_sync::<RetryPolicy>();
    assert_send_sync::<Route>();
    assert_send_sync::<Sandbox>();
    assert_send_sync::<RecordedGeneration>();
    assert_send_sync::<RecordedRequest>();
    assert_send_sync::<SavedVideo>();
    assert_send_sync::<Status>();
    assert_send_sync::<ResponseMetadata>();
    assert_send_sync::<Usage>();
    assert_send_sync::<Video>();
    assert_send_sync::<VideoDuration>();
    assert_send_sync::<WaitOptions>();
}

#[test]
fn error_converts_into_a_boxed_error_and_back() {
    let boxed: Box<dyn std::error::Error + Send + Sync + 'static> =
        Client::new("").unwrap_err().into();
    assert_eq!(boxed.downcast::<Error>().unwrap().kind(), ErrorKind::Config);
}

#[test]
fn generation_id_must_not_be_empty_or_contain_control_characters() {
    for invalid in ["", "a\n", "\0", "a\u{85}"] {
        assert!(invalid.parse::<GenerationId>().is_err(), "{invalid:?}");
    }
    let error = "".parse::<GenerationId>().unwrap_err();
    assert_eq!(error_chain(&error).len(), 1);
    let id = id("60ac7c34:kling/v2.1");
    assert_eq!((id.as_ref(), id.to_string().as_str()), ("60ac7c34:kling/v2.1", id.as_ref()));
    assert_eq!(format!("{id:?} {id:>20}|"), "\"60ac7c34:kling/v2.1\"  60ac7c34:kling/v2.1|");
}
