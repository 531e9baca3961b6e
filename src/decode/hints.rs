//! What is known of a source table beside its records: by files, and by the warehouse as it stands. Pure data.

use std::collections::BTreeMap;

use super::declared::DeclaredType;

/// What is known of a table beside its records.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Hints {
    /// The type of the warehouse column that takes a source column, in the order of the warehouse.
    pub columns: Vec<(String, String)>,
    /// Of those types whose names do not say what they are, what the catalogue says.
    pub types: BTreeMap<String, DeclaredType>,
    /// The source columns of its key: of a file, or of the warehouse table that is there.
    pub key: Vec<String>,
}

impl Hints {
    /// What a type is that a column has.
    pub(super) fn declared(&self, ty: &str) -> DeclaredType {
        self.types.get(ty).cloned().unwrap_or_else(|| DeclaredType::of(ty))
    }
}
