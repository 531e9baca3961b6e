//! The spool on a real disk: what comes back, the quota, damaged files, savepoints.

use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::Ordering;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

fn spool(root: &TempDir, max: u64) -> Spool {
    Spool::open(&root.path().join("spool/shop"), 3, Arc::new(Quota::new(max))).unwrap()
}

fn files(root: &TempDir) -> Vec<PathBuf> {
    let folder = std::fs::read_dir(root.path().join("spool/shop")).unwrap();
    folder.map(|entry| entry.unwrap().path()).collect()
}

fn records(mut replay: Replay) -> Vec<(Kind, Vec<u8>)> {
    let mut records = Vec::new();
    while let Some((kind, bytes)) = replay.next_record().unwrap() {
        records.push((kind, bytes.to_vec()));
    }
    records
}

#[test]
fn what_was_written_in_chunks_comes_back_in_order_and_is_gone() {
    let root = TempDir::new().unwrap();
    let mut spool = spool(&root, 1 << 20);
    let long = vec![7; 3 * BUFFER];
    spool.start(10, true).unwrap();
    spool.append(10, Kind::Relation(41), b'R', b"shape").unwrap();
    spool.append(10, Kind::Message, b'I', &long).unwrap();
    spool.stop().unwrap();
    spool.start(20, true).unwrap();
    spool.append(21, Kind::Message, b'D', b"another's").unwrap();
    spool.stop().unwrap();
    spool.start(10, false).unwrap();
    spool.append(11, Kind::Oversized(1 << 40), b'U', b"head").unwrap();
    spool.stop().unwrap();
    assert_eq!(files(&root).len(), 2);
    let mode = std::fs::metadata(&files(&root)[0]).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let on_disk = |path: &PathBuf| std::fs::metadata(path).unwrap().len();
    assert_eq!(spool.bytes(), files(&root).iter().map(on_disk).sum::<u64>());
    let expected = [
        (Kind::Relation(41), b"Rshape".to_vec()),
        (Kind::Message, [b"I", long.as_slice()].concat()),
        (Kind::Oversized(1 << 40), b"Uhead".to_vec()),
    ];
    assert!(records(spool.replay(10).unwrap()) == expected);
    assert_eq!(files(&root).len(), 1);
    spool.abort(20, 20).unwrap();
    assert_eq!(files(&root).len(), 0);
    assert_eq!((spool.bytes(), spool.quota.used.load(Ordering::Relaxed)), (0, 0));
}

#[test]
fn the_quota_holds_over_all_and_is_given_back() {
    let root = TempDir::new().unwrap();
    let mut spool = spool(&root, 100);
    spool.start(10, true).unwrap();
    spool.append(10, Kind::Message, b'I', &[0; 40]).unwrap();
    let other = root.path().join("spool/other");
    let mut other = Spool::open(&other, 1, spool.quota.clone()).unwrap();
    other.start(10, true).unwrap();
    other.append(10, Kind::Message, b'I', &[0; 40]).unwrap();
    let refused = spool.append(10, Kind::Message, b'I', &[0; 40]).unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::QuotaExceeded);
    drop(other);
    spool.append(10, Kind::Message, b'I', &[0; 40]).unwrap();
    let quota = spool.quota.clone();
    drop(spool);
    assert_eq!((quota.used.load(Ordering::Relaxed), files(&root).len()), (0, 0));
}

#[test]
fn what_somebody_else_did_to_a_file_is_an_error() {
    let root = TempDir::new().unwrap();
    let mut spool = spool(&root, 1 << 20);
    for (top, name) in [(10, "3-10"), (11, "3-11")] {
        spool.start(top, true).unwrap();
        spool.append(top, Kind::Message, b'I', b"row").unwrap();
        spool.stop().unwrap();
        let path = root.path().join("spool/shop").join(name);
        let bytes = std::fs::read(&path).unwrap();
        std::fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
    }
    assert!(spool.replay(10).is_err());
    assert!(spool.start(11, false).is_err());
    assert!(spool.start(12, false).is_err(), "a chunk without its beginning");
    assert!(spool.replay(12).is_err());
    // files of an earlier session do not stay, what is not ours does
    let foreign = root.path().join("spool/shop/notes-2024.txt");
    std::fs::write(&foreign, "mine").unwrap();
    drop(Spool::open(&root.path().join("spool/shop"), 4, spool.quota.clone()).unwrap());
    assert!(spool.start(11, false).is_err());
    assert_eq!(files(&root), [foreign]);
}

/// What happens in a transaction with savepoints.
#[derive(Clone, Debug)]
enum Step {
    Row,
    Savepoint,
    Release,
    RollBack(usize),
    Chunk,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Row),
        2 => Just(Step::Savepoint),
        1 => Just(Step::Release),
        1 => (0usize..4).prop_map(Step::RollBack),
        2 => Just(Step::Chunk),
    ]
}

/// A savepoint that is open: its id, if it wrote, what was released into it, and how many rows
/// there were before it.
struct Open {
    xid: Option<u32>,
    children: Vec<u32>,
    rows: usize,
}

proptest! {
    /// Against a list of rows that is cut where a savepoint is rolled back, as Postgres tells it: ids
    /// are given when something is written, parents first; a roll back names the released children,
    /// then itself.
    #[test]
    fn savepoints_nest(steps in proptest::collection::vec(step(), 0..120)) {
        let root = TempDir::new().unwrap();
        let mut spool = spool(&root, 1 << 20);
        let top = 100;
        let (mut next, mut row) = (top, 0u32);
        let mut rows: Vec<u32> = Vec::new();
        let mut open: Vec<Open> = Vec::new();
        spool.start(top, true).unwrap();
        for step in steps {
            match step {
                Step::Row => {
                    for open in &mut open {
                        open.xid.get_or_insert_with(|| { next += 1; next });
                    }
                    let xid = open.last().and_then(|open| open.xid).unwrap_or(top);
                    row += 1;
                    spool.append(xid, Kind::Message, b'I', &row.to_le_bytes()).unwrap();
                    rows.push(row);
                }
                Step::Savepoint => {
                    open.push(Open { xid: None, children: Vec::new(), rows: rows.len() });
                }
                Step::Release => {
                    if let Some(released) = open.pop()
                        && let Some(parent) = open.last_mut()
                    {
                        parent.children.extend(released.children);
                        parent.children.extend(released.xid);
                    }
                }
                Step::RollBack(depth) => {
                    // roll back to one further out ends those within, the innermost first
                    let keep = open.len().saturating_sub(depth + 1);
                    let mut cut = rows.len();
                    spool.stop().unwrap();
                    while open.len() > keep {
                        let gone = open.pop().unwrap();
                        for xid in gone.children.into_iter().chain(gone.xid) {
                            spool.abort(top, xid).unwrap();
                        }
                        cut = gone.rows;
                    }
                    rows.truncate(cut);
                    spool.start(top, false).unwrap();
                }
                Step::Chunk => {
                    spool.stop().unwrap();
                    spool.start(top, false).unwrap();
                }
            }
        }
        spool.stop().unwrap();
        let expected: Vec<_> = rows
            .iter()
            .map(|row| (Kind::Message, [b"I".as_slice(), &row.to_le_bytes()].concat()))
            .collect();
        prop_assert_eq!(records(spool.replay(top).unwrap()), expected);
        prop_assert_eq!(spool.quota.used.load(Ordering::Relaxed), 0);
    }
}
