//! The word of a person for a restore that loses owners and privileges.

use crate::component::{Plan, Target};
use crate::engine::{EngineError, RestoreRequest};

/// Makes sure that whoever orders a restore of live data knows that owners and privileges will be lost.
pub(super) fn may_lose_rights(request: &RestoreRequest, plan: &Plan) -> Result<(), EngineError> {
    let replaces_live = !matches!(request.target, Target::Database(_) | Target::Folder(_));
    match &plan.lost_rights {
        Some(lost) if replaces_live && !request.without_rights => {
            Err(EngineError::Unfit { what: format!("nothing was changed: {lost} {CONSENT}") })
        }
        _ => Ok(()),
    }
}

/// The way to a restore that loses owners and privileges.
pub(super) const CONSENT: &str = "If that is what you want, restore with --without-rights, by task with without_rights=True, in Django Admin with the \
     tick in \"without owners and privileges\".";
