//! What operators ask for: rows of `audit.requests`, which the owner of a connector carries out.

use jiff::Timestamp;
use tokio_postgres::GenericClient;

use crate::error::{Error, Result};
use crate::names::TableName;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    /// A table's changes are kept until it is resumed.
    Pause,
    /// A stopped or paused table goes on with its kept changes.
    Resume,
    /// A table, or every table, is read again.
    Resync,
    /// The rows of a table that meet a condition are read again.
    ResyncWhere,
    /// A table is rebuilt from the raw table of its source table.
    Rebuild,
    /// A table's dead letters, or one of them, are tried again.
    Replay,
    /// A table's dead letters, or one of them, are left out for good.
    Drop,
    /// The connector rests.
    PauseConnector,
    /// The connector goes on.
    ResumeConnector,
    /// The connector is stopped.
    StopConnector,
    /// The connector begins a new session.
    RestartConnector,
    /// Something of a job, as its argument says.
    Job,
}

/// Every verb and its word in `audit.requests`.
const VERBS: [(Verb, &str); 12] = [
    (Verb::Pause, "pause"),
    (Verb::Resume, "resume"),
    (Verb::Resync, "resync"),
    (Verb::ResyncWhere, "resync where"),
    (Verb::Rebuild, "resync from raw"),
    (Verb::Replay, "replay"),
    (Verb::Drop, "drop"),
    (Verb::PauseConnector, "pause connector"),
    (Verb::ResumeConnector, "resume connector"),
    (Verb::StopConnector, "stop connector"),
    (Verb::RestartConnector, "restart connector"),
    (Verb::Job, "job"),
];

/// What stands in a connector's place where jobs are meant; no connector may be named so.
pub const JOBS: &str = "(jobs)";

impl Verb {
    /// The word in `audit.requests`.
    pub fn word(self) -> &'static str {
        VERBS.iter().find(|(verb, _)| *verb == self).map_or("", |(_, word)| word)
    }

    /// The verb of a word.
    pub fn of(word: &str) -> Option<Verb> {
        VERBS.iter().find(|(_, known)| *known == word).map(|(verb, _)| *verb)
    }
}

/// A request that is open.
#[derive(Clone, Debug)]
pub struct Request {
    /// Its number.
    pub id: i64,
    /// What is asked.
    pub verb: Verb,
    /// The table; none for all of the connector's.
    pub table: Option<TableName>,
    /// What it is about beside the table, as in [`Argument`].
    pub argument: Option<String>,
}

/// What a request is about beside its table.
#[derive(Clone, Copy, Debug, Default)]
pub enum Argument<'a> {
    /// Nothing.
    #[default]
    Nothing,
    /// A dead letter.
    Letter(i64),
    /// A condition over the source's columns.
    Condition(&'a str),
    /// What is asked of a job, as JSON.
    Job(&'a str),
}

impl Argument<'_> {
    fn text(self) -> Option<String> {
        match self {
            Argument::Nothing => None,
            Argument::Letter(id) => Some(id.to_string()),
            Argument::Condition(text) | Argument::Job(text) => Some(text.to_owned()),
        }
    }
}

impl Request {
    /// The dead letter it is about; none for all of the table's.
    pub fn letter(&self) -> Option<i64> {
        self.argument.as_deref()?.parse().ok()
    }

    /// Whether it says what its verb needs.
    fn is_whole(&self) -> bool {
        match self.verb {
            Verb::Replay | Verb::Drop => self.argument.is_none() || self.letter().is_some(),
            Verb::ResyncWhere => self.table.is_some() && self.argument.is_some(),
            Verb::Rebuild => self.table.is_some(),
            Verb::Job => self.argument.is_some(),
            _ => true,
        }
    }
}

/// A span of time in which dead letters were noticed first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Span {
    /// From here on.
    pub since: Option<Timestamp>,
    /// Up to before this.
    pub until: Option<Timestamp>,
}

/// What a request is about.
#[derive(Clone, Copy, Debug, Default)]
pub struct About<'r> {
    /// The table; none for all of the connector's.
    pub table: Option<&'r TableName>,
    /// What beside it.
    pub argument: Argument<'r>,
    /// When the dead letters were noticed.
    pub span: Span,
}

/// Writes a request; returns its number.
pub async fn ask(
    client: &impl GenericClient,
    verb: Verb,
    connector: &str,
    about: &About<'_>,
) -> Result<i64> {
    let failed = |error| Error::warehouse("writing a request", error);
    let row = client
        .query_one(
            "insert into audit.requests
                 (verb, connector, table_name, argument, noticed_since, noticed_until)
             values ($1, $2, $3, $4, $5, $6) returning id",
            &[
                &verb.word(),
                &connector,
                &about.table.map(ToString::to_string),
                &about.argument.text(),
                &about.span.since,
                &about.span.until,
            ],
        )
        .await
        .map_err(failed)?;
    row.try_get(0).map_err(failed)
}

/// The newest open request of a connector, by its number; 0 where none is open.
pub async fn newest(client: &impl GenericClient, connector: &str) -> Result<i64> {
    let failed = |error| Error::warehouse("reading its requests", error);
    let query = "select coalesce(max(id), 0) from audit.requests
                  where connector = $1 and state = 'open'";
    let row = client.query_one(query, &[&connector]).await.map_err(failed)?;
    row.try_get(0).map_err(failed)
}

/// The first open requests of a connector, oldest first. What is asked of itself comes before what is asked of its
/// tables, of which any number may wait while it rests; and that all of them are read again before what is asked
/// of one.
pub async fn open(client: &impl GenericClient, connector: &str) -> Result<Vec<Request>> {
    let verbs: Vec<Verb> = VERBS.iter().map(|(verb, _)| *verb).collect();
    open_of(client, connector, &verbs).await
}

/// Those of them that ask for one of `verbs`, or for what this version does not know.
pub async fn open_of(
    client: &impl GenericClient,
    connector: &str,
    verbs: &[Verb],
) -> Result<Vec<Request>> {
    let failed = |error| Error::warehouse("reading its requests", error);
    let others = VERBS.iter().filter(|(verb, _)| !verbs.contains(verb));
    let others: Vec<&str> = others.map(|(_, word)| *word).collect();
    let rows = client
        .query(
            "select id, verb, table_name, argument from audit.requests
              where connector = $1 and state = 'open' and verb <> all ($2)
              order by verb like '% connector' desc, verb = 'resync' and table_name is null desc, id
              limit 100",
            &[&connector, &others],
        )
        .await
        .map_err(failed)?;
    let mut requests = Vec::new();
    for row in rows {
        let (id, verb): (i64, String) = (row.get(0), row.get(1));
        let table: Option<String> = row.get(2);
        let table = table.map(|table| table.parse()).transpose();
        let request = match (Verb::of(&verb), table) {
            (Some(verb), Ok(table)) => Some(Request { id, verb, table, argument: row.get(3) }),
            _ => None,
        };
        match request.filter(Request::is_whole) {
            Some(request) => requests.push(request),
            None => answer(client, id, false, "this version does not know the request").await?,
        }
    }
    Ok(requests)
}

/// Whether a request is still open; until the transaction ends nobody else carries it out.
pub async fn claim(client: &impl GenericClient, id: i64) -> Result<bool> {
    let query =
        "select 1 from audit.requests where id = $1 and state = 'open' for update skip locked";
    let row = client
        .query_opt(query, &[&id])
        .await
        .map_err(|error| Error::warehouse("taking up a request", error))?;
    Ok(row.is_some())
}

/// Answers a request.
pub async fn answer(client: &impl GenericClient, id: i64, done: bool, text: &str) -> Result<()> {
    client
        .execute(
            "update audit.requests
                set state = case when $2 then 'done' else 'failed' end, answer = $3,
                    answered_at = now()
              where id = $1",
            &[&id, &done, &text],
        )
        .await
        .map_err(|error| Error::warehouse("answering a request", error))?;
    Ok(())
}

/// Takes a request that is answered when it is done.
pub async fn take(client: &impl GenericClient, id: i64) -> Result<()> {
    client
        .execute("update audit.requests set state = 'taken' where id = $1", &[&id])
        .await
        .map_err(|error| Error::warehouse("taking a request", error))?;
    Ok(())
}

/// A request's answer, once there is one: whether it was done, and what was said.
pub async fn answered(client: &impl GenericClient, id: i64) -> Result<Option<(bool, String)>> {
    let row = client
        .query_opt(
            "select state = 'done', coalesce(answer, '') from audit.requests
              where id = $1 and state in ('done', 'failed')",
            &[&id],
        )
        .await
        .map_err(|error| Error::warehouse("reading an answer", error))?;
    Ok(row.map(|row| (row.get(0), row.get(1))))
}
