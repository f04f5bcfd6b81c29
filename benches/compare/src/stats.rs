//! Samples, and how tables display numbers.

/// One or more samples, sorted.
#[derive(Clone, Debug)]
pub struct Samples(Vec<f64>);

impl Samples {
    pub fn new(mut samples: Vec<f64>) -> Samples {
        samples.sort_by(f64::total_cmp);
        Samples(samples)
    }

    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        match self.0.len() % 2 {
            0 => (self.0[middle - 1] + self.0[middle]) / 2.0,
            _ => self.0[middle],
        }
    }

    pub fn min(&self) -> f64 {
        self.0[0]
    }

    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }

    /// Displays samples of nanoseconds in milliseconds: the median, and the minimum and maximum.
    pub fn milliseconds(&self) -> String {
        let ms = |nanoseconds: f64| nanoseconds / 1e6;
        format!("{:.1} ({:.1}..{:.1})", ms(self.median()), ms(self.min()), ms(self.max()))
    }
}

/// Displays a count with three or four digits: `107.3 k`.
pub fn count(number: f64) -> String {
    match number.abs() {
        n if n >= 1e7 => format!("{:.1} M", number / 1e6),
        n if n >= 1e6 => format!("{:.2} M", number / 1e6),
        n if n >= 1e4 => format!("{:.1} k", number / 1e3),
        _ => format!("{number:.0}"),
    }
}

/// Displays a ratio as `1.03`, or as a dash if either number is missing.
pub fn ratio(number: Option<f64>, baseline: Option<f64>) -> String {
    match (number, baseline) {
        (Some(number), Some(baseline)) if baseline > 0.0 => format!("{:.2}", number / baseline),
        _ => "–".to_owned(),
    }
}
