//! The small job: create, one poll, both answers parsed into types. What it costs a program that
//! does it once more, and what the first one costs.

use anyhow::Result;

use super::Bench;
use crate::contender::{Contender, Who};
use crate::server::{Kind, Server};
use crate::stats::{count, ratio};
use crate::table::{Section, Table};

const TIMES: [u32; 2] = [1, 11];

/// What one job of a contender's costs.
#[derive(Default)]
struct Costs {
    instructions: Option<f64>,
    /// The first one, with all that is set up for it.
    first: Option<f64>,
    system_calls: Option<f64>,
    allocations: Option<f64>,
    allocated: Option<f64>,
}

pub fn run(bench: &Bench) -> Result<Section> {
    let server = Server::start(Kind::Sandbox)?;
    let mut section = Section::new("Create, one poll, typed parse");
    section.text(
        "Against the strict sandbox; what one more job costs: (11 jobs − 1 job) / 10. Ours with \
         its default retries, an event callback, traces and a fresh connection per create; all \
         others reuse one connection. The first job is one job − none.",
    );
    let small = bench.paths.small_picture.display().to_string();
    let link = table(bench, &server.url, "link", &[])?;
    let file = table(bench, &server.url, "file", &[&small])?;
    for (title, what, (table, ours, bare, streaming)) in
        [("With a link", "link", link), ("With a picture of 1 kB", "1 kB picture", file)]
    {
        section.text(format!("**{title}**"));
        section.table(table);
        let figure = format!("instructions, create + 1 poll, {what}");
        let target = "≤ 1.00 × ureq in memory; aim 1.00 × ureq streaming";
        match (ours, bare) {
            (Some(ours), Some(bare)) => section.at_most(
                &figure,
                target,
                format!(
                    "{} = {:.2} × {}; {} × streaming",
                    count(ours),
                    ours / bare,
                    count(bare),
                    ratio(Some(ours), streaming)
                ),
                ours <= bare,
            ),
            _ => section.missing(&figure, target, "valgrind is missing"),
        }
    }
    Ok(section)
}

type Figures = (Table, Option<f64>, Option<f64>, Option<f64>);

/// The table, and the instructions of ours and of both ureqs.
fn table(bench: &Bench, url: &str, job: &str, more: &[&str]) -> Result<Figures> {
    let compiled = bench.contenders.compiled();
    let mut rows: Vec<(String, Costs)> = Vec::new();
    for contender in &compiled {
        rows.push((contender.name.to_owned(), costs(bench, contender, url, job, more)?));
        if contender.who == Who::Ours && job == "link" {
            let waiting = costs(bench, contender, url, "wait", &["1"])?;
            rows.push((format!("{}, by `wait`", contender.name), waiting));
        }
    }
    let instructions_of = |who: Who| -> Option<f64> {
        let name = compiled.iter().find(|contender| contender.who == who)?.name;
        rows.iter().find(|(own, _)| own == name)?.1.instructions
    };
    let bare = instructions_of(Who::UreqMemory);
    let floor = instructions_of(Who::RawSimd);
    let mut table = Table::new([
        "contender",
        "instructions",
        "× ureq, in memory",
        "× floor",
        "the first",
        "system calls",
        "allocations",
        "bytes allocated",
    ]);
    let shown = |number: Option<f64>| number.map_or("missing".to_owned(), count);
    for (name, costs) in &rows {
        table.row([
            name.clone(),
            shown(costs.instructions),
            ratio(costs.instructions, bare),
            ratio(costs.instructions, floor),
            shown(costs.first),
            shown(costs.system_calls),
            shown(costs.allocations),
            shown(costs.allocated),
        ]);
    }
    let (ours, streaming) = (instructions_of(Who::Ours), instructions_of(Who::UreqStreaming));
    Ok((table, ours, bare, streaming))
}

fn costs(
    bench: &Bench,
    contender: &Contender,
    url: &str,
    job: &str,
    more: &[&str],
) -> Result<Costs> {
    let none = bench.instructions(&contender.job(url, "noop", 0, &[])?)?;
    let once = bench.instructions(&contender.job(url, job, 1, more)?)?;
    let instructions = bench.marginal(TIMES, |times| match times {
        1 => Ok(once),
        _ => bench.instructions(&contender.job(url, job, times, more)?),
    })?;
    let system_calls = bench
        .marginal(TIMES, |times| bench.system_calls(&contender.job(url, job, times, more)?))?;
    let told = |name: &str| {
        bench.marginal(TIMES, |times| {
            let told = bench.told(contender.counted(url, job, times, more))?;
            told.map(|told| told.get(name)).transpose()
        })
    };
    Ok(Costs {
        instructions,
        first: once.zip(none).map(|(once, none)| once - none),
        system_calls,
        allocations: told("allocations")?,
        allocated: told("allocated")?,
    })
}
