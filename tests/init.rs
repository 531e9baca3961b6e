//! `siltstone init`: what it writes is refused by nothing and says no secret; what it prints is what the
//! source lacks.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use crate::support::{Site, block_on};

const TABLES: &str = r#"create table users (id bigint primary key, email text, price numeric(10,2));
    insert into users select i, 'u' || i, i from generate_series(1, 10) i;
    create table "Odd: {name} #1" (id int, "no" text, primary key (id, "no"));
    insert into "Odd: {name} #1" values (1, 'x');
    create table log (line text);
    create schema "Other Place";
    create table "Other Place".users (id bigint primary key);
    create table "Other Place".things (id bigint primary key, "${X}" text);
    create schema "with.dot"; create table "with.dot".t (id int primary key)"#;

/// Runs the binary; whether it went well, and what it said.
fn run(site: &Site, arguments: &[&str]) -> (Option<i32>, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_siltstone"))
        .args(arguments)
        .env_clear()
        .env("WAREHOUSE_URL", &site.warehouse_url)
        .env(variable(site), &site.source_url)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (output.status.code(), String::from_utf8(text).unwrap())
}

fn variable(site: &Site) -> String {
    format!("{}_SHOP_URL", site.name.to_uppercase())
}

/// The URL's password.
fn password(url: &str) -> &str {
    let (_, rest) = url.split_once("://").unwrap();
    rest.split_once('@').unwrap().0.split_once(':').unwrap().1
}

fn read(folder: &Path, path: &str) -> String {
    fs::read_to_string(folder.join(path)).unwrap()
}

#[test]
fn what_init_writes_runs() {
    block_on(async {
        let site = Site::new("init").await;
        site.shop(TABLES).await;
        let folder = TempDir::new().unwrap();
        let (dir, url) = (folder.path().join("new place"), site.source_url.clone());
        let secret = password(&url);
        let shown = dir.display().to_string();
        let (code, said) = run(&site, &["init", "--from", &url, "--dir", &shown]);
        assert_eq!(code, Some(0), "{said}");
        for told in [
            "public.users -> cleansed.users (mirrored)",
            "public.log is left out: it has no primary key",
            "alter table \"public\".\"log\" replica identity full",
            "public.users is excluded: it would become the same table as Other Place.users",
            "no table of schema \"with.dot\" is taken",
            "max_slot_wal_keep_size",
            ":PASSWORD@",
            "validate --connect",
        ] {
            let told = match told {
                // the order of the catalogue decides which of the two stays
                told if told.contains("(mirrored)") => "users -> cleansed.users (mirrored)",
                told => told,
            };
            assert!(said.contains(told), "{told}: {said}");
        }
        assert!(!said.contains(secret), "{said}");
        let connector = format!("connectors/{}_shop.yaml", site.name);
        let config = dir.join("siltstone.yaml").display().to_string();
        for path in ["siltstone.yaml", &connector] {
            let text = read(&dir, path);
            assert!(!text.contains(secret), "{text}");
            assert!(!text.contains("postgres://"), "{text}");
        }
        let (code, said) = run(&site, &["--config", &config, "validate", "--connect"]);
        assert_eq!(code, Some(0), "{said}");
        // what is there is kept
        let before = read(&dir, &connector);
        let (code, said) = run(&site, &["init", "--from", &url, "--dir", &shown]);
        assert!(code == Some(78) && said.contains("is there already"), "{said}");
        assert_eq!(read(&dir, &connector), before);
        // the example, without its marks, is a file that runs
        let (_, example) = before.split_once("#\n").unwrap();
        let lines = example.lines().map(|line| line.strip_prefix("# ").unwrap());
        let example = lines.fold(String::new(), |text, line| text + line + "\n");
        fs::create_dir_all(dir.join("schemas/cleansed")).unwrap();
        fs::write(dir.join("schemas/cleansed/example.yaml"), &example).unwrap();
        let (code, said) = run(&site, &["--config", &config, "run", "--until-caught-up"]);
        assert_eq!(code, Some(0), "{said}\n{example}");
        let odd = "select count(*) from cleansed.\"Odd: {name} #1\"";
        assert_eq!(site.at_warehouse(odd).await, ["1"]);
        let kept = "select count(*) from audit.tables where table_name like '%\\_history'";
        assert_eq!(site.at_warehouse(kept).await, ["1"]);
    });
}

#[test]
fn init_tells_what_a_role_lacks() {
    block_on(async {
        let site = Site::new("initrole").await;
        let role = format!("{}_reader", site.name);
        site.shop(&format!(
            "create table mine (id int primary key); create table hidden (id int primary key);
             create role {role} login password 's3cret'; grant select on mine to {role}"
        ))
        .await;
        let (scheme, rest) = site.source_url.split_once("://").unwrap();
        let (_, place) = rest.split_once('@').unwrap();
        let folder = TempDir::new().unwrap();
        let shown = folder.path().display().to_string();
        let url = format!("{scheme}://{role}:s3cret@{place}");
        let (code, said) = run(&site, &["init", "--from", &url, "--dir", &shown]);
        assert_eq!(code, Some(0), "{said}");
        for told in [
            format!("error: role {role} may not replicate"),
            format!("alter role \"{role}\" replication"),
            "warning: its role does not own public.mine".to_owned(),
            "grant create on database".to_owned(),
            "public.hidden is left out: its rows may not be read".to_owned(),
        ] {
            assert!(said.contains(&told), "{told}: {said}");
        }
        site.shop(&format!("drop owned by {role}; drop role {role}")).await;
    });
}

#[test]
fn init_of_no_source_writes_nothing() {
    block_on(async {
        let site = Site::new("initnone").await;
        let folder = TempDir::new().unwrap();
        let shown = folder.path().display().to_string();
        for (url, expected) in [
            ("postgres://shop:s3cret@127.0.0.1:1/shop", 69),
            ("postgres://shop:s3cret@127.0.0.1:1", 78),
            ("mysql://shop:s3cret@127.0.0.1/shop", 78),
        ] {
            let (code, said) = run(&site, &["init", "--from", url, "--dir", &shown]);
            assert_eq!(code, Some(expected), "{said}");
            assert!(!said.contains("s3cret"), "{said}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0, "{url}");
        }
    });
}
