//! A worker: claims a job, runs it, stores the video's path, and takes the next.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use kling_video::{CancelToken, Client, ErrorKind, Image, ImageToVideo};

use crate::database::{Database, Job, JobJournal};
use crate::{Result, describe};

pub struct Worker {
    pub database: Database,
    pub client: Client,
    /// The directory of the videos, an absolute path.
    pub out: String,
    /// How long to wait when there is nothing to do, and after an error.
    pub pause: Duration,
}

impl Worker {
    /// Works until no job is open; with `forever`, until it is killed.
    pub fn run(&self, forever: bool) {
        let is_finished = || !forever && self.database.has_open_jobs().is_ok_and(|open| !open);
        loop {
            match self.take_job() {
                Ok(true) => continue,
                Ok(false) if is_finished() => return,
                Ok(false) => {}
                Err(error) => eprintln!("{}", describe(&*error)),
            }
            thread::sleep(self.pause);
        }
    }

    /// Whether a job was done.
    fn take_job(&self) -> Result<bool> {
        let Some(job) = self.database.claim(None)? else { return Ok(false) };
        let error = match self.run_job(&job) {
            Ok(video) => {
                self.database.done(&job, &video)?;
                println!("job {}: {video}", job.id);
                return Ok(true);
            }
            Err(error) => error,
        };
        // Trying these again cannot help. All others may pass: even a create whose outcome is
        // unknown may be in the API's log later.
        let state = match error.kind() {
            ErrorKind::GenerationFailed | ErrorKind::InvalidRequest => "failed",
            _ => "open",
        };
        let message = describe(&error);
        self.database.release(&job, state, Some(&message))?;
        Err(format!("job {}: {message}", job.id).into())
    }

    /// Returns the path of the whole video. Can be killed anywhere: the next worker continues.
    fn run_job(&self, job: &Job) -> kling_video::Result<String> {
        let lease_lost = CancelToken::new();
        let client = self.client.with_cancel_token(lease_lost.clone());
        let mut journal = JobJournal { database: &self.database, job: job.id };
        thread::scope(|scope| {
            // Dropped when the job ends, which ends the thread.
            let (_working, ended) = channel();
            scope.spawn(move || self.keep_lease(job, &ended, &lease_lost));
            let video = client.generate_recorded(&request(job), &mut journal)?;
            // With the generation's id in its name, a file that is replaced is the same video.
            let id = video.id.as_str().replace(|c: char| !c.is_ascii_alphanumeric(), "-");
            let path = format!("{}/{}-{id}.mp4", self.out, job.id);
            client.download(&video, &path)?;
            Ok(path)
        })
    }

    /// Renews the lease until the job ends. If another worker has it, this one stops: not because
    /// both could pay, but because one is enough.
    fn keep_lease(&self, job: &Job, ended: &Receiver<()>, lease_lost: &CancelToken) {
        while ended.recv_timeout(self.database.lease / 3) == Err(RecvTimeoutError::Timeout) {
            match self.database.renew(job) {
                Ok(true) => {}
                Ok(false) => return lease_lost.cancel(),
                // The next attempt may reach the database in time.
                Err(error) => eprintln!("job {}: {}", job.id, describe(&*error)),
            }
        }
    }
}

fn request(job: &Job) -> ImageToVideo {
    let image = if is_url(&job.image) { Image::url(&job.image) } else { Image::file(&job.image) };
    let request = ImageToVideo::new(image);
    if job.prompt.is_empty() { request } else { request.prompt(&job.prompt) }
}

pub fn is_url(image: &str) -> bool {
    image.starts_with("https://") || image.starts_with("http://")
}
