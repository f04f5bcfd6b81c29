//! Markdown: a section with its tables, and the targets that it speaks of.

use std::fmt;

/// What one row function has found.
#[derive(Default)]
pub struct Section {
    title: String,
    parts: Vec<String>,
    pub targets: Vec<Target>,
}

/// A figure beside what it should be.
#[derive(Clone)]
pub struct Target {
    figure: String,
    target: String,
    measured: String,
    reached: &'static str,
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

    /// A figure that has to stay at or below its target.
    pub fn at_most(&mut self, figure: &str, target: &str, measured: String, reached: bool) {
        let reached = if reached { "yes" } else { "**no**" };
        self.push(figure, target, measured, reached);
    }

    /// A figure that could not be measured here.
    pub fn missing(&mut self, figure: &str, target: &str, why: &str) {
        self.push(figure, target, why.to_owned(), "–");
    }

    fn push(&mut self, figure: &str, target: &str, measured: String, reached: &'static str) {
        let (figure, target) = (figure.to_owned(), target.to_owned());
        self.targets.push(Target { figure, target, measured, reached });
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

/// All figures beside their targets.
pub fn summary(targets: &[Target]) -> String {
    format!("### Targets\n\n{}", targets_table(targets))
}

fn targets_table(targets: &[Target]) -> Table {
    let mut table = Table::new(["figure", "target", "measured", "reached"]);
    for target in targets {
        let Target { figure, target, measured, reached } = target.clone();
        table.row([figure, target, measured, reached.to_owned()]);
    }
    table
}

pub struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub fn new<const N: usize>(head: [&str; N]) -> Table {
        let dashes = vec!["---".to_owned(); N];
        Table { rows: vec![head.map(str::to_owned).to_vec(), dashes] }
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
