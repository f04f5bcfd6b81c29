//! Checks that all implementations do the same job, by comparing their requests byte by byte.

use std::collections::BTreeSet;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use super::Environment;
use crate::implementation::{Id, Implementation};
use crate::server::{Server, ServerKind};
use crate::table::{Section, Table};

/// A request that the server recorded.
#[derive(Debug, PartialEq)]
struct RecordedRequest {
    /// Request line and headers; ids, which always differ, are masked.
    head: String,
    body_len: u64,
    body_hash: u64,
}

pub fn run(env: &Environment) -> Result<Section> {
    let mut server = Server::start(ServerKind::Minimal)?;
    let available = env.implementations.available();
    let expected = record(env, env.implementations.get(Id::KlingVideo)?, &mut server)?;
    let mut section = Section::new("Identical requests");
    section.text(
        "Each implementation creates a generation from a URL and polls it once, does the same with \
         a 1 kB image, uploads 10 MB and downloads 20 MB. Its requests are compared with those of \
         kling-video. The value of `x-client-request-id` and the generation id are masked.",
    );
    let mut table = Table::new(["implementation", "requests", "headers", "bodies"]);
    for implementation in available {
        let name = implementation.name;
        let actual = record(env, implementation, &mut server)?;
        if actual.len() != expected.len() {
            bail!("{name} sent {} requests instead of {}", actual.len(), expected.len());
        }
        let bodies = |requests: &[RecordedRequest]| -> Vec<(u64, u64)> {
            requests.iter().map(|request| (request.body_len, request.body_hash)).collect()
        };
        let same_bodies = bodies(&actual) == bodies(&expected);
        let headers = compare_heads(&actual, &expected);
        let is_ureq = matches!(implementation.id, Id::UreqInMemory | Id::UreqStreaming);
        if !same_bodies || (is_ureq && headers != IDENTICAL) {
            bail!("{name} sends other requests: {headers}; bodies identical: {same_bodies}");
        }
        let count = actual.len().to_string();
        table.row([name.to_owned(), count, headers, IDENTICAL.to_owned()]);
    }
    for implementation in env.implementations.all() {
        if let Some(why) = implementation.missing_reason() {
            table.row([implementation.name.to_owned(), why.to_owned(), "–".into(), "–".into()]);
        }
    }
    section.table(table);
    Ok(section)
}

const IDENTICAL: &str = "identical";

/// Runs an implementation's jobs and returns the requests that it sent, in order.
fn record(
    env: &Environment,
    implementation: &Implementation,
    server: &mut Server,
) -> Result<Vec<RecordedRequest>> {
    server.command("start-recording")?;
    let url = server.url.clone();
    let small = env.paths.small_image.display().to_string();
    let large = env.paths.large_image.display().to_string();
    let video = format!("{url}/video.mp4");
    let path = env.paths.file("requests.mp4").display().to_string();
    implementation.job(&url, "create-url", 1, &[])?.execute()?;
    implementation.job(&url, "create-file", 1, &[&small])?.execute()?;
    implementation.job(&url, "upload", 1, &[&large])?.execute()?;
    implementation.job(&url, "download", 1, &[&video, &path])?.execute()?;
    let recorded = server.command("take-recording")?;
    recorded.as_array().context("recording is not an array")?.iter().map(parse).collect()
}

fn parse(value: &Value) -> Result<RecordedRequest> {
    let head = value["head"].as_str().context("request has no `head`")?;
    let lines: Vec<String> = head.trim_end().split("\r\n").map(mask_ids).collect();
    Ok(RecordedRequest {
        head: lines.join("\r\n"),
        body_len: value["body_len"].as_u64().context("request has no `body_len`")?,
        body_hash: value["body_hash"].as_u64().context("request has no `body_hash`")?,
    })
}

fn mask_ids(line: &str) -> String {
    let lower = line.to_ascii_lowercase();
    if let Some(id) = lower.strip_prefix("x-client-request-id: ") {
        // The header's name as it was sent, and the length of its value, are still compared.
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

/// Describes how the heads of an implementation's requests differ from the expected ones.
fn compare_heads(actual: &[RecordedRequest], expected: &[RecordedRequest]) -> String {
    if actual.iter().zip(expected).all(|(actual, expected)| actual.head == expected.head) {
        return IDENTICAL.to_owned();
    }
    let (mut added, mut missing) = (BTreeSet::new(), BTreeSet::new());
    for (actual, expected) in actual.iter().zip(expected) {
        let (actual, expected) = (head_lines(&actual.head), head_lines(&expected.head));
        added.extend(actual.difference(&expected).cloned());
        missing.extend(expected.difference(&actual).cloned());
    }
    let list = |lines: BTreeSet<String>| {
        let quoted: Vec<String> = lines.into_iter().map(|line| format!("`{line}`")).collect();
        quoted.join(", ")
    };
    match (added.is_empty(), missing.is_empty()) {
        (true, true) => "same headers in another order or case".to_owned(),
        (false, true) => format!("additionally {}", list(added)),
        (true, false) => format!("without {}", list(missing)),
        (false, false) => format!("additionally {}; without {}", list(added), list(missing)),
    }
}

/// The request line and the headers, with header names in lower case.
fn head_lines(head: &str) -> BTreeSet<String> {
    let (request_line, headers) = head.split_once("\r\n").unwrap_or((head, ""));
    let headers = headers.split("\r\n").map(|line| match line.split_once(": ") {
        Some((name, value)) => format!("{}: {value}", name.to_ascii_lowercase()),
        None => line.to_owned(),
    });
    std::iter::once(request_line.to_owned()).chain(headers).collect()
}
