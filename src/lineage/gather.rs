//! What is looked up at the warehouse before lineage is derived: the shapes of source tables as connectors saw them,
//! and the columns of the tables that statements read.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use tokio_postgres::GenericClient;

use super::edges::{Edge, of_lookups, of_mart};
use super::models::{Known, MaskedColumns, of_model};
use super::statement::{Tables, tables_of};
use crate::error::{Error, Result};
use crate::names::TableName;
use crate::postgres::quote;
use crate::relation::Relation;
use crate::spec::{Model, Spec, mirror};

/// What was looked up. The same twice asks for nothing new.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Facts {
    /// connector, source table and shape of each warehouse table
    fed: BTreeMap<String, (String, Relation)>,
    /// a table by the name that a statement gives it, with its columns and their types
    columns: BTreeMap<Written, (TableName, Vec<(String, String)>)>,
}

/// A table as a statement names it.
type Written = (Option<String>, String);

/// Looks up what the lineage of these files is derived from.
pub async fn gather(client: &impl GenericClient, spec: &Spec) -> Result<Facts> {
    let fed = fed(client).await?;
    let mut wanted: BTreeSet<Written> = BTreeSet::new();
    let tables = spec.models.iter().map(|model| &model.table);
    let tables = tables.chain(spec.marts.iter().map(|mart| &mart.table));
    wanted.extend(tables.map(|table| (Some(table.schema.clone()), table.name.clone())));
    for name in fed.keys() {
        if let Ok(TableName { schema, name }) = name.parse() {
            wanted.insert((Some(schema), name));
        }
    }
    let lookups = spec.models.iter().flat_map(|model| &model.lookups);
    let queries = lookups.map(|lookup| &lookup.query);
    let queries: Vec<String> =
        queries.chain(spec.marts.iter().map(|mart| &mart.query)).cloned().collect();
    let named = tokio::task::spawn_blocking(move || {
        queries.iter().flat_map(|query| tables_of(query)).collect::<Vec<_>>()
    });
    wanted.extend(named.await.map_err(broke_off)?);
    let columns = columns(client, wanted.into_iter().collect()).await?;
    Ok(Facts { fed, columns })
}

/// All of the lineage of these files; each column of a table depends once in each way on another.
pub async fn derive_all(spec: &Spec, facts: &Facts) -> Result<Vec<Edge>> {
    let (spec, facts) = (spec.clone(), facts.clone());
    // a statement of a person may take its time
    let derived = tokio::task::spawn_blocking(move || facts.derive(&spec));
    derived.await.map_err(broke_off)
}

fn broke_off(error: tokio::task::JoinError) -> Error {
    Error::bug("deriving lineage broke off").because(error)
}

impl Facts {
    fn derive(&self, spec: &Spec) -> Vec<Edge> {
        let masks = MaskedColumns::of(&spec.models);
        let mut edges = Vec::new();
        let mut tables = Tables::default();
        let mirrored = self.mirrored(spec);
        for model in spec.models.iter().chain(&mirrored) {
            let known = self.known(&model.table);
            let made = of_model(model, &masks, &known);
            let own = made.iter().filter(|edge| edge.target.table == model.table.to_string());
            let looked_up = model.lookups.iter().map(|lookup| lookup.name.as_str());
            let names: BTreeSet<&str> =
                own.map(|edge| edge.target.column.as_str()).chain(looked_up).collect();
            tables.add(&model.table, names.into_iter().map(str::to_owned).collect());
            edges.extend(made);
        }
        for ((schema, name), (table, columns)) in &self.columns {
            let names = columns.iter().map(|(name, _)| name.clone()).collect();
            match schema {
                Some(_) => tables.add(table, names),
                None => tables.add_visible(name, table, names),
            }
        }
        edges.extend(spec.models.iter().flat_map(|model| of_lookups(model, &tables)));
        for mart in &spec.marts {
            edges.extend(of_mart(mart, &tables, self.columns(&mart.table)));
        }
        let mut once: HashSet<_> = HashSet::new();
        edges.retain(|edge| once.insert((edge.source.clone(), edge.target.clone(), edge.kind)));
        edges
    }

    fn known(&self, table: &TableName) -> Known<'_> {
        let relation = self.fed.get(&table.to_string()).map(|(_, relation)| relation);
        Known { relation, columns: self.columns(table) }
    }

    /// The columns of a table with their types, where it is there.
    pub fn columns(&self, table: &TableName) -> Option<&[(String, String)]> {
        let found = self.columns.get(&(Some(table.schema.clone()), table.name.clone()));
        found.map(|(_, columns)| columns.as_slice())
    }

    /// All columns that were looked up, by table.
    pub fn all_columns(&self) -> BTreeMap<String, Vec<(String, String)>> {
        let found = self.columns.values();
        found.map(|(table, columns)| (table.to_string(), columns.clone())).collect()
    }

    /// The models of tables without a file.
    fn mirrored(&self, spec: &Spec) -> Vec<Model> {
        let declared: HashSet<String> =
            spec.models.iter().map(|model| model.table.to_string()).collect();
        let commons: HashMap<&str, _> =
            spec.commons().map(|common| (common.name.as_str(), common)).collect();
        let undeclared = self.fed.iter().filter(|(table, _)| !declared.contains(*table));
        let models = undeclared.filter_map(|(table, (connector, relation))| {
            let model = mirror(commons.get(connector.as_str())?, relation, &HashSet::new())?;
            (model.table.to_string() == *table).then_some(model)
        });
        models.collect()
    }
}

/// The tables that connectors feed, each with the shape of its source table.
async fn fed(client: &impl GenericClient) -> Result<BTreeMap<String, (String, Relation)>> {
    let failed = |error| Error::warehouse("reading what tables are fed by", error);
    let rows = client
        .query(
            "select t.table_name, t.connector, s.relation
               from audit.tables t join audit.schemas s on s.id = t.schema_id",
            &[],
        )
        .await
        .map_err(failed)?;
    let mut fed = BTreeMap::new();
    for row in rows {
        let json: serde_json::Value = row.try_get(2).map_err(failed)?;
        let relation = serde_json::from_value(json)
            .map_err(|error| Error::bug("a stored shape cannot be read").because(error))?;
        let connector = row.try_get(1).map_err(failed)?;
        fed.insert(row.try_get(0).map_err(failed)?, (connector, relation));
    }
    Ok(fed)
}

/// The columns of tables, as statements name them; those that are not there are left out.
async fn columns(
    client: &impl GenericClient,
    wanted: Vec<Written>,
) -> Result<BTreeMap<Written, (TableName, Vec<(String, String)>)>> {
    let failed = |error| Error::warehouse("looking at the columns of tables", error);
    let quoted = wanted.iter().map(|(schema, name)| match schema {
        Some(schema) => quote::table(&TableName::new(schema.clone(), name.clone())),
        None => quote::ident(name),
    });
    let quoted: Vec<String> = quoted.collect();
    let rows = client
        .query(
            "select w.at, n.nspname::text, c.relname::text, a.attname::text,
                    format_type(a.atttypid, a.atttypmod)
               from unnest($1::text[]) with ordinality w(name, at)
               join pg_class c on c.oid = to_regclass(w.name)
               join pg_namespace n on n.oid = c.relnamespace
               join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
              order by w.at, a.attnum",
            &[&quoted],
        )
        .await
        .map_err(failed)?;
    let mut found: BTreeMap<Written, (TableName, Vec<(String, String)>)> = BTreeMap::new();
    for row in rows {
        let at: i64 = row.try_get(0).map_err(failed)?;
        let at = usize::try_from(at).ok().and_then(|at| at.checked_sub(1));
        let Some(written) = at.and_then(|at| wanted.get(at)) else { continue };
        let (schema, name): (String, String) =
            (row.try_get(1).map_err(failed)?, row.try_get(2).map_err(failed)?);
        let (_, columns) = found
            .entry(written.clone())
            .or_insert_with(|| (TableName::new(schema, name), Vec::new()));
        columns.push((row.try_get(3).map_err(failed)?, row.try_get(4).map_err(failed)?));
    }
    Ok(found)
}
