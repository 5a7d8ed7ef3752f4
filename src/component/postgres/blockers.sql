-- Objects in words, with the statements that take each away and bring it back. $1 to $3: catalogs, object ids and columns; $4
-- and $5: catalogs and ids of the objects that a restore takes away and that these need. Definitions are not told: they may
-- hold secrets.
WITH asked AS (
  SELECT * FROM unnest($1::oid[], $2::oid[], $3::int[], $4::oid[], $5::oid[]) WITH ORDINALITY
             AS asked(class, id, sub, needed_class, needed, nr)),
named AS (
  SELECT asked.*, i.type, i.schema, i.identity, a.object_names AS names, a.object_args AS args, c.relkind, c.relispartition,
         c.reloftype, att.attname AS col, format_type(att.atttypid, att.atttypmod) AS column_type, att.attcollation AS coll,
         CASE i.type WHEN 'statistics object' THEN 'STATISTICS' WHEN 'foreign-data wrapper' THEN 'FOREIGN DATA WRAPPER'
                     ELSE upper(i.type) END AS kind,
         EXISTS (SELECT FROM pg_inherits WHERE inhrelid = id AND inhparent = needed AND class = 'pg_class'::regclass
                                           AND needed_class = class AND sub = 0) AS inherits
    FROM asked CROSS JOIN LATERAL pg_identify_object(class, id, 0) i
    CROSS JOIN LATERAL pg_identify_object_as_address(class, id, 0) a
    LEFT JOIN pg_class c ON class = 'pg_class'::regclass AND c.oid = id
    LEFT JOIN pg_attribute att ON att.attrelid = c.oid AND att.attnum = sub AND sub > 0 AND c.relkind IN ('r', 'p', 'f'))
SELECT pg_describe_object(class, id, CASE WHEN col IS NULL THEN 0 ELSE sub END),
       pg_describe_object(needed_class, needed, 0),
       CASE
         WHEN needed_class = 'pg_namespace'::regclass AND (schema IS NOT NULL OR type = 'extension')
           THEN format('ALTER %s %s SET SCHEMA public', kind, identity)
         WHEN needed_class = 'pg_collation'::regclass AND col IS NOT NULL
           THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE %s COLLATE pg_catalog."default"', identity, col, column_type)
         WHEN col IS NOT NULL THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE text', identity, col)
         WHEN inherits AND relispartition THEN format('ALTER TABLE %s DETACH PARTITION %s', needed::regclass, identity)
         WHEN inherits THEN format('ALTER TABLE %s NO INHERIT %s', identity, needed::regclass)
         WHEN reloftype <> 0 AND needed_class = 'pg_type'::regclass THEN format('ALTER TABLE %s NOT OF', identity)
         WHEN relkind IN ('r', 'p', 'f', 'S') AND needed <> id THEN NULL
         WHEN k.contypid <> 0 THEN format('ALTER DOMAIN %s DROP CONSTRAINT %I', k.contypid::regtype, k.conname)
         WHEN k.oid <> 0 THEN format('ALTER TABLE %s DROP CONSTRAINT %I', k.conrelid::regclass, k.conname)
         WHEN d.oid <> 0 THEN format('ALTER TABLE %s ALTER COLUMN %I DROP DEFAULT', d.adrelid::regclass, of.attname)
         WHEN type = 'publication relation'
           THEN format('ALTER PUBLICATION %I DROP TABLE %I.%I', args[1], names[1], names[2])
         WHEN type = 'publication namespace' THEN format('ALTER PUBLICATION %I DROP TABLES IN SCHEMA %I', args[1], names[1])
         WHEN type ~ 'of access method$|^user mapping$|^large object$' OR relkind IN ('r', 'p', 'f', 'S') THEN NULL
         ELSE format('DROP %s %s', kind, identity) END,
       CASE
         WHEN needed_class = 'pg_namespace'::regclass AND type = 'extension'
           THEN format('ALTER EXTENSION %s SET SCHEMA %s', identity, needed::regnamespace)
         WHEN needed_class = 'pg_namespace'::regclass AND schema IS NOT NULL
           THEN format('ALTER %s public%s SET SCHEMA %s', kind, substr(identity, length(schema) + 1),
                       needed::regnamespace)
         WHEN needed_class = 'pg_collation'::regclass AND col IS NOT NULL
           THEN format('ALTER TABLE %s ALTER COLUMN %I TYPE %s COLLATE %s', identity, col, column_type,
                       coll::regcollation)
         WHEN col IS NOT NULL
           THEN format('ALTER TABLE %1$s ALTER COLUMN %2$I TYPE %3$s USING %2$I::%3$s', identity, col, column_type)
         WHEN inherits AND relispartition
           THEN format('ALTER TABLE %s ATTACH PARTITION %s %s', needed::regclass, identity,
                       (SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE oid = id))
         WHEN inherits THEN format('ALTER TABLE %s INHERIT %s', identity, needed::regclass)
         WHEN reloftype <> 0 AND needed_class = 'pg_type'::regclass THEN format('ALTER TABLE %s OF %s', identity, reloftype::regtype)
         WHEN k.contype = 'f'
           THEN format('ALTER TABLE %s ADD CONSTRAINT %I %s', k.conrelid::regclass, k.conname, pg_get_constraintdef(k.oid))
         WHEN type = 'publication relation' AND coalesce(to_jsonb(r) ->> 'prqual', to_jsonb(r) ->> 'prattrs') IS NULL
           THEN format('ALTER PUBLICATION %I ADD TABLE %I.%I', args[1], names[1], names[2])
         WHEN type = 'publication namespace' THEN format('ALTER PUBLICATION %I ADD TABLES IN SCHEMA %I', args[1], names[1]) END,
       CASE
         WHEN k.oid <> 0 THEN format('SELECT pg_get_constraintdef(%s)', id)
         WHEN d.oid <> 0 THEN format('SELECT pg_get_expr(adbin, adrelid) FROM pg_attrdef WHERE oid = %s', id)
         WHEN type IN ('function', 'procedure') THEN format('SELECT pg_get_functiondef(%s)', id)
         WHEN type IN ('view', 'materialized view') THEN format('SELECT pg_get_viewdef(%s)', id)
         WHEN type = 'index' THEN format('SELECT pg_get_indexdef(%s)', id)
         WHEN type = 'trigger' THEN format('SELECT pg_get_triggerdef(%s)', id)
         WHEN type = 'rule' THEN format('SELECT pg_get_ruledef(%s)', id)
         WHEN type = 'statistics object' THEN format('SELECT pg_get_statisticsobjdef(%s)', id)
         WHEN type = 'policy' THEN format('SELECT * FROM pg_policies WHERE policyname = %L', names[array_upper(names, 1)])
         WHEN type = 'publication relation'
           THEN format('SELECT * FROM pg_publication_tables WHERE pubname = %L', args[1])
         ELSE 'pg_dump --schema-only' END
  FROM named
  LEFT JOIN pg_constraint k ON class = 'pg_constraint'::regclass AND k.oid = id
  LEFT JOIN pg_attrdef d ON class = 'pg_attrdef'::regclass AND d.oid = id
  LEFT JOIN pg_attribute of ON of.attrelid = d.adrelid AND of.attnum = d.adnum
  LEFT JOIN pg_publication_rel r ON class = 'pg_publication_rel'::regclass AND r.oid = id
 ORDER BY nr
