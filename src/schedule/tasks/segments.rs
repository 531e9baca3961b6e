//! The segments of the server's log as an archive has them in a folder: which of them go, which are of use with a
//! copy, and what is set aside.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

/// The length of a segment's name: timeline, and its number in two parts, in hexadecimal.
const NAME: usize = 24;

/// Sets aside what an archive has that does not go on: it is of use with the copies before.
pub(super) fn set_aside(folder: &Path) -> std::io::Result<()> {
    let names = logs(folder)?;
    let Some(newest) = names.iter().max() else { return Ok(()) };
    let aside = folder.join(format!("{ASIDE}{newest}"));
    DirBuilder::new().recursive(true).mode(0o700).create(&aside)?;
    for name in &names {
        fs::rename(folder.join(name), aside.join(name))?;
    }
    tracing::warn!("the archive begins anew: what it had lies in {}", aside.display());
    Ok(())
}

/// Whether something is missing between what an archive has and a segment, where each has so many bytes.
pub(super) fn lacks(folder: &Path, kept: &str, bytes: i64) -> std::io::Result<bool> {
    let newest = logs(folder)?.into_iter().max_by_key(|name| reached_by(name));
    // of one that is not whole all is asked for once more
    let next = newest.and_then(|newest| begins(&newest, bytes)).map(|begins| begins + bytes);
    Ok(next.zip(begins(kept, bytes)).is_some_and(|(next, kept)| next < kept))
}

/// What a folder begins with that has what was set aside.
const ASIDE: &str = "until-";

/// The names of segments in a folder, also of those that are not whole.
fn logs(folder: &Path) -> std::io::Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if number(name.strip_suffix(PARTIAL).unwrap_or(&name)).is_some() {
            names.push(name);
        }
    }
    Ok(names)
}

/// What the name of a segment ends with that is being received.
const PARTIAL: &str = ".partial";

/// A segment's place in the log, whatever its timeline.
fn number(name: &str) -> Option<(u32, u32)> {
    let hex = name.len() == NAME && name.bytes().all(|byte| byte.is_ascii_hexdigit());
    let part = |from: usize| u32::from_str_radix(name.get(from..from + 8)?, 16).ok();
    if hex { part(8).zip(part(16)) } else { None }
}

/// Removes the segments before one, and what was set aside before it; how many segments there were.
pub(super) fn forget(folder: &Path, first: &str) -> std::io::Result<usize> {
    let Some(first) = number(first) else { return Ok(0) };
    let is_old = |name: &str| {
        number(name.strip_suffix(PARTIAL).unwrap_or(name)).is_some_and(|number| number < first)
    };
    let mut gone = 0;
    for name in logs(folder)?.iter().filter(|name| is_old(name)) {
        fs::remove_file(folder.join(name))?;
        gone += 1;
    }
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.strip_prefix(ASIDE).is_some_and(is_old) {
            fs::remove_dir_all(folder.join(name))?;
        }
    }
    Ok(gone)
}

/// Of the copies that are kept the segment that the oldest needs first; none where one does not say it.
pub(super) fn oldest<'m>(needed: impl Iterator<Item = Option<&'m str>>) -> Option<&'m str> {
    let mut oldest: Option<&str> = None;
    for first in needed {
        let first = first?;
        oldest = Some(oldest.filter(|oldest| number(oldest) <= number(first)).unwrap_or(first));
    }
    oldest
}

/// What was laid out of an archive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct LaidOut {
    /// The segment up to whose begin there must be log.
    pub(super) newest: String,
    /// When something was received last.
    pub(super) received: SystemTime,
}

/// Puts the segments from one on where a server finds them that comes up with a copy, and the last one that was not
/// received whole; none where there is no such one. The archive may go on meanwhile.
pub(super) fn lay_out(folder: &Path, first: &str, into: &Path) -> std::io::Result<Option<LaidOut>> {
    const LOOKS: u32 = 5;
    let first = number(first);
    let copy = |name: &str, as_name: &str| match fs::copy(folder.join(name), into.join(as_name)) {
        // it has got its name, or a copy that was made meanwhile let it go
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        copied => copied.map(|_| true),
    };
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(".history") {
            copy(&name, &name)?;
        }
    }
    let mut found: BTreeMap<String, SystemTime> = BTreeMap::new();
    for _ in 0..LOOKS {
        let mut missed = false;
        let (mut whole, mut partial) = (Vec::new(), Vec::new());
        for name in logs(folder)? {
            match name.strip_suffix(PARTIAL) {
                Some(named) if number(named) >= first => partial.push(named.to_owned()),
                None if number(&name) >= first && !found.contains_key(&name) => whole.push(name),
                _ => {}
            }
        }
        for name in whole {
            let written = fs::metadata(folder.join(&name)).and_then(|data| data.modified());
            match copy(&name, &name)? {
                true => drop(found.insert(name, written.unwrap_or(UNIX_EPOCH))),
                false => missed = true,
            }
        }
        for named in partial {
            let name = format!("{named}{PARTIAL}");
            let written = fs::metadata(folder.join(&name)).and_then(|data| data.modified());
            // what the copy brought of it itself may reach further than what was received
            let copied = into.join(&named).exists() || copy(&name, &named)?;
            match copied {
                true => drop(found.insert(name, written.unwrap_or(UNIX_EPOCH))),
                false => missed = true,
            }
        }
        if !missed {
            break;
        }
    }
    let received = found.values().max().copied().unwrap_or(UNIX_EPOCH);
    let newest = found.into_keys().max_by_key(|name| reached_by(name));
    Ok(newest.map(|newest| LaidOut { newest, received }))
}

/// The number that a segment is compared by: one that is not whole may have nothing but its begin.
fn reached_by(name: &str) -> Option<((u32, u32), bool)> {
    let whole = name.strip_suffix(PARTIAL);
    number(whole.unwrap_or(name)).map(|number| (number, whole.is_none()))
}

/// Where in the log a server must have come to that has gone through a segment, where each has so many bytes: of
/// one that is not whole to the one before.
pub(super) fn begins(segment: &str, bytes: i64) -> Option<i64> {
    let whole = segment.strip_suffix(PARTIAL);
    let (high, low) = number(whole.unwrap_or(segment))?;
    let begins = i64::from(low).checked_mul(bytes)?.checked_add(i64::from(high) << 32)?;
    Some(if whole.is_some() { begins - bytes } else { begins })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_are_known_by_their_names() {
        assert_eq!(number("000000010000000A000000FE"), Some((10, 254)));
        let none =
            ["00000002.history", "000000010000000A000000FE.partial", "000000010000000A000000FG"];
        assert_eq!(none.map(number), [None; 3]);
        assert_eq!(begins("000000010000000A00000002", 16 << 20), Some((10 << 32) + (2 << 24)));
        let partial = begins("000000010000000A00000002.partial", 16 << 20);
        assert_eq!(partial, Some((10 << 32) + (1 << 24)));
    }

    #[test]
    fn the_oldest_copy_is_the_one_that_needs_most() {
        let (earlier, later) = ("00000001000000000000000A", "00000002000000000000000B");
        assert_eq!(oldest([Some(later), Some(earlier)].into_iter()), Some(earlier));
        assert_eq!(oldest([Some(later), None].into_iter()), None);
        assert_eq!(oldest(std::iter::empty()), None);
    }

    #[test]
    fn what_does_not_go_on_is_set_aside() {
        let folder = tempfile::tempdir().unwrap();
        set_aside(folder.path()).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        let names = ["000000010000000000000009", "00000001000000000000000A.partial"];
        for name in names {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let lacks = |kept: &str| lacks(folder.path(), kept, 16 << 20).unwrap();
        assert!(!lacks(names[1].trim_end_matches(PARTIAL)), "the one that is not whole is there");
        assert!(lacks("00000001000000000000000B"));
        fs::rename(folder.path().join(names[1]), folder.path().join("00000001000000000000000A"))
            .unwrap();
        assert!(!lacks("00000001000000000000000B"));
        assert!(lacks("00000001000000000000000C"));
        fs::rename(folder.path().join("00000001000000000000000A"), folder.path().join(names[1]))
            .unwrap();
        set_aside(folder.path()).unwrap();
        assert_eq!(logs(folder.path()).unwrap(), Vec::<String>::new());
        assert!(!lacks("00000001000000000000000C"), "there is nothing yet");
        let aside = folder.path().join("until-00000001000000000000000A.partial");
        assert_eq!(fs::read_dir(aside).unwrap().count(), 2);
    }

    #[test]
    fn what_is_before_the_oldest_copy_goes() {
        let folder = tempfile::tempdir().unwrap();
        let (old, kept) = ("000000010000000000000009", "00000002000000000000000A");
        let others = ["00000002.history", "00000002000000000000000B.partial", "notes"];
        for name in [old, kept].into_iter().chain(others) {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let aside = format!("{ASIDE}{old}.partial");
        fs::create_dir(folder.path().join(&aside)).unwrap();
        assert_eq!(forget(folder.path(), kept).unwrap(), 1);
        assert!(!folder.path().join(old).exists() && !folder.path().join(aside).exists());
        let into = tempfile::tempdir().unwrap();
        let laid_out = lay_out(folder.path(), kept, into.path()).unwrap().unwrap();
        assert_eq!(laid_out.newest, "00000002000000000000000B.partial");
        assert!(laid_out.received > UNIX_EPOCH);
        let later = "00000002000000000000000C";
        assert_eq!(lay_out(folder.path(), later, into.path()).unwrap(), None);
        let mut names: Vec<_> = fs::read_dir(into.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        assert_eq!(names, ["00000002.history", kept, "00000002000000000000000B"]);
    }
}
