//! The model test of durable runs: every short record of two requests, crossed with the states of
//! the target, against invariants and a table that do not follow the code's structure.
//!
//! A is the request of the first intent, B the other one; each is asked for. Generations are named
//! after their request: `a1`, `a2`, `b1`, `b2`. The second one of a request appears only after the
//! first, and so do client request ids, since their names do not matter.
//!
//! Three tests: what comes next after every record; what a damaged file is read as; and what the
//! responses of `retrieve` prove. Each prints how much it has checked.

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, SeekFrom, Write as _};
    use std::path::{Path, PathBuf};
    use std::time::Instant;

    use crate::endpoint::retrieve;
    use crate::error::{Error, ErrorKind, Result};
    use crate::model::generation::{Generation, GenerationId};
    use crate::model::response::{Headers, Response};
    use crate::operation::Operation;

    use super::super::file_journal::FileJournal;
    use super::super::fingerprint::RequestFingerprint as Fingerprint;
    use super::super::journal::{Journal as _, JournalEntry as Entry};
    use super::super::next::{Action, Blocker, TargetState, next_action};
    use super::super::proof::{Logged, Rejection, judge_logged_failure, judge_rejection};

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
        /// An outcome without a `sending`, or a step back: a record that no run writes.
        in_disorder: bool,
    }

    impl Ledger {
        /// An outcome belongs to the `sending` right before it. Anything else is about its id only.
        fn new(entries: &[Entry], owners: &[Option<Name>], request: Name) -> Self {
            let mut ledger = Self::default();
            let mut awaiting_response: Option<usize> = None;
            // How many of the suspects precede the request's last intent.
            let mut suspects_at_intent = 0;
            for (position, (entry, owner)) in entries.iter().zip(owners).enumerate() {
                if let Entry::Abandoned { .. } = entry {
                    for create in &mut ledger.creates {
                        if create.fate != Fate::Saved {
                            create.fate = Fate::Over;
                        }
                    }
                    ledger.suspects.clear();
                    suspects_at_intent = 0;
                    awaiting_response = None;
                }
                if *owner != Some(request) {
                    continue;
                }
                let fate = match entry {
                    Entry::Intent { .. } => {
                        suspects_at_intent = ledger.suspects.len();
                        continue;
                    }
                    Entry::Abandoned { .. } => continue,
                    Entry::Sending { client_request_id, id, .. } => {
                        if id.is_none() {
                            // A create follows the questions: each suspect was found to be none.
                            ledger.suspects.drain(..suspects_at_intent);
                            suspects_at_intent = 0;
                        }
                        let create = ledger.send(client_request_id, id.as_ref());
                        ledger.creates[create].position = position;
                        // Only the response names one.
                        ledger.in_disorder |= id.is_some() && awaiting_response != Some(create);
                        awaiting_response = Some(create);
                        continue;
                    }
                    Entry::Rejected { id, .. } => {
                        ledger.in_disorder |= awaiting_response.is_none();
                        if let Some(create) = awaiting_response.take()
                            && ledger.creates[create].id.is_none()
                        {
                            ledger.creates[create].fate = Fate::Over;
                        }
                        ledger.suspects.extend(id.clone());
                        continue;
                    }
                    Entry::Created { .. } => Fate::Created,
                    Entry::Completed { .. } => Fate::Completed,
                    Entry::Publishing { .. } => Fate::Publishing,
                    Entry::Saved { .. } => Fate::Saved,
                    Entry::Failed { .. } => Fate::Over,
                    Entry::Ended { .. } => Fate::Ended,
                };
                let sent = awaiting_response.take();
                let create = ledger.named(entry.id().unwrap(), sent);
                let goes_back = match create.fate {
                    Fate::Ended | Fate::Over => true,
                    Fate::Saved => matches!(fate, Fate::Created | Fate::Completed),
                    _ => false,
                };
                create.fate = fate;
                create.position = position;
                ledger.in_disorder |= goes_back;
            }
            ledger.suspects.retain(|suspect| {
                !ledger.creates.iter().any(|create| create.id.as_ref() == Some(suspect))
            });
            ledger
        }

        /// Notes that a create was sent, or that its unusable response named `id`.
        fn send(&mut self, client_request_id: &str, id: Option<&GenerationId>) -> usize {
            let known =
                self.creates.iter().position(|create| id.is_some() && create.id.as_ref() == id);
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

        fn named(&mut self, id: &GenerationId, sent: Option<usize>) -> &mut Create {
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

    /// The id that an action carries.
    fn carried_id(action: &Action) -> Option<&GenerationId> {
        match action {
            Action::Reuse { id, .. }
            | Action::RecordSaved { id, .. }
            | Action::Fetch { id, .. } => Some(id),
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

        fn pair(&mut self, newest: [Kind; 2], place: Place, replace: bool, action: &Action) {
            let detail = match action {
                Action::Create { rejected, .. } => !rejected.is_empty(),
                action => carried_id(action).is_some(),
            };
            let mut index = newest[0] as usize * KINDS + newest[1] as usize;
            index = (index * PLACES + place as usize) * 2 + usize::from(replace);
            index = (index * NEXTS + next_of(action) as usize) * 2 + usize::from(detail);
            self.pairs[index] = true;
            self.actions += 1;
        }

        fn summary(&self) -> String {
            let pairs = self.pairs.iter().filter(|&&seen| seen).count();
            let Self { sequences, actions, .. } = self;
            format!(
                "{sequences} sequences, {actions} actions, {pairs} distinct (state, action) pairs"
            )
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

    /// Computes what comes next for both requests and all targets, and checks it.
    fn check(entries: &[Entry], cases: &Cases, seen: &mut Seen) {
        seen.sequences += 1;
        let owners = owners(entries);
        let ledgers = Name::BOTH.map(|name| Ledger::new(entries, &owners, name));
        let newest = Name::BOTH.map(|name| newest_kind(entries, &owners, name));
        let orphans = orphans(entries, &owners);
        // The longest sequences are the most by far. What would only repeat a shorter one is left
        // out.
        let longest = entries.len() == MAX_LEN;
        for target in &cases.targets {
            // A second video only of a request that has one.
            if let TargetState::Video(id) = target
                && id_number(id) == 2
                && !entries.iter().any(|entry| entry.id() == Some(id))
            {
                continue;
            }
            for replace in [false, true] {
                if longest && replace && !matches!(target, TargetState::Video(_)) {
                    continue;
                }
                for name in Name::BOTH {
                    if longest && !owners.contains(&Some(name)) {
                        continue;
                    }
                    let (own, other) = (&ledgers[name as usize], &ledgers[name.other() as usize]);
                    let action =
                        next_action(entries, &cases.fingerprints[name as usize], target, replace);
                    let case = || {
                        let sequence = describe(entries);
                        format!(
                            "{name:?} asked, {target:?}, replace {replace}: {sequence}{action:?}"
                        )
                    };
                    let place = match target {
                        TargetState::Absent => Place::Absent,
                        TargetState::Empty => Place::Empty,
                        TargetState::Other => Place::Other,
                        TargetState::Video(id)
                            if own.decides().is_some_and(|c| c.id.as_ref() == Some(id)) =>
                        {
                            Place::Own
                        }
                        TargetState::Video(_) => Place::Others,
                    };
                    if orphans {
                        // Whose entries these are is not known, so nothing is done.
                        let own = entries.iter().rev().find_map(Entry::id).cloned();
                        let expected = Action::Block(Blocker::NoIntent { id: own });
                        assert_eq!(action, expected, "entries without an intent: {}", case());
                    } else {
                        assert!(invariant_1(own, &action), "invariant 1 (one create): {}", case());
                        assert!(invariant_2(own, &action), "invariant 2 (ids): {}", case());
                        assert!(
                            invariant_3(own, target, replace, &action),
                            "invariant 3 (files): {}",
                            case()
                        );
                        assert!(
                            abandoning_is_a_way_on(entries, &action),
                            "abandoning is a way on: {}",
                            case()
                        );
                        let row = row(
                            own.decides().map(|c| c.fate),
                            other.is_unfinished(),
                            place,
                            replace,
                        );
                        seen.rows[row] = true;
                        assert_eq!(next_of(&action), TABLE[row].4, "row {row}: {}", case());
                        assert!(details_match(own, other, target, &action), "details: {}", case());
                    }
                    let place = match target {
                        TargetState::Video(id) if id.as_str().starts_with(name.prefix()) => {
                            Place::Own
                        }
                        TargetState::Video(_) => Place::Others,
                        _ => place,
                    };
                    let newest = [newest[name as usize], newest[name.other() as usize]];
                    seen.pair(newest, place, replace, &action);
                }
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
            Action::Reuse { id: reused, length: l }
            | Action::RecordSaved { id: reused, length: l } => {
                id == Some(reused) && *l == length(reused)
            }
            Action::Fetch { id: fetched, replaces } => {
                id == Some(fetched) && (replaces.is_none() || replaces.as_ref() == video)
            }
            Action::Recover { client_request_id, id: recovered, .. } => {
                id == recovered.as_ref()
                    && decides
                        .is_some_and(|c| c.client_request_id.as_ref() == Some(client_request_id))
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
            if entries.len() < MAX_LEN || !entries.windows(2).any(|pair| pair.iter().all(is_intent))
            {
                check(entries, &cases, &mut seen);
            }
            check_is_open(entries, &cases);
        });
        assert!(seen.rows.iter().all(|&seen| seen), "a row is never reached: {:?}", seen.rows);
        eprintln!("{}, {:?}", seen.summary(), started.elapsed());
    }

    // ------------------------------------------------------------ damaged journals

    fn lines(entries: &[Entry]) -> Vec<Vec<u8>> {
        entries
            .iter()
            .map(|entry| [serde_json::to_vec(entry).unwrap(), b"\n".to_vec()].concat())
            .collect()
    }

    /// A journal's file, which is rewritten in place: some file systems flush a file that is
    /// truncated.
    struct Journal {
        path: PathBuf,
        file: File,
        count: usize,
    }

    impl Journal {
        fn new(dir: &Path) -> Self {
            let path = dir.join("journal");
            let file = File::create(&path).unwrap();
            Self { path, file, count: 0 }
        }

        fn parse(&mut self, text: &[u8]) -> Result<Vec<Entry>> {
            self.count += 1;
            self.file.seek(SeekFrom::Start(0)).unwrap();
            self.file.write_all(text).unwrap();
            self.file.set_len(text.len() as u64).unwrap();
            FileJournal::open(&self.path).map(|mut journal| journal.entries().unwrap())
        }
    }

    /// The ids that must be asked about before a create, if the action is one.
    fn asked(action: &Action) -> Option<Vec<&GenerationId>> {
        match action {
            Action::Create { rejected, .. } => {
                Some(rejected.iter().map(|asked| &asked.id).collect())
            }
            _ => None,
        }
    }

    /// A torn last line never permits a create that the whole line does not permit. By the commit
    /// rule a `sending` that is not durable was not sent, so that one does not count.
    fn check_torn_permits_no_more(entries: &[Entry], cases: &Cases) {
        let Some((last, before)) = entries.split_last() else { return };
        let owners = owners(entries);
        let ledgers = Name::BOTH.map(|name| Ledger::new(entries, &owners, name));
        let never_written = orphans(entries, &owners) || ledgers.iter().any(|of| of.in_disorder);
        let not_sent = matches!(last, Entry::Sending { id: None, .. });
        if never_written || not_sent {
            return;
        }
        for (target, replace) in cases.targets.iter().flat_map(|t| [(t, false), (t, true)]) {
            for (name, fingerprint) in Name::BOTH.into_iter().zip(&cases.fingerprints) {
                let whole = next_action(entries, fingerprint, target, replace);
                let torn = next_action(before, fingerprint, target, replace);
                let permits_no_more = match (asked(&torn), asked(&whole)) {
                    (None, _) => true,
                    (Some(torn), Some(whole)) => whole.iter().all(|id| torn.contains(id)),
                    // An id is adopted: its request asks about it and adopts it again. To the other
                    // one it is rejected until then, as one that is saved is finished until it is
                    // fetched again.
                    (Some(torn), None) => last.id().is_some_and(|id| {
                        let other = Ledger::new(before, &owners, name.other());
                        let is_saved = |create: &Create| create.fate == Fate::Saved;
                        let is_its = |create: &&Create| create.id.as_ref() == Some(id);
                        torn.contains(&id)
                            || other.suspects.contains(id)
                            || other.creates.iter().find(is_its).is_some_and(is_saved)
                    }),
                };
                let case = || {
                    let sequence = describe(entries);
                    format!("{name:?} asked, {target:?}: {sequence}{whole:?}, {torn:?}")
                };
                assert!(permits_no_more, "torn permits no more: {}", case());
            }
        }
    }

    /// A torn last line counts only if it is whole and of a kind that allows nothing. Whatever is
    /// there of any other is as if it had not been written.
    fn check_torn_line(entries: &[Entry], journal: &mut Journal) {
        let Some((last, before)) = entries.split_last() else { return };
        let counts =
            matches!(kind(last), Kind::Created | Kind::Completed | Kind::Publishing | Kind::Saved);
        let text = lines(entries).concat();
        let (start, whole) = (lines(before).concat().len(), text.len() - 1);
        let cuts: Vec<_> = match entries.len() {
            // Lines are read one by one, so in longer records only where they end matters.
            3.. => vec![start, start + 1, whole - 1, whole],
            // A journal that is new has no bytes.
            _ => (start.max(1)..=whole).collect(),
        };
        for cut in cuts {
            let expected = if cut == whole && counts { entries } else { before };
            let parsed = journal.parse(&text[..cut]).unwrap();
            assert_eq!(parsed, expected, "torn line counts: {cut} bytes of {}", describe(entries));
        }
    }

    /// With a line missing or repeated, what is left is a record of its own. (Those of longer
    /// records are among the sequences of the other test.)
    fn check_missing_and_repeated_line(
        entries: &[Entry],
        journal: &mut Journal,
        cases: &Cases,
        seen: &mut Seen,
    ) {
        for damaged in 0..entries.len() {
            for copies in [0, 2] {
                let copies_of = |index| if index == damaged { copies } else { 1 };
                let record: Vec<_> = (entries.iter().cloned().enumerate())
                    .flat_map(|(index, entry)| std::iter::repeat_n(entry, copies_of(index)))
                    .collect();
                if record.is_empty() {
                    continue;
                }
                let parsed = journal.parse(&lines(&record).concat()).unwrap();
                assert_eq!(parsed, record, "round trip: {}", describe(&record));
                check(&record, cases, seen);
            }
        }
    }

    /// With a line that cannot be read, nothing is done. The error has the newest ids of the
    /// others.
    fn check_unknown_line(entries: &[Entry], journal: &mut Journal) {
        const UNKNOWN: [(&str, &str); 4] = [
            (r#"{"step":"refunded","id":"z9"}"#, "another version"),
            (r#"{"step":"intent","version":2}"#, "another version"),
            (r#"{"step":"created"}"#, "invalid entry"),
            ("# a comment", "invalid entry"),
        ];
        for position in 0..=entries.len() {
            // Each of them comes at each position.
            let (unknown, message) = UNKNOWN[(entries.len() + position) % UNKNOWN.len()];
            let mut lines = lines(entries);
            lines.insert(position, format!("{unknown}\n").into_bytes());
            let error = journal.parse(&lines.concat()).unwrap_err();
            let case = || format!("line {position} of {}: {error:?}", describe(entries));
            assert_eq!(error.kind(), ErrorKind::Journal, "unknown line: {}", case());
            assert!(error.to_string().contains(message), "unknown line: {}", case());
            assert!(error.may_have_been_billed() && !error.is_retryable(), "{}", case());
            let newest_id = entries.iter().rev().find_map(Entry::id);
            assert_eq!(error.generation_id(), newest_id, "unknown line: {}", case());
            let newest_sent = entries.iter().rev().find_map(|entry| match entry {
                Entry::Sending { client_request_id, .. } => Some(client_request_id.as_str()),
                _ => None,
            });
            assert_eq!(error.client_request_id(), newest_sent, "unknown line: {}", case());
        }
    }

    #[test]
    fn damaged_journal_permits_nothing_more() {
        let started = Instant::now();
        let dir = tempfile::tempdir().unwrap();
        let mut journal = Journal::new(dir.path());
        let cases = Cases::new();
        let mut seen = Seen::new();
        for_each_sequence(MAX_LEN - 1, 2, &mut |entries| {
            check_torn_permits_no_more(entries, &cases);
            if entries.len() < MAX_LEN - 1 {
                check_torn_line(entries, &mut journal);
                check_missing_and_repeated_line(entries, &mut journal, &cases, &mut seen);
                check_unknown_line(entries, &mut journal);
            }
        });
        eprintln!("{} damaged files, {}, {:?}", journal.count, seen.summary(), started.elapsed());
    }

    // ------------------------------------------------------------ proof

    /// The responses of `retrieve` to a question about an id.
    #[derive(Clone, Copy, Debug)]
    enum Retrieved {
        /// 200 with this status word.
        Status(&'static str),
        /// An error response, with or without the vendor's marks.
        Api {
            status: u16,
            marked: bool,
        },
        /// A response about another id, or one that cannot be read.
        Unreadable,
        ConnectionLost,
        Timeout,
        Connect,
        Cancelled,
    }

    /// The words of `wire.md`, and some that it does not list.
    const WORDS: [&str; 22] = [
        "queued",
        "generating",
        "completed",
        "error",
        "waiting",
        "active",
        "succeeded",
        "failed",
        "unknown",
        "succeed",
        "success",
        "SUCCESS",
        "COMPLETED",
        "canceled",
        "cancelled",
        "expired",
        "Failed",
        "ERROR",
        "Queued",
        "moderated",
        "not found",
        "",
    ];

    const STATUSES: [u16; 24] = [
        300, 302, 304, 400, 401, 402, 403, 404, 405, 408, 409, 410, 422, 423, 425, 429, 451, 499,
        500, 502, 503, 504, 524, 599,
    ];

    impl Retrieved {
        fn all() -> Vec<Self> {
            let mut all: Vec<_> = WORDS.map(Self::Status).into();
            for marked in [false, true] {
                all.extend(STATUSES.map(|status| Self::Api { status, marked }));
            }
            all.extend([
                Self::Unreadable,
                Self::ConnectionLost,
                Self::Timeout,
                Self::Connect,
                Self::Cancelled,
            ]);
            all
        }

        fn result(self) -> Result<Generation> {
            let operation = Operation::Retrieve;
            let lost = || "lost".into();
            let respond = |status, body: String| {
                let (headers, body) = (Headers::default(), body.into_bytes());
                let response = Response { operation, status, headers, body, body_result: Ok(()) };
                retrieve::parse_response(response, &Name::A.id(1))
            };
            match self {
                Self::Status(word) => respond(200, format!(r#"{{"id":"a1","status":"{word}"}}"#)),
                Self::Api { status, marked: true } => respond(
                    status,
                    format!(r#"{{"statusCode":{status},"requestId":"r","message":"no"}}"#),
                ),
                Self::Api { status, marked: false } => {
                    respond(status, r#"{"message":"no"}"#.into())
                }
                Self::Unreadable => {
                    Err(Error::decode(operation, "response has another generation id"))
                }
                Self::ConnectionLost => Err(Error::transport(operation, lost())),
                Self::Timeout => Err(Error::timeout(operation, lost())),
                Self::Connect => Err(Error::connect(operation, "api", lost())),
                Self::Cancelled => Err(Error::cancelled(operation)),
            }
        }

        /// The API itself, and not a gateway, says of this generation, and not of the key or of
        /// the rate of requests, that there is none.
        fn is_final_rejection(self) -> bool {
            matches!(self, Self::Api { status: 400 | 404 | 410 | 422, marked: true })
        }

        /// Whether it says that the generation is pending or done. `None`: a word whose spelling
        /// may or may not be read as one.
        fn is_alive(self) -> Option<bool> {
            const ALIVE: [&str; 6] =
                ["queued", "generating", "completed", "waiting", "active", "succeeded"];
            const SPELLINGS: [&str; 5] = ["succeed", "success", "SUCCESS", "COMPLETED", "Queued"];
            match self {
                Self::Status(word) if ALIVE.contains(&word) => Some(true),
                Self::Status(word) if SPELLINGS.contains(&word) => None,
                _ => Some(false),
            }
        }

        /// Whether it says that the generation failed.
        fn is_failed(self) -> Option<bool> {
            match self {
                Self::Status("error" | "failed") => Some(true),
                Self::Status("ERROR" | "Failed") => None,
                _ => Some(false),
            }
        }
    }

    #[test]
    fn rejections_and_logged_failures_stand_only_on_proof() {
        let mut cases = 0;
        for response in Retrieved::all() {
            let retrieved = response.result();
            for age in [0, 1, 30, 59, 60, 61, 3600, u64::MAX] {
                // From then on the generation would be visible.
                let is_old = age >= 60;
                for marked in [false, true] {
                    let judged = judge_rejection(&retrieved, marked, age);
                    let adopts = response.is_alive();
                    // Design: only a marked 4xx lets a rejection stand. A generation that failed is
                    // two words for one thing, since the create was rejected as well.
                    let stands = match response.is_final_rejection() {
                        true => Some(marked || is_old),
                        false => response.is_failed(),
                    };
                    let says = |verdict, expected: Option<bool>| {
                        expected.is_none_or(|expected| expected == (judged == verdict))
                    };
                    let case = format!("{response:?}, marked {marked}, {age} s: {judged:?}");
                    assert!(says(Rejection::Disproved, adopts), "adopts: {case}");
                    assert!(says(Rejection::Confirmed, stands), "rejection stands: {case}");
                    let is_nothing = adopts == Some(false) && stands == Some(false);
                    assert!(!is_nothing || judged == Rejection::Unknown, "not known: {case}");
                    cases += 1;
                }
                let failed = judge_logged_failure(&retrieved, age) == Logged::Failed;
                let proved = match response {
                    Retrieved::Api { status: 404, marked: true } => Some(is_old),
                    response => response.is_failed(),
                };
                let as_proved = proved.is_none_or(|proved| proved == failed);
                assert!(as_proved, "logged failure: {response:?}, {age} s: {failed}");
                cases += 1;
            }
        }
        eprintln!("{cases} judgements of {} responses", Retrieved::all().len());
    }
}
