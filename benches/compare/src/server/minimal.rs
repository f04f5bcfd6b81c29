//! A server that does as little as possible, so that what is measured is the client. It accepts
//! every request, returns fixed responses to creates and polls, and serves one large video.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::http::{Connection, Request};

/// 20 MB, the size of the largest videos.
const VIDEO_LEN: usize = 20_000_000;
const VIDEO_PATH: &str = "/video.mp4";

pub(super) struct MinimalServer {
    port: u16,
    api: Arc<Api>,
}

/// The API, shared by all connections.
pub(super) struct Api {
    pub(super) origin: String,
    video: Vec<u8>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    created: u64,
    /// Delay of every response to a poll.
    poll_delay: Duration,
    /// The number of polls for which a generation is pending.
    pending_polls: usize,
    /// The times at which each generation was polled.
    polls: HashMap<String, Vec<Instant>>,
    /// The requests received while recording.
    recording: Option<Vec<Value>>,
}

impl MinimalServer {
    pub(super) fn start() -> Result<MinimalServer> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let api = Arc::new(Api::new(format!("http://127.0.0.1:{port}")));
        let shared = Arc::clone(&api);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let api = Arc::clone(&shared);
                thread::spawn(move || handle_connection(stream, &api));
            }
        });
        Ok(MinimalServer { port, api })
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn command(&self, command: &str, number: u64) -> Result<Value> {
        let mut state = self.api.state();
        match command {
            "set-response-delay" => state.poll_delay = Duration::from_millis(number),
            "complete-after-polls" => state.pending_polls = usize::try_from(number)?,
            "start-recording" => state.recording = Some(Vec::new()),
            "take-recording" => return Ok(state.recording.take().unwrap_or_default().into()),
            "poll-times" => return Ok(poll_times(&state.polls)),
            _ => bail!("unknown command `{command}`"),
        }
        Ok(Value::Null)
    }
}

/// Serves a connection until it is closed or fails; the client reports failures.
fn handle_connection(stream: TcpStream, api: &Api) {
    let _ = stream.set_nodelay(true);
    let mut connection = Connection::new(stream);
    while let Ok(Some(request)) = connection.next_request(api.is_recording()) {
        if api.handle(&mut connection, &request).is_err() {
            return;
        }
    }
}

impl Api {
    pub(super) fn new(origin: String) -> Api {
        Api { origin, video: video(VIDEO_LEN), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_recording(&self) -> bool {
        self.state().recording.is_some()
    }

    pub(super) fn handle(
        &self,
        connection: &mut Connection<impl Read + Write>,
        request: &Request,
    ) -> std::io::Result<()> {
        if let Some(recording) = &mut self.state().recording {
            recording.push(json!({
                "head": request.head,
                "body_len": request.body_len,
                "body_hash": request.body_hash,
            }));
        }
        if request.target() == VIDEO_PATH {
            return connection.respond("video/mp4", &self.video);
        }
        let body = match request.method() {
            "POST" => self.create(),
            _ => self.retrieve(request.target()),
        };
        connection.respond("application/json; charset=utf-8", body.to_string().as_bytes())
    }

    fn create(&self) -> Value {
        let mut state = self.state();
        state.created += 1;
        json!({ "id": format!("{:018}", state.created), "status": "queued" })
    }

    fn retrieve(&self, target: &str) -> Value {
        let id = target.split_once("generation_id=").map_or("", |(_, id)| id);
        let (delay, completed) = {
            let mut state = self.state();
            let (delay, pending) = (state.poll_delay, state.pending_polls);
            let polls = state.polls.entry(id.to_owned()).or_default();
            polls.push(Instant::now());
            (delay, polls.len() > pending)
        };
        thread::sleep(delay);
        if !completed {
            return json!({ "id": id, "status": "generating" });
        }
        json!({
            "id": id, "status": "completed",
            "video": { "url": format!("{}{VIDEO_PATH}", self.origin), "duration": 5 },
        })
    }
}

/// The times at which each generation was polled, in milliseconds since the very first poll.
fn poll_times(polls: &HashMap<String, Vec<Instant>>) -> Value {
    let Some(first) = polls.values().flatten().min() else { return json!([]) };
    let since_first = |at: &Instant| at.duration_since(*first).as_millis() as u64;
    polls.values().map(|times| times.iter().map(since_first).collect::<Value>()).collect()
}

/// A file with the boxes of a complete MP4: `ftyp`, `moov`, and `mdat` up to the end.
fn video(len: usize) -> Vec<u8> {
    let mut video = b"\0\0\0\x0cftypisom\0\0\0\x08moov".to_vec();
    let mdat_len = len - video.len();
    video.extend((mdat_len as u32).to_be_bytes());
    video.extend(b"mdat");
    video.extend((video.len()..len).map(|i| (i * 7 + i / 251) as u8));
    video
}
