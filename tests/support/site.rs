//! A test's own source, warehouse and files, and the service over them, in this process or as the real
//! binary.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use siltstone::clock::Clock;
use siltstone::demo::cluster::Cluster;
use siltstone::error::Error;
use siltstone::merge::Templates;
use siltstone::pipeline::{Options, Service};
use siltstone::postgres::{Endpoint, Session, Side, connect};
use siltstone::serve::Board;
use siltstone::spec::{Spec, load};
use tempfile::TempDir;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::{clusters, env};

/// A source, a warehouse and the files between them.
pub struct Site {
    /// The connector's name, and its databases'.
    pub name: String,
    /// A session at the source.
    pub source: Session,
    /// A session at the warehouse.
    pub warehouse: Session,
    /// Where the source is.
    pub source_endpoint: Endpoint,
    /// What the service is told of the source.
    pub source_url: String,
    /// What the service is told of the warehouse; a test may put a proxy in between.
    pub warehouse_url: String,
    root: TempDir,
}

/// A service that runs in this process.
pub struct Stopper {
    stop: watch::Sender<bool>,
    task: JoinHandle<Result<(), Error>>,
}

impl Stopper {
    /// Stops it as SIGTERM would.
    pub async fn stop(self) -> Result<(), Error> {
        self.stop.send_replace(true);
        self.task.await.unwrap()
    }

    /// Waits until it ends by itself.
    pub async fn ended(self) -> Result<(), Error> {
        // what the long tests bring takes its time on a busy machine
        let within = std::time::Duration::from_secs(if super::is_full() { 600 } else { 60 });
        let waited = tokio::time::timeout(within, self.task).await;
        waited.unwrap_or_else(|_| panic!("the service did not end within {within:?}")).unwrap()
    }
}

impl Site {
    /// A site on the clusters of the run: everything in `public` is mirrored into `cleansed`.
    pub async fn new(name: &str) -> Site {
        let (source, warehouse) = clusters().await;
        Site::on(name, source, warehouse).await
    }

    /// A site on clusters of the test's own.
    pub async fn on(name: &str, source: &Cluster, warehouse: &Cluster) -> Site {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("{name}_{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let databases = (format!("{name}_shop"), format!("{name}_warehouse"));
        source.create_database(&databases.0).await.unwrap();
        warehouse.create_database(&databases.1).await.unwrap();
        let source_endpoint = source.endpoint(&databases.0);
        let site = Site {
            source: connect(Side::Source, &source_endpoint, "test").await.unwrap(),
            warehouse: connect(Side::Warehouse, &warehouse.endpoint(&databases.1), "test")
                .await
                .unwrap(),
            source_endpoint,
            source_url: source.url(&databases.0),
            warehouse_url: warehouse.url(&databases.1),
            root: TempDir::new().unwrap(),
            name,
        };
        site.source.batch_execute("set search_path to public").await.unwrap();
        site.file(
            "siltstone.yaml",
            "warehouse: { url: \"${WAREHOUSE_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\n",
        );
        site.connector("tables: [\"public.*\"]\ntarget_schema: cleansed\n");
        site
    }

    /// Writes the default installation's files, with this site's name and slot.
    pub fn default_files(&self) {
        for entry in ["siltstone.yaml", "connectors/shop.yaml"] {
            std::fs::remove_file(self.root.path().join(entry)).unwrap();
        }
        siltstone::demo::files::write(self.root.path()).unwrap();
        self.connector(
            "tables: [\"public.*\"]\nexclude: [\"public.users.password_hash\"]\n\
             target_schema: cleansed\n",
        );
    }

    /// Connects again, after a server was restarted.
    pub async fn reconnect(&mut self, source: &Cluster, warehouse: &Cluster) {
        let databases = (format!("{}_shop", self.name), format!("{}_warehouse", self.name));
        let source = source.endpoint(&databases.0);
        let warehouse = warehouse.endpoint(&databases.1);
        self.source = connect(Side::Source, &source, "test").await.unwrap();
        self.source.batch_execute("set search_path to public").await.unwrap();
        self.warehouse = connect(Side::Warehouse, &warehouse, "test").await.unwrap();
    }

    /// Lets the service be told other URLs of the same databases.
    pub fn secure(&mut self, url: impl Fn(&str) -> String) {
        self.source_url = url(&self.source_url);
        self.warehouse_url = url(&self.warehouse_url);
    }

    /// Another session at the warehouse.
    pub async fn another_session(&self) -> Session {
        let endpoint = self.spec().settings.warehouse;
        connect(Side::Warehouse, &endpoint, "another test").await.unwrap()
    }

    /// Writes a file below the root.
    pub fn file(&self, path: &str, text: &str) {
        let path = self.root.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Removes a file below the root.
    pub fn remove(&self, path: &str) {
        std::fs::remove_file(self.root.path().join(path)).unwrap();
    }

    /// Writes the connector's file with these fields beside the ones that say who it is.
    pub fn connector(&self, fields: &str) {
        let head = "kind: postgres\nsource: shop\nurl: \"${SHOP_URL}\"\n";
        self.file("connectors/shop.yaml", &format!("name: {}\n{head}{fields}", self.name));
    }

    /// Writes the one connector's file as one of topics, such as `"shop.*"`. Each is a group of its own: brokers
    /// keep members that left for a while.
    pub fn topics(&self, brokers: &str, topics: &str, fields: &str) {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let (name, count) = (&self.name, COUNT.fetch_add(1, Ordering::Relaxed));
        self.file(
            "connectors/shop.yaml",
            &format!(
                "name: {name}\nkind: kafka\nsource: shop\nbrokers: {brokers}\ngroup: {name}-{count}\n\
                 topics: [{topics}]\ntarget_schema: cleansed\n\
                 properties: {{ broker.address.family: v4 }}\n{fields}"
            ),
        );
    }

    /// The settings' path.
    pub fn config(&self) -> PathBuf {
        self.root.path().join("siltstone.yaml")
    }

    /// The files, read.
    pub fn spec(&self) -> Spec {
        let env =
            env().with("SHOP_URL", &self.source_url).with("WAREHOUSE_URL", &self.warehouse_url);
        load(&self.config(), &env).unwrap()
    }

    fn service(&self, options: Options) -> Service {
        let clock = Clock::system();
        Service { spec: self.spec(), options, board: Board::new(clock.clone()), clock }
    }

    /// Starts the service in this process.
    pub fn start(&self) -> Stopper {
        self.start_with(Options::default())
    }

    /// Starts the service in this process with options.
    pub fn start_with(&self, options: Options) -> Stopper {
        self.run(self.service(options))
    }

    /// Starts the service in this process by another clock.
    pub fn start_by(&self, clock: Clock) -> Stopper {
        self.run(Service { clock, ..self.service(Options::default()) })
    }

    fn run(&self, service: Service) -> Stopper {
        let service = Arc::new(service);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(async move { service.run(stopped).await });
        Stopper { stop, task }
    }

    /// Runs the service until everything that is at the source is in the warehouse.
    pub async fn catch_up(&self) {
        self.try_catch_up().await.unwrap();
    }

    /// As [`Site::catch_up`]; the error if it ends with one.
    pub async fn try_catch_up(&self) -> Result<(), Error> {
        self.catch_up_with(Templates::default()).await
    }

    /// As [`Site::try_catch_up`], with other merge statements.
    pub async fn catch_up_with(&self, templates: Templates) -> Result<(), Error> {
        let options = Options { until_caught_up: true, templates, ..Options::default() };
        self.start_with(options).ended().await
    }

    /// The real binary over this site.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_siltstone"));
        command
            .arg("--config")
            .arg(self.config())
            .args(arguments)
            .env("SHOP_URL", &self.source_url)
            .env("WAREHOUSE_URL", &self.warehouse_url)
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Starts the real binary. What it logs is kept in the folder that `SILTSTONE_TEST_LOGS` names, if any.
    pub fn spawn(&self, arguments: &[&str]) -> Child {
        let mut command = self.command(arguments);
        if let Some(folder) = env().get("SILTSTONE_TEST_LOGS") {
            let path = format!("{folder}/{}.{}", self.name, std::process::id());
            let log = std::fs::File::options().create(true).append(true).open(path).unwrap();
            command.stderr(Stdio::from(log)).env("RUST_LOG", "siltstone=debug");
        }
        command.spawn().unwrap()
    }

    /// Runs statements at the source, as one transaction unless they say otherwise.
    pub async fn shop(&self, statements: &str) {
        self.source.batch_execute(statements).await.unwrap();
    }

    /// Runs statements at the source, each in a transaction of its own unless it says otherwise.
    pub async fn shop_each(&self, statements: &[&str]) {
        for statement in statements {
            self.shop(statement).await;
        }
    }

    /// The answer of a query at the source, one line a row.
    pub async fn at_source(&self, query: &str) -> Vec<String> {
        lines(&self.source, query).await
    }

    /// The answer of a query at the warehouse, one line a row.
    pub async fn at_warehouse(&self, query: &str) -> Vec<String> {
        lines(&self.warehouse, query).await
    }

    /// Compares a query's answer on both sides; each side has its own table name for `{}`.
    pub async fn assert_equal(&self, query: &str, source: &str, warehouse: &str) {
        let there = self.at_source(&query.replace("{}", source)).await;
        let here = self.at_warehouse(&query.replace("{}", warehouse)).await;
        assert_eq!(there.len(), here.len(), "rows of {source} and {warehouse}");
        for (there, here) in there.iter().zip(&here) {
            assert_eq!(there, here, "{source} and {warehouse}");
        }
    }

    /// Waits until a query at the warehouse answers `true`.
    pub async fn until(&self, what: &str, query: &str) {
        // far longer than a loaded machine takes: no test is about how long
        for _ in 0..6_000 {
            // in a transaction of the test's own it would see the sessions of its first look again and again
            drop(self.warehouse.simple_query("select pg_stat_clear_snapshot()").await);
            // the tables it asks for may be yet to come
            if let Ok(answer) = self.warehouse.simple_query(query).await
                && rows_of(answer) == ["t"]
            {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
        let tables = self.at_warehouse("select t from audit.tables t").await;
        let kept = "select table_name, seq, ord, event_seq, event_ord, waits, key_hash, old_key_hash, comes_from
                      from audit.pending order by seq, ord limit 50";
        let kept = self.at_warehouse(kept).await;
        let requests =
            self.at_warehouse("select r from audit.requests r order by id desc limit 5").await;
        let sessions =
            "select application_name, state, wait_event_type, wait_event, left(query, 80)
                          from pg_stat_activity where datname = current_database()";
        let sessions = self.at_warehouse(sessions).await;
        panic!(
            "{what}: not within five minutes; tables: {tables:#?}; kept: {kept:#?}; requests: {requests:#?}; \
             sessions: {sessions:#?}"
        );
    }

    /// A table's state, reason and remedy.
    pub async fn state(&self, table: &str) -> Vec<String> {
        let query = "select state, coalesce(reason, ''), coalesce(remedy, '') from audit.tables \
            where table_name = $1";
        let row = self.warehouse.query_one(query, &[&table]).await.unwrap();
        (0..3).map(|at| row.get(at)).collect()
    }
}

async fn lines(session: &Session, query: &str) -> Vec<String> {
    rows_of(session.simple_query(query).await.unwrap_or_else(|e| panic!("{query}: {e:?}")))
}

fn rows_of(answer: Vec<tokio_postgres::SimpleQueryMessage>) -> Vec<String> {
    let row = |message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            let cell = |at| row.get(at).unwrap_or("~").to_owned();
            Some((0..row.len()).map(cell).collect::<Vec<_>>().join("|"))
        }
        _ => None,
    };
    answer.into_iter().filter_map(row).collect()
}
