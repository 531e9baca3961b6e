//! One session of a connector: becomes the owner, finds out where it stands, and runs its tasks until
//! one of them ends. Whatever fails, the next session starts from the stored position.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

use super::branches::Branches;
use super::confirm::confirm;
use super::control::Control;
use super::cutting::Job;
use super::folding::Folding;
use super::follow::leaves_ahead;
use super::gate::{Gate, Reach};
use super::hold::hold_table;
use super::intake::{End, Intake};
use super::lane::{Lane, Progress};
use super::remask::{leave_out_renamed, remask};
use super::resolve::{LeftOut, Resolved, feeders, resolve};
use super::rights::{
    leave_out_unowned, leave_out_untold, name_unmade, publish, refuse_unmade, tell_locked,
};
use super::router::Router;
use super::shared::{CaughtUp, Setup, Shared};
use super::start::{Start, await_promotion, start_stream};
use super::streamed::Streams;
use super::tables::{Planned, plan};
use super::wall::Wall;
use super::{chunks, halt, ladder, owner, standby, standing};
use crate::capture::LogEnd;
use crate::capture::catalog;
use crate::capture::preflight::{self, Source};
use crate::capture::publication;
use crate::capture::replication::Feedback;
use crate::capture::slot::{self, Created};
use crate::decode::Decoder;
use crate::error::{Error, Kind, Result};
use crate::fold::{Limits, Window};
use crate::journey::Stretch;
use crate::position::{Lsn, Positions};
use crate::postgres::{Session, Side, connect};
use crate::progress::tables::State;
use crate::progress::{Checkpoint, Ledger, chunks as chunks_to_read, dead_letters, tables};
use crate::serve::Phase;
use crate::spec::Settings;
use crate::warehouse::{Fence, migrate, refuse_outstanding, refuse_unfit};

/// How long a stop may take to finish the open batch before it is abandoned.
const GRACE: Duration = Duration::from_secs(8);

/// When a window is full: three of them may be held at once (folding, waiting, merging), each beside
/// its encoded form.
pub(super) fn limits(settings: &Settings) -> Limits {
    const SHARES: u64 = 6;
    let bytes = usize::try_from(settings.memory / SHARES).unwrap_or(usize::MAX);
    Limits { rows: settings.batch_rows, bytes }
}

/// Runs a session.
pub(super) async fn run(setup: &Setup, stop: watch::Receiver<bool>) -> Result<End> {
    let connector = &setup.connector;
    let name = format!("siltstone {} control", connector.name);
    let mut warehouse = connect(Side::Warehouse, &setup.settings.warehouse, &name).await?;
    refuse_unfit(&*warehouse, !setup.no_ddl).await?;
    if setup.no_ddl {
        refuse_outstanding(&*warehouse).await?;
    } else {
        migrate(&mut warehouse).await?;
    }
    let Some(fence) = owner::become_owner(setup, &mut warehouse, stop.clone()).await? else {
        return Ok(End::Stopped);
    };
    match Box::pin(as_owner(setup, fence, warehouse, stop)).await {
        // by `siltstone apply`, and then it may begin anew; or by another instance, and then it may not
        Err(error) if error.kind() == Kind::Fenced => {
            tracing::info!(connector = connector.name, "it begins a new session: it was told to");
            setup.reread.done().await;
            Ok(End::Restart)
        }
        ended => ended,
    }
}

async fn as_owner(
    setup: &Setup,
    fence: Fence,
    mut warehouse: Session,
    stop: watch::Receiver<bool>,
) -> Result<End> {
    let paused = (&mut warehouse, stop.clone());
    if let Some(end) = halt::until_wanted(setup, &fence, paused, Some(setup)).await? {
        return Ok(end);
    }
    let parts = tokio::select! {
        parts = prepare(setup, &fence, warehouse) => parts?,
        // making a slot may wait for the source's transactions longer than a lease lasts
        Err(lost) = owner::keep_lease(setup, &fence) => return Err(lost),
    };
    let shared = parts.shared.clone();
    match run_tasks(parts, stop).await {
        Err(error) => hold_table(&shared, error).await,
        Ok(ended @ (End::Stopped | End::CaughtUp)) => {
            // whoever stands by need not wait for the lease to run out
            if !shared.setup.reloading.load(Ordering::SeqCst) {
                shared.release().await;
            }
            Ok(ended)
        }
        ended => ended,
    }
}

/// Finds out where the connector stands, and makes what is missing.
async fn prepare(setup: &Setup, fence: &Fence, mut warehouse: Session) -> Result<Parts> {
    let connector = &setup.connector;
    let source = connect(Side::Source, &connector.endpoint, "siltstone catalogue").await?;
    let settings = preflight::inspect(&source, 0).await?;
    if settings.standby {
        await_promotion(setup, &source, &warehouse).await?;
    }
    preflight::refuse(&settings.findings)?;
    for finding in &settings.findings {
        tracing::warn!(remedy = finding.remedy, "the source: {}", finding.what);
    }
    let extensions = crate::merge::extension_types(&*warehouse).await?;
    let catalogue = catalog::tables(&*source).await?;
    let known = feeders(&tables::read(&*warehouse, &connector.name).await?);
    let mut resolved = resolve(connector, &setup.models, catalogue, &extensions, &known);
    let left_out_first = resolved.left_out.iter().map(|out| out.table.clone()).collect();
    if let Some(because) = &resolved.text_because {
        tracing::info!("values travel as text, because {because}");
    }
    let binary = resolved.text_because.is_none();
    let version = settings.version;
    name_unmade(&source, settings.cannot_publish.as_ref(), &resolved.publications).await?;
    let mut untold = publication::untold(&source, &resolved.publications, version).await?;
    if setup.no_ddl {
        leave_out_untold(&mut resolved, &source, &mut untold).await?;
    }
    refuse_unmade(&resolved, &source, (version, &connector.name)).await?;
    leave_out_unowned(&mut resolved, &source, (&untold, &connector.name)).await?;
    let shared = Arc::new(Shared::open(setup.clone(), fence.clone(), binary, settings).await?);
    leave_out_renamed(&shared, &warehouse, &mut resolved).await?;
    ladder::name_orphans(&shared, &source).await?;
    let control = Control::new(shared.clone());
    control.carry_out_before_start(&source, &mut warehouse).await?;
    remask(&shared, &mut warehouse, &resolved).await?;
    let (mut planned, more) = plan(&shared, &warehouse, &resolved, &untold).await?;
    standby::refuse_other(&shared, &warehouse, &planned).await?;
    // only now: that a table is to be read again must not be forgotten in a crash between the two
    let locked = publish(&shared, &source, (&mut resolved, &mut planned)).await?;
    leaves_ahead(&shared, &planned).await?;
    // before anything is read of them
    let branches = Branches::learn(&shared, (&source, &mut warehouse), &planned).await?;
    let left_out = [resolved.left_out.as_slice(), &more].concat();
    show(&shared, &planned, &left_out);
    tell_locked(&shared, &locked).await?;
    let start = Start { shared: shared.clone(), source: &source };
    let (checkpoint, created) = start.position(&mut warehouse, &planned).await?;
    standing::works(&shared, &standing::left_out(&shared, &resolved, &more)).await?;
    let control = control.knowing(branches, left_out_first, locked);
    Ok(Parts { shared, control, source, warehouse, resolved, planned, checkpoint, created })
}

/// Tells people what each table is doing, and what is left out.
fn show(shared: &Shared, planned: &[Planned], left_out: &[LeftOut]) {
    let board = &shared.setup.board;
    board.clear_tables();
    for table in planned {
        let record = &table.record;
        let name = &record.table;
        board.table_named(table.target.index, name);
        board.table_state(
            name,
            record.state.word(),
            record.reason.as_deref(),
            record.remedy.as_deref(),
        );
        if record.chunk_open || record.part_open {
            board.rows_read(name, 0, table.source.estimated_rows);
        }
        if record.state == State::Stopped {
            let (reason, remedy) = (record.reason.as_deref(), record.remedy.as_deref());
            tracing::warn!(table = %name, reason, remedy, "the table is stopped");
        }
    }
    for out in left_out {
        tracing::warn!(table = %out.table, remedy = out.remedy, "left out: {}", out.why);
        let stopped = State::Stopped.word();
        board.table_state(&out.table, stopped, Some(&out.why), Some(&out.remedy));
    }
    board.phase(
        if planned.iter().any(|table| table.record.chunk_open) {
            Phase::Snapshotting
        } else {
            Phase::Streaming
        },
        None,
        None,
    );
}

/// What the tasks of a session are made of.
struct Parts {
    shared: Arc<Shared>,
    control: Control,
    source: Session,
    warehouse: Session,
    resolved: Resolved,
    planned: Vec<Planned>,
    checkpoint: Checkpoint,
    created: Option<Created>,
}

/// What the source is told first: where less than all is confirmed on purpose, what is confirmed.
async fn told_so_far(shared: &Shared, source: &Session, from: Lsn) -> Result<Lsn> {
    let connector = shared.connector();
    if connector.slot_hold_back.is_none() {
        return Ok(from);
    }
    let there = slot::inspect(source, &connector.slot).await?;
    Ok(there.and_then(|slot| slot.confirmed).unwrap_or(from).min(from))
}

/// How a task of a session ended.
pub(super) enum Ended {
    Intake(Result<End>),
    Lane(Result<()>),
    Other(Result<End>),
}

async fn run_tasks(parts: Parts, stop: watch::Receiver<bool>) -> Result<End> {
    let Parts { shared, control, source, warehouse, resolved, planned, checkpoint, created } =
        parts;
    let from = checkpoint.lsn();
    let slot = &shared.connector().slot;
    let (stop_intake, stop_watched) = watch::channel(false);
    let streams = Streams::open(&shared, stop_watched.clone());
    let (reader, writer_half) = start_stream(&shared, &resolved, from, streams.are_taken()).await?;
    let (progress, watched) =
        watch::channel(Progress { done: 0, stored: Positions::of_log(slot, from) });
    let (stored, stored_watched) = watch::channel(told_so_far(&shared, &source, from).await?);
    let (asked, asked_watched) = watch::channel(0);
    let (work, work_received) = mpsc::channel(1);
    let (caught_up, caught_up_received) = mpsc::channel(64);
    let waiting = dead_letters::waiting(&*warehouse, &shared.connector().name).await?;
    let ledger = Ledger::new(&shared.connector().name, vec![checkpoint]);
    let lane = Lane::open(shared.core.clone(), ledger, progress, &warehouse).await?;
    let end = Positions::of_log(slot, LogEnd::of(&*source).await?.position);
    announce_caught_up(&planned, &end, &caught_up);
    let open = chunks_to_read::open(&*warehouse, &shared.connector().name).await?;
    let jobs: Vec<Job> = planned.iter().flat_map(|table| Job::of(table, &open)).collect();
    let router = Router::new(&planned, waiting, shared.connector().held_keys);
    let window = Window::new(limits(&shared.setup.settings));
    let reach = Reach::new([(slot.as_str().into(), from.as_i64())], log_position);
    let folding = Folding {
        shared: shared.clone(),
        gate: Gate::new(shared.core.clone(), router, window, work, reach),
        source: connect(Side::Source, &shared.connector().endpoint, "siltstone catalogue").await?,
        decoder: Decoder::default(),
    };
    let seen = watched.clone();
    let wall = Wall::new(&shared, &planned);
    let intake = Intake::new((reader, folding), (streams, wall), seen, asked, stop_watched);
    let every = feedback_interval(&shared.source);
    let feedback = Feedback { stored: stored_watched, asked: asked_watched, every };
    let clock = shared.setup.clock.clone();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move { Ended::Intake(intake.run().await) });
    let landing = shared.setup.landing.subscribe();
    tasks.spawn(
        async move { Ended::Lane(lane.run(work_received, caught_up_received, landing).await) },
    );
    let confirming = tokio::spawn(writer_half.run(feedback, clock));
    tasks.spawn({
        let watched = watched.clone();
        let shared = shared.clone();
        async move { Ended::Other(confirm(shared, stored, watched).await) }
    });
    tasks.spawn({
        let shared = shared.clone();
        async move {
            match chunks::run(shared, jobs, created, caught_up).await {
                Ok(()) => std::future::pending().await,
                Err(error) => Ended::Other(Err(error)),
            }
        }
    });
    tasks.spawn(async move {
        Ended::Other(control.run(source, warehouse, watched, resolved, planned).await)
    });
    tasks.spawn({
        let shared = shared.clone();
        async move { Ended::Other(owner::keep_lease(&shared.setup, &shared.fence).await) }
    });
    let end = wait(&mut tasks, stop, stop_intake).await;
    tasks.shutdown().await;
    // the last status update confirms what was stored last
    drop(tokio::time::timeout(Duration::from_secs(2), confirming).await);
    end
}

/// Waits for the first task that ends the session. Asked to stop, intake hands over what is whole and
/// the lane finishes it; after a while whatever is open is abandoned.
pub(super) async fn wait(
    tasks: &mut JoinSet<Ended>,
    mut stop: watch::Receiver<bool>,
    stop_intake: watch::Sender<bool>,
) -> Result<End> {
    let mut end = None;
    let mut deadline = None;
    let mut lane_ended = false;
    loop {
        let timeout = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let stop_asked = async {
            if deadline.is_none() {
                drop(stop.wait_for(|stop| *stop).await);
            } else {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            ended = tasks.join_next() => {
                let ended = ended.ok_or_else(|| Error::bug("a session without tasks"))?;
                let ended = ended.map_err(|e| Error::bug("a task broke off").because(e))?;
                match ended {
                    // the lane's own error says why
                    Ended::Intake(Err(error)) if error.kind() == Kind::Cancelled && !lane_ended => {}
                    Ended::Intake(Ok(how)) => {
                        let how = *end.get_or_insert(how);
                        if lane_ended {
                            return Ok(how);
                        }
                    }
                    Ended::Lane(Ok(())) => match end {
                        Some(how) => return Ok(how),
                        // it ends when intake does, which has yet to say how
                        None => lane_ended = true,
                    },
                    Ended::Other(Ok(how)) => {
                        end = Some(how);
                        stop_intake.send_replace(true);
                        deadline.get_or_insert(tokio::time::Instant::now() + GRACE);
                    }
                    Ended::Intake(Err(error)) | Ended::Lane(Err(error)) | Ended::Other(Err(error)) => {
                        return Err(error);
                    }
                }
            }
            () = stop_asked => {
                stop_intake.send_replace(true);
                deadline = Some(tokio::time::Instant::now() + GRACE);
                end = Some(End::Stopped);
            }
            () = timeout => return Ok(end.unwrap_or(End::Stopped)),
        }
    }
}

/// Tells the lane which tables have only their kept changes before them. `end` is the end of the
/// source's log.
fn announce_caught_up(planned: &[Planned], end: &Positions, caught_up: &mpsc::Sender<CaughtUp>) {
    let catching_up = planned
        .iter()
        .filter(|table| table.record.state == State::CatchingUp && !table.record.chunk_open);
    for table in catching_up {
        let mut ready = CaughtUp::at(table.target.clone(), table.record.floor);
        ready.joins = table.record.joins;
        // only a table that is sifted has a reason
        if table.record.reason.is_some() {
            ready.not_before = end.clone();
        }
        // room for every table is made below if there are more than the queue holds
        let sender = caught_up.clone();
        tokio::spawn(async move { drop(sender.send(ready).await) });
    }
}

/// The end of a batch as raw rows name it.
fn log_position(stretches: &[Stretch]) -> String {
    stretches.first().map_or(Lsn(0), |stretch| Lsn::from_i64(stretch.until)).to_string()
}

/// A third of wal_sender_timeout, at most ten seconds.
fn feedback_interval(source: &Source) -> Duration {
    const LONGEST: Duration = Duration::from_secs(10);
    match u64::try_from(source.wal_sender_timeout) {
        Ok(0) | Err(_) => LONGEST,
        Ok(milliseconds) => LONGEST.min(Duration::from_millis(milliseconds / 3)),
    }
}
