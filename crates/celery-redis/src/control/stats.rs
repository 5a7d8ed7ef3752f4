//! `celery inspect stats` and `report`.

use super::super::client::ConnectOptions;
use super::panel::Panel;
use super::usage;
use serde_json::{Value, json};
use std::fmt::Write;

impl Panel {
    /// Returns the fields of `celery inspect stats`; readers such as Flower and exporters need each of them.
    pub(super) fn stats(&self) -> Value {
        let node = &self.node;
        let totals = node.requests.totals();
        let (pid, started) = (std::process::id(), totals.values().sum::<u64>());
        let active = node.requests.active();
        let concurrency = *node.concurrency.borrow();
        json!({
            "total": totals,
            "pid": pid,
            "clock": node.clock.now().to_string(),
            "uptime": node.started.elapsed().as_secs(),
            "pool": {
                "implementation": format!("{}:tokio", node.about.software),
                "max-concurrency": concurrency,
                "processes": [pid],
                "max-tasks-per-child": "N/A",
                "put-guarded-by-semaphore": true,
                "timeouts": [0, 0],
                // A worker of this program is a single process, without child processes.
                "writes": {
                    "total": started, "avg": "1.00", "all": "1.00", "raw": started.to_string(),
                    "strategy": "fair", "inqueues": {"total": concurrency, "active": active},
                },
            },
            "broker": self.broker,
            "prefetch_count": concurrency,
            "rusage": usage::rusage(),
        })
    }

    pub(super) fn report(&self) -> String {
        let about = &self.node.about;
        let system = rustix::system::uname();
        let results = about.conf.get("result_backend").and_then(Value::as_str).unwrap_or("disabled");
        let mut report = format!(
            "\nsoftware -> {}:{}\nplatform -> system:{} arch:{}\n            kernel version:{} imp:Rust\n\
             settings -> transport:redis results:{results}\n\n",
            about.software,
            about.version,
            system.sysname().to_string_lossy(),
            system.machine().to_string_lossy(),
            system.release().to_string_lossy(),
        );
        for (name, value) in &about.conf {
            let _ = writeln!(report, "{name}: {}", super::super::repr::value(value));
        }
        report
    }
}

/// Returns the address of the broker, without the password, as `Connection.info` in `kombu/connection.py` does.
pub(super) fn broker(options: &ConnectOptions) -> Value {
    let endpoint = options.endpoint();
    json!({
        "hostname": endpoint.host,
        "userid": endpoint.user,
        "virtual_host": options.db().to_string(),
        "port": endpoint.port,
        "insist": false,
        "ssl": endpoint.tls,
        "transport": "redis",
        "connect_timeout": super::super::client::CONNECT_TIMEOUT.as_secs(),
        "transport_options": {},
        "login_method": null,
        "uri_prefix": null,
        "heartbeat": 0.0,
        "failover_strategy": "round-robin",
        "alternates": [],
        "credential_provider": null,
    })
}
