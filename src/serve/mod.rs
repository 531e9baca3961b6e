//! placeholder
#![allow(missing_docs, clippy::unused_self)]
use crate::journey::{Advanced, Applied};
use crate::names::TableName;
use crate::position::Lsn;
use std::collections::BTreeMap;
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Starting,
    Snapshotting,
    Streaming,
    Waiting,
    Stopped,
}
#[derive(Clone)]
pub struct ConnectorBoard;
impl ConnectorBoard {
    pub fn phase(&self, _p: Phase, _r: Option<&str>, _m: Option<&str>) {}
    pub fn received(&self, _at: Lsn, _end: Lsn, _c: Option<i64>) {}
    pub fn advanced(&self, _a: &Advanced, _s: Lsn) {}
    pub fn applied(&self, _i: usize, _a: &Applied) {}
    pub fn table_named(&self, _i: usize, _n: &TableName) {}
    pub fn table_state(&self, _n: &TableName, _s: &str, _r: Option<&str>, _m: Option<&str>) {}
    pub fn rows_read(&self, _n: &TableName, _r: u64, _e: u64) {}
    pub fn retained_bytes(&self, _b: u64) {}
    pub fn pending_bytes(&self, _s: &BTreeMap<TableName, u64>) {}
    pub fn is_reading(&self) -> bool {
        false
    }
}
