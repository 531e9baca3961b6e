//! The demo's source database: four tables to replicate, one without a key, one that cannot be.
//!
//! What is in it is in `sql/demo/`: the tables, their rows by size and seed, and the functions that
//! [`super::traffic`] calls. Never touches a database that has such tables already: creating them
//! fails.

use super::cluster::Cluster;
use crate::error::{Error, Result};
use crate::postgres::{Endpoint, Session, Side, connect};

/// The database's name in a cluster.
pub const DATABASE: &str = "shop";

const TABLES: &str = include_str!("../../sql/demo/shop.sql");
const ROWS: &str = include_str!("../../sql/demo/fill.sql");
const TRAFFIC: &str = include_str!("../../sql/demo/traffic.sql");

/// How large a shop is, and when it is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ShopOptions {
    /// All rows of the replicated tables together; some hundred at least.
    pub rows: u64,
    /// What rows there are: equal options give equal rows.
    pub seed: u32,
    /// The day of the newest rows, as days since 2000-01-01; [`crate::spec::Env::today`] has it.
    pub today: i64,
}

impl ShopOptions {
    /// 200,000 rows up to a day.
    pub fn on_day(today: i64) -> ShopOptions {
        ShopOptions { rows: 200_000, seed: 1, today }
    }
}

/// Creates the database `shop` in a cluster and fills it.
pub async fn create(cluster: &Cluster, options: ShopOptions) -> Result<()> {
    cluster.create_database(DATABASE).await?;
    fill(&cluster.endpoint(DATABASE), options).await
}

/// Creates and fills the tables in an empty database.
pub async fn fill(endpoint: &Endpoint, options: ShopOptions) -> Result<()> {
    let shop = connect(Side::Source, endpoint, "siltstone demo shop").await?;
    // one transaction: a shop is there as a whole or not at all
    run(&shop, "begin").await?;
    run(&shop, TABLES).await?;
    let (year, month, day) = crate::types::civil_from_days(options.today);
    for (name, value) in [
        ("shop.rows", options.rows.to_string()),
        ("shop.seed", (f64::from(options.seed % 10_000) / 10_000.0).to_string()),
        ("shop.today", format!("{year:04}-{month:02}-{day:02}")),
    ] {
        let set = shop.execute("select set_config($1, $2, true)", &[&name, &value]).await;
        set.map_err(failed)?;
    }
    run(&shop, ROWS).await?;
    run(&shop, TRAFFIC).await?;
    run(&shop, "commit").await
}

async fn run(shop: &Session, statements: &str) -> Result<()> {
    shop.batch_execute(statements).await.map_err(failed)
}

fn failed(error: tokio_postgres::Error) -> Error {
    Error::source("the demo's shop was filled", error)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use crate::demo::cluster::ClusterOptions;
    use crate::demo::files;
    use crate::spec::Env;

    const COUNTS: &str = "select format('%s %s %s %s %s %s',
        (select count(*) from public.users), (select count(*) from public.products),
        (select count(*) from public.orders), (select count(*) from public.payments),
        (select count(*) from public.events), (select count(*) from public.audit_log))";

    const DIGEST: &str = "select md5(string_agg(md5(o::text), '' order by o.id)) ||
        (select md5(string_agg(md5(u::text), '' order by u.id)) from public.users u) ||
        (select md5(string_agg(md5(e::text), '' order by e::text)) from public.events e)
        from public.orders o";

    async fn text(cluster: &Cluster, database: &str, query: &str) -> String {
        let shop = connect(Side::Source, &cluster.endpoint(database), "test").await.unwrap();
        shop.query_one(query, &[]).await.unwrap().get(0)
    }

    #[tokio::test]
    async fn equal_options_give_equal_shops_of_the_wanted_size() {
        let env = Env::of_process(&Clock::system());
        let cluster = Cluster::start(ClusterOptions::new("shop", &env)).await.unwrap();
        let options = ShopOptions { rows: 4_000, seed: 7, today: 9_000 };
        create(&cluster, options).await.unwrap();
        assert_eq!(text(&cluster, "shop", COUNTS).await, "600 60 1800 1440 100 20");
        cluster.create_database("other").await.unwrap();
        fill(&cluster.endpoint("other"), options).await.unwrap();
        assert_eq!(text(&cluster, "shop", DIGEST).await, text(&cluster, "other", DIGEST).await);
        let newest = "select max(order_date)::text from public.orders";
        assert_eq!(text(&cluster, "shop", newest).await, "2024-08-21");
        let long = "select count(*)::text from public.users where pg_column_size(bio) > 3000";
        assert_eq!(text(&cluster, "shop", long).await, "30");
        assert!(fill(&cluster.endpoint("shop"), options).await.is_err());
        every_declared_column_is_there(&cluster).await;
    }

    /// The default files take nothing that the shop has not.
    async fn every_declared_column_is_there(cluster: &Cluster) {
        let folder = tempfile::tempdir().unwrap();
        files::write(folder.path()).unwrap();
        let url = cluster.url(DATABASE);
        let env = Env::default()
            .with(files::SHOP_URL, &url)
            .with(files::WAREHOUSE_URL, &url)
            .on_day(9_500);
        let spec = crate::spec::load(&folder.path().join("siltstone.yaml"), &env).unwrap();
        let shop = connect(Side::Source, &cluster.endpoint(DATABASE), "test").await.unwrap();
        for model in &spec.models {
            let table = crate::postgres::quote::table(&model.from.table);
            let froms: Vec<&str> = model.columns.iter().map(|c| c.from.as_str()).collect();
            let columns = crate::postgres::quote::idents(froms);
            let select = format!("select {columns} from {table} limit 0");
            shop.prepare(&select).await.unwrap();
        }
    }

    #[tokio::test]
    #[ignore = "measures, asserts nothing: cargo test --lib how_long_the_default -- --ignored --nocapture"]
    async fn how_long_the_default_size_takes() {
        let env = Env::of_process(&Clock::system());
        let cluster = Cluster::start(ClusterOptions::new("shop", &env)).await.unwrap();
        let started = std::time::Instant::now();
        create(&cluster, ShopOptions::on_day(env.today())).await.unwrap();
        println!("{} in {:?}", text(&cluster, DATABASE, COUNTS).await, started.elapsed());
        let size = "select pg_size_pretty(pg_database_size('shop'))";
        println!("{}", text(&cluster, DATABASE, size).await);
    }
}
