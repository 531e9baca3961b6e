//! Postgres' own logical replication between the same two clusters, to compare with.

use super::site::{Installation, LOOK, Site, is_true};
use super::usage::{Meter, Used};
use crate::error::{Error, Result};
use crate::postgres::{Session, Side, connect, quote};

/// A way to run a subscription.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// What the report calls it.
    pub(super) shown: &'static str,
    name: &'static str,
    options: &'static str,
}

/// The first one is what we are compared with: nothing but durability is other than by default.
pub(super) const WAYS: [Way; 3] = [
    Way { shown: "native", name: "native", options: "synchronous_commit = on" },
    Way { shown: "native, commits off", name: "native_off", options: "synchronous_commit = off" },
    Way {
        shown: "native, off and binary",
        name: "native_binary",
        options: "synchronous_commit = off, binary = true",
    },
];

/// A subscription that has made its first copy, and waits.
pub(super) struct Native {
    pub(super) way: Way,
    pub(super) target: Session,
}

impl Native {
    /// Makes the database and the subscription, and waits for its copy.
    pub(super) async fn copy(at: &Installation<'_>, way: Way) -> Result<(Native, Used)> {
        let site = at.site;
        site.warehouse.create_database(way.name).await?;
        let endpoint = site.warehouse.endpoint(way.name);
        let native = Native { way, target: connect(Side::Warehouse, &endpoint, "bench").await? };
        native.run(include_str!("../../sql/bench/items.sql")).await?;
        let subscribe = format!(
            "create subscription {} connection {} publication native with ({})",
            way.name,
            quote::literal(&at.shop_url),
            way.options
        );
        at.settle().await?;
        let meter = Meter::start(site)?;
        native.run(&subscribe).await?;
        native.until(COPIED).await?;
        let used = meter.used(site, meter.elapsed(), 0)?;
        native.until(READY).await?;
        native.run(&format!("alter subscription {} disable", way.name)).await?;
        Ok((native, used))
    }

    /// Applies the backlog.
    pub(super) async fn catch_up(&self, site: &Site, applied: &str) -> Result<Used> {
        let meter = Meter::start(site)?;
        self.run(&format!("alter subscription {} enable", self.way.name)).await?;
        self.until(applied).await?;
        let took = meter.elapsed();
        let used = meter.used(site, took, 0)?;
        self.run(&format!("alter subscription {} disable", self.way.name)).await?;
        Ok(used)
    }

    /// Drops the subscription and its slot.
    pub(super) async fn end(self) -> Result<()> {
        self.run(&format!("drop subscription {}", self.way.name)).await
    }

    async fn run(&self, statement: &str) -> Result<()> {
        let done = self.target.batch_execute(statement).await;
        done.map_err(|error| Error::warehouse("native replication", error))
    }

    async fn until(&self, query: &str) -> Result<()> {
        while !is_true(&self.target, query).await? {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

const COPIED: &str = "select bool_and(srsubstate in ('s', 'r')) from pg_subscription_rel";
const READY: &str = "select bool_and(srsubstate = 'r') from pg_subscription_rel";
