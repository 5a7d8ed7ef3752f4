-- Every object with its owner, the privileges of others than the owner, those that it would have by default, whether somebody
-- else has granted one, the owner of the database, and whether the owner of the object has no part in the schema of the object.
-- Objects of extensions and of the server are those alone whose privileges are not the ones of their installation: pg_dump
-- writes these privileges and nothing else of such objects.
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
  -- The functions that make values of a range type come with the type, and belong to the bootstrap superuser.
  SELECT 'function', 'pg_proc'::regclass, oid, 0, proowner, 'f', proacl, pronamespace FROM pg_proc p
   WHERE NOT EXISTS (SELECT FROM pg_depend WHERE classid = 'pg_proc'::regclass AND objid = p.oid
                        AND refclassid = 'pg_type'::regclass AND deptype = 'i')
  UNION ALL
  SELECT 'type', 'pg_type'::regclass, t.oid, 0, typowner, 'T', typacl, typnamespace FROM pg_type t
   WHERE typtype IN ('b', 'c', 'd', 'e', 'r') AND NOT EXISTS (SELECT FROM pg_type WHERE typarray = t.oid)
     AND (typrelid = 0 OR EXISTS (SELECT FROM pg_class WHERE oid = typrelid AND relkind = 'c'))
  UNION ALL
  SELECT 'language', 'pg_language'::regclass, oid, 0, lanowner, 'l', lanacl, NULL FROM pg_language WHERE lanispl
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
listed AS (
  SELECT o.*, initprivs, origin
    FROM object o
    LEFT JOIN pg_init_privs p ON (p.classoid, p.objoid, p.objsubid) = (o.class, o.id, o.sub)
    LEFT JOIN pg_depend m ON m.classid = o.class AND m.objid = o.id AND m.deptype = 'e'
    LEFT JOIN pg_namespace n ON n.oid = o.namespace
    CROSS JOIN LATERAL (SELECT CASE WHEN m.objid IS NOT NULL THEN 'extension ' WHEN nspname = 'pg_catalog' THEN 'system ' ELSE '' END) r(origin)
   WHERE (nspname IS NULL OR nspname = 'pg_catalog' OR nspname !~ '^pg_' AND nspname <> 'information_schema')
     AND (origin = '' OR acl IS DISTINCT FROM initprivs)),
grants(class, id, sub, is_default, words, passed_on) AS (
  SELECT class, id, sub, is_default,
         array_agg(format('%s %s%s', CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END,
                          privilege_type, CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END)),
         bool_or(grantor <> owner)
    FROM listed, LATERAL (SELECT false AS is_default, e.* FROM aclexplode(coalesce(acl, acldefault(letter::"char", owner))) e
                          UNION ALL
                          SELECT true, e.* FROM aclexplode(coalesce(initprivs, acldefault(letter::"char", owner))) e) e
   WHERE grantee <> owner GROUP BY 1, 2, 3, 4)
SELECT o.kind, i.identity,
       -- Before 15 the schema public was the bootstrap superuser's, which means the same.
       CASE WHEN o.kind = 'schema' AND o.id = 2200 AND o.owner = 10 THEN 'pg_database_owner' ELSE pg_get_userbyid(o.owner) END::text,
       coalesce(g.words, '{}'), coalesce(d.words, '{}'), coalesce(g.passed_on, false), pg_get_userbyid(b.datdba)::text,
       o.kind NOT IN ('schema', 'column', 'default privilege') AND NOT coalesce(
         pg_has_role(o.owner, CASE WHEN n.oid = 2200 AND n.nspowner = 10 THEN b.datdba ELSE n.nspowner END, 'USAGE'), true),
       o.origin
  FROM listed o LEFT JOIN pg_namespace n ON n.oid = o.namespace JOIN pg_database b ON b.datname = current_database()
  CROSS JOIN LATERAL pg_identify_object(o.class, o.id, o.sub) i
  LEFT JOIN grants g ON (g.class, g.id, g.sub) = (o.class, o.id, o.sub) AND NOT g.is_default
  LEFT JOIN grants d ON (d.class, d.id, d.sub) = (o.class, o.id, o.sub) AND d.is_default
 ORDER BY o.origin, o.kind, i.identity COLLATE "C"
