//! Sockets and HTTP/1.1: accepts, reads requests, lets [`Api`] answer them, and spoils what a
//! [`Fault`] says. One thread a connection; dropping the server ends them all.

use std::collections::{HashMap, VecDeque};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use socket2::{Domain, SockRef, Socket, Type};

use super::api::{self, Api, Head, MAX_BODY, Reply, find_header};
use super::fault::{Answer, Delivery, Fault, Intake};
use super::{Endpoint, SandboxRequest};

const BACKLOG: i32 = 1024;
const MAX_HEAD: usize = 64 * 1024;
const MAX_HEADERS: usize = 128;
const READ_SIZE: usize = 64 * 1024;
/// How long a client that was refused may go on sending before its connection is closed.
const LINGER: Duration = Duration::from_secs(5);

// ---------------------------------------------------------------- the server

pub(super) struct Server {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

struct Shared {
    api: Api,
    traffic: Mutex<Traffic>,
    stop: Stop,
}

impl Server {
    pub(super) fn start() -> io::Result<Server> {
        let listener = listen()?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            api: Api::new(address.port()),
            traffic: Mutex::default(),
            stop: Stop::default(),
        });
        let acceptor = thread::Builder::new().name("sandbox".to_owned()).spawn({
            let shared = Arc::clone(&shared);
            move || accept_all(&listener, &shared)
        })?;
        Ok(Server { address, shared, acceptor: Some(acceptor) })
    }

    pub(super) fn api(&self) -> &Api {
        &self.shared.api
    }

    pub(super) fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.shared.traffic()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shared.stop.advance(Stage::Raised);
        let Some(acceptor) = self.acceptor.take() else {
            return;
        };
        // `accept` cannot be interrupted, but it returns for one more client. Bounded, so that a
        // process that has run out of sockets leaks a thread rather than hangs.
        for _ in 0..100 {
            let _ = TcpStream::connect_timeout(&self.address, Duration::from_millis(50));
            if self.shared.stop.wait_for(Stage::Heard, Duration::from_millis(50)) {
                let _ = acceptor.join();
                return;
            }
        }
    }
}

/// std's own listener has a backlog of 128, too few for hundreds of clients at once.
fn listen() -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

/// A connection as the acceptor knows it. Only its thread owns the socket, so that the socket
/// closes when that thread ends.
struct Client {
    stream: Weak<TcpStream>,
    thread: JoinHandle<()>,
}

fn accept_all(listener: &TcpListener, shared: &Arc<Shared>) {
    let mut clients: Vec<Client> = Vec::new();
    loop {
        let accepted = listener.accept();
        if shared.stop.is_raised() {
            break;
        }
        clients.retain(|client| !client.thread.is_finished());
        match accepted {
            Ok((stream, _)) => clients.extend(spawn(stream, shared)),
            // Out of file descriptors, most likely: let some connection end first.
            Err(_) => thread::sleep(Duration::from_millis(1)),
        }
    }
    shared.stop.advance(Stage::Heard);
    for client in &clients {
        if let Some(stream) = client.stream.upgrade() {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
    for client in clients {
        let _ = client.thread.join();
    }
}

fn spawn(stream: TcpStream, shared: &Arc<Shared>) -> Option<Client> {
    shared.traffic().connections += 1;
    // Small writes that follow each other (a trickle, a 100 Continue) leave at once.
    let _ = stream.set_nodelay(true);
    let stream = Arc::new(stream);
    let client = Arc::downgrade(&stream);
    let shared = Arc::clone(shared);
    let thread = thread::Builder::new()
        .name("sandbox client".to_owned())
        .spawn(move || serve(stream, &shared))
        .ok()?;
    Some(Client { stream: client, thread })
}

fn serve(stream: Arc<TcpStream>, shared: &Shared) {
    let mut connection =
        Connection { stream, shared, unread: Vec::new(), chunk: vec![0; READ_SIZE] };
    loop {
        match connection.exchange() {
            Ok(After::KeepAlive) => {}
            Ok(After::Reset) => return connection.reset_on_close(),
            Ok(After::Close) | Err(_) => return,
        }
    }
}

/// Says to all threads at once that it is over, and wakes those that wait.
#[derive(Default)]
struct Stop {
    stage: Mutex<Stage>,
    changed: Condvar,
}

#[derive(Clone, Copy, Default, PartialEq, PartialOrd)]
enum Stage {
    #[default]
    Running,
    Raised,
    /// The acceptor knows: from here on it ends by itself.
    Heard,
}

impl Stop {
    fn advance(&self, stage: Stage) {
        *self.stage() = stage;
        self.changed.notify_all();
    }

    fn is_raised(&self) -> bool {
        *self.stage() >= Stage::Raised
    }

    /// Waits so long for the stage, and says whether it has come.
    fn wait_for(&self, stage: Stage, time: Duration) -> bool {
        let earlier = |current: &mut Stage| *current < stage;
        let (current, _) = self
            .changed
            .wait_timeout_while(self.stage(), time, earlier)
            .unwrap_or_else(PoisonError::into_inner);
        *current >= stage
    }

    /// Waits so long; an error says that the server stops.
    fn sleep(&self, time: Duration) -> io::Result<()> {
        if !time.is_zero() && self.wait_for(Stage::Raised, time) {
            return Err(ErrorKind::ConnectionAborted.into());
        }
        Ok(())
    }

    fn stage(&self) -> MutexGuard<'_, Stage> {
        self.stage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// ---------------------------------------------------------------- what went through

/// What was seen on the wire, and what is yet to be done to it.
#[derive(Default)]
pub(super) struct Traffic {
    pub(super) connections: usize,
    pub(super) requests: Vec<SandboxRequest>,
    pub(super) delays: HashMap<Endpoint, Duration>,
    faults: HashMap<Endpoint, VecDeque<(Fault, u32)>>,
}

impl Traffic {
    pub(super) fn queue(&mut self, endpoint: Endpoint, fault: Fault, times: u32) {
        if times > 0 {
            self.faults.entry(endpoint).or_default().push_back((fault, times));
        }
    }

    pub(super) fn clear_faults(&mut self) {
        self.faults.clear();
    }

    fn next_fault(&mut self, endpoint: Endpoint) -> Option<Fault> {
        let queue = self.faults.get_mut(&endpoint)?;
        let (fault, times) = queue.front_mut()?;
        *times -= 1;
        if *times == 0 { queue.pop_front().map(|(fault, _)| fault) } else { Some(fault.clone()) }
    }

    /// Puts a request on record and returns its number.
    fn record(&mut self, head: &Head, endpoint: Option<Endpoint>) -> usize {
        self.requests.push(SandboxRequest {
            endpoint,
            method: head.method.clone(),
            target: head.target.clone(),
            headers: head.headers.clone(),
            body_bytes: 0,
            complete: false,
            answered: None,
        });
        self.requests.len() - 1
    }

    fn update(&mut self, number: usize, change: impl FnOnce(&mut SandboxRequest)) {
        if let Some(request) = self.requests.get_mut(number) {
            change(request);
        }
    }
}

impl Shared {
    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// ---------------------------------------------------------------- one connection

struct Connection<'a> {
    stream: Arc<TcpStream>,
    shared: &'a Shared,
    /// Read from the socket, but not yet taken: the start of a body, or the next request.
    unread: Vec<u8>,
    chunk: Vec<u8>,
}

/// What becomes of a connection after a request.
#[derive(Clone, Copy, PartialEq)]
enum After {
    KeepAlive,
    Close,
    Reset,
}

/// One request on its way through the server.
struct Exchange {
    /// In the record of all requests.
    number: usize,
    head: Head,
    /// `None`: a path or a method that the API does not have.
    endpoint: Option<Endpoint>,
    fault: Fault,
    delay: Duration,
    /// The body's length.
    length: u64,
}

impl Exchange {
    /// How many body bytes are read before something else happens.
    fn wanted(&self) -> u64 {
        match self.fault.intake {
            Intake::ResetAfterBody(n) => n.min(self.length),
            _ => self.length,
        }
    }
}

impl Connection<'_> {
    /// Reads one request and answers it.
    fn exchange(&mut self) -> io::Result<After> {
        let (head, length) = match self.read_head()? {
            Incoming::Nothing => return Ok(After::Close),
            Incoming::Refused(status, head) => return self.refuse_head(status, head),
            Incoming::Head(head, length) => (head, length),
        };
        let exchange = self.open(head, length);
        match exchange.fault.intake {
            Intake::ResetAtHead => Ok(After::Reset),
            Intake::CloseAtHead => Ok(After::Close),
            Intake::AnswerAtHead => {
                let reply = self.fault_reply(&exchange, None);
                self.deliver(&exchange, reply, After::Close)
            }
            _ => self.take(&exchange),
        }
    }

    /// Reads the body, unless the head is reason enough to refuse the request, and answers.
    fn take(&mut self, exchange: &Exchange) -> io::Result<After> {
        let refusal = self.shared.api.refuse(&exchange.head, exchange.length);
        let refusal = match refusal {
            Some(reply) if self.refuses_early(exchange) => return self.refuse(exchange, reply),
            other => other,
        };
        self.invite_body(exchange)?;
        let Some(body) = self.read_body(exchange)? else {
            return Ok(After::Close);
        };
        let complete = exchange.wanted() == exchange.length;
        let own_reply = (complete && exchange.fault.acts())
            .then(|| refusal.unwrap_or_else(|| self.answer(exchange, &body)));
        drop(body); // a large picture need not outlive a stall
        self.respond(exchange, own_reply)
    }

    /// Puts a request on record and takes the fault that waits for it.
    fn open(&mut self, head: Head, length: u64) -> Exchange {
        let endpoint = api::endpoint(&head).ok();
        let mut traffic = self.shared.traffic();
        let number = traffic.record(&head, endpoint);
        let fault = endpoint.and_then(|endpoint| traffic.next_fault(endpoint));
        let delay = endpoint.and_then(|endpoint| traffic.delays.get(&endpoint).copied());
        Exchange {
            number,
            head,
            endpoint,
            fault: fault.unwrap_or_default(),
            delay: delay.unwrap_or_default(),
            length,
        }
    }

    /// Whether a refusal goes out before the body is read: to a client that asked first, or
    /// whose body is too large to take. Others are heard out, for many clients cannot read an
    /// answer while they are still sending.
    fn refuses_early(&self, exchange: &Exchange) -> bool {
        let early = self.asks_first(exchange) || exchange.length > MAX_BODY;
        early && exchange.fault.keeps_answer()
    }

    fn asks_first(&self, exchange: &Exchange) -> bool {
        let expect = exchange.head.header("expect").unwrap_or_default();
        let expects = expect.eq_ignore_ascii_case("100-continue");
        expects && exchange.length > 0 && self.unread.is_empty()
    }

    fn invite_body(&self, exchange: &Exchange) -> io::Result<()> {
        if !self.asks_first(exchange) {
            return Ok(());
        }
        match exchange.fault.intake {
            Intake::IgnoreExpect => Ok(()),
            Intake::ContinueWithHeader => {
                self.send(b"HTTP/1.1 100 Continue\r\nX-Sandbox: continue\r\n\r\n", b"")
            }
            _ => self.send(b"HTTP/1.1 100 Continue\r\n\r\n", b""),
        }
    }

    fn answer(&self, exchange: &Exchange, body: &[u8]) -> Reply {
        let api = &self.shared.api;
        let (head, video) = (&exchange.head, &exchange.fault.video);
        match exchange.endpoint {
            Some(endpoint) => api.answer(endpoint, head, body, video),
            // Not reached: the head of such a request is refused.
            None => api.documented(404, head),
        }
    }

    /// Answers a request that was read, as the fault wants it; `own_reply` is the API's, if it
    /// acted.
    fn respond(&mut self, exchange: &Exchange, own_reply: Option<Reply>) -> io::Result<After> {
        if let Intake::ResetAfterBody(_) = exchange.fault.intake {
            return Ok(After::Reset);
        }
        let reply = match (&exchange.fault.answer, own_reply) {
            (Answer::Normal, Some(reply)) => reply,
            (Answer::Stall, _) => return self.stall(),
            (Answer::Close, _) => return Ok(After::Close),
            (Answer::Reset, _) => return Ok(After::Reset),
            (Answer::Raw(bytes), _) => return self.send_raw(exchange, bytes),
            (Answer::Endless { head, chunk, total }, _) => {
                self.hold_back(exchange)?;
                return self.send_endless(head, chunk, *total);
            }
            // Only a fault that replies is left: a normal answer always has the API's own.
            (_, own_reply) => self.fault_reply(exchange, own_reply.as_ref()),
        };
        self.deliver(exchange, reply, After::KeepAlive)
    }

    /// The reply that stands in for the API's own.
    fn fault_reply(&self, exchange: &Exchange, own_reply: Option<&Reply>) -> Reply {
        let api = &self.shared.api;
        let reply = match &exchange.fault.answer {
            Answer::Reply { status, body } => Reply::new(*status, body.clone()),
            Answer::Status(status) => api.documented(*status, &exchange.head),
            _ => api.documented(500, &exchange.head),
        };
        let id = own_reply
            .filter(|_| exchange.fault.keeps_inference_id)
            .and_then(|own| find_header(&own.headers, "x-inference-id"));
        match id {
            Some(id) => reply.header("x-inference-id", id),
            None => reply,
        }
    }

    /// Refuses before the body was read. Closing with bytes unread is a RST, and a RST makes the
    /// client's kernel drop the answer that the client has not read yet: so what still comes is
    /// read, for a while.
    fn refuse(&mut self, exchange: &Exchange, reply: Reply) -> io::Result<After> {
        self.deliver(exchange, reply, After::Close)?;
        self.stream.shutdown(Shutdown::Write)?;
        self.stream.set_read_timeout(Some(LINGER))?;
        let deadline = Instant::now() + LINGER;
        let mut arrived = 0;
        while Instant::now() < deadline {
            match read_some(&self.stream, &mut self.chunk)? {
                0 => break,
                read => arrived += read as u64,
            }
            self.note_arrived(exchange, arrived);
        }
        Ok(After::Close)
    }

    /// Refuses what is no request that this server can read.
    fn refuse_head(&mut self, status: u16, head: Head) -> io::Result<After> {
        let reply = self.shared.api.documented(status, &head);
        let endpoint = api::endpoint(&head).ok();
        let number = self.shared.traffic().record(&head, endpoint);
        let exchange = Exchange {
            number,
            head,
            endpoint,
            fault: Fault::default(),
            delay: Duration::ZERO,
            length: u64::MAX,
        };
        self.refuse(&exchange, reply)
    }

    /// Answers nothing until the client has had enough, or the server stops.
    fn stall(&mut self) -> io::Result<After> {
        while read_some(&self.stream, &mut self.chunk)? > 0 {}
        Ok(After::Close)
    }

    /// The unread rest of a connection is dropped with it, and nothing waits in it to be sent.
    fn reset_on_close(&self) {
        let _ = SockRef::from(&*self.stream).set_linger(Some(Duration::ZERO));
    }
}

// ---------------------------------------------------------------- reading

enum Incoming {
    /// With its body's length.
    Head(Head, u64),
    /// No HTTP, or not of a kind that is understood: the status that says so, and what was read.
    Refused(u16, Head),
    /// The client left.
    Nothing,
}

impl Connection<'_> {
    fn read_head(&mut self) -> io::Result<Incoming> {
        loop {
            match parse_head(&self.unread) {
                Parsed::Whole(head, used) => {
                    self.unread.drain(..used.min(self.unread.len()));
                    return Ok(match body_length(&head) {
                        Ok(length) => Incoming::Head(head, length),
                        Err(status) => Incoming::Refused(status, head),
                    });
                }
                Parsed::Refused(status) => return Ok(Incoming::Refused(status, Head::default())),
                Parsed::Partial => {}
            }
            match read_some(&self.stream, &mut self.chunk) {
                Ok(read @ 1..) => self.unread.extend(self.chunk.iter().take(read)),
                _ => {
                    self.record_torn_head();
                    return Ok(Incoming::Nothing);
                }
            }
        }
    }

    /// A client that went away within its head has been seen all the same.
    fn record_torn_head(&self) {
        if !self.unread.is_empty() {
            self.shared.traffic().record(&Head::default(), None);
        }
    }

    /// Reads the body, up to where a fault breaks it off. `None`: the client did not send it
    /// all. A body over the limit is read, but not kept.
    fn read_body(&mut self, exchange: &Exchange) -> io::Result<Option<Vec<u8>>> {
        let wanted = exchange.wanted();
        let mut body = Vec::new();
        let mut arrived = 0;
        self.note_arrived(exchange, arrived);
        while arrived < wanted {
            let read = self.read_piece(&mut body, wanted - arrived)?;
            if read == 0 {
                return Ok(None);
            }
            if wanted > MAX_BODY {
                body.clear();
            }
            arrived += read;
            self.note_arrived(exchange, arrived);
        }
        Ok(Some(body))
    }

    /// Appends at most `limit` bytes of the request's body; 0 says that no more will come.
    fn read_piece(&mut self, body: &mut Vec<u8>, limit: u64) -> io::Result<u64> {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        if !self.unread.is_empty() {
            let taken = limit.min(self.unread.len());
            body.extend(self.unread.drain(..taken));
            return Ok(taken as u64);
        }
        let size = limit.min(self.chunk.len());
        let piece = self.chunk.get_mut(..size).unwrap_or_default();
        let read = read_some(&self.stream, piece)?;
        body.extend_from_slice(piece.get(..read).unwrap_or_default());
        Ok(read as u64)
    }

    fn note_arrived(&self, exchange: &Exchange, arrived: u64) {
        self.shared.traffic().update(exchange.number, |request| {
            request.body_bytes = arrived;
            request.complete = arrived == exchange.length;
        });
    }
}

fn read_some(mut stream: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match stream.read(buffer) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            read => return read,
        }
    }
}

enum Parsed {
    Whole(Head, usize),
    Partial,
    Refused(u16),
}

fn parse_head(bytes: &[u8]) -> Parsed {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut request = httparse::Request::new(&mut headers);
    match request.parse(bytes) {
        Ok(httparse::Status::Complete(used)) if used <= MAX_HEAD => {
            Parsed::Whole(owned_head(&request), used)
        }
        Ok(httparse::Status::Partial) if bytes.len() < MAX_HEAD => Parsed::Partial,
        Ok(_) | Err(httparse::Error::TooManyHeaders) => Parsed::Refused(431),
        Err(_) => Parsed::Refused(400),
    }
}

fn owned_head(request: &httparse::Request<'_, '_>) -> Head {
    let headers = request.headers.iter().map(|header| {
        let value = String::from_utf8_lossy(header.value);
        (header.name.to_owned(), value.into_owned())
    });
    Head {
        method: request.method.unwrap_or_default().to_owned(),
        target: request.path.unwrap_or_default().to_owned(),
        headers: headers.collect(),
        http_1_0: request.version == Some(0),
    }
}

/// The length of the body that follows; else the status that refuses the request.
fn body_length(head: &Head) -> Result<u64, u16> {
    if head.header("transfer-encoding").is_some() {
        return Err(411);
    }
    if head.header("host").is_none() && !head.http_1_0 {
        return Err(400);
    }
    let is_length = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("content-length");
    let mut lengths = head.headers.iter().filter(is_length);
    match (lengths.next(), lengths.next()) {
        (None, _) => Ok(0),
        (Some((_, length)), None) => api::decimal(length).ok_or(400),
        (Some(_), Some(_)) => Err(400),
    }
}

// ---------------------------------------------------------------- writing

impl Connection<'_> {
    /// Sends a reply when its time has come, in the manner that the fault wants.
    fn deliver(&self, exchange: &Exchange, reply: Reply, after: After) -> io::Result<After> {
        let delivery = &exchange.fault.delivery;
        let reply = with_headers(reply, &exchange.fault.headers);
        let closes = after == After::Close || wants_close(&exchange.head);
        let head = encode_head(&reply, closes, delivery.length_error);
        self.hold_back(exchange)?;
        self.shared.traffic().update(exchange.number, |request| {
            request.answered = Some(reply.status);
        });
        let (head, body) = cut(&head, reply.body.as_slice(), delivery);
        match delivery.trickle {
            Some(every) => self.trickle(head, body, delivery.at_once, every)?,
            None => self.send(head, body)?,
        }
        let is_over = closes
            || delivery.close_after
            || delivery.cut_after.is_some()
            || says_close(&reply.headers);
        Ok(if is_over { After::Close } else { after })
    }

    /// Waits as long as the endpoint's delay and the fault say.
    fn hold_back(&self, exchange: &Exchange) -> io::Result<()> {
        let fault_delay = exchange.fault.delivery.delay;
        let delay = exchange.delay.saturating_add(fault_delay);
        self.shared.stop.sleep(delay)
    }

    fn send_raw(&self, exchange: &Exchange, bytes: &[u8]) -> io::Result<After> {
        self.hold_back(exchange)?;
        let (bytes, _) = cut(bytes, b"", &exchange.fault.delivery);
        self.send(bytes, b"").map(|()| After::Close)
    }

    fn send_endless(&self, head: &[u8], chunk: &[u8], total: u64) -> io::Result<After> {
        self.send(head, b"")?;
        let mut left = if chunk.is_empty() { 0 } else { total };
        while left > 0 {
            let size = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
            let piece = chunk.get(..size).unwrap_or_default();
            self.send(piece, b"")?;
            left -= size as u64;
        }
        Ok(After::Close)
    }

    fn trickle(&self, head: &[u8], body: &[u8], n: usize, every: Duration) -> io::Result<()> {
        let quick = (head.get(..n).unwrap_or(head), n.saturating_sub(head.len()));
        self.send(quick.0, body.get(..quick.1).unwrap_or(body))?;
        for byte in head.iter().chain(body).skip(n) {
            self.send(std::slice::from_ref(byte), b"")?;
            self.shared.stop.sleep(every)?;
        }
        Ok(())
    }

    /// Head and body in one system call, if the socket takes them, and without copying either.
    fn send(&self, head: &[u8], body: &[u8]) -> io::Result<()> {
        let mut stream = &*self.stream;
        let sent = loop {
            match stream.write_vectored(&[IoSlice::new(head), IoSlice::new(body)]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                sent => break sent?,
            }
        };
        let of_body = sent.saturating_sub(head.len());
        stream.write_all(head.get(sent..).unwrap_or_default())?;
        stream.write_all(body.get(of_body..).unwrap_or_default())
    }
}

/// The fault's headers take the place of the reply's own of that name.
fn with_headers(mut reply: Reply, headers: &[(String, String)]) -> Reply {
    for (name, _) in headers {
        reply.headers.retain(|(own, _)| !own.eq_ignore_ascii_case(name));
    }
    reply.headers.extend_from_slice(headers);
    reply
}

fn says_close(headers: &[(String, String)]) -> bool {
    let connection = find_header(headers, "connection").unwrap_or_default();
    connection.split(',').any(|option| option.trim().eq_ignore_ascii_case("close"))
}

fn wants_close(head: &Head) -> bool {
    let connection = head.header("connection").unwrap_or_default();
    let keeps = connection.eq_ignore_ascii_case("keep-alive");
    says_close(&head.headers) || (head.http_1_0 && !keeps)
}

/// The first bytes of a reply, if a fault cuts it.
fn cut<'a>(head: &'a [u8], body: &'a [u8], delivery: &Delivery) -> (&'a [u8], &'a [u8]) {
    let Some(total) = delivery.cut_after else {
        return (head, body);
    };
    let of_body = total.saturating_sub(head.len());
    (head.get(..total).unwrap_or(head), body.get(..of_body).unwrap_or(body))
}

/// A header that the reply has already is not made up again.
fn encode_head(reply: &Reply, closes: bool, length_error: i64) -> Vec<u8> {
    let status = reply.status;
    let mut head = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    let mut line = |name: &str, value: &str| {
        for part in [name, ": ", value, "\r\n"] {
            head.push_str(part);
        }
    };
    for (name, value) in &reply.headers {
        line(name, value);
    }
    let has = |name| find_header(&reply.headers, name).is_some();
    let is_bodiless = matches!(status, 100..=199 | 204 | 304);
    if !is_bodiless && !has("content-length") && !has("transfer-encoding") {
        let length = reply.body.as_slice().len() as u64;
        line("Content-Length", &length.saturating_add_signed(length_error).to_string());
    }
    if closes && !has("connection") {
        line("Connection", "close");
    }
    head.push_str("\r\n");
    head.into_bytes()
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        201 => "Created",
        202 => "Accepted",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        303 => "See Other",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        410 => "Gone",
        411 => "Length Required",
        413 => "Payload Too Large",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        425 => "Too Early",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head_of(text: &str) -> Head {
        match parse_head(text.as_bytes()) {
            Parsed::Whole(head, used) if used == text.len() => head,
            _ => panic!("not a whole head: {text:?}"),
        }
    }

    fn text(reply: &Reply, closes: bool, length_error: i64) -> String {
        String::from_utf8(encode_head(reply, closes, length_error)).expect("ASCII")
    }

    #[test]
    fn a_body_has_one_plain_length_or_none() {
        let length = |lines: &str| {
            body_length(&head_of(&format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")))
        };
        assert_eq!(length(""), Ok(0));
        assert_eq!(length("content-length: 12\r\n"), Ok(12));
        assert_eq!(length("Content-Length: +12\r\n"), Err(400));
        assert_eq!(length("Content-Length: \r\n"), Err(400));
        assert_eq!(length("Content-Length: 1\r\nContent-Length: 1\r\n"), Err(400));
        assert_eq!(length("Transfer-Encoding: chunked\r\n"), Err(411));
        assert_eq!(body_length(&head_of("GET / HTTP/1.1\r\n\r\n")), Err(400));
    }

    #[test]
    fn heads_are_bounded() {
        let endless_line = "a".repeat(MAX_HEAD);
        let endless = format!("GET / HTTP/1.1\r\nA: {endless_line}");
        assert!(matches!(parse_head(endless.as_bytes()), Parsed::Refused(431)));
        let many = format!("GET / HTTP/1.1\r\n{}\r\n", "A: b\r\n".repeat(MAX_HEADERS + 1));
        assert!(matches!(parse_head(many.as_bytes()), Parsed::Refused(431)));
        assert!(matches!(parse_head(b"\0\x01\x02"), Parsed::Refused(400)));
        assert!(matches!(parse_head(b"GET / HT"), Parsed::Partial));
    }

    #[test]
    fn a_fault_has_the_last_word_on_headers() {
        let reply = Reply::new(200, b"abc".to_vec()).header("ETag", "mine");
        let plain = text(&reply, true, -1);
        assert!(plain.starts_with("HTTP/1.1 200 OK\r\nETag: mine\r\n"), "{plain}");
        assert!(plain.ends_with("Content-Length: 2\r\nConnection: close\r\n\r\n"), "{plain}");
        let own = [("etag", "its"), ("content-length", "9")];
        let own = own.map(|(name, value)| (name.to_owned(), value.to_owned()));
        let spoilt = text(&with_headers(reply, &own), false, 0);
        assert_eq!(spoilt, "HTTP/1.1 200 OK\r\netag: its\r\ncontent-length: 9\r\n\r\n");
    }

    #[test]
    fn a_cut_counts_head_and_body() {
        let at = |n| {
            let fault = Fault::cut(n);
            let (head, body) = cut(b"head", b"body", &fault.delivery);
            [head, body].concat()
        };
        assert_eq!(at(0), b"");
        assert_eq!(at(3), b"hea");
        assert_eq!(at(6), b"headbo");
        assert_eq!(at(99), b"headbody");
    }

    #[test]
    fn faults_are_used_in_order_and_as_often_as_asked() {
        let mut traffic = Traffic::default();
        traffic.queue(Endpoint::Logs, Fault::status(500), 2);
        traffic.queue(Endpoint::Logs, Fault::status(429), 0);
        traffic.queue(Endpoint::Logs, Fault::close(), 1);
        let mut next = || traffic.next_fault(Endpoint::Logs).map(|fault| fault.answer);
        assert!(matches!(next(), Some(Answer::Status(500))));
        assert!(matches!(next(), Some(Answer::Status(500))));
        assert!(matches!(next(), Some(Answer::Close)));
        assert!(next().is_none());
    }
}
