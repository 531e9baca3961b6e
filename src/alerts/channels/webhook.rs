//! Any server that takes JSON: the message as it is, with its title and its key.

use serde_json::{Value, json};

use crate::alerts::message::Message;

pub(super) fn body(message: &Message) -> Value {
    let mut body = serde_json::to_value(message).unwrap_or_default();
    if let Value::Object(fields) = &mut body {
        fields.insert("title".to_owned(), json!(message.title()));
        fields.insert("key".to_owned(), json!(message.key()));
    }
    body
}
