//! Network addresses as Postgres prints them.

use std::io::Write;

const IPV4: u8 = 2;

/// Family, prefix length, whether it is a cidr, address length, address.
pub(super) fn write_inet(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let ([family, bits, is_cidr, length], address) = value.split_first_chunk::<4>()?;
    if usize::from(*length) != address.len() {
        return None;
    }
    let full = if *family == IPV4 {
        write_ipv4(address.try_into().ok()?, out);
        32
    } else {
        write_ipv6(address.try_into().ok()?, out);
        128
    };
    if *bits != full || *is_cidr != 0 {
        let _infallible = write!(out, "/{bits}");
    }
    Some(())
}

fn write_ipv4(bytes: [u8; 4], out: &mut Vec<u8>) {
    let [a, b, c, d] = bytes;
    let _infallible = write!(out, "{a}.{b}.{c}.{d}");
}

/// The longest run of at least two zero groups becomes `::`, the first one where two are as long;
/// the last four bytes print as IPv4 behind `::` alone and behind `::ffff:`.
fn write_ipv6(bytes: [u8; 16], out: &mut Vec<u8>) {
    let groups: Vec<u16> =
        bytes.chunks_exact(2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])).collect();
    let (start, length) = longest_zero_run(&groups);
    let embeds_ipv4 = start == 0 && (length == 6 || (length == 5 && groups[5] == 0xffff));
    for (at, group) in groups.iter().enumerate() {
        if length > 0 && (start..start + length).contains(&at) {
            if at == start {
                out.push(b':');
            }
            continue;
        }
        if at != 0 {
            out.push(b':');
        }
        if at == 6 && embeds_ipv4 {
            let [.., a, b, c, d] = bytes;
            return write_ipv4([a, b, c, d], out);
        }
        let _infallible = write!(out, "{group:x}");
    }
    if length > 0 && start + length == groups.len() {
        out.push(b':');
    }
}

fn longest_zero_run(groups: &[u16]) -> (usize, usize) {
    let (mut best, mut current) = ((0, 0), (0, 0));
    for (at, group) in groups.iter().enumerate() {
        current = match (group, current) {
            (0, (_, 0)) => (at, 1),
            (0, (start, length)) => (start, length + 1),
            _ => (0, 0),
        };
        if current.1 > best.1 {
            best = current;
        }
    }
    if best.1 < 2 { (0, 0) } else { best }
}

pub(super) fn write_macaddr(value: &[u8], out: &mut Vec<u8>) -> Option<()> {
    let [a, b, c, d, e, f]: [u8; 6] = value.try_into().ok()?;
    let _infallible = write!(out, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}");
    Some(())
}
