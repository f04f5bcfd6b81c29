//! Any number of workers, on any number of machines, over one PostgreSQL table. See README.md.

mod database;
mod worker;

use std::error::Error;
use std::process::ExitCode;
use std::time::Duration;
use std::{env, fs};

use kling_video::{Client, Journal as _, WaitOptions};
use lexopt::prelude::*;

use self::database::{Database, JobJournal};
use self::worker::{Worker, is_url};

type Result<T, E = Box<dyn Error + Send + Sync>> = std::result::Result<T, E>;

const HELP: &str = "\
Turns images into videos with any number of workers, over one PostgreSQL table.

Usage:
  fleet submit [--prompt TEXT] IMAGE...   Add a job for each image, a file or a URL
  fleet work [OPTIONS]                    Do jobs, one after the other, until none is open
  fleet status                            Print all jobs
  fleet abandon JOB                       Give up what a job may have paid for, and open it again

Options of `work`:
  --out DIR            Where to save the videos [default: videos]
  --forever            Wait for new jobs when none is open
  --interval SECONDS   Time between polls [default: 10]
  --lease SECONDS      Time without a heartbeat until another worker takes over [default: 60]

Environment:
  DATABASE_URL         postgres://user:password@host/database, or host=/run/postgresql user=...
  AIML_API_KEY         The API key, for `work`
  KLING_BASE_URL       Another address of the API, such as that of a sandbox
";

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", describe(&*error));
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let mut args = lexopt::Parser::from_env();
    let (mut operands, mut prompt) = (Vec::new(), String::new());
    let (mut out, mut forever) = ("videos".to_owned(), false);
    let (mut interval, mut lease) = (10.0, 60.0);
    while let Some(arg) = args.next()? {
        match arg {
            Short('h') | Long("help") => {
                print!("{HELP}");
                return Ok(());
            }
            Long("prompt") => prompt = args.value()?.string()?,
            Long("out") => out = args.value()?.string()?,
            Long("forever") => forever = true,
            Long("interval") => interval = args.value()?.parse()?,
            Long("lease") => lease = args.value()?.parse()?,
            Value(value) => operands.push(value.string()?),
            _ => return Err(arg.unexpected().into()),
        }
    }
    let url = env::var("DATABASE_URL").map_err(|_| "DATABASE_URL is not set")?;
    let database = Database::new(&url, Duration::try_from_secs_f64(lease)?)?;
    let operands: Vec<_> = operands.iter().map(String::as_str).collect();
    match operands.as_slice() {
        ["submit", images @ ..] if !images.is_empty() => submit(&database, images, &prompt)?,
        ["work"] => {
            let pause = Duration::try_from_secs_f64(interval)?;
            let client = client(pause)?;
            fs::create_dir_all(&out)?;
            let out = absolute(&out)?;
            Worker { database, client, out, pause }.run(forever);
        }
        ["status"] => {
            println!("{:>6}  {:<20}  {:<32}  VIDEO, ERROR OR WORKER", "JOB", "STATE", "IMAGE");
            for [id, state, image, details] in database.status()? {
                println!("{id:>6}  {state:<20}  {image:<32}  {details}");
            }
        }
        ["abandon", job] => abandon(&database, job.parse()?)?,
        _ => return Err("expected submit, work, status or abandon; see --help".into()),
    }
    Ok(())
}

fn client(interval: Duration) -> Result<Client> {
    let options = WaitOptions::new().initial_delay(interval).interval(interval);
    let mut builder = Client::builder_from_env()?.wait_options(options);
    if let Ok(url) = env::var("KLING_BASE_URL") {
        builder = builder.base_url(url);
    }
    Ok(builder.build()?)
}

fn submit(database: &Database, images: &[&str], prompt: &str) -> Result<()> {
    let mut jobs = Vec::new();
    for &image in images {
        jobs.push(if is_url(image) { image.to_owned() } else { absolute(image)? });
    }
    let added = database.submit(&jobs, prompt)?;
    println!("{added} jobs added; {} were there already", jobs.len() as u64 - added);
    Ok(())
}

fn absolute(path: &str) -> Result<String> {
    let absolute = fs::canonicalize(path).map_err(|error| format!("{path}: {error}"))?;
    absolute.into_os_string().into_string().map_err(|_| format!("{path} is not UTF-8").into())
}

fn abandon(database: &Database, id: i64) -> Result<()> {
    let job = database.claim(Some(id))?;
    let job = job.ok_or("there is no such job, it is done, or a worker has it: try again later")?;
    JobJournal { database, job: id }.abandon()?;
    database.release(&job, "open", None)
}

/// An error with its causes, on one line.
fn describe(error: &dyn Error) -> String {
    let mut message = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        message += &format!(": {error}");
        cause = error.source();
    }
    message
}
