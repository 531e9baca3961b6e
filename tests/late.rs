//! Events that come late or again, as topics bring them, against a naive model: random histories are delivered
//! in any order, some of it twice, cut into batches anywhere. After every batch the tables must hold what a few
//! lines of plain code make of the events that have come, sorted by their place.
//!
//! `SILTSTONE_SEED` repeats a world.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use siltstone::binding::bind;
use siltstone::error::Kind;
use siltstone::fold::{Limits, Window};
use siltstone::journey::{Arrival, Before, ChangeEvent, Flow, Mark, OldRow, Op, Route, Target};
use siltstone::merge::{Apply, Leaves, Piece, Templates, create_leaves, define, encode_batch};
use siltstone::names::TableName;
use siltstone::position::Order;
use siltstone::postgres::{Session, Side, connect};
use siltstone::relation::Identity;
use siltstone::spec::{Deletes, History};
use siltstone::value::{Cell, Row, RowWriter};
use siltstone::warehouse::migrate;

use crate::model::{
    PLANS, START, Values, first, leak, look_up, model, relation, remove, shown, write, wrong,
};
use crate::support::{Dice, block_on, clusters, env, is_full};

const KEYS: u64 = 5;

/// How far from its place an event may come.
const LATE: u64 = 14;

#[derive(Clone, Debug)]
struct Event {
    /// none: the table is emptied
    key: Option<u64>,
    op: Op,
    values: Option<Values>,
    /// what did not change, which its source may leave out: never its day
    same: [bool; 4],
    order: Order,
    at: i64,
}

/// What the source did, in its order.
fn history(dice: &mut Dice, transactions: u32) -> Vec<Event> {
    let mut rows: BTreeMap<u64, Values> = BTreeMap::new();
    let (mut events, mut seq, mut at) = (Vec::new(), 1000, START);
    for _ in 0..transactions {
        seq += 8;
        // the clock mostly goes on, stands still now and then, and sometimes steps back
        at += match dice.below(6) {
            0 => 0,
            1 => -i64::try_from(dice.below(3)).unwrap(),
            n => i64::try_from(n).unwrap(),
        };
        for ord in 1..=i64::try_from(1 + dice.below(3)).unwrap() {
            let order = Order { seq, ord };
            let event = |key, op, values, same| Event { key, op, values, same, order, at };
            let key = dice.below(KEYS);
            if dice.one_in(60) {
                rows.clear();
                events.push(event(None, Op::Truncate, None, [false; 4]));
                continue;
            }
            let next = match rows.remove(&key) {
                None => {
                    let values = Values::random(dice);
                    event(Some(key), Op::Create, Some(values), [false; 4])
                }
                Some(_) if dice.one_in(4) => event(Some(key), Op::Delete, None, [false; 4]),
                Some(old) => {
                    let new = old.changed(dice);
                    let same = [
                        old.a == new.a && old.a.is_some(),
                        old.b == new.b && old.b.is_some(),
                        old.u == new.u && old.u.is_some(),
                        false,
                    ];
                    event(Some(key), Op::Update, Some(new), same)
                }
            };
            if let Some(values) = &next.values {
                rows.insert(key, values.clone());
            }
            events.push(next);
        }
    }
    events
}

struct Version {
    values: Values,
    from: i64,
    to: Option<i64>,
    opened: Order,
    ended: Option<Order>,
    last: Order,
}

/// What the tables must hold when these events have come.
#[derive(Default)]
struct Expected {
    rows: Vec<String>,
    versions: Vec<String>,
    log: Vec<String>,
}

fn place(order: &Order) -> String {
    format!("{}.{}", order.seq, order.ord)
}

impl Expected {
    fn of(history: &[Event], came: &BTreeMap<usize, [bool; 4]>) -> Expected {
        let mut expected = Expected::default();
        for key in 0..KEYS {
            let mut events: Vec<Event> = Vec::new();
            let mut last: Option<Values> = None;
            for (at, left_out) in came {
                let mut event = history[*at].clone();
                if event.key.is_some_and(|of| of != key) {
                    continue;
                }
                if let Some(values) = &mut event.values {
                    // what is left out is what the one before had, of those that came
                    if let Some(last) = &last {
                        take(values, last, *left_out);
                    }
                    last = Some(values.clone());
                }
                events.push(event);
            }
            expected.key(key, &events.iter().collect::<Vec<_>>());
        }
        for lines in [&mut expected.rows, &mut expected.versions, &mut expected.log] {
            lines.sort();
        }
        expected
    }

    fn key(&mut self, key: u64, events: &[&Event]) {
        if let Some(Event { values: Some(values), order, .. }) = events.last() {
            self.rows.push(format!("{} {}", shown(key, values), place(order)));
        }
        for event in events.iter().filter(|event| event.key.is_some()) {
            let (op, order) = (event.op.letter(), place(&event.order));
            self.log.push(match &event.values {
                Some(values) => format!("{op} {} {order}", shown(key, values)),
                None => format!("d {key} ~|~|~ {order}"),
            });
        }
        // nobody could see what a transaction did before its last word
        let mut settled: Vec<&Event> = Vec::new();
        for event in events {
            if settled.last().is_some_and(|last| last.order.seq == event.order.seq) {
                settled.pop();
            }
            settled.push(event);
        }
        let mut versions: Vec<Version> = Vec::new();
        for event in settled {
            version(&mut versions, event);
        }
        for version in versions {
            let end = version.ended.map_or("-".to_owned(), |ended| place(&ended));
            let to = version.to.map_or("open".to_owned(), |to| to.to_string());
            self.versions.push(format!(
                "{} {} {to} {} {end} {} {}",
                shown(key, &version.values),
                version.from,
                place(&version.opened),
                place(&version.last),
                version.to.is_none()
            ));
        }
    }
}

/// Takes what an event leaves out from the one before it.
fn take(values: &mut Values, last: &Values, left_out: [bool; 4]) {
    let of = [(&mut values.a, &last.a), (&mut values.b, &last.b), (&mut values.u, &last.u)];
    for ((value, last), left_out) in of.into_iter().zip(left_out) {
        if left_out {
            value.clone_from(last);
        }
    }
}

/// A label is the commit time, but at least 1 µs behind the boundary before it.
fn version(versions: &mut Vec<Version>, event: &Event) {
    let boundary = versions.last().map(|version| version.to.unwrap_or(version.from));
    let label = boundary.map_or(event.at, |boundary| event.at.max(boundary + 1));
    let current = versions.last_mut().filter(|version| version.to.is_none());
    if let Some(current) = current {
        let tracked = |values: &Values| (values.a.clone(), values.b.clone());
        if let Some(values) = &event.values
            && tracked(values) == tracked(&current.values)
        {
            current.values = values.clone();
            current.last = event.order;
            return;
        }
        current.to = Some(label);
        current.ended = Some(event.order);
    }
    if let Some(values) = event.values.clone() {
        let (opened, last) = (event.order, event.order);
        versions.push(Version { values, from: label, to: None, opened, ended: None, last });
    }
}

/// The warehouse under test.
struct World {
    session: Session,
    side: Session,
    apply: Apply,
    leaves: Leaves,
    routes: Vec<Route>,
    window: Window,
    pieces: Vec<Piece>,
}

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
        let bound = |index, name: &str, history, deletes: Option<Deletes>| -> Target {
            let mut model = (*model(name, history)).clone();
            model.deletes = deletes.unwrap_or(model.deletes);
            if name == "softly" {
                model.partition = crate::model::model("facts", history).partition.clone();
            }
            let target = bind(index, &Arc::new(model), &keyed, 1, false).unwrap().target;
            Target { arrival: Arrival::MayBeLate, ..target }
        };
        let targets = [
            bound(0, "rows", History::Overwrite, None),
            bound(1, "facts", History::Overwrite, None),
            bound(2, "versions", History::Versions, None),
            bound(3, "log", History::Append, None),
            bound(4, "soft", History::Overwrite, Some(Deletes::Soft)),
            bound(5, "softly", History::Overwrite, Some(Deletes::Soft)),
        ];
        let mut routes = Vec::new();
        for target in targets {
            for statement in define(&target.model, &[]) {
                side.batch_execute(&statement).await.unwrap();
            }
            look_up(&side, &target.model).await;
            routes.push(Route { target: Arc::new(target), flow: Flow::Live, floor: 0 });
        }
        let window = Window::new(Limits { rows: 20, bytes: 1 << 20 });
        World {
            session,
            side,
            apply: Apply::new(templates),
            leaves: Leaves::default(),
            routes,
            window,
            pieces: Vec::new(),
        }
    }

    fn close(&mut self) {
        let batch = self.window.close((Vec::new(), "0/0".to_owned()), 0);
        self.pieces.push(encode_batch(batch).unwrap());
    }

    fn take(&mut self, event: &Event, unchanged: [bool; 4]) {
        let mark = Mark { seq: event.order.seq, committed_at: event.at, xid: 7 };
        let Some(key) = event.key else {
            if self.window.has_rows() {
                self.close();
            }
            for route in &self.routes {
                if !route.target.model.history.logs_events() {
                    let (target, order) = (route.target.clone(), event.order);
                    self.window.first(Before::Truncate { target, order, mark });
                }
            }
            return self.window.note(mark.seq, mark.committed_at);
        };
        let (mut new, mut old) = (Vec::new(), Vec::new());
        match &event.values {
            Some(values) => write(&mut new, key, values, unchanged),
            None => {
                let key = key.to_string();
                let mut writer = RowWriter::new(&mut old);
                writer.push(Cell::Text(key.as_bytes()));
                (0..4).for_each(|_| writer.push(Cell::Null));
            }
        }
        for route in &self.routes {
            let change = ChangeEvent {
                relation: route.target.relation.clone(),
                op: event.op,
                old: (!old.is_empty())
                    .then(|| OldRow { row: Row::from_bytes(leak(&old)), whole: false }),
                new: event.values.is_some().then(|| Row::from_bytes(leak(&new))),
                leaves: false,
                order: event.order,
                place: event.order,
                mark,
            };
            self.window.push(route, &change, &[]).unwrap();
        }
        self.window.note(mark.seq, mark.committed_at);
    }

    /// Another member of the group, which writes the tables at these places.
    async fn member(&self, name: &str, routes: &[usize]) -> World {
        let endpoint = clusters().await.1.endpoint(name);
        let route = |at: &usize| Route {
            target: self.routes[*at].target.clone(),
            flow: Flow::Live,
            floor: 0,
        };
        World {
            session: connect(Side::Warehouse, &endpoint, "test").await.unwrap(),
            side: connect(Side::Warehouse, &endpoint, "test").await.unwrap(),
            apply: Apply::new(Templates::default()),
            leaves: Leaves::default(),
            routes: routes.iter().map(route).collect(),
            window: Window::new(Limits { rows: 20, bytes: 1 << 20 }),
            pieces: Vec::new(),
        }
    }

    /// Applies what is closed in one transaction.
    async fn apply(&mut self) -> Result<(), siltstone::error::Error> {
        self.apply_and_wait(Duration::ZERO).await
    }

    /// The same, and commits it later.
    async fn apply_and_wait(&mut self, wait: Duration) -> Result<(), siltstone::error::Error> {
        for piece in &self.pieces {
            for table in &piece.tables {
                let missing = self.leaves.missing(&table.target.model, table.days(8_800))?;
                create_leaves(&*self.side, &missing).await?;
                self.leaves.note(&missing);
            }
        }
        let transaction = self.session.transaction().await.unwrap();
        for piece in std::mem::take(&mut self.pieces) {
            self.apply.piece(&transaction, piece).await?;
        }
        tokio::time::sleep(wait).await;
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
        let values = "concat_ws(' ', id, coalesce(a, '~') || '|' || coalesce(b, '~') || '|' || coalesce(u, '~'), day)";
        for (table, there) in [
            ("rows", "true"),
            ("facts", "true"),
            ("soft", "_deleted_at is null"),
            ("softly", "_deleted_at is null"),
        ] {
            let query = format!(
                "select {values} || ' ' || _seq || '.' || _ord from cleansed.{table} where {there}"
            );
            let found = self.lines(&query).await;
            if found != expected.rows {
                return Some(first(table, &expected.rows, &found));
            }
        }
        let found = self
            .lines(
                "select concat_ws(' ', l.id, l.day, t.day) from audit.locator_cleansed_facts l
                   full join cleansed.facts t using (id) where l.day is distinct from t.day
                 union all
                 select concat_ws(' ', l.id, l.day, t.day) from audit.locator_cleansed_softly l
                   full join cleansed.softly t using (id) where l.day is distinct from t.day",
            )
            .await;
        if !found.is_empty() {
            return Some(first("places", &[], &found));
        }
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
        if found != expected.versions {
            return Some(first("versions", &expected.versions, &found));
        }
        let query = format!(
            "select _op || ' ' || {values} || ' ' || _seq || '.' || _ord from cleansed.log"
        );
        let found = self.lines(&query).await;
        if found != expected.log {
            return Some(first("log", &expected.log, &found));
        }
        for table in ["rows", "facts", "versions", "log", "soft", "softly"] {
            if let Some(wrong) = wrong(&self.side, table).await {
                return Some(wrong);
            }
        }
        None
    }
}

/// Delivers the events of a history, each at least once.
struct Delivery<'h> {
    history: &'h [Event],
    left: Vec<usize>,
    /// the events that came, and what each of them leaves out
    came: BTreeMap<usize, [bool; 4]>,
}

impl Delivery<'_> {
    /// The next events. What one leaves out has the last one of its row, of those that came before it in the source's
    /// order; others may still come between the two.
    fn next(&mut self, dice: &mut Dice) -> Vec<usize> {
        if dice.one_in(5) && !self.came.is_empty() {
            let back = usize::try_from(dice.below(25)).unwrap() % self.came.len();
            return vec![*self.came.keys().rev().nth(back).unwrap()];
        }
        let window = if dice.one_in(2) { 1 } else { LATE };
        let nth = usize::try_from(dice.below(window)).unwrap() % self.left.len();
        let first = self.left[nth];
        let mut events = vec![first];
        if self.history[first].values.is_none() {
            let keys = self.history[first].key.map_or(0..KEYS, |key| key..key + 1);
            // where a row is gone before an event that left something out, it was made again before that
            events.extend(keys.filter_map(|key| self.made_again(key, first)));
        }
        for at in &events {
            self.left.retain(|left| left != at);
            let left_out = self.leaves_out(*at, dice);
            self.came.insert(*at, left_out);
        }
        events
    }

    /// What an event leaves out as it comes for the first time.
    fn leaves_out(&self, at: usize, dice: &mut Dice) -> [bool; 4] {
        let event = &self.history[at];
        let mut before = self.came.range(..at).rev().map(|(at, _)| &self.history[*at]);
        let before = before.find(|before| before.key.is_none_or(|key| Some(key) == event.key));
        let is_there = before.is_some_and(|before| before.values.is_some());
        event.same.map(|same| same && is_there && dice.one_in(2))
    }

    /// The event that makes a row again that is deleted by the event at `gone`, where a later one that came leaves
    /// something out and none of those between came.
    fn made_again(&self, key: u64, gone: usize) -> Option<usize> {
        let of_key = |at: &usize| self.history[*at].key.is_none_or(|of| of == key);
        let next = self.came.range(gone + 1..).find(|(at, _)| of_key(at));
        let (next, _) = next.filter(|(_, left_out)| left_out.contains(&true))?;
        let between = self.left.iter().copied().filter(|at| (gone + 1..*next).contains(at));
        between.filter(of_key).find(|at| self.history[*at].op == Op::Create)
    }
}

/// Plays one world; the first difference, or the first error, if there is one.
async fn play(seed: u64, transactions: u32, templates: Templates) -> Option<String> {
    static WORLDS: AtomicU32 = AtomicU32::new(0);
    let mut dice = Dice::new(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15));
    let history = history(&mut dice, transactions);
    let name = format!("late_{}", WORLDS.fetch_add(1, Ordering::Relaxed));
    let mut world = World::new(&name, templates).await;
    let left = (0..history.len()).collect();
    let mut delivery = Delivery { history: &history, left, came: BTreeMap::new() };
    let mut told: Vec<String> = Vec::new();
    while !delivery.left.is_empty() {
        told.push("--".to_owned());
        let size = if dice.one_in(3) { 1 } else { 1 + dice.below(12) };
        for _ in 0..size {
            if delivery.left.is_empty() {
                break;
            }
            for at in delivery.next(&mut dice) {
                let (event, unchanged) = (&history[at], delivery.came[&at]);
                let values = event.values.as_ref().map(|values| shown(0, values));
                told.push(format!(
                    "{:?} {} {} {values:?} at {} {unchanged:?}",
                    event.key,
                    event.op.letter(),
                    place(&event.order),
                    event.at
                ));
                world.take(event, unchanged);
            }
        }
        world.close();
        let expected = Expected::of(&history, &delivery.came);
        let difference = match world.apply().await {
            Ok(()) => world.difference(&expected).await,
            Err(error) => Some(format!("{error:?}")),
        };
        if let Some(difference) = difference {
            let from = told.len().saturating_sub(if is_full() { 20 } else { 400 });
            return Some(format!("{difference}\n{}", told[from..].join("\n")));
        }
    }
    remove(&name, (world.session, world.side)).await;
    None
}

#[test]
fn late_and_repeated_events_end_as_the_model_says() {
    block_on(async {
        let seeds: Vec<u64> = match env().get("SILTSTONE_SEED") {
            Some(seed) => vec![seed.parse().unwrap()],
            // 25: a clock that falls back, behind the emptying of the table; 56: a batch that leaves a version as it is and
            // then changes it, before what opened it is the last word again
            None => (1..=if is_full() { 180 } else { 12 }).chain([25, 56]).collect(),
        };
        let some = |nth: usize| {
            let seeds: Vec<u64> = seeds.iter().copied().skip(nth).step_by(2).collect();
            async move {
                for seed in seeds {
                    let difference = play(seed, 60, Templates::default()).await;
                    if let Some(difference) = difference {
                        panic!("SILTSTONE_SEED={seed}: {difference}");
                    }
                }
            }
        };
        tokio::join!(some(0), some(1));
    });
}

/// Stored is 5; 20 leaves `a` out and comes before 10, which sets it.
#[test]
fn what_an_event_leaves_out_is_told_by_one_that_comes_behind_it() {
    block_on(async {
        let values = |a: &str, b: &str| Values {
            a: Some(a.to_owned()),
            b: Some(b.to_owned()),
            u: None,
            day: "2024-01-05".to_owned(),
        };
        let event = |op, seq: i64, values| Event {
            key: Some(1),
            op,
            values: Some(values),
            same: [false; 4],
            order: Order { seq, ord: 1 },
            at: START + seq,
        };
        let history = [
            event(Op::Create, 5, values("old", "x")),
            event(Op::Update, 10, values("set", "x")),
            event(Op::Update, 20, values("set", "y")),
        ];
        let mut world = World::new("late_left_out", Templates::default()).await;
        let mut came = BTreeMap::new();
        for (at, left_out) in [(0, [false; 4]), (2, [true, false, false, false]), (1, [false; 4])] {
            world.take(&history[at], left_out);
            came.insert(at, left_out);
            world.close();
            world.apply().await.unwrap();
            let difference = world.difference(&Expected::of(&history, &came)).await;
            assert_eq!(difference, None);
        }
        let rows = world.lines("select a || ' ' || b || ' ' || _seq from cleansed.rows").await;
        assert_eq!(rows, ["set y 20"]);
        remove("late_left_out", (world.session, world.side)).await;
    });
}

#[test]
fn the_model_notices_that_a_rule_of_what_is_left_out_is_missing() {
    block_on(async {
        let broken = [
            // an event that comes late tells what a later one of its row left out
            (
                "carried",
                "where s._op not in ('d', 'l') and (n.seq, n.ord) > (s._seq, s._ord)",
                "where false",
            ),
            ("versions", "e._carried ? {{ c.literal }} and v._m", "false and v._m"),
            (
                "append",
                "and {% endfor %}(t._seq, t._ord) = (m.seq, m.ord)",
                "and {% endfor %}false",
            ),
            // so does one of its own transaction
            ("versions", "or (s._op <> 'd' and exists (", "or (false and exists ("),
            // what is stored and was told later stays, though a batch has it from an event before
            (
                "overwrite",
                "_keep = {{ kept_of_both(\"n.told\", \"t._seq, t._ord\", \"<\") }}",
                "_keep = s._keep",
            ),
            // of what was taken over from a row it is known when that was told
            ("versions", "case when {{ of }}.op <> 'd' then (", "case when false then ("),
        ];
        for (template, passage, by) in broken {
            let mut noticed = false;
            for seed in 1..=12 {
                let templates = Templates::default().altered(template, passage, by);
                noticed = noticed || play(seed, 60, templates).await.is_some();
            }
            assert!(noticed, "{passage} is missing in {template} and nobody notices");
        }
    });
}

/// The two come by different partitions, and two members of the group write them at the same moment.
#[test]
fn two_members_write_one_row_at_once() {
    const NAME: &str = "late_at_once";
    block_on(async {
        let values = |a: &str, b: &str| Values {
            a: Some(a.to_owned()),
            b: Some(b.to_owned()),
            u: None,
            day: "2024-01-05".to_owned(),
        };
        let mut world = World::new(NAME, Templates::default()).await;
        let mut history = Vec::new();
        let mut came = BTreeMap::new();
        for (key, is_newer_first) in [(1, true), (2, false)] {
            let event = |op, seq: i64, values| Event {
                key: Some(key),
                op,
                values: Some(values),
                same: [false; 4],
                order: Order { seq, ord: 1 },
                at: START + seq,
            };
            let events = [
                event(Op::Create, 5, values("old", "x")),
                event(Op::Update, 10, values("set", "x")),
                event(Op::Update, 20, values("set", "y")),
            ];
            let none = [false; 4];
            let left_out = [none, none, [true, false, false, false]];
            world.take(&events[0], none);
            world.close();
            world.apply().await.unwrap();
            let (first, second) = if is_newer_first { (2, 1) } else { (1, 2) };
            // each table alone: at the first one the other member has waited, and sees all behind it
            for table in [0, 1, 2] {
                let mut one = world.member(NAME, &[table]).await;
                let mut other = world.member(NAME, &[table]).await;
                one.take(&events[first], left_out[first]);
                one.close();
                other.take(&events[second], left_out[second]);
                other.close();
                let (wait, soon) = (Duration::from_millis(600), Duration::from_millis(300));
                let later = async {
                    tokio::time::sleep(soon).await;
                    other.apply().await
                };
                let (first, later) = tokio::join!(one.apply_and_wait(wait), later);
                first.unwrap();
                if let Err(error) = later {
                    assert_eq!(error.kind(), Kind::Busy, "{error:?}");
                    // as a session that begins anew
                    other.apply = Apply::new(Templates::default());
                    other.take(&events[second], left_out[second]);
                    other.close();
                    other.apply().await.unwrap();
                }
            }
            for (event, left_out) in events.into_iter().zip(left_out) {
                came.insert(history.len(), left_out);
                history.push(event);
            }
        }
        let mut log = world.member(NAME, &[3, 4, 5]).await;
        for (at, event) in history.iter().enumerate().filter(|(at, _)| at % 3 > 0) {
            log.take(event, came[&at]);
            log.close();
            log.apply().await.unwrap();
        }
        drop(log);
        assert_eq!(world.difference(&Expected::of(&history, &came)).await, None);
        remove(NAME, (world.session, world.side)).await;
    });
}

/// The cells of a wide row: all its values are `value`; the last one may be left out.
fn wide(key: bool, value: &str, left_out: bool) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut writer = RowWriter::new(&mut bytes);
    writer.push(Cell::Text(b"1"));
    for column in 1..=WIDE {
        writer.push(match column {
            _ if key => Cell::Null,
            4 => Cell::Text(b"2024-01-05"),
            WIDE if left_out => Cell::Unchanged,
            _ => Cell::Text(value.as_bytes()),
        });
    }
    bytes
}

/// How many columns a wide row has beside its key: a call of a function in Postgres takes 100 arguments.
const WIDE: usize = 150;

/// Tables of more columns than a function takes arguments, of each model.
async fn wide_routes(side: &Session) -> Vec<Route> {
    let mut relation = (*relation(Identity::Key, true)).clone();
    let models = [
        ("rows", History::Overwrite),
        ("facts", History::Overwrite),
        ("versions", History::Versions),
        ("log", History::Append),
    ];
    for column in 5..=WIDE {
        let mut added = relation.columns[1].clone();
        added.name = format!("c{column}");
        relation.columns.push(added);
    }
    let relation = Arc::new(relation);
    let mut routes = Vec::new();
    for (index, (name, history)) in models.into_iter().enumerate() {
        let mut model = (*model(name, history)).clone();
        for column in 5..=WIDE {
            let mut added = model.columns[1].clone();
            added.name = format!("c{column}");
            added.from.clone_from(&added.name);
            model.columns.push(added);
        }
        model.table = TableName::new("cleansed", format!("wide_{name}"));
        model.lookups.clear();
        let target = bind(index, &Arc::new(model), &relation, 1, false).unwrap().target;
        let target = Target { arrival: Arrival::MayBeLate, ..target };
        for statement in define(&target.model, &[]) {
            side.batch_execute(&statement).await.unwrap();
        }
        routes.push(Route { target: Arc::new(target), flow: Flow::Live, floor: 0 });
    }
    routes
}

#[test]
fn rows_of_many_columns_may_come_late() {
    block_on(async {
        let mut world = World::new("late_wide", Templates::default()).await;
        world.routes = wide_routes(&world.side).await;
        let events = [
            (Op::Create, 5, Some(("old", false))),
            (Op::Update, 20, Some(("new", true))),
            (Op::Update, 10, Some(("set", false))),
            (Op::Delete, 40, None),
            (Op::Update, 30, Some(("last", true))),
        ];
        for (op, seq, values) in events {
            let mark = Mark { seq, committed_at: START + seq, xid: 7 };
            let order = Order { seq, ord: 1 };
            let new = values.map(|(value, left_out)| wide(false, value, left_out));
            let old = (op == Op::Delete).then(|| wide(true, "", false));
            for route in &world.routes {
                let change = ChangeEvent {
                    relation: route.target.relation.clone(),
                    op,
                    old: old
                        .as_ref()
                        .map(|row| OldRow { row: Row::from_bytes(leak(row)), whole: false }),
                    new: new.as_ref().map(|row| Row::from_bytes(leak(row))),
                    leaves: false,
                    order,
                    place: order,
                    mark,
                };
                world.window.push(route, &change, &[]).unwrap();
            }
            world.window.note(mark.seq, mark.committed_at);
            world.close();
            world.apply().await.unwrap();
            if seq == 10 {
                let rows = "select 'r' || a || ' ' || c150 from cleansed.wide_rows
                            union all select 'f' || a || ' ' || c150 from cleansed.wide_facts";
                assert_eq!(world.lines(rows).await, ["fnew set", "rnew set"]);
            }
        }
        let rows =
            "select 'r' from cleansed.wide_rows union all select 'f' from cleansed.wide_facts";
        assert!(world.lines(rows).await.is_empty());
        let versions = "select _seq || ' ' || a || ' ' || c150 from cleansed.wide_versions";
        let expected = ["10 set set", "20 new set", "30 last set", "5 old old"];
        assert_eq!(world.lines(versions).await, expected);
        let log = "select _seq || ' ' || a || ' ' || c150 from cleansed.wide_log where _op <> 'd'";
        assert_eq!(world.lines(log).await, expected);
        remove("late_wide", (world.session, world.side)).await;
    });
}
