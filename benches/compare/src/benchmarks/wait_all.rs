//! `wait_all` over 1,000 generations: heap memory per generation, and instructions per poll
//! compared with `wait` for a single generation.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};

use super::Environment;
use crate::implementation::Id;
use crate::server::{Server, ServerKind};
use crate::stats::count;
use crate::table::{Section, Table};

const MANY: u32 = 1000;
/// Enough generations that the one-time costs are the same as with `MANY`.
const FEW: u32 = 100;
const MAX_BYTES: f64 = 1024.0;
const MAX_INSTRUCTIONS_TO_WAIT: f64 = 1.5;

/// In milliseconds.
const INTERVAL: &str = "1";

pub fn run(env: &Environment) -> Result<Section> {
    let mut section = Section::new("`wait_all` over 1,000 generations");
    memory(env, &mut section)?;
    instructions(env, &mut section)?;
    Ok(section)
}

/// Creates `n` generations on the server and returns the path of a file with their ids.
fn create(env: &Environment, server: &mut Server, n: u32) -> Result<PathBuf> {
    let ids = server.command(&format!("create {n}"))?;
    let ids = ids.as_array().context("ids are not an array")?;
    let ids: Vec<&str> = ids.iter().flat_map(|id| id.as_str()).collect();
    let path = env.paths.file("ids.txt");
    fs::write(&path, ids.join("\n"))?;
    Ok(path)
}

fn memory(env: &Environment, section: &mut Section) -> Result<()> {
    let kling_video = env.implementations.get(Id::KlingVideo)?;
    let mut server = Server::start(ServerKind::Sandbox)?;
    server.command("complete-after-polls 2")?;
    let mut runs = Vec::new();
    for n in [FEW, MANY] {
        let ids = create(env, &mut server, n)?.display().to_string();
        let run = kling_video.counted(&server.url, "wait-all", 1, &[&ids, INTERVAL, "1"]);
        runs.push(env.measurements(run)?.context("no program with a counting allocator")?);
    }
    let per_generation = |name: &str| -> Result<(f64, f64)> {
        let (few, many) = (runs[0].get(name)?, runs[1].get(name)?);
        Ok(((many - few) / f64::from(MANY - FEW), many / f64::from(MANY)))
    };
    section.text(format!(
        "Heap by a counting allocator, without the ids, which belong to the caller. *One more*: \
         the difference between {MANY} and {FEW} generations, per generation. *While waiting*: \
         after each generation was polled once, with its last state, its place in the poll queue, \
         and the connection's buffers. *Results*: the returned videos, with their long signed \
         URLs. *Peak*: the maximum at any time, which includes the results so far and all \
         generations still waiting."
    ));
    let mut table = Table::new(["heap, bytes", "one more generation", "total ÷ 1,000"]);
    for (title, name) in
        [("while waiting", "waiting_bytes"), ("results", "result_bytes"), ("peak", "peak_bytes")]
    {
        let (marginal, average) = per_generation(name)?;
        table.row([title.to_owned(), format!("{marginal:.0}"), format!("{average:.0}")]);
    }
    section.table(table);
    for (title, name) in
        [("while waiting", "waiting_bytes"), ("peak, with the results", "peak_bytes")]
    {
        let (_, bytes) = per_generation(name)?;
        let metric = format!("`wait_all`, memory per generation, {title}");
        section.target(&metric, "≤ 1 KiB", format!("{bytes:.0} bytes"), bytes <= MAX_BYTES);
    }
    Ok(())
}

fn instructions(env: &Environment, section: &mut Section) -> Result<()> {
    let (metric, target) = ("`wait_all`, instructions per poll", "≤ 1.5 × `wait` for one");
    let kling_video = env.implementations.get(Id::KlingVideo)?;
    let mut server = Server::start(ServerKind::Sandbox)?;
    // A generation is polled `pending` times while it is pending, then once when it is completed.
    let mut cost = |single: bool, pending: [u32; 2]| {
        env.marginal(pending, |pending| {
            server.command(&format!("complete-after-polls {pending}"))?;
            let run = if single {
                kling_video.job(&server.url, "wait", 1, &[INTERVAL])?
            } else {
                let ids = create(env, &mut server, MANY)?.display().to_string();
                kling_video.job(&server.url, "wait-all", 1, &[&ids, INTERVAL, "1"])?
            };
            env.instructions(&run)
        })
    };
    let (Some(one), Some(all)) = (cost(true, [10, 110])?, cost(false, [1, 3])?) else {
        section.not_measured(metric, target, "needs valgrind");
        return Ok(());
    };
    let all = all / f64::from(MANY);
    section.text(format!(
        "A poll costs {} instructions in `wait_all` and {} in `wait` for one generation.",
        count(all),
        count(one)
    ));
    let measured = format!("{:.2} × {}", all / one, count(one));
    section.target(metric, target, measured, all / one <= MAX_INSTRUCTIONS_TO_WAIT);
    Ok(())
}
