//! The id of a task (SEP-2663) for its client: sealed, so that any replica finds the server that has the task, and no other
//! caller can use it.

use thiserror::Error;

use super::layout::{ByteReader, put_text};
use super::{Purpose, SealError, Sealer};
use crate::auth::SubjectId;

/// A task of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TaskId {
    /// The server that has it, as the text of its `ServerKey`.
    pub(crate) server: String,
    /// The caller whose call began it.
    pub(crate) subject: SubjectId,
    /// The server's own name of the tool that was called.
    pub(crate) tool: String,
    /// The server's own id of it.
    pub(crate) id: String,
}

/// The reason an id is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub(crate) enum TaskIdError {
    /// The text does not open.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The text opens, but has another layout than this version's.
    #[error("this task was begun through another version of the gateway: call the tool again")]
    Layout,
    /// Another caller's.
    #[error("this task belongs to another caller: call the tool yourself")]
    OtherSubject,
}

/// The server's own id exceeds the limit for the returned text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("the server's taskId is longer than 2 KiB, the most that the gateway forwards")]
pub(crate) struct TaskIdTooLong;

impl TaskId {
    /// The text for the client: letters, digits, `-` and `_`. Clients repeat it in a header.
    ///
    /// # Errors
    /// The text exceeds the limit for the returned text.
    pub(crate) fn seal(&self, sealer: &Sealer) -> Result<String, TaskIdTooLong> {
        let tool = u16::try_from(self.tool.len()).map_err(|_| TaskIdTooLong)?;
        if self.server.len() > usize::from(u8::MAX) {
            return Err(TaskIdTooLong);
        }
        let mut bytes = Vec::with_capacity(128);
        put_text(&mut bytes, &self.server);
        bytes.extend_from_slice(&self.subject.0);
        bytes.extend_from_slice(&tool.to_be_bytes());
        bytes.extend_from_slice(self.tool.as_bytes());
        bytes.extend_from_slice(self.id.as_bytes());
        let text = sealer.seal(Purpose::Task, &bytes);
        if text.len() > Purpose::Task.max_text() { Err(TaskIdTooLong) } else { Ok(text) }
    }

    /// Opens a text, if its task belongs to `subject`.
    ///
    /// # Errors
    /// The reason it is refused.
    pub(crate) fn open(sealer: &Sealer, text: &str, subject: &SubjectId) -> Result<Self, TaskIdError> {
        let bytes = sealer.open(Purpose::Task, text)?;
        let task = Self::read(&bytes).ok_or(TaskIdError::Layout)?;
        if task.subject == *subject { Ok(task) } else { Err(TaskIdError::OtherSubject) }
    }

    fn read(bytes: &[u8]) -> Option<Self> {
        let mut rest = ByteReader::new(bytes);
        let server = rest.text()?.to_owned();
        let subject = SubjectId(rest.array()?);
        let length = usize::from(rest.array().map(u16::from_be_bytes)?);
        let (tool, id) = rest.rest().split_at_checked(length)?;
        let text = |bytes: &[u8]| str::from_utf8(bytes).ok().map(str::to_owned);
        Some(Self { server, subject, tool: text(tool)?, id: text(id)? })
    }
}
