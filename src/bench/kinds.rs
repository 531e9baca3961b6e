//! A backlog of changes on the other kinds of tables: versions, every event, leaves by day.

use super::report::line;
use super::site::{Installation, Site, is_true};
use super::{Options, Say};
use crate::error::{Error, Kind, Result};

/// The same table without a column that is looked up, and with one.
pub(super) const LOOKUPS: [(&str, &str); 2] = [("declared", DECLARED), ("lookups", LOOKED_UP)];

const DECLARED: &str = "\
table: mirror.items
from: shop.public.items
key: [id]
columns:
  id:        { type: bigint }
  quantity:  { type: integer }
  name:      { type: text }
  note:      { type: text }
  price:     { type: 'numeric(12,2)' }
  placed_at: { type: timestamptz }
";

const LOOKED_UP: &str = "\
table: mirror.items
from: shop.public.items
key: [id]
columns:
  id:        { type: bigint }
  quantity:  { type: integer }
  size:      { type: varchar(20), lookup: 'select size from ref.sizes s where s.quantity = row.quantity' }
  name:      { type: text }
  note:      { type: text }
  price:     { type: 'numeric(12,2)' }
  placed_at: { type: timestamptz }
";

/// What it is looked up in.
const SIZES: &str = "
create schema ref;
create table ref.sizes (quantity integer primary key, size varchar(20) not null);
insert into ref.sizes select n, 'size ' || n / 100 from generate_series(0, 1999) n;
analyze ref.sizes";

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
    if model == LOOKED_UP {
        at.at_target(SIZES).await?;
    }
    at.settle().await?;
    let copied = at.catch_up(None).await?;
    say(&line(&format!("{name}, snapshot"), rows, &copied));
    let applied = at.backlog(changes, rows).await?;
    at.settle().await?;
    let used = at.catch_up(Some(&applied)).await?;
    say(&line(&format!("{name}, stream"), changes, &used));
    if model == LOOKED_UP {
        all_have_theirs(&at).await?;
    }
    at.end().await
}

/// A measurement of wrong rows would be none.
async fn all_have_theirs(at: &Installation<'_>) -> Result<()> {
    let right = "select count(*) > 0 and bool_and(i.size is not distinct from s.size)
                   from mirror.items i left join ref.sizes s using (quantity)";
    match is_true(&at.target, right).await? {
        true => Ok(()),
        false => {
            Err(Error::new(Kind::Differs, "rows have another size than they are looked up by"))
        }
    }
}
