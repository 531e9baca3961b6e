//! What a log hands out, as it is on the wire.

use crate::position::Lsn;

/// capture → decode: a message as it arrived, nothing interpreted.
#[derive(Clone, Copy, Debug)]
pub struct RawRecord<'a> {
    /// Where the message stands in the source's log.
    pub start: Lsn,
    /// The end of the source's log when it was sent.
    pub end: Lsn,
    /// When it was sent, microseconds since 2000-01-01 UTC by the source's clock.
    pub sent_at: i64,
    /// The message.
    pub bytes: &'a [u8],
}

/// capture → decode: a record of a topic as it arrived, nothing interpreted.
#[derive(Clone, Copy)]
pub struct TopicRecord<'a> {
    /// The topic.
    pub topic: &'a str,
    /// Its partition.
    pub partition: i32,
    /// The record's place there.
    pub offset: i64,
    /// When it was written, milliseconds since 1970-01-01 UTC.
    pub timestamp: i64,
    /// Its key.
    pub key: Option<&'a [u8]>,
    /// Its value; none for a tombstone.
    pub value: Option<&'a [u8]>,
    /// Its headers.
    pub headers: &'a [(&'a str, Option<&'a [u8]>)],
}

impl<'a> TopicRecord<'a> {
    /// The last header of a name.
    pub fn header(&self, name: &str) -> Option<&'a [u8]> {
        self.headers.iter().rev().find(|(known, _)| *known == name)?.1
    }
}
