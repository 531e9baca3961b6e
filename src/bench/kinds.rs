//! A backlog of changes on the other kinds of tables: versions, every event, leaves by day.

use super::report::line;
use super::site::Site;
use super::{Options, Say};
use crate::error::Result;

/// A kind of table: its name, and the file that declares it.
pub(super) const KINDS: [(&str, &str); 3] =
    [("versions", VERSIONS), ("raw", RAW), ("facts", FACTS)];

const VERSIONS: &str = "\
table: mirror.items
from: shop.public.items
history: versions
key: [id]
columns:
  id:        { type: bigint }
  quantity:  { type: integer }
  name:      { type: text }
  note:      { type: text }
  price:     { type: 'numeric(12,2)' }
  placed_at: { type: timestamptz }
";

const RAW: &str = "\
table: mirror.items
from: shop.public.items
layout: raw
";

const FACTS: &str = "\
table: mirror.items
from: shop.public.items
history: overwrite
key: [id]
partition: { by: placed_at, every: day }
columns:
  id:        { type: bigint }
  quantity:  { type: integer }
  name:      { type: text }
  note:      { type: text }
  price:     { type: 'numeric(12,2)' }
  placed_at: { type: timestamptz, required: true }
";

/// Measures the first copy and the backlog of one kind.
pub(super) async fn run(
    site: &Site,
    options: &Options,
    (name, model): (&str, &str),
    say: Say<'_>,
) -> Result<()> {
    let (rows, changes) = (options.rows * 3 / 10, options.changes * 3 / 10);
    let at = site.installation(&format!("bench_{name}"), rows, model).await?;
    at.settle().await?;
    let copied = at.catch_up(None).await?;
    say(&line(&format!("{name}, snapshot"), rows, &copied));
    let applied = at.backlog(changes, rows).await?;
    at.settle().await?;
    let used = at.catch_up(Some(&applied)).await?;
    say(&line(&format!("{name}, stream"), changes, &used));
    at.end().await
}
