//! The TLS handshakes of the whole job: one for the create, which never reuses a connection, and
//! one for all looks.

use std::fs;

use anyhow::{Context, Result};

use super::Bench;
use crate::contender::Who;
use crate::server::{Kind, Server};
use crate::table::{Section, Table};

const RUNS: u32 = 3;
const FIRST: [&str; 2] = ["full POST", "full GET"];

pub fn run(bench: &Bench) -> Result<Section> {
    let mut server = Server::start(Kind::Tls)?;
    let authority = server.ask("authority")?;
    let file = bench.paths.file("authority.pem");
    fs::write(&file, authority.as_str().context("no authority")?)?;
    let file = file.display().to_string();
    bench.contenders.get(Who::Ours)?.job(&server.url, "generate", RUNS, &[&file])?.tell()?;
    let handshakes = server.ask("handshakes")?;
    let handshakes: Vec<String> = serde_json::from_value(handshakes).context("no handshakes")?;

    // Each run begins with its create.
    let mut runs: Vec<Vec<&str>> = Vec::new();
    for handshake in &handshakes {
        match runs.last_mut() {
            Some(run) if !handshake.ends_with("POST") => run.push(handshake),
            _ => runs.push(vec![handshake]),
        }
    }
    let mut section = Section::new("TLS handshakes");
    section.text(format!(
        "`generate`, {RUNS} times in one process, against a server on rustls; from the second run \
         on the looks reuse a connection."
    ));
    let mut table = Table::new(["run", "handshakes", "how they began, and what for"]);
    for (i, run) in runs.iter().enumerate() {
        table.row([(i + 1).to_string(), run.len().to_string(), run.join(", ")]);
    }
    section.table(table);
    let first = runs.first().is_some_and(|run| run[..] == FIRST);
    let later = runs.get(1..).unwrap_or_default();
    let resumed = later.iter().flatten().all(|handshake| handshake.starts_with("resumed"));
    let counts: Vec<String> = runs.iter().map(|run| run.len().to_string()).collect();
    section.at_most(
        "TLS handshakes of a `generate`",
        "2, resumed from the second run on",
        format!("{}{}", counts.join(", "), if resumed { ", later ones resumed" } else { "" }),
        first && resumed && later.len() + 1 == RUNS as usize && later.iter().all(|r| r.len() <= 2),
    );
    Ok(section)
}
