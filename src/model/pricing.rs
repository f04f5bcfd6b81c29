//! The price of a model, and what a request costs at this price.

use serde_json::Value;

use super::generation::JsonObject;
use super::generation::json::take_parsed;
use super::request::{ImageToVideo, MODEL, VideoDuration};

/// The price of a model, as the API lists it.
///
/// Returned by [`Client::pricing`](crate::Client::pricing). What cannot be parsed stays in
/// [`extra`](Self::extra).
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// # let sandbox = kling_video::sandbox::Sandbox::start()?;
/// # let client = sandbox.client_builder().build()?;
/// if let Some(pricing) = client.pricing(kling_video::MODEL)? {
///     for rate in pricing.units.iter().chain(&pricing.variants) {
///         println!("{} {} per {} {}", rate.price, pricing.currency, rate.per, rate.unit);
///     }
/// }
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Pricing {
    /// The model's id, followed by its aliases.
    pub models: Vec<String>,
    /// `fixed` (one rate per unit), `variants` (a rate for each combination of request fields),
    /// `variable` (cannot be quoted), or a kind that this crate does not know.
    pub kind: String,
    /// The currency's code. `USD` if the API names none, since its documentation says so.
    pub currency: String,
    /// The rates of a `fixed` price.
    pub units: Vec<Rate>,
    /// The request fields that a `variants` price depends on.
    pub dimensions: Vec<String>,
    /// The rates of a `variants` price.
    pub variants: Vec<Rate>,
    /// Fields that this crate does not know or cannot parse, but no `null`.
    pub extra: JsonObject,
}

/// A part of a [`Pricing`]: [`price`](Self::price) is the charge for [`per`](Self::per) units.
///
/// ```
/// # fn main() -> kling_video::Result<()> {
/// # let sandbox = kling_video::sandbox::Sandbox::start()?;
/// # let client = sandbox.client_builder().build()?;
/// let pricing = client.pricing(kling_video::MODEL)?.expect("a listed model");
/// let rate = &pricing.units[0];
/// assert_eq!((rate.price, rate.per, rate.unit.as_str()), (0.012, 1.0, "second"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct Rate {
    /// The request fields for which the rate holds, and their values. Empty for a `fixed` price.
    pub when: JsonObject,
    /// What is counted, such as `second` or `token`.
    pub unit: String,
    /// Whether units of the `input` or of the `output` are counted, if the API says.
    pub measure: Option<String>,
    /// The charge for [`per`](Self::per) units, in the [currency](Pricing::currency).
    pub price: f64,
    /// How many units [`price`](Self::price) is for.
    pub per: f64,
    /// Fields that this crate does not know or cannot parse, but no `null`.
    pub extra: JsonObject,
}

impl Pricing {
    pub(crate) fn from_fields(mut fields: JsonObject, models: Vec<String>) -> Self {
        let rates = |value: &Value| value.as_array()?.iter().map(Rate::from_value).collect();
        let strings = |value: &Value| value.as_array()?.iter().map(string).collect();
        fields.retain(|_, value| !value.is_null());
        Self {
            models,
            kind: take_parsed(&mut fields, "kind", string).unwrap_or_default(),
            currency: take_parsed(&mut fields, "currency", string).unwrap_or("USD".to_owned()),
            units: take_parsed(&mut fields, "units", rates).unwrap_or_default(),
            dimensions: take_parsed(&mut fields, "dimensions", strings).unwrap_or_default(),
            variants: take_parsed(&mut fields, "variants", rates).unwrap_or_default(),
            extra: fields,
        }
    }

    /// Returns what a generation by this request costs, in [`currency`](Self::currency), or `None`
    /// unless that is certain.
    ///
    /// It is certain if the price is for the request's model, has no part that this crate cannot
    /// read, and depends only on fields that the request sets (or on the duration, which defaults to
    /// 5 seconds for [`MODEL`](crate::MODEL)); if exactly one rate applies; and if this rate is per
    /// video, per generation, or per second of the output, of which the video has a whole multiple.
    /// A price per token cannot be quoted before the request, for example.
    ///
    /// It is the list price at the time of [`Client::pricing`](crate::Client::pricing); what was
    /// charged is in the generation's [`usage`](crate::Generation::usage).
    ///
    /// ```
    /// # fn main() -> kling_video::Result<()> {
    /// # let sandbox = kling_video::sandbox::Sandbox::start()?;
    /// # let client = sandbox.client_builder().build()?;
    /// use kling_video::{Image, ImageToVideo, MODEL, VideoDuration};
    ///
    /// let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"))
    ///     .duration(VideoDuration::TenSeconds);
    /// match client.pricing(MODEL)?.and_then(|pricing| pricing.estimate(&request)) {
    ///     Some(usd) => println!("costs {usd:.2} USD"),
    ///     None => println!("the price is not known in advance"),
    /// }
    /// # assert_eq!(client.pricing(MODEL)?.unwrap().estimate(&request), Some(0.12));
    /// # Ok(())
    /// # }
    /// ```
    #[must_use]
    pub fn estimate(&self, request: &ImageToVideo) -> Option<f64> {
        let rates = match self.kind.as_str() {
            "fixed" => &self.units,
            "variants" => &self.variants,
            _ => return None,
        };
        let mut fields = request.fields().ok()?;
        if request.model == MODEL {
            let default = VideoDuration::FiveSeconds.as_secs();
            fields.entry("duration").or_insert_with(|| default.into());
        }
        // A rate with a condition that the request leaves open might apply as well.
        let is_certain = self.extra.is_empty()
            && self.models.contains(&request.model)
            && rates.iter().flat_map(|rate| rate.when.keys()).all(|name| fields.contains_key(name));
        let holds = |(name, value)| fields.get(name).is_some_and(|field| is_equal(field, value));
        let mut rates = rates.iter().filter(|rate| rate.when.iter().all(holds));
        let (Some(rate), None) = (rates.next(), rates.next()) else { return None };
        let is_certain = is_certain && self.dimensions.iter().all(|d| rate.when.contains_key(d));
        rate.cost(fields.get("duration")).filter(|_| is_certain)
    }
}

impl Rate {
    /// `None` if it is not clear what costs how much.
    fn from_value(value: &Value) -> Option<Self> {
        let mut fields = value.as_object()?.clone();
        fields.retain(|_, value| !value.is_null());
        Some(Self {
            // Documented as `name` in a fixed price and as `unit` in a variant.
            unit: take_parsed(&mut fields, "unit", string)
                .or_else(|| take_parsed(&mut fields, "name", string))?,
            price: take_parsed(&mut fields, "price", Value::as_f64)?,
            per: take_parsed(&mut fields, "per", Value::as_f64)?,
            measure: take_parsed(&mut fields, "measure", string),
            when: take_parsed(&mut fields, "when", |value| value.as_object().cloned())
                .unwrap_or_default(),
            extra: fields,
        })
    }

    /// The cost of one video of this duration, if that is certain.
    fn cost(&self, duration: Option<&Value>) -> Option<f64> {
        let quantity = match self.unit.as_str() {
            "second" | "seconds" => number(duration?)?,
            "video" | "generation" => 1.0,
            _ => return None,
        };
        // Whether a part of `per` is rounded up is not documented.
        let count = quantity / self.per;
        let cost = count * self.price;
        let is_certain = self.extra.is_empty()
            && self.measure.as_deref().is_none_or(|measure| measure == "output")
            && (count > 0.0 && count.fract() == 0.0)
            && (cost >= 0.0 && cost.is_finite());
        is_certain.then_some(cost)
    }
}

fn string(value: &Value) -> Option<String> {
    value.as_str().map(str::to_owned)
}

fn number(value: &Value) -> Option<f64> {
    value.as_f64().or_else(|| value.as_str()?.parse().ok())
}

/// Whether two values are the same, also as numbers: a duration of 5 may be listed as `"5"`.
fn is_equal(a: &Value, b: &Value) -> bool {
    a == b || number(a).is_some_and(|a| number(b) == Some(a))
}
