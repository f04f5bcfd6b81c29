//! Peak memory of an upload and of a download, over the same program when it does nothing.

use anyhow::Result;

use super::{Bench, Figure, alternate};
use crate::contender::Who;
use crate::server::{Kind, Server};
use crate::stats::Samples;
use crate::table::{Section, Table};

const UPLOAD_KIB: f64 = 512.0;
const DOWNLOAD_KIB: f64 = 1536.0;

pub fn run(bench: &Bench) -> Result<Section> {
    let mut section = Section::new("Peak memory");
    let targets = [
        ("memory of an upload of 10 MB", "≤ 512 KiB over no-op", UPLOAD_KIB),
        ("memory of a download of 20 MB", "≤ 1.5 MiB over no-op", DOWNLOAD_KIB),
    ];
    if !cfg!(target_os = "linux") {
        for (figure, target, _) in targets {
            section.missing(figure, target, "this system does not tell (Linux only)");
        }
        return Ok(section);
    }
    let server = Server::start(Kind::Bare)?;
    let url = &server.url;
    let picture = bench.paths.large_picture.display().to_string();
    let video = format!("{url}/video.mp4");
    let to = bench.paths.file("memory.mp4").display().to_string();
    let present = bench.contenders.present();
    let mut figures: Vec<Figure<'_>> = Vec::new();
    for contender in &present {
        for run in [
            contender.job(url, "noop", 0, &[])?,
            contender.job(url, "upload", 1, &[&picture])?,
            contender.job(url, "download", 1, &[&video, &to])?,
        ] {
            let peak = move || run.tell()?.get("peak_kib");
            figures.push((contender.name.to_owned(), Box::new(peak)));
        }
    }
    let peaks = alternate(&figures)?;

    section.text(format!(
        "The largest resident set (`VmHWM`) in KiB, median and spread of {} alternating runs. The \
         no-op program makes the client and does nothing.",
        super::ROUNDS
    ));
    let mut table = Table::new([
        "contender",
        "no-op",
        "upload of 10 MB",
        "over no-op",
        "download of 20 MB",
        "over no-op",
    ]);
    for (contender, peaks) in present.iter().zip(peaks.chunks(3)) {
        let [noop, upload, download] = peaks else { continue };
        let over = |peak: &Samples| peak.median() - noop.median();
        table.row([
            contender.name.to_owned(),
            kib(noop),
            kib(upload),
            format!("{:.0}", over(upload)),
            kib(download),
            format!("{:.0}", over(download)),
        ]);
        if contender.who == Who::Ours {
            for ((figure, target, most), peak) in targets.into_iter().zip([upload, download]) {
                let measured = format!("{:.0} KiB", over(peak));
                section.at_most(figure, target, measured, over(peak) <= most);
            }
        }
    }
    section.table(table);
    Ok(section)
}

fn kib(peak: &Samples) -> String {
    format!("{:.0} ({:.0}..{:.0})", peak.median(), peak.min(), peak.max())
}
