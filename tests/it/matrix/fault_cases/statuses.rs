//! Statuses: errors, unusual successes, interim responses, redirects.

use super::*;

pub(super) fn statuses() -> Vec<FaultCase> {
    let gateway_error = |status| ErrorStatus { status, from_api: false };
    vec![
        case("out of credits", ErrorStatus { status: 403, from_api: true }, |_| Fault::status(403)),
        case("429 with a long Retry-After", ErrorStatus { status: 429, from_api: true }, |_| {
            Fault::status(429).header("Retry-After", "3600")
        })
        .long_retry_after(),
        case("503 with a Retry-After date", ErrorStatus { status: 503, from_api: true }, |_| {
            Fault::status(503).header("Retry-After", "Sun, 06 Nov 2094 08:49:37 GMT")
        })
        .long_retry_after(),
        case(
            "503 with an invalid Retry-After",
            ErrorStatus { status: 503, from_api: true },
            |_| Fault::status(503).header("Retry-After", "soon"),
        ),
        case("504 with an id", ErrorStatus { status: 504, from_api: true }, |valid| {
            Fault::status(504).header("x-inference-id", valid.id.clone())
        })
        .has_id_header(),
        raw("401, truncated", gateway_error(401), |valid| {
            valid.encode_exact("401 no", "Content-Length: 99\r\n", br#"{"mess"#)
        }),
        raw("500, truncated", gateway_error(500), |valid| {
            valid.encode_exact("500 no", "Content-Length: 99\r\n", br#"{"message":"no""#)
        }),
        case("500, stalled in the body", gateway_error(500), |_| {
            // The head and two bytes of the body.
            Fault::response(500, r#"{"message":"no"}"#)
                .throttle_after(78, Duration::from_secs(3600))
        })
        .slow(),
    ]
}

pub(super) fn successes() -> Vec<FaultCase> {
    vec![
        raw("201", Valid, |valid| valid.encode_body("201 Created", "", &valid.body))
            .for_download(UnexpectedSuccess),
        raw("202", Valid, |valid| valid.encode_body("202 Accepted", "", &valid.body))
            .for_download(UnexpectedSuccess),
        raw("206", Valid, |valid| valid.encode_body("206 Partial Content", "", &valid.body))
            .for_download(UnexpectedSuccess),
        raw("204", InvalidBody, |valid| valid.encode_exact("204 No Content", "", b""))
            .for_download(UnexpectedSuccess),
        raw("205", InvalidBody, |valid| valid.encode_body("205 Reset Content", "", b""))
            .for_download(UnexpectedSuccess),
        case("200 with an id in a header only", InvalidBody, |valid| {
            Fault::response(200, "").header("x-inference-id", valid.id.clone())
        })
        .has_id_header(),
        // HTTP allows any number of interim responses before the final one.
        raw("100 before the response", Valid, |valid| interim("100 Continue", 1, valid)),
        raw("102 before the response", Valid, |valid| interim("102 Processing", 1, valid)),
        raw("103 before the response", Valid, |valid| {
            interim("103 Early Hints\r\nLink: </a.css>; rel=preload", 1, valid)
        }),
        raw("three 102 before the response", Valid, |valid| interim("102 Processing", 3, valid)),
        raw("101", NotFinal, |valid| {
            valid.encode_exact(
                "101 Switching Protocols",
                "Upgrade: x\r\nConnection: upgrade\r\n",
                b"",
            )
        }),
        raw("100 only", ConnectionLost, |valid| valid.encode_exact("100 Continue", "", b"")),
    ]
}

fn interim(line: &str, times: usize, valid: &ValidResponse) -> Vec<u8> {
    [format!("HTTP/1.1 {line}\r\n\r\n").repeat(times).into_bytes(), valid.encode("")].concat()
}

pub(super) fn redirects() -> Vec<FaultCase> {
    let redirect = |name: &str,
                    status: u16,
                    download_effect: FaultEffect,
                    location: fn(&ValidResponse) -> String| {
        case(format!("{status} {name}"), ErrorStatus { status, from_api: false }, move |valid| {
            Fault::redirect(status, location(valid))
        })
        .for_download(download_effect)
    };
    vec![
        redirect("to the same host", 302, Valid, |valid| valid.url.clone() + &valid.video_path)
            .once()
            .download_requests(2),
        redirect("to the same host", 307, Valid, |valid| valid.video_path.clone())
            .once()
            .download_requests(2),
        redirect("to another host", 301, Valid, |valid| {
            valid.url.replace("127.0.0.1", "localhost") + &valid.video_path
        })
        .once()
        .download_requests(2),
        redirect("to a host without TLS", 302, ForbiddenRedirect, |_| {
            "http://192.0.2.1/a.mp4".into()
        }),
        redirect("to a file URL", 302, ForbiddenRedirect, |_| "file:///etc/hostname".into()),
        redirect("to a data URL", 303, ForbiddenRedirect, |_| "data:video/mp4;base64,AAAA".into()),
        redirect("to a javascript URL", 308, ForbiddenRedirect, |_| "javascript:alert(1)".into()),
        redirect("to an empty location", 302, ForbiddenRedirect, |_| String::new())
            .download_requests(6),
        redirect("to itself", 307, ForbiddenRedirect, |valid| {
            valid.url.clone() + &valid.video_path
        })
        .download_requests(6),
        redirect("to an invalid URL", 302, ForbiddenRedirect, |_| "http://[::1".into()),
    ]
}
