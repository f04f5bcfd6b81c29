//! What only Windows does: device names, streams, and files that stay where they are while open.

use std::fs;
use std::sync::Arc;

use kling_video::{ErrorKind, Event, EventKind};

use crate::helpers::clients::{create_counts, no_retry_client, request, sandbox};
use crate::helpers::files::TestDir;

#[test]
fn target_name_that_windows_reserves_is_rejected_before_sending() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    let video = client.generate(&request()).unwrap();
    let dir = TestDir::new();
    let before = sandbox.requests().len();
    for name in
        ["12:30.mp4", "NUL", "con.mp4", "cat.mp4.", "cat.mp4 ", "cat?.mp4", "cat.KLING.part"]
    {
        let target = dir.path().join(name);
        for error in [
            client.download(&video, &target).unwrap_err(),
            client.generate_to(&request(), &target).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Io, "{error}");
            assert!(error.to_string().contains("target name is reserved"), "{error}");
        }
    }
    assert_eq!(sandbox.requests().len(), before);
    assert_eq!(dir.files(), [""; 0]);
}

#[test]
fn journal_and_partial_file_keep_their_place_until_the_run_ends() {
    let sandbox = sandbox();
    let dir = Arc::new(TestDir::new());
    let client = sandbox.client_builder().event_handler({
        let dir = Arc::clone(&dir);
        move |event: &Event<'_>| {
            if let EventKind::Downloading { .. } = event.kind {
                for path in [dir.journal(), dir.partial_file()] {
                    assert!(path.exists());
                    fs::remove_file(&path).unwrap_err();
                    fs::rename(&path, dir.path().join("elsewhere")).unwrap_err();
                }
            }
        }
    });
    client.build().unwrap().generate_to(&request(), &dir.target).unwrap();
    assert_eq!(create_counts(&sandbox), (1, 1));
    assert_eq!(dir.files(), ["cat.mp4", "cat.mp4.kling.jsonl"]);
    assert_eq!(dir.last_step().as_deref(), Some("saved"));
}
