//! Owners and privileges in a database, and how a restore brings them back.

use crate::component::ComponentError;
use crate::component::postgres::{
    admin::{Admin, fault},
    extensions,
    mark::ident,
};
use crate::domain::rights::{Rights, RoleInUse};
use deadpool_postgres::{ClientWrapper, GenericClient};
use futures_util::TryStreamExt as _;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
};

/// Kind, identity, owner and privileges of every object, and where objects of extensions and of the server are from.
const OBJECTS: &str = include_str!("rights.sql");

/// Every role that the objects use, with what `CREATE ROLE` would need; those of PostgreSQL itself are everywhere. No archive
/// has the owners of extensions and of their objects.
const ROLES: &str = "
    WITH used(id, owns, in_policy) AS (
      SELECT refobjid, deptype = 'o', deptype = 'r' FROM pg_shdepend s
       WHERE refclassid = 'pg_authid'::regclass
         AND NOT (deptype = 'o' AND (classid = 'pg_extension'::regclass OR EXISTS (
               SELECT FROM pg_depend d WHERE (d.classid, d.objid) = (s.classid, s.objid) AND d.deptype = 'e')))
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
/// The error of the server, sorted by the remedy.
pub async fn read(client: &impl GenericClient) -> Result<Rights, ComponentError> {
    let failed = |err| fault("read owners and privileges", err);
    let mut rights = Rights::default();
    let (mut owners, mut hashes) = (BTreeSet::new(), Hashes::new());
    let mut lacks_public = true;
    // Row by row: a database may have millions of large objects.
    let rows = client.query_raw(OBJECTS, [""; 0]).await.map_err(failed)?;
    let mut rows = pin!(rows);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let (kind, identity, owner): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let (grants, usual): (BTreeSet<String>, BTreeSet<String>) = (set(row.get(3)), set(row.get(4)));
        let (own, origin): (String, String) = (row.get(6), row.get(8));
        rights.database_owner.get_or_insert_with(|| own.clone());
        if !origin.is_empty() {
            let kind = format!("{origin}{kind}");
            let others = otherwise(&format!("{kind} {identity}"), &grants, &usual);
            // There are none where a privilege was given and taken back.
            if !others.is_empty() {
                rights.built_in.extend(others);
                note(&mut rights, &mut hashes, kind, &format!("{identity}\t\t{}", joined(grants)));
            }
            continue;
        }
        lacks_public &= (kind.as_str(), identity.as_str()) != ("schema", "public");
        rights.passed_on |= row.get::<_, bool>(5);
        if row.get::<_, bool>(7) && rights.guest.is_none() {
            rights.guest = Some(format!("{kind} {identity}"));
        }
        let mut special = Vec::new();
        if owner != own && !owner.starts_with("pg_") {
            special.push(format!("{kind} {identity} belongs to {}", ident(&owner)));
        }
        special.extend(otherwise(&format!("{kind} {identity}"), &grants, &usual));
        rights.special_count += special.len() as u64;
        let room = Rights::SPECIAL_KEPT - rights.special.len();
        rights.special.extend(special.into_iter().take(room));
        note(&mut rights, &mut hashes, kind, &format!("{identity}\t{owner}\t{}", joined(grants)));
        owners.insert(owner);
    }
    rights.lacks_public = lacks_public;
    rights.extensions = extensions::owned(client).await?;
    for (kind, hash) in hashes {
        rights.kinds.entry(kind).or_default().sha256 = hex::encode(hash.finalize());
    }
    rights.roles = roles(client, owners).await?;
    Ok(rights)
}

/// Reads the roles that the objects of a database use; `owners` are the owners of all objects.
async fn roles(
    client: &impl GenericClient,
    owners: BTreeSet<String>,
) -> Result<Vec<RoleInUse>, ComponentError> {
    let rows = client.query(ROLES, &[]).await.map_err(|err| fault("read owners and privileges", err))?;
    let role = |row: &deadpool_postgres::tokio_postgres::Row| RoleInUse {
        name: row.get(0),
        owns: row.get(1),
        in_policy: row.get(2),
        attributes: row.get(3),
        member_of: set(row.get(4)),
    };
    let mut roles: Vec<_> = rows.iter().map(role).collect();
    // The server notes no dependency on the bootstrap superuser.
    let known: BTreeSet<_> = roles.iter().map(|role| role.name.clone()).collect();
    let bootstrap = owners.into_iter().filter(|owner| !owner.starts_with("pg_") && !known.contains(owner));
    roles.extend(bootstrap.map(|name| RoleInUse {
        name,
        attributes: "LOGIN SUPERUSER".to_owned(),
        member_of: BTreeSet::new(),
        owns: true,
        in_policy: false,
    }));
    Ok(roles)
}

/// A running hash of each kind of object.
type Hashes = BTreeMap<String, Sha256>;

fn note(rights: &mut Rights, hashes: &mut Hashes, kind: String, line: &str) {
    rights.kinds.entry(kind.clone()).or_default().objects += 1;
    hashes.entry(kind).or_default().update(format!("{line}\n"));
}

/// The privileges on an object that are not the usual ones, in words.
fn otherwise(object: &str, grants: &BTreeSet<String>, usual: &BTreeSet<String>) -> Vec<String> {
    let without = usual.difference(grants).map(|grant| format!("{object} is without {grant}"));
    let with = grants.difference(usual).map(|grant| format!("{object} is with {grant}"));
    without.chain(with).collect()
}

fn joined(grants: BTreeSet<String>) -> String {
    grants.into_iter().collect::<Vec<_>>().join(",")
}

fn set(words: Vec<String>) -> BTreeSet<String> {
    words.into_iter().collect()
}

/// Owners and privileges of the objects after a restore.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OwnershipMode {
    /// As the archive has them, but for privileges on objects of extensions and of the server, which superusers alone give.
    /// The objects are made by the role that logs in, or by this role, which owns them all.
    AsTheyWere(Option<String>),
    /// Everything belongs to the owner of the database, with the privileges of a new object. With the reason.
    OfTheOwner(String),
}

impl OwnershipMode {
    /// The mode of a restore by the role of the session into a database of that owner. `rights` is `None` where the manifest
    /// notes none. Roles are looked up in a session `known_in` which names have the bytes that the archive has.
    ///
    /// # Errors
    ///
    /// [`ComponentError::Unusable`] when a role is missing without which nothing can be restored; else the error of the server.
    pub async fn find(
        admin: &Admin,
        known_in: &ClientWrapper,
        rights: Option<&Rights>,
        owner: &str,
    ) -> Result<Self, ComponentError> {
        let Some(rights) = rights else {
            return Ok(Self::OfTheOwner("the backup notes none".to_owned()));
        };
        let missing = missing(known_in, &rights.roles).await?;
        let create = |roles: &[&RoleInUse]| RoleInUse::create_statements(roles.iter().copied()).join("; ");
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
        if admin.superuser {
            return Ok(Self::AsTheyWere(None));
        }
        let owners: Vec<_> = rights.roles.iter().filter(|role| role.owns).collect();
        for role in &owners {
            let Some(grant) = admin.missing_grant(&role.name).await? else { continue };
            let (user, name) = (ident(&admin.user), ident(&role.name));
            let cure = if role.is_superuser() {
                format!("give what belongs to the superuser {name} another owner, or restore as a superuser")
            } else {
                grant
            };
            return Ok(Self::OfTheOwner(format!("{user} may not act as {name}: {cure}")));
        }
        if let Some(why) = for_superusers(rights, admin.major, owner) {
            return Ok(Self::OfTheOwner(why));
        }
        // Extensions have no owner in the archive: where all else has one owner, they belong to that owner as well.
        let is_sole = owners.iter().all(|role| role.name == owner);
        Ok(Self::AsTheyWere((is_sole && owner != admin.user).then(|| owner.to_owned())))
    }

    /// The role that creates the objects of a restore by `user` with its own hands; `None` where all belongs to one owner
    /// whatever it was.
    pub fn creator<'a>(&'a self, user: &'a str) -> Option<&'a str> {
        match self {
            Self::AsTheyWere(role) => Some(role.as_deref().unwrap_or(user)),
            Self::OfTheOwner(_) => None,
        }
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
    pub fn lost(&self, rights: Option<&Rights>, is_superuser: bool) -> Option<String> {
        match (self, rights?) {
            (Self::AsTheyWere(_), _) if is_superuser => None,
            (Self::AsTheyWere(_), rights) => Some(format!(
                "Privileges on objects of extensions and of the server are not restored, since a superuser alone may give \
                 and take them. At the backup: {}.",
                rights.built_in_words()?
            )),
            (Self::OfTheOwner(why), rights) => Some(format!(
                "Owners and privileges are not restored ({why}): all belongs to the owner of the database, and PUBLIC has \
                 what it has on new objects. At the backup: {}.",
                rights.special_words()?
            )),
        }
    }
}

/// Since this version the schema `public` belongs to the owner of the database.
pub const PUBLIC_OF_THE_OWNER: u32 = 15;

/// The reason why a superuser alone brings owners and privileges back, into a database of that owner.
fn for_superusers(rights: &Rights, major: u32, owner: &str) -> Option<String> {
    if rights.lacks_public && major < PUBLIC_OF_THE_OWNER {
        let why = "schema public was dropped, which here a superuser alone may do";
        return Some(why.to_owned());
    }
    let was = rights.database_owner.as_ref().filter(|was| *was != owner);
    if let Some(was) = was.filter(|_| major >= PUBLIC_OF_THE_OWNER) {
        let why = format!(
            "the database belonged to {} and with it the schema public, and now belongs to {}",
            ident(was),
            ident(owner)
        );
        return Some(why);
    }
    if let Some(guest) = &rights.guest {
        let why = format!(
            "{guest} belongs to a role that is no member of the owner of its schema, and such an owner a superuser \
             alone restores"
        );
        return Some(why);
    }
    if rights.passed_on {
        let why = "privileges were granted by others than the owners, which a superuser alone restores";
        return Some(why.to_owned());
    }
    None
}

/// The roles of these that the server does not have.
async fn missing<'a>(
    client: &ClientWrapper,
    roles: &'a [RoleInUse],
) -> Result<Vec<&'a RoleInUse>, ComponentError> {
    // Not all roles of the server: a name that another database has made may not be UTF-8.
    const KNOWN: &str = "SELECT rolname::text FROM pg_roles WHERE rolname::text = ANY ($1)";
    let names: Vec<_> = roles.iter().map(|role| role.name.as_str()).collect();
    let known = client.query(KNOWN, &[&names]).await;
    let known: BTreeSet<String> =
        known.map_err(|err| fault("look up roles", err))?.iter().map(|row| row.get(0)).collect();
    Ok(roles.iter().filter(|role| !known.contains(&role.name)).collect())
}
