//! How fields are written whose types are declared, by a file or by the table, and not by a schema that travels with
//! them; and how a written field becomes a value of a declared type. Pure.

use super::order::Origin;
use super::semantic::{
    Encoding, Field, Semantic, Unit, array_of, named_otherwise, of_field, plain_type,
};
use crate::relation::ColumnType;
use crate::spec::{BinaryMode, DecimalMode, IntervalMode, TimeMode, Types};

/// How a field of a schema is read, whose column in the warehouse may be there or declared already.
pub(super) fn by_schema(
    field: &Field,
    declared: Option<&str>,
    types: &Types,
    origin: &Origin<'_>,
) -> (Semantic, ColumnType) {
    const TIME: u32 = 1083;
    let is_of_day = declared.is_some_and(|ty| family(split_type(ty).0) == Some(TIME));
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
    fitted(read, declared, types)
}

/// The same where no schema travels; see [`of_type`].
pub(super) fn by_declaration(
    declared: &str,
    types: &Types,
    scale: Option<i32>,
    origin: &Origin<'_>,
) -> Result<(Semantic, ColumnType), String> {
    let (semantic, ty) = of_type(declared, types, scale)?;
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
    let (base, modifier) = split_type(declared);
    if let Some(element) = base.strip_suffix("[]") {
        let (element, ty) = of_type(element, types, scale)?;
        return Ok((Semantic::Array(Box::new(element)), array_of(&ty)));
    }
    let precision = modifier.and_then(|modifier| modifier.parse::<u32>().ok());
    let bytes = match types.binary {
        BinaryMode::Bytes | BinaryMode::Base64 => Encoding::Base64,
        BinaryMode::Base64UrlSafe => Encoding::Base64Url,
        BinaryMode::Hex => Encoding::Hex,
    };
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
        "money" => Semantic::Plain,
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
        "vector" => Semantic::Vector,
        "text" | "character varying" | "varchar" | "character" | "char" | "name" => Semantic::Text,
        _ => Semantic::Plain,
    };
    Ok((semantic.clone(), stated_type(declared, base, &semantic)))
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
        Some((base, rest)) => (base.trim(), rest),
        None => return (declared.trim(), None),
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
    declared: Option<&str>,
    types: &Types,
) -> (Semantic, ColumnType) {
    let Some(declared) = declared else { return (semantic, ty) };
    let (base, modifier) = split_type(declared);
    let precision = modifier.and_then(|modifier| modifier.parse::<u32>().ok());
    let stated = |semantic: Semantic| {
        let ty = stated_type(declared, base, &semantic);
        (semantic, ty)
    };
    match (&semantic, base) {
        (Semantic::Array(_), base) if base.ends_with("[]") => (semantic, cast(declared)),
        (Semantic::Json, "hstore") => (Semantic::Map, cast(declared)),
        (Semantic::Map, "json" | "jsonb") => stated(Semantic::Json),
        // digits keep what a float would lose
        (Semantic::Text | Semantic::Float4 | Semantic::Float8, "numeric" | "decimal") => {
            stated(Semantic::Number)
        }
        (_, "money") => (semantic, cast(declared)),
        (Semantic::Text, "bytea") => {
            let encoding = match types.binary {
                BinaryMode::Hex => Encoding::Hex,
                BinaryMode::Base64UrlSafe => Encoding::Base64Url,
                BinaryMode::Bytes | BinaryMode::Base64 => Encoding::Base64,
            };
            stated(Semantic::Bytes(encoding))
        }
        (Semantic::Bits(_), "bit varying" | "varbit") => stated(Semantic::Bits(None)),
        (Semantic::Bytes(_), base) if base != "bytea" => (Semantic::Unknown, cast(declared)),
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
            | Semantic::Map
            | Semantic::Unknown,
            _,
        ) => (semantic, cast(declared)),
        _ => (semantic, ty),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::convert::text_of;

    fn of_connector(json: &str) -> Origin<'_> {
        serde_json::from_str(json).unwrap()
    }

    const MYSQL: &str = r#"{"connector":"mysql"}"#;
    const POSTGRES: &str = r#"{"connector":"postgresql"}"#;

    /// The source type, and how two counts are read, of a field in a warehouse column of a type.
    fn read(
        (source, name): (&str, &str),
        declared: Option<&str>,
        counts: [&str; 2],
    ) -> (String, [String; 2]) {
        let kind = "int64".to_owned();
        let field = Field { name: Some(name.to_owned()), kind, ..Field::default() };
        let source = of_connector(source);
        let (semantic, ty) = by_schema(&field, declared, &Types::default(), &source);
        let base = ty.name.split(['(', ' ']).next().unwrap_or_default().to_owned();
        (base, counts.map(|raw| text_of(&semantic, raw).unwrap_or_else(|why| why)))
    }

    fn becomes(ty: &str, texts: [&str; 2]) -> (String, [String; 2]) {
        (ty.to_owned(), texts.map(str::to_owned))
    }

    #[test]
    fn a_time_of_mysql_is_a_length_of_time() {
        let micros = "io.debezium.time.MicroTime";
        let counts = ["360000500000", "-3600000000"];
        let lengths = becomes("interval", ["100:00:00.5", "-01:00:00"]);
        for declared in [None, Some("interval"), Some("text")] {
            assert_eq!(read((MYSQL, micros), declared, counts), lengths);
        }
        let nanos = (MYSQL, "io.debezium.time.NanoTime");
        assert_eq!(read(nanos, None, ["360000500000000", "-3600000000000"]), lengths);
        let millis = (r#"{"file":"mysql-bin.000001"}"#, "io.debezium.time.Time");
        assert_eq!(read(millis, None, ["360000500", "-3600000"]), lengths);

        let within = ["3600500000", "-3600000000"];
        let of_day = becomes("time", ["01:00:00.5", "is not a time of day"]);
        assert_eq!(read((MYSQL, micros), Some("time(3)"), within), of_day);
        assert_eq!(read((MYSQL, micros), Some("time without time zone"), within), of_day);
        assert_eq!(read((POSTGRES, micros), None, within), of_day);
    }

    #[test]
    fn without_a_schema_a_length_of_time_is_in_the_unit_of_times_of_day() {
        let read = |source, declared, time| {
            let types = Types { time, ..Types::default() };
            by_declaration(declared, &types, None, &of_connector(source)).unwrap().0
        };
        assert_eq!(read(MYSQL, "time(0)", TimeMode::Adaptive), Semantic::Time(Unit::Micros));
        assert_eq!(read(POSTGRES, "time(0)", TimeMode::Adaptive), Semantic::Time(Unit::Millis));
        let nanos = TimeMode::Nanoseconds;
        assert_eq!(read(MYSQL, "interval", TimeMode::Adaptive), Semantic::Duration(Unit::Micros));
        assert_eq!(read(MYSQL, "interval", nanos), Semantic::Duration(Unit::Nanos));
        assert_eq!(read(POSTGRES, "interval", nanos), Semantic::Duration(Unit::Micros));
    }
}
