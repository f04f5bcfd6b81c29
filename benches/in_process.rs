//! The library's cost inside a process, compared with lower bounds for the same work. All requests
//! go over 127.0.0.1 to a server in this process that only sends fixed responses, so that what is
//! measured is the client.
//!
//! `cargo bench` runs all groups in about a minute, `cargo bench -- upload` one of them. The results
//! within a group are meant to be compared with each other; the absolute figures depend on the
//! machine. criterion saves the last run and prints the change.
//!
//! - **upload**: the cost per raw byte of a 4 MiB image. `client-*` is [`Client::create`], from
//!   memory and from a file. `socket-*` encodes the same image and writes it to a plain socket, in
//!   the same chunks and with the same `Expect: 100-continue` exchange. `encode-*` is base64 alone.
//!   `client-memory` should be faster than `socket-scalar` and close to `socket-simd`, the lower
//!   bound.
//! - **parse**: the cost of parsing a response. `*-generation` is the library's type; `*-value` is
//!   the same text as a [`serde_json::Value`], which validates nothing.
//! - **poll**: the cost of one poll. `client-retrieve` is [`Client::retrieve`] on a pooled
//!   connection. `socket` sends the same request on a plain socket and does not parse the response.
//!   The difference is the library's own work.
//! - **run**: the cost of the journal. `journal` is [`Client::generate_to`]; `no-journal` is the
//!   same create, wait and download without it. `synced-appends` does only the journal's disk
//!   operations: it creates a file, syncs its directory, and appends four lines, each synced. So
//!   `journal` − `no-journal` is the journal's cost, and `synced-appends` is the part of it that
//!   these operations take on an otherwise idle disk. The files are in the target directory, so the
//!   results depend on that disk's sync latency and vary from run to run.
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
use kling_video::sandbox::Sandbox;
use kling_video::{
    Client, Generation, GenerationId, Image, ImageToVideo, MODEL, RetryPolicy, WaitOptions,
};
use tempfile::TempDir;

const PENDING: &str = include_str!("../tests/fixtures/responses/generation-queued.json");
const COMPLETED: &str = include_str!("../tests/fixtures/responses/generation-documented.json");

/// The generation id in both responses.
const ID: &str = "789392067490349060";

const PATH: &str = "/v2/generate/video/kling/generation";

/// Raw bytes per chunk of an upload: 96 KiB as base64.
const CHUNK_SIZE: usize = 72 * 1024;

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

// ---------------------------------------------------------------- benchmark groups

fn upload(criterion: &mut Criterion) {
    let image = png(4 * 1024 * 1024);
    let dir = temp_dir();
    let path = dir.path().join("image.png");
    std::fs::write(&path, &image).unwrap();
    let server = serve(|_| json(PENDING));
    let client = client(server);
    let from_memory = ImageToVideo::new(Image::bytes(image.clone())).prompt("the cat yawns");
    let from_file = ImageToVideo::new(Image::file(path)).prompt("the cat yawns");
    let scalar = general_purpose::STANDARD;

    let mut group = criterion.benchmark_group("upload");
    group.sampling_mode(SamplingMode::Flat).throughput(Throughput::Bytes(image.len() as u64));
    group.bench_function("client-memory", |b| b.iter(|| client.create(&from_memory).unwrap()));
    group.bench_function("client-file", |b| b.iter(|| client.create(&from_file).unwrap()));
    group.bench_function("socket-scalar", |b| b.iter(|| upload_by_socket(server, &image, &scalar)));
    if let Some(simd) = simd() {
        group.bench_function("socket-simd", |b| b.iter(|| upload_by_socket(server, &image, &simd)));
    }
    group.bench_function("encode-scalar", |b| b.iter(|| encode(&image, &scalar)));
    if let Some(simd) = simd() {
        group.bench_function("encode-simd", |b| b.iter(|| encode(&image, &simd)));
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
            connection.read_body()
        });
    });
    group.finish();
}

fn run(criterion: &mut Criterion) {
    let video = Sandbox::start().unwrap().default_video();
    let server = serve(move |request| match request {
        Request { method: "POST", .. } => json(PENDING),
        Request { target: "/video.mp4", .. } => response("video/mp4", video),
        Request { host, .. } => {
            let video = serde_json::json!({ "url": format!("http://{host}/video.mp4") });
            let generation = serde_json::json!({ "id": ID, "status": "completed", "video": video });
            json(&generation.to_string())
        }
    });
    let client = client(server);
    let request = ImageToVideo::new(Image::url("https://example.com/cat.jpg"));

    let mut group = criterion.benchmark_group("run");
    group.sampling_mode(SamplingMode::Flat);
    // Each iteration has a new directory; criterion does not measure its creation and removal.
    group.bench_function("journal", |b| {
        b.iter_batched(
            temp_dir,
            |dir| {
                let saved = client.generate_to(&request, dir.path().join("cat.mp4")).unwrap();
                (saved, dir)
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("no-journal", |b| {
        b.iter_batched(
            temp_dir,
            |dir| {
                let generation = client.create(&request).unwrap();
                let video = client.wait(&generation.id).unwrap();
                (client.download(&video, dir.path().join("cat.mp4")).unwrap(), dir)
            },
            BatchSize::PerIteration,
        );
    });
    group.bench_function("synced-appends", |b| {
        b.iter_batched(
            temp_dir,
            |dir| {
                synced_appends(dir.path()).unwrap();
                dir
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

// ---------------------------------------------------------------- helpers

/// A client without retries that polls immediately.
fn client(server: SocketAddr) -> Client {
    Client::builder("key")
        .base_url(format!("http://{server}"))
        .no_proxy()
        .retry_policy(RetryPolicy::none())
        .wait_options(WaitOptions::new().initial_delay(Duration::ZERO))
        .build()
        .unwrap()
}

/// A new directory inside the target directory. The system's temporary directory may be in memory,
/// where syncing costs nothing.
fn temp_dir() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// `len` bytes that start with the header of a PNG of 1280 × 720 pixels.
fn png(len: usize) -> Vec<u8> {
    let mut data = b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".to_vec();
    data.extend(1280_u32.to_be_bytes());
    data.extend(720_u32.to_be_bytes());
    let filler = len - data.len();
    data.extend((0..filler).map(|i| (i * 7 + i / 251) as u8));
    data
}

/// The SIMD engine that the library uses, on platforms that have one.
#[cfg(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon")))]
fn simd() -> Option<impl Engine> {
    Some(base64::engine::Simd::standard(general_purpose::PAD))
}

#[cfg(not(any(target_arch = "x86_64", all(target_arch = "aarch64", target_feature = "neon"))))]
fn simd() -> Option<general_purpose::GeneralPurpose> {
    None
}

/// Encodes the image in chunks and discards the result.
fn encode(image: &[u8], engine: &impl Engine) {
    for_each_chunk(image, engine, |encoded| {
        black_box(encoded);
    });
}

fn for_each_chunk(image: &[u8], engine: &impl Engine, mut f: impl FnMut(&[u8])) {
    let mut buffer = vec![0; CHUNK_SIZE / 3 * 4];
    for chunk in image.chunks(CHUNK_SIZE) {
        let len = engine.encode_slice(chunk, &mut buffer).unwrap();
        f(&buffer[..len]);
    }
}

/// Sends a create request on a new connection with `Expect: 100-continue`, as the library does.
fn upload_by_socket(server: SocketAddr, image: &[u8], engine: &impl Engine) -> Vec<u8> {
    let prefix = format!(
        r#"{{"model":"{MODEL}","prompt":"the cat yawns","image_url":"data:image/png;base64,"#
    );
    let suffix = r#""}"#;
    let len = prefix.len() + image.len().div_ceil(3) * 4 + suffix.len();
    let mut connection = Connection::open(server);
    connection.write(
        format!(
            "POST {PATH} HTTP/1.1\r\nhost: {server}\r\nauthorization: Bearer key\r\n\
             accept: application/json\r\ncontent-type: application/json\r\nuser-agent: bench\r\n\
             content-length: {len}\r\nexpect: 100-continue\r\n\r\n"
        )
        .as_bytes(),
    );
    connection.read_body();
    connection.write(prefix.as_bytes());
    for_each_chunk(image, engine, |encoded| connection.write(encoded));
    connection.write(suffix.as_bytes());
    connection.read_body()
}

/// The disk operations of one run's journal.
fn synced_appends(dir: &Path) -> io::Result<()> {
    let path = dir.join("journal");
    let mut journal = OpenOptions::new().append(true).create_new(true).open(&path)?;
    File::open(dir)?.sync_all()?;
    for _ in 0..4 {
        journal.write_all(&[b'x'; 100])?;
        journal.sync_data()?;
    }
    Ok(())
}

// ---------------------------------------------------------------- minimal HTTP

/// A client's connection to the server.
struct Connection {
    reader: BufReader<TcpStream>,
    head: String,
}

impl Connection {
    fn open(server: SocketAddr) -> Self {
        let stream = TcpStream::connect(server).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { reader: BufReader::new(stream), head: String::new() }
    }

    fn write(&mut self, bytes: &[u8]) {
        self.reader.get_mut().write_all(bytes).unwrap();
    }

    /// Reads the next response and returns its body.
    fn read_body(&mut self) -> Vec<u8> {
        read_head(&mut self.reader, &mut self.head).unwrap();
        let mut body = vec![0; content_length(&self.head)];
        self.reader.read_exact(&mut body).unwrap();
        body
    }
}

/// A request as the server's handler sees it.
struct Request<'a> {
    method: &'a str,
    target: &'a str,
    host: &'a str,
}

/// Starts a server that runs until the process exits. It discards request bodies and keeps a
/// connection open until the client closes it.
fn serve(handler: impl Fn(&Request<'_>) -> Vec<u8> + Send + Sync + 'static) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let address = listener.local_addr().unwrap();
    let handler = Arc::new(handler);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let handler = Arc::clone(&handler);
            // Errors are ignored here: the client sees them too, and panics.
            thread::spawn(move || stream.and_then(|stream| handle(stream, &*handler)));
        }
    });
    address
}

fn handle(stream: TcpStream, handler: &dyn Fn(&Request<'_>) -> Vec<u8>) -> io::Result<()> {
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
        reader.get_mut().write_all(&handler(&request))?;
    }
    Ok(())
}

/// Reads a head up to its empty line; returns false at the end of the stream.
fn read_head(reader: &mut impl BufRead, head: &mut String) -> io::Result<bool> {
    head.clear();
    while reader.read_line(head)? > 2 {}
    Ok(!head.is_empty())
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    fields.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

fn content_length(head: &str) -> usize {
    header(head, "content-length").map_or(0, |value| value.parse().unwrap())
}

fn discard(reader: &mut impl BufRead, len: usize) -> io::Result<()> {
    let mut remaining = len;
    while remaining > 0 {
        let available = reader.fill_buf()?.len().min(remaining);
        if available == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        reader.consume(available);
        remaining -= available;
    }
    Ok(())
}

fn json(body: &str) -> Vec<u8> {
    response("application/json", body.as_bytes())
}

fn response(content_type: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {content_type}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
