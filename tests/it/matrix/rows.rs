//! The rows: every fault, how it is made, and what it means by `HTTP` and the API's description.

use std::time::Duration;

use kling_video::{Endpoint, Fault};

use super::rules::Meaning::{self, *};

/// What the endpoint under test would answer if nothing went wrong.
pub(crate) struct Good {
    pub endpoint: Endpoint,
    pub body: Vec<u8>,
    /// The generation that the body is about.
    pub id: String,
    /// Where the sandbox is.
    pub url: String,
    pub video_path: String,
}

impl Good {
    pub(crate) fn is_video(&self) -> bool {
        self.endpoint == Endpoint::Video
    }

    /// The whole reply, with these headers besides.
    fn reply(&self, headers: &str) -> Vec<u8> {
        self.with_body("200 OK", headers, &self.body)
    }

    fn with_body(&self, status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        let length = body.len();
        self.bare(status, &format!("Content-Length: {length}\r\n{headers}"), body)
    }

    /// A reply with no headers but these.
    fn bare(&self, status: &str, headers: &str, body: &[u8]) -> Vec<u8> {
        [format!("HTTP/1.1 {status}\r\n{headers}\r\n").as_bytes(), body].concat()
    }

    /// The good body with a line of headers in the place of its length.
    fn headed(&self, headers: &str) -> Vec<u8> {
        self.bare("200 OK", headers, &self.body)
    }

    fn chunked(&self, size: usize, extension: &str, end: &str) -> Vec<u8> {
        let mut coded = Vec::new();
        for chunk in self.body.chunks(size) {
            coded.extend(format!("{:X}{extension}\r\n", chunk.len()).bytes());
            coded.extend_from_slice(chunk);
            coded.extend(b"\r\n");
        }
        coded.extend(end.bytes());
        self.bare("200 OK", "Transfer-Encoding: chunked\r\n", &coded)
    }

    /// A good JSON body with something put in after its first brace.
    fn with_field(&self, field: &str) -> Vec<u8> {
        match self.is_video() {
            true => self.body.clone(),
            false => [b"{", field.as_bytes(), b",", &self.body[1..]].concat(),
        }
    }

    /// For what never ends: the API's replies have 1 GiB; a video of that size would be written to
    /// the disk.
    fn much(&self) -> u64 {
        if self.is_video() { 8 << 20 } else { 1 << 30 }
    }

    /// The start of a reply, which then says nothing more for ever.
    fn stalled_after(&self, bytes: usize) -> Fault {
        self.as_fault().trickle_after(bytes, Duration::from_secs(3600))
    }

    /// One byte each 10 ms.
    fn slow_after(&self, bytes: usize) -> Fault {
        self.as_fault().trickle_after(bytes, Duration::from_millis(10))
    }

    fn as_fault(&self) -> Fault {
        Fault::reply(200, self.body.clone())
    }

    /// How long the head of [`as_fault`](Self::as_fault) is.
    fn head(&self) -> usize {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", self.body.len()).len()
    }
}

type Make = Box<dyn Fn(&Good) -> Fault + Send + Sync>;

/// One fault.
pub(crate) struct Row {
    pub name: String,
    pub make: Make,
    pub meaning: Meaning,
    /// Where it means something else to a download.
    pub video: Option<Meaning>,
    /// For so many requests.
    pub times: u32,
    /// How many requests a download of it makes, renewed links aside.
    pub hops: usize,
    /// It strikes before a body can have been read.
    pub early: bool,
    /// Whether a small request is over before it can be told.
    pub is_race: bool,
    /// The id is in a header.
    pub names_id: bool,
    /// It is over only at the idle time-out.
    pub slow: bool,
    /// It asks to come again later than any deadline here.
    pub later: bool,
}

fn row(
    name: impl Into<String>,
    meaning: Meaning,
    make: impl Fn(&Good) -> Fault + Send + Sync + 'static,
) -> Row {
    Row {
        name: name.into(),
        make: Box::new(make),
        meaning,
        video: None,
        times: u32::MAX,
        hops: 1,
        early: false,
        is_race: false,
        names_id: false,
        slow: matches!(meaning, Silent | HugeHead),
        later: false,
    }
}

/// Bytes in the place of the reply, then the end of the connection.
fn raw(
    name: impl Into<String>,
    meaning: Meaning,
    make: impl Fn(&Good) -> Vec<u8> + Send + Sync + 'static,
) -> Row {
    row(name, meaning, move |good| Fault::raw(make(good)))
}

/// A whole reply with this body.
fn body(
    name: &str,
    meaning: Meaning,
    make: impl Fn(&Good) -> Vec<u8> + Send + Sync + 'static,
) -> Row {
    raw(name, meaning, move |good| good.with_body("200 OK", "", &make(good)))
}

impl Row {
    fn video(self, meaning: Meaning) -> Row {
        Row { video: Some(meaning), ..self }
    }

    fn once(self) -> Row {
        Row { times: 1, ..self }
    }

    fn hops(self, hops: usize) -> Row {
        Row { hops, ..self }
    }

    fn early(self) -> Row {
        Row { early: true, ..self }
    }

    fn races(self) -> Row {
        Row { is_race: true, ..self }
    }

    fn slow(self) -> Row {
        Row { slow: true, ..self }
    }

    fn later(self) -> Row {
        Row { later: true, ..self }
    }

    fn names_id(self) -> Row {
        Row { names_id: true, ..self }
    }
}

/// Statuses that the API may answer, and that a gateway before it may.
const VENDORS: [u16; 26] = [
    300, 302, 307, 400, 401, 402, 403, 404, 408, 409, 410, 413, 416, 417, 422, 425, 429, 500, 501,
    502, 503, 504, 524, 599, 600, 999,
];
const GATEWAYS: [u16; 16] =
    [301, 303, 304, 308, 401, 404, 417, 429, 500, 502, 503, 504, 520, 524, 599, 600];

pub(crate) fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for status in VENDORS {
        let vendor = Refused { status, vendor: true };
        rows.push(row(format!("{status}, the vendor's"), vendor, move |_| {
            let body = format!(
                r#"{{"message":"no","statusCode":{status},"requestId":"r-1","path":"/v2/x"}}"#
            );
            Fault::reply(status, body).header("Content-Type", "application/json")
        }));
    }
    for status in GATEWAYS {
        let gateway = Refused { status, vendor: false };
        rows.push(row(format!("{status}, a gateway's"), gateway, move |_| {
            Fault::reply(status, "<html>no</html>").header("Content-Type", "text/html")
        }));
    }
    rows.extend(statuses());
    rows.extend(connections());
    rows.extend(not_http());
    rows.extend(cuts());
    rows.extend(times());
    rows.extend(lengths());
    rows.extend(chunks());
    rows.extend(headers());
    rows.extend(bodies());
    rows.extend(redirects());
    rows
}

fn statuses() -> Vec<Row> {
    let refused = |status| Refused { status, vendor: false };
    vec![
        row("out of credits", Refused { status: 403, vendor: true }, |_| Fault::status(403)),
        row("429, later", Refused { status: 429, vendor: true }, |_| {
            Fault::status(429).header("Retry-After", "3600")
        })
        .later(),
        row("503, later", Refused { status: 503, vendor: true }, |_| {
            Fault::status(503).header("Retry-After", "Sun, 06 Nov 2094 08:49:37 GMT")
        })
        .later(),
        row("503, whenever", Refused { status: 503, vendor: true }, |_| {
            Fault::status(503).header("Retry-After", "soon")
        }),
        row("504 with an id", Refused { status: 504, vendor: true }, |good| {
            Fault::status(504).header("x-inference-id", good.id.clone())
        })
        .names_id(),
        raw("401, cut", refused(401), |good| {
            good.bare("401 no", "Content-Length: 99\r\n", br#"{"mess"#)
        }),
        raw("500, cut", refused(500), |good| {
            good.bare("500 no", "Content-Length: 99\r\n", br#"{"message":"no""#)
        }),
        row("500, then nothing", refused(500), |_| {
            // Two bytes of its body.
            Fault::reply(500, r#"{"message":"no"}"#).trickle_after(59, Duration::from_secs(3600))
        })
        .slow(),
        raw("201", Good, |good| good.with_body("201 Created", "", &good.body)).video(Strange),
        raw("202", Good, |good| good.with_body("202 Accepted", "", &good.body)).video(Strange),
        raw("206", Good, |good| good.with_body("206 Partial Content", "", &good.body))
            .video(Strange),
        raw("204", Unreadable, |good| good.bare("204 No Content", "", b"")).video(Strange),
        raw("205", Unreadable, |good| good.with_body("205 Reset Content", "", b"")).video(Strange),
        row("200 with an id in a header only", Unreadable, |good| {
            Fault::reply(200, "").header("x-inference-id", good.id.clone())
        })
        .names_id(),
        // Interim replies, which HTTP allows any number of before the reply.
        raw("100 first", Good, |good| interim("100 Continue", 1, good)),
        raw("102 first", Good, |good| interim("102 Processing", 1, good)),
        raw("103 first", Good, |good| {
            interim("103 Early Hints\r\nLink: </a.css>; rel=preload", 1, good)
        }),
        raw("three of 102 first", Good, |good| interim("102 Processing", 3, good)),
        raw("101", NoReply, |good| {
            good.bare("101 Switching Protocols", "Upgrade: x\r\nConnection: upgrade\r\n", b"")
        }),
        raw("100 and nothing more", Broken, |good| good.bare("100 Continue", "", b"")),
    ]
}

fn interim(line: &str, times: usize, good: &Good) -> Vec<u8> {
    [format!("HTTP/1.1 {line}\r\n\r\n").repeat(times).into_bytes(), good.reply("")].concat()
}

fn connections() -> Vec<Row> {
    vec![
        row("nothing goes wrong", Good, |_| Fault::default()),
        row("closed before reading", Broken, |_| Fault::close_before_reading()).early(),
        row("closed after the head", Broken, |_| Fault::close_after_head()).early(),
        row("reset in the body", Broken, |_| Fault::reset_after_body(100_000)).early(),
        row("closed after reading", Broken, |_| Fault::close()),
        row("reset after reading", Broken, |_| Fault::reset_before_reply()),
        row("closed after the reply", Good, |_| Fault::close_after_reply()),
        row("closed after one reply", Good, |_| Fault::close_after_reply()).once(),
        row("early 413", Refused { status: 413, vendor: true }, |_| Fault::early(413))
            .early()
            .races(),
        row("early 401", Refused { status: 401, vendor: true }, |_| Fault::early(401))
            .early()
            .races(),
        row("early 503", Refused { status: 503, vendor: true }, |_| Fault::early(503))
            .early()
            .races(),
        row("early 502", Refused { status: 502, vendor: false }, |_| Fault::early(502))
            .early()
            .races(),
        row("100 Continue withheld", Good, |_| Fault::ignore_expect()).slow(),
        row("100 Continue with a header", Good, |_| Fault::continue_with_header()),
        row("a late reply", Good, |_| Fault::delayed(Duration::from_millis(20))),
        raw("connection: close", Good, |good| good.reply("Connection: close\r\n")),
        raw("a second reply nobody asked for", Good, |good| {
            [good.reply(""), good.with_body("500 no", "", b"{}")].concat()
        }),
    ]
}

fn not_http() -> Vec<Row> {
    let bytes: [(&str, &[u8]); 14] = [
        ("noise", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
        ("NULs", &[0; 512]),
        ("high bytes", &[0xFF; 4096]),
        ("an SSH banner", b"SSH-2.0-OpenSSH_9.6\r\n"),
        ("SHOUTcast", b"ICY 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("HTTP/2", b"\0\0\x12\x04\0\0\0\0\0\0\x03\0\0\0\x80\0\x04\0\x01\0\0"),
        ("HTTP/3.0", b"HTTP/3.0 200 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("a body alone", b"{\"id\":\"1\",\"status\":\"completed\"}"),
        ("a line end", b"\r\n"),
        ("a status of 4 digits", b"HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("a status of letters", b"HTTP/1.1 abc OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("status 000", b"HTTP/1.1 000 OK\r\nContent-Length: 2\r\n\r\n{}"),
        ("a header without a colon", b"HTTP/1.1 200 OK\r\nContent-Length\r\n\r\n{}"),
        ("a NUL in a header", b"HTTP/1.1 200 OK\r\nX-A: a\0b\r\nContent-Length: 2\r\n\r\n{}"),
    ];
    bytes.map(|(name, bytes)| raw(name, Broken, move |_| bytes.to_vec())).into()
}

fn cuts() -> Vec<Row> {
    let mut rows = Vec::new();
    // In the status line, at its end, in the headers, at their end.
    for at in [1, 5, 9, 12, 15, 16, 17, 20, 33] {
        rows.push(raw(format!("cut at {at}"), Broken, move |good| good.reply("")[..at].to_vec()));
    }
    rows.push(raw("cut within the empty line", Broken, |good| {
        good.reply("")[..good.head() - 1].to_vec()
    }));
    // In the body.
    for (name, at) in [("before", 0), ("after a byte of", 1), ("within", 20)] {
        rows.push(raw(format!("cut {name} the body"), Broken, move |good| {
            good.reply("")[..good.head() + at].to_vec()
        }));
    }
    rows.push(raw("cut before the last byte", Broken, |good| {
        let whole = good.reply("");
        whole[..whole.len() - 1].to_vec()
    }));
    rows.push(raw("no length, whole", Good, |good| good.headed("")));
    rows.push(raw("no length, cut", Unreadable, |good| {
        let whole = good.headed("");
        whole[..whole.len() - 1].to_vec()
    }));
    rows.push(raw("HTTP/1.0", Good, |good| {
        [b"HTTP/1.0 200 OK\r\n\r\n", good.body.as_slice()].concat()
    }));
    rows
}

fn times() -> Vec<Row> {
    vec![
        row("silence", Silent, |_| Fault::stall()),
        row("silence in the status line", Silent, |good| good.stalled_after(11)),
        row("silence in the headers", Silent, |good| good.stalled_after(25)),
        row("silence before the body", Silent, |good| good.stalled_after(good.head())),
        row("silence in the body", Silent, |good| good.stalled_after(good.head() + 9)),
        row("silence before the last byte", Silent, |good| {
            good.stalled_after(good.head() + good.body.len() - 2)
        }),
        row("a trickle", Silent, |good| good.slow_after(0)),
        row("a trickle of headers", Silent, |good| good.slow_after(16)),
        row("a trickle of a body", Silent, |good| good.slow_after(good.head())),
        row("a brisk trickle", Good, |good| match good.is_video() {
            true => Fault::default(),
            false => Fault::trickle(Duration::ZERO),
        }),
        row("longer than it says, kept open", Silent, |good| {
            let length = good.body.len() + 5;
            good.as_fault().header("Content-Length", length.to_string())
        }),
    ]
}

fn lengths() -> Vec<Row> {
    let broken = [
        ("negative", "-1"),
        ("signed", "+300"),
        ("of letters", "many"),
        ("empty", ""),
        ("a fraction", "3.5"),
        ("hexadecimal", "0xFF"),
        ("two in one", "3, 4"),
        ("beyond 64 bits", "99999999999999999999999"),
    ];
    let mut rows: Vec<Row> = broken
        .map(|(name, value)| {
            raw(format!("a length that is {name}"), Broken, move |good| {
                good.headed(&format!("Content-Length: {value}\r\n"))
            })
        })
        .into();
    rows.extend([
        raw("a length that is short", Unreadable, |good| {
            let short = good.body.len() - 1;
            good.headed(&format!("Content-Length: {short}\r\n"))
        }),
        raw("a length that is long", Broken, |good| {
            let long = good.body.len() + 1;
            good.headed(&format!("Content-Length: {long}\r\n"))
        }),
        raw("a length of zero", Unreadable, |good| good.headed("Content-Length: 0\r\n")),
        raw("a length beyond all bounds", Broken, |good| {
            good.headed("Content-Length: 1000000000000000\r\n")
        })
        .video(TooLarge),
        raw("two lengths that differ", Broken, |good| {
            let length = good.body.len();
            good.headed(&format!("Content-Length: {length}\r\nContent-Length: 3\r\n"))
        }),
        raw("two lengths that differ, the other way round", Broken, |good| {
            let length = good.body.len();
            good.headed(&format!("Content-Length: 3\r\nContent-Length: {length}\r\n"))
        }),
        // HTTP leaves the choice.
        raw("the same length twice", GoodOrBroken, |good| {
            let length = good.body.len();
            good.reply(&format!("Content-Length: {length}\r\n"))
        }),
        row("the reply, said to be shorter", Unreadable, |_| Fault::wrong_length(-1)).names_id(),
        row("the reply, said to be longer", Broken, |_| Fault::wrong_length(1)).names_id(),
    ]);
    rows
}

fn chunks() -> Vec<Row> {
    const HEADER: &str = "Transfer-Encoding: chunked\r\n";
    let mut rows = vec![
        raw("chunked", Good, |good| good.chunked(1000, "", "0\r\n\r\n")),
        raw("chunks of a few bytes", Good, |good| good.chunked(7, "", "0\r\n\r\n")),
        raw("chunked with trailers", Good, |good| {
            good.chunked(1000, "", "0\r\nX-Sum: 1\r\nx-inference-id: no\r\n\r\n")
        }),
        raw("chunked with extensions", Good, |good| good.chunked(1000, ";a=\"b\"", "0;z\r\n\r\n")),
        raw("chunked with leading zeros", Good, |good| {
            let size = format!("000{:x}\r\n", good.body.len());
            let coded = [size.as_bytes(), &good.body, b"\r\n0\r\n\r\n"].concat();
            good.bare("200 OK", HEADER, &coded)
        }),
        raw("chunked without an end", Broken, |good| good.chunked(1000, "", "")),
        raw("chunked, cut in a trailer", Broken, |good| good.chunked(1000, "", "0\r\nX-Sum: ")),
        raw("chunked and a length", GoodOrBroken, |good| {
            let mut reply = good.chunked(1000, "", "0\r\n\r\n");
            reply.splice(17..17, *b"Content-Length: 3\r\n");
            reply
        }),
        raw("chunks longer than they say", Broken, |good| {
            let coded = [b"3\r\n", good.body.as_slice(), b"\r\n0\r\n\r\n"].concat();
            good.bare("200 OK", HEADER, &coded)
        }),
    ];
    let sizes = ["zz", "-5", "", "FFFFFFFFFFFFFFFFF", "5 5", "+5", "0x5"];
    rows.extend(sizes.map(|size| {
        raw(format!("a chunk of size {size:?}"), Broken, move |good| {
            let coded = [size.as_bytes(), b"\r\n", &good.body, b"\r\n0\r\n\r\n"].concat();
            good.bare("200 OK", HEADER, &coded)
        })
    }));
    rows.push(raw("a chunk of 2^64 - 1", Broken, |good| {
        let coded = [b"FFFFFFFFFFFFFFFF\r\n", good.body.as_slice()].concat();
        good.bare("200 OK", HEADER, &coded)
    }));
    rows
}

fn headers() -> Vec<Row> {
    let good_with = |name: &str, header: &'static [u8]| {
        raw(name, Good, move |good| {
            let mut reply = good.reply("");
            reply.splice(17..17, header.iter().copied());
            reply
        })
    };
    vec![
        good_with("a header that is no UTF-8", b"X-A: \xff\xfe\r\n"),
        good_with("an id header that is no UTF-8", b"x-inference-id: \xff\xfe\r\n"),
        good_with("an empty id header", b"x-inference-id: \r\n"),
        good_with(
            "costs that are no numbers",
            b"x-aimlapi-credits-used: NaN\r\nx-aimlapi-usd-spent: 1e999\r\n",
        ),
        good_with("a header of 4 KiB", {
            const LONG: [u8; 4101] = {
                let mut header = [b'a'; 4101];
                (header[0], header[1], header[2], header[3]) = (b'X', b'-', b'A', b':');
                (header[4099], header[4100]) = (b'\r', b'\n');
                header
            };
            &LONG
        }),
        raw("30 headers", Good, |good| good.reply(&"X-A: b\r\n".repeat(30))),
        row("headers without end", HugeHead, |good| {
            Fault::endless(
                "HTTP/1.1 200 OK\r\n",
                "X-A: ".to_owned() + &"a".repeat(1019) + "\r\n",
                good.much(),
            )
        }),
        row("short headers without end", HugeHead, |good| {
            Fault::endless("HTTP/1.1 200 OK\r\n", "A: b\r\n".repeat(1000), good.much())
        }),
        row("a header without end", HugeHead, |good| {
            Fault::endless("HTTP/1.1 200 OK\r\nX-A: ", "a".repeat(65_536), good.much())
        }),
        row("a status line without end", HugeHead, |good| {
            Fault::endless("HTTP/1.1 200 ", "a".repeat(65_536), good.much())
        }),
        row("interim replies without end", HugeHead, |good| {
            Fault::endless("", "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000), good.much())
        }),
        row("line ends without end", HugeHead, |good| {
            Fault::endless("", "\r\n".repeat(1000), good.much())
        }),
    ]
}

fn bodies() -> Vec<Row> {
    let mut rows: Vec<Row> = Vec::new();
    let texts: [(&str, &[u8]); 15] = [
        ("an empty body", b""),
        ("a page", b"<!DOCTYPE html><title>Just a moment...</title>"),
        ("null", b"null"),
        ("a number", b"1"),
        ("a text", b"\"completed\""),
        ("a list", b"[]"),
        ("an empty object", b"{}"),
        ("fields of the wrong kind", b"{\"id\":{},\"state\":null,\"data\":{},\"video\":7}"),
        ("an empty id", b"{\"id\":\"\",\"data\":null}"),
        ("an id of control characters", b"{\"id\":\"a\\u0000b\",\"data\":null}"),
        ("invalid UTF-8", b"{\"id\":\"\xff\xfe\",\"status\":\"completed\",\"data\":[]}"),
        ("half a surrogate", b"{\"id\":\"\\ud800\",\"status\":\"completed\",\"data\":[]}"),
        (
            "a number beyond bounds",
            b"{\"id\":\"1\",\"status\":\"completed\",\"data\":[],\"n\":1e999}",
        ),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0"),
        ("UTF-16", b"\xff\xfe{\0}\0"),
    ];
    for (name, text) in texts {
        rows.push(body(name, Unreadable, move |_| text.to_vec()));
    }
    rows.extend([
        raw("gzip that nobody asked for", Unreadable, |good| {
            let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0";
            good.with_body("200 OK", "Content-Encoding: gzip\r\n", gzip)
        }),
        // Named only: what is no gzip is taken as it is.
        raw("said to be gzip", Good, |good| good.reply("Content-Encoding: gzip\r\n")),
        body("nested too deeply", Unreadable, |good| {
            let deep = format!("\"x\":{}{}", "[".repeat(50_000), "]".repeat(50_000));
            match good.is_video() {
                true => deep.into_bytes(),
                false => good.with_field(&deep),
            }
        }),
        body("nested and never closed", Unreadable, |_| "[{\"a\":".repeat(20_000).into_bytes()),
        body("nested a little", Good, |good| {
            good.with_field(&format!("\"x\":{}{}", "[".repeat(50), "]".repeat(50)))
        }),
        body("every key twice", Good, |good| match good.is_video() {
            true => good.body.clone(),
            false => [&good.body[..good.body.len() - 1], b",", &good.body[1..]].concat(),
        }),
        body("unknown fields", Good, |good| {
            good.with_field(r#""":null,"x":{"y":[1,2.5,"z"]},"é":true"#)
        }),
        body("white space around it", Good, |good| match good.is_video() {
            true => good.body.clone(),
            false => [b" \r\n\t", good.body.as_slice(), b"\n\n"].concat(),
        }),
        body("something after it", Unreadable, |good| [&good.body, &b"xx"[..]].concat()),
        body("a byte order mark", Unreadable, |good| {
            [b"\xef\xbb\xbf", good.body.as_slice()].concat()
        }),
        body("just 1 MiB", Good, |good| {
            let mut body = good.body.clone();
            if !good.is_video() {
                body.resize(1 << 20, b' ');
            }
            body
        }),
        body("a byte over 1 MiB", TooLarge, |good| {
            let mut body = good.body.clone();
            body.resize((1 << 20) + 1, b' ');
            body
        }),
        row("a body without end", TooLarge, |good| {
            Fault::endless("HTTP/1.1 200 OK\r\n\r\n", " ".repeat(65_536), good.much())
        }),
        row("a body without end but a length", TooLarge, |good| {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", good.much());
            Fault::endless(head, " ".repeat(65_536), good.much())
        }),
        row("chunks without end", TooLarge, |good| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            Fault::endless(head, format!("10000\r\n{}\r\n", " ".repeat(65_536)), good.much())
        })
        .video(Broken),
        row("trailers without end", HugeHead, |good| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
            match good.is_video() {
                true => Fault::default(),
                false => Fault::endless(head, "X-A: b\r\n".repeat(1000), good.much()),
            }
        })
        .video(Good),
        row("a trickle of trailers", Silent, |good| {
            between_chunks(good, &format!("0\r\nX-A: {}\r\n\r\n", "b".repeat(300)))
        }),
        row("a trickle of a chunk's extension", Silent, |good| {
            between_chunks(good, &format!("0;{}\r\n\r\n", "b".repeat(300)))
        }),
        row("a chunk size without end", HugeHead, |good| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            Fault::endless(head, "0".repeat(65_536), good.much())
        }),
    ]);
    rows
}

/// The whole body in a chunk, and then an end that takes its time.
fn between_chunks(good: &Good, end: &str) -> Fault {
    let size = format!("{:x}\r\n", good.body.len());
    let chunk = [size.as_bytes(), &good.body, b"\r\n"].concat();
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let at_once = head.len() + chunk.len();
    Fault::reply(200, [&chunk, end.as_bytes()].concat())
        .header("Transfer-Encoding", "chunked")
        .trickle_after(at_once, Duration::from_millis(10))
}

fn redirects() -> Vec<Row> {
    let to = |name: &str, status: u16, video: Meaning, location: fn(&Good) -> String| {
        row(format!("{status} {name}"), Refused { status, vendor: false }, move |good| {
            Fault::redirect(status, location(good))
        })
        .video(video)
    };
    vec![
        to("to the same host", 302, Good, |good| good.url.clone() + &good.video_path)
            .once()
            .hops(2),
        to("to the same host", 307, Good, |good| good.video_path.clone()).once().hops(2),
        to("to another host", 301, Good, |good| {
            good.url.replace("127.0.0.1", "localhost") + &good.video_path
        })
        .once()
        .hops(2),
        to("to a host without TLS", 302, Refusable, |_| "http://192.0.2.1/a.mp4".into()),
        to("to a file", 302, Refusable, |_| "file:///etc/hostname".into()),
        to("to data", 303, Refusable, |_| "data:video/mp4;base64,AAAA".into()),
        to("to a script", 308, Refusable, |_| "javascript:alert(1)".into()),
        to("to nothing", 302, Refusable, |_| String::new()).hops(6),
        to("to itself", 307, Refusable, |good| good.url.clone() + &good.video_path).hops(6),
        to("to no URL", 302, Refusable, |_| "http://[::1".into()),
    ]
}
