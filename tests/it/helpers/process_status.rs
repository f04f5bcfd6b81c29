//! The threads, open files and memory of this process.

use std::fs;
use std::time::{Duration, Instant};

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Resources {
    pub threads: usize,
    pub files: usize,
}

impl Resources {
    pub fn now() -> Resources {
        let files = fs::read_dir("/proc/self/fd").unwrap().count();
        Resources { threads: status_field("Threads:"), files }
    }

    /// Waits until the counts are stable and sufficient: a thread may end a moment after it
    /// returned its result.
    pub fn settled(is_sufficient: impl Fn(Resources) -> bool) -> Resources {
        let started = Instant::now();
        let mut last = Resources::now();
        loop {
            std::thread::yield_now();
            let now = Resources::now();
            let timed_out = started.elapsed() > Duration::from_secs(5);
            if timed_out || (is_sufficient(now) && now == last) {
                return now;
            }
            last = now;
        }
    }

    pub fn is_within(self, other: Resources) -> bool {
        self.threads <= other.threads && self.files <= other.files
    }
}

/// The peak resident memory, in KiB.
pub fn peak_memory() -> usize {
    status_field("VmHWM:")
}

fn status_field(name: &str) -> usize {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let value = status.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    value.trim().trim_end_matches(" kB").parse().unwrap()
}
