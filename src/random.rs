//! Random numbers for jitter and ids, from the standard library alone.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::SystemTime;

/// An unpredictable number. Every `RandomState` has its own keys, seeded by the operating system.
/// The process id and the time are hashed as well, because a forked child inherits those seeds.
pub(crate) fn random() -> u64 {
    let mut hasher = RandomState::new().build_hasher();
    hasher.write_u32(std::process::id());
    if let Ok(time) = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        hasher.write_u128(time.as_nanos());
    }
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn random_numbers_do_not_repeat() {
        let numbers: HashSet<u64> = (0..10_000).map(|_| random()).collect();
        assert_eq!(numbers.len(), 10_000);
    }
}
