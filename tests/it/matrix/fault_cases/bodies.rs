//! Faults of the body: what it contains, and that it is too large or never ends.

use super::*;

fn invalid_bodies() -> Vec<FaultCase> {
    let bodies: [(&str, &[u8]); 15] = [
        ("empty body", b""),
        ("HTML page", b"<!DOCTYPE html><title>Just a moment...</title>"),
        ("null", b"null"),
        ("number", b"1"),
        ("string", b"\"completed\""),
        ("array", b"[]"),
        ("empty object", b"{}"),
        ("fields of the wrong type", b"{\"id\":{},\"state\":null,\"data\":{},\"video\":7}"),
        ("empty id", b"{\"id\":\"\",\"data\":null}"),
        ("control character in the id", b"{\"id\":\"a\\u0000b\",\"data\":null}"),
        ("invalid UTF-8", b"{\"id\":\"\xff\xfe\",\"status\":\"completed\",\"data\":[]}"),
        ("lone surrogate", b"{\"id\":\"\\ud800\",\"status\":\"completed\",\"data\":[]}"),
        ("number out of range", b"{\"id\":\"1\",\"status\":\"completed\",\"data\":[],\"n\":1e999}"),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0"),
        ("UTF-16", b"\xff\xfe{\0}\0"),
    ];
    bodies.map(|(name, bytes)| body(name, InvalidBody, move |_| bytes.to_vec())).into()
}

pub(super) fn bodies() -> Vec<FaultCase> {
    let mut cases = invalid_bodies();
    cases.extend([
        raw("unsolicited gzip", InvalidBody, |valid| {
            let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xab\xae\x05\0\x43\xbf\xa6\xa3\x02\0\0\0";
            valid.encode_body("200 OK", "Content-Encoding: gzip\r\n", gzip)
        }),
        // The client does not decompress, so a wrong Content-Encoding makes no difference.
        raw("Content-Encoding: gzip, but not compressed", Valid, |valid| {
            valid.encode("Content-Encoding: gzip\r\n")
        }),
        body("nested too deeply", InvalidBody, |valid| {
            let deep = format!("\"x\":{}{}", "[".repeat(50_000), "]".repeat(50_000));
            match valid.is_video() {
                true => deep.into_bytes(),
                false => valid.with_field(&deep),
            }
        }),
        body("nested and not closed", InvalidBody, |_| "[{\"a\":".repeat(20_000).into_bytes()),
        body("nested 50 levels", Valid, |valid| {
            valid.with_field(&format!("\"x\":{}{}", "[".repeat(50), "]".repeat(50)))
        }),
        body("duplicate keys", Valid, |valid| match valid.is_video() {
            true => valid.body.clone(),
            false => [&valid.body[..valid.body.len() - 1], b",", &valid.body[1..]].concat(),
        }),
        body("unknown fields", Valid, |valid| {
            valid.with_field(r#""":null,"x":{"y":[1,2.5,"z"]},"é":true"#)
        }),
        body("surrounding whitespace", Valid, |valid| match valid.is_video() {
            true => valid.body.clone(),
            false => [b" \r\n\t", valid.body.as_slice(), b"\n\n"].concat(),
        }),
        body("trailing data", InvalidBody, |valid| match valid.is_video() {
            // A video may have bytes behind its last box.
            true => valid.body[..valid.body.len() - 2].to_vec(),
            false => [&valid.body, &b"xx"[..]].concat(),
        }),
        body("byte order mark", InvalidBody, |valid| {
            [b"\xef\xbb\xbf", valid.body.as_slice()].concat()
        }),
    ]);
    cases
}

pub(super) fn large_bodies() -> Vec<FaultCase> {
    vec![
        body("exactly 1 MiB", Valid, |valid| {
            let mut body = valid.body.clone();
            if !valid.is_video() {
                body.resize(1 << 20, b' ');
            }
            body
        }),
        body("1 MiB and one byte", TooLarge, |valid| {
            let mut body = if valid.is_video() { Vec::new() } else { valid.body.clone() };
            body.resize((1 << 20) + 1, b' ');
            body
        }),
        case("endless body", TooLarge, |valid| {
            Fault::repeat_body("HTTP/1.1 200 OK\r\n\r\n", " ".repeat(65_536), valid.endless_len())
        }),
        case("endless body with a length", TooLarge, |valid| {
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", valid.endless_len());
            Fault::repeat_body(head, " ".repeat(65_536), valid.endless_len())
        }),
        case("endless chunks", TooLarge, |valid| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            Fault::repeat_body(
                head,
                format!("10000\r\n{}\r\n", " ".repeat(65_536)),
                valid.endless_len(),
            )
        })
        .for_download(ConnectionLost),
        case("endless trailers", EndlessHead, |valid| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n";
            match valid.is_video() {
                true => Fault::default(),
                false => Fault::repeat_body(head, "X-A: b\r\n".repeat(1000), valid.endless_len()),
            }
        })
        .for_download(Valid),
        case("slow trailers", Timeout, |valid| {
            slow_end(valid, &format!("0\r\nX-A: {}\r\n\r\n", "b".repeat(300)))
        }),
        case("slow chunk extension", Timeout, |valid| {
            slow_end(valid, &format!("0;{}\r\n\r\n", "b".repeat(300)))
        }),
    ]
}

/// The complete body in one chunk, then a terminator that arrives slowly.
fn slow_end(valid: &ValidResponse, end: &str) -> Fault {
    let size = format!("{:x}\r\n", valid.body.len());
    let chunk = [size.as_bytes(), &valid.body, b"\r\n"].concat();
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    let immediate = head.len() + chunk.len();
    Fault::response(200, [&chunk, end.as_bytes()].concat())
        .header("Transfer-Encoding", "chunked")
        .throttle_after(immediate, Duration::from_millis(10))
}
