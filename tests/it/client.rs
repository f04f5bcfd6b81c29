//! The client: complete jobs from image to video, settings, secrets and connections.

use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, RecordedGeneration, RecordedRequest, Sandbox};
use kling_video::{
    Balance, CameraControl, CancelToken, Client, ClientBuilder, DynamicMask, Error, ErrorKind,
    Event, EventKind, Generation, GenerationError, GenerationId, Image, ImageToVideo,
    InvalidGenerationId, Operation, ResponseMetadata, RetryPolicy, Route, SavedVideo, Status,
    Usage, Video, VideoDuration, WaitOptions,
};

use crate::helpers::clients::{id, no_retry_client, request, sandbox, test_client, video_at};
use crate::helpers::error_output::{error_chain, full_error_output};
use crate::helpers::events::{record_event_names, record_events};
use crate::helpers::files::{TestDir, fixture};
use crate::helpers::media::png_of_len;
use crate::helpers::subprocess::{emit_result, run_in_subprocess};

const SECRET: &str = "hunter2-hunter2";

// ---------------------------------------------------------------- complete jobs

#[test]
fn job_turns_an_image_into_a_video_file() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
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
    sandbox.set_status_sequence(["queued", "waiting", "active", "generating", "completed"]);
    let (client, recording) = record_event_names(sandbox.client_builder());
    let video = client.generate(&ImageToVideo::new(fixture("image.png"))).unwrap();
    client.download(&video, TestDir::new().target).unwrap();
    assert_eq!(
        recording.names(),
        [
            "uploading",
            "created",
            "polled queued",
            "polled waiting",
            "polled active",
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
    let other_client = test_client(&sandbox);
    assert_eq!(other_client.wait(&loaded).unwrap().id, created.id);
}

#[test]
fn upload_progress_is_reported_up_to_the_last_byte() {
    let sandbox = sandbox();
    let (client, recording) = record_events(sandbox.client_builder(), |event| match event.kind {
        EventKind::Uploading { sent, total, .. } => {
            Some((sent, total, event.client_request_id.unwrap_or_default().to_owned()))
        }
        _ => None,
    });
    let image = Image::bytes(png_of_len(500_000));
    client.create(&ImageToVideo::new(image).client_request_id("order-4711")).unwrap();
    let events = recording.take();
    let total = sandbox.requests()[0].body_bytes;
    assert!(events.len() > 3, "{events:?}");
    assert!(events.is_sorted_by(|one, next| one.0 < next.0), "{events:?}");
    assert_eq!(events.last().unwrap().0, total);
    assert!(events.iter().all(|(_, of, id)| id == "order-4711" && *of == total), "{events:?}");
}

#[test]
fn balance_is_returned_with_its_currency() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    for amount in [0.25, 0.0, 12_345.678] {
        sandbox.set_balance(amount);
        let balance = client.balance().unwrap();
        assert_eq!((balance.amount, balance.currency.as_str()), (amount, "USD"));
    }
    assert_eq!(sandbox.requests()[0].target, "/v2/billing");
}

#[test]
fn user_agent_is_sent_with_every_request() {
    let sandbox = sandbox();
    no_retry_client(&sandbox).balance().unwrap();
    let client = sandbox.client_builder().user_agent("cats/1.0").build().unwrap();
    client.create(&request()).unwrap();
    sandbox.client_builder().user_agent("").build().unwrap().balance().unwrap();
    let requests = sandbox.requests();
    let version = concat!("kling-video/", env!("CARGO_PKG_VERSION"));
    assert_eq!(requests[0].header("user-agent"), Some(version));
    assert_eq!(requests[1].header("user-agent"), Some("cats/1.0"));
    assert_eq!(requests[2].header("user-agent"), None);
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
    // The sandbox has no endpoint under another path.
    for (base, target, status) in
        [("/", "/v2/billing", None), ("/proxy//", "/proxy/v2/billing", Some(404))]
    {
        let url = format!("{}{base}", sandbox.url());
        let client = sandbox.client_builder().base_url(url).build().unwrap();
        let error = client.balance().err();
        assert_eq!(error.and_then(|error| error.status()), status, "{base}");
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
    assert!(!output.contains("hunter2") && !output.contains("Evil"), "{output}");
    assert!(error.to_string().contains(setting), "{setting} is not in {error}");
}

fn builder() -> ClientBuilder {
    Client::builder(SECRET)
}

#[test]
fn base_url_must_be_https_or_loopback() {
    for url in [
        "http://api.aimlapi.com",
        "HTTP://api.aimlapi.com",
        "http://127.0.0.1.example.com",
        "http://localhost.example.com",
        "http://example.com/127.0.0.1",
        "http://example.com#@127.0.0.1",
        "http://127.0.0.1@example.com",
        "http://192.168.0.1",
        "http://0.0.0.0",
        "http://0.0.0.0:80",
        "http://2130706433",
        "http://[2001:db8::1]",
        "http://[::2]",
        "http://[::ffff:10.0.0.1]",
        "ftp://127.0.0.1",
        "ws://127.0.0.1",
        "file:///etc/passwd",
    ] {
        assert_rejected(builder().base_url(url), "base_url");
    }
    for url in [
        "https://api.aimlapi.com",
        "https://192.168.0.1:8443/path",
        "http://127.0.0.1:8080",
        "http://127.9.9.9",
        "http://127.8.9.10:1/api/",
        "http://localhost",
        "http://LOCALHOST:1",
        "http://[::1]:8080",
    ] {
        builder().base_url(url).no_proxy().build().unwrap();
    }
}

#[test]
fn base_url_must_be_absolute() {
    for url in ["", "api.aimlapi.com", "127.0.0.1", "https://", "/v2", "https:// a", "not a url"] {
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
    for key in [
        "",
        " ",
        "hunter2\0hunter2",
        "hünter2",
        " hunter2-hunter2",
        "hunter2-hunter2 ",
        "\thunter2-hunter2",
        "hunter2-hunter2\t",
        "hunter2-hunter2\r",
        "hunter2-hunter2\n",
        "hunter2-hunter2\r\nX-Evil: 1",
        "hunter2-hunter2\0",
        "hunter2-hunter2\u{7f}",
        "hunter2-hunter2\u{85}",
        "hunter2-hunter2é",
        "hunter2-hunter2\u{202e}",
        "hunter2-hunter2\u{feff}",
        "\u{a0}hunter2-hunter2",
        "hunter2-hunter2\u{3000}",
    ] {
        assert_rejected(Client::builder(key), "API key");
        let error = Client::new(key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config, "{key:?}");
        let output = full_error_output(&error);
        assert!(!output.contains("hunter2") && !output.contains("Evil"), "{output}");
    }
}

#[test]
fn user_agent_must_be_a_valid_header_value() {
    assert_rejected(builder().user_agent("cats\r\nX-Evil: 1"), "user_agent");
}

#[test]
fn proxy_must_be_http_or_https() {
    for scheme in ["socks", "socks4", "socks4a", "socks5", "socks5h", "SOCKS5"] {
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

// ---------------------------------------------------------------- connections

#[test]
fn connection_is_reused_by_polls() {
    let sandbox = sandbox();
    sandbox.complete_after_polls(20);
    let client = test_client(&sandbox);
    let id = client.create(&request()).unwrap().id;
    assert_eq!(sandbox.connection_count(), 1);
    client.wait(&id).unwrap();
    client.balance().unwrap();
    assert_eq!(sandbox.connection_count(), 2);
}

#[test]
fn connection_is_shared_by_clones() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    client.balance().unwrap();
    client.clone().balance().unwrap();
    assert_eq!(sandbox.connection_count(), 1);
}

// ---------------------------------------------------------------- redirects

#[test]
fn redirect_of_a_read_is_an_error() {
    for status in [301, 302, 303, 307, 308] {
        let sandbox = sandbox();
        let other = self::sandbox();
        let location = format!("{}/v2/billing", other.url());
        sandbox.fault(Endpoint::Billing, Fault::redirect(status, location), 1);
        let error = test_client(&sandbox).balance().unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
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
