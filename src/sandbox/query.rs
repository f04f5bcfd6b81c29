//! The query string of a request.

/// The decoded names and values, in order.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(raw: &str) -> Query {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (decode_form(name), decode_form(value))
        });
        Query(decoded.collect())
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let pairs = self.0.iter().filter(move |(other, _)| other == name);
        pairs.map(|(_, value)| value.as_str())
    }

    /// Whether the query has this value for the name, or no value for it at all.
    pub(super) fn matches(&self, name: &str, value: &str) -> bool {
        let mut values = self.values(name).peekable();
        values.peek().is_none() || values.any(|other| other == value)
    }
}

/// Decodes as web frameworks do: `%XX` is a byte, `+` is a space, and a stray `%` is kept.
fn decode_form(text: &str) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let (byte, tail) = match (first, after) {
            (b'%', [high, low, tail @ ..]) => {
                hex_byte(*high, *low).map_or((b'%', after), |byte| (byte, tail))
            }
            (b'+', _) => (b' ', after),
            _ => (*first, after),
        };
        decoded.push(byte);
        rest = tail;
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

fn hex_byte(high: u8, low: u8) -> Option<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16);
    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn query_is_decoded_as_a_form() {
        let query = Query::parse("a=uuid%3Av%2fw&b=1+2%2B&a=%zz%4&c");
        assert_eq!(query.values("a").collect::<Vec<_>>(), ["uuid:v/w", "%zz%4"]);
        assert_eq!(query.value("b"), Some("1 2+"));
        assert_eq!(query.value("c"), Some(""));
        assert_eq!(query.value("d"), None);
    }
}
