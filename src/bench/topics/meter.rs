//! What reading a topic costs each of the parties, and the lines that say it.

use std::time::{Duration, Instant};

use super::ground::Ground;
use crate::bench::usage::{children, cpu_of, family, peak_kib, server};
use crate::error::{Error, Result};

/// CPU seconds.
#[derive(Clone, Copy, Debug, Default)]
struct Cpu {
    reader: f64,
    broker: f64,
    warehouse: f64,
}

/// What a piece of work took.
#[derive(Clone, Copy, Debug)]
pub(super) struct Used {
    pub(super) took: Duration,
    cpu: Cpu,
    peak_kib: u64,
}

/// Measures from its start on.
pub(super) struct Meter<'g> {
    ground: &'g Ground,
    broker: Vec<u32>,
    /// the processes that read, where they are not our children
    worker: Vec<u32>,
    from: Instant,
    before: Cpu,
}

impl<'g> Meter<'g> {
    /// Measures services that end before [`Meter::used`] is asked, or another reader's process.
    pub(super) fn start(ground: &'g Ground, worker: Option<u32>) -> Result<Meter<'g>> {
        let broker = ground.broker.pid().ok_or_else(|| Error::bug("a broker that does not run"))?;
        let (broker, from) = (family(broker)?, Instant::now());
        let worker = worker.map_or(Ok(Vec::new()), family)?;
        let mut meter = Meter { ground, broker, worker, from, before: Cpu::default() };
        meter.before = meter.so_far()?;
        meter.from = Instant::now();
        Ok(meter)
    }

    fn so_far(&self) -> Result<Cpu> {
        Ok(Cpu {
            reader: if self.worker.is_empty() { children()? } else { cpu_of(&self.worker) },
            broker: cpu_of(&self.broker),
            warehouse: server(&self.ground.warehouse.data_dir())?,
        })
    }

    pub(super) fn elapsed(&self) -> Duration {
        self.from.elapsed()
    }

    /// Since the start. `ours_kib` is the peak of our own services.
    pub(super) fn used(&self, took: Duration, ours_kib: u64) -> Result<Used> {
        let now = self.so_far()?;
        let cpu = Cpu {
            reader: now.reader - self.before.reader,
            broker: now.broker - self.before.broker,
            warehouse: now.warehouse - self.before.warehouse,
        };
        let of_worker = self.worker.iter().filter_map(|pid| peak_kib(*pid)).max().unwrap_or(0);
        Ok(Used { took, cpu, peak_kib: ours_kib.max(of_worker) })
    }
}

/// The head of the table.
pub(super) fn head() -> String {
    format!(
        "{:<36} {:>9} {:>7} {:>8} {:>9} {:>7} {:>9} {:>8}",
        "", "events", "s", "events/s", "CPU/M own", "broker", "warehouse", "peak MiB"
    )
}

/// One measurement.
pub(super) fn line(name: &str, events: u64, used: &Used) -> String {
    let Used { took, cpu, peak_kib } = used;
    let count = u32::try_from(events).map_or(f64::INFINITY, f64::from);
    let a_million = |seconds: f64| seconds * 1e6 / count;
    format!(
        "{name:<36} {events:>9} {:>7.2} {:>8.0} {:>9.2} {:>7.2} {:>9.2} {:>8}",
        took.as_secs_f64(),
        count / took.as_secs_f64(),
        a_million(cpu.reader),
        a_million(cpu.broker),
        a_million(cpu.warehouse),
        peak_kib / 1024,
    )
}
