//! Many at once, in real time: 1,000 generations, a server that takes 200 ms for each answer, and
//! enough threads. Who is looked at late?

use std::fs;

use anyhow::{Context, Result};

use super::Bench;
use crate::contender::Who;
use crate::server::{Kind, Server};
use crate::stats::Samples;
use crate::table::Section;

const GENERATIONS: usize = 1000;
const DELAY_MS: u32 = 200;
const INTERVAL_MS: f64 = 10_000.0;
/// 1,000 × 0.2 s take 20 threads all of 10 s; a few more leave room.
const THREADS: u32 = 24;
/// Looks at each generation: the last finds it finished.
const LOOKS: usize = 3;

pub fn run(bench: &Bench) -> Result<Section> {
    let mut server = Server::start(Kind::Bare)?;
    server.ask(&format!("delay {DELAY_MS}"))?;
    server.ask(&format!("pending {}", LOOKS - 1))?;
    let ids: Vec<String> = (0..GENERATIONS).map(|i| format!("{i:018}")).collect();
    let file = bench.paths.file("many.txt");
    fs::write(&file, ids.join("\n"))?;
    let file = file.display().to_string();
    let interval = INTERVAL_MS.to_string();
    let more = [file.as_str(), &interval, &THREADS.to_string()];
    let told = bench.contenders.get(Who::Ours)?.job(&server.url, "wait-all", 1, &more)?.tell()?;
    let looks = server.ask("looks")?;
    let looks: Vec<Vec<f64>> = serde_json::from_value(looks).context("no looks")?;

    let mut lateness = Vec::new();
    let mut gaps = Vec::new();
    for times in &looks {
        // The first of all is due at once, and so is the first of each.
        lateness.extend(times.iter().enumerate().map(|(i, at)| at - i as f64 * INTERVAL_MS));
        gaps.extend(times.windows(2).map(|pair| pair[1] - pair[0] - INTERVAL_MS));
    }
    let expected = GENERATIONS * LOOKS;
    anyhow::ensure!(lateness.len() == expected, "{} looks, not {expected}", lateness.len());
    let (lateness, gaps) = (Samples::new(lateness), Samples::new(gaps));
    let seconds = |ms: f64| format!("{:.2} s", ms / 1e3);
    let mut section = Section::new("Many at once");
    section.text(format!(
        "{GENERATIONS} generations, {DELAY_MS} ms per answer, an interval of 10 s, {THREADS} \
         threads, {LOOKS} looks each, all due at the same moment; done in {:.1} s. By the server's \
         clock a look comes {} after it was due (median), the worst {}. From one look at a \
         generation to its next: the interval and at most {} more.",
        told.get("nanoseconds")? / 1e9,
        seconds(lateness.median()),
        seconds(lateness.max()),
        seconds(gaps.max()),
    ));
    let measured =
        format!("worst {}, median {}", seconds(lateness.max()), seconds(lateness.median()));
    section.at_most(
        "`wait_all`, 1,000 generations, lateness of a look",
        "≤ one interval (10 s)",
        measured,
        lateness.max() <= INTERVAL_MS,
    );
    Ok(section)
}
