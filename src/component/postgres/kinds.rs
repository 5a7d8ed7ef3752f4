//! Every kind of object that a database holds, with the kind's catalogs, entries in an archive, and support in a restore: a
//! table, from which `docs/postgres-objects.md` is written. A test reads the catalogs of real servers and fails where one
//! of them is missing here.

use std::fmt::Write as _;

/// The support of a kind of object in a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestoreSupport {
    /// `pg_restore` makes it again from the archive.
    Restored,
    /// `pg_restore` makes it again where the role may make such a thing, or the extension that brings it is trusted.
    /// If not, the restore is refused before anything live is touched.
    IfAllowed,
    /// The object comes back where the role is a member of every owner. Elsewhere the restore wants to be told so.
    IfMember,
    /// The property is taken over from the live database, not from the archive.
    Carried,
    /// The property is taken over from the live database where the role may set it. Elsewhere a warning has the statement.
    CarriedIfAllowed,
    /// The object stays as it is in the live database, whose contents alone are replaced.
    Stays,
    /// The server computes the object again.
    Computed,
    /// The object is not in a backup and stays with the old database; the plan names the object.
    Named,
    /// The object is not in a backup.
    Left,
    /// The object belongs to the server and not to one database.
    OfServer,
}

impl RestoreSupport {
    /// The words of the table.
    const fn words(self) -> &'static str {
        match self {
            Self::Restored => "comes back",
            Self::IfAllowed => "comes back where allowed",
            Self::IfMember => "comes back where a member",
            Self::Carried => "taken over",
            Self::CarriedIfAllowed => "taken over where allowed",
            Self::Stays => "stays",
            Self::Computed => "computed again",
            Self::Named => "left, and named",
            Self::Left => "left",
            Self::OfServer => "the server’s",
        }
    }

    const fn meaning(self) -> &'static str {
        match self {
            Self::Restored => "`pg_restore` makes it again from the archive.",
            Self::IfAllowed => {
                "`pg_restore` makes it again where PostgreSQL lets the role. Elsewhere the restore is refused, with the \
                 server’s words, before anything live is touched; what no rows need can be left out (`--without`)."
            }
            Self::IfMember => {
                "as it was, where the role is a member of every role that owns something; on objects of extensions and of the \
                 server, for a superuser alone. Elsewhere the dry run says which rights would be lost or opened to others, and \
                 the restore wants `--without-rights`."
            }
            Self::Carried => "copied from the live database, since the new database is made like that one.",
            Self::CarriedIfAllowed => {
                "copied from the live database where the role may set it. Elsewhere plan and result have the statement that sets it."
            }
            Self::Stays => "as it is in the live database, whose contents alone are replaced.",
            Self::Computed => "by `ANALYZE`, or by the server itself.",
            Self::Named => "not in a backup. The plan names it, and says what to do.",
            Self::Left => "not in a backup.",
            Self::OfServer => {
                "not part of a database. The roles that a backup needs are in its manifest, without passwords."
            }
        }
    }

    const ALL: [Self; 10] = [
        Self::Restored,
        Self::IfAllowed,
        Self::IfMember,
        Self::Carried,
        Self::CarriedIfAllowed,
        Self::Stays,
        Self::Computed,
        Self::Named,
        Self::Left,
        Self::OfServer,
    ];
}

/// The comparison with the manifest by a drill, and by a restore before its swap.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compared {
    /// The rows of each table are counted.
    Rows,
    /// Names, owners, privileges and definitions.
    Rights,
    /// Names and definitions.
    Definitions,
    /// Names and values: those that are taken over with the live database; other ones of the backup are a warning.
    Properties,
    /// The version; another one is a warning.
    Version,
    /// Nothing: what `pg_restore` cannot make is an error.
    Nothing,
}

impl Compared {
    const fn words(self) -> &'static str {
        match self {
            Self::Rows => "rows of each table",
            Self::Rights => "names, owners, privileges, definitions",
            Self::Definitions => "names, definitions",
            Self::Properties => "names and values",
            Self::Version => "versions",
            Self::Nothing => "",
        }
    }
}

/// A kind of object.
#[derive(Debug, Clone, Copy)]
pub struct Kind {
    /// The kind's name in PostgreSQL's documentation.
    pub name: &'static str,
    /// The catalogs that hold objects of the kind.
    pub catalogs: &'static [&'static str],
    /// The entries of the kind in an archive (`pg_restore --list`) that hold rows or that rows need.
    pub holding: &'static [&'static str],
    /// The other entries of the kind: all rows can be there without these entries.
    pub derived: &'static [&'static str],
    /// The support where the worker is a superuser.
    pub superuser: RestoreSupport,
    /// The support where the worker is the owner of the database, or a member of the owner, and may create databases.
    pub creator: RestoreSupport,
    /// The support where the worker may not create databases: contents are replaced in place.
    pub owner: RestoreSupport,
    /// The comparison of objects of this kind.
    pub compared: Compared,
}

const fn kind(
    name: &'static str,
    catalogs: &'static [&'static str],
    [holding, derived]: [&'static [&'static str]; 2],
    [superuser, creator, owner]: [RestoreSupport; 3],
    compared: Compared,
) -> Kind {
    Kind { name, catalogs, holding, derived, superuser, creator, owner, compared }
}

use Compared::{Definitions, Nothing, Properties, Rights, Rows, Version};
use RestoreSupport::{
    Carried, CarriedIfAllowed, Computed, IfAllowed, IfMember, Left, Named, OfServer, Restored, Stays,
};

const ALWAYS: [RestoreSupport; 3] = [Restored; 3];
const ALLOWED: [RestoreSupport; 3] = [Restored, IfAllowed, IfAllowed];

/// All kinds.
pub const KINDS: [Kind; 35] = [
    kind("schemas", &["pg_namespace"], [&["SCHEMA"], &[]], ALWAYS, Rights),
    kind(
        "tables and their columns",
        &["pg_class", "pg_attribute"],
        [&["TABLE", "TABLE ATTACH"], &[]],
        ALWAYS,
        Rights,
    ),
    kind("defaults and generated columns", &["pg_attrdef"], [&[], &["DEFAULT"]], ALWAYS, Definitions),
    kind(
        "inheritance and partitions",
        &["pg_inherits", "pg_partitioned_table"],
        [&[], &[]],
        ALWAYS,
        Definitions,
    ),
    kind("rows", &[], [&["TABLE DATA"], &[]], ALWAYS, Rows),
    kind(
        "large objects",
        &["pg_largeobject", "pg_largeobject_metadata"],
        [&["BLOB", "BLOBS", "BLOB METADATA", "LARGE OBJECT"], &[]],
        ALWAYS,
        Rights,
    ),
    kind(
        "constraints",
        &["pg_constraint"],
        [&[], &["CONSTRAINT", "CHECK CONSTRAINT", "FK CONSTRAINT"]],
        ALWAYS,
        Definitions,
    ),
    kind("indexes", &["pg_index"], [&[], &["INDEX", "INDEX ATTACH"]], ALWAYS, Definitions),
    kind(
        "sequences",
        &["pg_sequence"],
        [&["SEQUENCE", "SEQUENCE SET"], &["SEQUENCE OWNED BY"]],
        ALWAYS,
        Rights,
    ),
    kind(
        "views, materialized views and rules",
        &["pg_rewrite"],
        [&[], &["VIEW", "MATERIALIZED VIEW", "MATERIALIZED VIEW DATA", "RULE"]],
        ALWAYS,
        Rights,
    ),
    kind("triggers", &["pg_trigger"], [&[], &["TRIGGER"]], ALWAYS, Definitions),
    kind(
        "row security and policies",
        &["pg_policy"],
        [&[], &["POLICY", "ROW SECURITY"]],
        ALWAYS,
        Definitions,
    ),
    kind(
        "functions, procedures and aggregates",
        &["pg_proc", "pg_aggregate"],
        [&[], &["FUNCTION", "PROCEDURE", "AGGREGATE"]],
        ALLOWED,
        Rights,
    ),
    kind(
        "types and domains",
        &["pg_type", "pg_enum", "pg_range"],
        [&["TYPE", "SHELL TYPE", "DOMAIN"], &[]],
        ALLOWED,
        Rights,
    ),
    kind("casts and operators", &["pg_cast", "pg_operator"], [&[], &["CAST", "OPERATOR"]], ALLOWED, Rights),
    kind(
        "operator classes and families",
        &["pg_opclass", "pg_opfamily", "pg_amop", "pg_amproc"],
        [&[], &["OPERATOR CLASS", "OPERATOR FAMILY"]],
        ALLOWED,
        Rights,
    ),
    kind(
        "collations and conversions",
        &["pg_collation", "pg_conversion"],
        [&[], &["COLLATION", "CONVERSION"]],
        ALWAYS,
        Rights,
    ),
    kind(
        "text search",
        &["pg_ts_config", "pg_ts_config_map", "pg_ts_dict", "pg_ts_parser", "pg_ts_template"],
        [
            &[],
            &[
                "TEXT SEARCH CONFIGURATION",
                "TEXT SEARCH DICTIONARY",
                "TEXT SEARCH PARSER",
                "TEXT SEARCH TEMPLATE",
            ],
        ],
        ALLOWED,
        Rights,
    ),
    kind("extended statistics", &["pg_statistic_ext"], [&[], &["STATISTICS"]], ALWAYS, Rights),
    kind(
        "statistics of the planner",
        &["pg_statistic", "pg_statistic_ext_data"],
        [&[], &["STATISTICS DATA"]],
        [Computed; 3],
        Nothing,
    ),
    kind("dependencies", &["pg_depend"], [&[], &[]], [Computed; 3], Nothing),
    kind("extensions", &["pg_extension", "pg_init_privs"], [&[], &["EXTENSION"]], ALLOWED, Version),
    kind(
        "languages, transforms and access methods",
        &["pg_language", "pg_transform", "pg_am"],
        [&[], &["PROCEDURAL LANGUAGE", "TRANSFORM", "ACCESS METHOD"]],
        ALLOWED,
        Definitions,
    ),
    kind(
        "foreign data: wrappers, servers, tables, user mappings",
        &["pg_foreign_data_wrapper", "pg_foreign_server", "pg_foreign_table", "pg_user_mapping"],
        [&[], &["FOREIGN DATA WRAPPER", "SERVER", "FOREIGN TABLE", "USER MAPPING"]],
        ALLOWED,
        Rights,
    ),
    kind(
        "publications",
        &["pg_publication", "pg_publication_rel", "pg_publication_namespace"],
        [&[], &["PUBLICATION", "PUBLICATION TABLE", "PUBLICATION TABLES IN SCHEMA"]],
        ALLOWED,
        Rights,
    ),
    kind("event triggers", &["pg_event_trigger"], [&[], &["EVENT TRIGGER"]], ALLOWED, Rights),
    kind("comments", &["pg_description"], [&[], &["COMMENT"]], ALWAYS, Definitions),
    kind("security labels", &["pg_seclabel"], [&[], &["SECURITY LABEL"]], ALLOWED, Definitions),
    kind(
        "owners, privileges, default privileges",
        &["pg_default_acl"],
        [&[], &["ACL", "DEFAULT ACL"]],
        [Restored, IfMember, IfMember],
        Rights,
    ),
    kind(
        "owner, privileges, encoding, locale, tablespace, limit and comment of the database",
        &["pg_database", "pg_shdescription"],
        [&[], &[]],
        [Carried, Carried, Stays],
        Properties,
    ),
    kind(
        "settings of the database, and of a role in it",
        &["pg_db_role_setting"],
        [&[], &[]],
        [Carried, CarriedIfAllowed, Stays],
        Properties,
    ),
    kind(
        "subscriptions",
        &["pg_subscription", "pg_subscription_rel"],
        [&[], &["SUBSCRIPTION"]],
        [Named, Named, Stays],
        Nothing,
    ),
    kind(
        "replication slots and origins",
        &["pg_replication_origin"],
        [&[], &[]],
        [Named, Named, Stays],
        Nothing,
    ),
    kind("security labels of the database", &["pg_shseclabel"], [&[], &[]], [Left, Left, Stays], Nothing),
    kind(
        "roles, memberships, tablespaces, privileges on settings",
        &["pg_authid", "pg_auth_members", "pg_tablespace", "pg_parameter_acl", "pg_shdepend"],
        [&[], &[]],
        [OfServer; 3],
        Nothing,
    ),
];

/// The columns of `pg_database`: those that a restore by swap takes over, those that the server sets by itself in a new
/// database, and the name.
pub const DATABASE: [(&str, RestoreSupport); 19] = [
    ("oid", Computed),
    ("datname", Carried),
    ("datdba", Carried),
    ("encoding", Carried),
    ("datlocprovider", Carried),
    ("datistemplate", Carried),
    ("datallowconn", Carried),
    ("dathasloginevt", Restored),
    ("datconnlimit", Carried),
    ("datfrozenxid", Computed),
    ("datminmxid", Computed),
    ("dattablespace", Carried),
    ("datcollate", Carried),
    ("datctype", Carried),
    ("datlocale", Carried),
    ("daticulocale", Carried),
    ("daticurules", Carried),
    ("datcollversion", Computed),
    ("datacl", Carried),
];

/// The page of the documentation.
pub fn page() -> String {
    let mut page = "# What a restore of PostgreSQL brings back\n\n\
        The table lists everything that a database holds, by kind, and what a restore does with it. It depends on the role \
        of the worker: a superuser,\nthe owner of the database (or a member of the owner) with `CREATEDB`, or a role \
        without `CREATEDB`, for which contents are replaced in place.\n\nA restore compares its copy with the backup before \
        the swap, and so does a drill:\n\n\
        - Definitions are compared within one major version of PostgreSQL, and without the text of expressions (of defaults, \
        checks, views, policies and\n  indexes): a server may write the same expression in other words once it is restored. \
        Options of foreign data are compared by name alone, since\n  their values may be secrets.\n\
        - A restore refuses a difference of rights, and names a difference of definitions in its result. A drill fails over \
        either.\n\
        - Properties of the database itself are compared with those of the live one, which the copy is to have; a drill fails \
        over a difference. Those\n  that the backup has noted otherwise are a warning, with both values; settings whose \
        names have a dot are compared by name alone, since their\n  values may be secrets.\n\n\
        This page is written from `src/component/postgres/kinds.rs`; a test compares the list with the catalogs of \
        PostgreSQL 15 and 18. The words of\nthe table:\n\n"
        .to_owned();
    for fate in RestoreSupport::ALL {
        let _ = writeln!(page, "- **{}**: {}", fate.words(), fate.meaning());
    }
    page += "\n| kind | superuser | owner with CREATEDB | without CREATEDB | compared before a swap, and by a drill |\n\
             |---|---|---|---|---|\n";
    for kind in KINDS {
        let [superuser, creator, owner] =
            [kind.superuser, kind.creator, kind.owner].map(RestoreSupport::words);
        let compared = kind.compared.words();
        let _ = writeln!(page, "| {} | {superuser} | {creator} | {owner} | {compared} |", kind.name);
    }
    page
}
