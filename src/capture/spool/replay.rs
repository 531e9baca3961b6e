//! The records of a committed transaction, read back from its file.
//!
//! It never writes, and never takes a record for data that is not exactly as it was left.

use std::fs::File;
use std::io::{self, BufReader, ErrorKind, Read};
use std::path::PathBuf;
use std::sync::Arc;

use super::{BUFFER, Kept, Kind, Quota};

/// The records of a committed transaction, in their order.
#[derive(Debug)]
pub struct Replay {
    path: PathBuf,
    length: u64,
    left: u64,
    quota: Arc<Quota>,
    file: Option<BufReader<File>>,
    record: Vec<u8>,
}

impl Replay {
    /// The records of a file; it goes with them even where it cannot be read.
    pub(super) fn of(path: PathBuf, kept: &Kept, quota: Arc<Quota>) -> io::Result<Replay> {
        let mut replay = Replay {
            path,
            length: kept.length,
            left: kept.length,
            quota,
            file: None,
            record: Vec::new(),
        };
        let file = File::open(&replay.path)?;
        kept.check(&file)?;
        replay.file = Some(BufReader::with_capacity(BUFFER, file));
        Ok(replay)
    }

    /// The next record, if there is one.
    pub fn next_record(&mut self) -> io::Result<Option<(Kind, &[u8])>> {
        let Some(file) = self.file.as_mut().filter(|_| self.left > 0) else { return Ok(None) };
        let damaged = || io::Error::new(ErrorKind::InvalidData, "a file of it was changed");
        let [kind] = read(file)?;
        let (kind, header) = match kind {
            b'm' => (Kind::Message, 5),
            b'r' => (Kind::Relation(u64::from_le_bytes(read(file)?)), 13),
            b'o' => (Kind::Oversized(u64::from_le_bytes(read(file)?)), 13),
            _ => return Err(damaged()),
        };
        let length = u32::from_le_bytes(read(file)?);
        let whole = header + u64::from(length);
        self.left = self.left.checked_sub(whole).ok_or_else(damaged)?;
        let length = usize::try_from(length).map_err(|_| damaged())?;
        if self.record.capacity() > 16 * BUFFER && length < BUFFER {
            // one large row must not keep its memory for good
            self.record = Vec::new();
        }
        self.record.resize(length, 0);
        file.read_exact(&mut self.record)?;
        Ok(Some((kind, &self.record)))
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        self.quota.give_back(self.length);
        // what stays is deleted by the next session
        drop(std::fs::remove_file(&self.path));
    }
}

fn read<const N: usize>(file: &mut impl Read) -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    file.read_exact(&mut bytes)?;
    Ok(bytes)
}
