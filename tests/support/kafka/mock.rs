//! librdkafka's mock cluster, for quick cases and for errors that no real broker gives on demand.
//!
//! What to mind: it keeps 5 MiB of a partition and drops the oldest silently, it has no admin requests,
//! and the first assignment of a group takes 3 s (assign partitions by hand where that matters).

use std::time::Duration;

use nix::sys::signal::{SigSet, SigmaskHow, Signal};
use rdkafka::mocking::MockCluster;
use rdkafka::producer::DefaultProducerContext;
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use super::Topics;

/// A mock cluster of one broker, which lives in this process and goes with this value.
pub struct Mock(MockCluster<'static, DefaultProducerContext>);

/// Its only broker.
const BROKER: i32 = 1;

impl Mock {
    /// A cluster without topics.
    pub fn start() -> Mock {
        // librdkafka's thread has the mask of ours, and ends for good where a signal interrupts its poll: a service in
        // this process that has run a program is told of every child's end
        let mut children = SigSet::empty();
        children.add(Signal::SIGCHLD);
        let before = children.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap();
        let cluster = MockCluster::new(BROKER).unwrap();
        before.thread_set_mask().unwrap();
        Mock(cluster)
    }

    /// Where clients connect.
    pub fn address(&self) -> String {
        self.0.bootstrap_servers()
    }

    /// Records are written and read as on a real broker; topics are made here.
    pub fn topics(&self) -> Topics {
        Topics::at(&self.address())
    }

    /// Makes a topic.
    pub fn create(&self, topic: &str, partitions: i32) {
        self.0.create_topic(topic, partitions, 1).unwrap();
    }

    /// Answers the next requests of a kind with these errors, one each.
    pub fn refuse(&self, request: RDKafkaApiKey, errors: &[RDKafkaRespErr]) {
        self.0.request_errors(request, errors);
    }

    /// Stops listening and ends all connections, until [`Mock::up`].
    pub fn down(&self) {
        self.0.broker_down(BROKER).unwrap();
    }

    /// Listens again.
    pub fn up(&self) {
        self.0.broker_up(BROKER).unwrap();
    }

    /// Answers every request so much later.
    pub fn delay(&self, by: Duration) {
        self.0.broker_round_trip_time(BROKER, by).unwrap();
    }
}
