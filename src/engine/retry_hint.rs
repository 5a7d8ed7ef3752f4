//! The way on where a restore would lose something: objects that a server refuses, owners and privileges. A restore goes
//! on without them when it is told so.

use crate::component::{Component, ComponentError, Plan, RestoreOrder, Target};
use crate::domain::id::BackupId;
use crate::engine::archive::{Archive, unusable};
use crate::engine::{EngineError, RestoreRequest};
use serde_json::json;

/// Completes a plan with what the archive itself tells, and with the lines of a restore that goes on all the same.
///
/// # Errors
///
/// The error that the restore would fail with before it began.
pub(super) async fn complete(
    plan: &mut Plan,
    component: &Component,
    request: &RestoreRequest,
    archive: &Archive,
) -> Result<(), EngineError> {
    if plan.looks_into_archive {
        let mut opened = archive.opened(archive.reader().await?).await?;
        let mut feed = opened.feed(component).await?;
        let RestoreRequest { target, without, .. } = request;
        let order = RestoreOrder { target, without, facts: archive.facts() };
        let preview = async { component.restorable()?.preview(&mut feed, &order).await }.await;
        preview.map_err(|source| unusable(request.component, source))?;
    }
    plan.refuses.retain(|name| !request.without.contains(name));
    if !plan.refuses.is_empty() {
        let names = [request.without.clone(), plan.refuses.clone()].concat();
        let loses_rights = request.without_rights || plan.lost_rights.is_some();
        let line = retry_command(request, &archive.entry.backup_id, &names, loses_rights);
        plan.advice.push(format!("The server refuses {}; without them: `{line}`", plan.refuses.join(", ")));
    }
    let is_told = may_lose_rights(request, plan).is_ok();
    if let Some(lost) = &mut plan.lost_rights
        && !is_told
    {
        *lost = format!("{lost} {CONSENT}");
    }
    Ok(())
}

/// The way to a restore that loses owners and privileges.
const CONSENT: &str = "If that is what you want, restore with --without-rights, by task with without_rights=True, in \
                       Django Admin with the tick in \"without owners and privileges\".";

/// Refuses a restore of live data that loses owners and privileges, unless the order allows it.
pub(super) fn may_lose_rights(request: &RestoreRequest, plan: &Plan) -> Result<(), EngineError> {
    match &plan.lost_rights {
        Some(lost) if !plan.is_elsewhere && !request.without_rights => {
            Err(EngineError::Unfit { what: format!("nothing was changed: {lost} {CONSENT}") })
        }
        _ => Ok(()),
    }
}

/// Adds the line by which a restore goes on without the objects that the server refuses.
pub(super) fn with_retry_hint(err: EngineError, request: &RestoreRequest, id: &BackupId) -> EngineError {
    let EngineError::Component { source: ComponentError::Refused { what, names }, .. } = err else {
        return err;
    };
    let names = [request.without.clone(), names].concat();
    let (line, names) = (retry_command(request, id, &names, request.without_rights), json!(names));
    let rights = if request.without_rights { " and without_rights=True" } else { "" };
    let what = format!(
        "restore {id}: {what}. Nothing was touched. Without these objects: `{line}`, or without={names}{rights} in the \
         task"
    );
    EngineError::Unfit { what }
}

/// The command line of a restore without some objects.
fn retry_command(request: &RestoreRequest, id: &BackupId, names: &[String], loses_rights: bool) -> String {
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let target = match &request.target {
        Target::Custom(option) if option.values.is_empty() => format!(" --{}", option.name),
        Target::Custom(option) => {
            let given: Vec<_> =
                option.texts().map(|text| format!(" --{} {}", option.name, quoted(&text))).collect();
            given.concat()
        }
        Target::Live | Target::Scratch => String::new(),
    };
    let rights = if loses_rights { " --without-rights" } else { "" };
    let without: Vec<_> = names.iter().map(|name| format!(" --without {}", quoted(name))).collect();
    format!("rna-backup restore {} {id}{target}{rights}{}", request.component, without.concat())
}
