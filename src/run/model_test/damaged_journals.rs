//! Damaged journals: torn, missing, repeated and unknown lines never permit more than whole ones.

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::{Seek, SeekFrom, Write as _};
    use std::path::{Path, PathBuf};

    use super::super::super::file_journal::FileJournal;
    use super::super::super::journal::Journal as _;
    use super::super::*;
    use crate::error::{ErrorKind, Result};

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
}
