//! Every form of response that the API documents or was seen to send, each in its own fixture file.

use kling_video::sandbox::{Endpoint, Fault};
use kling_video::{Error, ErrorKind, Generation, GenerationId, Operation, Status, Usage, Video};
use serde_json::{Value, json};

use crate::helpers::clients::{id, no_retry_client, request, sandbox};
use crate::helpers::error_output::{error_chain, full_error_output};
use crate::helpers::files::fixture;

const ID: &str = "789392067490349060";
const REQUEST_ID: &str = "V1StGXR8Z5jdHi6BmyT8k";

fn read(name: &str) -> String {
    std::fs::read_to_string(fixture("responses").join(name)).unwrap()
}

/// The response as a program deserializes it from its own storage.
fn deserialized(name: &str) -> Generation {
    serde_json::from_str(&read(name)).unwrap()
}

/// What `retrieve` returns for this response.
fn retrieve_with(fault: Fault) -> kling_video::Result<Generation> {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Retrieve, fault, 1);
    no_retry_client(&sandbox).retrieve(&id(ID))
}

/// The response as `retrieve` receives it over HTTP.
fn retrieved(name: &str) -> Generation {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Retrieve, Fault::response(200, read(name)), 1);
    no_retry_client(&sandbox).retrieve(&deserialized(name).id).unwrap()
}

/// The error that `retrieve` returns for this error response.
fn api_error(status: u16, name: &str) -> Error {
    let error = retrieve_with(Fault::response(status, read(name))).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)), "{error}");
    assert_eq!(error.generation_id(), Some(&id(ID)));
    error
}

fn fixture_names(prefix: &str) -> Vec<String> {
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

// ---------------------------------------------------------------- serde

/// The JSON expected from serializing a response: the response itself, in canonical form where the
/// API has several.
fn canonical_json(name: &str) -> Value {
    let mut response: Value = serde_json::from_str(&read(name)).unwrap();
    let fields = response.as_object_mut().unwrap();
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
    response
}

#[test]
fn generation_serializes_every_field() {
    for name in fixture_names("generation-") {
        let serialized = serde_json::to_value(deserialized(&name)).unwrap();
        assert_eq!(serialized, canonical_json(&name), "{name}");
    }
}

#[test]
fn generation_round_trips_through_serde() {
    for name in fixture_names("generation-") {
        let generation = deserialized(&name);
        let serialized = serde_json::to_string(&generation).unwrap();
        assert_eq!(serde_json::from_str::<Generation>(&serialized).unwrap(), generation, "{name}");
    }
}

/// The responses that serializing and deserializing changes.
fn changed_by_round_trip(responses: impl IntoIterator<Item = Value>) -> Vec<String> {
    let is_changed = |response: &Value| {
        let generation: Generation = serde_json::from_value(response.clone()).unwrap();
        let serialized = serde_json::to_value(&generation).unwrap();
        serde_json::from_value::<Generation>(serialized).unwrap() != generation
    };
    responses.into_iter().filter(is_changed).map(|response| response.to_string()).collect()
}

#[test]
fn known_field_of_other_type_round_trips() {
    let usage = json!({ "usage": { "credits_used": "7", "usd_spent": 1 } });
    let responses = [
        json!({ "id": "1", "status": null }),
        json!({ "id": "1", "status": 7 }),
        json!({ "id": null, "status": "queued", "generation_id": "2" }),
        json!({ "id": "1", "status": "queued", "generation_id": "2" }),
        json!({ "id": "1", "status": "queued", "video": "soon", "error": false, "meta": [] }),
        json!({ "id": "1", "status": "queued", "meta": usage }),
    ];
    assert_eq!(changed_by_round_trip(responses), [""; 0]);
}

#[test]
fn known_video_field_of_other_type_round_trips() {
    let url = "https://a/b.mp4";
    let responses = [
        json!({ "url": url, "duration": "5", "file_size": "7", "content_type": null }),
        json!({ "url": url, "duration": "5", "file_size": 1.5 }),
        json!({ "url": url, "id": "v", "usage": 7 }),
    ];
    let responses = responses.map(|video| {
        let response = json!({ "id": "1", "status": "completed", "video": video, "duration": 5 });
        let mut without_duration = response.clone();
        without_duration.as_object_mut().unwrap().remove("duration");
        [response, without_duration]
    });
    assert_eq!(changed_by_round_trip(responses.into_iter().flatten()), [""; 0]);
}

#[test]
fn video_with_its_own_id_or_usage_round_trips() {
    for fields in [json!({ "id": "v" }), json!({ "usage": { "credits_used": 1 } })] {
        let mut response =
            json!({ "id": "1", "status": "completed", "video": { "url": "https://a" } });
        response["video"].as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        let video = serde_json::from_value::<Generation>(response).unwrap().video.unwrap();
        let serialized = serde_json::to_value(&video).unwrap();
        assert_eq!(
            serde_json::from_value::<Video>(serialized.clone()).unwrap(),
            video,
            "{serialized}"
        );
    }
}

#[test]
fn video_round_trips_with_id_and_usage() {
    let names = fixture_names("generation-");
    let videos: Vec<Video> = names.iter().filter_map(|name| deserialized(name).video).collect();
    assert!(videos.len() > 3, "{videos:?}");
    for video in videos {
        let serialized = serde_json::to_value(&video).unwrap();
        assert_eq!(serde_json::from_value::<Video>(serialized).unwrap(), video);
    }
}

#[test]
fn unknown_fields_are_preserved_in_place() {
    let generation = deserialized("generation-unknown-fields.json");
    assert_eq!(generation.extra["created_at"], "2026-08-21T10:00:00.000Z");
    assert_eq!(generation.extra["meta"]["usage"]["seconds_billed"], 5);
    let video = generation.video.unwrap();
    assert_eq!(video.extra["fps"], 24);
    assert_eq!(video.extra["thumbnail"]["url"], "https://cdn.aimlapi.com/generations/a.jpg");
}

#[test]
fn response_forms_are_parsed_the_same_over_http() {
    for name in fixture_names("generation-") {
        assert_eq!(retrieved(&name), deserialized(&name), "{name}");
    }
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

// ---------------------------------------------------------------- error responses

#[test]
fn error_responses_are_api_errors_of_their_status() {
    for name in fixture_names("error-") {
        let status = name.get(6..9).unwrap().parse().unwrap();
        let body = read(&name);
        let error = api_error(status, &name);
        let first_word = body.split_whitespace().next().unwrap_or_default();
        assert!(error.body().unwrap().starts_with(first_word), "{name}");
    }
}

#[test]
fn invalid_key_is_401_with_server_message() {
    let error = api_error(401, "error-401-key.json");
    assert_eq!(error.server_message(), Some("Invalid API key provided"));
    assert_eq!(error.request_id(), Some(REQUEST_ID));
    assert!(!error.is_out_of_credits() && !error.is_retryable());
    assert!(error.to_string().contains("check the API key"), "{error}");
}

#[test]
fn error_message_list_is_joined() {
    let error = api_error(400, "error-400-list.json");
    assert_eq!(error.server_message(), Some("first problem; second problem"));
    assert_eq!(error.request_id(), None);
}

#[test]
fn validation_error_message_is_quoted() {
    let error = api_error(400, "error-400-body.json");
    let message = r#"Body validation error at "duration": Expected 5 | 10, received "5""#;
    assert_eq!(error.server_message(), Some(message));
    assert!(error.to_string().contains(message), "{error}");
}

#[test]
fn out_of_credits_is_detected_by_error_kind() {
    let error = api_error(403, "error-403-credits.json");
    assert!(error.is_out_of_credits());
    assert_eq!(error.server_message(), Some("You've run out of credits"));
    assert!(error.to_string().contains("balance()"), "{error}");
}

#[test]
fn out_of_credits_is_detected_by_error_name() {
    let error = api_error(403, "error-403-funds.json");
    assert!(error.is_out_of_credits());
    assert_eq!(error.server_message(), Some("The account has no funds"));
}

#[test]
fn other_403_is_not_out_of_credits() {
    assert!(!api_error(403, "error-403-other.json").is_out_of_credits());
}

#[test]
fn status_code_in_error_body_may_be_string() {
    let error = api_error(429, "error-429.json");
    assert_eq!(error.server_message(), Some("Too Many Requests"));
    assert_eq!(error.request_id(), Some(REQUEST_ID));
    assert!(error.is_retryable());
}

#[test]
fn not_found_is_not_retryable() {
    let error = api_error(404, "error-404.json");
    assert_eq!(error.server_message(), Some("Inference not found"));
    assert!(!error.is_retryable());
}

#[test]
fn gateway_page_is_kept_as_body() {
    for (status, name) in [(502, "error-502.html"), (524, "error-524.html")] {
        let error = api_error(status, name);
        assert_eq!((error.server_message(), error.request_id()), (None, None));
        assert!(error.body().unwrap().contains(&format!("<title>{status}")), "{error:?}");
        assert!(error.is_retryable());
    }
}

#[test]
fn error_response_without_body_is_api_error() {
    let error = api_error(503, "error-503-empty.txt");
    assert_eq!((error.server_message(), error.body()), (None, Some("")));
}

#[test]
fn request_id_may_come_from_header() {
    let fault =
        Fault::response(504, read("error-504.json")).header("X-Request-Id", "of-the-header");
    assert_eq!(retrieve_with(fault).unwrap_err().request_id(), Some("of-the-header"));
}

#[test]
fn retry_after_is_read_from_header() {
    let fault = Fault::response(429, read("error-429.json")).header("Retry-After", "7");
    let retry_after = retrieve_with(fault).unwrap_err().retry_after();
    assert_eq!(retry_after, Some(std::time::Duration::from_secs(7)));
}

// ---------------------------------------------------------------- invalid responses

fn decode_error(body: impl Into<Vec<u8>>) -> Error {
    let error = retrieve_with(Fault::response(200, body)).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Decode, Some(200)), "{error}");
    assert_eq!(error.generation_id(), Some(&id(ID)));
    error
}

#[test]
fn html_instead_of_json_is_decode_error_with_body() {
    let error = decode_error(read("error-524.html"));
    assert!(error.body().unwrap().starts_with("<!DOCTYPE html>"));
    assert_eq!(error_chain(&error).len(), 2, "the JSON error is the source: {error:?}");
}

#[test]
fn empty_success_body_is_decode_error() {
    let error = decode_error("");
    assert!(error.to_string().contains("empty response body"), "{error}");
}

#[test]
fn json_without_generation_is_decode_error() {
    for body in ["[]", "null", "\"completed\"", "7", "{}", r#"{"id":"1"}"#, "{\"id\":"] {
        assert_eq!(decode_error(body).body(), Some(body));
    }
}

#[test]
fn invalid_utf8_is_decode_error() {
    assert!(decode_error(b"\xFF\xFE{\0}\0".to_vec()).body().is_some());
}

#[test]
fn response_body_may_be_at_most_1_mib() {
    const MIB: usize = 1024 * 1024;
    let padded = |len: usize| {
        let mut body = read("generation-queued.json");
        body.extend(std::iter::repeat_n(' ', len - body.len()));
        body
    };
    assert_eq!(retrieve_with(Fault::response(200, padded(MIB))).unwrap().status, Status::Queued);
    let error = retrieve_with(Fault::response(200, padded(MIB + 1))).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Decode, "{error}");
    assert!(error.to_string().contains("1 MiB"), "{error}");
}

#[test]
fn error_response_over_1_mib_is_api_error() {
    let error = retrieve_with(Fault::response(500, "<html>".repeat(400_000))).unwrap_err();
    assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(500)));
    assert!(error.body().unwrap().len() <= 2048);
}

// ---------------------------------------------------------------- server text in errors

#[test]
fn server_text_is_truncated_to_2_kib() {
    let body = json!({ "message": "é".repeat(5_000), "requestId": "x".repeat(5_000) });
    let error = retrieve_with(Fault::response(400, body.to_string())).unwrap_err();
    assert!(error.server_message().unwrap().starts_with("éé"));
    for text in [error.server_message(), error.request_id(), error.body()] {
        assert!(text.unwrap().len() <= 2048, "{}", text.unwrap().len());
    }
}

#[test]
fn image_in_error_response_is_redacted() {
    let message = format!("bad image data:image/png;base64,{} given", "iVBORw0KGgo".repeat(99));
    let body = json!({ "message": message }).to_string();
    let error = retrieve_with(Fault::response(400, body)).unwrap_err();
    let output = full_error_output(&error);
    assert!(!output.contains("iVBORw0KGgo"), "{output}");
    assert!(error.server_message().unwrap().ends_with(" given"), "{error}");
}

#[test]
fn control_characters_in_server_text_are_removed() {
    let body = json!({ "message": "bad\u{1b}[2J\r\nkey" }).to_string();
    let error = retrieve_with(Fault::response(400, body)).unwrap_err();
    assert!(!error.to_string().contains(char::is_control), "{error:?}");
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
