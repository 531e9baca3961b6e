//! `siltstone init --from-debezium`: what it writes takes the topics, and tells no secret.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::json;
use tempfile::TempDir;

use crate::support::{Load, Mock, Recording, SHOP, Site, block_on};

fn assert_said(said: &str, all: &[&str]) {
    for told in all {
        assert!(said.contains(told), "{told}: {said}");
    }
}

#[test]
fn a_debezium_connector_becomes_files() {
    let folder = TempDir::new().unwrap();
    let registered = folder.path().join("registered.json");
    let config: serde_json::Value = serde_json::from_str(SHOP).unwrap();
    let mut config = config.as_object().unwrap().clone();
    config.insert("database.password".to_owned(), "s3cret".into());
    config.insert("database.user".to_owned(), "s3cret-user".into());
    config.insert("decimal.handling.mode".to_owned(), "double".into());
    fs::write(&registered, json!({"name": "the shop", "config": config}).to_string()).unwrap();
    let dir = folder.path().join("files");
    let init = || {
        let output = Command::new(env!("CARGO_BIN_EXE_siltstone"))
            .args(["init", "--from-debezium"])
            .arg(&registered)
            .arg("--dir")
            .arg(&dir)
            .env_clear()
            .output()
            .unwrap();
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        assert!(!said.contains("s3cret"), "{said}");
        (output.status.code(), said)
    };
    let (code, said) = init();
    assert_eq!(code, Some(0), "{said}");
    assert_said(
        &said,
        &["shop.public.* -> cleansed", "15th", "export KAFKA_BROKERS=", "validate --connect"],
    );
    let text = fs::read_to_string(dir.join("connectors/the_shop.yaml")).unwrap();
    let lines = [
        "name: the_shop\n",
        "kind: kafka\n",
        "source: shop\n",
        "brokers: \"${KAFKA_BROKERS}\"\n",
        "group: \"siltstone-the_shop\"\n",
        "# url: \"${SOURCE_URL}\"\n",
        "topics: [\"shop.public.*\"]\n",
        "format: debezium-json\n",
        "types: { decimal: double }\n",
    ];
    assert_said(&text, &lines);
    assert!(!text.contains("s3cret"), "{text}");
    // what is there is kept; another connector of the same installation comes beside it
    let (code, said) = init();
    assert!(code == Some(78) && said.contains("is there already"), "{said}");
    fs::write(&registered, json!({"name": "other", "config": config}).to_string()).unwrap();
    let (code, said) = init();
    assert_eq!(code, Some(0), "{said}");
    assert!(
        dir.join("connectors/other.yaml").exists() && !said.contains("siltstone.yaml\n"),
        "{said}"
    );
}

#[test]
fn what_init_writes_of_a_debezium_runs() {
    block_on(async {
        let mock = Mock::start();
        let recording = Recording::named("js");
        for (topic, partitions) in &recording.topics {
            mock.create(topic, *partitions);
        }
        mock.topics().write(recording.sequence(&Load::default())).await;
        let site = Site::new("fromdebezium").await;
        let folder = TempDir::new().unwrap();
        let registered = folder.path().join("registered.json");
        let config = json!({
            "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
            "topic.prefix": recording.prefix, "table.include.list": r"public\.zz_sentinel",
        });
        fs::write(&registered, config.to_string()).unwrap();
        let dir = folder.path().join("files");
        let command = |arguments: &[&str]| {
            let output = Command::new(env!("CARGO_BIN_EXE_siltstone"))
                .args(arguments)
                .env("KAFKA_BROKERS", mock.address())
                .env("WAREHOUSE_URL", &site.warehouse_url)
                .stdin(Stdio::null())
                .output()
                .unwrap();
            let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert!(output.status.success(), "{arguments:?}: {said}");
        };
        let (registered, shown) = (registered.display().to_string(), dir.display().to_string());
        command(&["init", "--from-debezium", &registered, "--dir", &shown]);
        let settings = dir.join("siltstone.yaml");
        // the port of its file may be taken
        let text = fs::read_to_string(&settings).unwrap().replace("127.0.0.1:8088", "127.0.0.1:0");
        fs::write(&settings, text).unwrap();
        command(&["--config", &settings.display().to_string(), "run", "--until-caught-up"]);
        let rows = "select count(*) > 0 from cleansed.zz_sentinel";
        assert_eq!(site.at_warehouse(rows).await, ["t"]);
    });
}
