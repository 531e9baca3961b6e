//! How the screen writes numbers, times and sizes, and how it fits them into a line. It knows nothing of what they count.

use std::time::Duration;

pub(super) fn length(text: &str) -> usize {
    text.chars().count()
}

pub(super) fn padded(text: &str, width: usize) -> String {
    format!("{text:<width$}")
}

/// The text, or its beginning with an ellipsis; on one line in any case.
pub(super) fn cut(text: &str, width: usize) -> String {
    let mut text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if length(&text) > width {
        text = text.chars().take(width.saturating_sub(1)).collect();
        text.push('…');
    }
    text
}

pub(super) fn clock(elapsed: Duration) -> String {
    let seconds = elapsed.as_secs();
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    match hours {
        0 => format!("{minutes:02}:{seconds:02}"),
        _ => format!("{hours}:{minutes:02}:{seconds:02}"),
    }
}

pub(super) fn counted(count: u64, what: &str) -> String {
    format!("{} {what}{}", grouped(count), if count == 1 { "" } else { "s" })
}

/// `204118` as `204,118`.
pub(super) fn grouped(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

pub(super) fn time(milliseconds: u64) -> String {
    match milliseconds {
        0..10_000 => format!("{} ms", grouped(milliseconds)),
        _ => format!("{} s", grouped(milliseconds / 1000)),
    }
}

pub(super) fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["B", "kB", "MB", "GB"];
    let mut scaled = bytes;
    let mut units = UNITS.iter().copied();
    let mut unit = units.next().unwrap_or_default();
    for next in units {
        if scaled < 10_000 {
            break;
        }
        scaled /= 1000;
        unit = next;
    }
    format!("{} {unit}", grouped(scaled))
}
