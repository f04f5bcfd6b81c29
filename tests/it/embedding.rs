//! The client inside other programs: async runtimes, many threads, callbacks that panic, extreme
//! durations, no home directory, and leaks.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    CancelToken, Client, ErrorKind, Event, EventKind, Image, ImageToVideo, RetryPolicy,
    VideoDuration, WaitOptions,
};

use crate::helpers::clients::{
    client_cancelling_at_retry, request, sandbox, sandbox_addr, test_client,
};
use crate::helpers::events::record_events;
use crate::helpers::files::{file_names, fixture};
use crate::helpers::subprocess::{emit_result, run_in_subprocess};
use crate::helpers::timing::with_timeout;
use crate::helpers::tls_server::{CertificateAuthority, TlsServer};

fn generate_and_download(client: &Client, dir: &Path, name: &str) -> PathBuf {
    let video = client.generate(&request()).unwrap();
    let to = dir.join(name);
    client.download(&video, &to).unwrap();
    to
}

// ---------------------------------------------------------------- async runtimes

#[tokio::main(flavor = "current_thread")]
async fn async_main(client: Client, dir: PathBuf) {
    // This blocks the runtime's only thread, but it neither panics nor starts its own runtime.
    generate_and_download(&client, &dir, "direct.mp4");
    let blocking: Vec<_> = (0..4)
        .map(|n| {
            let (client, dir) = (client.clone(), dir.clone());
            tokio::task::spawn_blocking(move || {
                generate_and_download(&client, &dir, &format!("blocking {n}.mp4"))
            })
        })
        .collect();
    for task in blocking {
        assert!(task.await.unwrap().exists());
    }
    let task = tokio::spawn({
        let (client, dir) = (client.clone(), dir.clone());
        async move { generate_and_download(&client, &dir, "task.mp4") }
    });
    assert!(task.await.unwrap().exists());
}

#[test]
fn client_works_in_async_runtime() {
    let sandbox = sandbox();
    let dir = tempfile::tempdir().unwrap();
    let client = test_client(&sandbox);
    async_main(client, dir.path().to_owned());
    assert_eq!(sandbox.generations().len(), 6);
}

#[test]
fn client_can_be_built_and_dropped_in_async_context() {
    let sandbox = sandbox();
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    let client = runtime.block_on(async { sandbox.client_builder().build().unwrap() });
    client.balance().unwrap();
    runtime.block_on(async move {
        client.balance().unwrap();
        drop(client);
    });
}

// ---------------------------------------------------------------- many threads

const THREADS: usize = 64;

#[test]
fn client_is_shared_by_64_threads() {
    let sandbox = sandbox();
    let dir = tempfile::tempdir().unwrap();
    let client = test_client(&sandbox);
    let length = sandbox.default_video().len() as u64;
    let start = Barrier::new(THREADS);
    let ids: BTreeSet<String> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|n| {
                let (client, start, dir) = (&client, &start, dir.path());
                scope.spawn(move || {
                    start.wait();
                    let to = dir.join(format!("{n}.mp4"));
                    let saved = client.generate_to(&request(), &to).unwrap();
                    let video = client.generate(&request()).unwrap();
                    let again = client.retrieve(&video.id).unwrap().video.unwrap();
                    assert_eq!(again.url, video.url);
                    let to = dir.join(format!("{n} again.mp4"));
                    client.download(&video, &to).unwrap();
                    assert_eq!(fs::metadata(to).unwrap().len(), length);
                    [saved.id.to_string(), video.id.to_string()]
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    let generations = sandbox.generations();
    let created: BTreeSet<_> = generations.iter().map(|g| g.id.clone()).collect();
    let request_ids: BTreeSet<_> =
        generations.iter().map(|g| g.client_request_id.clone()).collect();
    assert_eq!((generations.len(), request_ids.len()), (2 * THREADS, 2 * THREADS));
    assert_eq!(ids, created);
}

// ---------------------------------------------------------------- callbacks that panic

/// A client whose event handler panics at the first event that matches.
fn panicking_client(
    sandbox: &Sandbox,
    max_generations: u32,
    matches: impl Fn(&Event<'_>) -> bool + Send + Sync + 'static,
) -> Client {
    let panicked = AtomicBool::new(false);
    sandbox
        .client_builder()
        .max_generations(max_generations)
        .event_handler(move |event| {
            if matches(event) && !panicked.swap(true, Ordering::SeqCst) {
                // Like `panic!`, but prints nothing to stderr.
                resume_unwind(Box::new("from the callback"));
            }
        })
        .build()
        .unwrap()
}

fn catch_panic<T>(work: impl FnOnce() -> T) -> &'static str {
    let panic: Box<dyn Any + Send> =
        catch_unwind(AssertUnwindSafe(work)).map(|_| ()).expect_err("a panic");
    panic.downcast_ref::<&str>().expect("the callback's own payload")
}

#[test]
fn callback_panic_before_commit_point_sends_and_counts_nothing() {
    // At the first chunk of the body, and right before the last one is sent.
    for at_end in [false, true] {
        let sandbox = sandbox();
        let client = panicking_client(&sandbox, 1, move |event| match event.kind {
            EventKind::Uploading { sent, total, .. } => (sent == total) == at_end,
            _ => false,
        });
        assert_eq!(catch_panic(|| client.create(&request())), "from the callback");
        assert!(sandbox.generations().is_empty());
        assert!(sandbox.requests().iter().all(|request| !request.body_complete));
        // The one generation of the quota is still available.
        client.generate(&request()).unwrap();
        assert_eq!(client.create(&request()).unwrap_err().kind(), ErrorKind::GenerationLimit);
        assert_eq!(sandbox.generations().len(), 1);
    }
}

#[test]
fn callback_panic_between_attempts_counts_nothing() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    let client =
        panicking_client(&sandbox, 1, |event| matches!(event.kind, EventKind::Retrying { .. }));
    assert_eq!(catch_panic(|| client.create(&request())), "from the callback");
    client.create(&request()).unwrap();
    assert_eq!(sandbox.generations().len(), 1);
}

#[test]
fn callback_panic_after_create_counts_generation() {
    let sandbox = sandbox();
    let client =
        panicking_client(&sandbox, 1, |event| matches!(event.kind, EventKind::Created { .. }));
    assert_eq!(catch_panic(|| client.create(&request())), "from the callback");
    assert_eq!(client.create(&request()).unwrap_err().kind(), ErrorKind::GenerationLimit);
    assert_eq!(sandbox.generations().len(), 1);
    // All other calls still work.
    let id = sandbox.generations()[0].id.parse().unwrap();
    client.wait(&id).unwrap();
    client.balance().unwrap();
}

#[test]
fn callback_panic_while_waiting_leaves_client_usable() {
    let sandbox = sandbox();
    let create = || sandbox.client_builder().build().unwrap().create(&request()).unwrap().id;
    let client =
        panicking_client(&sandbox, 0, |event| matches!(event.kind, EventKind::Polled { .. }));
    let id = create();
    assert_eq!(catch_panic(|| client.wait(&id)), "from the callback");
    client.wait(&id).unwrap();

    let options = WaitOptions::new()
        .initial_delay(Duration::ZERO)
        .interval(Duration::from_millis(1))
        .threads(4);
    let client =
        panicking_client(&sandbox, 0, |event| matches!(event.kind, EventKind::Polled { .. }));
    let ids: Vec<_> = (0..8).map(|_| create()).collect();
    assert_eq!(
        catch_panic(|| client.with_wait_options(options.clone()).wait_all(&ids)),
        "from the callback"
    );
    let results = client.with_wait_options(options.clone()).wait_all(&ids);
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), ids.len());

    let client =
        panicking_client(&sandbox, 0, |event| matches!(event.kind, EventKind::Retrying { .. }));
    sandbox.fault(Endpoint::Billing, Fault::status(500), 1);
    assert_eq!(catch_panic(|| client.balance()), "from the callback");
    client.balance().unwrap();
}

#[test]
fn callback_panic_in_generate_to_is_resumed_without_paying_again() {
    type Matches = fn(&Event<'_>) -> bool;
    let events: [Matches; 4] = [
        // Right before the commit point.
        |event| matches!(event.kind, EventKind::Uploading { sent, total, .. } if sent == total),
        |event| matches!(event.kind, EventKind::Created { .. }),
        |event| matches!(event.kind, EventKind::Polled { .. }),
        |event| matches!(event.kind, EventKind::Downloading { .. }),
    ];
    for matches in events {
        let sandbox = sandbox();
        let dir = tempfile::tempdir().unwrap();
        let to = dir.path().join("cat.mp4");
        let client = panicking_client(&sandbox, 1, matches);
        assert_eq!(catch_panic(|| client.generate_to(&request(), &to)), "from the callback");
        assert!(!to.exists());
        // The panic released the journal's lock, or this would block.
        let saved = client.generate_to(&request(), &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), sandbox.default_video());
        assert_eq!(sandbox.generations().len(), 1);
        assert_eq!(saved.id.as_ref(), sandbox.generations()[0].id);
    }
}

#[test]
fn callback_may_call_client() {
    let sandbox = sandbox();
    let inner = test_client(&sandbox);
    let (client, recording) =
        record_events(sandbox.client_builder(), move |event| match event.kind {
            EventKind::Created { generation, .. } => {
                Some(inner.retrieve(&generation.id).unwrap().id)
            }
            _ => None,
        });
    let video = client.generate(&request()).unwrap();
    assert_eq!(recording.take(), [video.id]);
}

// ---------------------------------------------------------------- extreme durations

const FOREVER: Duration = Duration::MAX;

fn infinite_options() -> WaitOptions {
    WaitOptions::new().initial_delay(Duration::ZERO).interval(FOREVER).timeout(FOREVER)
}

#[test]
fn durations_may_be_maximal() {
    let (sandbox, authority) = (sandbox(), CertificateAuthority::new("ours"));
    let server =
        TlsServer::start(&authority.issue_certificate("localhost"), sandbox_addr(&sandbox));
    sandbox.complete_after_polls(0);
    let port = sandbox_addr(&sandbox).port();
    for base in [sandbox.url(), format!("http://localhost:{port}"), server.url("localhost")] {
        let client = sandbox
            .client_builder()
            .base_url(base)
            .root_certificates_pem(authority.pem().as_bytes())
            .connect_timeout(FOREVER)
            .idle_timeout(FOREVER)
            .retry_policy(RetryPolicy::new().base_delay(Duration::ZERO).max_delay(FOREVER))
            .wait_options(infinite_options())
            .build()
            .unwrap();
        with_timeout(move || {
            let dir = tempfile::tempdir().unwrap();
            generate_and_download(&client, dir.path(), "cat.mp4");
            let to = dir.path().join("dog.mp4");
            let saved = client.generate_to(&request(), &to).unwrap();
            client.with_wait_options(infinite_options()).generate_to(&request(), &to).unwrap();
            client.with_wait_options(infinite_options()).wait(&saved.id).unwrap();
            let length = WaitOptions::for_duration(VideoDuration::TenSeconds);
            let long = length.initial_delay(Duration::ZERO).timeout(FOREVER);
            client.with_wait_options(long.clone()).wait(&saved.id).unwrap();
            let ids = [saved.id.clone(), saved.id];
            let results = client.with_wait_options(infinite_options().threads(9)).wait_all(&ids);
            assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 2);
            client.generate(&ImageToVideo::new(fixture("image.jpg"))).unwrap();
        });
    }
}

#[test]
fn wait_with_infinite_delay_is_cancellable() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let id = client.create(&request()).unwrap().id;
    let cancelled = with_timeout(move || {
        let token = CancelToken::new();
        let client = client.with_cancel_token(token.clone());
        let options = WaitOptions::new().initial_delay(FOREVER).interval(FOREVER).timeout(FOREVER);
        let canceller = thread::spawn(move || token.cancel());
        let result =
            client.with_wait_options(options.clone()).wait(&id).map_err(|error| error.kind());
        let ids = [id.clone(), id];
        let all = client.with_wait_options(options.clone()).wait_all(&ids);
        canceller.join().unwrap();
        let kinds: Vec<_> = all.into_iter().map(|result| result.unwrap_err().kind()).collect();
        assert_eq!(kinds, [ErrorKind::Cancelled; 2]);
        result
    });
    assert_eq!(cancelled.map(|_| ()), Err(ErrorKind::Cancelled));
    assert_eq!(sandbox.request_count(Endpoint::Retrieve), 0);
}

#[test]
fn retry_with_infinite_delay_is_cancellable() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::status(429), 9);
    let token = CancelToken::new();
    let forever = RetryPolicy::new().max_retries(u32::MAX).base_delay(FOREVER).max_delay(FOREVER);
    let builder = sandbox.client_builder().retry_policy(forever);
    let client = client_cancelling_at_retry(builder, &token).with_cancel_token(token);
    let options = infinite_options();
    let error = with_timeout(move || {
        client.with_wait_options(options.clone()).generate(&request()).unwrap_err()
    });
    assert_eq!((error.kind(), error.may_have_been_billed()), (ErrorKind::Cancelled, false));
}

// ---------------------------------------------------------------- home and temporary directories

/// Runs in a subprocess of the test below, without a home or temporary directory.
#[test]
fn home_and_temp_dir_subprocess() {
    let Ok(dir) = std::env::var("TEST_DIR") else { return };
    for name in ["HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
        assert_eq!(std::env::var(name).as_deref(), Ok("/nonexistent"));
    }
    let wait = WaitOptions::new().initial_delay(Duration::ZERO).interval(Duration::from_millis(1));
    let url = std::env::var("TEST_API").unwrap();
    let client = Client::builder("sandbox-key").base_url(url).wait_options(wait).build().unwrap();
    let to = Path::new(&dir).join("cat.mp4");
    let request = ImageToVideo::new(Image::file(fixture("image.jpg")));
    let saved = client.generate_to(&request, &to).unwrap();
    let video = client.wait(&saved.id).unwrap();
    client.download(&video, to.with_extension("again.mp4")).unwrap();
    emit_result("done");
}

#[test]
fn home_and_temp_dir_are_not_needed() {
    let sandbox = sandbox();
    let dir = tempfile::tempdir().unwrap();
    let missing = "/nonexistent";
    let url = sandbox.url();
    let variables = [
        ("HOME", missing),
        ("TMPDIR", missing),
        ("XDG_CACHE_HOME", missing),
        ("XDG_CONFIG_HOME", missing),
        ("TEST_API", &url),
        ("TEST_DIR", dir.path().to_str().unwrap()),
    ];
    assert_eq!(run_in_subprocess("embedding::home_and_temp_dir_subprocess", &variables), "done");
    assert_eq!(file_names(dir.path()), ["cat.again.mp4", "cat.mp4", "cat.mp4.kling.jsonl"]);
    assert_eq!(sandbox.generations().len(), 1);
}

// ---------------------------------------------------------------- leaks

#[cfg(target_os = "linux")]
mod leaks {
    use super::*;
    use crate::helpers::process_status::Resources;

    /// Makes calls that succeed or fail in every way that opens files or starts threads.
    fn make_calls(url: &str, tls: &str, dir: &Path) {
        let short_wait =
            WaitOptions::new().initial_delay(Duration::ZERO).interval(Duration::from_millis(1));
        let builder = |url: &str| {
            Client::builder("sandbox-key")
                .base_url(url)
                .wait_options(short_wait.clone())
                .retry_policy(RetryPolicy::none())
        };
        let client = builder(url).build().unwrap();
        let request = ImageToVideo::new(Image::file(fixture("image.jpg")));
        let generation = client.create(&request).unwrap();
        let to = dir.join("cat.mp4");
        client.generate_to(&request, &to).unwrap();
        fs::remove_file(dir.join("cat.mp4.kling.jsonl")).unwrap();
        let video = client.wait(&generation.id).unwrap();
        client.download(&video, &to).unwrap();
        client.download(&video, dir).unwrap_err();
        client.generate_to(&request, &to).unwrap_err();
        let threads = short_wait.clone().threads(3);
        let results = client.with_wait_options(threads).wait_all(&vec![generation.id.clone(); 3]);
        assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 3);

        let token = CancelToken::new();
        let client = client.with_cancel_token(token.clone());
        let cancellable = short_wait.clone();
        client.with_wait_options(cancellable.clone()).wait(&generation.id).unwrap();
        token.cancel();
        client.with_wait_options(cancellable.clone()).wait(&generation.id).unwrap_err();
        client.with_wait_options(cancellable.clone()).generate(&request).unwrap_err();

        let panicking = builder(url)
            .event_handler(|_| resume_unwind(Box::new("from the callback")))
            .build()
            .unwrap();
        catch_panic(|| panicking.create(&request));
        catch_panic(|| panicking.download(&video, dir.join("dog.mp4")));
        fs::remove_dir_all(dir).unwrap();
        fs::create_dir(dir).unwrap();

        builder("http://127.0.0.1:1").build().unwrap().balance().unwrap_err();
        builder(tls).build().unwrap().create(&request).unwrap_err();
        let unauthorized = Client::builder("wrong").base_url(url).build().unwrap();
        unauthorized.create(&request).unwrap_err();
    }

    /// Runs in a subprocess of the test below, where no other test opens anything.
    #[test]
    fn resource_leak_subprocess() {
        let Ok(url) = std::env::var("TEST_API") else { return };
        let tls = std::env::var("TEST_TLS").unwrap();
        // A host name, because each DNS lookup has its own thread.
        let named_url = url.replace("127.0.0.1", "localhost");
        let dir = PathBuf::from(std::env::var("TEST_DIR").unwrap()).join("calls");
        fs::create_dir(&dir).unwrap();
        make_calls(&named_url, &tls, &dir);
        let before = Resources::settled(|_| true);
        for _ in 0..10 {
            make_calls(&named_url, &tls, &dir);
        }
        let after = Resources::settled(|now| now.is_within(before));
        emit_result(&format!("{before:?} {after:?} {}", after.is_within(before)));
    }

    #[test]
    fn client_leaks_no_threads_or_files() {
        let sandbox = sandbox();
        sandbox.complete_after_polls(1);
        let server = TlsServer::start(
            &CertificateAuthority::new("a").issue_certificate("localhost"),
            sandbox_addr(&sandbox),
        );
        let dir = tempfile::tempdir().unwrap();
        let (url, tls) = (sandbox.url(), server.url("localhost"));
        let variables = [
            ("TEST_API", url.as_str()),
            ("TEST_TLS", &tls),
            ("TEST_DIR", dir.path().to_str().unwrap()),
        ];
        let result = run_in_subprocess("embedding::leaks::resource_leak_subprocess", &variables);
        assert!(result.ends_with("true"), "before and after: {result}");
    }
}
