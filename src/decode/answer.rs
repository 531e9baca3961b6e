//! An answer of an API: its rows, what it says of the next page, and each row as raw tables keep it, every value
//! its text or null. Pure: numbers keep the digits that they were written with.

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde_json::value::RawValue;

use super::convert::string;
use crate::names::fingerprint;
use crate::spec::JsonPath;

/// What of an answer is wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'w> {
    /// Where its rows are.
    pub records: &'w JsonPath,
    /// Where it says what the next page is.
    pub next: Option<&'w JsonPath>,
    /// Where it says how many rows there are.
    pub total: Option<&'w JsonPath>,
}

/// What an answer says.
#[derive(Debug)]
pub struct Answer<'a> {
    /// Its rows.
    pub records: Vec<&'a RawValue>,
    /// What tells them from those of another one.
    pub digest: u64,
    /// What the next page is.
    pub next: Option<String>,
    /// How many rows there are.
    pub total: Option<u64>,
}

/// A row as two documents: the values of its key, and all of them.
#[derive(Debug, Default)]
pub struct Documents {
    /// The key's.
    pub key: Vec<u8>,
    /// All of them.
    pub after: Vec<u8>,
}

type Fields<'a> = BTreeMap<Cow<'a, str>, &'a RawValue>;

/// Reads an answer; or why it is none.
pub fn read_answer<'a>(body: &'a [u8], wanted: &Wanted<'_>) -> Result<Answer<'a>, String> {
    let whole: &RawValue =
        serde_json::from_slice(body).map_err(|error| format!("is no JSON: {error}"))?;
    let path = wanted.records;
    let found = at(whole, path)?.ok_or_else(|| format!("has nothing at {path}"))?;
    let records: Vec<&RawValue> = match found.get() {
        // as some write a list of nothing
        "null" if !path.0.is_empty() => Vec::new(),
        text => serde_json::from_str(text).map_err(|_| format!("has no list at {path}"))?,
    };
    let next = match wanted.next {
        None => None,
        Some(path) => at(whole, path)?.map(|next| scalar(next, path)).transpose()?.flatten(),
    };
    let total = match wanted.total {
        None => None,
        Some(path) => at(whole, path)?.map(|total| scalar(total, path)).transpose()?.flatten(),
    };
    let total =
        total.map(|total| total.parse::<u64>().map_err(|_| "says no number of rows".to_owned()));
    let digest = records
        .iter()
        .fold(0_u64, |digest, record| fingerprint(record.get().as_bytes()) ^ digest.rotate_left(7));
    Ok(Answer {
        records,
        digest,
        next: next.filter(|next| !next.is_empty()),
        total: total.transpose()?,
    })
}

/// What is at a place of a document; none where one of the names that lead there is missing.
fn at<'a>(whole: &'a RawValue, path: &JsonPath) -> Result<Option<&'a RawValue>, String> {
    let mut found = whole;
    for name in &path.0 {
        if found.get() == "null" {
            return Ok(None);
        }
        let fields: Fields<'a> = serde_json::from_str(found.get())
            .map_err(|_| format!("has no fields where {path} leads to {name}"))?;
        match fields.get(name.as_str()) {
            Some(field) => found = field,
            None => return Ok(None),
        }
    }
    Ok(Some(found))
}

/// A text or a number; none of null.
fn scalar(value: &RawValue, path: &JsonPath) -> Result<Option<String>, String> {
    match value.get().bytes().next() {
        Some(b'{' | b'[') => Err(format!("has neither a text nor a number at {path}")),
        _ => text(value)
            .map(|text| text.map(Cow::into_owned))
            .map_err(|why| format!("at {path} {why}")),
    }
}

/// The text of a value; none of null. What is made of others is its JSON.
fn text(value: &RawValue) -> Result<Option<Cow<'_, str>>, String> {
    let text = match value.get() {
        "null" => return Ok(None),
        text if text.starts_with('"') => string(text)?,
        text => Cow::Borrowed(text),
    };
    match text.contains('\0') {
        true => Err("holds a NUL character, which Postgres text cannot".to_owned()),
        false => Ok(Some(text)),
    }
}

impl Documents {
    /// Writes a row of the key's fields; or why it is none.
    pub fn write(&mut self, record: &RawValue, key: &[String]) -> Result<(), String> {
        let fields: Fields<'_> =
            serde_json::from_str(record.get()).map_err(|_| "has no fields".to_owned())?;
        let Documents { key: of_key, after } = self;
        after.clear();
        for (name, value) in &fields {
            if name.contains('\0') {
                return Err("has a field whose name holds a NUL character".to_owned());
            }
            let text = text(value).map_err(|why| format!("has a field {name} that {why}"))?;
            member(name, text.as_deref(), after);
        }
        end(after);
        of_key.clear();
        for name in key {
            let value = fields.get(name.as_str());
            let text = value.map(|value| text(value)).transpose()?.flatten();
            let text = text.ok_or_else(|| format!("lacks its key's {name}"))?;
            member(name, Some(&text), of_key);
        }
        end(of_key);
        Ok(())
    }
}

fn member(name: &str, value: Option<&str>, out: &mut Vec<u8>) {
    out.push(if out.is_empty() { b'{' } else { b',' });
    out.extend_from_slice(serde_json::Value::from(name).to_string().as_bytes());
    out.push(b':');
    match value {
        None => out.extend_from_slice(b"null"),
        Some(text) => out.extend_from_slice(serde_json::Value::from(text).to_string().as_bytes()),
    }
}

fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(if out.is_empty() { b"{}" } else { b"}" });
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(fields: &[&str]) -> JsonPath {
        JsonPath(fields.iter().map(|field| (*field).to_owned()).collect())
    }

    fn read<'a>(body: &'a str, records: &JsonPath) -> Result<Answer<'a>, String> {
        let (next, total) = (path(&["meta", "next"]), path(&["total"]));
        let wanted = Wanted { records, next: Some(&next), total: Some(&total) };
        read_answer(body.as_bytes(), &wanted)
    }

    #[test]
    fn an_answer_is_read_where_its_file_says() {
        let items = path(&["data", "items"]);
        let body = r#"{"data":{"items":[{"a":1},{"a":2}]},"meta":{"next":"c\u00e9"},"total":2}"#;
        let answer = read(body, &items).unwrap();
        assert_eq!(
            (answer.records.len(), answer.next.as_deref(), answer.total),
            (2, Some("cé"), Some(2))
        );
        // of no next page there are many words
        for rest in
            [r#""meta":null"#, r#""meta":{"next":null}"#, r#""meta":{"next":""}"#, r#""x":1"#]
        {
            let body = format!(r#"{{"data":{{"items":null}},{rest}}}"#);
            let answer = read(&body, &items).unwrap();
            assert_eq!((answer.records.len(), answer.next), (0, None), "{rest}");
        }
        let other = read(r#"{"data":{"items":[{"a":2},{"a":1}]}}"#, &items).unwrap();
        assert_ne!(answer.digest, other.digest);
        assert_eq!(
            read_answer(b"[1]", &Wanted { records: &path(&[]), next: None, total: None })
                .unwrap()
                .records
                .len(),
            1
        );
        for (body, why) in [
            ("<html>", "no JSON"),
            (r#"{"message":"no"}"#, "nothing at $.data.items"),
            (r#"{"data":{"items":{"a":1}}}"#, "no list at $.data.items"),
            (r#"{"data":[]}"#, "no fields"),
            (r#"{"data":{"items":[]},"total":"many"}"#, "no number"),
            (r#"{"data":{"items":[]},"meta":{"next":{}}}"#, "neither a text nor a number"),
        ] {
            let said = read(body, &items).unwrap_err();
            assert!(said.contains(why), "{body}: {said}");
        }
    }

    #[test]
    fn a_row_keeps_the_digits_that_it_came_with() {
        let mut documents = Documents::default();
        let row = |text: &'static str| serde_json::from_str::<&RawValue>(text).unwrap();
        let text = r#"{"price":1.10,"id":7,"n":12345678901234567890.5,"ok":true,"no":null,"tags":[1, 2],"t":"a\"b"}"#;
        documents.write(row(text), &["id".to_owned()]).unwrap();
        assert_eq!(documents.key, br#"{"id":"7"}"#);
        let after: serde_json::Value = serde_json::from_slice(&documents.after).unwrap();
        let expected = serde_json::json!({
            "id": "7", "n": "12345678901234567890.5", "no": null, "ok": "true", "price": "1.10",
            "t": "a\"b", "tags": "[1, 2]"
        });
        assert_eq!(after, expected);
        for (text, why) in [
            (r#"{"a":1}"#, "lacks its key's id"),
            (r#"{"id":null}"#, "lacks its key's id"),
            ("7", "no fields"),
            ("{\"id\":1,\"a\":\"x\\u0000\"}", "a field a that holds a NUL"),
            ("{\"id\":1,\"a\":\"\\ud800\"}", "a field a that is not text in Unicode"),
        ] {
            let said = documents.write(row(text), &["id".to_owned()]).unwrap_err();
            assert!(said.contains(why), "{text}: {said}");
        }
    }
}
