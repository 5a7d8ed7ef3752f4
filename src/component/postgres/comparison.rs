//! Comparisons of a whole copy with its backup, and with the live database that the copy is to replace.

use crate::component::ComponentError;
use crate::component::postgres::{definitions, restore_target::RestoreTarget, rights::OwnershipMode};
use crate::domain::{facts::Facts, progress::Meter, properties::Properties, rights::Rights};
use std::collections::BTreeSet;

/// The outcome of the trial whether a copy can be given the properties of the live database.
pub struct PropertyTrial {
    /// The statements that the server has refused, which are a warning.
    pub refused: BTreeSet<String>,
    /// The properties of the copy in that trial.
    pub found: Properties,
}

/// Warns of the properties of a copy that are not those of the backup, and tells those that were to be taken over from the
/// live database and were not. Where the server has refused some, the warning about the refusal has named them.
pub async fn compare_properties(
    target: &RestoreTarget,
    tried: &PropertyTrial,
    found: Properties,
    facts: Option<&Facts>,
    meter: &Meter,
) -> Result<Vec<String>, ComponentError> {
    let compared = target.compare_properties(found, facts).await?;
    compared.warning.into_iter().for_each(|words| meter.warn(words));
    Ok(if tried.refused.is_empty() { compared.wrong } else { Vec::new() })
}

/// The parts of a restore that a drill has neither tried nor compared, in whole sentences. A restore names them in its plan.
pub fn untried(target: &RestoreTarget, facts: Option<&Facts>) -> Vec<String> {
    let lost = target.lost_rights(facts).map(|lost| {
        format!("Neither tried nor compared, and a restore wants to be told --without-rights: {lost}")
    });
    target.lost_tablespaces.iter().cloned().chain(target.uncompared(facts)).chain(lost).collect()
}

/// The owners and privileges of a copy that are not those of the backup, in words. Nothing is compared where they are not
/// restored, and between two major versions, which have other privileges.
pub fn wrong_rights(target: &RestoreTarget, facts: Option<&Facts>, found: &Rights) -> Vec<String> {
    let is_comparable =
        matches!(target.rights, OwnershipMode::AsTheyWere(_)) && target.is_of_its_version(facts);
    let Some(promised) = facts.and_then(|facts| facts.rights.as_ref()).filter(|_| is_comparable) else {
        return Vec::new();
    };
    let (mut promised, mut found) = (promised.clone(), found.clone());
    if facts.is_none_or(|facts| facts.definitions.is_none()) {
        // Programs that noted no definitions counted the functions that the server makes with a range type.
        promised.kinds.remove("function");
        found.kinds.remove("function");
    }
    promised.differences(&found, target.admin.superuser)
}

/// The definitions of a copy that are not those of the backup, in words. Nothing is compared between two major versions,
/// which have other properties.
pub fn wrong_definitions(
    target: &RestoreTarget,
    facts: Option<&Facts>,
    found: &definitions::FoundDefinitions,
) -> Vec<String> {
    let promised = facts.and_then(|facts| facts.definitions.as_ref());
    let compared = promised.filter(|_| target.is_of_its_version(facts));
    compared.map(|promised| promised.differences(&found.definitions, &found.strangers)).unwrap_or_default()
}
