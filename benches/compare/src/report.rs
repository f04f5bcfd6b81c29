//! Measured values, their targets, and Markdown output.

use std::fmt;

/// Why a value is missing.
pub type Measured = Result<f64, String>;

/// The unit of a value, which decides how it is displayed.
#[derive(Clone, Copy)]
pub enum Unit {
    /// Bytes over another program, in kB of 1,000 bytes.
    ExtraKilobytes,
    Count,
    Bytes,
    Kibibytes,
    Seconds,
    Ratio,
}

impl Unit {
    pub fn display(self, value: f64) -> String {
        match self {
            Unit::ExtraKilobytes => format!("+{:.0} kB", value / 1e3),
            Unit::Count => count(value),
            Unit::Bytes => format!("{value:.0} bytes"),
            Unit::Kibibytes => format!("{value:.0} KiB"),
            Unit::Seconds => format!("{value:.1} s"),
            Unit::Ratio => format!("{value:.2} ×"),
        }
    }
}

/// What is measured, and its target. `aim` is what would be better still.
pub struct Target {
    pub metric: &'static str,
    pub unit: Unit,
    pub max: f64,
    pub aim: Option<f64>,
}

/// The results of one benchmark.
#[derive(Default)]
pub struct Section {
    title: &'static str,
    parts: Vec<String>,
    targets: Vec<[String; 5]>,
}

const TARGETS: [&str; 5] = ["measurement", "target", "aim", "reached", "met"];

impl Section {
    pub fn new(title: &'static str) -> Section {
        Section { title, ..Section::default() }
    }

    pub fn text(&mut self, text: impl Into<String>) {
        self.parts.push(text.into());
    }

    pub fn table(&mut self, rows: &[Vec<String>]) {
        self.parts.push(table(rows));
    }

    /// Adds what was reached, or why it could not be measured.
    pub fn target(&mut self, target: &Target, reached: Measured) {
        let Target { metric, unit, max, aim } = target;
        let (reached, met) = match reached {
            Ok(value) => (unit.display(value), if value <= *max { "yes" } else { "**no**" }),
            Err(reason) => (reason, "–"),
        };
        self.targets.push([
            (*metric).to_owned(),
            format!("≤ {}", unit.display(*max)),
            aim.map_or("–".to_owned(), |aim| unit.display(aim)),
            reached,
            met.to_owned(),
        ]);
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "### {}\n", self.title)?;
        self.parts.iter().try_for_each(|part| writeln!(f, "{}\n", part.trim_end()))
    }
}

/// The table with the targets of all benchmarks.
pub fn targets(sections: &[Section]) -> String {
    let header = row(TARGETS);
    let rows = sections.iter().flat_map(|section| &section.targets).cloned().map(row);
    format!("### Targets\n\n{}", table(&std::iter::once(header).chain(rows).collect::<Vec<_>>()))
}

/// A row of a table.
pub fn row<const N: usize>(cells: [impl Into<String>; N]) -> Vec<String> {
    cells.map(Into::into).into()
}

/// A table; its first row is the header.
fn table(rows: &[Vec<String>]) -> String {
    let mut lines: Vec<String> =
        rows.iter().map(|cells| format!("| {} |\n", cells.join(" | "))).collect();
    let columns = rows.first().map_or(0, Vec::len);
    lines.insert(1, format!("|{}\n", " --- |".repeat(columns)));
    lines.concat()
}

/// Displays a value of a table, or why it is missing.
pub fn cell(unit: Unit, value: &Measured) -> String {
    value.as_ref().map_or_else(Clone::clone, |value| unit.display(*value))
}

/// Displays a count with three or four digits: `107.3 k`.
fn count(number: f64) -> String {
    match number.abs() {
        n if n >= 1e7 => format!("{:.1} M", number / 1e6),
        n if n >= 1e6 => format!("{:.2} M", number / 1e6),
        n if n >= 1e4 => format!("{:.1} k", number / 1e3),
        _ => format!("{number:.0}"),
    }
}

/// The median of an odd number of samples.
pub fn median(mut samples: Vec<f64>) -> f64 {
    samples.sort_by(f64::total_cmp);
    samples[samples.len() / 2]
}

/// Combines two values, if both were measured.
pub fn both(a: &Measured, b: &Measured, combine: impl FnOnce(f64, f64) -> f64) -> Measured {
    Ok(combine(a.clone()?, b.clone()?))
}
