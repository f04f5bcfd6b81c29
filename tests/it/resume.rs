//! `generate_to`: every state that journal and target can be in, and the one way on from it.

use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use kling_video::{
    CancelToken, Client, Endpoint, ErrorKind, Event, Fault, Image, ImageToVideo, Route, Sandbox,
};

use crate::common::{request, sandbox};
use crate::faults::{
    Place, TINY_MP4, created, creates, impatient, intent, mp4, name_of, now, picture, quick_retry,
    quick_wait, saved, sending,
};

const DAY: u64 = 86_400;

fn quick(sandbox: &Sandbox) -> Client {
    sandbox.client_builder().build().unwrap()
}

/// A journal of this request that ends with `lines`, after its intent.
fn journal_with(client: &Client, request: &ImageToVideo, lines: &[String]) -> Place {
    let place = Place::new();
    let mut all = vec![intent(client, request, None)];
    all.extend_from_slice(lines);
    place.write_journal(&all);
    place
}

/// A generation that was paid for, in a run of which nothing else is left.
fn paid(client: &Client) -> String {
    client.create(&request().client_request_id("paid-before")).unwrap().id.to_string()
}

#[track_caller]
fn assert_whole(sandbox: &Sandbox, place: &Place) {
    assert!(fs::read(&place.target).unwrap() == sandbox.video(), "the file is not whole");
    assert_eq!(place.last_step().as_deref(), Some("saved"));
    assert!(!place.part().exists());
}

// ---------------------------------------------------------------- the steps in order

#[test]
fn each_step_is_written_down_before_the_next_thing_happens() {
    let sandbox = sandbox();
    let place = Arc::new(Place::new());
    let seen = Arc::new(Mutex::new(Vec::new()));
    let client = sandbox
        .client_builder()
        .on_event({
            let (place, seen) = (Arc::clone(&place), Arc::clone(&seen));
            move |event| {
                let steps = place.steps();
                let line = (name_of(event), steps.last().cloned().unwrap_or_default());
                let mut seen = seen.lock().unwrap();
                if seen.last() != Some(&line) {
                    seen.push(line);
                }
            }
        })
        .build()
        .unwrap();
    sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    let result = client.generate_to(&request(), &place.target).unwrap();
    let seen = seen.lock().unwrap();
    let seen: Vec<(&str, &str)> = seen.iter().map(|(event, step)| (*event, &**step)).collect();
    assert_eq!(
        seen,
        [
            ("uploading", "intent"),
            ("retrying", "refused"), // before the sleep
            ("uploading", "refused"),
            ("created", "created"), // before the event
            ("polled", "created"),
            ("downloading", "created"),
        ]
    );
    let steps = ["intent", "sending", "refused", "sending", "created", "saved"];
    assert_eq!(place.steps(), steps);
    let lines = place.lines();
    assert_eq!(lines[4]["id"], result.id.as_ref());
    assert_eq!(lines[5]["bytes"], result.bytes);
    assert!(!result.reused);
    assert_eq!(result.path, place.target);
    assert_whole(&sandbox, &place);
}

/// The way on when the credits have run out.
#[test]
fn a_client_that_may_create_nothing_fetches_what_is_paid_for() {
    let sandbox = sandbox();
    let before = quick(&sandbox);
    let id = paid(&before);
    let place = journal_with(&before, &request(), &[sending("own"), created(&id)]);
    let client = sandbox.client_builder().max_creates(0).build().unwrap();
    client.generate_to(&request(), &place.target).unwrap();
    assert_whole(&sandbox, &place);

    let place = Place::new();
    let error = client.generate_to(&request(), &place.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateLimit);
    assert_eq!(creates(&sandbox), (1, 1));
}

#[test]
fn the_sending_line_is_on_disk_before_the_server_can_act() {
    let sandbox = sandbox();
    let place = Place::new();
    let client = impatient(&sandbox).build().unwrap();
    sandbox.fault(Endpoint::Create, Fault::stall(), 1);
    thread::scope(|scope| {
        let run = scope.spawn(|| client.generate_to(&request(), &place.target));
        crate::faults::until("the whole request", || {
            let complete = sandbox.requests().iter().any(|request| request.complete);
            assert!(!complete || place.last_step().as_deref() == Some("sending"));
            complete
        });
        let error = run.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CreateUnknown);
        // It is this call that looks it up, and not `find`.
        assert!(error.to_string().contains("run the same again later"), "{error}");
    });
    assert_eq!(place.steps(), ["intent", "sending"]);
}

#[test]
fn a_finished_video_is_reused_without_any_call() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_creates(1).build().unwrap();
    let place = Place::new();
    let first = client.generate_to(&request(), &place.target).unwrap();
    let (requests, journal) = (sandbox.requests().len(), place.journal_text());
    let again = client.generate_to(&request(), &place.target).unwrap();
    assert!(again.reused && !first.reused);
    assert_eq!((again.id, again.bytes, again.path), (first.id, first.bytes, first.path));
    assert_eq!(sandbox.requests().len(), requests);
    assert_eq!(place.journal_text(), journal);
    // Who asks does not matter, what is asked for does.
    let by_another_name = request().client_request_id("order-1");
    assert!(client.generate_to(&by_another_name, &place.target).unwrap().reused);
}

// ---------------------------------------------------------------- the target

#[test]
fn a_target_that_is_gone_or_of_another_length_is_fetched_again_and_not_created() {
    for spoil in [
        (|place: &Place| fs::remove_file(&place.target).unwrap()) as fn(&Place),
        |place| fs::write(&place.target, b"cut").unwrap(),
        |place| fs::write(&place.target, mp4(100_000)).unwrap(),
        |place| {
            fs::remove_file(&place.target).unwrap();
            fs::write(place.part(), b"left by a run that was killed").unwrap();
        },
    ] {
        let sandbox = sandbox();
        let client = quick(&sandbox);
        let place = Place::new();
        let first = client.generate_to(&request(), &place.target).unwrap();
        spoil(&place);
        let again = client.generate_to(&request(), &place.target).unwrap();
        assert!(!again.reused);
        assert_eq!(again.id, first.id);
        assert_eq!(creates(&sandbox), (1, 1));
        assert_whole(&sandbox, &place);
        assert!(client.generate_to(&request(), &place.target).unwrap().reused);
    }
}

#[test]
fn a_target_without_a_journal_is_refused_before_anything_is_sent() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    for journal in [None, Some(""), Some("{\"step\":\"inte")] {
        let place = Place::new();
        fs::write(&place.target, b"somebody's own film").unwrap();
        if let Some(text) = journal {
            fs::write(place.journal(), text).unwrap();
        }
        let error = client.generate_to(&request(), &place.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
        assert!(error.to_string().contains("cat.mp4"), "{error}");
        assert!(!error.is_retryable() && !error.may_have_been_billed());
        assert_eq!(fs::read(&place.target).unwrap(), b"somebody's own film");
        assert_eq!(place.journal().exists(), journal.is_some(), "none is made");
        assert!(sandbox.requests().is_empty());
    }
}

#[cfg(unix)]
#[test]
fn a_dangling_link_at_the_target_is_a_target_too() {
    let sandbox = sandbox();
    let place = Place::new();
    std::os::unix::fs::symlink(place.folder.path().join("nowhere"), &place.target).unwrap();
    let error = quick(&sandbox).generate_to(&request(), &place.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert!(sandbox.requests().is_empty());
}

#[test]
fn a_video_in_place_whose_saved_line_is_missing_is_fetched_again() {
    // Killed between the rename and the line.
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let id = paid(&client);
    let place = journal_with(&client, &request(), &[sending("paid-before"), created(&id)]);
    fs::write(&place.target, sandbox.video()).unwrap();
    let result = client.generate_to(&request(), &place.target).unwrap();
    assert_eq!((result.id.as_ref(), result.reused), (&*id, false));
    assert_eq!(creates(&sandbox), (1, 1));
    assert_whole(&sandbox, &place);
}

// ---------------------------------------------------------------- the journal's last line

#[test]
fn after_created_the_run_waits_and_downloads() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let id = paid(&client);
    let place = journal_with(&client, &request(), &[sending("paid-before"), created(&id)]);
    // Not even allowed to create.
    let client = sandbox.client_builder().max_creates(0).build().unwrap();
    let result = client.generate_to(&request(), &place.target).unwrap();
    assert_eq!(result.id.as_ref(), id);
    assert_eq!(creates(&sandbox), (1, 1));
    assert_eq!(sandbox.count(Endpoint::Logs), 0);
    assert_eq!(place.steps(), ["intent", "sending", "created", "saved"]);
    assert_whole(&sandbox, &place);
}

#[test]
fn after_intent_refused_or_failed_the_run_creates() {
    let refused = r#"{"step":"refused","why":"no"}"#.to_owned();
    let failed = r#"{"step":"failed","id":"1","why":"no"}"#.to_owned();
    for lines in [
        vec![],
        vec![sending("a"), refused.clone()],
        vec![sending("a"), refused, sending("b"), created("1"), failed],
    ] {
        let sandbox = sandbox();
        let client = quick(&sandbox);
        let place = journal_with(&client, &request(), &lines);
        let result = client.generate_to(&request(), &place.target).unwrap();
        assert_eq!(creates(&sandbox), (1, 1), "{lines:?}");
        assert_eq!(result.id.as_ref(), sandbox.generations()[0].id);
        assert_eq!(sandbox.count(Endpoint::Logs), 0);
        assert_whole(&sandbox, &place);
    }
}

#[test]
fn after_sending_with_a_row_in_the_log_the_run_goes_on_with_that_generation() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let id = paid(&client);
    let place = journal_with(&client, &request(), &[sending("paid-before")]);
    let result = client.generate_to(&request(), &place.target).unwrap();
    assert_eq!(result.id.as_ref(), id);
    assert_eq!(creates(&sandbox), (1, 1));
    assert_eq!(place.steps(), ["intent", "sending", "created", "saved"]);
    assert_whole(&sandbox, &place);
}

#[test]
fn after_sending_without_a_row_nothing_is_created() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let place = journal_with(&client, &request(), &[sending("lost")]);
    let journal = place.journal_text();
    for _ in 0..3 {
        let error = client.generate_to(&request(), &place.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CreateUnknown);
        assert_eq!(error.client_request_id(), Some("lost"));
        assert!(error.may_have_been_billed());
        assert!(!error.is_retryable());
        let mut texts = vec![error.to_string()];
        let mut cause = std::error::Error::source(&error);
        while let Some(deeper) = cause {
            texts.push(deeper.to_string());
            cause = deeper.source();
        }
        assert!(texts.iter().any(|text| text.contains("delete the file")), "{texts:?}");
        assert_eq!(place.journal_text(), journal);
    }
    assert_eq!(creates(&sandbox), (0, 0));
    // As soon as the row is there, the run goes on.
    let id = paid(&client);
    sandbox.add_log_row("lost", &id, "succeeded");
    assert_eq!(client.generate_to(&request(), &place.target).unwrap().id.as_ref(), id);
    assert_eq!(creates(&sandbox), (1, 1));
    assert_whole(&sandbox, &place);
}

#[test]
fn a_log_that_cannot_be_read_is_no_reason_to_create() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    for fault in [Fault::status(500), Fault::status(401), Fault::reply(200, "{}"), Fault::close()] {
        sandbox.fault(Endpoint::Logs, fault, 99);
        let place = journal_with(&client, &request(), &[sending("lost")]);
        let error = client.generate_to(&request(), &place.target).unwrap_err();
        assert_eq!(error.client_request_id(), Some("lost"), "{error:?}");
        assert_eq!(place.last_step().as_deref(), Some("sending"));
        sandbox.clear_faults();
    }
    assert_eq!(creates(&sandbox), (0, 0));
}

#[test]
fn of_two_log_rows_for_one_run_the_succeeded_one_counts() {
    for rows in [["failed", "succeeded"], ["succeeded", "failed"]] {
        let sandbox = sandbox();
        let client = quick(&sandbox);
        let id = paid(&client);
        for row in rows {
            let id = if row == "succeeded" { &*id } else { "789000000000000001" };
            sandbox.add_log_row("lost", id, row);
        }
        let place = journal_with(&client, &request(), &[sending("lost")]);
        let result = client.generate_to(&request(), &place.target).unwrap();
        assert_eq!(result.id.as_ref(), id, "{rows:?}");
        assert_eq!(creates(&sandbox), (1, 1));
    }
}

#[test]
fn a_create_that_the_log_has_as_failed_is_reported_once_and_then_created_anew() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    sandbox.add_log_row("lost", "789000000000000001", "failed");
    let place = journal_with(&client, &request(), &[sending("lost")]);
    let error = client.generate_to(&request(), &place.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed, "{error:?}");
    assert_eq!(error.generation_id().unwrap().as_ref(), "789000000000000001");
    assert!(!error.may_have_been_billed());
    assert_eq!(place.last_step().as_deref(), Some("failed"));
    assert_eq!(creates(&sandbox), (0, 0));
    client.generate_to(&request(), &place.target).unwrap();
    assert_eq!(creates(&sandbox), (1, 1));
    assert_whole(&sandbox, &place);
}

#[test]
fn the_log_is_searched_as_far_back_as_the_run_began_and_a_day() {
    for (age, period) in [
        (0, "1d"), // see below
        (60, "2d"),
        (2 * DAY - 600, "3d"),
        (2 * DAY + 600, "4d"),
        (91 * DAY - 600, "92d"),
        (500 * DAY, "92d"),
        (now(), "92d"),
    ] {
        let sandbox = sandbox();
        let client = quick(&sandbox);
        let place = Place::new();
        let begun = intent(&client, &request(), Some(now() - age));
        place.write_journal(&[begun, sending("lost")]);
        client.generate_to(&request(), &place.target).unwrap_err();
        let asked = sandbox.requests().pop().unwrap().target;
        let is = |period: &str| asked.starts_with(&format!("/v2/logs?period={period}&"));
        // A second may have passed meanwhile.
        assert!(is(period) || (age == 0 && is("2d")), "{age} s old: {asked}");
    }
}

#[test]
fn a_run_that_is_taken_up_two_days_later_goes_on() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let id = paid(&client);
    let two_days_ago = now() - 2 * DAY;
    let begun = intent(&client, &request(), Some(two_days_ago));
    let lost =
        format!(r#"{{"step":"sending","client_request_id":"paid-before","at":{two_days_ago}}}"#);
    for lines in [vec![begun.clone(), lost.clone()], vec![begun, lost, created(&id)]] {
        let place = Place::new();
        place.write_journal(&lines);
        assert_eq!(client.generate_to(&request(), &place.target).unwrap().id.as_ref(), id);
        assert_whole(&sandbox, &place);
    }
    assert_eq!(creates(&sandbox), (1, 1));
}

#[test]
fn a_clock_that_was_set_back_does_no_harm() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let id = paid(&client);
    let place = Place::new();
    let begun = intent(&client, &request(), Some(now() + 9 * DAY));
    place.write_journal(&[begun, sending("paid-before")]);
    assert_eq!(client.generate_to(&request(), &place.target).unwrap().id.as_ref(), id);
}

#[test]
fn a_generation_that_failed_is_written_down_and_the_next_run_creates() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let place = Place::new();
    sandbox.statuses(["queued", "failed"]);
    let error = client.generate_to(&request(), &place.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::GenerationFailed);
    assert!(!error.may_have_been_billed() && !error.is_retryable());
    assert_eq!(place.steps(), ["intent", "sending", "created", "failed"]);
    assert_eq!(place.lines()[3]["id"], sandbox.generations()[0].id);
    sandbox.finish_after(0);
    let result = client.generate_to(&request(), &place.target).unwrap();
    assert_eq!(creates(&sandbox), (2, 2));
    assert_eq!(result.id.as_ref(), sandbox.generations()[1].id);
    assert_whole(&sandbox, &place);
}

#[test]
fn a_refusal_is_written_down_and_the_next_run_creates() {
    for (fault, requests) in [
        (Fault::status(400), 1),
        (Fault::status(401), 1),
        (Fault::status(403), 1),
        (Fault::status(429), 4),
        (Fault::status(429).header("Retry-After", "60"), 1),
        (Fault::status(500), 1),
        (Fault::redirect(301, "/"), 1),
    ] {
        let sandbox = sandbox();
        let client = quick(&sandbox);
        let place = Place::new();
        sandbox.fault(Endpoint::Create, fault.clone(), requests as u32);
        let error = client.generate_to(&request(), &place.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Api, "{fault:?}");
        assert_eq!(place.last_step().as_deref(), Some("refused"), "{fault:?}");
        client.generate_to(&request(), &place.target).unwrap();
        assert_eq!(creates(&sandbox), (requests + 1, 1), "{fault:?}");
        assert_eq!(sandbox.count(Endpoint::Logs), 0);
        assert_whole(&sandbox, &place);
    }
}

#[test]
fn what_failed_before_the_commit_point_needs_no_line() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let place = Place::new();
    let large = ImageToVideo::new(Image::bytes(picture(1_000_000)));
    sandbox.fault(Endpoint::Create, Fault::close_after_head(), 4);
    let error = client.generate_to(&large, &place.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Transport);
    assert!(error.is_retryable());
    assert_eq!(place.steps(), ["intent"]);
    client.generate_to(&large, &place.target).unwrap();
    assert_eq!(creates(&sandbox), (5, 1));
    assert_whole(&sandbox, &place);
}

#[test]
fn an_unknown_create_is_looked_up_whatever_made_it_unknown() {
    let faults = [
        Fault::close(),
        Fault::reset_before_reply(),
        Fault::cut(10),
        Fault::reply(200, "<html>"),
        Fault::reply(200, "{}"),
        Fault::status(502),
        Fault::status(504),
        Fault::status(524),
        Fault::reply(500, ""),
        Fault::redirect(302, "/"),
    ];
    // Only the silent one needs a client that is impatient.
    for (silent, fault) in
        faults.map(|fault| (false, fault)).into_iter().chain([(true, Fault::stall())])
    {
        let sandbox = sandbox();
        let builder = if silent { impatient(&sandbox) } else { sandbox.client_builder() };
        let client = builder.build().unwrap();
        let place = Place::new();
        sandbox.fault(Endpoint::Create, fault.clone().acted(), 1);
        let error = client.generate_to(&request(), &place.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CreateUnknown, "{fault:?}");
        assert_eq!(place.steps(), ["intent", "sending"], "{fault:?}");
        let result = client.generate_to(&request(), &place.target).unwrap();
        assert_eq!(result.id.as_ref(), sandbox.generations()[0].id);
        assert_eq!(creates(&sandbox), (1, 1), "{fault:?}");
        assert_whole(&sandbox, &place);
    }
}

#[test]
fn any_passing_failure_after_the_create_leaves_a_run_that_can_be_taken_up() {
    type Script = fn(&Sandbox);
    let scripts: [Script; 6] = [
        |sandbox| sandbox.fault(Endpoint::Retrieve, Fault::status(401), 1),
        |sandbox| sandbox.fault(Endpoint::Retrieve, Fault::status(500), 1_000),
        |sandbox| sandbox.fault(Endpoint::Video, Fault::status(500), 6),
        |sandbox| sandbox.fault(Endpoint::Video, Fault::close(), 6),
        |sandbox| sandbox.fault(Endpoint::Video, Fault::status(403), 2),
        |sandbox| sandbox.serve_video(b"<html>".to_vec()),
    ];
    for (index, script) in scripts.into_iter().enumerate() {
        let sandbox = sandbox();
        script(&sandbox);
        let wait = quick_wait().timeout(Duration::from_millis(100));
        let client = sandbox.client_builder().wait(wait).build().unwrap();
        let place = Place::new();
        let error = client.generate_to(&request(), &place.target).unwrap_err();
        assert!(error.generation_id().is_some(), "{index}: {error:?}");
        assert_eq!(place.steps(), ["intent", "sending", "created"], "{index}: {error:?}");
        assert!(!place.target.exists() && !place.part().exists());
        sandbox.clear_faults();
        sandbox.serve_video(sandbox.video().to_vec());
        quick(&sandbox).generate_to(&request(), &place.target).unwrap();
        assert_eq!(creates(&sandbox), (1, 1));
        assert_whole(&sandbox, &place);
    }
}

// ---------------------------------------------------------------- damaged journals

#[test]
fn a_torn_last_line_is_cut_off_and_never_happened() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let id = paid(&client);
    for torn in ["{", "{\"step\":\"saved\",\"id\":\"12", "\0\0\0\0", "{\"step\":\"cre"] {
        let place = journal_with(&client, &request(), &[sending("paid-before"), created(&id)]);
        fs::write(place.journal(), format!("{}{torn}", place.journal_text())).unwrap();
        assert_eq!(client.generate_to(&request(), &place.target).unwrap().id.as_ref(), id);
        assert_eq!(place.steps(), ["intent", "sending", "created", "saved"], "{torn:?}");
        assert_whole(&sandbox, &place);
    }
    assert_eq!(creates(&sandbox), (1, 1));
}

#[test]
fn a_run_killed_within_its_first_line_begins_anew() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    for torn in ["", "{\"step\":\"intent\",\"requ"] {
        let place = Place::new();
        fs::write(place.journal(), torn).unwrap();
        client.generate_to(&request(), &place.target).unwrap();
        assert_eq!(place.steps(), ["intent", "sending", "created", "saved"]);
        assert_whole(&sandbox, &place);
    }
}

#[test]
fn a_last_line_that_only_lacks_its_end_counts() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let id = paid(&client);
    let place = journal_with(&client, &request(), &[sending("paid-before"), created(&id)]);
    fs::write(place.journal(), place.journal_text().trim_end()).unwrap();
    assert_eq!(client.generate_to(&request(), &place.target).unwrap().id.as_ref(), id);
    assert_eq!(place.steps(), ["intent", "sending", "created", "saved"]);
    assert_eq!(creates(&sandbox), (1, 1));
}

#[test]
fn a_corrupt_line_elsewhere_ends_the_run_before_anything_is_sent() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let first = intent(&client, &request(), None);
    for (lines, number) in [
        (vec!["garbage".to_owned(), first.clone()], 1),
        (vec![first.clone(), "{\"step\":\"sen".to_owned(), created("1")], 2),
        (vec![first.clone(), String::new(), created("1")], 2),
        (vec![first.clone(), r#"{"step":"paused"}"#.to_owned(), created("1")], 2),
        (vec![first.clone(), created("")], 2),
        (vec![first.clone(), created("1"), "\0\0\0".to_owned()], 3),
    ] {
        let place = Place::new();
        place.write_journal(&lines);
        let text = place.journal_text();
        let error = client.generate_to(&request(), &place.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{lines:?}: {error:?}");
        assert!(error.to_string().contains(&format!("line {number} ")), "{error}");
        assert!(error.to_string().contains("cat.mp4.kling.jsonl"), "{error}");
        assert_eq!(place.journal_text(), text, "it is left as it is");
        assert!(!place.target.exists());
    }
    // A journal that begins in its middle is none.
    let place = Place::new();
    place.write_journal(&[created("1")]);
    let error = client.generate_to(&request(), &place.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert!(sandbox.requests().is_empty());
}

#[test]
fn a_journal_that_cannot_be_used_ends_the_run_before_anything_is_sent() {
    let sandbox = sandbox();
    let client = quick(&sandbox);

    let place = Place::new();
    fs::create_dir(place.journal()).unwrap();
    let error = client.generate_to(&request(), &place.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert!(error.to_string().contains("no regular file"), "{error}");

    let missing_folder = place.folder.path().join("missing").join("cat.mp4");
    let error = client.generate_to(&request(), &missing_folder).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert!(error.to_string().contains("cannot be opened for writing"), "{error}");
    assert!(std::error::Error::source(&error).is_some());

    let below_a_file = place.folder.path().join("file");
    fs::write(&below_a_file, "").unwrap();
    let error = client.generate_to(&request(), below_a_file.join("cat.mp4")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);

    assert!(sandbox.requests().is_empty());
}

#[cfg(unix)]
#[test]
fn a_device_in_the_journals_place_is_refused() {
    let sandbox = sandbox();
    let place = Place::new();
    std::os::unix::fs::symlink("/dev/null", place.journal()).unwrap();
    let error = quick(&sandbox).generate_to(&request(), &place.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
    assert!(sandbox.requests().is_empty());
}

// ---------------------------------------------------------------- journals of other requests

fn another() -> ImageToVideo {
    request().prompt("the dog barks")
}

#[test]
fn a_finished_journal_of_another_request_is_replaced() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let place = Place::new();
    let first = client.generate_to(&another(), &place.target).unwrap();
    sandbox.serve_video(TINY_MP4.to_vec());
    let second = client.generate_to(&request(), &place.target).unwrap();
    assert_ne!(first.id, second.id);
    assert!(!second.reused);
    assert_eq!(fs::read(&place.target).unwrap(), TINY_MP4);
    assert_eq!(creates(&sandbox), (2, 2));
    assert!(client.generate_to(&request(), &place.target).unwrap().reused);
    // And the old one is another request now.
    client.generate_to(&another(), &place.target).unwrap();
    assert_eq!(creates(&sandbox), (3, 3));
}

#[test]
fn a_journal_of_another_request_that_came_to_nothing_is_replaced() {
    let refused = r#"{"step":"refused","why":"no"}"#.to_owned();
    let failed = r#"{"step":"failed","id":"1","why":"no"}"#.to_owned();
    for lines in [vec![], vec![sending("a"), refused], vec![sending("a"), created("1"), failed]] {
        let sandbox = sandbox();
        let client = quick(&sandbox);
        let place = journal_with(&client, &another(), &lines);
        client.generate_to(&request(), &place.target).unwrap();
        assert_eq!(creates(&sandbox), (1, 1));
        assert!(client.generate_to(&request(), &place.target).unwrap().reused);
    }
}

#[test]
fn an_unfinished_journal_of_another_request_is_an_error_that_says_the_way_out() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let id = "789392067490349060";
    for (lines, named) in
        [(vec![sending("lost")], "lost"), (vec![sending("lost"), created(id)], id)]
    {
        let place = journal_with(&client, &another(), &lines);
        let text = place.journal_text();
        let error = client.generate_to(&request(), &place.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
        assert!(error.to_string().contains(&format!("`{named}`")), "{error}");
        assert!(error.to_string().contains("delete the file to abandon it"), "{error}");
        match named == id {
            true => assert_eq!(error.generation_id().unwrap().as_ref(), id),
            false => assert_eq!(error.client_request_id(), Some("lost")),
        }
        assert_eq!(place.journal_text(), text);
    }
    assert!(sandbox.requests().is_empty());
}

#[test]
fn what_makes_a_request_another_one() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let universal = sandbox.client_builder().route(Route::Universal).build().unwrap();
    let place = journal_with(&client, &request(), &[sending("lost"), created("1")]);
    for (name, client, other) in [
        ("the prompt", &client, request().prompt("x")),
        ("an option", &client, request().cfg_scale(0.5)),
        ("the length", &client, request().duration(kling_video::VideoLength::TenSeconds)),
        ("the link", &client, ImageToVideo::new(Image::url("https://example.com/dog.jpg"))),
        ("the picture", &client, ImageToVideo::new(Image::bytes(picture(30_000)))),
        ("the route", &universal, request()),
    ] {
        let error = client.generate_to(&other, &place.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Journal, "{name}: {error:?}");
    }
    assert!(sandbox.requests().is_empty());
}

// ---------------------------------------------------------------- pictures

/// A run with a picture from a file that has paid and then ran out of time.
fn out_of_time(sandbox: &Sandbox, place: &Place) -> (Client, std::path::PathBuf, ImageToVideo) {
    let path = place.folder.path().join("cat.png");
    fs::write(&path, picture(30_000)).unwrap();
    let request = ImageToVideo::new(Image::file(&path));
    sandbox.fault(Endpoint::Retrieve, Fault::status(401), 1);
    let client = quick(sandbox);
    client.generate_to(&request, &place.target).unwrap_err();
    assert_eq!(place.last_step().as_deref(), Some("created"));
    (client, path, request)
}

#[test]
fn a_picture_that_is_gone_after_the_create_is_not_needed() {
    let (sandbox, place) = (sandbox(), Place::new());
    let (client, path, request) = out_of_time(&sandbox, &place);
    fs::remove_file(&path).unwrap();
    client.generate_to(&request, &place.target).unwrap();
    assert_eq!(creates(&sandbox), (1, 1));
    assert_whole(&sandbox, &place);
    assert!(client.generate_to(&request, &place.target).unwrap().reused);
}

#[test]
fn a_picture_that_is_gone_before_the_create_ends_the_run() {
    let (sandbox, place) = (sandbox(), Place::new());
    let request = ImageToVideo::new(Image::file(place.folder.path().join("cat.png")));
    let error = quick(&sandbox).generate_to(&request, &place.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error:?}");
    assert!(sandbox.requests().is_empty());
}

#[test]
fn another_picture_at_the_same_path_is_another_request() {
    let (sandbox, place) = (sandbox(), Place::new());
    let (client, path, request) = out_of_time(&sandbox, &place);
    fs::write(&path, picture(40_000)).unwrap();
    let error = client.generate_to(&request, &place.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert_eq!(error.generation_id().unwrap().as_ref(), sandbox.generations()[0].id);
    assert_eq!(creates(&sandbox), (1, 1));
}

#[test]
fn the_same_picture_from_elsewhere_is_the_same_request() {
    let (sandbox, place) = (sandbox(), Place::new());
    let (client, path, _) = out_of_time(&sandbox, &place);
    let moved = place.folder.path().join("moved.png");
    fs::rename(&path, &moved).unwrap();
    for image in [Image::file(&moved), Image::bytes(picture(30_000))] {
        client.generate_to(&ImageToVideo::new(image), &place.target).unwrap();
    }
    assert_eq!(creates(&sandbox), (1, 1));
    assert_whole(&sandbox, &place);
}

// ---------------------------------------------------------------- ids and the key

#[test]
fn each_attempt_has_a_client_request_id_of_its_own_that_begins_with_the_callers() {
    let long = "x".repeat(128);
    for own in [None, Some("order-4711"), Some(&*long)] {
        let sandbox = sandbox();
        let client = quick(&sandbox);
        let place = Place::new();
        let request = match own {
            Some(own) => request().client_request_id(own),
            None => request(),
        };
        sandbox.fault(Endpoint::Create, Fault::status(429), 2);
        sandbox.fault(Endpoint::Create, Fault::status(400), 1);
        client.generate_to(&request, &place.target).unwrap_err();
        client.generate_to(&request, &place.target).unwrap();
        let lines = place.lines();
        let written: Vec<_> =
            lines.iter().filter_map(|line| line["client_request_id"].as_str()).collect();
        let sent: Vec<_> = sandbox
            .requests()
            .iter()
            .filter_map(|request| request.header("x-client-request-id").map(str::to_owned))
            .collect();
        assert_eq!(written, sent);
        assert_eq!(sent.len(), 4);
        let mut distinct = sent.clone();
        distinct.sort();
        distinct.dedup();
        assert_eq!(distinct.len(), 4, "{sent:?}");
        for id in &sent {
            assert!(id.len() <= 128, "{id}");
            let prefix = own.unwrap_or("kling-video-");
            assert!(id.starts_with(&prefix[..prefix.len().min(100)]), "{id}");
        }
        // The server dropped none of them as invalid.
        assert_eq!(sandbox.generations()[0].client_request_id.as_ref(), sent.last());
    }
}

#[test]
fn the_key_is_never_in_the_journal() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let place = Place::new();
    let echo = r#"{"message":"bad key sandbox-key","statusCode":400}"#;
    sandbox.fault(Endpoint::Create, Fault::reply(400, echo), 1);
    let error = client.generate_to(&request(), &place.target).unwrap_err();
    assert!(!format!("{error} {error:?}").contains("sandbox-key"), "{error:?}");
    client.generate_to(&request(), &place.target).unwrap();
    let text = place.journal_text();
    assert!(text.contains("bad key [key]"), "{text}");
    assert!(!text.contains("sandbox-key"), "{text}");
}

// ---------------------------------------------------------------- the budget

#[test]
fn max_creates_holds_for_runs_too_and_before_anything_is_sent() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_creates(1).build().unwrap();
    let (first, second) = (Place::new(), Place::new());
    client.generate_to(&request(), &first.target).unwrap();
    let error = client.generate_to(&request(), &second.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateLimit);
    assert_eq!(creates(&sandbox), (1, 1));
    assert_eq!(second.steps(), ["intent"]);
    // Reusing and fetching again is no create.
    assert!(client.generate_to(&request(), &first.target).unwrap().reused);
    fs::remove_file(&first.target).unwrap();
    client.generate_to(&request(), &first.target).unwrap();
    // Another client has another budget, and takes the run up.
    quick(&sandbox).generate_to(&request(), &second.target).unwrap();
    assert_eq!(creates(&sandbox), (2, 2));
}

#[test]
fn a_refused_run_gives_its_create_back_and_an_unknown_one_keeps_it() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_creates(1).build().unwrap();
    let place = Place::new();
    for fault in [Fault::status(400), Fault::status(403), Fault::status(500)] {
        sandbox.fault(Endpoint::Create, fault, 1);
        let error = client.generate_to(&request(), &place.target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Api);
    }
    sandbox.fault(Endpoint::Create, Fault::close(), 1);
    let error = client.generate_to(&request(), &place.target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateUnknown);
    let error = client.generate_to(&request(), Place::new().target).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateLimit);
    assert_eq!(creates(&sandbox), (4, 0));
}

// ---------------------------------------------------------------- one at a time

#[test]
fn two_at_once_on_one_target_pay_once_and_both_succeed() {
    let sandbox = sandbox();
    sandbox.delay(Endpoint::Create, Duration::from_millis(30));
    let place = Place::new();
    let mut reused: Vec<bool> = thread::scope(|scope| {
        let runs: Vec<_> = (0..4)
            .map(|_| scope.spawn(|| quick(&sandbox).generate_to(&request(), &place.target)))
            .collect();
        runs.into_iter().map(|run| run.join().unwrap().unwrap().reused).collect()
    });
    reused.sort_unstable();
    assert_eq!(reused, [false, true, true, true]);
    assert_eq!(creates(&sandbox), (1, 1));
    assert_whole(&sandbox, &place);
}

/// Holds a journal's lock as another process would.
fn lock(place: &Place) -> fs::File {
    let file = fs::File::options().append(true).create(true).open(place.journal()).unwrap();
    file.lock().unwrap();
    file
}

#[test]
fn waiting_for_the_lock_honours_the_time_out() {
    let sandbox = sandbox();
    let place = Place::new();
    let _held = lock(&place);
    let options = quick_wait().timeout(Duration::from_millis(60));
    let begun = Instant::now();
    let error = quick(&sandbox).generate_to_with(&request(), &place.target, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::WaitTimeout, "{error:?}");
    assert!((60..5_000).contains(&begun.elapsed().as_millis()));
    assert!(!error.may_have_been_billed());
    let why = std::error::Error::source(&error).unwrap().to_string();
    assert!(why.contains("in use by another process"), "{why}");
    assert!(sandbox.requests().is_empty());
}

#[test]
fn waiting_for_the_lock_honours_a_cancel() {
    let sandbox = sandbox();
    let place = Place::new();
    let _held = lock(&place);
    let token = CancelToken::new();
    token.cancel();
    let options = quick_wait().cancel(token);
    let error = quick(&sandbox).generate_to_with(&request(), &place.target, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(sandbox.requests().is_empty());
}

#[test]
fn a_run_goes_on_as_soon_as_the_lock_is_free() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let place = Place::new();
    let held = lock(&place);
    thread::scope(|scope| {
        let run = scope.spawn(|| client.generate_to(&request(), &place.target));
        thread::sleep(Duration::from_millis(30));
        assert!(sandbox.requests().is_empty());
        drop(held);
        run.join().unwrap().unwrap();
    });
    assert_whole(&sandbox, &place);
}

#[cfg(unix)]
#[test]
fn a_journal_deleted_while_it_was_waited_for_is_begun_anew_in_its_place() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let place = Place::new();
    let held = lock(&place);
    thread::scope(|scope| {
        let run = scope.spawn(|| client.generate_to(&request(), &place.target));
        thread::sleep(Duration::from_millis(30));
        fs::remove_file(place.journal()).unwrap();
        drop(held);
        run.join().unwrap().unwrap();
    });
    assert_eq!(place.steps(), ["intent", "sending", "created", "saved"]);
    assert!(client.generate_to(&request(), &place.target).unwrap().reused);
}

#[test]
fn a_run_cancelled_in_its_back_off_is_on_record_as_refused() {
    let sandbox = sandbox();
    let place = Place::new();
    let token = CancelToken::new();
    let client = sandbox
        .client_builder()
        .retry(quick_retry().max_delay(Duration::from_secs(60)))
        .on_event({
            let token = token.clone();
            move |event| {
                if let Event::Retrying { .. } = event {
                    token.cancel();
                }
            }
        })
        .build()
        .unwrap();
    sandbox.fault(Endpoint::Create, Fault::status(429).header("Retry-After", "40"), 1);
    let options = quick_wait().cancel(token);
    let error = client.generate_to_with(&request(), &place.target, &options).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled);
    assert!(!error.may_have_been_billed());
    assert_eq!(place.steps(), ["intent", "sending", "refused"]);
    client.generate_to(&request(), &place.target).unwrap();
    assert_eq!(creates(&sandbox), (2, 1));
    assert_eq!(sandbox.count(Endpoint::Logs), 0);
}

#[test]
fn saved_lines_of_a_run_that_fetched_again_are_appended() {
    let sandbox = sandbox();
    let client = quick(&sandbox);
    let id = paid(&client);
    let length = sandbox.video().len();
    let lines = [sending("paid-before"), created(&id), saved(&id, length + 1)];
    let place = journal_with(&client, &request(), &lines);
    fs::write(&place.target, sandbox.video()).unwrap();
    assert!(!client.generate_to(&request(), &place.target).unwrap().reused);
    assert_eq!(place.steps(), ["intent", "sending", "created", "saved", "saved"]);
    assert!(client.generate_to(&request(), &place.target).unwrap().reused);
    assert_eq!(creates(&sandbox), (1, 1));
}
