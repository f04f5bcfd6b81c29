//! The benchmarks.

mod build;
mod jobs;
mod size;
mod tls;
mod wait_all;

use anyhow::Result;

use crate::programs::Programs;
use crate::report::Section;

/// What every benchmark needs.
pub struct Environment {
    pub programs: Programs,
    /// Skip what takes minutes or needs an idle machine.
    pub quick: bool,
}

pub struct Benchmark {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&Environment) -> Result<Section>,
}

pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark { name: "size", about: "program sizes and crates", run: size::run },
    Benchmark { name: "llvm-lines", about: "LLVM lines of the crate", run: build::llvm_lines },
    Benchmark { name: "build", about: "compile time, cold builds; timed", run: build::times },
    Benchmark { name: "requests", about: "both clients do the same job", run: jobs::requests },
    Benchmark { name: "create-poll", about: "create and one poll", run: jobs::create_poll },
    Benchmark { name: "upload", about: "a 10 MB image; `generate_to` with it", run: jobs::upload },
    Benchmark { name: "memory", about: "peak memory of transfers", run: jobs::memory },
    Benchmark { name: "download", about: "system calls of a download", run: jobs::download },
    Benchmark { name: "wait-all", about: "`wait_all` over 1,000 generations", run: wait_all::run },
    Benchmark { name: "tls", about: "TLS handshakes of `generate`", run: tls::run },
];

const SKIPPED: &str = "skipped by `--quick`";
