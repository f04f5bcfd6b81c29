//! Paths of the benchmark, and the image files that the jobs upload.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Result;

/// The images are generated like those of `tests/it/common.rs`: a valid PNG header, then filler.
const SMALL_IMAGE_LEN: usize = 1024;
const LARGE_IMAGE_LEN: usize = 10_000_000;

pub struct Paths {
    root: PathBuf,
    pub small_image: PathBuf,
    pub large_image: PathBuf,
}

impl Paths {
    pub fn new() -> Result<Paths> {
        let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"));
        let files = root.join("target/files");
        fs::create_dir_all(&files)?;
        let (small_image, large_image) = (files.join("small.png"), files.join("large.png"));
        fs::write(&small_image, png(SMALL_IMAGE_LEN))?;
        fs::write(&large_image, png(LARGE_IMAGE_LEN))?;
        Ok(Paths { root, small_image, large_image })
    }

    pub fn implementation(&self, directory: &str) -> PathBuf {
        self.root.join("implementations").join(directory)
    }

    pub fn manifest(&self, directory: &str) -> PathBuf {
        self.implementation(directory).join("Cargo.toml")
    }

    /// A target directory for Cargo.
    pub fn target(&self, name: &str) -> PathBuf {
        self.root.join("target").join(name)
    }

    /// A file that a job reads or writes.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join("target/files").join(name)
    }
}

pub fn readme() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md")
}

fn png(len: usize) -> Vec<u8> {
    let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    data.extend(640_u32.to_be_bytes());
    data.extend(360_u32.to_be_bytes());
    data.extend((data.len()..len).map(|i| (i * 7 + i / 251) as u8));
    data
}
