//! The limit on generations that a client may create.

use std::sync::atomic::{AtomicU32, Ordering};

use crate::error::{Error, Result};

/// How many creates a client, its clones and its views may commit.
#[derive(Debug)]
pub(crate) struct CreateQuota {
    limit: u32,
    used: AtomicU32,
}

impl CreateQuota {
    pub(crate) fn new(limit: Option<u32>) -> Self {
        Self { limit: limit.unwrap_or(u32::MAX), used: AtomicU32::new(0) }
    }

    pub(crate) fn acquire(&self) -> Result<Reservation<'_>> {
        let next = |used| (used < self.limit).then(|| used + 1);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next) {
            Ok(_) => Ok(Reservation(&self.used)),
            Err(_) => Err(Error::generation_limit(self.limit)),
        }
    }
}

/// One create of the quota, returned to it on drop.
pub(crate) struct Reservation<'a>(&'a AtomicU32);

impl Reservation<'_> {
    pub(crate) fn spend(self) {
        std::mem::forget(self);
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
