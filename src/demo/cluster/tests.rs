//! A real cluster: settings, crash and restart, and its end with the process that started it.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::process::{Command, Stdio};
use std::time::Instant;

use super::*;
use crate::clock::Clock;

fn options(name: &str) -> ClusterOptions {
    ClusterOptions::new(name, &Env::of_process(&Clock::system()))
}

async fn value(cluster: &Cluster, database: &str, query: &str) -> String {
    let session = connect(Side::Warehouse, &cluster.endpoint(database), "test").await.unwrap();
    session.query_one(query, &[]).await.unwrap().get(0)
}

#[tokio::test]
async fn a_cluster_starts_takes_settings_and_goes() {
    const COLLATION: &str =
        "select datcollate::text from pg_database where datname = current_database()";
    let started = Instant::now();
    let cluster = Cluster::start(options("plain").set("work_mem", "7MB")).await.unwrap();
    println!("started in {:?}", started.elapsed());
    let folder = cluster.folder.clone();
    cluster.create_database("a \"b\"").await.unwrap();
    assert_eq!(value(&cluster, "a \"b\"", "show wal_level").await, "logical");
    assert_eq!(value(&cluster, "postgres", "show work_mem").await, "7MB");
    assert_eq!(value(&cluster, "postgres", "show fsync").await, "on");
    assert_eq!(value(&cluster, "postgres", COLLATION).await, "C");
    let by_url = Endpoint::parse(&cluster.url("postgres")).unwrap();
    assert!(connect(Side::Warehouse, &by_url, "test").await.is_ok());
    let wrong = by_url.with_password("wrong");
    assert_eq!(
        connect(Side::Warehouse, &wrong, "test").await.err().map(|error| error.kind()),
        Some(Kind::Rights)
    );
    drop(cluster);
    assert!(!folder.exists());
}

#[tokio::test]
async fn committed_rows_survive_a_crash_on_the_same_port() {
    let mut cluster = Cluster::start(options("crash")).await.unwrap();
    let port = cluster.port();
    let session = connect(Side::Warehouse, &cluster.endpoint("postgres"), "test").await.unwrap();
    session.batch_execute("create table t (a int); insert into t values (1), (2)").await.unwrap();
    cluster.restart_immediate().await.unwrap();
    assert_eq!(cluster.port(), port);
    assert_eq!(value(&cluster, "postgres", "select count(*)::text from t").await, "2");
    let log = cluster.log_tail(100).join("\n");
    assert!(log.contains("not properly shut down"), "{log}");
    assert!(session.batch_execute("select 1").await.is_err());
    cluster.stop_fast().await.unwrap();
    assert!(!cluster.is_running());
    cluster.start_again().await.unwrap();
    assert_eq!(value(&cluster, "postgres", "select count(*)::text from t").await, "2");
}

#[tokio::test]
async fn a_setting_that_postgres_refuses_is_shown() {
    let error = Cluster::start(options("refused").set("wal_level", "loud")).await.err().unwrap();
    assert!(error.to_string().contains("invalid value for parameter \"wal_level\""), "{error}");
}

/// What it downloads stays in the cache.
#[tokio::test]
#[ignore = "downloads 15 MB from Maven Central: cargo test --lib a_downloaded_version -- --ignored"]
async fn a_downloaded_version_runs() {
    let options = ClusterOptions { version: Some(18), ..options("downloaded") };
    let cluster = Cluster::start(options).await.unwrap();
    assert_eq!(cluster.major(), 18);
    assert!(value(&cluster, "postgres", "show server_version").await.starts_with("18."));
    let plpgsql = "select count(*)::text from pg_extension where extname = 'plpgsql'";
    assert_eq!(value(&cluster, "postgres", plpgsql).await, "1");
}

/// Run by the test below in a process of its own, which it then kills.
#[tokio::test]
#[ignore = "no test of its own: the_server_and_its_folder_go_when_we_are_killed runs and kills it"]
async fn holds_a_cluster() {
    let cluster = Cluster::start(options("orphan")).await.unwrap();
    println!("\ncluster {} {}", cluster.port(), cluster.folder.display());
    tokio::time::sleep(Duration::from_secs(600)).await;
}

#[test]
fn the_server_and_its_folder_go_when_we_are_killed() {
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "demo::cluster::tests::holds_a_cluster", "--ignored", "--nocapture"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let line = lines.map(Result::unwrap).find(|line| line.starts_with("cluster ")).unwrap();
    let mut words = line.split(' ').skip(1);
    let port: u16 = words.next().unwrap().parse().unwrap();
    let folder = PathBuf::from(words.next().unwrap());
    assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok());
    holder.kill().unwrap();
    holder.wait().unwrap();
    let killed = Instant::now();
    while folder.exists() {
        assert!(killed.elapsed() < Duration::from_secs(20), "{} is still there", folder.display());
        std::thread::sleep(Duration::from_millis(20));
    }
    println!("gone {:?} after the kill", killed.elapsed());
    assert!(std::net::TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err());
}
