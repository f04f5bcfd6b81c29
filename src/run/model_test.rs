//! The model test of durable runs: every short record of two requests, crossed with the states of
//! the target, against invariants and a table that do not follow the code's structure.
//!
//! A is the request of the first intent, B the other one; each is asked for. Generations are named
//! after their request: `a1`, `a2`, `b1`, `b2`. The second one of a request appears only after the
//! first, and so do client request ids, since their names do not matter.
//!
//! Two tests: what comes next after every record, and what a damaged file is read as. Each prints how
//! much it has checked.

#[cfg(test)]
mod damaged_journals;

use std::time::Instant;

use crate::model::generation::GenerationId;

use super::fingerprint::RequestFingerprint as Fingerprint;
use super::journal::JournalEntry as Entry;
use super::next::{Action, Blocker, TargetState, next_action};

/// The longest sequence that starts with an intent, which is included.
const MAX_LEN: usize = 5;
/// The longest sequence that starts with anything else.
const MAX_LEN_WITHOUT_INTENT: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Name {
    A,
    B,
}

impl Name {
    const BOTH: [Self; 2] = [Self::A, Self::B];

    fn other(self) -> Self {
        if self == Self::A { Self::B } else { Self::A }
    }

    fn prefix(self) -> char {
        if self == Self::A { 'a' } else { 'b' }
    }

    fn id(self, number: usize) -> GenerationId {
        format!("{}{number}", self.prefix()).parse().unwrap()
    }

    fn of(request: &Fingerprint) -> Self {
        if request.fields == "A" { Self::A } else { Self::B }
    }

    fn fingerprint(self) -> Fingerprint {
        let text = str::to_owned;
        Fingerprint {
            base_url: text("https://api"),
            route: text("/v2"),
            model: text("kling"),
            fields: format!("{self:?}"),
            image: Some(text("image")),
            masks: Vec::new(),
        }
    }
}

fn id_number(id: &GenerationId) -> u64 {
    id.as_str()[1..].parse().unwrap()
}

/// The length of a generation's video.
fn length(id: &GenerationId) -> u64 {
    1000 + id_number(id)
}

/// The kinds of entries, as the newest one of a request.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Nothing,
    Sending,
    SendingWithId,
    Rejected,
    RejectedWithId,
    Created,
    Completed,
    Publishing,
    Saved,
    Failed,
    Ended,
    Abandoned,
}

fn kind(entry: &Entry) -> Kind {
    match entry {
        Entry::Intent { .. } => Kind::Nothing,
        Entry::Sending { id: None, .. } => Kind::Sending,
        Entry::Sending { .. } => Kind::SendingWithId,
        Entry::Rejected { id: None, .. } => Kind::Rejected,
        Entry::Rejected { .. } => Kind::RejectedWithId,
        Entry::Created { .. } => Kind::Created,
        Entry::Completed { .. } => Kind::Completed,
        Entry::Publishing { .. } => Kind::Publishing,
        Entry::Saved { .. } => Kind::Saved,
        Entry::Failed { .. } => Kind::Failed,
        Entry::Ended { .. } => Kind::Ended,
        Entry::Abandoned { .. } => Kind::Abandoned,
    }
}

/// Which request an entry is of: that of the last intent before it.
fn owners(entries: &[Entry]) -> Vec<Option<Name>> {
    let mut owner = None;
    let owner_of = |entry: &Entry| {
        if let Entry::Intent { request, .. } = entry {
            owner = Some(Name::of(request));
        }
        owner
    };
    entries.iter().map(owner_of).collect()
}

// ------------------------------------------------------------ the sequences

/// A sequence that grows and shrinks, and how many names each request has used.
struct Sequence {
    entries: Vec<Entry>,
    owner: Option<Name>,
    ids: [usize; 2],
    client_request_ids: [usize; 2],
}

impl Sequence {
    fn new() -> Self {
        Self { entries: Vec::new(), owner: None, ids: [0; 2], client_request_ids: [0; 2] }
    }

    /// Every entry that may come next. Those before the first intent are named as A's.
    fn next_entries(&self) -> Vec<Entry> {
        let owner = self.owner.unwrap_or(Name::A);
        let time = self.entries.len() as u64;
        let up_to_next = |used: usize| 1..=(used + 1).min(2);
        let ids: Vec<_> =
            up_to_next(self.ids[owner as usize]).map(|number| owner.id(number)).collect();
        let optional_ids =
            || [None].into_iter().chain(ids.iter().cloned().map(Some)).collect::<Vec<_>>();
        let mut next = Vec::new();
        for name in Name::BOTH {
            // B is the name of the request that comes second.
            if name == Name::B && self.entries.is_empty() {
                continue;
            }
            let request = name.fingerprint();
            next.push(Entry::Intent { request, source: None, time, replaces: None });
        }
        for number in up_to_next(self.client_request_ids[owner as usize]) {
            for id in optional_ids() {
                let client_request_id = format!("{owner:?}-{number}");
                next.push(Entry::Sending { client_request_id, id, time });
            }
        }
        for id in optional_ids() {
            let marked = id.as_ref().is_some_and(|id| id_number(id) == 1);
            next.push(Entry::Rejected { status: Some(400), marked, id, time });
        }
        for id in ids {
            let (length, reason) = (length(&id), "the API says so".to_owned());
            let hash = format!("hash of {id}");
            next.extend([
                Entry::Created { id: id.clone() },
                Entry::Saved { id: id.clone(), length, usage: None },
                Entry::Failed { id: id.clone(), reason: reason.clone() },
                Entry::Ended { id: id.clone(), reason },
            ]);
            // Of a second generation these would show no more than `created` and `saved` do.
            if id_number(&id) == 1 {
                next.push(Entry::Completed { id: id.clone(), usage: None });
                next.push(Entry::Publishing { id, length, hash });
            }
        }
        next.push(Entry::Abandoned { time });
        next
    }

    /// Calls `visit` with every sequence of up to `max` entries that starts with this one.
    fn extend(&mut self, max: usize, visit: &mut dyn FnMut(&[Entry])) {
        if self.entries.len() == max {
            return;
        }
        for entry in self.next_entries() {
            let saved = (self.owner, self.ids, self.client_request_ids);
            let owner = self.owner.unwrap_or(Name::A) as usize;
            match &entry {
                Entry::Intent { request, .. } => self.owner = Some(Name::of(request)),
                Entry::Sending { client_request_id, .. } => {
                    let number = usize::from(client_request_id.ends_with('2')) + 1;
                    let used = &mut self.client_request_ids[owner];
                    *used = number.max(*used);
                }
                _ => {}
            }
            if let Some(id) = entry.id() {
                self.ids[owner] = self.ids[owner].max(id_number(id) as usize);
            }
            self.entries.push(entry);
            visit(&self.entries);
            self.extend(max, visit);
            self.entries.pop();
            (self.owner, self.ids, self.client_request_ids) = saved;
        }
    }
}

/// Calls `visit` with every sequence: up to `max` entries after an intent, or up to
/// `max_without_intent` that start with anything else.
fn for_each_sequence(max: usize, max_without_intent: usize, visit: &mut dyn FnMut(&[Entry])) {
    visit(&[]);
    Sequence::new().extend(max.max(max_without_intent), &mut |entries| {
        let starts_with_intent = matches!(entries.first(), Some(Entry::Intent { .. }));
        if entries.len() <= if starts_with_intent { max } else { max_without_intent } {
            visit(entries);
        }
    });
}

fn describe(entries: &[Entry]) -> String {
    let mut text = String::new();
    for entry in entries {
        let id = entry.id().map(GenerationId::as_str).unwrap_or_default();
        match entry {
            Entry::Intent { request, .. } => text += &format!("intent {} · ", request.fields),
            Entry::Sending { client_request_id, .. } => {
                text += &format!("sending {client_request_id} {id} · ");
            }
            _ => text += &format!("{:?} {id} · ", kind(entry)),
        }
    }
    text
}

// ------------------------------------------------------------ the model

/// What the record says about one create.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    /// Sent, and nothing more.
    Sent,
    Created,
    Completed,
    Publishing,
    Saved,
    Ended,
    /// Rejected, failed or abandoned.
    Over,
}

#[derive(Debug)]
struct Create {
    client_request_id: Option<String>,
    id: Option<GenerationId>,
    fate: Fate,
    /// When it was last heard of.
    position: usize,
}

/// All creates of a request, and the ids that must be asked about before the next one.
#[derive(Debug, Default)]
struct Ledger {
    creates: Vec<Create>,
    suspects: Vec<GenerationId>,
    /// How many of the suspects precede the request's last intent.
    suspects_at_intent: usize,
    awaiting_response: Option<usize>,
    /// An outcome without a `sending`, or a step back: a record that no run writes.
    in_disorder: bool,
}

impl Ledger {
    fn new(entries: &[Entry], owners: &[Option<Name>], request: Name) -> Self {
        let mut ledger = Self::default();
        for (position, (entry, owner)) in entries.iter().zip(owners).enumerate() {
            if let Entry::Abandoned { .. } = entry {
                ledger.abandon();
            } else if *owner == Some(request) {
                ledger.note(position, entry);
            }
        }
        ledger.suspects.retain(|suspect| {
            !ledger.creates.iter().any(|create| create.id.as_ref() == Some(suspect))
        });
        ledger
    }

    fn abandon(&mut self) {
        for create in self.creates.iter_mut().filter(|create| create.fate != Fate::Saved) {
            create.fate = Fate::Over;
        }
        self.suspects.clear();
        self.suspects_at_intent = 0;
        self.awaiting_response = None;
    }

    /// An outcome belongs to the `sending` right before it. Anything else is about its id only.
    fn note(&mut self, position: usize, entry: &Entry) {
        let fate = match entry {
            Entry::Intent { .. } => {
                self.suspects_at_intent = self.suspects.len();
                return;
            }
            Entry::Abandoned { .. } => return,
            Entry::Sending { client_request_id, id, .. } => {
                if id.is_none() {
                    // A create follows the questions: each suspect was found to be none.
                    self.suspects.drain(..self.suspects_at_intent);
                    self.suspects_at_intent = 0;
                }
                let create = self.send(client_request_id, id.as_ref());
                self.creates[create].position = position;
                // Only the response names one.
                self.in_disorder |= id.is_some() && self.awaiting_response != Some(create);
                self.awaiting_response = Some(create);
                return;
            }
            Entry::Rejected { id, .. } => return self.reject(id.as_ref()),
            Entry::Created { .. } => Fate::Created,
            Entry::Completed { .. } => Fate::Completed,
            Entry::Publishing { .. } => Fate::Publishing,
            Entry::Saved { .. } => Fate::Saved,
            Entry::Failed { .. } => Fate::Over,
            Entry::Ended { .. } => Fate::Ended,
        };
        let create = self.named(entry.id().unwrap());
        let goes_back = match create.fate {
            Fate::Ended | Fate::Over => true,
            Fate::Saved => matches!(fate, Fate::Created | Fate::Completed),
            _ => false,
        };
        create.fate = fate;
        create.position = position;
        self.in_disorder |= goes_back;
    }

    fn reject(&mut self, id: Option<&GenerationId>) {
        self.in_disorder |= self.awaiting_response.is_none();
        if let Some(create) = self.awaiting_response.take()
            && self.creates[create].id.is_none()
        {
            self.creates[create].fate = Fate::Over;
        }
        self.suspects.extend(id.cloned());
    }

    /// Notes that a create was sent, or that its unusable response named `id`.
    fn send(&mut self, client_request_id: &str, id: Option<&GenerationId>) -> usize {
        let known = self.creates.iter().position(|create| id.is_some() && create.id.as_ref() == id);
        let sent = self.creates.iter().position(|create| {
            create.client_request_id.as_deref() == Some(client_request_id)
                && create.id.is_none()
                && create.fate != Fate::Over
        });
        if let (Some(_), Some(sent)) = (known, sent) {
            // Both are the same create.
            self.creates[sent].fate = Fate::Over;
        }
        let create = known.or(sent).unwrap_or_else(|| self.add());
        self.creates[create].client_request_id = Some(client_request_id.to_owned());
        self.creates[create].id = id.cloned();
        self.creates[create].fate = Fate::Sent;
        create
    }

    fn add(&mut self) -> usize {
        let (fate, position) = (Fate::Sent, 0);
        self.creates.push(Create { client_request_id: None, id: None, fate, position });
        self.creates.len() - 1
    }

    fn named(&mut self, id: &GenerationId) -> &mut Create {
        let sent = self.awaiting_response.take();
        let known = self.creates.iter().position(|create| create.id.as_ref() == Some(id));
        let unnamed = sent.filter(|&create| self.creates[create].id.is_none());
        self.in_disorder |= known.is_none() && unnamed.is_none() && !self.suspects.contains(id);
        let create = known.or(unnamed).unwrap_or_else(|| self.add());
        self.creates[create].id = Some(id.clone());
        &mut self.creates[create]
    }

    /// The create that decides: the newest with an id to fetch; else one that was only sent;
    /// else one that has ended. In a record that is in order there is at most one.
    fn decides(&self) -> Option<&Create> {
        let newest = |is: fn(&Create) -> bool| {
            self.creates.iter().filter(|create| is(create)).max_by_key(|create| create.position)
        };
        newest(is_fetchable)
            .or_else(|| newest(|create| create.fate == Fate::Sent))
            .or_else(|| newest(|create| create.fate == Fate::Ended))
    }

    fn is_unfinished(&self) -> bool {
        self.decides().is_some_and(|create| !matches!(create.fate, Fate::Saved | Fate::Ended))
    }
}

fn is_fetchable(create: &Create) -> bool {
    create.id.is_some() && !matches!(create.fate, Fate::Ended | Fate::Over)
}

// ------------------------------------------------------------ the invariants

fn carried_id(action: &Action) -> Option<&GenerationId> {
    match action {
        Action::Reuse { id, .. } | Action::RecordSaved { id, .. } | Action::Fetch { id, .. } => {
            Some(id)
        }
        Action::Recover { id, .. } => id.as_ref(),
        Action::Create { .. } => None,
        Action::Block(blocker) => match blocker {
            Blocker::Ended { id, .. } => Some(id),
            Blocker::OtherUnfinished { id, .. } => id.as_ref(),
            Blocker::OtherVideo { own, .. } | Blocker::UnknownFile { own } => own.as_ref(),
            Blocker::NoIntent { id } => id.as_ref(),
        },
    }
}

/// Never a create while an earlier one may live, and is not failed, abandoned or rejected.
fn invariant_1(ledger: &Ledger, action: &Action) -> bool {
    !matches!(action, Action::Create { .. })
        || ledger.creates.iter().all(|create| create.fate == Fate::Over)
}

/// An id once known is never lost: the action or the error has it, or asks about it first.
fn invariant_2(ledger: &Ledger, action: &Action) -> bool {
    let mut fetchable = ledger.creates.iter().filter(|create| is_fetchable(create)).peekable();
    let ended = ledger.creates.iter().any(|create| create.fate == Fate::Ended);
    match action {
        Action::Create { rejected, .. } => {
            let asked: Vec<_> = rejected.iter().map(|rejected| &rejected.id).collect();
            fetchable.peek().is_none()
                && !ended
                && ledger.suspects.iter().all(|suspect| asked.contains(&suspect))
        }
        _ if fetchable.peek().is_some() => {
            carried_id(action).is_some_and(|id| fetchable.any(|c| c.id.as_ref() == Some(id)))
        }
        // What nothing is known of has no id to lose.
        Action::Recover { .. } => true,
        Action::Block(Blocker::Ended { .. }) => ended,
        Action::Block(_) => !ended,
        _ => false,
    }
}

/// A file that is not ours is never touched, and another request's video only with
/// `replace_videos`.
fn invariant_3(ledger: &Ledger, target: &TargetState, replace: bool, action: &Action) -> bool {
    let (fetched, replaces) = match action {
        Action::Fetch { id, replaces } => (Some(id), replaces.as_ref()),
        Action::Create { replaces, .. } => (None, replaces.as_ref()),
        Action::Reuse { id, .. } | Action::RecordSaved { id, .. } => {
            return *target == TargetState::Video(id.clone());
        }
        Action::Recover { .. } | Action::Block(_) => return true,
    };
    let half_made = ledger
        .creates
        .iter()
        .any(|create| create.fate == Fate::Publishing && create.id.as_ref() == fetched);
    match target {
        TargetState::Absent => replaces.is_none(),
        TargetState::Video(video) if fetched == Some(video) => replaces.is_none(),
        TargetState::Video(video) => replaces == Some(video) && replace,
        TargetState::Empty => half_made && replaces.is_none(),
        TargetState::Other => false,
    }
}

/// Every "not known" has a way on: right after `abandoned`, only finished videos are left.
fn abandoning_is_a_way_on(entries: &[Entry], action: &Action) -> bool {
    !matches!(entries.last(), Some(Entry::Abandoned { .. }))
        || match action {
            Action::Recover { .. } => false,
            Action::Create { rejected, .. } => rejected.is_empty(),
            Action::Block(blocker) => {
                !matches!(blocker, Blocker::Ended { .. } | Blocker::OtherUnfinished { .. })
            }
            _ => true,
        }
}

// ------------------------------------------------------------ the table

/// The target, as the request that is asked for sees it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Absent,
    /// The recorded video of the generation that decides.
    Own,
    /// Any other recorded video.
    Others,
    Empty,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Next {
    Reuse,
    RecordSaved,
    Fetch,
    FetchReplacing,
    Recover,
    Create,
    CreateReplacing,
    SayEnded,
    SayOtherUnfinished,
    SayOtherVideo,
    SayUnknownFile,
}

/// A row: the fate that decides (`None`: no create but rejected, failed and abandoned ones),
/// whether another request is unfinished, the target, `replace_videos`, and what happens. What
/// is empty or `None` stands for any; the first row that fits counts.
type Row = (&'static [Option<Fate>], Option<bool>, &'static [Place], Option<bool>, Next);

const KNOWN: &[Option<Fate>] =
    &[Some(Fate::Created), Some(Fate::Completed), Some(Fate::Publishing), Some(Fate::Saved)];

/// The table of `design.md`, "Durable runs". Rows marked with + refine it.
const TABLE: &[Row] = &[
    // saved, and the last one saved: its video is in place | any | as recorded | reuse, no call
    (&[Some(Fate::Saved)], None, &[Place::Own], None, Next::Reuse),
    // + Killed between putting the video in place and `saved`: no call either.
    (&[Some(Fate::Publishing)], None, &[Place::Own], None, Next::RecordSaved),
    // created, completed, publishing, saved | any | absent | fetch by id
    (KNOWN, None, &[Place::Absent], None, Next::Fetch),
    // publishing | any | R's own half-made | fetch by id
    (&[Some(Fate::Publishing)], None, &[Place::Empty], None, Next::Fetch),
    // + A record in disorder, since a video in place has at least `publishing`. Nothing is
    // overwritten: the download finds the file and says so.
    (KNOWN, None, &[Place::Own], None, Next::Fetch),
    // created, completed, saved (+ publishing) | O saved | O's | only with `replace_videos`
    (KNOWN, None, &[Place::Others], Some(true), Next::FetchReplacing),
    // + Said to be another's video, and not somebody's file.
    (KNOWN, None, &[Place::Others], Some(false), Next::SayOtherVideo),
    // sending | any | any | recover
    (&[Some(Fate::Sent)], None, &[], None, Next::Recover),
    // ended | any | any | error with its id and reason
    (&[Some(Fate::Ended)], None, &[], None, Next::SayEnded),
    // none, rejected, failed, abandoned | O unfinished | any | error with O's ids
    (&[None], Some(true), &[], None, Next::SayOtherUnfinished),
    // same | O saved | O's, as recorded | create, only with `replace_videos`
    // + A video of the request itself whose generation was abandoned is treated alike.
    (&[None], None, &[Place::Others], Some(true), Next::CreateReplacing),
    (&[None], None, &[Place::Others], Some(false), Next::SayOtherVideo),
    // same | none unfinished | absent | create
    (&[None], None, &[Place::Absent], None, Next::Create),
    // any | any | anything else | somebody's file
    (&[], None, &[], None, Next::SayUnknownFile),
];

fn row(fate: Option<Fate>, other_unfinished: bool, place: Place, replace: bool) -> usize {
    TABLE
        .iter()
        .position(|(fates, unfinished, places, replaces, _)| {
            (fates.is_empty() || fates.contains(&fate))
                && unfinished.is_none_or(|unfinished| unfinished == other_unfinished)
                && (places.is_empty() || places.contains(&place))
                && replaces.is_none_or(|replaces| replaces == replace)
        })
        .unwrap()
}

fn next_of(action: &Action) -> Next {
    match action {
        Action::Reuse { .. } => Next::Reuse,
        Action::RecordSaved { .. } => Next::RecordSaved,
        Action::Fetch { replaces: None, .. } => Next::Fetch,
        Action::Fetch { .. } => Next::FetchReplacing,
        Action::Recover { .. } => Next::Recover,
        Action::Create { replaces: None, .. } => Next::Create,
        Action::Create { .. } => Next::CreateReplacing,
        Action::Block(Blocker::Ended { .. }) => Next::SayEnded,
        Action::Block(Blocker::OtherUnfinished { .. }) => Next::SayOtherUnfinished,
        Action::Block(Blocker::OtherVideo { .. }) => Next::SayOtherVideo,
        // Of the table's rows it is the last: nothing is sent, written or paid.
        Action::Block(Blocker::UnknownFile { .. } | Blocker::NoIntent { .. }) => {
            Next::SayUnknownFile
        }
    }
}

// ------------------------------------------------------------ the checks

/// Which (state, action) pairs were seen. A state is the newest entry of the request that is
/// asked for, the newest of the other one, the target and `replace_videos`.
struct Seen {
    pairs: Vec<bool>,
    rows: Vec<bool>,
    sequences: usize,
    actions: usize,
}

const KINDS: usize = Kind::Abandoned as usize + 1;
const PLACES: usize = Place::Other as usize + 1;
const NEXTS: usize = Next::SayUnknownFile as usize + 1;

impl Seen {
    fn new() -> Self {
        let pairs = vec![false; KINDS * KINDS * PLACES * 2 * NEXTS * 2];
        Self { pairs, rows: vec![false; TABLE.len()], sequences: 0, actions: 0 }
    }

    fn pair(&mut self, newest: [Kind; 2], asked: &Asked<'_>) {
        let Asked { name, replace, action, .. } = asked;
        let place = asked.place(|id| id.as_str().starts_with(name.prefix()));
        let detail = match action {
            Action::Create { rejected, .. } => !rejected.is_empty(),
            action => carried_id(action).is_some(),
        };
        let mut index = newest[0] as usize * KINDS + newest[1] as usize;
        index = (index * PLACES + place as usize) * 2 + usize::from(*replace);
        index = (index * NEXTS + next_of(action) as usize) * 2 + usize::from(detail);
        self.pairs[index] = true;
        self.actions += 1;
    }

    fn summary(&self) -> String {
        let pairs = self.pairs.iter().filter(|&&seen| seen).count();
        let Self { sequences, actions, .. } = self;
        format!("{sequences} sequences, {actions} actions, {pairs} distinct (state, action) pairs")
    }
}

/// The kind of the newest entry of a request; `abandoned` is of all.
fn newest_kind(entries: &[Entry], owners: &[Option<Name>], request: Name) -> Kind {
    let is_its = |entry: &Entry, owner: Option<Name>| match entry {
        Entry::Intent { .. } => false,
        Entry::Abandoned { .. } => true,
        _ => owner == Some(request),
    };
    let newest = entries.iter().zip(owners).rev().find(|&(entry, &owner)| is_its(entry, owner));
    newest.map_or(Kind::Nothing, |(entry, _)| kind(entry))
}

/// The newest id of the entries that follow no intent, or `None` if there are no such entries.
fn orphans(entries: &[Entry], owners: &[Option<Name>]) -> bool {
    entries
        .iter()
        .zip(owners)
        .any(|(entry, owner)| owner.is_none() && !matches!(entry, Entry::Abandoned { .. }))
}

/// What is the same for all sequences.
struct Cases {
    fingerprints: [Fingerprint; 2],
    targets: Vec<TargetState>,
}

impl Cases {
    fn new() -> Self {
        let mut targets = vec![TargetState::Absent, TargetState::Empty, TargetState::Other];
        for number in [1, 2] {
            targets.extend(Name::BOTH.map(|name| TargetState::Video(name.id(number))));
        }
        Self { fingerprints: Name::BOTH.map(Name::fingerprint), targets }
    }
}

/// `FileJournal::abandon` writes nothing if no entry is open: there must be nothing to abandon.
fn check_is_open(entries: &[Entry], cases: &Cases) {
    if entries.iter().any(Entry::is_open) {
        return;
    }
    let abandoned = [entries, &[Entry::Abandoned { time: 9 }]].concat();
    for (target, replace) in cases.targets.iter().flat_map(|t| [(t, false), (t, true)]) {
        for fingerprint in &cases.fingerprints {
            let next = |entries| next_action(entries, fingerprint, target, replace);
            let case = || format!("{target:?}: {}", describe(entries));
            assert_eq!(next(entries), next(&abandoned), "nothing to abandon: {}", case());
        }
    }
}

/// A request that is asked for in some state, and what comes next.
struct Asked<'a> {
    entries: &'a [Entry],
    name: Name,
    own: &'a Ledger,
    other: &'a Ledger,
    target: &'a TargetState,
    replace: bool,
    action: Action,
}

impl Asked<'_> {
    fn describe(&self) -> String {
        let Self { name, target, replace, action, .. } = self;
        let sequence = describe(self.entries);
        format!("{name:?} asked, {target:?}, replace {replace}: {sequence}{action:?}")
    }

    fn place(&self, is_own: impl Fn(&GenerationId) -> bool) -> Place {
        match self.target {
            TargetState::Absent => Place::Absent,
            TargetState::Empty => Place::Empty,
            TargetState::Other => Place::Other,
            TargetState::Video(id) if is_own(id) => Place::Own,
            TargetState::Video(_) => Place::Others,
        }
    }

    /// Whose entries these are is not known, so nothing is done.
    fn check_without_intent(&self) {
        let id = self.entries.iter().rev().find_map(Entry::id).cloned();
        let expected = Action::Block(Blocker::NoIntent { id });
        assert_eq!(self.action, expected, "entries without an intent: {}", self.describe());
    }

    /// Checks the action, and returns the row of the table that it follows.
    fn check(&self) -> usize {
        let Self { entries, own, other, target, replace, action, .. } = self;
        let case = || self.describe();
        assert!(invariant_1(own, action), "invariant 1 (one create): {}", case());
        assert!(invariant_2(own, action), "invariant 2 (ids): {}", case());
        assert!(invariant_3(own, target, *replace, action), "invariant 3 (files): {}", case());
        assert!(abandoning_is_a_way_on(entries, action), "abandoning is a way on: {}", case());
        let decides = own.decides();
        let place = self.place(|id| decides.is_some_and(|create| create.id.as_ref() == Some(id)));
        let fate = decides.map(|create| create.fate);
        let row = row(fate, other.is_unfinished(), place, *replace);
        assert_eq!(next_of(action), TABLE[row].4, "row {row}: {}", case());
        assert!(details_match(own, other, target, action), "details: {}", case());
        row
    }
}

/// Computes what comes next for both requests and all targets, and checks it.
fn check(entries: &[Entry], cases: &Cases, seen: &mut Seen) {
    seen.sequences += 1;
    let owners = owners(entries);
    let ledgers = Name::BOTH.map(|name| Ledger::new(entries, &owners, name));
    let newest = Name::BOTH.map(|name| newest_kind(entries, &owners, name));
    let orphans = orphans(entries, &owners);
    let is_known = |id| entries.iter().any(|entry| entry.id() == Some(id));
    // The longest sequences are the most by far. What would only repeat a shorter one is left out.
    let longest = entries.len() == MAX_LEN;
    for (target, replace) in cases.targets.iter().flat_map(|t| [(t, false), (t, true)]) {
        match target {
            // A second video only of a request that has one.
            TargetState::Video(id) if id_number(id) == 2 && !is_known(id) => continue,
            TargetState::Video(_) => {}
            _ if longest && replace => continue,
            _ => {}
        }
        for name in Name::BOTH {
            if longest && !owners.contains(&Some(name)) {
                continue;
            }
            let (own, other) = (&ledgers[name as usize], &ledgers[name.other() as usize]);
            let action = next_action(entries, &cases.fingerprints[name as usize], target, replace);
            let asked = Asked { entries, name, own, other, target, replace, action };
            match orphans {
                true => asked.check_without_intent(),
                false => seen.rows[asked.check()] = true,
            }
            seen.pair([newest[name as usize], newest[name.other() as usize]], &asked);
        }
    }
}

/// Whether an action of the right kind is about the right thing.
fn details_match(own: &Ledger, other: &Ledger, target: &TargetState, action: &Action) -> bool {
    let video = match target {
        TargetState::Video(id) => Some(id),
        _ => None,
    };
    let decides = own.decides();
    let id = decides.and_then(|create| create.id.as_ref());
    match action {
        Action::Reuse { id: reused, length: l } | Action::RecordSaved { id: reused, length: l } => {
            id == Some(reused) && *l == length(reused)
        }
        Action::Fetch { id: fetched, replaces } => {
            id == Some(fetched) && (replaces.is_none() || replaces.as_ref() == video)
        }
        Action::Recover { client_request_id, id: recovered, .. } => {
            id == recovered.as_ref()
                && decides.is_some_and(|c| c.client_request_id.as_ref() == Some(client_request_id))
        }
        Action::Create { rejected, replaces } => {
            // Each is asked about once, with what its judgement needs.
            let mut asked: Vec<_> = rejected.iter().map(|rejected| &rejected.id).collect();
            let mut suspects: Vec<_> = own.suspects.iter().collect();
            asked.sort();
            asked.dedup();
            suspects.sort();
            suspects.dedup();
            asked == suspects
                && rejected.iter().all(|r| r.marked == (id_number(&r.id) == 1) && r.time > 0)
                && (replaces.is_none() || replaces.as_ref() == video)
        }
        Action::Block(Blocker::Ended { id: ended, reason }) => {
            id == Some(ended) && reason == "the API says so"
        }
        Action::Block(Blocker::OtherUnfinished { id, client_request_id }) => {
            let other = other.decides();
            id.as_ref() == other.and_then(|create| create.id.as_ref())
                && (other.is_some_and(|create| create.fate != Fate::Sent)
                    || client_request_id.as_ref()
                        == other.and_then(|create| create.client_request_id.as_ref()))
        }
        Action::Block(Blocker::OtherVideo { video: theirs, own }) => {
            Some(theirs) == video && own.as_ref() == id
        }
        Action::Block(Blocker::UnknownFile { own } | Blocker::NoIntent { id: own }) => {
            own.as_ref() == id
        }
    }
}

#[test]
fn next_action_keeps_the_invariants_and_follows_the_table() {
    let started = Instant::now();
    let cases = Cases::new();
    let mut seen = Seen::new();
    for_each_sequence(MAX_LEN, MAX_LEN_WITHOUT_INTENT, &mut |entries| {
        // Of two intents in a row, the first is of no consequence, as the shorter ones show.
        let is_intent = |entry: &Entry| matches!(entry, Entry::Intent { .. });
        if entries.len() < MAX_LEN || !entries.windows(2).any(|pair| pair.iter().all(is_intent)) {
            check(entries, &cases, &mut seen);
        }
        check_is_open(entries, &cases);
    });
    assert!(seen.rows.iter().all(|&seen| seen), "a row is never reached: {:?}", seen.rows);
    eprintln!("{}, {:?}", seen.summary(), started.elapsed());
}
