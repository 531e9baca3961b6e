//! How a part with refused changes is cut: keys between which a row moved stay together.

use super::*;
use crate::journey::Mark;

#[test]
fn keys_between_which_a_row_moved_are_one() {
    let kept: Vec<Kept> = (0..6).map(kept).collect();
    let keys = [(1, 1), (2, 2), (3, 3), (4, 2), (4, 4), (3, 1)];
    let items: Vec<Item<'_>> = kept
        .iter()
        .zip(keys)
        .map(|(kept, (new, old))| Item { kept, digests: Digests { new, old } })
        .collect();
    let orders: Vec<Vec<i64>> = by_key(&items)
        .iter()
        .map(|key| key.iter().map(|item| item.kept.order.ord).collect())
        .collect();
    assert_eq!(orders, [vec![0, 2, 5], vec![1, 3, 4]]);
    assert_eq!(halves(3..8), [5..8, 3..5]);
}

fn kept(ord: i64) -> Kept {
    Kept {
        order: Order { seq: 1, ord },
        place: Order { seq: 1, ord },
        mark: Mark { seq: 1, committed_at: 0, xid: 0 },
        schema_id: 1,
        binary: false,
        waits: false,
        comes_from: None,
        message: Vec::new(),
    }
}
