//! Long texts as they come: the bodies of answers, and lines.

use crate::component::weaviate::answer::Fault;
use crate::component::weaviate::field_filter::FieldFilter;
use reqwest::StatusCode;
use std::io;

/// Appends to a buffer that may become as long as `longest`. A long one gets all its room at once: to double it again and
/// again leaves as much memory behind as it has, and room that is not written to is none.
pub(super) fn append(buffer: &mut Vec<u8>, bytes: &[u8], longest: usize) {
    const LONG: usize = 8 << 20;
    if buffer.len() > LONG && buffer.capacity() - buffer.len() < bytes.len() {
        buffer.reserve_exact(bytes.len().max(longest.saturating_sub(buffer.len())));
    }
    buffer.extend_from_slice(bytes);
}

/// The part of an answer that is read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    /// An answer with more bytes is an error.
    pub(super) longest: usize,
    /// The fields that are kept of the objects of a list, in an answer of success; everything if `None`.
    pub(super) fields: Option<&'static [&'static str]>,
}

impl Expected {
    /// A whole text.
    pub(super) const fn text(longest: usize) -> Self {
        Self { longest, fields: None }
    }

    /// The body of an answer with this status, of which nothing has come yet.
    pub(super) fn body_of(self, status: StatusCode) -> AnswerBody {
        let fields = self.fields.filter(|_| status.is_success());
        AnswerBody {
            longest: self.longest,
            length: 0,
            text: Vec::new(),
            filter: fields.map(FieldFilter::of_list),
        }
    }
}

/// The body of an answer while it comes.
#[derive(Debug)]
pub(super) struct AnswerBody {
    longest: usize,
    length: usize,
    text: Vec<u8>,
    filter: Option<FieldFilter>,
}

impl AnswerBody {
    /// Takes the next bytes.
    ///
    /// # Errors
    ///
    /// When the body is longer than what is expected.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<(), Fault> {
        self.length += bytes.len();
        if self.length > self.longest {
            return Err(Fault::Unavailable(io::Error::from(io::ErrorKind::FileTooLarge).into()));
        }
        match &mut self.filter {
            Some(filter) => filter.take(bytes),
            None => append(&mut self.text, bytes, self.longest),
        }
        Ok(())
    }

    /// The text that was kept.
    pub(super) fn into_text(self) -> Vec<u8> {
        self.filter.map_or(self.text, FieldFilter::into_kept)
    }
}
