//! From folded rows to warehouse rows: staged by binary COPY, merged by set-based statements.
//!
//! The statements are templates in `sql/merge`, rendered for each table in `render`, the only place
//! that builds them. Nothing here opens or ends a transaction, and nothing moves a position.

mod adopt;
mod answers;
mod apply;
mod arrivals;
mod carried;
mod checks;
mod conform;
mod copy;
mod deferred;
mod define;
mod differ;
mod direct;
mod documents;
mod drift;
mod emptied;
mod evolve;
mod extracted;
mod fed;
mod gone;
mod late;
mod leaves;
mod looks;
mod moved;
mod pages;
mod partitioned;
mod raw;
mod reading;
mod rebuilding;
mod recall;
mod render;
mod stage;
mod staging;
mod standing;
mod stored;
mod table;
mod wider;

pub use adopt::{Adopted, Terms, adopt, obstacles};
pub use answers::Asker;
pub use apply::{Apply, Encoded, Overrules, Piece, encode_batch};
pub use checks::Checks;
pub use conform::{Conform, conform};
pub use define::{
    by_content, define, define_calendar, define_unkeyed, emptying, fill_calendar, key_statement,
    order_index,
};
pub use differ::{Class, Lock, Step, differences, requirements};
pub use documents::RowDocuments;
pub use drift::{Change, Effect, compare, follow};
pub use evolve::{Evolution, evolve};
pub use extracted::{Extract, Gathered, Kept, Portioned, Replaced};
pub use fed::{fed_no_more, fed_otherwise, feeds};
pub use gone::Gone;
pub use leaves::{Leaf, Leaves, absent, ahead, create as create_leaves};
pub use pages::{Page, Pages};
pub use reading::{
    Finished, Point, Reading, Straight, Stretch, Way, goes_straight, merge as merge_reading,
    rebase, way,
};
pub use rebuilding::{Rebuilding, foreign_column, has_older};
pub use recall::{Events, Extent, Recalled};
pub use render::Templates;
pub use standing::{Standing, is_ours};
pub use stored::{
    StoredColumn, beyond, columns, count_rows, estimate_rows, extension_types, made_of,
    missing_indexes,
};
