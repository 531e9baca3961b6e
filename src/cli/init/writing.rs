//! What the files that `init` writes are made of: names, YAML values, and how they get onto the disk.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Kind, Result};

pub(super) const SETTINGS: &str = "siltstone.yaml";
pub(super) const WAREHOUSE_URL: &str = "WAREHOUSE_URL";

/// Where tables without a file of their own go.
pub(super) const TARGET_SCHEMA: &str = "cleansed";

/// A connector's name after a database: letters, digits, `_` and `-`, at most 40.
pub(super) fn name_of(database: &str) -> String {
    let legal = |letter: char| {
        if letter.is_ascii_alphanumeric() || letter == '-' { letter } else { '_' }
    };
    database.chars().map(legal).take(40).collect()
}

/// The variable that a connector's file takes its URL from.
pub(super) fn variable_of(name: &str) -> String {
    let variable = format!("{}_URL", name.to_uppercase().replace('-', "_"));
    if variable == WAREHOUSE_URL || variable.starts_with(|letter: char| letter.is_ascii_digit()) {
        return format!("SOURCE_{variable}");
    }
    variable
}

pub(super) fn refuse_to_overwrite(path: &Path) -> Result<()> {
    if fs::symlink_metadata(path).is_err() {
        return Ok(());
    }
    Err(Error::new(Kind::Config, format!("{} is there already, and is kept", path.display()))
        .remedy("name an empty folder with --dir, or move the file away"))
}

pub(super) fn write_new(path: &Path, text: &str) -> Result<()> {
    let write = || -> std::io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        fs::OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
    };
    write().map_err(|error| {
        let what = format!("{} cannot be written", path.display());
        Error::new(Kind::Config, what).remedy("name another folder with --dir").because(error)
    })
}

pub(super) fn settings() -> String {
    format!(
        "# Everything below this folder belongs to one installation: connectors/ says where data comes from,\n\
         # schemas/ what tables of the warehouse look like.\n\
         warehouse: {{ url: \"${{{WAREHOUSE_URL}}}\" }}\n\
         admin:     {{ listen: \"127.0.0.1:8088\", token: \"${{SILTSTONE_TOKEN:-}}\", \
         read_token: \"${{SILTSTONE_READ_TOKEN:-}}\" }}\n"
    )
}

/// A text as a YAML value, bare where it cannot be misread.
pub(super) fn plain(text: &str) -> String {
    const WORDS: [&str; 9] = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    let bare = |letter: char| letter.is_ascii_lowercase() || matches!(letter, '_' | '.');
    let digits = |letter: char| letter.is_ascii_digit();
    let word = text.starts_with(|letter: char| letter.is_ascii_lowercase())
        && text.chars().all(|letter| bare(letter) || digits(letter))
        && !WORDS.contains(&text);
    if word { text.to_owned() } else { quoted(text) }
}

/// A text as a quoted YAML value: JSON's strings are YAML's. It stands for itself, whatever is in it.
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text.replace("${", "$${")).to_string()
}

pub(super) fn one_line(text: &str) -> String {
    text.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_database() {
        let cases = [
            ("shop", "shop", "SHOP_URL"),
            ("my-shop", "my-shop", "MY_SHOP_URL"),
            ("Läden 2", "L_den_2", "L_DEN_2_URL"),
            ("warehouse", "warehouse", "SOURCE_WAREHOUSE_URL"),
            ("2026", "2026", "SOURCE_2026_URL"),
        ];
        for (database, name, variable) in cases {
            assert_eq!(name_of(database), name);
            assert_eq!(variable_of(name), variable);
        }
    }

    #[test]
    fn a_value_is_bare_only_where_it_cannot_be_misread() {
        let cases = [
            ("public.users", "public.users"),
            ("no", "\"no\""),
            ("2026", "\"2026\""),
            ("numeric(10,2)", "\"numeric(10,2)\""),
            ("a: #\"${X}", "\"a: #\\\"$${X}\""),
        ];
        for (text, written) in cases {
            assert_eq!(plain(text), written);
        }
    }
}
