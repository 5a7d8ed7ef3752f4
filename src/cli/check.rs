//! `check`.

use crate::cli::{Exit, Failure, JsonFlag, output};
use crate::config::Config;
use crate::preflight;
use serde_json::json;

pub(super) async fn run(config: Config, flag: JsonFlag) -> Result<Exit, Failure> {
    let checks = preflight::run(&config).await;
    let printed = if flag.json {
        output::json(&json!({"checks": checks}))
    } else {
        let mut table = output::Table::new(&["CHECK", "STATE", "WHAT WAS FOUND"], &[]);
        for check in &checks {
            let state = if check.ok { "ok" } else { "NOT OK" };
            table.row(vec![check.name.clone(), state.to_owned(), check.detail.clone()]);
            if !check.ok {
                table.row(vec![String::new(), "  -->".to_owned(), check.fix.clone()]);
            }
        }
        output::print(table)
    };
    Ok(if checks.iter().all(|check| check.ok) { printed } else { Exit::Failed })
}
