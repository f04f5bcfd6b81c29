//! Builds and runs `examples/build-script`, a package whose build script generates its video,
//! several times with cargo, and checks which requests the sandbox receives.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, SystemTime};

use kling_video::sandbox::{Endpoint, Sandbox};

use crate::helpers::clients::sandbox;
use crate::helpers::files::fixture;
use crate::helpers::subprocess::{remove_crate_variables, report_skipped};

#[test]
fn build_script_pays_once_and_then_sends_no_request() {
    // Wine cannot run it, and an empty directory has none.
    if let Err(error) = Command::new(cargo()).arg("--version").output() {
        return report_skipped(
            "build_script",
            format!("{} cannot run: {error}", cargo().display()),
        );
    }
    let sandbox = sandbox();
    sandbox.complete_after_polls(0);
    let bytes = format!("{} bytes of video inside", sandbox.default_video().len());
    let package = Package::new();
    let mut cursor = RequestCursor { sandbox: &sandbox, requests: 0 };

    // The first build works offline and at no cost, with a sample video.
    assert_eq!(package.run(None).output, bytes);
    assert_eq!(cursor.new_requests(), []);
    assert!(package.dir.join("assets/sample.mp4").exists() && !package.video().exists());
    // A changed image does not break it, nor does a deleted sample.
    fs::copy(fixture("image.png"), package.dir.join("image.jpg")).unwrap();
    assert_eq!(package.run(None).output, bytes);
    fs::remove_file(package.dir.join("assets/sample.mp4")).unwrap();
    assert_eq!(package.run(None).output, bytes);
    package.restore_image();

    // With KLING_VIDEO=make it pays, once.
    let first = package.run(Some(&sandbox));
    assert_eq!(cursor.new_requests(), [Endpoint::Create, Endpoint::Retrieve, Endpoint::Video]);
    assert_eq!(first.output, bytes);
    assert_eq!(fs::read(package.video()).unwrap(), sandbox.default_video());

    // Cargo does not run the script again: nothing is requested, compiled or written.
    let before = package.files();
    let second = package.run(Some(&sandbox));
    assert_eq!((second.output, second.compiled), (bytes.clone(), false));
    assert_eq!(cursor.new_requests(), []);
    assert_eq!(package.files(), before);

    // Without KLING_VIDEO=make, the paid video is used as it is.
    let mut video = sandbox.default_video().to_vec();
    video.extend(b"\0\0\0\x08free");
    sandbox.set_video(video.clone());
    assert_eq!(package.run(None).output, bytes);
    assert_eq!(cursor.new_requests(), []);
    assert_eq!(package.files(), before);

    // A deleted video is downloaded again, not paid for again.
    fs::remove_file(package.video()).unwrap();
    package.run(Some(&sandbox));
    assert_eq!(cursor.new_requests(), [Endpoint::Retrieve, Endpoint::Video]);
    assert!(package.video().exists());
    assert!(!package.run(Some(&sandbox)).compiled);

    // An image that was only touched needs no new video. A changed image does.
    let image = package.dir.join("image.jpg");
    File::options().write(true).open(&image).unwrap().set_modified(SystemTime::now()).unwrap();
    package.run(Some(&sandbox));
    assert_eq!(cursor.new_requests(), []);
    fs::copy(fixture("image.png"), image).unwrap();
    let changed = package.run(Some(&sandbox));
    assert_eq!(cursor.new_requests(), [Endpoint::Create, Endpoint::Retrieve, Endpoint::Video]);
    assert_eq!(changed.output, format!("{} bytes of video inside", video.len()));
    assert!(!package.run(Some(&sandbox)).compiled);
    assert_eq!(cursor.new_requests(), []);
}

/// The cargo that runs this test.
fn cargo() -> PathBuf {
    std::env::var_os("CARGO").map_or(env!("CARGO").into(), PathBuf::from)
}

/// A position in the sandbox's list of requests.
struct RequestCursor<'a> {
    sandbox: &'a Sandbox,
    requests: usize,
}

impl RequestCursor<'_> {
    /// The endpoints of the requests received since the last call.
    fn new_requests(&mut self) -> Vec<Endpoint> {
        let requests = self.sandbox.requests();
        let new = requests[self.requests..].iter().map(|request| request.endpoint.unwrap());
        self.requests = requests.len();
        new.collect()
    }
}

/// A copy of the example. Its path and target directory are the same in every test run, so that its
/// dependencies are compiled only once.
struct Package {
    dir: PathBuf,
    /// Other test runs wait for this one.
    _lock: File,
}

struct RunResult {
    output: String,
    compiled: bool,
}

impl Package {
    fn new() -> Self {
        let work_dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join("build-script");
        fs::create_dir_all(&work_dir).unwrap();
        let lock = File::create(work_dir.join("lock")).unwrap();
        lock.lock().unwrap();

        let dir = work_dir.join("package");
        let _ = fs::remove_dir_all(&dir);
        fs::create_dir_all(dir.join("src")).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let example = root.join("examples/build-script");
        // Plain HTTP to the loopback does not need TLS, which takes longest to compile.
        let path = format!("path = '{}', default-features = false", root.display());
        let manifest = replace(&example.join("Cargo.toml"), "path = \"../..\"", &path);
        fs::write(dir.join("Cargo.toml"), manifest).unwrap();
        // Without this, the first poll comes after 10 seconds.
        let wait_options =
            "wait_options(kling_video::WaitOptions::new().initial_delay(Default::default()))";
        let script = replace(&example.join("build.rs"), "max_generations(1)", wait_options);
        fs::write(dir.join("build.rs"), script).unwrap();
        fs::copy(example.join("src/main.rs"), dir.join("src/main.rs")).unwrap();
        // These versions are available offline, since this test binary was built with them.
        fs::copy(root.join("Cargo.lock"), dir.join("Cargo.lock")).unwrap();
        let package = Package { dir, _lock: lock };
        package.restore_image();
        package
    }

    fn restore_image(&self) {
        let image = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/build-script/image.jpg");
        fs::copy(image, self.dir.join("image.jpg")).unwrap();
    }

    fn video(&self) -> PathBuf {
        self.dir.join("assets/video.mp4")
    }

    /// Runs `cargo run`, with `KLING_VIDEO=make` if a sandbox is given.
    fn run(&self, sandbox: Option<&Sandbox>) -> RunResult {
        let mut cargo = Command::new(cargo());
        cargo.args(["run", "--offline"]).current_dir(&self.dir);
        cargo.env("CARGO_TARGET_DIR", self.dir.with_file_name("target"));
        cargo.envs([("CARGO_PROFILE_DEV_DEBUG", "0"), ("CARGO_INCREMENTAL", "0")]);
        cargo.env_remove("KLING_VIDEO").env_remove("KLING_BASE_URL");
        if let Some(sandbox) = sandbox {
            cargo.env("KLING_VIDEO", "make").env("KLING_BASE_URL", sandbox.url());
            cargo.env("AIML_API_KEY", sandbox.key());
        }
        remove_crate_variables(&mut cargo);
        let output = cargo.output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{log}");
        RunResult {
            output: String::from_utf8_lossy(&output.stdout).trim_end().to_owned(),
            compiled: log.contains("Compiling"),
        }
    }

    /// The contents and modification times of the package's files.
    fn files(&self) -> BTreeMap<PathBuf, (Vec<u8>, Duration)> {
        let mut files = BTreeMap::new();
        for dir in [self.dir.clone(), self.dir.join("src"), self.dir.join("assets")] {
            for entry in fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_file() {
                    let modified = fs::metadata(&path).unwrap().modified().unwrap();
                    let modified = modified.duration_since(SystemTime::UNIX_EPOCH).unwrap();
                    files.insert(path.clone(), (fs::read(&path).unwrap(), modified));
                }
            }
        }
        files
    }
}

/// Reads a file and replaces `from`, which it must contain, by `to`.
fn replace(file: &Path, from: &str, to: &str) -> String {
    let text = fs::read_to_string(file).unwrap();
    assert!(text.contains(from), "{} does not contain {from}", file.display());
    text.replace(from, to)
}
