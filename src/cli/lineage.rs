//! `siltstone lineage`: what tables and columns come from, and what comes from them.

use std::process::ExitCode;

use super::Files;
use crate::error::{Error, Kind, Result};
use crate::lineage::{self, Cell, Way};
use crate::postgres::{Side, connect};
use crate::warehouse::refuse_unlike;

/// What a table or a column comes from, and what comes from it.
#[derive(clap::Args)]
pub(super) struct Lineage {
    /// The table, as schema.table or source.schema.table, or one of its columns behind another dot; without it all
    /// tables of which something is known.
    of: Option<String>,
    /// What it comes from; that is what is shown where nothing is said.
    #[arg(long, conflicts_with = "down")]
    up: bool,
    /// What comes from it.
    #[arg(long)]
    down: bool,
    /// As JSON, one dependence a line.
    #[arg(long)]
    json: bool,
}

impl Lineage {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let settings = files.known()?.settings;
        let session = connect(Side::Warehouse, &settings.warehouse, "siltstone lineage").await?;
        refuse_unlike(&*session).await?;
        let known = lineage::Lineage::new(lineage::read(&*session).await?);
        let Some(of) = &self.of else {
            known.tables().into_iter().for_each(|table| println!("{table}"));
            return Ok(ExitCode::SUCCESS);
        };
        let way = match (self.up, self.down) {
            (false, true) => Way::Down,
            _ => Way::Up,
        };
        let cells = meant(&known, of, way)?;
        if self.json {
            known.edges(&cells, way).iter().for_each(|edge| println!("{edge}"));
        } else if cells.is_empty() {
            let what =
                if self.down { "nothing comes from it" } else { "it comes from nothing here" };
            println!("{of}: {what}");
        } else {
            known.lines(&cells, way).iter().for_each(|line| println!("{line}"));
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The columns that are meant: those of a table, or one.
fn meant(known: &lineage::Lineage, of: &str, way: Way) -> Result<Vec<Cell>> {
    if known.knows(of) {
        return Ok(known.columns(of, way));
    }
    // names may have dots in them: the longest one that is a table's
    for (at, _) in of.match_indices('.').collect::<Vec<_>>().into_iter().rev() {
        let (table, column) = (of.get(..at).unwrap_or_default(), of.get(at + 1..));
        let cell = Cell::new(table, column.unwrap_or_default());
        let there = [Way::Up, Way::Down].map(|way| known.columns(table, way).contains(&cell));
        if there.contains(&true) {
            return Ok(if known.columns(table, way).contains(&cell) {
                vec![cell]
            } else {
                Vec::new()
            });
        }
    }
    let what = format!("nothing is known of {of}");
    Err(Error::new(Kind::Usage, what).remedy(
        "siltstone lineage names the tables; it is written down by siltstone run and siltstone apply",
    ))
}
