//! The replication stream: change messages in, status updates out.
//!
//! The two halves are apart on purpose. The reader may stand still while a batch is merged; the
//! writer goes on telling the source that we live, at an interval of its own, so that no merge is
//! long enough for wal_sender_timeout. It confirms only what it is told is stored.
//!
//! Source: PostgreSQL documentation, "Streaming Replication Protocol".

use std::time::Duration;

use bytes::{Buf, BufMut, BytesMut};
use postgres_protocol::message::backend::Message;
use postgres_protocol::message::frontend::CopyData;
use tokio::io::{AsyncReadExt, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};

use super::stream::Duplex;
use super::walsender::{Walsender, closed, lost, server_error};
use crate::clock::Clock;
use crate::error::{Error, Kind, Result};
use crate::journey::RawRecord;
use crate::position::Lsn;
use crate::postgres::quote;

/// What is read at once; small enough to stay in cache while it is decoded.
const READ_SIZE: usize = 128 * 1024;

/// How much of an oversized message is kept: the operation and its relation.
const OVERSIZED_HEAD: usize = 64;

/// Bytes before the body of an XLogData message: kind, start, end, time.
const XLOG_HEADER: usize = 25;

/// What the source sends.
#[derive(Debug)]
pub enum Frame<'a> {
    /// A message of the output plugin.
    Record(RawRecord<'a>),
    /// The source's log has grown to `end`; `reply` asks for a status update at once.
    Keepalive {
        /// The end of the log as the source knows it.
        end: Lsn,
        /// Whether an answer is awaited.
        reply: bool,
    },
    /// A message above the limit, drained unread but for its first bytes.
    Oversized {
        /// The start of the message.
        head: &'a [u8],
        /// Its whole length in bytes.
        length: usize,
    },
}

/// The reading half.
pub struct Reader {
    half: ReadHalf<Box<dyn Duplex>>,
    buffer: BytesMut,
    /// what the last frame occupied; given up when the next one is asked for
    consumed: usize,
    /// the rest of an oversized message
    draining: usize,
    max_message: usize,
}

/// What to ask the source for.
pub struct StreamOptions {
    /// The slot.
    pub slot: String,
    /// The publications.
    pub publications: Vec<String>,
    /// Where to start: the stored position.
    pub from: Lsn,
    /// Whether values travel in binary form.
    pub binary: bool,
    /// A longer message is drained unread, in bytes.
    pub max_message: usize,
    /// Whether large transactions come in chunks while they are open. Never in parallel ones, which
    /// tell a reader things that only a second connection could use.
    pub in_chunks: bool,
}

/// Starts streaming on a connection and splits it.
pub async fn start(walsender: Walsender, options: &StreamOptions) -> Result<(Reader, Writer)> {
    let publications = options.publications.iter().map(|name| quote::ident(name));
    let publications = publications.collect::<Vec<_>>().join(",");
    let protocol = match options.in_chunks {
        true => "proto_version '2', streaming 'on'",
        false => "proto_version '1'",
    };
    let command = format!(
        "START_REPLICATION SLOT {} LOGICAL {} ({protocol}, publication_names {}, binary '{}')",
        quote::ident(&options.slot),
        options.from,
        quote::literal(&publications),
        options.binary,
    );
    let (stream, buffer) = walsender.start_copy(&command).await?;
    let (read, write) = tokio::io::split(stream);
    let max_message = options.max_message;
    let reader = Reader { half: read, buffer, consumed: 0, draining: 0, max_message };
    Ok((reader, Writer { half: write }))
}

impl Reader {
    /// Waits for more bytes.
    pub async fn fill(&mut self) -> Result<()> {
        self.release();
        if self.buffer.is_empty() && self.buffer.capacity() > 8 * READ_SIZE {
            // one large row must not keep its memory for good
            self.buffer = BytesMut::new();
        }
        self.buffer.reserve(READ_SIZE);
        match self.half.read_buf(&mut self.buffer).await.map_err(lost)? {
            0 => Err(closed()),
            _ => Ok(()),
        }
    }

    /// The next frame that has already arrived, if one is complete.
    pub fn next_buffered(&mut self) -> Result<Option<Frame<'_>>> {
        self.release();
        loop {
            if self.draining > 0 {
                let gone = self.draining.min(self.buffer.len());
                self.buffer.advance(gone);
                self.draining -= gone;
                if self.draining > 0 {
                    return Ok(None);
                }
            }
            let Some((tag, length)) = self.header() else { return Ok(None) };
            if tag != b'd' {
                match Message::parse(&mut self.buffer).map_err(lost)? {
                    None => return Ok(None),
                    Some(message) => refuse_end(message)?,
                }
                continue;
            }
            if length > self.max_message {
                return Ok(self.oversized(length));
            }
            if self.buffer.len() < length {
                self.buffer.reserve(length - self.buffer.len());
                return Ok(None);
            }
            self.consumed = length;
            return parse_copy_data(self.buffer.get(5..length).unwrap_or_default()).map(Some);
        }
    }

    fn release(&mut self) {
        self.buffer.advance(self.consumed);
        self.consumed = 0;
    }

    /// Tag and whole length of the message at the front.
    fn header(&self) -> Option<(u8, usize)> {
        let (tag, rest) = self.buffer.split_first()?;
        let length = u32::from_be_bytes(*rest.first_chunk::<4>()?);
        Some((*tag, usize::try_from(length).ok()?.saturating_add(1)))
    }

    fn oversized(&mut self, length: usize) -> Option<Frame<'_>> {
        let start = 5 + XLOG_HEADER;
        if self.buffer.len() < start + OVERSIZED_HEAD {
            return None;
        }
        self.consumed = start + OVERSIZED_HEAD;
        self.draining = length - self.consumed;
        let head = self.buffer.get(start..start + OVERSIZED_HEAD)?;
        Some(Frame::Oversized { head, length })
    }
}

fn refuse_end(message: Message) -> Result<()> {
    match message {
        Message::ErrorResponse(body) => Err(server_error("streaming", body.fields())),
        Message::CopyDone => Err(closed()),
        _ => Ok(()),
    }
}

fn parse_copy_data(mut body: &[u8]) -> Result<Frame<'_>> {
    let malformed = || Error::bug("the source sent a replication message that is cut short");
    let kind = *body.first().ok_or_else(malformed)?;
    match kind {
        b'w' if body.len() >= XLOG_HEADER => {
            body.advance(1);
            let start = Lsn(body.get_u64());
            let end = Lsn(body.get_u64());
            let sent_at = body.get_i64();
            Ok(Frame::Record(RawRecord { start, end, sent_at, bytes: body }))
        }
        b'k' if body.len() >= 18 => {
            body.advance(1);
            let end = Lsn(body.get_u64());
            let _sent_at = body.get_i64();
            Ok(Frame::Keepalive { end, reply: body.get_u8() == 1 })
        }
        _ => Err(malformed()),
    }
}

/// The writing half.
pub struct Writer {
    half: WriteHalf<Box<dyn Duplex>>,
}

/// What the writer watches.
pub struct Feedback {
    /// The stored position: everything before it is committed in the warehouse.
    pub stored: watch::Receiver<Lsn>,
    /// Changes when the source asked for an answer.
    pub asked: watch::Receiver<u64>,
    /// How long the writer may be silent.
    pub every: Duration,
}

/// Confirmations are not sent more often than this: each makes the source write its slot.
const CONFIRM_EVERY: Duration = Duration::from_secs(1);

impl Writer {
    /// Sends status updates until the connection fails or the stored position's sender is gone;
    /// then sends a last one, so that what was stored at shutdown is confirmed.
    pub async fn run(mut self, mut feedback: Feedback, clock: Clock) -> Result<()> {
        let mut ticks = interval(feedback.every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut last_confirmed = Instant::now();
        loop {
            let stored_changed = tokio::select! {
                _ = ticks.tick() => false,
                asked = feedback.asked.changed() => { if asked.is_err() { break } false }
                stored = feedback.stored.changed() => { if stored.is_err() { break } true }
            };
            if stored_changed {
                tokio::time::sleep_until(last_confirmed + CONFIRM_EVERY).await;
                last_confirmed = Instant::now();
            }
            let stored = *feedback.stored.borrow_and_update();
            self.send(stored, &clock).await?;
        }
        let stored = *feedback.stored.borrow();
        self.send(stored, &clock).await
    }

    /// One Standby status update: written, flushed and applied are all the stored position.
    async fn send(&mut self, stored: Lsn, clock: &Clock) -> Result<()> {
        let mut body = BytesMut::with_capacity(34);
        body.put_u8(b'r');
        for _ in 0..3 {
            body.put_u64(stored.0);
        }
        body.put_i64(clock.now_postgres());
        body.put_u8(0);
        let mut message = BytesMut::with_capacity(40);
        CopyData::new(body)
            .map_err(|error| Error::new(Kind::Bug, "a status update is too long").because(error))?
            .write(&mut message);
        self.half.write_all(&message).await.map_err(lost)?;
        self.half.flush().await.map_err(lost)
    }
}
