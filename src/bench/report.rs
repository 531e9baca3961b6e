//! The lines of the bench's table.

use super::usage::Used;

/// The head of the table.
pub(super) fn head() -> String {
    format!(
        "{:<38} {:>10} {:>8} {:>9} {:>8} {:>8} {:>9} {:>8}",
        "", "rows", "s", "rows/s", "CPU ours", "source", "warehouse", "peak MiB"
    )
}

/// One measurement.
pub(super) fn line(name: &str, rows: u64, used: &Used) -> String {
    let Used { took, cpu, peak_kib } = used;
    let peak = match peak_kib {
        0 => "-".to_owned(),
        peak => (peak / 1024).to_string(),
    };
    format!(
        "{name:<38} {rows:>10} {:>8.2} {:>9.0} {:>8.2} {:>8.2} {:>9.2} {peak:>8}",
        took.as_secs_f64(),
        a_second(rows, used),
        cpu.ours,
        cpu.source,
        cpu.warehouse,
    )
}

/// How fast one is beside another, for the same rows.
pub(super) fn ratio(name: &str, ours: &Used, other: &Used) -> String {
    let ratio = other.took.as_secs_f64() / ours.took.as_secs_f64();
    format!("  {name}: {ratio:.2}")
}

fn a_second(rows: u64, used: &Used) -> f64 {
    let rows = u32::try_from(rows).map_or(f64::INFINITY, f64::from);
    rows / used.took.as_secs_f64()
}
