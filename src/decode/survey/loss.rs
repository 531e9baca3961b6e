//! What records lose of their source, in words for people.

/// What is lost, and by which mode.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Loss {
    /// `decimal.handling.mode=double`.
    Digits,
    /// `time.precision.mode=connect`.
    Microseconds,
    /// `interval.handling.mode=numeric`.
    Months,
    /// `binary.handling.mode=base64`: bytes that were not sent come as null.
    Bytes,
    /// Bytes come as text, and the files do not say in which form.
    Encoding,
    /// Values that were not sent.
    Unsent,
    /// Deletes (`delete.tombstone.handling.mode=drop`).
    Deletes,
    /// The order across partitions and after a re-send.
    Order,
    /// The order of commits, where only a row's own place is told.
    Commits,
    /// What tells a row from another.
    Key,
    /// `bigint.unsigned.handling.mode=long`.
    Unsigned,
    /// What a count of time is in: by the warehouse's column, and not by the source's.
    Unit,
}

impl Loss {
    /// What it means, behind the name of a table or a column.
    pub fn what(self) -> &'static str {
        match self {
            Loss::Digits => {
                "is a decimal that comes as a double (decimal.handling.mode=double): digits beyond the \
                 15th are lost"
            }
            Loss::Microseconds => {
                "comes in milliseconds (time.precision.mode=connect): its microseconds are cut off"
            }
            Loss::Months => {
                "is an interval that comes as a number (interval.handling.mode=numeric): a month counts \
                 30.4375 days"
            }
            Loss::Bytes => {
                "is bytes under binary.handling.mode=base64: a large value that an update did not change \
                 comes as null, and becomes NULL"
            }
            Loss::Encoding => {
                "is bytes that come as text (binary.handling.mode), and no file says whether as hex or \
                 base64: read as base64, hex becomes other bytes"
            }
            Loss::Unsent => {
                "is left out of updates that do not change it (TOAST under the default replica identity): \
                 it is taken from the row that the warehouse has; an event log has no such row, and an \
                 update whose row is not there becomes a dead letter"
            }
            Loss::Deletes => {
                "tells no deletes: its flattened records have no __deleted, and no tombstone was seen \
                 (delete.tombstone.handling.mode=drop)"
            }
            Loss::Order => {
                "tells no place at the source: a re-send, and a change of a key that has moved to another \
                 partition, may be applied over a newer one"
            }
            Loss::Commits => {
                "tells a row's own place and not the commit before it (source.sequence): what one transaction \
                 does to a row makes a version each, and what is sent again behind an incremental snapshot may \
                 be taken for new"
            }
            Loss::Key => {
                "has no key: rows that are alike and of one place in the source's log cannot be told from \
                 a re-send"
            }
            Loss::Unsigned => {
                "is an unsigned bigint that comes as a signed one (bigint.unsigned.handling.mode=long, the \
                 default): from 9223372036854775808 on it is negative"
            }
            Loss::Unit => {
                "has values that are times of 1970 or beyond the year 9999 by the precision of its column, and \
                 others by another one: under time.precision.mode=adaptive up to three digits of the source's \
                 precision come in milliseconds, more in microseconds"
            }
        }
    }

    /// What to change, at Debezium or at the source.
    pub fn remedy(self) -> &'static str {
        match self {
            Loss::Digits => "set decimal.handling.mode=precise (or string) in Debezium's connector",
            Loss::Microseconds => {
                "set time.precision.mode=adaptive_time_microseconds in Debezium's connector"
            }
            Loss::Months => "set interval.handling.mode=string in Debezium's connector",
            Loss::Bytes => "set binary.handling.mode=bytes (or hex) in Debezium's connector",
            Loss::Encoding => {
                "write types: { binary: hex } (or base64, base64-url-safe) in the connector's file here, \
                 or set binary.handling.mode=bytes in Debezium's"
            }
            Loss::Unsent => {
                "alter table … replica identity full at the source, where that matters; it makes the \
                 source's log larger"
            }
            Loss::Deletes => {
                "set delete.tombstone.handling.mode=rewrite in the transform of Debezium's connector \
                 (delete.handling.mode=rewrite before Debezium 2.5)"
            }
            Loss::Commits => {
                "add source.sequence to add.fields in the transform of Debezium's connector"
            }
            Loss::Order => {
                "set add.fields=op,table,schema,lsn,source.sequence,source.ts_ms in the transform of \
                 Debezium's connector, or take its envelope as it is"
            }
            Loss::Key => {
                "give it a primary key at the source, set message.key.columns in Debezium's connector, or \
                 declare it in schemas/ with a key"
            }
            Loss::Unsigned => "set bigint.unsigned.handling.mode=precise in Debezium's connector",
            Loss::Unit => {
                "declare the column with the precision that it has at the source, as in timestamp(3), or set \
                 time.precision.mode=microseconds in Debezium's connector and types: { time: microseconds } here"
            }
        }
    }
}
