//! The way on where a server refuses some objects of a backup: a restore without them.

use crate::component::{ComponentError, Target};
use crate::domain::id::BackupId;
use crate::engine::{EngineError, RestoreRequest};
use serde_json::json;

/// Adds the line by which a restore goes on without what the server refuses.
pub(super) fn with_way_on(err: EngineError, request: &RestoreRequest, id: &BackupId) -> EngineError {
    let EngineError::Component { source: ComponentError::Refused { what, names }, .. } = err else {
        return err;
    };
    let names = [request.without.clone(), names].concat();
    let (line, names) = (way_on(request, id, &names), json!(names));
    let what = format!(
        "restore {id}: {what}. Nothing was touched. Without these objects: `{line}`, or without={names} in the task"
    );
    EngineError::Unfit { what }
}

/// The command line of a restore without some objects.
pub(super) fn way_on(request: &RestoreRequest, id: &BackupId, names: &[String]) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let database = match &request.target {
        Target::Database(name) => format!(" --database {}", quoted(name)),
        _ => String::new(),
    };
    let without: Vec<_> = names.iter().map(|name| format!(" --without {}", quoted(name))).collect();
    format!("rna-backup restore {} {id}{database}{}", request.component, without.concat())
}
