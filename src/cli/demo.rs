//! `siltstone demo`: two throw-away Postgres clusters, a shop with live traffic, the service between
//! them, and a proof of equality at the end. Leaves nothing behind.

mod jobs;
mod kafka;
mod rest;

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Files;
use super::run::stop_on_signals;
use crate::demo::cluster::{Cluster, ClusterOptions};
use crate::demo::files::{self, SHOP_URL, WAREHOUSE_URL};
use crate::demo::kafka::java;
use crate::demo::screen::{Lag, Marts, Phase, TableProgress, View};
use crate::demo::shop::{self, DATABASE, ShopOptions};
use crate::demo::terminal::Screen;
use crate::demo::traffic::{DEFAULT_RATE, Traffic};
use crate::error::{Error, Kind, Result};
use crate::pipeline::{Options, Service};
use crate::postgres::{Session, Side, connect};
use crate::serve::{self, Board, Phase as Doing};
use crate::spec::{Env, Span, load};
use jobs::Jobs;
use kafka::Road;
use rest::Rest;

/// The warehouse's database.
const WAREHOUSE: &str = "warehouse";

/// The terminal is drawn this often.
const FRAME: Duration = Duration::from_millis(250);

/// Rates are taken over this long.
const RATED: Duration = Duration::from_secs(1);

/// Replicates a live shop into a warehouse, on two throw-away Postgres clusters.
#[derive(clap::Args)]
pub(super) struct Demo {
    /// Stops the traffic this long after the snapshot, and proves source and warehouse equal.
    #[arg(long = "for", value_name = "DURATION")]
    lasts: Option<Span>,
    /// How many rows the shop begins with.
    #[arg(long, default_value_t = 200_000)]
    rows: u64,
    /// How many transactions a second the traffic tries.
    #[arg(long, default_value_t = DEFAULT_RATE)]
    rate: u32,
    /// What the traffic does.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Takes the way through a throw-away Kafka and Debezium; needs Java 17 or newer, and downloads the rest.
    #[arg(long)]
    kafka: bool,
}

impl Demo {
    pub(super) async fn run(self, files: &Files) -> Result<ExitCode> {
        let stop = stop_on_signals()?;
        let env = Env::of_process(&files.clock);
        let mut screen = Screen::stdout(&env);
        let started = Instant::now();
        if self.kafka {
            // before anything is made
            java::find(&env)?;
        }
        say(&mut screen, "making two Postgres clusters and a shop …")?;
        let source = Cluster::start(options("demo-shop", &env)).await?;
        let warehouse = Cluster::start(options("demo-warehouse", &env)).await?;
        warehouse.create_database(WAREHOUSE).await?;
        enrich(&warehouse).await?;
        let shop = ShopOptions { rows: self.rows, ..ShopOptions::on_day(env.today()) };
        shop::create(&source, shop).await?;
        let folder = tempdir()?;
        files::write(&folder.0)?;
        let road = match self.kafka {
            true => {
                say(&mut screen, "starting Kafka and Debezium …")?;
                let road = Road::start(&env, &source).await?;
                road.write(&folder.0)?;
                say(&mut screen, &road.places())?;
                Some(road)
            }
            false => None,
        };
        let env = env
            .with(SHOP_URL, &source.url(DATABASE))
            .with(WAREHOUSE_URL, &warehouse.url(WAREHOUSE));
        let spec = load(&folder.0.join("siltstone.yaml"), &env)?;
        let board = Board::new(files.clock.clone());
        let service = Service {
            spec,
            clock: files.clock.clone(),
            options: Options::default(),
            board: board.clone(),
        };
        let (end_service, ended) = watch::channel(false);
        let admin = admin(&service, &ended).await?;
        let running = tokio::spawn({
            let service = service.clone();
            async move { service.run(ended).await }
        });
        let traffic = Traffic::start(source.endpoint(DATABASE), self.rate, self.seed);
        let stage = Stage {
            service,
            shop: connect(Side::Source, &source.endpoint(DATABASE), "siltstone demo").await?,
            board,
            traffic,
            running,
            view: View {
                admin: Some(admin),
                psql: vec![
                    format!("psql '{}'", source.url(DATABASE)),
                    format!("psql '{}'", warehouse.url(WAREHOUSE)),
                ],
                ..View::default()
            },
            started,
            rates: Rates::default(),
            programs: warehouse.bin_dir().to_owned(),
            jobs: None,
        };
        let code = stage.play(&mut screen, self.lasts, stop, end_service).await;
        drop((road, source, warehouse));
        code
    }
}

/// Brings the reference that users are looked up in.
async fn enrich(warehouse: &Cluster) -> Result<()> {
    let session =
        connect(Side::Warehouse, &warehouse.endpoint(WAREHOUSE), "siltstone demo").await?;
    let brought = session.batch_execute(files::COUNTRIES).await;
    brought.map_err(|error| Error::warehouse("bringing the countries", error))
}

fn options(name: &str, env: &Env) -> ClusterOptions {
    // the demo shows this service, not the disk it happens to run on
    ClusterOptions::new(name, env)
        .set("max_wal_size", "4GB")
        .set("max_locks_per_transaction", "256")
}

/// The admin server, on its usual port or on any other.
async fn admin(service: &Service, ended: &watch::Receiver<bool>) -> Result<String> {
    let (_, files) = watch::channel(Arc::new(service.spec.clone()));
    let (address, token) = match service.serve(files.clone(), ended.clone()).await {
        Ok(started) => started,
        Err(_) => service.on_any_port().serve(files, ended.clone()).await?,
    };
    Ok(match token {
        Some(token) => format!("http://{address} (token {token})"),
        None => format!("http://{address}"),
    })
}

/// A folder that is removed in the end.
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "the demo's folder stays behind");
        }
    }
}

fn tempdir() -> Result<Folder> {
    let folder = std::env::temp_dir().join(format!("siltstone-demo-{}", std::process::id()));
    std::fs::create_dir_all(&folder).map_err(|error| {
        Error::new(Kind::Config, format!("{} cannot be made", folder.display())).because(error)
    })?;
    Ok(Folder(folder))
}

fn say(screen: &mut Screen, line: &str) -> Result<()> {
    screen.say(line).map_err(|error| Error::bug("the terminal does not take a line").because(error))
}

/// Everything on the stage while the demo runs.
struct Stage {
    service: Service,
    shop: Session,
    board: Board,
    traffic: Traffic,
    running: JoinHandle<Result<()>>,
    view: View,
    started: Instant,
    rates: Rates,
    /// where the warehouse's programs are
    programs: PathBuf,
    /// once the stream goes on
    jobs: Option<Jobs>,
}

/// What was counted when rates were last taken.
#[derive(Default)]
struct Rates {
    at: Option<Instant>,
    transactions: u64,
    events: u64,
    versions: u64,
}

impl Rates {
    /// Takes what was counted into the view, and once a second how much of it came in one.
    fn take(&mut self, shown: &serve::View, transactions: u64, view: &mut View) {
        view.versions = shown.totals.versions;
        let elapsed = self.at.map(|at| at.elapsed());
        if elapsed.is_some_and(|elapsed| elapsed < RATED) {
            return;
        }
        let a_second = |now: u64, before: u64| {
            let micros = elapsed.map_or(u128::MAX, |elapsed| elapsed.as_micros().max(1));
            let rate = u128::from(now.saturating_sub(before)) * 1_000_000 / micros;
            u64::try_from(rate).unwrap_or(0)
        };
        view.source_transactions = a_second(transactions, self.transactions);
        view.applied_rows = a_second(shown.totals.events, self.events);
        view.versions_added = a_second(shown.totals.versions, self.versions);
        *self = Rates {
            at: Some(Instant::now()),
            transactions,
            events: shown.totals.events,
            versions: shown.totals.versions,
        };
    }
}

impl Stage {
    async fn play(
        mut self,
        screen: &mut Screen,
        lasts: Option<Span>,
        mut stop: watch::Receiver<bool>,
        end_service: watch::Sender<bool>,
    ) -> Result<ExitCode> {
        let mut since_snapshot = None;
        loop {
            self.look();
            self.draw(screen)?;
            if self.running.is_finished() {
                return Err(self.why_ended().await);
            }
            if self.view.phase == Phase::Streaming {
                let since = *since_snapshot.get_or_insert_with(Instant::now);
                self.look_after_jobs().await?;
                if lasts.is_some_and(|Span(lasts)| since.elapsed() >= lasts) {
                    break;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(FRAME) => {}
                _ = stop.wait_for(|stop| *stop) => {
                    end_service.send_replace(true);
                    drop(self.traffic.stop().await);
                    drop(tokio::time::timeout(Duration::from_secs(10), self.running).await);
                    return Ok(ExitCode::SUCCESS);
                }
            }
        }
        let Stage { traffic, .. } = self;
        let counts = traffic.stop().await?;
        let mut rest = Rest {
            service: self.service,
            shop: self.shop,
            board: self.board,
            view: self.view,
            started: self.started,
            rates: self.rates,
            transactions: counts.transactions,
            jobs: self.jobs,
        };
        let under_traffic = rest.view.clone();
        rest.drain(screen).await?;
        let went_well = rest.run_jobs(screen).await?;
        rest.view.source_transactions = under_traffic.source_transactions;
        rest.view.applied_rows = under_traffic.applied_rows;
        rest.view.versions_added = under_traffic.versions_added;
        let verdict = rest.verify(screen).await?;
        end_service.send_replace(true);
        let ended = tokio::time::timeout(Duration::from_secs(15), self.running).await;
        let in_time = matches!(ended, Ok(Ok(Ok(()))));
        screen.leave();
        say(
            screen,
            &format!(
                "{} source transactions, {} changes, {} rolled back",
                counts.transactions, counts.changes, counts.rolled_back
            ),
        )?;
        let passed = verdict && went_well && in_time;
        Ok(if passed { ExitCode::SUCCESS } else { ExitCode::from(65) })
    }

    async fn look_after_jobs(&mut self) -> Result<()> {
        if self.jobs.is_none() {
            self.jobs = Some(Jobs::of(&self.service.spec, &self.programs, &self.shop).await?);
        }
        let Some(jobs) = &mut self.jobs else { return Ok(()) };
        jobs.look().await?;
        self.view.jobs = Some(jobs.shown.clone());
        Ok(())
    }

    async fn why_ended(self) -> Error {
        match self.running.await {
            Ok(Err(error)) => error,
            _ => Error::bug("the service ended by itself"),
        }
    }

    /// Takes what the board and the traffic show into the view.
    fn look(&mut self) {
        let views = self.board.views();
        let Some(shown) = views.first() else { return };
        self.view.elapsed = self.started.elapsed();
        self.view.lag = Some(Lag {
            milliseconds: shown.lag_micros(self.board.now()).unsigned_abs() / 1000,
            bytes: shown.lag_bytes(),
        });
        // a group is joined, and Debezium reads the shop, before anything is there to be seen
        let topics = !self.service.spec.kafka.is_empty();
        self.view.phase = match shown.phase {
            Doing::Starting => Phase::Starting,
            _ if topics && shown.totals.events == 0 => Phase::Starting,
            Doing::Snapshotting => Phase::Snapshot(progress(shown)),
            _ => Phase::Streaming,
        };
        self.view.notes = shown.reason.iter().cloned().collect();
        self.view.marts = marts(&self.board);
        self.view.retries = 0;
        self.rates.take(shown, self.traffic.counts().transactions, &mut self.view);
    }

    fn draw(&self, screen: &mut Screen) -> Result<()> {
        draw(&self.view, screen)
    }
}

/// How the marts follow.
fn marts(board: &Board) -> Option<Marts> {
    let reports = board.marts();
    let count = |reports: usize| u64::try_from(reports).unwrap_or(u64::MAX);
    let behind = reports.iter().map(|report| report.lag_seconds).fold(0.0, f64::max);
    (!reports.is_empty()).then(|| Marts {
        count: count(reports.len()),
        fresh: count(reports.iter().filter(|report| report.state == "fresh").count()),
        milliseconds: count(
            usize::try_from(Duration::from_secs_f64(behind).as_millis()).unwrap_or(usize::MAX),
        ),
        written: reports.iter().map(|report| report.rows_written.unsigned_abs()).sum(),
        different: None,
    })
}

fn draw(view: &View, screen: &mut Screen) -> Result<()> {
    screen.show(view).map_err(|error| Error::bug("the terminal cannot be drawn").because(error))
}

fn progress(view: &serve::View) -> Vec<TableProgress> {
    let mut tables: Vec<TableProgress> = view
        .tables
        .iter()
        .filter(|(_, table)| table.rows_estimated > 0 || table.rows_read > 0)
        .map(|(name, table)| TableProgress {
            name: name.to_string(),
            done: table.rows_read,
            total: table.rows_estimated,
            finished: matches!(table.state.as_str(), "catching_up" | "streaming"),
        })
        .collect();
    tables.sort_by(|a, b| a.name.cmp(&b.name));
    tables
}
