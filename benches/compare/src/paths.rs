//! Where things are, and the files that the jobs work on.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// As `tests/it/common.rs` makes them: a valid header, and then filler.
const SMALL_PICTURE: usize = 1024;
const LARGE_PICTURE: usize = 10_000_000;

pub struct Paths {
    root: PathBuf,
    pub small_picture: PathBuf,
    pub large_picture: PathBuf,
}

impl Paths {
    pub fn new() -> Result<Paths> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let files = root.join("target/files");
        fs::create_dir_all(&files)?;
        let (small_picture, large_picture) = (files.join("small.png"), files.join("large.png"));
        fs::write(&small_picture, png(SMALL_PICTURE))?;
        fs::write(&large_picture, png(LARGE_PICTURE))?;
        Ok(Paths { root, small_picture, large_picture })
    }

    /// Of a contender's package.
    pub fn contender(&self, package: &str) -> PathBuf {
        self.root.join("contenders").join(package)
    }

    pub fn manifest(&self, package: &str) -> PathBuf {
        self.contender(package).join("Cargo.toml")
    }

    /// A folder that cargo builds into.
    pub fn target(&self, name: &str) -> PathBuf {
        self.root.join("target").join(name)
    }

    /// A file that a job writes or reads.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join("target/files").join(name)
    }
}

pub fn readme() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")
}

fn png(length: usize) -> Vec<u8> {
    let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    data.extend(640_u32.to_be_bytes());
    data.extend(360_u32.to_be_bytes());
    data.extend((data.len()..length).map(|i| (i * 7 + i / 251) as u8));
    data
}
