//! The jobs and their journals in PostgreSQL.
//!
//! Every operation opens its own connection: a job takes minutes, and needs the database for
//! milliseconds of them. So a waiting worker holds no connection, and one that was cut off from the
//! database needs no code to come back.

use std::time::Duration;

use kling_video::{BoxError, Journal, JournalEntry};
use postgres::types::Json;
use postgres::{Client, Config, NoTls};

use crate::Result;

pub struct Database {
    config: Config,
    pub lease: Duration,
}

/// A job that a worker has claimed.
pub struct Job {
    pub id: i64,
    pub image: String,
    pub prompt: String,
    /// Which claim of the job this is. A later one takes the lease away.
    claim: i64,
}

impl Database {
    pub fn new(url: &str, lease: Duration) -> Result<Self> {
        let mut config: Config = url.parse()?;
        // A connection that a partition has cut is an error after this time, not after hours.
        let timeout = Duration::from_secs(10);
        config.connect_timeout(timeout).tcp_user_timeout(timeout);
        config.keepalives_idle(timeout).keepalives_interval(timeout).keepalives_retries(3);
        Ok(Self { config, lease })
    }

    fn connect(&self) -> Result<Client, postgres::Error> {
        self.config.connect(NoTls)
    }

    /// Adds the jobs that are not there yet, all or none, and returns how many these are.
    pub fn submit(&self, images: &[String], prompt: &str) -> Result<u64> {
        let mut client = self.connect()?;
        let mut transaction = client.transaction()?;
        transaction.batch_execute(include_str!("schema.sql"))?;
        let insert = "INSERT INTO fleet_jobs (image, prompt) SELECT unnest($1::text[]), $2
                      ON CONFLICT DO NOTHING";
        let added = transaction.execute(insert, &[&images, &prompt])?;
        transaction.commit()?;
        Ok(added)
    }

    /// Leases an open job that nobody has; with `id`, this one, although it may have failed.
    pub fn claim(&self, id: Option<i64>) -> Result<Option<Job>> {
        let update = "UPDATE fleet_jobs
             SET claims = claims + 1, leased_until = now() + make_interval(secs => $1),
                 worker = format('%s:%s', coalesce(host(inet_client_addr()), 'local'), $2::bigint)
             WHERE id = (SELECT id FROM fleet_jobs
                         WHERE leased_until <= now() AND state <> 'done'
                           AND (state = 'open' OR id = $3) AND id = coalesce($3, id)
                         ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
             RETURNING id, image, prompt, claims";
        let process = i64::from(std::process::id());
        let row = self.connect()?.query_opt(update, &[&self.lease.as_secs_f64(), &process, &id])?;
        Ok(row.map(|row| Job {
            id: row.get(0),
            image: row.get(1),
            prompt: row.get(2),
            claim: row.get(3),
        }))
    }

    /// Extends the lease, unless a later claim has it or the job is done.
    pub fn renew(&self, job: &Job) -> Result<bool> {
        let update = "UPDATE fleet_jobs SET leased_until = now() + make_interval(secs => $1)
                      WHERE id = $2 AND claims = $3 AND state = 'open'";
        let lease = self.lease.as_secs_f64();
        Ok(self.connect()?.execute(update, &[&lease, &job.id, &job.claim])? == 1)
    }

    /// Stores the path of a whole video. Whoever has lost the lease has the same video.
    pub fn done(&self, job: &Job, video: &str) -> Result<()> {
        let update = "UPDATE fleet_jobs SET state = 'done', video = $2, error = NULL
                      WHERE id = $1 AND state <> 'done'";
        self.connect()?.execute(update, &[&job.id, &video])?;
        Ok(())
    }

    /// Stores how a claim has ended without a video. After an error, what is left of the lease
    /// passes before the next attempt.
    pub fn release(&self, job: &Job, state: &str, error: Option<&str>) -> Result<()> {
        let update = "UPDATE fleet_jobs SET state = $3, error = $4,
                      leased_until = CASE WHEN $4::text IS NULL THEN now() ELSE leased_until END
                      WHERE id = $1 AND claims = $2 AND state <> 'done'";
        self.connect()?.execute(update, &[&job.id, &job.claim, &state, &error])?;
        Ok(())
    }

    /// Whether any job is left to do.
    pub fn has_open_jobs(&self) -> Result<bool> {
        let query = "SELECT EXISTS (SELECT FROM fleet_jobs WHERE state = 'open')";
        Ok(self.connect()?.query_one(query, &[])?.get(0))
    }

    /// A row for each job: its id, state with the journal's newest entry, image, and the rest.
    pub fn status(&self) -> Result<Vec<[String; 4]>> {
        let query = "SELECT id::text,
                    CASE WHEN state = 'open' AND error IS NULL AND leased_until > now()
                         THEN 'running' ELSE state END
                    || coalesce(', ' || (SELECT entry ->> 'step' FROM fleet_journal
                                         WHERE job = id ORDER BY position DESC LIMIT 1), ''),
                    image, coalesce(video, error, worker, '')
             FROM fleet_jobs ORDER BY fleet_jobs.id";
        let rows = self.connect()?.query(query, &[])?;
        Ok(rows.iter().map(|row| [0, 1, 2, 3].map(|column| row.get(column))).collect())
    }
}

/// The journal of one job: its rows in `fleet_journal`.
pub struct JobJournal<'a> {
    pub database: &'a Database,
    pub job: i64,
}

impl Journal for JobJournal<'_> {
    fn entries(&mut self) -> Result<Vec<JournalEntry>, BoxError> {
        let query = "SELECT entry FROM fleet_journal WHERE job = $1 ORDER BY position";
        let rows = self.database.connect()?.query(query, &[&self.job])?;
        rows.iter().map(|row| Ok(row.try_get::<_, Json<JournalEntry>>(0)?.0)).collect()
    }

    fn append(&mut self, position: u64, entry: &JournalEntry) -> Result<(), BoxError> {
        let mut client = self.database.connect()?;
        let mut transaction = client.transaction()?;
        // Durable when this returns, whatever the server's default is.
        transaction.batch_execute("SET LOCAL synchronous_commit = on")?;
        let insert = "INSERT INTO fleet_journal (job, position, entry) VALUES ($1, $2, $3)";
        let position = i64::try_from(position)?;
        transaction.execute(insert, &[&self.job, &position, &Json(entry)])?;
        Ok(transaction.commit()?)
    }
}
