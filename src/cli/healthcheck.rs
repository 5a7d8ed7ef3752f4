//! `healthcheck`.

use crate::base::chain;
use crate::cli::{Exit, Failure, JsonFlag, output};
use crate::config::Config;
use serde_json::json;
use std::{
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

/// A worker that does not answer for so long is not well.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) async fn run(config: &Config, flag: JsonFlag) -> Result<Exit, Failure> {
    let address = reachable(config.metrics_addr);
    let found = ask(address).await;
    if flag.json {
        let printed = output::json(&json!({"ok": found.is_ok(), "address": address.to_string()}));
        return Ok(if found.is_ok() { printed } else { Exit::Failed });
    }
    found.map(|()| output::print("ok")).map_err(|err| Failure {
        hint: Some("is `rna-backup worker` running here, with the same BACKUP_METRICS_ADDR?"),
        ..Failure::new(
            Exit::Failed,
            format!("the worker at {address} is not well: {}", chain(&err.without_url())),
        )
    })
}

async fn ask(address: SocketAddr) -> Result<(), reqwest::Error> {
    let client = reqwest::Client::builder().timeout(PATIENCE).no_proxy().build()?;
    client.get(format!("http://{address}/livez")).send().await?.error_for_status().map(drop)
}

/// The address at which to ask a worker that listens on `address`: a worker that listens everywhere does so here too.
fn reachable(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            Ipv4Addr::LOCALHOST.into()
        } else {
            Ipv6Addr::LOCALHOST.into()
        });
    }
    address
}
