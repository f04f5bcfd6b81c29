//! Every form of response that the API documents or was seen to send, each in its own fixture file.

use kling_video::sandbox::{Endpoint, Fault};
use kling_video::{Error, ErrorKind, Generation, GenerationId, Operation, Status, Usage};
use serde_json::json;

use crate::helpers::clients::{id, no_retry_client, request, sandbox};
use crate::helpers::files::fixture;

pub const ID: &str = "789392067490349060";
pub const REQUEST_ID: &str = "V1StGXR8Z5jdHi6BmyT8k";

pub fn read(name: &str) -> String {
    std::fs::read_to_string(fixture("responses").join(name)).unwrap()
}

/// The response as a program deserializes it from its own storage.
pub fn deserialized(name: &str) -> Generation {
    serde_json::from_str(&read(name)).unwrap()
}

/// What `retrieve` returns for this response.
pub fn retrieve_with(fault: Fault) -> kling_video::Result<Generation> {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Retrieve, fault, 1);
    no_retry_client(&sandbox).retrieve(&id(ID))
}

/// The response as `retrieve` receives it over HTTP.
pub fn retrieved(name: &str) -> Generation {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Retrieve, Fault::response(200, read(name)), 1);
    no_retry_client(&sandbox).retrieve(&deserialized(name).id).unwrap()
}

/// The error that `retrieve` returns for this error response.
pub fn api_error(status: u16, name: &str) -> Error {
    let error = retrieve_with(Fault::response(status, read(name))).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)), "{error}");
    assert_eq!(error.generation_id(), Some(&id(ID)));
    error
}

pub fn fixture_names(prefix: &str) -> Vec<String> {
    let names = std::fs::read_dir(fixture("responses")).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with(prefix)).collect();
    names.sort();
    assert!(!names.is_empty());
    names
}

// ---------------------------------------------------------------- ids

#[test]
fn id_of_18_digits_is_exact() {
    assert_eq!(deserialized("generation-queued.json").id.as_ref(), ID);
}

#[test]
fn numeric_id_keeps_every_digit() {
    assert_eq!(deserialized("generation-numeric-id.json").id.as_ref(), "789392067490349061");
}

#[test]
fn id_may_be_uuid() {
    let generation = deserialized("generation-uuid-id.json");
    assert_eq!(generation.id.as_ref(), "60ac7c34-3224-4b14-8e7d-0aa0db708325");
}

#[test]
fn id_may_contain_colons_and_slashes() {
    let generation = deserialized("generation-path-id.json");
    let expected = "60ac7c34-3224-4b14-8e7d-0aa0db708325:kling-video/v2.1/pro/image-to-video";
    assert_eq!(generation.id.as_ref(), expected);
}

#[test]
fn id_may_start_with_dash() {
    assert_eq!(deserialized("generation-dash-id.json").id.as_ref(), "-8jKp3LqW9xYzAbCdEfGh");
}

#[test]
fn id_may_be_named_generation_id() {
    let generation = deserialized("generation-generation-id.json");
    assert_eq!(generation.id.as_ref(), ID);
    assert!(generation.extra.is_empty(), "{:?}", generation.extra);
}

#[test]
fn invalid_id_is_rejected() {
    for invalid in [json!(""), json!(null), json!("a\nb"), json!([]), json!(1.5)] {
        let response = json!({ "id": invalid, "status": "queued" });
        assert!(serde_json::from_value::<Generation>(response.clone()).is_err(), "{response}");
    }
}

#[test]
fn requested_id_takes_precedence_over_id_in_response() {
    for name in ["generation-numeric-id.json", "generation-uuid-id.json"] {
        let fault = Fault::response(200, read(name)).header("x-inference-id", ID);
        assert_eq!(retrieve_with(fault).unwrap().id.as_ref(), ID, "{name}");
    }
}

#[test]
fn id_is_percent_encoded_in_query() {
    let sandbox = sandbox();
    for (raw, encoded) in [
        ("60ac7c34:kling/v2.1 é", "60ac7c34%3Akling%2Fv2.1%20%C3%A9"),
        ("-8jKp3LqW9xYzAbCdEfGh", "-8jKp3LqW9xYzAbCdEfGh"),
        ("a&b=c#d+e%2F?", "a%26b%3Dc%23d%2Be%252F%3F"),
    ] {
        let error = no_retry_client(&sandbox).retrieve(&id(raw)).unwrap_err();
        assert_eq!(error.status(), Some(404));
        let target = sandbox.requests().pop().unwrap().target;
        let path = "/v2/generate/video/kling/generation?generation_id=";
        assert_eq!(target, format!("{path}{encoded}"));
    }
}

#[test]
fn id_serializes_as_string() {
    let serialized = serde_json::to_value(id(ID)).unwrap();
    assert_eq!(serialized, json!(ID));
    assert_eq!(serde_json::from_value::<GenerationId>(serialized).unwrap(), id(ID));
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
        let generation = deserialized(name);
        assert_eq!(generation.status, status, "{name}");
        assert!(!generation.status.is_terminal(), "{name}");
    }
}

#[test]
fn status_succeeded_means_completed() {
    let status = deserialized("generation-succeeded.json").status;
    assert_eq!(status, Status::Completed);
    assert!(status.is_terminal());
}

#[test]
fn status_failed_means_error() {
    let status = deserialized("generation-failed.json").status;
    assert_eq!(status, Status::Error);
    assert!(status.is_terminal());
}

// ---------------------------------------------------------------- video

#[test]
fn documented_video_is_parsed_completely() {
    let generation = deserialized("generation-documented.json");
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
fn null_or_absent_video_is_none() {
    assert_eq!(deserialized("generation-nulls.json").video, None);
    assert_eq!(deserialized("generation-queued.json").video, None);
}

#[test]
fn video_requires_only_url() {
    let video = deserialized("generation-succeeded.json").video.unwrap();
    assert_eq!(video.url, "https://cdn.aimlapi.com/generations/a.mp4");
    assert_eq!((video.duration, video.content_type, video.file_size), (None, None, None));
}

#[test]
fn video_array_yields_first_and_preserves_rest() {
    let generation = deserialized("generation-video-array.json");
    let video = generation.video.unwrap();
    assert_eq!(video.url, "https://cdn.aimlapi.com/generations/first.mp4");
    assert_eq!(video.extra["seed"], 7);
    let rest = json!([{ "url": "https://cdn.aimlapi.com/generations/second.mp4" }]);
    assert_eq!(generation.extra["video"], rest);
}

#[test]
fn empty_video_array_is_none() {
    assert_eq!(deserialized("generation-video-empty-array.json").video, None);
}

#[test]
fn video_without_url_is_preserved_in_extra() {
    let generation = deserialized("generation-video-without-url.json");
    assert_eq!(generation.video, None);
    assert_eq!(generation.extra["video"]["content_type"], "video/mp4");
}

#[test]
fn duration_next_to_video_is_video_duration() {
    let generation = deserialized("generation-video-outer-duration.json");
    assert_eq!(generation.video.unwrap().duration, Some(10.0));
}

// ---------------------------------------------------------------- error

#[test]
fn null_or_absent_error_is_none() {
    assert_eq!(deserialized("generation-documented.json").error, None);
    assert_eq!(deserialized("generation-queued.json").error, None);
}

#[test]
fn error_object_has_name_and_message() {
    let error = deserialized("generation-error-object.json").error.unwrap();
    assert_eq!(error.name.as_deref(), Some("GenerationError"));
    assert_eq!(error.message, "The provider gave up");
    assert_eq!(error.raw["data"]["retryable"], false);
}

#[test]
fn error_string_is_message() {
    let error = deserialized("generation-error-string.json").error.unwrap();
    assert_eq!((error.name, error.message.as_str()), (None, "The provider gave up"));
}

#[test]
fn error_detail_list_is_joined() {
    let error = deserialized("generation-error-detail-list.json").error.unwrap();
    assert_eq!(error.message, "body.image_url: Image too small; body.prompt: Prompt rejected");
}

#[test]
fn error_of_other_type_is_kept_as_json() {
    let error = deserialized("generation-error-any.json").error.unwrap();
    assert_eq!(error.message, r#"[1,{"code":17}]"#);
    assert_eq!(error.raw, json!([1, { "code": 17 }]));
}

// ---------------------------------------------------------------- usage

#[test]
fn usage_has_credits_and_dollars() {
    let usage = deserialized("generation-documented.json").usage.unwrap();
    assert_eq!(
        (usage.credits_used, usage.tokens_used, usage.usd_spent),
        (Some(120_000.0), None, Some(0.06))
    );
}

#[test]
fn older_usage_has_tokens() {
    let usage = deserialized("generation-tokens.json").usage.unwrap();
    assert_eq!(
        (usage.credits_used, usage.tokens_used, usage.usd_spent),
        (None, Some(1_050_000.0), None)
    );
}

#[test]
fn usage_without_meta_is_none() {
    assert_eq!(deserialized("generation-nulls.json").usage, None);
    assert_eq!(deserialized("generation-queued.json").usage, None);
}

#[test]
fn usage_round_trips_through_serde() {
    let usage = deserialized("generation-documented.json").usage.unwrap();
    let serialized = serde_json::to_value(usage).unwrap();
    assert_eq!(serialized, json!({ "credits_used": 120_000.0, "usd_spent": 0.06 }));
    assert_eq!(serde_json::from_value::<Usage>(serialized).unwrap(), usage);
}

// ---------------------------------------------------------------- headers

#[test]
fn response_headers_are_returned_as_metadata() {
    let fault = Fault::response(200, read("generation-queued.json"))
        .header("x-inference-id", "the-inference")
        .header("X-Client-Request-Id", "the-create")
        .header("x-request-id", "the-request")
        .header("x-aimlapi-credits-used", "120000")
        .header("x-aimlapi-usd-spent", "0.06");
    let metadata = retrieve_with(fault).unwrap().metadata;
    assert_eq!(metadata.inference_id.as_deref(), Some("the-inference"));
    assert_eq!(metadata.client_request_id.as_deref(), Some("the-create"));
    assert_eq!(metadata.request_id.as_deref(), Some("the-request"));
    assert_eq!((metadata.credits_used, metadata.usd_spent), (Some(120_000.0), Some(0.06)));
}

#[test]
fn invalid_metadata_header_is_ignored() {
    let fault = Fault::response(200, read("generation-queued.json"))
        .header("x-aimlapi-credits-used", "many")
        .header("x-aimlapi-usd-spent", "NaN");
    let metadata = retrieve_with(fault).unwrap().metadata;
    assert_eq!((metadata.credits_used, metadata.usd_spent), (None, None));
}

#[test]
fn created_generation_has_metadata() {
    let sandbox = sandbox();
    let created =
        no_retry_client(&sandbox).create(&request().client_request_id("order-4711")).unwrap();
    assert_eq!(created.metadata.client_request_id.as_deref(), Some("order-4711"));
    assert_eq!(created.metadata.inference_id.as_deref(), Some(created.id.as_ref()));
}

#[test]
fn success_status_may_be_200_201_or_202() {
    for status in [200, 201, 202] {
        let sandbox = sandbox();
        let response = Fault::response(status, read("generation-queued.json"));
        sandbox.fault(Endpoint::Create, response, 1);
        assert_eq!(
            no_retry_client(&sandbox).create(&request()).unwrap().id.as_ref(),
            ID,
            "{status}"
        );
    }
}

// ---------------------------------------------------------------- balance

fn balance(fault: Fault) -> kling_video::Result<kling_video::Balance> {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Billing, fault, 1);
    no_retry_client(&sandbox).balance()
}

#[test]
fn balance_has_amount_and_currency() {
    let balance = balance(Fault::response(200, r#"{"current_balance":123.45,"currency":"EUR"}"#));
    let balance = balance.unwrap();
    assert_eq!((balance.amount, balance.currency.as_str()), (123.45, "EUR"));
}

#[test]
fn balance_without_amount_is_decode_error() {
    for body in ["", "<html>", "[]", "{}", r#"{"current_balance":"much"}"#, r#"{"currency":"USD"}"#]
    {
        let error = balance(Fault::response(200, body)).unwrap_err();
        assert_eq!((error.kind(), error.operation()), (ErrorKind::Decode, Operation::Balance));
        assert_eq!(error.body(), Some(body));
    }
    assert_eq!(balance(Fault::status(401)).unwrap_err().status(), Some(401));
}
