//! The servers that the programs talk to. They run in a separate process, so that their work and
//! memory are not attributed to a client.
//!
//! That process is this program, started with a hidden argument. It prints its base URL as a line
//! of JSON, then reads one command per line and prints one line of JSON for each. It exits when its
//! input is closed.

mod tls;

use std::io::{BufRead, BufReader, Lines, Write, stdin};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use kling_video::sandbox::{Endpoint, Sandbox};
use kling_video::{Image, ImageToVideo, WaitOptions};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

/// The argument that makes this program a server process.
pub const SERVE: &str = "--serve";

/// 20 MB, the size of the largest videos.
const VIDEO_LEN: usize = 20_000_000;

#[derive(Clone, Copy, Debug)]
pub enum ServerKind {
    /// The crate's mock server, which validates every request.
    Sandbox,
    /// A small server that records its TLS handshakes.
    Tls,
}

/// A server process, which exits when this is dropped.
pub struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    pub url: String,
}

impl Server {
    pub fn start(kind: ServerKind) -> Result<Server> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([SERVE, &format!("{kind:?}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot start the server process")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no output")?).lines();
        let mut server = Server { child, input, output, url: String::new() };
        server.url = server.read_line()?;
        Ok(server)
    }

    /// Sends a command to the server process and returns its result.
    pub fn command<T: DeserializeOwned>(&mut self, command: &str) -> Result<T> {
        writeln!(self.input.as_mut().context("no input")?, "{command}")?;
        self.read_line()
    }

    fn read_line<T: DeserializeOwned>(&mut self) -> Result<T> {
        let line = self.output.next().context("the server process has exited")??;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

/// Runs the server process until its input is closed.
pub fn serve(kind: &str) -> Result<()> {
    match kind {
        "Sandbox" => {
            let sandbox = Sandbox::start()?;
            sandbox.complete_after_polls(0);
            run_commands(&sandbox.url(), |command, number| run_command(&sandbox, command, number))
        }
        "Tls" => {
            let server = tls::TlsServer::start()?;
            run_commands(&server.url(), |command, _| server.command(command))
        }
        _ => bail!("unknown server `{kind}`"),
    }
}

fn run_commands(url: &str, mut run: impl FnMut(&str, u64) -> Result<Value>) -> Result<()> {
    println!("{}", json!(url));
    for line in stdin().lines() {
        let line = line?;
        let (command, number) = line.split_once(' ').unwrap_or((&line, "0"));
        println!("{}", run(command, number.parse()?)?);
    }
    Ok(())
}

fn run_command(sandbox: &Sandbox, command: &str, number: u64) -> Result<Value> {
    match command {
        "complete-after-polls" => sandbox.complete_after_polls(u32::try_from(number)?),
        "delay-polls" => {
            sandbox.set_response_delay(Endpoint::Retrieve, Duration::from_millis(number));
        }
        "large-video" => {
            sandbox.set_video(video(VIDEO_LEN));
            let options = WaitOptions::new().initial_delay(Duration::ZERO);
            let client = sandbox.client_builder().wait_options(options).build()?;
            return Ok(json!(client.generate(&request())?.url));
        }
        "create" => return create(sandbox, number),
        "requests" => {
            let requests = sandbox.requests();
            let heads = requests.iter().map(|r| json!([r.method, r.target, r.headers]));
            return Ok(heads.collect());
        }
        _ => bail!("unknown command `{command}`"),
    }
    Ok(Value::Null)
}

/// Creates `n` generations and returns their ids.
fn create(sandbox: &Sandbox, n: u64) -> Result<Value> {
    let client = sandbox.client_builder().build()?;
    let ids = (0..n).map(|_| Ok(client.create(&request())?.id.to_string()));
    Ok(Value::from(ids.collect::<Result<Vec<String>>>()?))
}

fn request() -> ImageToVideo {
    ImageToVideo::new(Image::url("https://example.com/cat.jpg"))
}

/// A file with the boxes of a complete MP4: `ftyp`, `moov`, and `mdat` up to the end.
fn video(len: usize) -> Vec<u8> {
    let mut video = b"\0\0\0\x0cftypisom\0\0\0\x08moov".to_vec();
    let mdat_len = len - video.len();
    video.extend((mdat_len as u32).to_be_bytes());
    video.extend(b"mdat");
    video.resize(len, 7);
    video
}
