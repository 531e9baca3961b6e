//! Slack's incoming webhooks: one text, in which three characters have a meaning.

use serde_json::{Value, json};

use super::{LONGEST, cut};
use crate::alerts::message::{Message, MessageKind};

pub(super) fn body(message: &Message) -> Value {
    let sign = match message.kind {
        MessageKind::Firing => ":red_circle:",
        MessageKind::Resolved => ":large_green_circle:",
        MessageKind::Notice if message.bad => ":red_circle:",
        MessageKind::Notice | MessageKind::Test => ":information_source:",
    };
    let (title, text) = (escaped(&message.title()), escaped(&cut(&message.body(), LONGEST)));
    json!({ "text": format!("{sign} *{title}*\n{text}") })
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_calls_everybody() {
        let mut message = Message::test("ops", "2024-03-10T02:00:00Z".parse().unwrap());
        message.text = "<!channel> a & b".to_owned();
        let body = body(&message);
        let text = body["text"].as_str().unwrap();
        assert!(text.contains("&lt;!channel&gt; a &amp; b"), "{text}");
    }
}
