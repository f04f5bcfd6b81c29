//! When to look: how many requests a wait takes and how late it ends, by arithmetic over how long
//! generations take.

use anyhow::Result;

use super::Bench;
use crate::table::{Section, Table};

/// When a wait looks, in seconds since its beginning.
struct Schedule {
    name: &'static str,
    first: f64,
    interval: f64,
}

/// `(seconds of video, shortest, longest)`: 3 to 4 and 6 to 8 minutes, from Kling's documentation.
const LENGTHS: [(u32, f64, f64); 2] = [(5, 180.0, 240.0), (10, 360.0, 480.0)];

/// Fine enough that the means do not depend on it.
const STEPS: u32 = 60_000;

pub fn run(_bench: &Bench) -> Result<Section> {
    let mut section = Section::new("When to look");
    section.text(
        "By arithmetic: means over generations that take 3 to 4 minutes for 5 s of video and 6 to \
         8 for 10 s, each length of time as likely as any other. The first look of the preset is \
         at the shortest time: a generation that ends earlier is only seen then.",
    );
    let mut table = Table::new(["video", "schedule", "requests", "seconds late"]);
    for (seconds, shortest, longest) in LENGTHS {
        let vendor =
            Schedule { name: "the vendor's sample, every 10 s", first: 10.0, interval: 10.0 };
        // `WaitOptions::new()`.
        let flat = Schedule { name: "default, every 10 s", first: 10.0, interval: 10.0 };
        // `WaitOptions::for_length`.
        let preset = Schedule { name: "`for_length`", first: shortest, interval: 4.0 };
        let means = [vendor, flat, preset].map(|schedule| {
            let (requests, late) = schedule.means(shortest, longest);
            let name = schedule.name.to_owned();
            table.row([
                format!("{seconds} s"),
                name,
                format!("{requests:.1}"),
                format!("{late:.1}"),
            ]);
            (requests, late)
        });
        let [vendor, _, preset] = means;
        section.at_most(
            &format!("requests and lateness, {seconds} s of video"),
            "the preset at most half of both",
            format!("{:.2} and {:.2} × the sample's", preset.0 / vendor.0, preset.1 / vendor.1),
            preset.0 <= vendor.0 / 2.0 && preset.1 <= vendor.1 / 2.0,
        );
    }
    section.table(table);
    Ok(section)
}

impl Schedule {
    /// Requests, and seconds from the end of a generation to the look that sees it.
    fn means(&self, shortest: f64, longest: f64) -> (f64, f64) {
        let (mut requests, mut late) = (0.0, 0.0);
        for step in 0..STEPS {
            let end = shortest + (longest - shortest) * (f64::from(step) + 0.5) / f64::from(STEPS);
            let after_first = ((end - self.first) / self.interval).ceil().max(0.0);
            requests += 1.0 + after_first;
            late += self.first + after_first * self.interval - end;
        }
        (requests / f64::from(STEPS), late / f64::from(STEPS))
    }
}
