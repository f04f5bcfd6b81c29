//! When to look: requests sent and time lost, by arithmetic over the documented ranges.

use anyhow::{Result, ensure};
use kling_video::{VideoLength, WaitOptions};

use super::Bench;
use crate::table::{Section, Table};

/// Seconds, as all times here.
struct Schedule {
    first: f64,
    interval: f64,
}

/// What a schedule means on average.
struct Outcome {
    requests: f64,
    late: f64,
}

/// The vendor's sample; it looks right after the create, too, which is not counted here.
const SAMPLE: Schedule = Schedule { first: 10.0, interval: 10.0 };
/// `WaitOptions::new`.
const FLAT: Schedule = Schedule { first: 10.0, interval: 10.0 };

/// Copies of what `src/poll.rs` has, since options cannot be read back; `run` checks them.
const FIVE: Schedule = Schedule { first: 180.0, interval: 4.0 };
const TEN: Schedule = Schedule { first: 360.0, interval: 4.0 };

impl Schedule {
    /// On average over generations that end at any time between these two, all as likely.
    fn outcome(&self, from: f64, to: f64) -> Outcome {
        const STEPS: u32 = 100_000;
        let (mut requests, mut late) = (0.0, 0.0);
        for step in 0..STEPS {
            let end = from + (to - from) * (f64::from(step) + 0.5) / f64::from(STEPS);
            let after_first = ((end - self.first) / self.interval).ceil().max(0.0);
            requests += after_first + 1.0;
            late += self.first + after_first * self.interval - end;
        }
        Outcome { requests: requests / f64::from(STEPS), late: late / f64::from(STEPS) }
    }

    fn check(&self, options: &WaitOptions) -> Result<()> {
        let expected = format!("first_poll_after: {}s, interval: {}s,", self.first, self.interval);
        let actual = format!("{options:?}");
        ensure!(actual.contains(&expected), "{actual} is not {expected}: src/poll.rs has changed");
        Ok(())
    }
}

pub fn run(_: &Bench) -> Result<Section> {
    FLAT.check(&WaitOptions::new())?;
    FIVE.check(&WaitOptions::for_length(VideoLength::FiveSeconds))?;
    TEN.check(&WaitOptions::for_length(VideoLength::TenSeconds))?;
    let mut section = Section::new("When to look");
    section.text(
        "By arithmetic: a 5 s video takes 3 to 4 minutes, a 10 s one 6 to 8 (the vendor's docs), \
         any time in between as likely as another. *Late*: from a video's being there to its being \
         seen. The vendor's sample looks once more, right after the create.",
    );
    let mut table =
        Table::new(["video", "schedule", "requests", "× sample", "late, s", "× sample"]);
    for (video, from, to, preset) in [("5 s", 180.0, 240.0, &FIVE), ("10 s", 360.0, 480.0, &TEN)] {
        let sample = SAMPLE.outcome(from, to);
        for (name, schedule) in [
            ("the vendor's sample", &SAMPLE),
            ("flat default", &FLAT),
            ("`WaitOptions::for_length`", preset),
        ] {
            let Outcome { requests, late } = schedule.outcome(from, to);
            table.row([
                video.to_owned(),
                name.to_owned(),
                format!("{requests:.1}"),
                format!("{:.2}", requests / sample.requests),
                format!("{late:.1}"),
                format!("{:.2}", late / sample.late),
            ]);
        }
        let preset = preset.outcome(from, to);
        let (requests, late) = (preset.requests / sample.requests, preset.late / sample.late);
        section.at_most(
            &format!("`for_length`, {video} video"),
            "≤ 0.50 × the sample's requests and lateness",
            format!("{requests:.2} and {late:.2}"),
            requests <= 0.5 && late <= 0.5,
        );
    }
    section.table(table);
    Ok(section)
}
