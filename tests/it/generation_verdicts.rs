//! What a response proves about a generation: whose it is, and whether it has failed.

use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{Client, Error, ErrorKind, GenerationId, Operation, Result, Status, Video};
use serde_json::{Value, json};

use crate::helpers::clients::{
    client_with_generation, create_counts, id, no_retry_client, quick_wait, request, sandbox,
};
use crate::helpers::error_output::error_chain;
use crate::helpers::files::TestDir;

const OTHER: &str = "60ac7c34-3224-4b14-8e7d-0aa0db708325";
const OTHER_URL: &str = "https://cdn.example/not-ours.mp4";

/// The same client, which gives up soon.
fn impatient(client: &Client) -> Client {
    client.with_wait_options(quick_wait().timeout(Duration::from_millis(60)))
}

/// Queues these responses for the next polls.
fn script(sandbox: &Sandbox, responses: impl IntoIterator<Item = Value>) {
    for response in responses {
        sandbox.fault(Endpoint::Retrieve, Fault::response(200, response.to_string()), 1);
    }
}

fn polls(sandbox: &Sandbox) -> usize {
    sandbox.request_count(Endpoint::Retrieve)
}

/// Waits for a generation whose polls get `bodies` as responses, each with its id added, and then
/// as the sandbox does. Returns the number of polls, too.
fn wait_with(bodies: &[Value]) -> (Result<Video>, usize) {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    script(&sandbox, bodies.iter().map(|body| with_id(body, &id)));
    (client.wait(&id), polls(&sandbox))
}

fn with_id(body: &Value, id: &GenerationId) -> Value {
    let mut body = body.clone();
    body["id"] = id.as_str().into();
    body
}

fn status(word: &str) -> Value {
    json!({ "status": word })
}

// ---------------------------------------------------------------- whose response it is

#[test]
fn response_without_the_id_is_polled_again_by_a_durable_run() {
    for body in [
        json!({ "status": "error", "message": "upstream request failed" }),
        json!({ "status": "failed", "message": "Inference not found" }),
        json!({ "id": OTHER, "status": "error", "error": "no" }),
        json!({ "id": "", "status": "failed" }),
        json!({ "id": null, "generation_id": OTHER, "status": "canceled" }),
    ] {
        let (sandbox, dir) = (sandbox(), TestDir::new());
        script(&sandbox, [body.clone(), body.clone(), body.clone()]);
        let client = sandbox.client_builder().build().unwrap();
        let saved = client.generate_to(&request(), &dir.target);
        let saved = saved.unwrap_or_else(|error| panic!("{body}: {error:?}"));
        assert_eq!(saved.id.as_str(), sandbox.generations()[0].id, "{body}");
        assert_eq!(create_counts(&sandbox), (1, 1), "{body}");
        assert_eq!(dir.last_step().as_deref(), Some("saved"), "{body}");
    }
}

#[test]
fn completed_response_of_another_id_is_not_taken_for_this_video() {
    let completed = json!({ "id": OTHER, "status": "completed", "video": { "url": OTHER_URL } });
    let fault = Fault::response(200, completed.to_string()).header("x-inference-id", OTHER);

    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    sandbox.fault(Endpoint::Retrieve, fault.clone(), 2);
    let video = client.wait(&id).unwrap();
    assert!(video.url.starts_with(&sandbox.url()), "{}", video.url);

    // Every time: the error of the time-out says what was received instead.
    sandbox.fault(Endpoint::Retrieve, fault, u32::MAX);
    let error = impatient(&client).wait(&id).unwrap_err();
    assert_eq!((error.kind(), error.generation_id()), (ErrorKind::WaitTimeout, Some(&id)));
    assert!(error.generation().is_none(), "{error:?}");
    let chain = error_chain(&error);
    assert!(chain[1].contains(OTHER) && chain[1].contains(OTHER_URL), "{chain:?}");
}

#[test]
fn timeout_repeats_the_words_of_responses_without_the_id() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    // Seen once.
    let body = json!({
        "id": "", "status": "unknown",
        "error": { "name": "Error", "message": "invalid params, task_id cannot by empty" },
    });
    sandbox.fault(Endpoint::Retrieve, Fault::response(200, body.to_string()), u32::MAX);
    let error = impatient(&client).wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert!(error_chain(&error)[1].contains("task_id cannot by empty"), "{error:?}");
}

#[test]
fn timeout_repeats_the_words_of_a_pending_response_with_an_error() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    let body = json!({ "id": id, "status": "unknown", "error": "upstream is out of capacity" });
    sandbox.fault(Endpoint::Retrieve, Fault::response(200, body.to_string()), u32::MAX);
    let error = impatient(&client).wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert!(error_chain(&error)[1].contains("out of capacity"), "{error:?}");
}

#[test]
fn response_names_its_generation_in_either_field_or_in_its_header() {
    let video = json!({ "url": "https://cdn.example/ours.mp4" });
    let completed = |field: &str, id: &str| {
        json!({ field: id, "status": "completed", "video": video }).to_string()
    };
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    let (own, none) = (id.as_str(), json!({ "status": "completed", "video": video }).to_string());
    for fault in [
        Fault::response(200, completed("id", own)),
        Fault::response(200, completed("generation_id", own)),
        Fault::response(200, none).header("x-inference-id", own),
        // Such as an id of the service behind the API.
        Fault::response(200, completed("id", OTHER)).header("x-inference-id", own),
        Fault::response(200, completed("id", own)).header("x-inference-id", OTHER),
    ] {
        sandbox.fault(Endpoint::Retrieve, fault.clone(), 1);
        let found = client.wait(&id).unwrap();
        assert_eq!((found.url.as_str(), &found.id), ("https://cdn.example/ours.mp4", &id));
        sandbox.fault(Endpoint::Retrieve, fault, 1);
        assert_eq!(client.retrieve(&id).unwrap().id, id);
    }
}

#[test]
fn numeric_id_names_the_generation() {
    let sandbox = sandbox();
    let body = r#"{"id":789392067490349061,"status":"queued"}"#;
    sandbox.fault(Endpoint::Retrieve, Fault::response(200, body), 2);
    let client = no_retry_client(&sandbox);
    assert!(client.retrieve(&id("789392067490349061")).is_ok());
    // Not even if a double cannot tell them apart.
    assert!(client.retrieve(&id("789392067490349060")).is_err());
}

#[test]
fn retrieve_of_another_generation_is_a_decode_error() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    for body in [
        json!({ "id": OTHER, "status": "completed", "video": { "url": OTHER_URL } }),
        json!({ "status": "error", "message": "no" }),
    ] {
        sandbox.fault(Endpoint::Retrieve, Fault::response(200, body.to_string()), 1);
        let error = client.retrieve(&id("1")).unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Decode, Some(200)));
        assert_eq!(error.operation(), Operation::Retrieve);
        assert_eq!(error.generation_id(), Some(&id("1")));
        assert!(!error.is_retryable() && error.generation().is_none());
        assert_eq!(error.body(), Some(body.to_string().as_str()));
    }
}

#[test]
fn expired_url_is_not_replaced_by_that_of_another_generation() {
    let (sandbox, dir) = (sandbox(), TestDir::new());
    let (client, id) = client_with_generation(&sandbox);
    let video = client.wait(&id).unwrap();
    let other = client.create(&request()).unwrap().id;
    let other_url = client.wait(&other).unwrap().url;
    sandbox.fault(Endpoint::Video, Fault::status(403), 1);
    script(
        &sandbox,
        [json!({ "id": other, "status": "completed", "video": { "url": other_url } })],
    );
    let error = client.download(&video, &dir.target).unwrap_err();
    assert_eq!((error.kind(), error.generation_id()), (ErrorKind::Decode, Some(&id)));
    assert!(!dir.target.exists());
}

// ---------------------------------------------------------------- what proves a failure

#[test]
fn failure_reported_once_does_not_end_the_wait() {
    let moderated = json!({ "status": "completed", "video": null, "error": "moderated" });
    for failure in [status("error"), status("failed"), status("Canceled"), moderated] {
        let (generating, success) = (status("generating"), status("succeeded"));
        for bodies in [
            vec![failure.clone()],
            vec![failure.clone(), generating.clone(), failure.clone(), generating.clone()],
            // `succeeded` without a URL is polled again, too.
            vec![failure.clone(), success.clone(), failure.clone()],
        ] {
            let (result, polls) = wait_with(&bodies);
            assert!(result.is_ok(), "{bodies:?}: {result:?}");
            assert_eq!(polls, bodies.len() + 3, "{bodies:?}");
        }
    }
}

#[test]
fn failure_reported_once_does_not_end_a_durable_run() {
    for word in ["error", "failed"] {
        let (sandbox, dir) = (sandbox(), TestDir::new());
        sandbox.set_status_sequence([word, "succeeded"]);
        let client = sandbox.client_builder().build().unwrap();
        client.generate_to(&request(), &dir.target).unwrap();
        assert_eq!(create_counts(&sandbox), (1, 1));
        assert_eq!(dir.last_step().as_deref(), Some("saved"));
    }
}

#[test]
fn failure_reported_twice_in_a_row_is_proved_and_not_billed() {
    for bodies in [
        [status("error"), status("error")],
        [status("failed"), status("ERROR")],
        [status("Failed"), json!({ "status": "error", "error": "no" })],
    ] {
        let (result, polls) = wait_with(&bodies);
        let error = result.unwrap_err();
        assert_eq!((error.kind(), polls), (ErrorKind::GenerationFailed, 2), "{bodies:?}");
        assert!(!error.may_have_been_billed() && !error.is_retryable(), "{bodies:?}");
        assert_eq!(error.generation().unwrap().status, Status::Error);
    }
}

#[test]
fn unreadable_responses_between_two_reports_do_not_make_them_less_consecutive() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    script(&sandbox, [with_id(&status("error"), &id)]);
    sandbox.fault(Endpoint::Retrieve, Fault::status(503), 1);
    script(&sandbox, [json!({ "id": OTHER, "status": "generating" })]);
    sandbox.fault(Endpoint::Retrieve, Fault::response(401, "<html>log in</html>"), 1);
    script(&sandbox, [with_id(&status("error"), &id)]);
    let error = client.wait(&id).unwrap_err();
    assert_eq!((error.kind(), polls(&sandbox)), (ErrorKind::GenerationFailed, 5));
}

#[test]
fn second_report_is_asked_for_past_the_deadline() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    let client = client.with_wait_options(quick_wait().timeout(Duration::ZERO));
    let failed = || with_id(&status("error"), &id);
    script(&sandbox, [failed(), failed()]);
    assert_eq!(client.wait(&id).unwrap_err().kind(), ErrorKind::GenerationFailed);
    assert_eq!(polls(&sandbox), 2);

    // If it says something else, or nothing that can be read, the wait has timed out.
    script(&sandbox, [failed(), with_id(&status("generating"), &id), failed()]);
    let error = client.wait(&id).unwrap_err();
    assert_eq!((error.kind(), polls(&sandbox)), (ErrorKind::WaitTimeout, 4));
    sandbox.fault(Endpoint::Retrieve, Fault::close_connection(), 1);
    let error = client.wait(&id).unwrap_err();
    assert_eq!((error.kind(), polls(&sandbox)), (ErrorKind::WaitTimeout, 6));
    assert!(error.may_have_been_billed());
}

#[test]
fn response_to_the_create_is_the_first_report() {
    for (word, kind) in [("error", ErrorKind::GenerationFailed), ("queued", ErrorKind::WaitTimeout)]
    {
        let sandbox = sandbox();
        let client = sandbox.client_builder().build().unwrap();
        let create = Fault::response(200, with_id(&status(word), &id("1")).to_string());
        sandbox.fault(Endpoint::Create, create, 1);
        script(&sandbox, [with_id(&status("error"), &id("1"))]);
        sandbox.fault(Endpoint::Retrieve, Fault::status(503), u32::MAX);
        let error = impatient(&client).generate(&request()).unwrap_err();
        assert_eq!(error.kind(), kind, "{word}: {error:?}");
        if kind == ErrorKind::GenerationFailed {
            assert_eq!(polls(&sandbox), 1);
        }
    }
    // A single report is not enough here either.
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    let create = Fault::response(200, with_id(&status("error"), &id("1")).to_string());
    sandbox.fault(Endpoint::Create, create, 1);
    script(&sandbox, [json!({ "id": "1", "status": "completed", "video": { "url": OTHER_URL } })]);
    assert_eq!(client.generate(&request()).unwrap().url, OTHER_URL);
}

// ---------------------------------------------------------------- failed or ended

#[track_caller]
fn assert_ended(bodies: &[Value]) -> Error {
    let (result, _) = wait_with(bodies);
    let error = result.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed, "{bodies:?}: {error:?}");
    assert!(error.may_have_been_billed() && !error.is_retryable(), "{bodies:?}: {error:?}");
    error
}

#[test]
fn canceled_or_expired_generation_may_have_been_charged() {
    for word in ["canceled", "cancelled", "expired", "CANCELED", "Expired"] {
        let error = assert_ended(&[status(word), status(word)]);
        assert_eq!(error.generation().unwrap().status.as_str(), word);
        assert!(error.to_string().contains(word), "{error}");
    }
    // Charged is what any of the responses leaves possible.
    assert_ended(&[status("canceled"), status("error")]);
    assert_ended(&[status("error"), status("expired")]);
}

#[test]
fn moderated_generation_has_its_reason_and_may_have_been_charged() {
    let body = json!({
        "status": "completed", "video": null,
        "error": { "name": "ContentPolicyViolation", "message": "rejected" },
    });
    let error = assert_ended(&[body.clone(), body]);
    assert_eq!(error.server_message(), Some("ContentPolicyViolation: rejected"));
}

#[test]
fn failure_after_completed_may_have_been_charged() {
    assert_ended(&[status("completed"), status("error"), status("error")]);
    assert_ended(&[status("succeeded"), status("generating"), status("error"), status("failed")]);
}

#[test]
fn empty_error_of_a_completed_generation_is_none() {
    for error in [json!(""), json!(false), json!({}), json!([])] {
        let body = json!({ "status": "completed", "video": null, "error": error });
        let (result, polls) = wait_with(&[body.clone(), body.clone(), body]);
        assert_eq!((result.is_ok(), polls), (true, 6), "{error}: {result:?}");
    }
}

#[test]
fn wait_all_judges_each_generation_by_its_own_responses() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    let mut ids = Vec::new();
    for statuses in [["error", "completed"], ["error", "error"], ["expired", "expired"]] {
        sandbox.set_status_sequence(statuses);
        ids.push(client.create(&request()).unwrap().id);
    }
    let results = client.wait_all(&ids);
    let outcomes: Vec<_> = results
        .iter()
        .map(|result| result.as_ref().err().map(|e| (e.kind(), e.may_have_been_billed())))
        .collect();
    let failed = |billed| Some((ErrorKind::GenerationFailed, billed));
    assert_eq!(outcomes, [None, failed(false), failed(true)]);
}

// ---------------------------------------------------------------- status words

#[test]
fn status_words_are_read_without_regard_to_case() {
    for word in ["COMPLETED", "Succeeded", "succeed", "SUCCESS", "completed"] {
        let body = json!({ "status": word, "video": { "url": "https://cdn.example/a.mp4" } });
        let (result, polls) = wait_with(&[body]);
        assert_eq!((result.is_ok(), polls), (true, 1), "{word}: {result:?}");
        assert_eq!(Status::from(word), Status::Completed);
    }
    for word in ["ERROR", "Failed"] {
        assert_eq!(Status::from(word), Status::Error);
    }
    assert_eq!(Status::from("Queued"), Status::Queued);
    assert_eq!(Status::from("GENERATING"), Status::Generating);
}

#[test]
fn status_of_an_ended_generation_is_terminal_and_keeps_the_servers_word() {
    for word in ["canceled", "Cancelled", "EXPIRED"] {
        let status = Status::from(word);
        assert_eq!((status.as_str(), status.is_terminal()), (word, true));
        assert_eq!(status, Status::Other(word.to_owned()));
    }
    for word in ["", "unknown", "waiting", "Active", "cancel", "expiring", "error "] {
        assert!(!Status::from(word).is_terminal(), "{word}");
        assert_eq!(Status::from(word).as_str(), word);
    }
}

// ---------------------------------------------------------------- error responses to polls

#[test]
fn error_response_without_the_vendors_marks_is_polled_again() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    let bodies = [
        "",
        "<html>log in</html>",
        r#"{"message":"Unauthorized"}"#,
        r#"{"error":"forbidden"}"#,
        r#"{"status":403,"path":"/v2","requestId":"r-1"}"#,
    ];
    let statuses = [400, 401, 403, 404, 405, 407, 410, 451];
    for status in statuses {
        for body in bodies {
            sandbox.fault(Endpoint::Retrieve, Fault::response(status, body), 1);
        }
    }
    // A captive portal.
    sandbox.fault(Endpoint::Retrieve, Fault::redirect(302, "http://portal.example/login"), 1);
    client.wait(&id).unwrap();
    assert_eq!(polls(&sandbox), statuses.len() * bodies.len() + 1 + 3);
}

#[test]
fn error_response_with_the_vendors_marks_ends_the_wait() {
    for (status, body) in [
        (401, r#"{"message":"no","statusCode":401,"requestId":"r-1"}"#),
        (400, r#"{"message":"no","statusCode":"400","requestId":"r-1"}"#),
        (403, r#"{"status":403,"error":{"name":"ForbiddenException"}}"#),
        (403, r#"{"status":403,"error":{"data":{"kind":"err_verification_required"}}}"#),
    ] {
        let sandbox = sandbox();
        let (client, id) = client_with_generation(&sandbox);
        sandbox.fault(Endpoint::Retrieve, Fault::response(status, body), 1);
        let error = client.wait(&id).unwrap_err();
        assert_eq!((error.kind(), error.status()), (ErrorKind::Api, Some(status)));
        assert_eq!((error.generation_id(), polls(&sandbox)), (Some(&id), 1));
        assert!(error.may_have_been_billed() && !error.is_retryable());
    }
}

#[test]
fn login_page_ends_a_wait_only_at_its_deadline_and_is_its_source() {
    let sandbox = sandbox();
    let (client, id) = client_with_generation(&sandbox);
    sandbox.fault(Endpoint::Retrieve, Fault::response(403, "<html>log in</html>"), u32::MAX);
    let error = impatient(&client).wait(&id).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout);
    assert!(error.is_retryable() && error_chain(&error)[1].contains("403"), "{error:?}");
}
