//! Random numbers for jitter and for ids, from what std has.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::SystemTime;

/// A number nobody can foresee. Every `RandomState` has keys of its own, seeded by the system;
/// process and time go in as well, since a forked child inherits those seeds.
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
    fn numbers_do_not_repeat() {
        let drawn: HashSet<u64> = (0..10_000).map(|_| random()).collect();
        assert_eq!(drawn.len(), 10_000);
    }
}
