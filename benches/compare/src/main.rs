//! Benchmarks this crate against bare ureq doing the same jobs, and prints Markdown tables.
//!
//! ```sh
//! cargo run --release --manifest-path benches/compare/Cargo.toml
//! ```
//!
//! - `--list`: print the names of the benchmarks.
//! - `--only BENCHMARK`: run only this one; may be repeated.
//! - `--quick`: skip the build times, which take minutes and need an idle machine.
//! - `--write`: also write the tables to `benches/README.md`.
//!
//! Without valgrind, strace or cargo-llvm-lines, the tables say which figures need them.

// Each file imports only from those after it in: benchmarks, server, programs, tools, report.
mod benchmarks;
mod programs;
mod report;
mod server;
mod tools;

use std::fs;

use anyhow::{Context, Result, bail};

use benchmarks::{BENCHMARKS, Environment};
use programs::Programs;
use report::Section;

const BEGIN: &str = "<!-- tables: begin -->";
const END: &str = "<!-- tables: end -->";

#[derive(Default)]
struct Options {
    only: Vec<String>,
    quick: bool,
    write: bool,
    list: bool,
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, kind] = &arguments[..]
        && flag == server::SERVE
    {
        return server::serve(kind);
    }
    let options = parse(arguments)?;
    if options.list {
        for benchmark in BENCHMARKS {
            println!("{:12} {}", benchmark.name, benchmark.about);
        }
        return Ok(());
    }
    let report = measure(&options)?;
    if options.write {
        write(&report)?;
    }
    Ok(())
}

fn parse(arguments: Vec<String>) -> Result<Options> {
    let mut options = Options::default();
    let mut arguments = arguments.into_iter();
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--only" => {
                let name = arguments.next().context("--only needs the name of a benchmark")?;
                if BENCHMARKS.iter().all(|benchmark| benchmark.name != name) {
                    bail!("unknown benchmark `{name}`; --list prints their names");
                }
                options.only.push(name);
            }
            "--quick" => options.quick = true,
            "--write" => options.write = true,
            "--list" => options.list = true,
            _ => bail!(
                "unknown option `{argument}`; the options are --list, --only BENCHMARK, --quick \
                 and --write"
            ),
        }
    }
    if options.write && (options.quick || !options.only.is_empty()) {
        bail!("--write needs a complete run, without --only and --quick");
    }
    Ok(options)
}

/// Runs the benchmarks, prints each one's section as it finishes, and returns the complete report.
fn measure(options: &Options) -> Result<String> {
    let machine = tools::machine();
    eprintln!("building the programs …");
    let programs = Programs::build()?;
    let about = format!("{machine} {}.\n", programs.versions()?);
    println!("{about}");
    let env = Environment { programs, quick: options.quick };
    let mut sections: Vec<Section> = Vec::new();
    for benchmark in BENCHMARKS {
        let name = benchmark.name;
        if !options.only.is_empty() && options.only.iter().all(|only| only != name) {
            continue;
        }
        eprintln!("{name} …");
        let section = (benchmark.run)(&env).with_context(|| format!("benchmark {name}"))?;
        println!("{section}");
        sections.push(section);
    }
    let targets = report::targets(&sections);
    println!("{targets}");
    let details: String = sections.iter().map(Section::to_string).collect();
    Ok(format!("{about}\n{targets}\n{details}"))
}

/// Replaces what stands between the markers in the README with the report.
fn write(report: &str) -> Result<()> {
    let path = programs::directory().join("../README.md");
    let text = fs::read_to_string(&path).context("cannot read benches/README.md")?;
    let (before, rest) = text.split_once(BEGIN).context("benches/README.md has no begin marker")?;
    let (_, after) = rest.split_once(END).context("benches/README.md has no end marker")?;
    let report = report.trim();
    fs::write(&path, format!("{before}{BEGIN}\n\n{report}\n\n{END}{after}"))?;
    Ok(())
}
