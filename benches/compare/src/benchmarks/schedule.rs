//! Poll schedules: the number of requests and the detection delay, calculated for the documented
//! ranges of generation times.

use anyhow::{Result, ensure};
use kling_video::{VideoDuration, WaitOptions};

use super::Environment;
use crate::table::{Section, Table};

/// A poll schedule. All times in this file are seconds.
struct Schedule {
    initial_delay: f64,
    interval: f64,
}

/// What a schedule costs on average.
struct Average {
    requests: f64,
    /// From the completion of a video to the poll that sees it.
    delay: f64,
}

/// The vendor's sample. It also polls right after the create, which is not counted here.
const SAMPLE: Schedule = Schedule { initial_delay: 10.0, interval: 10.0 };
/// `WaitOptions::new`.
const DEFAULT: Schedule = Schedule { initial_delay: 10.0, interval: 10.0 };

/// Copies of the presets in `src/poll.rs`, since `WaitOptions` has no getters; `run` checks them.
const FIVE_SECONDS: Schedule = Schedule { initial_delay: 180.0, interval: 4.0 };
const TEN_SECONDS: Schedule = Schedule { initial_delay: 360.0, interval: 4.0 };

impl Schedule {
    /// The average over generation times that are evenly distributed between `from` and `to`.
    fn average(&self, from: f64, to: f64) -> Average {
        const STEPS: u32 = 100_000;
        let (mut requests, mut delay) = (0.0, 0.0);
        for step in 0..STEPS {
            let completed = from + (to - from) * (f64::from(step) + 0.5) / f64::from(STEPS);
            let after_first = ((completed - self.initial_delay) / self.interval).ceil().max(0.0);
            requests += after_first + 1.0;
            delay += self.initial_delay + after_first * self.interval - completed;
        }
        Average { requests: requests / f64::from(STEPS), delay: delay / f64::from(STEPS) }
    }

    fn check(&self, options: &WaitOptions) -> Result<()> {
        let Schedule { initial_delay, interval } = self;
        let expected = format!("initial_delay: {initial_delay}s, interval: {interval}s,");
        let actual = format!("{options:?}");
        ensure!(actual.contains(&expected), "src/poll.rs has changed: {actual}, not {expected}");
        Ok(())
    }
}

pub fn run(_: &Environment) -> Result<Section> {
    DEFAULT.check(&WaitOptions::new())?;
    FIVE_SECONDS.check(&WaitOptions::for_duration(VideoDuration::FiveSeconds))?;
    TEN_SECONDS.check(&WaitOptions::for_duration(VideoDuration::TenSeconds))?;
    let mut section = Section::new("Poll schedules");
    section.text(
        "Calculated: a 5 s video takes 3 to 4 minutes, a 10 s video 6 to 8 (from the vendor's \
         docs), with all times in between equally likely. *Delay*: from the completion of a video \
         to the poll that sees it. The vendor's sample polls once more, right after the create.",
    );
    let mut table =
        Table::new(["video", "schedule", "requests", "× sample", "delay, s", "× sample"]);
    for (video, from, to, preset) in
        [("5 s", 180.0, 240.0, &FIVE_SECONDS), ("10 s", 360.0, 480.0, &TEN_SECONDS)]
    {
        let sample = SAMPLE.average(from, to);
        for (name, schedule) in [
            ("vendor's sample", &SAMPLE),
            ("`WaitOptions::new`", &DEFAULT),
            ("`WaitOptions::for_duration`", preset),
        ] {
            let Average { requests, delay } = schedule.average(from, to);
            table.row([
                video.to_owned(),
                name.to_owned(),
                format!("{requests:.1}"),
                format!("{:.2}", requests / sample.requests),
                format!("{delay:.1}"),
                format!("{:.2}", delay / sample.delay),
            ]);
        }
        let preset = preset.average(from, to);
        let (requests, delay) = (preset.requests / sample.requests, preset.delay / sample.delay);
        section.target(
            &format!("`for_duration`, {video} video"),
            "≤ 0.50 × the sample's requests and delay",
            format!("{requests:.2} and {delay:.2}"),
            requests <= 0.5 && delay <= 0.5,
        );
    }
    section.table(table);
    Ok(section)
}
