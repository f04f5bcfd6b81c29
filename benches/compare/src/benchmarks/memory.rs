//! Peak memory of an upload and of a download, compared with the same program doing nothing.

use anyhow::Result;

use super::{Environment, Measure, alternate};
use crate::implementation::Id;
use crate::server::{Server, ServerKind};
use crate::stats::Samples;
use crate::table::{Section, Table};

const MAX_UPLOAD_KIB: f64 = 512.0;
const MAX_DOWNLOAD_KIB: f64 = 1536.0;

pub fn run(env: &Environment) -> Result<Section> {
    let mut section = Section::new("Peak memory");
    let targets = [
        ("memory of an upload of 10 MB", "≤ 512 KiB over no-op", MAX_UPLOAD_KIB),
        ("memory of a download of 20 MB", "≤ 1.5 MiB over no-op", MAX_DOWNLOAD_KIB),
    ];
    if !cfg!(target_os = "linux") {
        for (metric, target, _) in targets {
            section.not_measured(metric, target, "Linux only");
        }
        return Ok(section);
    }
    let server = Server::start(ServerKind::Minimal)?;
    let url = &server.url;
    let image = env.paths.large_image.display().to_string();
    let video = format!("{url}/video.mp4");
    let path = env.paths.file("memory.mp4").display().to_string();
    let available = env.implementations.available();
    let mut measures: Vec<Measure<'_>> = Vec::new();
    for implementation in &available {
        for run in [
            implementation.job(url, "noop", 0, &[])?,
            implementation.job(url, "upload", 1, &[&image])?,
            implementation.job(url, "download", 1, &[&video, &path])?,
        ] {
            measures.push(Box::new(move || run.execute()?.get("peak_kib")));
        }
    }
    let peaks = alternate(&measures)?;

    section.text(format!(
        "Peak resident set (`VmHWM`) in KiB: median and range of {} alternating runs. The no-op \
         program builds the client and does nothing.",
        super::ROUNDS
    ));
    let mut table = Table::new([
        "implementation",
        "no-op",
        "upload of 10 MB",
        "over no-op",
        "download of 20 MB",
        "over no-op",
    ]);
    for (implementation, peaks) in available.iter().zip(peaks.chunks(3)) {
        let [noop, upload, download] = peaks else { continue };
        let over = |peak: &Samples| peak.median() - noop.median();
        table.row([
            implementation.name.to_owned(),
            kib(noop),
            kib(upload),
            format!("{:.0}", over(upload)),
            kib(download),
            format!("{:.0}", over(download)),
        ]);
        if implementation.id == Id::KlingVideo {
            for ((metric, target, max), peak) in targets.into_iter().zip([upload, download]) {
                let measured = format!("{:.0} KiB", over(peak));
                section.target(metric, target, measured, over(peak) <= max);
            }
        }
    }
    section.table(table);
    Ok(section)
}

fn kib(peak: &Samples) -> String {
    format!("{:.0} ({:.0}..{:.0})", peak.median(), peak.min(), peak.max())
}
