//! The TLS handshakes of `generate`: one for the create request, which never reuses a connection,
//! and one for all polls.

use std::fs;

use anyhow::Result;

use super::Environment;
use crate::programs::file;
use crate::report::{Section, Target, Unit};
use crate::server::{Server, ServerKind};

const HANDSHAKES: Target =
    Target { metric: "TLS handshakes of 3 × `generate`", unit: Unit::Count, max: 4.0, aim: None };
const FULL: Target =
    Target { metric: "the same, not resumed", unit: Unit::Count, max: 2.0, aim: None };

pub fn run(env: &Environment) -> Result<Section> {
    let mut server = Server::start(ServerKind::Tls)?;
    let certificate: String = server.command("root-certificate")?;
    let path = file("root-certificate.pem");
    fs::write(&path, certificate)?;
    env.programs.kling_video.run(&server.url, "generate", 1, &["3", &path])?;
    let handshakes: Vec<String> = server.command("handshakes")?;
    let mut section = Section::new("TLS handshakes");
    section.text(format!(
        "`generate`, 3 times in one process, against a server that uses rustls. Kind and first \
         request of each connection: {}.",
        handshakes.join(", ")
    ));
    let full = handshakes.iter().filter(|handshake| handshake.starts_with("full")).count();
    section.target(&HANDSHAKES, Ok(handshakes.len() as f64));
    section.target(&FULL, Ok(full as f64));
    Ok(section)
}
