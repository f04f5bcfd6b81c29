//! `examples/build-script`, a program whose build script makes its video: built again and again
//! with cargo, while the sandbox counts what is asked of it.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use kling_video::{Endpoint, Sandbox};

use crate::common::{fixture, sandbox};

#[test]
fn a_build_script_pays_once_and_then_makes_no_call() {
    let sandbox = sandbox();
    sandbox.finish_after(0);
    let bytes = format!("{} bytes of video inside", sandbox.video().len());
    let program = Program::new();
    let mut seen = Seen { sandbox: &sandbox, requests: 0 };

    // What it comes with is enough for a first build: offline, at no cost, with a sample.
    assert_eq!(program.run(None).said, bytes);
    assert_eq!(seen.new_requests(), []);
    assert!(program.folder.join("assets/sample.mp4").exists() && !program.video().exists());

    // Told to, it pays, once.
    let first = program.run(Some(&sandbox));
    assert_eq!(seen.new_requests(), [Endpoint::Create, Endpoint::Retrieve, Endpoint::Video]);
    assert_eq!(first.said, bytes);
    assert_eq!(fs::read(program.video()).unwrap(), sandbox.video());

    // Again: cargo does not even run the script. Nothing is asked, compiled or touched.
    let before = program.files();
    let second = program.run(Some(&sandbox));
    assert_eq!((second.said, second.compiled), (bytes.clone(), false));
    assert_eq!(seen.new_requests(), []);
    assert_eq!(program.files(), before);

    // Without being told to, what is paid for is used as it is.
    let mut video = sandbox.video().to_vec();
    video.extend(b"\0\0\0\x08free");
    sandbox.serve_video(video.clone());
    assert_eq!(program.run(None).said, bytes);
    assert_eq!(seen.new_requests(), []);
    assert_eq!(program.files(), before);

    // Deleted, it comes back; it is not paid for again.
    fs::remove_file(program.video()).unwrap();
    program.run(Some(&sandbox));
    assert_eq!(seen.new_requests(), [Endpoint::Retrieve, Endpoint::Video]);
    assert!(program.video().exists());
    assert!(!program.run(Some(&sandbox)).compiled);

    // A picture that was only touched needs no other video, one that was changed does.
    let picture = program.folder.join("picture.jpg");
    File::options().write(true).open(&picture).unwrap().set_modified(SystemTime::now()).unwrap();
    program.run(Some(&sandbox));
    assert_eq!(seen.new_requests(), []);
    fs::copy(fixture("picture.png"), picture).unwrap();
    let changed = program.run(Some(&sandbox));
    assert_eq!(seen.new_requests(), [Endpoint::Create, Endpoint::Retrieve, Endpoint::Video]);
    assert_eq!(changed.said, format!("{} bytes of video inside", video.len()));
    assert!(!program.run(Some(&sandbox)).compiled);
    assert_eq!(seen.new_requests(), []);
}

struct Seen<'a> {
    sandbox: &'a Sandbox,
    requests: usize,
}

impl Seen<'_> {
    fn new_requests(&mut self) -> Vec<Endpoint> {
        let requests = self.sandbox.requests();
        let new = requests[self.requests..].iter().map(|request| request.endpoint.unwrap());
        self.requests = requests.len();
        new.collect()
    }
}

/// A copy of the example. It stands where the last run's stood and is compiled to the same place,
/// so that what it depends on is compiled only once.
struct Program {
    folder: PathBuf,
    /// One test run at a time uses that place.
    _lock: File,
}

struct Built {
    said: String,
    compiled: bool,
}

impl Program {
    fn new() -> Self {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("build-script");
        fs::create_dir_all(&place).unwrap();
        let lock = File::create(place.join("lock")).unwrap();
        lock.lock().unwrap();

        let folder = place.join("program");
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(folder.join("src")).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let example = root.join("examples/build-script");
        // Plain HTTP to the loopback needs no TLS, which takes the longest to compile.
        let path = format!("path = '{}', default-features = false", root.display());
        let manifest = replace(&example.join("Cargo.toml"), "path = \"../..\"", &path);
        fs::write(folder.join("Cargo.toml"), manifest).unwrap();
        // The first look is after 10 seconds otherwise.
        let wait = "wait(kling_video::WaitOptions::new().first_poll_after(Default::default()))";
        let script = replace(&example.join("build.rs"), "max_creates(1)", wait);
        fs::write(folder.join("build.rs"), script).unwrap();
        for file in ["src/main.rs", "picture.jpg"] {
            fs::copy(example.join(file), folder.join(file)).unwrap();
        }
        // The versions that are on this machine, as the tests need them, too.
        fs::copy(root.join("Cargo.lock"), folder.join("Cargo.lock")).unwrap();
        Program { folder, _lock: lock }
    }

    fn video(&self) -> PathBuf {
        self.folder.join("assets/video.mp4")
    }

    /// `cargo run`; told to have the video made there, if that is given.
    fn run(&self, at: Option<&Sandbox>) -> Built {
        let mut cargo = Command::new(env!("CARGO"));
        cargo.args(["run", "--offline"]).current_dir(&self.folder);
        cargo.env("CARGO_TARGET_DIR", self.folder.with_file_name("target"));
        cargo.envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_INCREMENTAL", "0")]);
        for name in
            ["KLING_VIDEO", "KLING_BASE_URL", "AIML_API_KEY", "AIMLAPI_API_KEY", "AIMLAPI_KEY"]
        {
            cargo.env_remove(name);
        }
        if let Some(sandbox) = at {
            cargo.env("KLING_VIDEO", "make").env("KLING_BASE_URL", sandbox.url());
            cargo.env("AIML_API_KEY", sandbox.key());
        }
        let output = cargo.output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        Built {
            said: String::from_utf8_lossy(&output.stdout).trim_end().to_owned(),
            compiled: log.contains("Compiling"),
        }
    }

    /// Everything in its folder: contents, and when they were changed.
    fn files(&self) -> BTreeMap<PathBuf, (Vec<u8>, Duration)> {
        let mut files = BTreeMap::new();
        for folder in [self.folder.clone(), self.folder.join("src"), self.folder.join("assets")] {
            for entry in fs::read_dir(folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    let changed = fs::metadata(&path).unwrap().modified().unwrap();
                    let changed = changed.duration_since(SystemTime::UNIX_EPOCH).unwrap();
                    files.insert(path.clone(), (fs::read(&path).unwrap(), changed));
                }
            }
        }
        files
    }
}

/// A file's text with this in place of that, which must be there.
fn replace(file: &Path, that: &str, this: &str) -> String {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(that), "{} lacks {that}", file.display());
    text.replace(that, this)
}
