//! The dependencies of the objects of a database, and what stops a `DROP` of one of them.

use crate::component::ComponentError;
use crate::component::postgres::{
    admin::fault,
    dropped_objects::{DroppedObject, DroppedObjects, canonical, signature},
};
use deadpool_postgres::ClientWrapper;
use futures_util::TryStreamExt as _;
use std::{
    collections::{BTreeSet, HashMap, HashSet},
    pin::pin,
};

/// Every dependency of an object that is not PostgreSQL's own.
const EDGES: &str = "
    SELECT classid, objid, objsubid, refclassid, refobjid, deptype FROM pg_depend
     WHERE objid >= 16384 AND (refobjid >= 16384 OR refclassid = 'pg_namespace'::regclass)
       AND (classid, objid) <> (refclassid, refobjid)";

/// Every object that may be dropped: catalog, id, name of the catalog, kind and name, whether it holds rows, and its owner if
/// the role $1 has no part in that owner. What belongs to a session alone is left out. The server notes no ownership of the
/// bootstrap superuser.
const OBJECTS: &str = "
    WITH object AS (
      SELECT classid, objid FROM pg_depend WHERE objid >= 16384
      UNION SELECT refclassid, refobjid FROM pg_depend WHERE refobjid >= 16384 AND refclassid <> 0
      UNION SELECT 'pg_namespace'::regclass, oid FROM pg_namespace
      UNION SELECT 'pg_language'::regclass, oid FROM pg_language WHERE oid >= 16384
      UNION SELECT 'pg_publication'::regclass, oid FROM pg_publication
      UNION SELECT 'pg_foreign_data_wrapper'::regclass, oid FROM pg_foreign_data_wrapper
      UNION SELECT 'pg_largeobject'::regclass, oid FROM pg_largeobject_metadata WHERE NOT pg_has_role($1::name, lomowner, 'USAGE')),
    owned AS (
      SELECT classid, objid, refobjid AS owner FROM pg_shdepend
       WHERE deptype = 'o' AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database())
      UNION ALL SELECT 'pg_namespace'::regclass, oid, nspowner FROM pg_namespace)
    SELECT classid, objid, classid::regclass::text, i.type, i.identity, coalesce(i.type IN ('table', 'foreign table'), false),
           CASE WHEN i.type NOT IN ('index', 'composite type') AND NOT pg_has_role($1::name, coalesce(owner, 10), 'USAGE')
                THEN pg_get_userbyid(coalesce(owner, 10))::text END
      FROM object CROSS JOIN LATERAL pg_identify_object(classid, objid, 0) i
      LEFT JOIN (SELECT classid, objid, min(owner) AS owner FROM owned GROUP BY 1, 2) o USING (classid, objid)
     WHERE i.identity IS NOT NULL AND coalesce(i.schema, '') !~ '^pg_toast|^pg_temp'";

/// The catalogs of relations, schemas and large objects, by the ids that they have on every server.
const RELATIONS: u32 = 1259;
const SCHEMAS: u32 = 2615;
const LARGE_OBJECTS: u32 = 2613;

/// The catalogs of what belongs to a table, or a domain, and has no owner of its own.
const PARTS: [&str; 5] = ["pg_constraint", "pg_trigger", "pg_policy", "pg_rewrite", "pg_attrdef"];

/// The catalogs of objects that have owners.
const OWNED: [&str; 17] = [
    "pg_class",
    "pg_collation",
    "pg_conversion",
    "pg_event_trigger",
    "pg_extension",
    "pg_foreign_data_wrapper",
    "pg_foreign_server",
    "pg_language",
    "pg_largeobject",
    "pg_namespace",
    "pg_operator",
    "pg_proc",
    "pg_publication",
    "pg_statistic_ext",
    "pg_ts_config",
    "pg_ts_dict",
    "pg_type",
];

/// A catalog, and an object in it.
pub type Object = (u32, u32);

/// A dependency, seen from one of its ends.
#[derive(Debug, Clone, Copy)]
struct Edge {
    /// The other end.
    other: Object,
    /// The column that depends; 0 if it is the whole object.
    column: i32,
    /// `n` normal, `a` automatic, `i` internal, `e` member of an extension, `P` and `S` part of a partitioned object.
    kind: u8,
}

impl Edge {
    /// True if what depends goes with the other end.
    const fn is_automatic(&self) -> bool {
        self.column == 0 && matches!(self.kind, b'a' | b'i' | b'e' | b'x' | b'P' | b'S')
    }

    /// True if what depends cannot go without the other end.
    const fn is_part(&self) -> bool {
        self.column == 0 && matches!(self.kind, b'i' | b'e' | b'P')
    }
}

/// An object that stops a restore.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Blocker {
    /// The object.
    pub object: Object,
    /// The column of the object that is meant; 0 if that is the whole object.
    pub column: i32,
    /// The object that this one needs; this one, if it is of another kind than in the archive.
    pub needs: Object,
}

/// An object, its kind, and the arguments of a function.
type Named = (Object, String, Vec<String>);

/// The objects of a database and their dependencies.
#[derive(Debug, Default)]
pub struct Dependencies {
    by_needed: HashMap<Object, Vec<Edge>>,
    by_needing: HashMap<Object, Vec<Edge>>,
    tables: HashSet<Object>,
    /// Objects of owners that the role has no part in.
    of_others: HashMap<Object, String>,
    /// Each object by its catalog and its canonical name, with its kind; functions without their arguments, and these.
    named: HashMap<(String, String), Vec<Named>>,
    /// The objects that the restore takes away.
    dropped: HashSet<Object>,
    /// The objects that are away already.
    gone: HashSet<Object>,
}

impl Dependencies {
    /// Reads a database on a session whose search path is `pg_catalog`. `role` is the one that will restore.
    ///
    /// # Errors
    ///
    /// The error of the server, sorted by the remedy.
    pub async fn read(client: &ClientWrapper, role: &str) -> Result<Self, ComponentError> {
        let failed = |err| fault("look what depends on what", err);
        let mut found = Self::default();
        // Row by row: a database may have a hundred thousand objects.
        let rows = client.query_raw(EDGES, [""; 0]).await.map_err(failed)?;
        let mut rows = pin!(rows);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let (needing, needed) = ((row.get(0), row.get(1)), (row.get(3), row.get(4)));
            let edge = Edge {
                other: needing,
                column: row.get(2),
                kind: u8::try_from(row.get::<_, i8>(5)).unwrap_or_default(),
            };
            found.by_needed.entry(needed).or_default().push(edge);
            found.by_needing.entry(needing).or_default().push(Edge { other: needed, ..edge });
        }
        let rows = client.query_raw(OBJECTS, [role]).await.map_err(failed)?;
        let mut rows = pin!(rows);
        while let Some(row) = rows.try_next().await.map_err(failed)? {
            let object = (row.get(0), row.get(1));
            let (catalog, kind, name): (String, String, String) =
                (row.get(2), row.get(3), canonical(row.get(4)));
            if row.get(5) {
                found.tables.insert(object);
            }
            if let Some(owner) = row.get::<_, Option<String>>(6).filter(|_| OWNED.contains(&&*catalog)) {
                found.of_others.insert(object, owner);
            }
            let (name, types) = match catalog.as_str() {
                "pg_proc" => signature(&name),
                // Not every version quotes the name of the server.
                "pg_user_mapping" => (name.replace('"', "").to_lowercase(), Vec::new()),
                _ => (name, Vec::new()),
            };
            found.named.entry((catalog, name)).or_default().push((object, kind, types));
        }
        Ok(found)
    }

    fn needed_by(&self, object: Object) -> impl Iterator<Item = &Edge> {
        self.by_needing.get(&object).into_iter().flatten()
    }

    fn needing(&self, object: Object) -> impl Iterator<Item = &Edge> {
        self.by_needed.get(&object).into_iter().flatten()
    }

    /// The object of the database that a restore takes away, and its kind.
    fn find(&self, dropped: &DroppedObject) -> Option<(Object, &str)> {
        let named = self.named.get(&(dropped.catalog.to_owned(), dropped.name.clone()))?;
        let found = named.iter().find(|(_, _, types)| dropped.takes(types))?;
        Some((found.0, &found.1))
    }

    /// Takes away what a restore takes away, in its order. Returns what stops that, and what would be lost with it.
    pub fn drop_all(&mut self, dropped: &[DroppedObject]) -> Vec<Blocker> {
        let found: Vec<_> = dropped
            .iter()
            .filter_map(|dropped| {
                let (object, kind) = self.find(dropped)?;
                let is_other = dropped.kind.as_ref().is_some_and(|dropped| dropped != kind);
                Some((object, is_other, dropped.cascades, dropped.catalog == "pg_rewrite"))
            })
            .collect();
        self.dropped = found.iter().map(|(object, ..)| *object).collect();
        let mut blockers = Vec::new();
        for (object, is_other, cascades, is_rule) in found {
            if is_other {
                blockers.push(Blocker { object, column: 0, needs: object });
            } else if self.is_free(object, is_rule, &mut blockers) {
                self.drop(object, cascades, &mut blockers);
            }
        }
        let mut all = Vec::new();
        for blocker in blockers {
            self.push(blocker, &mut all);
        }
        self.without_repetition(all)
    }

    /// Adds a blocker, and before it what needs that in turn, unless it stays.
    fn push(&mut self, blocker: Blocker, all: &mut Vec<Blocker>) {
        if blocker.column == 0 && blocker.needs.0 != SCHEMAS && !self.tables.contains(&blocker.object) {
            let mut before = Vec::new();
            self.drop(blocker.object, false, &mut before);
            for blocker in before {
                self.push(blocker, all);
            }
        }
        all.push(blocker);
    }

    /// Tests whether an object goes by a statement of its own, and not as a part of another one.
    fn is_free(&self, object: Object, is_rule: bool, blockers: &mut Vec<Blocker>) -> bool {
        let stays = |edge: &&Edge| !self.gone.contains(&edge.other);
        // A partition of a table that was made later is a loss for that table.
        let mut parents = self.needed_by(object).filter(stays);
        let of_later = |edge: &&Edge| {
            edge.kind == b'a' && self.tables.contains(&edge.other) && !self.dropped.contains(&edge.other)
        };
        if self.tables.contains(&object)
            && let Some(parent) = self.needed_by(object).filter(stays).find(of_later)
        {
            blockers.push(Blocker { object, column: 0, needs: parent.other });
        }
        is_rule || !parents.any(Edge::is_part)
    }

    /// Takes an object away with all that goes with it.
    fn drop(&mut self, object: Object, cascades: bool, blockers: &mut Vec<Blocker>) {
        let mut going = vec![(object, object)];
        let mut went = Vec::new();
        while let Some((object, with)) = going.pop() {
            if !self.gone.insert(object) {
                continue;
            }
            went.push((object, with));
            let goes = |edge: &&Edge| {
                edge.is_automatic() || cascades && edge.kind == b'n' && self.dropped.contains(&edge.other)
            };
            going.extend(self.needing(object).filter(goes).map(|edge| (edge.other, object)));
        }
        for (gone, with) in &went {
            let needing =
                self.needing(*gone).filter(|edge| edge.kind == b'n' && !self.gone.contains(&edge.other));
            let needing: Vec<_> = needing.map(|edge| self.whole(edge, *gone)).collect();
            blockers.extend(needing);
            if gone != with && !self.dropped.contains(gone) && self.is_loss(*gone, *with) {
                blockers.push(Blocker { object: *gone, column: 0, needs: *with });
            }
        }
    }

    /// Tests whether somebody would miss what goes with an object: the rows of a partition, the table of a publication.
    fn is_loss(&self, gone: Object, with: Object) -> bool {
        let edges = || self.needed_by(gone);
        let is_partition = self.tables.contains(&gone)
            && edges().any(|edge| edge.other == with && edge.kind == b'a' && self.tables.contains(&with));
        let stays = |edge: &Edge| {
            edge.kind == b'a' && !self.gone.contains(&edge.other) && !self.dropped.contains(&edge.other)
        };
        // The key of a partition stays with that.
        is_partition || edges().any(stays) && !edges().any(|edge| edge.kind == b'P')
    }

    /// The object that an end of a dependency belongs to: the view of a query, the extension of a member.
    fn whole(&self, edge: &Edge, needs: Object) -> Blocker {
        let (mut object, mut column) = (edge.other, edge.column);
        let up =
            |object| self.needed_by(object).find(|edge| edge.is_part() && !self.gone.contains(&edge.other));
        while let Some(whole) = up(object) {
            (object, column) = (whole.other, 0);
        }
        // The columns of a view go with that.
        column = if self.tables.contains(&object) { column } else { 0 };
        let mut needs = needs;
        while let Some(whole) = self.needed_by(needs).find(|edge| edge.is_part()) {
            needs = whole.other;
        }
        Blocker { object, column, needs }
    }

    /// The blockers, each once. What is taken away needs not be moved out of a schema
    /// as well, and a sequence moves with its table.
    fn without_repetition(&self, mut blockers: Vec<Blocker>) -> Vec<Blocker> {
        let moves = |blocker: &Blocker| blocker.needs.0 == SCHEMAS;
        let taken: HashSet<_> = blockers
            .iter()
            .filter(|blocker| {
                !moves(blocker) && blocker.column == 0 && !self.tables.contains(&blocker.object)
            })
            .map(|blocker| blocker.object)
            .collect();
        let moved: HashSet<_> =
            blockers.iter().filter(|blocker| moves(blocker)).map(|blocker| blocker.object).collect();
        let mut seen = HashSet::new();
        blockers.retain(|blocker| {
            let goes_along = moves(blocker)
                && blocker.object.0 == RELATIONS
                && self
                    .needed_by(blocker.object)
                    .any(|edge| edge.kind == b'a' && moved.contains(&edge.other));
            let is_taken = moves(blocker) && taken.contains(&blocker.object);
            !goes_along && !is_taken && seen.insert((blocker.object, blocker.column, moves(blocker)))
        });
        blockers
    }

    /// The objects that a restore takes away and the role may not, with the owner of each.
    pub fn of_others(&self, dropped: &DroppedObjects) -> BTreeSet<(Object, &str)> {
        let of_other = |object: Object| Some((object, self.of_others.get(&object)?.as_str()));
        let find = |dropped: &DroppedObject| {
            let (object, _) = self.find(dropped)?;
            if PARTS.contains(&dropped.catalog) {
                let mut owners = self.needed_by(object).filter(|edge| edge.kind != b'n');
                return owners.find_map(|edge| of_other(edge.other));
            }
            // The owner of a schema may drop what is in it. An extension is in none.
            let mut schemas = self.needed_by(object).filter(|edge| edge.other.0 == SCHEMAS);
            let is_in_own = dropped.catalog != "pg_extension"
                && schemas.any(|edge| !self.of_others.contains_key(&edge.other));
            of_other(object).filter(|_| !is_in_own)
        };
        let large = dropped.large.iter().filter_map(|oid| of_other((LARGE_OBJECTS, *oid)));
        dropped.objects.iter().filter_map(find).chain(large).collect()
    }
}
