//! An extract of a table of a Postgres without a stream: its rows as one snapshot shows them, gathered in a table of
//! the session. Nothing is made at the source, and what it lacks is told with what mends it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use super::inspect::Report;
use crate::binding::bind;
use crate::capture::bounds::Bounds;
use crate::capture::catalog::{self, SourceTable};
use crate::capture::preflight::Finding;
use crate::capture::snapshot::{self, Part};
use crate::error::{Error, Kind, Result};
use crate::merge::{Gathered, RowDocuments};
use crate::postgres::{Pace, Session, Side, connect};
use crate::relation::{Relation, Wire};
use crate::spec::{Database, History, Model, Spec};
use crate::value::Row;

/// So many bytes of rows go to the warehouse at once.
const PORTION: usize = 4 << 20;

/// The pace is looked to after so many bytes.
const STEP: usize = 64 << 10;

/// How fast the extracts of each connector read, all together.
#[derive(Clone, Default)]
pub(super) struct Rates(Arc<Mutex<HashMap<String, Arc<Pace>>>>);

impl Rates {
    /// The pace of a connector; another one where its file names another rate by now.
    fn of(&self, database: &Database) -> Arc<Pace> {
        let mut paces = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Pace::new(database.max_rate));
        let pace = paces.entry(database.name.clone()).or_insert_with(new);
        if pace.rate() != database.max_rate {
            *pace = new();
        }
        pace.clone()
    }
}

/// A table that is read.
pub(super) struct TableReading<'r> {
    pub(super) spec: &'r Spec,
    pub(super) database: &'r Database,
    /// the raw table that its rows go to
    pub(super) raw: &'r Model,
    /// which rows; none for all
    pub(super) condition: Option<String>,
    pub(super) rates: &'r Rates,
    /// told of limits
    pub(super) bounds: Bounds,
}

/// Looks at the tables of a connector without a stream that something is extracted of. Changes nothing.
pub async fn inspect(spec: &Spec, database: &Database) -> Result<Report> {
    let (rates, mut report) = (Rates::default(), Report::default());
    let of_it = |model: &&Model| model.from.source == database.source;
    for raw in spec.models.iter().filter(of_it).filter(|model| model.history == History::Raw) {
        let (rates, bounds) = (&rates, Bounds::new(|_| {}));
        let reading = TableReading { spec, database, raw, condition: None, rates, bounds };
        // where one look fails the transaction is at an end
        let mut source = reading.connect("siltstone validate").await?;
        let under = snapshot::of_now(&mut source).await?;
        let looked = async {
            let relation = reading.shape(&under).await?.relation;
            snapshot::is_readable(&under, &relation).await?;
            let relation = Arc::new(relation);
            let feeds = spec.models.iter().filter(|model| model.from == raw.from);
            for model in feeds {
                bind(0, &Arc::new(model.clone()), &relation, 0, false)?;
                report.tables.push(format!("{} -> {}", raw.from.table, model.table));
            }
            Ok(())
        };
        if let Err(error) = looked.await.map_err(|error| reading.at_source(error)) {
            let remedy = error.remedy_text().unwrap_or_default().to_owned();
            report.findings.push(Finding { fatal: true, what: error.reason(), remedy });
        }
    }
    Ok(report)
}

impl TableReading<'_> {
    /// Gathers the rows; with the shape that they have.
    pub(super) async fn all(&self, warehouse: &mut Session) -> Result<(Gathered, Relation)> {
        let mut source = self.connect("siltstone extract").await?;
        let under = snapshot::of_now(&mut source).await?;
        let gathered = self.read(&under, warehouse).await;
        gathered.map_err(|error| self.at_source(error))
    }

    async fn connect(&self, application: &str) -> Result<Session> {
        let source = connect(Side::Source, self.database.rows_endpoint(), application).await;
        source.map_err(|error| {
            let remedy = match error.kind() {
                Kind::Rights => "mend url, or the role that it names",
                _ => "start the server, or mend url",
            };
            error.remedy(format!("{remedy}, in {}", self.database.file))
        })
    }

    async fn read(
        &self,
        under: &Transaction<'_>,
        warehouse: &mut Session,
    ) -> Result<(Gathered, Relation)> {
        let SourceTable { relation, partitioned, .. } = self.shape(under).await?;
        if !snapshot::is_readable(under, &relation).await? {
            let what = format!("{} was rewritten as its reading began", self.raw.from);
            return Err(Error::new(Kind::Busy, what).remedy("nothing: it is tried again"));
        }
        let wires: Vec<Wire> =
            relation.columns.iter().map(|column| column.source_wire(true)).collect();
        let part = Part { partitioned, condition: self.condition.as_deref() };
        let mut rows = snapshot::read(under, &relation, &wires, part).await?;
        let mut documents = RowDocuments::of(&relation, wires);
        let mut gathered = Gathered::begin(warehouse).await?;
        let pace = self.rates.of(self.database);
        let mut unpaced = 0;
        while let Some(cells) = rows.next().await? {
            self.fits(cells)?;
            unpaced += cells.len();
            documents.write(Row::from_bytes(cells))?;
            gathered.push(&documents.key, &documents.after);
            if unpaced >= STEP {
                self.keep(&pace, std::mem::take(&mut unpaced)).await;
            }
            if gathered.weight() >= PORTION {
                gathered.page(warehouse).await?;
            }
        }
        self.keep(&pace, unpaced).await;
        gathered.page(warehouse).await?;
        let twice = gathered.settle(warehouse).await?;
        match twice {
            0 => Ok((gathered, relation)),
            _ => Err(self.no_key(&relation, twice)),
        }
    }

    /// Keeps the pace.
    async fn keep(&self, pace: &Pace, bytes: usize) {
        if pace.rate().is_some() {
            let began = Instant::now();
            pace.keep(bytes).await;
            self.bounds.waited(began.elapsed());
        }
    }

    /// Refuses a row that is longer than any may be.
    fn fits(&self, cells: &[u8]) -> Result<()> {
        let most = self.spec.settings.max_row_bytes;
        if u64::try_from(cells.len()).is_ok_and(|length| length <= most) {
            return Ok(());
        }
        self.bounds.reached("max_row_bytes");
        let (from, length) = (&self.raw.from, cells.len());
        let what = format!("a row of {from} has {length} bytes, more than max_row_bytes allows");
        Err(Error::new(Kind::Config, what).remedy(format!(
            "raise it in siltstone.yaml, or name the long column in exclude of {}",
            self.database.file
        )))
    }

    /// The table as it is, without what never leaves the source.
    async fn shape(&self, under: &Transaction<'_>) -> Result<SourceTable> {
        let (from, file) = (&self.raw.from, &self.database.file);
        let lacks =
            |what: String, remedy: String| Err(Error::new(Kind::SourceLacks, what).remedy(remedy));
        let Some(oid) = catalog::oid(under, &from.table).await? else {
            let remedy = format!(
                "make it there, see url in {file}, or name another table in from of {}",
                self.raw.declared_in
            );
            return lacks(format!("the source has no table {}", from.table), remedy);
        };
        let Some(mut table) = catalog::table(under, oid).await? else {
            let what = format!(
                "{} is a view, a leaf, or a temporary or unlogged table at the source",
                from.table
            );
            return lacks(what, format!("name a table in from of {}", self.raw.declared_in));
        };
        let relation = &mut table.relation;
        relation.columns.retain(|column| !self.database.excludes(&from.table, &column.name));
        // it says when rows were rewritten, which a reading of all of them need not know
        relation.filenode = 0;
        let feeds = || {
            let models = self.spec.models.iter();
            models.filter(|model| model.from == *from && model.history != History::Raw)
        };
        for model in feeds() {
            let gone = |of: &&crate::spec::ModelColumn| relation.column(&of.from).is_none();
            let Some(column) = model.columns.iter().find(gone) else { continue };
            let (table, name, declared) = (&from.table, &column.from, &model.declared_in);
            let what = format!(
                "the source's {table} has no column {name}, which feeds {} of {}",
                column.name, model.table
            );
            return lacks(what, format!("put it back, or remove {} from {declared}", column.name));
        }
        if relation.key().next().is_none() {
            // a file that knows better than the source
            let key: Vec<&str> = feeds().next().map(key_of).unwrap_or_default();
            for column in &mut relation.columns {
                column.in_key = key.contains(&column.name.as_str());
            }
        }
        let is_keyed = relation.key().next().is_some();
        if is_keyed { Ok(table) } else { Err(self.no_key(&table.relation, 0)) }
    }

    /// Rows that nothing tells apart.
    fn no_key(&self, relation: &Relation, twice: u64) -> Error {
        let from = &self.raw.from;
        let key: Vec<&str> = relation.key().collect();
        let what = match twice {
            0 => format!("{from} has no primary key, and no file in schemas/ says what its key is"),
            _ => format!("{twice} rows of {from} have the {} of another one", key.join(", ")),
        };
        Error::new(Kind::Config, what).remedy(format!(
            "give it a primary key at the source, or declare a table in schemas/ with from: {from} and the key by \
             which its rows are told apart"
        ))
    }

    /// A failure of the reading, with what mends it.
    fn at_source(&self, error: Error) -> Error {
        let (from, file) = (&self.raw.from, &self.database.file);
        let code = error.code().cloned();
        match code {
            Some(SqlState::INSUFFICIENT_PRIVILEGE) => {
                error.remedy(format!("{}, see {file}", snapshot::right_to_read(&from.table)))
            }
            // it went between two looks, or the condition names it
            Some(SqlState::UNDEFINED_TABLE | SqlState::UNDEFINED_COLUMN) => {
                let error = error.with_kind(Kind::SourceLacks);
                error.remedy(format!(
                    "put it back at the source of {file}, or mend the task's where"
                ))
            }
            Some(_) if error.remedy_text().is_none() && self.condition.is_some() => {
                error.remedy("see where of the task")
            }
            _ if error.remedy_text().is_none() => error.remedy(format!("see {file}")),
            _ => error,
        }
    }
}

/// The source columns of a table's key.
fn key_of(model: &Model) -> Vec<&str> {
    let columns = model.key.iter().filter_map(|name| model.column(name));
    columns.map(|column| column.from.as_str()).collect()
}
