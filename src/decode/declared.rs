//! How fields are written whose types are declared, by a file or by the table, and not by a schema that travels with
//! them; and how a written field becomes a value of a declared type. Pure.

use super::order::Origin;
use super::semantic::{Encoding, Field, Semantic, Unit, named_otherwise, of_field, plain_type};
use crate::relation::ColumnType;
use crate::spec::{BinaryMode, DecimalMode, IntervalMode, TimeMode, Types};

/// The type of a column of the warehouse.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeclaredType {
    /// As DDL names it.
    pub ty: String,
    /// Of a domain the type below it; else the same.
    pub base: String,
    /// Whether no Debezium knows it: a composite type, a multirange, a range of a person's own.
    pub unknown: bool,
}

impl DeclaredType {
    /// A type of which the catalogue was not asked.
    pub fn of(ty: &str) -> DeclaredType {
        DeclaredType { ty: ty.to_owned(), base: ty.to_owned(), unknown: false }
    }

    /// Of an array its element; the modifier of that stands before the brackets.
    fn element(&self) -> Option<DeclaredType> {
        let of = |ty: &str| ty.strip_suffix("[]").map(str::to_owned);
        let base = of(&self.base)?;
        // a domain that is an array has no name for its element
        let ty = of(&self.ty).unwrap_or_else(|| base.clone());
        Some(DeclaredType { ty, base, unknown: self.unknown })
    }

    /// Whether Debezium knows no such type: it then sends the bytes of its text, where
    /// `include.unknown.datatypes` says so.
    fn is_unknown(&self) -> bool {
        // Debezium documentation, "PostgreSQL data types"; tsvector is known since 3.5
        const UNKNOWN: [&str; 14] = [
            "box",
            "circle",
            "jsonpath",
            "line",
            "lseg",
            "path",
            "pg_lsn",
            "pg_snapshot",
            "polygon",
            "tid",
            "tsquery",
            "tsvector",
            "txid_snapshot",
            "xid8",
        ];
        let base = split_type(&self.base).0;
        self.unknown || UNKNOWN.contains(&base) || base.ends_with("multirange")
    }

    /// How values of a domain travel: as texts, which the warehouse casts to it.
    fn or_domain(&self, (semantic, ty): (Semantic, ColumnType)) -> (Semantic, ColumnType) {
        let ty = if self.ty == self.base { ty } else { cast(&self.ty) };
        (semantic, ty)
    }
}

/// How a field of a schema is read, whose column in the warehouse may be there or declared already.
pub(super) fn by_schema(
    field: &Field,
    declared: Option<&DeclaredType>,
    types: &Types,
    origin: &Origin<'_>,
) -> (Semantic, ColumnType) {
    const TIME: u32 = 1083;
    let is_of_day = declared.is_some_and(|of| family(split_type(&of.base).0) == Some(TIME));
    let read = match of_field(field) {
        // TIME of a MySQL is a length of time, of up to 838 hours and of less than none
        (Semantic::Time(unit), _)
            if origin.is_mysql() && field.is_count_of_debezium() && !is_of_day =>
        {
            let semantic = Semantic::Duration(unit);
            let ty = plain_type(&semantic);
            (semantic, ty)
        }
        read => read,
    };
    match declared {
        Some(declared) => declared.or_domain(fitted(read, declared, types)),
        None => read,
    }
}

/// The same where no schema travels; see [`of_type`].
pub(super) fn by_declaration(
    declared: &DeclaredType,
    types: &Types,
    scale: Option<i32>,
    origin: &Origin<'_>,
) -> Result<(Semantic, ColumnType), String> {
    let (semantic, ty) = of_declared(declared, types, scale)?;
    // Debezium has no adaptive times of a MySQL, and what is an interval here is a TIME there
    let unit = match types.time {
        TimeMode::Adaptive => Unit::Micros,
        mode => unit(mode, None, true),
    };
    let semantic = match semantic {
        Semantic::Time(_) if origin.is_mysql() => Semantic::Time(unit),
        Semantic::Duration(_) | Semantic::IsoInterval if origin.is_mysql() => {
            Semantic::Duration(unit)
        }
        semantic => semantic,
    };
    Ok((semantic, ty))
}

/// How values of a column of this warehouse type are read where no schema travels with them, by what the
/// connector's file says of Debezium's modes. `scale` is that of its base64 decimals. Or why they cannot
/// be read.
pub(super) fn of_type(
    declared: &str,
    types: &Types,
    scale: Option<i32>,
) -> Result<(Semantic, ColumnType), String> {
    of_declared(&DeclaredType::of(declared), types, scale)
}

fn of_declared(
    declared: &DeclaredType,
    types: &Types,
    scale: Option<i32>,
) -> Result<(Semantic, ColumnType), String> {
    if let Some(element) = declared.element() {
        let (element, _) = of_declared(&element, types, scale)?;
        return Ok((Semantic::Array(Box::new(element)), cast(&declared.ty)));
    }
    let (base, modifier) = split_type(&declared.base);
    let precision = modifier.and_then(|modifier| modifier.parse::<u32>().ok());
    let bytes = encoding(types);
    let semantic = match base {
        "boolean" | "bool" => Semantic::Bool,
        "smallint" | "int2" => Semantic::Int2,
        "integer" | "int" | "int4" => Semantic::Int4,
        "bigint" | "int8" => Semantic::Int8,
        "real" | "float4" => Semantic::Float4,
        "double precision" | "float8" => Semantic::Float8,
        "uuid" => Semantic::Uuid,
        "jsonb" | "json" => Semantic::Json,
        "bytea" => Semantic::Bytes(bytes),
        "numeric" | "decimal" => match (types.decimal, modifier, scale) {
            (DecimalMode::String | DecimalMode::Double, _, _) => Semantic::Number,
            (DecimalMode::Precise, _, Some(scale)) => Semantic::Decimal(scale),
            (DecimalMode::Precise, None, None) => Semantic::ScaledDecimal,
            (DecimalMode::Precise, Some(_), None) => {
                return Err("its decimals come as base64 without their scale: name it under \
                            types.decimal_scale, or set types.decimal to what the connector has"
                    .to_owned());
            }
        },
        // of two digits behind the point, unless the source's lc_monetary says otherwise
        "money" => match types.decimal {
            DecimalMode::Precise => Semantic::Decimal(scale.unwrap_or(2)),
            DecimalMode::Double => Semantic::Number,
            DecimalMode::String => Semantic::Plain,
        },
        "date" => Semantic::Date,
        "time" | "time without time zone" => Semantic::Time(unit(types.time, precision, true)),
        "timestamp" | "timestamp without time zone" => {
            Semantic::Timestamp(unit(types.time, precision, false))
        }
        "timestamptz" | "timestamp with time zone" => {
            Semantic::Moment(unit(types.time, precision, false))
        }
        "timetz" | "time with time zone" => Semantic::ZonedTime,
        "interval" => match types.interval {
            IntervalMode::Numeric => Semantic::Duration(Unit::Micros),
            IntervalMode::String => Semantic::IsoInterval,
        },
        "bit" => Semantic::Bits(Some(precision.map_or(1, |bits| bits as usize))),
        "bit varying" | "varbit" => Semantic::Bits(None),
        "point" => Semantic::Point,
        "geometry" | "geography" => Semantic::Geometry,
        "hstore" => Semantic::Map,
        "vector" | "halfvec" => Semantic::Vector,
        "sparsevec" => Semantic::SparseVector,
        _ if declared.is_unknown() => Semantic::Unknown(bytes),
        "text" | "character varying" | "varchar" | "character" | "char" | "name" => Semantic::Text,
        _ => Semantic::Plain,
    };
    let ty = stated_type(&declared.base, base, &semantic);
    Ok(declared.or_domain((semantic, ty)))
}

/// How the bytes of a column are written.
fn encoding(types: &Types) -> Encoding {
    match types.binary {
        BinaryMode::Bytes | BinaryMode::Base64 => Encoding::Base64,
        BinaryMode::Base64UrlSafe => Encoding::Base64Url,
        BinaryMode::Hex => Encoding::Hex,
    }
}

/// The type under which the values count: the warehouse column's own, so that nothing alters it. They travel in
/// its binary form where their own form is that one; else the warehouse casts their text to it.
fn stated_type(declared: &str, base: &str, semantic: &Semantic) -> ColumnType {
    const BIT: u32 = 1560;
    let plain = plain_type(semantic);
    match (semantic, base) {
        (Semantic::Json, "jsonb") => plain,
        (Semantic::Bits(_), "bit") => named_otherwise(BIT, declared),
        _ if family(base) == Some(plain.oid) => named_otherwise(plain.oid, declared),
        _ => cast(declared),
    }
}

/// A type to which the warehouse casts texts.
fn cast(declared: &str) -> ColumnType {
    named_otherwise(0, declared)
}

/// The type whose binary form a type has that is known by this name.
pub(super) fn family(base: &str) -> Option<u32> {
    Some(match base {
        "boolean" | "bool" => 16,
        "bytea" => 17,
        "bigint" | "int8" => 20,
        "smallint" | "int2" => 21,
        "integer" | "int" | "int4" => 23,
        "text" | "character varying" | "varchar" | "character" | "char" | "bpchar" => 25,
        "json" | "jsonb" => 114,
        "real" | "float4" => 700,
        "double precision" | "float8" => 701,
        "date" => 1082,
        "time" | "time without time zone" => 1083,
        "timestamp" | "timestamp without time zone" => 1114,
        "timestamptz" | "timestamp with time zone" => 1184,
        "interval" => 1186,
        "timetz" | "time with time zone" => 1266,
        "bit" => 1560,
        "bit varying" | "varbit" => 1562,
        "numeric" | "decimal" => 1700,
        "uuid" => 2950,
        _ => return None,
    })
}

/// The name of a type without its schema, and its modifier.
pub(super) fn split_type(declared: &str) -> (&str, Option<&str>) {
    // hstore of an extension that is not on the search path
    let declared = match declared.split_once('.') {
        Some((schema, name)) if !schema.contains(['(', ' ']) => name.trim_matches('"'),
        _ => declared,
    };
    let (base, rest) = match declared.split_once('(') {
        Some((base, rest)) => (without_fields(base.trim()), rest),
        None => return (without_fields(declared.trim()), None),
    };
    let (modifier, behind) = rest.split_once(')').unwrap_or((rest, ""));
    match behind.trim() {
        "" => (base, Some(modifier)),
        // timestamp(3) with time zone
        "with time zone" if base == "timestamp" => ("timestamptz", Some(modifier)),
        "with time zone" if base == "time" => ("timetz", Some(modifier)),
        _ => (base, Some(modifier)),
    }
}

/// `interval` of `interval day to second`.
fn without_fields(base: &str) -> &str {
    let is_interval = base.starts_with("interval ") && !base.ends_with("[]");
    if is_interval { "interval" } else { base }
}

/// What a count of time is in.
fn unit(mode: TimeMode, precision: Option<u32>, of_day: bool) -> Unit {
    match mode {
        TimeMode::Connect => Unit::Millis,
        TimeMode::IsoString | TimeMode::Microseconds => Unit::Micros,
        TimeMode::Nanoseconds => Unit::Nanos,
        TimeMode::AdaptiveTimeMicroseconds if of_day => Unit::Micros,
        TimeMode::Adaptive | TimeMode::AdaptiveTimeMicroseconds => match precision {
            Some(0..=3) => Unit::Millis,
            _ => Unit::Micros,
        },
    }
}

/// How a field of a schema is read where the warehouse column that takes it has another type than the schema
/// says: some of Debezium's modes write texts and bytes in whose place the type knows better.
fn fitted(
    (semantic, ty): (Semantic, ColumnType),
    declared: &DeclaredType,
    types: &Types,
) -> (Semantic, ColumnType) {
    if let (Semantic::Array(element), Some(of)) = (&semantic, declared.element()) {
        let ty = plain_type(element);
        let (element, _) = fitted(((**element).clone(), ty), &of, types);
        return (Semantic::Array(Box::new(element)), cast(&declared.ty));
    }
    let is_unknown = declared.is_unknown();
    let declared = declared.base.as_str();
    let (base, modifier) = split_type(declared);
    let precision = modifier.and_then(|modifier| modifier.parse::<u32>().ok());
    let stated = |semantic: Semantic| {
        let ty = stated_type(declared, base, &semantic);
        (semantic, ty)
    };
    match (&semantic, base) {
        (Semantic::Json, "hstore") => (Semantic::Map, cast(declared)),
        (Semantic::Map, "json" | "jsonb") => stated(Semantic::Json),
        // digits keep what a float would lose
        (Semantic::Text | Semantic::Float4 | Semantic::Float8, "numeric" | "decimal") => {
            stated(Semantic::Number)
        }
        (_, "money") => (semantic, cast(declared)),
        (Semantic::Int8, "oid") => (Semantic::Plain, cast(declared)),
        (Semantic::Text, "bytea") => stated(Semantic::Bytes(encoding(types))),
        (Semantic::Bits(_) | Semantic::Bool, "bit varying" | "varbit") => {
            stated(Semantic::Bits(None))
        }
        // of one bit
        (Semantic::Bool, "bit") => stated(Semantic::Bits(Some(1))),
        // tinyint(1) of a MySQL
        (Semantic::Int2 | Semantic::Int4, "boolean" | "bool") => stated(Semantic::Bool),
        (Semantic::Duration(_) | Semantic::IsoInterval, "interval") => stated(semantic),
        (Semantic::Point, "geometry" | "geography") => (Semantic::Geometry, cast(declared)),
        (Semantic::Bytes(_), base) if base != "bytea" => {
            (Semantic::Unknown(Encoding::Base64), cast(declared))
        }
        (Semantic::Text, _) if is_unknown && types.binary != BinaryMode::Bytes => {
            (Semantic::Unknown(encoding(types)), cast(declared))
        }
        (Semantic::Time(Unit::Millis) | Semantic::Timestamp(Unit::Millis), _)
            if family(base) == Some(ty.oid) && precision.is_none_or(|digits| digits >= 3) =>
        {
            stated(semantic)
        }
        // how long a text may be, the schema does not say
        (Semantic::Text | Semantic::Json, _) if family(base) == Some(ty.oid) => stated(semantic),
        (Semantic::Text, _) if family(base).is_none() => (Semantic::Plain, cast(declared)),
        (
            Semantic::Plain
            | Semantic::Point
            | Semantic::Geometry
            | Semantic::Vector
            | Semantic::SparseVector
            | Semantic::Map
            | Semantic::Unknown(_),
            _,
        ) => (semantic, cast(declared)),
        _ => (semantic, ty),
    }
}

#[cfg(test)]
mod tests;
