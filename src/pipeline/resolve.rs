//! Which warehouse tables a connector feeds: the files' models and the mirrored ones, beside what the source
//! has. Pure. What one table lacks, or what the files ask of it that cannot be, leaves that one out.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crate::capture::catalog::SourceTable;
use crate::capture::publication::{Wanted, column_list};
use crate::error::Error;
use crate::names::TableName;
use crate::postgres::quote;
use crate::progress::tables::TableRecord;
use crate::relation::Relation;
use crate::spec::{Common, Connector, History, Model, mirror};

/// A source table and the models it feeds.
#[derive(Clone)]
pub(super) struct Fed {
    pub(super) source: SourceTable,
    pub(super) models: Vec<Arc<Model>>,
}

/// What is left out, and what would change that.
#[derive(Clone, Debug)]
pub(super) struct LeftOut {
    pub(super) table: TableName,
    pub(super) why: String,
    pub(super) remedy: String,
    /// whether the files ask for what cannot be: `validate` refuses them
    pub(super) refused: bool,
}

/// The source table that feeds each warehouse table so far.
pub(super) type Feeders = HashMap<TableName, TableName>;

/// Of the tables that are noted.
pub(super) fn feeders(records: &[TableRecord]) -> Feeders {
    let fed = records.iter();
    fed.filter_map(|record| Some((record.table.clone(), record.source.clone()?))).collect()
}

/// What a connector's files and the source's catalogue come to.
pub(super) struct Resolved {
    pub(super) fed: Vec<Fed>,
    pub(super) left_out: Vec<LeftOut>,
    pub(super) publications: Vec<Wanted>,
    /// whether every published column may travel in binary form; else the one that may not
    pub(super) text_because: Option<String>,
    /// what was known to feed each table
    pub(super) known: Feeders,
}

impl Resolved {
    /// The source table that feeds a warehouse table now.
    pub(super) fn feeder(&self, table: &TableName) -> Option<&TableName> {
        let feeds = |fed: &&Fed| fed.models.iter().any(|model| model.table == *table);
        self.fed.iter().find(feeds).map(|fed| &fed.source.relation.table)
    }
}

/// Brings files and catalogue together; one table that cannot be taken costs the others nothing. `extensions`
/// are the warehouse's extension types; `known` tells what feeds each table so far.
pub(super) fn resolve(
    connector: &Connector,
    models: &[Model],
    catalogue: Vec<SourceTable>,
    extensions: &HashSet<String>,
    known: &Feeders,
) -> Resolved {
    let mut resolved = Resolved {
        fed: Vec::new(),
        left_out: Vec::new(),
        publications: Vec::new(),
        text_because: None,
        known: known.clone(),
    };
    let mut main = Wanted { name: connector.publication.clone(), ..Wanted::default() };
    let mut events = Wanted {
        name: connector.append_publication(),
        actions: "insert, truncate",
        ..Wanted::default()
    };
    let ours = catalogue.into_iter().filter(|table| connector.takes(&table.relation.table));
    let ours: Vec<_> = ours
        .map(|mut table| {
            let list = column_list(connector, &table);
            connector.shape(&table.relation.table.clone(), &mut table.relation);
            let fed = models_of(connector, models, &table.relation, extensions);
            (table, fed, list)
        })
        .collect();
    let candidates = ours.iter().map(|(table, fed, list)| {
        let can = list.is_ok() && table.readable && table.identity_problem().is_none();
        (&table.relation, fed.as_slice(), can)
    });
    let chosen = choose(candidates, known);
    for (table, fed, list) in ours {
        let name = table.relation.table.clone();
        let put = match rivals(connector, (&name, &fed), &chosen) {
            Some(left_out) => Err(left_out),
            None => list
                .map_err(|error| refused(&name, &error))
                .and_then(|list| publish(connector, &table, &fed, list, (&mut main, &mut events))),
        };
        if let Err(left_out) = put {
            if connector.mirror || !fed.is_empty() {
                resolved.left_out.push(left_out);
            }
            continue;
        }
        if let Some(column) = table.relation.text_only() {
            let because = format!("{name}.{} is of type {}", column.name, column.ty.name);
            resolved.text_because.get_or_insert(because);
        }
        resolved.fed.push(Fed { source: table, models: fed });
    }
    for model in models.iter().filter(|model| model.from.source == connector.source) {
        if !resolved.fed.iter().any(|fed| fed.models.iter().any(|fed| fed.table == model.table))
            && !resolved.left_out.iter().any(|out| out.table == model.from.table)
        {
            resolved.left_out.push(LeftOut {
                table: model.table.clone(),
                why: format!("the source has no table {}", model.from.table),
                remedy: format!("make it, or remove {}", model.declared_in),
                refused: false,
            });
        }
    }
    // both are made before the slot: decoding knows no publication that is younger than what it decodes
    resolved.publications = vec![main, events];
    resolved
}

/// What a source table feeds: what files declare, else its mirror.
pub(super) fn models_of(
    connector: &Common,
    models: &[Model],
    relation: &Relation,
    extensions: &HashSet<String>,
) -> Vec<Arc<Model>> {
    let declared = models.iter().filter(|model| {
        model.from.source == connector.source && model.from.table == relation.table
    });
    let declared: Vec<Arc<Model>> = declared.cloned().map(Arc::new).collect();
    match declared.is_empty() {
        true => mirror(connector, relation, extensions).map(Arc::new).into_iter().collect(),
        false => declared,
    }
}

/// How good a source table is for a warehouse table; the lowest is taken.
type Rank = (bool, bool, bool, u32);

/// Which source table feeds each warehouse table, where several would: the one that a file declares, else the
/// one that feeds it already, else one that can be published, else the oldest.
fn choose<'t>(
    candidates: impl Iterator<Item = (&'t Relation, &'t [Arc<Model>], bool)>,
    known: &Feeders,
) -> HashMap<TableName, TableName> {
    let mut chosen = HashMap::<TableName, (Rank, TableName)>::new();
    for (relation, models, can) in candidates {
        for model in models {
            let feeds = known.get(&model.table) == Some(&relation.table);
            let rank = (model.mirrored, !feeds, !can, relation.oid);
            let best = chosen.get(&model.table).is_none_or(|(other, _)| rank < *other);
            if best {
                chosen.insert(model.table.clone(), (rank, relation.table.clone()));
            }
        }
    }
    chosen.into_iter().map(|(table, (_, source))| (table, source)).collect()
}

/// A table that would become what another one is.
pub(super) fn rival(
    table: &TableName,
    (other, target): (&str, &TableName),
    remedy: String,
) -> LeftOut {
    let why = format!("{other} and it would both become {target}");
    LeftOut { table: table.clone(), why, remedy, refused: true }
}

/// Says so of one that was not chosen.
fn rivals(
    connector: &Connector,
    (name, models): (&TableName, &[Arc<Model>]),
    chosen: &HashMap<TableName, TableName>,
) -> Option<LeftOut> {
    models.iter().find_map(|model| {
        let other = chosen.get(&model.table).filter(|other| *other != name)?;
        let remedy = format!(
            "exclude {name} in {}, or declare it in schemas/ under another name",
            connector.file
        );
        Some(rival(name, (&other.to_string(), &model.table), remedy))
    })
}

fn refused(table: &TableName, error: &Error) -> LeftOut {
    LeftOut {
        table: table.clone(),
        why: error.reason(),
        remedy: error.remedy_text().unwrap_or_default().to_owned(),
        refused: true,
    }
}

/// Puts a table into the publication that its identity allows, or says why into none.
fn publish(
    connector: &Connector,
    table: &SourceTable,
    models: &[Arc<Model>],
    list: Option<Vec<String>>,
    (main, events): (&mut Wanted, &mut Wanted),
) -> Result<(), LeftOut> {
    let name = table.relation.table.clone();
    let out = |why: String, remedy: String| {
        let (table, refused) = (name.clone(), false);
        LeftOut { table, why, remedy, refused }
    };
    if !table.readable {
        let role = quote::ident(connector.endpoint.user());
        let remedy = format!("grant select on {} to {role}", quote::table(&name));
        return Err(out("its rows may not be read".to_owned(), remedy));
    }
    match table.identity_problem() {
        None if models.is_empty() => {
            let remedy = "declare it in schemas/, or set target_schema".to_owned();
            Err(out("no file declares it and it is not mirrored".to_owned(), remedy))
        }
        None => {
            main.tables.push((name, list));
            Ok(())
        }
        // inserts and truncates need no identity
        Some(_) if !models.is_empty() && models.iter().all(|m| m.history == History::Append) => {
            events.tables.push((name, list));
            Ok(())
        }
        Some((why, remedy)) => Err(out(why, remedy)),
    }
}
