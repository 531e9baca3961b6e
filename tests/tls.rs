//! Connections through TLS: with a certificate of a root that we trust, and of one that we do not.

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use siltstone::demo::cluster::{Cluster, ClusterOptions};
use siltstone::error::Kind;
use siltstone::postgres::{Endpoint, Side, SslMode, connect};
use tempfile::TempDir;

use crate::support::{Site, block_on, env, issue};

/// A cluster that takes TLS, and where its root certificate is.
async fn tls_cluster(name: &str, folder: &Path) -> (Cluster, PathBuf) {
    let options = ClusterOptions::new(name, &env()).set("fsync", "off");
    let cluster = Cluster::start(options).await.unwrap();
    let (root, certificate, key) = issue();
    let data = cluster.data_dir();
    let owner = std::fs::metadata(&data).unwrap();
    for (file, text) in [("server.crt", certificate), ("server.key", key)] {
        let path = data.join(file);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        chown(&path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    let session = connect(Side::Source, &cluster.endpoint("postgres"), "test").await.unwrap();
    session.batch_execute("alter system set ssl to on").await.unwrap();
    session.batch_execute("select pg_reload_conf()").await.unwrap();
    // the postmaster takes it up when it comes to it
    let mut secure = cluster.endpoint("postgres");
    secure.ssl_mode = SslMode::Require;
    let mut tries = 0;
    while let Err(error) = connect(Side::Source, &secure, "test").await {
        assert!(tries < 100, "{error}");
        tries += 1;
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    let path = folder.join(format!("{name}.crt"));
    std::fs::write(&path, root).unwrap();
    (cluster, path)
}

#[test]
fn everything_goes_through_tls() {
    block_on(async {
        let folder = TempDir::new().unwrap();
        let (cluster, root) = tls_cluster("tls", folder.path()).await;
        let mut site = Site::on("tls", &cluster, &cluster).await;
        let secured = |url: &str| {
            let url = url.replace("127.0.0.1", "localhost");
            format!("{url}?sslmode=verify-full&sslrootcert={}", root.display())
        };
        site.secure(secured);
        site.shop("create table t (id int primary key, v text); insert into t values (1, 'v')")
            .await;
        let running = site.start();
        site.until("streaming", "select bool_and(state = 'streaming') from audit.tables").await;
        let plain = "select count(*) filter (where not s.ssl), count(*) > 4 from pg_stat_ssl s \
            join pg_stat_activity a using (pid) where a.application_name like 'siltstone%'";
        assert_eq!(site.at_source(plain).await, ["0|t"]);
        site.shop("update t set v = 'w'").await;
        site.until("the update", "select v = 'w' from cleansed.t").await;
        assert!(running.stop().await.is_ok());
    });
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_refused() {
    block_on(async {
        let folder = TempDir::new().unwrap();
        let (cluster, root) = tls_cluster("tls-refused", folder.path()).await;
        let other = folder.path().join("other.crt");
        std::fs::write(&other, issue().0).unwrap();
        let url = cluster.url("postgres");
        let cases = [
            (url.replace("127.0.0.1", "localhost"), "verify-full", &root, true),
            (url.replace("127.0.0.1", "localhost"), "verify-full", &other, false),
            // the certificate names localhost only
            (url.clone(), "verify-full", &root, false),
            (url.clone(), "verify-ca", &root, true),
            (url.clone(), "verify-ca", &other, false),
        ];
        for (url, mode, root, accepted) in cases {
            let url = format!("{url}?sslmode={mode}&sslrootcert={}", root.display());
            let endpoint = Endpoint::parse(&url).unwrap();
            let connected = connect(Side::Source, &endpoint, "test").await;
            assert_eq!(connected.is_ok(), accepted, "{mode} with {}", root.display());
            if let Err(error) = connected {
                assert_ne!(error.kind(), Kind::Bug, "{error}");
            }
        }
    });
}
