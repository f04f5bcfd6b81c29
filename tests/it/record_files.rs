//! The record of a durable run on disk: which request it is of, what is damaged, what is published.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kling_video::sandbox::Endpoint;
use kling_video::{Client, ErrorKind, EventKind, FileJournal, Image, RetryPolicy};
use serde_json::json;

use crate::helpers::clients::{create_counts, quick_wait, request, sandbox, test_client};
use crate::helpers::files::TestDir;
use crate::helpers::journal::{created, intent, rejected, sending};
use crate::helpers::media::png_of_len;
#[cfg(unix)]
use crate::helpers::subprocess::run_unprivileged;
use crate::helpers::timing::with_timeout;
use crate::record::{abandon, another_request, assert_saved_as, paid_id};

// ---------------------------------------------------------------- which request it is

#[test]
fn request_is_the_same_however_its_numbers_and_paths_are_written() {
    let sandbox = sandbox();
    sandbox.allow_field("seed");
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let mask = dir.path().join("mask.png");
    fs::write(&mask, png_of_len(20_000)).unwrap();
    let masked = |scale: f64, mask: PathBuf| {
        request().cfg_scale(scale).static_mask(Image::file(mask)).extra("seed", json!(1))
    };
    client.generate_to(&masked(0.0, mask.clone()), &dir.target).unwrap();
    let spelled = dir.path().join(".").join("mask.png");
    let moved = dir.path().join("moved.png");
    fs::copy(&mask, &moved).unwrap();
    for (name, same) in [
        ("-0.0", masked(-0.0, mask.clone())),
        ("path", masked(0.0, spelled)),
        ("copy", masked(0.0, moved)),
        ("1.0", masked(0.0, mask.clone()).extra("seed", json!(1.0))),
    ] {
        let again = client.generate_to(&same, &dir.target);
        assert!(again.unwrap_or_else(|error| panic!("{name}: {error:?}")).reused, "{name}");
    }
    // Another mask at the same path is another request.
    fs::write(&mask, png_of_len(20_001)).unwrap();
    let error = client.generate_to(&masked(0.0, mask), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
    assert_eq!(create_counts(&sandbox), (1, 1));
}

// ---------------------------------------------------------------- torn and damaged records

#[test]
fn entry_that_allows_to_send_or_gives_up_counts_only_with_its_newline() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let first = intent(&client, &request(), None);
    let torn = |lines: &[String]| {
        let dir = TestDir::new();
        fs::write(dir.journal(), lines.join("\n")).unwrap();
        dir
    };
    // The create was not sent.
    let dir = torn(&[first.clone(), sending("unsent")]);
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!((create_counts(&sandbox), sandbox.request_count(Endpoint::Logs)), ((1, 1), 0));
    // It was, and the rejection may not be durable.
    let dir = torn(&[first.clone(), sending("lost"), rejected()]);
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateUnknown, "{error:?}");
    abandon(&dir);
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (2, 2));
    // An id counts in any case.
    let dir = torn(&[first, sending("sent"), created(&paid_id(&sandbox))]);
    client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (2, 2));
}

#[cfg(unix)]
#[test]
fn journal_that_is_deleted_or_replaced_before_the_commit_prevents_the_create() {
    type Change = fn(&Path);
    let changes: [(&str, Change); 3] = [
        ("deleted", |journal| fs::remove_file(journal).unwrap()),
        ("moved", |journal| fs::rename(journal, journal.with_extension("old")).unwrap()),
        ("saved by an editor", |journal| {
            let copy = journal.with_extension("copy");
            fs::copy(journal, &copy).unwrap();
            fs::rename(copy, journal).unwrap();
        }),
    ];
    for (name, change) in changes {
        let sandbox = sandbox();
        let dir = Arc::new(TestDir::new());
        let changed = std::sync::Once::new();
        let journal = dir.journal();
        let client = sandbox.client_builder().retry_policy(RetryPolicy::none());
        let client = client.event_handler(move |event| {
            if let EventKind::Uploading { .. } = event.kind {
                changed.call_once(|| change(&journal));
            }
        });
        let client = client.build().unwrap();
        let error = client.generate_to(&request(), &dir.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{name}: {error:?}");
        assert!(!error.may_have_been_billed(), "{name}");
        assert_eq!(sandbox.generations().len(), 0, "{name}");
        assert!(sandbox.requests().iter().all(|request| !request.body_complete), "{name}");
        client.generate_to(&request(), &dir.target).unwrap();
        assert_eq!(sandbox.generations().len(), 1, "{name}");
    }
}

#[test]
fn blank_lines_are_skipped_and_foreign_lines_are_errors_with_the_id() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = client.create(&request()).unwrap().id.to_string();
    let first = intent(&client, &request(), None);
    let dir = TestDir::new();
    let blank = [String::new(), " \t".to_owned(), "\r".to_owned()];
    let lines = [std::slice::from_ref(&first), &blank, &[created(&id)], &blank].concat();
    dir.write_journal(&lines);
    assert_eq!(client.generate_to(&request(), &dir.target).unwrap().id.as_str(), id);

    let requests = sandbox.requests().len();
    let mut newer: serde_json::Value = serde_json::from_str(&first).unwrap();
    newer["version"] = 99.into();
    for (line, message) in [
        ("# moved here from the old machine".to_owned(), "invalid entry at line 3"),
        ("\0\0\0\0".to_owned(), "invalid entry at line 3"),
        (r#"{"step":"upscaled","id":"2"}"#.to_owned(), "another version of kling-video"),
        (newer.to_string(), "another version of kling-video"),
    ] {
        for follows in [None, Some(sending("later"))] {
            let dir = TestDir::new();
            let lines = [first.clone(), created(&id), line.clone()];
            dir.write_journal(&lines.into_iter().chain(follows).collect::<Vec<_>>());
            let text = dir.journal_text();
            let error = client.generate_to(&request(), &dir.target).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Journal, "{line}: {error:?}");
            assert_eq!(error.generation_id().map(|id| id.as_str()), Some(&*id), "{line}");
            assert!(error.to_string().contains(message), "{line}: {error}");
            assert!(!error.to_string().contains("delete"), "{line}: {error}");
            assert!(error.may_have_been_billed(), "{line}");
            assert_eq!(dir.journal_text(), text, "{line}");
        }
    }
    assert_eq!(sandbox.requests().len(), requests);
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn journal_of_before_this_version_is_not_paid_over() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    dir.write_journal(&[
        json!({ "step": "intent", "request": { "model": "m" }, "at": 1_755_000_000 }).to_string(),
        json!({ "step": "sending", "client_request_id": "lost", "at": 1_755_000_000 }).to_string(),
        created("789"),
    ]);
    let text = dir.journal_text();
    let error = client.generate_to(&request(), &dir.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
    assert!(error.to_string().contains("another version of kling-video"), "{error}");
    assert_eq!(error.generation_id().map(|id| id.as_str()), Some("789"));
    assert_eq!(dir.journal_text(), text);
    assert!(sandbox.requests().is_empty());
}

#[test]
fn journal_or_target_whose_state_cannot_be_known_is_an_error_at_once() {
    let sandbox = Arc::new(sandbox());
    let dir = Arc::new(TestDir::new());
    // The target's name can be used, its journal's is too long.
    #[cfg_attr(not(unix), expect(unused_mut, reason = "more targets on Unix"))]
    let mut targets = vec![dir.path().join("x".repeat(250))];
    #[cfg(unix)]
    {
        let (looping, loops) = (dir.path().join("a.mp4"), dir.path().join("b.mp4"));
        let journal = dir.path().join("a.mp4.kling.jsonl");
        std::os::unix::fs::symlink(&journal, &journal).unwrap();
        std::os::unix::fs::symlink(&loops, &loops).unwrap();
        targets.extend([looping, loops]);
    }
    for target in targets {
        let (client, path) = (test_client(&sandbox), target.clone());
        let started = Instant::now();
        let error = with_timeout(move || client.generate_to(&request(), path).unwrap_err());
        assert!(started.elapsed() < Duration::from_secs(5));
        assert!(
            matches!(error.kind(), ErrorKind::Journal | ErrorKind::Io),
            "{target:?}: {error:?}"
        );
        assert!(!error.may_have_been_billed(), "{target:?}");
    }
    assert!(sandbox.requests().is_empty());
}

#[test]
fn journal_that_this_process_has_open_is_an_error_at_once() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    client.generate_to(&request(), &dir.target).unwrap();
    std::fs::create_dir(dir.path().join("sub")).unwrap();
    let same_target = dir.path().join("sub").join("..").join("cat.mp4");
    let wait = quick_wait().timeout(Duration::from_secs(1));
    let client = client.with_wait_options(wait);
    for other_spelling in [&dir.target, &same_target] {
        let _open = FileJournal::for_target(other_spelling).unwrap();
        let second = FileJournal::for_target(&dir.target).unwrap_err();
        let run = client.generate_to(&request(), &dir.target).unwrap_err();
        for error in [second, run] {
            assert!(error.to_string().contains("already open in this process"), "{error}");
        }
    }
    client.generate_to(&request(), &dir.target).unwrap();
}

// ---------------------------------------------------------------- read-only directories

#[cfg(unix)]
#[test]
fn finished_run_in_a_read_only_directory_is_reused() {
    use std::os::unix::fs::PermissionsExt as _;

    let sandbox = sandbox();
    let dir = TestDir::new();
    test_client(&sandbox).generate_to(&request(), &dir.target).unwrap();
    fs::set_permissions(dir.journal(), fs::Permissions::from_mode(0o444)).unwrap();
    fs::set_permissions(&dir.target, fs::Permissions::from_mode(0o444)).unwrap();
    let test = "record_files::read_only_directory_subprocess";
    run_unprivileged(test, dir.path(), 0o500, ("READ_ONLY_TARGET", &dir.target));
}

#[cfg(unix)]
#[test]
fn read_only_directory_subprocess() {
    let Some(target) = std::env::var_os("READ_ONLY_TARGET").map(PathBuf::from) else { return };
    assert!(fs::File::create(target.with_file_name("probe")).is_err(), "it must be read-only");
    let sandbox = sandbox();
    let client = sandbox.client_builder().replace_videos(true).build().unwrap();
    assert!(client.generate_to(&request(), &target).unwrap().reused);
    let error = client.generate_to(&another_request(), &target).unwrap_err();
    assert!(!error.may_have_been_billed(), "{error:?}");
    assert!(sandbox.requests().is_empty());
}

// ---------------------------------------------------------------- publishing

/// A directory in which a run was killed after it had recorded `publishing`.
fn killed_while_publishing(client: &Client) -> TestDir {
    let dir = TestDir::new();
    client.generate_to(&request(), &dir.target).unwrap();
    let text = dir.journal_text();
    let lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let (saved, before) = lines.split_last().unwrap();
    assert!(saved.contains(r#""saved""#), "{saved}");
    dir.write_journal(before);
    dir
}

#[test]
fn video_of_a_run_that_was_killed_before_saved_is_the_runs_own() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = killed_while_publishing(&client);
    // What a kill between `link` and `unlink` leaves.
    #[cfg(unix)]
    fs::hard_link(&dir.target, dir.partial_file()).unwrap();
    let requests = sandbox.requests().len();
    // Another request sees that it is not finished.
    let error = client.generate_to(&another_request(), &dir.target).unwrap_err();
    assert!(error.may_have_been_billed(), "{error:?}");
    assert!(client.generate_to(&request(), &dir.target).unwrap().reused);
    assert_eq!(sandbox.requests().len(), requests);
    assert_eq!(dir.files(), ["cat.mp4", "cat.mp4.kling.jsonl"]);
    let lines = dir.journal_lines();
    let last = lines.last().unwrap();
    assert_eq!((last["step"].as_str(), last["length"].as_u64()), (Some("saved"), Some(18_218)));
    assert!(last["usage"].is_object(), "{last}");
}

#[test]
fn run_killed_while_publishing_fetches_its_video_again() {
    type Leave = fn(&TestDir);
    let leaves: [Leave; 2] = [
        |dir| fs::remove_file(&dir.target).unwrap(),
        // What was reserved for the video, where links are not offered.
        |dir| fs::write(&dir.target, "").unwrap(),
    ];
    for leave in leaves {
        let sandbox = sandbox();
        let client = test_client(&sandbox);
        let dir = killed_while_publishing(&client);
        leave(&dir);
        assert_saved_as(&sandbox, &client, &dir, &paid_id(&sandbox));
        assert_eq!(create_counts(&sandbox), (1, 1));
    }
}
