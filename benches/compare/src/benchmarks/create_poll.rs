//! The smallest job: a create request and one poll, both responses parsed into types. Measures the
//! cost of the first job in a process and of each further one.

use anyhow::Result;

use super::Environment;
use crate::implementation::{Id, Implementation};
use crate::server::{Server, ServerKind};
use crate::stats::{count, ratio};
use crate::table::{Section, Table};

const TIMES: [u32; 2] = [1, 11];

/// What one job costs in one implementation.
#[derive(Default)]
struct Costs {
    instructions: Option<f64>,
    /// Instructions of a process's first job, with its one-time setup.
    first: Option<f64>,
    system_calls: Option<f64>,
    allocations: Option<f64>,
    allocated: Option<f64>,
}

pub fn run(env: &Environment) -> Result<Section> {
    let server = Server::start(ServerKind::Sandbox)?;
    let mut section = Section::new("Create, one poll, typed parse");
    section.text(
        "Against the strict sandbox. Cost of one more job: (11 jobs − 1 job) / 10. First job: 1 \
         job − no job. kling-video has its default retries, an event handler, response metadata \
         and a new connection for each create; all others reuse one connection.",
    );
    let small = env.paths.small_image.display().to_string();
    let from_url = measure(env, &server.url, "create-url", &[])?;
    let from_file = measure(env, &server.url, "create-file", &[&small])?;
    for (title, image, results) in
        [("From a URL", "URL", from_url), ("From a 1 kB image", "1 kB image", from_file)]
    {
        section.text(format!("**{title}**"));
        section.table(results.table);
        let metric = format!("instructions, create + 1 poll, {image}");
        let target = "≤ 1.00 × ureq in memory; goal 1.00 × ureq streaming";
        match (results.kling_video, results.ureq_in_memory) {
            (Some(instructions), Some(ureq)) => section.target(
                &metric,
                target,
                format!(
                    "{} = {:.2} × {}; {} × streaming",
                    count(instructions),
                    instructions / ureq,
                    count(ureq),
                    ratio(Some(instructions), results.ureq_streaming)
                ),
                instructions <= ureq,
            ),
            _ => section.not_measured(&metric, target, "needs valgrind"),
        }
    }
    Ok(section)
}

/// The table of a job, and the instructions that its targets need.
struct JobResults {
    table: Table,
    kling_video: Option<f64>,
    ureq_in_memory: Option<f64>,
    ureq_streaming: Option<f64>,
}

/// Measures a job in all implementations.
fn measure(env: &Environment, url: &str, job: &str, arguments: &[&str]) -> Result<JobResults> {
    let compiled = env.implementations.compiled();
    let mut rows: Vec<(String, Costs)> = Vec::new();
    for implementation in &compiled {
        let name = implementation.name;
        rows.push((name.to_owned(), costs(env, implementation, url, job, arguments)?));
        if implementation.id == Id::KlingVideo && job == "create-url" {
            let wait = costs(env, implementation, url, "wait", &["1"])?;
            rows.push((format!("{name}, with `wait`"), wait));
        }
    }
    let instructions_of = |id: Id| -> Option<f64> {
        let name = compiled.iter().find(|implementation| implementation.id == id)?.name;
        rows.iter().find(|(row, _)| row == name)?.1.instructions
    };
    let ureq_in_memory = instructions_of(Id::UreqInMemory);
    let lower_bound = instructions_of(Id::SocketSimd);
    let mut table = Table::new([
        "implementation",
        "instructions",
        "× ureq, in memory",
        "× lower bound",
        "first job",
        "system calls",
        "allocations",
        "bytes allocated",
    ]);
    let cell = |number: Option<f64>| number.map_or("missing".to_owned(), count);
    for (name, costs) in &rows {
        table.row([
            name.clone(),
            cell(costs.instructions),
            ratio(costs.instructions, ureq_in_memory),
            ratio(costs.instructions, lower_bound),
            cell(costs.first),
            cell(costs.system_calls),
            cell(costs.allocations),
            cell(costs.allocated),
        ]);
    }
    Ok(JobResults {
        table,
        kling_video: instructions_of(Id::KlingVideo),
        ureq_in_memory,
        ureq_streaming: instructions_of(Id::UreqStreaming),
    })
}

fn costs(
    env: &Environment,
    implementation: &Implementation,
    url: &str,
    job: &str,
    arguments: &[&str],
) -> Result<Costs> {
    let noop = env.instructions(&implementation.job(url, "noop", 0, &[])?)?;
    let once = env.instructions(&implementation.job(url, job, 1, arguments)?)?;
    let instructions = env.marginal(TIMES, |times| match times {
        1 => Ok(once),
        _ => env.instructions(&implementation.job(url, job, times, arguments)?),
    })?;
    let system_calls = env.marginal(TIMES, |times| {
        env.system_calls(&implementation.job(url, job, times, arguments)?)
    })?;
    let counted = |name: &str| {
        env.marginal(TIMES, |times| {
            let run = implementation.counted(url, job, times, arguments);
            env.measurements(run)?.map(|measurements| measurements.get(name)).transpose()
        })
    };
    Ok(Costs {
        instructions,
        first: once.zip(noop).map(|(once, noop)| once - noop),
        system_calls,
        allocations: counted("allocations")?,
        allocated: counted("allocated")?,
    })
}
