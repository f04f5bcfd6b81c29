//! The query of a request's target.

/// Decoded names and values, in order.
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(raw: &str) -> Query {
        let pairs = raw.split('&').filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            (form_decoded(name), form_decoded(value))
        });
        Query(decoded.collect())
    }

    pub(super) fn value(&self, name: &str) -> Option<&str> {
        self.values(name).next()
    }

    pub(super) fn values(&self, name: &str) -> impl Iterator<Item = &str> {
        let named = self.0.iter().filter(move |(known, _)| known == name);
        named.map(|(_, value)| value.as_str())
    }

    /// Whether a value is among those named, or none is named.
    pub(super) fn wants(&self, name: &str, value: &str) -> bool {
        let mut values = self.values(name).peekable();
        values.peek().is_none() || values.any(|wanted| wanted == value)
    }
}

/// As web frameworks read a query: `%XX` is a byte and `+` a space; a stray `%` stays.
fn form_decoded(text: &str) -> String {
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
    fn queries_are_decoded_as_forms() {
        let query = Query::parse("a=uuid%3Av%2fw&b=1+2%2B&a=%zz%4&c");
        assert_eq!(query.values("a").collect::<Vec<_>>(), ["uuid:v/w", "%zz%4"]);
        assert_eq!(query.value("b"), Some("1 2+"));
        assert_eq!(query.value("c"), Some(""));
        assert_eq!(query.value("d"), None);
    }
}
