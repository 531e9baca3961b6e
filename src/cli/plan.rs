//! `siltstone plan` and `siltstone apply`: what differs between files, warehouse and source, and making it
//! so. `plan` changes nothing; `apply` changes what is safe, and more where it is told to.

use std::process::ExitCode;

use super::Files;
use super::table::confirmed;
use crate::error::Result;
use crate::merge::{Class, Step};
use crate::pipeline::{self, Difference};

/// The exit code where there are differences, and that was asked.
pub(super) const DIFFERENT: u8 = 2;

/// The exit code where something takes another word.
pub(super) const NOT_ALLOWED: u8 = 78;

/// Prints every difference between files, warehouse and source, with its SQL; changes nothing.
#[derive(clap::Args)]
pub(super) struct Plan {
    /// As JSON, one difference a line.
    #[arg(long)]
    json: bool,
    /// Ends with 2 where there are differences.
    #[arg(long)]
    exit_code: bool,
}

/// Makes the differences that `plan` prints.
#[derive(clap::Args)]
pub(super) struct Apply {
    /// What beside the safe ones is made.
    #[arg(long, value_delimiter = ',')]
    allow: Vec<Allow>,
    /// Does not ask whether it is meant.
    #[arg(long)]
    yes: bool,
}

#[derive(Clone, Copy, clap::ValueEnum)]
pub(super) enum Allow {
    /// What goes through all rows of a table.
    Rewrite,
    /// What loses rows, which are read again.
    Destructive,
}

impl Allow {
    pub(super) fn class(self) -> Class {
        match self {
            Allow::Rewrite => Class::Rewrite,
            Allow::Destructive => Class::Destructive,
        }
    }
}

impl Plan {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let plan = pipeline::plan(&files.load()?, &files.clock).await?;
        let differences = plan.differences();
        for difference in &differences {
            if self.json {
                println!("{}", as_json(difference));
            } else {
                print(difference);
            }
        }
        if !self.json {
            plan.notes.iter().for_each(|note| println!("note: {note}"));
            match differences.len() {
                0 => println!("nothing to do: files, warehouse and source agree"),
                1 => println!("1 difference; to make it: {}", plan.apply_line()),
                many => println!("{many} differences; to make them: {}", plan.apply_line()),
            }
        }
        let differ = self.exit_code && !differences.is_empty();
        Ok(if differ { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
    }
}

impl Apply {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let spec = files.load()?;
        let plan = pipeline::plan(&spec, &files.clock).await?;
        let allowed: Vec<Class> = self.allow.iter().map(|allow| allow.class()).collect();
        let differences = plan.differences();
        if differences.is_empty() {
            println!("nothing to do: files, warehouse and source agree");
            return Ok(ExitCode::SUCCESS);
        }
        let may = |class: Class| class == Class::Safe || allowed.contains(&class);
        let lost = differences.iter().filter(|difference| {
            difference.step.class == Class::Destructive && may(Class::Destructive)
        });
        let lost: Vec<&Difference> = lost.collect();
        if !lost.is_empty() && !self.yes {
            println!("these rows are lost, and read again from the source:");
            for Difference { subject, rows, step, held_alone } in lost {
                println!("    {subject}: about {rows} rows: {}", step.what);
                if let Some(what) = held_alone {
                    println!("        but {what} are in no source: those do not come back");
                }
            }
            confirmed()?;
        }
        let say = |subject: &str, step: &Step| println!("done  {subject}: {}", step.what);
        pipeline::apply(&spec, &plan, &allowed, &say).await?;
        let mut code = ExitCode::SUCCESS;
        for Difference { subject, step, .. } in &differences {
            if !may(step.class) {
                println!(
                    "not done  {subject}: {}: it takes --allow {}",
                    step.what,
                    step.class.word()
                );
                code = ExitCode::from(NOT_ALLOWED);
            }
        }
        Ok(code)
    }
}

fn print(difference: &Difference) {
    let Difference { subject, rows, step, .. } = difference;
    let (class, lock) = (step.class.word(), step.lock.word());
    let read = if step.reads { ", then it is read again" } else { "" };
    println!("{class:<11}  lock: {lock:<22}  rows: {rows:>11}  {subject}: {}{read}", step.what);
    for statement in &step.statements {
        println!("             {statement};");
    }
}

fn as_json(difference: &Difference) -> serde_json::Value {
    let Difference { subject, rows, step, .. } = difference;
    serde_json::json!({
        "subject": subject,
        "what": step.what,
        "class": step.class.word(),
        "lock": step.lock.word(),
        "rows": rows,
        "reads_again": step.reads,
        "statements": step.statements,
    })
}
