//! Which columns nobody behind the source may see, and what stands in their place.
//!
//! A mask belongs to the source's column: one file that asks for it masks the column in every table
//! of that source table, or the value would lie open in the next one. Says nothing of bytes: that is
//! decode's.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use hmac::{Hmac, KeyInit, Mac};
use serde::{Deserialize, Deserializer};
use sha2::Sha256;

use super::check::Files;
use super::file::{File, Given};
use super::model::{Model, ModelColumn};
use super::settings::Secret;
use crate::error::Result;
use crate::names::TableName;
use crate::relation::{Column, ColumnType, Fill, Mask, Masked, Relation};

/// A shorter key could be guessed from a hash of a known value.
const LEAST_KEY: usize = 16;

/// Hex digits of a hash.
const DIGITS: usize = 64;

/// The key that values are hashed with. Never printed.
#[derive(Clone)]
pub struct MaskKey {
    mac: Hmac<Sha256>,
    fingerprint: String,
}

impl MaskKey {
    /// A key; none where it is too short to be one.
    pub fn new(secret: &Secret) -> Option<MaskKey> {
        let secret = secret.expose().as_bytes();
        let mac = Hmac::new_from_slice(secret).ok().filter(|_| secret.len() >= LEAST_KEY)?;
        let mut key = MaskKey { mac, fingerprint: String::new() };
        let mut digits = Vec::new();
        key.write_hash(b"which mask_key is it", &mut digits);
        digits.truncate(8);
        key.fingerprint = String::from_utf8(digits).unwrap_or_default();
        Some(key)
    }

    /// Appends the hash of a text, as lower-case hex digits.
    pub fn write_hash(&self, text: &[u8], out: &mut Vec<u8>) {
        const HEX: &[u8; 16] = b"0123456789abcdef";
        let hash = self.mac.clone().chain_update(text).finalize().into_bytes();
        let digit = |of: u8| HEX.get(usize::from(of)).copied().unwrap_or_default();
        out.extend(hash.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]));
    }
}

impl fmt::Debug for MaskKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl PartialEq for MaskKey {
    fn eq(&self, other: &MaskKey) -> bool {
        self.fingerprint == other.fingerprint
    }
}

/// The masked columns of a source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Masks {
    key: Option<MaskKey>,
    tables: BTreeMap<TableName, Covered>,
}

/// A source table with masked columns.
#[derive(Clone, Debug, Default, PartialEq)]
struct Covered {
    masks: BTreeMap<String, Mask>,
    /// the source columns that files name, masked or not
    named: BTreeSet<String>,
}

impl Masks {
    /// What the files of a source mask.
    pub(super) fn of(source: &str, models: &[Model], key: Option<&MaskKey>) -> Masks {
        let mut tables: BTreeMap<TableName, Covered> = BTreeMap::new();
        for model in models.iter().filter(|model| model.from.source == source) {
            let covered = tables.entry(model.from.table.clone()).or_default();
            for column in &model.columns {
                covered.named.insert(column.from.clone());
                covered.masks.extend(column.mask.map(|mask| (column.from.clone(), mask)));
            }
        }
        tables.retain(|_, covered| !covered.masks.is_empty());
        Masks { key: key.cloned().filter(|_| !tables.is_empty()), tables }
    }

    /// Whether no table has a masked column.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The key that values are hashed with.
    pub fn key(&self) -> Option<&MaskKey> {
        self.key.as_ref()
    }

    /// The source tables that have masked columns.
    pub fn tables(&self) -> impl Iterator<Item = &TableName> {
        self.tables.keys()
    }

    /// Whether a source table has masked columns.
    pub fn covers(&self, table: &TableName) -> bool {
        self.tables.contains_key(table)
    }

    /// The masked columns of a source table that a shape of it lacks. They may be there under another
    /// name: until files say so, no column shows its values that no file names.
    pub fn missing(&self, table: &TableName, relation: &Relation) -> Vec<&str> {
        let masks = self.tables.get(table).into_iter().flat_map(|covered| covered.masks.keys());
        let missing = masks.filter(|name| relation.column(name).is_none());
        missing.map(String::as_str).collect()
    }

    /// Gives the columns of a source table the masks and types that they have behind the wall, whatever
    /// masks they had.
    pub fn dress(&self, table: &TableName, relation: &mut Relation) {
        for column in &mut relation.columns {
            if let Some(mask) = column.mask.take() {
                column.ty = mask.ty;
            }
        }
        let Some(covered) = self.tables.get(table) else { return };
        let missing = self.missing(table, relation);
        let of_missing = |mask| missing.iter().any(|name| covered.masks.get(*name) == Some(&mask));
        let (some, hashed) = (!missing.is_empty(), of_missing(Mask::Hash));
        for column in &mut relation.columns {
            let unnamed = some && !covered.named.contains(&column.name);
            let by = match covered.masks.get(&column.name) {
                Some(mask) => *mask,
                None if unnamed && !column.in_key => Mask::Null,
                // nothing but a hash may stand for a key
                None if unnamed && hashed => Mask::Hash,
                None => continue,
            };
            self.cover(column, by);
        }
    }

    fn cover(&self, column: &mut Column, by: Mask) {
        let key = self.key.as_ref().filter(|_| by == Mask::Hash);
        let key = key.map(|key| key.fingerprint.clone());
        let ty = match by {
            Mask::Hash => std::mem::replace(&mut column.ty, ColumnType::text()),
            Mask::Null | Mask::Year => column.ty.clone(),
        };
        column.mask = Some(Masked { by, key, ty });
        if matches!(column.fill, Fill::Constant(_)) {
            // a value as any other
            column.fill = Fill::Unknown;
        }
    }
}

/// `mask` as it stands in a file: without a text where YAML reads a null.
pub(super) struct RawMask(Option<Given>);

/// Reads `mask`, so that `mask: null` is not as if the field were missing.
pub(super) fn given<'de, D: Deserializer<'de>>(from: D) -> Result<Option<RawMask>, D::Error> {
    Option::<Given>::deserialize(from).map(|given| Some(RawMask(given)))
}

pub(super) fn read(file: &File<'_>, field: &str, raw: Option<&RawMask>) -> Result<Option<Mask>> {
    let Some(RawMask(given)) = raw else { return Ok(None) };
    if given.is_none() && !file.is_written_null(field) {
        let remedy = "write null, hash or year behind it, or remove the field";
        return Err(file.refuse(field, "the value is missing", remedy));
    }
    Ok(Some(match file.choice(field, given.as_ref(), &["null", "hash", "year"])? {
        "hash" => Mask::Hash,
        "year" => Mask::Year,
        _ => Mask::Null,
    }))
}

/// Reads `mask_key`: a reference, never the key itself.
pub(super) fn read_key(file: &File<'_>, given: Option<&Given>) -> Result<Option<MaskKey>> {
    const FIELD: &str = "mask_key";
    const REMEDY: &str = "write mask_key: \"${SILTSTONE_MASK_KEY}\" or \"${file:/path}\"";
    let Some(given) = given else { return Ok(None) };
    let inner = given.raw().strip_prefix("${").and_then(|rest| rest.strip_suffix('}'));
    if inner.is_none_or(|inner| inner.contains(['{', '}']) || inner.contains(":-")) {
        let why = "the key stands in the file, where others read it";
        return Err(file.refuse_given(FIELD, given, why, REMEDY));
    }
    let secret = Secret::new(file.text(FIELD, given)?);
    MaskKey::new(&secret).map(Some).ok_or_else(|| {
        let why = format!("the key is shorter than {LEAST_KEY} bytes");
        file.refuse_given(FIELD, given, &why, "make one, such as by: openssl rand -hex 32")
    })
}

impl Files<'_> {
    /// Refuses masks that contradict each other, and tables that could not hold what is masked.
    pub(super) fn masks(&self, models: &[Model], key: Option<&MaskKey>) -> Result<()> {
        let mut known: BTreeMap<(&super::SourceName, &str), (&Model, Mask)> = BTreeMap::new();
        for model in models {
            for column in &model.columns {
                let Some(mask) = column.mask else { continue };
                let of = (&model.from, column.from.as_str());
                let (first, other) = *known.entry(of).or_insert((model, mask));
                let field = format!("columns.{}.mask", column.name);
                let refuse = |why: &str, remedy: &str| {
                    Err(self.refuse(&model.declared_in, &field, why, remedy))
                };
                if other != mask {
                    let (file, word) = (&first.declared_in, other.word());
                    let why = format!("{file} masks {}.{} by {word}", model.from, column.from);
                    return refuse(&why, "write the same mask in both: it is masked once, for all");
                }
                if mask == Mask::Hash && key.is_none() {
                    let remedy = "set mask_key: \"${SILTSTONE_MASK_KEY}\" in siltstone.yaml";
                    return refuse("there is no key to hash by", remedy);
                }
            }
        }
        for model in models {
            for column in &model.columns {
                if let Some((first, mask)) = known.get(&(&model.from, column.from.as_str())) {
                    self.masked(model, column, (first, *mask))?;
                }
            }
        }
        Ok(())
    }

    fn masked(&self, model: &Model, column: &ModelColumn, by: (&Model, Mask)) -> Result<()> {
        let (first, mask) = by;
        let who = match column.mask {
            Some(_) => format!("{} is masked", column.name),
            None => format!("{} masks {}.{}", first.declared_in, model.from, column.from),
        };
        let refuse = |field: String, why: &str, remedy: &str| {
            let why = format!("{who} by {}, {why}", mask.word());
            Err(self.refuse(&model.declared_in, &field, &why, remedy))
        };
        let field = |name: &str| format!("columns.{}.{name}", column.name);
        let in_key = model.key.contains(&column.name);
        let since = model.since.as_ref() == Some(&column.name);
        match mask {
            Mask::Hash if !holds_hash(&column.ty) => {
                let why = format!("which is a text of {DIGITS} hex digits");
                refuse(field("type"), &why, "write text, or varchar(64)")
            }
            Mask::Year if !column.tells_time() || column.ty.contains('[') => {
                let remedy = "write date, timestamp or timestamptz, or another mask";
                refuse(field("type"), "which only a date or timestamp has", remedy)
            }
            Mask::Null if column.required => refuse(
                field("required"),
                "which leaves no value",
                "remove required, or mask by hash",
            ),
            Mask::Null | Mask::Year if in_key => {
                let why = "and rows that differ in it alone would become one";
                refuse("key".to_owned(), why, "mask it by hash, which keeps keys apart")
            }
            Mask::Null | Mask::Year if since => {
                let why = "so that no version's beginning could be told from it";
                refuse("since".to_owned(), why, "name another column, or remove the field")
            }
            _ => Ok(()),
        }
    }
}

/// Whether a type of the warehouse holds a hash as it is.
fn holds_hash(ty: &str) -> bool {
    let ty = ty.to_ascii_lowercase();
    let (name, modifier) = ty.split_once('(').unwrap_or((&ty, ""));
    let length = modifier.trim_end_matches(')').trim();
    match name.trim() {
        "text" => modifier.is_empty(),
        "varchar" | "character varying" if modifier.is_empty() => true,
        "varchar" | "character varying" => length.parse().is_ok_and(|n: usize| n >= DIGITS),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_is_the_hmac_of_rfc_4231_and_the_key_is_not_shown() {
        let key = MaskKey::new(&Secret::new("\u{b}".repeat(20))).unwrap();
        let mut digits = Vec::new();
        key.write_hash(b"Hi There", &mut digits);
        let expected = "b0344c61d8db38535ca8afceaf0bf12b881dc200c9833da726e9376c2e32cff7";
        assert_eq!(String::from_utf8(digits).unwrap(), expected);
        assert_eq!(format!("{key:?}"), "***");
        assert!(MaskKey::new(&Secret::new("fifteen letters".to_owned())).is_none());
    }

    #[test]
    fn a_hash_needs_a_text_that_is_long_enough() {
        for ty in ["text", "varchar", "varchar(64)", "character varying(255)"] {
            assert!(holds_hash(ty), "{ty}");
        }
        for ty in ["varchar(63)", "char(64)", "bigint", "text[]", "date"] {
            assert!(!holds_hash(ty), "{ty}");
        }
    }
}
