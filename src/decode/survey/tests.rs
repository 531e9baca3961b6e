//! What a survey of records says of their schemas and of what they lose.

use super::*;

const SOURCE: &str =
    r#""source":{"schema":"public","table":"t","lsn":7,"sequence":"[\"5\",\"7\"]"}"#;

fn envelope(fields: &str, op: &str, after: &str) -> String {
    let after_schema = format!(r#"{{"type":"struct","field":"after","fields":[{fields}]}}"#);
    format!(
        r#"{{"schema":{{"type":"struct","fields":[{after_schema}]}},"payload":{{"op":"{op}",{SOURCE},"before":null,"after":{after}}}}}"#
    )
}

fn survey(form: Form, types: &Types, values: &[Option<&str>]) -> Vec<(Vec<String>, Loss)> {
    let mut survey = Survey::new("shop.public.t", form, types);
    let declared = |_: &TableName| {
        let columns = [
            ("price", "numeric(10,2)"),
            ("ratio", "double precision"),
            ("photo", "bytea"),
            ("at", "timestamp"),
        ];
        columns.map(|(name, ty)| (name.to_owned(), ty.to_owned())).to_vec()
    };
    for (offset, value) in (0..).zip(values) {
        let record = TopicRecord {
            topic: "shop.public.t",
            partition: 0,
            offset,
            timestamp: 0,
            key: Some(br#"{"id":1}"#),
            value: value.map(str::as_bytes),
            headers: &[],
        };
        survey.look(&record, &declared);
    }
    assert_eq!(survey.unreadable(), None);
    let losses = survey.losses().into_iter();
    losses.map(|(_, columns, loss)| (columns, loss)).collect()
}

fn loses(column: &str, loss: Loss) -> (Vec<String>, Loss) {
    (vec![column.to_owned()], loss)
}

#[test]
fn schemas_tell_what_a_mode_loses() {
    let fields = r#"{"type":"double","field":"price"},{"type":"double","field":"ratio"},
        {"type":"double","field":"weight","parameters":{"__debezium.source.column.type":"NUMERIC"}},
        {"type":"int64","field":"at","name":"org.apache.kafka.connect.data.Timestamp"},
        {"type":"int64","field":"for","name":"io.debezium.time.MicroDuration"},
        {"type":"int64","field":"fine","name":"io.debezium.time.MicroTimestamp"},
        {"type":"string","field":"photo"}"#;
    let value = envelope(fields, "c", "{}");
    let said = survey(Form::Envelope, &Types::default(), &[Some(&value)]);
    let digits = (vec!["price".to_owned(), "weight".to_owned()], Loss::Digits);
    let expected = [
        digits,
        loses("at", Loss::Microseconds),
        loses("for", Loss::Months),
        loses("photo", Loss::Encoding),
    ];
    assert_eq!(said, expected);
}

#[test]
fn an_unsigned_bigint_that_comes_as_a_signed_one_is_told() {
    let field = |name: &str, kind: &str, source: &str| {
        let source = format!(r#"{{"__debezium.source.column.type":"{source}"}}"#);
        format!(r#"{{"type":"{kind}","field":"{name}","parameters":{source}}}"#)
    };
    let fields = [
        field("big", "int64", "BIGINT UNSIGNED"),
        field("padded", "int64", "BIGINT UNSIGNED ZEROFILL"),
        field("signed", "int64", "BIGINT"),
        field("small", "int64", "INT UNSIGNED"),
        field("precise", "bytes", "BIGINT UNSIGNED"),
    ];
    let value = envelope(&fields.join(","), "c", "{}");
    let said = survey(Form::Envelope, &Types::default(), &[Some(&value)]);
    assert_eq!(said, [(vec!["big".to_owned(), "padded".to_owned()], Loss::Unsigned)]);
}

#[test]
fn where_no_schema_travels_the_declared_modes_tell() {
    let value = format!(r#"{{"op":"c",{SOURCE},"after":{{"price":1.5}}}}"#);
    let types =
        Types { decimal: DecimalMode::Double, binary: BinaryMode::Base64, ..Types::default() };
    let said = survey(Form::Envelope, &types, &[Some(&value)]);
    assert_eq!(said, [loses("price", Loss::Digits), loses("photo", Loss::Bytes)]);
    assert_eq!(survey(Form::Envelope, &Types::default(), &[Some(&value)]), []);
}

#[test]
fn values_that_were_not_sent_are_seen() {
    let after = r#"{"id":1,"bio":"__debezium_unavailable_value","name":"x"}"#;
    let value = envelope(r#"{"type":"string","field":"bio"}"#, "u", after);
    let said = survey(Form::Envelope, &Types::default(), &[Some(&value)]);
    assert_eq!(said, [loses("bio", Loss::Unsent)]);
}

#[test]
fn flattened_records_without_place_or_deletes_are_named() {
    let bare = r#"{"id":1,"name":"x"}"#;
    let types = Types::default();
    let whole = |loss| (Vec::new(), loss);
    let said = survey(Form::Flat, &types, &[Some(bare)]);
    assert_eq!(said, [whole(Loss::Order), whole(Loss::Deletes)]);
    let said = survey(Form::Flat, &types, &[Some(bare), None]);
    assert_eq!(said, [whole(Loss::Order)]);
    let alone = r#"{"id":1,"__deleted":"false","__lsn":7}"#;
    assert_eq!(survey(Form::Flat, &types, &[Some(alone)]), [whole(Loss::Commits)]);
    for place in [r#""__lsn":7,"__source_sequence":"[null,\"7\"]""#, r#""__file":"b.1""#] {
        let full = format!(r#"{{"id":1,"__deleted":"false",{place}}}"#);
        assert_eq!(survey(Form::Flat, &types, &[Some(&full)]), [], "{place}");
    }
}

#[test]
fn counts_of_time_that_fit_another_unit_are_seen() {
    // 2024, 1960, the epoch, and what Debezium has for infinity
    let (millis, micros) = ("1710073800000", "1710073800000000");
    let cases = [
        ("timestamp", millis, true),
        ("timestamp(3)", micros, true),
        ("timestamp", micros, false),
        ("timestamp(3)", millis, false),
        ("timestamp", "-315619200000", false),
        ("timestamp(3)", "0", false),
        ("timestamp(3)", "9223372036825200", false),
        ("bigint", millis, false),
        ("timestamp", "\"2024-03-10T12:30:00Z\"", false),
    ];
    for (ty, raw, expected) in cases {
        assert_eq!(fits_another_unit(ty, raw, &Types::default()), expected, "{raw} as {ty}");
        let told = Types { time: TimeMode::Microseconds, ..Types::default() };
        assert!(!fits_another_unit(ty, raw, &told), "{raw} as {ty}");
    }
    let value = format!(r#"{{"op":"c",{SOURCE},"after":{{"at":{millis}}}}}"#);
    let said = survey(Form::Envelope, &Types::default(), &[Some(&value)]);
    assert_eq!(said, [loses("at", Loss::Unit)]);
}
