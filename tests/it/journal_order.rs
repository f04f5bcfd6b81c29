//! The order in which a run writes its journal: each entry is on disk before the next thing happens.

use std::sync::Arc;
use std::thread;

use kling_video::ErrorKind;
use kling_video::sandbox::{Endpoint, Fault};

use crate::helpers::clients::{request, sandbox, short_idle_timeout};
use crate::helpers::events::{event_name, record_events};
use crate::helpers::files::TestDir;
use crate::helpers::timing::wait_until;
use crate::resume::assert_saved;

// ---------------------------------------------------------------- the order of the entries

#[test]
#[cfg_attr(windows, ignore = "Windows lets nobody read a journal in use; wine does")]
fn journal_entry_is_written_before_the_run_continues() {
    let sandbox = sandbox();
    let dir = Arc::new(TestDir::new());
    let (client, recording) = record_events(sandbox.client_builder(), {
        let dir = Arc::clone(&dir);
        move |event| Some((event_name(event), dir.last_step().unwrap_or_default()))
    });
    sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    let result = client.generate_to(&request(), &dir.target).unwrap();
    let mut seen = recording.take();
    seen.dedup();
    let seen: Vec<(&str, &str)> = seen.iter().map(|(event, step)| (*event, &**step)).collect();
    assert_eq!(
        seen,
        [
            ("uploading", "intent"),
            ("retrying", "rejected"), // the entry is written before the sleep
            ("uploading", "rejected"),
            ("created", "created"), // the entry is written before the event
            ("polled", "created"),
            ("downloading", "completed"),
            ("saved", "saved"), // the entry is written before the event
        ]
    );
    let steps =
        ["intent", "sending", "rejected", "sending", "created", "completed", "publishing", "saved"];
    assert_eq!(dir.journal_steps(), steps);
    let lines = dir.journal_lines();
    for line in &lines[4..] {
        assert_eq!(line["id"], result.id.as_ref());
    }
    for line in &lines[6..] {
        assert_eq!(line["length"], result.bytes);
    }
    assert!(!result.reused);
    assert_eq!(result.path, dir.target);
    assert_saved(&sandbox, &dir);
}

#[test]
#[cfg_attr(windows, ignore = "Windows lets nobody read a journal in use; wine does")]
fn sending_entry_is_on_disk_before_the_request_is_complete() {
    let sandbox = sandbox();
    let dir = TestDir::new();
    let client = short_idle_timeout(&sandbox).build().unwrap();
    sandbox.fault(Endpoint::Create, Fault::no_response(), 1);
    thread::scope(|scope| {
        let run = scope.spawn(|| client.generate_to(&request(), &dir.target));
        wait_until("the complete request", || {
            let complete = sandbox.requests().iter().any(|request| request.body_complete);
            assert!(!complete || dir.last_step().as_deref() == Some("sending"));
            complete
        });
        let error = run.join().unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::CreateUnknown);
        // The message suggests `generate_to` as the next step, not `find`.
        assert!(error.to_string().contains("call generate_to again later"), "{error}");
    });
    assert_eq!(dir.journal_steps(), ["intent", "sending"]);
}

#[test]
fn finished_video_is_reused_without_a_request() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_generations(1).build().unwrap();
    let dir = TestDir::new();
    let first = client.generate_to(&request(), &dir.target).unwrap();
    let (requests, journal) = (sandbox.requests().len(), dir.journal_text());
    let again = client.generate_to(&request(), &dir.target).unwrap();
    assert!(again.reused && !first.reused);
    assert_eq!((again.id, again.bytes, again.path), (first.id, first.bytes, first.path));
    assert_eq!(sandbox.requests().len(), requests);
    assert_eq!(dir.journal_text(), journal);
    // The client request id is not part of the request's identity.
    let with_another_id = request().client_request_id("order-1");
    assert!(client.generate_to(&with_another_id, &dir.target).unwrap().reused);
}
