//! Runs the sandbox, a bundled mock server, as a process of its own: to try how a program behaves
//! that is killed and started again, and for programs in other languages.
//!
//! `cargo run --example serve` prints the variables with which the other examples use it.

use std::io::{self, Write as _};
use std::thread;
use std::time::Duration;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use lexopt::prelude::*;

const HELP: &str = "\
Runs a mock server of AI/ML API until it is interrupted, and
prints its address and every generation that is paid for.

Usage: cargo run --example serve -- [OPTIONS]

Options:
  --credits N  Reject creates after N generations, as if the
               account was out of credits
  -h, --help   Print this help
";

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let sandbox = Sandbox::start()?;
    // Slow enough to be interrupted at every point.
    sandbox.set_response_delay(Endpoint::Create, Duration::from_secs(1));
    sandbox.complete_after_polls(7);

    let mut stdout = io::stdout();
    let mut parser = lexopt::Parser::from_env();
    while let Some(arg) = parser.next()? {
        match arg {
            Long("credits") => {
                // The first creates are handled as usual, all later ones are rejected.
                sandbox.fault(Endpoint::Create, Fault::default(), parser.value()?.parse()?);
                sandbox.fault(Endpoint::Create, Fault::status(403), u32::MAX);
            }
            Short('h') | Long("help") => return Ok(stdout.write_all(HELP.as_bytes())?),
            _ => return Err(arg.unexpected().into()),
        }
    }
    writeln!(stdout, "KLING_BASE_URL={} AIML_API_KEY={}", sandbox.url(), sandbox.key())?;
    for number in 1.. {
        let generation = loop {
            match sandbox.generations().into_iter().nth(number - 1) {
                Some(generation) => break generation,
                None => thread::sleep(Duration::from_millis(50)),
            }
        };
        writeln!(stdout, "paid for {number}: {}", generation.id)?;
    }
    Ok(())
}
