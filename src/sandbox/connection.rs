//! One connection: reads its requests, lets the [`Api`] answer them, and spoils what a [`Fault`]
//! says.

use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::api::Api;
use super::endpoint::Endpoint;
use super::fault::{Answer, Fault, Intake};
use super::http::{Head, MAX_BODY, Parsed, Reply, find_header, parse_head};
use super::sender::Sender;
use super::stop::Stop;
use super::traffic::Traffic;

const READ_SIZE: usize = 64 * 1024;
/// How long a client that was refused may go on sending before its connection is closed.
const LINGER: Duration = Duration::from_secs(5);

/// What all connections share.
pub(super) struct Shared {
    pub(super) api: Api,
    pub(super) stop: Stop,
    traffic: Mutex<Traffic>,
}

impl Shared {
    pub(super) fn new(api: Api) -> Shared {
        Shared { api, stop: Stop::default(), traffic: Mutex::default() }
    }

    pub(super) fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers one client until it has had enough, or a fault ends it.
pub(super) fn serve(stream: &TcpStream, shared: &Shared) {
    let reader = BufReader::with_capacity(READ_SIZE, stream);
    let sender = Sender { stream, stop: &shared.stop };
    let mut connection = Connection { stream, shared, reader, sender };
    loop {
        match connection.exchange() {
            Ok(After::KeepAlive) => {}
            Ok(After::Reset) => {
                // Nothing waits to be sent, and closing does not wait either: a RST.
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                return;
            }
            Ok(After::Close) | Err(_) => return,
        }
    }
}

struct Connection<'a> {
    stream: &'a TcpStream,
    shared: &'a Shared,
    reader: BufReader<&'a TcpStream>,
    sender: Sender<'a>,
}

/// What becomes of a connection after a request.
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
    fault: Fault,
}

impl Exchange {
    /// How many body bytes are read before something else happens.
    fn wanted(&self) -> u64 {
        match self.fault.intake {
            Intake::UpTo(n) => n.min(self.head.length),
            _ => self.head.length,
        }
    }
}

impl Connection<'_> {
    /// Reads one request and answers it.
    fn exchange(&mut self) -> io::Result<After> {
        let head = match self.read_head() {
            Parsed::Whole(head, _) => head,
            Parsed::Refused(status, head) => return self.refuse_head(status, head),
            Parsed::Partial => return Ok(After::Close),
        };
        let exchange = self.open(head);
        if self.may_refuse_early(&exchange)
            && let Some(reply) = self.shared.api.refuse(&exchange.head)
        {
            return self.refuse(&exchange, reply);
        }
        self.invite_body(&exchange)?;
        match self.read_body(&exchange)? {
            Some(body) => self.answer(&exchange, body),
            None => Ok(After::Close),
        }
    }

    /// Puts a request on record and takes the fault that waits for it.
    fn open(&self, head: Head) -> Exchange {
        let mut traffic = self.shared.traffic();
        let number = traffic.record(&head);
        let mut fault = Fault::default();
        if let Ok(endpoint) = Endpoint::of(&head) {
            fault = traffic.next_fault(endpoint).unwrap_or_default();
            let delay = traffic.delays.get(&endpoint).copied().unwrap_or_default();
            fault.delivery.delay = fault.delivery.delay.saturating_add(delay);
        }
        Exchange { number, head, fault }
    }

    /// Whether a refusal goes out before the body is read: to a client that asked first, or
    /// whose body is too large to take. Others are heard out, for many clients cannot read an
    /// answer while they are still sending.
    fn may_refuse_early(&self, exchange: &Exchange) -> bool {
        let early = self.asks_first(exchange) || exchange.head.length > MAX_BODY;
        early && exchange.fault.keeps_answer()
    }

    fn asks_first(&self, exchange: &Exchange) -> bool {
        let expect = exchange.head.header("expect").unwrap_or_default();
        let expects = expect.eq_ignore_ascii_case("100-continue");
        expects && exchange.wanted() > 0 && self.reader.buffer().is_empty()
    }

    fn invite_body(&self, exchange: &Exchange) -> io::Result<()> {
        let invitation: &[u8] = match exchange.fault.intake {
            _ if !self.asks_first(exchange) => return Ok(()),
            Intake::IgnoreExpect => return Ok(()),
            Intake::ContinueWithHeader => b"HTTP/1.1 100 Continue\r\nX-Sandbox: continue\r\n\r\n",
            _ => b"HTTP/1.1 100 Continue\r\n\r\n",
        };
        self.sender.send(invitation, b"")
    }

    /// Answers a request that was read, as the fault wants it.
    fn answer(&mut self, exchange: &Exchange, body: Vec<u8>) -> io::Result<After> {
        let Exchange { head, fault, .. } = exchange;
        let api = &self.shared.api;
        let acts = fault.acts() && exchange.wanted() == head.length;
        let own_reply = acts.then(|| api.answer(head, &body, &fault.video));
        drop(body); // a large picture need not outlive a stall
        let reply = match (&fault.answer, &own_reply) {
            (Answer::Stall, _) => return self.stall(),
            (Answer::Reset, _) => return Ok(After::Reset),
            (Answer::Raw { start, chunk, total }, _) => {
                self.hold_back(exchange)?;
                self.sender.deliver(start, b"", &fault.delivery)?;
                self.sender.repeat(chunk, *total)?;
                return Ok(After::Close);
            }
            (Answer::Reply { status, body }, _) => Reply::new(*status, body.clone()),
            (Answer::Status(status), _) => api.documented(*status, head),
            (Answer::Normal, Some(own)) => return self.deliver(exchange, own.clone()),
            // Not reached: the API acts on what gets a normal answer.
            (Answer::Normal, None) => return Ok(After::Close),
        };
        let id = own_reply.as_ref().and_then(|own| find_header(&own.headers, "x-inference-id"));
        let reply = match id.filter(|_| fault.keeps_inference_id) {
            Some(id) => reply.header("x-inference-id", id),
            None => reply,
        };
        self.deliver(exchange, reply)
    }

    /// Sends a reply when its time has come, in the manner that the fault wants.
    fn deliver(&self, exchange: &Exchange, reply: Reply) -> io::Result<After> {
        let Exchange { number, head, fault } = exchange;
        let delivery = &fault.delivery;
        let reply = reply.with_headers(&fault.headers);
        let closes = head.wants_close() || reply.says_close();
        let reply_head = reply.encode_head(closes, delivery.length_error);
        self.hold_back(exchange)?;
        self.shared.traffic().update(*number, |request| request.answered = Some(reply.status));
        self.sender.deliver(&reply_head, reply.body.as_slice(), delivery)?;
        let is_over = closes || delivery.close_after || delivery.cut_after.is_some();
        Ok(if is_over { After::Close } else { After::KeepAlive })
    }

    /// Waits as long as the endpoint's delay and the fault say.
    fn hold_back(&self, exchange: &Exchange) -> io::Result<()> {
        self.shared.stop.sleep(exchange.fault.delivery.delay)
    }

    /// Refuses before the body was read. Closing with bytes unread is a RST, and a RST makes the
    /// client's kernel drop the answer that the client has not read yet: so what still comes is
    /// read, for a while.
    fn refuse(&mut self, exchange: &Exchange, reply: Reply) -> io::Result<After> {
        self.deliver(exchange, reply.header("Connection", "close"))?;
        self.stream.shutdown(Shutdown::Write)?;
        self.stream.set_read_timeout(Some(LINGER))?;
        let deadline = Instant::now() + LINGER;
        let mut arrived = 0;
        while Instant::now() < deadline {
            match self.skip()? {
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
        let number = self.shared.traffic().record(&head);
        self.refuse(&Exchange { number, head, fault: Fault::default() }, reply)
    }

    /// Answers nothing until the client has had enough, or the server stops.
    fn stall(&mut self) -> io::Result<After> {
        while self.skip()? > 0 {}
        Ok(After::Close)
    }

    /// Reads until a head is whole or refused; a partial one says that the client left.
    fn read_head(&mut self) -> Parsed {
        let mut bytes = Vec::new();
        loop {
            let piece = self.available().unwrap_or_default();
            if piece.is_empty() {
                // A client that went away within its head has been seen all the same.
                if !bytes.is_empty() {
                    self.shared.traffic().record(&Head::default());
                }
                return Parsed::Partial;
            }
            let (before, read) = (bytes.len(), piece.len());
            bytes.extend_from_slice(piece);
            let parsed = parse_head(&bytes);
            match parsed {
                // What follows it is its body, or the next request.
                Parsed::Whole(_, used) => self.reader.consume(used.saturating_sub(before)),
                _ => self.reader.consume(read),
            }
            if !matches!(parsed, Parsed::Partial) {
                return parsed;
            }
        }
    }

    /// Reads the body, up to where a fault breaks it off. `None`: the client did not send it
    /// all. A body over the limit is read, but not kept.
    fn read_body(&mut self, exchange: &Exchange) -> io::Result<Option<Vec<u8>>> {
        let wanted = exchange.wanted();
        let (mut body, mut arrived) = (Vec::new(), 0);
        self.note_arrived(exchange, arrived);
        while arrived < wanted {
            let left = usize::try_from(wanted - arrived).unwrap_or(usize::MAX);
            let piece = self.available()?;
            let piece = piece.get(..left).unwrap_or(piece);
            if piece.is_empty() {
                return Ok(None);
            }
            if wanted <= MAX_BODY {
                body.extend_from_slice(piece);
            }
            let read = piece.len();
            self.reader.consume(read);
            arrived += read as u64;
            self.note_arrived(exchange, arrived);
        }
        Ok(Some(body))
    }

    fn note_arrived(&self, exchange: &Exchange, arrived: u64) {
        self.shared.traffic().update(exchange.number, |request| {
            request.body_bytes = arrived;
            request.complete = arrived == exchange.head.length;
        });
    }

    /// Reads and forgets; 0 says that no more will come.
    fn skip(&mut self) -> io::Result<usize> {
        let read = self.available()?.len();
        self.reader.consume(read);
        Ok(read)
    }

    /// What has come and is not consumed, at least a byte; nothing if no more will come.
    fn available(&mut self) -> io::Result<&[u8]> {
        while let Err(error) = self.reader.fill_buf() {
            if error.kind() != ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(self.reader.buffer())
    }
}
