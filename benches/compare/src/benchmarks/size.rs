//! Sizes of small programs, and how many crates they compile.

use std::collections::BTreeSet;
use std::fs;

use anyhow::Result;

use super::Environment;
use crate::programs::{binary, build, manifest, target};
use crate::report::{Measured, Section, Target, Unit, both, row};
use crate::tools::{cargo, output};

/// A package, a program of it, and its TLS feature.
const UREQ: [&str; 3] = ["ten-lines-ureq", "ten-lines-ureq", ""];
const DOWNLOAD: [&str; 3] = ["ten-lines-kling-video", "ten-lines-kling-video", "rustls"];
const DOWNLOAD_NATIVE_TLS: [&str; 3] =
    ["ten-lines-kling-video", "ten-lines-kling-video", "native-tls"];
const DOWNLOAD_NO_TLS: [&str; 3] = ["ten-lines-kling-video", "ten-lines-kling-video", ""];
const GENERATE_TO: [&str; 3] = ["ten-lines-kling-video", "generate-to", "rustls"];
const GENERATE_TO_NATIVE_TLS: [&str; 3] = ["ten-lines-kling-video", "generate-to", "native-tls"];
const GENERATE_TO_NO_TLS: [&str; 3] = ["ten-lines-kling-video", "generate-to", ""];

const STRIP: &str = "profile.release.strip=true";
const SMALL: [&str; 4] = [
    "profile.release.opt-level=\"z\"",
    "profile.release.lto=true",
    "profile.release.codegen-units=1",
    "profile.release.panic=\"abort\"",
];

/// Sizes of a program, in bytes.
struct Sizes {
    release: Measured,
    small: Measured,
}

const fn extra(metric: &'static str, max: f64, aim: f64) -> Target {
    Target { metric, unit: Unit::ExtraKilobytes, max: max * 1e3, aim: Some(aim * 1e3) }
}

const TARGETS: [Target; 4] = [
    extra("create, wait, download, stripped, over bare ureq", 240.0, 134.0),
    extra("the same, small profile", 115.0, 80.0),
    extra("`generate_to`, over the former", 110.0, 90.0),
    extra("the same, small profile", 60.0, 50.0),
];
const CRATES: Target =
    Target { metric: "crates, kling-video included", unit: Unit::Count, max: 35.0, aim: None };

pub fn run(_: &Environment) -> Result<Section> {
    let [ureq, download, generate_to] = [sizes(UREQ), sizes(DOWNLOAD), sizes(GENERATE_TO)];
    let mut section = Section::new("Size");
    section.text(
        "Stripped programs, in MB. *Download*: create, wait and download. *generate_to*: the same \
         in one durable call. *Small*: `opt-level = \"z\"`, LTO, one codegen unit, `panic = \
         \"abort\"`.",
    );
    let mut rows = vec![row([
        "TLS",
        "download",
        "`generate_to`",
        "bare ureq",
        "download, small",
        "`generate_to`, small",
        "bare ureq, small",
    ])];
    let megabytes =
        |size: &Measured| size.as_ref().map_or_else(Clone::clone, |b| format!("{:.2}", b / 1e6));
    let mut add = |name: &str, download: &Sizes, generate_to: &Sizes, ureq: Option<&Sizes>| {
        let ureq_cell = |size: fn(&Sizes) -> &Measured| {
            ureq.map_or("–".to_owned(), |ureq| megabytes(size(ureq)))
        };
        rows.push(row([
            name.to_owned(),
            megabytes(&download.release),
            megabytes(&generate_to.release),
            ureq_cell(|sizes| &sizes.release),
            megabytes(&download.small),
            megabytes(&generate_to.small),
            ureq_cell(|sizes| &sizes.small),
        ]));
    };
    add("`rustls`, the default", &download, &generate_to, Some(&ureq));
    add("`native-tls`", &sizes(DOWNLOAD_NATIVE_TLS), &sizes(GENERATE_TO_NATIVE_TLS), None);
    add("none", &sizes(DOWNLOAD_NO_TLS), &sizes(GENERATE_TO_NO_TLS), None);
    section.table(&rows);

    let [over_ureq, over_ureq_small, over_download, over_download_small] = &TARGETS;
    let over = |a: &Measured, b: &Measured| both(a, b, |a, b| a - b);
    section.target(over_ureq, over(&download.release, &ureq.release));
    section.target(over_ureq_small, over(&download.small, &ureq.small));
    section.target(over_download, over(&generate_to.release, &download.release));
    section.target(over_download_small, over(&generate_to.small, &download.small));
    section.target(&CRATES, Ok(crates(DOWNLOAD[0])?));
    section.text(format!("Bare ureq takes {} crates.", crates(UREQ[0])?));
    Ok(section)
}

fn sizes(program: [&str; 3]) -> Sizes {
    Sizes { release: size(program, "release", &[]), small: size(program, "small", &SMALL) }
}

/// Builds a program. Without OpenSSL's headers, native-tls does not build.
fn size([package, program, feature]: [&str; 3], profile: &str, settings: &[&str]) -> Measured {
    let mut arguments = vec!["--bin", program, "--config", STRIP];
    arguments.extend(settings.iter().flat_map(|&setting| ["--config", setting]));
    if package == DOWNLOAD[0] {
        arguments.extend(["--no-default-features", "--features", feature]);
    }
    let target = target(&format!("size-{profile}"));
    let size = build(&manifest(package), &target, &arguments)
        .and_then(|()| Ok(fs::metadata(binary(&target, program))?.len()));
    size.map(|bytes| bytes as f64).map_err(|error| {
        eprintln!("{error:#}");
        "build failed".to_owned()
    })
}

/// The number of packages that are compiled into a program on this machine or expand its macros,
/// without the program itself. Build dependencies, such as those for ring's C code, do not count.
fn crates(package: &str) -> Result<f64> {
    let mut command = cargo();
    command.args(["tree", "--edges", "normal", "--prefix", "none", "--manifest-path"]);
    let tree = String::from_utf8(output(command.arg(manifest(package)))?.stdout)?;
    // Name and version. The rest of a line is its source, its kind, or the mark of a repetition.
    let package = |line: &str| -> Option<(String, String)> {
        let mut words = line.split(' ').map(str::to_owned);
        Some((words.next()?, words.next()?))
    };
    let packages: BTreeSet<_> = tree.lines().filter_map(package).collect();
    Ok((packages.len() - 1) as f64)
}
