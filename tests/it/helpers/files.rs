//! The files of `tests/fixtures`, and temporary directories for a video.

use std::path::{Path, PathBuf};

use serde_json::Value;

/// The path of a file in `tests/fixtures`.
pub fn fixture(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

/// The sorted names of the files in a directory.
pub fn file_names(dir: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(dir).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// A directory in `dir`, or elsewhere, in which nobody can create a file, not even root.
pub fn unwritable_dir(dir: &Path) -> PathBuf {
    let locked = dir.join("locked");
    std::fs::create_dir(&locked).unwrap();
    let mut permissions = std::fs::metadata(&locked).unwrap().permissions();
    permissions.set_readonly(true);
    std::fs::set_permissions(&locked, permissions).unwrap();
    match std::fs::File::create(locked.join("probe")) {
        Ok(_) => PathBuf::from("/proc"),
        Err(_) => locked,
    }
}

/// A temporary directory with the path of a video, the target, in it.
pub struct TestDir {
    dir: tempfile::TempDir,
    pub target: PathBuf,
}

impl TestDir {
    pub fn new() -> TestDir {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("cat.mp4");
        TestDir { dir, target }
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn journal(&self) -> PathBuf {
        with_suffix(&self.target, ".kling.jsonl")
    }

    pub fn partial_file(&self) -> PathBuf {
        self.target.with_file_name(".cat.mp4.kling.part")
    }

    pub fn journal_text(&self) -> String {
        std::fs::read_to_string(self.journal()).unwrap_or_default()
    }

    pub fn write_journal(&self, lines: &[String]) {
        let text: String = lines.iter().map(|line| format!("{line}\n")).collect();
        std::fs::write(self.journal(), text).unwrap();
    }

    pub fn journal_lines(&self) -> Vec<Value> {
        self.journal_text().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    /// The `step` of each journal line.
    pub fn journal_steps(&self) -> Vec<String> {
        self.journal_lines().iter().map(|line| line["step"].as_str().unwrap().to_owned()).collect()
    }

    pub fn last_step(&self) -> Option<String> {
        self.journal_steps().pop()
    }

    /// The sorted names of the files in the directory.
    pub fn files(&self) -> Vec<String> {
        file_names(self.path())
    }
}

pub fn with_suffix(target: &Path, suffix: &str) -> PathBuf {
    let mut name = target.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}
