//! What of how things stand is worth a word. Pure.

use jiff::{SignedDuration, Timestamp};

use super::facts::{Facts, Sign};
use crate::names::in_command;
use crate::spec::{AlertRule, Alerts, Job, When};

/// Something that is so and should not be.
#[derive(Clone, Debug, PartialEq)]
pub struct Condition {
    /// By which rule.
    pub when: When,
    /// What it is about.
    pub subject: String,
    /// The name of this time, where every time has one.
    pub mark: Option<String>,
    /// Since when, where that is known; it has lasted long enough then.
    pub since: Option<Timestamp>,
    /// What is so.
    pub text: String,
    /// What to do.
    pub remedy: Option<String>,
    /// Who is told.
    pub send: Vec<String>,
    /// Who is told of its end.
    pub recovered: Vec<String>,
}

/// What a look has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Verdicts {
    /// What is so.
    pub so: Vec<Condition>,
    /// What nobody can tell now: it stays as it was.
    pub unknown: Vec<(When, String)>,
}

impl Verdicts {
    fn add(&mut self, rule: &AlertRule, subject: &str, text: String) -> Option<&mut Condition> {
        self.so.push(Condition {
            when: rule.when,
            subject: subject.to_owned(),
            mark: None,
            since: None,
            text,
            remedy: None,
            send: rule.send.clone(),
            recovered: rule.send.clone(),
        });
        self.so.last_mut()
    }
}

/// What of these facts is worth a word.
pub fn judge(alerts: &Alerts, jobs: &[Job], facts: &Facts, now: Timestamp) -> Verdicts {
    let mut found = Verdicts::default();
    for rule in &alerts.rules {
        match rule.when {
            When::StreamStalled => stalled(rule, facts, now, &mut found),
            When::WalRetained => retained(rule, facts, &mut found),
            When::TableStopped => stopped(rule, facts, &mut found),
            When::DeadLetters => letters(rule, facts, &mut found),
            When::MartLate => late(rule, facts, &mut found),
            When::CheckFailed => checks(rule, facts, &mut found),
            When::JobFailed => failed(rule, jobs, facts, &mut found),
            When::BackupAge => backups(rule, facts, now, &mut found),
        }
    }
    found
}

/// The signs of a connector by those who have it.
fn signs<'f>(facts: &'f Facts, connector: &str) -> Vec<&'f Sign> {
    let own = |sign: &&Sign| sign.connector == connector && sign.phase != "standby";
    facts.signs.iter().filter(own).collect()
}

fn stalled(rule: &AlertRule, facts: &Facts, now: Timestamp, found: &mut Verdicts) {
    for connector in &facts.connectors {
        let signs = signs(facts, connector);
        if signs.is_empty() {
            let text = format!("{connector}: no instance runs it");
            if let Some(condition) = found.add(rule, connector, text) {
                condition.remedy = Some("start siltstone run, and see why it ended".to_owned());
            }
        }
        for sign in signs {
            let because = sign.reason.as_deref().unwrap_or("no reason is known");
            let still = now.duration_since(sign.moved_at);
            let long =
                still >= SignedDuration::try_from(rule.lasting).unwrap_or(SignedDuration::MAX);
            let (text, since) = match sign.phase.as_str() {
                "paused" | "halted" => continue,
                "stopped" => (format!("{connector} has stopped: {because}"), None),
                _ if !sign.backlog || !long => continue,
                "waiting" => {
                    let seconds = still.as_secs();
                    let text = format!("{connector} waits since {seconds} s: {because}");
                    (text, Some(sign.moved_at))
                }
                _ => {
                    let seconds = still.as_secs();
                    let text = format!(
                        "{connector} has a backlog and has committed nothing for {seconds} s"
                    );
                    (text, Some(sign.moved_at))
                }
            };
            if let Some(condition) = found.add(rule, connector, text) {
                condition.since = since;
                condition.remedy =
                    sign.remedy.clone().or_else(|| Some("see siltstone status".to_owned()));
            }
            // one word for all partitions of a connector
            break;
        }
    }
}

fn retained(rule: &AlertRule, facts: &Facts, found: &mut Verdicts) {
    for connector in &facts.connectors {
        let Some(most) = signs(facts, connector).iter().map(|sign| sign.retained).max() else {
            found.unknown.push((rule.when, connector.clone()));
            continue;
        };
        let limit = rule.above.unwrap_or(u64::MAX);
        if most <= limit {
            continue;
        }
        let text = format!(
            "the slot of {connector} keeps {} MiB of log at the source; the limit is {} MiB",
            most >> 20,
            limit >> 20
        );
        if let Some(condition) = found.add(rule, connector, text) {
            let remedy = "see siltstone status; wal.land and wal.drop_slot bound it by themselves";
            condition.remedy = Some(remedy.to_owned());
        }
    }
}

fn stopped(rule: &AlertRule, facts: &Facts, found: &mut Verdicts) {
    for table in &facts.stopped {
        let because = table.reason.as_deref().unwrap_or("no reason is known");
        let text = format!("{} has stopped: {because}", table.name);
        if let Some(condition) = found.add(rule, &table.name, text) {
            let why = format!("siltstone why {}", in_command(&table.name));
            condition.remedy = Some(table.remedy.clone().unwrap_or(why));
        }
    }
}

fn letters(rule: &AlertRule, facts: &Facts, found: &mut Verdicts) {
    let many = |(_, count): &&(String, u64)| *count > rule.above.unwrap_or(0);
    for (table, count) in facts.letters.iter().filter(many) {
        let changes = if *count == 1 { "change" } else { "changes" };
        let text = format!("{table} refuses {count} {changes}; later ones of their keys wait");
        if let Some(condition) = found.add(rule, table, text) {
            let remedy = "siltstone dead-letter list, then mend and replay, or drop";
            condition.remedy = Some(remedy.to_owned());
        }
    }
}

fn late(rule: &AlertRule, facts: &Facts, found: &mut Verdicts) {
    for mart in &facts.marts {
        let limit = rule.above.map_or(mart.max_age, std::time::Duration::from_millis);
        let because = mart.reason.as_deref().unwrap_or("no reason is known");
        let text = match mart.state.as_str() {
            "stopped" => format!("{} has stopped: {because}", mart.name),
            "held" if mart.lag_seconds > limit.as_secs_f64() => {
                format!("{} stays as it was: {because}", mart.name)
            }
            _ if mart.lag_seconds > limit.as_secs_f64() => format!(
                "{} lacks changes of {:.0} s ago; it may be {} s behind",
                mart.name,
                mart.lag_seconds,
                limit.as_secs_f64()
            ),
            _ => continue,
        };
        if let Some(condition) = found.add(rule, &mart.name, text) {
            let remedy = "see siltstone mart list".to_owned();
            condition.remedy = Some(mart.remedy.clone().unwrap_or(remedy));
        }
    }
}

fn checks(rule: &AlertRule, facts: &Facts, found: &mut Verdicts) {
    for check in facts.checks.iter().filter(|check| check.failed) {
        let text = match &check.told {
            Some(told) => format!("{}: {told}", check.subject),
            None => format!("{} has failed", check.subject),
        };
        if let Some(condition) = found.add(rule, &check.subject, text) {
            condition.mark = Some(check.id.to_string());
            condition.remedy = Some("see siltstone check list".to_owned());
        }
    }
}

fn failed(rule: &AlertRule, jobs: &[Job], facts: &Facts, found: &mut Verdicts) {
    for run in &facts.runs {
        let Some(job) = jobs.iter().find(|job| job.name == run.job) else { continue };
        let mut text = format!("the run of {} for {} has failed", run.job, run.day);
        for (task, why) in &run.reasons {
            text.push_str(&format!("\n{task}: {why}"));
        }
        if !run.others.is_empty() {
            text.push_str(&format!("\nbefore it failed: {}", run.others.join(", ")));
        }
        let Some(condition) = found.add(rule, &run.job, text) else { continue };
        condition.mark = Some(format!("{}/{}", run.run, run.round));
        condition.since = Some(run.finished_at);
        let clear = format!("mend it, then siltstone job clear {} --date {}", run.job, run.day);
        condition.remedy = Some(clear);
        if let Some(own) = &job.alerts {
            condition.send.clone_from(&own.failure);
            condition.recovered.clone_from(&own.recovery);
        }
    }
    // a run that had failed is at work again: how it ends is not known
    let goes_on = |job: &&String| facts.runs.iter().all(|run| run.job != **job);
    found.unknown.extend(facts.again.iter().filter(goes_on).map(|job| (rule.when, job.clone())));
}

fn backups(rule: &AlertRule, facts: &Facts, now: Timestamp, found: &mut Verdicts) {
    let limit =
        SignedDuration::from_millis(i64::try_from(rule.above.unwrap_or(0)).unwrap_or(i64::MAX));
    for backup in &facts.backups {
        let age = now.duration_since(backup.since);
        if age <= limit {
            continue;
        }
        let hours = age.as_hours();
        let text = match backup.ever {
            true => format!("the last good backup by {} is {hours} h old", backup.subject),
            false => format!("{} has made no good backup for {hours} h", backup.subject),
        };
        if let Some(condition) = found.add(rule, &backup.subject, text) {
            condition.remedy = Some("see siltstone job list".to_owned());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::alerts::facts::{Backup, Check, MartFact, RunFact, Stopped};

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + seconds).unwrap()
    }

    fn alerts(above: &[(When, u64)]) -> Alerts {
        let rule = |when: When| AlertRule {
            when,
            lasting: Duration::from_secs(60),
            above: above.iter().find(|(of, _)| *of == when).map(|(_, above)| *above),
            send: vec!["ops".to_owned()],
        };
        Alerts {
            channels: Vec::new(),
            rules: When::ALL.map(rule).into(),
            dedupe: Duration::from_secs(60),
        }
    }

    fn sign(phase: &str, backlog: bool, moved_at: i64) -> Sign {
        Sign {
            connector: "shop".to_owned(),
            phase: phase.to_owned(),
            reason: None,
            remedy: None,
            backlog,
            moved_at: at(moved_at),
            retained: 0,
        }
    }

    fn found(facts: &Facts, above: &[(When, u64)]) -> Vec<String> {
        let verdicts = judge(&alerts(above), &[], facts, at(1000));
        let so = verdicts.so.iter().map(|c| format!("{} {}", c.when.word(), c.subject));
        let unknown = verdicts.unknown.iter().map(|(when, of)| format!("? {} {of}", when.word()));
        so.chain(unknown).collect()
    }

    #[test]
    fn a_stream_is_stalled_where_it_should_move_and_does_not() {
        let cases = [
            (vec![sign("streaming", false, 0)], false, "idle"),
            (vec![sign("streaming", true, 990)], false, "busy"),
            (vec![sign("streaming", true, 930)], true, "stuck"),
            (vec![sign("waiting", true, 930)], true, "away"),
            (vec![sign("stopped", true, 999)], true, "stopped"),
            (vec![sign("paused", true, 0)], false, "paused"),
            (vec![sign("standby", false, 999)], true, "nobody has it"),
            (vec![sign("standby", false, 0), sign("streaming", true, 999)], false, "one has it"),
            (vec![sign("streaming", true, 999), sign("streaming", true, 0)], true, "one is stuck"),
        ];
        for (signs, stalled, what) in cases {
            let facts = Facts { connectors: vec!["shop".to_owned()], signs, ..Facts::default() };
            let found = found(&facts, &[]);
            assert_eq!(
                found.iter().filter(|f| f.starts_with("stream")).count() == 1,
                stalled,
                "{what}"
            );
        }
    }

    #[test]
    fn each_rule_has_its_limit() {
        let mut facts = Facts {
            connectors: vec!["shop".to_owned()],
            signs: vec![Sign { retained: 11, ..sign("streaming", false, 999) }],
            stopped: vec![Stopped { name: "a.b".to_owned(), reason: None, remedy: None }],
            letters: vec![("a.c".to_owned(), 3)],
            ..Facts::default()
        };
        let mart = |lag_seconds, state: &str| MartFact {
            name: "m".to_owned(),
            state: state.to_owned(),
            reason: None,
            remedy: None,
            lag_seconds,
            max_age: Duration::from_secs(5),
        };
        facts.marts = vec![mart(6.0, "stale")];
        facts.checks = vec![
            Check { id: 1, subject: "c".to_owned(), failed: true, told: None },
            Check { id: 2, subject: "d".to_owned(), failed: false, told: None },
        ];
        facts.backups = vec![Backup { subject: "b".to_owned(), since: at(0), ever: true }];
        let all = [
            "wal_retained shop",
            "table_stopped a.b",
            "dead_letters a.c",
            "mart_late m",
            "check_failed c",
            "backup_age b",
        ];
        let low = [(When::WalRetained, 10), (When::DeadLetters, 2), (When::BackupAge, 999_000)];
        assert_eq!(found(&facts, &low), all);
        let high = [
            (When::WalRetained, 11),
            (When::DeadLetters, 3),
            (When::BackupAge, 1_000_000),
            (When::MartLate, 6_000),
        ];
        assert_eq!(found(&facts, &high), ["table_stopped a.b", "check_failed c"]);
        facts.marts = vec![mart(0.0, "stopped")];
        facts.signs.clear();
        let found = found(&facts, &high);
        assert!(found.contains(&"mart_late m".to_owned()), "{found:?}");
        // who is not heard of says nothing of its slot
        assert!(found.contains(&"? wal_retained shop".to_owned()), "{found:?}");
    }

    #[test]
    fn a_job_tells_whom_it_names_and_a_run_that_goes_again_resolves_nothing() {
        let run = RunFact {
            job: "daily".to_owned(),
            run: 7,
            round: 2,
            day: "2024-03-10".to_owned(),
            finished_at: at(5),
            reasons: vec![("load".to_owned(), "division by zero".to_owned())],
            others: vec!["2024-03-08".to_owned()],
        };
        let job: Job = crate::alerts::facts::tests::job("daily", &["slack"], &[]);
        let facts = |run| Facts { runs: vec![run], ..Facts::default() };
        let jobs = [job];
        let told = judge(&alerts(&[]), &jobs, &facts(run.clone()), at(1000));
        let [condition] = told.so.as_slice() else { panic!("{told:?}") };
        assert_eq!(
            (condition.mark.as_deref(), &condition.send[..]),
            (Some("7/2"), &["slack".to_owned()][..])
        );
        assert!(
            condition.recovered.is_empty() && condition.text.contains("load: division by zero")
        );
        assert!(condition.text.ends_with("before it failed: 2024-03-08"), "{}", condition.text);
        let mut facts = facts(run);
        facts.again = vec!["daily".to_owned()];
        assert_eq!(judge(&alerts(&[]), &jobs, &facts, at(1000)).unknown, []);
        facts.runs.clear();
        let told = judge(&alerts(&[]), &jobs, &facts, at(1000));
        assert_eq!(told.unknown, [(When::JobFailed, "daily".to_owned())]);
    }
}
