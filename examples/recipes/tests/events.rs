//! What the event handlers of the recipes show of a run whose upload has to be repeated.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

use indicatif::ProgressBar;
use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{Client, Event, Image, ImageToVideo};
use recipes::{log_events::log_event, progress::show_event};
use tracing_subscriber::fmt::MakeWriter;

const IMAGE: &str = "../../tests/fixtures/image.jpg";

fn generate(sandbox: &Sandbox, handler: impl Fn(&Event<'_>) + Send + Sync + 'static) {
    let dir = tempfile::tempdir().unwrap();
    let client: Client = sandbox.client_builder().event_handler(handler).build().unwrap();
    client.generate_to(&ImageToVideo::new(Image::file(IMAGE)), dir.path().join("a.mp4")).unwrap();
}

#[test]
fn tracing_lines_have_the_id_and_not_the_url() {
    let sandbox = Sandbox::start().unwrap();
    sandbox.fault(Endpoint::Create, Fault::status(429), 1);
    let output = Output::default();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::DEBUG)
        .with_ansi(false)
        .with_writer(output.clone())
        .finish();
    tracing::subscriber::with_default(subscriber, || generate(&sandbox, log_event));

    let log = String::from_utf8(output.0.lock().unwrap().clone()).unwrap();
    let id = format!("id=\"{}\"", sandbox.generations()[0].id);
    for message in ["retrying", "paid for", "polled", "saved"] {
        assert!(log.lines().any(|line| line.contains(message)), "no line for {message}: {log}");
    }
    assert!(log.lines().filter(|line| line.contains(&id)).count() >= 5, "{log}");
    assert!(!log.contains("http://"), "a URL in {log}");
}

#[test]
fn progress_bar_shows_upload_wait_and_download() {
    let sandbox = Sandbox::start().unwrap();
    let bar = ProgressBar::hidden();
    let messages = Arc::new(Mutex::new(Vec::new()));
    let handler = {
        let (bar, messages) = (bar.clone(), Arc::clone(&messages));
        move |event: &Event<'_>| {
            show_event(&bar, event);
            messages.lock().unwrap().push(bar.message());
        }
    };
    generate(&sandbox, handler);

    let mut messages = messages.lock().unwrap().clone();
    messages.dedup();
    let expected = ["uploading", "queued", "generating", "completed", "downloading", "saved"];
    assert_eq!(messages, expected);
    assert!(bar.is_finished());
    assert_eq!(bar.position(), sandbox.default_video().len() as u64);
}

#[derive(Clone, Default)]
struct Output(Arc<Mutex<Vec<u8>>>);

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Output {
    type Writer = Output;

    fn make_writer(&self) -> Output {
        self.clone()
    }
}
