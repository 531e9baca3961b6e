//! What topics are measured on: a broker, a warehouse with fsync, and databases that hold the table as it is
//! before the backlog.

use super::change::{A_TRANSACTION, Change, Changes, Kind as ChangeKind};
use super::log::{Topic, blocking};
use crate::bench::site::{Folder, LOOK, Running, is_true};
use crate::demo::cluster::{Cluster, ClusterOptions};
use crate::demo::kafka::{Broker, ServerOptions};
use crate::error::{Error, Kind, Result};
use crate::postgres::{Session, Side, connect};
use crate::spec::Env;

/// The servers.
pub(super) struct Ground {
    pub(super) broker: Broker,
    pub(super) warehouse: Cluster,
    pub(super) env: Env,
    /// a record that lets the service make its table
    seed: Topic,
    seed_plain: Topic,
    batch: Option<usize>,
}

impl Ground {
    /// Starts a broker and a warehouse. Fails where there is no Java.
    pub(super) async fn start(env: &Env, batch: Option<usize>) -> Result<Ground> {
        let mut options = ServerOptions::new("bench-broker", env);
        (options.heap_mib, options.measured) = (1024, true);
        let broker = Broker::start(options.set("num.io.threads", "4")).await?;
        let cluster = ClusterOptions::new("bench-warehouse", env)
            .set("shared_buffers", "512MB")
            .set("max_wal_size", "8GB")
            .set("checkpoint_timeout", "30min");
        let warehouse = Cluster::start(cluster).await?;
        let at = broker.address();
        let seed = seeded(&at, "seed", true).await?;
        let seed_plain = seeded(&at, "seed-plain", false).await?;
        Ok(Ground { broker, warehouse, env: env.clone(), seed, seed_plain, batch })
    }

    /// A topic with a backlog, written now.
    pub(super) async fn backlog(
        &self,
        (name, partitions, schemas): (&str, i32, bool),
        (changes, count): (Changes, u64),
    ) -> Result<(Topic, u64)> {
        let topic = Topic::make(&self.broker.address(), name, partitions, schemas).await?;
        let written = topic.clone();
        let bytes = blocking(move || {
            let mut writer = written.writer()?;
            for at in 0..count {
                writer.send(&changes.at(at))?;
                if at % A_TRANSACTION == 0 {
                    writer.poll();
                }
            }
            writer.flush()?;
            Ok(writer.bytes / count.max(1))
        })
        .await?;
        Ok((topic, bytes))
    }
}

async fn seeded(brokers: &str, name: &str, schemas: bool) -> Result<Topic> {
    let topic = Topic::make(brokers, name, 1, schemas).await?;
    let writing = topic.clone();
    blocking(move || {
        let mut writer = writing.writer()?;
        let (kind, id, n) = (ChangeKind::Insert, 1, 1);
        writer.send(&Change { kind, id, n, transaction: 0, place: 0 })?;
        writer.flush()
    })
    .await?;
    Ok(topic)
}

/// A database with the table, and the files that read a topic into it.
pub(super) struct Target<'g> {
    ground: &'g Ground,
    folder: Folder,
    pub(super) session: Session,
    name: String,
    url: String,
    topic: Topic,
}

impl<'g> Target<'g> {
    /// Makes the table `mirror.items` with the service, and fills it.
    pub(super) async fn new(
        ground: &'g Ground,
        name: &str,
        topic: &Topic,
        rows: u64,
    ) -> Result<Target<'g>> {
        ground.warehouse.create_database(name).await?;
        let endpoint = ground.warehouse.endpoint(name);
        let session = connect(Side::Warehouse, &endpoint, "bench").await?;
        let (folder, url) = (Folder::new(name)?, ground.warehouse.url(name));
        let target =
            Target { ground, folder, session, name: name.to_owned(), url, topic: topic.clone() };
        target.files(if topic.schemas { &ground.seed } else { &ground.seed_plain })?;
        let mut seeding = target.spawn("seed", &["--until-caught-up"])?;
        while seeding.is_there()? {
            tokio::time::sleep(LOOK).await;
        }
        seeding.succeeded()?;
        target.files(topic)?;
        target.run(include_str!("../../../sql/bench/topics.sql")).await?;
        target
            .run(&format!(
                "insert into mirror.items (id, quantity, name, note, price, placed_at, _seq, _ord, _synced_at) \
                 select i.*, 0, 0, now() from generate_series(2, {rows}::bigint) n, bench.item(n, n) i"
            ))
            .await?;
        target.run("vacuum analyze mirror.items").await?;
        Ok(target)
    }

    fn files(&self, topic: &Topic) -> Result<()> {
        let batch = self.ground.batch;
        let batch = batch.map_or(String::new(), |rows| format!("batch: {{ max_rows: {rows} }}\n"));
        let settings =
            "warehouse: { url: \"${TARGET_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\n";
        self.folder.write("siltstone.yaml", &format!("{settings}{batch}"))?;
        let (name, brokers) = (&self.name, self.ground.broker.address());
        let connector = format!(
            "name: topics\nkind: kafka\nsource: shop\nbrokers: {brokers}\ngroup: {name}\n\
             topics: [\"{}\"]\ntarget_schema: mirror\nproperties: {{ broker.address.family: v4 }}\n\
             types: {{ decimal_scale: {{ public.items.price: 2 }} }}\n",
            topic.name
        );
        self.folder.write("connectors/topics.yaml", &connector)?;
        self.folder.write("schemas/items.yaml", MODEL)
    }

    /// Starts a service.
    pub(super) fn spawn(&self, log: &str, arguments: &[&str]) -> Result<Running> {
        Running::start((&self.folder, log), &[("TARGET_URL", &self.url)], arguments)
    }

    /// Runs statements.
    pub(super) async fn run(&self, statements: &str) -> Result<()> {
        let done = self.session.batch_execute(statements).await;
        done.map_err(|error| Error::warehouse("the bench's own statements", error))
    }

    /// The query that tells whether all of the topic is applied: by the stored offsets, which are committed
    /// with the rows.
    pub(super) async fn applied(&self) -> Result<String> {
        let ends = self.topic.ends().await?;
        let (count, sum) = (ends.len(), ends.iter().sum::<i64>());
        let name = crate::postgres::quote::literal(&format!("{}/%", self.topic.name));
        Ok(format!(
            "select count(*) = {count} and coalesce(sum(position), 0) = {sum} from audit.progress \
             where partition like {name}"
        ))
    }

    /// Waits until a query answers true, while services run.
    pub(super) async fn until(&self, query: &str, running: &mut [Running]) -> Result<()> {
        while !is_true(&self.session, query).await? {
            for service in &mut *running {
                if !service.is_there()? {
                    service.succeeded()?;
                    return Err(Error::bug("a service ended while it was measured"));
                }
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Writes down what the changes leave.
    pub(super) async fn expect(&self, (changes, count): (Changes, u64)) -> Result<()> {
        const A_STATEMENT: usize = 50_000;
        let rows = blocking(move || Ok(changes.leave(count))).await?;
        for rows in rows.chunks(A_STATEMENT) {
            let number = |n: u64| i64::try_from(n).unwrap_or(0);
            let ids: Vec<i64> = rows.iter().map(|(id, _)| number(*id)).collect();
            let numbers: Vec<i64> = rows.iter().map(|(_, n)| number(*n)).collect();
            let insert = "insert into bench.expected select * from unnest($1::int8[], $2::int8[])";
            let done = self.session.execute(insert, &[&ids, &numbers]).await;
            done.map_err(|error| Error::warehouse("writing what is expected", error))?;
        }
        Ok(())
    }

    /// How many rows there are, and their digest.
    pub(super) async fn digest(&self, rows: &str) -> Result<String> {
        let row = self.session.query_one("select bench.digest($1)", &[&rows]).await;
        row.and_then(|row| row.try_get(0)).map_err(|error| Error::warehouse("comparing", error))
    }

    /// Fails where a table is not what is expected; else its digest.
    pub(super) async fn compare(&self, table: &str) -> Result<String> {
        let expected = self.digest(EXPECTED).await?;
        let found = self.digest(table).await?;
        if found == expected {
            return Ok(found);
        }
        let what = format!("{table} holds {found}, expected are {expected}");
        Err(Error::new(Kind::Differs, what))
    }

    /// Its database.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Drops the database: its pages are not the next one's.
    pub(super) async fn end(self) -> Result<()> {
        self.run("drop schema mirror cascade; drop schema if exists sink cascade").await
    }

    /// Lets go of what the next measurement must not pay for.
    pub(super) async fn settle(&self) -> Result<()> {
        self.run("checkpoint").await
    }
}

const EXPECTED: &str = "bench.expected e, bench.item(e.id, e.n) i";

const MODEL: &str = "\
table: mirror.items
from: shop.public.items
history: overwrite
key: [id]
columns:
  id:        { type: bigint }
  quantity:  { type: integer }
  name:      { type: text }
  note:      { type: text }
  price:     { type: 'numeric(12,2)' }
  placed_at: { type: timestamptz }
";
