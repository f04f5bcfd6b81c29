//! Faults of what delimits a response: lengths, chunks, headers.

use super::*;

fn invalid_lengths() -> Vec<FaultCase> {
    let invalid = [
        ("negative", "-1"),
        ("signed", "+300"),
        ("letters", "many"),
        ("empty", ""),
        ("fractional", "3.5"),
        ("hexadecimal", "0xFF"),
        ("a list", "3, 4"),
        ("over 64 bits", "99999999999999999999999"),
    ];
    let case = |(name, value)| {
        raw(format!("length is {name}"), ConnectionLost, move |valid| {
            valid.encode_with_headers(&format!("Content-Length: {value}\r\n"))
        })
    };
    invalid.map(case).into()
}

pub(super) fn lengths() -> Vec<FaultCase> {
    let mut cases = invalid_lengths();
    cases.extend([
        raw("length too short", InvalidBody, |valid| {
            let short = valid.body.len() - 1;
            valid.encode_with_headers(&format!("Content-Length: {short}\r\n"))
        }),
        raw("length too long", ConnectionLost, |valid| {
            let long = valid.body.len() + 1;
            valid.encode_with_headers(&format!("Content-Length: {long}\r\n"))
        }),
        raw("length is zero", InvalidBody, |valid| {
            valid.encode_with_headers("Content-Length: 0\r\n")
        }),
        raw("length over every limit", ConnectionLost, |valid| {
            valid.encode_with_headers("Content-Length: 1000000000000000\r\n")
        })
        .for_download(TooLarge),
        raw("two different lengths", ConnectionLost, |valid| {
            let length = valid.body.len();
            valid.encode_with_headers(&format!("Content-Length: {length}\r\nContent-Length: 3\r\n"))
        }),
        raw("two different lengths, reversed", ConnectionLost, |valid| {
            let length = valid.body.len();
            valid.encode_with_headers(&format!("Content-Length: 3\r\nContent-Length: {length}\r\n"))
        }),
        // HTTP leaves the choice to the client.
        raw("same length twice", ValidOrConnectionLost, |valid| {
            let length = valid.body.len();
            valid.encode(&format!("Content-Length: {length}\r\n"))
        }),
        case("id in a header, length too short", InvalidBody, |_| Fault::wrong_content_length(-1))
            .has_id_header(),
        case("id in a header, length too long", ConnectionLost, |_| Fault::wrong_content_length(1))
            .has_id_header(),
    ]);
    cases
}

pub(super) fn chunks() -> Vec<FaultCase> {
    const HEADER: &str = "Transfer-Encoding: chunked\r\n";
    let mut cases = vec![
        raw("chunked", Valid, |valid| valid.chunked(1000, "", "0\r\n\r\n")),
        raw("small chunks", Valid, |valid| valid.chunked(7, "", "0\r\n\r\n")),
        raw("chunked with trailers", Valid, |valid| {
            valid.chunked(1000, "", "0\r\nX-Sum: 1\r\nx-inference-id: no\r\n\r\n")
        }),
        raw("chunked with extensions", Valid, |valid| {
            valid.chunked(1000, ";a=\"b\"", "0;z\r\n\r\n")
        }),
        raw("chunked with leading zeros", Valid, |valid| {
            let size = format!("000{:x}\r\n", valid.body.len());
            let encoded = [size.as_bytes(), &valid.body, b"\r\n0\r\n\r\n"].concat();
            valid.encode_exact("200 OK", HEADER, &encoded)
        }),
        raw("chunked without the last chunk", ConnectionLost, |valid| valid.chunked(1000, "", "")),
        raw("chunked, truncated in a trailer", ConnectionLost, |valid| {
            valid.chunked(1000, "", "0\r\nX-Sum: ")
        }),
        raw("chunked with a length", ValidOrConnectionLost, |valid| {
            let mut response = valid.chunked(1000, "", "0\r\n\r\n");
            response.splice(17..17, *b"Content-Length: 3\r\n");
            response
        }),
        raw("chunk longer than its size", ConnectionLost, |valid| {
            let encoded = [b"3\r\n", valid.body.as_slice(), b"\r\n0\r\n\r\n"].concat();
            valid.encode_exact("200 OK", HEADER, &encoded)
        }),
    ];
    let sizes = ["zz", "-5", "", "FFFFFFFFFFFFFFFFF", "5 5", "+5", "0x5"];
    cases.extend(sizes.map(|size| {
        raw(format!("chunk size {size:?}"), ConnectionLost, move |valid| {
            let encoded = [size.as_bytes(), b"\r\n", &valid.body, b"\r\n0\r\n\r\n"].concat();
            valid.encode_exact("200 OK", HEADER, &encoded)
        })
    }));
    cases.push(raw("chunk size 2^64 - 1", ConnectionLost, |valid| {
        let encoded = [b"FFFFFFFFFFFFFFFF\r\n", valid.body.as_slice()].concat();
        valid.encode_exact("200 OK", HEADER, &encoded)
    }));
    cases
}

pub(super) fn headers() -> Vec<FaultCase> {
    let valid_with_header = |name: &str, header: &'static [u8]| {
        raw(name, Valid, move |valid| {
            let mut response = valid.encode("");
            response.splice(17..17, header.iter().copied());
            response
        })
    };
    vec![
        valid_with_header("header is not UTF-8", b"X-A: \xff\xfe\r\n"),
        valid_with_header("id header is not UTF-8", b"x-inference-id: \xff\xfe\r\n"),
        valid_with_header("id header is empty", b"x-inference-id: \r\n"),
        valid_with_header(
            "cost headers are not numbers",
            b"x-aimlapi-credits-used: NaN\r\nx-aimlapi-usd-spent: 1e999\r\n",
        ),
        valid_with_header("4 KiB header", {
            const LONG: [u8; 4101] = {
                let mut header = [b'a'; 4101];
                (header[0], header[1], header[2], header[3]) = (b'X', b'-', b'A', b':');
                (header[4099], header[4100]) = (b'\r', b'\n');
                header
            };
            &LONG
        }),
        raw("30 headers", Valid, |valid| valid.encode(&"X-A: b\r\n".repeat(30))),
    ]
}

pub(super) fn endless_heads() -> Vec<FaultCase> {
    vec![
        case("endless headers", EndlessHead, |valid| {
            Fault::repeat_body(
                "HTTP/1.1 200 OK\r\n",
                "X-A: ".to_owned() + &"a".repeat(1019) + "\r\n",
                valid.endless_len(),
            )
        }),
        case("endless short headers", EndlessHead, |valid| {
            Fault::repeat_body("HTTP/1.1 200 OK\r\n", "A: b\r\n".repeat(1000), valid.endless_len())
        }),
        case("endless header", EndlessHead, |valid| {
            Fault::repeat_body("HTTP/1.1 200 OK\r\nX-A: ", "a".repeat(65_536), valid.endless_len())
        }),
        case("endless status line", EndlessHead, |valid| {
            Fault::repeat_body("HTTP/1.1 200 ", "a".repeat(65_536), valid.endless_len())
        }),
        case("endless interim responses", EndlessHead, |valid| {
            Fault::repeat_body(
                "",
                "HTTP/1.1 102 Processing\r\n\r\n".repeat(1000),
                valid.endless_len(),
            )
        }),
        case("endless empty lines", EndlessHead, |valid| {
            Fault::repeat_body("", "\r\n".repeat(1000), valid.endless_len())
        }),
        case("endless chunk size", EndlessHead, |valid| {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            Fault::repeat_body(head, "0".repeat(65_536), valid.endless_len())
        }),
    ]
}
