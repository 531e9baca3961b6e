//! Random changes of shape among random changes of rows: each table ends equal to its source, or stops with a
//! remedy that makes it so. What hangs on a warehouse table stays on it.

use tokio_postgres::SimpleQueryMessage;

use crate::support::{Dice, Site, block_on, env, is_full};

/// A type, a value of it for a number, and whether it widens into the next one.
const TYPES: [(&str, &str, bool); 12] = [
    ("int", "(i * 7) % 1000", true),
    ("bigint", "i::bigint * 1000003", false),
    ("varchar(20)", "'v' || i", true),
    ("varchar(60)", "'w' || i", true),
    ("text", "'t' || i", false),
    ("numeric(10,2)", "round(i / 8.0, 2)", true),
    ("numeric(14,2)", "round(i / 4.0, 2)", false),
    ("date", "date '2020-01-01' + i % 3000", false),
    ("timestamptz", "timestamptz '2020-01-01 00:00+00' + i * interval '1 hour'", false),
    ("boolean", "i % 2 = 0", false),
    ("uuid", "md5(i::text)::uuid", false),
    ("jsonb", "jsonb_build_object('i', i)", false),
];
const TEXT: usize = 4;

const NAMES: [&str; 8] = ["a", "b", "c", "\"D\"", "\"e f\"", "\"g\"\"h\"", "\"select\"", "ü"];

struct Table {
    name: String,
    columns: Vec<(&'static str, usize)>,
    next: u64,
}

impl Table {
    fn unused(&self, dice: &mut Dice) -> Option<&'static str> {
        let free: Vec<_> =
            NAMES.iter().filter(|name| !self.columns.iter().any(|(n, _)| n == *name)).collect();
        (!free.is_empty()).then(|| *free[pick(dice, free.len())])
    }

    /// A change of shape, and the columns behind it.
    fn alter(&self, dice: &mut Dice) -> Option<(String, Vec<(&'static str, usize)>)> {
        let (t, mut columns) = (&self.name, self.columns.clone());
        let ty = pick(dice, TYPES.len());
        let (name, value, _) = TYPES[ty];
        let constant = value.replace('i', "5").replace("5nterval", "interval");
        let constant = constant.replace("t5mestamptz", "timestamptz").replace("uu5d", "uuid");
        let constant = constant.replace("b5g5nt", "bigint").replace("bu5ld", "build");
        let at = (!columns.is_empty()).then(|| pick(dice, columns.len()));
        let statement = match dice.below(19) {
            0..=2 => {
                let new = self.unused(dice)?;
                columns.push((new, ty));
                format!("alter table {t} add {new} {name}")
            }
            3 => {
                let new = self.unused(dice)?;
                columns.push((new, ty));
                let required = if dice.one_in(2) { "not null" } else { "" };
                format!("alter table {t} add {new} {name} {required} default {constant}")
            }
            4 => {
                let new = self.unused(dice)?;
                columns.push((new, 10));
                format!("alter table {t} add {new} uuid default gen_random_uuid()")
            }
            5 | 6 => {
                let (old, _) = columns.remove(at?);
                format!("alter table {t} drop {old}")
            }
            7 | 8 => {
                let new = self.unused(dice)?;
                let old = std::mem::replace(&mut columns[at?].0, new);
                format!("alter table {t} rename {old} to {new}")
            }
            9 | 10 => {
                let column = &mut columns[at?];
                if !TYPES[column.1].2 {
                    return None;
                }
                column.1 += 1;
                format!("alter table {t} alter {} type {}", column.0, TYPES[column.1].0)
            }
            11 => {
                let column = &mut columns[at?];
                let was = std::mem::replace(&mut column.1, TEXT);
                if was == TEXT {
                    column.1 = 0;
                    format!("alter table {t} alter {0} type int using length({0})", column.0)
                } else {
                    format!("alter table {t} alter {0} type text using {0}::text", column.0)
                }
            }
            12 => {
                let whole = if dice.one_in(2) { "full" } else { "default" };
                format!("alter table {t} replica identity {whole}")
            }
            13 => format!("vacuum full {t}"),
            14 => {
                // another column of that name
                let column = &mut columns[at?];
                column.1 = ty;
                let of = column.0;
                format!("begin; alter table {t} drop {of}; alter table {t} add {of} {name}; commit")
            }
            15 if columns.len() > 1 => {
                let (x, y) = (columns[0].0, columns[1].0);
                (columns[0].0, columns[1].0) = (y, x);
                format!(
                    "begin; alter table {t} rename {x} to swap; alter table {t} rename {y} to {x}; \
                     alter table {t} rename swap to {y}; commit"
                )
            }
            16 if dice.one_in(2) => format!(
                "begin; alter table {t} add undone int default 7; update {t} set keep = 'undone'; \
                 rollback"
            ),
            16 => {
                let key = if dice.one_in(2) { "id, keep" } else { "id" };
                format!("alter table {t} drop constraint {t}_pkey, add primary key ({key})")
            }
            _ => {
                columns.clear();
                format!(
                    "begin; drop table {t}; {}; insert into {t} select i, 'again' || i \
                     from generate_series(1, 50) i; commit",
                    create(t)
                )
            }
        };
        Some((statement, columns))
    }

    /// A change of rows.
    fn change(&mut self, dice: &mut Dice) -> String {
        let t = &self.name;
        let (part, salt) = (2 + dice.below(30), dice.below(100_000));
        let rest = dice.below(part);
        let names: String = self.columns.iter().map(|(name, _)| format!(", {name}")).collect();
        let values: String =
            self.columns.iter().map(|(_, ty)| format!(", {}", TYPES[*ty].1)).collect();
        match dice.below(8) {
            0..=3 => {
                let (from, until) = (self.next, self.next + dice.below(60));
                self.next = until + 1;
                format!(
                    "insert into {t} (id, keep{names}) select i, 'k' || i{values} \
                     from generate_series({from}, {until}) i on conflict do nothing"
                )
            }
            4 | 5 if !self.columns.is_empty() => {
                let (name, ty) = self.columns[pick(dice, self.columns.len())];
                let value = TYPES[ty].1;
                format!(
                    "update {t} set {name} = v.v from (select id, ({value}) as v \
                     from (select id, (id + {salt}) % 100000 as i from {t}) x) v \
                     where v.id = {t}.id and {t}.id % {part} = {rest}"
                )
            }
            6 => format!("delete from {t} where id % 100 = {rest}"),
            _ => format!("update {t} set id = id + 1000000 where id = {}", dice.below(self.next)),
        }
    }
}

fn pick(dice: &mut Dice, limit: usize) -> usize {
    usize::try_from(dice.below(limit as u64)).unwrap()
}

fn count(answer: &SimpleQueryMessage) -> u64 {
    match answer {
        SimpleQueryMessage::CommandComplete(rows) => *rows,
        _ => 0,
    }
}

fn create(table: &str) -> String {
    format!("create table {table} (id bigint primary key, keep text not null)")
}

/// Does what the remedies of stopped tables say; returns how many there were.
async fn heal(site: &Site) -> usize {
    let stopped =
        "select table_name || ': ' || coalesce(reason, '') || ': ' || coalesce(remedy, '')
                     from audit.tables where state = 'stopped'";
    let stopped = site.at_warehouse(stopped).await;
    for told in &stopped {
        let table = told.split(':').next().unwrap();
        let resync = format!("table resync {table}");
        let command = match told.rsplit_once("siltstone ") {
            Some((_, command)) => command,
            // a declared key that is not the source's any more: here the source gives way
            None => {
                assert!(told.contains("is not the key of"), "{told}");
                let key = "alter table t0 drop constraint t0_pkey, add primary key (id)";
                site.shop(key).await;
                &resync
            }
        };
        let mut words: Vec<&str> = command.split_whitespace().collect();
        words.push("--yes");
        let asked = site.command(&words).output().unwrap();
        assert!(asked.status.success(), "{told}: {asked:?}");
    }
    stopped.len()
}

#[test]
fn random_changes_of_shape_end_equal_or_with_a_remedy_that_works() {
    block_on(async {
        let site = Site::new("alters").await;
        let seed = env()
            .get("SILTSTONE_SEED")
            .and_then(|seed| seed.parse().ok())
            .unwrap_or_else(|| u64::from(std::time::UNIX_EPOCH.elapsed().unwrap().subsec_nanos()));
        println!("SILTSTONE_SEED={seed}");
        let mut dice = Dice::new(seed);
        let (alters, between, rows) = if is_full() { (110, 16, 50_000) } else { (40, 8, 1_000) };
        let mut tables: Vec<Table> = Vec::new();
        for name in ["t0", "t1", "t2"] {
            site.shop(&create(name)).await;
            tables.push(Table { name: name.to_owned(), columns: Vec::new(), next: 1 });
        }
        site.file(
            "schemas/dim.yaml",
            "table: cleansed.dim\nfrom: shop.public.t0\nhistory: versions\nkey: [id]\n\
             columns:\n  id: { type: bigint }\n  keep: { type: text }\n",
        );
        site.file(
            "schemas/t0.yaml",
            "table: cleansed.t0\nfrom: shop.public.t0\nkey: [id]\n\
             columns:\n  id: { type: bigint }\n  keep: { type: text }\n",
        );
        site.catch_up().await;
        site.warehouse
            .batch_execute(
                "do $$ begin create role alters_reader; exception when duplicate_object then end $$;
                 create view cleansed.seen as select id, keep from cleansed.t1;
                 grant select on cleansed.t1 to alters_reader;
                 comment on table cleansed.t1 is 'ours'",
            )
            .await
            .unwrap();
        let standing =
            "select 'cleansed.t1'::regclass::oid::text || obj_description('cleansed.t1'::regclass)
            || has_table_privilege('alters_reader', 'cleansed.t1', 'select')";
        let before = site.at_warehouse(standing).await;
        let mut running = site.start();
        let (mut done, mut history, mut stops) = (0, Vec::new(), 0);
        let mut changed = 0;
        while done < alters || changed < rows {
            for _ in 0..between {
                let at = pick(&mut dice, tables.len());
                let change = tables[at].change(&mut dice);
                // a value may be beyond its column, or a column of the key
                if let Ok(answers) = site.source.simple_query(&change).await {
                    changed += answers.iter().map(count).sum::<u64>();
                    history.push(change);
                }
            }
            let at = pick(&mut dice, tables.len());
            if let Some((statement, columns)) = tables[at].alter(&mut dice) {
                match site.source.batch_execute(&statement).await {
                    Ok(()) => {
                        history.push(statement);
                        tables[at].columns = columns;
                        done += 1;
                    }
                    Err(_) => site.source.batch_execute("rollback").await.unwrap(),
                }
            }
            if dice.one_in(12) {
                running.stop().await.unwrap();
                running = site.start();
            }
            if dice.one_in(6) {
                stops += heal(&site).await;
            }
        }
        running.stop().await.unwrap();
        let mut rounds = 0;
        loop {
            site.catch_up().await;
            let healed = heal(&site).await;
            if healed == 0 {
                break;
            }
            (stops, rounds) = (stops + healed, rounds + 1);
            assert!(
                rounds < 5,
                "remedies that do not help: {:#?}",
                site.at_warehouse("select t from audit.tables t").await
            );
        }
        let rows = site.at_source("select count(*) from t1").await;
        println!(
            "{done} changes of shape, {changed} of rows by {} statements, {stops} stops, {rows:?} rows",
            history.len()
        );
        for table in &tables {
            let t = &table.name;
            let declared = t == "t0";
            let names: String = table.columns.iter().map(|(name, _)| format!(", {name}")).collect();
            let names = if declared { "" } else { &names };
            let query = format!("select id, keep{names} from {{}} order by id, keep");
            site.assert_equal(&query, t, &format!("cleansed.{t}")).await;
        }
        let rows = "select id, keep from {} order by id, keep";
        site.assert_equal(rows, "t0", "cleansed.dim_current").await;
        let overlaps =
            "select id from (select id, valid_to > lead(valid_from) over (partition by id
            order by valid_from) as twice from cleansed.dim) v where twice";
        assert_eq!(site.at_warehouse(overlaps).await, Vec::<String>::new());
        assert_eq!(site.at_warehouse("select count(*) from audit.pending").await, ["0"]);
        assert_eq!(site.at_warehouse(standing).await, before);
        site.assert_equal("select id, keep from {} order by id", "t1", "cleansed.seen").await;
    });
}
