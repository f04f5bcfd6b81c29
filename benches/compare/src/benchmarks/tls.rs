//! The TLS handshakes of `generate`: one for the create request, which never reuses a connection,
//! and one for all polls.

use std::fs;

use anyhow::{Context, Result};

use super::Environment;
use crate::implementation::Id;
use crate::server::{Server, ServerKind};
use crate::table::{Section, Table};

const RUNS: u32 = 3;
const FIRST_RUN: [&str; 2] = ["full POST", "full GET"];

pub fn run(env: &Environment) -> Result<Section> {
    let mut server = Server::start(ServerKind::Tls)?;
    let certificate = server.command("root-certificate")?;
    let file = env.paths.file("root-certificate.pem");
    fs::write(&file, certificate.as_str().context("root certificate is not a string")?)?;
    let file = file.display().to_string();
    let kling_video = env.implementations.get(Id::KlingVideo)?;
    kling_video.job(&server.url, "generate", RUNS, &[&file])?.execute()?;
    let handshakes = server.command("handshakes")?;
    let handshakes: Vec<String> =
        serde_json::from_value(handshakes).context("invalid handshakes")?;

    // Each run starts with its create request.
    let mut runs: Vec<Vec<&str>> = Vec::new();
    for handshake in &handshakes {
        match runs.last_mut() {
            Some(run) if !handshake.ends_with("POST") => run.push(handshake),
            _ => runs.push(vec![handshake]),
        }
    }
    let mut section = Section::new("TLS handshakes");
    section.text(format!(
        "`generate`, {RUNS} times in one process, against a server that uses rustls. From the \
         second run on, the polls reuse a connection."
    ));
    let mut table = Table::new(["run", "handshakes", "kind and first request of each"]);
    for (i, run) in runs.iter().enumerate() {
        table.row([(i + 1).to_string(), run.len().to_string(), run.join(", ")]);
    }
    section.table(table);
    let first_as_expected = runs.first().is_some_and(|run| run[..] == FIRST_RUN);
    let later = runs.get(1..).unwrap_or_default();
    let resumed = later.iter().flatten().all(|handshake| handshake.starts_with("resumed"));
    let counts: Vec<String> = runs.iter().map(|run| run.len().to_string()).collect();
    section.target(
        "TLS handshakes of `generate`",
        "2, resumed from the second run on",
        format!("{}{}", counts.join(", "), if resumed { ", later ones resumed" } else { "" }),
        first_as_expected
            && resumed
            && later.len() + 1 == RUNS as usize
            && later.iter().all(|run| run.len() <= 2),
    );
    Ok(section)
}
