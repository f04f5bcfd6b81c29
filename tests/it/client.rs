//! The client as a whole: the job from picture to video, its settings, its secrets, its limits.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kling_video::{
    Balance, CameraControl, CancelToken, Client, ClientBuilder, DynamicMask, Endpoint, Error,
    ErrorKind, Event, Fault, Generation, GenerationError, GenerationId, Image, ImageToVideo,
    InvalidGenerationId, RetryPolicy, Route, Sandbox, SandboxGeneration, SandboxRequest, Saved,
    Status, Trace, Usage, Video, VideoLength, WaitOptions,
};

use crate::child::{rerun, say};
use crate::common::{
    chain, everything_shown, fixture, id, once, png, request, sandbox, video_at, watched,
};

const SECRET: &str = "hunter2-hunter2";

// ---------------------------------------------------------------- the whole job

#[test]
fn a_picture_becomes_a_video_in_a_file() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    let picture = fixture("picture.jpg");
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("cat.mp4");

    let request = ImageToVideo::new(Image::file(&picture)).prompt("the cat yawns");
    let generation = client.create(&request).unwrap();
    let video = client.wait(&generation.id).unwrap();
    let bytes = client.download(&video, &target).unwrap();

    assert_eq!(generation.status, Status::Queued);
    assert_eq!(bytes, sandbox.video().len() as u64);
    assert!(std::fs::read(&target).unwrap() == sandbox.video());
    let created = &sandbox.generations()[..];
    assert_eq!(created.len(), 1);
    assert_eq!(created[0].id, generation.id.as_ref());
    assert_eq!(created[0].picture, Some(std::fs::read(&picture).unwrap()));
}

#[test]
fn the_whole_job_tells_its_events_in_order() {
    let sandbox = sandbox();
    let (client, seen) = watched(sandbox.client_builder());
    let folder = tempfile::tempdir().unwrap();
    let video = client.generate(&ImageToVideo::new(fixture("picture.png"))).unwrap();
    client.download(&video, folder.path().join("cat.mp4")).unwrap();
    assert_eq!(
        seen.words(),
        [
            "uploading",
            "created",
            "polled queued",
            "polled generating",
            "polled completed",
            "downloading",
        ]
    );
}

#[test]
fn another_process_can_carry_on_with_nothing_but_the_id() {
    let sandbox = sandbox();
    let created = once(&sandbox).create(&request()).unwrap();
    let kept = serde_json::to_string(&created.id).unwrap();
    let read: GenerationId = serde_json::from_str(&kept).unwrap();
    let elsewhere = sandbox.client_builder().build().unwrap();
    assert_eq!(elsewhere.wait(&read).unwrap().id, created.id);
}

#[test]
fn an_upload_is_told_up_to_its_last_byte() {
    let sandbox = sandbox();
    let seen: Arc<Mutex<Vec<(String, u64, u64)>>> = Arc::default();
    let noted = Arc::clone(&seen);
    let client = sandbox.client_builder().on_event(move |event| {
        if let Event::Uploading { client_request_id, sent, total, .. } = event {
            noted.lock().unwrap().push((client_request_id.to_string(), *sent, *total));
        }
    });
    let image = Image::bytes(png(400, 300, 500_000));
    let request = ImageToVideo::new(image).client_request_id("order-4711");
    client.build().unwrap().create(&request).unwrap();
    let seen = seen.lock().unwrap();
    let total = sandbox.requests()[0].body_bytes;
    assert!(seen.len() > 3, "{seen:?}");
    assert!(seen.is_sorted_by(|one, next| one.1 < next.1), "{seen:?}");
    assert_eq!(seen.last().unwrap().1, total);
    assert!(seen.iter().all(|(id, _, of)| id == "order-4711" && *of == total), "{seen:?}");
}

#[test]
fn the_balance_is_the_accounts() {
    let sandbox = sandbox();
    sandbox.balance(0.25);
    let balance = once(&sandbox).balance().unwrap();
    assert_eq!((balance.amount, balance.currency.as_str()), (0.25, "USD"));
}

#[test]
fn every_request_says_who_asks() {
    let sandbox = sandbox();
    once(&sandbox).balance().unwrap();
    let own = sandbox.client_builder().user_agent("cats/1.0").build().unwrap();
    own.create(&request()).unwrap();
    let seen = sandbox.requests();
    let version = concat!("kling-video/", env!("CARGO_PKG_VERSION"));
    assert_eq!(seen[0].header("user-agent"), Some(version));
    assert_eq!(seen[1].header("user-agent"), Some("cats/1.0"));
}

/// The HTTP library has to fit each line of a request into a buffer.
#[test]
fn a_line_of_a_request_may_be_long() {
    let sandbox = sandbox();
    let agent = "long ".repeat(1_200);
    let client = sandbox.client_builder().user_agent(agent.trim_end()).build().unwrap();
    let video = client.generate(&request()).unwrap();
    assert!(
        sandbox.requests().iter().all(|seen| seen.header("user-agent") == Some(agent.trim_end()))
    );
    let folder = tempfile::tempdir().unwrap();
    sandbox.fault(Endpoint::Video, Fault::reply(200, sandbox.video()), 1);
    let signed = format!("{}&signature={}", video.url, "a".repeat(8_000));
    let bytes = client.download(&video_at(&signed), folder.path().join("cat.mp4")).unwrap();
    assert_eq!(bytes, sandbox.video().len() as u64);
}

#[test]
fn a_base_url_may_end_with_a_slash_and_have_a_path() {
    let sandbox = sandbox();
    for (base, target) in [("/", "/v2/billing"), ("/proxy//", "/proxy/v2/billing")] {
        let url = format!("{}{base}", sandbox.url());
        let client = sandbox.client_builder().base_url(url).build().unwrap();
        let _ = client.balance();
        assert_eq!(sandbox.requests().pop().unwrap().target, target);
    }
}

// ---------------------------------------------------------------- the key in the environment

/// Which variables hold a key that can be used; the others' cannot, so that using one is seen.
fn from_env(variables: &[(&str, &str)]) -> String {
    rerun("client::from_env_takes_the_first_key_that_is_set", variables)
}

#[test]
fn from_env_takes_the_first_key_that_is_set() {
    const CHILD: &str = "KLING_VIDEO_TEST_FROM_ENV";
    if std::env::var_os(CHILD).is_some() {
        return say(&match Client::from_env() {
            Ok(_) => "a client".to_owned(),
            Err(error) => format!("{:?}: {error}", error.kind()),
        });
    }
    let child = (CHILD, "1");
    let (good, bad) = ("a-good-key", " hunter2-hunter2");
    let [first, second, third] = ["AIML_API_KEY", "AIMLAPI_API_KEY", "AIMLAPI_KEY"];
    for variables in [
        [(first, good), (second, bad), (third, bad)],
        [(first, ""), (second, good), (third, bad)],
        [(first, ""), (second, ""), (third, good)],
    ] {
        let said = from_env(&[&variables[..], &[child]].concat());
        assert_eq!(said, "a client", "{variables:?}");
    }
    for variables in
        [[(first, bad), (second, good), (third, good)], [(first, ""), (second, bad), (third, good)]]
    {
        let said = from_env(&[&variables[..], &[child]].concat());
        assert!(said.starts_with("Config: ") && !said.contains(SECRET), "{said}");
    }
    let said = from_env(&[child]);
    assert!(said.starts_with("Config: "), "{said}");
    assert!([first, second, third].iter().all(|name| said.contains(name)), "{said}");
}

// ---------------------------------------------------------------- settings that are refused

/// The message of a setting that is refused, which never shows a secret.
fn refused(builder: ClientBuilder, setting: &str) -> String {
    assert!(!format!("{builder:?}").contains(SECRET), "{builder:?}");
    let error = builder.build().unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Config, "build"));
    let shown = everything_shown(&error);
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(error.to_string().contains(setting), "{setting} is not in {error}");
    shown
}

fn builder() -> ClientBuilder {
    Client::builder(SECRET)
}

#[test]
fn a_base_url_is_https_or_on_the_loopback() {
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
        refused(builder().base_url(url), "base_url");
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
fn a_base_url_is_a_whole_one() {
    for url in ["", "api.aimlapi.com", "https://", "/v2", "https:// a", "not a url"] {
        refused(builder().base_url(url), "base_url");
    }
}

#[test]
fn a_base_url_holds_no_user_name() {
    for url in
        ["https://me:hunter2@example.com", "https://hunter2@example.com", "http://a@127.0.0.1"]
    {
        refused(builder().base_url(url), "base_url");
    }
}

#[test]
fn a_base_url_holds_no_query() {
    for url in ["https://example.com?key=hunter2", "https://example.com/#hunter2"] {
        refused(builder().base_url(url), "base_url");
    }
}

#[test]
fn a_key_is_visible_ascii_text() {
    for key in ["", " ", "hunter2\n", "\thunter2", "hun\0ter2", "hünter2", "hunter2 ", "h\u{7f}"] {
        refused(Client::builder(key), "API key");
        assert_eq!(Client::new(key).unwrap_err().kind(), ErrorKind::Config);
    }
}

#[test]
fn a_user_agent_is_one_that_a_header_can_carry() {
    refused(builder().user_agent("cats\r\nX-Evil: 1"), "user_agent");
}

#[test]
fn a_proxy_is_http_or_https() {
    for scheme in ["socks4", "socks4a", "socks5", "socks"] {
        refused(builder().proxy(format!("{scheme}://me:hunter2@127.0.0.1:1080")), "proxy");
    }
    for proxy in ["", "ftp://me:hunter2@127.0.0.1:1", "http://me:hunter2@", "http://hunter2:x:y"] {
        refused(builder().proxy(proxy), "proxy");
    }
    for proxy in ["http://me:hunter2@127.0.0.1:3128", "https://proxy.example.com", "127.0.0.1:1"] {
        builder().proxy(proxy).build().unwrap();
    }
}

#[test]
fn a_time_out_is_more_than_nothing() {
    refused(builder().connect_timeout(Duration::ZERO), "connect_timeout");
    refused(builder().idle_timeout(Duration::ZERO), "idle_timeout");
}

#[test]
fn endless_time_outs_are_allowed() {
    let sandbox = sandbox();
    let endless =
        sandbox.client_builder().connect_timeout(Duration::MAX).idle_timeout(Duration::MAX);
    endless.build().unwrap().generate(&request()).unwrap();
}

#[test]
fn root_certificates_are_certificates() {
    let begin = "-----BEGIN CERTIFICATE-----";
    let end = "-----END CERTIFICATE-----";
    for pem in [
        "",
        "no PEM at all",
        "-----BEGIN PRIVATE KEY-----\naHVudGVyMg==\n-----END PRIVATE KEY-----\n",
        &format!("{begin}\naHVudGVyMg==\n{end}\n"),
        &format!("{begin}\n@@@\n{end}\n"),
        &format!("{begin}\n\n{end}\n"),
        &format!("{begin}\naHVudGVyMg=="),
    ] {
        refused(builder().root_certificates_pem(pem.as_bytes()), "root_certificates_pem");
    }
}

// ---------------------------------------------------------------- secrets

#[test]
fn debug_shows_no_secret() {
    let proxied = || builder().proxy("http://me:hunter2@127.0.0.1:3128");
    let client = proxied().build().unwrap();
    for shown in [format!("{:?}", proxied()), format!("{client:?}"), format!("{client:#?}")] {
        assert!(!shown.contains("hunter2"), "{shown}");
        assert!(shown.contains("Client"), "{shown}");
    }
}

#[test]
fn a_proxy_sees_neither_the_key_nor_the_request_and_its_password_is_not_shown() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let proxy = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut heard = Vec::new();
        let mut buffer = [0; 1024];
        while !heard.windows(4).any(|part| part == b"\r\n\r\n") {
            let read = stream.read(&mut buffer).unwrap();
            heard.extend_from_slice(&buffer[..read]);
        }
        stream.write_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").unwrap();
        String::from_utf8(heard).unwrap()
    });
    let client = Client::builder("the-secret-key")
        .base_url("https://api.example.com")
        .proxy(format!("http://me:hunter2@{address}"))
        .retry(RetryPolicy::none())
        .build()
        .unwrap();
    let error = client.balance().unwrap_err();
    let heard = proxy.join().unwrap();
    assert!(heard.starts_with("CONNECT api.example.com:443 "), "{heard}");
    assert!(!heard.contains("the-secret-key") && !heard.contains("billing"), "{heard}");
    assert_eq!(error.kind(), ErrorKind::Connect);
    let shown = everything_shown(&error);
    assert!(!shown.contains("hunter2") && !shown.contains("the-secret-key"), "{shown}");
}

#[test]
fn the_loopback_is_reached_without_the_proxy_that_is_set() {
    let sandbox = sandbox();
    let folder = tempfile::tempdir().unwrap();
    let client = sandbox.client_builder().proxy("http://127.0.0.1:1").build().unwrap();
    let video = client.generate(&request()).unwrap();
    client.download(&video, folder.path().join("cat.mp4")).unwrap();
}

#[test]
fn the_loopback_is_reached_without_the_proxy_of_the_environment() {
    const URL: &str = "KLING_VIDEO_TEST_URL";
    if let Ok(url) = std::env::var(URL) {
        let client = Client::builder("sandbox-key").base_url(url).retry(RetryPolicy::none());
        return say(&client.build().unwrap().balance().unwrap().amount.to_string());
    }
    let sandbox = sandbox();
    let test = "client::the_loopback_is_reached_without_the_proxy_of_the_environment";
    for name in ["HTTPS_PROXY", "all_proxy"] {
        let variables = [(URL, &*sandbox.url()), (name, "http://127.0.0.1:1")];
        assert_eq!(rerun(test, &variables), "100");
    }
}

#[test]
fn a_proxy_of_the_environment_is_checked_and_can_be_declined() {
    const CHILD: &str = "KLING_VIDEO_TEST_PROXY";
    if std::env::var_os(CHILD).is_some() {
        let refused = Client::new("key").unwrap_err();
        Client::builder("key").no_proxy().build().unwrap();
        return say(&refused.to_string());
    }
    let test = "client::a_proxy_of_the_environment_is_checked_and_can_be_declined";
    let said = rerun(test, &[(CHILD, "1"), ("https_proxy", "socks5://me:hunter2@127.0.0.1:1")]);
    assert!(said.contains("https_proxy") && !said.contains("hunter2"), "{said}");
}

#[test]
fn the_exceptions_of_the_environment_are_reached_without_its_proxy() {
    const HOST: &str = "KLING_VIDEO_TEST_HOST";
    let moment = Duration::from_millis(200);
    if let Ok(host) = std::env::var(HOST) {
        let client = Client::builder("key").base_url(format!("https://{host}"));
        let client = client.connect_timeout(moment).idle_timeout(moment);
        let error = client.retry(RetryPolicy::none()).build().unwrap().balance().unwrap_err();
        return say(&format!("{:?}", error.kind()));
    }
    let proxy = TcpListener::bind("127.0.0.1:0").unwrap();
    proxy.set_nonblocking(true).unwrap();
    let url = format!("http://{}", proxy.local_addr().unwrap());
    let test = "client::the_exceptions_of_the_environment_are_reached_without_its_proxy";
    for (host, exceptions, asked) in [
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
        let variables = [(HOST, host), ("HTTPS_PROXY", &url), ("NO_PROXY", exceptions)];
        rerun(test, &variables);
        assert_eq!(proxy.accept().is_ok(), asked, "{host} with {exceptions:?}");
    }
}

// ---------------------------------------------------------------- limits, clones and threads

#[test]
fn clones_share_the_limit_of_creates() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_creates(3).build().unwrap();
    let clone = client.clone();
    client.create(&request()).unwrap();
    clone.create(&request()).unwrap();
    clone.clone().create(&request()).unwrap();
    for client in [&client, &clone] {
        let error = client.create(&request()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CreateLimit);
        assert!(error.to_string().contains('3'), "{error}");
        assert!(!error.is_retryable() && !error.may_have_been_billed());
    }
    assert_eq!(sandbox.count(Endpoint::Create), 3);
}

#[test]
fn a_limit_of_none_sends_nothing() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_creates(0).build().unwrap();
    assert_eq!(client.generate(&request()).unwrap_err().kind(), ErrorKind::CreateLimit);
    assert_eq!(sandbox.connections(), 0);
}

#[test]
fn the_limit_holds_for_threads_at_once() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_creates(5).build().unwrap();
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| drop(client.create(&request())));
        }
    });
    assert_eq!(sandbox.generations().len(), 5);
}

#[test]
fn a_client_can_be_shared_by_32_threads() {
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
fn polls_share_one_connection() {
    let sandbox = sandbox();
    sandbox.finish_after(20);
    let client = sandbox.client_builder().build().unwrap();
    let id = client.create(&request()).unwrap().id;
    assert_eq!(sandbox.connections(), 1);
    client.wait(&id).unwrap();
    client.balance().unwrap();
    assert_eq!(sandbox.connections(), 2);
}

#[test]
fn clones_share_connections() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    client.balance().unwrap();
    client.clone().balance().unwrap();
    assert_eq!(sandbox.connections(), 1);
}

#[test]
fn every_create_has_a_connection_of_its_own() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    client.balance().unwrap();
    for connections in 2..5 {
        client.create(&request()).unwrap();
        assert_eq!(sandbox.connections(), connections);
    }
}

#[test]
fn a_connection_that_the_server_has_closed_is_made_again() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    for _ in 0..5 {
        sandbox.fault(Endpoint::Billing, Fault::close_after_reply(), 1);
        client.balance().unwrap();
    }
}

// ---------------------------------------------------------------- redirects

#[test]
fn a_read_that_is_redirected_is_refused() {
    for status in [301, 302, 303, 307, 308] {
        let sandbox = sandbox();
        let elsewhere = self::sandbox();
        let location = format!("{}/v2/billing", elsewhere.url());
        sandbox.fault(Endpoint::Billing, Fault::redirect(status, location), 1);
        let error = sandbox.client_builder().build().unwrap().balance().unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!((sandbox.requests().len(), elsewhere.connections()), (1, 0));
    }
}

#[test]
fn a_create_that_is_redirected_is_not_followed() {
    for status in [301, 302, 303, 307, 308] {
        let sandbox = sandbox();
        let elsewhere = self::sandbox();
        let location = format!("{}/v2/generate/video/kling/generation", elsewhere.url());
        sandbox.fault(Endpoint::Create, Fault::redirect(status, location), 1);
        let error = sandbox.client_builder().build().unwrap().create(&request()).unwrap_err();
        assert_eq!(error.status(), Some(status));
        assert_eq!((sandbox.requests().len(), elsewhere.connections()), (1, 0));
    }
}

// ---------------------------------------------------------------- types

#[test]
fn an_error_is_one_word() {
    assert_eq!(size_of::<Error>(), size_of::<usize>());
    assert_eq!(size_of::<Option<Error>>(), size_of::<usize>());
}

#[test]
fn every_public_type_can_cross_threads() {
    fn crosses<T: Send + Sync>() {}
    crosses::<Balance>();
    crosses::<CameraControl>();
    crosses::<CancelToken>();
    crosses::<Client>();
    crosses::<ClientBuilder>();
    crosses::<DynamicMask>();
    crosses::<Endpoint>();
    crosses::<Error>();
    crosses::<ErrorKind>();
    crosses::<Event<'static>>();
    crosses::<Fault>();
    crosses::<Generation>();
    crosses::<GenerationError>();
    crosses::<GenerationId>();
    crosses::<Image>();
    crosses::<ImageToVideo>();
    crosses::<InvalidGenerationId>();
    crosses::<RetryPolicy>();
    crosses::<Route>();
    crosses::<Sandbox>();
    crosses::<SandboxGeneration>();
    crosses::<SandboxRequest>();
    crosses::<Saved>();
    crosses::<Status>();
    crosses::<Trace>();
    crosses::<Usage>();
    crosses::<Video>();
    crosses::<VideoLength>();
    crosses::<WaitOptions>();
}

#[test]
fn an_error_fits_into_any_box() {
    let boxed: Box<dyn std::error::Error + Send + Sync + 'static> =
        Client::new("").unwrap_err().into();
    assert_eq!(boxed.downcast::<Error>().unwrap().kind(), ErrorKind::Config);
}

#[test]
fn a_generation_id_is_text_without_control_characters() {
    for bad in ["", "a\n", "\0", "a\u{85}"] {
        assert!(bad.parse::<GenerationId>().is_err(), "{bad:?}");
    }
    let error = "".parse::<GenerationId>().unwrap_err();
    assert_eq!(chain(&error).len(), 1);
    let id = id("60ac7c34:kling/v2.1");
    assert_eq!((id.as_ref(), id.to_string().as_str()), ("60ac7c34:kling/v2.1", id.as_ref()));
    assert_eq!(format!("{id:?} {id:>20}|"), "\"60ac7c34:kling/v2.1\"  60ac7c34:kling/v2.1|");
}
