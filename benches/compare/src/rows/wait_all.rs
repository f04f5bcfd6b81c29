//! 1,000 generations in one `wait_all`: what each of them takes in memory, and what a look costs
//! compared with a wait for one alone.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Bench;
use crate::contender::Who;
use crate::server::{Kind, Server};
use crate::stats::count;
use crate::table::{Section, Table};

const MANY: u32 = 1000;
/// Enough for what is paid once to be the same.
const FEW: u32 = 100;
const MOST_BYTES: f64 = 1024.0;
const MOST_CPU: f64 = 1.5;

/// In milliseconds.
const INTERVAL: &str = "1";

pub fn run(bench: &Bench) -> Result<Section> {
    let mut section = Section::new("`wait_all` over 1,000 generations");
    memory(bench, &mut section)?;
    instructions(bench, &mut section)?;
    Ok(section)
}

/// Creates generations and gives the file with their ids.
fn create(bench: &Bench, server: &mut Server, number: u32) -> Result<PathBuf> {
    let ids = server.ask(&format!("create {number}"))?;
    let ids: Vec<&str> =
        ids.as_array().context("no ids")?.iter().flat_map(|id| id.as_str()).collect();
    let path = bench.paths.file("ids.txt");
    fs::write(&path, ids.join("\n"))?;
    Ok(path)
}

fn memory(bench: &Bench, section: &mut Section) -> Result<()> {
    let ours = bench.contenders.get(Who::Ours)?;
    let mut server = Server::start(Kind::Sandbox)?;
    server.ask("finish-after 2")?;
    let mut told = Vec::new();
    for number in [FEW, MANY] {
        let ids = create(bench, &mut server, number)?.display().to_string();
        let run = ours.counted(&server.url, "wait-all", 1, &[&ids, INTERVAL, "1"]);
        told.push(bench.told(run)?.context("no program that counts")?);
    }
    let each = |name: &str| -> Result<(f64, f64)> {
        let (few, many) = (told[0].get(name)?, told[1].get(name)?);
        Ok(((many - few) / f64::from(MANY - FEW), many / f64::from(MANY)))
    };
    section.text(format!(
        "Heap by a counting allocator, without the ids, which are the caller's. *One more*: the \
         difference between {MANY} and {FEW}, per generation. *Held while waiting*: when each has \
         been looked at once, with its last state and its place in the schedule, and with what the \
         connection takes. *Results*: the videos that are returned, with their long signed links. \
         *Peak*: the most at any time, so the results as far as there are any and what still is \
         held."
    ));
    let mut table = Table::new(["heap in bytes", "one more generation", "all ÷ 1,000"]);
    for (title, name) in [
        ("held while waiting", "waiting_bytes"),
        ("results returned", "result_bytes"),
        ("peak", "peak_bytes"),
    ] {
        let (marginal, average) = each(name)?;
        table.row([title.to_owned(), format!("{marginal:.0}"), format!("{average:.0}")]);
    }
    section.table(table);
    let (_, waiting) = each("waiting_bytes")?;
    let (_, peak) = each("peak_bytes")?;
    let figure = "`wait_all`, memory per generation";
    let measured = format!("{waiting:.0} bytes");
    let held = format!("{figure}, held while waiting");
    section.at_most(&held, "≤ 1 KiB", measured, waiting <= MOST_BYTES);
    let measured = format!("{peak:.0} bytes");
    let with_results = format!("{figure}, peak with the results");
    section.at_most(&with_results, "≤ 1 KiB", measured, peak <= MOST_BYTES);
    Ok(())
}

fn instructions(bench: &Bench, section: &mut Section) -> Result<()> {
    let (figure, target) = ("`wait_all`, instructions per look", "≤ 1.5 × a wait for one");
    let ours = bench.contenders.get(Who::Ours)?;
    let mut server = Server::start(Kind::Sandbox)?;
    // Looks at a generation: as many as it is pending, and the one that finds it finished.
    let mut cost = |single: bool, pending: [u32; 2]| {
        bench.marginal(pending, |pending| {
            server.ask(&format!("finish-after {pending}"))?;
            let run = if single {
                ours.job(&server.url, "wait", 1, &[INTERVAL])?
            } else {
                let ids = create(bench, &mut server, MANY)?.display().to_string();
                ours.job(&server.url, "wait-all", 1, &[&ids, INTERVAL, "1"])?
            };
            bench.instructions(&run)
        })
    };
    let (Some(one), Some(all)) = (cost(true, [10, 110])?, cost(false, [1, 3])?) else {
        section.missing(figure, target, "valgrind is missing");
        return Ok(());
    };
    let all = all / f64::from(MANY);
    section.text(format!(
        "A look costs {} instructions in `wait_all` and {} in a `wait` for one.",
        count(all),
        count(one)
    ));
    let measured = format!("{:.2} × {}", all / one, count(one));
    section.at_most(figure, target, measured, all / one <= MOST_CPU);
    Ok(())
}
