//! Waiting for a thousand at once: what it takes in memory for each, and in instructions per look.

use std::fs;

use anyhow::{Context, Result};

use super::Bench;
use super::many::numbered_ids;
use crate::contender::Who;
use crate::server::{Kind, Server};
use crate::stats::count;
use crate::table::{Section, Table};

const GENERATIONS: usize = 1_000;
const BYTES: f64 = 1024.0;
const TIMES_SINGLE: f64 = 1.5;
/// Between looks. Nobody is to sleep for long here, and lateness is another row's.
const INTERVAL_MS: &str = "1";

pub fn run(bench: &Bench) -> Result<Section> {
    let mut section = Section::new("`wait_all` over 1,000 generations");
    memory(bench, &mut section)?;
    instructions(bench, &mut section)?;
    Ok(section)
}

fn memory(bench: &Bench, section: &mut Section) -> Result<()> {
    let mut server = Server::start(Kind::Bare)?;
    server.ask("pending 2")?;
    let ids = ids(bench, GENERATIONS)?;
    let ours = bench.contenders.get(Who::Ours)?;
    let run = ours.counted(&server.url, "wait-all", 1, &[&ids, INTERVAL_MS, "1"]);
    let told = run.context("no program that counts")?.tell()?;
    let each = |name: &str| Ok::<f64, anyhow::Error>(told.get(name)? / GENERATIONS as f64);
    let (waiting, results, peak) =
        (each("waiting_bytes")?, each("result_bytes")?, each("peak_bytes")?);
    section.text(
        "Bytes asked of the allocator, per generation: held while all are pending (the schedule \
         and the last state of each), in the results that are returned, and the most at any time. \
         The ids are the caller's.",
    );
    let mut table = Table::new(["held while waiting", "in the results", "peak"]);
    table.row([waiting, results, peak].map(|bytes| format!("{bytes:.0}")));
    section.table(table);
    section.at_most(
        "`wait_all`, memory per generation",
        "≤ 1 KiB",
        format!("{peak:.0} bytes at the peak, the results among them"),
        peak <= BYTES,
    );
    Ok(())
}

fn instructions(bench: &Bench, section: &mut Section) -> Result<()> {
    let (figure, target) = ("`wait_all`, instructions per look", "≤ 1.5 × that of one generation");
    let (Some(single), Some(many)) =
        (per_look(bench, 1, [1, 101])?, per_look(bench, GENERATIONS, [1, 3])?)
    else {
        section.missing(figure, target, "valgrind is missing");
        return Ok(());
    };
    section.text("Instructions of one more look that finds its generation pending:");
    let mut table = Table::new(["one generation", "1,000 generations", "ratio"]);
    table.row([count(single), count(many), format!("{:.2}", many / single)]);
    section.table(table);
    let measured = format!("{:.2} × {}", many / single, count(single));
    section.at_most(figure, target, measured, many <= TIMES_SINGLE * single);
    Ok(())
}

/// From two runs in which each generation is pending for so many looks.
fn per_look(bench: &Bench, generations: usize, pending: [u32; 2]) -> Result<Option<f64>> {
    let ids = ids(bench, generations)?;
    let per_round = bench.marginal(pending, |pending| {
        let mut server = Server::start(Kind::Bare)?;
        server.ask(&format!("pending {pending}"))?;
        let ours = bench.contenders.get(Who::Ours)?;
        bench.instructions(&ours.job(&server.url, "wait-all", 1, &[&ids, INTERVAL_MS, "1"])?)
    })?;
    Ok(per_round.map(|cost| cost / generations as f64))
}

/// A file with so many ids.
fn ids(bench: &Bench, count: usize) -> Result<String> {
    let file = bench.paths.file(&format!("ids-{count}.txt"));
    fs::write(&file, numbered_ids(count))?;
    Ok(file.display().to_string())
}
