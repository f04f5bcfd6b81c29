//! Markdown output: sections, tables, and targets for what is measured.

use std::fmt;

/// The results of one benchmark.
#[derive(Default)]
pub struct Section {
    title: String,
    parts: Vec<String>,
    pub targets: Vec<Target>,
}

/// A metric with its target and the measured value.
#[derive(Clone)]
pub struct Target {
    metric: String,
    target: String,
    measured: String,
    met: &'static str,
}

impl Section {
    pub fn new(title: &str) -> Section {
        Section { title: title.to_owned(), ..Section::default() }
    }

    pub fn text(&mut self, text: impl Into<String>) {
        self.parts.push(text.into());
    }

    pub fn table(&mut self, table: Table) {
        self.parts.push(table.to_string());
    }

    /// Adds a metric that was measured, and whether it met its target.
    pub fn target(&mut self, metric: &str, target: &str, measured: String, met: bool) {
        let met = if met { "yes" } else { "**no**" };
        self.push(metric, target, measured, met);
    }

    /// Adds a metric that could not be measured on this machine.
    pub fn not_measured(&mut self, metric: &str, target: &str, reason: &str) {
        self.push(metric, target, reason.to_owned(), "–");
    }

    fn push(&mut self, metric: &str, target: &str, measured: String, met: &'static str) {
        let (metric, target) = (metric.to_owned(), target.to_owned());
        self.targets.push(Target { metric, target, measured, met });
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        for part in &self.parts {
            writeln!(f, "{}\n", part.trim_end())?;
        }
        if !self.targets.is_empty() {
            writeln!(f, "{}", targets_table(&self.targets))?;
        }
        Ok(())
    }
}

/// The section with the targets of all benchmarks.
pub fn summary(targets: &[Target]) -> String {
    format!("### Targets\n\n{}", targets_table(targets))
}

fn targets_table(targets: &[Target]) -> Table {
    let mut table = Table::new(["metric", "target", "measured", "met"]);
    for target in targets {
        let Target { metric, target, measured, met } = target.clone();
        table.row([metric, target, measured, met.to_owned()]);
    }
    table
}

pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(header: [&str; N]) -> Table {
        let dashes = vec!["---".to_owned(); N];
        Table { rows: vec![header.map(str::to_owned).to_vec(), dashes] }
    }

    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.push(cells.to_vec());
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.rows.iter().try_for_each(|cells| writeln!(f, "| {} |", cells.join(" | ")))
    }
}
