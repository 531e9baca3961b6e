//! The way through Kafka: a broker, a Connect worker, and Debezium in it, between the shop and the service.

use std::fs;
use std::path::Path;

use crate::demo::cluster::Cluster;
use crate::demo::files::DEBEZIUM;
use crate::demo::kafka::{Broker, Connect, Plugin, ServerOptions};
use crate::demo::shop::DATABASE;
use crate::error::{Error, Kind, Result};
use crate::spec::Env;

/// What Debezium is called in Connect.
const NAME: &str = "shop";

/// The servers between. They are gone with this.
pub(super) struct Road {
    broker: Broker,
    connect: Connect,
}

impl Road {
    /// Starts broker and worker, and lets Debezium read the shop.
    pub(super) async fn start(env: &Env, source: &Cluster) -> Result<Road> {
        let broker = Broker::start(ServerOptions::new("demo-broker", env)).await?;
        let options = ServerOptions::new("demo-connect", env).shop(&source.endpoint(DATABASE));
        let address = broker.address();
        let connect = Connect::start(&address, &[Plugin::Postgres], options).await?;
        connect.register(NAME, DEBEZIUM).await?;
        Ok(Road { broker, connect })
    }

    /// Writes the file of a connector that reads Debezium's topics over the one that reads the shop. Topics tell of
    /// no end of the source's log, so the jobs that wait for it go.
    pub(super) fn write(&self, folder: &Path) -> Result<()> {
        for job in ["jobs/etl_daily.yaml", "jobs/source_systems_sync.yaml"] {
            let path = folder.join(job);
            fs::remove_file(&path).map_err(|error| {
                let what = format!("{} cannot be removed", path.display());
                Error::new(Kind::Config, what).because(error)
            })?;
        }
        let path = folder.join("connectors/shop.yaml");
        let text = format!(
            "name: shop\nkind: kafka\nsource: shop\nbrokers: \"{}\"\ngroup: siltstone\n\
             topics: [\"shop.public.*\"]\ntarget_schema: cleansed\nurl: \"${{SHOP_URL}}\"\n\
             properties: {{ broker.address.family: v4, topic.metadata.refresh.interval.ms: 1000 }}\n",
            self.broker.address()
        );
        fs::write(&path, text).map_err(|error| {
            let what = format!("{} cannot be written", path.display());
            Error::new(Kind::Config, what).because(error)
        })
    }

    /// Where its servers are, for people.
    pub(super) fn places(&self) -> String {
        format!("Kafka at {}, Kafka Connect at {}", self.broker.address(), self.connect.url())
    }
}
