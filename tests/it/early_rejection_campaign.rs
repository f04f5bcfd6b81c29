//! Creates that real servers reject before they have read the body. Needs Debian's `haproxy`,
//! `nginx`, `squid` and `python3`, so it is run by hand. It prints how many creates of each size
//! ended in which way, how many requests each sent, and the longest time.
//!
//! ```sh
//! cargo test --test it -- --ignored --nocapture early_rejection_campaign
//! ```

use std::collections::BTreeMap;
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use kling_video::{Client, Image, ImageToVideo, RetryPolicy};

use crate::helpers::clients::request;
use crate::helpers::media::png_of_len;
use crate::helpers::timing::wait_until;
use crate::helpers::tls_server::CertificateAuthority;

const CREATES: usize = 20;

/// Responds to the head of a request and keeps the connection open, whatever the client asks for.
const HOLDING_SERVER: &str = r#"
import socket, ssl, sys, threading
listener = socket.create_server(("127.0.0.1", int(sys.argv[1])))
context = None
if len(sys.argv) > 2:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[2])
def serve(connection):
    try:
        if context:
            connection = context.wrap_socket(connection, server_side=True)
        head = b""
        while b"\r\n\r\n" not in head:
            data = connection.recv(65536)
            if not data:
                return
            head += data
        connection.sendall(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\n{}")
        while connection.recv(65536):
            pass
    except OSError:
        pass
while True:
    threading.Thread(target=serve, args=[listener.accept()[0]], daemon=True).start()
"#;

/// A server that is killed when it is dropped.
struct Server(Child);

impl Server {
    fn start(command: &mut Command, port: u16) -> Server {
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let server = Server(child.expect("the server is installed"));
        wait_until("the server to listen", || TcpStream::connect(("127.0.0.1", port)).is_ok());
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn haproxy(dir: &Path, port: u16, tls: &str, status: u16) -> Server {
    let path = dir.join(format!("haproxy-{port}.cfg"));
    let config = format!(
        "defaults\n mode http\n timeout client 30s\n timeout connect 5s\n timeout server 30s\n\
         frontend f\n bind 127.0.0.1:{port} {tls}\n http-request deny deny_status {status}\n"
    );
    fs::write(&path, config).unwrap();
    Server::start(Command::new("haproxy").arg("-db").arg("-f").arg(&path), port)
}

fn nginx(dir: &Path, port: u16, tls: &str, rule: &str) -> Server {
    let path = dir.join(format!("nginx-{port}.conf"));
    let config = format!(
        "daemon off; master_process off; pid {dir}/nginx-{port}.pid; error_log /dev/null;\n\
         events {{}}\nhttp {{ access_log off; client_body_temp_path {dir};\n\
         server {{ listen 127.0.0.1:{port} {tls}; location / {{ {rule} }} }} }}\n",
        dir = dir.display(),
    );
    fs::write(&path, config).unwrap();
    Server::start(Command::new("nginx").arg("-c").arg(&path), port)
}

fn python(dir: &Path, port: u16, identity: Option<&Path>) -> Server {
    let path = dir.join("hold.py");
    fs::write(&path, HOLDING_SERVER).unwrap();
    let mut command = Command::new("python3");
    Server::start(command.arg(&path).arg(port.to_string()).args(identity), port)
}

/// The outcomes of the creates of one cell, and the longest time of one.
fn run_cell(client: &Client, request: &ImageToVideo) -> String {
    let mut outcomes = BTreeMap::<String, usize>::new();
    let mut longest = Duration::ZERO;
    for _ in 0..CREATES {
        // A few that stall are enough.
        if longest > Duration::from_secs(1) {
            break;
        }
        let started = Instant::now();
        let error = client.create(request).unwrap_err();
        longest = longest.max(started.elapsed());
        let status = error.status().map(|status| format!(" {status}")).unwrap_or_default();
        let requests = error.attempts();
        let outcome = format!("{:?}{status}, {requests} sent", error.kind());
        *outcomes.entry(outcome).or_default() += 1;
    }
    let outcomes: Vec<String> =
        outcomes.iter().map(|(outcome, count)| format!("{count} x {outcome}")).collect();
    format!("{:52} {:>4} ms", outcomes.join(", "), longest.as_millis())
}

fn squid(dir: &Path, port: u16, rules: &str) -> Server {
    let path = dir.join(format!("squid-{port}.conf"));
    let config = format!(
        "http_port 127.0.0.1:{port}\npid_filename none\ncache_log /dev/null\naccess_log none\n\
         visible_hostname squid.test\n{rules}\n"
    );
    fs::write(&path, config).unwrap();
    Server::start(Command::new("squid").arg("-N").arg("-f").arg(&path), port)
}

/// Starts a server on this port.
type Start<'a> = Box<dyn Fn(u16) -> Server + 'a>;

fn rejecting_servers<'a>(
    dir: &'a Path,
    identity: Option<&'a Path>,
) -> Vec<(&'static str, Start<'a>)> {
    let file = identity.map(|path| path.display().to_string()).unwrap_or_default();
    let (haproxy_tls, nginx_tls) = match identity {
        Some(_) => (
            format!("ssl crt {file}"),
            format!("ssl; ssl_certificate {file}; ssl_certificate_key {file}"),
        ),
        None => <_>::default(),
    };
    let haproxy = |status| -> Start<'a> {
        let tls = haproxy_tls.clone();
        Box::new(move |port| haproxy(dir, port, &tls, status))
    };
    let nginx = |rule: &'static str| -> Start<'a> {
        let tls = nginx_tls.clone();
        Box::new(move |port| nginx(dir, port, &tls, rule))
    };
    vec![
        ("haproxy deny 403", haproxy(403)),
        ("haproxy deny 429", haproxy(429)),
        ("nginx return 403", nginx("client_max_body_size 0; return 403;")),
        ("nginx max body 100", nginx("client_max_body_size 100;")),
        (
            "nginx 403, no lingering",
            nginx("client_max_body_size 0; lingering_close off; return 403;"),
        ),
        ("python 401, holds", Box::new(move |port| python(dir, port, identity))),
    ]
}

#[test]
#[ignore = "needs haproxy, nginx, squid and python3"]
fn early_rejection_campaign() {
    let dir = tempfile::tempdir().unwrap();
    let ca = CertificateAuthority::new("test CA");
    let identity = dir.path().join("localhost.pem");
    fs::write(&identity, ca.issue_certificate("localhost").pem()).unwrap();
    let builder = |scheme: &str, port: u16| {
        Client::builder("campaign-key")
            .base_url(format!("{scheme}://localhost:{port}"))
            .root_certificates_pem(ca.pem().as_bytes())
            .retry_policy(RetryPolicy::none())
            .idle_timeout(Duration::from_secs(2))
    };
    let image = |len| ImageToVideo::new(Image::bytes(png_of_len(len)));
    let sizes = [("url", request()), ("300 kB", image(300_000)), ("3 MB", image(3_000_000))];
    println!("{:31} {:6} {:52} longest", "server", "body", "outcomes");
    for (scheme, identity) in [("http", None), ("https", Some(identity.as_path()))] {
        for (name, start) in rejecting_servers(dir.path(), identity) {
            let port = free_port();
            let _server = start(port);
            for (size, request) in &sizes {
                let cell = run_cell(&builder(scheme, port).build().unwrap(), request);
                println!("{:31} {size:6} {cell}", format!("{name}, {scheme}"));
            }
        }
    }
    let auth = "auth_param basic program /usr/lib/squid/basic_fake_auth\n\
                acl users proxy_auth REQUIRED\nhttp_access allow users";
    for (name, rules) in [("squid deny all", "http_access deny all"), ("squid 407", auth)] {
        let port = free_port();
        let _server = squid(dir.path(), port, rules);
        let proxy = format!("http://localhost:{port}");
        let client = builder("https", 1).base_url("https://api.test").proxy(proxy);
        let client = client.retry_policy(RetryPolicy::new()).build().unwrap();
        println!("{name:31} {:6} {}", "url", run_cell(&client, &request()));
        println!("  {}", client.create(&request()).unwrap_err());
    }
}
