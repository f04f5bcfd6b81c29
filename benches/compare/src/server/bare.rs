//! A server that takes everything and keeps out of the way: what is measured against it is the
//! client. It answers creates and looks with one fixed answer each, and serves one large video.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::http::{Connection, Request};

/// 20 MB, as the largest videos are.
const VIDEO_BYTES: usize = 20_000_000;
const VIDEO_PATH: &str = "/video.mp4";

pub(super) struct Bare {
    port: u16,
    api: Arc<Api>,
}

/// What all connections share.
pub(super) struct Api {
    pub(super) origin: String,
    video: Vec<u8>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    created: u64,
    /// Each look is answered so late.
    delay: Duration,
    /// A generation is pending for so many looks.
    pending: usize,
    /// When each generation was looked at.
    looks: HashMap<String, Vec<Instant>>,
    /// What was sent, where that is kept.
    record: Option<Vec<Value>>,
}

impl Bare {
    pub(super) fn start() -> Result<Bare> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let api = Arc::new(Api::new(format!("http://127.0.0.1:{port}")));
        let shared = Arc::clone(&api);
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let api = Arc::clone(&shared);
                thread::spawn(move || attend(stream, &api));
            }
        });
        Ok(Bare { port, api })
    }

    pub(super) fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    pub(super) fn command(&self, command: &str, number: u64) -> Result<Value> {
        let mut state = self.api.state();
        match command {
            "delay" => state.delay = Duration::from_millis(number),
            "pending" => state.pending = usize::try_from(number)?,
            "record" => state.record = Some(Vec::new()),
            "recorded" => return Ok(state.record.take().unwrap_or_default().into()),
            "looks" => return Ok(looks(&state.looks)),
            _ => bail!("no command {command}"),
        }
        Ok(Value::Null)
    }
}

fn attend(stream: TcpStream, api: &Api) {
    // A client that goes away in the middle is not this server's concern.
    let _ = stream.set_nodelay(true);
    let mut connection = Connection::new(stream);
    while let Ok(Some(request)) = connection.next(api.is_recording()) {
        if api.answer(&mut connection, &request).is_err() {
            return;
        }
    }
}

impl Api {
    pub(super) fn new(origin: String) -> Api {
        Api { origin, video: video(VIDEO_BYTES), state: Mutex::default() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_recording(&self) -> bool {
        self.state().record.is_some()
    }

    pub(super) fn answer(
        &self,
        connection: &mut Connection<impl Read + Write>,
        request: &Request,
    ) -> std::io::Result<()> {
        if let Some(record) = &mut self.state().record {
            record.push(json!({
                "head": request.head,
                "body_bytes": request.body_bytes,
                "body_hash": request.body_hash,
            }));
        }
        if request.target() == VIDEO_PATH {
            return connection.answer("video/mp4", &self.video);
        }
        let answer = match request.method() {
            "POST" => self.create(),
            _ => self.look(request.target()),
        };
        connection.answer("application/json; charset=utf-8", answer.to_string().as_bytes())
    }

    fn create(&self) -> Value {
        let mut state = self.state();
        state.created += 1;
        json!({ "id": format!("{:018}", state.created), "status": "queued" })
    }

    fn look(&self, target: &str) -> Value {
        let id = target.split_once("generation_id=").map_or("", |(_, id)| id);
        let (delay, done) = {
            let mut state = self.state();
            let (delay, pending) = (state.delay, state.pending);
            let looks = state.looks.entry(id.to_owned()).or_default();
            looks.push(Instant::now());
            (delay, looks.len() > pending)
        };
        thread::sleep(delay);
        if !done {
            return json!({ "id": id, "status": "generating" });
        }
        json!({
            "id": id, "status": "completed",
            "video": { "url": format!("{}{VIDEO_PATH}", self.origin), "duration": 5 },
        })
    }
}

/// When each generation was looked at, in milliseconds since the first look of all.
fn looks(looks: &HashMap<String, Vec<Instant>>) -> Value {
    let Some(first) = looks.values().flatten().min() else { return json!([]) };
    let since = |at: &Instant| at.duration_since(*first).as_millis() as u64;
    looks.values().map(|times| times.iter().map(since).collect::<Value>()).collect()
}

/// A file that is an MP4 as far as its boxes go: type, index, and data to its end.
fn video(length: usize) -> Vec<u8> {
    let mut video = b"\0\0\0\x0cftypisom\0\0\0\x08moov".to_vec();
    let data = length - video.len();
    video.extend((data as u32).to_be_bytes());
    video.extend(b"mdat");
    video.extend((video.len()..length).map(|i| (i * 7 + i / 251) as u8));
    video
}
