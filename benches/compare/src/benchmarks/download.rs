//! The download of a 20 MB video to a file. kling-video checks that the file is complete and syncs
//! it, so it is compared with implementations that sync as well, and with a socket that does not.

use std::fs;

use anyhow::Result;

use super::{Environment, Measure, alternate};
use crate::implementation::{Id, Implementation};
use crate::server::{Server, ServerKind};
use crate::stats::{Samples, count, ratio};
use crate::table::{Section, Table};

const MAX_TIME_TO_SOCKET: f64 = 1.10;
const MAX_SYSTEM_CALLS: f64 = 400.0;

pub fn run(env: &Environment) -> Result<Section> {
    let server = Server::start(ServerKind::Minimal)?;
    let url = &server.url;
    let video = format!("{url}/video.mp4");
    let file = env.paths.file("download.mp4");
    let path = file.display().to_string();
    // The two socket implementations differ only in uploads.
    let mut available = env.implementations.available();
    available.retain(|implementation| implementation.id != Id::SocketScalar);
    let mut runs: Vec<(&Implementation, bool)> =
        available.iter().map(|&implementation| (implementation, true)).collect();
    runs.push((env.implementations.get(Id::SocketSimd)?, false));

    let mut measures: Vec<Measure<'_>> = Vec::new();
    let mut system_calls = Vec::new();
    for &(implementation, sync) in &runs {
        let job = if sync { "download-synced" } else { "download" };
        let run = implementation.job(url, job, 1, &[&video, &path])?;
        let noop = implementation.job(url, "noop", 0, &[])?;
        system_calls.push(match implementation.id {
            Id::Python => None,
            _ => env.system_calls(&run)?.zip(env.system_calls(&noop)?).map(|(a, b)| a - b),
        });
        let file = file.clone();
        measures.push(Box::new(move || {
            // Overwriting an existing file would also measure the time to free its blocks.
            let _ = fs::remove_file(&file);
            run.execute()?.get("nanoseconds")
        }));
    }
    let times = alternate(&measures)?;
    let _ = fs::remove_file(&file);

    let mut section = Section::new("Download of a 20 MB video");
    section.text(format!(
        "Time in ms: median and range of {} alternating runs, each in a new process and to a new \
         file. The socket reads 128 KiB at a time. *Synced*: with `fsync` at the end, which \
         kling-video always does; it also syncs the directory, checks the file's MP4 boxes and \
         renames it. System calls: without those of the no-op program.",
        super::ROUNDS
    ));
    let median = |id: Id, sync: bool| {
        let index = runs.iter().position(|&(run, synced)| (run.id, synced) == (id, sync))?;
        times.get(index).map(Samples::median)
    };
    let ureq = median(Id::UreqInMemory, true);
    let (synced, unsynced) = (median(Id::SocketSimd, true), median(Id::SocketSimd, false));
    let mut table = Table::new([
        "implementation",
        "ms",
        "× ureq, in memory",
        "× socket, synced",
        "× socket, not synced",
        "system calls",
    ]);
    for (i, (implementation, sync)) in runs.iter().enumerate() {
        let name = match implementation.id {
            Id::SocketSimd => "socket",
            _ => implementation.name,
        };
        let time = Some(times[i].median());
        table.row([
            format!("{name}, {}", if *sync { "synced" } else { "not synced" }),
            times[i].milliseconds(),
            ratio(time, ureq),
            ratio(time, synced),
            ratio(time, unsynced),
            system_calls[i].map_or("–".to_owned(), count),
        ]);
    }
    section.table(table);

    let metric = "download of 20 MB, time";
    let target = "≤ 1.10 × synced socket with 128 KiB reads; goal 0.85 ×";
    match (median(Id::KlingVideo, true), synced, unsynced) {
        (Some(time), Some(synced), Some(unsynced)) => section.target(
            metric,
            target,
            format!("{:.2} × synced; {:.2} × not synced", time / synced, time / unsynced),
            time / synced <= MAX_TIME_TO_SOCKET,
        ),
        _ => section.not_measured(metric, target, "an implementation is missing"),
    }
    let (metric, target) = ("download of 20 MB, system calls", "≤ 400 over no-op");
    let index = runs.iter().position(|(run, _)| run.id == Id::KlingVideo);
    match index.and_then(|index| system_calls[index]) {
        Some(calls) => section.target(metric, target, count(calls), calls <= MAX_SYSTEM_CALLS),
        None => section.not_measured(metric, target, "needs strace"),
    }
    Ok(section)
}
