//! The entries of a journal, and their form in a file: one flat JSON object per line, `step` naming
//! the kind.

use serde::{Deserialize, Serialize};

use crate::model::generation::{GenerationId, Usage};

use super::fingerprint::Fingerprint;

/// The version of the format, recorded in every `intent`.
const VERSION: u32 = 1;

/// One step of a run. Each is durable before the next thing happens.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Entry {
    /// A request is about to be carried out. Nothing was sent.
    Intent {
        request: Fingerprint,
        source: Option<String>,
        time: u64,
        replaces: Option<GenerationId>,
    },
    /// A create is about to be committed; or it was, and its unusable response named `id`.
    Sending { client_request_id: String, id: Option<GenerationId>, time: u64 },
    /// The create was rejected. `marked`: by a response with the vendor's marks. A rejection may
    /// name an id all the same.
    Rejected { status: Option<u16>, marked: bool, id: Option<GenerationId>, time: u64 },
    /// The create was accepted.
    Created { id: GenerationId },
    /// The generation has a video.
    Completed { id: GenerationId, usage: Option<Usage> },
    /// The checked video is about to be put in place.
    Publishing { id: GenerationId, length: u64, hash: String },
    /// The video is in place.
    Saved { id: GenerationId, length: u64, usage: Option<Usage> },
    /// The generation failed and is not charged.
    Failed { id: GenerationId, reason: String },
    /// The generation ended in another way, and may have been charged.
    Ended { id: GenerationId, reason: String },
    /// The caller has given up whatever the entries before may have paid for.
    Abandoned { time: u64 },
}

/// Why a line is not an entry.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum LineError {
    /// Not JSON, or a required field is missing.
    Invalid,
    /// Of a version of this crate that writes other entries.
    OtherVersion,
}

impl Entry {
    pub(crate) fn id(&self) -> Option<&GenerationId> {
        match self {
            Self::Intent { .. } | Self::Abandoned { .. } => None,
            Self::Sending { id, .. } | Self::Rejected { id, .. } => id.as_ref(),
            Self::Created { id }
            | Self::Completed { id, .. }
            | Self::Publishing { id, .. }
            | Self::Saved { id, .. }
            | Self::Failed { id, .. }
            | Self::Ended { id, .. } => Some(id),
        }
    }

    /// Whether a request whose newest entry this is may have paid for a video that it does not have.
    pub(crate) fn is_open(&self) -> bool {
        matches!(
            self,
            Self::Sending { .. }
                | Self::Rejected { id: Some(_), .. }
                | Self::Created { .. }
                | Self::Completed { .. }
                | Self::Publishing { .. }
                | Self::Ended { .. }
        )
    }

    /// Whether the entry counts even if its line lacks the newline, and so may not be durable. What
    /// allows to send, or gives something up, does not: a create is sent only once its entry is
    /// durable.
    pub(crate) fn counts_unterminated(&self) -> bool {
        match self {
            Self::Created { .. }
            | Self::Completed { .. }
            | Self::Publishing { .. }
            | Self::Saved { .. } => true,
            Self::Intent { .. }
            | Self::Sending { .. }
            | Self::Rejected { .. }
            | Self::Failed { .. }
            | Self::Ended { .. }
            | Self::Abandoned { .. } => false,
        }
    }

    /// The entry as a line, without the newline.
    pub(crate) fn to_line(&self) -> serde_json::Result<Vec<u8>> {
        let mut line = Line { id: self.id().cloned(), ..Line::default() };
        line.step = match self.clone() {
            Self::Intent { request, source, time, replaces } => {
                line = Line {
                    version: Some(VERSION),
                    base_url: Some(request.base_url),
                    route: Some(request.route),
                    model: Some(request.model),
                    fields: Some(request.fields),
                    image: request.image,
                    masks: request.masks,
                    source,
                    time: Some(time),
                    replaces,
                    ..line
                };
                "intent"
            }
            Self::Sending { client_request_id, time, .. } => {
                (line.client_request_id, line.time) = (Some(client_request_id), Some(time));
                "sending"
            }
            Self::Rejected { status, marked, time, .. } => {
                (line.status, line.marked, line.time) = (status, marked, Some(time));
                "rejected"
            }
            Self::Created { .. } => "created",
            Self::Completed { usage, .. } => {
                line.usage = usage;
                "completed"
            }
            Self::Publishing { length, hash, .. } => {
                (line.length, line.hash) = (Some(length), Some(hash));
                "publishing"
            }
            Self::Saved { length, usage, .. } => {
                (line.length, line.usage) = (Some(length), usage);
                "saved"
            }
            Self::Failed { reason, .. } => {
                line.reason = Some(reason);
                "failed"
            }
            Self::Ended { reason, .. } => {
                line.reason = Some(reason);
                "ended"
            }
            Self::Abandoned { time } => {
                line.time = Some(time);
                "abandoned"
            }
        }
        .to_owned();
        serde_json::to_vec(&line)
    }

    pub(crate) fn parse(line: &[u8]) -> Result<Self, LineError> {
        let line: Line = serde_json::from_slice(line).map_err(|_| LineError::Invalid)?;
        if line.step == "intent" && line.version != Some(VERSION) {
            return Err(LineError::OtherVersion);
        }
        line.into_entry()
    }
}

/// All fields of all entries.
#[derive(Default, Serialize, Deserialize)]
#[serde(default)]
struct Line {
    step: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    version: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<GenerationId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_request_id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    base_url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    route: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    fields: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    masks: Vec<Option<String>>,
    /// The image's path or URL, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    replaces: Option<GenerationId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    status: Option<u16>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    marked: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    length: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Usage>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    time: Option<u64>,
}

impl Line {
    fn into_entry(self) -> Result<Entry, LineError> {
        let Self { id, time, length, usage, .. } = self;
        let known_id = || id.clone().ok_or(LineError::Invalid);
        let time = || time.ok_or(LineError::Invalid);
        let required = |field: Option<String>| field.ok_or(LineError::Invalid);
        Ok(match self.step.as_str() {
            "intent" => Entry::Intent {
                request: Fingerprint {
                    base_url: required(self.base_url)?,
                    route: required(self.route)?,
                    model: required(self.model)?,
                    fields: required(self.fields)?,
                    image: self.image,
                    masks: self.masks,
                },
                source: self.source,
                time: time()?,
                replaces: self.replaces,
            },
            "sending" => {
                let client_request_id = required(self.client_request_id)?;
                Entry::Sending { client_request_id, time: time()?, id }
            }
            "rejected" => {
                Entry::Rejected { status: self.status, marked: self.marked, time: time()?, id }
            }
            "created" => Entry::Created { id: known_id()? },
            "completed" => Entry::Completed { id: known_id()?, usage },
            "publishing" => {
                let length = length.ok_or(LineError::Invalid)?;
                Entry::Publishing { id: known_id()?, length, hash: required(self.hash)? }
            }
            "saved" => {
                let length = length.ok_or(LineError::Invalid)?;
                Entry::Saved { id: known_id()?, length, usage }
            }
            "failed" => Entry::Failed { id: known_id()?, reason: self.reason.unwrap_or_default() },
            "ended" => Entry::Ended { id: known_id()?, reason: self.reason.unwrap_or_default() },
            "abandoned" => Entry::Abandoned { time: time()? },
            "" => return Err(LineError::Invalid),
            _ => return Err(LineError::OtherVersion),
        })
    }
}
