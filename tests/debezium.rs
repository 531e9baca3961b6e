//! Live: a Postgres, a real Debezium, a real Kafka, and the service behind them; with crashes of each.

use std::cell::RefCell;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::support::{
    Kafka, Site, Topics, block_on, is_full, kafka, own_broker, own_connect, shop_connector,
};

/// Tables with a key, with a wide value that an update leaves out, with two columns as key, and without one.
const TABLES: &str = "
    create table users (id bigint primary key, email text not null, country text, bio text,
        joined timestamptz not null default now());
    alter table users alter bio set storage external;
    create table orders (id bigint primary key, user_id bigint, amount numeric(12,2), day date);
    create table pairs (a int, b text, v double precision, primary key (a, b));
    create table clicks (who bigint, what text);
    alter table clicks replica identity full;
    insert into users select i, 'u' || i || '@shop.example', 'DE', repeat('x', 3000) || i,
        '2024-01-01'::timestamptz + i * interval '1 s' from generate_series(1, 500) i;
    insert into orders select i, 1 + i % 500, i, '2024-01-01'::date + i % 300 from generate_series(1, 500) i;
    insert into pairs select i % 50, 'p' || i, i from generate_series(1, 200) i;
    insert into clicks select i % 7, 'page' from generate_series(1, 100) i";

/// History beside the mirror of the same table.
const DIM_USERS: &str = "
from: SOURCE.public.users
history: versions
key: [user_id]
track: [email, country]
columns:
  user_id: { from: id, type: bigint }
  email:   { type: text, required: true }
  country: { type: text }
";

const MIRROR_USERS: &str = "
from: SOURCE.public.users
key: [id]
columns:
  id:      { type: bigint }
  email:   { type: text }
  country: { type: text }
  bio:     { type: text }
  joined:  { type: timestamptz }
";

/// Random changes in transactions of one to six statements; `$1` of them, beginning with the seed.
pub fn changes(transactions: u32, seed: u32) -> String {
    format!(
        "do $$
        declare t int; s int; k bigint; r int;
        begin
            perform setseed({seed}::float8 / 1000);
            for t in 1..{transactions} loop
                for s in 1..(1 + floor(random() * 6))::int loop
                    k := 1 + floor(random() * 700)::bigint;
                    r := floor(random() * 20)::int;
                    if r < 5 then
                        update users set email = 'e' || t || '.' || s where id = k;
                    elsif r < 8 then
                        insert into users values (k, 'new' || t, 'FR', repeat('y', 2500) || t, now())
                            on conflict (id) do update set country = 'c' || t;
                    elsif r < 10 then
                        delete from users where id = k;
                    elsif r < 11 then
                        update users set id = k + 10000 where id = k
                            and not exists (select from users where id = k + 10000);
                    elsif r < 12 then
                        update users set id = k where id = k + 10000
                            and not exists (select from users where id = k);
                    elsif r < 15 then
                        insert into orders values (k, k, random() * 1000, '2024-05-01'::date + s)
                            on conflict (id) do update set amount = excluded.amount;
                    elsif r < 16 then
                        delete from orders where id = k;
                    elsif r < 17 then
                        update pairs set v = v + 1, b = case when s = 3 then 'm{seed}.' || t else b end
                            where a = k % 50 and b = 'p' || (k % 200);
                    elsif r < 18 then
                        insert into pairs values (k % 50, 'p' || (k % 200), t) on conflict do nothing;
                    elsif r < 19 then
                        insert into clicks values (k % 7, 'page');
                    else
                        delete from clicks where ctid in (select ctid from clicks where who = k % 7 limit 1);
                    end if;
                end loop;
                commit;
            end loop;
        end $$"
    )
}

/// What a command says, and its exit code.
pub fn said(site: &Site, arguments: &[&str]) -> (i32, String) {
    let output = site
        .command(arguments)
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8_lossy(&text).into_owned())
}

/// A site whose topics Debezium writes.
pub struct Live {
    pub site: Site,
    kafka: &'static Kafka,
    slot: String,
    /// where its topics are read last
    brokers: RefCell<String>,
    /// more lines of the connector's file
    pub more: &'static str,
}

impl Live {
    pub async fn new(kafka: &'static Kafka, name: &str) -> Live {
        Live::with(kafka, name, TABLES).await
    }

    async fn with(kafka: &'static Kafka, name: &str, tables: &str) -> Live {
        let mut site = Site::new(name).await;
        site.name = site.name.replace('_', "-");
        let slot = site.name.replace('-', "_");
        site.shop(tables).await;
        site.remove("connectors/shop.yaml");
        Live { site, kafka, slot, brokers: RefCell::default(), more: "" }
    }

    /// What Debezium is told.
    pub fn configuration(&self) -> String {
        let database = self.site.source_endpoint.database();
        let changes = [
            ("slot.name", self.slot.as_str()),
            ("publication.name", &self.slot),
            ("column.exclude.list", ""),
        ];
        shop_connector(&self.site.name, database, &changes)
    }

    /// The files that read the topics of a broker into a schema.
    pub fn files(&self, brokers: &str, schema: &str) {
        let (name, url) = (&self.site.name, "\"${SHOP_URL}\"");
        self.brokers.replace(brokers.to_owned());
        self.site.file(
            "connectors/topics.yaml",
            &format!(
                "name: {name}\nkind: kafka\nsource: debezium\nurl: {url}\nbrokers: {brokers}\ngroup: {name}\n\
                 topics: [\"{name}.*\"]\ntarget_schema: {schema}\n\
                 properties: {{ broker.address.family: v4, session.timeout.ms: 6000, \
                 heartbeat.interval.ms: 500, reconnect.backoff.max.ms: 500 }}\n{}",
                self.more
            ),
        );
    }

    pub fn declare(&self, source: &str, schema: &str) {
        let declared = |table: &str, text: &str| {
            let text = format!("table: {schema}.{table}{}", text.replace("SOURCE", source));
            self.site.file(&format!("schemas/{schema}_{table}.yaml"), &text);
        };
        declared("dim_users", DIM_USERS);
        declared("users", MIRROR_USERS);
    }

    /// Source and warehouse are equal, soon, and nothing was refused.
    async fn assert_equal(&self) {
        self.until_drained().await;
        self.assert_verified().await;
        let letters = "select count(*) from audit.dead_letters";
        assert_eq!(self.site.at_warehouse(letters).await, ["0"]);
    }

    /// Waits until all that Debezium has sent by now is read.
    pub async fn until_drained(&self) {
        // what Debezium has yet to send is not to be taken for equal
        self.site.shop("insert into orders values (-1, -1, 0, null)").await;
        self.site
            .until(
                "the last change arrives",
                "select exists (select from topics.orders where id = -1)",
            )
            .await;
        // it has overtaken what other partitions are yet to bring
        self.until_read().await;
        self.site.shop("delete from orders where id = -1").await;
    }

    /// Source and warehouse are equal now.
    pub async fn assert_verified(&self) {
        let (code, text) = said(&self.site, &["verify"]);
        if code != 0 {
            self.show().await;
        }
        assert_eq!(code, 0, "{text}");
    }

    /// Waits until everything that its topics hold now is stored.
    async fn until_read(&self) {
        let topics = Topics::at(&self.brokers.borrow().clone());
        let read = "select distinct split_part(partition, '/', 1) from audit.progress";
        for topic in self.site.at_warehouse(read).await {
            for (number, end) in topics.ends(&topic).await.into_iter().enumerate() {
                let stored = format!(
                    "select {end} <= coalesce((select position from audit.progress where partition = '{topic}/{number}'), 0)"
                );
                self.site.until("what is there is read", &stored).await;
            }
        }
    }

    /// How the rows without key came and went, for whoever looks for one too many, and what was refused.
    async fn show(&self) {
        for query in [
            "select c::text from topics.clicks c order by who, _seq, _ord",
            "select q::text from audit.quiet q where table_name = 'topics.clicks' order by key, seq, ord",
            "select p::text from audit.progress p",
            "select p.table_name, p.seq, p.ord, p.event_seq, p.event_ord, p.xid, p.waits, p.comes_from, p.key_hash,
                    p.old_key_hash, substring(p.event from 1 for 1) from audit.pending p",
            "select q.key, q.seq, q.ord, q.op, q.row is null, q.noted_at from audit.quiet q
              where q.table_name = 'topics.users'",
            "select u.id, u._seq, u._ord from topics.users u order by u.id",
            "select t::text from audit.tables t",
            "select d::text from audit.dead_letters d order by id limit 20",
        ] {
            for line in self.site.at_warehouse(query).await {
                println!("{line}");
            }
        }
    }

    pub async fn drop_slot(&self) {
        for _ in 0..100 {
            let drop = format!(
                "select pg_drop_replication_slot(slot_name) from pg_replication_slots \
                 where slot_name = '{}'",
                self.slot
            );
            if self.site.source.batch_execute(&drop).await.is_ok() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        panic!("the slot {} stays in use", self.slot);
    }
}

#[test]
fn both_routes_end_alike() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let live = Live::new(kafka, "routes").await;
        let site = &live.site;
        live.files(&kafka.broker().await.address(), "topics");
        live.declare("debezium", "topics");
        let name = site.name.replace('-', "_");
        site.file(
            "connectors/shop.yaml",
            &format!(
                "name: {name}_log\nkind: postgres\nsource: shop\nurl: \"${{SHOP_URL}}\"\n\
                 tables: [\"public.*\"]\ntarget_schema: cleansed\n"
            ),
        );
        live.declare("shop", "cleansed");
        let connect = kafka.connect().await;
        connect.register(&site.name, &live.configuration()).await.unwrap();
        let running = site.start();
        // from here on both see the same history
        for schema in ["cleansed", "topics"] {
            for (table, rows) in [("users", 500), ("dim_users", 500), ("clicks", 100)] {
                let read = format!("select count(*) = {rows} from {schema}.{table}");
                let there = format!("select to_regclass('{schema}.{table}') is not null");
                site.until("the table is there", &there).await;
                site.until("the first rows are there", &read).await;
            }
        }
        for seed in 1..=4 {
            site.shop(&changes(250, seed)).await;
        }
        site.shop("begin; truncate pairs; insert into pairs values (1, 'x', 1.5); commit").await;
        site.shop("alter table orders add note text default 'none'; update orders set note = 'n' where id < 50").await;
        site.shop(&changes(200, 9)).await;
        live.assert_equal().await;
        running.stop().await.unwrap();
        for (table, columns) in [
            ("users", "id, email, country, bio, joined"),
            ("orders", "id, user_id, amount, day, note"),
            ("pairs", "a, b, v"),
            ("clicks", "who, what"),
            ("dim_users", "user_id, email, country, valid_to"),
        ] {
            let query = |schema: &str| {
                format!("select {columns} from {schema}.{table} order by 1, 2, 3, 4")
            };
            let query = |schema: &str| match table {
                "pairs" | "clicks" => query(schema).replace(", 3, 4", ""),
                _ => query(schema),
            };
            let (log, topics) = (
                site.at_warehouse(&query("cleansed")).await,
                site.at_warehouse(&query("topics")).await,
            );
            assert!(log.len() > 1, "{table}");
            for (log, topics) in log.iter().zip(&topics) {
                assert_eq!(log, topics, "{table}");
            }
            assert_eq!(log.len(), topics.len(), "{table}");
        }
        connect.remove(&site.name).await.unwrap();
        live.drop_slot().await;
    });
}

/// A service in a process of its own.
pub struct Member(Child);

impl Member {
    pub fn of(site: &Site) -> Member {
        Member(site.spawn(&["run"]))
    }

    fn signal(&self, signal: &str) {
        let id = self.0.id().to_string();
        assert!(Command::new("kill").args([signal, &id]).status().unwrap().success());
    }

    pub fn end(mut self, signal: &str) {
        self.signal(signal);
        self.0.wait().unwrap();
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        // a test that fails leaves nobody behind
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn crashes_of_everything_lose_and_double_nothing() {
    let Some(kafka) = kafka() else { return };
    let (rounds, transactions, least) =
        if is_full() { (20, 5_000, 200_000) } else { (6, 400, 3_000) };
    block_on(async {
        let live = Live::new(kafka, "crashes").await;
        let site = &live.site;
        let mut broker = own_broker("crash-broker", &[]).await;
        // what is not written out when it is killed is sent again
        let never = [("offset.flush.interval.ms", "2000")];
        let mut connect = own_connect("crash-connect", &broker, &never).await;
        live.files(&broker.address(), "topics");
        live.declare("debezium", "topics");
        connect.register(&site.name, &live.configuration()).await.unwrap();
        let mut member = Member::of(site);
        let mut begun = "-infinity".to_owned();
        for round in 0..rounds {
            site.shop(&changes(transactions, round + 1)).await;
            if is_full() && round % 2 == 1 {
                // one that has lost its broker for too long is started again
                drop(connect.restart(&site.name).await);
                // the group lets it wait for the one before; every other one is killed as it begins
                let works = format!("select max(moved_at) > '{begun}' from audit.progress");
                site.until("it has stored something", &works).await;
            }
            member.end("-KILL");
            begun = site.at_warehouse("select now()").await.remove(0);
            member = Member::of(site);
            if round % (rounds / 3) == 1 {
                connect.kill().await.unwrap();
                site.shop(&changes(50, 500 + round)).await;
                connect.start_again().await.unwrap();
            }
            if round % (rounds / 3) == 0 {
                broker.kill().await.unwrap();
                site.shop(&changes(50, 600 + round)).await;
                broker.start_again().await.unwrap();
            }
            tokio::time::sleep(Duration::from_millis(700)).await;
        }
        let made = "select sum(n_tup_ins + n_tup_upd + n_tup_del) from pg_stat_user_tables";
        let made: u64 = site.at_source(made).await[0].parse().unwrap();
        assert!(made >= least, "{made} changes at the source");
        // a task that has lost its broker for too long is started again by whoever operates Connect
        drop(connect.restart(&site.name).await);
        live.assert_equal().await;
        member.end("-TERM");
        connect.remove(&site.name).await.unwrap();
        live.drop_slot().await;
    });
}

#[test]
fn members_come_and_go_under_load() {
    let Some(kafka) = kafka() else { return };
    let lasts = Duration::from_secs(if is_full() { 60 } else { 25 });
    block_on(async {
        let live = Live::new(kafka, "members").await;
        let site = &live.site;
        live.files(&kafka.broker().await.address(), "topics");
        live.declare("debezium", "topics");
        let connect = live.kafka.connect().await;
        connect.register(&site.name, &live.configuration()).await.unwrap();
        let mut members = vec![Member::of(site), Member::of(site), Member::of(site)];
        let begun = Instant::now();
        let mut round = 0;
        while begun.elapsed() < lasts {
            round += 1;
            let next = Instant::now() + Duration::from_secs(5);
            site.shop(&changes(300, round)).await;
            let gone = members.remove(0);
            match round % 3 {
                0 => gone.end("-KILL"),
                1 => gone.end("-TERM"),
                // frozen past its session, while others have its partitions; then it goes on
                _ => {
                    gone.signal("-STOP");
                    tokio::time::sleep(Duration::from_secs(8)).await;
                    gone.signal("-CONT");
                    members.push(gone);
                }
            }
            if members.len() < 3 {
                members.push(Member::of(site));
            }
            tokio::time::sleep_until(next.into()).await;
        }
        live.assert_equal().await;
        members.into_iter().for_each(|member| member.end("-TERM"));
        connect.remove(&site.name).await.unwrap();
        live.drop_slot().await;
    });
}

/// What is taken from one is given to another, mostly in the other table.
const ACCOUNTS: &str = "
    create table here (id bigint primary key, v bigint not null);
    create table there (id bigint primary key, v bigint not null);
    create table orders (id bigint primary key, user_id bigint, amount numeric(12,2), day date);
    insert into here select i, 1000 from generate_series(1, 2000) i;
    insert into there select i, 1000 from generate_series(1, 2000) i";

/// Transfers, in transactions of one to eight, and some of everything.
const TRANSFERS: &str = "
    do $$
    declare a bigint; b bigint;
    begin
        for t in 1..1500 loop
            for s in 1..(1 + floor(random() * 8))::int loop
                a := 1 + floor(random() * 2000)::bigint;
                b := 1 + floor(random() * 2000)::bigint;
                update here set v = v - t where id = a;
                update there set v = v + t where id = b;
            end loop;
            if t % 500 = 0 then
                update here set v = v + 7;
                update there set v = v - 7;
            end if;
            commit;
        end loop;
    end $$";

#[test]
fn transactions_become_visible_as_a_whole() {
    let Some(kafka) = kafka() else { return };
    block_on(async {
        let mut live = Live::with(kafka, "whole", ACCOUNTS).await;
        live.more = "atomic: true\n";
        let site = &live.site;
        kafka.topics().await.create(&format!("{}.transaction", site.name), 1).await;
        live.files(&kafka.broker().await.address(), "topics");
        let connect = kafka.connect().await;
        connect.register(&site.name, &live.configuration()).await.unwrap();
        let mut member = Member::of(site);
        for table in ["here", "there"] {
            let there = format!("select to_regclass('topics.{table}') is not null");
            site.until("the table is there", &there).await;
            let read = format!("select count(*) = 2000 from topics.{table}");
            site.until("the first rows are there", &read).await;
        }
        let shop = site.shop(TRANSFERS);
        tokio::pin!(shop);
        let all = "select (select sum(v) from topics.here) + (select sum(v) from topics.there)";
        let (mut looks, mut done) = (0, false);
        let mut states = std::collections::HashSet::new();
        let begun = Instant::now();
        while !done || begun.elapsed() < Duration::from_secs(15) || states.len() <= 3 {
            if done && states.len() <= 3 {
                // all that there was came at once
                assert!(begun.elapsed() < Duration::from_secs(180), "{looks} looks");
                shop.set(site.shop(TRANSFERS));
                done = false;
            }
            tokio::select! {
                () = &mut shop, if !done => done = true,
                () = tokio::time::sleep(Duration::from_millis(10)) => {}
            }
            assert_eq!(site.at_warehouse(all).await, ["4000000"]);
            states.extend(site.at_warehouse("select sum(v)::text from topics.here").await);
            looks += 1;
            if looks % 150 == 0 {
                member.end("-KILL");
                member = Member::of(site);
            }
        }
        assert!(looks > 50 && states.len() > 3, "{looks} looks saw {} states", states.len());
        live.assert_equal().await;
        member.end("-TERM");
        connect.remove(&site.name).await.unwrap();
        live.drop_slot().await;
    });
}
