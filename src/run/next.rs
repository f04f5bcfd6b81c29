//! What a run does next: one pure function of its record, the request and the target.

use crate::model::generation::GenerationId;

use super::fingerprint::RequestFingerprint;
use super::journal::JournalEntry as Entry;

/// What is at the target.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum TargetState {
    Absent,
    /// The file that the journal recorded as this generation's video.
    Video(GenerationId),
    /// An empty file: what a run that was killed while publishing may have left.
    Empty,
    /// Any other file.
    Other,
}

/// An id that a rejected create named.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct RejectedId {
    pub(crate) id: GenerationId,
    pub(crate) marked: bool,
    pub(crate) time: u64,
}

/// What happens next.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// The video is in place: no request.
    Reuse {
        id: GenerationId,
        length: u64,
    },
    /// The video is in place, but not recorded as saved.
    RecordSaved {
        id: GenerationId,
        length: u64,
    },
    /// Wait for the generation and download its video. It replaces the one of `replaces`.
    Fetch {
        id: GenerationId,
        replaces: Option<GenerationId>,
    },
    /// Find out whether a create was accepted.
    Recover {
        client_request_id: String,
        id: Option<GenerationId>,
        time: u64,
    },
    /// Create a generation, after asking about what rejected creates named.
    Create {
        rejected: Vec<RejectedId>,
        replaces: Option<GenerationId>,
    },
    Block(Blocker),
}

/// Why nothing is done. `own` is the id that the request has all the same.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Blocker {
    /// The request's generation has ended, and may have been charged.
    Ended { id: GenerationId, reason: String },
    /// Another request is not finished.
    OtherUnfinished { id: Option<GenerationId>, client_request_id: Option<String> },
    /// The target is another request's video, which may be replaced only on demand.
    OtherVideo { video: GenerationId, own: Option<GenerationId> },
    /// The target is not a file of this journal.
    UnknownFile { own: Option<GenerationId> },
    /// The record starts with an entry of no known request. `id` is the newest that it names.
    NoIntent { id: Option<GenerationId> },
}

/// The newest entry of the request decides. An id that is neither failed nor abandoned is fetched,
/// never created again.
pub(crate) fn next_action(
    entries: &[Entry],
    request: &RequestFingerprint,
    target: &TargetState,
    replace_videos: bool,
) -> Action {
    if !starts_with_intent(entries) {
        let id = entries.iter().rev().find_map(Entry::id).cloned();
        return Action::Block(Blocker::NoIntent { id });
    }
    let own = entries_of(entries, &|recorded| request.matches(recorded));
    match (newest_unsettled(&own), target) {
        (Some(Entry::Saved { id, length, .. }), TargetState::Video(video)) if video == id => {
            Action::Reuse { id: id.clone(), length: *length }
        }
        (Some(Entry::Publishing { id, length, .. }), TargetState::Video(video)) if video == id => {
            Action::RecordSaved { id: id.clone(), length: *length }
        }
        (Some(Entry::Publishing { id, .. }), TargetState::Empty) => {
            Action::Fetch { id: id.clone(), replaces: None }
        }
        (Some(Entry::Sending { client_request_id, id, time }), _) => {
            let client_request_id = client_request_id.clone();
            Action::Recover { client_request_id, id: id.clone(), time: *time }
        }
        (Some(Entry::Ended { id, reason }), _) => {
            Action::Block(Blocker::Ended { id: id.clone(), reason: reason.clone() })
        }
        (
            Some(
                Entry::Created { id }
                | Entry::Completed { id, .. }
                | Entry::Publishing { id, .. }
                | Entry::Saved { id, .. },
            ),
            _,
        ) => match replaced_video(target, Some(id), replace_videos) {
            Ok(replaces) => Action::Fetch { id: id.clone(), replaces },
            Err(blocker) => Action::Block(blocker),
        },
        // All of its creates are rejected, failed or abandoned.
        _ => {
            let mut seen = Vec::new();
            let mut others = entries.iter().filter_map(|entry| match entry {
                Entry::Intent { request: other, .. }
                    if !request.matches(other) && !seen.contains(&other) =>
                {
                    seen.push(other);
                    newest_unsettled(&entries_of(entries, &|recorded| recorded == other))
                }
                _ => None,
            });
            let finished = others.find_map(unfinished).map_or(Ok(()), Err);
            match finished.and_then(|()| replaced_video(target, None, replace_videos)) {
                Ok(replaces) => Action::Create { rejected: rejected_ids(&own), replaces },
                Err(blocker) => Action::Block(blocker),
            }
        }
    }
}

/// The other video that `own` would replace at the target, or why there must be none.
fn replaced_video(
    target: &TargetState,
    own: Option<&GenerationId>,
    replace_videos: bool,
) -> Result<Option<GenerationId>, Blocker> {
    match target {
        TargetState::Absent => Ok(None),
        TargetState::Video(id) if own == Some(id) => Ok(None),
        TargetState::Video(id) if replace_videos => Ok(Some(id.clone())),
        TargetState::Video(id) => Err(Blocker::OtherVideo { video: id.clone(), own: own.cloned() }),
        TargetState::Empty | TargetState::Other => Err(Blocker::UnknownFile { own: own.cloned() }),
    }
}

/// The entry that decides what happens next for the request, if it has an unfinished or finished
/// generation.
pub(crate) fn newest_of<'a>(
    entries: &'a [Entry],
    request: &RequestFingerprint,
) -> Option<&'a Entry> {
    let own = entries_of(entries, &|recorded| request.matches(recorded));
    newest_unsettled(&own).filter(|_| starts_with_intent(entries))
}

/// Whether it is known which request each entry is of.
fn starts_with_intent(entries: &[Entry]) -> bool {
    entries.iter().find(|entry| !entry.is_abandoned()).is_none_or(Entry::is_intent)
}

/// The entries of a request: those from an intent of it on. `abandoned` belongs to every request.
fn entries_of<'a>(
    entries: &'a [Entry],
    is_of_it: &dyn Fn(&RequestFingerprint) -> bool,
) -> Vec<&'a Entry> {
    let mut is_its = false;
    let is_included = |entry: &&Entry| {
        if let Entry::Intent { request, .. } = entry {
            is_its = is_of_it(request);
        }
        is_its || entry.is_abandoned()
    };
    entries.iter().filter(is_included).collect()
}

/// The newest entry of a request that no later one settles: the last one, unless that rejects,
/// fails or abandons. Only a record in disorder has several, for example that of two processes on a
/// file system without locks; then ids go first.
fn newest_unsettled<'a>(entries: &[&'a Entry]) -> Option<&'a Entry> {
    let rank = |entry: &&Entry| match entry {
        Entry::Ended { .. } => 0,
        Entry::Sending { id: None, .. } => 1,
        _ => 2,
    };
    let unsettled = (0..entries.len()).filter_map(|at| match entries.split_at(at) {
        (earlier, [entry, later @ ..]) => is_unsettled(earlier, entry, later).then_some(*entry),
        _ => None,
    });
    unsettled.max_by_key(rank)
}

fn is_unsettled(earlier: &[&Entry], entry: &Entry, later: &[&Entry]) -> bool {
    let superseded = |id| later.iter().any(|entry| tells_of(entry, id));
    let abandoned = || later.iter().any(|entry| entry.is_abandoned());
    match entry {
        Entry::Sending { client_request_id: sent, id: None, .. } => {
            let again = |entry: &&Entry| {
                matches!(entry, Entry::Sending { client_request_id, .. }
                    if client_request_id == sent)
            };
            // Its outcome comes next. Anything else is about another create.
            let has_outcome = match later.iter().find(|entry| !entry.is_intent()) {
                Some(Entry::Rejected { .. }) => true,
                Some(Entry::Sending { .. }) | None => false,
                Some(next) => {
                    next.id().is_some_and(|id| !earlier.iter().any(|entry| tells_of(entry, id)))
                }
            };
            !has_outcome && !later.iter().any(again) && !abandoned()
        }
        Entry::Sending { id: Some(id), .. }
        | Entry::Created { id }
        | Entry::Completed { id, .. }
        | Entry::Publishing { id, .. }
        | Entry::Ended { id, .. } => !superseded(id) && !abandoned(),
        // What is finished stays so.
        Entry::Saved { id, .. } => !superseded(id),
        Entry::Intent { .. }
        | Entry::Rejected { .. }
        | Entry::Failed { .. }
        | Entry::Abandoned { .. } => false,
    }
}

/// Whether the entry says what became of a generation. A rejection only names one.
fn tells_of(entry: &Entry, id: &GenerationId) -> bool {
    entry.id() == Some(id) && !matches!(entry, Entry::Rejected { .. })
}

fn unfinished(newest: &Entry) -> Option<Blocker> {
    // An ended one stands in nobody's way, since it cannot be fetched.
    let is_over = matches!(newest, Entry::Saved { .. } | Entry::Ended { .. });
    (!is_over).then(|| Blocker::OtherUnfinished {
        id: newest.id().cloned(),
        client_request_id: newest.client_request_id().map(str::to_owned),
    })
}

/// The ids that rejected creates have named, and about which nothing was asked or recorded since. The
/// questions precede the intent that leads to a create.
fn rejected_ids(own: &[&Entry]) -> Vec<RejectedId> {
    let sent = own.iter().rposition(|entry| matches!(entry, Entry::Sending { id: None, .. }));
    let before_sent = own.get(..sent.unwrap_or_default()).unwrap_or_default();
    let asked = before_sent.iter().rposition(|entry| entry.is_intent());
    let asked = asked.max(own.iter().rposition(|entry| entry.is_abandoned()));
    let rejections = own.iter().skip(asked.unwrap_or_default()).filter_map(|entry| match entry {
        Entry::Rejected { id: Some(id), marked, time, .. } => {
            Some(RejectedId { id: id.clone(), marked: *marked, time: *time })
        }
        _ => None,
    });
    rejections.filter(|rejected| !own.iter().any(|entry| tells_of(entry, &rejected.id))).collect()
}
