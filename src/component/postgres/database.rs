//! The properties of a database beside its contents, and the statements that make another database like it.

use crate::component::ComponentError;
use crate::component::postgres::{
    admin::{Admin, fault},
    mark::{FRESH, Mark, Role, ident, literal},
    names::decode_shared,
};
use crate::domain::task_note::TaskNote;
use serde_json::Value;

/// A database as the server describes it.
#[derive(Debug, Clone)]
pub struct Database {
    /// The name of the database.
    pub name: String,
    /// The owner of the database.
    pub owner: String,
    /// The comment on the database, without any mark of ours.
    pub comment: Option<String>,
    /// True if connections are allowed, apart from the instant of a swap.
    pub allows: bool,
    /// The tasks whose swaps have made the database what it is, as far as a mark of ours tells.
    pub task_notes: Vec<TaskNote>,
    /// Size, bytes.
    pub bytes: u64,
    oid: u32,
    encoding: String,
    tablespace: String,
    /// The row of `pg_database`, whose columns differ between versions, without the columns that hold names.
    row: Value,
    /// True if the database has privileges other than the usual ones.
    has_grants: bool,
}

/// Settings whose value is a list of names: `pg_dump`'s `variable_is_guc_list_quote`.
const LISTS: [&str; 6] = [
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
];

impl Database {
    /// Describes the database `name`, if there is one.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn find(admin: &Admin, name: &str) -> Result<Option<Self>, ComponentError> {
        const FIND: &str = "
            SELECT d.oid, textsend(pg_get_userbyid(d.datdba)::text), pg_encoding_to_char(d.encoding)::text, t.spcname::text,
                   textsend(shobj_description(d.oid, 'pg_database')), d.datallowconn,
                   (to_jsonb(d) - ARRAY['datname', 'datacl'])::text, d.datacl IS NOT NULL,
                   CASE WHEN has_database_privilege(d.oid, 'CONNECT') THEN pg_database_size(d.oid) ELSE 0 END
              FROM pg_database d JOIN pg_tablespace t ON t.oid = d.dattablespace WHERE d.datname = $1";
        let row = admin.client.query_opt(FIND, &[&name]).await;
        let Some(row) = row.map_err(|err| fault("look at the database", err))? else { return Ok(None) };
        let encoding: String = row.get(2);
        let comment = row.get::<_, Option<Vec<u8>>>(4).map(|raw| decode_shared(raw, &encoding));
        let mark = comment.as_deref().and_then(|text| Mark::parse(name, text));
        let (comment, allows, task_notes) = match mark {
            Some(mark) if mark.role == Role::Closed => (mark.comment, mark.allow, mark.task_notes),
            Some(mark) if mark.role == Role::Restored => (mark.comment, row.get(5), mark.task_notes),
            _ => (comment, row.get(5), None),
        };
        Ok(Some(Self {
            name: name.to_owned(),
            oid: row.get(0),
            owner: decode_shared(row.get(1), &encoding),
            encoding,
            tablespace: row.get(3),
            comment,
            allows,
            task_notes: task_notes.unwrap_or_default(),
            row: serde_json::from_str(row.get(6)).expect("the server writes JSON"),
            has_grants: row.get(7),
            bytes: row.get::<_, i64>(8).unsigned_abs(),
        }))
    }

    /// Tests whether its names are those that a session in another database sees.
    pub fn is_utf8(&self) -> bool {
        self.encoding == "UTF8"
    }

    /// `CREATE DATABASE` of an empty one with the same owner, encoding, locale and place.
    pub fn create_like(&self, name: &str) -> String {
        let text = |column: &str| self.row.get(column).and_then(Value::as_str);
        let mut sql = format!(
            "CREATE DATABASE {} TEMPLATE template0 CONNECTION LIMIT {FRESH} OWNER {} ENCODING {}",
            ident(name),
            ident(&self.owner),
            literal(&self.encoding)
        );
        if self.tablespace != "pg_default" {
            sql += &format!(" TABLESPACE {}", ident(&self.tablespace));
        }
        let mut add = |option: &str, value: Option<&str>| {
            if let Some(value) = value {
                sql += &format!(" {option} {}", literal(value));
            }
        };
        add("LC_COLLATE", text("datcollate"));
        add("LC_CTYPE", text("datctype"));
        // `daticulocale` in 15 and 16, `datlocale` since.
        let locale = text("datlocale").or_else(|| text("daticulocale"));
        match text("datlocprovider") {
            Some("i") => {
                add("LOCALE_PROVIDER", Some("icu"));
                add("ICU_LOCALE", locale);
                add("ICU_RULES", text("daticurules"));
            }
            Some("b") => {
                add("LOCALE_PROVIDER", Some("builtin"));
                add("BUILTIN_LOCALE", locale);
            }
            Some("c") => add("LOCALE_PROVIDER", Some("libc")),
            _ => {}
        }
        sql
    }

    /// The statements that give `copy` the settings, rights and limits of this one.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn property_statements(
        &self,
        admin: &Admin,
        copy: &str,
    ) -> Result<Vec<String>, ComponentError> {
        let copy = ident(copy);
        let limit = self.row.get("datconnlimit").and_then(Value::as_i64).unwrap_or(-1).max(-1);
        let mut sql = vec![format!("ALTER DATABASE {copy} CONNECTION LIMIT {limit}")];
        if self.row.get("datistemplate").and_then(Value::as_bool) == Some(true) {
            sql.push(format!("ALTER DATABASE {copy} IS_TEMPLATE true"));
        }
        sql.extend(self.settings(admin, &copy).await?);
        if self.has_grants {
            sql.extend(self.grants(admin, &copy).await?);
        }
        Ok(sql)
    }

    async fn settings(&self, admin: &Admin, copy: &str) -> Result<Vec<String>, ComponentError> {
        const SETTINGS: &str = "
            SELECT textsend(r.rolname::text), split_part(c, '=', 1), textsend(substr(c, strpos(c, '=') + 1))
              FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c
             WHERE s.setdatabase = $1";
        let rows = admin.client.query(SETTINGS, &[&self.oid]).await;
        let rows = rows.map_err(|err| fault("read the settings of the database", err))?;
        let statement = |row: &deadpool_postgres::tokio_postgres::Row| {
            let (role, name): (Option<Vec<u8>>, String) = (row.get(0), row.get(1));
            let value = decode_shared(row.get(2), &self.encoding);
            let whose = role.map(|raw| decode_shared(raw, &self.encoding)).map_or_else(
                || format!("DATABASE {copy}"),
                |role| format!("ROLE {} IN DATABASE {copy}", ident(&role)),
            );
            format!("ALTER {whose} SET {} TO {}", ident(&name), setting(&name, &value))
        };
        Ok(rows.iter().map(statement).collect())
    }

    async fn grants(&self, admin: &Admin, copy: &str) -> Result<Vec<String>, ComponentError> {
        const GRANTS: &str = "
            SELECT textsend(g.rolname::text), a.privilege_type, a.is_grantable
              FROM pg_database d, aclexplode(d.datacl) a LEFT JOIN pg_roles g ON g.oid = a.grantee WHERE d.oid = $1";
        let rows = admin.client.query(GRANTS, &[&self.oid]).await;
        let rows = rows.map_err(|err| fault("read the grants of the database", err))?;
        let owner = ident(&self.owner);
        let mut sql = vec![format!("REVOKE ALL ON DATABASE {copy} FROM PUBLIC, {owner}")];
        sql.extend(rows.iter().map(|row| {
            let role = row.get::<_, Option<Vec<u8>>>(0).map(|raw| decode_shared(raw, &self.encoding));
            let whom = role.map_or("PUBLIC".to_owned(), |role| ident(&role));
            let option = if row.get(2) { " WITH GRANT OPTION" } else { "" };
            format!("GRANT {} ON DATABASE {copy} TO {whom}{option}", row.get::<_, &str>(1))
        }));
        Ok(sql)
    }
}

/// `CREATE DATABASE` where there is none to be like.
pub fn create_plain(name: &str, owner: &str) -> String {
    let (name, owner) = (ident(name), ident(owner));
    format!("CREATE DATABASE {name} TEMPLATE template0 CONNECTION LIMIT {FRESH} OWNER {owner}")
}

/// The statement that takes the limit of a new copy from a database.
pub fn unlimited(name: &str) -> String {
    format!("ALTER DATABASE {} CONNECTION LIMIT -1", ident(name))
}

/// A statement as results and logs may have it: settings of extensions and of the app, whose names have a dot, may be
/// secrets, and their values are left out.
pub fn without_secret(statement: &str) -> String {
    let is_custom = |head: &str| head.rsplit_once(" SET \"").is_some_and(|(_, name)| name.contains('.'));
    match statement.split_once("\" TO ") {
        Some((head, _)) if is_custom(head) => {
            format!("{head}\" TO … (the value: SELECT setconfig FROM pg_db_role_setting)")
        }
        _ => statement.to_owned(),
    }
}

/// A stored value as `ALTER DATABASE … SET` takes it: lists item by item, as `pg_dump`'s
/// `makeAlterConfigCommand` writes them.
fn setting(name: &str, value: &str) -> String {
    if !LISTS.contains(&name.to_ascii_lowercase().as_str()) {
        return literal(value);
    }
    let items: Vec<_> = list_items(value).iter().map(|item| literal(item)).collect();
    if items.is_empty() { "''".to_owned() } else { items.join(", ") }
}

/// The items of `a, "b ""c"`.
fn list_items(list: &str) -> Vec<String> {
    let (mut items, mut item, mut quoted, mut begun) = (Vec::new(), String::new(), false, false);
    let mut letters = list.chars().peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => item.extend(letters.next()),
            '"' => (quoted, begun) = (!quoted, true),
            ',' if !quoted => items.push(std::mem::take(&mut item)),
            letter if !quoted && letter.is_whitespace() => {}
            letter => {
                begun = true;
                item.push(letter);
            }
        }
    }
    if begun {
        items.push(item);
    }
    items
}

#[test]
fn the_value_of_a_setting_of_an_app_is_not_shown() {
    let shown = without_secret("ALTER DATABASE \"d\" SET \"app.jwt_secret\" TO 'S3CRET'");
    assert!(
        shown.starts_with("ALTER DATABASE \"d\" SET \"app.jwt_secret\" TO …") && !shown.contains("S3CRET"),
        "{shown}"
    );
    let plain = "ALTER DATABASE \"d.e\" SET \"work_mem\" TO '7MB'";
    assert_eq!(without_secret(plain), plain);
}

#[test]
fn lists_in_settings_are_quoted_item_by_item() {
    let cases = [
        ("search_path", r#""$user", public, "a ""b, c""#, r#"'$user', 'public', 'a "b, c'"#),
        ("Search_Path", r#""""#, "''"),
        ("search_path", "", "''"),
        ("application_name", "it's a, b", "'it''s a, b'"),
    ];
    for (name, value, sql) in cases {
        assert_eq!(setting(name, value), sql, "{value}");
    }
}
