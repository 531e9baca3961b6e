//! `siltstone topics`: what differs between `topics.yaml` and the brokers, and making it so. `plan` changes
//! nothing; `apply` changes what is safe, and more where it is told to. Neither takes a topic or a partition
//! away.

use std::process::ExitCode;

use super::Files;
use super::plan::{Allow, DIFFERENT, NOT_ALLOWED};
use super::table::confirmed;
use crate::error::Result;
use crate::merge::Class;
use crate::pipeline::{TopicDifference, plan_topics};

/// The topics of topics.yaml.
#[derive(clap::Subcommand)]
pub(super) enum Topics {
    /// Prints every difference between topics.yaml and the brokers; changes nothing.
    Plan {
        /// As JSON, one difference a line.
        #[arg(long)]
        json: bool,
        /// Ends with 2 where there are differences.
        #[arg(long)]
        exit_code: bool,
    },
    /// Makes the differences that `topics plan` prints.
    Apply {
        /// What beside the safe ones is made.
        #[arg(long, value_delimiter = ',')]
        allow: Vec<Allow>,
        /// Does not ask whether it is meant.
        #[arg(long)]
        yes: bool,
    },
}

const NOTHING: &str = "nothing to do: topics.yaml and the brokers agree";

impl Topics {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        match self {
            Topics::Plan { json, exit_code } => plan(files, json, exit_code).await,
            Topics::Apply { allow, yes } => apply(files, &allow, yes).await,
        }
    }
}

async fn plan(files: &Files, json: bool, exit_code: bool) -> Result<ExitCode> {
    let plan = plan_topics(&files.load()?).await?;
    for difference in &plan.differences {
        if json {
            println!("{}", as_json(difference));
        } else {
            print(difference);
        }
    }
    if !json {
        match plan.differences.len() {
            0 => println!("{NOTHING}"),
            1 => println!("1 difference; to make it: {}", apply_line(&plan.differences)),
            many => println!("{many} differences; to make them: {}", apply_line(&plan.differences)),
        }
    }
    let differ = exit_code && !plan.differences.is_empty();
    Ok(if differ { ExitCode::from(DIFFERENT) } else { ExitCode::SUCCESS })
}

async fn apply(files: &Files, allow: &[Allow], yes: bool) -> Result<ExitCode> {
    let plan = plan_topics(&files.load()?).await?;
    if plan.differences.is_empty() {
        println!("{NOTHING}");
        return Ok(ExitCode::SUCCESS);
    }
    let allowed: Vec<Class> = allow.iter().map(|allow| allow.class()).collect();
    let may = |class: Class| class == Class::Safe || allowed.contains(&class);
    let lost = plan.differences.iter().filter(|difference| {
        difference.class == Some(Class::Destructive) && may(Class::Destructive)
    });
    let lost: Vec<&TopicDifference> = lost.collect();
    if !lost.is_empty() && !yes {
        println!("these records cannot be brought back:");
        for TopicDifference { topic, what, why, .. } in lost {
            println!("    {topic}: {what}: {}", why.as_deref().unwrap_or_default());
        }
        confirmed()?;
    }
    let say = |difference: &TopicDifference| {
        println!("done  {}: {}", difference.topic, difference.what);
    };
    plan.apply(&allowed, &say).await?;
    let mut code = ExitCode::SUCCESS;
    for TopicDifference { topic, what, class, why, .. } in &plan.differences {
        let why = why.as_deref().unwrap_or_default();
        match class {
            Some(class) if may(*class) => continue,
            Some(class) => {
                println!("not done  {topic}: {what}: {why}: it takes --allow {}", class.word());
            }
            None => println!("not done  {topic}: {what}: {why}"),
        }
        code = ExitCode::from(NOT_ALLOWED);
    }
    Ok(code)
}

/// The command that makes all that can be made.
fn apply_line(differences: &[TopicDifference]) -> String {
    let has = |class| differences.iter().any(|difference| difference.class == Some(class));
    let words: Vec<&str> = [Class::Rewrite, Class::Destructive]
        .into_iter()
        .filter(|class| has(*class))
        .map(Class::word)
        .collect();
    match words.is_empty() {
        true => "siltstone topics apply".to_owned(),
        false => format!("siltstone topics apply --allow {}", words.join(",")),
    }
}

fn print(difference: &TopicDifference) {
    let TopicDifference { topic, what, why, .. } = difference;
    println!("{:<11}  {topic}: {what}", difference.word());
    if let Some(why) = why {
        println!("             {why}");
    }
}

fn as_json(difference: &TopicDifference) -> serde_json::Value {
    serde_json::json!({
        "topic": difference.topic,
        "what": difference.what,
        "class": difference.word(),
        "why": difference.why,
    })
}
