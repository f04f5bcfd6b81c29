//! Which responses are accepted as a complete video: media files as muxers, phones and encoders
//! write them, and what is left of them when they are truncated.

use std::io::Write;

use kling_video::{ErrorKind, RetryPolicy};

use crate::helpers::clients::{sandbox, video_at};
use crate::helpers::files::TestDir;
use crate::helpers::media::{mp4_box, mp4_box_64, mp4_open_box};
use crate::helpers::tcp_server::RawServer;

/// Whether a file is accepted if its length was announced, and if it was not.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Verdict {
    announced: bool,
    unannounced: bool,
}

const ACCEPTED: Verdict = Verdict { announced: true, unannounced: true };
const IF_ANNOUNCED: Verdict = Verdict { announced: true, unannounced: false };
const REJECTED: Verdict = Verdict { announced: false, unannounced: false };

fn cut(mut file: Vec<u8>, from_end: usize) -> Vec<u8> {
    file.truncate(file.len() - from_end);
    file
}

/// Serves the file with and without `Content-Length`, and returns whether it was accepted.
fn verdict(file: &[u8]) -> Verdict {
    let accepted = |announced: bool| {
        let body = file.to_vec();
        let server = RawServer::start(move |mut stream| {
            let length = match announced {
                true => format!("Content-Length: {}\r\n", body.len()),
                false => String::new(),
            };
            let head = format!("HTTP/1.1 200 OK\r\n{length}Connection: close\r\n\r\n");
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        });
        let sandbox = sandbox();
        let client = sandbox.client_builder().retry_policy(RetryPolicy::none()).build().unwrap();
        let dir = TestDir::new();
        match client.download(&video_at(&format!("{}/cat.mp4", server.url())), &dir.target) {
            Ok(_) => {
                assert_eq!(std::fs::read(&dir.target).unwrap(), file);
                true
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Decode, "{error:?}");
                assert_eq!(dir.files(), [""; 0]);
                false
            }
        }
    };
    Verdict { announced: accepted(true), unannounced: accepted(false) }
}

#[track_caller]
fn assert_verdicts(files: Vec<(&str, Vec<u8>, Verdict)>) {
    let wrong: Vec<_> = files
        .into_iter()
        .map(|(name, file, expected)| (name, verdict(&file), expected))
        .filter(|(_, actual, expected)| actual != expected)
        .collect();
    assert!(wrong.is_empty(), "name, verdict, expected: {wrong:#?}");
}

fn ftyp() -> Vec<u8> {
    mp4_box(b"ftyp", b"isom\0\0\x02\0isomiso2avc1mp41")
}

fn moov() -> Vec<u8> {
    mp4_box(b"moov", &mp4_box(b"mvhd", &[0; 100]))
}

fn mdat() -> Vec<u8> {
    mp4_box(b"mdat", &[0x65; 3_000])
}

fn fragment() -> Vec<u8> {
    [mp4_box(b"moof", &[0; 80]), mdat()].concat()
}

fn faststart() -> Vec<u8> {
    [ftyp(), moov(), mdat()].concat()
}

#[test]
fn complete_files_of_every_layout_are_accepted() {
    let quicktime = [mp4_box(b"ftyp", b"qt  \0\0\x02\0qt  "), mp4_box(b"wide", b"")].concat();
    let uuid = mp4_box(b"uuid", &[0xC2; 400]);
    assert_verdicts(vec![
        ("faststart", faststart(), ACCEPTED),
        ("moov last", [ftyp(), mp4_box(b"free", b""), mdat(), moov()].concat(), ACCEPTED),
        ("two mdat", [ftyp(), mdat(), moov(), mdat()].concat(), ACCEPTED),
        ("empty mdat first", [ftyp(), mp4_box(b"mdat", b""), moov(), mdat()].concat(), ACCEPTED),
        ("64-bit mdat", [ftyp(), moov(), mp4_box_64(b"mdat", &[1; 999])].concat(), ACCEPTED),
        (
            "64-bit mdat, moov last",
            { [ftyp(), mp4_box_64(b"mdat", &[1; 999]), moov()].concat() },
            ACCEPTED,
        ),
        ("QuickTime", [quicktime, mdat(), moov()].concat(), ACCEPTED),
        ("3GP", [mp4_box(b"ftyp", b"3gp4\0\0\x02\x003gp4"), mdat(), moov()].concat(), ACCEPTED),
        ("C2PA uuid", [ftyp(), uuid, moov(), mdat()].concat(), ACCEPTED),
        ("fragmented", [ftyp(), moov(), fragment(), fragment()].concat(), ACCEPTED),
        (
            "fragmented, mfra",
            { [ftyp(), moov(), fragment(), mp4_box(b"mfra", &[0; 16])].concat() },
            ACCEPTED,
        ),
        ("CMAF", [ftyp(), moov(), mp4_box(b"sidx", &[0; 40]), fragment()].concat(), ACCEPTED),
        (
            "emsg between fragments",
            { [ftyp(), moov(), fragment(), mp4_box(b"emsg", b"ID3"), fragment()].concat() },
            ACCEPTED,
        ),
        ("free last", [faststart(), mp4_box(b"free", &[0; 64])].concat(), ACCEPTED),
    ]);
}

#[test]
fn bytes_behind_the_last_box_are_accepted_if_the_length_was_announced() {
    let behind = |bytes: &[u8]| [faststart(), bytes.to_vec()].concat();
    let samsung =
        b"\0\0\x01\x0a\x0e\0\0\0Image_UTC_Data1730000000000SEFH\x6b\0\0\0\x01\0\0\0\0\0\x01\
                    \x0a\x37\0\0\0\x37\0\0\0\x18\0\0\0SEFT";
    assert_verdicts(vec![
        ("Samsung trailer", behind(samsung), IF_ANNOUNCED),
        ("one NUL", behind(b"\0"), IF_ANNOUNCED),
        ("three NULs", behind(b"\0\0\0"), IF_ANNOUNCED),
        ("many NULs", behind(&[0; 4_096]), ACCEPTED),
        ("newline", behind(b"\n"), IF_ANNOUNCED),
        ("text", behind(b"<!-- served by cache-7 -->"), IF_ANNOUNCED),
        ("0xFF", behind(&[0xFF; 64]), IF_ANNOUNCED),
        ("ID3v1 tag", behind(&[b"TAG".as_slice(), &[b' '; 125]].concat()), IF_ANNOUNCED),
        ("impossible box", behind(b"\0\0\0\x03junk"), IF_ANNOUNCED),
        ("open free box", behind(&mp4_open_box(b"free", &[0; 9])), ACCEPTED),
        ("NUL, moov last", [ftyp(), mdat(), moov(), vec![0]].concat(), IF_ANNOUNCED),
        ("NULs, fragmented", [ftyp(), moov(), fragment(), vec![0; 5]].concat(), IF_ANNOUNCED),
        ("before the media", [ftyp(), moov(), b"junk behind".to_vec()].concat(), REJECTED),
    ]);
}

#[test]
fn mdat_without_a_size_is_accepted_if_the_length_was_announced() {
    let open = || mp4_open_box(b"mdat", &[0x65; 3_000]);
    assert_verdicts(vec![
        ("open mdat", [ftyp(), moov(), open()].concat(), IF_ANNOUNCED),
        ("open mdat, cut", cut([ftyp(), moov(), open()].concat(), 1_500), IF_ANNOUNCED),
        (
            "open mdat, fragmented",
            { [ftyp(), moov(), mp4_box(b"moof", &[0; 80]), open()].concat() },
            IF_ANNOUNCED,
        ),
        ("open mdat without moov", [ftyp(), open()].concat(), REJECTED),
    ]);
}

#[test]
fn truncated_files_are_rejected_whatever_was_announced() {
    let fragmented = || [ftyp(), moov(), fragment(), fragment()].concat();
    let long = || [ftyp(), moov(), mp4_box_64(b"mdat", &[1; 999])].concat();
    let moov_last = || [ftyp(), mdat(), moov()].concat();
    assert_verdicts(vec![
        ("empty", Vec::new(), REJECTED),
        ("HTML", b"<!DOCTYPE html><html><body>Log in</body></html>".to_vec(), REJECTED),
        ("JSON", br#"{"error":"not found"}"#.to_vec(), REJECTED),
        ("gzip", b"\x1f\x8b\x08\0\0\0\0\0\0\x03".to_vec(), REJECTED),
        ("NULs", vec![0; 5_000], REJECTED),
        ("no ftyp", [moov(), mdat()].concat(), REJECTED),
        ("ftyp alone", ftyp(), REJECTED),
        ("ftyp and moov alone", [ftyp(), moov()].concat(), REJECTED),
        ("ftyp and mdat alone", [ftyp(), mdat()].concat(), REJECTED),
        ("empty mdat", [ftyp(), moov(), mp4_box(b"mdat", b"")].concat(), REJECTED),
        ("ftyp, cut", cut(ftyp(), 1), REJECTED),
        ("mdat, last byte missing", cut(faststart(), 1), REJECTED),
        ("mdat, half", cut(faststart(), 1_500), REJECTED),
        ("mdat, header only", cut(faststart(), 3_000), REJECTED),
        ("mdat, header cut", cut(faststart(), 3_004), REJECTED),
        ("64-bit mdat, cut", cut(long(), 1), REJECTED),
        ("64-bit mdat, header cut", cut(long(), 1_003), REJECTED),
        ("moov last, cut", cut(moov_last(), 1), REJECTED),
        ("moov last, header cut", cut(moov_last(), moov().len() - 5), REJECTED),
        ("second mdat, cut", cut([faststart(), mdat()].concat(), 1), REJECTED),
        ("fragment's mdat, cut", cut(fragmented(), 1), REJECTED),
        ("moof, cut", cut(fragmented(), mdat().len() + 1), REJECTED),
        (
            "mdat with a size over u64",
            [ftyp(), moov(), { [&b"\0\0\0\x01mdat"[..], &[0xFF; 8]].concat() }].concat(),
            REJECTED,
        ),
        (
            "mdat with a size below its header",
            { [faststart(), b"\0\0\0\x07mdat".to_vec()].concat() },
            REJECTED,
        ),
    ]);
    // A response without a length may have been cut between two boxes.
    let without_last_mdat = cut(fragmented(), mdat().len());
    assert!(!verdict(&without_last_mdat).unannounced);
}
