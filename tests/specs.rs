//! Files as users write them: what must load, and what must be refused, with which words.
//!
//! A case is a folder below `tests/specs/valid` or `invalid`; its files stand over those of `base`, as
//! in an installation. `SILTSTONE_BLESS=1` writes each `expected.txt` anew.

use std::fs;
use std::path::{Path, PathBuf};

use siltstone::error::Error;
use siltstone::spec::{Env, Spec, load, load_again};
use tempfile::TempDir;

use crate::support::env;

/// What the refusal of a case is compared with; no part of its installation.
const EXPECTED: &str = "expected.txt";

/// Refusals of a file as a whole name no field.
const WITHOUT_FIELD: &[&str] = &["yaml_"];

/// Refusals of a file that is not opened name no line.
const WITHOUT_LINE: &[&str] = &[];

/// 2024-05-15: ranges may end in years from today.
const TODAY: i64 = 8901;

struct Case {
    name: String,
    folder: PathBuf,
    files: Vec<String>,
}

#[test]
fn what_is_valid_loads() {
    let cases = cases("valid");
    assert!(cases.len() >= 10, "the cases were not found");
    let refused: Vec<String> = cases
        .iter()
        .filter_map(|case| Some(format!("{}: {}", case.name, case.load().err()?)))
        .collect();
    assert!(refused.is_empty(), "\n{}\n", refused.join("\n"));
}

#[test]
fn our_own_marts_load() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).to_owned();
    let marts: Vec<String> =
        files(&folder.join("sql/marts")).iter().map(|file| format!("sql/marts/{file}")).collect();
    assert!(marts.len() >= 4, "the marts were not found");
    let case = Case { name: "our own marts".to_owned(), files: marts.clone(), folder };
    let spec = case.load().unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(spec.marts.len(), marts.len());
}

#[test]
fn what_is_invalid_is_refused_by_file_line_field_and_remedy() {
    let cases = cases("invalid");
    assert!(cases.len() >= 35, "the cases were not found");
    let wrong: Vec<String> = cases
        .iter()
        .filter_map(|case| {
            let what = case.refusal_is_good().err()?;
            Some(format!("{}: {what}", case.name))
        })
        .collect();
    assert!(wrong.is_empty(), "\n{}\n", wrong.join("\n"));
}

#[test]
fn a_file_that_is_not_there_is_refused() {
    let folder = TempDir::new().unwrap();
    let error = load(&folder.path().join("siltstone.yaml"), &Env::default()).unwrap_err();
    let said = error.to_string();
    assert!(said.contains("siltstone.yaml cannot be read"), "{said}");
    assert!(error.remedy_text().is_some_and(|remedy| remedy.contains("--config")), "{said}");
}

/// An installation of two tables, of which nothing else is wrong.
fn two_tables() -> TempDir {
    let root = TempDir::new().unwrap();
    let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specs/base");
    copy(&base, &files(&base), root.path());
    let model = |name: &str| {
        format!(
            "table: cleansed.{name}\nfrom: shop.public.{name}\nkey: [id]\n\
             columns:\n  id: {{ type: bigint }}\n"
        )
    };
    fs::create_dir_all(root.path().join("schemas/more")).unwrap();
    fs::write(root.path().join("schemas/a.yaml"), model("a")).unwrap();
    fs::write(root.path().join("schemas/more/b.yaml"), model("b")).unwrap();
    root
}

fn loaded(root: &TempDir) -> Result<Spec, Error> {
    let env = Env::default()
        .with("WAREHOUSE_URL", "postgres://siltstone@warehouse.example/warehouse")
        .with("SHOP_URL", "postgres://shop@shop.example/shop");
    load(&root.path().join("siltstone.yaml"), &env)
}

#[test]
fn what_cannot_be_read_does_not_count_as_gone() {
    assert_eq!(loaded(&two_tables()).unwrap().models.len(), 2);
    // errors that root gets as well: too many links, a file in a folder's place
    for path in ["schemas", "schemas/more", "topics.yaml", "alerts.yaml", "jobs"] {
        let root = two_tables();
        let at = root.path().join(path);
        if at.exists() {
            fs::remove_dir_all(&at).unwrap();
        }
        std::os::unix::fs::symlink(&at, &at).unwrap();
        let error = loaded(&root).unwrap_err();
        let said = error.to_string();
        assert!(said.contains(&format!("{path} cannot be read")), "{said}");
        assert!(error.remedy_text().is_some(), "{said}");
    }
    for path in ["sql", "schemas"] {
        let root = two_tables();
        drop(fs::remove_dir_all(root.path().join(path)));
        fs::write(root.path().join(path), "no folder").unwrap();
        let said = loaded(&root).unwrap_err().to_string();
        assert!(said.contains("cannot be read") && said.contains(path), "{said}");
    }
    let root = two_tables();
    fs::remove_dir_all(root.path().join("schemas")).unwrap();
    std::os::unix::fs::symlink("nowhere", root.path().join("schemas")).unwrap();
    assert!(loaded(&root).is_err());
}

/// As Kubernetes mounts a ConfigMap: each file is a link into `..data`, which is a link to a folder.
#[test]
fn a_mounted_config_map_has_each_file_once() {
    let root = two_tables();
    let mounted = root.path().join("mounted");
    fs::create_dir_all(mounted.join("..2026_03_01")).unwrap();
    let model = fs::read_to_string(root.path().join("schemas/a.yaml")).unwrap();
    fs::write(mounted.join("..2026_03_01/c.yaml"), model.replace(".a\n", ".c\n")).unwrap();
    std::os::unix::fs::symlink("..2026_03_01", mounted.join("..data")).unwrap();
    std::os::unix::fs::symlink("..data/c.yaml", mounted.join("c.yaml")).unwrap();
    fs::write(mounted.join(".#c.yaml"), "what an editor leaves").unwrap();
    std::os::unix::fs::symlink("../mounted", root.path().join("schemas/mounted")).unwrap();
    let tables = loaded(&root).unwrap().models.into_iter().map(|model| model.table.to_string());
    let tables: Vec<String> = tables.collect();
    assert_eq!(tables, ["cleansed.a", "cleansed.b", "cleansed.c"]);
}

#[test]
fn tables_of_a_disabled_connector_are_noted() {
    let root = two_tables();
    let path = root.path().join("connectors/shop.yaml");
    let connector = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("{connector}enabled: false\n")).unwrap();
    let spec = loaded(&root).unwrap();
    let note = "schemas/a.yaml: nothing feeds cleansed.a: the connector of shop is disabled";
    assert_eq!((spec.models.len(), spec.notes.len()), (2, 2), "{:?}", spec.notes);
    assert_eq!(spec.notes[0], note);
    // a source that nobody knows is refused all the same
    fs::remove_file(&path).unwrap();
    let said = loaded(&root).unwrap_err().to_string();
    assert!(said.contains("no enabled connector has the source shop"), "{said}");
}

fn cases(kind: &str) -> Vec<Case> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specs").join(kind);
    let mut cases: Vec<Case> = fs::read_dir(&root)
        .unwrap()
        .map(|entry| {
            let folder = entry.unwrap().path();
            let name = folder.file_name().unwrap().to_str().unwrap().to_owned();
            Case { files: files(&folder), folder, name }
        })
        .collect();
    cases.sort_by(|a, b| a.name.cmp(&b.name));
    cases
}

/// The files below a folder, by their paths in it.
fn files(folder: &Path) -> Vec<String> {
    let (mut files, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(below) = folders.pop() {
        for entry in fs::read_dir(&below).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path.strip_prefix(folder).unwrap().to_str().unwrap().to_owned());
            }
        }
    }
    files.retain(|file| file != EXPECTED);
    files
}

fn copy(from: &Path, files: &[String], to: &Path) {
    for file in files {
        fs::create_dir_all(to.join(file).parent().unwrap()).unwrap();
        fs::copy(from.join(file), to.join(file)).unwrap();
    }
}

impl Case {
    fn load(&self) -> Result<Spec, Error> {
        let root = TempDir::new().unwrap();
        let base = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/specs/base");
        copy(&base, &files(&base), root.path());
        copy(&self.folder, &self.files, root.path());
        let env = Env::default()
            .on_day(TODAY)
            .with("WAREHOUSE_URL", "postgres://siltstone:s3cret@warehouse.example/warehouse")
            .with("WAREHOUSE_PASSWORD", "s3cret")
            .with("SHOP_URL", "postgres://shop:s3cret@shop.example/shop")
            .with("SILTSTONE_TOKEN", "s3cret")
            .with("SMTP_URL", "smtps://siltstone:s3cret@mail.example")
            .with("SLACK_WEBHOOK_URL", "https://hooks.example/s3cret")
            .with("PAGERDUTY_KEY", "s3cret")
            .with("SILTSTONE_MASK_KEY", "s3cret-s3cret-s3cret-s3cret");
        load(&root.path().join("siltstone.yaml"), &env)
    }

    fn refusal_is_good(&self) -> Result<(), String> {
        let Err(error) = self.load() else { return Err("it was accepted".to_owned()) };
        let said = format!("{error}\n");
        let snapshot = self.folder.join(EXPECTED);
        if env().get("SILTSTONE_BLESS") == Some("1") {
            fs::write(&snapshot, &said).unwrap();
        }
        let expected = fs::read_to_string(&snapshot).unwrap_or_default();
        if said != expected {
            return Err(format!("expected\n{expected}but it says\n{said}"));
        }
        let named = self.files.iter().find_map(|file| said.strip_prefix(file.as_str()));
        let Some(behind) = named.and_then(|rest| rest.strip_prefix(':')) else {
            return Err(format!("it does not begin with a file of the case: {said}"));
        };
        let line = behind.split_once(": ").filter(|(line, _)| line.parse::<u32>().is_ok());
        if line.is_none() && !WITHOUT_LINE.contains(&self.name.as_str()) {
            return Err(format!("it names no line: {said}"));
        }
        let whole = WITHOUT_FIELD.iter().any(|prefix| self.name.starts_with(prefix));
        let field = line.and_then(|(_, what)| what.split_once(": "));
        if line.is_some() && !whole && field.is_none_or(|(field, _)| field.contains(' ')) {
            return Err(format!("it names no field: {said}"));
        }
        if error.remedy_text().is_none_or(str::is_empty) {
            return Err(format!("it says no remedy: {said}"));
        }
        if said.contains("s3c") {
            return Err(format!("it tells a secret: {said}"));
        }
        Ok(())
    }
}

#[test]
fn a_folder_that_is_away_when_the_files_are_read_again_is_refused() {
    let env = Env::default()
        .with("WAREHOUSE_URL", "postgres://siltstone@warehouse.example/warehouse")
        .with("SHOP_URL", "postgres://shop@shop.example/shop");
    let root = two_tables();
    let settings = root.path().join("siltstone.yaml");
    let was = load_again(&settings, &env, &loaded(&root).unwrap()).unwrap();
    let (there, away) = (root.path().join("schemas"), root.path().join("schemas_"));
    fs::rename(&there, &away).unwrap();
    let error = load_again(&settings, &env, &was).unwrap_err();
    assert!(error.to_string().contains("schemas was there and is not now"), "{error}");
    assert!(error.remedy_text().is_some_and(|remedy| remedy.contains("empty folder")), "{error}");
    // an empty one is meant, and so is what a process finds that starts
    fs::create_dir(&there).unwrap();
    assert_eq!(load_again(&settings, &env, &was).unwrap().models.len(), 0);
    fs::remove_dir(&there).unwrap();
    let was = loaded(&root).unwrap();
    fs::rename(&away, &there).unwrap();
    assert_eq!(load_again(&settings, &env, &was).unwrap().models.len(), 2);
}
