//! A web server that accepts jobs at once and finishes them later: `web_worker ADDRESS DIRECTORY`.
//!
//! | Request | Response |
//! |---|---|
//! | `PUT /videos/NAME`, with an image's URL as its body | 202; repeating it changes nothing |
//! | `GET /videos/NAME` | 200 with the video, 202 with the last error while it is being made, 500 with the error if it failed |
//!
//! Jobs and journals are rows of `DIRECTORY/jobs.sqlite`. The process can be killed at any point: the
//! next one goes on with every open job, and each is paid for once. A `PUT` and not a `POST`, so that
//! a client that got no response can repeat it, too.
//!
//! Whoever reaches the address spends your money: put something in front of it that checks who asks.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use kling_video::{BoxError, Client, ErrorKind, Image, ImageToVideo};
use recipes::sqlite_journal::{self, SqliteJournal};
use rusqlite::{Connection, OptionalExtension as _};
use tiny_http::{Method, Request, Response, Server};

type Result<T, E = BoxError> = std::result::Result<T, E>;

/// The most videos in progress at once. Their threads are almost always asleep.
const WORKERS: usize = 4;
/// How long a worker pauses after an error that may pass.
const PAUSE: Duration = Duration::from_secs(10);
const MAX_URL_LEN: usize = 8_192;
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS job (
        id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, image TEXT NOT NULL,
        state TEXT NOT NULL DEFAULT 'open', error TEXT
    );";

fn main() -> Result<()> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let [address, dir] = args.as_slice() else { return Err("expected: ADDRESS DIRECTORY".into()) };
    let dir = PathBuf::from(dir);
    fs::create_dir_all(&dir)?;
    let client = recipes::client()?;
    let database = open(&dir)?;

    let (jobs, queue) = channel();
    for id in open_jobs(&database)? {
        jobs.send(id)?;
    }
    let queue = Arc::new(Mutex::new(queue));
    for _ in 0..WORKERS {
        let worker = Worker { client: client.clone(), database: open(&dir)?, dir: dir.clone() };
        let (queue, jobs) = (Arc::clone(&queue), jobs.clone());
        thread::spawn(move || worker.run(&queue, &jobs));
    }

    let server = Server::http(address)?;
    println!("listening on {}", server.server_addr());
    for request in server.incoming_requests() {
        if let Err(error) = respond(request, &database, &dir, &jobs) {
            eprintln!("{error}");
        }
    }
    Ok(())
}

fn open(dir: &Path) -> Result<Connection> {
    let database = Connection::open(dir.join("jobs.sqlite"))?;
    database.busy_timeout(Duration::from_secs(30))?;
    database.execute_batch(sqlite_journal::SCHEMA)?;
    database.execute_batch(SCHEMA)?;
    Ok(database)
}

fn open_jobs(database: &Connection) -> Result<Vec<i64>> {
    let mut query = database.prepare("SELECT id FROM job WHERE state = 'open'")?;
    let ids = query.query_map([], |row| row.get(0))?;
    Ok(ids.collect::<Result<_, _>>()?)
}

fn video_path(dir: &Path, id: i64) -> PathBuf {
    dir.join(format!("{id}.mp4"))
}

fn respond(
    mut request: Request,
    database: &Connection,
    dir: &Path,
    jobs: &Sender<i64>,
) -> Result<()> {
    let Some(name) = request.url().strip_prefix("/videos/").map(str::to_owned) else {
        return Ok(request.respond(Response::empty(404))?);
    };
    match request.method() {
        Method::Put => {
            if request.body_length().is_none_or(|length| length > MAX_URL_LEN) {
                return Ok(request.respond(Response::empty(413))?);
            }
            let mut image = String::new();
            request.as_reader().read_to_string(&mut image)?;
            let insert = "INSERT OR IGNORE INTO job (name, image) VALUES (?1, ?2)";
            // The job is on disk before the response is sent.
            if database.execute(insert, (name, image))? == 1 {
                jobs.send(database.last_insert_rowid())?;
            }
            request.respond(Response::empty(202))?;
        }
        Method::Get => {
            let query = "SELECT id, state, coalesce(error, '') FROM job WHERE name = ?1";
            let columns = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?, row.get(2)?));
            let job: Option<(i64, String, String)> =
                database.query_row(query, [name], columns).optional()?;
            match job {
                None => request.respond(Response::empty(404))?,
                Some((id, state, _)) if state == "done" => {
                    request.respond(Response::from_file(File::open(video_path(dir, id))?))?;
                }
                Some((_, state, error)) => {
                    let status = if state == "failed" { 500 } else { 202 };
                    request.respond(Response::from_string(error).with_status_code(status))?;
                }
            }
        }
        _ => request.respond(Response::empty(405))?,
    }
    Ok(())
}

struct Worker {
    client: Client,
    database: Connection,
    dir: PathBuf,
}

impl Worker {
    fn run(&self, queue: &Mutex<Receiver<i64>>, jobs: &Sender<i64>) {
        loop {
            // Only one worker waits at the queue at a time, the others wait for the lock.
            let next = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(id) = next else { return };
            match self.finish(id) {
                Ok(true) => {}
                Ok(false) => self.try_later(id, jobs),
                Err(error) => {
                    eprintln!("job {id}: {error}");
                    self.try_later(id, jobs);
                }
            }
        }
    }

    fn try_later(&self, id: i64, jobs: &Sender<i64>) {
        thread::sleep(PAUSE);
        let _ = jobs.send(id);
    }

    /// Returns whether the job has ended. Can be killed anywhere and called again.
    fn finish(&self, id: i64) -> Result<bool> {
        let query = "SELECT image FROM job WHERE id = ?1";
        let image: String = self.database.query_row(query, [id], |row| row.get(0))?;
        let (state, error) = match self.generate(id, image) {
            Ok(()) => ("done", None),
            Err(error) => {
                // These stay what they are. All others may pass, even a create whose outcome is
                // unknown: the API's log lags.
                let is_final =
                    matches!(error.kind(), ErrorKind::GenerationFailed | ErrorKind::InvalidRequest);
                (if is_final { "failed" } else { "open" }, Some(error.to_string()))
            }
        };
        let update = "UPDATE job SET state = ?2, error = ?3 WHERE id = ?1";
        self.database.execute(update, (id, state, error))?;
        Ok(state != "open")
    }

    fn generate(&self, id: i64, image: String) -> kling_video::Result<()> {
        // Only a URL: a stranger's path would be a file of this machine.
        let request = ImageToVideo::new(Image::url(image));
        let mut journal = SqliteJournal { connection: &self.database, job: id };
        let video = self.client.generate_recorded(&request, &mut journal)?;
        self.client.download(&video, video_path(&self.dir, id))?;
        Ok(())
    }
}
