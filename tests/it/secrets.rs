//! The key and the picture stay where they belong, whatever a server does: also one that says them
//! back.

use std::error::Error as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use kling_video::{
    Client, Endpoint, Error, ErrorKind, Fault, Generation, Image, ImageToVideo, RetryPolicy,
    WaitOptions,
};
use serde_json::json;

use crate::common::fixture;
use crate::matrix::{Column, Stage, act, in_parallel, rows};

/// What a key looks like, and nothing else here does.
const KEY: &str = "c0ffee5ec2e7c0de8badf00ddeadfa11";

/// Long enough to be no accident, short enough for a picture that is cut to hold it.
const PART: usize = 24;

fn picture() -> Vec<u8> {
    std::fs::read(fixture("picture.png")).unwrap()
}

fn picture_request() -> ImageToVideo {
    ImageToVideo::new(Image::bytes(picture())).prompt("the cat yawns")
}

/// What must not be seen, and what it is.
struct Secrets(Vec<(&'static str, Vec<u8>)>);

impl Secrets {
    fn new() -> Secrets {
        let picture = picture();
        let text = BASE64_STANDARD.encode(&picture);
        // From its middle: the beginning is the same in every PNG.
        let at = text.len() / 2;
        Secrets(vec![
            ("the key", KEY.into()),
            ("the key's start", KEY[..20].into()),
            ("the key's end", KEY[12..].into()),
            ("the key in base64", BASE64_STANDARD.encode(KEY).into_bytes()),
            ("the picture as base64", text[at..at + PART].into()),
            ("the picture's start as base64", text[24..24 + PART].into()),
            ("the picture", picture[picture.len() / 2..][..PART].to_vec()),
            ("the picture as a list", format!("{:?}", &picture[40..48]).into_bytes()),
        ])
    }

    fn only_key() -> Secrets {
        Secrets(Secrets::new().0.into_iter().filter(|(what, _)| what.contains("key")).collect())
    }

    fn seen_in(&self, bytes: &[u8]) -> Option<&'static str> {
        let has = |secret: &[u8]| bytes.windows(secret.len()).any(|part| part == secret);
        self.0.iter().find(|(_, secret)| has(secret)).map(|(what, _)| *what)
    }
}

/// Everything that an error shows.
fn shown(error: &Error) -> String {
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
        error.api_message(),
        error.request_id(),
        error.field(),
        error.body(),
        error.retry_after(),
    );
    if let Some(generation) = error.generation() {
        text += &generation_shown(generation);
    }
    text
}

fn generation_shown(generation: &Generation) -> String {
    format!("{generation:?}\n{generation:#?}\n")
}

/// What was seen of a call: its texts, each with where it was.
type Seen = Vec<(String, Vec<u8>)>;

/// Does what the column says with the key and the picture, and collects all that can be seen of it
/// from outside the request itself.
fn watch(stage: &Stage, column: Column, retry: RetryPolicy) -> Seen {
    let events = Arc::new(Mutex::new(String::new()));
    let wait = WaitOptions::new()
        .first_poll_after(Duration::ZERO)
        .interval(Duration::from_millis(10))
        .timeout(Duration::from_millis(60));
    let client = Client::builder(KEY)
        .base_url(stage.sandbox.url())
        .no_proxy()
        .retry(retry)
        .idle_timeout(Duration::from_millis(150))
        .wait(wait)
        .on_event({
            let events = Arc::clone(&events);
            move |event| events.lock().unwrap().push_str(&format!("{event:?}\n{event:#?}\n"))
        })
        .build()
        .unwrap();
    let request = picture_request();
    let called = catch_unwind(AssertUnwindSafe(|| match column {
        Column::Create | Column::CreateLarge => match client.create(&request) {
            Ok(generation) => generation_shown(&generation),
            Err(error) => shown(&error),
        },
        Column::Retrieve => match client.retrieve(&stage.primed.id) {
            Ok(generation) => generation_shown(&generation),
            Err(error) => shown(&error),
        },
        _ if column.is_run() => match client.generate_to(&request, stage.target()) {
            Ok(saved) => format!("{saved:?}"),
            Err(error) => shown(&error),
        },
        _ => match act(column, &client, stage) {
            Ok(brought) => format!("{:?}", brought.id),
            Err(error) => shown(&error),
        },
    }));
    let text = called.unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().cloned().unwrap_or_default();
        text + panic.downcast_ref::<&str>().unwrap_or(&"")
    });
    let events = std::mem::take(&mut *events.lock().unwrap());
    let mut seen: Seen = vec![
        ("the result".to_owned(), text.into_bytes()),
        ("an event".to_owned(), events.into_bytes()),
        ("the client".to_owned(), format!("{client:?} {request:?}").into_bytes()),
    ];
    for file in std::fs::read_dir(stage.folder()).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension != "mp4") {
            seen.push((path.display().to_string(), std::fs::read(&path).unwrap()));
        }
    }
    for request in stage.sandbox.requests() {
        seen.push(("a URL".to_owned(), request.target.clone().into_bytes()));
        let to_the_api = matches!(
            request.endpoint,
            Some(Endpoint::Create | Endpoint::Retrieve | Endpoint::Logs | Endpoint::Billing)
        );
        for (name, value) in &request.headers {
            if !(to_the_api && name.eq_ignore_ascii_case("authorization")) {
                seen.push((format!("the request header {name}"), value.clone().into_bytes()));
            }
        }
    }
    seen
}

/// What was seen that must not be.
fn leaks(name: &str, column: Column, secrets: &Secrets, seen: &Seen) -> Vec<String> {
    let leaks = seen.iter().filter_map(|(place, bytes)| {
        let what = secrets.seen_in(bytes)?;
        let text = String::from_utf8_lossy(bytes).chars().take(400).collect::<String>();
        Some(format!("{column:?} × {name}: {what} is in {place}: {text}"))
    });
    leaks.collect()
}

/// The API answers as if the key were right: the sandbox knows only its own.
fn answer_well(stage: &Stage, except: Endpoint) {
    for column in [Column::Create, Column::Retrieve, Column::Find] {
        let good = stage.good(column);
        if good.endpoint != except {
            stage.sandbox.fault(good.endpoint, Fault::reply(200, good.body), u32::MAX);
        }
    }
}

fn assert_none(mut leaks: Vec<String>) {
    leaks.sort();
    assert!(leaks.is_empty(), "{} leaks\n{}", leaks.len(), leaks.join("\n"));
}

#[test]
fn no_fault_brings_the_key_or_the_picture_to_light() {
    let rows = rows();
    // Every endpoint once; the matrix has the rest.
    let columns =
        [Column::Retrieve, Column::Wait, Column::Find, Column::Download, Column::RunCreate];
    let all = rows.iter().flat_map(|row| columns.map(|column| (row, column)));
    let cells: Vec<_> = all.collect();
    let secrets = Secrets::new();
    let found = in_parallel(&cells, |(row, column)| {
        let stage = Stage::new();
        answer_well(&stage, column.endpoint());
        let fault = (row.make)(&stage.good(*column));
        stage.sandbox.fault(column.endpoint(), fault, row.times.min(3));
        leaks(&row.name, *column, &secrets, &watch(&stage, *column, RetryPolicy::none()))
    });
    assert_none(found.concat());
}

/// Replies that say something back, each in another place; `{}` is what they say.
const ECHOES: [(&str, &str); 24] = [
    ("a message", r#"401 {"message":"bad key {}","statusCode":401}"#),
    ("a list of messages", r#"400 {"message":["no","{}"],"statusCode":400}"#),
    ("an error's message", r#"403 {"error":{"name":"X","message":"{}"}}"#),
    ("an error's name", r#"403 {"error":{"name":"{}","message":"no"}}"#),
    ("an error's kind", r#"403 {"message":"no","error":{"data":{"kind":"{}"}}}"#),
    ("an error that is a text", r#"500 {"error":"{}"}"#),
    ("a request id", r#"429 {"message":"no","requestId":"{}"}"#),
    ("a passing error", r#"503 {"message":"try later, {}"}"#),
    ("a page", "502 <html>Bad gateway for {}</html>"),
    ("no JSON", "200 what is {}?"),
    ("JSON that ends", r#"200 {"id":"1","status":"queued","key":"{}"#),
    ("a text", r#"200 "{}""#),
    ("an id", r#"200 {"id":"{}","status":"queued"}"#),
    ("another id", r#"200 {"generation_id":"{}","status":"queued"}"#),
    ("a status", r#"200 {"id":"1","status":"{}"}"#),
    ("a failure", r#"200 {"id":"1","status":"error","error":{"name":"{}","message":"{}"}}"#),
    ("a failure of another shape", r#"200 {"id":"1","status":"failed","error":{"detail":["{}"]}}"#),
    ("a link", r#"200 {"id":"1","status":"completed","video":{"url":"https://127.0.0.1:9/{}"}}"#),
    ("a link that is none", r#"200 {"id":"1","status":"completed","video":{"url":"{}"}}"#),
    ("a file's name", r#"200 {"id":"1","status":"generating","video":{"file_name":"{}"}}"#),
    ("an unknown field", r#"200 {"id":"1","status":"queued","image_url":"{}"}"#),
    ("a field's name", r#"200 {"id":"1","status":"queued","{}":1}"#),
    ("usage", r#"200 {"id":"1","status":"queued","meta":{"usage":{"of":"{}"}}}"#),
    (
        "a log row",
        r#"200 {"data":[{"status":"succeeded","client_request_id":"matrix-prime","inference_id":"{}"}]}"#,
    ),
];

/// The calls that read what an API's endpoint answers.
const READERS: [Column; 6] = [
    Column::Create,
    Column::Retrieve,
    Column::Wait,
    Column::Find,
    Column::RunCreate,
    Column::RunPoll,
];

fn echo(said: &str, secrets: &Secrets, columns: &[Column]) -> Vec<String> {
    let all = ECHOES.iter().flat_map(|echo| columns.iter().map(move |column| (echo, *column)));
    let cells: Vec<_> = all.collect();
    let found = in_parallel(&cells, |((name, reply), column)| {
        let stage = Stage::new();
        answer_well(&stage, column.endpoint());
        let (status, body) = reply.split_once(' ').unwrap();
        let fault = Fault::reply(status.parse().unwrap(), body.replace("{}", said));
        stage.sandbox.fault(column.endpoint(), fault, 3);
        let retry = RetryPolicy::new().max_retries(1).base_delay(Duration::from_millis(1));
        leaks(name, *column, secrets, &watch(&stage, *column, retry))
    });
    found.concat()
}

#[test]
fn a_key_that_the_api_says_back_is_not_repeated() {
    assert_none(echo(KEY, &Secrets::only_key(), &READERS));
}

#[test]
fn a_key_that_the_videos_server_says_back_is_not_repeated() {
    assert_none(echo(KEY, &Secrets::only_key(), &[Column::Download, Column::RunDownload]));
}

#[test]
fn a_key_in_escapes_is_not_repeated() {
    // As JSON may write any character.
    let escaped = format!("\\u{:04x}{}", u32::from(KEY.as_bytes()[0]), &KEY[1..]);
    assert_none(echo(&escaped, &Secrets::only_key(), &READERS));
}

/// The picture as a server may say it back: as it was sent, or as some encoders write it.
fn picture_links() -> [String; 2] {
    let text = BASE64_STANDARD.encode(picture());
    let link = format!("data:image/png;base64,{text}");
    [link.replace('/', "\\/"), link]
}

/// Where it is in an error's text, not in a reply that is read.
const REFUSALS: [&str; 12] = [
    "a message",
    "a list of messages",
    "an error's message",
    "an error's name",
    "an error's kind",
    "an error that is a text",
    "a request id",
    "a passing error",
    "a page",
    "no JSON",
    "JSON that ends",
    "a log row",
];

fn echo_picture(said: &str, is_wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let columns = [Column::Create, Column::Retrieve, Column::Wait, Column::RunCreate];
    let found = echo(said, &Secrets::new(), &columns);
    let name = |leak: &str| {
        let name = leak.split_once(" × ").and_then(|(_, rest)| rest.split_once(": "));
        name.map(|(name, _)| name.to_owned()).unwrap_or_default()
    };
    found.into_iter().filter(|leak| is_wanted(&name(leak))).collect()
}

#[test]
fn a_picture_in_an_error_is_not_repeated() {
    let refusals = |name: &str| REFUSALS.contains(&name);
    assert_none(picture_links().iter().flat_map(|said| echo_picture(said, refusals)).collect());
}

#[test]
fn a_picture_without_its_prefix_is_not_repeated() {
    let said = format!("Expected a link, received {}", BASE64_STANDARD.encode(picture()));
    assert_none(echo_picture(&said, |name| REFUSALS.contains(&name)));
}

#[test]
fn a_picture_in_a_generation_is_not_shown() {
    let fields = ["an unknown field", "a failure", "a failure of another shape"];
    let wanted = |name: &str| fields.contains(&name);
    assert_none(picture_links().iter().flat_map(|said| echo_picture(said, wanted)).collect());
}

#[test]
fn a_key_in_headers_is_not_repeated() {
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
    // A video's server has never seen the key, and where it sends the client is its own affair.
    let columns = [Column::Create, Column::Retrieve, Column::Wait, Column::Find, Column::RunCreate];
    let all = heads.iter().flat_map(|head| columns.map(|column| (head, column)));
    let cells: Vec<_> = all.collect();
    let found = in_parallel(&cells, |(head, column)| {
        let stage = Stage::new();
        answer_well(&stage, column.endpoint());
        stage.sandbox.fault(column.endpoint(), Fault::raw(head.as_bytes()), 3);
        let seen = watch(&stage, *column, RetryPolicy::none());
        leaks(&format!("{head:?}"), *column, &Secrets::only_key(), &seen)
    });
    assert_none(found.concat());
}

#[test]
fn keys_that_no_header_can_carry_are_refused_unseen() {
    let marked = &KEY[..16];
    for bad in [
        format!("{marked}\r"),
        format!("{marked}\n"),
        format!("{marked}\r\nX-Evil: 1"),
        format!("{marked}\0"),
        format!("{marked}\t"),
        format!("{marked}\u{7f}"),
        format!("{marked}\u{85}"),
        format!("{marked}é"),
        format!("{marked}\u{202e}"),
        format!("{marked}\u{feff}"),
        format!(" {marked}"),
        format!("{marked} "),
        format!("\u{a0}{marked}"),
        format!("{marked}\u{3000}"),
        String::new(),
        " ".to_owned(),
    ] {
        for error in [
            Client::new(&*bad).unwrap_err(),
            Client::builder(bad.clone()).base_url("http://127.0.0.1:1").build().unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Config, "{bad:?}");
            let text = shown(&error);
            assert!(!text.contains(marked) && !text.contains("Evil"), "{text}");
        }
        let builder = format!("{:?}", Client::builder(bad.clone()));
        assert!(bad.trim().is_empty() || !builder.contains(marked), "{builder}");
    }
}

#[test]
fn other_settings_that_hold_the_key_do_not_show_it() {
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
                text += &shown(&error);
            }
        }
        assert_eq!(Secrets::only_key().seen_in(text.as_bytes()), None, "{name}: {text}");
    }
}

#[test]
fn a_key_that_the_balance_says_back_is_not_repeated() {
    let found = in_parallel(&ECHOES, |(name, reply)| {
        let stage = Stage::new();
        let client = Client::builder(KEY).base_url(stage.sandbox.url()).no_proxy();
        let client = client.retry(RetryPolicy::none()).build().unwrap();
        let (status, body) = reply.split_once(' ').unwrap();
        let fault = Fault::reply(status.parse().unwrap(), body.replace("{}", KEY));
        stage.sandbox.fault(Endpoint::Billing, fault, 1);
        let error = client.balance().unwrap_err();
        let found = Secrets::only_key().seen_in(shown(&error).as_bytes());
        found.map(|what| format!("{name}: {what} is in {error:?}"))
    });
    assert_none(found.into_iter().flatten().collect());
}
