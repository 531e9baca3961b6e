//! Lets a table note what changes in it for a mart, or for a table that looks it up.
//!
//! Who writes while the watching begins is waited for: its rows are in the mart's first reading, and every later
//! statement leaves its marks.

use tokio_postgres::GenericClient;

use super::shape::Input;
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::quote;

/// A mart, or a table with lookups, that is told what changes in the tables it reads.
#[derive(Clone, Copy, Debug)]
pub struct Reader<'r> {
    /// Its table.
    pub table: &'r TableName,
    /// What it reads.
    pub inputs: &'r [Input],
    /// The views that it reads them through.
    pub views: &'r [u32],
}

/// Whether an input tells all that the mart wants to know, and is what it was when it began to. What tells of a
/// change that no trigger sees is a line of `audit.seen`, so that a snapshot which has the change lacks the line.
const WATCHED: &str = "
    with seen as materialized (select audit.seen(to_regclass($3), $8) as seen),
         saw as (select s.seen from audit.mart_saw s where s.mart = $1 and s.input = $2)
    select exists (select from audit.mart_reads
                    where mart = $1 and input = $2 and columns = $4 and compare is not distinct from $5
                      and key = $6 and versions = $7)
       and not exists (select from audit.tree(to_regclass($3)) t, unnest('{insert,update,delete,truncate}'::text[]) e
                        where not audit.tells(t.oid, e, $2, $3))
       and not exists (select * from seen except select * from saw)
       and not exists (select * from saw except select * from seen)";

/// The inputs that do not tell all of what the mart wants to know, or are others than they were: what changed in
/// them is not known.
pub async fn unwatched<'s>(
    client: &impl GenericClient,
    reader: Reader<'s>,
) -> Result<Vec<&'s Input>> {
    let mut unwatched = Vec::new();
    for input in reader.inputs {
        let (told, when) = lists(input);
        let row = client
            .query_one(
                WATCHED,
                &[
                    &reader.table.to_string(),
                    &input.read.table.to_string(),
                    &quote::table(&input.read.table),
                    &told,
                    &when,
                    &input.key,
                    &input.versions,
                    &reader.views,
                ],
            )
            .await
            .and_then(|row| row.try_get(0));
        let watched: bool = row.map_err(|error| failed(&input.read.table, error))?;
        if !watched {
            unwatched.push(input);
        }
    }
    Ok(unwatched)
}

/// What [`watch`] notes: what the mart wants to be told, what the table is, and that all of it is to be read.
const NOTES: [&str; 4] = [
    "insert into audit.mart_reads (mart, input, columns, compare, key, versions)
     values ($1, $2, $3, $4, $5, $6)
     on conflict (mart, input) do update
     set columns = excluded.columns, compare = excluded.compare, key = excluded.key,
         versions = excluded.versions",
    "delete from audit.mart_saw where mart = $1 and input = $2",
    "insert into audit.mart_saw (mart, input, seen)
     select $1, $2, seen from audit.seen(to_regclass($3), $4) seen on conflict do nothing",
    "insert into audit.touched (mart, input) values ($1, $2)",
];

/// Begins to watch an input, in a READ COMMITTED transaction of its own. Writers of the table wait until it ends,
/// readers do not.
pub async fn watch(client: &impl GenericClient, reader: Reader<'_>, input: &Input) -> Result<()> {
    let (told, when) = lists(input);
    let (table, name) = (quote::table(&input.read.table), input.read.table.to_string());
    let failed = |error| failed(&input.read.table, error);
    // the other one, so that one watching begins after the other: who sees the last one sees all
    let locks = format!(
        "lock table {table} in share row exclusive mode;
         lock table audit.mart_reads in share row exclusive mode;
         select setval('audit.watching', pg_current_xact_id()::text::bigint)"
    );
    client.batch_execute(&locks).await.map_err(failed)?;
    let mart = reader.table.to_string();
    let [reads, unsee, see, mark] = NOTES;
    client
        .execute(reads, &[&mart, &name, &told, &when, &input.key, &input.versions])
        .await
        .map_err(failed)?;
    client
        .execute(
            "select audit.watch_one(t.oid, $2, $1) from audit.tree(to_regclass($1)) t",
            &[&table, &name],
        )
        .await
        .map_err(failed)?;
    client.execute(unsee, &[&mart, &name]).await.map_err(failed)?;
    client.execute(see, &[&mart, &name, &table, &reader.views]).await.map_err(failed)?;
    client.execute(mark, &[&mart, &name]).await.map_err(failed)?;
    Ok(())
}

/// What [`watch`] does to the table, for people.
pub fn watching(input: &Input) -> String {
    let (table, name) = (quote::table(&input.read.table), input.read.table.to_string());
    format!(
        "select audit.watch_one({0}::regclass, {1}, {0})",
        quote::literal(&table),
        quote::literal(&name)
    )
}

/// What a version has of its own. That one was closed as an alike one opened behind it changes nothing for a mart
/// that names what it compares.
const OF_A_VERSION: [&str; 3] = ["valid_from", "valid_to", "is_current"];

/// What a mark has, and what is compared: what `when` names, and what tells the row's group. A row that moves from
/// one group to another changes both.
fn lists(input: &Input) -> (Vec<&str>, Option<Vec<&str>>) {
    let told: Vec<&str> = input.told.iter().map(|(name, _)| name.as_str()).collect();
    let mut when: Vec<&str> = input.read.when.iter().map(String::as_str).collect();
    if when.is_empty() {
        return (told, None);
    }
    let stays = |name: &str| {
        input.key.iter().any(|key| key == name) || input.versions && OF_A_VERSION.contains(&name)
    };
    let also = told.iter().filter(|name| !when.contains(name) && !stays(name)).copied();
    let also: Vec<&str> = also.collect();
    when.extend(also);
    (told, Some(when))
}

fn failed(table: &TableName, error: tokio_postgres::Error) -> Error {
    Error::warehouse(format!("watching {table}"), error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spec::MartRead;

    fn input(when: &[&str], told: &[&str], versions: bool) -> Input {
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        Input {
            read: MartRead {
                table: TableName::new("s", "t"),
                when: names(when),
                touches: Some("select a from changed".to_owned()),
            },
            told: told.iter().map(|name| ((*name).to_owned(), "text".to_owned())).collect(),
            key: names(&["id"]),
            versions,
        }
    }

    #[test]
    fn a_row_that_moves_to_another_group_is_told_of_though_when_does_not_name_it() {
        let compared = |when: &[&str], told: &[&str], versions| {
            let input = input(when, told, versions);
            let compared = lists(&input).1;
            compared.map(|names| names.into_iter().map(str::to_owned).collect::<Vec<_>>())
        };
        let some = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
        assert_eq!(compared(&["a"], &["id", "day", "a"], false), some(&["a", "day"]));
        assert_eq!(compared(&["a"], &["id"], false), some(&["a"]));
        assert_eq!(compared(&[], &["id", "day"], false), None);
        // a version that was closed
        assert_eq!(compared(&["a"], &["day", "is_current", "valid_to"], true), some(&["a", "day"]));
        assert_eq!(compared(&["is_current"], &["is_current"], true), some(&["is_current"]));
    }
}
