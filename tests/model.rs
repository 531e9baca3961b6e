//! The merge against a naive model: random histories, cut into batches anywhere, must leave exactly the
//! rows that a few lines of plain code leave.
//!
//! A world is one database with a dozen independent groups of keys, and a source that is simulated
//! here: every event is one that a real source could send. `SILTSTONE_SEED` repeats a world.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use siltstone::binding::bind;
use siltstone::fold::{Limits, Window};
use siltstone::journey::{Before, ChangeEvent, Flow, Mark, OldRow, Op, Route, Target};
use siltstone::merge::{Apply, Leaves, Piece, Templates, create_leaves, define, encode_batch};
use siltstone::names::TableName;
use siltstone::position::Order;
use siltstone::postgres::{Session, Side, connect};
use siltstone::relation::{Column, ColumnType, Fill, Identity, Relation, TypeKind};
use siltstone::spec::{
    Deletes, History, Lookup, Model, ModelColumn, NewColumns, Partition, SourceName, Step,
};
use siltstone::value::{Cell, Row, RowWriter};
use siltstone::warehouse::migrate;

use crate::support::{Dice, block_on, clusters, env, is_full};

const GROUPS: u64 = 12;
const KEYS: u64 = 4;

/// Microseconds since 2000-01-01 of the first commit.
pub const START: i64 = 800_000_000_000_000;

/// A row's columns beside its key: two tracked ones, one that is not, and a day.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Values {
    pub a: Option<String>,
    pub b: Option<String>,
    pub u: Option<String>,
    pub day: String,
}

impl Values {
    pub fn random(dice: &mut Dice) -> Values {
        let text = |dice: &mut Dice| match dice.below(4) {
            0 => None,
            1 => Some(String::new()),
            n => Some(format!("v{}", n + dice.below(2))),
        };
        Values { a: text(dice), b: text(dice), u: text(dice), day: day(dice) }
    }

    pub fn changed(&self, dice: &mut Dice) -> Values {
        let mut changed = self.clone();
        let fresh = Values::random(dice);
        match dice.below(6) {
            0 => {}
            1 => changed.a = fresh.a,
            2 => changed.b = fresh.b,
            3 => changed.u = fresh.u,
            4 => changed.day = fresh.day,
            _ => changed = fresh,
        }
        changed
    }
}

fn day(dice: &mut Dice) -> String {
    format!("2024-{:02}-{:02}", dice.below(3) + 1, dice.below(28) + 1)
}

/// One event as the source sends it: cells as text, `None` within for NULL, unchanged ones left out.
#[derive(Clone, Debug)]
struct Event {
    op: Op,
    old_key: Option<u64>,
    key: u64,
    values: Option<Values>,
    /// what the row held before, for a source that sends whole old rows
    before: Option<(u64, Values)>,
    unchanged: [bool; 4],
    order: Order,
    mark: Mark,
}

#[derive(Clone, Debug)]
struct Version {
    values: Values,
    from: i64,
    to: Option<i64>,
    opened: Order,
    ended: Option<Order>,
    last: Order,
}

/// What the tables must hold.
#[derive(Default)]
struct Expected {
    rows: BTreeMap<u64, (Values, Order)>,
    versions: BTreeMap<u64, Vec<Version>>,
    log: Vec<(Op, u64, Option<Values>, Order)>,
}

impl Expected {
    /// A transaction's last event of each key is all that anybody could see.
    fn commit(&mut self, events: &[Event]) {
        let mut last: BTreeMap<u64, (Option<Values>, Order, i64)> = BTreeMap::new();
        for event in events {
            let at = event.mark.committed_at;
            if let Some(old) = event.old_key.filter(|old| *old != event.key) {
                last.insert(old, (None, event.order, at));
            }
            last.insert(event.key, (event.values.clone(), event.order, at));
            self.log.push((event.op, event.key, event.values.clone(), event.order));
        }
        for (key, (values, order, at)) in last {
            match &values {
                Some(values) => _ = self.rows.insert(key, (values.clone(), order)),
                None => _ = self.rows.remove(&key),
            }
            self.version(key, values, order, at);
        }
    }

    /// A label is the commit time, but at least 1 µs behind the boundary before it: the start of the
    /// current version, or the end of the last one. Untracked changes set no boundary.
    fn version(&mut self, key: u64, values: Option<Values>, order: Order, at: i64) {
        let versions = self.versions.entry(key).or_default();
        let boundary = versions.last().map(|version| version.to.unwrap_or(version.from));
        let label = boundary.map_or(at, |boundary| at.max(boundary + 1));
        let current = versions.last_mut().filter(|version| version.to.is_none());
        if let Some(current) = current {
            let same = values.as_ref().is_some_and(|values| {
                (&values.a, &values.b) == (&current.values.a, &current.values.b)
            });
            if let (true, Some(values)) = (same, &values) {
                current.values = values.clone();
                current.last = order;
                return;
            }
            current.to = Some(label);
            current.ended = Some(order);
        }
        if let Some(values) = values {
            let (to, ended) = (None, None);
            versions.push(Version { values, from: label, to, opened: order, ended, last: order });
        }
    }

    fn truncate(&mut self, order: Order, at: i64) {
        self.rows.clear();
        for version in self.versions.values_mut().filter_map(|versions| versions.last_mut()) {
            if version.to.is_none() {
                version.to = Some(at.max(version.from + 1));
                version.ended = Some(order);
            }
        }
    }
}

/// The simulated source.
struct Source {
    dice: Dice,
    rows: BTreeMap<u64, Values>,
    seq: i64,
    clock: i64,
}

impl Source {
    fn transaction(&mut self) -> Vec<Event> {
        self.seq += 8 + i64::try_from(self.dice.below(100)).unwrap();
        // the clock mostly goes on, stands still now and then, and sometimes steps back
        self.clock += match self.dice.below(5) {
            0 => 0,
            1 => -i64::try_from(self.dice.below(4)).unwrap(),
            _ => i64::try_from(self.dice.below(3)).unwrap(),
        };
        let mark = Mark { seq: self.seq, committed_at: self.clock, xid: 7 };
        let group = self.dice.below(GROUPS) * 10;
        let mut events = Vec::new();
        for _ in 0..=self.dice.below(6) {
            let key = group + self.dice.below(KEYS);
            self.change(key, group, mark, &mut events);
        }
        events
    }

    fn change(&mut self, key: u64, group: u64, mark: Mark, events: &mut Vec<Event>) {
        let Some(values) = self.rows.get(&key).cloned() else {
            let values = Values::random(&mut self.dice);
            self.rows.insert(key, values.clone());
            return push(events, mark, Op::Create, None, key, Some(values), None, [false; 4]);
        };
        let before = Some((key, values.clone()));
        match self.dice.below(8) {
            0 => {
                self.rows.remove(&key);
                push(events, mark, Op::Delete, Some(key), key, None, before, [false; 4]);
            }
            1 | 2 => {
                // to a free key, or a swap through one that nobody uses
                let other = group + self.dice.below(KEYS);
                if other == key {
                    return;
                }
                let spare = group + 9;
                let mut moves = vec![(key, other)];
                if self.rows.contains_key(&other) {
                    moves = vec![(key, spare), (other, key), (spare, other)];
                }
                for (from, to) in moves {
                    let Some(old) = self.rows.remove(&from) else { continue };
                    let new = old.changed(&mut self.dice);
                    let unchanged = self.left_out(&old, &new);
                    self.rows.insert(to, new.clone());
                    let before = Some((from, old));
                    push(events, mark, Op::Update, Some(from), to, Some(new), before, unchanged);
                }
            }
            _ => {
                let new = values.changed(&mut self.dice);
                let unchanged = self.left_out(&values, &new);
                self.rows.insert(key, new.clone());
                push(events, mark, Op::Update, None, key, Some(new), before, unchanged);
            }
        }
    }

    /// Which of the columns that did not change are left out, as TOASTed ones are.
    fn left_out(&mut self, old: &Values, new: &Values) -> [bool; 4] {
        let same = [
            old.a == new.a && old.a.is_some(),
            old.b == new.b && old.b.is_some(),
            old.u == new.u && old.u.is_some(),
            false,
        ];
        same.map(|same| same && self.dice.one_in(2))
    }
}

#[allow(clippy::too_many_arguments, reason = "an event has as many parts")]
fn push(
    events: &mut Vec<Event>,
    mark: Mark,
    op: Op,
    old_key: Option<u64>,
    key: u64,
    values: Option<Values>,
    before: Option<(u64, Values)>,
    unchanged: [bool; 4],
) {
    let ord = i64::try_from(events.len()).unwrap() + 1;
    let order = Order { seq: mark.seq, ord };
    events.push(Event { op, old_key, key, values, before, unchanged, order, mark });
}

/// The warehouse under test.
struct World {
    session: Session,
    side: Session,
    apply: Apply,
    leaves: Leaves,
    routes: Vec<Route>,
    bag: Route,
    window: Window,
    pieces: Vec<Piece>,
}

pub fn relation(identity: Identity, keyed: bool) -> Arc<Relation> {
    let column = |name: &str, oid: u32, ty: &str| Column {
        name: name.to_owned(),
        attnum: 0,
        ty: ColumnType {
            oid,
            typmod: -1,
            name: ty.to_owned(),
            kind: TypeKind::Builtin { oid, name: ty.to_owned() },
        },
        in_key: keyed && name == "id",
        fill: Fill::Null,
        mask: None,
        hidden: false,
        as_text: false,
        comment: None,
    };
    Arc::new(Relation {
        oid: if keyed { 1 } else { 2 },
        table: TableName::new("public", "t"),
        identity,
        columns: vec![
            column("id", 20, "bigint"),
            column("a", 25, "text"),
            column("b", 25, "text"),
            column("u", 25, "text"),
            column("day", 1082, "date"),
        ],
        filenode: 0,
        attnums: 0,
        comment: None,
    })
}

pub fn model(name: &str, history: History) -> Arc<Model> {
    let column = |name: &str, ty: &str| ModelColumn {
        name: name.to_owned(),
        from: name.to_owned(),
        ty: ty.to_owned(),
        required: name == "day" && history != History::Append,
        mask: None,
        fill: None,
        comment: None,
    };
    let partitioned = name == "facts";
    Arc::new(Model {
        table: TableName::new("cleansed", name),
        from: SourceName { source: "s".to_owned(), table: TableName::new("public", "t") },
        history,
        key: if history == History::Bag { Vec::new() } else { vec!["id".to_owned()] },
        track: vec!["a".to_owned(), "b".to_owned()],
        since: None,
        columns: vec![
            column("id", "bigint"),
            column("a", "text"),
            column("b", "text"),
            column("u", "text"),
            column("day", "date"),
        ],
        lookups: if history == History::Bag { Vec::new() } else { lookups() },
        partition: partitioned.then(|| Partition {
            by: "day".to_owned(),
            every: Step::Month,
            ahead: 0,
            range: (0, 20_000),
        }),
        indexes: Vec::new(),
        deletes: match history {
            History::Versions => Deletes::Close,
            History::Append => Deletes::Row,
            _ => Deletes::Hard,
        },
        new_columns: NewColumns::Ignore,
        horizon: None,
        keep: None,
        mirrored: false,
        comment: None,
        declared_in: "model.rs".to_owned(),
    })
}

/// Each tells all that its row is looked up by.
const FOUND: [&str; 2] = [
    "select concat_ws('|', r.v, coalesce(row.a, '~'), row.day) from ref.one r",
    "select concat(r.v, row.id, '|', row.u) from ref.one r where row.b is distinct from 'v3'",
];

fn lookups() -> Vec<Lookup> {
    let lookup = |(name, query): (&str, &str)| Lookup {
        name: name.to_owned(),
        ty: "varchar(90)".to_owned(),
        query: query.to_owned(),
        comment: None,
    };
    ["found", "other"].into_iter().zip(FOUND).map(lookup).collect()
}

/// Puts the lookups of a table in place.
pub async fn look_up(session: &Session, model: &Model) {
    let reference =
        "create schema if not exists ref; create table if not exists ref.one as select 'one' as v";
    session.batch_execute(reference).await.unwrap();
    for statement in siltstone::refresh::placing(model) {
        session.batch_execute(&statement).await.unwrap();
    }
}

/// The first row that has anything but what its lookups answer.
pub async fn wrong(session: &Session, table: &str) -> Option<String> {
    let [found, other] = FOUND;
    let query = format!(
        "select \"row\"::text from cleansed.{table} as \"row\"
          where found is distinct from ({found}) or other is distinct from ({other})"
    );
    let rows = session.query(&query, &[]).await.unwrap();
    rows.first().map(|row| format!("{table} is looked up wrong: {}", row.get::<_, String>(0)))
}

pub const PLANS: &str = "set enable_hashjoin to off; set enable_mergejoin to off; \
    set plan_cache_mode to force_generic_plan";

impl World {
    async fn new(name: &str, templates: Templates) -> World {
        let cluster = &clusters().await.1;
        cluster.create_database(name).await.unwrap();
        let endpoint = cluster.endpoint(name);
        let mut session = connect(Side::Warehouse, &endpoint, "test").await.unwrap();
        let side = connect(Side::Warehouse, &endpoint, "test").await.unwrap();
        migrate(&mut session).await.unwrap();
        session.batch_execute(PLANS).await.unwrap();
        let keyed = relation(Identity::Key, true);
        let full = relation(Identity::Full, false);
        let bound = |index, name: &str, history, relation: &Arc<Relation>| -> Target {
            bind(index, &model(name, history), relation, 1, false).unwrap().target
        };
        let targets = [
            bound(0, "rows", History::Overwrite, &keyed),
            bound(1, "facts", History::Overwrite, &keyed),
            bound(2, "versions", History::Versions, &keyed),
            bound(3, "log", History::Append, &keyed),
            bound(4, "bag", History::Bag, &full),
        ];
        let mut routes = Vec::new();
        for target in targets {
            for statement in define(&target.model, &[]) {
                side.batch_execute(&statement).await.unwrap();
            }
            if !target.model.lookups.is_empty() {
                look_up(&side, &target.model).await;
            }
            routes.push(Route { target: Arc::new(target), flow: Flow::Live, floor: 0 });
        }
        let bag = routes.pop().unwrap();
        let window = Window::new(Limits { rows: 6, bytes: 1 << 20 });
        let apply = Apply::new(templates);
        World {
            session,
            side,
            apply,
            leaves: Leaves::default(),
            routes,
            bag,
            window,
            pieces: Vec::new(),
        }
    }

    fn close(&mut self) {
        let batch = self.window.close((Vec::new(), "0/0".to_owned()), 0);
        self.pieces.push(encode_batch(batch).unwrap());
    }

    fn event(&mut self, event: &Event, log: bool) {
        let (mut new, mut old) = (Vec::new(), Vec::new());
        if let Some(values) = &event.values {
            write(&mut new, event.key, values, event.unchanged);
        }
        if let Some(key) = event.old_key {
            let key = key.to_string();
            let mut writer = RowWriter::new(&mut old);
            writer.push(Cell::Text(key.as_bytes()));
            (0..4).for_each(|_| writer.push(Cell::Null));
        }
        let change = |route: &Route, old: &[u8], whole: bool| ChangeEvent {
            relation: route.target.relation.clone(),
            op: event.op,
            old: (!old.is_empty()).then(|| OldRow { row: Row::from_bytes(leak(old)), whole }),
            new: event.values.is_some().then(|| Row::from_bytes(leak(&new))),
            leaves: false,
            order: event.order,
            place: event.order,
            mark: event.mark,
        };
        for route in &self.routes {
            if route.target.model.history != History::Append || log {
                self.window.push(route, &change(route, &old, false), &[]).unwrap();
            }
        }
        if log {
            let mut whole = Vec::new();
            if let Some((key, values)) = &event.before {
                write(&mut whole, *key, values, [false; 4]);
            }
            self.window.push(&self.bag, &change(&self.bag, &whole, true), &[]).unwrap();
        }
    }

    fn truncate(&mut self, order: Order, mark: Mark) {
        if self.window.has_rows() {
            self.close();
        }
        for route in self.routes.iter().chain([&self.bag]) {
            if !route.target.model.history.logs_events() {
                self.window.first(Before::Truncate { target: route.target.clone(), order, mark });
            }
        }
    }

    /// Applies what is closed in one transaction.
    async fn apply(&mut self) -> Result<(), siltstone::error::Error> {
        for piece in &self.pieces {
            for table in &piece.tables {
                let days = table.days(8_800);
                let missing = self.leaves.missing(&table.target.model, days)?;
                create_leaves(&*self.side, &missing).await?;
                self.leaves.note(&missing);
            }
        }
        let transaction = self.session.transaction().await.unwrap();
        for piece in std::mem::take(&mut self.pieces) {
            self.apply.piece(&transaction, piece).await?;
        }
        transaction.commit().await.unwrap();
        Ok(())
    }

    async fn lines(&self, query: &str) -> Vec<String> {
        let rows = self.side.query(query, &[]).await.unwrap();
        let mut lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        lines.sort();
        lines
    }

    /// The first difference from what is expected.
    async fn difference(&self, expected: &Expected) -> Option<String> {
        let order = |order: &Order| format!("{}.{}", order.seq, order.ord);
        let mut rows: Vec<String> = expected
            .rows
            .iter()
            .map(|(key, (values, last))| format!("{} {}", shown(*key, values), order(last)))
            .collect();
        rows.sort();
        let values = "concat_ws(' ', id, coalesce(a, '~') || '|' || coalesce(b, '~') || '|' || coalesce(u, '~'), day)";
        for table in ["rows", "facts"] {
            let query =
                format!("select {values} || ' ' || _seq || '.' || _ord from cleansed.{table}");
            let found = self.lines(&query).await;
            if found != rows {
                return Some(first(table, &rows, &found));
            }
        }
        let mut places: Vec<String> = expected
            .rows
            .iter()
            .map(|(key, (values, _))| format!("{key} {}", values.day))
            .collect();
        places.sort();
        let found =
            self.lines("select concat_ws(' ', id, day) from audit.locator_cleansed_facts").await;
        if found != places {
            return Some(first("locator", &places, &found));
        }
        let mut versions = Vec::new();
        for (key, chain) in &expected.versions {
            for version in chain {
                let end =
                    version.ended.map_or("- ".to_owned(), |ended| format!("{} ", order(&ended)));
                let to = version.to.map_or("open".to_owned(), |to| to.to_string());
                versions.push(format!(
                    "{} {} {to} {} {end}{} {}",
                    shown(*key, &version.values),
                    version.from,
                    order(&version.opened),
                    order(&version.last),
                    version.to.is_none()
                ));
            }
        }
        versions.sort();
        let micros = |column: &str| {
            format!("((extract(epoch from {column}) * 1000000)::int8 - 946684800000000)::text")
        };
        let query = format!(
            "select {values} || ' ' || {} || ' ' || case when valid_to < '9999-12-31' then {} else 'open' end
               || ' ' || _seq || '.' || _ord || ' ' || coalesce(_end_seq || '.' || _end_ord, '-') || ' ' || _last_seq || '.' || _last_ord
               || ' ' || is_current from cleansed.versions",
            micros("valid_from"),
            micros("valid_to")
        );
        let found = self.lines(&query).await;
        if found != versions {
            return Some(first("versions", &versions, &found));
        }
        let mut bag: Vec<String> =
            expected.rows.iter().map(|(key, (values, _))| shown(*key, values)).collect();
        bag.sort();
        let found = self.lines(&format!("select {values} from cleansed.bag")).await;
        if found != bag {
            return Some(first("bag", &bag, &found));
        }
        let mut log: Vec<String> = expected
            .log
            .iter()
            .map(|(op, key, values, at)| match values {
                Some(values) => format!("{} {} {}", op.letter(), shown(*key, values), order(at)),
                None => format!("d {key} ~|~|~ {}", order(at)),
            })
            .collect();
        log.sort();
        let query = format!(
            "select _op || ' ' || {values} || ' ' || _seq || '.' || _ord from cleansed.log"
        );
        let found = self.lines(&query).await;
        if found != log {
            return Some(first("log", &log, &found));
        }
        for table in ["rows", "facts", "versions", "log"] {
            if let Some(wrong) = wrong(&self.side, table).await {
                return Some(wrong);
            }
        }
        None
    }
}

/// Rows are borrowed by events; a test may let them be.
pub fn leak(bytes: &[u8]) -> &'static [u8] {
    Box::leak(bytes.to_vec().into_boxed_slice())
}

pub fn write(buffer: &mut Vec<u8>, key: u64, values: &Values, unchanged: [bool; 4]) {
    let key = key.to_string();
    let mut writer = RowWriter::new(buffer);
    writer.push(Cell::Text(key.as_bytes()));
    let columns =
        [values.a.as_deref(), values.b.as_deref(), values.u.as_deref(), Some(&*values.day)];
    for (value, unchanged) in columns.into_iter().zip(unchanged) {
        writer.push(match value {
            _ if unchanged => Cell::Unchanged,
            Some(text) => Cell::Text(text.as_bytes()),
            None => Cell::Null,
        });
    }
}

pub fn shown(key: u64, values: &Values) -> String {
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "~".to_owned());
    format!("{key} {}|{}|{} {}", text(&values.a), text(&values.b), text(&values.u), values.day)
}

pub fn first(what: &str, expected: &[String], found: &[String]) -> String {
    let missing: Vec<_> = expected.iter().filter(|line| !found.contains(line)).take(4).collect();
    let extra: Vec<_> = found.iter().filter(|line| !expected.contains(line)).take(4).collect();
    format!("{what}: missing {missing:#?}, instead {extra:#?}")
}

/// Plays one world; the first difference, or the first error, if there is one.
async fn play(seed: u64, transactions: u32, templates: Templates) -> Option<String> {
    let mut dice = Dice::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let mut source = Source {
        dice: Dice::new(seed.wrapping_mul(77)),
        rows: BTreeMap::new(),
        seq: 1000,
        clock: START,
    };
    static WORLDS: AtomicU32 = AtomicU32::new(0);
    let name = format!("model_{}", WORLDS.fetch_add(1, Ordering::Relaxed));
    let mut world = World::new(&name, templates).await;
    let mut expected = Expected::default();
    let mut since: Vec<Vec<Event>> = Vec::new();
    for _ in 0..transactions {
        if dice.one_in(40) {
            let mark = Mark { seq: source.seq + 4, committed_at: source.clock, xid: 8 };
            source.seq += 8;
            source.rows.clear();
            let order = Order { seq: mark.seq, ord: 1 };
            world.window.begin(mark.seq);
            world.truncate(order, mark);
            expected.truncate(order, mark.committed_at);
            world.window.commit(mark.committed_at);
            since.clear();
        } else {
            let events = source.transaction();
            let Some(mark) = events.first().map(|event| event.mark) else { continue };
            world.window.begin(mark.seq);
            for event in &events {
                world.event(event, true);
                if world.window.is_full() || dice.one_in(5) {
                    world.close();
                }
            }
            world.window.commit(mark.committed_at);
            expected.commit(&events);
            since.push(events);
        }
        let together = dice.one_in(2) && !world.window.is_full();
        if together {
            continue;
        }
        world.close();
        if let Err(error) = world.apply().await {
            return Some(error.to_string());
        }
        if let Some(difference) = world.difference(&expected).await {
            return Some(difference);
        }
        if dice.one_in(4) {
            // the last transactions once more, with whole rows: what is there is as new or newer. (A
            // column that is left out would come from a row that may be gone by now; on this route
            // the position keeps such an event from coming twice.)
            for events in &since {
                world.window.begin(events[0].mark.seq);
                for event in events {
                    let whole = Event { unchanged: [false; 4], ..event.clone() };
                    world.event(&whole, false);
                }
                world.window.commit(events[0].mark.committed_at);
            }
            world.close();
            if let Err(error) = world.apply().await {
                return Some(format!("replayed: {error}"));
            }
            if let Some(difference) = world.difference(&expected).await {
                return Some(format!("replayed: {difference}"));
            }
        }
        let old = since.len().saturating_sub(8);
        since.drain(..old);
    }
    remove(&name, world).await;
    None
}

pub async fn remove<S>(name: &str, sessions: S) {
    drop(sessions);
    let endpoint = clusters().await.1.endpoint("postgres");
    let admin = connect(Side::Warehouse, &endpoint, "test").await.unwrap();
    admin.batch_execute(&format!("drop database {name} with (force)")).await.unwrap();
}

#[test]
fn random_histories_end_as_the_model_says() {
    block_on(async {
        let seeds: Vec<u64> = match env().get("SILTSTONE_SEED") {
            Some(seed) => vec![seed.parse().unwrap()],
            None => (1..=if is_full() { 180 } else { 8 }).collect(),
        };
        let some = |nth: usize| {
            let seeds: Vec<u64> = seeds.iter().copied().skip(nth).step_by(3).collect();
            async move {
                for seed in seeds {
                    let difference = play(seed, 150, Templates::default()).await;
                    assert_eq!(difference, None, "SILTSTONE_SEED={seed}");
                }
            }
        };
        tokio::join!(some(0), some(1), some(2));
    });
}

#[test]
fn the_model_notices_a_missing_rule() {
    block_on(async {
        let broken = [
            // events of one transaction replace each other also across batches
            Templates::default().altered(
                "versions",
                "and t._seq = s._seq and (t._last_seq, t._last_ord) < (s._seq, s._ord)",
                "and false",
            ),
            // an older event never wins
            Templates::default().altered(
                "versions",
                "where (s._seq, s._ord) > (coalesce(t._last_seq, l._end_seq, -1), coalesce(t._last_ord, l._end_ord, 0))",
                "where true",
            ),
            // what did not change is looked up by as it is stored
            Templates::default().altered(
                "overwrite",
                "{{ c.stage }} = case when get_bit(s._keep, {{ c.bit }}) = 1 then {{ c.back }} else s.{{ c.stage }} end{% endfor %}",
                "{{ c.stage }} = s.{{ c.stage }}{% endfor %}",
            ),
            Templates::default().altered("partitioned", "delete from {{ leaf }} t\n using {{ stage }} s\n where s.ctid = any ($1::text[]::tid[]) and {{ same_key(\"t\") }}{{ not_older(\"t\") }}", "delete from {{ leaf }} t using {{ stage }} s where false and s.ctid = any ($1::text[]::tid[])"),
        ];
        for (which, templates) in broken.into_iter().enumerate() {
            let mut noticed = false;
            for seed in 1..=6 {
                noticed = noticed || play(seed, 150, templates.clone()).await.is_some();
            }
            assert!(noticed, "rule {which} is missing and nobody notices");
        }
    });
}
