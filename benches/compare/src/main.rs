//! Measures this crate beside other ways to do the same job, and prints Markdown tables.
//!
//! ```sh
//! cargo run --release --manifest-path benches/compare/Cargo.toml
//! ```
//!
//! - `--only ROW` (may be repeated): only these; `--list` names them.
//! - `--quick`: without what builds from nothing, which takes minutes.
//! - `--write`: also puts the tables into `benches/README.md`.
//!
//! What needs valgrind, strace or Python says so where these are missing.

// Each file imports only from those after it in: rows, contender, server, tools, paths, table, stats.
mod contender;
mod paths;
mod rows;
mod server;
mod stats;
mod table;
mod tools;

use std::fs;

use anyhow::{Context, Result, bail};

use contender::Contenders;
use paths::Paths;
use rows::Bench;
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
        rows::ALL.iter().for_each(|row| println!("{:12} {}", row.name, row.about));
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
                let row = arguments.next().context("--only needs the name of a row")?;
                if rows::ALL.iter().all(|known| known.name != row) {
                    bail!("no row {row}: --list names them");
                }
                options.only.push(row);
            }
            "--quick" => options.quick = true,
            "--write" => options.write = true,
            "--list" => options.list = true,
            _ => bail!("no option {argument}: there are --only ROW, --quick, --write and --list"),
        }
    }
    if options.write && (options.quick || !options.only.is_empty()) {
        bail!("--write is for whole runs");
    }
    Ok(options)
}

/// Runs the rows, prints each as it is done, and gives the report as a whole.
fn measure(options: &Options) -> Result<String> {
    let paths = Paths::new()?;
    let tools = Tools::find();
    let machine = tools.machine();
    eprintln!("building the contenders …");
    let contenders = Contenders::build(&paths, &tools)?;
    let versions = contenders.versions(&paths)?;
    let about = format!("{machine}\n\n{versions}\n");
    println!("{about}");
    let bench = Bench { paths, tools, contenders, quick: options.quick };
    let mut sections: Vec<Section> = Vec::new();
    let mut targets: Vec<Target> = Vec::new();
    for row in rows::ALL {
        if !options.only.is_empty() && options.only.iter().all(|name| name != row.name) {
            continue;
        }
        eprintln!("{} …", row.name);
        let section = (row.run)(&bench).with_context(|| format!("row {}", row.name))?;
        println!("{section}");
        targets.extend(section.targets.iter().cloned());
        sections.push(section);
    }
    let summary = table::summary(&targets);
    println!("{summary}");
    let details: String = sections.iter().map(Section::to_string).collect();
    Ok(format!("{about}\n{summary}\n{details}"))
}

/// Puts the report between the markers of the README.
fn write(report: &str) -> Result<()> {
    let path = paths::readme();
    let text = fs::read_to_string(&path).context("benches/README.md cannot be read")?;
    let (before, rest) = text.split_once(BEGIN).context("benches/README.md has no first marker")?;
    let (_, after) = rest.split_once(END).context("benches/README.md has no second marker")?;
    let report = report.trim();
    fs::write(&path, format!("{before}{BEGIN}\n\n{report}\n\n{END}{after}"))?;
    Ok(())
}
