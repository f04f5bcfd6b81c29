//! A web worker that is killed ten times finishes every job that it accepted, and pays once for each.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Sandbox, Script};
use kling_video::{Journal as _, JournalEntry};
use recipes::sqlite_journal::SqliteJournal;
use rusqlite::Connection;

const JOBS: usize = 12;
const KILLS: usize = 10;
const TIMEOUT: Duration = Duration::from_secs(120);

#[test]
fn worker_killed_ten_times_pays_once_for_each_job() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start().unwrap();
    for endpoint in [Endpoint::Create, Endpoint::Retrieve, Endpoint::Video] {
        sandbox.set_response_delay(endpoint, Duration::from_millis(15));
    }
    let mut worker = Worker::start(&sandbox, dir.path());
    let database = Connection::open(dir.path().join("jobs.sqlite")).unwrap();
    // The second request for the first job changes nothing.
    for job in (0..JOBS).chain([0]) {
        assert_eq!(worker.put(&job.to_string()).0, 202);
    }
    for kill in 0..KILLS {
        // After some progress and not some time, so that it does not depend on the machine's speed.
        let requests = sandbox.requests().len() + 2 + kill % 5;
        while sandbox.requests().len() < requests && open_jobs(&database) > 0 {
            sleep(Duration::from_millis(1));
        }
        worker.kill();
        worker = Worker::start(&sandbox, dir.path());
    }
    let started = Instant::now();
    while open_jobs(&database) > 0 {
        assert!(started.elapsed() < TIMEOUT, "not finished in time");
        sleep(Duration::from_millis(10));
        if !unsent_creates(&sandbox, &database).is_empty() {
            worker.kill();
            for job in unsent_creates(&sandbox, &database) {
                println!("job {job}: killed before its create was sent");
                SqliteJournal { connection: &database, job }.abandon().unwrap();
            }
            worker = Worker::start(&sandbox, dir.path());
        }
    }
    let paid = sandbox.generations();
    let images: BTreeSet<_> = paid.iter().map(|paid| paid.request["image_url"].as_str()).collect();
    assert_eq!((images.len(), paid.len()), (JOBS, JOBS));
    for job in 0..JOBS {
        assert_eq!(worker.get(&job.to_string()), (200, sandbox.default_video().to_vec()));
    }
}

#[test]
fn worker_reports_pending_failed_and_unknown_jobs() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = Sandbox::start().unwrap();
    sandbox.set_script(|generation| {
        let is_slow = generation.request["image_url"] == "https://example.com/slow.jpg";
        let script = Script::new();
        Some(match is_slow {
            true => script.complete_after_polls(u32::MAX),
            false => script.failure("ContentPolicyViolation", "The image was rejected"),
        })
    });
    let worker = Worker::start(&sandbox, dir.path());
    assert_eq!(worker.get("slow").0, 404);
    assert_eq!(worker.put("slow"), (202, Vec::new()));
    assert_eq!(worker.get("slow"), (202, Vec::new()));
    assert_eq!(worker.put("moderated").0, 202);
    let (status, body) = loop {
        match worker.get("moderated") {
            (202, _) => sleep(Duration::from_millis(2)),
            response => break response,
        }
    };
    let message = String::from_utf8(body).unwrap();
    assert!(status == 500 && message.contains("The image was rejected"), "{status} {message}");
}

fn open_jobs(database: &Connection) -> i64 {
    let query = "SELECT count(*) FROM job WHERE state = 'open'";
    database.query_row(query, [], |row| row.get(0)).unwrap()
}

/// The jobs that cannot go on, since they were killed after `sending` was recorded and before the
/// create was sent. Only the sandbox knows that; in production a person decides.
fn unsent_creates(sandbox: &Sandbox, database: &Connection) -> Vec<i64> {
    let query = "SELECT id FROM job WHERE state = 'open' AND error IS NOT NULL";
    let mut query = database.prepare(query).unwrap();
    let jobs = query.query_map([], |row| row.get(0)).unwrap().map(Result::unwrap);
    let received = sandbox.generations();
    let is_unsent = |job: &i64| {
        let entries = SqliteJournal { connection: database, job: *job }.entries().unwrap();
        let sent = entries.last().and_then(JournalEntry::client_request_id);
        sent.is_some() && !received.iter().any(|paid| paid.client_request_id.as_deref() == sent)
    };
    jobs.filter(is_unsent).collect()
}

struct Worker {
    process: Child,
    address: String,
}

impl Worker {
    fn start(sandbox: &Sandbox, dir: &Path) -> Worker {
        let mut process = Command::new(env!("CARGO_BIN_EXE_web_worker"))
            .args(["127.0.0.1:0".as_ref(), dir.as_os_str()])
            .env("AIML_API_KEY", sandbox.key())
            .env("KLING_BASE_URL", sandbox.url())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("listening on ").unwrap().to_owned();
        Worker { process, address }
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn put(&self, name: &str) -> (u16, Vec<u8>) {
        self.request("PUT", name, &format!("https://example.com/{name}.jpg"))
    }

    fn get(&self, name: &str) -> (u16, Vec<u8>) {
        self.request("GET", name, "")
    }

    /// Returns the status and the body of the response.
    fn request(&self, method: &str, name: &str, body: &str) -> (u16, Vec<u8>) {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        let length = body.len();
        let request = format!(
            "{method} /videos/{name} HTTP/1.0\r\nHost: a\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = Vec::new();
        stream.read_to_end(&mut response).unwrap();
        let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap();
        let head = String::from_utf8(response[..end].to_vec()).unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, response[end + 4..].to_vec())
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
