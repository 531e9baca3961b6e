//! Lineage of tables that the stream feeds: from the source's columns to raw and kept ones, and to those that are
//! ours.

use std::collections::{BTreeSet, HashMap};

use super::deps::{Cell, Kind};
use super::edges::Edge;
use crate::relation::{Mask, Relation};
use crate::spec::{Deletes, History, Model, SourceName};

/// What is known of tables beside their files.
#[derive(Clone, Debug, Default)]
pub struct Known<'k> {
    /// The source table's shape, where a connector has seen it.
    pub relation: Option<&'k Relation>,
    /// The warehouse's columns with their types, where the table is there.
    pub columns: Option<&'k [(String, String)]>,
}

/// The masks of the files: a column that one file masks is masked in every table.
pub struct MaskedColumns<'m>(HashMap<(&'m SourceName, &'m str), Mask>);

impl<'m> MaskedColumns<'m> {
    /// Those of all models.
    pub fn of(models: &'m [Model]) -> MaskedColumns<'m> {
        let columns = models.iter().flat_map(|model| {
            let masked = model
                .columns
                .iter()
                .filter_map(|column| Some(((&model.from, column.from.as_str()), column.mask?)));
            masked.collect::<Vec<_>>()
        });
        MaskedColumns(columns.collect())
    }

    fn find(&self, model: &Model, from: &str, known: &Known<'_>) -> Option<Mask> {
        let told = self.0.get(&(&model.from, from)).copied();
        told.or_else(|| {
            let relation = known.relation?;
            let column = relation.columns.get(relation.column(from)?)?;
            column.mask.as_ref().map(|mask| mask.by)
        })
    }
}

/// A raw table's columns beside the one that has the row, and what they say.
const RAW: [(&str, &str); 5] = [
    ("id", "counted here"),
    ("loaded_at", "when the change was written here"),
    ("source_system", "the logical source"),
    ("load_id", "where the batch ends in the source's log"),
    ("created_at", "when the change was written here"),
];

/// A raw table's column that has the row.
const RAW_DATA: &str = "raw_data";

const PLACE: &str = "the place of the change in the source's log";

/// What our columns say of a change.
const OURS: [(&str, &str); 11] = [
    ("_seq", PLACE),
    ("_ord", PLACE),
    ("_synced_at", "when the row was written here"),
    ("_op", "what the source did to the row"),
    ("_row", "tells rows without a key apart"),
    ("_deleted_at", "when the source committed the delete"),
    ("valid_from", "when the source committed the change"),
    ("valid_to", "when the source committed the next change, or the delete"),
    ("_end_seq", "the place of the change that ended the version"),
    ("_end_ord", "the place of the change that ended the version"),
    ("_last_seq", "the place of the last change of the version"),
];

/// What a table that the stream feeds is made of.
pub fn of_model(model: &Model, masks: &MaskedColumns<'_>, known: &Known<'_>) -> Vec<Edge> {
    if model.history == History::Raw {
        return raw(model, masks, known);
    }
    let (source, table) = (model.from.to_string(), model.table.to_string());
    let mut edges = Vec::new();
    for column in &model.columns {
        let (kind, logic) = match masks.find(model, &column.from, known) {
            // how, and never by which key
            Some(mask) => (Kind::Masking, format!("mask: {}", mask.word())),
            None => match cast(&column.from, &column.name, known) {
                Some(cast) => (Kind::Transformation, cast),
                None => (Kind::Identity, column.from.clone()),
            },
        };
        let from = Cell::new(&source, &column.from);
        edges.push(Edge { source: from, target: Cell::new(&table, &column.name), kind, logic });
    }
    for name in ours(model, known) {
        let logic = OURS.iter().find(|(known, _)| *known == name).map(|(_, logic)| *logic);
        let target = Cell::new(&table, &name);
        if name == "is_current" {
            let (kind, logic) = (Kind::Transformation, "valid_to = '9999-12-31 00:00+00'".into());
            let source = Cell::new(&table, "valid_to");
            edges.push(Edge { source, target, kind, logic });
            continue;
        }
        let (kind, logic) = (Kind::Transformation, logic.unwrap_or(PLACE).to_owned());
        edges.push(Edge { source: Cell::rows(&source), target, kind, logic });
    }
    if model.history == History::Versions {
        versions(model, &mut edges);
        edges.extend(current(model, &edges));
    }
    edges
}

/// What decides about versions.
fn versions(model: &Model, edges: &mut Vec<Edge>) {
    let (source, table) = (model.from.to_string(), model.table.to_string());
    let from = |name: &String| model.column(name).map_or(name.clone(), |of| of.from.clone());
    for tracked in &model.track {
        let logic = "a change of it opens a version".to_owned();
        let (source, target) = (Cell::new(&source, from(tracked)), Cell::new(&table, "valid_from"));
        edges.push(Edge { source, target, kind: Kind::Condition, logic });
    }
    if let Some(since) = &model.since {
        let logic = "the first version is valid from then on".to_owned();
        let (source, target) = (Cell::new(&source, from(since)), Cell::new(&table, "valid_from"));
        edges.push(Edge { source, target, kind: Kind::Transformation, logic });
    }
}

/// The view of current versions.
fn current(model: &Model, edges: &[Edge]) -> Vec<Edge> {
    let (table, view) = (model.table.to_string(), model.current_view().to_string());
    let columns: BTreeSet<&str> = edges.iter().map(|edge| edge.target.column.as_str()).collect();
    let edge = |column: &str| Edge {
        source: Cell::new(&table, column),
        target: Cell::new(&view, column),
        kind: Kind::Identity,
        logic: column.to_owned(),
    };
    let filter = Edge {
        source: Cell::new(&table, "is_current"),
        target: Cell::rows(&view),
        kind: Kind::Filter,
        logic: "is_current".to_owned(),
    };
    columns.into_iter().map(edge).chain([filter]).collect()
}

/// The columns that a table has from us.
fn ours(model: &Model, known: &Known<'_>) -> Vec<String> {
    if let Some(columns) = known.columns {
        let ours = columns.iter().map(|(name, _)| name);
        let is_ours = |name: &&String| crate::spec::OURS.contains(&name.as_str());
        let mut ours: Vec<String> = ours.filter(is_ours).cloned().collect();
        ours.retain(|name| model.column(name).is_none());
        return ours;
    }
    let validity = ["valid_from", "valid_to", "is_current", "_end_seq", "_end_ord"];
    let mut names: Vec<&str> = match model.history {
        History::Versions => validity.into_iter().chain(["_last_seq", "_last_ord"]).collect(),
        History::Append => vec!["_op"],
        History::Bag => vec!["_row"],
        History::Overwrite if model.deletes == Deletes::Soft => vec!["_deleted_at"],
        History::Overwrite | History::Raw => Vec::new(),
    };
    names.extend(["_seq", "_ord", "_synced_at"]);
    names.into_iter().map(str::to_owned).collect()
}

/// The columns that a table has by its file, ours among them.
pub fn columns_of(model: &Model) -> Vec<String> {
    if model.history == History::Raw {
        return RAW.iter().map(|(name, _)| *name).chain([RAW_DATA]).map(str::to_owned).collect();
    }
    let declared = model.columns.iter().map(|column| column.name.clone());
    let looked_up = model.lookups.iter().map(|lookup| lookup.name.clone());
    declared.chain(looked_up).chain(ours(model, &Known::default())).collect()
}

/// How a value gets another type; none where it keeps its own, or where nobody has seen both.
fn cast(from: &str, to: &str, known: &Known<'_>) -> Option<String> {
    let relation = known.relation?;
    let source = relation.columns.get(relation.column(from)?)?.source_type();
    let (_, ty) = known.columns?.iter().find(|(name, _)| name == to)?;
    let same = source.name == *ty || source.base_name() == Some(ty.as_str());
    (!same).then(|| format!("{from}::{ty}"))
}

/// A raw table has the whole row as one document.
fn raw(model: &Model, masks: &MaskedColumns<'_>, known: &Known<'_>) -> Vec<Edge> {
    let (source, table) = (model.from.to_string(), model.table.to_string());
    let row = |logic: &str, column: &str| Edge {
        source: Cell::rows(&source),
        target: Cell::new(&table, column),
        kind: Kind::Transformation,
        logic: logic.to_owned(),
    };
    let mut edges = vec![row("the change as JSON, each value in its text form", RAW_DATA)];
    let columns = known.relation.into_iter().flat_map(|relation| &relation.columns);
    for column in columns.filter(|column| !column.hidden) {
        let (kind, logic) = match masks.find(model, &column.name, known) {
            Some(mask) => (Kind::Masking, format!("mask: {}", mask.word())),
            None => (Kind::Transformation, format!("after ->> '{}'", column.name)),
        };
        let source = Cell::new(&source, &column.name);
        edges.push(Edge { source, target: Cell::new(&table, RAW_DATA), kind, logic });
    }
    edges.extend(RAW.iter().map(|(column, logic)| row(logic, column)));
    edges
}
