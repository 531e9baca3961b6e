//! What stands in the place of a value that was not sent (`unavailable.value.placeholder`), in each form in which
//! Debezium's connectors write it. Pure.
//!
//! Source: Debezium 2.5 to 3.6, `UnchangedToastedPlaceholder` and `PostgresValueConverter`, and behind them the
//! arrays of dbz#2418; `convertBinary` of `OracleValueConverters`.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE};
use md5::{Digest, Md5};
use serde_json::value::RawValue;

use super::convert::{float8, hex, string, write_binary};
use super::semantic::Semantic;
use crate::types::numeric_of_unscaled;

/// From so many bytes on, a text that is the base64 or the digits of a placeholder is nothing else.
const UNMISTAKABLE: usize = 16;

/// A UUID in an array.
const UUID_IN_ARRAY: usize = 40;

/// Room for each byte of it in the widest form: a decimal with its scale.
const WIDEST: usize = 64;

/// What stands in the place of a value that was not sent; or nothing does.
#[derive(Clone, Debug)]
pub(super) struct Placeholder(Option<Forms>);

#[derive(Clone, Debug)]
struct Forms {
    text: String,
    /// of bytes, by each `binary.handling.mode`
    encoded: [String; 3],
    /// of the one element of a `uuid[]`
    uuid: String,
    /// of an hstore: it alone, as key and as value
    pair: String,
}

impl Placeholder {
    pub(super) fn new(text: &str) -> Placeholder {
        let json = serde_json::Value::from(text);
        Placeholder(Some(Forms {
            text: text.to_owned(),
            encoded: [
                STANDARD.encode(text),
                URL_SAFE.encode(text),
                hex(text.as_bytes()).split_off(2),
            ],
            uuid: name_uuid(text.as_bytes()),
            pair: format!("{{{json}:{json}}}"),
        }))
    }

    /// Every value is sent.
    pub(super) fn none() -> Placeholder {
        Placeholder(None)
    }

    /// Whether a JSON value is the placeholder.
    pub(super) fn is(&self, semantic: &Semantic, raw: &str) -> bool {
        let Some(forms) = &self.0 else { return false };
        // this is asked of every value: most are ruled out by their length
        let length = forms.text.len();
        if raw.len() < length.min(UUID_IN_ARRAY) || raw.len() > WIDEST * (length + 1) {
            return false;
        }
        match (raw.as_bytes().first(), semantic) {
            (Some(b'"'), _) => {
                string(raw).is_ok_and(|text| text == forms.pair || forms.is_text(semantic, &text))
            }
            (Some(b'{'), _) => forms.is_pair(raw),
            (Some(b'['), Semantic::Array(element)) => forms.is_array(element, raw),
            _ => false,
        }
    }
}

impl Forms {
    fn is_text(&self, semantic: &Semantic, text: &str) -> bool {
        let may_be_bytes = match semantic {
            Semantic::Bytes(_) | Semantic::Unknown(_) | Semantic::Bits(_) => true,
            // bytes that come as text, and that no file tells
            Semantic::Text | Semantic::Plain => self.text.len() >= UNMISTAKABLE,
            _ => false,
        };
        text == self.text || (may_be_bytes && self.encoded.iter().any(|form| form == text))
    }

    /// An hstore by `hstore.handling.mode=map`.
    fn is_pair(&self, raw: &str) -> bool {
        let pairs = serde_json::from_str::<indexmap::IndexMap<String, Option<String>>>(raw);
        pairs.is_ok_and(|pairs| {
            let is = |(key, value): (&String, &Option<String>)| {
                *key == self.text && value.as_ref() == Some(&self.text)
            };
            pairs.len() == 1 && pairs.iter().all(is)
        })
    }

    /// The one element of an array of texts, or one number for each byte. That of a `bool[]`, as many times true, is
    /// none that could be told from a value; no Debezium up to 3.6 writes it.
    fn is_array(&self, element: &Semantic, raw: &str) -> bool {
        let Ok(elements) = serde_json::from_str::<Vec<&RawValue>>(raw) else { return false };
        if let [only] = elements.as_slice() {
            let text = string(only.get());
            if text.is_ok_and(|text| text == self.uuid || self.is_text(element, &text)) {
                return true;
            }
        }
        let mut bytes = elements.iter().zip(self.text.bytes());
        elements.len() == self.text.len()
            && bytes.all(|(value, byte)| is_byte(element, value.get(), byte))
    }
}

/// Whether an array's element is the number that a byte is; a byte of Java has a sign.
fn is_byte(element: &Semantic, raw: &str, byte: u8) -> bool {
    let (mut value, mut expected) = (Vec::new(), Vec::new());
    let scale = match element {
        Semantic::Decimal(scale) => *scale,
        Semantic::ScaledDecimal => 0,
        // by value: an array of floats has 95.0
        _ => return float8(raw).is_ok_and(|value| value == f64::from(i8::from_be_bytes([byte]))),
    };
    write_binary(element, raw, &mut value).is_ok()
        && numeric_of_unscaled(&[byte], scale, &mut expected).is_some()
        && value == expected
}

/// `UUID.nameUUIDFromBytes`: version 3, of the bytes without a namespace.
fn name_uuid(bytes: &[u8]) -> String {
    let mut uuid = u128::from_be_bytes(Md5::digest(bytes).into());
    uuid = (uuid & !(0xf << 76)) | (3 << 76);
    uuid = (uuid & !(0b11 << 62)) | (0b10 << 62);
    let digits = format!("{uuid:032x}");
    let parts = [0..8, 8..12, 12..16, 16..20, 20..32];
    parts.map(|part| digits.get(part).unwrap_or_default()).join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::decode::semantic::{Encoding, Unit};

    const TEXT: &str = "__debezium_unavailable_value";

    fn array(element: Semantic) -> Semantic {
        Semantic::Array(Box::new(element))
    }

    /// An array of one element for each byte of a text.
    fn of_bytes(text: &str, element: impl Fn(i8) -> String) -> String {
        let elements = text.bytes().map(|byte| element(i8::from_be_bytes([byte])));
        format!("[{}]", elements.collect::<Vec<_>>().join(","))
    }

    #[test]
    fn each_form_that_debezium_writes_is_no_value() {
        let placeholder = Placeholder::new(TEXT);
        let base64 = r#""X19kZWJleml1bV91bmF2YWlsYWJsZV92YWx1ZQ==""#;
        let digits = r#""5f5f646562657a69756d5f756e617661696c61626c655f76616c7565""#;
        let pair = format!(r#"{{"{TEXT}":"{TEXT}"}}"#);
        let unscaled = |byte: i8| format!("\"{}\"", STANDARD.encode(byte.to_be_bytes()));
        let scaled = |byte: i8| format!(r#"{{"scale":0,"value":{}}}"#, unscaled(byte));
        let forms = [
            (Semantic::Text, format!("\"{TEXT}\"")),
            (Semantic::Number, format!("\"{TEXT}\"")),
            (Semantic::Json, format!("\"{TEXT}\"")),
            (Semantic::Bytes(Encoding::Base64), base64.to_owned()),
            (Semantic::Bytes(Encoding::Hex), format!("\"{TEXT}\"")),
            (Semantic::Bytes(Encoding::Hex), digits.to_owned()),
            (Semantic::Text, base64.to_owned()),
            (Semantic::Text, digits.to_owned()),
            (Semantic::Unknown(Encoding::Base64), base64.to_owned()),
            (Semantic::Json, serde_json::Value::from(pair.clone()).to_string()),
            (Semantic::Map, serde_json::Value::from(pair.clone()).to_string()),
            (Semantic::Map, pair.replace(':', ": ")),
            (Semantic::Json, pair),
            (array(Semantic::Text), format!("[\"{TEXT}\"]")),
            (array(Semantic::Json), format!("[\"{TEXT}\"]")),
            (array(Semantic::Bytes(Encoding::Base64)), format!("[{base64}]")),
            // as Java has it
            (array(Semantic::Uuid), "[\"b68a35a7-17ad-35b3-af2a-ae46edb4545a\"]".to_owned()),
            (array(Semantic::Int2), of_bytes(TEXT, |byte| byte.to_string())),
            (array(Semantic::Int4), of_bytes(TEXT, |byte| byte.to_string()).replace(',', ", ")),
            (array(Semantic::Date), of_bytes(TEXT, |byte| byte.to_string())),
            (array(Semantic::Time(Unit::Micros)), of_bytes(TEXT, |byte| byte.to_string())),
            (array(Semantic::Float8), of_bytes(TEXT, |byte| format!("{byte}.0"))),
            (array(Semantic::Number), of_bytes(TEXT, |byte| format!("{byte}.0"))),
            (array(Semantic::Decimal(2)), of_bytes(TEXT, unscaled)),
            (array(Semantic::Decimal(0)), of_bytes(TEXT, |byte| byte.to_string())),
            (array(Semantic::ScaledDecimal), of_bytes(TEXT, scaled)),
        ];
        for (semantic, raw) in forms {
            assert!(placeholder.is(&semantic, &raw), "{raw} as {semantic:?}");
            assert!(!Placeholder::none().is(&semantic, &raw), "{raw} as {semantic:?}");
        }
    }

    #[test]
    fn what_is_near_it_is_a_value() {
        let placeholder = Placeholder::new(TEXT);
        let values = [
            (Semantic::Text, format!("\"{TEXT} \"")),
            (Semantic::Uuid, "\"b68a35a7-17ad-35b3-af2a-ae46edb4545a\"".to_owned()),
            (Semantic::Map, format!(r#"{{"{TEXT}":null}}"#)),
            (Semantic::Map, format!(r#"{{"{TEXT}":"{TEXT}","a":"b"}}"#)),
            (array(Semantic::Text), format!("[\"{TEXT}\",\"{TEXT}\"]")),
            (array(Semantic::Text), "[]".to_owned()),
            (
                array(Semantic::Int4),
                of_bytes(TEXT.trim_start_matches('_'), |byte| byte.to_string()),
            ),
            (array(Semantic::Int4), of_bytes(TEXT, |byte| (byte + 1).to_string())),
            (array(Semantic::Decimal(2)), of_bytes(TEXT, |byte| byte.to_string())),
            (array(Semantic::Bool), of_bytes(TEXT, |_| "true".to_owned())),
            (Semantic::Float8, "95.0".to_owned()),
        ];
        for (semantic, raw) in values {
            assert!(!placeholder.is(&semantic, &raw), "{raw} as {semantic:?}");
        }
    }

    #[test]
    fn one_of_somebody_is_compared_by_what_it_says() {
        let text = "n/a \"é\"";
        let placeholder = Placeholder::new(text);
        assert!(placeholder.is(&Semantic::Text, r#""n\/a \"\u00e9\"""#));
        assert!(placeholder.is(&array(Semantic::Text), r#"["n/a \"é\""]"#));
        let pair = serde_json::Value::from(r#"{"n/a \"é\"":"n/a \"é\""}"#).to_string();
        assert!(placeholder.is(&Semantic::Json, &pair));
        // a byte of Java has a sign
        assert!(of_bytes(text, |byte| byte.to_string()).contains("-61,-87"));
        assert!(placeholder.is(&array(Semantic::Int8), &of_bytes(text, |byte| byte.to_string())));
        // a short one as base64 may be a text of its own right
        let short = Placeholder::new("n/a");
        assert!(short.is(&Semantic::Bytes(Encoding::Base64), "\"bi9h\""));
        assert!(!short.is(&Semantic::Text, "\"bi9h\""));
    }
}
