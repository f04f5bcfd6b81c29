//! The servers that the contenders talk to, in a process of its own: their work and memory are
//! nobody else's.
//!
//! That process is this program with a hidden argument. It prints its address as one JSON line,
//! then answers each line of its input with another, and ends with its input.

mod bare;
mod http;
mod tls;

use std::io::{BufRead, BufReader, Lines, Write, stdin};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, Result, bail};
use kling_video::{Image, ImageToVideo, Sandbox};
use serde_json::{Value, json};

/// What this program is called with to be the server process.
pub const SERVE: &str = "--serve";

#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// The crate's stand-in for the API, which checks everything.
    Sandbox,
    /// One that reads large bodies at full speed, keeps what it was sent if asked to, and takes
    /// its time if asked to.
    Bare,
    /// The same behind TLS; it counts handshakes.
    Tls,
}

// ---------------------------------------------------------------- from outside

/// A server process. It ends when this is dropped.
pub struct Server {
    child: Child,
    input: Option<ChildStdin>,
    output: Lines<BufReader<ChildStdout>>,
    pub url: String,
}

impl Server {
    pub fn start(kind: Kind) -> Result<Server> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([SERVE, &format!("{kind:?}")])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("the server process cannot be started")?;
        let input = child.stdin.take();
        let output = BufReader::new(child.stdout.take().context("no output")?).lines();
        let mut server = Server { child, input, output, url: String::new() };
        let url = server.answer()?;
        server.url = url.as_str().context("no address")?.to_owned();
        Ok(server)
    }

    /// Has the server do something, and gives what it has to say.
    pub fn ask(&mut self, command: &str) -> Result<Value> {
        writeln!(self.input.as_mut().context("no input")?, "{command}")?;
        self.answer()
    }

    fn answer(&mut self) -> Result<Value> {
        let line = self.output.next().context("the server process has ended")??;
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.input = None;
        let _ = self.child.wait();
    }
}

// ---------------------------------------------------------------- from inside

/// The server process's whole life.
pub fn serve(kind: &str) -> Result<()> {
    match kind {
        "Sandbox" => {
            let sandbox = Sandbox::start()?;
            sandbox.finish_after(0);
            converse(&sandbox.url(), |command, number| match command {
                "finish-after" => {
                    sandbox.finish_after(u32::try_from(number)?);
                    Ok(Value::Null)
                }
                "create" => create(&sandbox, number),
                _ => bail!("no command {command}"),
            })
        }
        "Bare" => {
            let server = bare::Bare::start()?;
            converse(&server.url(), |command, number| server.command(command, number))
        }
        "Tls" => {
            let server = tls::Tls::start()?;
            converse(&server.url(), |command, _| server.command(command))
        }
        _ => bail!("no server {kind}"),
    }
}

fn converse(url: &str, mut act: impl FnMut(&str, u64) -> Result<Value>) -> Result<()> {
    println!("{}", json!(url));
    for line in stdin().lines() {
        let line = line?;
        let (command, number) = line.split_once(' ').unwrap_or((&line, "0"));
        println!("{}", act(command, number.parse()?)?);
    }
    Ok(())
}

/// Makes generations for others to wait for.
fn create(sandbox: &Sandbox, number: u64) -> Result<Value> {
    let client = sandbox.client_builder().build()?;
    let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));
    let ids = (0..number).map(|_| Ok(client.create(&request)?.id.to_string()));
    Ok(Value::from(ids.collect::<Result<Vec<String>>>()?))
}
