//! Lateness of polls in real time: `wait_all` over 1,000 generations, with a server that takes
//! 200 ms for each response.

use std::fs;

use anyhow::{Context, Result};

use super::Environment;
use crate::implementation::Id;
use crate::server::{Server, ServerKind};
use crate::stats::Samples;
use crate::table::Section;

const GENERATIONS: usize = 1000;
const RESPONSE_DELAY_MS: u32 = 200;
const INTERVAL_MS: f64 = 10_000.0;
/// 1,000 responses of 0.2 s keep 20 threads busy for the complete interval; a few more leave room.
const THREADS: u32 = 24;
/// Polls of each generation; the last one finds it completed.
const POLLS: usize = 3;

pub fn run(env: &Environment) -> Result<Section> {
    let mut server = Server::start(ServerKind::Minimal)?;
    server.command(&format!("set-response-delay {RESPONSE_DELAY_MS}"))?;
    server.command(&format!("complete-after-polls {}", POLLS - 1))?;
    let ids: Vec<String> = (0..GENERATIONS).map(|i| format!("{i:018}")).collect();
    let file = env.paths.file("lateness.txt");
    fs::write(&file, ids.join("\n"))?;
    let file = file.display().to_string();
    let interval = INTERVAL_MS.to_string();
    let arguments = [file.as_str(), &interval, &THREADS.to_string()];
    let kling_video = env.implementations.get(Id::KlingVideo)?;
    let measurements = kling_video.job(&server.url, "wait-all", 1, &arguments)?.execute()?;
    let polls = server.command("poll-times")?;
    let polls: Vec<Vec<f64>> = serde_json::from_value(polls).context("invalid poll times")?;

    let mut lateness = Vec::new();
    let mut excess = Vec::new();
    for times in &polls {
        // The first poll of every generation is due at time zero.
        lateness.extend(times.iter().enumerate().map(|(i, at)| at - i as f64 * INTERVAL_MS));
        excess.extend(times.windows(2).map(|pair| pair[1] - pair[0] - INTERVAL_MS));
    }
    let expected = GENERATIONS * POLLS;
    anyhow::ensure!(lateness.len() == expected, "{} polls, not {expected}", lateness.len());
    let (lateness, excess) = (Samples::new(lateness), Samples::new(excess));
    let seconds = |ms: f64| format!("{:.2} s", ms / 1e3);
    let mut section = Section::new("Lateness of polls");
    section.text(format!(
        "{GENERATIONS} generations, {RESPONSE_DELAY_MS} ms per response, an interval of 10 s, \
         {THREADS} threads, {POLLS} polls each, all due at the same moment; finished in {:.1} s. \
         By the server's clock, a poll arrives {} after it was due (median), the latest one {}. \
         Between two polls of a generation there is the interval and at most {} more.",
        measurements.get("nanoseconds")? / 1e9,
        seconds(lateness.median()),
        seconds(lateness.max()),
        seconds(excess.max()),
    ));
    let measured =
        format!("max {}, median {}", seconds(lateness.max()), seconds(lateness.median()));
    section.target(
        "`wait_all`, 1,000 generations, lateness of polls",
        "≤ one interval (10 s)",
        measured,
        lateness.max() <= INTERVAL_MS,
    );
    Ok(section)
}
