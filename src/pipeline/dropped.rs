//! That a slot was dropped while the warehouse could not be told, in a file beside the spool: the process may
//! end before it can. It is written before the slot goes, and a slot that is still there makes it void. It
//! decides nothing.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use super::shared::Setup;

/// The file in the connector's folder; what lies there of open transactions has other names.
const FILE: &str = "slot-dropped";

/// Notes it. Where no file can be written it is known until the process ends: the source's disk comes first.
pub(super) fn note(setup: &Setup) {
    setup.slot_dropped.store(true, Ordering::SeqCst);
    if let Err(error) = write(setup) {
        let file = path(setup).display().to_string();
        tracing::warn!(file, "that the slot was dropped cannot be noted: {error}");
    }
}

fn write(setup: &Setup) -> io::Result<()> {
    let folder = setup.settings.spool_path.join(&setup.connector.name);
    DirBuilder::new().recursive(true).mode(0o700).create(&folder)?;
    let mut file = File::create(path(setup))?;
    file.write_all(setup.connector.slot.as_bytes())?;
    file.sync_all()?;
    File::open(folder)?.sync_all()
}

/// Whether the connector's slot may have been dropped.
pub(super) fn is_noted(setup: &Setup) -> bool {
    let noted = std::fs::read_to_string(path(setup));
    setup.slot_dropped.load(Ordering::SeqCst)
        || noted.is_ok_and(|slot| slot == setup.connector.slot)
}

/// It was carried out, or did not happen.
pub(super) fn forget(setup: &Setup) {
    setup.slot_dropped.store(false, Ordering::SeqCst);
    // where there is none, or it stays: it is void by then
    drop(std::fs::remove_file(path(setup)));
}

fn path(setup: &Setup) -> PathBuf {
    setup.settings.spool_path.join(&setup.connector.name).join(FILE)
}
