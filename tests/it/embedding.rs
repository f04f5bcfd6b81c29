//! In other people's programs: async runtimes, many threads, callbacks that panic, absurd durations,
//! things that are no pictures, folders that cannot be written, and no home.

use std::any::Any;
use std::collections::BTreeSet;
use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use kling_video::{
    CancelToken, Client, Endpoint, ErrorKind, Event, Fault, Image, ImageToVideo, RetryPolicy,
    Sandbox, VideoLength, WaitOptions,
};

use crate::child::{rerun, say};
use crate::common::{fixture, request, sandbox};
use crate::service::address_of;
use crate::tls_server::{Authority, TlsServer};

/// The whole job, to a file in this folder.
fn whole_job(client: &Client, folder: &Path, name: &str) -> PathBuf {
    let video = client.generate(&request()).unwrap();
    let to = folder.join(name);
    client.download(&video, &to).unwrap();
    to
}

/// Runs this in another thread, so that a hang is a failure.
fn without_hanging<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    let (tell, told) = mpsc::channel();
    thread::spawn(move || tell.send(work()));
    told.recv_timeout(Duration::from_secs(10)).expect("an end within 10 s")
}

// ---------------------------------------------------------------- async runtimes

#[tokio::main(flavor = "current_thread")]
async fn an_async_main(client: Client, folder: PathBuf) {
    // It blocks this runtime's only thread, but it neither panics nor needs a runtime of its own.
    whole_job(&client, &folder, "direct.mp4");
    let blocking: Vec<_> = (0..4)
        .map(|n| {
            let (client, folder) = (client.clone(), folder.clone());
            tokio::task::spawn_blocking(move || {
                whole_job(&client, &folder, &format!("blocking {n}.mp4"))
            })
        })
        .collect();
    for task in blocking {
        assert!(task.await.unwrap().exists());
    }
    let task = tokio::spawn({
        let (client, folder) = (client.clone(), folder.clone());
        async move { whole_job(&client, &folder, "task.mp4") }
    });
    assert!(task.await.unwrap().exists());
}

#[test]
fn it_works_inside_an_async_runtime() {
    let sandbox = sandbox();
    let folder = tempfile::tempdir().unwrap();
    let client = sandbox.client_builder().build().unwrap();
    an_async_main(client, folder.path().to_owned());
    assert_eq!(sandbox.generations().len(), 6);
}

#[test]
fn a_client_can_be_made_and_dropped_anywhere() {
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
fn sixty_four_threads_share_one_client() {
    let sandbox = sandbox();
    let folder = tempfile::tempdir().unwrap();
    let client = sandbox.client_builder().build().unwrap();
    let length = sandbox.video().len() as u64;
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for n in 0..THREADS {
            let (client, start, folder) = (&client, &start, folder.path());
            scope.spawn(move || {
                start.wait();
                let to = folder.join(format!("{n}.mp4"));
                client.generate_to(&request(), &to).unwrap();
                let to = whole_job(client, folder, &format!("{n} again.mp4"));
                assert_eq!(fs::metadata(to).unwrap().len(), length);
            });
        }
    });
    let generations = sandbox.generations();
    let ids: BTreeSet<_> = generations.iter().map(|g| g.client_request_id.clone()).collect();
    assert_eq!((generations.len(), ids.len()), (2 * THREADS, 2 * THREADS));
}

#[test]
fn threads_together_create_no_more_than_is_allowed() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().max_creates(10).build().unwrap();
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
        assert_eq!(error.kind(), ErrorKind::CreateLimit);
    }
    assert_eq!(sandbox.count(Endpoint::Create), 10);
}

// ---------------------------------------------------------------- callbacks that panic

/// A client whose watcher panics at the first event that is of this kind.
fn panicking(
    sandbox: &Sandbox,
    max_creates: u32,
    at: impl Fn(&Event<'_>) -> bool + Send + Sync + 'static,
) -> Client {
    let done = AtomicBool::new(false);
    sandbox
        .client_builder()
        .max_creates(max_creates)
        .on_event(move |event| {
            if at(event) && !done.swap(true, Ordering::SeqCst) {
                // As `panic!`, without the message on stderr.
                resume_unwind(Box::new("from the callback"));
            }
        })
        .build()
        .unwrap()
}

fn caught<T>(work: impl FnOnce() -> T) -> &'static str {
    let panic: Box<dyn Any + Send> =
        catch_unwind(AssertUnwindSafe(work)).map(|_| ()).expect_err("a panic");
    panic.downcast_ref::<&str>().expect("the callback's own payload")
}

#[test]
fn a_panic_before_the_commit_point_sends_nothing_and_counts_as_nothing() {
    // At the first piece of the body, and at the last moment before its last piece goes.
    for at_the_end in [false, true] {
        let sandbox = sandbox();
        let client = panicking(&sandbox, 1, move |event| match event {
            Event::Uploading { sent, total, .. } => (sent == total) == at_the_end,
            _ => false,
        });
        assert_eq!(caught(|| client.create(&request())), "from the callback");
        assert!(sandbox.generations().is_empty());
        assert!(sandbox.requests().iter().all(|request| !request.complete));
        // The one create that is allowed is still there.
        client.generate(&request()).unwrap();
        assert_eq!(client.create(&request()).unwrap_err().kind(), ErrorKind::CreateLimit);
        assert_eq!(sandbox.generations().len(), 1);
    }
}

#[test]
fn a_panic_between_two_tries_counts_as_nothing() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    let client = panicking(&sandbox, 1, |event| matches!(event, Event::Retrying { .. }));
    assert_eq!(caught(|| client.create(&request())), "from the callback");
    client.create(&request()).unwrap();
    assert_eq!(sandbox.generations().len(), 1);
}

#[test]
fn a_panic_after_a_create_counts_as_a_create() {
    let sandbox = sandbox();
    let client = panicking(&sandbox, 1, |event| matches!(event, Event::Created { .. }));
    assert_eq!(caught(|| client.create(&request())), "from the callback");
    assert_eq!(client.create(&request()).unwrap_err().kind(), ErrorKind::CreateLimit);
    assert_eq!(sandbox.generations().len(), 1);
    // Everything else goes on.
    let id = sandbox.generations()[0].id.parse().unwrap();
    client.wait(&id).unwrap();
    client.balance().unwrap();
}

#[test]
fn a_panic_while_waiting_leaves_the_client_as_it_was() {
    let sandbox = sandbox();
    let create = || sandbox.client_builder().build().unwrap().create(&request()).unwrap().id;
    let client = panicking(&sandbox, 0, |event| matches!(event, Event::Polled { .. }));
    let id = create();
    assert_eq!(caught(|| client.wait(&id)), "from the callback");
    client.wait(&id).unwrap();

    let options = WaitOptions::new()
        .first_poll_after(Duration::ZERO)
        .interval(Duration::from_millis(1))
        .threads(4);
    let client = panicking(&sandbox, 0, |event| matches!(event, Event::Polled { .. }));
    let ids: Vec<_> = (0..8).map(|_| create()).collect();
    assert_eq!(caught(|| client.wait_all(&ids, &options)), "from the callback");
    assert!(client.wait_all(&ids, &options).iter().all(Result::is_ok));

    let client = panicking(&sandbox, 0, |event| matches!(event, Event::Retrying { .. }));
    sandbox.fault(Endpoint::Billing, Fault::status(500), 1);
    assert_eq!(caught(|| client.balance()), "from the callback");
    client.balance().unwrap();
}

#[test]
fn a_panic_in_a_resumable_run_loses_nothing_and_the_next_run_pays_nothing() {
    type At = fn(&Event<'_>) -> bool;
    let moments: [At; 3] = [
        |event| matches!(event, Event::Created { .. }),
        |event| matches!(event, Event::Polled { .. }),
        |event| matches!(event, Event::Downloading { .. }),
    ];
    for at in moments {
        let sandbox = sandbox();
        let folder = tempfile::tempdir().unwrap();
        let to = folder.path().join("cat.mp4");
        let client = panicking(&sandbox, 1, at);
        assert_eq!(caught(|| client.generate_to(&request(), &to)), "from the callback");
        assert!(!to.exists());
        // The journal's lock went with the panic, or this would wait.
        let saved = client.generate_to(&request(), &to).unwrap();
        assert_eq!(fs::read(&to).unwrap(), sandbox.video());
        assert_eq!(sandbox.generations().len(), 1);
        assert_eq!(saved.id.as_ref(), sandbox.generations()[0].id);
    }
}

#[test]
fn a_panic_in_a_resumable_run_before_the_commit_point_leaves_it_to_the_next() {
    let sandbox = sandbox();
    let folder = tempfile::tempdir().unwrap();
    let to = folder.path().join("cat.mp4");
    let client = panicking(&sandbox, 1, |event| match event {
        Event::Uploading { sent, total, .. } => sent == total,
        _ => false,
    });
    assert_eq!(caught(|| client.generate_to(&request(), &to)), "from the callback");
    client.generate_to(&request(), &to).unwrap();
    assert_eq!(sandbox.generations().len(), 1);
}

#[test]
fn a_callback_may_use_the_client_it_watches() {
    let sandbox = sandbox();
    let inner = sandbox.client_builder().build().unwrap();
    let clone = inner.clone();
    let client = sandbox
        .client_builder()
        .on_event(move |event| {
            if let Event::Created { generation, .. } = event {
                clone.retrieve(&generation.id).unwrap();
            }
        })
        .build()
        .unwrap();
    client.generate(&request()).unwrap();
}

// ---------------------------------------------------------------- absurd durations

const FOREVER: Duration = Duration::MAX;

fn endless_options() -> WaitOptions {
    WaitOptions::new().first_poll_after(Duration::ZERO).interval(FOREVER).timeout(FOREVER)
}

#[test]
fn durations_may_be_as_long_as_they_can_be() {
    let (sandbox, ours) = (sandbox(), Authority::new("ours"));
    let server = TlsServer::start(&ours.vouch_for("localhost"), address_of(&sandbox));
    sandbox.finish_after(0);
    let port = address_of(&sandbox).port();
    for base in [sandbox.url(), format!("http://localhost:{port}"), server.url("localhost")] {
        let client = sandbox
            .client_builder()
            .base_url(base)
            .root_certificates_pem(ours.pem().as_bytes())
            .connect_timeout(FOREVER)
            .idle_timeout(FOREVER)
            .retry(RetryPolicy::new().base_delay(Duration::ZERO).max_delay(FOREVER))
            .wait(endless_options())
            .build()
            .unwrap();
        without_hanging(move || {
            let folder = tempfile::tempdir().unwrap();
            whole_job(&client, folder.path(), "cat.mp4");
            let to = folder.path().join("dog.mp4");
            let saved = client.generate_to(&request(), &to).unwrap();
            client.generate_to_with(&request(), &to, &endless_options()).unwrap();
            client.wait_with(&saved.id, &endless_options()).unwrap();
            let length = WaitOptions::for_length(VideoLength::TenSeconds);
            let late = length.first_poll_after(Duration::ZERO).timeout(FOREVER);
            client.wait_with(&saved.id, &late).unwrap();
            let ids = [saved.id.clone(), saved.id];
            assert!(client.wait_all(&ids, &endless_options().threads(9)).iter().all(Result::is_ok));
            client.generate(&ImageToVideo::new(fixture("picture.jpg"))).unwrap();
        });
    }
}

#[test]
fn an_endless_sleep_ends_when_it_is_cancelled() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    let id = client.create(&request()).unwrap().id;
    let cancelled = without_hanging(move || {
        let token = CancelToken::new();
        let options = WaitOptions::new()
            .first_poll_after(FOREVER)
            .interval(FOREVER)
            .timeout(FOREVER)
            .cancel(token.clone());
        let canceller = thread::spawn(move || token.cancel());
        let ended = client.wait_with(&id, &options).map_err(|error| error.kind());
        let ids = [id.clone(), id];
        let all = client.wait_all(&ids, &options);
        canceller.join().unwrap();
        assert!(all.iter().all(|end| end.as_ref().unwrap_err().kind() == ErrorKind::Cancelled));
        ended
    });
    assert_eq!(cancelled.map(|_| ()), Err(ErrorKind::Cancelled));
    assert_eq!(sandbox.count(Endpoint::Retrieve), 0);
}

#[test]
fn an_endless_back_off_ends_when_it_is_cancelled() {
    let sandbox = sandbox();
    sandbox.fault(Endpoint::Create, Fault::status(429), 9);
    let token = CancelToken::new();
    let client = sandbox
        .client_builder()
        .retry(RetryPolicy::new().max_retries(u32::MAX).base_delay(FOREVER).max_delay(FOREVER))
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
    let options = endless_options().cancel(token);
    let error = without_hanging(move || client.generate_with(&request(), &options).unwrap_err());
    assert_eq!((error.kind(), error.may_have_been_billed()), (ErrorKind::Cancelled, false));
}

// ---------------------------------------------------------------- what is no picture

#[cfg(unix)]
#[test]
fn only_a_regular_file_is_a_picture() {
    let sandbox = sandbox();
    let folder = tempfile::tempdir().unwrap();
    let fifo = folder.path().join("fifo.jpg");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());
    let socket = folder.path().join("socket.jpg");
    let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    let link = folder.path().join("link.jpg");
    std::os::unix::fs::symlink(&fifo, &link).unwrap();
    let odd =
        [folder.path(), &fifo, &socket, &link, Path::new("/dev/zero"), Path::new("/dev/null")];
    for path in odd.map(Path::to_owned) {
        let client = sandbox.client_builder().max_creates(1).build().unwrap();
        let to = folder.path().join("cat.mp4");
        let (shown, journal) =
            (path.display().to_string(), folder.path().join("cat.mp4.kling.jsonl"));
        // A FIFO that nobody writes to would keep whoever opens it.
        let errors = without_hanging(move || {
            let request = ImageToVideo::new(Image::file(&path));
            [
                request.validate().unwrap_err(),
                client.create(&request).unwrap_err(),
                client.generate(&request).unwrap_err(),
                client.generate_to(&request, &to).unwrap_err(),
            ]
        });
        for error in errors {
            assert_eq!(error.kind(), ErrorKind::InvalidRequest, "{shown}");
            assert_eq!(error.field(), Some("image_url"), "{shown}");
            assert!(error.to_string().contains(&shown), "{error}");
        }
        // Nothing is on record that would keep the target from a picture.
        let journal = fs::read_to_string(journal).unwrap_or_default();
        assert!(!journal.contains("sending"), "{shown}: {journal}");
    }
    assert!(sandbox.requests().is_empty());
    let client = sandbox.client_builder().build().unwrap();
    client.generate_to(&request(), folder.path().join("cat.mp4")).unwrap();
}

#[cfg(unix)]
#[test]
fn a_link_to_a_picture_is_a_picture() {
    let sandbox = sandbox();
    let folder = tempfile::tempdir().unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(fixture("picture.jpg"), &link).unwrap();
    let client = sandbox.client_builder().build().unwrap();
    client.create(&ImageToVideo::new(Image::file(link))).unwrap();
    let sent = sandbox.generations()[0].picture.clone().unwrap();
    assert_eq!(sent, fs::read(fixture("picture.jpg")).unwrap());
}

// ---------------------------------------------------------------- folders and homes

/// A folder where no file can be made, also by root.
fn unwritable(folder: &Path) -> PathBuf {
    let locked = folder.join("locked");
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
fn a_target_that_cannot_be_written_is_found_before_anything_is_paid() {
    let sandbox = sandbox();
    let folder = tempfile::tempdir().unwrap();
    let client = sandbox.client_builder().build().unwrap();
    fs::write(folder.path().join("file"), "").unwrap();
    fs::create_dir(folder.path().join("folder.mp4")).unwrap();
    for target in [
        unwritable(folder.path()).join("cat.mp4"),
        folder.path().join("missing").join("cat.mp4"),
        folder.path().join("file").join("cat.mp4"),
        folder.path().join("folder.mp4"),
        folder.path().join("..").join(".."),
        folder.path().join("x".repeat(300)),
    ] {
        let error = client.generate_to(&request(), &target).unwrap_err();
        let shown = target.display();
        let is_file_name = target.file_name().is_some() && !target.is_dir();
        let expected = if is_file_name { ErrorKind::Journal } else { ErrorKind::Io };
        assert_eq!(error.kind(), expected, "{shown}: {error}");
        assert!(error.to_string().contains(&shown.to_string()), "{shown}: {error}");
        assert!(!error.may_have_been_billed(), "{shown}");
    }
    assert_eq!(sandbox.requests().len(), 0);

    let video = client.generate(&request()).unwrap();
    let seen = sandbox.requests().len();
    for target in [
        unwritable(tempfile::tempdir().unwrap().path()).join("cat.mp4"),
        folder.path().join("missing").join("cat.mp4"),
        folder.path().join("folder.mp4"),
        PathBuf::new(),
    ] {
        let error = client.download(&video, &target).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{target:?}: {error}");
        assert_eq!(error.generation_id(), Some(&video.id), "{target:?}");
    }
    assert_eq!(sandbox.requests().len(), seen, "nothing is fetched that cannot be kept");
}

#[test]
fn an_empty_target_is_found_before_anything_is_paid() {
    let sandbox = sandbox();
    let client = sandbox.client_builder().build().unwrap();
    client.generate_to(&request(), "").unwrap_err();
    // It is made in the working directory.
    let _ = fs::remove_file(".kling.jsonl");
    assert!(sandbox.requests().is_empty());
}

/// What the test below runs without a home and a place for temporary files.
#[test]
fn as_a_child_it_does_the_whole_job() {
    let Ok(folder) = std::env::var("TEST_FOLDER") else { return };
    for name in ["HOME", "TMPDIR", "XDG_CACHE_HOME", "XDG_CONFIG_HOME"] {
        assert_eq!(std::env::var(name).as_deref(), Ok("/nonexistent"));
    }
    let wait =
        WaitOptions::new().first_poll_after(Duration::ZERO).interval(Duration::from_millis(1));
    let url = std::env::var("TEST_API").unwrap();
    let client = Client::builder("sandbox-key").base_url(url).wait(wait).build().unwrap();
    let to = Path::new(&folder).join("cat.mp4");
    let request = ImageToVideo::new(Image::file(fixture("picture.jpg")));
    let saved = client.generate_to(&request, &to).unwrap();
    let video = client.wait(&saved.id).unwrap();
    client.download(&video, to.with_extension("again.mp4")).unwrap();
    say("done");
}

#[test]
fn it_needs_no_home_and_no_place_for_temporary_files() {
    let sandbox = sandbox();
    let folder = tempfile::tempdir().unwrap();
    let nowhere = "/nonexistent";
    let url = sandbox.url();
    let variables = [
        ("HOME", nowhere),
        ("TMPDIR", nowhere),
        ("XDG_CACHE_HOME", nowhere),
        ("XDG_CONFIG_HOME", nowhere),
        ("TEST_API", &url),
        ("TEST_FOLDER", folder.path().to_str().unwrap()),
    ];
    assert_eq!(rerun("embedding::as_a_child_it_does_the_whole_job", &variables), "done");
    let mut names: Vec<_> = fs::read_dir(folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["cat.again.mp4", "cat.mp4", "cat.mp4.kling.jsonl"]);
    assert_eq!(sandbox.generations().len(), 1);
}

// ---------------------------------------------------------------- nothing is left behind

#[cfg(target_os = "linux")]
mod leaks {
    use super::*;

    /// This process's threads and open files.
    #[derive(Clone, Copy, Debug, PartialEq)]
    struct Held {
        threads: usize,
        files: usize,
    }

    impl Held {
        fn is_within(self, other: Held) -> bool {
            self.threads <= other.threads && self.files <= other.files
        }
    }

    fn held() -> Held {
        let status = fs::read_to_string("/proc/self/status").unwrap();
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:")).unwrap();
        let files = fs::read_dir("/proc/self/fd").unwrap().count();
        Held { threads: threads.trim().parse().unwrap(), files }
    }

    /// Succeeds and fails in every way that opens something.
    fn batch(url: &str, tls: &str, folder: &Path) {
        let quick =
            WaitOptions::new().first_poll_after(Duration::ZERO).interval(Duration::from_millis(1));
        let builder = |url: &str| {
            Client::builder("sandbox-key")
                .base_url(url)
                .wait(quick.clone())
                .retry(RetryPolicy::none())
        };
        let client = builder(url).build().unwrap();
        let picture = ImageToVideo::new(Image::file(fixture("picture.jpg")));
        let generation = client.create(&picture).unwrap();
        let to = folder.join("cat.mp4");
        client.generate_to(&picture, &to).unwrap();
        fs::remove_file(folder.join("cat.mp4.kling.jsonl")).unwrap();
        let video = client.wait(&generation.id).unwrap();
        client.download(&video, &to).unwrap();
        client.download(&video, folder).unwrap_err();
        client.generate_to(&picture, &to).unwrap_err();
        let threads = quick.clone().threads(3);
        client.wait_all(&vec![generation.id.clone(); 3], &threads);

        let token = CancelToken::new();
        let cancellable = quick.clone().cancel(token.clone());
        client.wait_with(&generation.id, &cancellable).unwrap();
        token.cancel();
        client.wait_with(&generation.id, &cancellable).unwrap_err();
        client.generate_with(&picture, &cancellable).unwrap_err();

        let panicking = builder(url)
            .on_event(|_| resume_unwind(Box::new("from the callback")))
            .build()
            .unwrap();
        caught(|| panicking.create(&picture));
        caught(|| panicking.download(&video, folder.join("dog.mp4")));
        fs::remove_dir_all(folder).unwrap();
        fs::create_dir(folder).unwrap();

        builder("http://127.0.0.1:1").build().unwrap().balance().unwrap_err();
        builder(tls).build().unwrap().create(&picture).unwrap_err();
        let unauthorized = Client::builder("wrong").base_url(url).build().unwrap();
        unauthorized.create(&picture).unwrap_err();
    }

    /// What the test below runs where nobody else opens anything.
    #[test]
    fn as_a_child_it_counts() {
        let Ok(url) = std::env::var("TEST_API") else { return };
        let tls = std::env::var("TEST_TLS").unwrap();
        // A name, so that look-ups are made, which have a thread each.
        let named = url.replace("127.0.0.1", "localhost");
        let folder = PathBuf::from(std::env::var("TEST_FOLDER").unwrap()).join("batch");
        fs::create_dir(&folder).unwrap();
        batch(&named, &tls, &folder);
        let before = settled(|_| true);
        for _ in 0..10 {
            batch(&named, &tls, &folder);
        }
        let after = settled(|held| held.is_within(before));
        say(&format!("{before:?} {after:?} {}", after.is_within(before)));
    }

    /// A thread that has given its result may take a moment to end.
    fn settled(enough: impl Fn(Held) -> bool) -> Held {
        let begun = std::time::Instant::now();
        let mut last = held();
        loop {
            thread::yield_now();
            let now = held();
            let late = begun.elapsed() > Duration::from_secs(5);
            if late || (enough(now) && now == last) {
                return now;
            }
            last = now;
        }
    }

    #[test]
    fn no_thread_and_no_file_is_left_behind() {
        let sandbox = sandbox();
        sandbox.finish_after(1);
        let server =
            TlsServer::start(&Authority::new("a").vouch_for("localhost"), address_of(&sandbox));
        let folder = tempfile::tempdir().unwrap();
        let (url, tls) = (sandbox.url(), server.url("localhost"));
        let variables = [
            ("TEST_API", url.as_str()),
            ("TEST_TLS", &tls),
            ("TEST_FOLDER", folder.path().to_str().unwrap()),
        ];
        let said = rerun("embedding::leaks::as_a_child_it_counts", &variables);
        assert!(said.ends_with("true"), "threads and files before and after: {said}");
    }
}
