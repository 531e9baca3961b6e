//! How values become those of a declared type.

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
    let (semantic, ty) =
        by_schema(&field, declared.map(DeclaredType::of).as_ref(), &Types::default(), &source);
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
        by_declaration(&DeclaredType::of(declared), &types, None, &of_connector(source)).unwrap().0
    };
    assert_eq!(read(MYSQL, "time(0)", TimeMode::Adaptive), Semantic::Time(Unit::Micros));
    assert_eq!(read(POSTGRES, "time(0)", TimeMode::Adaptive), Semantic::Time(Unit::Millis));
    let nanos = TimeMode::Nanoseconds;
    assert_eq!(read(MYSQL, "interval", TimeMode::Adaptive), Semantic::Duration(Unit::Micros));
    assert_eq!(read(MYSQL, "interval", nanos), Semantic::Duration(Unit::Nanos));
    assert_eq!(read(POSTGRES, "interval", nanos), Semantic::Duration(Unit::Micros));
}

fn field(kind: &str, name: Option<&str>) -> Field {
    Field { kind: kind.to_owned(), name: name.map(str::to_owned), ..Field::default() }
}

fn array_of(item: Field) -> Field {
    Field { items: Some(Box::new(item)), ..field("array", None) }
}

/// The type and the text of a value, by a schema and without one.
fn text(
    schema: Option<&Field>,
    declared: &DeclaredType,
    types: &Types,
    raw: &str,
) -> (String, String) {
    let source = of_connector(POSTGRES);
    let (semantic, ty) = match schema {
        Some(field) => by_schema(field, Some(declared), types, &source),
        None => by_declaration(declared, types, None, &source).unwrap(),
    };
    (ty.name, text_of(&semantic, raw).unwrap())
}

#[test]
fn an_array_of_elements_with_a_modifier_is_of_these() {
    let string = Types { decimal: DecimalMode::String, ..Types::default() };
    let cases = [
        ("character varying(20)[]", Types::default(), r#"["a","b"]"#, r#"{"a","b"}"#),
        ("numeric(10,2)[]", string.clone(), r#"["1.50",null]"#, r#"{"1.50",NULL}"#),
        (
            "timestamp(3) without time zone[]",
            Types::default(),
            "[1000]",
            r#"{"1970-01-01 00:00:01"}"#,
        ),
        ("inet[]", Types::default(), r#"["10.0.0.1"]"#, r#"{"10.0.0.1"}"#),
        ("hstore[]", Types::default(), r#"["{\"a\":\"1\"}"]"#, r#"{"\"a\"=>\"1\""}"#),
    ];
    for (ty, types, raw, becomes) in cases {
        let shown = text(None, &DeclaredType::of(ty), &types, raw);
        assert_eq!(shown, (ty.to_owned(), becomes.to_owned()));
    }
    let texts = array_of(field("string", None));
    let hex = Types { binary: BinaryMode::Hex, ..Types::default() };
    let cases = [
        ("character varying(20)[]", Types::default(), r#"["a"]"#, r#"{"a"}"#),
        ("numeric(10,2)[]", string, r#"["1.50","POSITIVE_INFINITY"]"#, r#"{"1.50","Infinity"}"#),
        ("bytea[]", hex, r#"["deadbeef"]"#, r#"{"\\xdeadbeef"}"#),
    ];
    for (ty, types, raw, becomes) in cases {
        let shown = text(Some(&texts), &DeclaredType::of(ty), &types, raw);
        assert_eq!(shown, (ty.to_owned(), becomes.to_owned()));
    }
}

#[test]
fn a_type_that_debezium_does_not_know_comes_as_the_bytes_of_its_text() {
    let types = |binary| Types { binary, ..Types::default() };
    let lsn = DeclaredType::of("pg_lsn");
    let base64 = types(BinaryMode::Bytes);
    assert_eq!(text(None, &lsn, &base64, "\"MTYvQjM3NEQ4NDg=\"").1, "16/B374D848");
    let hex = types(BinaryMode::Hex);
    assert_eq!(text(None, &lsn, &hex, "\"31362f42333734443834\"").1, "16/B374D84");
    let texts = field("string", None);
    assert_eq!(text(Some(&texts), &lsn, &hex, "\"31362f42333734443834\"").1, "16/B374D84");
    // a newer one knows it
    let words = DeclaredType::of("tsvector");
    assert_eq!(text(None, &words, &base64, "\"'cat':3 'fat':2\"").1, "'cat':3 'fat':2");
    assert_eq!(text(Some(&texts), &words, &base64, "\"'cat':3\"").1, "'cat':3");
    let pair = DeclaredType { unknown: true, ..DeclaredType::of("shop.pair") };
    assert_eq!(
        text(None, &pair, &base64, "\"KDEsMik=\""),
        ("shop.pair".to_owned(), "(1,2)".to_owned())
    );
    let several = DeclaredType::of("int4multirange");
    assert_eq!(text(None, &several, &base64, "\"e1sxLDMpfQ==\"").1, "{[1,3)}");
}

#[test]
fn a_domain_is_read_as_the_type_below_it() {
    let of = |base: &str| DeclaredType { base: base.to_owned(), ..DeclaredType::of("shop.mine") };
    let shown = |text: &str| ("shop.mine".to_owned(), text.to_owned());
    let types = Types { decimal: DecimalMode::String, ..Types::default() };
    let cases = [
        ("bytea", "\"3q2+7w==\"", "\\xdeadbeef"),
        ("interval", "3600000000", "01:00:00"),
        ("date", "0", "1970-01-01"),
        ("numeric(10,2)", "\"1.50\"", "1.50"),
        ("integer", "7", "7"),
    ];
    for (base, raw, becomes) in cases {
        assert_eq!(text(None, &of(base), &types, raw), shown(becomes), "{base}");
    }
    assert_eq!(text(Some(&field("int32", None)), &of("integer"), &types, "7"), shown("7"));
    let date = field("int32", Some("io.debezium.time.Date"));
    assert_eq!(text(Some(&date), &of("date"), &types, "0"), shown("1970-01-01"));
    let interval = text(None, &DeclaredType::of("interval day to second"), &types, "3600000000");
    assert_eq!(interval, ("interval day to second".to_owned(), "01:00:00".to_owned()));
}

#[test]
fn what_a_schema_tells_coarsely_the_column_knows_better() {
    let types = Types::default();
    let shown = |kind: &str, name: Option<&str>, ty: &str, raw: &str| {
        let shown = text(Some(&field(kind, name)), &DeclaredType::of(ty), &types, raw);
        assert_eq!(shown.0, ty);
        shown.1
    };
    assert_eq!(shown("boolean", None, "bit(1)", "true"), "1");
    assert_eq!(shown("boolean", None, "bit varying(1)", "false"), "0");
    assert_eq!(shown("int64", None, "oid", "4294967295"), "4294967295");
    let micros = Some("io.debezium.time.MicroDuration");
    assert_eq!(shown("int64", micros, "interval(3)", "1500000"), "00:00:01.5");
    assert_eq!(shown("int16", None, "boolean", "1"), "t");
    let sparse = r#"{"dimensions":5,"vector":[[1,1.0],[3,2.5]]}"#;
    let name = Some("io.debezium.data.SparseDoubleVector");
    assert_eq!(shown("struct", name, "sparsevec(5)", sparse), "{1:1,3:2.5}/5");
    assert_eq!(text(None, &DeclaredType::of("sparsevec(5)"), &types, sparse).1, "{1:1,3:2.5}/5");
    assert_eq!(text(None, &DeclaredType::of("vector(2)"), &types, "[1.0, 0.1]").1, "[1,0.1]");
    assert_eq!(text(None, &DeclaredType::of("text"), &types, "7").1, "7");
}

#[test]
fn money_without_a_schema_is_a_decimal_of_two_digits() {
    let read = |decimal, raw: &str| {
        let types = Types { decimal, ..Types::default() };
        text(None, &DeclaredType::of("money"), &types, raw).1
    };
    assert_eq!(read(DecimalMode::Precise, "\"BNI=\""), "12.34");
    assert_eq!(read(DecimalMode::Double, "1.234567891E7"), "12345678.91");
    assert_eq!(read(DecimalMode::String, "\"12.34\""), "12.34");
}
