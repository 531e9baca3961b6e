//! Debezium's JDBC sink in Kafka Connect, on the same topic into the same warehouse.

use serde_json::json;

use super::change::Changes;
use super::ground::{Ground, Target};
use super::log::Topic;
use super::meter::{Meter, Used};
use crate::bench::site::{LOOK, is_true};
use crate::demo::kafka::{Connect, Plugin, ServerOptions};
use crate::error::{Error, Kind, Result};

/// How long it may take.
const WITHIN: std::time::Duration = std::time::Duration::from_secs(900);

/// Lets the sink apply the backlog to `sink.items` of a target, and compares.
pub(super) async fn run(
    ground: &Ground,
    target: &Target<'_>,
    topic: &Topic,
    changes: Changes,
) -> Result<(Used, String)> {
    let rows = changes.rows;
    target.run(&format!(
        "create schema sink; create table sink.items (id bigint primary key, quantity integer not null, \
         name text not null, note text, price numeric(12,2) not null, placed_at timestamptz not null); \
         insert into sink.items select i.* from generate_series(1, {rows}::bigint) n, bench.item(n, n) i"
    ))
    .await?;
    target.run("vacuum analyze sink.items").await?;
    let mut options = ServerOptions::new("bench-connect", &ground.env);
    (options.heap_mib, options.measured) = (2048, true);
    let plugins = [Plugin::JdbcSink];
    let mut worker = Connect::start(&ground.broker.address(), &plugins, options).await?;
    target.settle().await?;
    let meter = Meter::start(ground, worker.pid())?;
    worker.register("bench-sink", &configuration(ground, target, topic)).await?;
    // rows are counted when the last one is near: counting takes from the sink what it works with
    let last = "select max(id)::text from bench.expected";
    let last =
        target.session.query_one(last, &[]).await.and_then(|row| row.try_get::<_, String>(0));
    let last = last.map_err(|error| Error::warehouse("asking what is expected", error))?;
    let near = format!("select max(id) + 100 >= {last} from sink.items");
    let done = "select (select count(*) from sink.items) = (select count(*) from bench.expected)";
    while !is_true(&target.session, &near).await? || !is_true(&target.session, done).await? {
        if meter.elapsed() > WITHIN {
            let log = worker.log_tail(20).join("\n");
            return Err(Error::new(Kind::Differs, format!("the JDBC sink does not finish: {log}")));
        }
        tokio::time::sleep(LOOK).await;
    }
    let took = meter.elapsed();
    let used = meter.used(took, 0)?;
    let mut digest = target.compare("sink.items i").await;
    while digest.is_err() && meter.elapsed() < took + std::time::Duration::from_secs(10) {
        tokio::time::sleep(LOOK).await;
        digest = target.compare("sink.items i").await;
    }
    worker.remove("bench-sink").await?;
    worker.stop().await?;
    Ok((used, digest?))
}

/// As fast as it can be made: rows in batches of 10,000, each batch reduced by key and written by UNNEST, and
/// fetches that fill such batches.
fn configuration(ground: &Ground, target: &Target<'_>, topic: &Topic) -> String {
    let endpoint = ground.warehouse.endpoint(target.name());
    let password = String::from_utf8_lossy(endpoint.password().unwrap_or_default()).into_owned();
    let port = ground.warehouse.port();
    json!({
        "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
        "tasks.max": "1",
        "topics": topic.name,
        "connection.url": format!("jdbc:postgresql://127.0.0.1:{port}/{}", target.name()),
        "connection.username": endpoint.user(),
        "connection.password": password,
        "insert.mode": "upsert",
        "delete.enabled": "true",
        "primary.key.mode": "record_key",
        "schema.evolution": "none",
        "collection.name.format": "sink.items",
        "use.reduction.buffer": "true",
        "dialect.postgres.unnest.insert.enabled": "true",
        "batch.size": "10000",
        "key.converter": "org.apache.kafka.connect.json.JsonConverter",
        "value.converter": "org.apache.kafka.connect.json.JsonConverter",
        "consumer.override.auto.offset.reset": "earliest",
        "consumer.override.max.poll.records": "10000",
        "consumer.override.fetch.min.bytes": "1048576",
        "consumer.override.fetch.max.bytes": "104857600",
        "consumer.override.max.partition.fetch.bytes": "104857600",
    })
    .to_string()
}
