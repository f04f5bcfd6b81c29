//! `generate_to` with other requests, images and ids than those of the journal.

use std::fs;
use std::path::PathBuf;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{Client, ErrorKind, Image, ImageToVideo, Route};

use crate::helpers::clients::{create_counts, request, sandbox, test_client};
use crate::helpers::error_output::full_error_output;
use crate::helpers::files::TestDir;
use crate::helpers::journal::{created, failed, rejected, sending};
use crate::helpers::media::{TINY_MP4, png_of_len};
use crate::resume::{assert_saved, journal_with};

// ---------------------------------------------------------------- journals of other requests

fn another_request() -> ImageToVideo {
    request().prompt("the dog barks")
}

#[test]
fn finished_run_of_another_request_is_replaced_only_on_demand() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let first = client.generate_to(&another_request(), &dir.target).unwrap();
    sandbox.set_video(TINY_MP4.to_vec());
    let (requests, journal) = (sandbox.requests().len(), dir.journal_text());
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
    assert!(error.to_string().contains("replace_videos(true)"), "{error}");
    assert!(error.to_string().contains(first.id.as_ref()), "{error}");
    assert!(!error.may_have_been_billed() && !error.is_retryable());
    assert_eq!((sandbox.requests().len(), dir.journal_text()), (requests, journal));
    assert_eq!(fs::read(&dir.target).unwrap(), sandbox.default_video());

    let replacing = sandbox.client_builder().replace_videos(true).build().unwrap();
    let second = replacing.generate_to(&request(), &dir.target).unwrap();
    assert_ne!(first.id, second.id);
    assert!(!second.reused);
    assert_eq!(fs::read(&dir.target).unwrap(), TINY_MP4);
    assert_eq!(create_counts(&sandbox), (2, 2));
    assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
    // The first request's id is on record: its video is fetched, not paid for again.
    assert_eq!(replacing.generate_to(&another_request(), &dir.target).unwrap().id, first.id);
    assert_eq!(create_counts(&sandbox), (2, 2));
}

/// A generation's video may be encoded again between two downloads, and an older copy be restored.
#[test]
fn replaced_video_may_be_an_earlier_download_of_its_generation() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let replacing = sandbox.client_builder().replace_videos(true).build().unwrap();
    let first = replacing.generate_to(&another_request(), &dir.target).unwrap();
    fs::remove_file(&dir.target).unwrap();
    sandbox.set_video(TINY_MP4.to_vec());
    assert_eq!(replacing.generate_to(&another_request(), &dir.target).unwrap().id, first.id);
    fs::write(&dir.target, sandbox.default_video()).unwrap();
    assert!(!replacing.generate_to(&request(), &dir.target).unwrap().reused);
    assert_eq!(fs::read(&dir.target).unwrap(), TINY_MP4);
    assert_eq!(create_counts(&sandbox), (2, 2));
}

#[test]
fn unpaid_run_of_another_request_is_replaced() {
    for lines in
        [vec![], vec![sending("a"), rejected()], vec![sending("a"), created("1"), failed("1")]]
    {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let dir = journal_with(&client, &another_request(), &lines);
        client.generate_to(&request(), &dir.target).unwrap();
        assert_eq!(create_counts(&sandbox), (1, 1));
        assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
    }
}

#[test]
fn unfinished_run_of_another_request_is_an_error_with_a_next_step() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = "789392067490349060";
    for (lines, expected_id) in
        [(vec![sending("lost")], "lost"), (vec![sending("lost"), created(id)], id)]
    {
        let dir = journal_with(&client, &another_request(), &lines);
        let text = dir.journal_text();
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
        assert!(error.to_string().contains(&format!("`{expected_id}`")), "{error}");
        assert!(error.to_string().contains("FileJournal::abandon"), "{error}");
        assert!(error.to_string().contains("(its prompt or another field differs)"), "{error}");
        assert!(error.may_have_been_billed());
        match expected_id == id {
            true => assert_eq!(error.generation_id().unwrap().as_ref(), id),
            false => assert_eq!(error.client_request_id(), Some("lost")),
        }
        assert_eq!(dir.journal_text(), text);
    }
    assert!(sandbox.requests().is_empty());
}

#[test]
fn request_identity_covers_fields_image_and_route() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let universal = sandbox.client_builder().route(Route::Universal).build().unwrap();
    let dir = journal_with(&client, &request(), &[sending("lost"), created("1")]);
    for (name, client, other) in [
        ("the prompt", &client, request().prompt("x")),
        ("an option", &client, request().cfg_scale(0.5)),
        ("the duration", &client, request().duration(kling_video::VideoDuration::TenSeconds)),
        ("the URL", &client, ImageToVideo::new(Image::url("https://example.com/dog.jpg"))),
        ("the image", &client, ImageToVideo::new(Image::bytes(png_of_len(30_000)))),
        ("the route", &universal, request()),
    ] {
        let error = client.generate_to(&other, &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{name}: {error:?}");
    }
    assert!(sandbox.requests().is_empty());
}

// ---------------------------------------------------------------- image files

/// Starts a run with an image file, and makes it fail after the create. Returns the client, the
/// image's path and the request.
fn run_interrupted_after_create(
    sandbox: &Sandbox,
    dir: &TestDir,
) -> (Client, PathBuf, ImageToVideo) {
    let path = dir.path().join("cat.png");
    fs::write(&path, png_of_len(30_000)).unwrap();
    let request = ImageToVideo::new(Image::file(&path));
    sandbox.fault(Endpoint::Retrieve, Fault::status(401), 1);
    let client = test_client(sandbox);
    client.generate_to(&request, &dir.target).unwrap_err();
    assert_eq!(dir.last_step().as_deref(), Some("created"));
    (client, path, request)
}

#[test]
fn image_deleted_after_the_create_is_not_needed() {
    let (sandbox, dir) = (sandbox(), TestDir::new());
    let (client, path, request) = run_interrupted_after_create(&sandbox, &dir);
    fs::remove_file(&path).unwrap();
    client.generate_to(&request, &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_saved(&sandbox, &dir);
    assert!(client.generate_to(&request, &dir.target).unwrap().reused);
}

/// Such a run cannot know which image it is of, and must not record its video for every one.
#[test]
fn video_fetched_without_its_image_is_not_that_of_another_image() {
    let (sandbox, dir) = (sandbox(), TestDir::new());
    let (client, path, request) = run_interrupted_after_create(&sandbox, &dir);
    let first = client.generate_to(&request, &dir.target).unwrap();
    fs::remove_file(&dir.target).unwrap();
    client.generate_to(&another_request(), &dir.target).unwrap();
    fs::remove_file(&dir.target).unwrap();
    fs::remove_file(&path).unwrap();
    assert_eq!(client.generate_to(&request, &dir.target).unwrap().id, first.id);
    fs::write(&path, png_of_len(40_000)).unwrap();
    let error = client.generate_to(&request, &dir.target).unwrap_err();
    assert!(error.to_string().contains("is the video of another request"), "{error:?}");
    fs::write(&path, png_of_len(30_000)).unwrap();
    assert!(client.generate_to(&request, &dir.target).unwrap().reused);
    assert_eq!(create_counts(&sandbox), (2, 2));
}

#[test]
fn image_missing_before_the_create_fails_the_run() {
    let (sandbox, dir) = (sandbox(), TestDir::new());
    let request = ImageToVideo::new(Image::file(dir.path().join("cat.png")));
    let error = test_client(&sandbox).generate_to(&request, &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert!(sandbox.requests().is_empty());
}

#[test]
fn image_replaced_at_the_same_path_is_another_request() {
    let (sandbox, dir) = (sandbox(), TestDir::new());
    let (client, path, request) = run_interrupted_after_create(&sandbox, &dir);
    fs::write(&path, png_of_len(40_000)).unwrap();
    let error = client.generate_to(&request, &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert_eq!(error.generation_id().unwrap().as_ref(), sandbox.generations()[0].id);
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn image_with_the_same_bytes_is_the_same_request() {
    let (sandbox, dir) = (sandbox(), TestDir::new());
    let (client, path, _) = run_interrupted_after_create(&sandbox, &dir);
    let moved = dir.path().join("moved.png");
    fs::rename(&path, &moved).unwrap();
    for image in [Image::file(&moved), Image::bytes(png_of_len(30_000))] {
        client.generate_to(&ImageToVideo::new(image), &dir.target).unwrap();
    }
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_saved(&sandbox, &dir);
}

// ---------------------------------------------------------------- client request ids, API key

#[test]
fn client_request_id_of_each_attempt_is_unique_and_starts_with_the_callers() {
    let long = "x".repeat(111);
    for caller_id in [None, Some("order-4711"), Some(&*long)] {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let dir = TestDir::new();
        let request = match caller_id {
            Some(id) => request().client_request_id(id),
            None => request(),
        };
        sandbox.fault(Endpoint::Create, Fault::status(429), 2);
        sandbox.fault(Endpoint::Create, Fault::status(400), 1);
        client.generate_to(&request, &dir.target).unwrap_err();
        client.generate_to(&request, &dir.target).unwrap();
        let lines = dir.journal_lines();
        let recorded: Vec<_> =
            lines.iter().filter_map(|line| line["client_request_id"].as_str()).collect();
        let sent: Vec<_> = sandbox
            .requests()
            .iter()
            .filter_map(|request| request.header("x-client-request-id").map(str::to_owned))
            .collect();
        assert_eq!(recorded, sent);
        assert_eq!(sent.len(), 4);
        let mut distinct = sent.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 4, "{sent:?}");
        for id in &sent {
            assert!(id.len() <= 128, "{id}");
            let prefix = caller_id.unwrap_or("kling-video-");
            assert!(id.starts_with(&prefix[..prefix.len().min(100)]), "{id}");
        }
        // The server ignores invalid ids; it recorded this one.
        assert_eq!(sandbox.generations()[0].client_request_id.as_ref(), sent.last());
    }
}

#[test]
fn api_key_is_never_in_the_journal() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let echo = r#"{"message":"bad key sandbox-key","statusCode":400}"#;
    sandbox.fault(Endpoint::Create, Fault::response(400, echo), 1);
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert!(!full_error_output(&error).contains("sandbox-key"), "{error:?}");
    assert!(full_error_output(&error).contains("bad key [key]"), "{error:?}");
    // The words of a rejection are not recorded, those of a failure are.
    assert!(!dir.journal_text().contains("bad key"), "{}", dir.journal_text());
    sandbox.set_failure("BadKey", "bad key sandbox-key");
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed, "{error:?}");
    let text = dir.journal_text();
    assert!(text.contains("bad key [key]"), "{text}");
    assert!(!text.contains("sandbox-key"), "{text}");
}

// ---------------------------------------------------------------- max_generations

#[test]
fn max_generations_applies_to_runs_before_sending() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_generations(1).build().unwrap();
    let (first, second) = (TestDir::new(), TestDir::new());
    // A rejected create does not count.
    for fault in [Fault::status(400), Fault::status(403), Fault::status(500)] {
        sandbox.fault(Endpoint::Create, fault, 1);
        let error = client.generate_to(&request(), &first.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Api);
    }
    client.generate_to(&request(), &first.target).unwrap();
    let error = client.generate_to(&request(), &second.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationLimit);
    assert_eq!(create_counts(&sandbox), (4, 1));
    assert_eq!(second.journal_steps(), ["intent"]);
    // Reusing a video and fetching it again create nothing.
    assert!(client.generate_to(&request(), &first.target).unwrap().reused);
    fs::remove_file(&first.target).unwrap();
    client.generate_to(&request(), &first.target).unwrap();
    // Another client has its own quota and resumes the run.
    test_client(&sandbox).generate_to(&request(), &second.target).unwrap();
    assert_eq!(create_counts(&sandbox), (5, 2));
    // An unknown create counts.
    let client = sandbox.client_builder().max_generations(1).build().unwrap();
    sandbox.fault(Endpoint::Create, Fault::close_connection(), 1);
    let error = client.generate_to(&request(), TestDir::new().target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateUnknown);
    let error = client.generate_to(&request(), TestDir::new().target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationLimit);
    assert_eq!(create_counts(&sandbox), (6, 2));
}
