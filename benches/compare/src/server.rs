//! The servers that the implementations talk to. They run in a separate process, so that their work
//! and memory are not attributed to a client.
//!
//! That process is this program, started with a hidden argument. It prints its base URL as a line
//! of JSON, then reads one command per line and prints one line of JSON for each. It exits when its
//! input is closed.

mod http;
mod minimal;
mod tls;

use std::io::{BufRead, BufReader, Lines, Write, stdin};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use kling_video::sandbox::Sandbox;
use kling_video::{Image, ImageToVideo};
use serde_json::{Value, json};

/// The argument that makes this program a server process.
pub const SERVE: &str = "--serve";

#[derive(Clone, Copy, Debug)]
pub enum ServerKind {
    /// The crate's mock server, which validates every request.
    Sandbox,
    /// A fast server that validates nothing. It can record requests and delay responses.
    Minimal,
    /// The same server over TLS, which records its handshakes.
    Tls,
}

// ---------------------------------------------------------------- parent process

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
        let url = server.read_line()?;
        server.url = url.as_str().context("URL is not a string")?.to_owned();
        Ok(server)
    }

    /// Sends a command to the server process and returns its result.
    pub fn command(&mut self, command: &str) -> Result<Value> {
        writeln!(self.input.as_mut().context("no input")?, "{command}")?;
        self.read_line()
    }

    fn read_line(&mut self) -> Result<Value> {
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

// ---------------------------------------------------------------- server process

/// Runs the server process until its input is closed.
pub fn serve(kind: &str) -> Result<()> {
    match kind {
        "Sandbox" => {
            let sandbox = Sandbox::start()?;
            sandbox.complete_after_polls(0);
            run_commands(&sandbox.url(), |command, number| match command {
                "complete-after-polls" => {
                    sandbox.complete_after_polls(u32::try_from(number)?);
                    Ok(Value::Null)
                }
                "create" => create(&sandbox, number),
                _ => bail!("unknown command `{command}`"),
            })
        }
        "Minimal" => {
            let server = minimal::MinimalServer::start()?;
            run_commands(&server.url(), |command, number| server.command(command, number))
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

/// Creates `n` generations and returns their ids.
fn create(sandbox: &Sandbox, n: u64) -> Result<Value> {
    let client = sandbox.client_builder().build()?;
    let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
    let ids = (0..n).map(|_| Ok(client.create(&request)?.id.to_string()));
    Ok(Value::from(ids.collect::<Result<Vec<String>>>()?))
}
