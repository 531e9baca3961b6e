//! Writes down, for people to read, what became of a run's tasks and of the checks that they judged.
//!
//! Reads control tables only, never a row of anybody's table; a reason is told as the task gave it. The file is
//! written under another name and renamed then: who opens it sees a whole one. The same run, and another one of its
//! date, writes it anew.

use std::path::{Path, PathBuf};

use jiff::Timestamp;
use minijinja::{AutoEscape, Environment, UndefinedBehavior};
use serde::Serialize;
use tokio_postgres::{GenericClient, Row};

use super::{Outcome, Work};
use crate::error::{Error, Kind, Result};
use crate::schedule::attempt::Attempt;
use crate::spec::{Report, ReportForm, Variable};

const HTML: &str = include_str!("report.html");
const MARKDOWN: &str = include_str!("report.md");

/// What a report tells.
#[derive(Debug, Serialize)]
struct Page {
    job: String,
    run: i64,
    ds: String,
    interval_start: String,
    interval_end: String,
    written_at: String,
    tasks: Vec<TaskLine>,
    checks: Vec<CheckLine>,
    /// checks that fail, by severity `fail`
    failing: usize,
    /// and by severity `warn`
    warned: usize,
}

#[derive(Debug, Serialize)]
struct TaskLine {
    name: String,
    state: String,
    tries: i32,
    seconds: Option<String>,
    reason: Option<String>,
}

#[derive(Debug, Serialize)]
struct CheckLine {
    table: String,
    name: String,
    status: String,
    expected: Option<String>,
    actual: Option<String>,
    failing: Option<i64>,
    checked: Option<i64>,
    error: Option<String>,
}

pub(super) async fn run(work: &Work<'_>, report: &Report) -> Result<Outcome> {
    let page = {
        let session = work.session().await?;
        page(&*session, work.attempt, work.hands.clock.now()).await?
    };
    let text = render(&page, report.form)?;
    let file = work.hands.root.join(work.attempt.filled(&report.path));
    let (ours, at) = (format!("{}-{}", work.attempt.run, work.attempt.number), file.clone());
    let written = tokio::task::spawn_blocking(move || write(&at, &ours, &text)).await;
    let written = written.map_err(|error| Error::bug("a report broke off").because(error))?;
    written.map_err(|error| {
        let what = format!("the report {} cannot be written", file.display());
        Error::new(Kind::Config, what)
            .because(error)
            .remedy("mend the rights or the disk of its folder")
    })?;
    tracing::info!("the report {} is there", file.display());
    let lines = page.tasks.len() + page.checks.len();
    Ok(Outcome::Done(u64::try_from(lines).ok()))
}

async fn page(client: &impl GenericClient, attempt: &Attempt, now: Timestamp) -> Result<Page> {
    let failed = |error| Error::warehouse("reading what became of a run", error);
    let tasks = "select task, state, tries, round(extract(epoch from finished_at - began_at), 1)::text, reason
           from audit.task_runs where run = $1 and task <> $2 order by began_at nulls last, task";
    let task = |row: &Row| {
        Ok(TaskLine {
            name: row.try_get(0)?,
            state: row.try_get(1)?,
            tries: row.try_get(2)?,
            seconds: row.try_get(3)?,
            reason: row.try_get(4)?,
        })
    };
    let tasks = client.query(tasks, &[&attempt.run, &attempt.task.name]).await.map_err(failed)?;
    let tasks: Result<Vec<TaskLine>, _> = tasks.iter().map(task).collect();
    // a task that was done again has judged anew; what fails stands first
    let checks = "select table_name, check_name, status, expected_value, actual_value, failing, checked, error
           from (select distinct on (table_name, check_name) * from audit.data_quality
                  where run = $1 order by table_name, check_name, check_id desc) last
          order by array_position(array['FAIL', 'WARN'], status::text), table_name, check_name";
    let check = |row: &Row| {
        Ok(CheckLine {
            table: row.try_get::<_, Option<String>>(0)?.unwrap_or_default(),
            name: row.try_get(1)?,
            status: row.try_get(2)?,
            expected: row.try_get(3)?,
            actual: row.try_get(4)?,
            failing: row.try_get(5)?,
            checked: row.try_get(6)?,
            error: row.try_get(7)?,
        })
    };
    let checks = client.query(checks, &[&attempt.run]).await.map_err(failed)?;
    let checks: Result<Vec<CheckLine>, tokio_postgres::Error> = checks.iter().map(check).collect();
    let checks = checks.map_err(failed)?;
    let count = |status: &str| checks.iter().filter(|check| check.status == status).count();
    Ok(Page {
        job: attempt.job.clone(),
        run: attempt.run,
        ds: attempt.variable(Variable::Ds).to_owned(),
        interval_start: attempt.variable(Variable::IntervalStart).to_owned(),
        interval_end: attempt.variable(Variable::IntervalEnd).to_owned(),
        written_at: now.strftime("%Y-%m-%d %H:%M:%S UTC").to_string(),
        failing: count("FAIL"),
        warned: count("WARN"),
        tasks: tasks.map_err(failed)?,
        checks,
    })
}

fn render(page: &Page, form: ReportForm) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    // what a reason or a value holds is text, whatever it looks like
    environment.set_auto_escape_callback(|name| match name {
        "html" => AutoEscape::Html,
        _ => AutoEscape::None,
    });
    environment.add_filter("cell", cell);
    let (name, template) = match form {
        ReportForm::Html => ("html", HTML),
        ReportForm::Markdown => ("md", MARKDOWN),
    };
    environment
        .render_named_str(name, template, minijinja::value::Serde(page))
        .map_err(|error| Error::bug("a report does not render").because(error))
}

/// A text as a cell of Markdown's tables takes it.
fn cell(text: &str) -> String {
    text.replace('\\', "\\\\").replace('|', "\\|").replace('<', "&lt;").replace(['\n', '\r'], " ")
}

fn write(file: &Path, ours: &str, text: &str) -> std::io::Result<()> {
    let folder = file.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(folder)?;
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let partial: PathBuf = folder.join(format!(".{name}.{ours}"));
    let written = std::fs::write(&partial, text).and_then(|()| std::fs::rename(&partial, file));
    if written.is_err() {
        // the first error is the one to tell
        std::fs::remove_file(&partial).ok();
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> Page {
        let check = CheckLine {
            table: "cleansed.dim_users".to_owned(),
            name: "one | <current>".to_owned(),
            status: "FAIL".to_owned(),
            expected: Some("0".to_owned()),
            actual: Some("<b>2</b>".to_owned()),
            failing: Some(2),
            checked: Some(10),
            error: None,
        };
        let task = TaskLine {
            name: "gate".to_owned(),
            state: "failed".to_owned(),
            tries: 1,
            seconds: None,
            reason: Some("two\nlines".to_owned()),
        };
        Page {
            job: "data_quality".to_owned(),
            run: 7,
            ds: "2024-03-10".to_owned(),
            interval_start: "2024-03-10T00:00:00Z".to_owned(),
            interval_end: "2024-03-11T00:00:00Z".to_owned(),
            written_at: "2024-03-11 02:00:00 UTC".to_owned(),
            tasks: vec![task],
            checks: vec![check],
            failing: 1,
            warned: 0,
        }
    }

    #[test]
    fn what_is_told_stays_text_in_both_forms() {
        let html = render(&page(), ReportForm::Html).unwrap();
        assert!(html.contains("&lt;b&gt;2&lt;&#x2f;b&gt;") && !html.contains("<b>2"), "{html}");
        let markdown = render(&page(), ReportForm::Markdown).unwrap();
        assert!(markdown.contains("one \\| &lt;current>"), "{markdown}");
        assert!(markdown.contains("two lines"), "{markdown}");
        assert!(markdown.contains("1 of 1 checks fail"), "{markdown}");
    }
}
