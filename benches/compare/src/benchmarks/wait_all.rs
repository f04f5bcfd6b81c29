//! `wait_all` over 1,000 generations: heap memory per generation, instructions per poll compared
//! with `wait`, and lateness of polls in real time.

use std::fs;

use anyhow::Result;

use super::Environment;
use crate::programs::{file, measurement};
use crate::report::{Measured, Section, Target, Unit, both, cell};
use crate::server::{Server, ServerKind};

const GENERATIONS: u32 = 1000;

const WAITING: Target = Target {
    metric: "`wait_all`, memory per generation, while waiting",
    unit: Unit::Bytes,
    max: 832.0,
    aim: None,
};
const PEAK: Target = Target {
    metric: "`wait_all`, memory per generation, peak, with the results",
    unit: Unit::Bytes,
    max: 835.0,
    aim: None,
};
const INSTRUCTIONS: Target = Target {
    metric: "`wait_all`, instructions per poll, over `wait`",
    unit: Unit::Ratio,
    max: 1.04,
    aim: None,
};
const LATENESS: Target = Target {
    metric: "`wait_all`, latest poll after it was due; the interval is 10 s",
    unit: Unit::Seconds,
    max: 10.0,
    aim: None,
};

pub fn run(env: &Environment) -> Result<Section> {
    let mut section = Section::new("`wait_all` over 1,000 generations");
    memory(env, &mut section)?;
    instructions(env, &mut section)?;
    lateness(env, &mut section)?;
    Ok(section)
}

/// Creates generations on the server, and returns the path of a file with their ids.
fn create(server: &mut Server) -> Result<String> {
    let ids: Vec<String> = server.command(&format!("create {GENERATIONS}"))?;
    let path = file("ids.txt");
    fs::write(&path, ids.join("\n"))?;
    Ok(path)
}

fn memory(env: &Environment, section: &mut Section) -> Result<()> {
    let mut server = Server::start(ServerKind::Sandbox)?;
    server.command::<()>("complete-after-polls 2")?;
    let ids = create(&mut server)?;
    let printed = env.programs.counted.run(&server.url, "wait-all", 1, &[&ids, "1", "1"])?;
    let per_generation =
        |name: &str| -> Result<f64> { Ok(measurement(&printed, name)? / f64::from(GENERATIONS)) };
    section.text(
        "Heap by a counting allocator, without the ids, which belong to the caller. *While \
         waiting*: after each generation was polled once. *Peak*: the maximum at any time, which \
         includes the results so far and all generations still waiting.",
    );
    section.target(&WAITING, Ok(per_generation("waiting_bytes")?));
    section.target(&PEAK, Ok(per_generation("peak_bytes")?));
    Ok(())
}

fn instructions(env: &Environment, section: &mut Section) -> Result<()> {
    let kling_video = &env.programs.kling_video;
    let mut server = Server::start(ServerKind::Sandbox)?;
    // A generation is polled `pending` times while it is pending, then once when it is completed.
    let mut cost = |single: bool, [few, many]: [u32; 2]| -> Result<Measured> {
        let mut total = |pending: u32| {
            server.command::<()>(&format!("complete-after-polls {pending}"))?;
            if single {
                return kling_video.instructions_once(&server.url, "create-wait", &["1"]);
            }
            let ids = create(&mut server)?;
            kling_video.instructions_once(&server.url, "wait-all", &[&ids, "1", "1"])
        };
        let (few_cost, many_cost) = (total(few)?, total(many)?);
        Ok(both(&many_cost, &few_cost, |a, b| (a - b) / f64::from(many - few)))
    };
    let one = cost(true, [10, 110])?;
    let all = cost(false, [1, 3])?.map(|all| all / f64::from(GENERATIONS));
    section.text(format!(
        "A poll costs {} instructions in `wait_all` and {} in `wait` for one generation.",
        cell(Unit::Count, &all),
        cell(Unit::Count, &one),
    ));
    section.target(&INSTRUCTIONS, both(&all, &one, |all, one| all / one));
    Ok(())
}

/// All generations are due at the same moment, and the server takes 200 ms for each response.
fn lateness(env: &Environment, section: &mut Section) -> Result<()> {
    let mut server = Server::start(ServerKind::Sandbox)?;
    server.command::<()>("delay-polls 200")?;
    server.command::<()>("complete-after-polls 2")?;
    let ids = create(&mut server)?;
    let arguments = [ids.as_str(), "10000", "24"];
    let printed = env.programs.kling_video.run(&server.url, "wait-all", 1, &arguments)?;
    let seconds = measurement(&printed, "nanoseconds")? / 1e9;
    section.text(format!(
        "Lateness: 200 ms per response, an interval of 10 s, 24 threads, 3 polls of each \
         generation, all due at the same moment. The last poll is due after 20 s; its response was \
         there after {seconds:.1} s.",
    ));
    section.target(&LATENESS, Ok(seconds - 20.0));
    Ok(())
}
