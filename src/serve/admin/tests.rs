//! Who is named where something does not answer.

use super::*;

#[test]
fn who_does_not_answer_is_named() {
    let words = |kind| in_words(&Error::new(kind, "no host is there"));
    assert_eq!(words(Kind::SourceAway), "the source does not answer");
    assert_eq!(words(Kind::WarehouseAway), "the warehouse does not answer");
    assert_eq!(words(Kind::Rights), "no host is there");
}
