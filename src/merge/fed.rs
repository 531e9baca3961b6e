//! What feeds the columns of a table, and what becomes of its rows that go: as it is noted beside the table, and
//! the steps where a file says otherwise. The warehouse's catalogue shows nothing of either.
//!
//! Pure.

use std::collections::BTreeMap;

use super::differ::{Class, Lock, Step};
use super::standing::Standing;
use crate::postgres::quote;
use crate::spec::{Deletes, History, Model};

/// What is noted of a table that is fed by its model, as JSON.
pub fn feeds(model: &Model) -> String {
    let columns: BTreeMap<&str, &str> =
        model.columns.iter().map(|column| (column.name.as_str(), column.from.as_str())).collect();
    serde_json::json!({ "columns": columns, "deletes": word(model.deletes) }).to_string()
}

fn word(deletes: Deletes) -> &'static str {
    match deletes {
        Deletes::Hard => "hard",
        Deletes::Soft => "soft",
        Deletes::Close => "close",
        Deletes::Row => "row",
        Deletes::Ignore => "ignore",
    }
}

/// The steps behind which a table that was fed as `noted` holds what its model says. Its rows are read again for
/// that; events cannot be, and versions that ended are what was known then. Of a table of which nothing is noted
/// nothing is known to differ. `standing` is none where all columns that come are filled by themselves.
pub fn fed_otherwise(model: &Model, standing: Option<&Standing>, noted: Option<&str>) -> Vec<Step> {
    let noted = noted.and_then(|noted| serde_json::from_str::<serde_json::Value>(noted).ok());
    let Some(noted) = noted.filter(|_| model.history != History::Raw) else { return Vec::new() };
    let mut steps = Vec::new();
    for column in &model.columns {
        let (name, from) = (&column.name, &column.from);
        let was = noted["columns"][name].as_str();
        let stands = standing.is_some_and(|standing| standing.has(name));
        let what = match was {
            Some(was) if was == from => continue,
            Some(was) => format!("fill {name} from {from}, not {was}"),
            None if stands => format!("fill {name} from {from} again"),
            // its coming fills it
            None => continue,
        };
        steps.push(reading(model, what));
    }
    steps.extend(of_deletes(model, noted["deletes"].as_str().unwrap_or_default()));
    steps
}

/// A step, in words alone, for each column that was fed as `noted` and that the model lists no more: it goes stale
/// in silence otherwise. Of mirrored tables the source takes columns out. `standing` is none where nobody looked.
pub fn fed_no_more(model: &Model, standing: Option<&Standing>, noted: Option<&str>) -> Vec<Step> {
    let noted = noted.and_then(|noted| serde_json::from_str::<serde_json::Value>(noted).ok());
    let noted = noted.filter(|_| !model.mirrored && model.history != History::Raw);
    let columns = noted.as_ref().and_then(|noted| noted["columns"].as_object());
    let gone = columns.into_iter().flatten().map(|(name, _)| name).filter(|name| {
        let listed = model.column(name).is_some() || model.has_lookup(name);
        !listed && standing.is_none_or(|standing| standing.has(name))
    });
    let step = |name: &String| {
        let drop = format!("alter table {} drop column {}", model.quoted(), quote::ident(name));
        let drop = match model.history {
            History::Versions => {
                let view = model.current_view();
                let shown = quote::table(&view);
                format!("drop view {shown}; {drop}; then siltstone apply, which makes {view} again")
            }
            _ => drop,
        };
        let what = format!("feed {name} no more: it keeps what it holds; to take it out: {drop}");
        Step::new(what, Vec::new(), Lock::None)
    };
    gone.map(step).collect()
}

fn reading(model: &Model, what: String) -> Step {
    let keeps = match model.history {
        History::Append => ", from now on: the events that are there keep what they have",
        History::Versions => "; versions that have ended keep what they have",
        _ => "",
    };
    let step = Step::new(format!("{what}{keeps}"), Vec::new(), Lock::None);
    Step { reads: !model.history.logs_events(), ..step }
}

/// What went while the file said otherwise. Nothing brings back rows that are gone already.
fn of_deletes(model: &Model, was: &str) -> Option<Step> {
    let (what, class) = match (was, model.deletes) {
        ("ignore", Deletes::Soft) => ("mark", Class::Safe),
        ("ignore", Deletes::Close) => ("close", Class::Safe),
        ("ignore" | "soft", Deletes::Hard) => ("delete", Class::Destructive),
        _ => return None,
    };
    let what =
        format!("{what} the rows that the source has no more, for delete: {}", word(model.deletes));
    Some(Step { class, reads: true, ..Step::new(what, Vec::new(), Lock::None) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::names::TableName;
    use crate::spec::{ModelColumn, NewColumns, SourceName};

    fn model(history: History, deletes: Deletes, columns: &[(&str, &str)]) -> Model {
        let column = |(name, from): &(&str, &str)| ModelColumn {
            name: (*name).to_owned(),
            from: (*from).to_owned(),
            ty: "text".to_owned(),
            required: false,
            mask: None,
            fill: None,
            comment: None,
        };
        let table = TableName::new("cleansed", "users");
        Model {
            from: SourceName { source: "shop".to_owned(), table: table.clone() },
            table,
            history,
            key: vec!["id".to_owned()],
            track: Vec::new(),
            since: None,
            columns: columns.iter().map(column).collect(),
            lookups: Vec::new(),
            partition: None,
            indexes: Vec::new(),
            deletes,
            new_columns: NewColumns::Ignore,
            keep: None,
            horizon: None,
            mirrored: false,
            comment: None,
            declared_in: "schemas/users.yaml".to_owned(),
        }
    }

    fn told(was: &Model, now: &Model) -> Vec<(String, bool)> {
        let steps = fed_otherwise(now, None, Some(&feeds(was)));
        steps.into_iter().map(|step| (step.what, step.reads)).collect()
    }

    #[test]
    fn another_source_column_is_read_again_where_it_can_be() {
        let (old, new) = ([("id", "id"), ("email", "email")], [("id", "id"), ("email", "work")]);
        let read = |history, reads: bool, behind: &str| {
            let (was, now) =
                (model(history, Deletes::Hard, &old), model(history, Deletes::Hard, &new));
            let what = format!("fill email from work, not email{behind}");
            assert_eq!(told(&was, &now), [(what, reads)]);
            assert_eq!(told(&was, &was), []);
        };
        read(History::Overwrite, true, "");
        read(History::Versions, true, "; versions that have ended keep what they have");
        read(
            History::Append,
            false,
            ", from now on: the events that are there keep what they have",
        );
        // nothing is noted, and columns that come or are listed no more
        let now = model(History::Overwrite, Deletes::Hard, &new);
        assert_eq!(fed_otherwise(&now, None, None), []);
        assert_eq!(told(&model(History::Overwrite, Deletes::Hard, &old[..1]), &now), []);
        assert_eq!(told(&now, &model(History::Overwrite, Deletes::Hard, &old[..1])), []);
    }

    #[test]
    fn a_column_that_is_listed_no_more_is_told_of_with_what_drops_it() {
        let both = [("id", "id"), ("Email", "email")];
        let told = |history| {
            let (was, now) =
                (model(history, Deletes::Hard, &both), model(history, Deletes::Hard, &both[..1]));
            assert_eq!(fed_no_more(&was, None, Some(&feeds(&was))), []);
            assert_eq!(fed_no_more(&now, None, Some(&feeds(&now))), []);
            let steps = fed_no_more(&now, None, Some(&feeds(&was)));
            assert!(steps.iter().all(|step| step.statements.is_empty() && !step.reads));
            steps.into_iter().map(|step| step.what).collect::<Vec<_>>()
        };
        let drop = "alter table \"cleansed\".\"users\" drop column \"Email\"";
        let what = "feed Email no more: it keeps what it holds; to take it out";
        assert_eq!(told(History::Overwrite), [format!("{what}: {drop}")]);
        let view = "drop view \"cleansed\".\"users_current\"";
        let again = "then siltstone apply, which makes cleansed.users_current again";
        assert_eq!(told(History::Versions), [format!("{what}: {view}; {drop}; {again}")]);
        assert_eq!(told(History::Raw), Vec::<String>::new());
    }

    #[test]
    fn rows_that_went_are_dealt_with_as_the_file_says_now() {
        let of = |deletes| model(History::Overwrite, deletes, &[("id", "id")]);
        let class = |was, now| {
            let steps = fed_otherwise(&of(now), None, Some(&feeds(&of(was))));
            steps.first().map(|step| (step.class, step.reads))
        };
        assert_eq!(class(Deletes::Ignore, Deletes::Soft), Some((Class::Safe, true)));
        assert_eq!(class(Deletes::Ignore, Deletes::Hard), Some((Class::Destructive, true)));
        assert_eq!(class(Deletes::Soft, Deletes::Hard), Some((Class::Destructive, true)));
        assert_eq!(class(Deletes::Hard, Deletes::Soft), None);
        assert_eq!(class(Deletes::Soft, Deletes::Ignore), None);
    }
}
