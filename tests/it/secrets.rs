//! The API key and the image never appear in results, errors, events, files or other requests, even
//! if a server sends them back.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use kling_video::sandbox::{Endpoint, Fault};
use kling_video::{Client, ErrorKind, Generation, Image, ImageToVideo, RetryPolicy, WaitOptions};
use serde_json::json;

use crate::helpers::error_output::full_error_output;
use crate::helpers::files::fixture;
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
    fn key() -> Secrets {
        Secrets(vec![
            ("the key", KEY.into()),
            ("the key's start", KEY[..20].into()),
            ("the key's end", KEY[12..].into()),
            ("the key in base64", BASE64_STANDARD.encode(KEY).into_bytes()),
        ])
    }

    fn key_and_image() -> Secrets {
        let image = image();
        let base64 = BASE64_STANDARD.encode(&image);
        // From the middle, because the start is the same in every PNG.
        let middle = base64.len() / 2;
        let mut secrets = Secrets::key();
        secrets.0.extend([
            ("the image in base64", base64[middle..middle + PART_LEN].into()),
            ("the image's start in base64", base64[24..24 + PART_LEN].into()),
            ("the image", image[image.len() / 2..][..PART_LEN].to_vec()),
            ("the image as an array", format!("{:?}", &image[40..48]).into_bytes()),
        ]);
        secrets
    }

    fn found_in(&self, bytes: &[u8]) -> Option<&'static str> {
        self.0.iter().find(|(_, secret)| contains(bytes, secret)).map(|(name, _)| *name)
    }
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
            Err(error) => full_error_output(&error),
        },
        ClientCall::Retrieve => match client.retrieve(&fixture.completed.id) {
            Ok(generation) => generation_output(&generation),
            Err(error) => full_error_output(&error),
        },
        _ if call.is_generate_to() => match client.generate_to(&request, fixture.target()) {
            Ok(saved) => format!("{saved:?}"),
            Err(error) => full_error_output(&error),
        },
        _ => match perform(call, &client, fixture) {
            Ok(returned) => format!("{:?}", returned.id),
            Err(error) => full_error_output(&error),
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
    let secrets = Secrets::key_and_image();
    let found = in_parallel(&cases, |(case, call)| {
        let fixture = Fixture::new();
        accept_any_key(&fixture, call.endpoint());
        let fault = (case.make)(&fixture.valid_response(*call));
        fixture.sandbox.fault(call.endpoint(), fault, case.times.min(3));
        leaks(&case.name, *call, &secrets, &observe(&fixture, *call, RetryPolicy::none()))
    });
    assert_none(found.concat());
}

/// The part of the crate's output that an echo could appear in.
#[derive(Clone, Copy, PartialEq)]
enum Output {
    /// The text of an error.
    Error,
    /// A field of a generation whose text comes from the server and may contain anything.
    ServerText,
    /// Another field of a generation, or nothing.
    Other,
}

/// A response that echoes a string. `{}` stands for the string.
struct Echo {
    name: &'static str,
    response: &'static str,
    output: Output,
}

const fn echo(name: &'static str, output: Output, response: &'static str) -> Echo {
    Echo { name, response, output }
}

const ECHOES: [Echo; 24] = {
    use Output::{Error, Other, ServerText};
    [
        echo("a message", Error, r#"401 {"message":"invalid key {}","statusCode":401}"#),
        echo("a list of messages", Error, r#"400 {"message":["no","{}"],"statusCode":400}"#),
        echo("an error's message", Error, r#"403 {"error":{"name":"X","message":"{}"}}"#),
        echo("an error's name", Error, r#"403 {"error":{"name":"{}","message":"no"}}"#),
        echo("an error's kind", Error, r#"403 {"message":"no","error":{"data":{"kind":"{}"}}}"#),
        echo("an error string", Error, r#"500 {"error":"{}"}"#),
        echo("a request id", Error, r#"429 {"message":"no","requestId":"{}"}"#),
        echo("a transient error", Error, r#"503 {"message":"try later, {}"}"#),
        echo("an HTML page", Error, "502 <html>Bad gateway for {}</html>"),
        echo("text that is not JSON", Error, "200 what is {}?"),
        echo("truncated JSON", Error, r#"200 {"id":"1","status":"queued","key":"{}"#),
        echo("a string", Other, r#"200 "{}""#),
        echo("an id", Other, r#"200 {"id":"{}","status":"queued"}"#),
        echo("a generation_id", Other, r#"200 {"generation_id":"{}","status":"queued"}"#),
        echo("a status", Other, r#"200 {"id":"1","status":"{}"}"#),
        echo(
            "a failure",
            ServerText,
            r#"200 {"id":"1","status":"error","error":{"name":"{}","message":"{}"}}"#,
        ),
        echo(
            "a failure of another form",
            ServerText,
            r#"200 {"id":"1","status":"failed","error":{"detail":["{}"]}}"#,
        ),
        echo(
            "a URL",
            Other,
            r#"200 {"id":"1","status":"completed","video":{"url":"https://127.0.0.1:9/{}"}}"#,
        ),
        echo(
            "an invalid URL",
            Other,
            r#"200 {"id":"1","status":"completed","video":{"url":"{}"}}"#,
        ),
        echo(
            "a file name",
            Other,
            r#"200 {"id":"1","status":"generating","video":{"file_name":"{}"}}"#,
        ),
        echo(
            "an unknown field",
            ServerText,
            r#"200 {"id":"1","status":"queued","image_url":"{}"}"#,
        ),
        echo("a field name", Other, r#"200 {"id":"1","status":"queued","{}":1}"#),
        echo("usage", Other, r#"200 {"id":"1","status":"queued","meta":{"usage":{"of":"{}"}}}"#),
        echo(
            "a log entry",
            Error,
            r#"200 {"data":[{"status":"succeeded","client_request_id":"matrix-completed","inference_id":"{}"}]}"#,
        ),
    ]
};

impl Echo {
    fn fault(&self, text: &str) -> Fault {
        let (status, body) = self.response.split_once(' ').unwrap();
        Fault::response(status.parse().unwrap(), body.replace("{}", text))
    }
}

/// The calls that parse responses of an API endpoint.
const API_CALLS: [ClientCall; 6] = [
    ClientCall::Create,
    ClientCall::Retrieve,
    ClientCall::Wait,
    ClientCall::Find,
    ClientCall::GenerateToCreate,
    ClientCall::GenerateToPoll,
];

/// Asserts that no secret leaks when `text` is echoed, and that the echoes in `must_appear` are in
/// the output of at least one of the calls, with `placeholder` instead of the secret.
fn assert_redacted(
    text: &str,
    secrets: &Secrets,
    placeholder: &str,
    calls: &[ClientCall],
    echoes: &[&Echo],
    must_appear: impl Fn(&Echo) -> bool,
) {
    let all = echoes.iter().flat_map(|echo| calls.iter().map(move |call| (*echo, *call)));
    let cases: Vec<_> = all.collect();
    let found = in_parallel(&cases, |(echo, call)| {
        let fixture = Fixture::new();
        accept_any_key(&fixture, call.endpoint());
        fixture.sandbox.fault(call.endpoint(), echo.fault(text), 3);
        let retry = RetryPolicy::new().max_retries(1).base_delay(Duration::from_millis(1));
        let observed = observe(&fixture, *call, retry);
        let appears = observed.iter().any(|(_, bytes)| contains(bytes, placeholder.as_bytes()));
        (echo.name, appears, leaks(echo.name, *call, secrets, &observed))
    });
    for echo in echoes.iter().filter(|echo| must_appear(echo)) {
        let appears = found.iter().any(|(name, appears, _)| *name == echo.name && *appears);
        assert!(appears, "{}: no output contains {placeholder:?}", echo.name);
    }
    assert_none(found.into_iter().flat_map(|(_, _, leaks)| leaks).collect());
}

fn contains(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

fn assert_key_is_redacted(text: &str) {
    let echoes: Vec<_> = ECHOES.iter().collect();
    let must_appear = |echo: &Echo| echo.output != Output::Other;
    assert_redacted(text, &Secrets::key(), "[key]", &API_CALLS, &echoes, must_appear);
}

#[test]
fn key_echoed_by_api_is_redacted() {
    assert_key_is_redacted(KEY);
}

#[test]
fn key_echoed_with_json_escapes_is_redacted() {
    // JSON allows any character to be escaped.
    assert_key_is_redacted(&format!("\\u{:04x}{}", u32::from(KEY.as_bytes()[0]), &KEY[1..]));
}

#[test]
fn key_echoed_by_video_server_is_redacted() {
    let calls = [ClientCall::Download, ClientCall::GenerateToDownload];
    let echoes: Vec<_> = ECHOES.iter().collect();
    // A successful response is not part of any output.
    let must_appear = |echo: &Echo| !echo.response.starts_with("200");
    assert_redacted(KEY, &Secrets::key(), "[key]", &calls, &echoes, must_appear);
}

/// Asserts that the image in `text` is redacted in the responses that echo it in this output.
fn assert_image_is_redacted(text: &str, output: Output) {
    let calls =
        [ClientCall::Create, ClientCall::Retrieve, ClientCall::Wait, ClientCall::GenerateToCreate];
    let echoes: Vec<_> = ECHOES.iter().filter(|echo| echo.output == output).collect();
    assert_redacted(text, &Secrets::key_and_image(), "…", &calls, &echoes, |_| true);
}

/// The image's data URI as a server may echo it: with escaped slashes, as some JSON encoders write
/// it, or as it was sent.
fn image_data_uris() -> [String; 2] {
    let base64 = BASE64_STANDARD.encode(image());
    let uri = format!("data:image/png;base64,{base64}");
    [uri.replace('/', "\\/"), uri]
}

#[test]
fn image_echoed_in_error_is_redacted() {
    for uri in image_data_uris() {
        assert_image_is_redacted(&uri, Output::Error);
    }
}

#[test]
fn image_echoed_without_data_uri_prefix_is_redacted() {
    let text = format!("Expected a URL, received {}", BASE64_STANDARD.encode(image()));
    assert_image_is_redacted(&text, Output::Error);
}

#[test]
fn image_echoed_in_generation_is_redacted() {
    for uri in image_data_uris() {
        assert_image_is_redacted(&uri, Output::ServerText);
    }
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
        leaks(&format!("{head:?}"), *call, &Secrets::key(), &observed)
    });
    assert_none(found.concat());
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
                text += &full_error_output(&error);
            }
        }
        assert_eq!(Secrets::key().found_in(text.as_bytes()), None, "{name}: {text}");
    }
}

#[test]
fn key_echoed_by_balance_is_redacted() {
    let found = in_parallel(&ECHOES, |echo| {
        let fixture = Fixture::new();
        let client = Client::builder(KEY).base_url(fixture.sandbox.url()).no_proxy();
        let client = client.retry_policy(RetryPolicy::none()).build().unwrap();
        fixture.sandbox.fault(Endpoint::Billing, echo.fault(KEY), 1);
        let error = client.balance().unwrap_err();
        let found = Secrets::key().found_in(full_error_output(&error).as_bytes());
        found.map(|secret| format!("{}: {secret} is in {error:?}", echo.name))
    });
    assert_none(found.into_iter().flatten().collect());
}
