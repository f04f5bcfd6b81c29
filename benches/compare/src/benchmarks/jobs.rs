//! The jobs of both clients: a create and a poll, an upload, a download.

use anyhow::Result;
use serde_json::Value;

use super::Environment;
use crate::programs::{Program, file, measurement};
use crate::report::{Measured, Section, Target, Unit, both, cell, median, row};
use crate::server::{Server, ServerKind};

/// Checks that both clients send the same requests: method, target, and headers in order.
pub fn requests(env: &Environment) -> Result<Section> {
    let record = |program: &Program, create: &str| -> Result<Vec<String>> {
        let mut server = Server::start(ServerKind::Sandbox)?;
        program.run(&server.url, create, 1, &[])?;
        program.run(&server.url, "upload", 1, &[&env.programs.image])?;
        let host = server.url.trim_start_matches("http://").to_owned();
        let requests: Vec<Value> = server.command("requests")?;
        Ok(requests.into_iter().map(|request| mask(&request, &host)).collect())
    };
    let kling_video = record(&env.programs.kling_video, "create-poll")?;
    let ureq = record(&env.programs.ureq, "create-poll-fresh")?;
    let mut section = Section::new("The same requests");
    section.text(match kling_video == ureq {
        true => "Both clients send the same requests: method, target, and headers in order. Only \
                 the client request ids and generation ids differ."
            .to_owned(),
        false => {
            format!("**The clients send different requests.**\n\n{kling_video:#?}\n\n{ureq:#?}")
        }
    });
    Ok(section)
}

/// A request without what always differs.
fn mask(request: &Value, host: &str) -> String {
    let text = request.to_string().to_ascii_lowercase().replace(host, "HOST");
    let is_id = |word: &str| {
        let word = word.strip_prefix("kling-video-").unwrap_or(word);
        word.len() >= 16 && word.chars().all(|char| char.is_ascii_hexdigit() || char == '-')
    };
    let words = text.split_inclusive(['"', '=']);
    words.map(|word| if is_id(&word[..word.len() - 1]) { "ID\"" } else { word }).collect()
}

const POLL_FRESH: Target = Target {
    metric: "create with a URL + 1 poll, instructions, over ureq with a fresh connection for the \
             create",
    unit: Unit::Ratio,
    max: 1.0,
    aim: Some(0.95),
};
const POLL_REUSED: Target = Target {
    metric: "the same, over ureq reusing its connection",
    unit: Unit::Ratio,
    max: 1.15,
    aim: None,
};

/// The smallest job: a create request and one poll, both responses parsed into types.
pub fn create_poll(env: &Environment) -> Result<Section> {
    const MORE: u32 = 10;
    let server = Server::start(ServerKind::Sandbox)?;
    let (kling_video, ureq) = (&env.programs.kling_video, &env.programs.ureq);
    let mut section = Section::new("Create with a URL and one poll");
    section.text(
        "Against the strict sandbox. The cost of one more job: (11 jobs − 1 job) ÷ 10. kling-video \
         has its default retries, an event handler and response metadata. Its creates never reuse \
         a connection, so that a stale one cannot leave their outcome unknown; its polls do.",
    );
    let mut rows = vec![row(["client", "instructions", "system calls"])];
    let mut measured = Vec::new();
    for (name, program, job, arguments) in [
        ("kling-video", kling_video, "create-poll", &[][..]),
        ("kling-video, with `wait`", kling_video, "create-wait", &["1"]),
        ("ureq, fresh connection for the create", ureq, "create-poll-fresh", &[]),
        ("ureq, reusing its connection", ureq, "create-poll", &[]),
    ] {
        let instructions = program.instructions(&server.url, job, MORE, arguments)?;
        let calls = program.system_calls(&server.url, job, MORE, arguments)?;
        let count = |value: &Measured| cell(Unit::Count, value);
        rows.push(row([name.to_owned(), count(&instructions), count(&calls)]));
        measured.push(instructions);
    }
    section.table(&rows);
    let [own, _, fresh, reused] = &measured[..] else { unreachable!() };
    section.target(&POLL_FRESH, both(own, fresh, |own, ureq| own / ureq));
    section.target(&POLL_REUSED, both(own, reused, |own, ureq| own / ureq));
    Ok(section)
}

const UPLOAD: Target = Target {
    metric: "upload of a 10 MB image, instructions",
    unit: Unit::Count,
    max: 13.2e6,
    aim: None,
};
const GENERATE_TO: Target = Target {
    metric: "`generate_to` with that image, instructions over the upload, ÷ upload",
    unit: Unit::Ratio,
    max: 1.0,
    aim: Some(0.5),
};

/// The upload of a 10 MB image, alone and as a part of `generate_to`.
pub fn upload(env: &Environment) -> Result<Section> {
    let (kling_video, ureq) = (&env.programs.kling_video, &env.programs.ureq);
    let image: &str = &env.programs.image;
    let server = Server::start(ServerKind::Sandbox)?;
    let directory = tempfile::tempdir()?;
    let path = directory.path().display().to_string();
    let upload = kling_video.instructions(&server.url, "upload", 1, &[image])?;
    let generate_to = kling_video.instructions(&server.url, "generate-to", 1, &[image, &path])?;
    let by_ureq = ureq.instructions(&server.url, "upload", 1, &[image])?;
    let mut section = Section::new("Upload of a 10 MB image");
    section.text(format!(
        "Instructions of one more job: the upload takes {}, and {} with ureq and the image in \
         memory. `generate_to`, which also hashes the image, keeps its journal, polls, and \
         downloads the sandbox's short video, takes {}.",
        cell(Unit::Count, &upload),
        cell(Unit::Count, &by_ureq),
        cell(Unit::Count, &generate_to),
    ));
    section.target(&GENERATE_TO, both(&generate_to, &upload, |all, upload| all / upload - 1.0));
    section.target(&UPLOAD, upload);
    Ok(section)
}

/// 2 % over what was reached.
const MEMORY: [Target; 2] = [
    Target {
        metric: "memory of an upload of 10 MB, over no-op",
        unit: Unit::Kibibytes,
        max: 453.0,
        aim: None,
    },
    Target {
        metric: "memory of a download of 20 MB, over no-op",
        unit: Unit::Kibibytes,
        max: 526.0,
        aim: None,
    },
];

/// Peak memory of an upload and of a download, over the same program doing nothing.
pub fn memory(env: &Environment) -> Result<Section> {
    const ROUNDS: usize = 13;
    let mut server = Server::start(ServerKind::Sandbox)?;
    let video: String = server.command("large-video")?;
    let path = file("memory.mp4");
    let jobs: [(&str, &[&str]); 3] =
        [("noop", &[]), ("upload", &[&env.programs.image]), ("download", &[&video, &path])];
    let mut section = Section::new("Peak memory");
    section.text(format!(
        "Peak resident set (`VmHWM`) in KiB, medians of {ROUNDS} runs. The no-op program builds \
         the client and does nothing."
    ));
    let mut rows = vec![row(["client", "no-op", "upload of 10 MB", "download of 20 MB"])];
    for (name, program) in
        [("kling-video", &env.programs.kling_video), ("ureq", &env.programs.ureq)]
    {
        let mut peaks = Vec::new();
        for (job, arguments) in jobs {
            let peak = |_| measurement(&program.run(&server.url, job, 1, arguments)?, "peak_kib");
            peaks.push(median((0..ROUNDS).map(peak).collect::<Result<_>>()?));
        }
        let cells = peaks.iter().map(|peak| format!("{peak:.0}"));
        rows.push(std::iter::once(name.to_owned()).chain(cells).collect());
        if name == "kling-video" {
            for (target, peak) in MEMORY.iter().zip(&peaks[1..]) {
                let over = peak - peaks[0];
                let known = peaks[0] > 0.0;
                section.target(target, known.then_some(over).ok_or("Linux only".to_owned()));
            }
        }
    }
    section.table(&rows);
    Ok(section)
}

/// 2 % over what was reached.
const DOWNLOAD_CALLS: Target =
    Target { metric: "download of 20 MB, system calls", unit: Unit::Count, max: 354.0, aim: None };

/// The system calls of a download.
pub fn download(env: &Environment) -> Result<Section> {
    let mut server = Server::start(ServerKind::Sandbox)?;
    let video: String = server.command("large-video")?;
    let path = file("download.mp4");
    let calls =
        |program: &Program| program.system_calls(&server.url, "download", 1, &[&video, &path]);
    let (kling_video, ureq) = (calls(&env.programs.kling_video)?, calls(&env.programs.ureq)?);
    let mut section = Section::new("Download of a 20 MB video");
    section.text(format!(
        "System calls of one more download: {}, and {} with ureq and `io::copy`.",
        cell(Unit::Count, &kling_video),
        cell(Unit::Count, &ureq),
    ));
    section.target(&DOWNLOAD_CALLS, kling_video);
    Ok(section)
}
