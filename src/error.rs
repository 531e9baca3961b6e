//! What can go wrong, and what each failure means.
//!
//! An error says what happened, where, and what to do. [`Kind::policy`] is the one place that
//! decides whether a failure is retried, waits for a person, or stops a single table. Messages never
//! carry a password or a row's values.

use std::error::Error as StdError;
use std::fmt;

use tokio_postgres::error::SqlState;

/// The result of everything that can fail in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What sort of failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A file of the user's says something we refuse.
    Config,
    /// The command line is wrong.
    Usage,
    /// The source cannot be reached, or went away.
    SourceAway,
    /// The warehouse cannot be reached, went away, or is read-only for now.
    WarehouseAway,
    /// Where a message goes cannot be reached, or does not take it now.
    ChannelAway,
    /// A lock, deadlock or serialization failure: the same work may succeed in a moment.
    Busy,
    /// A login was refused or a right is missing.
    Rights,
    /// The source lacks a setting or an object that replication needs.
    SourceLacks,
    /// The slot, the source or the warehouse is not the one our stored position belongs to.
    PositionLost,
    /// Another instance owns this connector now.
    Fenced,
    /// A row or a schema change that one table cannot take; the others go on.
    TableStops,
    /// A row that its table refuses: it becomes a dead letter, and only its key waits.
    Poison,
    /// A change that one table could not even keep: it stops, and goes on by being read again.
    Skipped,
    /// The source changed a table's rows without an event: they are to be read again.
    Reread,
    /// The kept changes have reached their limit.
    Full,
    /// Source and warehouse differ, or a check failed.
    Differs,
    /// The service is shutting down.
    Cancelled,
    /// The other side broke its protocol, or we broke an invariant.
    Bug,
}

/// What to do about a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Try again, with backoff.
    Retry,
    /// Stop until a person has done what the remedy says.
    Human,
    /// Stop the table it names; the others go on.
    StopTable,
    /// Look for the rows that the table it names refuses, and set them aside.
    Sift,
    /// Read the table it names again; the others go on.
    RereadTable,
    /// Stop without a retry: either we were told to, or going on could do harm.
    Stop,
}

impl Kind {
    /// What a failure of this kind means. The only place that decides it.
    pub fn policy(self) -> Policy {
        match self {
            Kind::SourceAway | Kind::WarehouseAway | Kind::ChannelAway | Kind::Busy => {
                Policy::Retry
            }
            Kind::Config
            | Kind::Usage
            | Kind::Rights
            | Kind::SourceLacks
            | Kind::PositionLost
            | Kind::Full
            | Kind::Differs => Policy::Human,
            Kind::TableStops | Kind::Skipped => Policy::StopTable,
            Kind::Poison => Policy::Sift,
            Kind::Reread => Policy::RereadTable,
            Kind::Fenced | Kind::Cancelled | Kind::Bug => Policy::Stop,
        }
    }

    /// The process's exit code, after sysexits.h.
    pub fn exit_code(self) -> u8 {
        match self {
            Kind::Cancelled => 0,
            Kind::Usage => 64,
            Kind::Differs
            | Kind::TableStops
            | Kind::Poison
            | Kind::Skipped
            | Kind::PositionLost => 65,
            Kind::SourceAway | Kind::WarehouseAway | Kind::ChannelAway => 69,
            Kind::Bug => 70,
            Kind::Busy | Kind::Reread | Kind::Full | Kind::Fenced => 75,
            Kind::Rights => 77,
            Kind::Config | Kind::SourceLacks => 78,
        }
    }
}

/// A failure, with its place and its remedy.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    what: String,
    table: Option<String>,
    remedy: Option<String>,
    cause: Option<Box<dyn StdError + Send + Sync>>,
}

impl Error {
    /// A failure of `kind`; `what` is a sentence without a full stop.
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error { kind, what: what.into(), table: None, remedy: None, cause: None }
    }

    /// A broken invariant or protocol.
    pub fn bug(what: impl Into<String>) -> Error {
        Error::new(Kind::Bug, what)
    }

    /// A failed statement or connection at the source; `doing` completes "while …".
    pub fn source(doing: impl fmt::Display, cause: tokio_postgres::Error) -> Error {
        let kind = kind_of(&cause, Kind::SourceAway);
        Error::new(kind, format!("the source failed while {doing}")).because(cause)
    }

    /// A failed statement or connection at the warehouse; `doing` completes "while …".
    pub fn warehouse(doing: impl fmt::Display, cause: tokio_postgres::Error) -> Error {
        let kind = kind_of(&cause, Kind::WarehouseAway);
        Error::new(kind, format!("the warehouse failed while {doing}")).because(cause)
    }

    /// Names the warehouse table that stops.
    #[must_use]
    pub fn on_table(mut self, table: impl Into<String>) -> Error {
        self.table = Some(table.into());
        self
    }

    /// Says what to do: a command or a statement that exists.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Error {
        self.remedy = Some(remedy.into());
        self
    }

    /// Keeps what lies beneath.
    #[must_use]
    pub fn because(mut self, cause: impl Into<Box<dyn StdError + Send + Sync>>) -> Error {
        self.cause = Some(cause.into());
        self
    }

    /// The same failure, seen as another kind.
    #[must_use]
    pub fn with_kind(mut self, kind: Kind) -> Error {
        self.kind = kind;
        self
    }

    /// The failure's kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The warehouse table that stops, where one does.
    pub fn table(&self) -> Option<&str> {
        self.table.as_deref()
    }

    /// What a server said, where one said something.
    pub fn code(&self) -> Option<&SqlState> {
        self.cause.as_ref()?.downcast_ref::<tokio_postgres::Error>()?.code()
    }

    /// What to do, where something is known.
    pub fn remedy_text(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// What happened and why, in one line without the remedy.
    pub fn reason(&self) -> String {
        let mut text = self.what.clone();
        let mut cause = self.cause.as_ref().map(|c| c.as_ref() as &(dyn StdError + 'static));
        while let Some(below) = cause {
            text.push_str(": ");
            text.push_str(&describe(below));
            cause = below.source().filter(|_| !is_database_error(below));
        }
        text
    }

    /// What happened and what to do, in one line.
    pub fn advice(&self) -> String {
        match &self.remedy {
            Some(remedy) => format!("{}; {remedy}", self.reason()),
            None => self.reason(),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(table) = &self.table {
            write!(f, "{table}: ")?;
        }
        f.write_str(&self.reason())?;
        if let Some(remedy) = &self.remedy {
            write!(f, "\n  remedy: {remedy}")?;
        }
        Ok(())
    }
}

impl StdError for Error {}

fn is_database_error(error: &(dyn StdError + 'static)) -> bool {
    error.downcast_ref::<tokio_postgres::Error>().is_some_and(|e| e.as_db_error().is_some())
}

/// A database error by its message and code. Its detail is left out, as it quotes row values; but not
/// where it names what depends on a definition.
fn describe(error: &(dyn StdError + 'static)) -> String {
    let Some(db) = error.downcast_ref::<tokio_postgres::Error>().and_then(|e| e.as_db_error())
    else {
        return error.to_string();
    };
    let code = db.code().code();
    let message = match code {
        "22P02" | "22007" | "22008" | "22003" | "22P03" => without_value(db.message()),
        _ => db.message().to_owned(),
    };
    let mut text = format!("{message} ({code})");
    if let Some(detail) = db.detail().filter(|_| matches!(code, "0A000" | "2BP01")) {
        text.push_str(": ");
        text.push_str(detail);
    }
    if let Some(hint) = db.hint() {
        text.push_str(", hint: ");
        text.push_str(hint);
    }
    text
}

/// A message without the value that it quotes: behind a colon, or as `value "…" is out of range`.
fn without_value(message: &str) -> String {
    let message = message.split(": ").next().unwrap_or(message);
    match (message.find('"'), message.rfind('"')) {
        (Some(from), Some(to)) if message.starts_with("value ") && from < to => {
            let (before, after) = (message.get(..from), message.get(to + 1..));
            format!("{}…{}", before.unwrap_or_default(), after.unwrap_or_default())
        }
        _ => message.to_owned(),
    }
}

/// The kind of a Postgres error; `away` where the connection itself failed.
fn kind_of(error: &tokio_postgres::Error, away: Kind) -> Kind {
    let Some(code) = error.code() else {
        return if is_login_failure(error) { Kind::Rights } else { away };
    };
    kind_of_state(code, away)
}

/// tokio-postgres reports a wrong or missing password on our side without an SQLSTATE.
fn is_login_failure(error: &tokio_postgres::Error) -> bool {
    error.to_string().contains("password missing")
}

/// The kind behind an SQLSTATE; `away` for the classes that pass with time.
pub fn kind_of_state(code: &SqlState, away: Kind) -> Kind {
    const RIGHTS: [&str; 4] = ["28000", "28P01", "42501", "3D000"];
    const BUSY: [&str; 7] = ["40001", "40P01", "55P03", "55006", "57014", "25P03", "25P04"];
    let code = code.code();
    if RIGHTS.contains(&code) {
        return Kind::Rights;
    }
    if BUSY.contains(&code) {
        return Kind::Busy;
    }
    match code.get(..2) {
        // connection trouble, shutdown, resources, I/O, and a standby that cannot write
        Some("08" | "53" | "57" | "58") => away,
        _ if code == "25006" => away,
        // a row too large for its page or its index entry
        _ if code == "54000" => Kind::Poison,
        // a value or a constraint, or a trigger that says no
        Some("22" | "23" | "44" | "P0") => Kind::Poison,
        Some("42" | "0A" | "2B" | "2F" | "38" | "39" | "54" | "55") => Kind::TableStops,
        _ => Kind::Bug,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_one_meaning() {
        let cases = [
            ("40P01", Kind::Busy),
            ("57P01", Kind::WarehouseAway),
            ("25006", Kind::WarehouseAway),
            ("53100", Kind::WarehouseAway),
            ("23505", Kind::Poison),
            ("54000", Kind::Poison),
            ("54011", Kind::TableStops),
            ("25P04", Kind::Busy),
            ("42703", Kind::TableStops),
            ("42501", Kind::Rights),
            ("XX000", Kind::Bug),
        ];
        for (code, kind) in cases {
            assert_eq!(kind_of_state(&SqlState::from_code(code), Kind::WarehouseAway), kind);
        }
    }

    #[test]
    fn a_message_tells_no_value() {
        let cases = [
            (
                "value \"12345\" is out of range for type integer",
                "value … is out of range for type integer",
            ),
            (
                "invalid input syntax for type integer: \"secret\"",
                "invalid input syntax for type integer",
            ),
            ("date/time field value out of range: \"1\"", "date/time field value out of range"),
            ("value \"a\"b\" is out of range for type \"t\"", "value …"),
            ("integer out of range", "integer out of range"),
        ];
        for (message, told) in cases {
            assert_eq!(without_value(message), told);
        }
    }

    #[test]
    fn an_error_shows_its_place_reason_and_remedy() {
        let error = Error::new(Kind::PositionLost, "the slot is gone")
            .on_table("cleansed.dim_users")
            .remedy("siltstone table resync --all");
        assert_eq!(
            error.to_string(),
            "cleansed.dim_users: the slot is gone\n  remedy: siltstone table resync --all"
        );
    }
}
