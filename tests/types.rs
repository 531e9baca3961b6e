//! Every type arrives as it is: by snapshot, insert, update and delete, in merged and in raw tables, as a
//! column and as a key, whatever the databases' own settings are.

use std::fmt::Write;
use std::process::Stdio;

use siltstone::types::Builtin;

use crate::jobs::{ask, job};
use crate::support::{Site, block_on};

/// A type and values of it, each an SQL expression that is assigned to a column of the type.
type Kind = (&'static str, &'static [&'static str]);

/// Types that may travel in binary form; `Builtin::all` is among them.
const BINARY: &[Kind] = &[
    ("bool", &["true", "false"]),
    (
        "bytea",
        &[
            "''",
            r"'\x00ff5c27220a'",
            "(select string_agg(set_byte('\\x00', 0, i), '') from generate_series(0, 255) i)",
        ],
    ),
    ("\"char\"", &["'a'", "''", "' '", "'\\'"]),
    ("name", &["'n'", "repeat('x', 63)", "''"]),
    ("int8", &["-9223372036854775808", "9223372036854775807", "0"]),
    ("int2", &["-32768", "32767", "0"]),
    ("int4", &["-2147483648", "2147483647", "0"]),
    (
        "text",
        &[
            "''",
            "' '",
            r"E'\t\n\r\b\f\\\x01\x1f\x7f'",
            r"'\N'",
            r"'\.'",
            "'NULL'",
            "'null'",
            r#"'"{},'''"#,
            "'😀 é ü \u{feff}\u{2028}'",
            "repeat('long ', 20000)",
        ],
    ),
    ("oid", &["0", "4294967295"]),
    ("json", &[r#"'{"a":  1, "a": 2}'"#, r#"'"\u0000"'"#, "'null'", "'1.10'", r#"' [1] '"#]),
    (
        "xml",
        &[
            "'<a/>'",
            "'text &amp; <b>c</b>'",
            "'<?xml version=\"1.0\" encoding=\"UTF-8\"?><a>é</a>'",
            "'<?xml version=\"1.0\" standalone=\"yes\"?><a/>'",
            "''",
        ],
    ),
    ("json[]", &[r#"array['{"a": 1}', null, '"\\"']::json[]"#]),
    ("cidr", &["'10.0.0.0/8'", "'::/0'", "'1.2.3.4/32'", "'::ffff:1.2.3.4/128'"]),
    (
        "float4",
        &[
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'-0'",
            "'1e-45'",
            "'3.4028235e38'",
            "1e6",
            "123456",
            "0.0001",
            "0.00001",
            "33554430",
            "8.5899345e9",
        ],
    ),
    (
        "float8",
        &[
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "'-0'",
            "'5e-324'",
            "'1.7976931348623157e308'",
            "1e15",
            "123456789012345",
            "0.1",
            "1e23",
            "2.2250738585072014e-308",
            "9007199254740993",
        ],
    ),
    ("macaddr", &["'08:00:2b:01:02:03'"]),
    (
        "inet",
        &[
            "'::1/64'",
            "'192.168.1.1'",
            "'1.2.3.4/0'",
            "'::1.2.3.4'",
            "'::ffff:0:0'",
            "'1::2:0:0:3'",
            "'1:0:0:2::'",
            "'::'",
        ],
    ),
    ("bool[]", &["'{t,NULL,f}'"]),
    ("bytea[]", &[r#"array['\x00', null, '']::bytea[]"#]),
    ("int2[]", &["'{1,NULL,-1}'", "'{}'"]),
    (
        "int4[]",
        &["'{{1,NULL},{3,4}}'", "'[0:1][-3:-2]={{1,2},{3,4}}'", "'{}'", "'[5:5]={7}'", "'{NULL}'"],
    ),
    (
        "text[]",
        &[
            r#"array['', 'NULL', 'null', null, ' ', 'a b', '"', '\', '{}', ',', E'\t\n\x0b', 'ü']"#,
            "'{}'",
            "'[2:3]={a,b}'",
            "'{{{a}},{{b}}}'",
        ],
    ),
    ("bpchar[]", &["array['a ', null]::bpchar[]"]),
    ("varchar[]", &["'{a,NULL}'"]),
    ("int8[]", &["'{-9223372036854775808,NULL}'"]),
    ("float4[]", &["'{NaN,-0,NULL,1e-45}'"]),
    ("float8[]", &["'{Infinity,-0,NULL,1e23}'"]),
    ("inet[]", &["'{::1,1.2.3.4/8,NULL}'"]),
    ("bpchar", &["'a  '", "''", "'  '"]),
    ("varchar", &["'a  '", "''"]),
    (
        "date",
        &[
            "'infinity'",
            "'-infinity'",
            "'0044-03-15 BC'",
            "'4714-11-24 BC'",
            "'5874897-12-31'",
            "'0001-01-01'",
            "'2024-02-29'",
            "'10000-01-01'",
        ],
    ),
    ("time", &["'24:00'", "'00:00'", "'12:34:56.000001'"]),
    (
        "timestamp",
        &[
            "'infinity'",
            "'-infinity'",
            "'4714-11-24 00:00 BC'",
            "'294276-12-31 23:59:59.999999'",
            "'1969-12-31 23:59:59.9'",
            "'0001-12-31 12:00 BC'",
        ],
    ),
    ("timestamp[]", &["'{infinity,NULL,2024-01-01}'"]),
    ("date[]", &["'{infinity,0044-03-15 BC,NULL}'"]),
    ("time[]", &["'{24:00,NULL}'"]),
    (
        "timestamptz",
        &[
            "'infinity'",
            "'-infinity'",
            "'4713-01-01 00:00+00 BC'",
            "'294276-12-31 23:59:59.999999+00'",
            "'2024-06-01 12:00+05:45'",
        ],
    ),
    ("timestamptz[]", &["'{-infinity,NULL,2024-01-01 00:00+00}'"]),
    (
        "interval",
        &[
            "'0'",
            "'178000000 years'",
            "'-178000000 years'",
            "'1 year -2 mons +3 days -04:05:06.789'",
            "'-1 mons +1 day'",
            "'-00:00:00.000001'",
            "'2562047788:00:54.775807'",
            "'1 day 00:00:01'",
            "'-1 year -1 mon -1 day'",
        ],
    ),
    ("interval[]", &["'{1 day,NULL,-1 mon}'"]),
    ("numeric[]", &["'{1.00,NaN,Infinity,NULL}'"]),
    ("timetz", &["'12:00:00.000001+15:59:59'", "'24:00-15:59'", "'00:00+00'", "'01:02:03-00:30'"]),
    ("bit", &["'1'", "'0'"]),
    ("varbit", &["''", "'1'", "'101010101'", "'00000000'"]),
    (
        "numeric",
        &[
            "'NaN'",
            "'Infinity'",
            "'-Infinity'",
            "0",
            "0.000",
            "1.10",
            "-0.0001",
            "10000",
            "100000000.00000001",
            "repeat('9', 16383)::numeric",
            "('0.' || repeat('7', 16383))::numeric",
            "('1' || repeat('0', 131071))::numeric",
            "12345678901234567890.123456789",
        ],
    ),
    ("uuid", &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"]),
    ("uuid[]", &["'{00000000-0000-0000-0000-000000000000,NULL}'"]),
    ("jsonb", &[r#"'{"b": null, "a": [1.10, "\u00fc\\"]}'"#, "'null'", "'1e400'", r#"'"\""'"#]),
    ("jsonb[]", &[r#"array['{"a": "b"}', null, 'null']::jsonb[]"#]),
    // with modifiers
    ("char(5)", &["'c'", "'é'", "''"]),
    ("varchar(20)", &["'v'"]),
    ("numeric(10,2)", &["1.1", "-99999999.99", "'NaN'"]),
    ("numeric(3,-2)", &["12345"]),
    ("bit(11)", &["b'10101010101'"]),
    ("timestamptz(0)", &["'2024-06-01 12:00:00.7+00'"]),
    ("interval(3)", &["'1.2345 s'"]),
    ("numeric(8,3)[]", &["'{1.5,NULL}'"]),
    // user types that travel as something else
    ("mood", &["'sad'", "'it''s \"ok\"'"]),
    ("cents", &["5"]),
    ("codes", &["'{a,b}'"]),
    ("moody", &["'sad'"]),
];

/// Types that travel as text, and the whole connector with them.
const TEXT: &[Kind] = &[
    ("oid[]", &["'{0,4294967295,NULL}'"]),
    ("name[]", &["'{a,NULL}'"]),
    ("\"char\"[]", &["array['a', null, '']::\"char\"[]"]),
    ("cidr[]", &["'{10.0.0.0/8,NULL}'"]),
    ("macaddr[]", &["'{08:00:2b:01:02:03}'"]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"]),
    ("timetz[]", &["'{24:00-15:59,NULL}'"]),
    ("bit(3)[]", &["'{101,NULL}'"]),
    ("varbit[]", &["array['', '1', null]::varbit[]"]),
    ("xml[]", &["array['<a/>', null]::xml[]"]),
    ("money", &["'-92233720368547758.08'::numeric::money", "1234.5::numeric::money"]),
    ("money[]", &["array[1234.5::numeric::money, null]"]),
    ("tsvector", &["'a:1A fat:2B,4C ''it''''s'''", "''"]),
    ("tsquery", &["'fat & (rat | !cat) & sup:ab*'", "''"]),
    ("jsonpath", &["'$.a[*] ? (@ > 1.0)'", "'strict $'"]),
    ("pg_lsn", &["'0/0'", "'FFFFFFFF/FFFFFFFF'"]),
    ("xid", &["'4294967295'"]),
    ("xid8", &["'18446744073709551615'"]),
    ("cid", &["'7'"]),
    ("tid", &["'(4294967295,65535)'"]),
    ("txid_snapshot", &["'10:20:10,14,15'"]),
    ("pg_snapshot", &["'10:20:10,14,15'"]),
    ("int2vector", &["'1 2 3'"]),
    ("oidvector", &["'1 2 3'", "''"]),
    ("regclass", &["'public.wide'::regclass", "'pg_class'", "0"]),
    ("regtype", &["'public.mood'::regtype", "'int4'"]),
    ("point", &["'(1,-0)'", "'(NaN,Infinity)'"]),
    ("line", &["'{1,2,3}'"]),
    ("lseg", &["'[(1,2),(3,4)]'"]),
    ("box", &["'(3,4),(1,2)'"]),
    ("box[]", &["'{(3,4),(1,2);(1,1),(0,0)}'"]),
    ("path", &["'[(1,2),(3,4)]'", "'((1,2),(3,4))'"]),
    ("polygon", &["'((1,2),(3,4),(5,6))'"]),
    ("circle", &["'<(1,2),0.1>'"]),
    ("int4range", &["'[1,5)'", "'empty'", "'(,)'"]),
    ("int8range", &["'(1,5]'"]),
    ("numrange", &["'[1.0,2.00)'", "'(,NaN]'"]),
    ("daterange", &["'[2024-01-01,infinity)'"]),
    ("tsrange", &["'[2024-01-01 00:00,2024-01-02 00:00]'"]),
    ("tstzrange", &["'[2024-01-01 00:00+00,)'"]),
    ("int4range[]", &["array['[1,5)', null, 'empty']::int4range[]"]),
    ("int4multirange", &["'{[1,3),[5,7)}'", "'{}'"]),
    ("nummultirange", &["'{[1.0,2.00),[3,)}'"]),
    ("tstzmultirange", &["'{[2024-01-01 00:00+00,2024-02-01 00:00+00)}'"]),
    ("refcursor", &["'c'"]),
    (
        "pair",
        &[
            "row(1, 'x y')::pair",
            "row(1, null)::pair",
            "row(null, null)::pair",
            "row(null, '')::pair",
            r#"row(1, '"\ ,()')::pair"#,
        ],
    ),
    ("pair[]", &["array[row(1, null)::pair, null, row(null, null)::pair]"]),
    ("mood[]", &["'{sad,NULL}'", "'{}'"]),
    ("cents[]", &["'{5,NULL}'"]),
    ("span", &["span(0.1::float8, 2)", "'empty'"]),
    (
        "spanned",
        &[
            "row(span(1, 2), '2024-06-01 12:00+00', '1 mon -1 day', '\\x00', 12.5::numeric::money)::spanned",
        ],
    ),
    ("citext", &["'Text'", "''"]),
    ("citext[]", &["'{A,NULL}'"]),
    ("hstore", &[r#"'a=>1, "b c"=>NULL, "\""=>""'"#, "''"]),
    ("ltree", &["'Top.Science.Maths'"]),
];

const USER_TYPES: &str = r#"
create type mood as enum ('sad', 'ok', 'it''s "ok"'); create type pair as (a int, b text);
create domain cents as int check (value >= 0); create domain codes as varchar(3)[];
create domain moody as mood; create type span as range (subtype = float8);
create type spanned as (r span, t timestamptz, i interval, b bytea, m money);
"#;

/// Settings of a database that change how values are read and written.
async fn odd_settings(site: &Site) {
    for (side, database) in [(&site.source, "shop"), (&site.warehouse, "warehouse")] {
        for setting in [
            "datestyle = 'German, DMY'",
            "timezone = 'Asia/Kolkata'",
            "bytea_output = 'escape'",
            "intervalstyle = 'sql_standard'",
            "extra_float_digits = -3",
            "xmloption = document",
            "xmlbinary = 'hex'",
            "array_nulls = off",
            "standard_conforming_strings = off",
            "default_text_search_config = 'simple'",
        ] {
            let name = format!("{}_{database}", site.name);
            side.batch_execute(&format!("alter database {name} set {setting}")).await.unwrap();
        }
        // where the machine has such a locale
        let monetary = "alter database {} set lc_monetary = 'de_DE.utf8'";
        let monetary = monetary.replace("{}", &format!("{}_{database}", site.name));
        drop(side.batch_execute(&monetary).await);
    }
}

/// What a type's output function writes; a composite with a null field is not `is not null`.
fn shown(column: &str) -> String {
    format!("case when {column} is distinct from null then format('%s', {column}) end")
}

struct Wide {
    kinds: Vec<Kind>,
    rows: usize,
}

impl Wide {
    fn new(kinds: Vec<Kind>) -> Wide {
        let rows = kinds.iter().map(|(_, values)| values.len()).max().unwrap();
        Wide { kinds, rows }
    }

    fn define(&self, table: &str, key: &str) -> String {
        let mut text = format!("create table {table} (id int {key}, n int, big text");
        for (at, (ty, _)) in self.kinds.iter().enumerate() {
            let _infallible = write!(text, ", c{at} {ty}");
        }
        format!("{text}); alter table {table} alter big set storage external;")
    }

    /// Rows in which every type has all its values, and one of NULLs.
    fn insert(&self, table: &str, first: usize) -> String {
        let mut text = format!("insert into {table} (id) values ({first});");
        for row in 0..self.rows {
            let id = first + 1 + row;
            let _infallible =
                write!(text, "insert into {table} values ({id}, 0, repeat('b{id}', 20000)");
            for (_, values) in &self.kinds {
                let _infallible = write!(text, ", {}", values[row % values.len()]);
            }
            text.push_str(");");
        }
        text
    }

    async fn assert_mirrored(&self, site: &Site, table: &str, when: &str) {
        for (at, (ty, _)) in self.kinds.iter().enumerate() {
            let there = format!(
                "select id, {} from public.{table} order by 1, 2",
                shown(&format!("c{at}"))
            );
            let here = there.replace("public.", "cleansed.");
            self.compare(site, &there, &here, &format!("{ty} in {table}, {when}")).await;
        }
        let rest = format!("select id, n, md5(big) from public.{table} order by 1, 2, 3");
        self.compare(site, &rest, &rest.replace("public.", "cleansed."), when).await;
    }

    /// The newest event of each row that carries a column has the column's text.
    async fn assert_raw(&self, site: &Site, table: &str, when: &str) {
        for (at, (ty, _)) in self.kinds.iter().enumerate() {
            let there =
                format!("select id, {} from public.{table} order by 1", shown(&format!("c{at}")));
            let here = format!(
                "select distinct on (1) (raw_data->'after'->>'id')::int, raw_data->'after'->>'c{at}'
                   from raw.{table} where raw_data->'after' ? 'c{at}'
                   and (raw_data->'after'->>'id')::int in (select (raw_data->'key'->>'id')::int
                          from raw.{table} group by 1 having bool_and(raw_data->>'op' <> 'd'))
                  order by 1, id desc"
            );
            self.compare(site, &there, &here, &format!("raw {ty} in {table}, {when}")).await;
        }
    }

    async fn compare(&self, site: &Site, there: &str, here: &str, what: &str) {
        let cut = |line: &String| line.chars().take(300).collect::<String>();
        let (there, here) = (site.at_source(there).await, site.at_warehouse(here).await);
        assert_eq!(there.len(), here.len(), "rows: {what}");
        for (there, here) in there.iter().zip(&here) {
            assert!(there == here, "{what}: {} at the source, {} here", cut(there), cut(here));
        }
    }
}

/// All names as the replicating sessions see them.
const NO_PATH: &str = "set search_path to pg_catalog, pg_temp";
const PATH: &str = "set search_path to public";

async fn every_way(name: &str, wide: Wide) {
    let site = Site::new(name).await;
    odd_settings(&site).await;
    site.file("schemas/raw.yaml", "table: raw.events\nfrom: shop.public.events\nlayout: raw\n");
    let extensions = "create extension citext; create extension ltree";
    site.shop(&format!("{extensions}; create extension hstore; {USER_TYPES}")).await;
    site.warehouse.batch_execute(extensions).await.unwrap();
    let tables = [("wide", "primary key"), ("events", "primary key"), ("bag", "")];
    for (table, key) in tables {
        site.shop(&wide.define(table, key)).await;
    }
    site.shop("alter table bag replica identity full").await;
    for (table, _) in tables {
        site.shop(&wide.insert(table, 0)).await;
    }
    site.catch_up().await;
    let check = async |when: &str| {
        site.shop(NO_PATH).await;
        wide.assert_mirrored(&site, "wide", when).await;
        wide.assert_mirrored(&site, "bag", when).await;
        wide.assert_raw(&site, "events", when).await;
        site.shop(PATH).await;
    };
    check("read by the snapshot").await;
    for (table, _) in tables {
        site.shop(&wide.insert(table, 1000)).await;
    }
    site.catch_up().await;
    check("inserted").await;
    for (table, _) in tables {
        site.shop(&format!("update {table} set n = n + 1")).await;
    }
    site.catch_up().await;
    check("updated").await;
    for table in ["wide", "bag"] {
        site.shop(&format!("update {table} set id = id + 5000 where id % 3 = 0")).await;
    }
    for (table, _) in tables {
        site.shop(&format!("delete from {table} where id % 4 = 1")).await;
    }
    site.catch_up().await;
    check("moved and deleted").await;
    assert_verified(&site).await;
}

async fn assert_verified(site: &Site) {
    let running = site.start();
    let output = site.command(&["verify"]).stdout(Stdio::piped()).stderr(Stdio::piped()).output();
    let output = output.unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("PASSED"), "{text}");
    assert!(running.stop().await.is_ok());
}

#[test]
fn every_binary_type_in_every_way() {
    let plain = |name: &str| {
        let arrays = name.strip_prefix('_').map(|element| format!("{element}[]"));
        arrays.unwrap_or(name.to_owned())
    };
    for known in Builtin::all() {
        let tested = |(ty, _): &Kind| ty.trim_matches('"') == plain(known.name);
        assert!(BINARY.iter().any(tested), "{} has no values here", known.name);
    }
    block_on(every_way("binary", Wide::new(BINARY.to_vec())));
}

#[test]
fn every_type_as_text_in_every_way() {
    block_on(every_way("astext", Wide::new([BINARY, TEXT].concat())));
}

/// Every type as an extract brings it, beside the stream: the same rows in the table and in raw.
#[test]
fn every_type_as_an_extract_brings_it() {
    block_on(async {
        let wide = Wide::new([BINARY, TEXT].concat());
        let site = Site::new("extracted").await;
        odd_settings(&site).await;
        let extensions = "create extension citext; create extension ltree";
        site.shop(&format!("{extensions}; create extension hstore; {USER_TYPES}")).await;
        site.warehouse.batch_execute(extensions).await.unwrap();
        // two alike: one is mirrored, one is kept in raw
        for table in ["wide", "events"] {
            site.shop(&wide.define(table, "primary key")).await;
            site.shop(&wide.insert(table, 0)).await;
        }
        site.file("schemas/raw.yaml", "table: raw.events\nfrom: shop.public.events\nlayout: raw\n");
        site.catch_up().await;
        let columns = "select quote_ident(attname), format_type(atttypid, atttypmod) from pg_attribute
                        where attrelid = 'cleansed.wide'::regclass and attnum > 0 and attname not like '\\_%'";
        let mut declared =
            "table: cleansed.brought\nfrom: copy.public.wide\nkey: [id]\ncolumns:\n".to_owned();
        for column in site.at_warehouse(columns).await {
            let (name, ty) = column.split_once('|').unwrap();
            // which no file can name
            let ty = if ty.contains('"') { ty.replace("\"char\"", "text") } else { ty.to_owned() };
            let _infallible = writeln!(declared, "  {name}: {{ type: '{ty}' }}");
        }
        site.file("schemas/brought.yaml", &declared);
        site.file(
            "schemas/copied.yaml",
            "table: raw.copied\nfrom: copy.public.wide\nlayout: raw\n",
        );
        site.file(
            "connectors/copy.yaml",
            "name: copy\nkind: postgres\nslot: none\nurl: \"${SHOP_URL}\"\ntables: [public.wide]\n",
        );
        job(
            &site,
            "etl",
            "schedule: { cron: \"0 2 * * *\", interval: day }",
            "  extract: { extract: copy.public.wide, into: raw.copied, retries: 0 }
  load:    { load: cleansed.brought, depends_on: [extract], retries: 0 }",
        );
        let running = site.start();
        let (said, code) = ask(&site, &["run", "etl", "--date", "2024-03-10", "--wait"]).await;
        let why = site.at_warehouse("select error_message from audit.etl_logs").await;
        assert_eq!(code, 0, "{said} {why:?}");
        assert!(running.stop().await.is_ok());
        site.shop(NO_PATH).await;
        wide.assert_mirrored(&site, "wide", "by the stream").await;
        for (at, (ty, _)) in wide.kinds.iter().enumerate() {
            let streamed =
                format!("select id, {} from cleansed.wide order by 1", shown(&format!("c{at}")));
            let brought = streamed.replace("cleansed.wide", "cleansed.brought");
            let (streamed, brought) =
                (site.at_warehouse(&streamed).await, site.at_warehouse(&brought).await);
            assert!(streamed == brought, "{ty} in the table");
            let streamed = format!(
                "select raw_data->'key', raw_data->'after'->'c{at}' from raw.events order by 1, id"
            );
            let brought = streamed.replace("raw.events", "raw.copied");
            let (streamed, brought) =
                (site.at_warehouse(&streamed).await, site.at_warehouse(&brought).await);
            assert!(streamed == brought, "{ty} in raw");
        }
    });
}

/// Key types with values of which each two neighbours are different keys, and pairs of equal keys that
/// are written differently.
type Key = (&'static str, &'static [&'static str], &'static [(&'static str, &'static str)]);

const BINARY_KEYS: &[Key] = &[
    ("numeric", &["'NaN'", "0", "-5", "'Infinity'"], &[("1.0", "1.00"), ("20", "20.000")]),
    ("numeric(6,2)", &["7", "8.10"], &[]),
    ("float8", &["'NaN'", "1e23", "'-Infinity'"], &[("'-0'", "0")]),
    ("float4", &["'NaN'", "1.5"], &[("0", "'-0'")]),
    ("char(4)", &["'a'", "'ab'", "''"], &[]),
    ("bpchar", &["'x'", "'y '"], &[("'a'", "'a  '")]),
    ("text", &["''", "'a'", "'A'", "'é'", "E'e\\u0301'"], &[]),
    ("varchar(9) collate \"C\"", &["'b'", "'B'"], &[]),
    ("text collate nocase", &["'x'", "'y'"], &[("'a'", "'A'")]),
    ("timestamptz", &["'infinity'", "'4713-01-01 00:00+00 BC'", "'2024-01-01 00:00+00'"], &[]),
    ("date", &["'-infinity'", "'2024-02-29'"], &[]),
    ("interval", &["'1 day'", "'-1 s'"], &[("'1 mon'", "'30 days'")]),
    ("timetz", &["'12:00+01'", "'11:00+00'"], &[]),
    ("bytea", &["''", r"'\x00'", r"'\x0000ff5c'"], &[]),
    (
        "uuid",
        &["'00000000-0000-0000-0000-000000000000'", "'ffffffff-ffff-ffff-ffff-ffffffffffff'"],
        &[],
    ),
    ("mood", &["'sad'", "'it''s \"ok\"'"], &[]),
    ("cents", &["0", "5"], &[]),
    ("bool", &["true", "false"], &[]),
    ("\"char\"", &["'a'", "''"], &[]),
    ("name", &["'a'", "'B'"], &[]),
    ("inet", &["'1.2.3.4'", "'1.2.3.4/8'", "'::1'"], &[]),
    ("varbit", &["''", "'1'", "'10'"], &[]),
    ("jsonb", &["'null'", "'{\"a\": 1}'"], &[("'1.0'", "'1.00'")]),
    ("numeric[]", &["'{}'", "'{NULL}'"], &[("'{1.0,2}'", "'{1.00,2}'")]),
    ("text[]", &["'{}'", "'{a,NULL}'", "'{\"\"}'"], &[]),
];

const TEXT_KEYS: &[Key] = &[
    ("citext", &["''", "'b'"], &[("'a'", "'A'")]),
    ("ltree", &["'a.b'", "'a'"], &[]),
    ("money", &["'-1'::numeric::money", "1234.5::numeric::money"], &[]),
    ("pg_lsn", &["'0/0'", "'1/A'"], &[]),
    ("int4range", &["'empty'", "'[1,2)'"], &[]),
    ("numrange", &["'empty'"], &[("'[1.0,2)'", "'[1.00,2.0)'")]),
    ("pair", &["row(1, null)::pair", "row(null, null)::pair", "row(1, 'a b')::pair"], &[]),
    ("mood[]", &["'{}'", "'{sad,ok}'"], &[]),
    ("tsvector", &["'a:1'", "''"], &[]),
    ("macaddr8", &["'08:00:2b:01:02:03:04:05'"], &[]),
];

/// Changes of a table's key from one value to an equal one.
type Round = fn(&str, (&str, &str)) -> String;

async fn keys(name: &str, keys: Vec<Key>) {
    let site = Site::new(name).await;
    odd_settings(&site).await;
    let extensions = "create extension citext; create extension ltree";
    site.shop(&format!(
        "{extensions}; {USER_TYPES} create collation nocase (provider = icu, \
         locale = 'und-u-ks-level2', deterministic = false)"
    ))
    .await;
    site.warehouse.batch_execute(extensions).await.unwrap();
    for (at, (ty, values, pairs)) in keys.iter().enumerate() {
        let (m, h) = (format!("m{at}"), format!("h{at}"));
        // in the versions table as in the warehouse: text where it does not know the type
        let base = ty.split(" collate").next().unwrap();
        let as_text = ["mood", "pair", "mood[]", "\"char\""].contains(&base);
        let stored = if as_text { "text" } else { base }.replace("cents", "int4");
        site.file(
            &format!("schemas/{h}.yaml"),
            &format!(
                "table: cleansed.{h}\nfrom: shop.public.{h}\nhistory: versions\nkey: [k]\ntrack: [v]\n\
                 columns:\n  k: {{ type: \"{stored}\" }}\n  v: {{ type: int }}\n  big: {{ type: text }}\n"
            ),
        );
        for table in [&m, &h] {
            site.shop(&format!(
                "create table {table} (k {ty} primary key, v int, big text);
                 alter table {table} alter big set storage external"
            ))
            .await;
            for key in values.iter().copied().chain(pairs.iter().map(|(from, _)| *from)) {
                let insert = format!("insert into {table} values ({key}, 0, repeat('b', 9000))");
                site.shop(&insert).await;
            }
        }
    }
    site.catch_up().await;
    assert_keys(&site, &keys, "read by the snapshot").await;
    each(&site, &keys, |table, _| format!("update {table} set v = v + 1")).await;
    assert_keys(&site, &keys, "updated").await;
    let rounds: [Round; 4] = [
        // there, back and there again in one transaction; the long column is never sent
        |table, (a, b)| {
            format!(
                "update {table} set k = {b} where k = {a}; update {table} set k = {a} where k = {a};
                 update {table} set k = {b}, v = v + 1 where k = {a}"
            )
        },
        // there and back
        |table, (a, b)| {
            format!(
                "update {table} set k = {a} where k = {a}; update {table} set k = {b} where k = {b};
                 update {table} set v = v + 1 where k = {a}"
            )
        },
        // as transactions of their own, of which a batch may have several
        |table, (a, b)| {
            format!(
                "begin; update {table} set k = {a}, v = v + 1 where k = {a}; commit;
                 begin; update {table} set k = {b} where k = {b}; commit;
                 begin; update {table} set k = {a}, v = v + 1 where k = {b}; commit;"
            )
        },
        |table, (a, b)| {
            format!(
                "begin; delete from {table} where k = {a}; insert into {table} values ({b}, 8, 'new'); commit"
            )
        },
    ];
    for (n, round) in rounds.iter().enumerate() {
        each(&site, &keys, |table, (_, _, pairs)| {
            pairs.iter().map(|pair| round(table, *pair) + ";").collect()
        })
        .await;
        assert_keys(&site, &keys, &format!("equal keys, round {n}")).await;
    }
    each(&site, &keys, |table, (_, values, pairs)| {
        let mut text = format!("delete from {table} where k = {};", values[0]);
        if let Some((a, _)) = pairs.first() {
            let _infallible = write!(text, "delete from {table} where k = {a};");
        }
        text
    })
    .await;
    assert_keys(&site, &keys, "deleted").await;
    assert_verified(&site).await;
}

/// Runs statements for every table, each table's as a transaction unless they say otherwise.
async fn each(site: &Site, keys: &[Key], statements: impl Fn(&str, &Key) -> String) {
    for (at, key) in keys.iter().enumerate() {
        for table in [format!("m{at}"), format!("h{at}")] {
            site.shop(&statements(&table, key)).await;
        }
    }
    site.catch_up().await;
}

async fn assert_keys(site: &Site, keys: &[Key], when: &str) {
    let mut wrong = Vec::new();
    for (at, (ty, _, _)) in keys.iter().enumerate() {
        for (table, stored) in [(format!("m{at}"), ""), (format!("h{at}"), "_current")] {
            let query = |table: &str| {
                format!("select {}, v, md5(big) from {table} order by 1, 2", shown("k"))
            };
            let there = site.at_source(&query(&format!("public.{table}"))).await;
            let here = site.at_warehouse(&query(&format!("cleansed.{table}{stored}"))).await;
            if there != here {
                let state = site.state(&format!("cleansed.{table}")).await;
                wrong.push(format!("{ty} in {table}: {there:?} / {here:?} {state:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{when}: {wrong:#?}");
}

#[test]
fn every_binary_type_as_a_key() {
    block_on(keys("binkeys", BINARY_KEYS.to_vec()));
}

#[test]
fn every_type_as_a_key_as_text() {
    block_on(keys("textkeys", [BINARY_KEYS, TEXT_KEYS].concat()));
}

#[test]
fn floats_print_as_the_source_prints_them() {
    block_on(async {
        let site = Site::new("floats").await;
        site.file("schemas/raw.yaml", "table: raw.f\nfrom: shop.public.f\nlayout: raw\n");
        site.shop(
            "create table f (id serial primary key, a float8, b float4);
             insert into f (a) select 2::float8 ^ i from generate_series(-1074, 1023) i;
             insert into f (b) select (2::float8 ^ i)::float4 from generate_series(-149, 127) i;
             insert into f (a) select m * 10::float8 ^ i from generate_series(-290, 290) i, generate_series(1, 9) m;
             insert into f (b) select (m * 10::float8 ^ i)::float4 from generate_series(-36, 37) i, generate_series(1, 9) m;
             select setseed(0.5);
             insert into f (a) select floor(random() * 2::float8 ^ 53) * 2::float8 ^ (i % 90) from generate_series(1, 20000) i;
             insert into f (a) select (random() - 0.5) * 10::float8 ^ (i % 300) from generate_series(1, 5000) i;
             insert into f (b) select (floor(random() * 16777216) * 2::float8 ^ (i % 40 - 10))::float4 from generate_series(1, 20000) i",
        )
        .await;
        site.catch_up().await;
        let there = site.at_source("select id, a, b from f order by 1").await;
        let here = "select (raw_data->'after'->>'id')::int, raw_data->'after'->>'a', \
            raw_data->'after'->>'b' from raw.f order by 1";
        let here = site.at_warehouse(here).await;
        assert_eq!(there.len(), here.len());
        let differ = there.iter().zip(&here).filter(|(there, here)| there != here);
        let differ: Vec<_> = differ.take(20).collect();
        assert!(differ.is_empty(), "{differ:#?}");
    });
}
