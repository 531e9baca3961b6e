//! Alerts' place in the service. Every instance says how its connectors stand; one of them, by a lease, looks at
//! all that, at the control tables and the marts, and tells people. Whatever goes wrong here stops nothing else.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinSet;

use super::leased::{Place, become_owner, keep_lease};
use super::messenger::dispatch;
use crate::alerts::{
    self, Condition, Due, Entry, Gatherer, MartFact, Message, MessageKind, Sender, Sent, Sign,
    State, Step,
};
use crate::clock::{Clock, from_postgres_micros};
use crate::error::{Error, Kind, Policy, Result};
use crate::postgres::{Session, Side, connect};
use crate::refresh;
use crate::serve::{Board, View};
use crate::spec::{Alerts, Spec, When};
use crate::warehouse::{Durations, Fence, Fenced, migrate, refuse_outstanding, register};

/// Who owns this tells people.
const RESOURCE: &str = "alerts";

/// How often facts are looked at, and an instance says how its connectors stand.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often messages are looked for.
const SEND_EVERY: Duration = Duration::from_millis(500);

/// The first and the longest pause behind a failure.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// The alerts of the files.
pub(super) struct Alarms {
    pub(super) files: watch::Receiver<Arc<Spec>>,
    pub(super) clock: Clock,
    pub(super) board: Board,
    pub(super) durations: Durations,
    /// names this run of this process
    pub(super) owner: Arc<str>,
    pub(super) no_ddl: bool,
}

/// What the owner works with, look after look.
struct Desk<'d> {
    session: &'d mut Session,
    fence: &'d Fence,
    gatherer: Gatherer,
    sender: Sender,
    going: JoinSet<(Due, Result<()>)>,
    /// the channels that a message is on its way to
    busy: HashSet<String>,
}

impl Alarms {
    /// Looks and tells until `stop` turns true.
    pub(super) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        let mut pause = PAUSES.0;
        loop {
            tokio::select! {
                // without the file there is nobody to tell
                there = self.files.wait_for(|spec| spec.alerts.is_some()) => {
                    if there.is_err() { return }
                }
                _ = stop.wait_for(|stop| *stop) => return,
            }
            match self.session(stop.clone()).await {
                Ok(()) if *stop.borrow() => return,
                Ok(()) => pause = PAUSES.0,
                Err(error) if error.kind() == Kind::Fenced => {
                    tracing::warn!("another instance tells of alerts: standing by");
                    pause = PAUSES.0;
                }
                Err(error) if error.kind().policy() == Policy::Retry => {
                    tracing::warn!("alerts: {}; trying again", error.reason());
                }
                Err(error) => tracing::error!("alerts: {error}"),
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
            pause = (pause * 2).min(PAUSES.1);
        }
    }

    async fn session(&self, stop: watch::Receiver<bool>) -> Result<()> {
        let endpoint = self.files.borrow().settings.warehouse.clone();
        let name = "siltstone alerts";
        let mut session = connect(Side::Warehouse, &endpoint, name).await?;
        match self.no_ddl {
            true => refuse_outstanding(&*session).await?,
            false => migrate(&mut session).await?,
        }
        self.name_silent_channels();
        let saying = connect(Side::Warehouse, &endpoint, name).await?;
        let ended = tokio::select! {
            failed = self.say(&saying) => failed,
            ended = self.own(&mut session, stop) => ended,
        };
        if ended.is_ok() {
            // nobody waits for the time of what it said
            alerts::unsay(&*saying, &self.owner).await?;
        }
        ended
    }

    fn name_silent_channels(&self) {
        let spec = self.files.borrow().clone();
        let channels = spec.alerts.iter().flat_map(|alerts| &alerts.channels);
        for channel in channels.filter(|channel| !channel.is_set()) {
            let name = &channel.name;
            tracing::warn!("alerts: channel {name} has no address: nobody is told there");
        }
    }

    /// Says how the connectors of this instance stand, until that fails.
    async fn say(&self, session: &Session) -> Result<()> {
        loop {
            let signs: Vec<Sign> = self.board.views().iter().map(sign).collect();
            alerts::tell(&**session, &self.owner, &signs).await?;
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn own(&self, session: &mut Session, stop: watch::Receiver<bool>) -> Result<()> {
        let place = Place { resource: RESOURCE, what: "alerts", owner: &self.owner };
        let Some(fence) = become_owner(session, &place, stop.clone()).await? else {
            return Ok(());
        };
        let endpoint = self.files.borrow().settings.warehouse.clone();
        let lease = connect(Side::Warehouse, &endpoint, "siltstone alerts").await?;
        register(&lease, &fence).await?;
        tracing::info!("tells of alerts");
        let worked = tokio::select! {
            worked = self.work(session, &fence, stop) => worked,
            lost = keep_lease(&lease, &fence) => lost,
        };
        if worked.is_ok() {
            fence.release(&lease, false).await?;
        }
        worked
    }

    async fn work(
        &self,
        session: &mut Session,
        fence: &Fence,
        mut stop: watch::Receiver<bool>,
    ) -> Result<()> {
        let mut desk = Desk {
            session,
            fence,
            gatherer: Gatherer::default(),
            sender: Sender::new()?,
            going: JoinSet::new(),
            busy: HashSet::new(),
        };
        let mut looked: Option<Instant> = None;
        loop {
            let spec = self.files.borrow().clone();
            let Some(alerts) = &spec.alerts else { return Ok(()) };
            if looked.is_none_or(|at| at.elapsed() >= LOOK_EVERY) {
                self.look(&mut desk, &spec, alerts).await?;
                looked = Some(Instant::now());
            }
            self.send(&mut desk, alerts).await?;
            let ended = tokio::select! {
                Some(ended) = desk.going.join_next(), if !desk.going.is_empty() => Some(ended),
                () = tokio::time::sleep(SEND_EVERY) => None,
                () = told(&mut stop) => None,
            };
            if let Some(ended) = ended {
                self.note(&mut desk, joined(ended)?).await?;
            }
            if *stop.borrow() {
                // what is on its way has its own time to arrive
                while let Some(ended) = desk.going.join_next().await {
                    self.note(&mut desk, joined(ended)?).await?;
                }
                return Ok(());
            }
        }
    }

    /// One look: what is so, and whom it is told.
    async fn look(&self, desk: &mut Desk<'_>, spec: &Spec, alerts: &Alerts) -> Result<()> {
        let now = self.clock.now();
        let mut facts = desk.gatherer.look(&**desk.session, spec, now).await?;
        facts.marts = marts(desk.session, spec).await?;
        let verdicts = alerts::judge(alerts, &spec.jobs, &facts, now);
        let mut known = alerts::entries(&**desk.session).await?;
        let mut so: BTreeMap<(String, String), &Condition> = BTreeMap::new();
        for condition in &verdicts.so {
            let key = (condition.when.word().to_owned(), condition.subject.clone());
            so.entry(key).or_insert(condition);
        }
        let unknown = |(rule, subject): &(String, String)| {
            verdicts.unknown.iter().any(|(when, of)| when.word() == rule && of == subject)
        };
        let keys: BTreeSet<(String, String)> = known.keys().chain(so.keys()).cloned().collect();
        let mut steps = Vec::new();
        for key in keys.into_iter().filter(|key| !unknown(key)) {
            let lasting = alerts.rules.iter().find(|rule| rule.when.word() == key.0);
            let limits = (lasting.map_or(Duration::ZERO, |rule| rule.lasting), alerts.dedupe);
            let step = alerts::decide(known.get(&key), so.get(&key).copied(), limits, now);
            if step != Step::Stay {
                steps.push((key, step));
            }
        }
        if !steps.is_empty() {
            self.take(desk, spec, &mut known, steps).await?;
        }
        let firing = known.values().filter(|entry| entry.state == State::Firing);
        let mut counts: BTreeMap<&str, i64> =
            When::ALL.map(|when| (when.word(), 0)).into_iter().collect();
        for entry in firing {
            *counts.entry(&entry.rule).or_default() += 1;
        }
        self.board.alerts_firing(&counts);
        Ok(())
    }

    /// Takes the steps of a look, in one transaction.
    async fn take(
        &self,
        desk: &mut Desk<'_>,
        spec: &Spec,
        known: &mut BTreeMap<(String, String), Entry>,
        steps: Vec<((String, String), Step)>,
    ) -> Result<()> {
        let now = self.clock.now();
        let transaction =
            Fenced::begin(desk.session, desk.fence, "alerts", &self.durations).await?;
        for (key, step) in steps {
            let (entry, told) = match step {
                Step::Stay => continue,
                Step::Write(None) => {
                    alerts::forget(&transaction, &key.0, &key.1).await?;
                    known.remove(&key);
                    continue;
                }
                Step::Write(Some(entry)) => (entry, None),
                Step::Tell(entry, channels) => {
                    tracing::warn!(rule = key.0, subject = key.1, "alert: {}", entry.text);
                    (entry, Some((MessageKind::Firing, channels)))
                }
                Step::Resolve(entry) => {
                    tracing::info!(rule = key.0, subject = key.1, "alert: it is so no more");
                    let channels = entry.told_to.clone();
                    (entry, Some((MessageKind::Resolved, channels)))
                }
            };
            if let Some((kind, channels)) = told {
                let message = message(&entry, kind, now);
                for channel in &channels {
                    dispatch(&transaction, (spec, &self.board), channel, &message).await?;
                }
            }
            alerts::write(&transaction, &entry).await?;
            known.insert(key, entry);
        }
        alerts::clean(&transaction).await?;
        transaction.commit().await
    }

    /// Sends what is due, one message a channel at a time: a channel that hangs holds up no other.
    async fn send(&self, desk: &mut Desk<'_>, alerts: &Alerts) -> Result<()> {
        for due in alerts::due(&**desk.session, self.clock.now()).await? {
            if desk.busy.contains(&due.channel) {
                continue;
            }
            let Some(channel) = alerts.channels.iter().find(|known| known.name == due.channel)
            else {
                let gone = Error::new(Kind::Config, "the channel is in alerts.yaml no more");
                self.note(desk, (due, Err(gone))).await?;
                continue;
            };
            desk.busy.insert(due.channel.clone());
            let (sender, channel) = (desk.sender.clone(), channel.clone());
            desk.going.spawn(async move {
                let sent = sender.send(&channel, &due.message).await;
                (due, sent)
            });
        }
        Ok(())
    }

    /// Notes what became of a message.
    async fn note(&self, desk: &mut Desk<'_>, (due, sent): (Due, Result<()>)) -> Result<()> {
        desk.busy.remove(&due.channel);
        let ended = sent.map_err(|error| {
            let again = error.kind().policy() == Policy::Retry;
            (error.reason(), again)
        });
        let why = ended.as_ref().err().map(|(why, _)| why.clone());
        let transaction =
            Fenced::begin(desk.session, desk.fence, "alerts", &self.durations).await?;
        let sent = alerts::note(&transaction, &due, ended, self.clock.now()).await?;
        transaction.commit().await?;
        self.board.alert_sent(&due.channel, sent.word());
        let (channel, title) = (due.channel.as_str(), due.message.title());
        let why = why.unwrap_or_default();
        match sent {
            Sent::Sent => tracing::info!(channel, "told: {title}"),
            Sent::Retried => tracing::warn!(channel, "not told yet: {title}: {why}"),
            Sent::Failed => tracing::error!(channel, "not told: {title}: {why}"),
        }
        Ok(())
    }
}

fn joined(ended: Result<(Due, Result<()>), tokio::task::JoinError>) -> Result<(Due, Result<()>)> {
    ended.map_err(|error| Error::bug("sending a message broke off").because(error))
}

/// Waits until told to stop.
async fn told(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// How a connector stands, as it is told to the instance that tells of alerts.
fn sign(view: &View) -> Sign {
    Sign {
        connector: view.name.clone(),
        phase: view.phase.word().to_owned(),
        reason: view.reason.clone(),
        remedy: view.remedy.clone(),
        backlog: view.backlog(),
        moved_at: from_postgres_micros(view.moved_at),
        retained: view.retained,
    }
}

async fn marts(session: &Session, spec: &Spec) -> Result<Vec<MartFact>> {
    if spec.marts.is_empty() {
        return Ok(Vec::new());
    }
    let standings = refresh::standings(&**session, None).await?;
    let fact = |standing: refresh::Standing| {
        let mart = spec.marts.iter().find(|mart| mart.table.to_string() == standing.mart)?;
        Some(MartFact {
            name: standing.mart,
            state: standing.state,
            reason: standing.reason,
            remedy: standing.remedy,
            lag_seconds: standing.lag_seconds,
            max_age: mart.max_age,
        })
    };
    Ok(standings.into_iter().filter_map(fact).collect())
}

fn message(entry: &Entry, kind: MessageKind, now: jiff::Timestamp) -> Message {
    let resolved = kind == MessageKind::Resolved;
    let text = match (resolved, When::of(&entry.rule)) {
        (false, _) => entry.text.clone(),
        (true, Some(When::JobFailed)) => format!("{} goes well again", entry.subject),
        (true, _) => format!("it is so no more: {}", entry.text),
    };
    Message {
        kind,
        rule: entry.rule.clone(),
        subject: entry.subject.clone(),
        text,
        remedy: entry.remedy.clone().filter(|_| !resolved),
        since: Some(entry.since),
        at: now,
        bad: !resolved,
        details: serde_json::Value::Null,
    }
}
