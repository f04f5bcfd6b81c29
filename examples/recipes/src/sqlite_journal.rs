//! The record of durable runs in SQLite, with `rusqlite`.

use kling_video::{BoxError, Journal, JournalEntry};
use rusqlite::Connection;

/// The primary key is what keeps two workers from paying for the same job.
pub const SCHEMA: &str = "
    PRAGMA synchronous = FULL;
    CREATE TABLE IF NOT EXISTS journal (
        job INTEGER, position INTEGER, entry TEXT NOT NULL, PRIMARY KEY (job, position)
    );";

/// The journal of one job, for `Client::generate_recorded`.
pub struct SqliteJournal<'a> {
    pub connection: &'a Connection,
    pub job: i64,
}

impl Journal for SqliteJournal<'_> {
    fn entries(&mut self) -> Result<Vec<JournalEntry>, BoxError> {
        let query = "SELECT entry FROM journal WHERE job = ?1 ORDER BY position";
        let mut query = self.connection.prepare(query)?;
        let rows = query.query_map([self.job], |row| row.get::<_, String>(0))?;
        rows.map(|entry| Ok(serde_json::from_str(&entry?)?)).collect()
    }

    fn append(&mut self, position: u64, entry: &JournalEntry) -> Result<(), BoxError> {
        let row = (self.job, i64::try_from(position)?, serde_json::to_string(entry)?);
        self.connection.execute("INSERT INTO journal VALUES (?1, ?2, ?3)", row)?;
        Ok(())
    }
}
