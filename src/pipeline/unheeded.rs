//! Columns that a mart's query reads and `when` leaves out: a change of one would leave the mart as it was, without a
//! word.

use std::collections::BTreeSet;

use crate::error::{Error, Kind, Result};
use crate::lineage::{Cell, Tables, columns_of, reads};
use crate::names::TableName;
use crate::refresh::Shape;
use crate::spec::{Deletes, History, Mart, MartRead, Model, Spec, tokens};

/// What a table has that no row can change without its mark, or that no mart can read.
const SYSTEM: [&str; 6] = ["cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"];

/// What a version has of its own: that one was closed as an alike one opened behind it changes nothing for a mart
/// that names what it compares.
const OF_A_VERSION: [&str; 3] = ["valid_from", "valid_to", "is_current"];

/// A table as it is known, where it is.
struct Known {
    table: TableName,
    columns: Vec<String>,
    /// what need not be named
    stays: Vec<String>,
}

/// Refuses marts of the files whose `when` leaves out what they read of declared tables, as far as files alone tell.
pub fn refuse_unheeded(spec: &Spec) -> Result<()> {
    let known: Vec<Known> = spec.models.iter().filter_map(of_file).collect();
    let mut tables = Tables::default();
    for (known, model) in known.iter().zip(spec.models.iter().filter(|model| is_judged(model))) {
        tables.add(&known.table, known.columns.clone());
        tables.add_view(&model.current_view(), &known.table, known.columns.clone());
    }
    spec.marts.iter().try_for_each(|mart| refuse(mart, &tables, &known))
}

/// Rows of events are never changed, and what has no key is told of by all of its columns.
fn is_judged(model: &Model) -> bool {
    matches!(model.history, History::Overwrite | History::Versions)
}

fn of_file(model: &Model) -> Option<Known> {
    if !is_judged(model) {
        return None;
    }
    let columns = columns_of(model);
    let by = model.partition.iter().map(|partition| partition.by.clone());
    let mut stays: Vec<String> = model.key.iter().cloned().chain(by).collect();
    if model.history == History::Versions {
        stays.extend(OF_A_VERSION.map(str::to_owned));
    }
    // what is written with each change is no reason to name it
    let told = |name: &String| model.deletes == Deletes::Soft && name == "_deleted_at";
    let ours = columns.iter().filter(|name| crate::spec::OURS.contains(&name.as_str()));
    stays.extend(ours.filter(|name| !told(name)).cloned());
    Some(Known { table: model.table.clone(), columns, stays })
}

/// As [`refuse_unheeded`], by what the warehouse says of the tables that one mart reads.
pub(super) fn refuse_shape(shape: &Shape) -> Result<()> {
    let mut tables = Tables::default();
    let inputs = shape.inputs.iter().zip(&shape.columns_of_inputs);
    // a change of a row without key is told of whatever changed
    let keyed = inputs.filter(|(input, _)| !input.key.is_empty());
    let known: Vec<Known> = keyed
        .map(|(input, columns)| {
            let table = input.read.table.clone();
            tables.add(&table, columns.clone());
            let mut stays = input.key.clone();
            if input.versions {
                stays.extend(OF_A_VERSION.map(str::to_owned));
            }
            let ours = crate::spec::OURS.iter().filter(|name| **name != "_deleted_at");
            stays.extend(ours.map(|name| (*name).to_owned()));
            Known { table, columns: columns.clone(), stays }
        })
        .collect();
    let refused = refuse(&shape.mart, &tables, &known);
    refused
        .map_err(|error| error.with_kind(Kind::TableStops).on_table(shape.mart.table.to_string()))
}

fn refuse(mart: &Mart, tables: &Tables, known: &[Known]) -> Result<()> {
    if mart.reads.iter().all(|read| read.when.is_empty()) {
        return Ok(());
    }
    let read_of = reads(&mart.query, tables);
    for (at, read) in mart.reads.iter().enumerate().filter(|(_, read)| !read.when.is_empty()) {
        let Some(known) = known.iter().find(|known| known.table == read.table) else { continue };
        let left_out = left_out(read, known, &read_of);
        if left_out.is_empty() {
            continue;
        }
        let line = mart.when_lines.get(at).copied().flatten().unwrap_or(1);
        let (file, table, names) = (&mart.declared_in, &read.table, left_out.join(", "));
        let what = format!(
            "{file}:{line}: reads.{table}.when: the query reads {names}, whose change the mart would not be told of"
        );
        let all: Vec<&str> = read.when.iter().map(String::as_str).chain(left_out).collect();
        let all = all.join(", ");
        let remedy =
            format!("write when: [{all}], or remove when: a change of any column counts then");
        return Err(Error::new(Kind::Config, what).remedy(remedy));
    }
    Ok(())
}

/// The columns of a table that are read and not named, in the order of the table.
fn left_out<'k>(read: &MartRead, known: &'k Known, read_of: &BTreeSet<Cell>) -> Vec<&'k str> {
    let touches = read.touches.as_deref().unwrap_or_default();
    // what tells the row's group is compared as well
    let touched: Vec<String> = tokens(touches).map(|(_, token)| token).collect();
    let all = touched.iter().any(|token| token == "*" || token == "natural");
    let table = read.table.to_string();
    let is_told = |name: &str| {
        all || SYSTEM.contains(&name)
            || touched.iter().any(|token| token == name)
            || read.when.iter().any(|named| named == name)
            || known.stays.iter().any(|stays| stays == name)
    };
    let read_of = |name: &str| read_of.contains(&Cell::new(&table, name));
    let columns = known.columns.iter().map(String::as_str);
    columns.filter(|name| read_of(name) && !is_told(name)).collect()
}
