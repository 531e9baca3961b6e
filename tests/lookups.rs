//! Columns that the warehouse looks up: whatever happens to rows and to what they are looked up in, each row has what
//! its lookup answers.

use std::process::Stdio;
use std::time::Duration;

use siltstone::postgres::Session;
use siltstone::refresh::{self, Which};
use siltstone::spec::Model;

use crate::support::{Dice, Site, block_on, is_full};

const TABLES: &str =
    "create table users (id bigint primary key, email text not null, country text);
    create table orders (id bigint primary key, day date not null, country text);
    create table marker (id bigint primary key)";

const REFERENCE: &str = "create schema ref;
    create table ref.countries (country text primary key, region text);
    insert into ref.countries values ('DE', 'Europe'), ('AT', 'Europe'), ('JP', 'Asia')";

const QUERY: &str = "select region from ref.countries r where r.country = row.country";

/// The tables with lookups.
const LOOKED_UP: [&str; 3] = ["cleansed.dim_users", "cleansed.users", "cleansed.orders"];

fn users(site: &Site, lookup: &str) {
    site.file(
        "schemas/users.yaml",
        &format!(
            "table: cleansed.users\nfrom: shop.public.users\nkey: [id]\ncolumns:\n  id: {{ type: bigint }}\n  \
             email: {{ type: text }}\n  country: {{ type: text }}\n{lookup}"
        ),
    );
}

fn looked_up(query: &str) -> String {
    format!("  region: {{ type: varchar(100), lookup: \"{query}\" }}\n")
}

/// One table of each kind that rows are kept in.
fn files(site: &Site) {
    users(site, &looked_up(QUERY));
    site.file(
        "schemas/dim_users.yaml",
        &format!(
            "table: cleansed.dim_users\nfrom: shop.public.users\nhistory: versions\nkey: [id]\ncolumns:\n  \
             id: {{ type: bigint }}\n  email: {{ type: text }}\n  country: {{ type: text }}\n{}",
            looked_up(QUERY)
        ),
    );
    site.file(
        "schemas/stg_users.yaml",
        "table: raw.stg_users\nfrom: shop.public.users\nlayout: raw\n",
    );
    site.file(
        "schemas/orders.yaml",
        &format!(
            "table: cleansed.orders\nfrom: shop.public.orders\nkey: [id]\n\
             partition: {{ by: day, every: month, range: [\"2020-01-01\", \"+1y\"] }}\ncolumns:\n  \
             id: {{ type: bigint }}\n  day: {{ type: date, required: true }}\n  country: {{ type: text }}\n{}",
            looked_up(QUERY)
        ),
    );
}

/// The rows that have anything but what their lookup answers.
async fn wrong(site: &Site, table: &str) -> Vec<String> {
    site.at_warehouse(&format!(
        "select \"row\"::text from {table} as \"row\" where region is distinct from ({QUERY})"
    ))
    .await
}

async fn assert_right(site: &Site, what: &str) {
    for table in LOOKED_UP {
        let wrong = wrong(site, table).await;
        assert!(wrong.is_empty(), "{what}: {table}: {wrong:#?}");
    }
}

const FRESH: &str = "select count(*) = 3 and bool_and(state = 'fresh') from audit.lookups";

const QUIET: &str = "select not exists (select from audit.touched)";

async fn settled(site: &Site, mark: u64) {
    site.shop(&format!("insert into marker values ({mark})")).await;
    let streamed = format!("select exists (select from cleansed.marker where id = {mark})");
    site.until("the stream", &streamed).await;
    site.until("all tables flow", "select bool_and(state = 'streaming') from audit.tables").await;
    site.until("the lookups", FRESH).await;
    site.until("the marks", QUIET).await;
}

fn ask(site: &Site, arguments: &[&str]) -> (i32, String) {
    let output = site.command(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap(), String::from_utf8(text).unwrap())
}

/// What the shop does.
fn written(dice: &mut Dice) -> String {
    let (id, day) = (dice.below(30), dice.below(120));
    let country = ["'DE'", "'AT'", "'JP'", "'XX'", "null"][usize::try_from(dice.below(5)).unwrap()];
    match dice.below(8) {
        0 | 1 => format!(
            "insert into users values ({id}, 'u', {country}) on conflict (id) do update set country = excluded.country"
        ),
        2 => format!("update users set email = email || 'x' where id = {id}"),
        3 => format!("update users set country = {country} where id % 3 = {}", id % 3),
        4 => format!("delete from users where id = {id}"),
        5 | 6 => format!(
            "insert into orders values ({id}, date '2024-01-01' + {day}, {country}) on conflict (id) do update set country = excluded.country"
        ),
        _ => format!("update orders set day = date '2024-01-01' + {day} where id = {id}"),
    }
}

/// What people do to the reference.
fn edited(dice: &mut Dice) -> String {
    let country = ["DE", "AT", "JP", "XX"][usize::try_from(dice.below(4)).unwrap()];
    match dice.below(5) {
        0 => format!("delete from ref.countries where country = '{country}'"),
        1 if dice.one_in(3) => "truncate ref.countries".to_owned(),
        2 => format!("begin; update ref.countries set region = 'R{}'; rollback", dice.below(9)),
        _ => format!(
            "insert into ref.countries values ('{country}', 'R{}') on conflict (country) do update set region = excluded.region",
            dice.below(9)
        ),
    }
}

#[test]
fn after_any_history_each_row_has_what_its_lookup_answers() {
    block_on(async {
        for seed in 1..=if is_full() { 10 } else { 2 } {
            let site = Site::new("lookups_history").await;
            files(&site);
            site.shop(TABLES).await;
            site.warehouse.batch_execute(REFERENCE).await.unwrap();
            let mut dice = Dice::new(seed);
            let mut service = site.start();
            site.until("the lookups", FRESH).await;
            for round in 0..3 {
                for _ in 0..80 {
                    site.shop(&written(&mut dice)).await;
                    if dice.one_in(4) {
                        site.warehouse.batch_execute(&edited(&mut dice)).await.unwrap();
                    }
                    if dice.one_in(25) {
                        site.at_warehouse(
                            "select pg_terminate_backend(pid) from pg_stat_activity \
                             where datname = current_database() and application_name like 'siltstone lookups %'",
                        )
                        .await;
                    }
                }
                if round == 1 {
                    // what is edited while nobody looks is marked all the same
                    service.stop().await.unwrap();
                    for _ in 0..10 {
                        site.warehouse.batch_execute(&edited(&mut dice)).await.unwrap();
                        site.shop(&written(&mut dice)).await;
                    }
                    service = site.start();
                    let resync = ["table", "resync", "cleansed.orders", "--yes", "--wait"];
                    assert_eq!(ask(&site, &resync).0, 0);
                }
                settled(&site, seed * 100 + round).await;
                assert_right(&site, &format!("seed {seed}, round {round}")).await;
            }
            let columns = "select id, email, country from {} order by id";
            site.assert_equal(columns, "users", "cleansed.users").await;
            site.assert_equal(columns, "users", "cleansed.dim_users_current").await;
            let columns = "select id, day, country from {} order by id";
            site.assert_equal(columns, "orders", "cleansed.orders").await;
            // a rebuilding from raw is not barred by what is looked up
            let rebuilt =
                ["table", "resync", "cleansed.dim_users", "--from", "raw", "--yes", "--wait"];
            let (code, said) = ask(&site, &rebuilt);
            assert_eq!(code, 0, "{said}");
            settled(&site, seed * 100 + 50).await;
            assert_right(&site, "rebuilt").await;
            let verified = ask(&site, &["verify"]);
            assert_eq!(verified.0, 0, "{}", verified.1);
            service.stop().await.unwrap();
        }
    });
}

#[test]
fn a_reference_that_comes_late_is_waited_for() {
    block_on(async {
        let site = Site::new("lookups_late").await;
        files(&site);
        site.shop(TABLES).await;
        site.shop("insert into users select i, 'u', 'DE' from generate_series(1, 50) i").await;
        let running = site.start();
        let waits = "select count(*) = 3 and bool_and(state = 'waiting' and reason like '%ref%') from audit.lookups";
        site.until("they wait", waits).await;
        site.until("the rows", "select count(*) = 50 from cleansed.users").await;
        site.shop("insert into users values (51, 'u', 'AT')").await;
        site.until("the stream goes on", "select count(*) = 51 from cleansed.users").await;
        let regions = "select count(*), count(region) from cleansed.users";
        assert_eq!(site.at_warehouse(regions).await, ["51|0"]);
        let (_, why) = ask(&site, &["why", "cleansed.users"]);
        assert!(why.contains("its lookups are waiting") && why.contains("ref"), "{why}");
        assert!(ask(&site, &["status"]).1.contains("lookups of cleansed.users are waiting"));
        site.warehouse.batch_execute(REFERENCE).await.unwrap();
        site.until("the lookups", FRESH).await;
        assert_eq!(site.at_warehouse(regions).await, ["51|51"]);
        assert_right(&site, "late").await;
        let (_, why) = ask(&site, &["why", "cleansed.users"]);
        assert!(why.contains("its lookups are fresh"), "{why}");
        let told = "select exists (select from audit.data_lineage where source_table = 'ref.countries' \
            and source_column = 'region' and target_table = 'cleansed.users' and target_column = 'region')";
        site.until("lineage", told).await;
        assert!(running.stop().await.is_ok());
        // one that is gone stops the tables that look it up, and says which
        site.warehouse.batch_execute("drop table ref.countries").await.unwrap();
        site.shop("update users set email = 'gone' where id = 1").await;
        site.catch_up().await;
        let state = site.state("cleansed.users").await;
        assert_eq!(state[0], "stopped", "{state:?}");
        assert!(state[1].contains("columns.region.lookup of schemas/users.yaml"), "{state:?}");
        // which is no loss
        site.warehouse.batch_execute(&REFERENCE.replace("create schema ref;", "")).await.unwrap();
        let running = site.start();
        for table in ["cleansed.users", "cleansed.dim_users"] {
            let (code, said) = ask(&site, &["table", "resume", table, "--wait"]);
            assert_eq!(code, 0, "{said}");
        }
        site.until("it goes on", "select email = 'gone' from cleansed.users where id = 1").await;
        settled(&site, 2).await;
        assert_right(&site, "mended").await;
        assert!(running.stop().await.is_ok());
    });
}

/// A transaction that has written a row by what the reference was, and is open as that is edited.
#[test]
fn a_row_that_was_looked_up_before_an_edit_is_looked_up_again() {
    block_on(async {
        let site = Site::new("lookups_race").await;
        files(&site);
        site.shop(TABLES).await;
        site.warehouse.batch_execute(REFERENCE).await.unwrap();
        site.shop("insert into users values (1, 'u', 'DE')").await;
        let running = site.start();
        settled(&site, 1).await;
        let open = site.another_session().await;
        let row = |id: u32| {
            format!(
                "insert into cleansed.users (id, email, country, region, _seq, _ord, _synced_at) values ({id}, 'u', 'DE', 'Europe', 0, 0, now())"
            )
        };
        // as a merge does: it locks, looks up, and writes then
        open.batch_execute("begin; lock table only cleansed.users in row exclusive mode")
            .await
            .unwrap();
        let edit = "update ref.countries set region = 'Elsewhere' where country = 'DE'";
        site.warehouse.batch_execute(edit).await.unwrap();
        // long enough for a sweep that waits for nobody
        let swept = "select region = 'Elsewhere' from cleansed.dim_users where id = 1";
        site.until("another table is swept", swept).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        open.batch_execute(&format!("{}; commit", row(1000))).await.unwrap();
        site.until("the marks", QUIET).await;
        assert_right(&site, "written before the edit").await;
        assert!(running.stop().await.is_ok());
        drop(open);
        refused_by_an_old_snapshot(&site).await;
    });
}

/// A snapshot from before an edit would look up what nobody sweeps.
async fn refused_by_an_old_snapshot(site: &Site) {
    let isolation = |level: &str| {
        format!(
            "do $$ begin execute format('alter database %I {level}', current_database()); end $$"
        )
    };
    let old = isolation("set default_transaction_isolation to ''repeatable read''");
    site.warehouse.batch_execute(&old).await.unwrap();
    site.shop("update users set email = 'later' where id = 1").await;
    site.catch_up().await;
    let state = site.state("cleansed.users").await;
    assert!(state[0] == "stopped" && state[1].contains("READ COMMITTED"), "{state:?}");
    let reset = isolation("reset default_transaction_isolation");
    site.warehouse.batch_execute(&reset).await.unwrap();
}

#[test]
fn a_lookup_that_finds_two_rows_stops_its_table_and_loses_nothing() {
    block_on(async {
        let site = Site::new("lookups_two").await;
        users(&site, &looked_up(QUERY));
        site.shop(TABLES).await;
        site.shop("insert into users values (1, 'u', 'DE'), (2, 'u', 'AT')").await;
        let reference = REFERENCE.replace(" primary key", "");
        site.warehouse.batch_execute(&reference).await.unwrap();
        let running = site.start();
        let read = "select count(region) = 2 and (select bool_and(state = 'streaming') from audit.tables) from cleansed.users";
        site.until("the rows", read).await;
        site.until("the lookups", "select state = 'fresh' from audit.lookups").await;
        site.warehouse
            .batch_execute("insert into ref.countries values ('DE', 'twice')")
            .await
            .unwrap();
        let stopped = "select state = 'stopped' and reason like '%more than one row%' and remedy like '%schemas/users.yaml%' from audit.lookups";
        site.until("it says so", stopped).await;
        site.shop_each(&[
            "update users set email = 'taken' where id = 2",
            "update users set email = 'waits' where id = 1",
            "insert into marker values (7)",
        ])
        .await;
        site.until("the others go on", "select exists (select from cleansed.marker where id = 7)")
            .await;
        let state = site.state("cleansed.users").await;
        assert_eq!(state[0], "stopped", "{state:?}");
        for word in ["columns.region.lookup of schemas/users.yaml", "more than one row"] {
            assert!(state[1].contains(word), "{state:?}");
        }
        let waits = "select email, region from cleansed.users where id = 1";
        assert_eq!(site.at_warehouse(waits).await, ["u|Europe"]);
        site.warehouse
            .batch_execute("delete from ref.countries where region = 'twice'")
            .await
            .unwrap();
        site.until("the lookups", "select state = 'fresh' from audit.lookups").await;
        let (code, said) = ask(&site, &["table", "resume", "cleansed.users", "--wait"]);
        assert_eq!(code, 0, "{said}");
        let kept = "select count(*) = 2 and bool_and(region = 'Europe') from cleansed.users where email in ('waits', 'taken')";
        site.until("what was kept", kept).await;
        assert!(running.stop().await.is_ok());
    });
}

/// A merge of versions knows its rows by their place, where an update of somebody else's would hide them from it.
#[test]
fn a_sweep_and_a_merge_of_versions_take_turns() {
    block_on(async {
        let site = Site::new("lookups_turns").await;
        files(&site);
        site.shop(TABLES).await;
        site.warehouse.batch_execute(REFERENCE).await.unwrap();
        site.shop("insert into users values (1, 'u', 'DE'), (2, 'u', 'DE')").await;
        let running = site.start();
        settled(&site, 1).await;
        let spec = site.spec();
        let model = spec.models.iter().find(|model| model.table.name == "dim_users").unwrap();
        let mut sweeping = site.another_session().await;
        let swaths = refresh::swaths(&*sweeping, model, Which::First).await.unwrap();
        site.warehouse
            .batch_execute("alter table ref.countries disable trigger user; update ref.countries set region = 'R'")
            .await
            .unwrap();
        let transaction = sweeping.transaction().await.unwrap();
        let part = (&swaths[0].begin(), 100);
        let swept = refresh::sweep(&transaction, (model, &swaths[0]), part).await.unwrap();
        // fewer where the service has just gone through them itself
        assert!(swaths.len() == 1 && swept.0 <= 2 && swept.1.is_none(), "{swept:?}");
        site.shop_each(&[
            "update users set email = 'kept' where id = 1",
            "delete from users where id = 2",
        ])
        .await;
        let waits = "select exists (select from pg_stat_activity where wait_event_type = 'Lock' and query like '%dim_users%')";
        site.until("the merge waits", waits).await;
        transaction.commit().await.unwrap();
        settled(&site, 2).await;
        let current = "select id, email, region from cleansed.dim_users_current";
        assert_eq!(site.at_warehouse(current).await, ["1|kept|R"]);
        assert!(running.stop().await.is_ok());
    });
}

/// What would stop the table as rows are written is found out before anything is put in place.
#[test]
fn what_cannot_be_looked_up_is_told_and_rows_go_on() {
    block_on(async {
        let site = Site::new("lookups_unfit").await;
        site.shop(TABLES).await;
        let reference = REFERENCE.replace(" primary key", "") + ", ('XX', 'a'), ('XX', 'b')";
        site.warehouse.batch_execute(&reference).await.unwrap();
        let not_of_row = format!("{QUERY} and email is not null");
        let of_two = QUERY.replace("row.country", "coalesce(row.country, 'XX')");
        for (mark, query, why) in [(1, not_of_row, "email"), (2, of_two, "more than one row")] {
            users(&site, &looked_up(&query));
            site.shop(&format!("insert into users values ({mark}, 'u', 'DE')")).await;
            let (_, said) = ask(&site, &["plan"]);
            assert!(!said.contains("this is a bug"), "{said}");
            let running = site.start();
            let told = format!(
                "select state = 'stopped' and reason like '%{why}%' and remedy like '%columns.region.lookup%' from audit.lookups"
            );
            site.until("it is told", &told).await;
            let goes_on = format!(
                "select exists (select from cleansed.users where id = {mark} and region is null)"
            );
            site.until("rows go on", &goes_on).await;
            assert!(running.stop().await.is_ok());
        }
        // a column of a type that is not the server's own
        let other = "create extension citext; delete from ref.countries where country = 'XX';
            alter table cleansed.users alter country type citext";
        site.warehouse.batch_execute(other).await.unwrap();
        users(&site, &looked_up(QUERY));
        let file = site.config().with_file_name("schemas/users.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        let typed = text.replace("country: { type: text }", "country: { type: citext }");
        assert_ne!(typed, text);
        std::fs::write(file, typed).unwrap();
        let running = site.start();
        site.until(
            "all are looked up",
            "select count(*) = 2 and bool_and(region = 'Europe') from cleansed.users",
        )
        .await;
        site.shop("insert into users values (3, 'u', 'JP')").await;
        site.until("the third", "select region = 'Asia' from cleansed.users where id = 3").await;
        assert!(running.stop().await.is_ok());
    });
}

/// Sweeps the leaves of a turn in parts of so many rows; `between` the first part and the others something happens.
async fn sweep(
    session: &mut Session,
    (model, which): (&Model, Which),
    between: impl AsyncFnOnce(),
) {
    let mut between = Some(between);
    for swath in refresh::swaths(&**session, model, which).await.unwrap() {
        let mut next = Some(swath.begin());
        while let Some(begin) = next {
            let transaction = session.transaction().await.unwrap();
            let part = refresh::sweep(&transaction, (model, &swath), (&begin, 100)).await.unwrap();
            transaction.commit().await.unwrap();
            next = part.1;
            if let Some(between) = between.take() {
                between().await;
            }
        }
    }
}

/// Not all who write a row write what is looked up of it.
#[test]
fn a_row_that_moves_while_its_table_is_swept_is_looked_up() {
    block_on(async {
        let site = Site::new("lookups_moves").await;
        files(&site);
        users(&site, &looked_up(QUERY));
        site.shop(TABLES).await;
        site.warehouse.batch_execute(REFERENCE).await.unwrap();
        site.shop("insert into users select i, 'u', 'DE' from generate_series(1, 1000) i").await;
        let running = site.start();
        settled(&site, 1).await;
        let spec = site.spec();
        let of = |name: &str| spec.models.iter().find(|model| model.table.name == name).unwrap();
        let mut session = site.another_session().await;
        site.warehouse
            .batch_execute("alter table ref.countries disable trigger user; update ref.countries set region = 'R'")
            .await
            .unwrap();
        // a version that ends with what it had, in a leaf that had none
        let ends = async || {
            site.shop("update users set email = 'ends' where id = 900").await;
            site.until(
                "it has ended",
                "select count(*) = 2 from cleansed.dim_users where id = 900",
            )
            .await;
        };
        let dim_users = of("dim_users");
        sweep(&mut session, (dim_users, Which::First), ends).await;
        sweep(&mut session, (dim_users, Which::Rest), async || {}).await;
        // and rows that come to lie where rows were swept already
        let moves = async || {
            let delete = "delete from cleansed.users where id between 50 and 500";
            site.warehouse.batch_execute(delete).await.unwrap();
            site.warehouse.batch_execute("vacuum full cleansed.users").await.unwrap();
        };
        sweep(&mut session, (of("users"), Which::First), moves).await;
        for table in ["users", "dim_users"] {
            let wrong = format!("select count(*) from cleansed.{table} where region <> 'R'");
            assert_eq!(site.at_warehouse(&wrong).await, ["0"], "{table}");
        }
        assert!(running.stop().await.is_ok());
    });
}

/// Rows of a first snapshot go straight into their table, and each combination is asked once.
#[test]
fn rows_that_go_straight_in_are_looked_up_on_their_way() {
    block_on(async {
        let site = Site::new("lookups_straight").await;
        files(&site);
        users(
            &site,
            &format!(
                "{}  mark: {{ type: text, lookup: \"select concat(row.id, row.country, r.region) from ref.countries r where r.country = 'JP'\" }}\n",
                looked_up(QUERY)
            ),
        );
        site.shop(TABLES).await;
        site.warehouse.batch_execute(REFERENCE).await.unwrap();
        let running = site.start();
        settled(&site, 1).await;
        assert!(running.stop().await.is_ok());
        // as if it were read for the first time, with its lookups in place
        site.warehouse.batch_execute("drop table cleansed.users").await.unwrap();
        site.shop(
            "insert into users select i, 'u', (array['DE', 'AT', 'JP', 'XX', null])[1 + i % 5] from generate_series(1, 12000) i",
        )
        .await;
        let running = site.start();
        let (code, said) = ask(&site, &["table", "resync", "cleansed.users", "--yes", "--wait"]);
        assert_eq!(code, 0, "{said}");
        let read = "select count(*) = 12000 from cleansed.users";
        site.until("the rows", read).await;
        assert!(running.stop().await.is_ok());
        let wrong = "select count(*) from cleansed.users
            where mark is distinct from concat(id, country, 'Asia') or (region is null) <> (coalesce(country, 'XX') = 'XX')";
        assert_eq!(site.at_warehouse(wrong).await, ["0"]);
        assert_right(&site, "straight").await;
        // nobody had to go through them again
        let written =
            "select n_tup_upd from pg_stat_all_tables where relid = 'cleansed.users'::regclass";
        assert_eq!(site.at_warehouse(written).await, ["0"]);
    });
}

/// Values that an update leaves out (TOASTed ones) are looked up by as they are stored.
#[test]
fn what_did_not_change_is_looked_up_by_as_it_is_stored() {
    block_on(async {
        let site = Site::new("lookups_toast").await;
        files(&site);
        site.shop(TABLES).await;
        site.shop("alter table users alter column country set storage external; alter table orders alter column country set storage external").await;
        site.warehouse.batch_execute(REFERENCE).await.unwrap();
        site.warehouse
            .batch_execute("insert into ref.countries values (repeat('long', 600), 'Far')")
            .await
            .unwrap();
        site.shop_each(&[
            "insert into users values (1, 'u', repeat('long', 600)), (2, 'u', 'DE')",
            "insert into orders values (1, '2024-01-01', repeat('long', 600))",
        ])
        .await;
        let running = site.start();
        settled(&site, 1).await;
        site.shop_each(&[
            "update users set email = 'other' where id = 1",
            "update users set id = 3 where id = 1",
            "update orders set day = '2024-03-01' where id = 1",
        ])
        .await;
        settled(&site, 2).await;
        let far = "select (select string_agg(id || email, '' order by id) from cleansed.users where region = 'Far'),
            (select count(*) from cleansed.dim_users where region = 'Far'), (select day from cleansed.orders where region = 'Far')";
        assert_eq!(site.at_warehouse(far).await, ["3other|3|2024-03-01"]);
        assert_right(&site, "left out").await;
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_lookup_that_comes_changes_and_goes_is_planned_and_made() {
    block_on(async {
        let site = Site::new("lookups_plan").await;
        users(&site, "");
        site.shop(TABLES).await;
        site.shop("insert into users values (1, 'u', 'DE'), (2, 'u', 'JP')").await;
        site.warehouse.batch_execute(REFERENCE).await.unwrap();
        site.catch_up().await;
        let regions = "select id, region from cleansed.users order by id";
        let plan = |words: &'static [&str]| {
            let (code, said) = ask(&site, &["plan", "--exit-code"]);
            assert_eq!(code, 2, "{said}");
            assert!(words.iter().all(|word| said.contains(word)), "{words:?}: {said}");
        };
        users(&site, &looked_up(QUERY));
        plan(&["add column region varchar(100), which is looked up"]);
        let (code, said) = ask(&site, &["apply"]);
        assert_eq!(code, 0, "{said}");
        site.catch_up().await;
        assert_eq!(site.at_warehouse(regions).await, ["1|Europe", "2|Asia"]);
        let (code, said) = ask(&site, &["plan", "--exit-code"]);
        assert_eq!(code, 0, "{said}");
        users(
            &site,
            &looked_up("select upper(region) from ref.countries r where r.country = row.country"),
        );
        plan(&["look region up", "upper(region)"]);
        site.catch_up().await;
        assert_eq!(site.at_warehouse(regions).await, ["1|EUROPE", "2|ASIA"]);
        users(&site, &looked_up("select region from ref.countries r where r.land = row.country"));
        site.catch_up().await;
        let told = "select state, reason like '%land%', remedy like '%schemas/users.yaml%' from audit.lookups";
        assert_eq!(site.at_warehouse(told).await, ["stopped|t|t"]);
        users(&site, "");
        plan(&["look region up no more"]);
        site.catch_up().await;
        let gone = "select count(*) from audit.lookups";
        assert_eq!(site.at_warehouse(gone).await, ["0"]);
        assert_eq!(site.at_warehouse(regions).await, ["1|EUROPE", "2|ASIA"]);
    });
}
