//! The topics that a Debezium connector writes, by the lists of what it includes.
//!
//! A list that says more than names and runs of characters is never guessed at: then it is every topic of the
//! connector, and a finding says so.

use super::config::{Config, find};
use crate::capture::preflight::Finding;

/// The topics, by what it includes. Without anything it is all that begin with its prefix.
pub(super) fn topics(config: &Config, prefix: &str, findings: &mut Vec<Finding>) -> Vec<String> {
    let delimiter = config.get("topic.delimiter").unwrap_or(".");
    let whole = vec![format!("{}{delimiter}*", written(prefix))];
    let field = ["table.include.list", "schema.include.list", "database.include.list"]
        .into_iter()
        .find(|field| config.get(field).is_some());
    let strategy = config.get("topic.naming.strategy");
    let known = ["SchemaTopicNamingStrategy", "DefaultTopicNamingStrategy"];
    if let Some(strategy) = strategy.filter(|name| !known.iter().any(|end| name.ends_with(end))) {
        let what =
            format!("topic.naming.strategy={strategy}: what it calls topics is not known here");
        find(findings, what, "edit topics in the connector's file");
    }
    let Some(field) = field else { return whole };
    let mut topics = Vec::new();
    for item in config.list(field) {
        let Some(pattern) = topic_of(item) else {
            let what = format!(
                "{field} says more than a list of topics can: every topic that begins with {prefix} is taken"
            );
            find(findings, what, "edit topics in the connector's file");
            return whole;
        };
        let pattern = pattern.replace('.', delimiter);
        let behind = if field == "table.include.list" { "" } else { "*" };
        let between = if behind.is_empty() { "" } else { delimiter };
        topics.push(format!("{}{delimiter}{pattern}{between}{behind}", written(prefix)));
    }
    topics
}

/// A regular expression of Debezium's lists as a part of a topic's name, with `*` for any run of
/// characters. None where it says more.
fn topic_of(expression: &str) -> Option<String> {
    let mut out = String::new();
    let mut letters = expression.trim_start_matches('^').trim_end_matches('$').chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '\\' => out
                .push_str(&written(&letters.next().filter(|c| !c.is_alphanumeric())?.to_string())),
            '.' if letters.next_if_eq(&'*').is_some() => out.push('*'),
            // unescaped it means any character, and nobody means that
            '.' => out.push('.'),
            c if c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | ' ') => {
                out.push_str(&written(&c.to_string()));
            }
            _ => return None,
        }
    }
    (!out.is_empty()).then_some(out)
}

/// As Debezium writes a name in a topic's.
fn written(name: &str) -> String {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.chars().map(|c| if legal(c) { c } else { '_' }).collect()
}
