//! What a single value of a file may be, and what to write where it is something else.

use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

use super::model::SourceName;
use super::pattern::{Exclusion, TablePattern};
use super::units::{Size, Span};
use crate::names::TableName;
use crate::postgres::SslMode;

/// The longest name Postgres keeps, in bytes.
const LONGEST_NAME: usize = 63;

/// A value that stands in a file as one text.
pub(super) trait Scalar: Sized {
    /// What to write instead of a text that is refused.
    const REMEDY: &'static str;

    /// Reads it; the error says what is wrong with the text.
    fn read(text: &str) -> Result<Self, String>;
}

impl Scalar for Size {
    const REMEDY: &'static str = "write a whole number with B, KiB, MiB, GiB or TiB, such as 64MiB";

    fn read(text: &str) -> Result<Size, String> {
        let size: Size = text.parse()?;
        if size.0 == 0 {
            return Err(format!("{text:?} is nothing at all"));
        }
        Ok(size)
    }
}

impl Scalar for Span {
    const REMEDY: &'static str = "write a whole number with ms, s, m, h, d or w, such as 7d";

    fn read(text: &str) -> Result<Span, String> {
        text.parse()
    }
}

impl Scalar for SocketAddr {
    const REMEDY: &'static str =
        "write an IP address and a port, such as 127.0.0.1:8088 or [::1]:8088";

    fn read(text: &str) -> Result<SocketAddr, String> {
        text.parse().map_err(|_| format!("{text:?} is not an address to listen on"))
    }
}

impl Scalar for SslMode {
    const REMEDY: &'static str = "write disable, prefer, require, verify-ca or verify-full";

    fn read(text: &str) -> Result<SslMode, String> {
        text.parse()
    }
}

macro_rules! number {
    ($type:ty, $least:literal, $most:literal) => {
        impl Scalar for $type {
            const REMEDY: &'static str =
                concat!("write a whole number from ", $least, " to ", $most);

            fn read(text: &str) -> Result<$type, String> {
                let number = text.parse().ok().filter(|number| ($least..=$most).contains(number));
                number.ok_or_else(|| format!("{text:?} is not a number that fits"))
            }
        }
    };
}

// a port
number!(u16, 1, 65535);
// leaves ahead of today
number!(u32, 0, 1000);
// rows of a batch
number!(usize, 1, 10_000_000);

impl Scalar for TableName {
    const REMEDY: &'static str = "write schema.table, each at most 63 bytes";

    fn read(text: &str) -> Result<TableName, String> {
        let table: TableName =
            text.parse().map_err(|_| format!("{text:?} is not a table of the warehouse"))?;
        fits(&table)?;
        Ok(table)
    }
}

impl Scalar for SourceName {
    const REMEDY: &'static str =
        "write source.schema.table, such as shop.public.users, where source is a connector's";

    fn read(text: &str) -> Result<SourceName, String> {
        let name: SourceName =
            text.parse().map_err(|_| format!("{text:?} is not a table of a source"))?;
        Identifier::read(&name.source)?;
        if name.is_endpoint() {
            return Identifier::read(&name.table.name).map(|_| name);
        }
        fits(&name.table)?;
        Ok(name)
    }
}

fn fits(table: &TableName) -> Result<(), String> {
    let long = [&table.schema, &table.name].into_iter().find(|name| name.len() > LONGEST_NAME);
    long.map_or(Ok(()), |name| Err(too_long(name)))
}

fn too_long(name: &str) -> String {
    format!("{name:?} has {} bytes, and Postgres keeps {LONGEST_NAME}", name.len())
}

impl Scalar for TablePattern {
    const REMEDY: &'static str = "write schema.table, such as \"public.*\" or public.users";

    fn read(text: &str) -> Result<TablePattern, String> {
        text.parse()
    }
}

impl Scalar for Exclusion {
    const REMEDY: &'static str =
        "write schema.table or schema.table.column, such as public.audit_log";

    fn read(text: &str) -> Result<Exclusion, String> {
        text.parse()
    }
}

/// A name of ours: letters, digits, `_` and `-`.
pub(super) struct Identifier(pub(super) String);

impl Scalar for Identifier {
    const REMEDY: &'static str =
        "write a name of letters, digits, _ and -, at most 40, such as shop";

    fn read(text: &str) -> Result<Identifier, String> {
        let legal = |letter: char| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-';
        if text.is_empty() || text.len() > 40 || !text.chars().all(legal) {
            return Err(format!("{text:?} is not a name"));
        }
        Ok(Identifier(text.to_owned()))
    }
}

/// A name in Postgres: a schema, a role, a column.
pub(super) struct PgName(pub(super) String);

impl Scalar for PgName {
    const REMEDY: &'static str = "write a name of 1 to 63 bytes";

    fn read(text: &str) -> Result<PgName, String> {
        if text.is_empty() {
            return Err("the name is empty".to_owned());
        }
        if text.len() > LONGEST_NAME {
            return Err(too_long(text));
        }
        Ok(PgName(text.to_owned()))
    }
}

/// A schema of the warehouse that tables of the user's may stand in.
pub(super) struct OpenSchema(pub(super) String);

impl Scalar for OpenSchema {
    const REMEDY: &'static str = "write another schema's name, of 1 to 63 bytes";

    fn read(text: &str) -> Result<OpenSchema, String> {
        let PgName(name) = PgName::read(text)?;
        if is_reserved(&name) {
            return Err(format!("schema {name} is kept for the service and for Postgres"));
        }
        Ok(OpenSchema(name))
    }
}

/// Whether a schema is the service's own or the server's.
pub(super) fn is_reserved(schema: &str) -> bool {
    matches!(schema, "audit" | "temp" | "information_schema") || schema.starts_with("pg_")
}

/// A replication slot's name.
pub(super) struct SlotName(pub(super) String);

impl Scalar for SlotName {
    const REMEDY: &'static str = "write lower-case letters, digits and underscores, at most 63";

    fn read(text: &str) -> Result<SlotName, String> {
        let legal =
            |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit() || letter == '_';
        if text.is_empty() || text.len() > LONGEST_NAME || !text.chars().all(legal) {
            return Err(format!("{text:?} is not a slot's name in Postgres"));
        }
        Ok(SlotName(text.to_owned()))
    }
}

/// `keep`: how long, or `forever`.
pub(super) struct Keep(pub(super) Option<Duration>);

impl Scalar for Keep {
    const REMEDY: &'static str = "write forever, or a whole number with h, d or w, such as 365d";

    fn read(text: &str) -> Result<Keep, String> {
        if text == "forever" {
            return Ok(Keep(None));
        }
        let Span(span) = Span::from_str(text)?;
        if span.is_zero() {
            return Err(format!("{text:?} would keep nothing"));
        }
        Ok(Keep(Some(span)))
    }
}

/// How often a task is tried again.
pub(super) struct Retries(pub(super) u32);

impl Scalar for Retries {
    const REMEDY: &'static str = "write a whole number from 0 to 100";

    fn read(text: &str) -> Result<Retries, String> {
        let number = text.parse().ok().filter(|number| *number <= 100);
        number.map(Retries).ok_or_else(|| format!("{text:?} is not a number that fits"))
    }
}
