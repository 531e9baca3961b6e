//! How Debezium was told to write values: the `types` of a connector that reads topics.

use std::collections::{BTreeMap, HashMap};

use serde::Deserialize;

use super::file::{File, Given};
use super::scalar::Scalar;
use crate::error::Result;

/// `decimal.handling.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DecimalMode {
    /// Unscaled integers in base64.
    Precise,
    /// JSON numbers.
    Double,
    /// Digits.
    String,
}

/// `time.precision.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeMode {
    /// Milli- or microseconds by the column's precision.
    Adaptive,
    /// The same, but times of day in microseconds.
    AdaptiveTimeMicroseconds,
    /// Microseconds.
    Microseconds,
    /// Nanoseconds.
    Nanoseconds,
    /// Milliseconds.
    Connect,
    /// ISO 8601.
    IsoString,
}

/// `binary.handling.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BinaryMode {
    /// As JSON writes bytes: base64.
    Bytes,
    /// Base64.
    Base64,
    /// Base64 with the alphabet for URLs.
    Base64UrlSafe,
    /// Hex digits.
    Hex,
}

/// `interval.handling.mode`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IntervalMode {
    /// Microseconds, months counted as 30.4375 days.
    Numeric,
    /// ISO 8601.
    String,
}

/// How Debezium was told to write values.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Types {
    /// Decimals.
    pub decimal: DecimalMode,
    /// The scales of columns whose decimals come without: `schema.table.column`.
    pub decimal_scale: HashMap<String, i32>,
    /// Days and times.
    pub time: TimeMode,
    /// Bytes.
    pub binary: BinaryMode,
    /// Intervals.
    pub interval: IntervalMode,
    /// What stands in the place of a value that did not change and was not sent.
    pub placeholder: String,
}

impl Default for Types {
    fn default() -> Types {
        Types {
            decimal: DecimalMode::Precise,
            decimal_scale: HashMap::new(),
            time: TimeMode::Adaptive,
            binary: BinaryMode::Bytes,
            interval: IntervalMode::Numeric,
            placeholder: "__debezium_unavailable_value".to_owned(),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawTypes {
    decimal: Option<Given>,
    #[serde(default)]
    decimal_scale: BTreeMap<String, Given>,
    time: Option<Given>,
    binary: Option<Given>,
    interval: Option<Given>,
    hstore: Option<Given>,
    placeholder: Option<Given>,
}

pub(super) fn types(file: &File<'_>, raw: &RawTypes) -> Result<Types> {
    let mut decimal_scale = HashMap::new();
    for (column, given) in &raw.decimal_scale {
        let scale = file.parse::<Scale>(&format!("types.decimal_scale.{column}"), given)?;
        decimal_scale.insert(column.clone(), scale.0);
    }
    // either form is read, whatever is said
    file.choice("types.hstore", raw.hstore.as_ref(), &["json", "map"])?;
    let decimals = ["precise", "double", "string"];
    let times = [
        "adaptive",
        "adaptive_time_microseconds",
        "microseconds",
        "nanoseconds",
        "connect",
        "isostring",
    ];
    let binaries = ["bytes", "base64", "base64-url-safe", "hex"];
    let placeholder = raw.placeholder.as_ref().map(|given| file.text("types.placeholder", given));
    Ok(Types {
        decimal: match file.choice("types.decimal", raw.decimal.as_ref(), &decimals)? {
            "double" => DecimalMode::Double,
            "string" => DecimalMode::String,
            _ => DecimalMode::Precise,
        },
        decimal_scale,
        time: match file.choice("types.time", raw.time.as_ref(), &times)? {
            "adaptive_time_microseconds" => TimeMode::AdaptiveTimeMicroseconds,
            "microseconds" => TimeMode::Microseconds,
            "nanoseconds" => TimeMode::Nanoseconds,
            "connect" => TimeMode::Connect,
            "isostring" => TimeMode::IsoString,
            _ => TimeMode::Adaptive,
        },
        binary: match file.choice("types.binary", raw.binary.as_ref(), &binaries)? {
            "base64" => BinaryMode::Base64,
            "base64-url-safe" => BinaryMode::Base64UrlSafe,
            "hex" => BinaryMode::Hex,
            _ => BinaryMode::Bytes,
        },
        interval: match file.choice(
            "types.interval",
            raw.interval.as_ref(),
            &["numeric", "string"],
        )? {
            "string" => IntervalMode::String,
            _ => IntervalMode::Numeric,
        },
        placeholder: placeholder.transpose()?.unwrap_or_else(|| Types::default().placeholder),
    })
}

/// Digits behind the point.
struct Scale(i32);

impl Scalar for Scale {
    const REMEDY: &'static str = "write how many digits stand behind the point, such as 2";

    fn read(text: &str) -> Result<Scale, String> {
        let scale = text.parse().ok().filter(|scale| (0..=1000).contains(scale));
        scale.map(Scale).ok_or_else(|| format!("{text:?} is not a scale"))
    }
}
