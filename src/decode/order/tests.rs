//! In which order the changes of a key stand, by what Debezium tells of them and in which order it does.

use super::*;

fn record() -> TopicRecord<'static> {
    TopicRecord {
        topic: "shop.public.t",
        partition: 0,
        offset: 0,
        timestamp: 1_700_000_000_000,
        key: None,
        value: Some(b"{}"),
        headers: &[],
    }
}

/// The place of a flattened record, as the partition takes it.
fn flat(memory: &mut Memory, lsn: Option<i64>, (op, at): (&str, i64)) -> Order {
    let place = lsn.map_or(String::new(), |lsn| format!("\"__lsn\":{lsn},"));
    let text = format!("{{{place}\"__source_ts_ms\":{}}}", 1_700_000_000_000 + at);
    let mut beside: Beside<'_> = serde_json::from_str(&text).unwrap();
    let place = beside.origin(&record()).place(&record(), op == "r", memory).unwrap();
    memory.note_flat(&place, None);
    place.order
}

#[test]
fn a_change_of_a_transaction_that_was_open_when_its_row_was_read_stands_behind_the_row() {
    let mut memory = Memory::default();
    let read = flat(&mut memory, Some(150), ("r", 1));
    // it wrote at 100, and was committed at 200
    let first = flat(&mut memory, Some(100), ("u", 200));
    let second = flat(&mut memory, Some(140), ("u", 201));
    let behind = flat(&mut memory, Some(210), ("u", 210));
    assert!(read < first && first < second && second < behind, "{read:?} {first:?} {second:?}");
    assert_eq!(behind, Order { seq: 210, ord: 1 });
    // Debezium sends them again
    for (lsn, at, was) in [(100, 200, first), (140, 201, second), (210, 210, behind)] {
        assert_eq!(flat(&mut memory, Some(lsn), ("u", at)), was);
    }
}

#[test]
fn the_same_holds_of_rows_that_are_read_beside_the_stream() {
    let mut memory = Memory::default();
    let before = flat(&mut memory, Some(300), ("u", 300));
    let read = flat(&mut memory, None, ("r", 310));
    let open = flat(&mut memory, Some(250), ("u", 320));
    assert!(before < read && read < open, "{read:?} {open:?}");
    // the next chunk was read while another one was open
    let later = flat(&mut memory, None, ("r", 325));
    let other = flat(&mut memory, Some(200), ("u", 330));
    assert!(open < later && later < other, "{later:?} {other:?}");
    let next = flat(&mut memory, Some(350), ("u", 350));
    assert!(other < next);
    // what comes again has the order that it had, be it from before the rows were read or since
    assert_eq!(flat(&mut memory, Some(290), ("u", 299)), Order { seq: 290, ord: 1 });
    assert_eq!(flat(&mut memory, Some(200), ("u", 330)), other);
    assert_eq!(flat(&mut memory, Some(350), ("u", 350)), next);
}

#[test]
fn of_rows_that_were_read_only_the_last_places_are_kept() {
    let mut memory = Memory::default();
    for at in 1..100 {
        flat(&mut memory, Some(1_000 * at), ("u", at));
        flat(&mut memory, None, ("r", at));
    }
    assert_eq!(memory.reads.len(), 16);
    let read = memory.reads.iter().map(|(place, _)| *place).max().unwrap();
    assert_eq!(flat(&mut memory, Some(98_500), ("u", 100)), Order { seq: read, ord: 98_500 });
    // and none at all where the commit before is told
    let mut told = Memory::default();
    let text = r#"{"__lsn":10,"__sequence":"[\"5\",\"10\"]"}"#;
    let mut beside: Beside<'_> = serde_json::from_str(text).unwrap();
    let place = beside.origin(&record()).place(&record(), false, &mut told).unwrap();
    told.note_flat(&place, None);
    flat(&mut told, None, ("r", 1));
    assert_eq!((told.at, told.reads.len()), (None, 0));
}

/// Where an event of a Postgres stands, and whether it says that its connector was made again.
fn event(memory: &mut Memory, before: Option<i64>, lsn: i64, read: bool) -> (Order, bool) {
    let before = before.map_or("null".to_owned(), |before| format!(r#"\"{before}\""#));
    let text =
        format!(r#"{{"lsn":{lsn},"sequence":"[{before},\"{lsn}\"]","ts_us":1700000000000000}}"#);
    let origin: Origin<'_> = serde_json::from_str(&text).unwrap();
    let place = origin.place(&record(), read, memory).unwrap();
    (place.order, place.made_again)
}

#[test]
fn a_connector_that_was_made_again_tells_no_commit_behind_ones_that_were_told() {
    let mut memory = Memory::default();
    event(&mut memory, None, 1_000, true);
    let of_first = |memory: &mut Memory| {
        for lsn in [1_010, 1_020] {
            let expected = (Order { seq: 1_000, ord: lsn }, false);
            assert_eq!(event(memory, None, lsn, false), expected);
        }
    };
    of_first(&mut memory);
    let next = (Order { seq: 1_030, ord: 1_040 }, false);
    assert_eq!(event(&mut memory, Some(1_030), 1_040, false), next);
    // Connect was killed before it noted how far it had come
    of_first(&mut memory);
    assert_eq!(event(&mut memory, Some(1_030), 1_040, false), next);
    // without a snapshot
    for lsn in [5_000, 5_010] {
        assert!(event(&mut memory, None, lsn, false).1, "{lsn}");
    }
    // and with one
    event(&mut memory, None, 9_000, true);
    assert!(!event(&mut memory, None, 9_010, false).1);
}

/// The place in a binlog, or that it is another one's.
fn binlog(memory: &mut Memory, server: i64, (file, pos): (i64, i64), second: i64) -> bool {
    let at = 1_700_000_000_000 + second * 1_000;
    let text = format!(
        r#"{{"connector":"mysql","server_id":{server},"file":"bin.{file:06}","pos":{pos},"ts_ms":{at}}}"#
    );
    let origin: Origin<'_> = serde_json::from_str(&text).unwrap();
    origin.place(&record(), false, memory).is_ok()
}

#[test]
fn what_is_sent_again_of_the_file_before_is_no_other_log() {
    let mut memory = Memory::default();
    // a statement that began first, and was committed behind the one that stands in the file before
    assert!(binlog(&mut memory, 1, (7, 900), 5));
    assert!(binlog(&mut memory, 1, (8, 100), 0));
    // Connect was killed before it noted how far it had come
    assert!(binlog(&mut memory, 1, (7, 900), 5));
    assert!(binlog(&mut memory, 1, (8, 100), 0));
    // a log that was made anew
    assert!(!binlog(&mut memory, 1, (7, 950), 6));
}

#[test]
fn one_log_has_changes_that_were_made_at_several_servers() {
    let mut memory = Memory::default();
    for (server, pos, second) in [(1, 100, 1), (2, 200, 2), (1, 300, 3), (1, 300, 3)] {
        assert!(binlog(&mut memory, server, (3, pos), second));
    }
    // sent again
    assert!(binlog(&mut memory, 2, (3, 200), 2));
    assert!(binlog(&mut memory, 1, (3, 300), 3));
    // another server's own log
    assert!(!binlog(&mut memory, 5, (3, 250), 4));
}
