//! One connection: reads its requests, passes them to the [`Api`], and applies the queued faults.

use std::io::{self, BufRead, BufReader, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::SockRef;

use super::api::Api;
use super::endpoint::Endpoint;
use super::fault::{Fault, RequestRead, ResponseOverride};
use super::http::{MAX_BODY, ParsedHead, RequestHead, Response, find_header, parse_head};
use super::request_log::RequestLog;
use super::response_writer::ResponseWriter;
use super::shutdown::ShutdownSignal;

const READ_SIZE: usize = 64 * 1024;
/// How long a rejected client may continue sending before its connection is closed.
const LINGER: Duration = Duration::from_secs(5);

/// The state that all connections share.
pub(super) struct ServerState {
    pub(super) api: Api,
    pub(super) shutdown: ShutdownSignal,
    request_log: Mutex<RequestLog>,
}

impl ServerState {
    pub(super) fn new(api: Api) -> ServerState {
        ServerState { api, shutdown: ShutdownSignal::default(), request_log: Mutex::default() }
    }

    pub(super) fn request_log(&self) -> MutexGuard<'_, RequestLog> {
        self.request_log.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Serves one connection until the client or a fault closes it.
pub(super) fn serve(stream: &TcpStream, server: &ServerState) {
    let reader = BufReader::with_capacity(READ_SIZE, stream);
    let writer = ResponseWriter { stream, shutdown: &server.shutdown };
    let mut connection = Connection { stream, server, reader, writer };
    loop {
        match connection.serve_request() {
            Ok(ConnectionState::KeepAlive) => {}
            Ok(ConnectionState::Reset) => {
                // With a zero linger time, closing the socket sends a RST.
                let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
                return;
            }
            Ok(ConnectionState::Close) | Err(_) => return,
        }
    }
}

struct Connection<'a> {
    stream: &'a TcpStream,
    server: &'a ServerState,
    reader: BufReader<&'a TcpStream>,
    writer: ResponseWriter<'a>,
}

/// What happens to the connection after a request.
enum ConnectionState {
    KeepAlive,
    Close,
    Reset,
}

/// One request that is being processed.
struct RequestCycle {
    /// Its index in the request log.
    index: usize,
    head: RequestHead,
    fault: Fault,
}

impl RequestCycle {
    /// Returns how many bytes of the body to read.
    fn bytes_to_read(&self) -> u64 {
        match self.fault.request_read {
            RequestRead::Partial(n) => n.min(self.head.content_length),
            _ => self.head.content_length,
        }
    }
}

impl Connection<'_> {
    /// Reads one request and responds to it.
    fn serve_request(&mut self) -> io::Result<ConnectionState> {
        let head = match self.read_head() {
            ParsedHead::Complete(head, _) => head,
            ParsedHead::Invalid(status, head) => return self.reject_invalid_head(status, head),
            ParsedHead::Incomplete => return Ok(ConnectionState::Close),
        };
        let cycle = self.start_cycle(head);
        if self.may_reject_early(&cycle)
            && let Some(response) = self.server.api.reject(&cycle.head)
        {
            return self.reject_before_body(&cycle, response);
        }
        self.send_continue(&cycle)?;
        match self.read_body(&cycle)? {
            Some(body) => self.respond(&cycle, body),
            None => Ok(ConnectionState::Close),
        }
    }

    /// Records a request and takes the next fault queued for its endpoint.
    fn start_cycle(&self, head: RequestHead) -> RequestCycle {
        let mut request_log = self.server.request_log();
        let index = request_log.record(&head);
        let mut fault = Fault::default();
        if let Ok(endpoint) = Endpoint::from_head(&head) {
            fault = request_log.next_fault(endpoint).unwrap_or_default();
            let delay = request_log.response_delays.get(&endpoint).copied().unwrap_or_default();
            fault.delivery.delay = fault.delivery.delay.saturating_add(delay);
        }
        RequestCycle { index, head, fault }
    }

    /// Whether an error response may be sent before the body is read: only if the client expects
    /// a `100 Continue`, or if its body exceeds the limit. Otherwise the body is read first,
    /// because many clients cannot read a response while they are still sending.
    fn may_reject_early(&self, cycle: &RequestCycle) -> bool {
        let early = self.expects_continue(cycle) || cycle.head.content_length > MAX_BODY;
        early && cycle.fault.keeps_api_response()
    }

    fn expects_continue(&self, cycle: &RequestCycle) -> bool {
        let expect = cycle.head.header("expect").unwrap_or_default();
        let expects = expect.eq_ignore_ascii_case("100-continue");
        expects && cycle.bytes_to_read() > 0 && self.reader.buffer().is_empty()
    }

    /// Sends `100 Continue`, if the client expects it.
    fn send_continue(&self, cycle: &RequestCycle) -> io::Result<()> {
        let interim_response: &[u8] = match cycle.fault.request_read {
            _ if !self.expects_continue(cycle) => return Ok(()),
            RequestRead::IgnoreExpect => return Ok(()),
            RequestRead::ContinueWithHeader => {
                b"HTTP/1.1 100 Continue\r\nX-Sandbox: continue\r\n\r\n"
            }
            _ => b"HTTP/1.1 100 Continue\r\n\r\n",
        };
        self.writer.write(interim_response, b"")
    }

    /// Responds to a request that was read, as its fault says.
    fn respond(&mut self, cycle: &RequestCycle, body: Vec<u8>) -> io::Result<ConnectionState> {
        let RequestCycle { head, fault, .. } = cycle;
        let api = &self.server.api;
        let is_processed = fault.reaches_api() && cycle.bytes_to_read() == head.content_length;
        let api_response = is_processed.then(|| api.respond(head, &body, &fault.video));
        drop(body); // a large image is not held in memory while a connection is kept open
        let response = match (&fault.response, &api_response) {
            (ResponseOverride::NoResponse, _) => return self.hold_open(),
            (ResponseOverride::Reset, _) => return Ok(ConnectionState::Reset),
            (ResponseOverride::Raw { prefix, chunk, total }, _) => {
                self.wait_for_delay(cycle)?;
                self.writer.write_response(prefix, b"", &fault.delivery)?;
                self.writer.write_repeated(chunk, *total)?;
                return Ok(ConnectionState::Close);
            }
            (ResponseOverride::Response { status, body }, _) => {
                Response::new(*status, body.clone())
            }
            (ResponseOverride::Status(status), _) => api.documented_response(*status, head),
            (ResponseOverride::None, Some(response)) => {
                return self.send_response(cycle, response.clone());
            }
            // Not reached: a fault without an override lets the API process the request.
            (ResponseOverride::None, None) => return Ok(ConnectionState::Close),
        };
        let id = api_response
            .as_ref()
            .and_then(|response| find_header(&response.headers, "x-inference-id"));
        let response = match id.filter(|_| fault.include_inference_id) {
            Some(id) => response.header("x-inference-id", id),
            None => response,
        };
        self.send_response(cycle, response)
    }

    /// Sends a response after its delay, in the way the fault's delivery says.
    fn send_response(
        &self,
        cycle: &RequestCycle,
        response: Response,
    ) -> io::Result<ConnectionState> {
        let RequestCycle { index, head, fault } = cycle;
        let delivery = &fault.delivery;
        let response = response.with_headers(&fault.headers);
        let closes = head.wants_close() || response.has_connection_close();
        let response_head = response.encode_head(closes, delivery.content_length_offset);
        self.wait_for_delay(cycle)?;
        let status = response.status;
        self.server.request_log().update(*index, |request| request.response_status = Some(status));
        self.writer.write_response(&response_head, response.body.as_slice(), delivery)?;
        let must_close = closes || delivery.close_after || delivery.truncate_after.is_some();
        Ok(if must_close { ConnectionState::Close } else { ConnectionState::KeepAlive })
    }

    /// Waits for the delay of the endpoint plus that of the fault.
    fn wait_for_delay(&self, cycle: &RequestCycle) -> io::Result<()> {
        self.server.shutdown.sleep(cycle.fault.delivery.delay)
    }

    /// Sends an error response before the body was read.
    ///
    /// Closing a socket with unread bytes sends a RST, on which the client's kernel discards a
    /// response that the client has not read yet. So the body is drained for a while first.
    fn reject_before_body(
        &mut self,
        cycle: &RequestCycle,
        response: Response,
    ) -> io::Result<ConnectionState> {
        self.send_response(cycle, response.header("Connection", "close"))?;
        self.stream.shutdown(Shutdown::Write)?;
        self.stream.set_read_timeout(Some(LINGER))?;
        let deadline = Instant::now() + LINGER;
        let mut received = 0;
        while Instant::now() < deadline {
            match self.drain()? {
                0 => break,
                read => received += read as u64,
            }
            self.record_body_bytes(cycle, received);
        }
        Ok(ConnectionState::Close)
    }

    /// Rejects a request whose head is not valid HTTP or not supported.
    fn reject_invalid_head(
        &mut self,
        status: u16,
        head: RequestHead,
    ) -> io::Result<ConnectionState> {
        let response = self.server.api.documented_response(status, &head);
        let index = self.server.request_log().record(&head);
        let cycle = RequestCycle { index, head, fault: Fault::default() };
        self.reject_before_body(&cycle, response)
    }

    /// Sends no response, and waits until the client closes the connection or the server stops.
    fn hold_open(&mut self) -> io::Result<ConnectionState> {
        while self.drain()? > 0 {}
        Ok(ConnectionState::Close)
    }

    /// Reads until a head is complete or invalid. `Incomplete` means that the client disconnected.
    fn read_head(&mut self) -> ParsedHead {
        let mut bytes = Vec::new();
        loop {
            let chunk = self.fill_buffer().unwrap_or_default();
            if chunk.is_empty() {
                // A client that disconnects in the middle of its head is recorded all the same.
                if !bytes.is_empty() {
                    self.server.request_log().record(&RequestHead::default());
                }
                return ParsedHead::Incomplete;
            }
            let (before, read) = (bytes.len(), chunk.len());
            bytes.extend_from_slice(chunk);
            let parsed = parse_head(&bytes);
            match parsed {
                // The bytes after the head belong to its body or to the next request.
                ParsedHead::Complete(_, head_len) => {
                    self.reader.consume(head_len.saturating_sub(before))
                }
                _ => self.reader.consume(read),
            }
            if !matches!(parsed, ParsedHead::Incomplete) {
                return parsed;
            }
        }
    }

    /// Reads the body, or the part of it that the fault lets through.
    ///
    /// Returns `None` if the client disconnected before that. A body over the limit is read, but
    /// not stored.
    fn read_body(&mut self, cycle: &RequestCycle) -> io::Result<Option<Vec<u8>>> {
        let total = cycle.bytes_to_read();
        let (mut body, mut received) = (Vec::new(), 0);
        let started = Instant::now();
        self.record_body_bytes(cycle, received);
        while received < total {
            let remaining = usize::try_from(total - received).unwrap_or(usize::MAX);
            let chunk = self.fill_buffer()?;
            let chunk = chunk.get(..remaining).unwrap_or(chunk);
            if chunk.is_empty() {
                return Ok(None);
            }
            if total <= MAX_BODY {
                body.extend_from_slice(chunk);
            }
            let read = chunk.len();
            self.reader.consume(read);
            received += read as u64;
            if let RequestRead::Slow(rate) = cycle.fault.request_read {
                let due = Duration::from_secs_f64(received as f64 / rate.max(1) as f64);
                self.server.shutdown.sleep(due.saturating_sub(started.elapsed()))?;
            }
            self.record_body_bytes(cycle, received);
        }
        Ok(Some(body))
    }

    fn record_body_bytes(&self, cycle: &RequestCycle, received: u64) {
        self.server.request_log().update(cycle.index, |request| {
            request.body_bytes = received;
            request.body_complete = received == cycle.head.content_length;
        });
    }

    /// Reads and discards bytes; returns 0 at the end of the stream.
    fn drain(&mut self) -> io::Result<usize> {
        let read = self.fill_buffer()?.len();
        self.reader.consume(read);
        Ok(read)
    }

    /// Returns the received bytes that are not consumed yet; none only at the end of the stream.
    fn fill_buffer(&mut self) -> io::Result<&[u8]> {
        while let Err(error) = self.reader.fill_buf() {
            if error.kind() != ErrorKind::Interrupted {
                return Err(error);
            }
        }
        Ok(self.reader.buffer())
    }
}
