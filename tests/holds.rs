//! What holds a table is told by what is noted of it, not by the words that people read.

use siltstone::warehouse::migrate;

use crate::support::{Site, block_on};

const TABLES: [&str; 5] = ["shelved", "locked", "changing", "paused", "stopped"];

/// What an older version noted: words alone.
const OLD: &str = "
    alter table audit.tables drop column hold, drop column made;
    delete from audit.migrations where version = 19;
    insert into audit.snapshot_chunks (connector, table_name, source_table, state)
      select connector, table_name, source_table, 'open' from audit.tables
       where table_name in ('cleansed.shelved', 'cleansed.paused');
    update audit.tables set state = 'paused', reason = 'it has no primary key'
     where table_name = 'cleansed.shelved';
    update audit.tables set state = 'paused', reason = 'an operator paused it'
     where table_name = 'cleansed.paused';
    update audit.tables set state = 'stopped', reason = 'it is full' where table_name = 'cleansed.stopped';
    update audit.tables set state = 'stopped', reason = 'siltstone apply changes it'
     where table_name = 'cleansed.changing';
    update audit.tables set state = 'stopped', reason = 'its definition is to change, and a lock is in the way: \
        that of process 7 of ann' where table_name = 'cleansed.locked'";

#[test]
fn what_an_older_version_told_by_words_is_noted() {
    block_on(async {
        let site = Site::new("holds").await;
        for table in TABLES {
            let made = format!(
                "create table {table} (id int primary key); insert into {table} values (1)"
            );
            site.shop(&made).await;
        }
        site.catch_up().await;
        site.warehouse.batch_execute(OLD).await.unwrap();
        let mut session = site.another_session().await;
        migrate(&mut session).await.unwrap();
        let noted =
            "select substr(table_name, 10), coalesce(hold, '') from audit.tables order by 1";
        let holds = ["changing|changing", "locked|locked", "paused|", "shelved|unfed", "stopped|"];
        assert_eq!(site.at_warehouse(noted).await, holds);
        // what words say of it changes nothing
        site.warehouse
            .batch_execute(
                "update audit.tables set reason = 'of another age' where state <> 'streaming'",
            )
            .await
            .unwrap();
        for table in TABLES {
            site.shop(&format!("insert into {table} values (2)")).await;
        }
        let running = site.start();
        let goes_on = "select count(*) = 2 from audit.tables where state = 'streaming' \
                        and table_name in ('cleansed.shelved', 'cleansed.locked')";
        site.until("what waited for no person goes on", goes_on).await;
        site.assert_equal("select id from {} order by id", "shelved", "cleansed.shelved").await;
        site.assert_equal("select id from {} order by id", "locked", "cleansed.locked").await;
        for (table, word) in [("changing", "stopped"), ("paused", "paused"), ("stopped", "stopped")]
        {
            let state = site.state(&format!("cleansed.{table}")).await;
            assert_eq!(state[..2], [word, "of another age"], "{table}");
            let resume = ["table", "resume", &format!("cleansed.{table}"), "--wait"];
            assert!(site.command(&resume).status().unwrap().success(), "{table}");
        }
        let all = "select bool_and(state = 'streaming' and hold is null) from audit.tables";
        site.until("all stream", all).await;
        site.assert_equal("select id from {} order by id", "paused", "cleansed.paused").await;
        assert!(running.stop().await.is_ok());
    });
}
