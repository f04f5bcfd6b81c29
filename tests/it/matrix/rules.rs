//! What each meaning of a fault comes to, for each thing that a client does: the design's rules,
//! not what the code happens to do.

use kling_video::{Endpoint, Error, ErrorKind};

use super::rows::Row;

/// What a fault means to whoever gets it in the place of a reply.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Meaning {
    /// The reply, in an unusual wrapping.
    Good,
    /// Another status than success, whole or not; whether the vendor's own service says it.
    Refused { status: u16, vendor: bool },
    /// A success whose body is not what it has to be.
    Unreadable,
    /// The connection breaks, or what comes is no HTTP.
    Broken,
    /// Nothing comes, or too slowly.
    Silent,
    /// More than a reply, or a video, can be.
    TooLarge,
    /// The same before the body: it ends at a limit of size or of time.
    HugeHead,
    /// HTTP has both.
    GoodOrBroken,
    /// A success, but not the one that was asked for.
    Strange,
    /// No reply at all by HTTP's rules, but with a status.
    NoReply,
    /// Where the client must not go.
    Refusable,
}

/// What a client does while it happens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Column {
    /// A small body, which is sent before anything can come back.
    Create,
    /// A large one, which asks first.
    CreateLarge,
    Retrieve,
    /// The fault stays.
    Wait,
    /// The fault passes.
    WaitOn,
    Download,
    Find,
    /// `generate_to` with the fault at its create, its polls, its download; then once more without.
    RunCreate,
    RunPoll,
    RunDownload,
}

pub(crate) const COLUMNS: [Column; 10] = [
    Column::Create,
    Column::CreateLarge,
    Column::Retrieve,
    Column::Wait,
    Column::WaitOn,
    Column::Download,
    Column::Find,
    Column::RunCreate,
    Column::RunPoll,
    Column::RunDownload,
];

impl Column {
    pub(crate) fn endpoint(self) -> Endpoint {
        match self {
            Column::Create | Column::CreateLarge | Column::RunCreate => Endpoint::Create,
            Column::Retrieve | Column::Wait | Column::WaitOn | Column::RunPoll => {
                Endpoint::Retrieve
            }
            Column::Find => Endpoint::Logs,
            Column::Download | Column::RunDownload => Endpoint::Video,
        }
    }

    pub(crate) fn is_run(self) -> bool {
        matches!(self, Column::RunCreate | Column::RunPoll | Column::RunDownload)
    }

    /// Every error after a create, and only those, names its generation.
    fn has_id(self) -> bool {
        !matches!(self.endpoint(), Endpoint::Create | Endpoint::Logs)
    }
}

/// How a cell may end: a success or kinds of errors.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Ends {
    pub success: bool,
    pub kinds: Vec<ErrorKind>,
}

pub(crate) fn ends(row: &Row, column: Column) -> Ends {
    let meaning = meaning(row, column);
    match column {
        Column::Create | Column::CreateLarge | Column::RunCreate => create(row, column, meaning),
        Column::Retrieve | Column::Find => read(meaning),
        Column::Wait | Column::RunPoll => wait(read(meaning), meaning),
        Column::WaitOn => match wait(read(meaning), meaning) {
            passing if !row.later && passing.kinds.contains(&ErrorKind::WaitTimeout) => {
                let final_kinds = passing.kinds.into_iter();
                let kinds = final_kinds.filter(|kind| *kind != ErrorKind::WaitTimeout).collect();
                Ends { success: true, kinds }
            }
            ends => ends,
        },
        Column::Download | Column::RunDownload => read(meaning),
    }
}

pub(crate) fn meaning(row: &Row, column: Column) -> Meaning {
    match column.endpoint() {
        Endpoint::Video => row.video.unwrap_or(row.meaning),
        _ => row.meaning,
    }
}

fn one(kind: ErrorKind) -> Ends {
    Ends { success: false, kinds: vec![kind] }
}

/// A read that is not tried again.
fn read(meaning: Meaning) -> Ends {
    use ErrorKind::{Api, Decode, Timeout, Transport};
    let any = |success, kinds: &[ErrorKind]| Ends { success, kinds: kinds.to_vec() };
    match meaning {
        Meaning::Good => any(true, &[]),
        Meaning::Refused { .. } => one(Api),
        Meaning::Unreadable | Meaning::TooLarge => one(Decode),
        Meaning::Broken => one(Transport),
        Meaning::Silent => one(Timeout),
        Meaning::HugeHead => any(false, &[Decode, Transport, Timeout]),
        Meaning::GoodOrBroken => any(true, &[Transport]),
        Meaning::Strange => any(false, &[Api, Decode]),
        Meaning::NoReply | Meaning::Refusable => any(false, &[Api, Decode, Transport]),
    }
}

/// A failed look does not end a wait unless it is final; 404 is not in the first minute.
fn wait(read: Ends, meaning: Meaning) -> Ends {
    let passes = |kind: ErrorKind| match (kind, meaning) {
        (ErrorKind::Api, Meaning::Refused { status, .. }) => status == 404 || is_transient(status),
        (ErrorKind::Api, _) => false,
        _ => true,
    };
    let kinds = read.kinds.iter().map(|&kind| match passes(kind) {
        true => ErrorKind::WaitTimeout,
        false => kind,
    });
    Ends { success: read.success, kinds: kinds.collect() }
}

/// Accepted, certainly not accepted, or unknown: anything past the commit point that is neither.
fn create(row: &Row, column: Column, meaning: Meaning) -> Ends {
    if !is_committed(row, column) {
        return read(meaning);
    }
    match meaning {
        // Whether the body or the break is first is the system's to say.
        Meaning::Broken if row.early => {
            let kinds = vec![ErrorKind::CreateUnknown, ErrorKind::Transport];
            Ends { success: false, kinds }
        }
        Meaning::Good => Ends { success: true, kinds: Vec::new() },
        Meaning::GoodOrBroken => Ends { success: true, kinds: vec![ErrorKind::CreateUnknown] },
        Meaning::Refused { status, vendor } if is_certain(status, vendor) => one(ErrorKind::Api),
        // The id in a header is enough.
        Meaning::Unreadable | Meaning::Broken if row.names_id => {
            Ends { success: true, kinds: Vec::new() }
        }
        _ => one(ErrorKind::CreateUnknown),
    }
}

fn is_committed(row: &Row, column: Column) -> bool {
    !(row.early && column == Column::CreateLarge)
}

/// What the API documents as never charged.
fn is_certain(status: u16, vendor: bool) -> bool {
    match status {
        302 | 303 => false,
        300..=499 => true,
        502 | 504 | 524 => false,
        500..=599 => vendor,
        _ => false,
    }
}

fn is_transient(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

/// What an error has to say of itself, given what it is.
pub(crate) fn complaints(row: &Row, column: Column, error: &Error, id: &str) -> Vec<String> {
    let mut complaints = Vec::new();
    let mut check = |what: &str, is: String, should: String| {
        if is != should {
            complaints.push(format!("{what} is {is} instead of {should}"));
        }
    };
    let kind = error.kind();
    let status = match meaning(row, column) {
        Meaning::Refused { status, .. } => Some(status),
        _ => error.status(),
    };
    let transient = match kind {
        ErrorKind::Connect | ErrorKind::Transport | ErrorKind::Timeout => true,
        ErrorKind::WaitTimeout => true,
        ErrorKind::Api => status.is_some_and(is_transient),
        _ => false,
    };
    let pays_again = matches!(column, Column::Create | Column::CreateLarge);
    let committed = is_committed(row, column) && !(row.early && kind == ErrorKind::Transport);
    let retryable = transient && !(pays_again && committed);
    check("is_retryable", error.is_retryable().to_string(), retryable.to_string());

    let named = column.has_id() || (row.names_id && kind == ErrorKind::CreateUnknown);
    let own = error.generation_id().map(|id| id.to_string());
    check("generation_id", format!("{own:?}"), format!("{:?}", named.then(|| id.to_owned())));
    let billed = kind == ErrorKind::CreateUnknown || named;
    check("may_have_been_billed", error.may_have_been_billed().to_string(), billed.to_string());

    if matches!(kind, ErrorKind::Api | ErrorKind::CreateUnknown) {
        check("status", format!("{:?}", error.status()), format!("{status:?}"));
    }
    if column.endpoint() == Endpoint::Create {
        let has = error.client_request_id().is_some();
        check("having a client_request_id", has.to_string(), "true".to_owned());
    }
    let operation = match column {
        Column::Create | Column::CreateLarge | Column::RunCreate => "create",
        Column::Retrieve => "retrieve",
        Column::Wait | Column::WaitOn | Column::RunPoll => "wait",
        Column::Find => "find",
        Column::Download | Column::RunDownload => "download",
    };
    check("operation", error.operation().to_owned(), operation.to_owned());
    complaints
}

/// How many creates are sent: one, but an expectation that is refused is taken back.
pub(crate) fn creates(row: &Row, column: Column) -> usize {
    match row.meaning {
        Meaning::Refused { status: 417, .. } if column == Column::CreateLarge => 2,
        _ => 1,
    }
}

/// How many requests a download of it makes: an expired link is renewed once.
pub(crate) fn downloads(row: &Row) -> usize {
    match row.video.unwrap_or(row.meaning) {
        Meaning::Refused { status: 403 | 404 | 410, .. } => 2,
        _ => row.hops,
    }
}
