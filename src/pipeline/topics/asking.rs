//! What is read again of topics, and why not: as an operator asks for it, or because records are gone that nobody has
//! read, or tell more than was read. A table is held and every member of the group begins anew in one transaction: from
//! then on all of them keep its changes, and only then a snapshot is taken.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::Transaction;

use super::TopicSetup;
use super::anew::{begin_anew, insists, wish};
use super::rest::named;
use crate::capture::topics::Partition;
use crate::decode::Memory;
use crate::error::{Error, Kind, Result};
use crate::merge::Standing;
use crate::names::TableName;
use crate::position::Lsn;
use crate::postgres::Session;
use crate::progress::feeds::{self, Feeder};
use crate::progress::partitions::{self, Stored};
use crate::progress::requests::{self, Request, Verb};
use crate::progress::tables::{self, State, TableRecord};
use crate::progress::{chunks, gaps};
use crate::spec::{Format, History, Kafka, Model};
use crate::warehouse::Fence;

use super::super::asked;
use super::super::core::Core;
use super::super::cutting::ASKED;
use super::super::intake::End;

/// Why nothing of `whose` is read again, a table or a connector; none where something else is asked, or where it can
/// be. What raw keeps of topics is every delivery, in the order in which it came: late and doubled ones would have to
/// be told apart anew.
pub(in super::super) fn not_read_again(
    connector: &Kafka,
    verb: Verb,
    whose: &str,
) -> Option<String> {
    let by_debezium = |how: &str| {
        format!(
            "let Debezium read them again, by an incremental snapshot (its signal execute-snapshot{how})"
        )
    };
    match verb {
        Verb::Resync if connector.endpoint.is_none() => Some(format!(
            "the rows of {whose} come by topics: {}; or write the url of their source into {}",
            by_debezium(""),
            connector.file
        )),
        Verb::Resync if connector.format == Format::FlatJson => Some(format!(
            "the rows of {whose} come by topics as flattened records, which do not tell the transaction of a change: \
             {}",
            by_debezium("")
        )),
        Verb::ResyncWhere => Some(format!(
            "the rows of {whose} come by topics: {}",
            by_debezium(" with additional-conditions")
        )),
        Verb::Rebuild => Some(format!(
            "{whose} is fed by topics, whose raw tables keep every delivery: nothing is rebuilt from those yet. The \
             rows of {whose} come by topics: {}",
            by_debezium("")
        )),
        _ => None,
    }
}

/// Why the rows of a table of topics are not read, where its source could be.
pub(in super::super) fn not_read(table: &TableName, history: History) -> Option<String> {
    let why = match history {
        History::Overwrite => return None,
        History::Versions => "it keeps versions, of which the source has the last ones only",
        History::Append | History::Raw => "it keeps events, which its source has no more",
        History::Bag => "it has no key by which a row that is read is told from one that comes",
    };
    Some(format!(
        "{table} is fed by topics, and {why}: let Debezium read it again, by an incremental snapshot (its signal \
         execute-snapshot)"
    ))
}

/// Has tables read again as it was asked; true where a new session takes that up. Where a member is at a long
/// transaction the request stays open, and is tried again.
pub(super) async fn ask(
    setup: &TopicSetup,
    warehouse: &mut Session,
    request: &Request,
) -> Result<bool> {
    match try_ask(setup, warehouse, request).await {
        Err(error) if error.kind() == Kind::Busy => {
            wish(warehouse, setup).await?;
            Ok(false)
        }
        asked => asked,
    }
}

async fn try_ask(setup: &TopicSetup, warehouse: &mut Session, request: &Request) -> Result<bool> {
    let connector = &setup.connector;
    let failed = |error| Error::warehouse("noting what is read again", error);
    let transaction = warehouse.transaction().await.map_err(failed)?;
    if !requests::claim(&transaction, request.id).await? {
        return Ok(false);
    }
    let records = tables::read(&transaction, &connector.name).await?;
    let (mut answers, mut meant) = (Vec::new(), Vec::new());
    for record in records.iter().filter(|record| asked::means(request, record)) {
        let table = &record.table;
        let whose = table.to_string();
        let refused = match not_read_again(connector, request.verb, &whose) {
            Some(why) => Some(why),
            None => not_read(table, history_of(setup, &transaction, record).await?),
        };
        match refused {
            Some(why) => answers.push((false, why)),
            None => {
                meant.push(table);
                answers.push((true, format!("{table} will be read again")));
            }
        }
    }
    if !meant.is_empty() {
        begin_anew(&transaction, &connector.name, None).await?;
    }
    for table in &meant {
        let why = format!("{ASKED}: it is read in one piece, and anew if its member begins anew");
        chunks::open_table(&transaction, table, State::Resyncing, Some(&why)).await?;
    }
    let (done, answer) = asked::together(request, answers);
    requests::answer(&transaction, request.id, done, &answer).await?;
    transaction.commit().await.map_err(failed)?;
    tracing::info!(done, "{answer}");
    Ok(!meant.is_empty())
}

/// A partition that has lost what was next.
pub(super) struct Missed {
    pub(super) partition: Partition,
    /// where it goes on
    pub(super) at: Stored,
    /// how it was lost
    pub(super) what: String,
}

/// Lets partitions go on with what is there, and has the tables that they feed read again, in one transaction with
/// which every member begins anew: the answer is the error that ends the session. A table that cannot be read stops.
pub(super) async fn go_on_behind(
    setup: &TopicSetup,
    (warehouse, fence): (&mut Session, &Fence),
    missed: &[Missed],
) -> Result<Error> {
    loop {
        match try_to_go_on(setup, (&mut *warehouse, fence), missed).await {
            Err(error) if error.kind() == Kind::Busy && insists(warehouse, setup).await? => {}
            ended => return ended,
        }
    }
}

async fn try_to_go_on(
    setup: &TopicSetup,
    (warehouse, fence): (&mut Session, &Fence),
    missed: &[Missed],
) -> Result<Error> {
    let (connector, name) = (&setup.connector, &setup.connector.name);
    let failed = |error| Error::warehouse("going on behind records that are lost", error);
    let transaction = warehouse.transaction().await.map_err(failed)?;
    // who was frozen meanwhile would put the offsets back
    begin_anew(&transaction, name, Some(fence)).await?;
    let records = tables::read(&transaction, name).await?;
    let feeders = feeds::feeders(&transaction, name, None).await?;
    let mut whys: BTreeMap<&TableName, &str> = BTreeMap::new();
    for Missed { partition, at, what } in missed {
        tracing::error!(partition = %partition.name(), first = at.position, "{what}; its tables are read again");
        partitions::set(&transaction, name, &partition.name(), at).await?;
        for record in fed_by(connector, (partition, at), &records, &feeders)? {
            whys.entry(&record.table).or_insert(what.as_str());
        }
    }
    for record in &records {
        let Some(what) = whys.get(&record.table).copied() else { continue };
        match read_once_more(setup, &transaction, (record, what)).await? {
            true => chunks::note_lost(&transaction, &record.table, what).await?,
            // it goes on only with what it has lost
            false => {
                let lost = (Lsn(0), Some(Lsn(0)));
                gaps::name(&transaction, &record.table, lost, what).await?;
            }
        }
    }
    transaction.commit().await.map_err(failed)?;
    Ok(Error::new(Kind::Fenced, "all members go on behind records that are lost"))
}

/// Has a table read again whose topics tell more than its rows were read with. No other session of ours is at work.
pub(super) async fn read_untold(setup: &TopicSetup, core: &Core, error: &Error) -> Result<End> {
    let (name, reason) = (&setup.connector.name, error.reason());
    let failed = |error| Error::warehouse("noting what is read again", error);
    let Some(table) = error.table().and_then(|table| table.parse::<TableName>().ok()) else {
        return Err(Error::bug(format!("no table is named that is to be read again: {reason}")));
    };
    let shape = match core.untold.get().filter(|(of, _)| *of == table) {
        Some((_, shape)) => Some(core.number_shape(shape).await?),
        None => None,
    };
    let mut side = core.side_session().await;
    let transaction = loop {
        let transaction = side.session_mut().transaction().await.map_err(failed)?;
        match begin_anew(&transaction, name, Some(&core.fence)).await {
            Err(error) if error.kind() == Kind::Busy => {
                drop(transaction);
                if !insists(side.session(), setup).await? {
                    return Err(error);
                }
            }
            begun => {
                begun?;
                break transaction;
            }
        }
    };
    if let Some(record) = tables::read_one(&transaction, name, &table).await? {
        if let Some(number) = shape {
            tables::set_schema(&transaction, &table, number).await?;
        }
        tracing::warn!(%table, "{reason}: the table is read again, its changes are kept meanwhile");
        read_once_more(setup, &transaction, (&record, &reason)).await?;
    }
    transaction.commit().await.map_err(failed)?;
    Ok(End::Restart)
}

/// Has a table read again for what is said; one that cannot be stops, and this is false.
async fn read_once_more(
    setup: &TopicSetup,
    transaction: &Transaction<'_>,
    (record, what): (&TableRecord, &str),
) -> Result<bool> {
    let table = &record.table;
    let refused = match not_read_again(&setup.connector, Verb::Resync, &table.to_string()) {
        Some(why) => Some(why),
        None => not_read(table, history_of(setup, transaction, record).await?),
    };
    match &refused {
        Some(why) => {
            let remedy = format!("{why}; then siltstone table resume {table:#}");
            tables::set(transaction, table, State::Stopped, Some(what), Some(&remedy)).await?;
        }
        // whoever lets it go on has it read
        None if record.is_held() => chunks::ask_for_reading(transaction, table).await?,
        None => chunks::open_table(transaction, table, State::Resyncing, Some(what)).await?,
    }
    Ok(refused.is_none())
}

/// The tables that a partition feeds: those that its topic is named after, as Debezium names topics. Where it is
/// named otherwise, and has told changes, any may be: a router sends many tables to one topic, or one to many.
pub(super) fn fed_by<'r>(
    connector: &Kafka,
    (partition, at): (&Partition, &Stored),
    records: &'r [TableRecord],
    feeders: &HashMap<TableName, Feeder>,
) -> Result<Vec<&'r TableRecord>> {
    let named = named(connector, &partition.topic);
    let is_named = |record: &TableRecord| record.source.as_ref() == Some(&named);
    let by_topic = |record: &&TableRecord| {
        let by = feeders.get(&record.table);
        by.is_some_and(|by| *by.topic == *partition.topic) || is_named(record)
    };
    let fed: Vec<&TableRecord> = records.iter().filter(by_topic).collect();
    let memory: Memory = serde_json::from_value(at.memory.clone()).map_err(|error| {
        let what = format!("what is remembered of {} cannot be read", partition.name());
        Error::bug(what).because(error)
    })?;
    let has_told = memory.streamed || memory.read != 0 || memory.server.is_some();
    let alone = !fed.is_empty() && fed.iter().all(|record| is_named(record));
    Ok(if has_told && !alone { records.iter().collect() } else { fed })
}

/// What a table is: as its file says, or as it was mirrored.
async fn history_of(
    setup: &TopicSetup,
    transaction: &Transaction<'_>,
    record: &TableRecord,
) -> Result<History> {
    let declared = |model: &&Model| model.table == record.table;
    if let Some(model) = setup.models.iter().find(declared) {
        return Ok(model.history);
    }
    let standing = Standing::of(transaction, &record.table).await?;
    Ok(if standing.key().is_empty() { History::Bag } else { History::Overwrite })
}
