//! What is measured: one file each.

mod build;
mod download;
mod identity;
mod job;
mod many;
mod memory;
mod schedule;
mod tls;
mod upload;
mod wait_all;

use anyhow::Result;

use crate::contender::{Contender, Contenders, Told};
use crate::paths::Paths;
use crate::stats::Samples;
use crate::table::Section;
use crate::tools::{Run, Tools};

/// Everything that a row needs.
pub struct Bench {
    pub paths: Paths,
    pub tools: Tools,
    pub contenders: Contenders,
    pub quick: bool,
}

pub struct Row {
    pub name: &'static str,
    pub about: &'static str,
    pub run: fn(&Bench) -> Result<Section>,
}

pub const ALL: &[Row] = &[
    Row { name: "identity", about: "whether all send the same bytes", run: identity::run },
    Row { name: "job", about: "create, one poll, typed parse: instructions", run: job::run },
    Row { name: "upload", about: "a 10 MB picture: instructions and time", run: upload::run },
    Row { name: "memory", about: "peak memory of an upload and a download", run: memory::run },
    Row { name: "download", about: "a 20 MB video: time and system calls", run: download::run },
    Row { name: "build", about: "sizes, cold builds, crates", run: build::run },
    Row {
        name: "wait-all",
        about: "1,000 generations: memory and instructions",
        run: wait_all::run,
    },
    Row { name: "many", about: "1,000 generations: who is polled late", run: many::run },
    Row { name: "tls", about: "handshakes of a whole generate", run: tls::run },
    Row { name: "schedule", about: "requests and lateness by arithmetic", run: schedule::run },
];

/// At least 11; odd, so that the median is one of them.
const ROUNDS: usize = 13;

/// A figure of one run of a contender's.
type Figure<'a> = (String, Box<dyn Fn() -> Result<f64> + 'a>);

/// Takes each figure once per round, in alternating order, so that nothing that changes over time
/// falls on one of them alone.
fn alternate(figures: &[Figure<'_>]) -> Result<Vec<Samples>> {
    let mut samples = vec![Vec::new(); figures.len()];
    for round in 0..ROUNDS {
        let order: Box<dyn Iterator<Item = usize>> = match round % 2 {
            0 => Box::new(0..figures.len()),
            _ => Box::new((0..figures.len()).rev()),
        };
        for i in order {
            samples[i].push((figures[i].1)()?);
        }
    }
    Ok(samples.into_iter().map(Samples::new).collect())
}

impl Bench {
    /// What one more repetition of a job costs, by a count that can be taken of a whole run.
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

    fn told(&self, run: Option<Run<'_>>) -> Result<Option<Told>> {
        run.map(|run| run.tell()).transpose()
    }
}

/// The figure of a contender among figures in the order of `contenders`.
fn of<'a, T>(
    who: crate::contender::Who,
    contenders: &[&Contender],
    figures: &'a [T],
) -> Option<&'a T> {
    let at = contenders.iter().position(|contender| contender.who == who)?;
    figures.get(at)
}
