//! The API key and the image never appear in results, errors, events, files or other requests, even
//! if a server sends them back.

use std::error::Error as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use kling_video::sandbox::{Endpoint, Fault};
use kling_video::{
    Client, Error, ErrorKind, Generation, Image, ImageToVideo, RetryPolicy, WaitOptions,
};
use serde_json::json;

use crate::common::fixture;
use crate::matrix::{ClientCall, Fixture, fault_cases, in_parallel, perform};

/// Has the form of a real key, and does not occur in anything else here.
const KEY: &str = "c0ffee5ec2e7c0de8badf00ddeadfa11";

/// The length of the searched parts of the image: too long for a coincidence, but short enough to
/// occur in a truncated image.
const PART_LEN: usize = 24;

fn image() -> Vec<u8> {
    std::fs::read(fixture("image.png")).unwrap()
}

fn image_request() -> ImageToVideo {
    ImageToVideo::new(Image::bytes(image())).prompt("the cat yawns")
}

/// Byte strings that must not appear anywhere, each with its name.
struct Secrets(Vec<(&'static str, Vec<u8>)>);

impl Secrets {
    fn new() -> Secrets {
        let image = image();
        let base64 = BASE64_STANDARD.encode(&image);
        // From the middle, because the start is the same in every PNG.
        let middle = base64.len() / 2;
        Secrets(vec![
            ("the key", KEY.into()),
            ("the key's start", KEY[..20].into()),
            ("the key's end", KEY[12..].into()),
            ("the key in base64", BASE64_STANDARD.encode(KEY).into_bytes()),
            ("the image in base64", base64[middle..middle + PART_LEN].into()),
            ("the image's start in base64", base64[24..24 + PART_LEN].into()),
            ("the image", image[image.len() / 2..][..PART_LEN].to_vec()),
            ("the image as an array", format!("{:?}", &image[40..48]).into_bytes()),
        ])
    }

    fn only_key() -> Secrets {
        Secrets(Secrets::new().0.into_iter().filter(|(name, _)| name.contains("key")).collect())
    }

    fn found_in(&self, bytes: &[u8]) -> Option<&'static str> {
        let contains = |secret: &[u8]| bytes.windows(secret.len()).any(|part| part == secret);
        self.0.iter().find(|(_, secret)| contains(secret)).map(|(name, _)| *name)
    }
}

/// Everything that can be printed of an error.
fn error_output(error: &Error) -> String {
    let mut text = format!("{error}\n{error:?}\n{error:#?}\n");
    let mut source = error.source();
    while let Some(cause) = source {
        text += &format!("{cause}\n{cause:?}\n{cause:#?}\n");
        source = cause.source();
    }
    text += &format!(
        "{:?} {:?} {:?} {:?} {:?} {:?} {:?}\n",
        error.generation_id(),
        error.client_request_id(),
        error.server_message(),
        error.request_id(),
        error.field(),
        error.body(),
        error.retry_after(),
    );
    if let Some(generation) = error.generation() {
        text += &generation_output(generation);
    }
    text
}

fn generation_output(generation: &Generation) -> String {
    format!("{generation:?}\n{generation:#?}\n")
}

/// Everything observable of a call, each with the place where it was found.
type Observed = Vec<(String, Vec<u8>)>;

/// Makes the call with the key and the image, and collects everything observable except the API
/// request that has to contain them.
fn observe(fixture: &Fixture, call: ClientCall, retry: RetryPolicy) -> Observed {
    let events = Arc::new(Mutex::new(String::new()));
    let wait = WaitOptions::new()
        .initial_delay(Duration::ZERO)
        .interval(Duration::from_millis(10))
        .timeout(Duration::from_millis(60));
    let client = Client::builder(KEY)
        .base_url(fixture.sandbox.url())
        .no_proxy()
        .retry_policy(retry)
        .idle_timeout(Duration::from_millis(150))
        .wait_options(wait)
        .event_handler({
            let events = Arc::clone(&events);
            move |event| events.lock().unwrap().push_str(&format!("{event:?}\n{event:#?}\n"))
        })
        .build()
        .unwrap();
    let request = image_request();
    let result = catch_unwind(AssertUnwindSafe(|| match call {
        ClientCall::Create | ClientCall::CreateLarge => match client.create(&request) {
            Ok(generation) => generation_output(&generation),
            Err(error) => error_output(&error),
        },
        ClientCall::Retrieve => match client.retrieve(&fixture.completed.id) {
            Ok(generation) => generation_output(&generation),
            Err(error) => error_output(&error),
        },
        _ if call.is_generate_to() => match client.generate_to(&request, fixture.target()) {
            Ok(saved) => format!("{saved:?}"),
            Err(error) => error_output(&error),
        },
        _ => match perform(call, &client, fixture) {
            Ok(returned) => format!("{:?}", returned.id),
            Err(error) => error_output(&error),
        },
    }));
    let text = result.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        text + panic.downcast_ref::<&str>().unwrap_or(&"")
    });
    let events = std::mem::take(&mut *events.lock().unwrap());
    let mut observed: Observed = vec![
        ("the result".to_owned(), text.into_bytes()),
        ("an event".to_owned(), events.into_bytes()),
        ("the client".to_owned(), format!("{client:?} {request:?}").into_bytes()),
    ];
    for file in std::fs::read_dir(fixture.dir()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension != "mp4") {
            observed.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    for request in fixture.sandbox.requests() {
        observed.push(("a URL".to_owned(), request.target.clone().into_bytes()));
        let is_api_request = matches!(
            request.endpoint,
            Some(Endpoint::Create | Endpoint::Retrieve | Endpoint::Logs | Endpoint::Billing)
        );
        for (name, value) in &request.headers {
            if !(is_api_request && name.eq_ignore_ascii_case("authorization")) {
                observed.push((format!("the request header {name}"), value.clone().into_bytes()));
            }
        }
    }
    observed
}

/// The secrets that occur in what was observed.
fn leaks(name: &str, call: ClientCall, secrets: &Secrets, observed: &Observed) -> Vec<String> {
    let leaks = observed.iter().filter_map(|(place, bytes)| {
        let secret = secrets.found_in(bytes)?;
        let text = String::from_utf8_lossy(bytes).chars().take(400).collect::<String>();
        Some(format!("{call:?} × {name}: {secret} is in {place}: {text}"))
    });
    leaks.collect()
}

/// Makes all endpoints but one send valid responses although the key is not the sandbox's.
fn accept_any_key(fixture: &Fixture, except: Endpoint) {
    for call in [ClientCall::Create, ClientCall::Retrieve, ClientCall::Find] {
        let response = fixture.valid_response(call);
        if response.endpoint != except {
            fixture.sandbox.fault(response.endpoint, Fault::response(200, response.body), u32::MAX);
        }
    }
}

fn assert_none(mut leaks: Vec<String>) {
    leaks.sort();
    assert!(leaks.is_empty(), "{} leaks\n{}", leaks.len(), leaks.join("\n"));
}

#[test]
fn key_and_image_do_not_leak_in_any_fault() {
    let fault_cases = fault_cases();
    // One call per endpoint is enough here: the matrix tests the others.
    let calls = [
        ClientCall::Retrieve,
        ClientCall::Wait,
        ClientCall::Find,
        ClientCall::Download,
        ClientCall::GenerateToCreate,
    ];
    let all = fault_cases.iter().flat_map(|case| calls.map(|call| (case, call)));
    let cases: Vec<_> = all.collect();
    let secrets = Secrets::new();
    let found = in_parallel(&cases, |(case, call)| {
        let fixture = Fixture::new();
        accept_any_key(&fixture, call.endpoint());
        let fault = (case.make)(&fixture.valid_response(*call));
        fixture.sandbox.fault(call.endpoint(), fault, case.times.min(3));
        leaks(&case.name, *call, &secrets, &observe(&fixture, *call, RetryPolicy::none()))
    });
    assert_none(found.concat());
}

/// Responses that echo a string, each in another place. `{}` stands for the string.
const ECHOES: [(&str, &str); 24] = [
    ("a message", r#"401 {"message":"invalid key {}","statusCode":401}"#),
    ("a list of messages", r#"400 {"message":["no","{}"],"statusCode":400}"#),
    ("an error's message", r#"403 {"error":{"name":"X","message":"{}"}}"#),
    ("an error's name", r#"403 {"error":{"name":"{}","message":"no"}}"#),
    ("an error's kind", r#"403 {"message":"no","error":{"data":{"kind":"{}"}}}"#),
    ("an error string", r#"500 {"error":"{}"}"#),
    ("a request id", r#"429 {"message":"no","requestId":"{}"}"#),
    ("a transient error", r#"503 {"message":"try later, {}"}"#),
    ("an HTML page", "502 <html>Bad gateway for {}</html>"),
    ("text that is not JSON", "200 what is {}?"),
    ("truncated JSON", r#"200 {"id":"1","status":"queued","key":"{}"#),
    ("a string", r#"200 "{}""#),
    ("an id", r#"200 {"id":"{}","status":"queued"}"#),
    ("a generation_id", r#"200 {"generation_id":"{}","status":"queued"}"#),
    ("a status", r#"200 {"id":"1","status":"{}"}"#),
    ("a failure", r#"200 {"id":"1","status":"error","error":{"name":"{}","message":"{}"}}"#),
    ("a failure of another form", r#"200 {"id":"1","status":"failed","error":{"detail":["{}"]}}"#),
    ("a URL", r#"200 {"id":"1","status":"completed","video":{"url":"https://127.0.0.1:9/{}"}}"#),
    ("an invalid URL", r#"200 {"id":"1","status":"completed","video":{"url":"{}"}}"#),
    ("a file name", r#"200 {"id":"1","status":"generating","video":{"file_name":"{}"}}"#),
    ("an unknown field", r#"200 {"id":"1","status":"queued","image_url":"{}"}"#),
    ("a field name", r#"200 {"id":"1","status":"queued","{}":1}"#),
    ("usage", r#"200 {"id":"1","status":"queued","meta":{"usage":{"of":"{}"}}}"#),
    (
        "a log entry",
        r#"200 {"data":[{"status":"succeeded","client_request_id":"matrix-completed","inference_id":"{}"}]}"#,
    ),
];

/// The calls that parse responses of an API endpoint.
const API_CALLS: [ClientCall; 6] = [
    ClientCall::Create,
    ClientCall::Retrieve,
    ClientCall::Wait,
    ClientCall::Find,
    ClientCall::GenerateToCreate,
    ClientCall::GenerateToPoll,
];

/// The leaks in responses that echo `text`.
fn echo_leaks(text: &str, secrets: &Secrets, calls: &[ClientCall]) -> Vec<String> {
    let all = ECHOES.iter().flat_map(|echo| calls.iter().map(move |call| (echo, *call)));
    let cases: Vec<_> = all.collect();
    let found = in_parallel(&cases, |((name, response), call)| {
        let fixture = Fixture::new();
        accept_any_key(&fixture, call.endpoint());
        let (status, body) = response.split_once(' ').unwrap();
        let fault = Fault::response(status.parse().unwrap(), body.replace("{}", text));
        fixture.sandbox.fault(call.endpoint(), fault, 3);
        let retry = RetryPolicy::new().max_retries(1).base_delay(Duration::from_millis(1));
        leaks(name, *call, secrets, &observe(&fixture, *call, retry))
    });
    found.concat()
}

#[test]
fn key_echoed_by_api_is_redacted() {
    assert_none(echo_leaks(KEY, &Secrets::only_key(), &API_CALLS));
}

#[test]
fn key_echoed_by_video_server_is_redacted() {
    assert_none(echo_leaks(
        KEY,
        &Secrets::only_key(),
        &[ClientCall::Download, ClientCall::GenerateToDownload],
    ));
}

#[test]
fn key_echoed_with_json_escapes_is_redacted() {
    // JSON allows any character to be escaped.
    let escaped = format!("\\u{:04x}{}", u32::from(KEY.as_bytes()[0]), &KEY[1..]);
    assert_none(echo_leaks(&escaped, &Secrets::only_key(), &API_CALLS));
}

/// The image's data URI as a server may echo it: with escaped slashes, as some JSON encoders write
/// it, or as it was sent.
fn image_data_uris() -> [String; 2] {
    let base64 = BASE64_STANDARD.encode(image());
    let uri = format!("data:image/png;base64,{base64}");
    [uri.replace('/', "\\/"), uri]
}

/// The echoes in the text of an error, as opposed to a field of a generation.
const ERROR_ECHOES: [&str; 12] = [
    "a message",
    "a list of messages",
    "an error's message",
    "an error's name",
    "an error's kind",
    "an error string",
    "a request id",
    "a transient error",
    "an HTML page",
    "text that is not JSON",
    "truncated JSON",
    "a log entry",
];

/// The leaks in those responses that echo `text` in a place that is wanted.
fn image_leaks(text: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let calls =
        [ClientCall::Create, ClientCall::Retrieve, ClientCall::Wait, ClientCall::GenerateToCreate];
    let found = echo_leaks(text, &Secrets::new(), &calls);
    let name = |leak: &str| {
        let name = leak.split_once(" × ").and_then(|(_, rest)| rest.split_once(": "));
        name.map(|(name, _)| name.to_owned()).unwrap_or_default()
    };
    found.into_iter().filter(|leak| is_wanted(&name(leak))).collect()
}

#[test]
fn image_echoed_in_error_is_redacted() {
    let in_error = |name: &str| ERROR_ECHOES.contains(&name);
    assert_none(image_data_uris().iter().flat_map(|uri| image_leaks(uri, in_error)).collect());
}

#[test]
fn image_echoed_without_data_uri_prefix_is_redacted() {
    let text = format!("Expected a URL, received {}", BASE64_STANDARD.encode(image()));
    assert_none(image_leaks(&text, |name| ERROR_ECHOES.contains(&name)));
}

#[test]
fn image_echoed_in_generation_is_redacted() {
    let fields = ["an unknown field", "a failure", "a failure of another form"];
    let in_field = |name: &str| fields.contains(&name);
    assert_none(image_data_uris().iter().flat_map(|uri| image_leaks(uri, in_field)).collect());
}

#[test]
fn key_echoed_in_headers_is_redacted() {
    let names = [
        "x-inference-id",
        "x-client-request-id",
        "x-request-id",
        "x-aimlapi-credits-used",
        "retry-after",
        "location",
        "etag",
        "last-modified",
        "content-range",
        "content-type",
        "content-encoding",
        "set-cookie",
        "x-unknown",
    ];
    let heads: Vec<String> = names
        .iter()
        .flat_map(|name| [200, 302, 429, 500].map(|status| (name, status)))
        .map(|(name, status)| {
            format!("HTTP/1.1 {status} x\r\n{name}: {KEY}\r\nContent-Length: 2\r\n\r\n{{}}")
        })
        .chain([
            format!("HTTP/1.1 401 {KEY}\r\nContent-Length: 0\r\n\r\n"),
            format!("{KEY}\r\n\r\n"),
            format!("HTTP/1.1 {KEY}\r\n\r\n"),
            format!("HTTP/1.1 200 x\r\n{KEY}: {KEY}\r\nContent-Length: 2\r\n\r\n{{}}"),
            format!("HTTP/1.1 200 x\r\n{KEY} {KEY}\r\nContent-Length: 2\r\n\r\n{{}}"),
            format!("HTTP/1.1 200 x\r\nContent-Length: {KEY}\r\n\r\n{{}}"),
            format!("HTTP/1.1 200 x\r\nTransfer-Encoding: {KEY}\r\n\r\n{{}}"),
            format!("HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\n{KEY}\r\n{{}}"),
            format!("HTTP/1.1 200 x\r\nTransfer-Encoding: chunked\r\n\r\nx{KEY}\r\n{{}}"),
        ])
        .collect();
    // Not a download: the video's server never receives the key.
    let calls = [
        ClientCall::Create,
        ClientCall::Retrieve,
        ClientCall::Wait,
        ClientCall::Find,
        ClientCall::GenerateToCreate,
    ];
    let all = heads.iter().flat_map(|head| calls.map(|call| (head, call)));
    let cases: Vec<_> = all.collect();
    let found = in_parallel(&cases, |(head, call)| {
        let fixture = Fixture::new();
        accept_any_key(&fixture, call.endpoint());
        fixture.sandbox.fault(call.endpoint(), Fault::raw(head.as_bytes()), 3);
        let observed = observe(&fixture, *call, RetryPolicy::none());
        leaks(&format!("{head:?}"), *call, &Secrets::only_key(), &observed)
    });
    assert_none(found.concat());
}

#[test]
fn key_with_invalid_header_characters_is_rejected_and_redacted() {
    let key_part = &KEY[..16];
    for invalid in [
        format!("{key_part}\r"),
        format!("{key_part}\n"),
        format!("{key_part}\r\nX-Evil: 1"),
        format!("{key_part}\0"),
        format!("{key_part}\t"),
        format!("{key_part}\u{7f}"),
        format!("{key_part}\u{85}"),
        format!("{key_part}é"),
        format!("{key_part}\u{202e}"),
        format!("{key_part}\u{feff}"),
        format!(" {key_part}"),
        format!("{key_part} "),
        format!("\u{a0}{key_part}"),
        format!("{key_part}\u{3000}"),
        String::new(),
        " ".to_owned(),
    ] {
        for error in [
            Client::new(&*invalid).unwrap_err(),
            Client::builder(invalid.clone()).base_url("http://127.0.0.1:1").build().unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Config, "{invalid:?}");
            let text = error_output(&error);
            assert!(!text.contains(key_part) && !text.contains("Evil"), "{text}");
        }
        let builder = format!("{:?}", Client::builder(invalid.clone()));
        assert!(invalid.trim().is_empty() || !builder.contains(key_part), "{builder}");
    }
}

#[test]
fn settings_that_contain_key_are_redacted() {
    let builder = || Client::builder(KEY).no_proxy();
    let json = json!({ "key": KEY }).to_string();
    for (name, builder) in [
        ("base_url", builder().base_url(format!("https://user:{KEY}@api.test"))),
        ("base_url", builder().base_url(format!("https://{KEY}@api.test"))),
        ("base_url", builder().base_url(format!("https://api.test/?key={KEY}"))),
        ("base_url", builder().base_url(format!("http://{KEY}.test"))),
        ("proxy", builder().proxy(format!("http://user:{KEY}@"))),
        ("proxy", builder().proxy(format!("ftp://user:{KEY}@proxy.test"))),
        ("proxy", builder().proxy(format!("socks5://user:{KEY}@proxy.test:1"))),
        ("user_agent", builder().user_agent(format!("a\n{KEY}"))),
        ("root_certificates_pem", builder().root_certificates_pem(json.as_bytes())),
    ] {
        let mut text = format!("{builder:?} {builder:#?}");
        match builder.build() {
            Ok(client) => panic!("{name} is accepted: {client:?}"),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Config);
                text += &error_output(&error);
            }
        }
        assert_eq!(Secrets::only_key().found_in(text.as_bytes()), None, "{name}: {text}");
    }
}

#[test]
fn key_echoed_by_balance_is_redacted() {
    let found = in_parallel(&ECHOES, |(name, response)| {
        let fixture = Fixture::new();
        let client = Client::builder(KEY).base_url(fixture.sandbox.url()).no_proxy();
        let client = client.retry_policy(RetryPolicy::none()).build().unwrap();
        let (status, body) = response.split_once(' ').unwrap();
        let fault = Fault::response(status.parse().unwrap(), body.replace("{}", KEY));
        fixture.sandbox.fault(Endpoint::Billing, fault, 1);
        let error = client.balance().unwrap_err();
        let found = Secrets::only_key().found_in(error_output(&error).as_bytes());
        found.map(|secret| format!("{name}: {secret} is in {error:?}"))
    });
    assert_none(found.into_iter().flatten().collect());
}
