//! Finds a fold's last row by key. The keys lie in the fold's arena, so the index holds numbers only.

use std::hash::BuildHasher;

use foldhash::fast::FixedState;
use hashbrown::HashTable;

use crate::journey::{Folded, Span};

/// From key to row.
#[derive(Default)]
pub(super) struct KeyIndex {
    rows: HashTable<usize>,
    hasher: FixedState,
}

impl KeyIndex {
    /// The row to which a key leads.
    pub(super) fn find(&self, folded: &Folded, key: &[u8]) -> Option<usize> {
        let hash = self.hasher.hash_one(key);
        self.rows.find(hash, |at| key_at(folded, *at) == key).copied()
    }

    /// Makes a key lead to the row at `at`, which is in the fold already.
    pub(super) fn point(&mut self, folded: &Folded, key: &[u8], at: usize) {
        let hash = self.hasher.hash_one(key);
        match self.rows.find_mut(hash, |row| key_at(folded, *row) == key) {
            Some(row) => *row = at,
            None => {
                let hasher = &self.hasher;
                self.rows.insert_unique(hash, at, |row| hasher.hash_one(key_at(folded, *row)));
            }
        }
    }
}

fn key_at(folded: &Folded, at: usize) -> &[u8] {
    folded.rows.get(at).map_or(&[], |row| folded.bytes(row.key))
}

/// Copies bytes into a fold's arena.
pub(super) fn keep(folded: &mut Folded, bytes: &[u8]) -> Span {
    let start = folded.arena.len();
    folded.arena.extend_from_slice(bytes);
    Span { start, end: folded.arena.len() }
}
