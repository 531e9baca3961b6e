//! One session of a connector that reads topics: it lasts as long as the partitions that the group gives stay
//! the same ones. Whatever fails, the next session goes on from the stored offsets.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::TopicSetup;
use super::again;
use super::anew::give_way;
use super::asking::read_untold;
use super::control::{Control, carry_out_first};
use super::intake::Partition;
use super::outlet::send_letters;
use super::places::{self, Place};
use super::plans::Topics;
use super::reading::Reading as Rows;
use super::rest::{self, Rest};
use super::retention;
use super::sources::left_out;
use super::tables::Tables;
use super::turns::Intake;
use super::waits::{NOT_YET, is_reached, nothing_given};
use super::whole::Whole;
use crate::capture::topics::{Assignment, Member, Reading};
use crate::error::{Error, Kind, Result};
use crate::fold::Window;
use crate::journey::Stretch;
use crate::merge::Piece;
use crate::position::Positions;
use crate::postgres::{Session, Side, connect};
use crate::progress::standing::Standing;
use crate::progress::wanted::{self, Wanted};
use crate::progress::{Checkpoint, Ledger};
use crate::serve::Phase;
use crate::spec::Kafka;
use crate::warehouse::{Claim, Fence, migrate, refuse_outstanding, refuse_unfit, take_over};

use super::super::core::{CaughtUp, Core, Reads};
use super::super::gate::{Gate, Reach};
use super::super::hold::hold_table;
use super::super::intake::End;
use super::super::lane::{Lane, Progress};
use super::super::router::Router;
use super::super::session::{Ended, limits, wait};
use super::super::{halt, owner, standing};

/// Everything is waited for that the topics hold, but not that they begin to exist.
const GIVEN_WITHIN: Duration = Duration::from_secs(30);

/// Brokers that a member does not get through to before its group has ever spoken to it are waited for no longer.
const AWAY_FOR: Duration = Duration::from_secs(5);

/// Where they refuse us, not even that long.
const REFUSED_FOR: Duration = Duration::from_secs(2);

/// How long a member whose partition another one has taken waits to be told so by the group.
const TOLD_WITHIN: Duration = Duration::from_secs(1);

/// How often a member that was given nothing looks why.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// How often it says so, in the log and for `siltstone status`.
const TELL_EVERY: Duration = Duration::from_secs(10);

/// Runs a session.
pub(in super::super) async fn run(setup: &TopicSetup, stop: watch::Receiver<bool>) -> Result<End> {
    let name = format!("siltstone {} control", setup.connector.name);
    let mut warehouse = connect(Side::Warehouse, &setup.settings.warehouse, &name).await?;
    refuse_unfit(&*warehouse, !setup.no_ddl).await?;
    if setup.no_ddl {
        refuse_outstanding(&*warehouse).await?;
    } else {
        migrate(&mut warehouse).await?;
    }
    carry_out_first(setup, &mut warehouse).await?;
    if wanted::read(&*warehouse, &setup.connector.name).await? != Wanted::Running {
        // others may have its partitions, but they see the same
        setup.leave().await;
        // nothing is read, so there is nothing to own
        let (none, paused) = (Fence::default(), (&mut warehouse, stop.clone()));
        let ended = halt::until_wanted(setup, &none, paused, None).await?;
        if let Some(end) = ended {
            return Ok(end);
        }
    }
    give_way(setup, &mut warehouse, stop.clone()).await?;
    let member = setup.member().await?;
    let assignment = match given(setup, &member, stop.clone()).await {
        Ok(Some(assignment)) => assignment,
        ended => {
            drop(member);
            setup.leave().await;
            return ended.map(|_| End::Stopped);
        }
    };
    setup.check();
    let version = assignment.version;
    let ended = match as_owner(setup, (&member, assignment), warehouse, stop).await {
        // another member has been given a partition of ours, or `siltstone apply` asks us to begin anew
        Err(error) if error.kind() == Kind::Fenced => {
            // the group tells us as well; who took it back before would end the other's session in turn
            let mut given = member.given();
            let told = given.wait_for(|now| now.version != version);
            drop(tokio::time::timeout(TOLD_WITHIN, told).await);
            Ok(End::Restart)
        }
        ended => ended,
    };
    let goes_on = matches!(ended, Ok(End::Restart)) || setup.reloading.load(Ordering::SeqCst);
    if !goes_on {
        drop(member);
        setup.leave().await;
    }
    ended
}

/// Waits until the group gives partitions. None if told to stop meanwhile.
async fn given(
    setup: &TopicSetup,
    member: &Member,
    mut stop: watch::Receiver<bool>,
) -> Result<Option<Assignment>> {
    let mut given = member.given();
    let since = Instant::now();
    // a group that answers soon needs no words
    let mut told_at = since;
    loop {
        let now = given.borrow_and_update().clone();
        if !now.partitions.is_empty() {
            return Ok(Some(now));
        }
        let group = &setup.connector.group;
        let told = member.told();
        let failure = told.failure(&setup.connector, &format!("joining the group {group}"));
        // of a group that has spoken to us we are a member, whatever a broker says; and it may take its time
        let waited_for = if told.is_refusal() { REFUSED_FOR } else { AWAY_FOR };
        let is_stranger = now.version == 0 && since.elapsed() >= waited_for && !is_reached(member);
        let failure = match failure {
            Some(refusal) if is_stranger && setup.until_caught_up && told.is_refusal() => {
                let kind =
                    if refusal.kind() == Kind::Rights { Kind::Rights } else { Kind::SourceLacks };
                return Err(refusal.with_kind(kind));
            }
            Some(failure) if is_stranger && !setup.until_caught_up => return Err(failure),
            Some(failure) => failure,
            None => Error::new(Kind::Busy, NOT_YET),
        };
        let is_long = told_at.elapsed() >= TELL_EVERY;
        let failure = if is_long { nothing_given((setup, member), failure).await } else { failure };
        let (reason, remedy) = (failure.reason(), failure.remedy_text().map(str::to_owned));
        setup.board.phase(Phase::Standby, Some(&reason), remedy.as_deref());
        if is_long {
            told_at = Instant::now();
            tracing::info!(remedy, "waiting: {reason}");
            standing::tell(setup, Standing::Waiting, &failure).await;
        }
        if setup.until_caught_up && since.elapsed() >= GIVEN_WITHIN {
            let what = format!("nothing to read after {} s: {reason}", GIVEN_WITHIN.as_secs());
            return Err(Error::new(Kind::SourceLacks, what).remedy(remedy.unwrap_or_else(|| {
                "see that the brokers are reached, that the topics exist, and that no other member of \
                 the group has all of them"
                    .to_owned()
            })));
        }
        tokio::select! {
            changed = given.changed() => {
                changed.map_err(|_| Error::bug("a member without a group"))?;
            }
            () = tokio::time::sleep(LOOK_EVERY) => {}
            _ = stop.wait_for(|stop| *stop) => return Ok(None),
        }
    }
}

async fn as_owner(
    setup: &TopicSetup,
    (member, assignment): (&Arc<Member>, Assignment),
    mut warehouse: Session,
    stop: watch::Receiver<bool>,
) -> Result<End> {
    let mut fences = Vec::new();
    for partition in &assignment.partitions {
        let resource = format!("connector:{}:{}", setup.connector.name, partition.name());
        // the group has given it to us: whoever had it before is not heard of any more, or lets it go
        fences.push(take_over(&mut warehouse, &resource, &setup.owner, Claim::Anyway).await?);
    }
    let fence = Fence::joined(fences);
    let places = places::find(setup, member, &assignment, (&mut warehouse, &fence)).await?;
    let reads = Reads {
        connector: setup.connector.name.clone(),
        rows: false,
        partition: String::new(),
        numbers: Some(places.iter().map(|place| place.number).collect()),
    };
    let core = Core::open(setup.basis.clone(), fence, true, reads).await?;
    let shared = Arc::new(core);
    standing::works(&shared, &left_out(&shared, &warehouse).await?).await?;
    let all = places.clone();
    let ended = match again::read_again(setup, &shared, &places, &mut warehouse).await {
        Ok(()) => run_tasks(setup, &shared, (member, assignment, places), (warehouse, stop)).await,
        Err(error) => Err(error),
    };
    match ended {
        Err(error) if error.kind() == Kind::Full => {
            let found = rest::make_room(setup, &shared, &all).await?;
            if found { Ok(End::Restart) } else { Err(error) }
        }
        Err(error) if error.kind() == Kind::Reread => read_untold(setup, &shared, &error).await,
        Err(error) => hold_table(&shared, error).await,
        Ok(ended) => {
            // whoever is given a partition next need not end our sessions
            shared.release().await;
            Ok(ended)
        }
    }
}

async fn run_tasks(
    setup: &TopicSetup,
    shared: &Arc<Core>,
    (member, assignment, all): (&Arc<Member>, Assignment, Vec<Place>),
    (mut warehouse, stop): (Session, watch::Receiver<bool>),
) -> Result<End> {
    let (connector, name, board) = (&setup.connector, &setup.connector.name, &setup.board);
    let rest = Rest::begin(setup, shared, &all, &mut warehouse).await?;
    let checkpoints = all.iter().map(|place| checkpoint(name, place)).collect();
    let (resting, places) = rest.split(all);
    let positions = at(&places, |place| place.offset);
    let ends = at(&places, |place| place.end);
    board.clear_tables();
    let mut tables = Tables::read(shared, &warehouse).await?;
    tables.show_stopped();
    let mut router = Router::empty(connector.held_keys);
    let catching_up = tables.open_kept(&mut router, (&warehouse, &ends)).await?;
    let ledger = Ledger::new(name, checkpoints);
    let (progress, watched) = watch::channel(Progress { done: 0, stored: ledger.positions() });
    let lane = Lane::open(shared.clone(), ledger, progress, &warehouse).await?;
    let (work, work_received) = mpsc::channel(1);
    let (caught_up, caught_up_received) = mpsc::channel::<CaughtUp>(64);
    let reading = member.read(&assignment, &positions)?;
    let mut topics = Topics::new(connector, &places);
    let partitions = partitions(&reading, &places, &mut topics)?;
    topics.know_unread(&rest.unread);
    let (stop_intake, stop_watched) = watch::channel(false);
    let (awaited, awaited_watched) = watch::channel(None);
    let (ends_told, ends_watched) = watch::channel(at(&resting, |place| place.end));
    let whole = whole(connector, (&places, &resting), &rest);
    let rows = Rows::of(setup, shared, (&tables, &router)).await?;
    let known = (tables.states(), rest, rows.reads());
    let control = Control::new(setup, shared, member, known, (ends_watched, awaited_watched));
    let intake = Intake {
        shared: shared.clone(),
        connector: connector.clone(),
        gate: gate(shared, (router, work), &places),
        tables,
        reading,
        partitions,
        topics,
        whole,
        awaited,
        progress: watched.clone(),
        caught_up: caught_up.clone(),
        stop: stop_watched,
        looked: Instant::now(),
        scratch: Vec::new(),
    };
    board.phase(Phase::Streaming, None, None);
    board.transactions_wait(false);
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { Ended::Intake(intake.run().await) });
    // no source's disk fills behind us: changes are merged, never only landed
    let (landing, landing_watched) = watch::channel(false);
    tasks.spawn(async move {
        let _landing = landing;
        Ended::Lane(lane.run(work_received, caught_up_received, landing_watched).await)
    });
    tasks.spawn(announce(catching_up, caught_up));
    tasks.spawn(async move { Ended::Other(control.run(warehouse, watched, ends).await) });
    let kept = retention::look_after(setup.clone(), member.clone(), resting, ends_told);
    tasks.spawn(async move { Ended::Other(kept.await) });
    spawn_beside(&mut tasks, (setup, shared), (member, assignment), (rows, stop.clone()));
    let end = wait(&mut tasks, stop, stop_intake).await;
    tasks.shutdown().await;
    end
}

/// The tasks that neither take records nor apply them.
fn spawn_beside(
    tasks: &mut JoinSet<Ended>,
    (setup, shared): (&TopicSetup, &Arc<Core>),
    (member, assignment): (&Arc<Member>, Assignment),
    (rows, stop): (Rows, watch::Receiver<bool>),
) {
    tasks.spawn(async move { Ended::Other(rows.run(stop).await) });
    let given = member.given();
    tasks.spawn(send_letters(setup.connector.clone(), shared.clone()));
    tasks.spawn(async move { Ended::Other(until_other(given, &assignment).await) });
    let shared = shared.clone();
    tasks.spawn(async move { Ended::Other(owner::keep_lease(&shared.setup, &shared.fence).await) });
}

/// The gate in front of a lane that `work` goes to.
fn gate(
    shared: &Arc<Core>,
    (router, work): (Router, mpsc::Sender<Piece>),
    places: &[Place],
) -> Gate {
    let stretches = places.iter().map(|place| (place.name.clone(), place.offset));
    let window = Window::new(limits(&shared.setup.settings));
    Gate::new(shared.clone(), router, window, work, Reach::new(stretches, record_position))
}

/// Each partition at a position.
fn at(places: &[Place], position: impl Fn(&Place) -> i64) -> Positions {
    places.iter().map(|place| (place.name.clone(), position(place))).collect()
}

/// What keeps transactions whole, where the files ask for it. What a topic that rests would bring is not waited
/// for: as the changes of a table that is held it comes later.
fn whole(connector: &Kafka, (places, resting): (&[Place], &[Place]), rest: &Rest) -> Option<Whole> {
    let topics = places.iter().map(|place| place.partition.topic.to_string());
    let ends = places.iter().chain(resting).map(|place| place.memory.ended);
    let (passed, unread) = (ends.max().unwrap_or(0), rest.unread.values().sum());
    connector.atomic.then(|| Whole::new(topics.collect(), passed, unread))
}

/// In the order of the queues.
fn partitions(reading: &Reading, places: &[Place], topics: &mut Topics) -> Result<Vec<Partition>> {
    let by_name: HashMap<&str, &Place> = places.iter().map(|place| (&*place.name, place)).collect();
    let mut partitions = Vec::new();
    for queue in &reading.queues {
        let place = by_name.get(&*queue.partition.name());
        let place = place.ok_or_else(|| Error::bug("a queue of a partition that is not ours"))?;
        partitions.push(Partition::new(partitions.len(), place, topics));
    }
    Ok(partitions)
}

/// Announces the tables that go on once their kept changes are applied.
async fn announce(catching_up: Vec<CaughtUp>, to: mpsc::Sender<CaughtUp>) -> Ended {
    for table in catching_up {
        if to.send(table).await.is_err() {
            break;
        }
    }
    std::future::pending().await
}

/// Ends when the group gives other partitions.
async fn until_other(
    mut given: watch::Receiver<Assignment>,
    assignment: &Assignment,
) -> Result<End> {
    let other = given.wait_for(|now| now != assignment).await;
    other.map_err(|_| Error::bug("a member without a group"))?;
    Ok(End::Restart)
}

fn checkpoint(connector: &str, place: &Place) -> Checkpoint {
    Checkpoint {
        connector: connector.to_owned(),
        partition: place.name.clone(),
        position: place.offset,
        system_id: place.system_id.clone(),
        timeline: 0,
    }
}

/// The end of a batch as raw rows name it: of several partitions the one that has come furthest in it.
fn record_position(stretches: &[Stretch]) -> String {
    let longest = stretches.iter().max_by_key(|stretch| stretch.until - stretch.after);
    longest.map_or_else(String::new, |stretch| format!("{}:{}", stretch.partition, stretch.until))
}
