//! Memberships of the role that logs in: a restore acts as the owners of a backup.

use crate::component::ComponentError;
use crate::component::postgres::{
    admin::{Admin, fault},
    mark::ident,
};

impl Admin {
    /// The statement that lets the role of the session act as `role`, with all that belongs to it; `None` where the role
    /// may. Since PostgreSQL 16 a membership alone allows neither to use the rights of a role nor to become it.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn missing_grant(&self, role: &str) -> Result<Option<String>, ComponentError> {
        const ASK: &str = "
            SELECT pg_has_role($1::text::name, 'USAGE'), pg_has_role($1::text::name, 'MEMBER'), rolinherit,
                   CASE WHEN current_setting('server_version_num')::int4 >= 160000 THEN pg_has_role($1::text::name, 'SET')
                        ELSE pg_has_role($1::text::name, 'MEMBER') END
              FROM pg_roles WHERE rolname = current_user";
        let row = self.client.query_one(ASK, &[&role]).await;
        let row = row.map_err(|err| fault("look up roles", err))?;
        let [uses, member, inherits, sets] = [0, 1, 2, 3].map(|column| row.get::<_, bool>(column));
        if uses && sets {
            return Ok(None);
        }
        let user = ident(&self.user);
        let grant = format!("GRANT {} TO {user}", ident(role));
        if self.major >= OPTIONS_OF_MEMBERSHIPS {
            let inherit = (!uses && (member || !inherits)).then_some("INHERIT TRUE");
            let options: Vec<_> =
                inherit.into_iter().chain((member && !sets).then_some("SET TRUE")).collect();
            let with =
                if options.is_empty() { String::new() } else { format!(" WITH {}", options.join(", ")) };
            return Ok(Some(grant + &with));
        }
        let inherit = (!inherits).then(|| format!("ALTER ROLE {user} INHERIT"));
        let wanted: Vec<_> = (!member).then_some(grant).into_iter().chain(inherit).collect();
        Ok(Some(wanted.join("; ")))
    }
}

/// Since this version a membership has options of its own.
const OPTIONS_OF_MEMBERSHIPS: u32 = 16;
