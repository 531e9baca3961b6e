//! The rules that keep the tree as ARCHITECTURE.md draws it, checked on our own sources.
//!
//! A rule is a function from the tree to what it finds. A change that needs a bigger number or another
//! import changes it here and says why; a single place that must break a rule stands in
//! [`EXCEPTIONS`]. Every rule is tried on a planted violation, so that none can pass by looking away.

mod source;

use std::fs;
use std::path::Path;

use source::{Source, end_of_item, words};

/// Lines of a file and of a function: what one reads in a sitting and sees at a glance.
const FILE_LINES: usize = 400;
const FUNCTION_LINES: usize = 70;

/// Folders below `src/`: a stage, and a family of its files.
const FOLDERS: usize = 2;

/// What everybody speaks in; its modules know only each other.
const VOCABULARY: &[&str] = &["value", "position", "clock", "error", "names", "relation", "types"];

/// Which modules of `src/` may import which others. A module may always import from itself, and one
/// that stands nowhere here may not be there at all.
const IMPORTS: &[(&[&str], May)] = &[
    (VOCABULARY, May::Only(&[])),
    (&["postgres"], May::Only(&[])),
    (&["spec"], May::Only(&["postgres"])),
    (&["journey"], May::Only(&["spec"])),
    // it quotes the columns it binds
    (&["binding"], May::Only(&["spec", "journey", "postgres"])),
    (&["warehouse"], May::Only(&["postgres"])),
    // pure: no connection in sight
    (&["decode", "fold"], May::Only(&["journey", "spec", "binding"])),
    // a stage never imports another
    (
        &[
            "capture", "merge", "progress", "refresh", "schedule", "alerts", "serve", "verify",
            "lineage", "quality",
        ],
        May::Only(&["journey", "binding", "spec", "postgres", "warehouse"]),
    ),
    (&["pipeline"], May::AllBut(&["cli", "demo", "bench"])),
    (&["demo", "bench"], May::AllBut(&["cli"])),
    (&["cli", "main", "lib"], May::AllBut(&[])),
];

/// What a module may import beside the vocabulary and itself.
enum May {
    Only(&'static [&'static str]),
    AllBut(&'static [&'static str]),
}

/// Modules that handle what comes from outside and what must not be lost: no index that may panic, no
/// cast that may change a number. They deny these lints themselves.
const STRICT: &[&str] = &["capture", "decode", "progress"];
const STRICT_LINTS: &[&str] = &[
    "clippy::cast_possible_truncation",
    "clippy::cast_possible_wrap",
    "clippy::cast_sign_loss",
    "clippy::indexing_slicing",
];

/// Beginnings of names, names and layers that belong to a warehouse and not to the service.
const USER_PREFIXES: &[&str] = &["dim_", "fact_", "stg_"];
const USER_NAMES: &[&str] = &["sales_mart", "customer_mart", "inventory_mart", "kpi_dashboard"];
const USER_LAYERS: &[&str] = &["raw", "staging", "cleansed", "mart", "marts"];

/// A place that breaks a rule for a reason.
struct Exception {
    rule: &'static str,
    path: &'static str,
    #[expect(dead_code, reason = "it is here to be read")]
    reason: &'static str,
}

const EXCEPTIONS: &[Exception] = &[];

/// Our files, and the names of those in `sql/migrations`.
struct Tree {
    sources: Vec<Source>,
    migrations: Vec<String>,
}

struct Finding {
    path: String,
    line: usize,
    what: String,
}

impl Finding {
    fn new(source: &Source, at: usize, what: String) -> Finding {
        Finding { path: source.path.clone(), line: source.line(at), what }
    }
}

type Rule = fn(&Tree) -> Vec<Finding>;

const RULES: &[(&str, Rule)] = &[
    ("imports", imports),
    ("file length", file_length),
    ("function length", function_length),
    ("nesting", nesting),
    ("user tables", user_tables),
    ("unbounded queues", unbounded_queues),
    ("headers", headers),
    ("quoting by hand", quoting_by_hand),
    ("strict modules", strict_modules),
    ("migrations", migrations),
];

#[test]
fn the_tree_keeps_its_rules() {
    let tree = Tree::read(Path::new(env!("CARGO_MANIFEST_DIR")));
    assert!(tree.sources.len() > 30, "the sources were not found");
    let mut used = vec![false; EXCEPTIONS.len()];
    let mut broken = Vec::new();
    for (rule, check) in RULES {
        for Finding { path, line, what } in check(&tree) {
            match EXCEPTIONS.iter().position(|e| e.rule == *rule && e.path == path) {
                Some(at) => used[at] = true,
                None => broken.push(format!("{path}:{line}: {rule}: {what}")),
            }
        }
    }
    for (exception, _) in EXCEPTIONS.iter().zip(used).filter(|(_, used)| !used) {
        broken.push(format!("{}: {}: the exception is not needed", exception.path, exception.rule));
    }
    assert!(broken.is_empty(), "\n{}\n", broken.join("\n"));
}

impl Tree {
    fn read(root: &Path) -> Tree {
        let mut sources = Vec::new();
        let mut folders = vec![root.join("src")];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    folders.push(path);
                } else if path.extension().is_some_and(|extension| extension == "rs") {
                    let name = path.strip_prefix(root).unwrap().to_str().unwrap();
                    sources.push(Source::new(name, &fs::read_to_string(&path).unwrap()));
                }
            }
        }
        sources.sort_by(|a, b| a.path.cmp(&b.path));
        let files = fs::read_dir(root.join("sql/migrations")).unwrap();
        let name = |entry: fs::DirEntry| entry.file_name().into_string().unwrap();
        Tree { sources, migrations: files.map(|entry| name(entry.unwrap())).collect() }
    }

    /// The findings of a rule that looks at one file after the other.
    fn each(&self, rule: impl Fn(&Source, &mut Vec<Finding>)) -> Vec<Finding> {
        let mut findings = Vec::new();
        self.sources.iter().for_each(|source| rule(source, &mut findings));
        findings
    }
}

fn imports(tree: &Tree) -> Vec<Finding> {
    tree.each(|source, findings| {
        let from = source.module();
        let Some((_, may)) = IMPORTS.iter().find(|(modules, _)| modules.contains(&from)) else {
            let what = format!("{from} stands nowhere in the table of imports");
            return findings.push(Finding::new(source, 0, what));
        };
        for (at, to) in imported(source) {
            let allowed = match may {
                May::Only(others) => VOCABULARY.contains(&to) || others.contains(&to),
                May::AllBut(others) => !others.contains(&to),
            };
            if to != from && !allowed {
                findings.push(Finding::new(source, at, format!("{from} may not import {to}")));
            }
        }
        for (at, _) in source.code.match_indices("super::") {
            let chain = source.code[at..].split("super::").take_while(|part| part.is_empty());
            if from != "lib" && from != "main" && chain.count() >= source.depth() {
                let what = "write crate:: for what is outside the module".to_owned();
                findings.push(Finding::new(source, at, what));
            }
        }
    })
}

/// The modules named behind `crate::`, one by one or in braces.
fn imported(source: &Source) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    for at in source.words("crate") {
        let Some(path) = source.code[at..].strip_prefix("crate::") else { continue };
        let start = at + "crate::".len();
        if !path.starts_with('{') {
            found.push((at, first_word(path)));
            continue;
        }
        let (mut depth, mut expect) = (0, false);
        for (offset, c) in path.char_indices() {
            match c {
                '{' => (depth, expect) = (depth + 1, depth == 0),
                '}' => depth -= 1,
                ',' => expect = depth == 1,
                _ if expect && !c.is_whitespace() => {
                    found.push((start + offset, first_word(&path[offset..])));
                    expect = false;
                }
                _ => {}
            }
            if depth == 0 {
                break;
            }
        }
    }
    found
}

fn first_word(text: &str) -> &str {
    let end = text.find(|c: char| !c.is_alphanumeric() && c != '_');
    &text[..end.unwrap_or(text.len())]
}

fn file_length(tree: &Tree) -> Vec<Finding> {
    tree.each(|source, findings| {
        let lines = source.lines();
        if lines > FILE_LINES {
            let what = format!("{lines} lines, at most {FILE_LINES}: split it by idea");
            findings.push(Finding::new(source, 0, what));
        }
    })
}

fn function_length(tree: &Tree) -> Vec<Finding> {
    tree.each(|source, findings| {
        for at in source.words("fn") {
            let name = first_word(source.code[at + 2..].trim_start());
            let lines = source.code[at..end_of_item(&source.code, at)].lines().count();
            // a type such as fn(u8) has no name
            if !name.is_empty() && lines > FUNCTION_LINES {
                let what = format!("{name} has {lines} lines, at most {FUNCTION_LINES}");
                findings.push(Finding::new(source, at, what));
            }
        }
    })
}

fn nesting(tree: &Tree) -> Vec<Finding> {
    tree.each(|source, findings| {
        let folders = source.path.split('/').count() - 2;
        if folders > FOLDERS {
            let what = format!("{folders} folders below src, at most {FOLDERS}");
            findings.push(Finding::new(source, 0, what));
        }
    })
}

/// The service knows no warehouse: what its tables are called stands in declarations. The demo brings
/// a warehouse of its own.
fn user_tables(tree: &Tree) -> Vec<Finding> {
    tree.each(|source, findings| {
        if source.module() == "demo" {
            return;
        }
        for literal in &source.literals {
            let text = literal.value.as_str();
            let begins = |prefix: &&&str| {
                text.match_indices(**prefix)
                    .any(|(at, _)| !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
            };
            let qualifies = |layer: &&&str| {
                words(text, layer).any(|at| {
                    let behind = text[at + layer.len()..].strip_prefix('.');
                    behind.is_some_and(|b| b.starts_with(|c: char| c.is_alphabetic() || c == '{'))
                })
            };
            let named = USER_PREFIXES.iter().find(begins);
            let named = named.or(USER_NAMES.iter().find(|name| words(text, name).next().is_some()));
            if let Some(name) = named.or(USER_LAYERS.iter().find(qualifies)) {
                findings.push(Finding::new(source, literal.at, format!("{name} in {text:?}")));
            }
        }
    })
}

/// Every queue has a limit. A channel for one message has one; clippy.toml forbids the functions, and
/// this rule the types and other crates'.
fn unbounded_queues(tree: &Tree) -> Vec<Finding> {
    tree.each(|source, findings| {
        let named = ["unbounded_channel", "unbounded", "UnboundedSender", "UnboundedReceiver"];
        for word in named {
            for at in source.words(word) {
                findings.push(Finding::new(source, at, format!("{word} has no limit")));
            }
        }
        for at in source.words("channel") {
            let behind = &source.code[at + "channel".len()..];
            let behind = behind.strip_prefix("::<").map_or(behind, |generic| {
                generic.split_once('(').map_or(behind, |_| &generic[generic.find('(').unwrap()..])
            });
            let one_message = source.code[..at].ends_with("oneshot::");
            if behind.starts_with("()") && !one_message {
                findings.push(Finding::new(source, at, "channel() has no limit".to_owned()));
            }
        }
    })
}

fn headers(tree: &Tree) -> Vec<Finding> {
    tree.each(|source, findings| {
        if !source.text.starts_with("//! ") {
            let what = "open with a line `//! ` that says what the file is for".to_owned();
            findings.push(Finding::new(source, 0, what));
        }
    })
}

/// A format string that reads as SQL and puts a placeholder into quotes: what it puts there ends the
/// quotes as soon as it has one of its own. `postgres::quote` knows how. What the rule cannot see is a
/// placeholder without quotes that is given an unquoted name; that needs a reader.
fn quoting_by_hand(tree: &Tree) -> Vec<Finding> {
    const VERBS: &[&str] = &["select", "insert", "update", "delete", "create", "alter", "copy"];
    tree.each(|source, findings| {
        if source.path == "src/postgres/quote.rs" {
            return;
        }
        for literal in &source.literals {
            let text = literal.value.to_lowercase();
            let sql = VERBS.iter().any(|verb| words(&text, verb).next().is_some());
            // {{ is a brace, not a placeholder
            let quoted = ["\"{", "'{"].iter().any(|quote| {
                text.match_indices(quote).any(|(at, _)| !text[at + 2..].starts_with('{'))
            });
            if sql && quoted && is_format(&source.code[..literal.at]) {
                let what = format!("quote by postgres::quote in {:?}", literal.value);
                findings.push(Finding::new(source, literal.at, what));
            }
        }
    })
}

/// Whether a literal behind this code is a format string.
fn is_format(before: &str) -> bool {
    let before = before.trim_end();
    if ["format!(", "format_args!("].iter().any(|open| before.ends_with(open)) {
        return true;
    }
    let Some((call, target)) = before.strip_suffix(',').and_then(|b| b.rsplit_once('(')) else {
        return false;
    };
    !target.contains([';', '"']) && (call.ends_with("write!") || call.ends_with("writeln!"))
}

fn strict_modules(tree: &Tree) -> Vec<Finding> {
    tree.each(|source, findings| {
        let strict = STRICT.iter().any(|module| {
            source.path == format!("src/{module}/mod.rs")
                || source.path == format!("src/{module}.rs")
        });
        let denied = source.code.split_once("deny(").map_or("", |(_, behind)| behind);
        let denied = denied.split_once(")]").map_or("", |(lints, _)| lints);
        for lint in STRICT_LINTS.iter().filter(|lint| strict && !denied.contains(**lint)) {
            findings.push(Finding::new(source, 0, format!("deny {lint} for the module")));
        }
    })
}

/// `0001_control.sql`, `0002_…`: without a gap or a double, and all applied, in their order.
fn migrations(tree: &Tree) -> Vec<Finding> {
    const APPLIED_BY: &str = "src/warehouse/migrate.rs";
    let finding = |what: String| Finding { path: APPLIED_BY.to_owned(), line: 1, what };
    let Some(source) = tree.sources.iter().find(|source| source.path == APPLIED_BY) else {
        return vec![finding("the file is not there".to_owned())];
    };
    let mut names = tree.migrations.clone();
    names.sort();
    let number = |name: &str| name.split_once('_').and_then(|(number, _)| number.parse().ok());
    let mut findings = Vec::new();
    for (name, expected) in names.iter().zip(1_usize..) {
        if number(name) != Some(expected) || !name.ends_with(".sql") {
            findings.push(finding(format!("{name} should be {expected:04}_….sql")));
        }
    }
    let file = |literal: &source::Literal| {
        literal.value.rsplit_once("sql/migrations/").map(|(_, name)| name.to_owned())
    };
    let applied: Vec<String> = source.literals.iter().filter_map(file).collect();
    if applied != names {
        findings.push(finding(format!("applies {applied:?}, and there are {names:?}")));
    }
    findings
}

/// What a rule says to a tree of these files; whatever else the tree would say stays out.
fn said(rule: Rule, files: &[(&str, &str)], migrations: &[&str]) -> Vec<String> {
    let sources = files.iter().map(|(path, text)| Source::new(path, text)).collect();
    let migrations = migrations.iter().map(|name| (*name).to_owned()).collect();
    let findings = rule(&Tree { sources, migrations });
    findings.into_iter().map(|f| format!("{}:{}: {}", f.path, f.line, f.what)).collect()
}

#[test]
fn a_forbidden_import_is_found() {
    let text = "//! x\nuse crate::error::Error;\nuse crate::{\n    journey::{Batch, Op},\n    fold,\n};\n\
                fn f() { crate::capture::g(); } // crate::serve\n#[cfg(test)]\nmod t { use crate::cli; }\n";
    assert_eq!(
        said(imports, &[("src/merge/a.rs", text)], &[]),
        [
            "src/merge/a.rs:5: merge may not import fold",
            "src/merge/a.rs:7: merge may not import capture"
        ]
    );
    let pipeline = "use crate::capture; use crate::cli;";
    assert_eq!(
        said(imports, &[("src/pipeline.rs", pipeline), ("src/newcomer.rs", "")], &[]),
        [
            "src/pipeline.rs:1: pipeline may not import cli",
            "src/newcomer.rs:1: newcomer stands nowhere in the table of imports"
        ]
    );
    let up = "use super::b;\nuse super::super::fold;\n";
    let found = said(imports, &[("src/merge/a.rs", up), ("src/names.rs", "use super::fold;")], &[]);
    assert_eq!(found.len(), 2, "{found:?}");
}

#[test]
fn what_is_too_long_or_too_deep_is_found() {
    let long = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(FUNCTION_LINES - 1));
    let longest = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(FUNCTION_LINES - 2));
    let tests = format!("#[cfg(test)]\nmod tests {{\n{long}{}}}\n", "\n".repeat(FILE_LINES));
    assert_eq!(
        said(
            function_length,
            &[("src/a.rs", &long), ("src/b.rs", &longest), ("src/c.rs", &tests)],
            &[]
        ),
        ["src/a.rs:1: f has 71 lines, at most 70"]
    );
    let (full, over) = ("\n".repeat(FILE_LINES), "\n".repeat(FILE_LINES + 1));
    assert_eq!(
        said(file_length, &[("src/a.rs", &over), ("src/b.rs", &full), ("src/c.rs", &tests)], &[]),
        ["src/a.rs:1: 401 lines, at most 400: split it by idea"]
    );
    assert_eq!(
        said(nesting, &[("src/serve/api/rest/a.rs", ""), ("src/serve/api/a.rs", "")], &[]),
        ["src/serve/api/rest/a.rs:1: 3 folders below src, at most 2"]
    );
}

#[test]
fn a_warehouse_table_in_rust_is_found() {
    let text = "//! dim_users\n/// cleansed.x\nfn f() { g(\"update dim_users\"); }\n\
                fn h() { g(\"from cleansed.users\", \"sales_mart\", \"a raw. b\", \"redim_x\"); }\n";
    let found = said(user_tables, &[("src/a.rs", text), ("src/demo/a.rs", text)], &[]);
    assert_eq!(found.len(), 3, "{found:?}");
    assert!(found.iter().all(|found| found.starts_with("src/a.rs:")), "{found:?}");
}

#[test]
fn an_unbounded_channel_is_found() {
    let text = "fn f() {\n    mpsc::unbounded_channel();\n    channel::<u8>();\n    mpsc::channel(8);\n\
                oneshot::channel();\n    watch::channel(1);\n}\n";
    assert_eq!(
        said(unbounded_queues, &[("src/a.rs", text)], &[]),
        ["src/a.rs:2: unbounded_channel has no limit", "src/a.rs:3: channel() has no limit"]
    );
}

#[test]
fn a_file_without_a_header_is_found() {
    let found = said(headers, &[("src/a.rs", "use x;\n"), ("src/b.rs", "//! What for.\n")], &[]);
    assert_eq!(found.len(), 1, "{found:?}");
}

#[test]
fn quoting_by_hand_is_found() {
    let text = r#"fn f() {
        format!("alter table \"{name}\"");
        write!(out, "select '{}'", x);
        format!("select {name}, '{{}}'");
        format!("say '{name}'");
        query("select '{}'::text[]");
    }"#;
    let found = said(quoting_by_hand, &[("src/a.rs", text), ("src/postgres/quote.rs", text)], &[]);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found[0].starts_with("src/a.rs:2:") && found[1].starts_with("src/a.rs:3:"),
        "{found:?}"
    );
}

#[test]
fn a_strict_module_without_its_lints_is_found() {
    let lints = STRICT_LINTS.join(", ");
    let strict = format!("#![cfg_attr(not(test), deny({lints}))]");
    let lax = "#![cfg_attr(not(test), deny(clippy::indexing_slicing))]";
    let files =
        [("src/decode/mod.rs", strict.as_str()), ("src/capture/mod.rs", lax), ("src/a.rs", "")];
    let found = said(strict_modules, &files, &[]);
    assert_eq!(found.len(), STRICT_LINTS.len() - 1, "{found:?}");
}

#[test]
fn a_missing_or_unlisted_migration_is_found() {
    let text = "include_str!(\"../../sql/migrations/0001_a.sql\")";
    let files = [("src/warehouse/migrate.rs", text)];
    assert!(said(migrations, &files, &["0001_a.sql"]).is_empty());
    assert_eq!(said(migrations, &files, &["0001_a.sql", "0002_b.sql"]).len(), 1);
    assert_eq!(said(migrations, &files, &["0002_a.sql"]).len(), 2);
}
