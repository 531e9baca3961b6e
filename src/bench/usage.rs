//! What processes used: CPU seconds and the most memory, as the kernel counts them in /proc.

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use super::site::Site;
use crate::error::{Error, Kind, Result};

/// The kernel counts CPU in hundredths of a second on every machine that Linux runs on.
const TICKS: f64 = 100.0;

/// CPU seconds of the three parties.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Cpu {
    /// Our own process.
    pub(super) ours: f64,
    /// All processes of the source.
    pub(super) source: f64,
    /// All processes of the warehouse.
    pub(super) warehouse: f64,
}

/// What a piece of work took.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Used {
    /// Wall time.
    pub(super) took: Duration,
    /// CPU.
    pub(super) cpu: Cpu,
    /// The most memory that our process had, in KiB; 0 where it took no part.
    pub(super) peak_kib: u64,
}

/// Measures from its start on.
pub(super) struct Meter {
    from: Instant,
    cpu: Cpu,
}

impl Meter {
    /// Starts to measure.
    pub(super) fn start(site: &Site) -> Result<Meter> {
        Ok(Meter { cpu: Cpu::so_far(site)?, from: Instant::now() })
    }

    /// Since the start.
    pub(super) fn elapsed(&self) -> Duration {
        self.from.elapsed()
    }

    /// What was used since the start, by processes that have ended or belong to a server.
    pub(super) fn used(&self, site: &Site, took: Duration, peak_kib: u64) -> Result<Used> {
        let now = Cpu::so_far(site)?;
        let cpu = Cpu {
            ours: now.ours - self.cpu.ours,
            source: now.source - self.cpu.source,
            warehouse: now.warehouse - self.cpu.warehouse,
        };
        Ok(Used { took, cpu, peak_kib })
    }
}

impl Cpu {
    fn so_far(site: &Site) -> Result<Cpu> {
        Ok(Cpu {
            ours: children()?,
            source: server(&site.source.data_dir())?,
            warehouse: server(&site.warehouse.data_dir())?,
        })
    }
}

/// CPU seconds of our children that have ended.
pub(super) fn children() -> Result<f64> {
    let own = stat(&fs::read_to_string("/proc/self/stat").map_err(unreadable)?);
    Ok(own.map_or(0.0, |own| own.of_children) / TICKS)
}

/// A process and its children.
pub(super) fn family(pid: u32) -> Result<Vec<u32>> {
    let is_child = |child: &u32| {
        let text = fs::read_to_string(format!("/proc/{child}/stat")).ok();
        text.and_then(|text| stat(&text)).is_some_and(|stat| stat.parent == pid)
    };
    let names = fs::read_dir("/proc").map_err(unreadable)?.flatten();
    let pids = names.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    Ok(std::iter::once(pid).chain(pids.filter(is_child)).collect())
}

/// CPU seconds of processes.
pub(super) fn cpu_of(pids: &[u32]) -> f64 {
    let of = |pid: &u32| {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat(&text).map(|stat| stat.of_itself)
    };
    pids.iter().filter_map(of).sum::<f64>() / TICKS
}

/// CPU seconds of a server: its postmaster, the children that are there and those that have ended.
pub(super) fn server(data: &Path) -> Result<f64> {
    let text = fs::read_to_string(data.join("postmaster.pid")).map_err(unreadable)?;
    let postmaster = text.lines().next().and_then(|line| line.trim().parse::<u32>().ok());
    let mut ticks = 0.0;
    for entry in fs::read_dir("/proc").map_err(unreadable)?.flatten() {
        let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
        if pid.is_none() {
            continue;
        }
        // a process may end while we look
        let Ok(text) = fs::read_to_string(entry.path().join("stat")) else { continue };
        let Some(stat) = stat(&text) else { continue };
        if pid == postmaster || Some(stat.parent) == postmaster {
            ticks += stat.of_itself + stat.of_children;
        }
    }
    Ok(ticks / TICKS)
}

struct Stat {
    parent: u32,
    of_itself: f64,
    of_children: f64,
}

/// Reads `/proc/PID/stat`; the name in brackets may hold anything.
fn stat(text: &str) -> Option<Stat> {
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<f64>().ok();
    Some(Stat {
        parent: fields.get(1)?.parse().ok()?,
        of_itself: number(11)? + number(12)?,
        of_children: number(13)? + number(14)?,
    })
}

/// The most memory that a process ever had, in KiB; `None` when it has ended.
pub(super) fn peak_kib(pid: u32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

fn unreadable(error: std::io::Error) -> Error {
    Error::new(Kind::Config, "the bench reads /proc, which is not as on Linux").because(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let text = "7 (a) b (c) S 3 7 7 0 -1 0 0 0 0 0 11 12 13 14 20 0 1";
        let stat = stat(text).unwrap();
        assert_eq!((stat.parent, stat.of_itself, stat.of_children), (3, 23.0, 27.0));
    }
}
