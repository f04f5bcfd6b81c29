//! A create has three outcomes: accepted, certainly not accepted, unknown. What counts is what the
//! server saw of it: how often it was asked, and how often it accepted.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use kling_video::{
    Client, Endpoint, Error, ErrorKind, Event, Fault, Generation, Image, ImageToVideo, Result,
    RetryPolicy, Sandbox,
};

use crate::common::{request, sandbox};
use crate::faults::{
    Place, closed_port, creates, impatient, mp4, picture, quick_retry, quick_wait, until,
};
use ErrorKind::{Api, Connect, CreateUnknown, Timeout, Transport};

/// What is sent.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Size {
    /// A link: a body of a few hundred bytes.
    Link,
    /// A picture of almost 1 MB, over the limit from which the server is asked first.
    Picture,
    /// A picture of several MB, more than the system's buffers take.
    LargePicture,
}
use Size::{LargePicture, Link, Picture};

const ONE: usize = 800_000;
const SEVERAL: usize = 7_000_000;

fn of_size(size: Size) -> ImageToVideo {
    static PICTURES: OnceLock<[Image; 2]> = OnceLock::new();
    let [one, several] =
        PICTURES.get_or_init(|| [ONE, SEVERAL].map(|len| Image::bytes(picture(len))));
    match size {
        Link => request(),
        Picture => ImageToVideo::new(one.clone()),
        LargePicture => ImageToVideo::new(several.clone()),
    }
}

/// How long the body of such a request is.
fn body_length(size: Size) -> u64 {
    let sandbox = sandbox();
    sandbox.client_builder().build().unwrap().create(&of_size(size)).unwrap();
    sandbox.requests()[0].body_bytes
}

/// A server that always answers like this, and what has to come of it.
struct Case {
    name: &'static str,
    fault: Fault,
    size: Size,
    kind: ErrorKind,
    status: Option<u16>,
    retryable: bool,
    may_have_been_billed: bool,
    has_id: bool,
    requests: usize,
    accepted: usize,
    /// The client needs a short idle time-out for it.
    silent: bool,
}

/// Certainly not accepted, and nothing that another try could mend.
fn refused(name: &'static str, fault: Fault, size: Size, status: u16) -> Case {
    Case {
        name,
        fault,
        size,
        kind: Api,
        status: Some(status),
        retryable: false,
        may_have_been_billed: false,
        has_id: false,
        requests: 1,
        accepted: 0,
        silent: false,
    }
}

/// Certainly not accepted, since it failed before the commit point: sent 1 + 3 times.
fn before_commit(name: &'static str, fault: Fault, size: Size, kind: ErrorKind) -> Case {
    let base = refused(name, fault, size, 0);
    Case { kind, status: None, retryable: true, requests: 4, ..base }
}

/// Past the commit point without an answer that tells: never sent again.
fn unknown(name: &'static str, fault: Fault, size: Size, status: Option<u16>) -> Case {
    let base = refused(name, fault, size, 0);
    Case { kind: CreateUnknown, status, may_have_been_billed: true, ..base }
}

impl Case {
    fn accepted(self) -> Case {
        Case { accepted: 1, ..self }
    }

    fn silent(self) -> Case {
        Case { silent: true, ..self }
    }

    fn with_id(self) -> Case {
        Case { has_id: true, ..self }
    }

    fn sent(self, requests: usize) -> Case {
        Case { requests, ..self }
    }
}

const HTML: &str = "<html><body>Bad Gateway</body></html>";
const VENDOR: &str = r#"{"message":"It did not work","statusCode":"500","requestId":"r-1"}"#;
const FUTURE: &str = "Thu, 31 Dec 2099 23:59:59 GMT";
const PAST: &str = "Sun, 06 Nov 1994 08:49:37 GMT";

fn too_many(retry_after: &str) -> Fault {
    Fault::status(429).header("Retry-After", retry_after)
}

#[rustfmt::skip]
fn cases() -> Vec<Case> {
    let link = body_length(Link);
    let picture = body_length(Picture);
    let elsewhere = "/v2/generate/video/kling/generation";
    vec![
        // Before the commit point.
        before_commit("closed before the request is read", Fault::close_before_reading(), Picture, Transport),
        before_commit("closed after the headers", Fault::close_after_head(), Picture, Transport),
        before_commit("reset in the middle of the upload", Fault::reset_after_body(100_000), LargePicture, Transport),
        refused("401 to the headers", Fault::early(401), Picture, 401),
        refused("403 to the headers", Fault::early(403), Picture, 403),
        refused("413 to the headers", Fault::early(413), Picture, 413),
        refused("417, also without the question", Fault::status(417), Picture, 417).sent(2),
        Case { retryable: true, ..refused("429 to the headers", Fault::early(429), Picture, 429).sent(4) },
        Case { retryable: true, ..refused("503 to the headers", Fault::early(503), Picture, 503).sent(4) },
        Case { retryable: true, ..refused("524 to the headers", Fault::early(524), Picture, 524).sent(4) },

        // Around the commit point: the server cannot act on a body that is not whole, but from
        // here that cannot be told apart.
        unknown("reset just before the last piece", Fault::reset_after_body(link - 2), Link, None),
        unknown("reset within the last piece", Fault::reset_after_body(link - 1), Link, None),
        unknown("reset just after the last piece", Fault::reset_after_body(link), Link, None),
        unknown("reset just before the last piece, large", Fault::reset_after_body(picture - 2), Picture, None),
        unknown("reset just after the last piece, large", Fault::reset_before_reply(), Picture, None),

        // Past it.
        unknown("closed without an answer", Fault::close(), Link, None),
        unknown("reset without an answer", Fault::reset_before_reply(), Link, None),
        unknown("a reply cut in its status line", Fault::cut(10), Link, None).accepted(),
        unknown("a reply cut in its headers", Fault::cut(40), Link, None).accepted(),
        unknown("a reply whose body is cut", Fault::reply(200, r#"{"id":"#).header("Content-Length", "90").header("Connection", "close"), Link, None),
        unknown("no HTTP at all", Fault::raw("what?\r\n\r\n"), Link, None),
        unknown("a reply that never comes", Fault::stall(), Link, None).silent(),
        unknown("a reply that never comes, large", Fault::stall(), Picture, None).silent(),
        unknown("200 with HTML", Fault::reply(200, HTML), Link, Some(200)),
        unknown("200 with nothing", Fault::reply(200, ""), Link, Some(200)),
        unknown("200 without an id", Fault::reply(200, r#"{"status":"queued"}"#), Link, Some(200)),
        unknown("200 with an empty id", Fault::reply(200, r#"{"id":"","status":"queued"}"#), Link, Some(200)),
        unknown("200 with a list", Fault::reply(200, "[]"), Link, Some(200)),
        refused("400", Fault::status(400), Link, 400),
        refused("401", Fault::status(401), Link, 401),
        refused("403, out of credits", Fault::status(403), Link, 403),
        refused("404", Fault::status(404), Link, 404),
        refused("408", Fault::status(408), Link, 408),
        refused("409", Fault::status(409), Link, 409),
        refused("425", Fault::status(425), Link, 425),
        refused("400 with HTML", Fault::reply(400, HTML), Link, 400),
        refused("400 to a large body that was read", Fault::status(400), Picture, 400),
        refused("429 without Retry-After", Fault::status(429), Link, 429).sent(4),
        refused("429, Retry-After: 0", too_many("0"), Link, 429).sent(4),
        refused("429, Retry-After: 1 (too long)", too_many("1"), Link, 429),
        refused("429, Retry-After: absurd", too_many("99999999999999999999999999"), Link, 429),
        refused("429, Retry-After: negative", too_many("-5"), Link, 429).sent(4),
        refused("429, Retry-After: no number", too_many("soon"), Link, 429).sent(4),
        refused("429, Retry-After: a date to come", too_many(FUTURE), Link, 429),
        refused("429, Retry-After: a date gone by", too_many(PAST), Link, 429).sent(4),
        refused("301", Fault::redirect(301, elsewhere), Link, 301),
        refused("307", Fault::redirect(307, elsewhere), Link, 307),
        refused("308", Fault::redirect(308, elsewhere), Link, 308),
        unknown("302", Fault::redirect(302, elsewhere), Link, Some(302)),
        unknown("303", Fault::redirect(303, elsewhere), Link, Some(303)),
        refused("500, the vendor's", Fault::status(500), Link, 500),
        refused("503, the vendor's", Fault::status(503), Link, 503),
        refused("500, the vendor's, large", Fault::status(500), Picture, 500),
        unknown("502, the vendor's", Fault::reply(502, VENDOR), Link, Some(502)),
        unknown("504, the vendor's", Fault::status(504), Link, Some(504)),
        unknown("524, the vendor's", Fault::reply(524, VENDOR), Link, Some(524)),
        unknown("500, a gateway's", Fault::reply(500, HTML), Link, Some(500)),
        unknown("500, empty", Fault::reply(500, ""), Link, Some(500)),
        unknown("502, a gateway's", Fault::reply(502, HTML), Link, Some(502)),
        unknown("503, a gateway's", Fault::reply(503, HTML), Link, Some(503)),
        unknown("504, a gateway's", Fault::reply(504, HTML), Link, Some(504)),
        unknown("524, a gateway's", Fault::status(524), Link, Some(524)),
        unknown("504 that names the generation", Fault::status(504).acted().with_inference_id(), Link, Some(504)).accepted().with_id(),
        unknown("302 that names the generation", Fault::status(302).acted().with_inference_id(), Link, Some(302)).accepted().with_id(),
    ]
}

fn client_for(sandbox: &Sandbox, case: &Case) -> Client {
    let builder = if case.silent { impatient(sandbox) } else { sandbox.client_builder() };
    builder.build().unwrap()
}

#[track_caller]
fn check(case: &Case, sandbox: &Sandbox, result: Result<Generation>) -> Error {
    let name = case.name;
    let error = result.expect_err(name);
    let seen = creates(sandbox);
    assert_eq!(error.kind(), case.kind, "{name}: {error:?}");
    assert_eq!(error.operation(), "create", "{name}");
    assert_eq!(error.status(), case.status, "{name}: {error:?}");
    assert_eq!(error.is_retryable(), case.retryable, "{name}: {error:?}");
    assert_eq!(error.may_have_been_billed(), case.may_have_been_billed, "{name}: {error:?}");
    assert_eq!(error.generation_id().is_some(), case.has_id, "{name}: {error:?}");
    assert_eq!(seen, (case.requests, case.accepted), "{name}: requests, accepted: {error:?}");
    assert_eq!(error.attempts() as usize, case.requests, "{name}: {error:?}");
    let sent = sandbox.requests();
    let sent = sent.iter().find_map(|request| request.header("x-client-request-id"));
    assert_eq!(error.client_request_id(), sent, "{name}");
    assert!(sent.is_some(), "{name}");
    error
}

#[test]
fn each_failure_is_told_for_what_it_is() {
    for case in cases() {
        let sandbox = sandbox();
        sandbox.fault(Endpoint::Create, case.fault.clone(), 99);
        let client = client_for(&sandbox, &case);
        let error = check(&case, &sandbox, client.create(&of_size(case.size)));
        if case.name.contains("to the headers") || case.name.contains("after the headers") {
            let nothing_sent = sandbox.requests().iter().all(|r| r.body_bytes == 0);
            assert!(nothing_sent, "{}: {:?}", case.name, sandbox.requests());
        }
        if case.name.contains("middle of the upload") {
            assert!(error.to_string().contains("may have refused"), "{error}");
            assert!(error.to_string().contains("nothing was created"), "{error}");
        }
        let advice = error.to_string().contains("look it up with find(");
        assert_eq!(advice, error.kind() == CreateUnknown && !case.has_id, "{error}");
    }
}

#[test]
fn an_unknown_create_may_have_been_accepted_and_is_still_not_sent_again() {
    for case in cases().into_iter().filter(|case| case.kind == CreateUnknown && case.accepted == 0)
    {
        if case.name.contains("before the last") || case.name.contains("within the last") {
            continue; // the body never got there whole
        }
        let sandbox = sandbox();
        sandbox.fault(Endpoint::Create, case.fault.clone().acted(), 99);
        let client = client_for(&sandbox, &case);
        let error = client.create(&of_size(case.size)).expect_err(case.name);
        assert_eq!(error.kind(), CreateUnknown, "{}: {error:?}", case.name);
        assert_eq!(creates(&sandbox), (1, 1), "{}", case.name);
        let found = client.find(error.client_request_id().unwrap()).unwrap().unwrap();
        assert_eq!(found.as_ref(), sandbox.generations()[0].id, "{}", case.name);
    }
}

/// What a careless program does.
fn generate_while_retryable(client: &Client, request: &ImageToVideo) -> Result<()> {
    for _ in 0..4 {
        match client.generate(request) {
            Ok(_) => return Ok(()),
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

#[test]
fn a_loop_over_is_retryable_never_pays_twice() {
    let mut successes = 0;
    for case in cases() {
        // What does not arrive whole cannot be acted on; and who says 429 or 417 has not accepted
        // it: that is documented, and retried for it.
        let arrives =
            matches!(case.kind, CreateUnknown | Api) && !case.name.contains("to the headers");
        let may_have_acted = arrives && !matches!(case.status, Some(429 | 417));
        for acted in [false, true].into_iter().filter(|&acted| !acted || may_have_acted) {
            for times in [1, 6] {
                let sandbox = sandbox();
                sandbox.finish_after(0);
                let fault = if acted { case.fault.clone().acted() } else { case.fault.clone() };
                sandbox.fault(Endpoint::Create, fault, times);
                let client = client_for(&sandbox, &case);
                let result = generate_while_retryable(&client, &of_size(case.size));
                successes += usize::from(result.is_ok());
                let paid = sandbox.generations().len();
                let name = case.name;
                assert!(paid <= 1, "{name}, acted: {acted}, {times} times: paid {paid} times");
                assert!(result.is_err() || paid == 1, "{name}, acted: {acted}, {times} times");
            }
        }
    }
    assert!(successes > 10, "the loop was never worth its name: {successes}");
}

#[test]
fn generate_to_can_be_called_again_after_every_fault_and_never_pays_twice() {
    for case in cases() {
        let place = Place::new();
        let sandbox = sandbox();
        sandbox.finish_after(0);
        // A server that says it refused and yet acted is out of anybody's reach.
        let lost = case.kind == CreateUnknown;
        let fault = if lost { case.fault.clone().acted() } else { case.fault.clone() };
        sandbox.fault(Endpoint::Create, fault, 1);
        let client = client_for(&sandbox, &case);
        // The hash of a large one takes its time in a debug build, and is not what this is about.
        let request = of_size(if case.size == LargePicture { Picture } else { case.size });
        let mut ends = Vec::new();
        for _ in 0..3 {
            ends.push(client.generate_to(&request, &place.target).map_err(|error| error.kind()));
        }
        let paid = sandbox.generations().len();
        assert!(paid <= 1, "{}: paid {paid} times", case.name);
        // Only a create that never arrived whole cannot be told from one that did.
        let saved = ends.iter().filter(|end| end.is_ok()).count();
        assert!(
            saved >= 2 || (paid == 0 && ends.contains(&Err(CreateUnknown))),
            "{}: {ends:?}",
            case.name
        );
    }
}

#[test]
fn a_loop_over_is_retryable_never_pays_twice_whatever_goes_wrong_after_the_create() {
    let faults = [
        Fault::status(401),
        Fault::status(403),
        Fault::status(404),
        Fault::status(429).header("Retry-After", "3600"),
        Fault::status(500),
        Fault::status(503),
        Fault::close(),
        Fault::reset_before_reply(),
        Fault::reply(200, "<html>"),
        Fault::reply(200, r#"{"status":"error","error":"no"}"#),
        Fault::cut(30),
    ];
    // Only the silent one needs a client that is impatient.
    for (silent, fault) in
        faults.map(|fault| (false, fault)).into_iter().chain([(true, Fault::stall())])
    {
        let sandbox = sandbox();
        sandbox.fault(Endpoint::Retrieve, fault.clone(), 10_000);
        let wait = quick_wait().timeout(Duration::from_millis(60));
        let builder = if silent { impatient(&sandbox) } else { sandbox.client_builder() };
        let client = builder.wait(wait).build().unwrap();
        let error = generate_while_retryable(&client, &request()).unwrap_err();
        assert_eq!(creates(&sandbox), (1, 1), "{fault:?}: {error:?}");
        let id = error.generation_id().unwrap_or_else(|| panic!("{fault:?}: no id: {error:?}"));
        assert_eq!(id.as_ref(), sandbox.generations()[0].id);
        let failed = error.kind() == ErrorKind::GenerationFailed;
        assert_eq!(error.may_have_been_billed(), !failed, "{fault:?}");
    }
}

#[test]
fn no_connection_means_not_accepted() {
    let sandbox = sandbox();
    let (nobody, _kept) = closed_port();
    let spoken_to_in_plain = sandbox.url().replace("http://", "https://");
    for (name, url) in [
        ("connection refused", format!("http://127.0.0.1:{nobody}")),
        ("DNS failure", "https://name.invalid".to_owned()),
        ("TLS failure", spoken_to_in_plain),
    ] {
        let client = sandbox
            .client_builder()
            .base_url(url)
            .connect_timeout(Duration::from_secs(2))
            .build()
            .unwrap();
        let error = client.create(&request()).expect_err(name);
        assert_eq!(error.kind(), Connect, "{name}: {error:?}");
        assert_eq!(error.status(), None, "{name}");
        assert_eq!(error.attempts(), 4, "{name}: {error:?}");
        assert!(error.is_retryable(), "{name}: {error:?}");
        assert!(!error.may_have_been_billed(), "{name}: {error:?}");
        assert!(error.client_request_id().is_some(), "{name}");
        assert_eq!(error.generation_id(), None, "{name}");
        assert_eq!(creates(&sandbox), (0, 0), "{name}");
    }
}

/// A short request may be off before the server's refusal to read it is seen: then its outcome is
/// unknown; else it is sent again.
#[test]
fn a_server_that_does_not_read_a_short_request_is_not_sent_it_again_once_it_may_have() {
    for fault in [Fault::close_before_reading(), Fault::close_after_head()] {
        for _ in 0..20 {
            let sandbox = sandbox();
            sandbox.fault(Endpoint::Create, fault.clone(), 99);
            let client = sandbox.client_builder().build().unwrap();
            let error = client.create(&request()).unwrap_err();
            let (requests, accepted) = creates(&sandbox);
            assert_eq!(accepted, 0);
            match error.kind() {
                CreateUnknown => assert!((1..=4).contains(&requests) && !error.is_retryable()),
                Transport => assert!(requests == 4 && error.is_retryable(), "{error:?}"),
                other => panic!("{other:?}: {error:?}"),
            }
        }
    }
}

#[test]
fn the_reset_before_the_last_piece_is_past_the_commit_point_for_sure() {
    // The callback for the last piece runs before the commit point; here the server is gone by
    // then, and handing the piece over is all the same not taken back.
    let sandbox = std::sync::Arc::new(sandbox());
    let length = body_length(Link);
    sandbox.fault(Endpoint::Create, Fault::reset_after_body(length - 2), 1);
    let watched = std::sync::Arc::clone(&sandbox);
    let client = sandbox
        .client_builder()
        .on_event(move |event| match event {
            Event::Uploading { sent, total, .. } if sent == total => {
                until("the server's side of the body", || {
                    watched.requests().first().is_some_and(|r| r.body_bytes == length - 2)
                });
                std::thread::sleep(Duration::from_millis(5));
            }
            _ => {}
        })
        .build()
        .unwrap();
    let error = client.create(&request()).unwrap_err();
    assert_eq!(error.kind(), CreateUnknown, "{error:?}");
    assert_eq!(creates(&sandbox), (1, 0));
}

#[test]
fn a_failure_that_passes_is_retried_on_a_fresh_connection() {
    for (fault, size) in [
        (Fault::status(429), Link),
        (Fault::early(503), Picture),
        (Fault::early(429), Picture),
        (Fault::close_after_head(), Picture),
        (Fault::close_before_reading(), Picture),
        (Fault::reset_after_body(100_000), LargePicture),
    ] {
        let sandbox = sandbox();
        sandbox.fault(Endpoint::Create, fault.clone(), 3);
        let client = sandbox.client_builder().build().unwrap();
        let generation = client.create(&of_size(size)).unwrap();
        assert_eq!(generation.id.as_ref(), sandbox.generations()[0].id);
        assert_eq!(creates(&sandbox), (4, 1), "{fault:?}");
        assert_eq!(sandbox.connections(), 4, "{fault:?}");
        let ids: Vec<_> = sandbox
            .requests()
            .iter()
            .map(|request| request.header("x-client-request-id").unwrap().to_owned())
            .collect();
        assert!(ids.iter().all(|id| *id == ids[0]), "{ids:?}");
    }
}

#[test]
fn a_create_is_retried_at_most_three_times_and_never_more_than_allowed() {
    for (policy, requests) in [
        (quick_retry().max_retries(100), 4),
        (quick_retry().max_retries(2), 3),
        (RetryPolicy::none(), 1),
    ] {
        let sandbox = sandbox();
        sandbox.fault(Endpoint::Create, Fault::status(429), 99);
        let client = sandbox.client_builder().retry(policy).build().unwrap();
        let error = client.create(&request()).unwrap_err();
        assert_eq!(creates(&sandbox), (requests, 0));
        assert_eq!(error.attempts() as usize, requests);
    }
}

#[test]
fn a_server_that_does_not_understand_expect_gets_the_picture_all_the_same() {
    for (name, fault, requests) in [
        ("ignores it", Fault::ignore_expect(), 1),
        ("answers 417", Fault::early(417), 2),
        ("continues with a header", Fault::continue_with_header(), 2),
    ] {
        let sandbox = sandbox();
        sandbox.fault(Endpoint::Create, fault, 1);
        let client = sandbox.client_builder().idle_timeout(Duration::from_millis(400));
        let client = client.build().unwrap();
        let generation = client.create(&of_size(Picture)).expect(name);
        assert_eq!(creates(&sandbox), (requests, 1), "{name}");
        assert_eq!(generation.id.as_ref(), sandbox.generations()[0].id, "{name}");
        assert_eq!(sandbox.generations()[0].picture.as_deref(), Some(&picture(ONE)[..]));
        let seen = sandbox.requests();
        assert_eq!(seen[0].header("expect"), Some("100-continue"), "{name}");
        if requests == 2 {
            assert_eq!(seen[0].body_bytes, 0, "{name}");
            assert_eq!(seen[1].header("expect"), None, "{name}");
        }
    }
}

#[test]
fn a_server_that_drops_every_announced_body_is_a_time_out_and_not_accepted() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::continue_with_header(), 99);
    let client = impatient(&sandbox).retry(RetryPolicy::none()).build().unwrap();
    let error = client.create(&of_size(Picture)).unwrap_err();
    assert_eq!(error.kind(), Timeout, "{error:?}");
    assert!(error.is_retryable());
    assert_eq!(creates(&sandbox), (1, 0));
}

#[test]
fn a_refused_large_upload_costs_no_upload_and_is_reported_as_what_it_is() {
    let sandbox = sandbox();
    let client = Client::builder("another-key").base_url(sandbox.url()).no_proxy().build().unwrap();
    let error = client.create(&of_size(Picture)).unwrap_err();
    assert_eq!((error.kind(), error.status()), (Api, Some(401)));
    assert!(error.api_message().unwrap().starts_with("Invalid API key provided"));
    assert_eq!(sandbox.requests()[0].body_bytes, 0);
    assert_eq!(creates(&sandbox), (1, 0));
}

#[test]
fn what_the_server_says_is_kept() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    sandbox.fault(Endpoint::Create, Fault::status(403), 1);
    let error = client.create(&request()).unwrap_err();
    assert!(error.is_out_of_credits());
    assert!(error.api_message().unwrap().contains("run out of credits"));
    assert!(error.request_id().unwrap().starts_with("sandbox-request-"));

    sandbox.fault(Endpoint::Create, Fault::reply(502, HTML), 1);
    let error = client.create(&request()).unwrap_err();
    assert!(error.body().unwrap().contains("Bad Gateway"), "{error:?}");
    assert!(!error.is_out_of_credits());

    sandbox.fault(Endpoint::Create, too_many("1"), 1);
    let error = client.create(&request()).unwrap_err();
    assert_eq!(error.retry_after(), Some(Duration::from_secs(1)));

    sandbox.fault(Endpoint::Create, too_many(FUTURE), 1);
    let error = client.create(&request()).unwrap_err();
    assert!(error.retry_after().unwrap() > Duration::from_secs(86_400));
}

#[test]
fn an_id_that_only_a_header_has_is_an_id() {
    for fault in [
        Fault::reply(200, ""),
        Fault::reply(200, "{}"),
        Fault::reply(200, r#"{"status":"queued"}"#),
        Fault::reply(201, HTML),
        Fault::reply(202, "null"),
    ] {
        let sandbox = sandbox();
        sandbox.fault(Endpoint::Create, fault.clone().acted().with_inference_id(), 1);
        let client = sandbox.client_builder().build().unwrap();
        let generation = client.create(&request()).unwrap_or_else(|e| panic!("{fault:?}: {e:?}"));
        assert_eq!(generation.id.as_ref(), sandbox.generations()[0].id);
        assert_eq!(client.wait(&generation.id).unwrap().id, generation.id);
        assert_eq!(creates(&sandbox), (1, 1));
    }
}

#[test]
fn a_reply_cut_in_its_body_still_has_the_id_of_its_header() {
    let sandbox = sandbox();
    sandbox.fault(
        Endpoint::Create,
        Fault::reply(200, r#"{"id":"#)
            .header("Content-Length", "200")
            .header("Connection", "close")
            .acted()
            .with_inference_id(),
        1,
    );
    let client = sandbox.client_builder().build().unwrap();
    let generation = client.create(&request()).unwrap();
    assert_eq!(generation.id.as_ref(), sandbox.generations()[0].id);
}

#[test]
fn a_redirect_is_never_followed_with_the_key() {
    let (sandbox, other) = (sandbox(), sandbox());
    let there = format!("{}/v2/generate/video/kling/generation", other.url());
    for status in [301, 302, 303, 307, 308] {
        sandbox.fault(Endpoint::Create, Fault::redirect(status, there.clone()), 1);
        let client = sandbox.client_builder().build().unwrap();
        client.create(&request()).unwrap_err();
    }
    assert_eq!(sandbox.count(Endpoint::Create), 5);
    assert!(other.requests().is_empty());
}

#[test]
fn a_create_never_goes_out_on_a_used_connection() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().retry(RetryPolicy::none()).build().unwrap();
    // The pool now holds a connection that the server has closed.
    sandbox.fault(Endpoint::Billing, Fault::close_after_reply(), 1);
    client.balance().unwrap();
    client.create(&request()).unwrap();
    client.create(&request()).unwrap();
    assert_eq!(creates(&sandbox), (2, 2));
    assert_eq!(sandbox.connections(), 3);
}

#[test]
fn max_creates_ends_before_anything_is_sent() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_creates(2).build().unwrap();
    let clone = client.clone();
    client.create(&request()).unwrap();
    clone.generate(&request()).unwrap();
    for client in [&client, &clone] {
        let error = client.create(&request()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CreateLimit);
        assert!(!error.is_retryable() && !error.may_have_been_billed());
        assert!(error.to_string().contains('2'), "{error}");
    }
    assert_eq!(creates(&sandbox), (2, 2));
    // A client of its own has a budget of its own.
    sandbox.client_builder().max_creates(1).build().unwrap().create(&request()).unwrap();
}

#[test]
fn a_certain_refusal_gives_its_create_back_and_an_unknown_one_does_not() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_creates(1).build().unwrap();
    for fault in [Fault::status(400), Fault::status(500), Fault::redirect(301, "/")] {
        sandbox.fault(Endpoint::Create, fault, 1);
        assert_eq!(client.create(&request()).unwrap_err().kind(), Api);
    }
    sandbox.fault(Endpoint::Create, Fault::early(413), 1);
    assert_eq!(client.create(&of_size(Picture)).unwrap_err().kind(), Api);
    let invalid = request().prompt("x".repeat(3000));
    assert_eq!(client.create(&invalid).unwrap_err().kind(), ErrorKind::InvalidRequest);
    // Its retries are one create.
    sandbox.fault(Endpoint::Create, Fault::status(429), 3);
    sandbox.fault(Endpoint::Create, Fault::close(), 1);
    assert_eq!(client.create(&request()).unwrap_err().kind(), CreateUnknown);
    assert_eq!(client.create(&request()).unwrap_err().kind(), ErrorKind::CreateLimit);
    assert_eq!(creates(&sandbox), (8, 0));
}

#[test]
fn max_creates_holds_across_threads() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_creates(5).build().unwrap();
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..20 {
            scope.spawn(|| {
                if let Err(error) = client.create(&request()) {
                    assert_eq!(error.kind(), ErrorKind::CreateLimit);
                    refused.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(creates(&sandbox), (5, 5));
    assert_eq!(refused.into_inner(), 15);
}

#[test]
fn a_video_of_the_tests_is_one() {
    // So that no test of a faulty download passes because its video was none to begin with.
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    sandbox.serve_video(mp4(5000));
    let video = client.generate(&request()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    assert_eq!(client.download(&video, folder.path().join("cat.mp4")).unwrap(), 5000);
}
