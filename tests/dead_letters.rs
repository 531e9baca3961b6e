//! Changes that the warehouse refuses: they alone and their keys wait, all others are in; tried again
//! they end where they would have.

use std::fmt::Write as _;
use std::process::Stdio;
use std::time::{Duration, Instant};

use siltstone::error::Kind;
use siltstone::postgres::{Side, connect};

use crate::support::{Dice, Site, block_on, clusters, env, is_full, own_cluster};

const TABLES: &str = "create table t (id int primary key, v int not null, note text); \
    insert into t select i, i, repeat('x', 40) from generate_series(1, 200) i; \
    create table log (id int primary key, v int not null)";

fn declared(site: &Site) {
    let columns =
        "columns:\n  id: { type: integer }\n  v: { type: integer }\n  note: { type: text }\n";
    for (name, history) in [("over", "overwrite"), ("hist", "versions"), ("events", "append")] {
        for table in [name.to_owned(), format!("{name}_free")] {
            let text = format!(
                "table: cleansed.{table}\nfrom: shop.public.t\nhistory: {history}\nkey: [id]\n{columns}"
            );
            site.file(&format!("schemas/{table}.yaml"), &text);
        }
    }
}

const REFUSE: &str = "alter table cleansed.over add constraint small check (v < 1000) not valid; \
    alter table cleansed.hist add constraint small check (v < 1000) not valid; \
    alter table cleansed.events add constraint small check (v < 1000) not valid";

const ALLOW: &str = "alter table cleansed.over drop constraint small; \
    alter table cleansed.hist drop constraint small; \
    alter table cleansed.events drop constraint small";

const NAMES: [&str; 3] = ["over", "hist", "events"];

/// Each table equals the one beside it that never refused anything.
async fn assert_as_if_nothing_had_been(site: &Site) {
    let pairs = [
        ("over", "select id, v, note, _seq, _ord from {} order by id"),
        (
            "hist",
            "select id, v, note, valid_from, valid_to, _seq, _ord, _end_seq, _end_ord, _last_seq, _last_ord from {} order by id, valid_from",
        ),
        ("events", "select id, v, note, _op, _seq, _ord from {} order by _seq, _ord"),
    ];
    for (name, query) in pairs {
        let free = format!("cleansed.{name}_free");
        let table = format!("cleansed.{name}");
        let of = |table: &str| query.replace("{}", table);
        let (expected, found) = (of(&free), of(&table));
        let (expected, found) =
            (site.at_warehouse(&expected).await, site.at_warehouse(&found).await);
        let missing: Vec<_> = expected.iter().filter(|row| !found.contains(row)).collect();
        let wrong: Vec<_> = found.iter().filter(|row| !expected.contains(row)).collect();
        assert!(missing.is_empty() && wrong.is_empty(), "{name}: {wrong:#?} for {missing:#?}");
        assert_eq!(expected.len(), found.len(), "{name}");
    }
    site.assert_equal("select id, v, note from {} order by id", "public.t", "cleansed.over").await;
    assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
    let open = "select count(*) from audit.dead_letters where state = 'open'";
    assert_eq!(site.at_warehouse(open).await, ["0"]);
}

async fn replay(site: &Site, which: &str) {
    let asked = site.command(&["dead-letter", "replay", which]).output().unwrap();
    assert!(asked.status.success(), "{asked:?}");
    site.catch_up().await;
}

async fn replay_all(site: &Site) {
    let asked = site.command(&["dead-letter", "replay", "--all"]).output().unwrap();
    assert!(asked.status.success(), "{asked:?}");
    site.catch_up().await;
}

fn said(site: &Site, arguments: &[&str]) -> String {
    let output = site.command(arguments).stdout(Stdio::piped()).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn only_the_key_of_a_refused_change_waits() {
    block_on(async {
        let site = Site::new("letters").await;
        declared(&site);
        site.shop(TABLES).await;
        site.catch_up().await;
        site.warehouse.batch_execute(REFUSE).await.unwrap();
        let running = site.start();
        site.shop("update t set v = 5 where id = 7").await;
        site.shop("update t set v = 5000 where id = 7").await;
        site.until("refused", "select count(*) = 3 from audit.dead_letters where state = 'open'")
            .await;
        site.shop("update t set v = 6 where id = 7").await;
        site.shop("update t set v = 60 where id = 8").await;
        site.until(
            "the others are in",
            "select bool_and(v = 60) from (select v from cleansed.over where id = 8
              union all select v from cleansed.hist where id = 8 and is_current) t",
        )
        .await;
        site.until(
            "what comes behind them waits",
            "select count(*) = 3 from audit.pending where waits",
        )
        .await;
        // live ones go the same way
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        site.shop("update t set v = 7 where id = 7; update t set v = 70 where id = 8").await;
        site.until("the next one is in", "select v = 70 from cleansed.over where id = 8").await;
        for table in ["over", "hist"] {
            let query = format!("select v from cleansed.{table} where id = 7");
            let query = format!("{query}{}", if table == "hist" { " and is_current" } else { "" });
            assert_eq!(site.at_warehouse(&query).await, ["5"], "{table}");
        }
        let listed = said(&site, &["dead-letter", "list", "cleansed.over"]);
        assert!(listed.contains(r#"{"id":"7"}"#) && listed.contains("small"), "{listed:?}");
        let why = said(&site, &["why", "cleansed.over"]);
        assert!(why.contains("is streaming since") && why.contains("2 of them behind"), "{why}");
        let status = site.command(&["status"]).stdout(Stdio::piped()).output().unwrap();
        assert_eq!(status.status.code(), Some(65), "{status:?}");
        let status = String::from_utf8(status.stdout).unwrap();
        assert!(status.contains("running") && status.contains("dead letters: 3"), "{status}");
        let number = listed.split_whitespace().next().unwrap().to_owned();
        let shown = said(&site, &["dead-letter", "show", &number]);
        assert!(shown.contains(r#""v": "5000""#), "{shown}");
        assert!(running.stop().await.is_ok());
        // of a table without history only the last change counts by now, and that one is let in
        let over = "select v from cleansed.over where id = 7";
        let hist = "select v from cleansed.hist where id = 7 and is_current";
        replay(&site, &number).await;
        assert_eq!(site.at_warehouse(over).await, ["7"]);
        // in vain: it is refused again, and nothing else has changed
        replay(&site, "cleansed.hist").await;
        assert_eq!(site.at_warehouse(hist).await, ["5"]);
        let tried = "select attempts from audit.dead_letters where table_name = 'cleansed.hist'";
        assert_eq!(site.at_warehouse(tried).await, ["2"]);
        site.warehouse.batch_execute(ALLOW).await.unwrap();
        replay_all(&site).await;
        assert_as_if_nothing_had_been(&site).await;
    });
}

/// A table goes on behind a dead letter, and after it is tried again, though no change comes after it.
#[test]
fn a_table_behind_a_dead_letter_goes_on_at_an_idle_source() {
    block_on(async {
        // of its own: other tests would write to it
        let source = own_cluster("idle-source").await;
        let site = Site::on("idleletter", &source, &clusters().await.1).await;
        site.shop(TABLES).await;
        site.catch_up().await;
        let small = "alter table cleansed.t add constraint small check (v < 1000) not valid";
        site.warehouse.batch_execute(small).await.unwrap();
        let running = site.start();
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        site.shop("update t set v = 5000 where id = 7").await;
        let log_end = "select pg_current_wal_flush_lsn()";
        let end = site.at_source(log_end).await;
        site.until("refused", "select count(*) = 1 from audit.dead_letters where state = 'open'")
            .await;
        assert!(running.stop().await.is_ok());
        // the server's own note of what runs, within 15 s of a write, is its last one
        for _ in 0..80 {
            if site.at_source(log_end).await != end {
                break;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        // all of it is stored, and nothing moves the position any more
        let running = site.start();
        let end = &site.at_source("select (pg_current_wal_flush_lsn() - '0/0')::int8").await[0];
        let stored = format!("select position >= {end} from audit.progress");
        site.until("all is stored", &stored).await;
        assert!(running.stop().await.is_ok());
        let (running, began) = (site.start(), Instant::now());
        let goes_on = "select state = 'streaming' and (select count(*) = LETTERS
              from audit.dead_letters where state = 'open') from audit.tables
             where table_name = 'cleansed.t'";
        site.until("it goes on behind it", &goes_on.replace("LETTERS", "1")).await;
        assert!(began.elapsed() < Duration::from_secs(40), "{:?}", began.elapsed());
        let again = ["dead-letter", "replay", "--all", "--wait"];
        let asked = site.command(&again).stdout(Stdio::piped()).output().unwrap();
        let told = String::from_utf8_lossy(&asked.stdout);
        assert!(told.contains("dead letters again: 1"), "{told}");
        assert!(
            told.lines().any(|line| line.starts_with("  ") && line.contains("small")),
            "{told}"
        );
        assert_eq!(asked.status.code(), Some(65), "{told}");
        site.until("it goes on again", &goes_on.replace("LETTERS", "1")).await;
        site.warehouse.batch_execute("alter table cleansed.t drop constraint small").await.unwrap();
        let told = said(&site, &again);
        assert!(told.ends_with("\napplied: 1\n"), "{told}");
        site.until("it goes on without it", &goes_on.replace("LETTERS", "0")).await;
        assert_eq!(site.at_warehouse("select v from cleansed.t where id = 7").await, ["5000"]);
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_dropped_letter_lets_its_key_go_on() {
    block_on(async {
        let site = Site::new("dropped").await;
        site.shop(TABLES).await;
        site.catch_up().await;
        site.warehouse
            .batch_execute("alter table cleansed.t add constraint small check (v < 1000) not valid")
            .await
            .unwrap();
        // what comes with the next change of its key is never seen
        for statement in [
            "update t set v = 5000, id = 1001 where id = 7",
            "update t set v = 1 where id = 1001",
            "update t set v = 8000 where id = 9",
        ] {
            site.shop(statement).await;
            site.catch_up().await;
        }
        let letters = "select key::text from audit.dead_letters order by id";
        assert_eq!(site.at_warehouse(letters).await, [r#"{"id": "1001"}"#, r#"{"id": "9"}"#]);
        let unasked = site.command(&["dead-letter", "drop", "--all"]).output().unwrap();
        assert_eq!(unasked.status.code(), Some(64));
        let ids = site.at_warehouse("select id from audit.dead_letters order by id").await;
        let drop = ["dead-letter", "drop", &ids[0], &ids[1], "--yes"];
        assert!(site.command(&drop).status().unwrap().success());
        // of some that are not there it says which, and the rest is asked for
        let mut one = site.command(&["dead-letter", "drop", "999", &ids[0], "--yes"]);
        let one = one.stdout(Stdio::piped()).output().unwrap();
        let told = String::from_utf8_lossy(&one.stdout);
        assert!(told.contains("no open dead letter 999"), "{told}");
        assert_eq!(one.status.code(), Some(64), "{told}");
        site.catch_up().await;
        assert_eq!(site.at_warehouse("select v from cleansed.t where id = 1001").await, ["1"]);
        assert_eq!(site.at_warehouse("select v from cleansed.t where id = 9").await, ["9"]);
        // a change that nothing waits for is in, verify names what is missing
        assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
        let running = site.start();
        let verified = site.command(&["verify", "cleansed.t"]).output().unwrap();
        assert_eq!(verified.status.code(), Some(65), "{verified:?}");
        assert!(running.stop().await.is_ok());
        let resync = site.command(&["table", "resync", "cleansed.t", "--yes"]).status().unwrap();
        assert!(resync.success());
        site.catch_up().await;
    });
}

#[test]
fn a_resync_settles_dead_letters_and_a_truncate_waits_for_them() {
    block_on(async {
        let site = Site::new("settled").await;
        site.shop(TABLES).await;
        site.catch_up().await;
        let small = "alter table cleansed.t add constraint small check (v < 1000) not valid";
        site.warehouse.batch_execute(small).await.unwrap();
        site.shop_each(&["update t set v = 5000 where id = 7", "update t set v = 8 where id = 8"])
            .await;
        site.catch_up().await;
        site.shop_each(&["truncate t", "insert into t values (1, 1, 'behind')"]).await;
        site.catch_up().await;
        let state = site.state("cleansed.t").await;
        assert_eq!(state[0], "stopped", "{state:?}");
        assert!(state[1].contains("TRUNCATE"), "{state:?}");
        let free = "alter table cleansed.t drop constraint small";
        site.warehouse.batch_execute(free).await.unwrap();
        replay(&site, "cleansed.t").await;
        assert!(site.command(&["table", "resume", "cleansed.t"]).status().unwrap().success());
        site.catch_up().await;
        site.assert_equal("select id, v, note from {} order by id", "public.t", "cleansed.t").await;
        // read again, the table has what was refused
        site.warehouse.batch_execute(small).await.unwrap();
        site.shop("update t set v = 5000 where id = 1").await;
        site.catch_up().await;
        site.shop("update t set v = 5 where id = 1").await;
        site.catch_up().await;
        let open = "select count(*) from audit.dead_letters where state = 'open'";
        assert_eq!(site.at_warehouse(open).await, ["1"]);
        let resync = site.command(&["table", "resync", "cleansed.t", "--yes"]).status().unwrap();
        assert!(resync.success());
        site.catch_up().await;
        assert_eq!(site.at_warehouse(open).await, ["0"]);
        site.assert_equal("select id, v, note from {} order by id", "public.t", "cleansed.t").await;
    });
}

#[test]
fn too_many_refusals_stop_the_table() {
    block_on(async {
        let site = Site::new("many").await;
        site.shop(TABLES).await;
        site.catch_up().await;
        let small = "alter table cleansed.t add constraint small check (v < 1000) not valid";
        site.warehouse.batch_execute(small).await.unwrap();
        site.shop("update t set v = v + 5000").await;
        site.shop("insert into log values (1, 1)").await;
        site.catch_up().await;
        let state = site.state("cleansed.t").await;
        assert_eq!(state[0], "stopped", "{state:?}");
        assert!(state[1].contains("more than 50"), "{state:?}");
        assert_eq!(site.at_warehouse("select id from cleansed.log").await, ["1"]);
        site.warehouse.batch_execute("alter table cleansed.t drop constraint small").await.unwrap();
        assert!(site.command(&["table", "resume", "cleansed.t"]).status().unwrap().success());
        site.catch_up().await;
        site.assert_equal("select id, v, note from {} order by id", "public.t", "cleansed.t").await;
    });
}

/// Random traffic of few keys in which some values are refused: changes of key, several changes in a
/// transaction, deletes and rows that come back.
fn traffic(dice: &mut Dice) -> Vec<String> {
    let mut statements = Vec::new();
    for _ in 0..40 {
        let mut transaction = String::from("begin;");
        for _ in 0..1 + dice.below(4) {
            let id = 1 + dice.below(29);
            let other = 1 + dice.below(29);
            let v = match dice.below(12) {
                0 => 1000 + dice.below(1000),
                _ => dice.below(1000),
            };
            let statement = match dice.below(7) {
                0 => format!("delete from t where id = {id};"),
                1 | 2 => format!(
                    "insert into t values ({id}, {v}, 'n') on conflict (id) do update set v = {v};"
                ),
                3 => format!(
                    "update t set id = {other} where id = {id} and not exists (select from t where id = {other});"
                ),
                4 => format!(
                    "update t set v = {v}, id = {other} where id = {id} and not exists (select from t where id = {other});"
                ),
                _ => format!("update t set v = {v} where id = {id};"),
            };
            transaction.push_str(&statement);
        }
        write!(transaction, "commit").unwrap();
        statements.push(transaction);
    }
    statements
}

#[test]
fn random_refusals_end_as_if_nothing_had_been() {
    block_on(async {
        let seed: u64 = env().get("SILTSTONE_SEED").map_or(1, |seed| seed.parse().unwrap());
        let rounds = if is_full() { 20 } else { 4 };
        let site = Site::new("refusals").await;
        declared(&site);
        site.shop(TABLES).await;
        site.catch_up().await;
        let mut dice = Dice::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
        for round in 0..rounds {
            println!("seed {seed}, round {round}");
            site.warehouse.batch_execute(REFUSE).await.unwrap();
            // by batches that came while it ran, by what had gathered, and by both
            let running = (round % 2 == 0).then(|| site.start());
            for statement in traffic(&mut dice) {
                let parts: Vec<&str> = statement.split_inclusive(';').collect();
                site.shop(&parts.concat()).await;
            }
            if let Some(running) = running {
                assert!(running.stop().await.is_ok());
            }
            site.catch_up().await;
            for name in NAMES {
                let state = site.state(&format!("cleansed.{name}")).await;
                assert_eq!(state[0], "streaming", "{name}: {state:?}");
            }
            let refused = "select count(*) > 5 from audit.dead_letters where state = 'open'";
            assert_eq!(site.at_warehouse(refused).await, ["t"]);
            site.warehouse.batch_execute(ALLOW).await.unwrap();
            replay_all(&site).await;
            assert_as_if_nothing_had_been(&site).await;
        }
    });
}

/// What a column's type refuses is told before it goes to the warehouse: the others are in within twice the time.
#[test]
fn few_values_beyond_a_type_hold_up_nobody() {
    block_on(async {
        let site = Site::new("fewvalues").await;
        let file = |v: &str| {
            let text = format!(
                "table: cleansed.t\nfrom: shop.public.t\nkey: [id]\ncolumns:\n  id: {{ type: integer }}\n  \
                 v: {{ type: \"{v}\" }}\n  note: {{ type: text }}\n"
            );
            site.file("schemas/t.yaml", &text);
        };
        file("numeric(6,0)");
        let took = few_refusals(&site, "select 1").await;
        let most = took[0] * 2 + Duration::from_secs(2);
        assert!(took[1] < most, "{took:?} without and with refusals");
        file("numeric(12,0)");
        let apply = ["apply", "--allow", "rewrite", "--yes"];
        assert!(site.command(&apply).status().unwrap().success());
        site.catch_up().await;
        replay_all(&site).await;
        site.assert_equal("select id, v, note from {} order by id", "public.t", "cleansed.t").await;
        assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
    });
}

/// What only the database refuses is found by asking it. Killed in its replay, it is as if nothing had been.
#[test]
fn few_refusals_among_many_changes_hold_up_nobody() {
    block_on(async {
        let site = Site::new("few").await;
        few_refusals(&site, "alter table cleansed.t add constraint small check (v < 1000000)")
            .await;
        // killed in the middle, again and again
        site.warehouse
            .batch_execute(
                "alter table cleansed.t drop constraint small;
                 create function public.slow() returns trigger language plpgsql as
                   $$ begin perform pg_sleep(0.02); return null; end $$;
                 create trigger slow after insert or update on cleansed.t for each statement
                   execute function public.slow()",
            )
            .await
            .unwrap();
        let asked = site.command(&["dead-letter", "replay", "--all"]).status().unwrap();
        assert!(asked.success());
        let mut hits = 0;
        let midst = "select exists (select from audit.tables where state = 'catching_up')
                        and exists (select from audit.pending)";
        // how long a start takes depends on what else the machine does
        for pause in [50, 150, 300, 500, 800, 1_600, 3_200, 6_400] {
            if pause > 800 && hits > 0 {
                break;
            }
            let mut child = site.spawn(&["run", "--until-caught-up"]);
            tokio::time::sleep(Duration::from_millis(pause)).await;
            child.kill().unwrap();
            child.wait().unwrap();
            hits += u32::from(site.at_warehouse(midst).await == ["t"]);
        }
        assert!(hits > 0, "no kill fell into the replay");
        site.catch_up().await;
        site.assert_equal("select id, v, note from {} order by id", "public.t", "cleansed.t").await;
        assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
    });
}

/// 1 % of the keys are refused once, each at a place of its own among ten changes a key; `refuse` makes the
/// warehouse refuse them. How long a run without and one with refusals took.
async fn few_refusals(site: &Site, refuse: &str) -> Vec<Duration> {
    let (keys, changes) = if is_full() { (10_000, 100_000) } else { (1_000, 10_000) };
    site.shop(&format!(
        "create table t (id int primary key, v int not null, note text);
             insert into t select i, 0, 'n' from generate_series(1, {keys}) i"
    ))
    .await;
    site.catch_up().await;
    let refused = changes / 991 + 1;
    // the number of a change makes its key
    let history = |bad: i32| {
        format!(
            "do $$ begin
                   for i in 1..{changes} loop
                     update t set v = case when i % 991 = 7 then i + {bad} else i end
                      where id = 1 + (i * 7919) % {keys};
                     if i % 10 = 0 then commit; end if;
                   end loop;
                 end $$"
        )
    };
    let mut took = Vec::new();
    for bad in [0, 1_000_000] {
        if bad > 0 {
            site.warehouse.batch_execute(refuse).await.unwrap();
        }
        site.shop(&history(bad)).await;
        let started = Instant::now();
        site.catch_up().await;
        took.push(started.elapsed());
    }
    println!("{changes} changes: {took:?} without and with {refused} refusals");
    let letters = "select count(*), count(distinct key) from audit.dead_letters";
    println!("{:?}", site.at_warehouse(letters).await);
    let waiting = "select distinct (key->>'id')::int from audit.dead_letters where state = 'open'";
    let others = format!("select id, v from {{}} where id <> all (array({waiting}))");
    let expected = site.at_source("select id, v from t order by id").await;
    let there =
        site.at_warehouse(&format!("{} order by id", others.replace("{}", "cleansed.t"))).await;
    assert!(there.len() >= keys - refused, "{} keys wait", keys - there.len());
    assert!(there.iter().all(|row| expected.binary_search(row).is_ok() || expected.contains(row)));
    took
}

/// What the types of the warehouse's columns refuse is told before it goes there: no batch fails for it.
#[test]
fn values_beyond_a_column_are_refused_without_holding_up_a_batch() {
    block_on(async {
        let site = Site::new("limits").await;
        site.file(
            "schemas/t.yaml",
            "table: cleansed.f\nfrom: shop.public.t\nkey: [id]\npartition: { by: day, every: month, range: [\"2020-01-01\", \"2024-12-31\"], ahead: 0 }\ncolumns:\n  id: { type: bigint }\n  day: { type: date, required: true }\n  name: { type: varchar(5), required: true }\n  small: { type: integer }\n  price: { type: \"numeric(5,2)\" }\n",
        );
        site.shop(
            "create table t (id bigint primary key, day date, name text, small bigint, price numeric);
             insert into t select i, '2024-01-01', 'n', 1, 1 from generate_series(1, 20) i",
        )
        .await;
        site.catch_up().await;
        let epoch = "select max(epoch) from audit.epoch";
        let before = site.at_warehouse(epoch).await.concat();
        let running = site.start();
        site.until("running", &format!("select max(epoch) > {before} from audit.epoch")).await;
        let before = site.at_warehouse(epoch).await;
        let refused = [
            "update t set day = '2031-01-01' where id = 1",
            "update t set name = null where id = 2",
            "update t set name = 'longer' where id = 3",
            "update t set small = 2147483648 where id = 4",
            "update t set price = 1000 where id = 5",
            "insert into t values (21, null, 'n', 1, 1)",
        ];
        site.shop_each(&refused).await;
        site.shop_each(&[
            "update t set name = 'fits ' where id = 6",
            "update t set name = 'wait' where id = 3",
            "update t set small = 2147483647, price = -999.99 where id = 7",
        ])
        .await;
        site.until("the others are in", "select small = 2147483647 from cleansed.f where id = 7")
            .await;
        let letters = "select reason from audit.dead_letters order by seq, ord";
        let reasons = site.at_warehouse(letters).await;
        let words = [
            "day is outside",
            "name is NULL",
            "than 5 char",
            "small is not",
            "price has",
            "day is NULL",
        ];
        assert_eq!(reasons.len(), words.len(), "{reasons:?}");
        assert!(
            reasons.iter().zip(words).all(|(reason, word)| reason.contains(word)),
            "{reasons:?}"
        );
        assert_eq!(site.at_warehouse("select name from cleansed.f where id = 3").await, ["n"]);
        assert_eq!(site.at_warehouse(epoch).await, before, "no session had to begin anew");
        assert!(running.stop().await.is_ok());
        // mended in the warehouse, in the file and at the source
        site.warehouse
            .batch_execute("alter table cleansed.f alter name type text, alter name drop not null, alter small type bigint, alter price type numeric")
            .await
            .unwrap();
        site.file(
            "schemas/t.yaml",
            "table: cleansed.f\nfrom: shop.public.t\nkey: [id]\npartition: { by: day, every: month, range: [\"2020-01-01\", \"2024-12-31\"], ahead: 0 }\ncolumns:\n  id: { type: bigint }\n  day: { type: date, required: true }\n  name: { type: text }\n  small: { type: bigint }\n  price: { type: \"numeric\" }\n",
        );
        site.shop_each(&[
            "update t set day = '2024-02-01' where id = 1",
            "delete from t where id = 21",
        ])
        .await;
        replay_all(&site).await;
        let left = "select key from audit.dead_letters where state = 'open' order by id";
        assert_eq!(site.at_warehouse(left).await, [r#"{"id": "1"}"#, r#"{"id": "21"}"#]);
        let asked = site.command(&["dead-letter", "drop", "--all", "--yes"]).status().unwrap();
        assert!(asked.success());
        site.catch_up().await;
        let same = "select id, day, name, small, trim_scale(price) from {} order by id";
        site.assert_equal(same, "public.t", "cleansed.f").await;
    });
}

/// Tables of each history, one that takes three letters and one that takes all.
fn declared_short(site: &Site, short: &str) {
    for (name, history) in [("over", "overwrite"), ("hist", "versions"), ("events", "append")] {
        for (table, ty) in [(name.to_owned(), short), (format!("{name}_free"), "text")] {
            let since = if history == "versions" { "since: born\n" } else { "" };
            let text = format!(
                "table: cleansed.{table}\nfrom: shop.public.t\nhistory: {history}\nkey: [id]\n{since}\
                 columns:\n  id: {{ type: integer }}\n  v: {{ type: integer }}\n\
                 \x20 note: {{ type: {ty} }}\n  born: {{ type: timestamptz }}\n"
            );
            site.file(&format!("schemas/{table}.yaml"), &text);
        }
    }
}

#[test]
fn a_row_that_is_refused_while_its_table_is_read_waits_alone() {
    block_on(async {
        let site = Site::new("unreadable").await;
        declared_short(&site, "varchar(3)");
        site.shop(
            "create table t (id int primary key, v int not null, note text, born timestamptz);
             insert into t select i, i, case when i % 40 = 0 then 'too long' else 'ok' end,
                                  timestamptz '2024-01-01 00:00+00' + i * interval '1 day'
               from generate_series(1, 200) i",
        )
        .await;
        site.catch_up().await;
        let letters = "select count(*) from audit.dead_letters where state = 'open'";
        assert_eq!(site.at_warehouse(letters).await, ["15"]);
        let rows = "select count(*) from cleansed.over";
        assert_eq!(site.at_warehouse(rows).await, ["195"]);
        let running = site.start();
        site.shop_each(&[
            "update t set v = v + 1000 where id in (40, 41)",
            "update t set id = 1080 where id = 80",
            "delete from t where id = 120",
        ])
        .await;
        site.until("the others go on", "select v = 1041 from cleansed.over where id = 41").await;
        let waiting = "select count(*) = 9 from audit.pending where waits";
        site.until("the keys wait", waiting).await;
        assert!(running.stop().await.is_ok());
        // in vain
        replay_all(&site).await;
        assert_eq!(site.at_warehouse(letters).await, ["15"]);
        let mend = "drop view cleansed.hist_current;
            alter table cleansed.over alter note type text;
            alter table cleansed.hist alter note type text;
            alter table cleansed.events alter note type text;
            create view cleansed.hist_current as select * from cleansed.hist where is_current";
        site.warehouse.batch_execute(mend).await.unwrap();
        declared_short(&site, "text");
        replay_all(&site).await;
        assert_eq!(site.at_warehouse(letters).await, ["0"]);
        assert_as_if_nothing_had_been(&site).await;
    });
}

#[test]
fn more_refused_rows_than_may_wait_stop_their_table_alone() {
    block_on(async {
        let site = Site::new("unreadables").await;
        declared_short(&site, "varchar(3)");
        site.connector(
            "tables: [\"public.*\"]\ntarget_schema: cleansed\ndead_letters: { max_keys: 20 }\n",
        );
        site.shop(
            "create table t (id int primary key, v int not null, note text, born timestamptz);
             insert into t select i, i, 'too long', now() from generate_series(1, 200) i",
        )
        .await;
        site.catch_up().await;
        let state = site.state("cleansed.over").await;
        assert_eq!(state[0], "stopped", "{state:?}");
        assert!(state[1].contains("more than 20 of the rows"), "{state:?}");
        assert_eq!(site.state("cleansed.over_free").await[0], "streaming");
        site.shop("update t set note = 'ok'").await;
        for table in ["over", "hist", "events"] {
            let table = format!("cleansed.{table}");
            let asked = site.command(&["table", "resync", &table, "--yes"]).status().unwrap();
            assert!(asked.success());
        }
        site.catch_up().await;
        site.assert_equal("select id, v, note from {} order by id", "t", "cleansed.over").await;
        assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
    });
}

/// A row that no page or index entry can take is one row's trouble.
#[test]
fn a_row_too_large_for_an_index_waits_alone() {
    block_on(async {
        let site = Site::new("large").await;
        site.shop(TABLES).await;
        site.catch_up().await;
        site.warehouse.batch_execute("create index on cleansed.t (note)").await.unwrap();
        site.shop(
            "update t set note = (select string_agg(md5(i::text), '') from generate_series(1, 300) i)
              where id = 3;
             update t set v = 7 where id in (3, 4)",
        )
        .await;
        site.catch_up().await;
        assert_eq!(site.state("cleansed.t").await[0], "streaming");
        let letters = "select key->>'id', reason like '%index row%' from audit.dead_letters";
        assert_eq!(site.at_warehouse(letters).await, ["3|t"]);
        assert_eq!(site.at_warehouse("select v from cleansed.t where id = 4").await, ["7"]);
        site.warehouse.batch_execute("drop index cleansed.t_note_idx").await.unwrap();
        replay_all(&site).await;
        site.assert_equal("select id, v, note from {} order by id", "public.t", "cleansed.t").await;
    });
}

/// A server without an encoding may hold anything; what is no UTF-8 waits, and all else flows.
#[test]
fn bytes_of_no_encoding_are_one_rows_trouble() {
    block_on(async {
        let site = Site::new("ascii").await;
        let name = format!("{}_shop", site.name);
        let sources = &clusters().await.0;
        let admin = connect(Side::Source, &sources.endpoint("postgres"), "test").await.unwrap();
        let kick = format!(
            "select pg_terminate_backend(pid, 5000) from pg_stat_activity where datname = '{name}'"
        );
        for statement in [
            kick,
            format!("drop database \"{name}\""),
            format!(
                "create database \"{name}\" template template0 encoding 'SQL_ASCII' lc_collate 'C' lc_ctype 'C'"
            ),
        ] {
            admin.batch_execute(&statement).await.unwrap();
        }
        let shop = connect(Side::Source, &site.source_endpoint, "test").await.unwrap();
        shop.batch_execute("set search_path to public").await.unwrap();
        shop.batch_execute(TABLES).await.unwrap();
        shop.batch_execute("update t set note = 'grün' where id = 1").await.unwrap();
        site.catch_up().await;
        shop.batch_execute(
            "update t set note = 'grüner' where id = 2; update t set note = E'\\xff\\xfe' where id = 3;
             update t set v = 9 where id in (3, 4)",
        )
        .await
        .unwrap();
        site.catch_up().await;
        let notes = "select note from cleansed.t where id < 3 order by id";
        assert_eq!(site.at_warehouse(notes).await, ["grün", "grüner"]);
        assert_eq!(site.state("cleansed.t").await[0], "streaming");
        assert_eq!(site.at_warehouse("select v from cleansed.t where id = 4").await, ["9"]);
        let letters = "select key->>'id', reason like '%UTF8%' from audit.dead_letters";
        assert_eq!(site.at_warehouse(letters).await, ["3|t"]);
        shop.batch_execute("update t set note = 'mended' where id = 3").await.unwrap();
        site.catch_up().await;
        let open = "select count(*) from audit.dead_letters where state = 'open'";
        while site.at_warehouse(open).await != ["0"] {
            let drop = ["dead-letter", "drop", "--all", "--yes"];
            assert!(site.command(&drop).status().unwrap().success());
            site.catch_up().await;
        }
        assert_eq!(site.at_warehouse("select note from cleansed.t where id = 3").await, ["mended"]);
    });
}

/// The store of kept changes has an end: the connector stops, keeps no more however often it is started, and goes
/// on once what fills it is let go.
#[test]
fn kept_changes_have_a_limit_that_restarts_do_not_stretch() {
    block_on(async {
        let site = Site::new("full").await;
        site.file(
            "siltstone.yaml",
            "warehouse: { url: \"${WAREHOUSE_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\n\
             pending: { max_bytes: 200KiB }\nbatch: { max_rows: 100 }\n",
        );
        site.shop(TABLES).await;
        site.catch_up().await;
        let running = site.start();
        let pause = ["table", "pause", "cleansed.t", "--wait"];
        assert!(site.command(&pause).status().unwrap().success());
        site.shop("update t set note = repeat('k', 700) where id <= 100").await;
        site.until("kept", "select count(*) = 100 from audit.pending").await;
        for n in 0..40 {
            site.shop(&format!("update t set v = v + {n}, note = repeat('{}', 300)", n % 10)).await;
        }
        let error = running.ended().await.expect_err("the store is full");
        assert_eq!(error.kind(), Kind::Full, "{error}");
        assert!(error.to_string().contains("pending.max_bytes"), "{error}");
        let kept = "select sum(bytes) from audit.pending";
        let before = site.at_warehouse(kept).await;
        let bytes: u64 = before[0].parse().unwrap();
        assert!((50 << 10..=200 << 10).contains(&bytes), "{bytes}");
        for _ in 0..3 {
            let error = site.try_catch_up().await.expect_err("the store is full");
            assert_eq!(error.kind(), Kind::Full, "{error}");
        }
        assert_eq!(site.at_warehouse(kept).await, before);
        let resume = ["table", "resume", "cleansed.t"];
        assert!(site.command(&resume).status().unwrap().success());
        site.catch_up().await;
        site.assert_equal("select id, v, note from {} order by id", "public.t", "cleansed.t").await;
        assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
    });
}

/// What the warehouse refuses only at the commit is found before it: whose change it is would not be known there.
#[test]
fn what_is_deferred_to_the_commit_is_refused_alone() {
    block_on(async {
        let site = Site::new("deferred").await;
        site.shop("create table t (id int primary key, v text unique deferrable initially deferred); create table other (id int primary key); insert into t values (1, 'a'), (2, 'b')")
            .await;
        site.catch_up().await;
        site.warehouse
            .batch_execute(
                "create function public.no() returns trigger language plpgsql as
                   $$ begin if new.v = 'bad' then raise 'not here'; end if; return null; end $$;
                 create constraint trigger \"No\" after insert or update on cleansed.t
                   deferrable initially deferred for each row execute function public.no();
                 alter table cleansed.t add unique (v) deferrable initially deferred;
                 alter table cleansed.other add constraint t_v_key check (id > 0)",
            )
            .await
            .unwrap();
        // unique again at its end
        site.shop(
            "begin; update t set v = 'b' where id = 1; update t set v = 'a' where id = 2; commit",
        )
        .await;
        site.catch_up().await;
        site.assert_equal("select id, v from {} order by id", "t", "cleansed.t").await;
        site.shop("insert into t values (3, 'bad'), (4, 'good'); insert into other values (1); update t set v = 'z' where id = 1")
            .await;
        site.catch_up().await;
        site.assert_equal("select id, v from {} where id <> 3 order by id", "t", "cleansed.t")
            .await;
        site.assert_equal("select id from {}", "other", "cleansed.other").await;
        let letters = "select key->>'id', reason like '%not here%' from audit.dead_letters";
        assert_eq!(site.at_warehouse(letters).await, ["3|t"]);
        site.shop("update t set v = 'mended' where id = 3").await;
        site.warehouse.batch_execute("drop trigger \"No\" on cleansed.t").await.unwrap();
        replay_all(&site).await;
        site.assert_equal("select id, v from {} order by id", "t", "cleansed.t").await;
    });
}

/// What is deferred from a moment on at which the service runs is found once the commit is refused: the same is done
/// again, and one key waits.
#[test]
fn what_is_deferred_in_mid_stream_is_refused_alone() {
    block_on(async {
        let site = Site::new("deferred_late").await;
        site.shop("create table t (id int primary key, v text, r int); create table other (id int primary key); insert into t values (1, 'a', 1)")
            .await;
        site.catch_up().await;
        site.warehouse
            .batch_execute(
                "create table public.refs (id int primary key); insert into public.refs values (1);
                 alter table cleansed.t add constraint refs foreign key (r) references public.refs",
            )
            .await
            .unwrap();
        let running = site.start();
        site.shop("insert into t values (2, 'b', 1)").await;
        site.until("it is known what is deferred", "select count(*) = 2 from cleansed.t").await;
        site.warehouse
            .batch_execute("alter table cleansed.t add constraint once unique (v) deferrable initially deferred")
            .await
            .unwrap();
        let letters = |count: u32| format!("select count(*) = {count} from audit.dead_letters");
        site.shop("begin; insert into t values (3, 'a', 1), (4, 'd', 1); insert into other values (1); commit")
            .await;
        site.until("one is refused", &letters(1)).await;
        site.until("the other flows", "select exists (select from cleansed.other)").await;
        site.until("calm again", "select bool_and(state = 'streaming') from audit.tables").await;
        let altered = "alter table cleansed.t alter constraint refs deferrable initially deferred";
        site.warehouse.batch_execute(altered).await.unwrap();
        site.shop("begin; insert into t values (5, 'e', 7), (6, 'f', 1); insert into other values (2); commit")
            .await;
        site.until("one more is refused", &letters(2)).await;
        site.until("the other flows", "select count(*) = 2 from cleansed.other").await;
        site.until("the rest is in", "select count(*) = 4 from cleansed.t").await;
        let refused = "select key->>'id' from audit.dead_letters order by id";
        assert_eq!(site.at_warehouse(refused).await, ["3", "5"]);
        assert!(running.stop().await.is_ok());
    });
}

/// What is kept may be applied to make room, also for a transaction that arrives in many pieces.
#[test]
fn a_large_transaction_waits_for_what_can_be_applied_of_the_kept_changes() {
    block_on(async {
        let site = Site::new("roomy").await;
        site.file(
            "siltstone.yaml",
            "warehouse: { url: \"${WAREHOUSE_URL}\" }\nadmin: { listen: \"127.0.0.1:0\" }\n\
             pending: { max_bytes: 2MiB }\nbatch: { max_rows: 500 }\n",
        );
        site.shop(TABLES).await;
        site.shop("create table live (id int primary key, v int not null)").await;
        site.catch_up().await;
        let running = site.start();
        for table in ["cleansed.t", "cleansed.log"] {
            let pause = ["table", "pause", table, "--wait"];
            assert!(site.command(&pause).status().unwrap().success());
        }
        site.shop("insert into log select i, i from generate_series(1, 60000) i").await;
        site.until("kept", "select count(*) = 60000 from audit.pending").await;
        let bytes = site.at_warehouse("select sum(bytes) from audit.pending").await;
        let bytes: u64 = bytes[0].parse().unwrap();
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        assert!(running.stop().await.is_ok());
        let resume = ["table", "resume", "cleansed.log"];
        assert!(site.command(&resume).status().unwrap().success());
        // more than there is room for, even with some of it applied; what of it was staged goes with it
        site.shop(
            "begin; insert into live select i, i from generate_series(1, 600) i;
             insert into t select i, i, repeat('n', 100) from generate_series(1001, 15000) i; commit",
        )
        .await;
        site.catch_up().await;
        let kept = "select table_name, count(*) from audit.pending group by 1";
        assert_eq!(site.at_warehouse(kept).await, ["cleansed.t|14000"]);
        let resume = ["table", "resume", "cleansed.t"];
        assert!(site.command(&resume).status().unwrap().success());
        site.catch_up().await;
        site.assert_equal("select id, v, note from {} order by id", "public.t", "cleansed.t").await;
        for table in ["log", "live"] {
            let (there, here) = (format!("public.{table}"), format!("cleansed.{table}"));
            site.assert_equal("select id, v from {} order by id", &there, &here).await;
        }
    });
}

#[test]
fn a_replay_says_that_its_table_has_to_be_resumed() {
    block_on(async {
        let site = Site::new("resumed").await;
        site.shop(TABLES).await;
        site.catch_up().await;
        let refuse = "alter table cleansed.t add constraint small check (v < 1000) not valid";
        site.warehouse.batch_execute(refuse).await.unwrap();
        let running = site.start();
        site.shop("update t set v = 5000 where id = 7").await;
        site.until("refused", "select count(*) = 1 from audit.dead_letters where state = 'open'")
            .await;
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        assert!(said(&site, &["table", "pause", "cleansed.t", "--wait"]).contains("is paused"));
        let told = said(&site, &["dead-letter", "replay", "--all", "--wait"]);
        assert!(told.contains("cleansed.t is paused: siltstone table resume cleansed.t"), "{told}");
        assert!(running.stop().await.is_ok());
    });
}
