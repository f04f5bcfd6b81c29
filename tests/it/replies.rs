//! Every form in which the API has documented or been seen to answer, one file each.

use kling_video::{
    Endpoint, Error, ErrorKind, Fault, Generation, GenerationId, RetryPolicy, Sandbox, Status,
    Usage, Video,
};
use serde_json::{Value, json};

use crate::common::{chain, everything_shown, fixture, id, once, request, sandbox};

const ID: &str = "789392067490349060";
const REQUEST_ID: &str = "V1StGXR8Z5jdHi6BmyT8k";

fn read(name: &str) -> String {
    std::fs::read_to_string(fixture("replies").join(name)).unwrap()
}

/// The reply as a program reads it back from where it kept it.
fn parsed(name: &str) -> Generation {
    serde_json::from_str(&read(name)).unwrap()
}

/// The reply as it comes over a socket.
fn retrieved(name: &str) -> Generation {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Retrieve, Fault::reply(200, read(name)), 1);
    once(&sandbox).retrieve(&id(ID)).unwrap()
}

/// What `retrieve` makes of this answer.
fn answered(fault: Fault) -> kling_video::Result<Generation> {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Retrieve, fault, 1);
    once(&sandbox).retrieve(&id(ID))
}

/// What `retrieve` makes of a refusal with the body of this file.
fn refused(status: u16, name: &str) -> Error {
    let error = answered(Fault::reply(status, read(name))).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)), "{error}");
    assert_eq!(error.generation_id(), Some(&id(ID)));
    error
}

fn files(start: &str) -> Vec<String> {
    let names = std::fs::read_dir(fixture("replies")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(start)).collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

// ---------------------------------------------------------------- ids

#[test]
fn an_id_of_18_digits_stays_exact() {
    assert_eq!(parsed("generation-queued.json").id.as_ref(), ID);
}

#[test]
fn a_numeric_id_is_taken_digit_by_digit() {
    assert_eq!(parsed("generation-numeric-id.json").id.as_ref(), "789392067490349061");
}

#[test]
fn an_id_may_be_a_uuid() {
    let generation = parsed("generation-uuid-id.json");
    assert_eq!(generation.id.as_ref(), "60ac7c34-3224-4b14-8e7d-0aa0db708325");
}

#[test]
fn an_id_may_hold_colons_and_slashes() {
    let generation = parsed("generation-path-id.json");
    let path = "60ac7c34-3224-4b14-8e7d-0aa0db708325:kling-video/v2.1/pro/image-to-video";
    assert_eq!(generation.id.as_ref(), path);
}

#[test]
fn an_id_may_begin_with_a_dash() {
    assert_eq!(parsed("generation-dash-id.json").id.as_ref(), "-8jKp3LqW9xYzAbCdEfGh");
}

#[test]
fn an_id_may_come_as_generation_id() {
    let generation = parsed("generation-generation-id.json");
    assert_eq!(generation.id.as_ref(), ID);
    assert!(generation.extra.is_empty(), "{:?}", generation.extra);
}

#[test]
fn an_id_that_is_not_usable_is_no_id() {
    for unusable in [json!(""), json!(null), json!("a\nb"), json!([]), json!(1.5)] {
        let reply = json!({ "id": unusable, "status": "queued" });
        assert!(serde_json::from_value::<Generation>(reply.clone()).is_err(), "{reply}");
    }
}

#[test]
fn the_id_that_was_asked_for_is_kept_whatever_the_reply_calls_it() {
    for name in ["generation-numeric-id.json", "generation-uuid-id.json"] {
        assert_eq!(retrieved(name).id.as_ref(), ID, "{name}");
    }
    let anonymous = answered(Fault::reply(200, r#"{"status":"queued"}"#)).unwrap();
    assert_eq!(anonymous.id.as_ref(), ID);
}

#[test]
fn every_id_reaches_the_server_as_it_is() {
    let sandbox = sandbox();
    for (raw, encoded) in [
        ("60ac7c34:kling/v2.1 é", "60ac7c34%3Akling%2Fv2.1%20%C3%A9"),
        ("-8jKp3LqW9xYzAbCdEfGh", "-8jKp3LqW9xYzAbCdEfGh"),
        ("a&b=c#d+e%2F?", "a%26b%3Dc%23d%2Be%252F%3F"),
    ] {
        let error = once(&sandbox).retrieve(&id(raw)).unwrap_err();
        assert_eq!(error.status(), Some(404));
        let target = sandbox.requests().pop().unwrap().target;
        let path = "/v2/generate/video/kling/generation?generation_id=";
        assert_eq!(target, format!("{path}{encoded}"));
    }
}

#[test]
fn an_id_goes_through_serde_as_a_string() {
    let written = serde_json::to_value(id(ID)).unwrap();
    assert_eq!(written, json!(ID));
    assert_eq!(serde_json::from_value::<GenerationId>(written).unwrap(), id(ID));
    assert!(serde_json::from_value::<GenerationId>(json!("")).is_err());
}

// ---------------------------------------------------------------- statuses

#[test]
fn pending_statuses_are_not_terminal() {
    for (name, status) in [
        ("generation-queued.json", Status::Queued),
        ("generation-nulls.json", Status::Generating),
        ("generation-waiting.json", Status::Other("waiting".into())),
        ("generation-active.json", Status::Other("active".into())),
        ("generation-unknown.json", Status::Other("unknown".into())),
    ] {
        let generation = parsed(name);
        assert_eq!(generation.status, status, "{name}");
        assert!(!generation.status.is_terminal(), "{name}");
    }
}

#[test]
fn succeeded_is_another_word_for_completed() {
    let status = parsed("generation-succeeded.json").status;
    assert_eq!(status, Status::Completed);
    assert!(status.is_terminal());
}

#[test]
fn failed_is_another_word_for_error() {
    let status = parsed("generation-failed.json").status;
    assert_eq!(status, Status::Error);
    assert!(status.is_terminal());
}

// ---------------------------------------------------------------- video

#[test]
fn the_documented_video_is_read_whole() {
    let generation = parsed("generation-documented.json");
    let video = generation.video.unwrap();
    assert_eq!(video.id, generation.id);
    assert_eq!(video.url, "https://cdn.aimlapi.com/generations/hedgehog/1755087700000-output.mp4");
    assert_eq!(video.duration, Some(5.0));
    assert_eq!(video.content_type.as_deref(), Some("video/mp4"));
    assert_eq!(video.file_name.as_deref(), Some("output.mp4"));
    assert_eq!(video.file_size, Some(15_728_640));
    assert_eq!(video.usage, generation.usage);
    assert!(video.extra.is_empty());
}

#[test]
fn a_video_that_is_null_or_absent_is_none() {
    assert_eq!(parsed("generation-nulls.json").video, None);
    assert_eq!(parsed("generation-queued.json").video, None);
}

#[test]
fn of_a_video_only_the_link_is_needed() {
    let video = parsed("generation-succeeded.json").video.unwrap();
    assert_eq!(video.url, "https://cdn.aimlapi.com/generations/a.mp4");
    assert_eq!((video.duration, video.content_type, video.file_size), (None, None, None));
}

#[test]
fn of_a_video_array_the_first_is_the_video_and_the_rest_is_kept() {
    let generation = parsed("generation-video-array.json");
    let video = generation.video.unwrap();
    assert_eq!(video.url, "https://cdn.aimlapi.com/generations/first.mp4");
    assert_eq!(video.extra["seed"], 7);
    let rest = json!([{ "url": "https://cdn.aimlapi.com/generations/second.mp4" }]);
    assert_eq!(generation.extra["video"], rest);
}

#[test]
fn an_empty_video_array_is_none() {
    assert_eq!(parsed("generation-video-empty-array.json").video, None);
}

#[test]
fn a_video_without_a_link_is_none_but_not_lost() {
    let generation = parsed("generation-video-without-url.json");
    assert_eq!(generation.video, None);
    assert_eq!(generation.extra["video"]["content_type"], "video/mp4");
}

#[test]
fn a_length_beside_the_video_is_the_videos() {
    let generation = parsed("generation-video-outer-duration.json");
    assert_eq!(generation.video.unwrap().duration, Some(10.0));
}

// ---------------------------------------------------------------- error

#[test]
fn an_error_that_is_null_or_absent_is_none() {
    assert_eq!(parsed("generation-documented.json").error, None);
    assert_eq!(parsed("generation-queued.json").error, None);
}

#[test]
fn an_error_object_has_a_name_and_a_message() {
    let error = parsed("generation-error-object.json").error.unwrap();
    assert_eq!(error.name.as_deref(), Some("GenerationError"));
    assert_eq!(error.message, "The provider gave up");
    assert_eq!(error.raw["data"]["retryable"], false);
}

#[test]
fn an_error_string_is_the_message() {
    let error = parsed("generation-error-string.json").error.unwrap();
    assert_eq!((error.name, error.message.as_str()), (None, "The provider gave up"));
}

#[test]
fn the_messages_of_a_detail_list_are_joined() {
    let error = parsed("generation-error-detail-list.json").error.unwrap();
    assert_eq!(error.message, "Image too small; Prompt refused");
}

#[test]
fn any_other_error_is_its_own_json() {
    let error = parsed("generation-error-any.json").error.unwrap();
    assert_eq!(error.message, r#"[1,{"code":17}]"#);
    assert_eq!(error.raw, json!([1, { "code": 17 }]));
}

// ---------------------------------------------------------------- usage

#[test]
fn usage_is_in_credits_and_dollars() {
    let usage = parsed("generation-documented.json").usage.unwrap();
    assert_eq!(
        (usage.credits_used, usage.tokens_used, usage.usd_spent),
        (Some(120_000.0), None, Some(0.06))
    );
}

#[test]
fn older_usage_is_in_tokens() {
    let usage = parsed("generation-tokens.json").usage.unwrap();
    assert_eq!(
        (usage.credits_used, usage.tokens_used, usage.usd_spent),
        (None, Some(1_050_000.0), None)
    );
}

#[test]
fn no_meta_is_no_usage() {
    assert_eq!(parsed("generation-nulls.json").usage, None);
    assert_eq!(parsed("generation-queued.json").usage, None);
}

#[test]
fn usage_goes_through_serde_both_ways() {
    let usage = parsed("generation-documented.json").usage.unwrap();
    let written = serde_json::to_value(usage).unwrap();
    assert_eq!(written, json!({ "credits_used": 120_000.0, "usd_spent": 0.06 }));
    assert_eq!(serde_json::from_value::<Usage>(written).unwrap(), usage);
}

// ---------------------------------------------------------------- serde

/// What is written for a reply: what came, with one spelling for what has several.
fn in_one_spelling(name: &str) -> Value {
    let mut reply: Value = serde_json::from_str(&read(name)).unwrap();
    let fields = reply.as_object_mut().unwrap();
    let id = fields.remove("generation_id").or(fields.remove("id")).unwrap();
    let id = id.as_str().map_or_else(|| id.to_string(), str::to_owned);
    fields.insert("id".into(), id.into());
    match fields["status"].as_str().unwrap() {
        "succeeded" => fields["status"] = "completed".into(),
        "failed" => fields["status"] = "error".into(),
        _ => {}
    }
    fields.retain(|_, value| !value.is_null());
    if name == "generation-video-outer-duration.json" {
        fields["video"]["duration"] = fields["duration"].clone();
    }
    reply
}

#[test]
fn nothing_of_a_reply_is_lost_when_it_is_written_back() {
    for name in files("generation-") {
        let written = serde_json::to_value(parsed(&name)).unwrap();
        assert_eq!(written, in_one_spelling(&name), "{name}");
    }
}

#[test]
fn what_is_written_is_read_as_the_same() {
    for name in files("generation-") {
        let generation = parsed(&name);
        let written = serde_json::to_string(&generation).unwrap();
        assert_eq!(serde_json::from_str::<Generation>(&written).unwrap(), generation, "{name}");
    }
}

/// Replies that change when they are written and read again.
fn changed(replies: impl IntoIterator<Item = Value>) -> Vec<String> {
    let is_changed = |reply: &Value| {
        let generation: Generation = serde_json::from_value(reply.clone()).unwrap();
        let written = serde_json::to_value(&generation).unwrap();
        serde_json::from_value::<Generation>(written).unwrap() != generation
    };
    replies.into_iter().filter(is_changed).map(|reply| reply.to_string()).collect()
}

#[test]
fn a_known_field_of_another_type_is_written_back_too() {
    let usage = json!({ "usage": { "credits_used": "7", "usd_spent": 1 } });
    let replies = [
        json!({ "id": "1", "status": null }),
        json!({ "id": "1", "status": 7 }),
        json!({ "id": null, "status": "queued", "generation_id": "2" }),
        json!({ "id": "1", "status": "queued", "generation_id": "2" }),
        json!({ "id": "1", "status": "queued", "video": "soon", "error": false, "meta": [] }),
        json!({ "id": "1", "status": "queued", "meta": usage }),
    ];
    assert_eq!(changed(replies), [""; 0]);
}

#[test]
fn a_known_field_of_a_video_of_another_type_is_written_back_too() {
    let link = "https://a/b.mp4";
    let replies = [
        json!({ "url": link, "duration": "5", "file_size": "7", "content_type": null }),
        json!({ "url": link, "duration": "5", "file_size": 1.5 }),
        json!({ "url": link, "id": "v", "usage": 7 }),
    ];
    let replies = replies.map(|video| {
        let reply = json!({ "id": "1", "status": "completed", "video": video, "duration": 5 });
        let mut without = reply.clone();
        without.as_object_mut().unwrap().remove("duration");
        [reply, without]
    });
    assert_eq!(changed(replies.into_iter().flatten()), [""; 0]);
}

#[test]
fn a_video_with_an_id_or_usage_of_its_own_goes_through_serde_alone() {
    for own in [json!({ "id": "v" }), json!({ "usage": { "credits_used": 1 } })] {
        let mut reply =
            json!({ "id": "1", "status": "completed", "video": { "url": "https://a" } });
        reply["video"].as_object_mut().unwrap().extend(own.as_object().unwrap().clone());
        let video = serde_json::from_value::<Generation>(reply).unwrap().video.unwrap();
        let written = serde_json::to_value(&video).unwrap();
        assert_eq!(serde_json::from_value::<Video>(written.clone()).unwrap(), video, "{written}");
    }
}

#[test]
fn a_video_goes_through_serde_alone_with_its_id_and_usage() {
    for name in files("generation-") {
        let Some(video) = parsed(&name).video else { continue };
        let written = serde_json::to_value(&video).unwrap();
        assert_eq!(serde_json::from_value::<Video>(written).unwrap(), video, "{name}");
    }
}

#[test]
fn unknown_fields_are_kept_where_they_were() {
    let generation = parsed("generation-unknown-fields.json");
    assert_eq!(generation.extra["created_at"], "2026-08-21T10:00:00.000Z");
    assert_eq!(generation.extra["meta"]["usage"]["seconds_billed"], 5);
    let video = generation.video.unwrap();
    assert_eq!(video.extra["fps"], 24);
    assert_eq!(video.extra["thumbnail"]["url"], "https://cdn.aimlapi.com/generations/a.jpg");
}

#[test]
fn every_form_is_the_same_over_a_socket() {
    for name in files("generation-") {
        let mut expected = parsed(&name);
        expected.id = id(ID);
        if let Some(video) = &mut expected.video {
            video.id = id(ID);
        }
        assert_eq!(retrieved(&name), expected, "{name}");
    }
}

// ---------------------------------------------------------------- headers

#[test]
fn the_headers_of_a_reply_are_its_trace() {
    let fault = Fault::reply(200, read("generation-queued.json"))
        .header("x-inference-id", "the-inference")
        .header("X-Client-Request-Id", "the-create")
        .header("x-request-id", "the-request")
        .header("x-aimlapi-credits-used", "120000")
        .header("x-aimlapi-usd-spent", "0.06");
    let trace = answered(fault).unwrap().trace;
    assert_eq!(trace.inference_id.as_deref(), Some("the-inference"));
    assert_eq!(trace.client_request_id.as_deref(), Some("the-create"));
    assert_eq!(trace.request_id.as_deref(), Some("the-request"));
    assert_eq!((trace.credits_used, trace.usd_spent), (Some(120_000.0), Some(0.06)));
}

#[test]
fn a_header_that_cannot_be_read_is_left_out() {
    let fault = Fault::reply(200, read("generation-queued.json"))
        .header("x-aimlapi-credits-used", "many")
        .header("x-aimlapi-usd-spent", "NaN");
    let trace = answered(fault).unwrap().trace;
    assert_eq!((trace.credits_used, trace.usd_spent), (None, None));
}

#[test]
fn a_created_generation_tells_its_trace() {
    let sandbox = sandbox();
    let created = once(&sandbox).create(&request().client_request_id("order-4711")).unwrap();
    assert_eq!(created.trace.client_request_id.as_deref(), Some("order-4711"));
    assert_eq!(created.trace.inference_id.as_deref(), Some(created.id.as_ref()));
}

#[test]
fn any_success_status_is_success() {
    for status in [200, 201, 202] {
        let sandbox = sandbox();
        let reply = Fault::reply(status, read("generation-queued.json"));
        sandbox.fault(Endpoint::Create, reply, 1);
        assert_eq!(once(&sandbox).create(&request()).unwrap().id.as_ref(), ID, "{status}");
    }
}

// ---------------------------------------------------------------- refusals

#[test]
fn every_error_file_is_a_refusal_of_its_status() {
    for name in files("error-") {
        let status = name.get(6..9).unwrap().parse().unwrap();
        let body = read(&name);
        let shown = refused(status, &name).body().map(str::to_owned);
        let first_word = body.split_whitespace().next().unwrap_or_default();
        assert!(shown.unwrap().starts_with(first_word), "{name}");
    }
}

#[test]
fn a_bad_key_is_401_with_the_servers_words() {
    let error = refused(401, "error-401-key.json");
    assert_eq!(error.api_message(), Some("Invalid API key provided"));
    assert_eq!(error.request_id(), Some(REQUEST_ID));
    assert!(!error.is_out_of_credits() && !error.is_retryable());
    assert!(error.to_string().contains("check the API key"), "{error}");
}

#[test]
fn a_list_of_messages_is_joined() {
    let error = refused(400, "error-400-list.json");
    assert_eq!(error.api_message(), Some("first problem; second problem"));
    assert_eq!(error.request_id(), None);
}

#[test]
fn a_validation_error_is_quoted() {
    let error = refused(400, "error-400-body.json");
    let words = r#"Body validation error at "duration": Expected 5 | 10, received "5""#;
    assert_eq!(error.api_message(), Some(words));
    assert!(error.to_string().contains(words), "{error}");
}

#[test]
fn out_of_credits_is_told_by_the_vendors_kind() {
    let error = refused(403, "error-403-credits.json");
    assert!(error.is_out_of_credits());
    assert_eq!(error.api_message(), Some("You've run out of credits"));
    assert!(error.to_string().contains("top up the account"), "{error}");
}

#[test]
fn out_of_credits_is_told_by_the_vendors_name() {
    let error = refused(403, "error-403-funds.json");
    assert!(error.is_out_of_credits());
    assert_eq!(error.api_message(), Some("The account has no funds"));
}

#[test]
fn another_403_is_not_out_of_credits() {
    assert!(!refused(403, "error-403-other.json").is_out_of_credits());
}

#[test]
fn a_status_in_quotes_changes_nothing() {
    let error = refused(429, "error-429.json");
    assert_eq!(error.api_message(), Some("Too Many Requests"));
    assert_eq!(error.request_id(), Some(REQUEST_ID));
    assert!(error.is_retryable());
}

#[test]
fn not_found_is_not_retryable() {
    let error = refused(404, "error-404.json");
    assert_eq!(error.api_message(), Some("Inference not found"));
    assert!(!error.is_retryable());
}

#[test]
fn a_servers_own_failure_is_retryable() {
    assert!(refused(500, "error-500.json").is_retryable());
    assert!(refused(504, "error-504.json").is_retryable());
}

#[test]
fn a_gateways_page_is_kept_as_the_body() {
    for (status, name) in [(502, "error-502.html"), (524, "error-524.html")] {
        let error = refused(status, name);
        assert_eq!((error.api_message(), error.request_id()), (None, None));
        assert!(error.body().unwrap().contains(&format!("<title>{status}")), "{error:?}");
        assert!(error.is_retryable());
    }
}

#[test]
fn a_refusal_without_a_body_is_one_all_the_same() {
    let error = refused(503, "error-503-empty.txt");
    assert_eq!((error.api_message(), error.body()), (None, Some("")));
}

#[test]
fn the_request_id_may_come_as_a_header() {
    let fault = Fault::reply(504, read("error-504.json")).header("X-Request-Id", "of-the-header");
    assert_eq!(answered(fault).unwrap_err().request_id(), Some("of-the-header"));
}

#[test]
fn retry_after_is_read_from_the_header() {
    let fault = Fault::reply(429, read("error-429.json")).header("Retry-After", "7");
    let asked = answered(fault).unwrap_err().retry_after();
    assert_eq!(asked, Some(std::time::Duration::from_secs(7)));
}

// ---------------------------------------------------------------- unreadable answers

fn unreadable(body: impl Into<Vec<u8>>) -> Error {
    let error = answered(Fault::reply(200, body)).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Decode, Some(200)), "{error}");
    assert_eq!(error.generation_id(), Some(&id(ID)));
    error
}

#[test]
fn a_page_instead_of_json_is_shown() {
    let error = unreadable(read("error-524.html"));
    assert!(error.body().unwrap().starts_with("<!DOCTYPE html>"));
    assert_eq!(chain(&error).len(), 2, "the JSON error is the source: {error:?}");
}

#[test]
fn an_empty_success_is_unreadable() {
    let error = unreadable("");
    assert!(error.to_string().contains("the server answered nothing"), "{error}");
}

#[test]
fn json_that_is_no_generation_is_unreadable() {
    for body in ["[]", "null", "\"completed\"", "7", "{}", r#"{"id":"1"}"#, "{\"id\":"] {
        assert_eq!(unreadable(body).body(), Some(body));
    }
}

#[test]
fn text_that_is_not_utf8_is_unreadable() {
    assert!(unreadable(b"\xFF\xFE{\0}\0".to_vec()).body().is_some());
}

#[test]
fn a_reply_of_one_mebibyte_is_read_and_a_longer_one_is_refused() {
    const MIB: usize = 1024 * 1024;
    let padded = |len: usize| {
        let mut body = read("generation-queued.json");
        body.extend(std::iter::repeat_n(' ', len - body.len()));
        body
    };
    assert_eq!(answered(Fault::reply(200, padded(MIB))).unwrap().status, Status::Queued);
    let error = answered(Fault::reply(200, padded(MIB + 1))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert!(error.to_string().contains("1 MiB"), "{error}");
}

#[test]
fn an_endless_reply_is_refused() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let endless = Fault::endless(head, vec![b' '; 64 * 1024], 1 << 40);
    assert_eq!(answered(endless).unwrap_err().kind(), ErrorKind::Decode);
}

#[test]
fn a_refusal_over_one_mebibyte_is_a_refusal() {
    let error = answered(Fault::reply(500, "<html>".repeat(400_000))).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(500)));
    assert!(error.body().unwrap().len() <= 2048);
}

#[test]
fn a_reply_that_breaks_off_is_a_broken_connection() {
    let whole = read("generation-documented.json");
    let cut = Fault::reply(200, whole.clone()).cut_after(whole.len());
    assert_eq!(answered(cut).unwrap_err().kind(), ErrorKind::Transport);
}

// ---------------------------------------------------------------- what is shown of server text

#[test]
fn of_server_text_two_kibibytes_are_kept() {
    let body = json!({ "message": "é".repeat(5_000), "requestId": "x".repeat(5_000) });
    let error = answered(Fault::reply(400, body.to_string())).unwrap_err();
    assert!(error.api_message().unwrap().starts_with("éé"));
    for text in [error.api_message(), error.request_id(), error.body()] {
        assert!(text.unwrap().len() <= 2048, "{}", text.unwrap().len());
    }
}

#[test]
fn a_key_that_the_server_repeats_is_replaced() {
    let sandbox = sandbox();
    let body =
        json!({ "message": format!("bad key {}", sandbox.key()), "requestId": sandbox.key() });
    for status in [401, 200] {
        let echo = Fault::reply(status, body.to_string()).header("X-Request-Id", sandbox.key());
        sandbox.fault(Endpoint::Retrieve, echo, 1);
        let error = once(&sandbox).retrieve(&id(ID)).unwrap_err();
        let shown = everything_shown(&error);
        assert!(!shown.contains(sandbox.key()), "{shown}");
        assert!(shown.contains("bad key [key]"), "{shown}");
    }
}

#[test]
fn a_picture_that_the_server_repeats_is_left_out() {
    let message = format!("bad image data:image/png;base64,{} given", "iVBORw0KGgo".repeat(99));
    let body = json!({ "message": message }).to_string();
    let error = answered(Fault::reply(400, body)).unwrap_err();
    let shown = everything_shown(&error);
    assert!(!shown.contains("iVBORw0KGgo"), "{shown}");
    assert!(error.api_message().unwrap().ends_with(" given"), "{error}");
}

#[test]
fn control_characters_of_the_server_do_not_reach_a_terminal() {
    let body = json!({ "message": "bad\u{1b}[2J\r\nkey" }).to_string();
    let error = answered(Fault::reply(400, body)).unwrap_err();
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
}

// ---------------------------------------------------------------- the other endpoints

fn balance(fault: Fault) -> kling_video::Result<kling_video::Balance> {
    let sandbox: Sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, fault, 1);
    let client = sandbox.client_builder().retry(RetryPolicy::none()).build().unwrap();
    client.balance()
}

#[test]
fn a_balance_is_an_amount_and_a_currency() {
    let read = balance(Fault::reply(200, r#"{"current_balance":123.45,"currency":"EUR"}"#));
    let read = read.unwrap();
    assert_eq!((read.amount, read.currency.as_str()), (123.45, "EUR"));
}

#[test]
fn a_balance_without_an_amount_is_unreadable() {
    let error = balance(Fault::reply(200, r#"{"currency":"USD"}"#)).unwrap_err();
    assert_eq!((error.kind(), error.operation()), (ErrorKind::Decode, "balance"));
    assert_eq!(error.body(), Some(r#"{"currency":"USD"}"#));
}
