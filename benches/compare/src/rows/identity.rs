//! Whether the contenders do the same job: what each of them sends, compared byte by byte.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Bench;
use crate::contender::{Contender, Who};
use crate::server::{Kind, Server};
use crate::table::{Section, Table};

/// What a contender has sent, in order.
#[derive(Debug, PartialEq)]
struct Sent {
    /// With what differs by nature taken out.
    head: String,
    body_bytes: u64,
    body_hash: u64,
}

pub fn run(bench: &Bench) -> Result<Section> {
    let mut server = Server::start(Kind::Bare)?;
    let present = bench.contenders.present();
    let ours = sent(bench, bench.contenders.get(Who::Ours)?, &mut server)?;
    let mut section = Section::new("The same requests");
    section.text(
        "Each contender creates with a link and looks once, does the same with a 1 kB picture, \
         uploads 10 MB and downloads 20 MB. Its requests are compared with ours; the value of \
         `x-client-request-id` and the generation's id are masked.",
    );
    let mut table = Table::new(["contender", "requests", "heads", "bodies"]);
    for contender in present {
        let theirs = sent(bench, contender, &mut server)?;
        if theirs.len() != ours.len() {
            bail!("{} has sent {} requests, not {}", contender.name, theirs.len(), ours.len());
        }
        let bodies = |sent: &[Sent]| -> Vec<(u64, u64)> {
            sent.iter().map(|one| (one.body_bytes, one.body_hash)).collect()
        };
        let bodies = bodies(&theirs) == bodies(&ours);
        let heads = compare(&theirs, &ours);
        let is_bare = matches!(contender.who, Who::UreqMemory | Who::UreqStreaming);
        if !bodies || (is_bare && heads != IDENTICAL) {
            bail!("{} does another job: {heads}; bodies the same: {bodies}", contender.name);
        }
        let count = theirs.len().to_string();
        table.row([contender.name.to_owned(), count, heads, IDENTICAL.to_owned()]);
    }
    for contender in bench.contenders.all() {
        if let Some(why) = contender.missing() {
            table.row([contender.name.to_owned(), why.to_owned(), "–".into(), "–".into()]);
        }
    }
    section.table(table);
    Ok(section)
}

const IDENTICAL: &str = "identical";

fn sent(bench: &Bench, contender: &Contender, server: &mut Server) -> Result<Vec<Sent>> {
    server.ask("record")?;
    let url = server.url.clone();
    let small = bench.paths.small_picture.display().to_string();
    let large = bench.paths.large_picture.display().to_string();
    let video = format!("{url}/video.mp4");
    let to = bench.paths.file("identity.mp4").display().to_string();
    contender.job(&url, "link", 1, &[])?.tell()?;
    contender.job(&url, "file", 1, &[&small])?.tell()?;
    contender.job(&url, "upload", 1, &[&large])?.tell()?;
    contender.job(&url, "download", 1, &[&video, &to])?.tell()?;
    let recorded = server.ask("recorded")?;
    recorded.as_array().context("no record")?.iter().map(read).collect()
}

fn read(value: &Value) -> Result<Sent> {
    let head = value["head"].as_str().context("no head")?;
    let lines: Vec<String> = head.trim_end().split("\r\n").map(mask).collect();
    Ok(Sent {
        head: lines.join("\r\n"),
        body_bytes: value["body_bytes"].as_u64().context("no length")?,
        body_hash: value["body_hash"].as_u64().context("no hash")?,
    })
}

fn mask(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    if let Some(id) = lower.strip_prefix("x-client-request-id: ") {
        // Its name as it was sent, and how long its value is.
        return format!("{}: {}", &line[.."x-client-request-id".len()], "*".repeat(id.len()));
    }
    match line.split_once("generation_id=") {
        Some((before, after)) => {
            let end = after.find(' ').unwrap_or(after.len());
            format!("{before}generation_id=*{}", &after[end..])
        }
        None => line.to_owned(),
    }
}

/// In words, how all heads of a contender differ from ours.
fn compare(theirs: &[Sent], ours: &[Sent]) -> String {
    if theirs.iter().zip(ours).all(|(their, our)| their.head == our.head) {
        return IDENTICAL.to_owned();
    }
    let (mut more, mut fewer) = (BTreeSet::new(), BTreeSet::new());
    for (their, our) in theirs.iter().zip(ours) {
        let (their, our) = (set(&their.head), set(&our.head));
        more.extend(their.difference(&our).cloned());
        fewer.extend(our.difference(&their).cloned());
    }
    let list = |set: BTreeSet<String>| {
        let quoted: Vec<String> = set.into_iter().map(|line| format!("`{line}`")).collect();
        quoted.join(", ")
    };
    match (more.is_empty(), fewer.is_empty()) {
        (true, true) => "the same set, in an order or case of its own".to_owned(),
        (false, true) => format!("the same set and {}", list(more)),
        (true, false) => format!("without {}", list(fewer)),
        (false, false) => format!("with {}, without {}", list(more), list(fewer)),
    }
}

fn set(head: &str) -> BTreeSet<String> {
    let (first, rest) = head.split_once("\r\n").unwrap_or((head, ""));
    let headers = rest.split("\r\n").map(|line| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}", name.to_ascii_lowercase()),
        None => line.to_owned(),
    });
    std::iter::once(first.to_owned()).chain(headers).collect()
}
