//! The fields of a configuration that is registered with Kafka Connect, as texts, and how what they mean is told.
//!
//! It knows no field but the connector's name, and shows none: who asks for one says what goes where.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::capture::preflight::Finding;

/// The fields of a configuration, as texts.
pub(super) struct Config(BTreeMap<String, String>);

impl Config {
    /// Of a bare configuration, or of one with its name beside.
    pub(super) fn of(json: &Value) -> Option<Config> {
        let outer = json.as_object()?;
        let fields = outer.get("config").and_then(Value::as_object).unwrap_or(outer);
        let text = |value: &Value| match value {
            Value::String(text) => Some(text.trim().to_owned()),
            Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
            _ => None,
        };
        let mut config: BTreeMap<String, String> =
            fields.iter().filter_map(|(name, value)| Some((name.clone(), text(value)?))).collect();
        if let Some(name) = outer.get("name").and_then(text) {
            config.insert("name".to_owned(), name);
        }
        Some(Config(config))
    }

    /// A field that has a value.
    pub(super) fn get(&self, field: &str) -> Option<&str> {
        self.0.get(field).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// The connector's name, where it has one.
    pub(super) fn name(&self) -> Option<&str> {
        self.get("name")
    }

    /// A list, by commas.
    pub(super) fn list(&self, field: &str) -> Vec<&str> {
        let parts = self.get(field).unwrap_or_default().split(',').map(str::trim);
        parts.filter(|part| !part.is_empty()).collect()
    }
}

/// Notes what a person should know; it stops nothing.
pub(super) fn find(findings: &mut Vec<Finding>, what: String, remedy: &str) {
    findings.push(Finding { fatal: false, what, remedy: remedy.to_owned() });
}
