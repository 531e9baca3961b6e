//! `siltstone demo`: two throw-away Postgres clusters, a shop with live traffic, the service between
//! them, and a proof of equality at the end. Leaves nothing behind.

mod jobs;
mod kafka;
mod rest;
mod shown;

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
use crate::demo::screen::{Phase, View};
use crate::demo::shop::{self, DATABASE, ShopOptions};
use crate::demo::terminal::Screen;
use crate::demo::traffic::{DEFAULT_RATE, Traffic};
use crate::error::{Error, Kind, Result};
use crate::pipeline::{Options, Service};
use crate::postgres::{Session, Side, connect};
use crate::serve::{Board, Phase as Doing};
use crate::spec::{Env, Span, load};
use jobs::Jobs;
use kafka::Road;
use rest::Rest;
use shown::{Rates, lag, marts, progress};

/// The warehouse's database.
const WAREHOUSE: &str = "warehouse";

/// What a person who stops it reads.
const STOPPING: &str = "stopping; what was made for the demo is removed …";

/// The terminal is drawn this often.
const FRAME: Duration = Duration::from_millis(250);

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
        let mut stop = stop_on_signals()?;
        let mut screen = Screen::stdout(&Env::of_process(&files.clock));
        let (end_service, ended) = watch::channel(false);
        let set_up = tokio::select! {
            set_up = self.set_up(files, &mut screen, ended) => Some(set_up?),
            _ = stop.wait_for(|stop| *stop) => None,
        };
        let Some((stage, servers)) = set_up else {
            say(&mut screen, STOPPING)?;
            return Ok(ExitCode::SUCCESS);
        };
        let code = stage.play(&mut screen, self.lasts, stop, end_service).await;
        drop(servers);
        code
    }

    /// Starts everything, in the order in which one thing needs another.
    async fn set_up(
        &self,
        files: &Files,
        screen: &mut Screen,
        ended: watch::Receiver<bool>,
    ) -> Result<(Stage, Servers)> {
        let env = Env::of_process(&files.clock);
        let started = Instant::now();
        if self.kafka {
            // before anything is made
            java::find(&env)?;
        }
        say(screen, "making two Postgres clusters and a shop …")?;
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
                say(screen, "starting Kafka and Debezium …")?;
                let road = Road::start(&env, &source).await?;
                road.write(&folder.0)?;
                say(screen, &road.places())?;
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
        let admin = admin(&service, &ended).await?;
        let running = tokio::spawn({
            let service = service.clone();
            async move { service.run(ended).await }
        });
        let stage = Stage {
            service,
            shop: connect(Side::Source, &source.endpoint(DATABASE), "siltstone demo").await?,
            board,
            traffic: Traffic::start(source.endpoint(DATABASE), self.rate, self.seed),
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
        Ok((stage, Servers { _road: road, _clusters: [source, warehouse], _folder: folder }))
    }
}

/// What runs beside us, and ends and is removed when this is dropped.
struct Servers {
    _road: Option<Road>,
    _clusters: [Cluster; 2],
    _folder: Folder,
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
                    screen.leave();
                    say(screen, STOPPING)?;
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
        self.view.lag = Some(lag(shown, self.board.now()));
        // topics come one by one as Debezium reads the shop: how far that is, and how late, nobody can tell before
        // the last has come, which is the one with versions
        let topics = !self.service.spec.kafka.is_empty();
        let begins = shown.totals.versions == 0 && self.view.phase == Phase::Starting;
        self.view.phase = match shown.phase {
            Doing::Starting if begins || !topics => Phase::Starting,
            _ if topics && begins => Phase::Starting,
            Doing::Snapshotting => Phase::Snapshot(progress(shown)),
            _ => Phase::Streaming,
        };
        self.view.notes = shown.reason.iter().cloned().collect();
        if topics && self.view.phase == Phase::Starting {
            self.view.notes = vec!["Debezium reads the shop's rows into its topics".to_owned()];
        }
        self.view.marts = marts(&self.board);
        self.view.retries = 0;
        self.rates.take(shown, self.traffic.counts().transactions, &mut self.view);
    }

    fn draw(&self, screen: &mut Screen) -> Result<()> {
        draw(&self.view, screen)
    }
}

fn draw(view: &View, screen: &mut Screen) -> Result<()> {
    screen.show(view).map_err(|error| Error::bug("the terminal cannot be drawn").because(error))
}
