//! The benchmarks, one per file, and what they share.

mod build;
mod create_poll;
mod download;
mod lateness;
mod memory;
mod requests;
mod schedule;
mod tls;
mod upload;
mod wait_all;

use anyhow::Result;

use crate::implementation::{Id, Implementation, Implementations, Measurements};
use crate::paths::Paths;
use crate::stats::Samples;
use crate::table::Section;
use crate::tools::{Run, Tools};

/// What every benchmark needs.
pub struct Environment {
    pub paths: Paths,
    pub tools: Tools,
    pub implementations: Implementations,
    pub quick: bool,
}

pub struct Benchmark {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&Environment) -> Result<Section>,
}

pub const BENCHMARKS: &[Benchmark] = &[
    Benchmark {
        name: "requests",
        about: "all implementations send the same bytes",
        run: requests::run,
    },
    Benchmark {
        name: "create-poll",
        about: "create and one poll: instructions, system calls, allocations",
        run: create_poll::run,
    },
    Benchmark {
        name: "upload",
        about: "upload of a 10 MB image: instructions and time",
        run: upload::run,
    },
    Benchmark {
        name: "memory",
        about: "peak memory of an upload and a download",
        run: memory::run,
    },
    Benchmark {
        name: "download",
        about: "download of a 20 MB video: time and system calls",
        run: download::run,
    },
    Benchmark {
        name: "build",
        about: "binary size, cold build time, number of crates",
        run: build::run,
    },
    Benchmark {
        name: "wait-all",
        about: "`wait_all` over 1,000 generations: memory and instructions",
        run: wait_all::run,
    },
    Benchmark {
        name: "lateness",
        about: "`wait_all` over 1,000 generations: lateness of polls, in real time",
        run: lateness::run,
    },
    Benchmark { name: "tls", about: "TLS handshakes of `generate`", run: tls::run },
    Benchmark {
        name: "schedule",
        about: "poll schedules: requests and detection delay, calculated",
        run: schedule::run,
    },
];

/// At least 11, and odd, so that the median is one of the samples.
const ROUNDS: usize = 13;

/// Measures one value in one run of a program.
type Measure<'a> = Box<dyn Fn() -> Result<f64> + 'a>;

/// Takes each measurement once per round. The order alternates between rounds, so that drift over
/// time affects all of them alike.
fn alternate(measures: &[Measure<'_>]) -> Result<Vec<Samples>> {
    let mut samples = vec![Vec::new(); measures.len()];
    for round in 0..ROUNDS {
        let order: Box<dyn Iterator<Item = usize>> = match round % 2 {
            0 => Box::new(0..measures.len()),
            _ => Box::new((0..measures.len()).rev()),
        };
        for i in order {
            samples[i].push(measures[i]()?);
        }
    }
    Ok(samples.into_iter().map(Samples::new).collect())
}

impl Environment {
    /// The cost of one more repetition of a job. `count` gives the total cost of a run with the
    /// given number of repetitions.
    fn marginal(
        &self,
        times: [u32; 2],
        mut count: impl FnMut(u32) -> Result<Option<f64>>,
    ) -> Result<Option<f64>> {
        let [few, many] = times;
        let (Some(few_cost), Some(many_cost)) = (count(few)?, count(many)?) else {
            return Ok(None);
        };
        Ok(Some((many_cost - few_cost) / f64::from(many - few)))
    }

    fn instructions(&self, run: &Run<'_>) -> Result<Option<f64>> {
        self.tools.instructions(run)
    }

    fn system_calls(&self, run: &Run<'_>) -> Result<Option<f64>> {
        self.tools.system_calls(run, &self.paths.file("strace.log"))
    }

    fn measurements(&self, run: Option<Run<'_>>) -> Result<Option<Measurements>> {
        run.map(|run| run.execute()).transpose()
    }
}

/// Finds an implementation's value in `values`, which has the order of `implementations`.
fn value_of<'a, T>(id: Id, implementations: &[&Implementation], values: &'a [T]) -> Option<&'a T> {
    let index = implementations.iter().position(|implementation| implementation.id == id)?;
    values.get(index)
}
