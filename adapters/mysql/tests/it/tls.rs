//! TLS to the downstream (`[syncer.to.security]`; spec drainer 4.8, 8.6).

use crate::certificates::{Authority, NodeFiles};
use crate::support::{Server, apply, open, recorded};
use binlog_core::config::security::SecuritySettings;
use binlog_core::sink::op::{SinkError, SinkOp};
use binlog_mysql::{MysqlConfig, MysqlSink};

const HOST: &[&str] = &["127.0.0.1"];

async fn refused(config: MysqlConfig) -> SinkError {
    match MysqlSink::new(config).execute(SinkOp::Open).await {
        Err(error) => error,
        Ok(other) => panic!("it opened: {other:?}"),
    }
}

#[tokio::test]
async fn both_sides_show_certificates() {
    let work = tempfile::tempdir().unwrap();
    let (ca, stranger) = (Authority::new("the CA"), Authority::new("another CA"));
    let files = |name: &str, ca: &Authority, leaf| NodeFiles::new(&work.path().join(name), &ca.pem(), &leaf);
    let server_files = files("server", &ca, ca.leaf("mariadb", HOST));
    let flags = [("ca", "ca.pem"), ("cert", "cert.pem"), ("key", "key.pem")]
        .map(|(flag, file)| format!("--ssl-{flag}={}", server_files.path(file)));
    let server = Server::start_with(&flags);
    let mut b = server.bench("tls").await;
    b.sql("CREATE USER 'named'@'127.0.0.1' IDENTIFIED BY 'geheim' REQUIRE SUBJECT '/CN=drainer'").await;
    b.sql("CREATE USER 'secret'@'127.0.0.1' IDENTIFIED BY 'geheim' REQUIRE SSL").await;
    for user in ["named", "secret"] {
        b.sql(&format!("GRANT ALL ON *.* TO '{user}'@'127.0.0.1'")).await;
    }
    let own = files("drainer", &ca, ca.leaf("drainer", HOST));
    let config = |user: &str, security: Option<SecuritySettings>| {
        let (user, password) = (user.to_owned(), "geheim".to_owned());
        MysqlConfig { user, password, security, ..b.config.clone() }
    };
    let both = own.settings(&[]);
    let ca_alone = SecuritySettings { identity: None, ..both.clone() };

    let mut sink = MysqlSink::new(config("named", Some(both.clone())));
    open(&mut sink).await;
    sink.execute(crate::support::begin(1, 100)).await.unwrap();
    sink.execute(apply(&[101], vec![])).await.unwrap();
    // The CA alone is enough where the server asks for no certificate.
    let mut sink = MysqlSink::new(config("secret", Some(ca_alone.clone())));
    assert_eq!(recorded(&open(&mut sink).await), [101]);

    // Accounts that want more than they get.
    for security in [None, Some(ca_alone.clone())] {
        let error = refused(config("named", security)).await;
        assert!(matches!(&error, SinkError::Fatal(text) if text.contains("1045")), "{error:?}");
    }
    let error = refused(config("secret", None)).await;
    assert!(matches!(&error, SinkError::Fatal(text) if text.contains("1045")), "{error:?}");

    // A server that is not who it should be never sees the password; it may be mended, so this is tried again.
    let foreign = files("foreign", &stranger, stranger.leaf("drainer", HOST));
    let localhost = MysqlConfig { host: "localhost".to_owned(), ..config("secret", Some(ca_alone.clone())) };
    for (wrong, says) in [
        (config("secret", Some(SecuritySettings { identity: None, ..foreign.settings(&[]) })), "UnknownIssuer"),
        (localhost, "not valid for name"),
    ] {
        let error = refused(wrong).await;
        assert!(matches!(&error, SinkError::Lost(text) if text.contains(says)), "{says}: {error:?}");
    }

    // New files count for the next connection.
    foreign.set_ca(&(stranger.pem() + &ca.pem()));
    foreign.set_leaf(&ca.leaf("drainer", HOST));
    assert_eq!(recorded(&open(&mut MysqlSink::new(config("named", Some(foreign.settings(&[]))))).await), [101]);
}

/// Nobody between us and the server can talk us out of it.
#[tokio::test]
async fn a_server_without_tls_is_refused() {
    let work = tempfile::tempdir().unwrap();
    let ca = Authority::new("the CA");
    let own = NodeFiles::new(work.path(), &ca.pem(), &ca.leaf("drainer", HOST));
    let mut b = crate::server().bench("tls_none").await;
    b.config.security = Some(own.settings(&[]));
    let error = refused(b.config.clone()).await;
    assert!(matches!(&error, SinkError::Fatal(text) if text.contains("SSL")), "{error:?}");
}
