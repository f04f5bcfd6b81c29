//! What one call, or one part of a batch, must not do to another.

use std::env;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault};
use kling_video::{BatchOptions, CancelToken, Client, ErrorKind, EventKind, Image, ImageToVideo};

use crate::helpers::clients::{create_counts, quick_retry, quick_wait, sandbox};
use crate::helpers::files::TestDir;
use crate::helpers::subprocess::{emit_result, run_in_subprocess};
use crate::helpers::timing::wait_until;

fn jobs(dir: &Path, count: usize) -> Vec<(ImageToVideo, PathBuf)> {
    let job = |index| {
        let image = Image::url(format!("https://example.com/{index}.jpg"));
        (ImageToVideo::new(image), dir.join(format!("{index}.mp4")))
    };
    (0..count).map(job).collect()
}

/// Cancelling closes the connection of a create that is being uploaded, and of no other.
#[test]
fn cancelled_upload_of_a_batch_does_not_lose_the_response_to_another_create() {
    let sandbox = Arc::new(sandbox());
    sandbox.set_response_delay(Endpoint::Create, Duration::from_millis(200));
    let dir = TestDir::new();
    let jobs = jobs(dir.path(), 2);
    let token = CancelToken::new();
    let builder = sandbox.client_builder().event_handler({
        let (sandbox, token, uploading) = (Arc::clone(&sandbox), token.clone(), jobs[1].1.clone());
        move |event| {
            if let EventKind::Uploading { sent, total, .. } = event.kind
                && sent < total
                && event.path == Some(&uploading)
            {
                wait_until("the other create", || sandbox.generations().len() == 1);
                token.cancel();
            }
        }
    });
    let client = builder.build().unwrap().with_cancel_token(token);
    let results = client.generate_all_to(&jobs, &BatchOptions::new());
    let errors: Vec<_> = results.into_iter().map(Result::unwrap_err).collect();
    assert_eq!(create_counts(&sandbox).1, 1);
    assert_eq!(errors[0].kind(), ErrorKind::Cancelled, "{:?}", errors[0]);
    assert_eq!(errors[0].generation_id().unwrap().as_str(), sandbox.generations()[0].id);
    assert_eq!(errors[1].kind(), ErrorKind::Cancelled, "{:?}", errors[1]);
    assert!(!errors[1].may_have_been_billed());
}

const URL: &str = "KLING_TEST_CANCEL_URL";
const DIR: &str = "KLING_TEST_CANCEL_DIR";

/// The program of the next test. It does nothing in a normal test run, which lacks its environment.
#[test]
fn subprocess_entry() {
    let (Ok(url), Ok(dir)) = (env::var(URL), env::var(DIR)) else { return };
    let token = CancelToken::new();
    let client = Client::builder("sandbox-key")
        .base_url(url)
        .no_proxy()
        .wait_options(quick_wait())
        .retry_policy(quick_retry())
        .build()
        .unwrap()
        .with_cancel_token(token.clone());
    let jobs = jobs(Path::new(&dir), 3);
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(500));
        token.cancel();
    });
    let results = client.generate_all_to(&jobs, &BatchOptions::new());
    let kinds: Vec<_> =
        results.iter().map(|result| result.as_ref().err().map(|e| e.kind())).collect();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let (_, fields) = stat.rsplit_once(')').unwrap();
    let times = fields.split_whitespace().skip(11).take(2);
    let ticks: u64 = times.map(|ticks| ticks.parse::<u64>().unwrap()).sum();
    emit_result(&format!("{ticks} {kinds:?}"));
}

/// A create whose last byte was sent is completed after a cancel, which may take minutes.
#[test]
fn cancelled_batch_that_waits_for_a_create_does_not_keep_the_processor_busy() {
    // Elsewhere, the time is not in /proc.
    if !cfg!(target_os = "linux") {
        return;
    }
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::delay(Duration::from_secs(2)), 1);
    let dir = TestDir::new();
    let variables = [(URL, &*sandbox.url()), (DIR, dir.path().to_str().unwrap())];
    let result = run_in_subprocess("interleavings::subprocess_entry", &variables);
    let ticks: u64 = result.split(' ').next().unwrap().parse().unwrap();
    // A tick is 10 ms, and each worker would need 150.
    assert!(ticks < 50, "{result}");
}
