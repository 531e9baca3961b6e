//! The default installation's files, as they lie at the project's root.
//!
//! They are part of the program, so that the demo runs from an empty folder. Never written over files
//! that are there already.

use std::fs;
use std::io::Write;
use std::path::Path;

use crate::error::{Error, Kind, Result};

macro_rules! files {
    ($($path:literal),* $(,)?) => {
        [$(($path, include_str!(concat!("../../", $path)))),*]
    };
}

/// What a Kafka Connect worker is given to write the shop's changes into topics.
pub const DEBEZIUM: &str = include_str!("../../connectors/debezium/shop.json");

/// Path below the installation's folder, and text.
pub const FILES: [(&str, &str); 26] = files![
    "siltstone.yaml",
    "alerts.yaml",
    "connectors/shop.yaml",
    "connectors/debezium/shop.json",
    "schemas/raw/stg_users.yaml",
    "schemas/raw/stg_orders.yaml",
    "schemas/raw/stg_products.yaml",
    "schemas/raw/stg_payments.yaml",
    "schemas/cleansed/dim_users.yaml",
    "schemas/cleansed/dim_products.yaml",
    "schemas/cleansed/fact_orders.yaml",
    "schemas/cleansed/fact_payments.yaml",
    "schemas/cleansed/dim_dates.yaml",
    "schemas/cleansed/holidays.csv",
    "jobs/source_systems_sync.yaml",
    "jobs/etl_daily.yaml",
    "jobs/data_quality.yaml",
    "jobs/maintenance.yaml",
    "jobs/marts.yaml",
    "jobs/restore_drill.yaml",
    "sql/marts/sales_mart.sql",
    "sql/marts/customer_mart.sql",
    "sql/marts/kpi_dashboard.sql",
    "sql/marts/inventory_mart.sql",
    "sql/quality/users_have_country.sql",
    "sql/jobs/load_countries.sql",
];

/// The reference that the job `etl_daily` brings, for a warehouse that is looked at before its first night.
pub const COUNTRIES: &str = include_str!("../../sql/jobs/load_countries.sql");

/// The variables that the files take the two databases from.
pub const SHOP_URL: &str = "SHOP_URL";
/// See [`SHOP_URL`].
pub const WAREHOUSE_URL: &str = "WAREHOUSE_URL";

/// Writes all files below `folder`, which is made where it is missing. A file that is there already
/// is refused; those before it have been written then.
pub fn write(folder: &Path) -> Result<()> {
    for (path, text) in FILES {
        let path = folder.join(path);
        write_new(&path, text).map_err(|error| {
            let what = format!("{} cannot be written", path.display());
            Error::new(Kind::Config, what).because(error)
        })?;
    }
    Ok(())
}

fn write_new(path: &Path, text: &str) -> std::io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::OpenOptions::new().write(true).create_new(true).open(path)?.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::spec::{Env, History, load};
    use crate::types::days_from_civil;

    fn env() -> Env {
        Env::default()
            .with(SHOP_URL, "postgres://postgres@127.0.0.1/shop")
            .with(WAREHOUSE_URL, "postgres://postgres@127.0.0.1/warehouse")
            .on_day(days_from_civil(2026, 3, 1))
    }

    #[test]
    fn the_default_files_load() {
        let folder = tempfile::tempdir().unwrap();
        write(folder.path()).unwrap();
        let spec = load(&folder.path().join("siltstone.yaml"), &env()).unwrap();
        assert_eq!(spec.connectors.len(), 1);
        assert_eq!(spec.models.iter().filter(|m| m.history == History::Raw).count(), 4);
        assert_eq!(spec.models.iter().filter(|m| m.history == History::Versions).count(), 1);
        assert_eq!(spec.models.iter().filter(|m| m.partition.is_some()).count(), 2);
        assert_eq!(spec.marts.len(), 4);
        let calendar = spec.calendars.first().unwrap();
        assert_eq!(calendar.last, days_from_civil(2028, 12, 31));
        assert!(calendar.holidays.contains(&("2024-03-29".to_owned(), "Good Friday".to_owned())));
        let jobs: Vec<&str> = spec.jobs.iter().map(|job| job.name.as_str()).collect();
        assert_eq!(
            jobs,
            [
                "data_quality",
                "etl_daily",
                "maintenance",
                "marts",
                "restore_drill",
                "source_systems_sync"
            ]
        );
        assert!(spec.checks.len() > 10);
        assert!(spec.settings.admin.token.is_none());
        assert!(write(folder.path()).is_err(), "files that are there are kept");
    }

    #[test]
    fn the_table_lists_what_lies_in_the_project() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut found = BTreeSet::from(["siltstone.yaml".to_owned(), "alerts.yaml".to_owned()]);
        let folders = [
            "connectors",
            "connectors/debezium",
            "schemas/raw",
            "schemas/cleansed",
            "sql/marts",
            "sql/quality",
            "sql/jobs",
            "jobs",
        ];
        for folder in folders {
            let entries = fs::read_dir(root.join(folder)).unwrap().map(Result::unwrap);
            for entry in entries.filter(|entry| entry.file_type().unwrap().is_file()) {
                found.insert(format!("{folder}/{}", entry.file_name().display()));
            }
        }
        let listed: BTreeSet<String> = FILES.iter().map(|(path, _)| (*path).to_owned()).collect();
        assert_eq!(listed, found);
    }
}
