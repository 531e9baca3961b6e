//! What the bench measures on: two clusters with fsync, the files of an installation, and the service
//! as a process of its own, so that its CPU is counted apart.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::usage::{Meter, Used, peak_kib};
use crate::demo::cluster::{Cluster, ClusterOptions};
use crate::error::{Error, Kind, Result};
use crate::postgres::{Session, Side, connect};
use crate::spec::Env;

/// How often a wait looks again.
pub(super) const LOOK: Duration = Duration::from_millis(10);

/// The two clusters.
pub(super) struct Site {
    pub(super) source: Cluster,
    pub(super) warehouse: Cluster,
    batch: Option<usize>,
}

impl Site {
    /// Starts both clusters.
    pub(super) async fn start(env: &Env, batch: Option<usize>) -> Result<Site> {
        let options = |name: &str| {
            ClusterOptions::new(name, env)
                .set("shared_buffers", "512MB")
                .set("max_wal_size", "8GB")
                .set("checkpoint_timeout", "30min")
                .set("max_locks_per_transaction", "1024")
        };
        let source = Cluster::start(options("bench-source")).await?;
        let warehouse = Cluster::start(options("bench-warehouse")).await?;
        Ok(Site { source, warehouse, batch })
    }

    /// Makes a database on each side and the source's table with `rows` rows.
    pub(super) async fn installation(
        &self,
        name: &str,
        rows: u64,
        model: &str,
    ) -> Result<Installation<'_>> {
        let (shop, target) = (format!("{name}_shop"), format!("{name}_warehouse"));
        self.source.create_database(&shop).await?;
        self.warehouse.create_database(&target).await?;
        let installation = Installation {
            site: self,
            folder: Folder::new(name)?,
            shop: connect(Side::Source, &self.source.endpoint(&shop), "bench").await?,
            target: connect(Side::Warehouse, &self.warehouse.endpoint(&target), "bench").await?,
            shop_url: self.source.url(&shop),
            target_url: self.warehouse.url(&target),
        };
        installation.files(name, self.batch, model)?;
        installation.at_source(include_str!("../../sql/bench/items.sql")).await?;
        installation.at_source(&format!("call bench.fill({rows})")).await?;
        installation.at_source("vacuum analyze public.items").await?;
        Ok(installation)
    }
}

/// A source, a warehouse and the files between them.
pub(super) struct Installation<'s> {
    pub(super) site: &'s Site,
    folder: Folder,
    pub(super) shop: Session,
    pub(super) target: Session,
    pub(super) shop_url: String,
    target_url: String,
}

impl Installation<'_> {
    fn files(&self, name: &str, batch: Option<usize>, model: &str) -> Result<()> {
        let batch = batch.map_or(String::new(), |rows| format!("batch: {{ max_rows: {rows} }}\n"));
        let settings =
            "warehouse: { url: \"${TARGET_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\n";
        self.folder.write("siltstone.yaml", &format!("{settings}{batch}"))?;
        let connector = format!(
            "name: {name}\nkind: postgres\nsource: shop\nurl: \"${{SHOP_URL}}\"\n\
             tables: [\"public.*\"]\ntarget_schema: mirror\n"
        );
        self.folder.write("connectors/shop.yaml", &connector)?;
        if !model.is_empty() {
            self.folder.write("schemas/items.yaml", model)?;
        }
        Ok(())
    }

    /// Runs one statement, or several in one transaction, at the source.
    pub(super) async fn at_source(&self, statements: &str) -> Result<()> {
        let done = self.shop.batch_execute(statements).await;
        done.map_err(|error| Error::source("the bench's own statements", error))
    }

    /// Runs statements at the warehouse.
    pub(super) async fn at_target(&self, statements: &str) -> Result<()> {
        let done = self.target.batch_execute(statements).await;
        done.map_err(|error| Error::warehouse("the bench's own statements", error))
    }

    /// Declares a mart.
    pub(super) fn mart(&self, name: &str, text: &str) -> Result<()> {
        self.folder.write(&format!("sql/marts/{name}.sql"), text)
    }

    /// Writes a backlog of `changes`, ten a transaction. Returns the query that tells whether all of it
    /// is applied: by the stored position, which is committed with the rows.
    pub(super) async fn backlog(&self, changes: u64, rows: u64) -> Result<String> {
        self.at_source("set synchronous_commit to off").await?;
        self.at_source("select setseed(0.5)").await?;
        self.at_source(&format!("call bench.change(1, {}, {rows})", changes / 10)).await?;
        // the row that tells that everything is applied; it also flushes what came before
        self.at_source("set synchronous_commit to on").await?;
        let row = self.shop.query_one(POSITION, &[]).await;
        let before: i64 = row
            .and_then(|row| row.try_get(0))
            .map_err(|error| Error::source("asking where its log ends", error))?;
        self.at_source(LAST).await?;
        Ok(format!("select max(position) > {before} from audit.progress"))
    }

    /// Lets go of what the next measurement must not pay for.
    pub(super) async fn settle(&self) -> Result<()> {
        self.at_source("checkpoint").await?;
        self.at_target("checkpoint").await
    }

    /// Drops the slots of this source: they would keep the log for nobody.
    pub(super) async fn end(self) -> Result<()> {
        self.at_source(
            "select pg_drop_replication_slot(slot_name) from pg_replication_slots \
             where database = current_database() and not active",
        )
        .await
    }

    /// Starts the service.
    pub(super) fn spawn(&self, arguments: &[&str]) -> Result<Running> {
        let urls = [("SHOP_URL", &*self.shop_url), ("TARGET_URL", &*self.target_url)];
        Running::start((&self.folder, "log"), &urls, arguments)
    }

    /// Runs the service until it has caught up. It counts as done when `applied` answers true, and
    /// without one when it has ended.
    pub(super) async fn catch_up(&self, applied: Option<&str>) -> Result<Used> {
        let meter = Meter::start(self.site)?;
        let mut running = self.spawn(&["--until-caught-up"])?;
        let mut done = None;
        while running.is_there()? {
            if let (None, Some(query)) = (done, applied)
                && is_true(&self.target, query).await?
            {
                done = Some(meter.elapsed());
            }
            tokio::time::sleep(LOOK).await;
        }
        let took = done.unwrap_or_else(|| meter.elapsed());
        running.succeeded()?;
        meter.used(self.site, took, running.peak_kib)
    }
}

/// Inserts the row that tells that everything before it is applied.
const LAST: &str =
    "insert into public.items values (-1, 0, 'last', null, 0, '2023-01-01 00:00+00')";

const POSITION: &str = "select pg_wal_lsn_diff(pg_current_wal_insert_lsn(), '0/0')::bigint";

/// Whether a query answers true.
pub(super) async fn is_true(session: &Session, query: &str) -> Result<bool> {
    let row = session.query_one(query, &[]).await;
    let answer: Option<bool> = row
        .and_then(|row| row.try_get(0))
        .map_err(|error| Error::warehouse(format!("asking {query}"), error))?;
    Ok(answer == Some(true))
}

/// The service as a process.
pub(super) struct Running {
    child: Child,
    log: PathBuf,
    pub(super) peak_kib: u64,
}

impl Running {
    /// Starts it with the files of a folder, and writes its log there.
    pub(super) fn start(
        (folder, log): (&Folder, &str),
        urls: &[(&str, &str)],
        arguments: &[&str],
    ) -> Result<Running> {
        let failed = |error| Error::new(Kind::Config, "the service cannot be run").because(error);
        let log = folder.0.join(log);
        let child = Command::new(std::env::current_exe().map_err(failed)?)
            .arg("--config")
            .arg(folder.0.join("siltstone.yaml"))
            .args(["--log-level", "warn", "run"])
            .args(arguments)
            .envs(urls.iter().copied())
            .env_remove("RUST_LOG")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(fs::File::create(&log).map_err(failed)?)
            .spawn()
            .map_err(failed)?;
        Ok(Running { child, log, peak_kib: 0 })
    }

    /// Whether it still runs; notes its memory.
    pub(super) fn is_there(&mut self) -> Result<bool> {
        self.peak_kib = peak_kib(self.child.id()).unwrap_or(self.peak_kib);
        let ended = self.child.try_wait();
        let ended = ended.map_err(|e| Error::bug("a process cannot be waited for").because(e))?;
        Ok(ended.is_none())
    }

    /// Waits for its end, which must be a success.
    pub(super) fn succeeded(&mut self) -> Result<()> {
        let status = self.child.wait();
        let status = status.map_err(|e| Error::bug("a process cannot be waited for").because(e))?;
        if status.success() {
            return Ok(());
        }
        let log = fs::read_to_string(&self.log).unwrap_or_default();
        Err(Error::bug(format!("the service ended with {status}: {log}")))
    }

    /// Stops it as an operator would.
    pub(super) async fn stop(mut self) -> Result<u64> {
        let told = Command::new("kill").arg(self.child.id().to_string()).status();
        told.map_err(|e| Error::bug("a process cannot be stopped").because(e))?;
        while self.is_there()? {
            tokio::time::sleep(LOOK).await;
        }
        self.succeeded()?;
        Ok(self.peak_kib)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait()) {
            tracing::debug!(%error, "the service has ended already");
        }
    }
}

/// A folder that is removed in the end.
pub(super) struct Folder(PathBuf);

impl Folder {
    pub(super) fn new(name: &str) -> Result<Folder> {
        let name = format!("siltstone-bench-{}-{name}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        fs::create_dir_all(&folder).map_err(|error| unwritable(&folder, error))?;
        Ok(Folder(folder))
    }

    pub(super) fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.0.join(path);
        let made = path.parent().map_or(Ok(()), fs::create_dir_all);
        made.and_then(|()| fs::write(&path, text)).map_err(|error| unwritable(&path, error))
    }
}

fn unwritable(path: &Path, error: std::io::Error) -> Error {
    Error::new(Kind::Config, format!("{} cannot be written", path.display())).because(error)
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::debug!(%error, "the bench's folder stays behind");
        }
    }
}
