//! What the library costs inside a process, beside the least that the same work can cost. All of
//! it goes over 127.0.0.1 to a server in this process, which answers with fixed bytes and does
//! nothing else, so that what is measured is the client.
//!
//! `cargo bench` runs all of it in about a minute, `cargo bench -- upload` one group. Within a group
//! the rows are there to be divided by each other or subtracted; the figures themselves are those
//! of one machine on one day. criterion keeps the last run and prints the change.
//!
//! - **upload**: what does a byte of a picture cost? All rows are per raw byte of a 4 MiB picture.
//!   `client-*` is [`Client::create`], from memory and from a file; `socket-*` encodes the same
//!   picture and writes it to the same server by hand, in the same steps and with the same
//!   handshake; `encode-*` is base64 alone. `client-memory` should be faster than `socket-scalar`
//!   and near `socket-simd`, which is as fast as it can be.
//! - **parse**: what does reading a reply cost? `*-generation` is what the library does,
//!   `*-value` is the same text as a [`serde_json::Value`], which checks nothing.
//! - **poll**: what does a look at a generation cost? `client-retrieve` is [`Client::retrieve`] on a
//!   connection that is kept; `socket` is the same request and reply by hand, unparsed. The
//!   difference is the library's own work.
//! - **run**: what does the journal cost? `journal` is [`Client::generate_to`]; `no-journal` is the
//!   same create, wait and download without it. `synced-appends` is what the journal asks of the
//!   disk, by hand: a new file, its folder synced, and four lines, each synced. So `journal` less
//!   `no-journal` is the journal's cost, and `synced-appends` the part of it that a disk with
//!   nothing else to write would take. The files are in the target directory: syncing costs what
//!   that disk takes for it, and varies from run to run.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

use std::fs::{File, OpenOptions};
use std::hint::black_box;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose;
use criterion::{BatchSize, Criterion, SamplingMode, Throughput};
use kling_video::{
    Client, Generation, GenerationId, Image, ImageToVideo, MODEL, RetryPolicy, Sandbox, WaitOptions,
};
use tempfile::TempDir;

const PENDING: &str = include_str!("../tests/fixtures/replies/generation-queued.json");
const COMPLETED: &str = include_str!("../tests/fixtures/replies/generation-documented.json");

/// The generation of both replies.
const ID: &str = "789392067490349060";

const PATH: &str = "/v2/generate/video/kling/generation";

/// Raw bytes that are encoded and written at once: 96 KiB as base64.
const STEP: usize = 72 * 1024;

fn main() {
    let mut criterion = Criterion::default()
        .sample_size(40)
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_millis(2500))
        .nresamples(20_000)
        .without_plots()
        .configure_from_args();
    upload(&mut criterion);
    parse(&mut criterion);
    poll(&mut criterion);
    run(&mut criterion);
    criterion.final_summary();
}

// ---------------------------------------------------------------- the groups

fn upload(criterion: &mut Criterion) {
    let picture = png(4 * 1024 * 1024);
    let folder = folder();
    let path = folder.path().join("picture.png");
    std::fs::write(&path, &picture).unwrap();
    let server = serve(|_| json(PENDING));
    let client = client(server);
    let from_memory = ImageToVideo::new(Image::bytes(picture.clone())).prompt("the cat yawns");
    let from_file = ImageToVideo::new(Image::file(path)).prompt("the cat yawns");
    let scalar = general_purpose::STANDARD;

    let mut group = criterion.benchmark_group("upload");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(picture.len() as u64));
    group.bench_function("client-memory", |b| b.iter(|| client.create(&from_memory).unwrap()));
    group.bench_function("client-file", |b| b.iter(|| client.create(&from_file).unwrap()));
    group.bench_function("socket-scalar", |b| b.iter(|| send(server, &picture, &scalar)));
    if let Some(simd) = simd() {
        group.bench_function("socket-simd", |b| b.iter(|| send(server, &picture, &simd)));
    }
    group.bench_function("encode-scalar", |b| b.iter(|| encode(&picture, &scalar)));
    if let Some(simd) = simd() {
        group.bench_function("encode-simd", |b| b.iter(|| encode(&picture, &simd)));
    }
    group.finish();
}

fn parse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("parse");
    for (name, text) in [("pending", PENDING), ("completed", COMPLETED)] {
        group.throughput(Throughput::Bytes(text.len() as u64));
        group.bench_function(format!("{name}-generation"), |b| {
            b.iter(|| serde_json::from_str::<Generation>(black_box(text)).unwrap());
        });
        group.bench_function(format!("{name}-value"), |b| {
            b.iter(|| serde_json::from_str::<serde_json::Value>(black_box(text)).unwrap());
        });
    }
    group.finish();
}

fn poll(criterion: &mut Criterion) {
    let server = serve(|_| json(PENDING));
    let client = client(server);
    let id: GenerationId = ID.parse().unwrap();
    let mut connection = Connection::open(server);
    let request = format!(
        "GET {PATH}?generation_id={ID} HTTP/1.1\r\nhost: {server}\r\nauthorization: Bearer key\r\n\
         accept: application/json\r\nuser-agent: bench\r\n\r\n"
    );

    let mut group = criterion.benchmark_group("poll");
    group.bench_function("client-retrieve", |b| b.iter(|| client.retrieve(&id).unwrap()));
    group.bench_function("socket", |b| {
        b.iter(|| {
            connection.write(request.as_bytes());
            connection.reply()
        });
    });
    group.finish();
}

fn run(criterion: &mut Criterion) {
    let video = Sandbox::start().unwrap().video();
    let server = serve(move |request| match request {
        Request { method: "POST", .. } => json(PENDING),
        Request { target: "/video.mp4", .. } => reply("video/mp4", video),
        Request { host, .. } => {
            let link = format!("http://{host}/video.mp4");
            let video = serde_json::json!({ "url": link });
            let generation = serde_json::json!({ "id": ID, "status": "completed", "video": video });
            json(&generation.to_string())
        }
    });
    let client = client(server);
    let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));

    let mut group = criterion.benchmark_group("run");
    group.sampling_mode(SamplingMode::Flat);
    // A new folder each time, made before and removed after what is measured.
    group.bench_function("journal", |b| {
        b.iter_batched(
            folder,
            |folder| {
                let saved = client.generate_to(&request, folder.path().join("cat.mp4")).unwrap();
                (saved, folder)
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("no-journal", |b| {
        b.iter_batched(
            folder,
            |folder| {
                let generation = client.create(&request).unwrap();
                let video = client.wait(&generation.id).unwrap();
                (client.download(&video, folder.path().join("cat.mp4")).unwrap(), folder)
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("synced-appends", |b| {
        b.iter_batched(
            folder,
            |folder| {
                synced_appends(folder.path()).unwrap();
                folder
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

// ---------------------------------------------------------------- what they are measured with

/// A client that tries everything once and looks at once.
fn client(server: SocketAddr) -> Client {
    Client::builder("key")
        .base_url(format!("http://{server}"))
        .no_proxy()
        .retry(RetryPolicy::none())
        .wait(WaitOptions::new().first_poll_after(Duration::ZERO))
        .build()
        .unwrap()
}

/// A new folder on the disk of the target directory: a temporary one may be in memory, where
/// syncing costs nothing.
fn folder() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// The header of a PNG of 1280 × 720 pixels, and then filler up to `len` bytes.
fn png(len: usize) -> Vec<u8> {
    let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    data.extend(1280_u32.to_be_bytes());
    data.extend(720_u32.to_be_bytes());
    let filler = len - data.len();
    data.extend((0..filler).map(|i| (i * 7 + i / 251) as u8));
    data
}

/// The engine that the library chooses, where there is one.
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")))]
fn simd() -> Option<impl Engine> {
    Some(base64::engine::Simd::standard(general_purpose::PAD))
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon"))))]
fn simd() -> Option<general_purpose::GeneralPurpose> {
    None
}

/// The picture as base64, step by step into one buffer.
fn encode(picture: &[u8], engine: &impl Engine) {
    each_step(picture, engine, |encoded| {
        black_box(encoded);
    });
}

fn each_step(picture: &[u8], engine: &impl Engine, mut take: impl FnMut(&[u8])) {
    let mut buffer = vec![0; STEP / 3 * 4];
    for step in picture.chunks(STEP) {
        let len = engine.encode_slice(step, &mut buffer).unwrap();
        take(&buffer[..len]);
    }
}

/// A create by hand, on a connection of its own and announced, as the library's.
fn send(server: SocketAddr, picture: &[u8], engine: &impl Engine) -> Vec<u8> {
    let first = format!(
        r#"{{"model":"{MODEL}","prompt":"the cat yawns","image_url":"data:image/png;base64,"#
    );
    let last = r#""}"#;
    let len = first.len() + picture.len().div_ceil(3) * 4 + last.len();
    let mut connection = Connection::open(server);
    connection.write(
        format!(
            "POST {PATH} HTTP/1.1\r\nhost: {server}\r\nauthorization: Bearer key\r\n\
             accept: application/json\r\ncontent-type: application/json\r\nuser-agent: bench\r\n\
             content-length: {len}\r\nexpect: 100-continue\r\n\r\n"
        )
        .as_bytes(),
    );
    connection.reply();
    connection.write(first.as_bytes());
    each_step(picture, engine, |encoded| connection.write(encoded));
    connection.write(last.as_bytes());
    connection.reply()
}

/// What a journal of one run asks of the disk.
fn synced_appends(folder: &Path) -> io::Result<()> {
    let path = folder.join("journal");
    let mut journal = OpenOptions::new().append(true).create_new(true).open(&path)?;
    File::open(folder)?.sync_all()?;
    for _ in 0..4 {
        journal.write_all(&[b'x'; 100])?;
        journal.sync_data()?;
    }
    Ok(())
}

// ---------------------------------------------------------------- HTTP by hand

/// A connection to the server.
struct Connection(BufReader<TcpStream>, String);

impl Connection {
    fn open(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_nodelay(true).unwrap();
        Self(BufReader::new(stream), String::new())
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.get_mut().write_all(bytes).unwrap();
    }

    /// The body of the next reply.
    fn reply(&mut self) -> Vec<u8> {
        let Self(reader, head) = self;
        read_head(reader, head).unwrap();
        let mut body = vec![0; content_length(head)];
        reader.read_exact(&mut body).unwrap();
        body
    }
}

/// What the server is asked.
struct Request<'a> {
    method: &'a str,
    target: &'a str,
    host: &'a str,
}

/// Starts a server, which runs as long as the process: it throws bodies away, and keeps its
/// connections until the other side closes them.
fn serve(answer: impl Fn(&Request<'_>) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let answer = Arc::new(answer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let answer = Arc::clone(&answer);
            // A connection that breaks is seen by the client, which is the one to complain.
            thread::spawn(move || stream.and_then(|stream| converse(stream, &*answer)));
        }
    });
    address
}

fn converse(stream: TcpStream, answer: &dyn Fn(&Request<'_>) -> Vec<u8>) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(64 * 1024, stream);
    let mut head = String::new();
    while read_head(&mut reader, &mut head)? {
        if header(&head, "expect").is_some() {
            reader.get_mut().write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        discard(&mut reader, content_length(&head))?;
        let mut words = head.split(' ');
        let request = Request {
            method: words.next().unwrap_or_default(),
            target: words.next().unwrap_or_default(),
            host: header(&head, "host").unwrap_or_default(),
        };
        reader.get_mut().write_all(&answer(&request))?;
    }
    Ok(())
}

/// Reads up to the empty line; says whether there was anything.
fn read_head(reader: &mut impl BufRead, head: &mut String) -> io::Result<bool> {
    head.clear();
    while reader.read_line(head)? > 2 {}
    Ok(!head.is_empty())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(own, _)| own.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn content_length(head: &str) -> usize {
    header(head, "content-length").map_or(0, |length| length.parse().unwrap())
}

fn discard(reader: &mut impl BufRead, len: usize) -> io::Result<()> {
    let mut left = len;
    while left > 0 {
        let here = reader.fill_buf()?.len().min(left);
        if here == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reader.consume(here);
        left -= here;
    }
    Ok(())
}

fn json(body: &str) -> Vec<u8> {
    reply("application/json", body.as_bytes())
}

fn reply(content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
