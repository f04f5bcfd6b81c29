//! What the HTTP library logs at which level: the table of the guide's section "Logging".

use std::sync::Mutex;

use kling_video::sandbox::Sandbox;
use kling_video::{Image, ImageToVideo};
use log::{LevelFilter, Log, Metadata, Record};

#[test]
fn secrets_are_logged_at_trace_only_and_only_by_ureq() {
    log::set_logger(&LINES).unwrap();
    let sandbox = Sandbox::start().unwrap();
    sandbox.set_video_file_name("signed-7f3a.mp4");
    let client = sandbox.client_builder().build().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let request =
        ImageToVideo::new(Image::url("https://example.com/cat.jpg")).prompt("the cat yawns");

    let logged = |level| {
        log::set_max_level(level);
        client.generate_to(&request, dir.path().join(format!("{level}.mp4"))).unwrap();
        std::mem::take(&mut *LINES.0.lock().unwrap())
    };
    let info = logged(LevelFilter::Info);
    assert!(info.is_empty(), "{info:?}");

    let debug = logged(LevelFilter::Debug);
    assert!(debug.iter().any(|line| line.text.contains("Response { status: 200")), "{debug:#?}");
    let joined = join(&debug);
    assert!(!joined.contains("sandbox-key") && !joined.contains("signed-7f3a"), "{joined}");

    let trace = logged(LevelFilter::Trace);
    let joined = join(&trace);
    assert!(joined.contains("Bearer.sandbox-key") && joined.contains("signed-7f3a"));
    assert!(!joined.contains("yawns"), "trace shows request bodies: correct the guide");
    let others = trace.into_iter().filter(|line| !line.target.starts_with("ureq"));
    assert_eq!(others.map(|line| line.text).collect::<Vec<_>>(), [""; 0]);
}

/// The lines, and what they show of the bytes sent and received: 16 in a line, in hexadecimal and then
/// as text with `.` for what is not visible.
fn join(lines: &[Line]) -> String {
    const HEXADECIMAL: usize = "0000 0000 0000 0000 0000 0000 0000 0000  ".len();
    let bytes = lines.iter().filter(|line| line.target == "ureq_proto::util");
    let bytes: String = bytes.filter_map(|line| line.text.get(HEXADECIMAL..)).collect();
    lines.iter().map(|line| &*line.text).chain([&*bytes]).collect::<Vec<_>>().join("\n")
}

static LINES: Lines = Lines(Mutex::new(Vec::new()));

struct Lines(Mutex<Vec<Line>>);

#[derive(Debug)]
struct Line {
    target: String,
    text: String,
}

impl Log for Lines {
    fn enabled(&self, metadata: &Metadata<'_>) -> bool {
        metadata.level() <= log::max_level()
    }

    fn log(&self, record: &Record<'_>) {
        if self.enabled(record.metadata()) {
            let (target, text) = (record.target().to_owned(), record.args().to_string());
            self.0.lock().unwrap().push(Line { target, text });
        }
    }

    fn flush(&self) {}
}
