//! Owners and privileges in a database, and how a restore brings them back.

use crate::component::ComponentError;
use crate::component::postgres::admin::{Admin, fault};
use crate::component::postgres::mark::ident;
use crate::domain::rights::{Rights, RoleInUse};
use crate::stream::hex;
use deadpool_postgres::GenericClient;
use futures_util::TryStreamExt as _;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
};

/// Every object with its owner, the privileges of others than the owner, those that it would have by default, whether
/// somebody else has granted one, the owner of the database, and whether the owner of the object has no part in the schema
/// of the object. What belongs to an extension comes with that.
const OBJECTS: &str = "
    WITH object(kind, class, id, sub, owner, letter, acl, namespace) AS (
      SELECT 'schema', 'pg_namespace'::regclass, oid, 0, nspowner, 'n', nspacl, oid FROM pg_namespace
      UNION ALL
      SELECT CASE relkind WHEN 'S' THEN 'sequence' WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view'
                          WHEN 'f' THEN 'foreign table' ELSE 'table' END,
             'pg_class'::regclass, oid, 0, relowner, CASE relkind WHEN 'S' THEN 's' ELSE 'r' END, relacl, relnamespace
        FROM pg_class WHERE relkind IN ('r', 'p', 'v', 'm', 'f', 'S') AND relpersistence <> 't'
      UNION ALL
      SELECT 'column', 'pg_class'::regclass, c.oid, attnum, relowner, 'c', attacl, relnamespace
        FROM pg_attribute JOIN pg_class c ON c.oid = attrelid
       WHERE attacl IS NOT NULL AND attnum > 0 AND NOT attisdropped AND relpersistence <> 't'
      UNION ALL
      SELECT 'function', 'pg_proc'::regclass, oid, 0, proowner, 'f', proacl, pronamespace FROM pg_proc
      UNION ALL
      SELECT 'type', 'pg_type'::regclass, t.oid, 0, typowner, 'T', typacl, typnamespace FROM pg_type t
       WHERE typtype IN ('b', 'c', 'd', 'e', 'r') AND NOT EXISTS (SELECT FROM pg_type WHERE typarray = t.oid)
         AND (typrelid = 0 OR EXISTS (SELECT FROM pg_class WHERE oid = typrelid AND relkind = 'c'))
      UNION ALL
      SELECT 'language', 'pg_language'::regclass, oid, 0, lanowner, 'l', lanacl, NULL FROM pg_language WHERE oid >= 16384
      UNION ALL
      SELECT 'large object', 'pg_largeobject'::regclass, oid, 0, lomowner, 'L', lomacl, NULL FROM pg_largeobject_metadata
      UNION ALL
      SELECT 'foreign-data wrapper', 'pg_foreign_data_wrapper'::regclass, oid, 0, fdwowner, 'F', fdwacl, NULL
        FROM pg_foreign_data_wrapper
      UNION ALL
      SELECT 'foreign server', 'pg_foreign_server'::regclass, oid, 0, srvowner, 'S', srvacl, NULL FROM pg_foreign_server
      UNION ALL
      SELECT 'default privilege', 'pg_default_acl'::regclass, oid, 0, defaclrole, 'c', defaclacl, NULLIF(defaclnamespace, 0)
        FROM pg_default_acl
      UNION ALL SELECT 'collation', 'pg_collation'::regclass, oid, 0, collowner, 'c', NULL, collnamespace FROM pg_collation
      UNION ALL SELECT 'conversion', 'pg_conversion'::regclass, oid, 0, conowner, 'c', NULL, connamespace FROM pg_conversion
      UNION ALL SELECT 'operator class', 'pg_opclass'::regclass, oid, 0, opcowner, 'c', NULL, opcnamespace FROM pg_opclass
      UNION ALL SELECT 'operator family', 'pg_opfamily'::regclass, oid, 0, opfowner, 'c', NULL, opfnamespace FROM pg_opfamily
      UNION ALL SELECT 'text search dictionary', 'pg_ts_dict'::regclass, oid, 0, dictowner, 'c', NULL, dictnamespace FROM pg_ts_dict
      UNION ALL SELECT 'operator', 'pg_operator'::regclass, oid, 0, oprowner, 'c', NULL, oprnamespace FROM pg_operator
      UNION ALL SELECT 'statistic', 'pg_statistic_ext'::regclass, oid, 0, stxowner, 'c', NULL, stxnamespace FROM pg_statistic_ext
      UNION ALL SELECT 'text search configuration', 'pg_ts_config'::regclass, oid, 0, cfgowner, 'c', NULL, cfgnamespace FROM pg_ts_config
      UNION ALL SELECT 'publication', 'pg_publication'::regclass, oid, 0, pubowner, 'c', NULL, NULL FROM pg_publication
      UNION ALL SELECT 'event trigger', 'pg_event_trigger'::regclass, oid, 0, evtowner, 'c', NULL, NULL FROM pg_event_trigger),
    grants(class, id, sub, is_default, words, passed_on) AS (
      SELECT class, id, sub, is_default,
             array_agg(format('%s %s%s', CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                              privilege_type, CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)),
             bool_or(grantor <> owner)
        FROM object, LATERAL (SELECT false AS is_default, e.* FROM aclexplode(coalesce(acl, acldefault(letter::\"char\", owner))) e
                              UNION ALL
                              SELECT true, e.* FROM aclexplode(coalesce(
                                (SELECT initprivs FROM pg_init_privs WHERE (classoid, objoid, objsubid) = (class, id, sub)),
                                acldefault(letter::\"char\", owner))) e) e
       WHERE grantee <> owner GROUP BY 1, 2, 3, 4)
    SELECT o.kind, i.identity,
           -- Before 15 the schema public was the bootstrap superuser's, which means the same.
           CASE WHEN o.kind = 'schema' AND o.id = 2200 AND o.owner = 10 THEN 'pg_database_owner' ELSE pg_get_userbyid(o.owner) END::text, coalesce(g.words, '{}'), coalesce(d.words, '{}'),
           coalesce(g.passed_on, false), pg_get_userbyid(b.datdba)::text,
           o.kind NOT IN ('schema', 'column', 'default privilege') AND NOT coalesce(
             pg_has_role(o.owner, CASE WHEN n.oid = 2200 AND n.nspowner = 10 THEN b.datdba ELSE n.nspowner END, 'USAGE'), true)
      FROM object o LEFT JOIN pg_namespace n ON n.oid = o.namespace JOIN pg_database b ON b.datname = current_database() CROSS JOIN LATERAL pg_identify_object(o.class, o.id, o.sub) i
      LEFT JOIN grants g ON (g.class, g.id, g.sub) = (o.class, o.id, o.sub) AND NOT g.is_default
      LEFT JOIN grants d ON (d.class, d.id, d.sub) = (o.class, o.id, o.sub) AND d.is_default
     WHERE (o.namespace IS NULL OR NOT EXISTS (SELECT FROM pg_namespace WHERE oid = o.namespace
                                                  AND (nspname ~ '^pg_' OR nspname = 'information_schema')))
       AND NOT EXISTS (SELECT FROM pg_depend WHERE classid = o.class AND objid = o.id AND deptype = 'e')
     ORDER BY o.kind, i.identity COLLATE \"C\"";

/// Every role that the objects use, with what `CREATE ROLE` would need; those of PostgreSQL itself are everywhere.
const ROLES: &str = "
    WITH used(id, owns, in_policy) AS (
      SELECT refobjid, deptype = 'o', deptype = 'r' FROM pg_shdepend
       WHERE refclassid = 'pg_authid'::regclass
         AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
         AND classid <> 'pg_database'::regclass AND classid <> 'pg_subscription'::regclass)
    SELECT r.rolname::text, bool_or(owns), bool_or(in_policy),
           concat_ws(' ', CASE WHEN rolcanlogin THEN 'LOGIN' ELSE 'NOLOGIN' END, CASE WHEN rolsuper THEN 'SUPERUSER' END,
                     CASE WHEN NOT rolinherit THEN 'NOINHERIT' END, CASE WHEN rolcreaterole THEN 'CREATEROLE' END,
                     CASE WHEN rolcreatedb THEN 'CREATEDB' END, CASE WHEN rolreplication THEN 'REPLICATION' END,
                     CASE WHEN rolbypassrls THEN 'BYPASSRLS' END,
                     CASE WHEN rolconnlimit >= 0 THEN 'CONNECTION LIMIT ' || rolconnlimit END),
           ARRAY(SELECT g.rolname::text FROM pg_auth_members m JOIN pg_roles g ON g.oid = m.roleid WHERE m.member = r.oid)
      FROM used JOIN pg_roles r ON r.oid = used.id
     WHERE r.rolname !~ '^pg_'
     GROUP BY r.oid, r.rolname, rolcanlogin, rolsuper, rolinherit, rolcreaterole, rolcreatedb, rolreplication, rolbypassrls,
              rolconnlimit
     ORDER BY 1";

/// Reads the owners and privileges of a database, on a session whose search path is `pg_catalog`.
///
/// # Errors
///
/// As sorted.
pub async fn read(client: &impl GenericClient) -> Result<Rights, ComponentError> {
    let failed = |err| fault("read owners and privileges", err);
    let mut rights = Rights::default();
    let (mut owners, mut hashes) = (BTreeSet::new(), BTreeMap::<String, Sha256>::new());
    // Row by row: a database may have millions of large objects.
    let rows = client.query_raw(OBJECTS, [""; 0]).await.map_err(failed)?;
    let mut rows = pin!(rows);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let (kind, identity, owner): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let (grants, usual): (BTreeSet<String>, BTreeSet<String>) = (set(row.get(3)), set(row.get(4)));
        let own: String = row.get(6);
        rights.passed_on |= row.get::<_, bool>(5);
        if row.get::<_, bool>(7) && rights.guest.is_none() {
            rights.guest = Some(format!("{kind} {identity}"));
        }
        let mut special = Vec::new();
        if owner != own && !owner.starts_with("pg_") {
            special.push(format!("{kind} {identity} belongs to {}", ident(&owner)));
        }
        special
            .extend(usual.difference(&grants).map(|grant| format!("{kind} {identity} is without {grant}")));
        special.extend(grants.difference(&usual).map(|grant| format!("{kind} {identity} is with {grant}")));
        rights.special_count += special.len() as u64;
        let room = Rights::SPECIAL_KEPT - rights.special.len();
        rights.special.extend(special.into_iter().take(room));
        let grants = grants.into_iter().collect::<Vec<_>>().join(",");
        rights.kinds.entry(kind.clone()).or_default().objects += 1;
        hashes.entry(kind).or_default().update(format!("{identity}\t{owner}\t{grants}\n"));
        owners.insert(owner);
    }
    for (kind, hash) in hashes {
        rights.kinds.entry(kind).or_default().sha256 = hex(&hash.finalize());
    }
    let roles = client.query(ROLES, &[]).await.map_err(failed)?;
    let role = |row: &deadpool_postgres::tokio_postgres::Row| RoleInUse {
        name: row.get(0),
        owns: row.get(1),
        in_policy: row.get(2),
        attributes: row.get(3),
        member_of: set(row.get(4)),
    };
    rights.roles = roles.iter().map(role).collect();
    // The server notes no dependency on the bootstrap superuser.
    let known: BTreeSet<_> = rights.roles.iter().map(|role| role.name.clone()).collect();
    let bootstrap = owners.into_iter().filter(|owner| !owner.starts_with("pg_") && !known.contains(owner));
    rights.roles.extend(bootstrap.map(|name| RoleInUse {
        name,
        attributes: "LOGIN SUPERUSER".to_owned(),
        member_of: BTreeSet::new(),
        owns: true,
        in_policy: false,
    }));
    Ok(rights)
}

fn set(words: Vec<String>) -> BTreeSet<String> {
    words.into_iter().collect()
}

/// Owners and privileges of the objects after a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// As the archive has them. The objects are made by the role that logs in, or by this role, which owns them all.
    AsTheyWere(Option<String>),
    /// Everything belongs to the owner of the database, with the privileges of a new object, and why.
    OfTheOwner(String),
}

impl Way {
    /// The way of a restore by the role of the session into a database of that owner. `rights` is `None` where the manifest
    /// notes none.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] when a role is missing without which nothing can be restored; as sorted.
    pub async fn find(admin: &Admin, rights: Option<&Rights>, owner: &str) -> Result<Self, ComponentError> {
        let Some(rights) = rights else {
            return Ok(Self::OfTheOwner("the backup notes none".to_owned()));
        };
        let missing = missing(admin, &rights.roles).await?;
        let create =
            |roles: &[&RoleInUse]| roles.iter().map(|role| create_role(role)).collect::<Vec<_>>().join("; ");
        if missing.iter().any(|role| role.in_policy) {
            let what = format!(
                "policies in the backup name roles that this server does not have: make them first: {}",
                create(&missing)
            );
            return Err(ComponentError::Unusable { what, source: None });
        }
        if !missing.is_empty() {
            return Ok(Self::OfTheOwner(format!("roles are missing: {}", create(&missing))));
        }
        let owners = rights.roles.iter().filter(|role| role.owns).map(|role| role.name.as_str());
        let owners: Vec<_> = owners.collect();
        // Extensions have no owner in the archive: where all else has one owner, they belong to that owner as well.
        let is_sole = owners.iter().all(|name| *name == owner);
        let as_they_were = Self::AsTheyWere((is_sole && owner != admin.user).then(|| owner.to_owned()));
        if admin.superuser {
            return Ok(as_they_were);
        }
        for name in &owners {
            if !admin.is_member(Some(name)).await? {
                let is_superuser = rights.roles.iter().any(|role| role.name == *name && role.is_superuser());
                let (user, name) = (ident(&admin.user), ident(name));
                let cure = if is_superuser {
                    format!(
                        "give what belongs to the superuser {name} another owner, or restore as a superuser"
                    )
                } else {
                    format!("GRANT {name} TO {user}")
                };
                return Ok(Self::OfTheOwner(format!("{user} is no member of {name}: {cure}")));
            }
        }
        if let Some(guest) = &rights.guest {
            let why = format!(
                "{guest} belongs to a role that is no member of the owner of its schema, and such an owner a superuser \
                 alone restores"
            );
            return Ok(Self::OfTheOwner(why));
        }
        if rights.passed_on {
            let why = "privileges were granted by others than the owners, which a superuser alone restores";
            return Ok(Self::OfTheOwner(why.to_owned()));
        }
        Ok(as_they_were)
    }

    /// The warning of a plan and of a result where nobody knows what becomes otherwise than it was.
    pub fn unknown(&self, rights: Option<&Rights>) -> Option<String> {
        let (Self::OfTheOwner(why), None) = (self, rights) else { return None };
        Some(format!(
            "Owners and privileges are not restored ({why}): all belongs to the owner of the database, and PUBLIC has \
             what it has on new objects, as EXECUTE on functions."
        ))
    }

    /// The owners and privileges that become otherwise than they were, in a whole sentence.
    pub fn lost(&self, rights: Option<&Rights>) -> Option<String> {
        let (Self::OfTheOwner(why), Some(rights)) = (self, rights) else { return None };
        if rights.special_count == 0 {
            return None;
        }
        let more = rights.special_count.saturating_sub(rights.special.len() as u64);
        let more = if more > 0 { format!("; and {more} more") } else { String::new() };
        Some(format!(
            "Owners and privileges are not restored ({why}): all belongs to the owner of the database, and PUBLIC has what \
             it has on new objects. At the backup: {}{more}.",
            rights.special.join("; ")
        ))
    }
}

/// Those of these roles that the server does not have.
async fn missing<'a>(admin: &Admin, roles: &'a [RoleInUse]) -> Result<Vec<&'a RoleInUse>, ComponentError> {
    let known = admin.client.query("SELECT rolname::text FROM pg_roles", &[]).await;
    let known: BTreeSet<String> =
        known.map_err(|err| fault("look up roles", err))?.iter().map(|row| row.get(0)).collect();
    Ok(roles.iter().filter(|role| !known.contains(&role.name)).collect())
}

/// The statements that make a role as it was, without its password.
pub fn create_role(role: &RoleInUse) -> String {
    let name = ident(&role.name);
    let create = format!("CREATE ROLE {name} {}", role.attributes);
    let member = role.member_of.iter().map(|of| format!("GRANT {} TO {name}", ident(of)));
    std::iter::once(create).chain(member).collect::<Vec<_>>().join("; ")
}
