//! A 20 MB video to a file. Ours has it on disk before it says so, and checks that it is whole:
//! it is compared with others that sync as well, and with a socket that does not.

use std::fs;

use anyhow::Result;

use super::{Bench, Figure, alternate};
use crate::contender::{Contender, Who};
use crate::server::{Kind, Server};
use crate::stats::{Samples, count, ratio};
use crate::table::{Section, Table};

const WALL: f64 = 1.10;
const SYSTEM_CALLS: f64 = 400.0;

pub fn run(bench: &Bench) -> Result<Section> {
    let server = Server::start(Kind::Bare)?;
    let url = &server.url;
    let video = format!("{url}/video.mp4");
    let target = bench.paths.file("download.mp4");
    let to = target.display().to_string();
    // Both sockets are the same here: one is enough.
    let mut present = bench.contenders.present();
    present.retain(|contender| contender.who != Who::RawScalar);
    let mut runs: Vec<(&Contender, bool)> =
        present.iter().map(|&contender| (contender, true)).collect();
    runs.push((bench.contenders.get(Who::RawSimd)?, false));

    let mut figures: Vec<Figure<'_>> = Vec::new();
    let mut calls = Vec::new();
    for &(contender, sync) in &runs {
        let job = if sync { "download-synced" } else { "download" };
        let job = || contender.job(url, job, 1, &[&video, &to]);
        let (noop, run) = (contender.job(url, "noop", 0, &[])?, job()?);
        calls.push(match contender.who {
            Who::Python => None,
            _ => bench.system_calls(&run)?.zip(bench.system_calls(&noop)?).map(|(a, b)| a - b),
        });
        let target = target.clone();
        let time = move || {
            // Each writes a new file: to free the blocks of an old one takes time, too.
            let _ = fs::remove_file(&target);
            run.tell()?.get("nanoseconds")
        };
        figures.push((contender.name.to_owned(), Box::new(time)));
    }
    let times = alternate(&figures)?;
    let _ = fs::remove_file(&target);

    let mut section = Section::new("Download of a 20 MB video");
    section.text(format!(
        "In ms, median and spread of {} alternating runs, each of a fresh process and to a new \
         file. The socket reads 128 KiB at once. *Synced*: `fsync` before the end, as ours always \
         does; ours also syncs the folder, checks the file's boxes and renames it. System calls \
         are those over the no-op program's.",
        super::ROUNDS
    ));
    let median = |who: Who, sync: bool| {
        let at = runs.iter().position(|&(own, synced)| (own.who, synced) == (who, sync))?;
        times.get(at).map(Samples::median)
    };
    let bare = median(Who::UreqMemory, true);
    let (synced, unsynced) = (median(Who::RawSimd, true), median(Who::RawSimd, false));
    let mut table = Table::new([
        "contender",
        "ms",
        "× ureq, in memory",
        "× socket, synced",
        "× socket, not synced",
        "system calls",
    ]);
    for (i, (contender, sync)) in runs.iter().enumerate() {
        let name = match contender.who {
            Who::RawSimd => "socket",
            _ => contender.name,
        };
        let time = Some(times[i].median());
        table.row([
            format!("{name}, {}", if *sync { "synced" } else { "not synced" }),
            times[i].milliseconds(),
            ratio(time, bare),
            ratio(time, synced),
            ratio(time, unsynced),
            calls[i].map_or("–".to_owned(), count),
        ]);
    }
    section.table(table);

    let target = "≤ 1.10 × socket with 128 KiB reads, synced as well; aim 0.85";
    match (median(Who::Ours, true), synced, unsynced) {
        (Some(ours), Some(synced), Some(unsynced)) => section.at_most(
            "download of 20 MB, time",
            target,
            format!("{:.2} × synced; {:.2} × not synced", ours / synced, ours / unsynced),
            ours / synced <= WALL,
        ),
        _ => section.missing("download of 20 MB, time", target, "a contender is missing"),
    }
    let (figure, target) = ("download of 20 MB, system calls", "≤ 400 over no-op");
    match runs.iter().position(|(own, _)| own.who == Who::Ours).and_then(|at| calls[at]) {
        Some(calls) => section.at_most(figure, target, count(calls), calls <= SYSTEM_CALLS),
        None => section.missing(figure, target, "strace is missing"),
    }
    Ok(section)
}
