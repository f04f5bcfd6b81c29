//! Benchmarks this crate against other implementations of the same job and prints Markdown tables.
//!
//! ```sh
//! cargo run --release --manifest-path benches/compare/Cargo.toml
//! ```
//!
//! - `--list`: print the names of the benchmarks.
//! - `--only BENCHMARK`: run only this one; may be repeated.
//! - `--quick`: skip the cold builds, which take minutes.
//! - `--write`: also write the tables to `benches/README.md`.
//!
//! Without valgrind, strace or Python, the tables mark the figures that need them as missing.

// Each file imports only from those after it in: benchmarks, implementation, server, tools, paths,
// table, stats.
mod benchmarks;
mod implementation;
mod paths;
mod server;
mod stats;
mod table;
mod tools;

use std::fs;

use anyhow::{Context, Result, bail};

use benchmarks::{BENCHMARKS, Environment};
use implementation::Implementations;
use paths::Paths;
use table::{Section, Target};
use tools::Tools;

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
    let paths = Paths::new()?;
    let tools = Tools::find();
    let machine = tools.machine();
    eprintln!("building the implementations …");
    let implementations = Implementations::build(&paths, &tools)?;
    let versions = implementations.versions(&paths)?;
    let about = format!("{machine}\n\n{versions}\n");
    println!("{about}");
    let env = Environment { paths, tools, implementations, quick: options.quick };
    let mut sections: Vec<Section> = Vec::new();
    let mut targets: Vec<Target> = Vec::new();
    for benchmark in BENCHMARKS {
        let name = benchmark.name;
        if !options.only.is_empty() && options.only.iter().all(|only| only != name) {
            continue;
        }
        eprintln!("{name} …");
        let section = (benchmark.run)(&env).with_context(|| format!("benchmark {name}"))?;
        println!("{section}");
        targets.extend(section.targets.iter().cloned());
        sections.push(section);
    }
    let summary = table::summary(&targets);
    println!("{summary}");
    let details: String = sections.iter().map(Section::to_string).collect();
    Ok(format!("{about}\n{summary}\n{details}"))
}

/// Replaces what stands between the markers in the README with the report.
fn write(report: &str) -> Result<()> {
    let path = paths::readme();
    let text = fs::read_to_string(&path).context("cannot read benches/README.md")?;
    let (before, rest) = text.split_once(BEGIN).context("benches/README.md has no begin marker")?;
    let (_, after) = rest.split_once(END).context("benches/README.md has no end marker")?;
    let report = report.trim();
    fs::write(&path, format!("{before}{BEGIN}\n\n{report}\n\n{END}{after}"))?;
    Ok(())
}
