//! The binary COPY format: a header, tuples of length-prefixed values, a trailer.
//!
//! Source: PostgreSQL documentation, COPY, "Binary Format".

use std::pin::pin;

use bytes::{BufMut, Bytes, BytesMut};
use futures_util::SinkExt;
use tokio_postgres::{Statement, Transaction};

/// A COPY message of about this size is what the server's buffers like; in bytes.
pub(super) const CHUNK: usize = 64 * 1024;

/// Signature, flags, length of the header's extension.
pub(super) const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";

/// A tuple of -1 columns.
pub(super) const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();

/// Appends a value with its length.
pub(super) fn put_value(buffer: &mut BytesMut, value: &[u8]) {
    buffer.put_u32(u32::try_from(value.len()).unwrap_or(u32::MAX));
    buffer.put_slice(value);
}

/// Sends a whole COPY stream; returns the number of rows the server took.
pub(super) async fn copy_in(
    transaction: &Transaction<'_>,
    statement: &Statement,
    chunks: impl IntoIterator<Item = Bytes>,
) -> Result<u64, tokio_postgres::Error> {
    let mut sink = pin!(transaction.copy_in::<_, Bytes>(statement).await?);
    for chunk in chunks {
        sink.feed(chunk).await?;
    }
    sink.finish().await
}
