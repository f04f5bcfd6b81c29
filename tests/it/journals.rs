//! Durable runs on a journal of the caller's: what it is asked for, and what happens when it fails.

use std::fmt;

use kling_video::sandbox::{Endpoint, Fault, Sandbox};
use kling_video::{
    BoxError, Client, Error, ErrorKind, FileJournal, Journal, JournalEntry, Operation, RetryPolicy,
};

use crate::helpers::clients::{create_counts, request, sandbox, test_client};
use crate::helpers::files::TestDir;

/// Entries as a database would keep them: serialized, under a unique position.
#[derive(Default)]
struct Table {
    rows: Vec<String>,
    /// The step at which appending fails.
    broken_at: Option<&'static str>,
    /// Appends the entry that fails all the same, as a commit whose response is lost.
    is_commit_lost: bool,
    is_unreadable: bool,
}

#[derive(Debug)]
struct DatabaseIsDown;

impl fmt::Display for DatabaseIsDown {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the database is down")
    }
}

impl std::error::Error for DatabaseIsDown {}

impl Journal for Table {
    fn entries(&mut self) -> Result<Vec<JournalEntry>, BoxError> {
        if self.is_unreadable {
            return Err(DatabaseIsDown.into());
        }
        Ok(self.rows.iter().map(|row| serde_json::from_str(row)).collect::<Result<_, _>>()?)
    }

    fn append(&mut self, position: u64, entry: &JournalEntry) -> Result<(), BoxError> {
        let is_broken = self.broken_at == Some(entry.step());
        if is_broken && !self.is_commit_lost {
            return Err(DatabaseIsDown.into());
        }
        if position != self.rows.len() as u64 {
            return Err("position taken".into());
        }
        self.rows.push(serde_json::to_string(entry)?);
        if is_broken { Err(DatabaseIsDown.into()) } else { Ok(()) }
    }
}

impl Table {
    fn broken_at(step: &'static str, is_commit_lost: bool) -> Self {
        Self { broken_at: Some(step), is_commit_lost, ..Self::default() }
    }

    fn repair(&mut self) {
        (self.broken_at, self.is_commit_lost, self.is_unreadable) = (None, false, false);
    }

    fn steps(&mut self) -> Vec<&'static str> {
        self.entries().unwrap().iter().map(JournalEntry::step).collect()
    }
}

fn no_retry_client(sandbox: &Sandbox) -> Client {
    sandbox.client_builder().retry_policy(RetryPolicy::none()).build().unwrap()
}

#[test]
fn recorded_run_ends_with_completed_and_retrieves_a_fresh_url_when_repeated() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let mut table = Table::default();
    let first = client.generate_recorded(&request(), &mut table).unwrap();
    assert_eq!(table.steps(), ["intent", "sending", "created", "completed"]);
    let polls = sandbox.request_count(Endpoint::Retrieve);
    let again = client.generate_recorded(&request(), &mut table).unwrap();
    assert_eq!(again.id, first.id);
    assert_eq!(table.steps().len(), 4);
    assert_eq!(sandbox.request_count(Endpoint::Retrieve), polls + 1);
    assert_eq!(create_counts(&sandbox), (1, 1));
}

fn assert_database_is_down(error: &Error, id: Option<&str>, case: &str) {
    assert_eq!(error.kind(), ErrorKind::Journal, "{case}: {error:?}");
    assert_eq!(error.operation(), Operation::GenerateRecorded, "{case}");
    let source = std::error::Error::source(error).unwrap();
    assert!(source.is::<DatabaseIsDown>(), "{case}");
    assert_eq!(error.generation_id().map(|id| id.as_str()), id, "{case}");
}

#[test]
fn journal_that_fails_at_any_entry_costs_no_second_create() {
    // What the API does first, how many creates it accepted when the call ends, and whether the call
    // succeeds.
    let none: fn(&Sandbox) = |_| {};
    let rejected: fn(&Sandbox) = |sandbox| {
        sandbox.fault(Endpoint::Create, Fault::response(400, "{}"), 1);
    };
    let failed: fn(&Sandbox) = |sandbox| sandbox.set_failure("Error", "no");
    for (step, prepare, accepted, succeeds) in [
        ("intent", none, 0, false),
        ("sending", none, 0, false),
        ("rejected", rejected, 0, false),
        ("created", none, 1, true),
        ("completed", none, 1, true),
        ("failed", failed, 1, false),
    ] {
        for is_commit_lost in [false, true] {
            let case = format!("{step}, commit lost: {is_commit_lost}");
            let sandbox = sandbox();
            prepare(&sandbox);
            let client = no_retry_client(&sandbox);
            let mut table = Table::broken_at(step, is_commit_lost);
            let result = client.generate_recorded(&request(), &mut table);
            assert_eq!(result.is_ok(), succeeds, "{case}: {result:?}");
            assert_eq!(sandbox.generations().len(), accepted, "{case}");
            if let Err(error) = result {
                let id = sandbox.generations().first().map(|g| g.id.clone());
                assert_database_is_down(&error, id.as_deref(), &case);
            }
            // The next run pays only if the last one did not, or if it failed.
            table.repair();
            sandbox.set_log_delay(std::time::Duration::ZERO);
            let result = client.generate_recorded(&request(), &mut table);
            let paid = sandbox.generations().len();
            match step {
                "failed" => assert!((1..=2).contains(&paid), "{case}"),
                // By the record, they may have been accepted: never paid for again.
                "sending" if is_commit_lost => assert_eq!(paid, 0, "{case}"),
                "rejected" if !is_commit_lost => assert_eq!(paid, 0, "{case}"),
                _ => assert_eq!(paid, 1, "{case}: {result:?}"),
            }
            if paid == 0 {
                assert_eq!(result.unwrap_err().kind(), ErrorKind::CreateUnknown, "{case}");
                table.abandon().unwrap();
                client.generate_recorded(&request(), &mut table).unwrap();
                assert_eq!(sandbox.generations().len(), 1, "{case}");
            }
        }
    }
}

#[test]
fn id_that_could_not_be_recorded_is_in_the_error_of_the_wait() {
    let sandbox = sandbox();
    sandbox.fault(
        Endpoint::Retrieve,
        Fault::response(401, r#"{"statusCode":401,"requestId":"r"}"#),
        99,
    );
    let mut table = Table::broken_at("created", false);
    let error = no_retry_client(&sandbox).generate_recorded(&request(), &mut table).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal, "{error:?}");
    assert_eq!(error.generation_id().unwrap().as_str(), sandbox.generations()[0].id);
    assert!(error.may_have_been_billed());
}

/// For example a journal behind another service, whose errors are this crate's.
#[test]
fn journal_error_that_looks_like_an_unknown_create_is_not_taken_for_one() {
    struct Foreign(Table, Option<Error>);

    impl Journal for Foreign {
        fn entries(&mut self) -> Result<Vec<JournalEntry>, BoxError> {
            self.0.entries()
        }

        fn append(&mut self, position: u64, entry: &JournalEntry) -> Result<(), BoxError> {
            match self.1.take_if(|_| entry.step() == "sending") {
                Some(error) => Err(error.into()),
                None => self.0.append(position, entry),
            }
        }
    }

    let sandbox = sandbox();
    let lost = Fault::gateway(504).after_accepting().with_inference_id();
    sandbox.fault(Endpoint::Create, lost, 1);
    let error = no_retry_client(&sandbox).create(&request()).unwrap_err();
    assert!(error.kind() == ErrorKind::CreateUnknown && error.generation_id().is_some());
    let client = sandbox.client_builder().max_generations(1).build().unwrap();
    let mut journal = Foreign(Table::default(), Some(error));
    client.generate_recorded(&request(), &mut journal).unwrap_err();
    assert_eq!(journal.0.steps(), ["intent"]);
    client.generate_recorded(&request(), &mut journal).unwrap();
    assert_eq!(sandbox.generations().len(), 2);
}

#[test]
fn unreadable_journal_sends_nothing() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let mut table = Table { is_unreadable: true, ..Table::default() };
    let error = client.generate_recorded(&request(), &mut table).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert_eq!(error.to_string(), "the journal: failed to read");
    // An entry of a later version is as unreadable.
    table.repair();
    table.rows.push(r#"{"step":"refunded","id":"a"}"#.to_owned());
    let error = client.generate_recorded(&request(), &mut table).unwrap_err();
    let source = std::error::Error::source(&error).unwrap().to_string();
    assert_eq!(source, "journal entry written by another version of kling-video");
    assert_eq!(create_counts(&sandbox), (0, 0));
}

#[test]
fn second_of_two_workers_that_read_an_empty_journal_creates_nothing() {
    /// Reads a snapshot of the table, and appends to the table itself.
    struct Stale<'a>(&'a mut Table);

    impl Journal for Stale<'_> {
        fn entries(&mut self) -> Result<Vec<JournalEntry>, BoxError> {
            Ok(Vec::new())
        }

        fn append(&mut self, position: u64, entry: &JournalEntry) -> Result<(), BoxError> {
            self.0.append(position, entry)
        }

        fn name(&self) -> String {
            "job 7".to_owned()
        }
    }

    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let mut table = Table::default();
    client.generate_recorded(&request(), &mut table).unwrap();
    let error = client.generate_recorded(&request(), &mut Stale(&mut table)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Journal);
    assert_eq!(error.to_string(), "job 7: failed to write");
    assert_eq!(create_counts(&sandbox), (1, 1));
}

#[test]
fn unknown_create_names_the_way_on_and_can_be_abandoned() {
    let sandbox = sandbox();
    let client = no_retry_client(&sandbox);
    let mut table = Table::default();
    sandbox.fault(Endpoint::Create, Fault::close_connection(), 1);
    let error = client.generate_recorded(&request(), &mut table).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::CreateUnknown);
    let error = client.generate_recorded(&request(), &mut table).unwrap_err();
    let message = error.to_string();
    assert!(message.contains("call generate_recorded again later"), "{message}");
    assert!(message.contains("abandon it with Journal::abandon"), "{message}");
    let other = request().prompt("the dog barks");
    let message = client.generate_recorded(&other, &mut table).unwrap_err().to_string();
    assert!(message.contains("abandon it with Journal::abandon"), "{message}");
    table.abandon().unwrap();
    table.abandon().unwrap();
    assert_eq!(table.steps(), ["intent", "sending", "abandoned"]);
    client.generate_recorded(&request(), &mut table).unwrap();
    assert_eq!(sandbox.generations().len(), 1);
}

#[test]
fn file_journal_serves_recorded_runs_and_their_file_alike() {
    let sandbox = sandbox();
    let client = test_client(&sandbox);
    let dir = TestDir::new();
    let saved = client.generate_to(&request(), &dir.target).unwrap();
    assert_eq!(saved.usage.and_then(|usage| usage.usd_spent), Some(0.06));
    let mut journal = FileJournal::for_target(&dir.target).unwrap();
    let video = client.generate_recorded(&request(), &mut journal).unwrap();
    assert_eq!(video.id, saved.id);
    let steps: Vec<_> = journal.entries().unwrap().iter().map(JournalEntry::step).collect();
    assert_eq!(steps.last(), Some(&"saved"));
    let intent = journal.entries().unwrap().remove(0);
    let error = journal.append(1, &intent).unwrap_err();
    assert!(error.to_string().contains("another writer"), "{error}");
    drop(journal);
    let again = client.generate_to(&request(), &dir.target).unwrap();
    assert!(again.reused);
    assert_eq!(again.usage, saved.usage);
    assert_eq!(create_counts(&sandbox), (1, 1));
}
