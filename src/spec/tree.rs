//! Where everything in a file stands: field paths such as `columns.email.type` to lines and back.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned};

/// Line and column, from 1.
type Place = (u64, u64);

/// A value of a file, whatever its shape.
pub(super) struct Node {
    place: Place,
    content: Content,
}

enum Content {
    Null,
    Scalar,
    List(Vec<Node>),
    Map(Vec<Entry>),
}

struct Entry {
    key: String,
    place: Place,
    value: Node,
}

/// What a file is as a whole.
#[derive(PartialEq, Eq)]
pub(super) enum Shape {
    Nothing,
    Fields,
    Other,
}

fn has(entries: &[Entry], key: &str) -> bool {
    entries.iter().any(|entry| entry.key == key)
}

fn place(location: Location) -> Place {
    (location.line(), location.column())
}

impl From<Spanned<Content>> for Node {
    fn from(spanned: Spanned<Content>) -> Node {
        Node { place: place(spanned.referenced), content: spanned.value }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Node, D::Error> {
        Spanned::<Content>::deserialize(deserializer).map(Node::from)
    }
}

impl<'de> Deserialize<'de> for Content {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Content, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value, a list or fields")
    }

    fn visit_unit<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_none<E>(self) -> Result<Content, E> {
        Ok(Content::Null)
    }

    fn visit_bool<E>(self, _: bool) -> Result<Content, E> {
        Ok(Content::Scalar)
    }

    fn visit_i64<E>(self, _: i64) -> Result<Content, E> {
        Ok(Content::Scalar)
    }

    fn visit_u64<E>(self, _: u64) -> Result<Content, E> {
        Ok(Content::Scalar)
    }

    fn visit_i128<E>(self, _: i128) -> Result<Content, E> {
        Ok(Content::Scalar)
    }

    fn visit_u128<E>(self, _: u128) -> Result<Content, E> {
        Ok(Content::Scalar)
    }

    fn visit_f64<E>(self, _: f64) -> Result<Content, E> {
        Ok(Content::Scalar)
    }

    fn visit_str<E>(self, _: &str) -> Result<Content, E> {
        Ok(Content::Scalar)
    }

    fn visit_bytes<E>(self, _: &[u8]) -> Result<Content, E> {
        Ok(Content::Scalar)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Content, A::Error> {
        let mut nodes = Vec::new();
        while let Some(node) = list.next_element()? {
            nodes.push(node);
        }
        Ok(Content::List(nodes))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Content, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = map.next_key::<Spanned<String>>()? {
            let entry =
                Entry { place: place(key.referenced), key: key.value, value: map.next_value()? };
            entries.push(entry);
        }
        Ok(Content::Map(entries))
    }
}

impl Node {
    pub(super) fn shape(&self) -> Shape {
        match self.content {
            Content::Null => Shape::Nothing,
            Content::Map(_) => Shape::Fields,
            Content::Scalar | Content::List(_) => Shape::Other,
        }
    }

    /// The line of a field, or of the nearest field around it that is there.
    pub(super) fn line_of(&self, path: &str) -> u64 {
        let (mut node, mut line) = (self, 1);
        let mut rest = path;
        while let Content::Map(entries) = &node.content {
            // a column's name may contain a dot
            let entry = entries.iter().find(|entry| {
                let behind = rest.strip_prefix(entry.key.as_str());
                behind.is_some_and(|behind| behind.is_empty() || behind.starts_with('.'))
            });
            let Some(entry) = entry else { break };
            (node, line) = (&entry.value, entry.place.0);
            let behind = rest.strip_prefix(entry.key.as_str()).unwrap_or_default();
            rest = behind.strip_prefix('.').unwrap_or_default();
        }
        line
    }

    /// The path of the field whose name stands at `place`, outermost first.
    pub(super) fn field_at(&self, place: Place) -> Option<Vec<&str>> {
        match &self.content {
            Content::Null | Content::Scalar => None,
            Content::List(nodes) => nodes.iter().find_map(|node| node.field_at(place)),
            Content::Map(entries) => entries.iter().find_map(|entry| {
                let mut path = vec![entry.key.as_str()];
                match entry.value.field_at(place) {
                    Some(below) => path.extend(below),
                    None if entry.place == place => {}
                    None => return None,
                }
                Some(path)
            }),
        }
    }

    /// The path of the field whose value stands at `place` or around it.
    pub(super) fn value_at(&self, place: Place) -> Vec<&str> {
        let mut path = Vec::new();
        let mut node = self;
        while node.place < place {
            let next = match &node.content {
                Content::Null | Content::Scalar => None,
                Content::List(nodes) => nodes.iter().rfind(|node| node.place <= place),
                Content::Map(entries) => {
                    let entry = entries.iter().rfind(|entry| entry.place <= place);
                    path.extend(entry.map(|entry| entry.key.as_str()));
                    entry.map(|entry| &entry.value)
                }
            };
            let Some(next) = next else { break };
            node = next;
        }
        path
    }

    /// The first field without a value: its path and line.
    pub(super) fn blank(&self) -> Option<(String, u64)> {
        match &self.content {
            Content::Null | Content::Scalar => None,
            Content::List(nodes) => nodes.iter().find_map(Node::blank),
            Content::Map(entries) => entries.iter().find_map(|entry| match &entry.value.content {
                // a column may say that it is masked by null
                Content::Null if entry.key == "mask" && has(entries, "type") => None,
                Content::Null => Some((entry.key.clone(), entry.place.0)),
                Content::List(nodes) if nodes.iter().any(Node::is_null) => {
                    let line = nodes.iter().find(|node| node.is_null()).map(|node| node.place.0);
                    Some((entry.key.clone(), line.unwrap_or(entry.place.0)))
                }
                _ => {
                    let (path, line) = entry.value.blank()?;
                    Some((format!("{}.{path}", entry.key), line))
                }
            }),
        }
    }

    fn is_null(&self) -> bool {
        matches!(self.content, Content::Null)
    }
}
