//! What a check of each kind says, read from its fields.

use indexmap::IndexMap;
use serde::Deserialize;

use super::checks::{Reader, at};
use super::columns::known_column;
use super::file::Given;
use super::quality::{Bounds, CheckKind, Freshness, Relationship, Season, Volume};
use super::scalar::Scalar;
use super::script::{self, Part};
use super::tasks::Open;
use super::units::Span;
use crate::error::{Error, Kind, Result};

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawBounds {
    min: Option<Given>,
    max: Option<Given>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawFreshness {
    max_age: Option<Given>,
    calendar: Option<Given>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawVolume {
    per: Option<Given>,
    by: Option<Given>,
    seasonality: Option<Given>,
    sensitivity: Option<Given>,
    ignore_below: Option<Given>,
}

impl Reader<'_> {
    pub(super) fn accepted(&self, raw: &IndexMap<String, Vec<Given>>) -> Result<CheckKind> {
        let mut accepted = Vec::new();
        for (name, values) in raw {
            let field = format!("accepted_values.{name}");
            let column = self.column("accepted_values", name)?;
            let values = values.iter().map(|given| self.file.text(&at(&field), given));
            let values: Vec<String> = values.collect::<Result<_>>()?;
            if values.is_empty() {
                return Err(self.refuse(&field, "no value is accepted", "name at least one"));
            }
            accepted.push((column, values));
        }
        self.some("accepted_values", !accepted.is_empty())?;
        Ok(CheckKind::AcceptedValues(accepted))
    }

    pub(super) fn related(&self, raw: &IndexMap<String, Given>) -> Result<CheckKind> {
        let mut related = Vec::new();
        for (name, given) in raw {
            let field = at(&format!("relationships.{name}"));
            let column = self.column("relationships", name)?;
            let text = self.file.text(&field, given)?;
            let split = text.rsplit_once('.').filter(|(_, other)| !other.is_empty());
            let split = split.and_then(|(table, other)| Some((table.parse().ok()?, other)));
            let Some((table, other)) = split else {
                let why = format!("{text:?} is no column of a table");
                let remedy = format!("write schema.table.{name}");
                return Err(self.file.refuse_given(&field, given, &why, &remedy));
            };
            related.push(Relationship { column, table, other: other.to_owned() });
        }
        self.some("relationships", !related.is_empty())?;
        Ok(CheckKind::Relationships(related))
    }

    pub(super) fn ranges(&self, raw: &IndexMap<String, RawBounds>) -> Result<CheckKind> {
        let mut ranges = Vec::new();
        for (name, bounds) in raw {
            let field = format!("range.{name}");
            let column = self.column("range", name)?;
            self.bounded(&field, bounds)?;
            let read = |which: &str, given: &Option<Given>| {
                let field = at(&format!("{field}.{which}"));
                given.as_ref().map(|given| self.file.text(&field, given)).transpose()
            };
            let (min, max) = (read("min", &bounds.min)?, read("max", &bounds.max)?);
            ranges.push((column, Bounds { min, max }));
        }
        self.some("range", !ranges.is_empty())?;
        Ok(CheckKind::Range(ranges))
    }

    pub(super) fn row_count(&self, raw: &RawBounds) -> Result<CheckKind> {
        self.bounded("row_count", raw)?;
        let read = |which: &str, given: &Option<Given>| {
            let field = at(&format!("row_count.{which}"));
            let rows = given.as_ref().map(|given| self.file.parse::<Rows>(&field, given));
            Ok::<_, Error>(rows.transpose()?.map(|Rows(rows)| rows))
        };
        let (min, max) = (read("min", &raw.min)?, read("max", &raw.max)?);
        if min.zip(max).is_some_and(|(min, max)| min > max) {
            let remedy = "write the smaller number as min";
            return Err(self.refuse("row_count", "no number is between the two", remedy));
        }
        Ok(CheckKind::RowCount(Bounds { min, max }))
    }

    fn bounded(&self, field: &str, raw: &RawBounds) -> Result<()> {
        let remedy = "write min, max or both, such as { min: 1 }";
        match raw.min.is_some() || raw.max.is_some() {
            true => Ok(()),
            false => Err(self.refuse(field, "there is no bound", remedy)),
        }
    }

    fn some(&self, field: &str, some: bool) -> Result<()> {
        match some {
            true => Ok(()),
            false => Err(self.refuse(field, "no column is named", "name at least one")),
        }
    }

    pub(super) fn freshness(&self, raw: &RawFreshness) -> Result<CheckKind> {
        let Some(given) = &raw.max_age else {
            let remedy = "add max_age, such as { max_age: 15m }";
            return Err(self.refuse("freshness", "nothing says what is too old", remedy));
        };
        let Span(most) = self.file.parse(&at("freshness.max_age"), given)?;
        let calendar = raw.calendar.as_ref();
        let calendar = calendar.map(|given| self.file.parse(&at("freshness.calendar"), given));
        Ok(CheckKind::Freshness(Freshness { most, calendar: calendar.transpose()? }))
    }

    pub(super) fn volume(&self, raw: &RawVolume) -> Result<CheckKind> {
        let file = self.file;
        let field = |below: &str| at(&format!("volume.{below}"));
        let hours = file.choice(&field("per"), raw.per.as_ref(), &["day", "hour"])? == "hour";
        let seasons: &[&'static str] = match hours {
            true => &["hour_of_week", "hour_of_day", "none"],
            false => &["day_of_week", "none"],
        };
        let season = file.choice(&field("seasonality"), raw.seasonality.as_ref(), seasons)?;
        let by = match (&raw.by, self.known(), &self.subject.by) {
            (Some(given), Some(known), _) => known_column(file, &field("by"), given, &known)?,
            (Some(given), None, _) => file.text(&field("by"), given)?,
            (None, _, Some(by)) => by.clone(),
            (None, _, None) => {
                let why = "nothing says what day a row belongs to";
                let remedy = "add by, with a column of days or moments, such as by: created_at";
                return Err(self.refuse("volume", why, remedy));
            }
        };
        let is_day = self.subject.times.iter().find(|(name, _)| *name == by).map(|(_, day)| *day);
        if self.subject.columns.is_some() && is_day.is_none_or(|day| day && hours) {
            let what = if is_day.is_some() { "an hour" } else { "a day" };
            let why = format!("{by} does not tell {what}");
            let remedy = "write by, with a column of type date, timestamp or timestamptz";
            return Err(self.refuse("volume", &why, remedy));
        }
        let Sensitivity(sensitivity) =
            file.parse_or(&field("sensitivity"), raw.sensitivity.as_ref(), Sensitivity(3.0))?;
        let Rows(ignore_below) =
            file.parse_or(&field("ignore_below"), raw.ignore_below.as_ref(), Rows(10))?;
        let season = match season {
            "day_of_week" => Season::DayOfWeek,
            "hour_of_day" => Season::HourOfDay,
            "hour_of_week" => Season::HourOfWeek,
            _ => Season::None,
        };
        Ok(CheckKind::Volume(Volume { by, hours, season, sensitivity, ignore_below }))
    }

    pub(super) fn sql(&self, given: &Given, open: Open<'_>) -> Result<CheckKind> {
        let path = self.file.text(&at("sql"), given)?;
        let text = open(&path).map_err(|error| {
            let why = format!("{path} cannot be read: {error}");
            let remedy = "write a path from the folder of siltstone.yaml";
            self.file.refuse_given(&at("sql"), given, &why, remedy)
        })?;
        let flawed = |line: usize, why: &str, remedy: &str| {
            Error::new(Kind::Config, format!("{path}:{line}: sql: {why}")).remedy(remedy)
        };
        let script =
            script::read(&text).map_err(|flaw| flawed(flaw.line, &flaw.why, &flaw.remedy))?;
        let [statement] = script.statements.as_slice() else {
            let line = script.statements.get(1).map_or(1, |second| second.line);
            return Err(flawed(line, "a check is one query", "write one SELECT"));
        };
        let query = match statement.parts.as_slice() {
            [Part::Text(query)] => query.trim().to_owned(),
            _ => {
                let why = "a check knows no variables";
                return Err(flawed(statement.line, why, "compare with columns of the table"));
            }
        };
        let first = query.split(|c: char| !c.is_alphanumeric()).next().unwrap_or_default();
        let reads = ["select", "with", "values"].contains(&first.to_lowercase().as_str());
        if !reads && !query.starts_with('(') {
            let why = "it is no query";
            return Err(flawed(statement.line, why, "write a SELECT of the rows that are wrong"));
        }
        Ok(CheckKind::Sql { path, query })
    }
}

/// A number of rows.
struct Rows(u64);

impl Scalar for Rows {
    const REMEDY: &'static str = "write a whole number";

    fn read(text: &str) -> Result<Rows, String> {
        let number = text.parse().ok().filter(|number| *number <= i64::MAX.unsigned_abs());
        number.map(Rows).ok_or_else(|| format!("{text:?} is not a number of rows"))
    }
}

/// How many usual deviations are too many.
struct Sensitivity(f64);

impl Scalar for Sensitivity {
    const REMEDY: &'static str = "write a number from 1 to 100, such as 3";

    fn read(text: &str) -> Result<Sensitivity, String> {
        let number = text.parse().ok().filter(|number| (1.0..=100.0).contains(number));
        number.map(Sensitivity).ok_or_else(|| format!("{text:?} is not a number that fits"))
    }
}
