//! Recordings of real Debezium, in tests/golden/debezium, put into a broker as they were: topic,
//! partition, key, value, headers, time and the order in each partition.
//!
//! A line of a recording is one record, with its key and value as text or as base64. Beside it lies
//! how many partitions each topic had.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::{Record, Topics};
use crate::support::Dice;

/// As far back a duplicated stretch begins at most.
const STRETCH: usize = 20;

/// A recording.
pub struct Recording {
    /// What its topics' names begin with.
    pub prefix: String,
    /// Partitions by topic.
    pub topics: BTreeMap<String, i32>,
    /// In the order in which they were recorded.
    pub records: Vec<Record>,
}

/// How a recording is put into a broker.
#[derive(Clone, Debug, Default)]
pub struct Load {
    /// What its topics' names begin with there, so that tests on one broker do not meet.
    pub prefix: Option<String>,
    /// Sends stretches of a partition again, a tenth of the times, as Debezium does after a crash; the
    /// seed says which.
    pub duplicates: Option<u64>,
    /// Leaves this many records out at the beginning.
    pub from: usize,
    /// Ends in front of this record.
    pub until: Option<usize>,
}

impl Load {
    /// The whole recording, with topics that begin with `prefix`.
    pub fn named(prefix: &str) -> Load {
        Load { prefix: Some(prefix.to_owned()), ..Load::default() }
    }

    /// The same with duplicates.
    pub fn with_duplicates(mut self, seed: u64) -> Load {
        self.duplicates = Some(seed);
        self
    }
}

/// What a load has done.
#[derive(Debug)]
pub struct Loaded {
    /// The topics' names in the broker.
    pub topics: Vec<String>,
    /// How many records it has sent, those sent again included.
    pub sent: usize,
}

#[derive(Deserialize)]
struct Line {
    topic: String,
    partition: i32,
    offset: i64,
    timestamp: i64,
    key_enc: Option<String>,
    key: Option<String>,
    value_enc: Option<String>,
    value: Option<String>,
    headers: Vec<(String, Option<String>)>,
}

impl Recording {
    /// Reads a recording: `js`, `jn`, `av`, `fl` or `my_js`.
    pub fn named(name: &str) -> Recording {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden/debezium");
        let topics = std::fs::read_to_string(folder.join(format!("{name}.topics.json"))).unwrap();
        let topics: BTreeMap<String, i32> = serde_json::from_str(&topics).unwrap();
        let packed = std::fs::read(folder.join(format!("{name}.jsonl.gz"))).unwrap();
        let mut text = String::new();
        flate2::read::GzDecoder::new(&packed[..]).read_to_string(&mut text).unwrap();
        let records = text.lines().map(|line| serde_json::from_str::<Line>(line).unwrap().record());
        let named = topics.keys().find(|topic| !topic.starts_with("__")).unwrap();
        let prefix = named.split('.').next().unwrap().to_owned();
        Recording { prefix, records: records.collect(), topics }
    }

    /// Makes the topics that are missing and sends the records.
    pub async fn load(&self, topics: &Topics, load: &Load) -> Loaded {
        let mut names = Vec::new();
        for (topic, partitions) in &self.topics {
            let name = self.renamed(topic, load);
            if topics.partitions(&name).await.is_empty() {
                // its records keep their times, and would be too old a week later
                topics.create_with(&name, *partitions, &[("retention.ms", "-1")]).await;
            }
            names.push(name);
        }
        let records = self.sequence(load);
        let sent = records.len();
        topics.write(records).await;
        Loaded { topics: names, sent }
    }

    /// What is sent, in its order.
    pub fn sequence(&self, load: &Load) -> Vec<Record> {
        let mut dice = load.duplicates.map(Dice::new);
        let mut before: HashMap<(&str, Option<i32>), Vec<&Record>> = HashMap::new();
        let mut all = Vec::new();
        let until = load.until.unwrap_or(self.records.len()).min(self.records.len());
        for record in &self.records[load.from.min(until)..until] {
            all.push(record);
            let partition = before.entry((&record.topic, record.partition)).or_default();
            partition.push(record);
            if let Some(dice) = &mut dice
                && dice.one_in(10)
            {
                let longest = partition.len().min(STRETCH);
                let back = 1 + usize::try_from(dice.below(longest as u64)).unwrap();
                all.extend(&partition[partition.len() - back..]);
            }
        }
        let named =
            |record: &Record| Record { topic: self.renamed(&record.topic, load), ..record.clone() };
        all.into_iter().map(named).collect()
    }

    /// The heartbeat topic has the prefix at its end.
    fn renamed(&self, topic: &str, load: &Load) -> String {
        match &load.prefix {
            Some(prefix) => topic.replacen(&self.prefix, prefix, 1),
            None => topic.to_owned(),
        }
    }
}

impl Line {
    fn record(self) -> Record {
        Record {
            topic: self.topic,
            partition: Some(self.partition),
            offset: self.offset,
            key: bytes(self.key_enc.as_deref(), self.key),
            value: bytes(self.value_enc.as_deref(), self.value),
            headers: self
                .headers
                .into_iter()
                .map(|(name, value)| (name, value.map(|value| STANDARD.decode(value).unwrap())))
                .collect(),
            timestamp: Some(self.timestamp),
        }
    }
}

fn bytes(encoding: Option<&str>, text: Option<String>) -> Option<Vec<u8>> {
    match encoding? {
        "utf8" => text.map(String::into_bytes),
        "b64" => text.map(|text| STANDARD.decode(text).unwrap()),
        other => panic!("a recording has no encoding {other}"),
    }
}
