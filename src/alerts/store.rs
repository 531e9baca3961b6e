//! What was told, and messages on their way, as rows: the next owner goes on from there.

use std::collections::BTreeMap;

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio_postgres::{GenericClient, Row, Transaction};

use super::book::{Entry, State};
use super::message::Message;
use crate::error::{Error, Result};

/// So many messages of a channel wait at most; what comes then is left out.
const WAITING: i64 = 200;

/// How long is waited behind each failure, and then [`LATER`] each time.
const PAUSES: [SignedDuration; 6] = [
    SignedDuration::from_secs(2),
    SignedDuration::from_secs(10),
    SignedDuration::from_secs(30),
    SignedDuration::from_secs(120),
    SignedDuration::from_secs(300),
    SignedDuration::from_secs(600),
];

const LATER: SignedDuration = SignedDuration::from_mins(30);

/// A message is given up after so many tries, a day: what is told only once must outlive a night without the channel.
const TRIES: usize = 54;

/// Longer reasons are cut.
const REASON: usize = 500;

/// Messages that are at an end are kept so many days.
const KEPT: f64 = 30.0;

fn failed(error: tokio_postgres::Error) -> Error {
    Error::warehouse("reading what was told", error)
}

fn not_written(error: tokio_postgres::Error) -> Error {
    Error::warehouse("noting what is told", error)
}

/// What is known of each thing, by rule and subject.
pub async fn entries(client: &impl GenericClient) -> Result<BTreeMap<(String, String), Entry>> {
    let query = "select rule, subject, state, since, text, remedy, told, told_at, told_mark, told_to, \
                        ended_at from audit.alerts";
    let rows = client.query(query, &[]).await.map_err(failed)?;
    let entry = |row: &Row| {
        let state: String = row.try_get(2)?;
        let entry = Entry {
            rule: row.try_get(0)?,
            subject: row.try_get(1)?,
            state: State::of(&state).unwrap_or(State::Ended),
            since: row.try_get(3)?,
            text: row.try_get(4)?,
            remedy: row.try_get(5)?,
            told: row.try_get(6)?,
            told_at: row.try_get(7)?,
            told_mark: row.try_get(8)?,
            told_to: row.try_get(9)?,
            ended_at: row.try_get(10)?,
        };
        Ok(((entry.rule.clone(), entry.subject.clone()), entry))
    };
    rows.iter().map(entry).collect::<Result<_, tokio_postgres::Error>>().map_err(failed)
}

/// Writes what is known of a thing.
pub async fn write(transaction: &Transaction<'_>, entry: &Entry) -> Result<()> {
    let plain = |text: &str| text.replace('\0', "");
    transaction
        .execute(
            "insert into audit.alerts (rule, subject, state, since, text, remedy, told, told_at,
                                       told_mark, told_to, ended_at)
             values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
             on conflict (rule, subject) do update
                set state = excluded.state, since = excluded.since, text = excluded.text,
                    remedy = excluded.remedy, told = excluded.told, told_at = excluded.told_at,
                    told_mark = excluded.told_mark, told_to = excluded.told_to,
                    ended_at = excluded.ended_at",
            &[
                &entry.rule,
                &entry.subject,
                &entry.state.word(),
                &entry.since,
                &plain(&entry.text),
                &entry.remedy.as_deref().map(plain),
                &entry.told,
                &entry.told_at,
                &entry.told_mark,
                &entry.told_to,
                &entry.ended_at,
            ],
        )
        .await
        .map_err(not_written)?;
    Ok(())
}

/// Forgets a thing.
pub async fn forget(transaction: &Transaction<'_>, rule: &str, subject: &str) -> Result<()> {
    let delete = "delete from audit.alerts where rule = $1 and subject = $2";
    transaction.execute(delete, &[&rule, &subject]).await.map_err(not_written)?;
    Ok(())
}

/// Puts a message on its way to a channel. False where too many wait there already: it is left out.
pub async fn queue(
    transaction: &Transaction<'_>,
    channel: &str,
    message: &Message,
    now: Timestamp,
) -> Result<bool> {
    let message = serde_json::to_string(message)
        .map_err(|error| Error::bug("a message is no JSON").because(error))?;
    // Postgres keeps no NUL
    let message = message.replace("\\u0000", "");
    let value: Value = serde_json::from_str(&message)
        .map_err(|error| Error::bug("a message is no JSON").because(error))?;
    let queued = transaction
        .execute(
            "insert into audit.alert_messages (channel, message, queued_at, not_before)
             select $1, $2, $3, $3
              where (select count(*) from audit.alert_messages
                      where channel = $1 and state = 'open') < $4",
            &[&channel, &value, &now, &WAITING],
        )
        .await
        .map_err(not_written)?;
    Ok(queued == 1)
}

/// A message that is to be sent.
#[derive(Clone, Debug)]
pub struct Due {
    /// Its number.
    pub id: i64,
    /// Where it goes.
    pub channel: String,
    /// How often that was tried.
    pub attempts: i32,
    /// What it says.
    pub message: Message,
}

/// The first message of each channel, where it is its time. One of a channel waits for those before it.
pub async fn due(client: &impl GenericClient, now: Timestamp) -> Result<Vec<Due>> {
    let query = "select * from (
                     select distinct on (channel) id, channel, attempts, message, not_before
                       from audit.alert_messages where state = 'open' order by channel, id) first
                  where not_before <= $1";
    let rows = client.query(query, &[&now]).await.map_err(failed)?;
    let mut due = Vec::new();
    for row in &rows {
        let message: Value = row.try_get(3).map_err(failed)?;
        let message = serde_json::from_value(message)
            .map_err(|error| Error::bug("a message is none of ours").because(error))?;
        due.push(Due {
            id: row.try_get(0).map_err(failed)?,
            channel: row.try_get(1).map_err(failed)?,
            attempts: row.try_get(2).map_err(failed)?,
            message,
        });
    }
    Ok(due)
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It has arrived.
    Sent,
    /// It is tried again.
    Retried,
    /// It is given up.
    Failed,
}

impl Sent {
    /// The word in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Sent::Sent => "sent",
            Sent::Retried => "retried",
            Sent::Failed => "failed",
        }
    }
}

/// Notes how sending a message ended: well, or why not and whether another time may go better.
pub async fn note(
    transaction: &Transaction<'_>,
    due: &Due,
    ended: Result<(), (String, bool)>,
    now: Timestamp,
) -> Result<Sent> {
    let tried = usize::try_from(due.attempts).unwrap_or(usize::MAX);
    let (sent, reason, pause) = match ended {
        Ok(()) => (Sent::Sent, None, None),
        Err((why, true)) if tried < TRIES => {
            (Sent::Retried, Some(why), Some(*PAUSES.get(tried).unwrap_or(&LATER)))
        }
        Err((why, _)) => (Sent::Failed, Some(why), None),
    };
    let state = if sent == Sent::Retried { "open" } else { sent.word() };
    let reason = reason.map(|why| why.replace('\0', "").chars().take(REASON).collect::<String>());
    let not_before = pause.and_then(|pause| now.checked_add(pause).ok()).unwrap_or(now);
    transaction
        .execute(
            "update audit.alert_messages
                set state = $2, attempts = attempts + 1, reason = $3, not_before = $4,
                    ended_at = case when $2 <> 'open' then $5::timestamptz end
              where id = $1 and state = 'open'",
            &[&due.id, &state, &reason, &not_before, &now],
        )
        .await
        .map_err(not_written)?;
    Ok(sent)
}

/// Takes out rows that nobody needs: old messages, and what instances said that are gone.
pub async fn clean(transaction: &Transaction<'_>) -> Result<()> {
    let messages = "delete from audit.alert_messages \
                    where state <> 'open' and ended_at < now() - $1 * interval '1 day'";
    transaction.execute(messages, &[&KEPT]).await.map_err(not_written)?;
    let signs = "delete from audit.alert_signs where seen_at < now() - interval '1 day'";
    transaction.execute(signs, &[]).await.map_err(not_written)?;
    Ok(())
}

/// What is so or was so lately, as `alert list` and `/alerts` show it.
pub async fn as_json(client: &impl GenericClient) -> Result<Vec<Value>> {
    let query = "
        select jsonb_build_object(
                   'rule', a.rule, 'subject', a.subject, 'state', a.state, 'since', a.since,
                   'text', a.text, 'remedy', a.remedy, 'told', a.told, 'told_at', a.told_at,
                   'ended_at', a.ended_at)
          from audit.alerts a
         order by a.state = 'ended', a.since desc, a.rule, a.subject limit 500";
    let rows = client.query(query, &[]).await.map_err(failed)?;
    rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>().map_err(failed)
}
