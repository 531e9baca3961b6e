//! What librdkafka does not take of a connector's file.
//!
//! Its error quotes the value of the property, which may be a password: only the property's name and what
//! is wrong with it are told, and the error itself goes no further.

use rdkafka::error::KafkaError;

use crate::error::{Error, Kind};

/// A client that could not be made with the properties of a file.
pub(super) fn unfit(file: &str, error: &KafkaError) -> Error {
    let why = match error {
        KafkaError::ClientConfig(_, why, property, value) => told(why, property, value),
        error => error.to_string(),
    };
    Error::new(Kind::Config, format!("{file}: Kafka takes it not: {why}"))
        .remedy("mend the connector's properties")
}

/// What is wrong with a property, without its value, which some of librdkafka's sentences quote.
fn told(why: &str, property: &str, value: &str) -> String {
    let why = if value.is_empty() { why.to_owned() } else { why.replace(value, "…") };
    format!("properties.{property}: {why}")
}

#[cfg(test)]
mod tests {
    use super::super::brokers::Brokers;
    use super::super::outlet::Outlet;
    use super::super::sample::last_records;
    use super::super::topics::Member;
    use crate::spec::{Env, Kafka, load};

    fn connector(property: &str) -> Kafka {
        let folder = tempfile::TempDir::new().unwrap();
        let write =
            |path: &str, text: &str| std::fs::write(folder.path().join(path), text).unwrap();
        std::fs::create_dir(folder.path().join("connectors")).unwrap();
        write("siltstone.yaml", "warehouse: { url: \"postgres://a@b/c\" }\n");
        let head = "name: shop\nkind: kafka\nbrokers: \"127.0.0.1:9\"\ntopics: [\"shop.*\"]\n";
        write("connectors/shop.yaml", &format!("{head}properties:\n  {property}\n"));
        load(&folder.path().join("siltstone.yaml"), &Env::default()).unwrap().kafka.remove(0)
    }

    #[tokio::test]
    async fn a_refused_property_is_told_without_its_value() {
        let cases = [
            ("sasl.pasword: s3cret", "sasl.pasword: No such configuration property"),
            ("sasl.jaas.config: 'x password=\"s3cret\";'", "sasl.jaas.config: "),
            ("security.protocol: s3cret", "security.protocol: "),
        ];
        for (property, words) in cases {
            let kafka = connector(property);
            let refused = [
                Member::join(&kafka, 1 << 20).err(),
                Brokers::of(&kafka).err(),
                Outlet::open(&kafka, "letters").err(),
                last_records(&kafka, Vec::new()).await.err(),
            ];
            for error in refused {
                let said = format!("{0} {0:?}", error.unwrap());
                assert!(said.contains(words) && said.contains("connectors/shop.yaml"), "{said}");
                assert!(!said.contains("s3cret"), "{said}");
            }
        }
    }
}
