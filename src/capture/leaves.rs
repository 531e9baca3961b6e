//! The leaves of partitioned source tables, as the catalogue has them. Publishing as the root's hides them from the
//! stream, and with them what is done to one as a whole.

use std::collections::{BTreeMap, HashMap};

use tokio_postgres::GenericClient;

use crate::error::{Error, Result};

/// A leaf.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// Its name, for people.
    pub name: String,
    /// The file of its rows; another one after a truncate or a rewrite.
    pub filenode: i64,
    /// Whether it has rows and was a table before it became a leaf.
    pub attached: bool,
}

/// The leaves of a table by their OIDs.
pub type Leaves = BTreeMap<u32, Leaf>;

/// The leaves of partitioned tables, by the tables' OIDs.
pub async fn leaves(source: &impl GenericClient, roots: &[u32]) -> Result<HashMap<u32, Leaves>> {
    let failed = |error| Error::source("reading the leaves of its tables", error);
    let rows = source.query(include_str!("../../sql/source/leaves.sql"), &[&roots]).await;
    let mut found: HashMap<u32, Leaves> = roots.iter().map(|root| (*root, Leaves::new())).collect();
    for row in rows.map_err(failed)? {
        let leaf = Leaf {
            name: row.try_get("name").map_err(failed)?,
            filenode: row.try_get::<_, Option<i64>>("filenode").map_err(failed)?.unwrap_or(0),
            attached: row.try_get("attached").map_err(failed)?,
        };
        let (root, oid) = (row.try_get("root"), row.try_get("leaf"));
        found.entry(root.map_err(failed)?).or_default().insert(oid.map_err(failed)?, leaf);
    }
    Ok(found)
}
