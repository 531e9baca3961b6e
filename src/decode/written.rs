//! Messages of our own making: rows that were read are kept among the stream's changes, in their form.

use crate::error::{Error, Result};
use crate::value::{Cell, Row};

/// A row that was read, as the message of its insert.
pub fn insert_message(relation: u32, row: Row<'_>) -> Result<Vec<u8>> {
    row_message((b'I', b'N'), relation, row)
}

/// The message of the delete of a row, by the cells of its key; all others are null.
pub fn delete_message(relation: u32, key: Row<'_>) -> Result<Vec<u8>> {
    row_message((b'D', b'K'), relation, key)
}

fn row_message((tag, image): (u8, u8), relation: u32, row: Row<'_>) -> Result<Vec<u8>> {
    let too_long = |_| Error::bug("a row is longer than a message can say");
    let columns = i16::try_from(row.cells().count()).map_err(too_long)?;
    let mut message = vec![tag];
    message.extend_from_slice(&relation.to_be_bytes());
    message.push(image);
    message.extend_from_slice(&columns.to_be_bytes());
    for cell in row.cells() {
        let (tag, bytes) = match cell {
            Cell::Null => (b'n', None),
            Cell::Unchanged => (b'u', None),
            Cell::Text(bytes) => (b't', Some(bytes)),
            Cell::Binary(bytes) => (b'b', Some(bytes)),
        };
        message.push(tag);
        if let Some(bytes) = bytes {
            let length = i32::try_from(bytes.len()).map_err(too_long)?;
            message.extend_from_slice(&length.to_be_bytes());
            message.extend_from_slice(bytes);
        }
    }
    Ok(message)
}
