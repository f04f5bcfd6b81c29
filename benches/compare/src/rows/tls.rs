//! TLS handshakes of a whole `generate`, which cost more than all else that a client does.

use std::fs;

use anyhow::{Context, Result};

use super::Bench;
use crate::contender::Who;
use crate::server::{Kind, Server};
use crate::table::{Section, Table};

const MOST: usize = 2;

pub fn run(bench: &Bench) -> Result<Section> {
    let once = handshakes(bench, 1)?;
    let thrice = handshakes(bench, 3)?;
    let later = thrice.get(MOST..).unwrap_or_default();

    let mut section = Section::new("TLS handshakes");
    section.text(
        "In the order in which a server saw them: what kind each was, and what the connection was \
         first used for. A create has a connection of its own; all looks share one.",
    );
    let mut table = Table::new(["`generate` in one process", "handshakes"]);
    table.row(["once".to_owned(), once.join(", ")]);
    table.row(["three times".to_owned(), thrice.join(", ")]);
    section.table(table);
    section.at_most(
        "TLS handshakes of one `generate`",
        "2: one for the create, one for all looks",
        once.len().to_string(),
        once.len() <= MOST,
    );
    section.at_most(
        "TLS handshakes of later ones",
        "resumed",
        format!("{}, all resumed: {}", later.len(), later.iter().all(|one| is_resumed(one))),
        !later.is_empty() && later.iter().all(|one| is_resumed(one)),
    );
    Ok(section)
}

fn is_resumed(handshake: &str) -> bool {
    handshake.starts_with("resumed")
}

/// What the server saw of a process that generates so often.
fn handshakes(bench: &Bench, times: u32) -> Result<Vec<String>> {
    let mut server = Server::start(Kind::Tls)?;
    let authority = server.ask("authority")?;
    let file = bench.paths.file("authority.pem");
    fs::write(&file, authority.as_str().context("no authority")?)?;
    let file = file.display().to_string();
    bench.contenders.get(Who::Ours)?.job(&server.url, "generate", times, &[&file])?.tell()?;
    let seen = server.ask("handshakes")?;
    Ok(serde_json::from_value(seen)?)
}
