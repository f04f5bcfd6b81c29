//! Workers that are killed, paused and cut off from the database at random do each job once.
//!
//! PostgreSQL is the installed one, started on a socket in a temporary directory; the API is the
//! sandbox, in this process.

use std::fs::{self, File};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use kling_video::sandbox::{Endpoint, Sandbox};
use postgres::NoTls;

const JOBS: usize = 60;
const WORKERS: usize = 3;
const LEASE: Duration = Duration::from_secs(1);
const TIMEOUT: Duration = Duration::from_secs(100);

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    // PostgreSQL's user has to reach its own directory in this one.
    fs::set_permissions(root, fs::Permissions::from_mode(0o711)).unwrap();
    let postgres = Postgres::start(root.join("postgres"));
    let sandbox = Sandbox::start().unwrap();
    sandbox.set_response_delay(Endpoint::Create, Duration::from_millis(100));
    sandbox.set_response_delay(Endpoint::Retrieve, Duration::from_millis(30));
    sandbox.set_response_delay(Endpoint::Video, Duration::from_millis(50));
    let mut fleet = Fleet {
        root,
        sandbox_url: sandbox.url(),
        key: sandbox.key().to_owned(),
        workers: Vec::new(),
    };

    let images: Vec<_> = (0..JOBS).map(|job| root.join(format!("{job}.jpg"))).collect();
    for image in &images {
        fs::copy("../../tests/fixtures/image.jpg", image).unwrap();
    }
    let submit = || fleet.command(&postgres.dir).arg("submit").args(&images).output().unwrap();
    assert_eq!(stdout(submit()), format!("{JOBS} jobs added; 0 were there already\n"));
    assert_eq!(stdout(submit()), format!("0 jobs added; {JOBS} were there already\n"));

    let mut database = postgres.connect().unwrap();
    for number in 0..WORKERS {
        fleet.start_worker(number, &postgres.dir);
    }
    let (mut kills, mut pauses, mut partitions, mut abandoned) = (0, 0, 0, 0);
    let mut next_disturbance = 1;
    let started = Instant::now();
    while count(&mut database, "SELECT count(*) FROM fleet_jobs WHERE state <> 'done'") > 0 {
        if started.elapsed() > TIMEOUT {
            let log = fs::read_to_string(root.join("log")).unwrap();
            log.lines().rev().take(20).for_each(|line| println!("{line}"));
            println!("{}", stdout(fleet.command(&postgres.dir).arg("status").output().unwrap()));
            panic!("not finished after {TIMEOUT:?}");
        }
        sleep(Duration::from_millis(20));
        fleet.heal(&postgres.dir);
        // By progress and not by time, so that a slow machine does not fall behind.
        let entries = count(&mut database, "SELECT count(*) FROM fleet_journal");
        if entries >= next_disturbance {
            next_disturbance = entries + 1 + random(7);
            sleep(Duration::from_millis(random(300) as u64));
            let number = random(WORKERS);
            let worker = &mut fleet.workers[number];
            match random(8) {
                _ if worker.disturbed_until.is_some() => {}
                // Two leases long, so that another worker takes its job over.
                0 => {
                    worker.signal("STOP");
                    worker.disturbed_until = Some(Instant::now() + 2 * LEASE);
                    pauses += 1;
                }
                1 => {
                    fs::remove_file(&worker.socket_dir).unwrap();
                    worker.disturbed_until = Some(Instant::now() + 2 * LEASE);
                    partitions += 1;
                }
                _ => {
                    worker.kill();
                    fleet.start_worker(number, &postgres.dir);
                    kills += 1;
                }
            }
        }
        // A create that was recorded and then killed before it was sent: the worker cannot know
        // that, so a person decides. Here, the sandbox knows. No worker may still be about to send it.
        for (job, client_request_id) in unknown_creates(&mut database) {
            fleet.workers.iter_mut().for_each(Worker::kill);
            kills += WORKERS;
            sleep(2 * LEASE);
            let received = |id: &Option<String>| id.as_deref() == Some(&*client_request_id);
            if !sandbox.generations().iter().any(|sent| received(&sent.client_request_id)) {
                let abandon = ["abandon".to_owned(), job.to_string()];
                stdout(fleet.command(&postgres.dir).args(abandon).output().unwrap());
                abandoned += 1;
            }
            (0..WORKERS).for_each(|number| fleet.start_worker(number, &postgres.dir));
        }
    }
    drop(fleet.workers.drain(..));

    // A worker with nothing left to do ends.
    stdout(fleet.command(&postgres.dir).arg("work").current_dir(root).output().unwrap());
    let status = stdout(fleet.command(&postgres.dir).arg("status").output().unwrap());
    assert_eq!(status.matches("  done, completed").count(), JOBS, "{status}");
    let creates = sandbox.generations().len();
    assert_eq!(creates, JOBS, "{status}");
    let ids = "SELECT count(DISTINCT (job, entry ->> 'id')) FROM fleet_journal
               WHERE entry ->> 'step' IN ('created', 'completed')";
    assert_eq!(count(&mut database, ids), JOBS, "a job has two generations");
    let videos = database.query("SELECT DISTINCT video FROM fleet_jobs", &[]).unwrap();
    let is_whole = |path: &str| fs::read(path).unwrap() == sandbox.default_video();
    let whole = videos.iter().filter(|row| is_whole(row.get(0))).count();
    assert_eq!(whole, JOBS);
    println!(
        "fleet: {JOBS} jobs, {WORKERS} workers, {kills} kills, {pauses} pauses, {partitions} \
         partitions, {abandoned} unsent creates abandoned, {} s: {creates} creates, {whole} whole \
         videos",
        started.elapsed().as_secs()
    );
}

fn count(database: &mut postgres::Client, query: &str) -> usize {
    database.query_one(query, &[]).unwrap().get::<_, i64>(0) as usize
}

/// The jobs whose create has no known outcome although a worker has searched the API's log for it.
fn unknown_creates(database: &mut postgres::Client) -> Vec<(i64, String)> {
    let query = "SELECT job, entry ->> 'client_request_id' FROM fleet_journal AS newest
                 JOIN fleet_jobs ON job = id AND state = 'open' AND error LIKE '%does not list it%'
                 WHERE entry ->> 'step' = 'sending' AND position =
                     (SELECT max(position) FROM fleet_journal WHERE job = newest.job)";
    let rows = database.query(query, &[]).unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn stdout(output: std::process::Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

fn random(below: usize) -> usize {
    RandomState::new().build_hasher().finish() as usize % below
}

struct Fleet<'a> {
    root: &'a Path,
    sandbox_url: String,
    key: String,
    workers: Vec<Worker>,
}

struct Worker {
    process: Child,
    /// A link to the directory of PostgreSQL's socket. Without it, the worker is cut off.
    socket_dir: PathBuf,
    disturbed_until: Option<Instant>,
}

impl Fleet<'_> {
    fn command(&self, socket_dir: &Path) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fleet"));
        command.env(
            "DATABASE_URL",
            format!("host={} user=fleet dbname=postgres", socket_dir.display()),
        );
        command.env("KLING_BASE_URL", &self.sandbox_url).env("AIML_API_KEY", &self.key);
        command.env("NO_PROXY", "*");
        command
    }

    fn start_worker(&mut self, number: usize, postgres: &Path) {
        let socket_dir = self.root.join(format!("worker-{number}"));
        let _ = fs::remove_file(&socket_dir);
        symlink(postgres, &socket_dir).unwrap();
        let mut command = self.command(&socket_dir);
        command.args(["work", "--forever", "--interval", "0.05", "--out"]);
        command.arg(self.root.join("videos"));
        command.args(["--lease", &LEASE.as_secs().to_string()]);
        let log = File::options().create(true).append(true).open(self.root.join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log);
        let process = command.spawn().unwrap();
        let worker = Worker { process, socket_dir, disturbed_until: None };
        match self.workers.get_mut(number) {
            Some(killed) => *killed = worker,
            None => self.workers.push(worker),
        }
    }

    /// Ends the pauses and partitions whose time has come.
    fn heal(&mut self, postgres: &Path) {
        for worker in &mut self.workers {
            assert!(worker.process.try_wait().unwrap().is_none(), "a worker has ended");
            if worker.disturbed_until.is_some_and(|until| until <= Instant::now()) {
                worker.disturbed_until = None;
                worker.signal("CONT");
                let _ = symlink(postgres, &worker.socket_dir);
            }
        }
    }
}

impl Worker {
    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").args(["-s", signal, &pid]).status().unwrap().success());
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A PostgreSQL server of its own, as an unprivileged user: `initdb` does not run as root.
struct Postgres {
    dir: PathBuf,
    user: Option<(u32, u32)>,
    server: Option<Child>,
}

impl Postgres {
    fn start(dir: PathBuf) -> Self {
        let id = |args: &[&str]| stdout(Command::new("id").args(args).output().unwrap());
        let id = |args: &[&str]| id(args).trim().parse::<u32>().unwrap();
        let is_root = id(&["-u"]) == 0;
        let user = is_root.then(|| (id(&["-u", "postgres"]), id(&["-g", "postgres"])));
        fs::create_dir(&dir).unwrap();
        if let Some((user, group)) = user {
            chown(&dir, Some(user), Some(group)).unwrap();
        }
        let mut postgres = Self { dir, user, server: None };
        let initdb = ["-D", "data", "-U", "fleet", "-A", "trust", "-E", "UTF8", "--no-locale"];
        let mut command = Command::new(Self::program("initdb"));
        stdout(postgres.as_user(command.args(initdb)).output().unwrap());
        // The shell stops the server when its stdin is closed, also if this process is killed.
        let mut server = Command::new("sh");
        server.args(["-c", r#""$@" & read -r _; kill -QUIT $!; wait $!"#, "sh"]);
        server.arg(Self::program("postgres")).args(["-D", "data", "-c", "listen_addresses=", "-k"]);
        server.arg(&postgres.dir);
        let log = File::create(postgres.dir.join("log")).unwrap();
        let server = postgres.as_user(&mut server).stdin(Stdio::piped()).stderr(log).spawn();
        postgres.server = Some(server.unwrap());
        let started = Instant::now();
        while let Err(error) = postgres.connect() {
            let log = || fs::read_to_string(postgres.dir.join("log")).unwrap();
            assert!(started.elapsed() < Duration::from_secs(30), "{error}: {}", log());
            sleep(Duration::from_millis(50));
        }
        postgres
    }

    fn connect(&self) -> Result<postgres::Client, postgres::Error> {
        let mut config = postgres::Config::new();
        config.host_path(&self.dir).user("fleet").dbname("postgres").connect(NoTls)
    }

    /// A program of the newest installed version, as Debian installs it, or of the `PATH`.
    fn program(program: &str) -> PathBuf {
        let versions = fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
        let dirs = versions.map(|version| version.path().join("bin"));
        dirs.filter(|dir| dir.join("initdb").exists()).max().unwrap_or_default().join(program)
    }

    fn as_user<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        if let Some((user, group)) = self.user {
            command.uid(user).gid(group);
        }
        command.current_dir(&self.dir)
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // Closes its stdin.
        let _ = self.server.as_mut().map(Child::wait);
    }
}
