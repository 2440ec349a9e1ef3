//! The sink against a real MariaDB.

#[path = "../../../cluster/tests/certificates/mod.rs"]
mod certificates;
mod ddl;
mod keyless;
mod open;
mod progress;
#[path = "../support/mod.rs"]
mod support;
mod tls;
mod transactions;
mod values;

use std::sync::OnceLock;
use support::Server;

/// One server for all tests of this binary; each test has databases of its own.
fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(Server::start)
}
