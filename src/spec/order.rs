//! The order of a job's tasks.

use std::collections::HashSet;

use super::file::{File, listed};
use super::tasks::Task;
use crate::error::Result;

/// Each task behind those it depends on; else as they are written.
pub(super) fn in_order(file: &File<'_>, mut tasks: Vec<Task>) -> Result<Vec<Task>> {
    let (mut placed, mut ordered) = (HashSet::new(), Vec::new());
    while !tasks.is_empty() {
        let free = tasks
            .iter()
            .position(|task| task.depends_on.iter().all(|before| placed.contains(before)));
        let Some(free) = free else {
            let first = tasks.first().map(|task| task.name.clone()).unwrap_or_default();
            let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
            let why = format!("{} wait for each other", listed(&names).replace(" or ", " and "));
            let field = format!("tasks.{first}.depends_on");
            return Err(file.refuse(&field, &why, "remove one of the dependencies"));
        };
        let task = tasks.remove(free);
        placed.insert(task.name.clone());
        ordered.push(task);
    }
    Ok(ordered)
}
