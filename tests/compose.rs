//! docker-compose.yml and what it mounts, held against the project's own files: what one names, the
//! other has. No container is started.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};
use siltstone::demo::kafka::{BROKER_SETTINGS, CONNECT_SETTINGS};
use siltstone::postgres::Endpoint;
use siltstone::spec::{Env, load};

use crate::support::SHOP;

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn yaml(path: &str) -> Value {
    serde_saphyr::from_str(&text(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// All files below a folder, by their paths in the project.
fn files(folder: &str) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(root().join(folder)).unwrap() {
        let entry = entry.unwrap();
        let path = format!("{folder}/{}", entry.file_name().to_str().unwrap());
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// The words behind every `open`, up to what cannot be part of a name.
fn named(text: &str, open: &str) -> BTreeSet<String> {
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let names = text.split(open).skip(1);
    let names = names.map(|rest| rest.chars().take_while(|c| is_name(*c)).collect::<String>());
    names.filter(|name| !name.is_empty()).collect()
}

/// A service of docker-compose.yml.
struct Service {
    name: String,
    fields: Value,
}

fn services() -> Vec<Service> {
    let compose = yaml("docker-compose.yml");
    let services = compose["services"].as_object().unwrap().clone();
    services.into_iter().map(|(name, fields)| Service { name, fields }).collect()
}

fn service(name: &str) -> Service {
    services().into_iter().find(|service| service.name == name).unwrap()
}

impl Service {
    fn list(&self, field: &str) -> Vec<String> {
        let items = self.fields[field].as_array().cloned().unwrap_or_default();
        items.iter().map(|item| item.as_str().unwrap().to_owned()).collect()
    }

    fn environment(&self) -> Map<String, Value> {
        self.fields["environment"].as_object().cloned().unwrap_or_default()
    }

    /// A variable, whether it was written as text or as a number.
    fn variable(&self, name: &str) -> String {
        let environment = self.environment();
        let value = environment.get(name).unwrap_or_else(|| panic!("{}: no {name}", self.name));
        value.as_str().map_or_else(|| value.to_string(), str::to_owned)
    }

    /// What is mounted from the project: the path there and the one in the container.
    fn mounts(&self) -> Vec<(String, String)> {
        let project = self.list("volumes").into_iter().filter_map(|volume| {
            let (from, to) = volume.strip_prefix("./")?.split_once(':').unwrap();
            let to = to.strip_suffix(":ro").unwrap_or_else(|| panic!("{volume} can be written"));
            Some((from.to_owned(), to.to_owned()))
        });
        project.collect()
    }

    /// The project's file behind a path in the container.
    fn file(&self, inside: &str) -> PathBuf {
        let behind = self.mounts().into_iter().find_map(|(from, to)| {
            let rest = Path::new(inside).strip_prefix(to).ok()?.to_owned();
            Some(root().join(from).join(rest))
        });
        let behind = behind.unwrap_or_else(|| panic!("{}: {inside} is not mounted", self.name));
        // a mounted file has an empty rest behind it
        behind.components().collect()
    }

    /// The ports inside the container that are published, all on this machine alone.
    fn ports(&self) -> Vec<String> {
        let inside = |port: String| {
            let port = port.strip_prefix("127.0.0.1:").expect("published everywhere").to_owned();
            port.split_once(':').unwrap().1.to_owned()
        };
        self.list("ports").into_iter().map(inside).collect()
    }
}

#[test]
fn everything_that_is_mounted_or_waited_for_is_there() {
    let compose = yaml("docker-compose.yml");
    let names: BTreeSet<String> = services().into_iter().map(|service| service.name).collect();
    for service in services() {
        for (from, to) in service.mounts() {
            assert!(root().join(&from).exists(), "{}: {from} is not there", service.name);
            let of_one_kind = root().join(&from).is_dir() == Path::new(&to).extension().is_none();
            assert!(of_one_kind, "{}: {from} and {to} are not of one kind", service.name);
        }
        for volume in service.list("volumes").iter().filter(|volume| !volume.starts_with("./")) {
            let (name, _) = volume.split_once(':').unwrap();
            assert!(compose["volumes"].get(name).is_some(), "{}: no volume {name}", service.name);
        }
        let waits = &service.fields["depends_on"];
        for name in waits.as_array().into_iter().flatten() {
            assert!(names.contains(name.as_str().unwrap()), "{}: {name}", service.name);
        }
        for (other, how) in waits.as_object().into_iter().flatten() {
            assert_eq!(how["condition"], "service_healthy", "{}: {other}", service.name);
            let test = &self::service(other).fields["healthcheck"]["test"];
            assert_eq!(test[0], "CMD", "{} waits for {other}, which has no check", service.name);
        }
    }
    // a script is run only where it may be
    use std::os::unix::fs::PermissionsExt;
    let mode = fs::metadata(root().join("deploy/compose/shop.sh")).unwrap().permissions().mode();
    assert_eq!(mode & 0o111, 0o111);
}

#[test]
fn the_images_are_what_the_tests_run() {
    let jars = text("src/demo/kafka/jars.tsv");
    let version = |artifact: &str| {
        let line = jars.lines().find(|line| line.contains(&format!("/{artifact}/"))).unwrap();
        line.rsplit('/').nth(1).unwrap().to_owned()
    };
    let image = |name: &str| service(name).fields["image"].as_str().unwrap().to_owned();
    assert_eq!(image("kafka"), format!("apache/kafka:{}", version("kafka_2.13")));
    let debezium = version("debezium-connector-postgres");
    for name in ["connect", "register"] {
        assert_eq!(image(name), format!("quay.io/debezium/connect:{debezium}"));
    }
    assert_eq!(service("siltstone").fields["build"], ".");
}

#[test]
fn kafka_and_connect_are_set_up_as_in_the_tests() {
    // what a broker of the tests is given beside its constant settings
    let by_ports = ["listeners", "advertised.listeners", "controller.quorum.voters", "log.dirs"];
    let kafka = service("kafka");
    for name in kafka.environment().keys() {
        let property = name.strip_prefix("KAFKA_").unwrap().to_lowercase().replace('_', ".");
        match BROKER_SETTINGS.iter().find(|(ours, _)| *ours == property) {
            Some((_, value)) => assert_eq!(kafka.variable(name), *value, "{property}"),
            None => assert!(by_ports.contains(&property.as_str()), "{property}"),
        }
    }
    let by_name = ["bootstrap.servers", "group.id"];
    let topics = ["config.storage.topic", "offset.storage.topic", "status.storage.topic"];
    let connect = service("connect");
    let ours = |property: &str| CONNECT_SETTINGS.iter().find(|(name, _)| *name == property);
    for name in connect.environment().keys().filter(|name| !name.starts_with("SHOP_")) {
        let property = name.strip_prefix("CONNECT_").unwrap_or(name);
        let property = property.to_lowercase().replace('_', ".");
        if let Some((_, value)) = ours(&property) {
            assert_eq!(connect.variable(name), *value, "{property}");
        } else {
            let known = by_name.iter().chain(&topics).any(|known| *known == property);
            assert!(known, "{property}");
        }
    }
    assert_eq!(connect.variable("CONNECT_CONFIG_PROVIDERS"), "env");
}

#[test]
fn addresses_and_logins_are_those_of_the_services() {
    let (kafka, connect, siltstone) = (service("kafka"), service("connect"), service("siltstone"));
    let advertised = kafka.variable("KAFKA_ADVERTISED_LISTENERS");
    let brokers = advertised.strip_prefix("PLAINTEXT://").unwrap();
    assert_eq!(brokers, "kafka:9092");
    assert!(kafka.variable("KAFKA_LISTENERS").starts_with("PLAINTEXT://:9092,"));
    assert_eq!(connect.variable("BOOTSTRAP_SERVERS"), brokers);
    assert_eq!(siltstone.variable("KAFKA_BROKERS"), brokers);
    let check = kafka.fields["healthcheck"]["test"].to_string();
    assert!(check.contains("localhost:9092"), "{check}");

    let shop = service("shop");
    assert_eq!(connect.variable("SHOP_HOST"), "shop");
    assert_eq!(connect.variable("SHOP_PORT"), shop.ports()[0]);
    for (theirs, ours) in [("DB", "DATABASE"), ("USER", "USER"), ("PASSWORD", "PASSWORD")] {
        let login = shop.variable(&format!("POSTGRES_{theirs}"));
        assert_eq!(connect.variable(&format!("SHOP_{ours}")), login);
        assert_eq!(service("traffic").variable(&format!("PG{ours}")), login);
    }
    assert_eq!(service("traffic").variable("PGHOST"), "shop");
    assert!(shop.list("command").contains(&"wal_level=logical".to_owned()));

    let warehouse = service("warehouse");
    let url = Endpoint::parse(&siltstone.variable("WAREHOUSE_URL")).unwrap();
    let expected = format!(
        "postgres://{}:{}@warehouse:{}/{}?sslmode=disable",
        warehouse.variable("POSTGRES_USER"),
        warehouse.variable("POSTGRES_PASSWORD"),
        warehouse.ports()[0],
        warehouse.variable("POSTGRES_DB"),
    );
    assert_eq!(siltstone.variable("WAREHOUSE_URL"), expected, "{}", url.shown());

    let worker = format!("http://connect:{}/connectors/shop/config", connect.ports()[0]);
    assert!(service("register").list("command").contains(&worker));
    let check = connect.fields["healthcheck"]["test"].to_string();
    assert!(check.contains(&format!("localhost:{}/connectors", connect.ports()[0])), "{check}");
}

#[test]
fn every_variable_that_a_file_asks_for_is_set_and_no_other() {
    let siltstone = service("siltstone");
    let ours: String = files("deploy/compose")
        .iter()
        .filter(|path| path.ends_with(".yaml"))
        .map(|path| text(path))
        .collect();
    let set: BTreeSet<String> = siltstone.environment().keys().cloned().collect();
    assert_eq!(named(&ours, "${"), set);
    let connectors: String = files("connectors/debezium").iter().map(|path| text(path)).collect();
    let set = service("connect").environment();
    let set: BTreeSet<String> =
        set.keys().filter(|name| name.starts_with("SHOP_")).cloned().collect();
    assert_eq!(named(&connectors, "${env:"), set);
}

#[test]
fn the_admin_port_is_one_and_prometheus_may_read_it() {
    let siltstone = service("siltstone");
    let admin = &yaml("deploy/compose/siltstone.yaml")["admin"];
    let listen = admin["listen"].as_str().unwrap();
    let (_, port) = listen.split_once(':').unwrap();
    assert_eq!(siltstone.ports(), [port]);
    assert!(text("Dockerfile").lines().any(|line| line == format!("EXPOSE {port}")));
    let prometheus = yaml("deploy/prometheus/prometheus.yml");
    let scrape = &prometheus["scrape_configs"][0];
    assert_eq!(scrape["static_configs"][0]["targets"][0], format!("siltstone:{port}"));
    let token = scrape["authorization"]["credentials"].as_str().unwrap();
    assert_eq!(token, siltstone.variable("SILTSTONE_READ_TOKEN"));
    let path = scrape["metrics_path"].as_str().unwrap();
    let openapi: Value = serde_json::from_str(&text("src/serve/openapi.json")).unwrap();
    assert!(openapi["paths"].get(path).is_some(), "{path}");
}

#[test]
fn every_file_that_a_container_is_told_of_is_mounted() {
    let prometheus = service("prometheus");
    let config = prometheus.list("command");
    let config = config.iter().find_map(|word| word.strip_prefix("--config.file=")).unwrap();
    let config = prometheus.file(config);
    let rules = &yaml("deploy/prometheus/prometheus.yml")["rule_files"][0];
    assert!(config.with_file_name(rules.as_str().unwrap()).is_file());
    let source = &yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0];
    assert_eq!(source["url"], format!("http://prometheus:{}", prometheus.ports()[0]));

    let grafana = service("grafana");
    let provider = &yaml("deploy/grafana/provisioning/dashboards/siltstone.yml")["providers"][0];
    assert!(grafana.file(provider["options"]["path"].as_str().unwrap()).is_dir());
    let home = grafana.variable("GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH");
    assert!(grafana.file(&home).is_file());

    let traffic = service("traffic");
    let script = traffic.list("command");
    let script = script.iter().find_map(|word| word.strip_prefix("--file=")).unwrap();
    let script = fs::read_to_string(traffic.file(script)).unwrap();
    for function in named(&script, "traffic.") {
        let made = format!("create function traffic.{function}(");
        assert!(text("sql/demo/traffic.sql").contains(&made), "{function}");
    }
    let shop = service("shop");
    for file in named(&text("deploy/compose/shop.sh"), "--file /sql/") {
        assert!(shop.file(&format!("/sql/{file}.sql")).is_file());
    }
    let register = service("register");
    let data = register.list("command");
    let data = data.iter().find_map(|word| word.strip_prefix('@')).unwrap();
    assert_eq!(fs::read_to_string(register.file(data)).unwrap(), SHOP, "tests register another");
}

#[test]
fn a_debezium_connector_is_named_as_its_file() {
    for path in files("connectors/debezium") {
        let fields: Map<String, Value> = serde_json::from_str(&text(&path)).unwrap();
        assert!(fields.values().all(Value::is_string), "{path}: values are strings");
        let name = Path::new(&path).file_stem().unwrap().to_str().unwrap();
        assert_eq!(fields["name"], name);
        // the service reads these: the source's name, and where transactions begin and end
        assert_eq!(fields["topic.prefix"], name);
        assert_eq!(fields["provide.transaction.metadata"], "true");
        assert_eq!(fields["value.converter.schemas.enable"], "true");
    }
}

#[test]
fn the_installation_of_the_containers_loads() {
    let siltstone = service("siltstone");
    let folder = tempfile::tempdir().unwrap();
    for (from, to) in siltstone.mounts() {
        let inside = Path::new(&to).strip_prefix("/etc/siltstone").unwrap();
        let mounted = folder.path().join(inside);
        std::fs::create_dir_all(mounted.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(root().join(from), mounted).unwrap();
    }
    let mut env = Env::default().on_day(9_500);
    for name in siltstone.environment().keys() {
        env = env.with(name, &siltstone.variable(name));
    }
    let loaded = load(&folder.path().join("siltstone.yaml"), &env);
    match loaded {
        Ok(spec) => assert!(spec.models.len() > 5),
        // a version that does not run Kafka connectors says that and nothing else
        Err(error) => assert!(error.to_string().contains("kafka"), "{error}"),
    }
}

/// The metrics that the service has, by their names in the code.
fn metrics() -> BTreeSet<String> {
    let names = named(&text("src/serve/metrics.rs"), "\"siltstone_");
    names.into_iter().map(|name| format!("siltstone_{name}")).collect()
}

fn assert_known(path: &str, expression: &str) {
    let metrics = metrics();
    let used = named(expression, "siltstone_");
    for name in used.into_iter().map(|name| format!("siltstone_{name}")) {
        let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let is_known = metrics.contains(&name) || base.is_some_and(|base| metrics.contains(base));
        assert!(is_known, "{path}: there is no metric {name}");
    }
}

#[test]
fn alerts_and_dashboard_ask_for_metrics_that_are_there() {
    let alerts = yaml("deploy/prometheus/alerts.yml");
    let rules = alerts["groups"][0]["rules"].as_array().unwrap();
    assert!(rules.len() > 5);
    for rule in rules {
        let name = rule["alert"].as_str().unwrap();
        assert_known(name, rule["expr"].as_str().unwrap());
        assert!(rule["annotations"]["summary"].is_string(), "{name}");
        assert!(["warning", "critical"].contains(&rule["labels"]["severity"].as_str().unwrap()));
    }
    let dashboard: Value =
        serde_json::from_str(&text("deploy/grafana/dashboards/siltstone.json")).unwrap();
    let source = &yaml("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0];
    for panel in dashboard["panels"].as_array().unwrap() {
        assert_eq!(panel["datasource"]["uid"], source["uid"], "{}", panel["title"]);
        for target in panel["targets"].as_array().unwrap() {
            let expression = target["expr"].as_str().unwrap();
            assert!(expression.contains("siltstone_"), "{expression}");
            assert_known("the dashboard", expression);
        }
    }
}
