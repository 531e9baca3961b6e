//! What a source table looks like at some point of its log: columns, types, identity.
//!
//! Built by capture from the catalogue and by decode's Relation messages, kept in `audit.schemas`,
//! read by everyone behind. It knows nothing of the warehouse.

use serde::{Deserialize, Serialize};

use crate::names::TableName;
use crate::types::{Builtin, TEXT};

/// A source table's shape.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relation {
    /// The table's OID at the source; a recreated table has another.
    pub oid: u32,
    /// Its name at the source.
    pub table: TableName,
    /// What the source logs of an updated or deleted row.
    pub identity: Identity,
    /// Columns in the order of the replication stream.
    pub columns: Vec<Column>,
    /// The table's comment.
    pub comment: Option<String>,
    /// How many columns it ever had, by its catalogue: one of a lower number that comes was there before,
    /// as with a generated column that becomes a plain one. 0 where unknown.
    #[serde(default)]
    pub attnums: i16,
    /// The file its rows are in (of its leaves, their sum); another one where they were rewritten. 0
    /// where unknown.
    #[serde(default)]
    pub filenode: i64,
}

/// A table's replica identity (ALTER TABLE … REPLICA IDENTITY).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Identity {
    /// The columns of the primary key or of the chosen index.
    Key,
    /// Whole rows.
    Full,
    /// Nothing: the source can send inserts and truncates only.
    Nothing,
}

/// A column of a source table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Column {
    /// Its name at the source.
    pub name: String,
    /// Its number in the source's catalogue, which survives a rename; 0 where unknown.
    pub attnum: i16,
    /// Its type behind the wall: that of its masked values, where it is masked.
    pub ty: ColumnType,
    /// How its values are masked before anything else sees them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mask: Option<Masked>,
    /// Whether it belongs to the row's key: the immediate primary key, else the identity index.
    pub in_key: bool,
    /// What rows hold that were there before the column was.
    pub fill: Fill,
    /// Whether it is excluded and yet in the stream, for the publication learnt of it too late: nothing
    /// takes its values.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub hidden: bool,
    /// The column's comment.
    pub comment: Option<String>,
    /// Whether its values travel as text whatever the others do, as we do not write their binary form.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_text: bool,
}

impl Column {
    /// Its type at the source, whatever becomes of its values.
    pub fn source_type(&self) -> &ColumnType {
        self.mask.as_ref().map_or(&self.ty, |mask| &mask.ty)
    }

    /// The wire by which its values leave the source.
    pub fn source_wire(&self, binary: bool) -> Wire {
        match self.source_type().binary() {
            Some(builtin) if binary && !self.as_text => Wire::Binary(builtin),
            _ => Wire::Text,
        }
    }
}

/// What stands in the place of a value that nobody may see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mask {
    /// NULL.
    Null,
    /// The HMAC-SHA256 of its text, as lower-case hex digits: equal values stay equal.
    Hash,
    /// The first of January of its year.
    Year,
}

impl Mask {
    /// The word in files.
    pub fn word(self) -> &'static str {
        match self {
            Mask::Null => "null",
            Mask::Hash => "hash",
            Mask::Year => "year",
        }
    }
}

/// How a column is masked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Masked {
    /// What stands in the place of its values.
    pub by: Mask,
    /// Which key they are hashed with: what tells it from others, and says nothing of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The column's type at the source.
    pub ty: ColumnType,
}

impl Masked {
    /// Whether values come out alike under both.
    pub fn is_like(&self, other: &Masked) -> bool {
        (self.by, &self.key) == (other.by, &other.key)
    }
}

/// What existing rows hold in a column that was added to them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fill {
    /// NULL.
    Null,
    /// This constant, in text form (pg_attribute.attmissingval): no event ever carries it.
    Constant(String),
    /// Something only the source can tell, as with a volatile default: the rows must be read again.
    Unknown,
}

/// A column's type at the source.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ColumnType {
    /// Its OID, which for user types holds only at that source.
    pub oid: u32,
    /// Its type modifier, -1 for none.
    pub typmod: i32,
    /// As `format_type` prints it: `numeric(10,2)`.
    pub name: String,
    /// What stands behind it.
    pub kind: TypeKind,
}

/// What stands behind a source type.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TypeKind {
    /// A type of pg_catalog: itself, or the base of a domain, with that base's `format_type`.
    Builtin {
        /// The OID of the type or of the domain's base type.
        oid: u32,
        /// The name a warehouse column gets, with its modifier.
        name: String,
    },
    /// An enum: travels as its label.
    Enum,
    /// An array of enums: travels as text.
    EnumArray,
    /// A type that an extension brings; native where the warehouse has it too.
    Extension {
        /// Its unqualified name.
        name: String,
    },
    /// Anything else (composites, user ranges, arrays of them): kept as text.
    Other,
}

impl ColumnType {
    /// `text`.
    pub fn text() -> ColumnType {
        let name = "text".to_owned();
        let kind = TypeKind::Builtin { oid: TEXT, name: name.clone() };
        ColumnType { oid: TEXT, typmod: -1, name, kind }
    }

    /// The listed type whose binary form a value of this type has, if it may travel as binary.
    pub fn binary(&self) -> Option<Builtin> {
        match &self.kind {
            TypeKind::Builtin { oid, .. } => Builtin::of(*oid),
            TypeKind::Enum => Builtin::of(TEXT),
            TypeKind::EnumArray | TypeKind::Extension { .. } | TypeKind::Other => None,
        }
    }
}

impl ColumnType {
    /// The type, or a domain's base type, with its modifier, where it is a built-in one.
    pub fn base_name(&self) -> Option<&str> {
        match &self.kind {
            TypeKind::Builtin { name, .. } => Some(name),
            _ => None,
        }
    }

    /// Whether equal values of the type are written alike. They are not for numerics without a scale
    /// (1.0 and 1.00), floats (-0 and 0), citext and what is made of such.
    pub fn is_exact(&self) -> bool {
        const PADDED: u32 = 1042;
        const NUMERIC: u32 = 1700;
        match &self.kind {
            TypeKind::Builtin { oid: PADDED | NUMERIC, .. } => self.typmod >= 0,
            TypeKind::Builtin { oid, .. } => EXACT.contains(oid),
            // kept as text
            TypeKind::Enum | TypeKind::EnumArray | TypeKind::Other => true,
            TypeKind::Extension { .. } => false,
        }
    }
}

/// bool, bytea, "char", name, int8, int2, int4, text, oid, cidr, macaddr8, money, macaddr, inet, the arrays
/// of int4, text and int8, varchar, date, time, timestamp, timestamptz, timetz, bit, varbit, uuid, pg_lsn.
const EXACT: &[u32] = &[
    16, 17, 18, 19, 20, 21, 23, 25, 26, 650, 774, 790, 829, 869, 1007, 1009, 1016, 1043, 1082,
    1083, 1114, 1184, 1266, 1560, 1562, 2950, 3220,
];

/// How a column's values arrive: in which form, and so in which type they are staged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wire {
    /// In binary form of this type.
    Binary(Builtin),
    /// In text form.
    Text,
}

impl Wire {
    /// The wire of a column on a connection that does (`binary`) or does not ask for binary.
    pub fn of(column: &Column, binary: bool) -> Wire {
        match column.ty.binary() {
            Some(builtin) if binary && !column.as_text => Wire::Binary(builtin),
            _ => Wire::Text,
        }
    }

    /// The type's name in pg_catalog under which a value is staged.
    pub fn staged_type(self) -> &'static str {
        match self {
            Wire::Binary(builtin) => builtin.name,
            Wire::Text => "text",
        }
    }
}

impl Relation {
    /// The position of a column by its name.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }

    /// The names of the key's columns.
    pub fn key(&self) -> impl Iterator<Item = &str> {
        self.columns.iter().filter(|column| column.in_key).map(|column| column.name.as_str())
    }

    /// The columns that are masked, each with its place.
    pub fn masked(&self) -> impl Iterator<Item = (usize, &Column, &Masked)> {
        let columns = self.columns.iter().enumerate();
        columns.filter_map(|(at, column)| Some((at, column, column.mask.as_ref()?)))
    }

    /// The first column whose values can only travel as text, which makes its whole connector
    /// speak text.
    pub fn text_only(&self) -> Option<&Column> {
        self.columns.iter().find(|column| column.source_type().binary().is_none())
    }
}
