//! Tasks that write down what a run found, for people to read. Says where to, never what.

use std::path::{Component, Path};

use super::file::{File, Given};
use super::tasks::TaskKind;
use crate::error::Result;

/// Where a run's report goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// The file below the root, with variables as a command has them: `reports/quality-{ds}.html`.
    pub path: String,
    /// How it is written, by its name's end.
    pub form: ReportForm,
}

/// How a report is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportForm {
    /// A page for a browser.
    Html,
    /// Text with tables.
    Markdown,
}

/// Reads where a task's report goes.
pub(super) fn report(file: &File<'_>, field: &str, given: Option<&Given>) -> Result<TaskKind> {
    const REMEDY: &str =
        "write a file below the folder of siltstone.yaml, such as \"reports/{ds}.html\"";
    let Some(given) = given else { return Err(file.refuse(field, "it is missing", "add it")) };
    let path = file.text(field, given)?;
    let refuse = |why: String| Err(file.refuse_given(field, given, &why, REMEDY));
    let mut parts = Path::new(&path).components();
    if path.is_empty() || !parts.all(|part| matches!(part, Component::Normal(_))) {
        return refuse(format!("{path:?} is not a file below the one of siltstone.yaml"));
    }
    let form = match Path::new(&path).extension().and_then(|end| end.to_str()) {
        Some("html") => ReportForm::Html,
        Some("md") => ReportForm::Markdown,
        _ => return refuse(format!("{path:?} ends neither in .html nor in .md")),
    };
    Ok(TaskKind::Report(Report { path, form }))
}
