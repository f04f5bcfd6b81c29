//! A 10 MB picture on its way up: instructions, and time against a socket with the base64 engine
//! that everybody uses.

use anyhow::Result;

use super::{Bench, Figure, alternate, of};
use crate::contender::Who;
use crate::server::{Kind, Server};
use crate::stats::{Samples, count, ratio};
use crate::table::{Section, Table};

const INSTRUCTIONS: f64 = 15e6;
const AIM: f64 = 13.5e6;
const WALL: f64 = 0.75;
/// Uploads per run: what is paid once falls on all of them.
const UPLOADS: u32 = 3;

pub fn run(bench: &Bench) -> Result<Section> {
    let server = Server::start(Kind::Bare)?;
    let url = &server.url;
    let picture = bench.paths.large_picture.display().to_string();
    let present = bench.contenders.present();

    let mut instructions = Vec::new();
    for contender in &present {
        instructions.push(match contender.who {
            Who::Python => None,
            _ => bench.marginal([1, 2], |times| {
                bench.instructions(&contender.job(url, "upload", times, &[&picture])?)
            })?,
        });
    }
    let figures: Vec<Figure<'_>> = present
        .iter()
        .map(|contender| -> Result<Figure<'_>> {
            let run = contender.job(url, "upload", UPLOADS, &[&picture])?;
            let time = move || Ok(run.tell()?.get("nanoseconds")? / f64::from(UPLOADS));
            Ok((contender.name.to_owned(), Box::new(time)))
        })
        .collect::<Result<_>>()?;
    let times = alternate(&figures)?;

    let mut section = Section::new("Upload of a 10 MB picture");
    section.text(format!(
        "Against a server that reads and throws away. Instructions of one more upload; time per \
         upload in ms, median and spread of {} alternating runs of {UPLOADS}.",
        super::ROUNDS
    ));
    let mut table = Table::new([
        "contender",
        "instructions",
        "× ureq, in memory",
        "× floor",
        "ms",
        "× ureq, in memory",
        "× socket, scalar",
        "× floor",
    ]);
    let instructions_of = |who| of(who, &present, &instructions).copied().flatten();
    let time_of = |who| of(who, &present, &times).map(Samples::median);
    for (i, contender) in present.iter().enumerate() {
        let time = times[i].median();
        table.row([
            contender.name.to_owned(),
            instructions[i].map_or("–".to_owned(), count),
            ratio(instructions[i], instructions_of(Who::UreqMemory)),
            ratio(instructions[i], instructions_of(Who::RawSimd)),
            times[i].milliseconds(),
            ratio(Some(time), time_of(Who::UreqMemory)),
            ratio(Some(time), time_of(Who::RawScalar)),
            ratio(Some(time), time_of(Who::RawSimd)),
        ]);
    }
    section.table(table);
    check_instructions(bench, &mut section, url, &picture, instructions_of)?;

    let (target, figure) = ("≤ 0.75 × socket with scalar base64", "upload of 10 MB, time");
    match (time_of(Who::Ours), time_of(Who::RawScalar)) {
        (Some(ours), Some(scalar)) => {
            let measured = format!("{:.2} × {:.1} ms", ours / scalar, scalar / 1e6);
            section.at_most(figure, target, measured, ours / scalar <= WALL);
        }
        _ => section.missing(figure, target, "a contender is missing"),
    }
    Ok(section)
}

/// The target in instructions: what cannot be done without, and a tenth more.
fn check_instructions(
    bench: &Bench,
    section: &mut Section,
    url: &str,
    picture: &str,
    instructions_of: impl Fn(Who) -> Option<f64>,
) -> Result<()> {
    let encoding = |who| {
        let contender = bench.contenders.get(who)?;
        bench.marginal([1, 2], |times| {
            bench.instructions(&contender.job(url, "encode", times, &[picture])?)
        })
    };
    let (simd, scalar) = (encoding(Who::RawSimd)?, encoding(Who::RawScalar)?);
    let figure = "upload of 10 MB, instructions";
    let target = "≤ 15 M; aim 13.5 M";
    let (Some(ours), Some(streaming), Some(simd), Some(scalar)) =
        (instructions_of(Who::Ours), instructions_of(Who::UreqStreaming), simd, scalar)
    else {
        section.missing(figure, target, "valgrind is missing");
        return Ok(());
    };
    let rest = streaming - simd;
    section.text(format!(
        "Encoding alone takes {} by SIMD and {} by the scalar engine. Bare ureq streaming has {} \
         besides: SIMD + that rest = {}, and 1.10 × it = {}; ours is {:.2} × it.",
        count(simd),
        count(scalar),
        count(rest),
        count(simd + rest),
        count(1.1 * (simd + rest)),
        ours / (simd + rest),
    ));
    let measured = format!("{} = {:.2} × the aim", count(ours), ours / AIM);
    section.at_most(figure, target, measured, ours <= INSTRUCTIONS);
    let formula = "≤ 1.10 × (SIMD encoding + rest of ureq streaming)";
    let measured = format!("{:.2} ×", ours / (simd + rest));
    section.at_most(figure, formula, measured, ours <= 1.1 * (simd + rest));
    Ok(())
}
