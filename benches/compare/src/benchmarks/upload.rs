//! The upload of a 10 MB image: instructions, and time compared with a socket that uses base64's
//! default engine.

use anyhow::Result;

use super::{Environment, Measure, alternate, value_of};
use crate::implementation::Id;
use crate::server::{Server, ServerKind};
use crate::stats::{Samples, count, ratio};
use crate::table::{Section, Table};

const MAX_INSTRUCTIONS: f64 = 15e6;
const INSTRUCTIONS_GOAL: f64 = 13.5e6;
const MAX_TIME_TO_SOCKET: f64 = 0.75;
/// Uploads per run, which spread the cost of the setup.
const UPLOADS: u32 = 3;

pub fn run(env: &Environment) -> Result<Section> {
    let server = Server::start(ServerKind::Minimal)?;
    let url = &server.url;
    let image = env.paths.large_image.display().to_string();
    let available = env.implementations.available();

    let mut instructions = Vec::new();
    for implementation in &available {
        instructions.push(match implementation.id {
            Id::Python => None,
            _ => env.marginal([1, 2], |times| {
                env.instructions(&implementation.job(url, "upload", times, &[&image])?)
            })?,
        });
    }
    let measures: Vec<Measure<'_>> = available
        .iter()
        .map(|implementation| -> Result<Measure<'_>> {
            let run = implementation.job(url, "upload", UPLOADS, &[&image])?;
            let time = move || Ok(run.execute()?.get("nanoseconds")? / f64::from(UPLOADS));
            Ok(Box::new(time))
        })
        .collect::<Result<_>>()?;
    let times = alternate(&measures)?;

    let mut section = Section::new("Upload of a 10 MB image");
    section.text(format!(
        "Against a server that discards what it reads. Instructions of one more upload; time per \
         upload in ms, median and range of {} alternating runs of {UPLOADS} uploads each.",
        super::ROUNDS
    ));
    let mut table = Table::new([
        "implementation",
        "instructions",
        "× ureq, in memory",
        "× lower bound",
        "time, ms",
        "× ureq, in memory",
        "× socket, scalar",
        "× lower bound",
    ]);
    let instructions_of = |id| value_of(id, &available, &instructions).copied().flatten();
    let time_of = |id| value_of(id, &available, &times).map(Samples::median);
    for (i, implementation) in available.iter().enumerate() {
        let time = times[i].median();
        table.row([
            implementation.name.to_owned(),
            instructions[i].map_or("–".to_owned(), count),
            ratio(instructions[i], instructions_of(Id::UreqInMemory)),
            ratio(instructions[i], instructions_of(Id::SocketSimd)),
            times[i].milliseconds(),
            ratio(Some(time), time_of(Id::UreqInMemory)),
            ratio(Some(time), time_of(Id::SocketScalar)),
            ratio(Some(time), time_of(Id::SocketSimd)),
        ]);
    }
    section.table(table);
    add_instruction_targets(env, &mut section, url, &image, instructions_of)?;

    let (metric, target) = ("upload of 10 MB, time", "≤ 0.75 × socket with scalar base64");
    match (time_of(Id::KlingVideo), time_of(Id::SocketScalar)) {
        (Some(time), Some(scalar)) => {
            let measured = format!("{:.2} × {:.1} ms", time / scalar, scalar / 1e6);
            section.target(metric, target, measured, time / scalar <= MAX_TIME_TO_SOCKET);
        }
        _ => section.not_measured(metric, target, "an implementation is missing"),
    }
    Ok(section)
}

/// Adds an absolute target, and one relative to the minimum: SIMD encoding, and what streaming with
/// ureq costs on top of it.
fn add_instruction_targets(
    env: &Environment,
    section: &mut Section,
    url: &str,
    image: &str,
    instructions_of: impl Fn(Id) -> Option<f64>,
) -> Result<()> {
    let encoding_cost = |id| {
        let implementation = env.implementations.get(id)?;
        env.marginal([1, 2], |times| {
            env.instructions(&implementation.job(url, "encode", times, &[image])?)
        })
    };
    let (simd, scalar) = (encoding_cost(Id::SocketSimd)?, encoding_cost(Id::SocketScalar)?);
    let metric = "upload of 10 MB, instructions";
    let target = "≤ 15 M; goal 13.5 M";
    let (Some(instructions), Some(streaming), Some(simd), Some(scalar)) =
        (instructions_of(Id::KlingVideo), instructions_of(Id::UreqStreaming), simd, scalar)
    else {
        section.not_measured(metric, target, "needs valgrind");
        return Ok(());
    };
    let overhead = streaming - simd;
    let minimum = simd + overhead;
    section.text(format!(
        "Encoding alone takes {} instructions with the SIMD engine and {} with the scalar one. \
         ureq streaming takes {} more: SIMD + that overhead = {}, of which 1.10 × is {}; \
         kling-video takes {:.2} × it.",
        count(simd),
        count(scalar),
        count(overhead),
        count(minimum),
        count(1.1 * minimum),
        instructions / minimum,
    ));
    let ratio_to_goal = instructions / INSTRUCTIONS_GOAL;
    let measured = format!("{} = {ratio_to_goal:.2} × goal", count(instructions));
    section.target(metric, target, measured, instructions <= MAX_INSTRUCTIONS);
    let target = "≤ 1.10 × (SIMD encoding + overhead of ureq streaming)";
    let measured = format!("{:.2} ×", instructions / minimum);
    section.target(metric, target, measured, instructions <= 1.1 * minimum);
    Ok(())
}
