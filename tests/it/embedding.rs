//! The client inside other programs: async runtimes, many threads, callbacks that panic, extreme
//! durations, paths that are not image files, unwritable directories, and no home directory.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    CancelToken, Client, ErrorKind, Event, EventKind, Image, ImageToVideo, RetryPolicy,
    VideoDuration, WaitOptions,
};

use crate::common::{fixture, request, sandbox, with_timeout};
use crate::subprocess::{emit_result, run_in_subprocess};
use crate::tcp_server::sandbox_addr;
use crate::tls_server::{CertificateAuthority, TlsServer};

/// Generates a video and downloads it to a file in `dir`.
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
    let client = sandbox.client_builder().build().unwrap();
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
    let client = sandbox.client_builder().build().unwrap();
    let length = sandbox.default_video().len() as u64;
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for n in 0..THREADS {
            let (client, start, dir) = (&client, &start, dir.path());
            scope.spawn(move || {
                start.wait();
                let to = dir.join(format!("{n}.mp4"));
                client.generate_to(&request(), &to).unwrap();
                let to = generate_and_download(client, dir, &format!("{n} again.mp4"));
                assert_eq!(fs::metadata(to).unwrap().len(), length);
            });
        }
    });
    let generations = sandbox.generations();
    let ids: BTreeSet<_> = generations.iter().map(|g| g.client_request_id.clone()).collect();
    assert_eq!((generations.len(), ids.len()), (2 * THREADS, 2 * THREADS));
}

#[test]
fn generation_limit_holds_across_threads() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_generations(10).build().unwrap();
    let start = Barrier::new(THREADS);
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS)
            .map(|_| {
                let (client, start) = (client.clone(), &start);
                scope.spawn(move || {
                    start.wait();
                    client.create(&request())
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 10);
    for error in results.iter().filter_map(|result| result.as_ref().err()) {
        assert_eq!(error.kind(), ErrorKind::GenerationLimit);
    }
    assert_eq!(sandbox.request_count(Endpoint::Create), 10);
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
    assert!(client.with_wait_options(options.clone()).wait_all(&ids).iter().all(Result::is_ok));

    let client =
        panicking_client(&sandbox, 0, |event| matches!(event.kind, EventKind::Retrying { .. }));
    sandbox.fault(Endpoint::Billing, Fault::status(500), 1);
    assert_eq!(catch_panic(|| client.balance()), "from the callback");
    client.balance().unwrap();
}

#[test]
fn callback_panic_in_generate_to_is_resumed_without_paying_again() {
    type Matches = fn(&Event<'_>) -> bool;
    let events: [Matches; 3] = [
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
fn callback_panic_before_commit_point_of_generate_to_is_recovered() {
    let sandbox = sandbox();
    let dir = tempfile::tempdir().unwrap();
    let to = dir.path().join("cat.mp4");
    let client = panicking_client(&sandbox, 1, |event| match event.kind {
        EventKind::Uploading { sent, total, .. } => sent == total,
        _ => false,
    });
    assert_eq!(catch_panic(|| client.generate_to(&request(), &to)), "from the callback");
    client.generate_to(&request(), &to).unwrap();
    assert_eq!(sandbox.generations().len(), 1);
}

#[test]
fn callback_may_call_client() {
    let sandbox = sandbox();
    let inner = sandbox.client_builder().build().unwrap();
    let clone = inner.clone();
    let client = sandbox
        .client_builder()
        .event_handler(move |event| {
            if let EventKind::Created { generation, .. } = event.kind {
                clone.retrieve(&generation.id).unwrap();
            }
        })
        .build()
        .unwrap();
    client.generate(&request()).unwrap();
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
            assert!(
                client
                    .with_wait_options(infinite_options().threads(9))
                    .wait_all(&ids)
                    .iter()
                    .all(Result::is_ok)
            );
            client.generate(&ImageToVideo::new(fixture("image.jpg"))).unwrap();
        });
    }
}

#[test]
fn wait_with_infinite_delay_is_cancellable() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
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
        assert!(
            all.iter().all(|result| result.as_ref().unwrap_err().kind() == ErrorKind::Cancelled)
        );
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
    let client = sandbox
        .client_builder()
        .retry_policy(
            RetryPolicy::new().max_retries(u32::MAX).base_delay(FOREVER).max_delay(FOREVER),
        )
        .event_handler({
            let token = token.clone();
            move |event| {
                if let EventKind::Retrying { .. } = event.kind {
                    token.cancel();
                }
            }
        })
        .build()
        .unwrap();
    let client = client.with_cancel_token(token);
    let options = infinite_options();
    let error = with_timeout(move || {
        client.with_wait_options(options.clone()).generate(&request()).unwrap_err()
    });
    assert_eq!((error.kind(), error.may_have_been_billed()), (ErrorKind::Cancelled, false));
}

// ---------------------------------------------------------------- paths that are not image files

#[cfg(unix)]
#[test]
fn image_must_be_regular_file() {
    let sandbox = sandbox();
    let dir = tempfile::tempdir().unwrap();
    let fifo = dir.path().join("fifo.jpg");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let socket = dir.path().join("socket.jpg");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = dir.path().join("link.jpg");
    std::os::unix::fs::symlink(&fifo, &link).unwrap();
    let not_regular =
        [dir.path(), &fifo, &socket, &link, Path::new("/dev/zero"), Path::new("/dev/null")];
    for path in not_regular.map(Path::to_owned) {
        let client = sandbox.client_builder().max_generations(1).build().unwrap();
        let to = dir.path().join("cat.mp4");
        let (displayed, journal) =
            (path.display().to_string(), dir.path().join("cat.mp4.kling.jsonl"));
        // Opening a FIFO blocks until somebody writes to it.
        let errors = with_timeout(move || {
            let request = ImageToVideo::new(Image::file(&path));
            [
                request.validate().unwrap_err(),
                client.create(&request).unwrap_err(),
                client.generate(&request).unwrap_err(),
                client.generate_to(&request, &to).unwrap_err(),
            ]
        });
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{displayed}");
            assert_eq!(error.field(), Some("image_url"), "{displayed}");
            assert!(error.to_string().contains(&displayed), "{error}");
        }
        // The journal has no entry that would prevent another run with this target.
        let journal = fs::read_to_string(journal).unwrap_or_default();
        assert!(!journal.contains("sending"), "{displayed}: {journal}");
    }
    assert!(sandbox.requests().is_empty());
    let client = sandbox.client_builder().build().unwrap();
    client.generate_to(&request(), dir.path().join("cat.mp4")).unwrap();
}

#[cfg(unix)]
#[test]
fn image_symlink_is_followed() {
    let sandbox = sandbox();
    let dir = tempfile::tempdir().unwrap();
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(fixture("image.jpg"), &link).unwrap();
    let client = sandbox.client_builder().build().unwrap();
    client.create(&ImageToVideo::new(Image::file(link))).unwrap();
    let sent = sandbox.generations()[0].image.clone().unwrap();
    assert_eq!(sent, fs::read(fixture("image.jpg")).unwrap());
}

// ---------------------------------------------------------------- directories

/// A directory in which nobody can create a file, not even root.
fn unwritable(dir: &Path) -> PathBuf {
    let locked = dir.join("locked");
    fs::create_dir(&locked).unwrap();
    let mut permissions = fs::metadata(&locked).unwrap().permissions();
    permissions.set_readonly(true);
    fs::set_permissions(&locked, permissions).unwrap();
    match fs::File::create(locked.join("probe")) {
        Ok(_) => PathBuf::from("/proc"),
        Err(_) => locked,
    }
}

#[test]
fn unwritable_target_fails_before_create() {
    let sandbox = sandbox();
    let dir = tempfile::tempdir().unwrap();
    let client = sandbox.client_builder().build().unwrap();
    fs::write(dir.path().join("file"), "").unwrap();
    fs::create_dir(dir.path().join("directory.mp4")).unwrap();
    for target in [
        unwritable(dir.path()).join("cat.mp4"),
        dir.path().join("missing").join("cat.mp4"),
        dir.path().join("file").join("cat.mp4"),
        dir.path().join("directory.mp4"),
        dir.path().join("..").join(".."),
        dir.path().join("x".repeat(300)),
    ] {
        let error = client.generate_to(&request(), &target).unwrap_err();
        let displayed = target.display();
        let is_file_name = target.file_name().is_some() && !target.is_dir();
        let has_parent = target.parent().is_some_and(Path::exists);
        let expected = match is_file_name && has_parent {
            true => ErrorKind::Journal,
            false => ErrorKind::Io,
        };
        assert_eq!(error.kind(), expected, "{displayed}: {error}");
        let parent = target.parent().unwrap_or(&target).display().to_string();
        let named = if has_parent { displayed.to_string() } else { parent };
        assert!(error.to_string().contains(&named), "{displayed}: {error}");
        assert!(!error.may_have_been_billed(), "{displayed}");
    }
    assert_eq!(sandbox.requests().len(), 0);

    let video = client.generate(&request()).unwrap();
    let request_count = sandbox.requests().len();
    for target in [
        unwritable(tempfile::tempdir().unwrap().path()).join("cat.mp4"),
        dir.path().join("missing").join("cat.mp4"),
        dir.path().join("directory.mp4"),
        PathBuf::new(),
    ] {
        let error = client.download(&video, &target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{target:?}: {error}");
        assert_eq!(error.generation_id(), Some(&video.id), "{target:?}");
    }
    assert_eq!(sandbox.requests().len(), request_count, "nothing is downloaded");
}

#[test]
fn empty_target_fails_before_create() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    client.generate_to(&request(), "").unwrap_err();
    // The journal is created in the working directory.
    let _ = fs::remove_file(".kling.jsonl");
    assert!(sandbox.requests().is_empty());
}

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
    let mut names: Vec<_> = fs::read_dir(dir.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["cat.again.mp4", "cat.mp4", "cat.mp4.kling.jsonl"]);
    assert_eq!(sandbox.generations().len(), 1);
}

// ---------------------------------------------------------------- leaks

#[cfg(target_os = "linux")]
mod leaks {
    use super::*;

    /// The number of threads and open files of this process.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Resources {
        threads: usize,
        files: usize,
    }

    impl Resources {
        fn is_within(self, other: Resources) -> bool {
            self.threads <= other.threads && self.files <= other.files
        }
    }

    fn resources() -> Resources {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap();
        let files = fs::read_dir("/proc/self/fd").unwrap().count();
        Resources { threads: threads.trim().parse().unwrap(), files }
    }

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
        let _ = client.with_wait_options(threads.clone()).wait_all(&vec![generation.id.clone(); 3]);

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
        let before = settled(|_| true);
        for _ in 0..10 {
            make_calls(&named_url, &tls, &dir);
        }
        let after = settled(|now| now.is_within(before));
        emit_result(&format!("{before:?} {after:?} {}", after.is_within(before)));
    }

    /// Waits until the counts are stable: a thread may end a moment after it returned its result.
    fn settled(is_enough: impl Fn(Resources) -> bool) -> Resources {
        let started = std::time::Instant::now();
        let mut last = resources();
        loop {
            thread::yield_now();
            let now = resources();
            let timed_out = started.elapsed() > Duration::from_secs(5);
            if timed_out || (is_enough(now) && now == last) {
                return now;
            }
            last = now;
        }
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
