//! The Kafka that other tests stand on: broker, Connect and Debezium do what they do elsewhere, and
//! they outlive what those tests do to them.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
use siltstone::demo::kafka::{Connect, Plugin, ServerOptions};
use siltstone::demo::shop::{self, ShopOptions};
use siltstone::postgres::{Session, Side, connect as login};

use crate::support::{
    Load, Mock, Record, Recording, SHOP, Topics, block_on, clusters, env, is_full, kafka,
    own_broker, own_connect, shop_connector,
};

/// The operations of a topic of change events by key, `-` for a tombstone.
fn operations(records: &[Record]) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for record in records {
        let key = record.key.as_deref().map(|key| serde_json::from_slice(key).unwrap());
        let key: serde_json::Value = key.unwrap_or_default();
        let value = record.json();
        let op = value["payload"]["op"].as_str().unwrap_or("-");
        let ops: &mut String = found.entry(key["payload"]["id"].to_string()).or_default();
        ops.push_str(op);
    }
    found
}

/// A database of the source cluster with one table.
async fn database(name: &str) -> Session {
    let (source, _) = clusters().await;
    source.create_database(name).await.unwrap();
    let session = login(Side::Source, &source.endpoint(name), "test").await.unwrap();
    session
        .batch_execute(
            "create table public.items (id bigint primary key, name text);
             insert into public.items values (1, 'before')",
        )
        .await
        .unwrap();
    session
}

/// A slot that stays would keep the log of the cluster that all tests share.
async fn drop_slot(session: &Session, slot: &str) {
    let drop = "select pg_drop_replication_slot(slot_name) from pg_replication_slots
        where slot_name = $1";
    for _ in 0..100 {
        // it is in use until the server has seen that its client is gone
        if session.execute(drop, &[&slot]).await.is_ok() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("the slot {slot} stays in use");
}

#[test]
fn the_shop_goes_through_debezium_into_topics() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let (source, _) = clusters().await;
        shop::create(source, ShopOptions { rows: 400, seed: 1, today: 9_500 }).await.unwrap();
        let connect = kafka.connect().await;
        let topics = kafka.topics().await;
        let started = Instant::now();
        connect.register("shop", SHOP).await.unwrap();
        println!("registered and running after {:?}", started.elapsed());
        topics.read_at_least("shop.public.users", 60).await;
        println!("the rows of the first table after {:?}", started.elapsed());

        let shop = login(Side::Source, &source.endpoint("shop"), "test").await.unwrap();
        let changed = Instant::now();
        shop.batch_execute(
            "begin;
             insert into public.users (id, email, password_hash) values (9001, 'new@shop.example', 'x');
             update public.users set country = 'PT' where id = 9001;
             commit;
             delete from public.users where id = 9001;
             truncate public.payments",
        )
        .await
        .unwrap();
        // 60 that were there, insert, update, delete, tombstone
        let users = topics.read_at_least("shop.public.users", 64).await;
        println!("changes arrive after {:?}", changed.elapsed());
        let ops = operations(&users);
        assert_eq!(ops["9001"], "cud-");
        assert_eq!(ops["1"], "r");
        let insert = users.iter().find(|record| record.json()["payload"]["op"] == "c").unwrap();
        let payload = &insert.json()["payload"];
        assert!(payload["after"].get("password_hash").is_none(), "{payload}");
        assert_eq!(payload["source"]["table"], "users");
        assert_eq!(payload["transaction"]["total_order"], 1, "{payload}");
        let transactions = topics.read_at_least("shop.transaction", 2).await;
        let ended = |record: &Record| record.json()["payload"]["status"] == "END";
        assert!(transactions.iter().any(ended));
        let payments = topics.read_at_least("shop.public.payments", 145).await;
        assert!(payments.iter().any(|record| record.json()["payload"]["op"] == "t"));
        assert!(!topics.names("__debezium-heartbeat.shop").await.is_empty());
        assert!(topics.names("shop.public.audit_log").await.is_empty());
        assert_eq!(topics.ends("shop.public.users").await.len(), 3);
        connect.remove("shop").await.unwrap();
        drop_slot(&shop, "debezium_shop").await;
    });
}

#[test]
fn broker_and_connect_go_on_after_kill_9() {
    if kafka().is_none() {
        return;
    }
    block_on(async {
        let items = database("killed_items").await;
        let started = Instant::now();
        let mut broker = own_broker("killed-broker", &[]).await;
        println!("the broker is there after {:?}", started.elapsed());
        let started = Instant::now();
        // what is not written out when it is killed is sent again
        let never = [("offset.flush.interval.ms", "600000")];
        let mut connect = own_connect("killed-connect", &broker, &never).await;
        println!("the worker is there after {:?}", started.elapsed());
        let topics = Topics::at(&broker.address());
        assert_eq!(topics.brokers(), broker.address());
        let configuration =
            shop_connector("killed", "killed_items", &[("heartbeat.interval.ms", "")]);
        let started = Instant::now();
        connect.register("killed", &configuration).await.unwrap();
        topics.read_at_least("killed.public.items", 1).await;
        println!("the first event is there {:?} after the connector", started.elapsed());
        items.batch_execute("insert into public.items values (2, 'first')").await.unwrap();
        topics.read_at_least("killed.public.items", 2).await;

        let killed = Instant::now();
        broker.kill().await.unwrap();
        assert!(!broker.is_running());
        items.batch_execute("insert into public.items values (3, 'broker away')").await.unwrap();
        broker.start_again().await.unwrap();
        println!("the killed broker is back after {:?}", killed.elapsed());
        topics.read_at_least("killed.public.items", 3).await;
        println!("events flow again {:?} after the kill", killed.elapsed());

        let killed = Instant::now();
        connect.kill().await.unwrap();
        items.batch_execute("insert into public.items values (4, 'worker away')").await.unwrap();
        connect.start_again().await.unwrap();
        println!("the killed worker is back after {:?}", killed.elapsed());
        let mut ops = BTreeMap::new();
        while !ops.contains_key("4") {
            assert!(killed.elapsed() < Duration::from_secs(90), "{ops:?}");
            tokio::time::sleep(Duration::from_millis(100)).await;
            ops = operations(&topics.read("killed.public.items").await);
        }
        println!("events flow again {:?} after the kill: {ops:?}", killed.elapsed());
        assert!((1..=4).all(|id: u8| ops.contains_key(&id.to_string())), "{ops:?}");

        connect.pause("killed").await.unwrap();
        connect.resume("killed").await.unwrap();
        connect.restart("killed").await.unwrap();
        connect.running("killed").await.unwrap();
        connect.stop().await.unwrap();
        assert!(!connect.is_running());
        broker.stop().await.unwrap();
        assert!(!broker.is_running());
        drop_slot(&items, "killed").await;
    });
}

#[test]
fn a_connector_that_fails_tells_why() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let items = database("failing_items").await;
        let connect = kafka.connect().await;
        // a publication that is not there and is not to be made
        let changes = [("publication.autocreate.mode", "disabled")];
        let configuration = shop_connector("failing", "failing_items", &changes);
        let error = connect.register("failing", &configuration).await.unwrap_err().to_string();
        assert!(error.contains("Publication autocreation is disabled"), "{error}");
        let error = connect.register("refused", "{\"connector.class\":\"none\"}").await;
        let error = error.unwrap_err().to_string();
        assert!(error.contains("Failed to find any class"), "{error}");
        connect.remove("failing").await.unwrap();
        drop_slot(&items, "failing").await;
    });
}

/// The peer of the measurements.
#[test]
fn debeziums_own_sink_writes_the_topics_into_a_warehouse() {
    if !is_full() {
        return;
    }
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let items = database("sunk_items").await;
        let (source, warehouse) = clusters().await;
        let broker = kafka.broker().await;
        let options = ServerOptions::new("test-sink", &env()).shop(&source.endpoint("shop"));
        let plugins = [Plugin::Postgres, Plugin::JdbcSink];
        let connect = Connect::start(&broker.address(), &plugins, options).await.unwrap();
        connect.register("sunk", &shop_connector("sunk", "sunk_items", &[])).await.unwrap();
        kafka.topics().await.read_at_least("sunk.public.items", 1).await;
        warehouse.create_database("sunk").await.unwrap();
        let target = warehouse.endpoint("sunk");
        let password = String::from_utf8_lossy(target.password().unwrap()).into_owned();
        let sink = serde_json::json!({
            "connector.class": "io.debezium.connector.jdbc.JdbcSinkConnector",
            "topics": "sunk.public.items",
            "connection.url": format!("jdbc:postgresql://127.0.0.1:{}/sunk", warehouse.port()),
            "connection.username": target.user(),
            "connection.password": password,
            "insert.mode": "upsert",
            "primary.key.mode": "record_key",
            "schema.evolution": "basic",
        });
        connect.register("sink", &sink.to_string()).await.unwrap();
        let session = login(Side::Warehouse, &target, "test").await.unwrap();
        let mut name = String::new();
        for _ in 0..300 {
            let row = session.query_one("select name from sunk_public_items", &[]).await;
            if let Ok(row) = row {
                name = row.get(0);
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        assert_eq!(name, "before");
        drop(connect);
        drop_slot(&items, "sunk").await;
    });
}

#[test]
fn recordings_and_records_arrive_as_they_were() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let topics = kafka.topics().await;
        let recording = Recording::named("fl");
        let load = Load::named("environment_fl");
        let loaded = recording.load(&topics, &load).await;
        assert_eq!(loaded.sent, recording.records.len());
        for (topic, original) in loaded.topics.iter().zip(recording.topics.keys()) {
            let there = topics.read(topic).await;
            let sent: Vec<&Record> =
                recording.records.iter().filter(|record| record.topic == *original).collect();
            assert_eq!(there.len(), sent.len(), "{topic}");
            for (there, sent) in there.iter().zip(sent) {
                assert_eq!(there, &Record { topic: topic.clone(), ..sent.clone() });
            }
        }
        let twice = Load::named("environment_fl_twice").with_duplicates(1);
        let again = recording.load(&topics, &twice).await;
        assert!(again.sent > loaded.sent * 11 / 10, "{} {}", again.sent, loaded.sent);

        topics.create("environment_tx", 2).await;
        let record = |key: &str| Record::new("environment_tx", key, key);
        topics.transact("environment", vec![record("a").at(0), record("b").at(1)], true).await;
        topics.transact("environment", vec![record("c").at(0)], false).await;
        topics.put(Record { value: None, ..record("d").at(0) }).await;
        let keys: Vec<Vec<u8>> =
            topics.read("environment_tx").await.into_iter().filter_map(|r| r.key).collect();
        assert_eq!(keys, [b"a", b"d", b"b"]);
        topics.grow("environment_tx", 3).await;
        topics.forget("environment_tx", 0, 3).await;
        assert_eq!(topics.read("environment_tx").await.len(), 2);
        topics.delete("environment_tx").await;
        assert!(topics.names("environment_tx").await.is_empty());
    });
}

#[test]
fn a_mock_cluster_keeps_records_and_refuses_on_demand() {
    block_on(async {
        let mock = Mock::start();
        mock.create("mocked", 2);
        let topics = mock.topics();
        mock.refuse(
            RDKafkaApiKey::Produce,
            &[RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 2],
        );
        let record = |key: &str| Record::new("mocked", key, key);
        topics.write(vec![record("a").at(0), record("b").at(1), record("c").at(1)]).await;
        assert_eq!(topics.ends("mocked").await, [1, 2]);
        mock.down();
        mock.up();
        mock.delay(Duration::from_millis(1));
        let keys: Vec<Vec<u8>> =
            topics.read("mocked").await.into_iter().filter_map(|record| record.key).collect();
        assert_eq!(keys, [b"a", b"b", b"c"]);
    });
}

/// Run by the test below in a process of its own, which it then kills.
#[test]
#[ignore = "no test of its own: a_broker_and_its_folder_go_when_we_are_killed runs and kills it"]
fn holds_a_broker() {
    block_on(async {
        let broker = own_broker("orphan", &[]).await;
        println!("\nbroker {} {}", broker.port(), broker.data_dir().parent().unwrap().display());
        tokio::time::sleep(Duration::from_secs(600)).await;
    });
}

#[test]
fn a_broker_and_its_folder_go_when_we_are_killed() {
    if kafka().is_none() {
        return;
    }
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "kafka_environment::holds_a_broker", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.starts_with("broker ")).unwrap();
    let mut words = line.split(' ').skip(1);
    let port: u16 = words.next().unwrap().parse().unwrap();
    let folder = PathBuf::from(words.next().unwrap());
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
    holder.kill().unwrap();
    holder.wait().unwrap();
    let killed = Instant::now();
    while folder.exists() {
        assert!(killed.elapsed() < Duration::from_secs(30), "{} is still there", folder.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}
