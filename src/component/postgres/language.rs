//! The language of a server's messages. `pg_restore` and `pg_dump` pass on the server's words and no codes, and English
//! words alone can be sorted.

use crate::component::{
    ComponentError,
    postgres::{connect::sort, mark::ident},
};
use deadpool_postgres::ClientWrapper;

/// The language in which the server answers the programs of a role.
#[derive(Debug, Clone, Default)]
pub struct Language {
    /// The option of a session under which the server speaks English, where it needs one and the role may set it.
    pub option: Option<&'static str>,
    /// The statement that lets the role have English messages; `None` where it has them.
    cure: Option<String>,
}

/// Since this version a role may be allowed to set a single parameter.
const GRANTS_PARAMETERS: u32 = 15;

impl Language {
    /// Asks in a session of the role, without settings of ours. Nothing comes into the server's log: the error whose words
    /// are looked at is caught.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn ask(client: &ClientWrapper, major: u32) -> Result<Self, ComponentError> {
        const SPOKEN: &str = "
            DO $$ BEGIN PERFORM 1 / 0; EXCEPTION WHEN division_by_zero THEN PERFORM set_config('rna_backup.said', SQLERRM, false); END $$";
        const ASK: &str = "
            SELECT current_setting('rna_backup.said', true), current_setting('lc_messages'), rolsuper, rolname::text
              FROM pg_catalog.pg_roles WHERE rolname = current_user";
        const MAY_SET: &str = "SELECT has_parameter_privilege('lc_messages', 'SET')";
        let failed = |err| sort("ask for the language of the server".into(), err);
        // A role may be without the right to use PL/pgSQL: then the setting has to do.
        let _ = client.batch_execute(SPOKEN).await;
        let row = client.query_one(ASK, &[]).await.map_err(failed)?;
        let (said, setting): (Option<String>, String) = (row.get(0), row.get(1));
        let is_english = match said.filter(|said| !said.is_empty()) {
            Some(said) => said == "division by zero",
            None => {
                setting.starts_with("en")
                    || setting.starts_with("C.")
                    || ["", "C", "POSIX"].contains(&&*setting)
            }
        };
        if is_english {
            return Ok(Self::default());
        }
        let knows_grants = major >= GRANTS_PARAMETERS;
        let may_set = row.get::<_, bool>(2)
            || knows_grants && client.query_one(MAY_SET, &[]).await.map_err(failed)?.get(0);
        if may_set {
            return Ok(Self { option: Some("-c lc_messages=C"), cure: None });
        }
        let role = ident(row.get(3));
        let cure = if knows_grants {
            format!("GRANT SET ON PARAMETER lc_messages TO {role}")
        } else {
            format!("ALTER ROLE {role} SET lc_messages = 'C'")
        };
        Ok(Self { option: None, cure: Some(cure) })
    }

    /// Tests whether the words of the server can be sorted.
    pub const fn is_english(&self) -> bool {
        self.cure.is_none()
    }

    /// A failure of a program. Words in another language might be those of a fault that passes: nothing is concluded from
    /// them, and the failure counts as a passing one.
    pub fn sorted(
        &self,
        program: &'static str,
        status: String,
        mut stderr: String,
        transient: bool,
    ) -> ComponentError {
        if let Some(cure) = self.cure() {
            stderr = format!("{stderr} ({cure})");
        }
        ComponentError::Failed { program, status, stderr, transient: transient || !self.is_english() }
    }

    /// The reason why the server's words decide nothing, and the way to change that, as a part of a sentence.
    pub fn cure(&self) -> Option<String> {
        let cure = self.cure.as_ref()?;
        Some(format!(
            "the server's messages are not English, so that causes of failures cannot be told apart: as a superuser, {cure}"
        ))
    }
}
