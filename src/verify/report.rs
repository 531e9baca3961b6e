//! What a comparison has found.

use serde_json::{Value, json};

use crate::names::TableName;

/// A key whose row differs. Values are never told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The key.
    pub key: String,
    /// In which way.
    pub what: String,
}

/// One table.
#[derive(Clone, Debug)]
pub struct TableReport {
    /// The warehouse table.
    pub table: TableName,
    /// Rows compared.
    pub rows: u64,
    /// Keys that differ.
    pub differing: u64,
    /// Those of them that wait behind dead letters.
    pub waiting: u64,
    /// The first of them.
    pub differences: Vec<Difference>,
    /// Keys that changed whenever they were looked at.
    pub changing: u64,
    /// Versions that overlap.
    pub overlaps: u64,
    /// Keys with two current versions.
    pub double_currents: u64,
    /// Rows whose locator is wrong.
    pub locator: u64,
    /// The first keys of those three.
    pub broken: Vec<Difference>,
    /// Why it was not compared though it could be: it is stopped, or being read.
    pub skipped: Option<String>,
    /// Why it cannot be compared.
    pub not_comparable: Option<String>,
    /// Columns that are masked, and so not compared.
    pub masked: Vec<String>,
}

impl Default for TableReport {
    fn default() -> TableReport {
        TableReport {
            table: TableName::new("", ""),
            rows: 0,
            differing: 0,
            waiting: 0,
            differences: Vec::new(),
            changing: 0,
            overlaps: 0,
            double_currents: 0,
            locator: 0,
            broken: Vec::new(),
            skipped: None,
            not_comparable: None,
            masked: Vec::new(),
        }
    }
}

impl TableReport {
    /// So many records of its topics were not read as it was compared: that it differs says nothing.
    pub fn wait_for(&mut self, unread: i64) {
        let what =
            if unread == 1 { "record of its topics is" } else { "records of its topics are" };
        let until = "verify again when siltstone status says that it has caught up";
        self.skipped = Some(format!("{unread} {what} not read yet; {until}"));
        (self.differing, self.waiting) = (0, 0);
        self.differences.clear();
    }

    /// The table's part of the report for a machine.
    pub fn to_json(&self) -> Value {
        let named = self.differences.iter().chain(&self.broken);
        let differences: Vec<Value> =
            named.map(|d| json!({ "key": d.key, "what": d.what })).collect();
        let skipped = self.skipped.as_ref().or(self.not_comparable.as_ref());
        json!({
            "table": self.table.to_string(),
            "equal": self.is_equal() && skipped.is_none(),
            "rows": self.rows,
            "differing": self.differing,
            "waiting": self.waiting,
            "differences": differences,
            "changing": self.changing,
            "overlaps": self.overlaps,
            "double_currents": self.double_currents,
            "wrong_locators": self.locator,
            "masked": self.masked,
            "skipped": skipped,
        })
    }

    fn is_equal(&self) -> bool {
        self.differing == 0 && self.locator == 0 && self.overlaps == 0 && self.double_currents == 0
    }
}

/// All tables.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// The tables.
    pub tables: Vec<TableReport>,
}

impl Report {
    /// Whether everything was compared and is as it should be.
    pub fn passed(&self) -> bool {
        let fine = |table: &TableReport| table.is_equal() && table.skipped.is_none();
        self.tables.iter().all(fine)
    }

    fn comparable(&self) -> impl Iterator<Item = &TableReport> {
        self.tables.iter().filter(|t| t.skipped.is_none() && t.not_comparable.is_none())
    }

    /// Tables compared.
    pub fn compared(&self) -> u64 {
        u64::try_from(self.comparable().count()).unwrap_or(u64::MAX)
    }

    /// Rows compared.
    pub fn rows(&self) -> u64 {
        self.comparable().map(|table| table.rows).sum()
    }

    /// Versions that overlap.
    pub fn overlaps(&self) -> u64 {
        self.tables.iter().map(|table| table.overlaps).sum()
    }

    /// Keys with two current versions.
    pub fn double_currents(&self) -> u64 {
        self.tables.iter().map(|table| table.double_currents).sum()
    }

    /// The tables that differ.
    pub fn different(&self) -> Vec<String> {
        let different = self.tables.iter().filter(|table| !table.is_equal());
        different.map(|table| table.table.to_string()).collect()
    }

    /// The tables that could not be compared as they are.
    pub fn skipped(&self) -> Vec<String> {
        let skipped = self.tables.iter().filter(|table| table.skipped.is_some());
        skipped.map(|table| table.table.to_string()).collect()
    }

    /// Everything that a person should know beside the verdict, a line each.
    pub fn findings(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for table in &self.tables {
            let name = &table.table;
            if let Some(why) = &table.skipped {
                lines.push(format!("{name}: not compared: {why}"));
            }
            if let Some(why) = &table.not_comparable {
                lines.push(format!("{name}: not compared: {why}"));
            }
            if !table.masked.is_empty() && table.skipped.is_none() && table.not_comparable.is_none()
            {
                let columns = table.masked.join(", ");
                lines.push(format!("{name}: masked, and so not compared: {columns}"));
            }
            for difference in table.differences.iter().chain(&table.broken) {
                lines.push(format!("{name}: {}: {}", difference.key, difference.what));
            }
            let more = table.differing.saturating_sub(table.differences.len() as u64);
            if more > 0 {
                lines.push(format!("{name}: {more} more keys differ"));
            }
            let counted = [
                (table.locator, "rows with a wrong locator"),
                (table.overlaps, "versions that overlap"),
                (table.double_currents, "keys with two current versions"),
            ];
            for (count, what) in counted.into_iter().filter(|(count, _)| *count > 0) {
                lines.push(format!("{name}: {count} {what}"));
            }
            if table.changing > 0 {
                let changing = table.changing;
                lines.push(format!("{name}: {changing} keys changed whenever they were looked at"));
            }
            if table.waiting > 0 {
                // read again, a row that is refused would stop the table
                lines.push(
                    "  remedy: siltstone dead-letter list says why, and what then is done"
                        .to_owned(),
                );
            }
            if table.differing > table.waiting || table.locator > 0 {
                lines.push(format!("  remedy: siltstone table resync {name:#}"));
            }
            if table.overlaps > 0 || table.double_currents > 0 {
                let what = "which makes its history anew from the events in its raw table";
                lines.push(format!("  remedy: siltstone table resync {name:#} --from raw, {what}"));
            }
        }
        lines
    }
}
