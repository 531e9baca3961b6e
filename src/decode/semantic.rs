//! What a field of a Debezium event means: from its Kafka Connect schema, or from the type of the warehouse
//! column where none travels with the event.
//!
//! Pure: it decides how a value is read and as which source type it counts; `convert` reads it.
//!
//! Source of the names: Debezium documentation, "Data type mappings"; Kafka Connect, `org.apache.kafka.connect.data`.

use serde::Deserialize;

use crate::relation::{ColumnType, TypeKind};

/// How a JSON value is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Semantic {
    Bool,
    Int2,
    Int4,
    Int8,
    Float4,
    Float8,
    Text,
    /// text of a type whose binary form we do not write: the column travels as text
    Plain,
    Uuid,
    Json,
    Bytes(Encoding),
    /// an unscaled integer in base64
    Decimal(i32),
    /// the same beside its own scale
    ScaledDecimal,
    /// digits, as a string or a number
    Number,
    // of the following a number is a count and a string is ISO 8601, whatever was expected
    /// days since 1970
    Date,
    Time(Unit),
    Timestamp(Unit),
    /// with a zone
    Moment(Unit),
    ZonedTime,
    /// a length of time in one number, months counted as 30.4375 days
    Duration(Unit),
    IsoInterval,
    /// little-endian bits, so many of them; none where the length is lost
    Bits(Option<usize>),
    Point,
    Geometry,
    /// numbers, in brackets
    Vector,
    /// how many dimensions, and the numbers of those that are not 0
    SparseVector,
    Array(Box<Semantic>),
    /// keys and values, as text of the type hstore
    Map,
    /// bytes of the text of a type that Debezium does not know; or that text, as a newer one has it
    Unknown(Encoding),
}

/// What one is in a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unit {
    Millis,
    Micros,
    Nanos,
}

/// How bytes are written as a string.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Encoding {
    Base64,
    Base64Url,
    Hex,
}

/// A field of a Kafka Connect schema, as far as we read it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub(super) struct Field {
    #[serde(default)]
    pub(super) field: Option<String>,
    #[serde(rename = "type")]
    pub(super) kind: String,
    #[serde(default)]
    pub(super) name: Option<String>,
    #[serde(default)]
    pub(super) optional: bool,
    /// as JSON
    #[serde(default, deserialize_with = "json")]
    pub(super) default: Option<String>,
    #[serde(default)]
    pub(super) parameters: Option<std::collections::BTreeMap<String, String>>,
    #[serde(default)]
    pub(super) fields: Vec<Field>,
    #[serde(default)]
    pub(super) items: Option<Box<Field>>,
}

fn json<'de, D: serde::Deserializer<'de>>(given: D) -> Result<Option<String>, D::Error> {
    let json = <Box<serde_json::value::RawValue>>::deserialize(given)?;
    Ok(Some(json.get().to_owned()).filter(|json| json != "null"))
}

impl Field {
    pub(super) fn child(&self, name: &str) -> Option<&Field> {
        self.fields.iter().find(|field| field.field.as_deref() == Some(name))
    }

    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.as_ref()?.get(name).map(String::as_str)
    }

    /// Whether it is a count of time by a schema of Debezium's own; those of Kafka Connect hold no more than a day.
    pub(super) fn is_count_of_debezium(&self) -> bool {
        let name = self.name.as_deref().unwrap_or_default();
        name.starts_with("io.debezium.time.") && self.kind.starts_with("int")
    }

    fn number(&self, name: &str) -> Option<i32> {
        self.parameter(name)?.parse().ok()
    }
}

/// How a field of a schema is read, and the source type it stands for.
pub(super) fn of_field(field: &Field) -> (Semantic, ColumnType) {
    let semantic = semantic(field);
    let declared = declared(field);
    let ty = match (&semantic, declared) {
        (_, Some(ty)) => ty,
        (Semantic::Array(element), None) => {
            let element = element_type(field, element);
            array_of(&element)
        }
        _ => column_type(field, &semantic),
    };
    (semantic, ty)
}

fn semantic(field: &Field) -> Semantic {
    if let Some(semantic) = field.name.as_deref().and_then(|name| named(name, field)) {
        return semantic;
    }
    match field.kind.as_str() {
        "boolean" => Semantic::Bool,
        "int8" | "int16" => Semantic::Int2,
        "int32" => Semantic::Int4,
        "int64" => Semantic::Int8,
        "float" | "float32" => Semantic::Float4,
        "double" | "float64" => Semantic::Float8,
        "bytes" => Semantic::Bytes(Encoding::Base64),
        "array" => {
            let item = field.items.as_deref();
            Semantic::Array(Box::new(item.map_or(Semantic::Text, semantic_of_item)))
        }
        "map" => Semantic::Map,
        "struct" => Semantic::Json,
        _ => Semantic::Text,
    }
}

fn semantic_of_item(item: &Field) -> Semantic {
    match semantic(item) {
        // an array of arrays comes as nulls
        Semantic::Array(_) => Semantic::Text,
        semantic => semantic,
    }
}

fn named(name: &str, field: &Field) -> Option<Semantic> {
    use Unit::{Micros, Millis, Nanos};
    Some(match name {
        "org.apache.kafka.connect.data.Decimal" => Semantic::Decimal(field.number("scale")?),
        "org.apache.kafka.connect.data.Date"
        | "io.debezium.time.Date"
        | "io.debezium.time.IsoDate" => Semantic::Date,
        "org.apache.kafka.connect.data.Time" | "io.debezium.time.Time" => Semantic::Time(Millis),
        "org.apache.kafka.connect.data.Timestamp" | "io.debezium.time.Timestamp" => {
            Semantic::Timestamp(Millis)
        }
        "io.debezium.data.VariableScaleDecimal" => Semantic::ScaledDecimal,
        "io.debezium.time.MicroTime" => Semantic::Time(Micros),
        "io.debezium.time.NanoTime" => Semantic::Time(Nanos),
        "io.debezium.time.MicroTimestamp" => Semantic::Timestamp(Micros),
        "io.debezium.time.NanoTimestamp" => Semantic::Timestamp(Nanos),
        "io.debezium.time.IsoTime" => Semantic::Time(Micros),
        "io.debezium.time.IsoTimestamp" => Semantic::Timestamp(Micros),
        "io.debezium.time.ZonedTimestamp" => Semantic::Moment(Micros),
        "io.debezium.time.ZonedTime" => Semantic::ZonedTime,
        "io.debezium.time.MicroDuration" => Semantic::Duration(Micros),
        "io.debezium.time.NanoDuration" => Semantic::Duration(Nanos),
        "io.debezium.time.Interval" => Semantic::IsoInterval,
        "io.debezium.data.Uuid" => Semantic::Uuid,
        "io.debezium.data.Json" => Semantic::Json,
        "io.debezium.data.Bits" => {
            Semantic::Bits(field.number("length").and_then(|length| usize::try_from(length).ok()))
        }
        "io.debezium.data.geometry.Point" => Semantic::Point,
        "io.debezium.data.geometry.Geometry" | "io.debezium.data.geometry.Geography" => {
            Semantic::Geometry
        }
        "io.debezium.data.DoubleVector" | "io.debezium.data.FloatVector" => Semantic::Vector,
        "io.debezium.data.SparseDoubleVector" => Semantic::SparseVector,
        "io.debezium.data.Ltree" | "io.debezium.data.Xml" => Semantic::Plain,
        _ => return None,
    })
}

/// The type by its name in `pg_catalog`, with the OID and the name for DDL.
pub(super) fn builtin(oid: u32, name: &str) -> ColumnType {
    let name = name.to_owned();
    ColumnType { oid, typmod: -1, name: name.clone(), kind: TypeKind::Builtin { oid, name } }
}

/// A type whose values travel as another one's.
pub(super) fn named_otherwise(oid: u32, name: &str) -> ColumnType {
    let kind = TypeKind::Builtin { oid, name: name.to_owned() };
    ColumnType { kind, ..builtin(oid, name) }
}

/// A type that an extension brings; native where the warehouse has it.
pub(super) fn extension(name: &str) -> ColumnType {
    let kind = TypeKind::Extension { name: name.to_owned() };
    ColumnType { oid: 0, typmod: -1, name: name.to_owned(), kind }
}

/// Of a numeric; Postgres' own form of precision and scale in a type modifier.
pub(super) fn numeric(precision: Option<i32>, scale: i32) -> ColumnType {
    const HEADER: i32 = 4;
    let Some(precision) = precision.filter(|precision| (1..=1000).contains(precision)) else {
        return builtin(1700, "numeric");
    };
    let ty = builtin(1700, &format!("numeric({precision},{scale})"));
    ColumnType { typmod: ((precision << 16) | (scale & 0xffff)) + HEADER, ..ty }
}

/// The type that the source itself says (`column.propagate.source.type`), where we know it.
fn declared(field: &Field) -> Option<ColumnType> {
    const HEADER: i32 = 4;
    let name = field.parameter("__debezium.source.column.type")?;
    let length = field.number("__debezium.source.column.length").filter(|length| *length > 0);
    Some(match (name, length) {
        ("VARCHAR", Some(length)) if length <= 10_485_760 => {
            let ty = builtin(1043, &format!("character varying({length})"));
            ColumnType { typmod: length + HEADER, ..ty }
        }
        ("VARCHAR", None) => builtin(1043, "character varying"),
        _ => return None,
    })
}

fn column_type(field: &Field, semantic: &Semantic) -> ColumnType {
    if let Semantic::Decimal(scale) = semantic {
        return numeric(field.number("connect.decimal.precision"), *scale);
    }
    match (semantic, field.name.as_deref()) {
        (_, Some("io.debezium.data.Ltree")) => extension("ltree"),
        (_, Some("io.debezium.data.Xml")) => builtin(142, "xml"),
        (_, Some("io.debezium.data.geometry.Geography")) => extension("geography"),
        (Semantic::Geometry, _) => extension("geometry"),
        (Semantic::Vector, _) => extension("vector"),
        (Semantic::SparseVector, _) => extension("sparsevec"),
        (Semantic::Map, _) => extension("hstore"),
        (Semantic::Bits(Some(length)), _) if *length > 0 => {
            let length = i32::try_from(*length).unwrap_or(i32::MAX);
            ColumnType { typmod: length, ..builtin(1560, &format!("bit({length})")) }
        }
        (semantic, _) => plain_type(semantic),
    }
}

/// The type of a semantic alone.
pub(super) fn plain_type(semantic: &Semantic) -> ColumnType {
    match semantic {
        Semantic::Bool => builtin(16, "boolean"),
        Semantic::Int2 => builtin(21, "smallint"),
        Semantic::Int4 => builtin(23, "integer"),
        Semantic::Int8 => builtin(20, "bigint"),
        Semantic::Float4 => builtin(700, "real"),
        Semantic::Float8 => builtin(701, "double precision"),
        Semantic::Uuid => builtin(2950, "uuid"),
        // it travels as it was written, and is kept as jsonb
        Semantic::Json => named_otherwise(114, "jsonb"),
        Semantic::Bytes(_) => builtin(17, "bytea"),
        Semantic::Decimal(_) | Semantic::ScaledDecimal | Semantic::Number => {
            builtin(1700, "numeric")
        }
        Semantic::Date => builtin(1082, "date"),
        Semantic::Time(_) => builtin(1083, "time without time zone"),
        Semantic::Timestamp(_) => builtin(1114, "timestamp without time zone"),
        Semantic::Moment(_) => builtin(1184, "timestamp with time zone"),
        Semantic::ZonedTime => builtin(1266, "time with time zone"),
        Semantic::Duration(_) | Semantic::IsoInterval => builtin(1186, "interval"),
        Semantic::Bits(_) => builtin(1562, "bit varying"),
        Semantic::Point => builtin(600, "point"),
        Semantic::Text
        | Semantic::Plain
        | Semantic::Geometry
        | Semantic::Vector
        | Semantic::SparseVector
        | Semantic::Array(_)
        | Semantic::Map
        | Semantic::Unknown(_) => ColumnType::text(),
    }
}

fn element_type(field: &Field, element: &Semantic) -> ColumnType {
    match field.items.as_deref() {
        Some(item) => column_type(item, element),
        None => plain_type(element),
    }
}

/// The array of a type; of one that we do not know, an array of text.
pub(super) fn array_of(element: &ColumnType) -> ColumnType {
    const ARRAYS: [(u32, u32); 20] = [
        (16, 1000),
        (17, 1001),
        (20, 1016),
        (21, 1005),
        (23, 1007),
        (25, 1009),
        (600, 1017),
        (700, 1021),
        (701, 1022),
        (1043, 1015),
        (1082, 1182),
        (1083, 1183),
        (1114, 1115),
        (1184, 1185),
        (1186, 1187),
        (1266, 1270),
        (1700, 1231),
        (2950, 2951),
        (3802, 3807),
        (142, 143),
    ];
    let known = ARRAYS.iter().find(|(of, _)| *of == element.oid && element.oid != 0);
    match known {
        Some((_, array)) => {
            let name = format!("{}[]", element.name);
            ColumnType { typmod: element.typmod, ..builtin(*array, &name) }
        }
        None => builtin(1009, "text[]"),
    }
}

/// Whether values that are read so come in binary form of the type, and not as text.
pub(super) fn is_binary(semantic: &Semantic, ty: &ColumnType) -> bool {
    let textual = matches!(
        semantic,
        Semantic::Plain
            | Semantic::Point
            | Semantic::Geometry
            | Semantic::Vector
            | Semantic::SparseVector
            | Semantic::Array(_)
            | Semantic::Map
            | Semantic::Unknown(_)
    );
    !textual && ty.binary().is_some()
}
