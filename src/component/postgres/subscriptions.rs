//! Subscriptions and replication slots, which belong to a database by its identity: a database with another name keeps them, and
//! is not removed while they are there.

use crate::component::ComponentError;
use crate::component::postgres::{
    admin::{Admin, fault},
    mark::ident,
};

impl Admin {
    /// Refuses a database that is an active subscriber: what is renamed would go on to take the rows that arrive, and the
    /// restored one would get none.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`]; else the error of the server.
    pub async fn refuse_active_subscriber(&self, name: &str) -> Result<(), ComponentError> {
        let ask = "SELECT string_agg(format('ALTER SUBSCRIPTION %I DISABLE', subname), '; ' ORDER BY subname)
                     FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname = $1 AND subenabled";
        let found = self.client.query_one(ask, &[&name]).await;
        let found = found.map_err(|err| fault(format!("look for subscriptions in {name}"), err))?;
        let Some(disable) = found.get::<_, Option<String>>(0) else { return Ok(()) };
        let what = format!(
            "database {name} is an active subscriber, and the rows that arrive would go on into what is set aside: run in \
             it first: {disable}; and after the restore make the subscription anew in the restored database"
        );
        Err(ComponentError::Unusable { what, source: None })
    }

    /// The subscriptions and slots that belong to a database by its identity and so stay with what a restore sets aside, in
    /// words.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn left_behind(&self, name: &str) -> Result<Vec<String>, ComponentError> {
        const ASK: &str = "
            SELECT format('Subscription %I stays with the database that is set aside: make it anew in the restored one '
                          '(CREATE SUBSCRIPTION … WITH (create_slot = false)), and in the other ALTER SUBSCRIPTION %1$I '
                          'SET (slot_name = NONE) and DROP SUBSCRIPTION %1$I, or it can never be removed.', subname)
              FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname = $1
            UNION ALL
            SELECT format('Replication slot %s stays with the database that is set aside, and is dropped with it by the next backup: '
                          'let whoever reads it begin anew, by a slot of the restored one.', slot_name)
              FROM pg_replication_slots WHERE database = $1";
        let rows = self.client.query(ASK, &[&name]).await;
        let rows = rows.map_err(|err| fault(format!("look what hangs on {name}"), err))?;
        Ok(rows.iter().map(|row| row.get(0)).collect())
    }

    /// The reason why a database cannot be dropped, with the statements after which it can; `None` where nothing hangs on it.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn drop_obstacles(&self, name: &str) -> Result<Option<String>, ComponentError> {
        const ASK: &str = "
            SELECT format('ALTER SUBSCRIPTION %1$I DISABLE; ALTER SUBSCRIPTION %1$I SET (slot_name = NONE); '
                          'DROP SUBSCRIPTION %1$I', subname)
              FROM pg_subscription JOIN pg_database d ON d.oid = subdbid WHERE datname = $1
            UNION ALL
            SELECT format('SELECT pg_terminate_backend(%s); SELECT pg_drop_replication_slot(%L)', active_pid, slot_name) FROM pg_replication_slots WHERE database = $1 AND active
             ORDER BY 1";
        let rows = self.client.query(ASK, &[&name]).await;
        let rows = rows.map_err(|err| fault(format!("look what hangs on {name}"), err))?;
        let statements: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        Ok((!statements.is_empty()).then(|| {
            format!(
                "database {} cannot be dropped while subscriptions hang on it or somebody reads its replication slots: run in it as a \
                 superuser: {}; the next backup or restore drops it then. The publisher keeps the slot of a subscription: let the \
                 subscription of the restored database go on with that slot, or drop it there",
                ident(name),
                statements.join("; ")
            )
        }))
    }
}
