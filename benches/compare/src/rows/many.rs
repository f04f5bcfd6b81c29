//! Many at once, in real time: whether all are looked at when they are due although each answer
//! takes its time.

use std::fs;
use std::time::Instant;

use anyhow::{Context, Result};
use serde_json::Value;

use super::Bench;
use crate::contender::Who;
use crate::server::{Kind, Server};
use crate::stats::Samples;
use crate::table::{Section, Table};

const GENERATIONS: usize = 1_000;
const ANSWER_MS: u64 = 200;
const INTERVAL_MS: f64 = 10_000.0;
/// 20 would have not a moment to spare.
const THREADS: usize = 24;
/// Looks at each that find it pending.
const PENDING: u64 = 2;

pub fn run(bench: &Bench) -> Result<Section> {
    let mut server = Server::start(Kind::Bare)?;
    server.ask(&format!("delay {ANSWER_MS}"))?;
    server.ask(&format!("pending {PENDING}"))?;
    let ids = bench.paths.file("many.txt");
    fs::write(&ids, numbered_ids(GENERATIONS))?;
    let arguments = [ids.display().to_string(), INTERVAL_MS.to_string(), THREADS.to_string()];
    let arguments = arguments.each_ref().map(String::as_str);
    let begun = Instant::now();
    bench.contenders.get(Who::Ours)?.job(&server.url, "wait-all", 1, &arguments)?.tell()?;
    let took = begun.elapsed();

    let looks = server.ask("looks")?;
    let looks = looks.as_array().context("no looks")?;
    let gaps: Vec<f64> = looks.iter().flat_map(gaps).map(|gap| gap - INTERVAL_MS).collect();
    let count = gaps.len();
    let late = Samples::new(gaps);

    let mut section = Section::new("Many at once");
    section.text(format!(
        "`wait_all` over {GENERATIONS} generations from {THREADS} threads, every {} s, against a \
         server that takes {ANSWER_MS} ms for each answer; in real time, {:.0} s of it. Late is how \
         much longer than the interval the time between two looks at the same generation was.",
        INTERVAL_MS / 1e3,
        took.as_secs_f64()
    ));
    let mut table = Table::new(["generations", "looks after the first", "late, median", "worst"]);
    table.row([
        looks.len().to_string(),
        count.to_string(),
        format!("{:.0} ms", late.median()),
        format!("{:.0} ms", late.max()),
    ]);
    section.table(table);
    section.at_most(
        "lateness of a look, 1,000 at 200 ms an answer",
        "≤ one interval (10 s)",
        format!("worst {:.0} ms", late.max()),
        count == GENERATIONS * PENDING as usize && late.max() <= INTERVAL_MS,
    );
    Ok(section)
}

/// One a line, as long as the API's.
pub(super) fn numbered_ids(count: usize) -> String {
    (0..count).map(|number| format!("{number:018}\n")).collect()
}

/// The times between the looks at one generation, in milliseconds.
fn gaps(times: &Value) -> Vec<f64> {
    let times: Vec<f64> =
        times.as_array().into_iter().flatten().filter_map(Value::as_f64).collect();
    times.windows(2).map(|pair| pair[1] - pair[0]).collect()
}
