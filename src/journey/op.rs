//! What can happen to a row.

/// What happened to a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// It was inserted.
    Create,
    /// It was updated, its key perhaps as well.
    Update,
    /// It was deleted.
    Delete,
    /// A snapshot read it.
    Read,
    /// Its whole table was emptied.
    Truncate,
}

impl Op {
    /// Debezium's letter for it, as raw and append tables show it.
    pub fn letter(self) -> &'static str {
        match self {
            Op::Create => "c",
            Op::Update => "u",
            Op::Delete => "d",
            Op::Read => "r",
            Op::Truncate => "t",
        }
    }

    /// What a letter means.
    pub fn of(letter: &str) -> Option<Op> {
        const ALL: [Op; 5] = [Op::Create, Op::Update, Op::Delete, Op::Read, Op::Truncate];
        ALL.into_iter().find(|op| op.letter() == letter)
    }
}
