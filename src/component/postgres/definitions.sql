-- Every object of a database but those of extensions: kind, name, definition. Expressions (of defaults, checks, views, policies)
-- are no part of a definition: a server may write the same expression in other words once it is restored.
-- A line that ends with "since N" is left out on servers before that version.
WITH member(class, id) AS (SELECT classid, objid FROM pg_depend WHERE deptype = 'e'),
schema(id, name) AS (
  SELECT oid, quote_ident(nspname) FROM pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'),
relation(id, name, kind) AS (
  SELECT c.oid, s.name || '.' || quote_ident(relname), relkind FROM pg_class c JOIN schema s ON s.id = relnamespace
   WHERE relpersistence <> 't' AND relkind IN ('r', 'p', 'v', 'm', 'f', 'c', 'S')
     AND NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_class'::regclass AND m.id = c.oid)),
definition(kind, name, text) AS (
  SELECT CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' WHEN 'f' THEN 'foreign table' WHEN 'c' THEN 'type' ELSE 'table' END,
         r.name, ROW(relkind, relpersistence, relreplident, relrowsecurity, relforcerowsecurity, relispartition,
                     ARRAY(SELECT unnest(reloptions) COLLATE "C" ORDER BY 1),
                     (SELECT ARRAY(SELECT unnest(t.reloptions) COLLATE "C" ORDER BY 1) FROM pg_class t WHERE t.oid = c.reltoastrelid),
                     (SELECT amname FROM pg_am WHERE oid = relam), format_type(reloftype, NULL),
                     (SELECT partstrat FROM pg_partitioned_table WHERE partrelid = c.oid),
                     parents,
                     (SELECT ROW(srvname, ARRAY(SELECT split_part(unnest(ftoptions), '=', 1) COLLATE "C" ORDER BY 1))
                        FROM pg_foreign_table JOIN pg_foreign_server v ON v.oid = ftserver WHERE ftrelid = c.oid))::text
    FROM pg_class c JOIN relation r ON r.id = c.oid
    LEFT JOIN (SELECT inhrelid, array_agg(p.name ORDER BY inhseqno) FROM pg_inherits JOIN relation p ON p.id = inhparent GROUP BY 1) i(id, parents) ON i.id = c.oid
   WHERE relkind <> 'S'
  UNION ALL
  SELECT 'column', r.name || '.' || quote_ident(attname),
         ROW(format_type(atttypid, atttypmod), attnotnull, attidentity, attgenerated, atthasdef, attstorage,
             (SELECT collname FROM pg_collation WHERE oid = attcollation), coalesce(attstattarget, -1),
             ARRAY(SELECT unnest(attoptions) COLLATE "C" ORDER BY 1),
             attcompression, -- since 14
             ARRAY(SELECT split_part(unnest(attfdwoptions), '=', 1) COLLATE "C" ORDER BY 1))::text
    FROM pg_attribute JOIN relation r ON r.id = attrelid WHERE attnum > 0 AND NOT attisdropped AND r.kind <> 'S'
  UNION ALL
  SELECT 'constraint', r.name || '.' || quote_ident(conname),
         ROW(contype, condeferrable, condeferred, convalidated, confupdtype, confdeltype, confmatchtype,
             contype = 'c' AND connoinherit,
             conenforced, conperiod, -- since 18
             CASE WHEN contype <> 'c' THEN
               ARRAY(SELECT attname FROM unnest(conkey) WITH ORDINALITY k(n, place) JOIN pg_attribute ON attrelid = conrelid AND attnum = n ORDER BY place) END,
             other.name,
             ARRAY(SELECT attname FROM unnest(confdelsetcols) WITH ORDINALITY k(n, place) JOIN pg_attribute ON attrelid = conrelid AND attnum = n ORDER BY place), -- since 15
             ARRAY(SELECT attname FROM unnest(confkey) WITH ORDINALITY k(n, place) JOIN pg_attribute ON attrelid = confrelid AND attnum = n ORDER BY place))::text
    FROM pg_constraint JOIN relation r ON r.id = conrelid LEFT JOIN relation other ON other.id = confrelid
   WHERE contype IN ('c', 'f', 'p', 'u', 'x') AND coninhcount = 0 AND conparentid = 0
  UNION ALL
  SELECT 'index', s.name || '.' || quote_ident(c.relname),
         ROW(r.name, (SELECT amname FROM pg_am WHERE oid = c.relam), indisunique, indisprimary, indisexclusion, indisclustered, indisreplident, indnkeyatts,
             indnullsnotdistinct, -- since 15
             indoption::text, indpred IS NOT NULL, ARRAY(SELECT unnest(c.reloptions) COLLATE "C" ORDER BY 1),
             ARRAY(SELECT (SELECT attname FROM pg_attribute WHERE attrelid = indrelid AND attnum = n) FROM unnest(indkey) WITH ORDINALITY k(n, place) ORDER BY place),
             ARRAY(SELECT (SELECT opcname FROM pg_opclass WHERE oid = id) FROM unnest(indclass) WITH ORDINALITY k(id, place) ORDER BY place),
             ARRAY(SELECT (SELECT collname FROM pg_collation WHERE oid = id) FROM unnest(indcollation) WITH ORDINALITY k(id, place) ORDER BY place))::text
    FROM pg_index JOIN relation r ON r.id = indrelid JOIN pg_class c ON c.oid = indexrelid JOIN schema s ON s.id = c.relnamespace
   WHERE indisvalid AND indisready OR r.kind = 'p'
  UNION ALL
  SELECT 'trigger', r.name || '.' || quote_ident(tgname),
         ROW(tgtype, tgenabled, tgfoid::regproc, encode(tgargs, 'hex'), tgdeferrable, tginitdeferred, tgqual IS NOT NULL, tgoldtable, tgnewtable,
             ARRAY(SELECT attname FROM unnest(tgattr) WITH ORDINALITY k(n, place) JOIN pg_attribute ON attrelid = tgrelid AND attnum = n ORDER BY place))::text
    FROM pg_trigger JOIN relation r ON r.id = tgrelid
   WHERE NOT tgisinternal
     AND tgparentid = 0 -- since 13
  UNION ALL
  SELECT 'policy', r.name || '.' || quote_ident(polname),
         ROW(polcmd, polpermissive, polqual IS NOT NULL, polwithcheck IS NOT NULL, 0 = ANY (polroles),
             ARRAY(SELECT rolname COLLATE "C" FROM pg_roles WHERE oid = ANY (polroles) ORDER BY 1))::text
    FROM pg_policy JOIN relation r ON r.id = polrelid
  UNION ALL
  SELECT 'rule', r.name || '.' || quote_ident(rulename), ROW(ev_type, ev_enabled, is_instead)::text
    FROM pg_rewrite JOIN relation r ON r.id = ev_class WHERE rulename <> '_RETURN'
  UNION ALL
  SELECT 'sequence', r.name,
         ROW(format_type(seqtypid, NULL), seqstart, seqincrement, seqmax, seqmin, seqcache, seqcycle,
             column_of.name)::text
    FROM pg_sequence JOIN relation r ON r.id = seqrelid
    LEFT JOIN (SELECT objid, o.name || '.' || attname FROM pg_depend JOIN relation o ON o.id = refobjid JOIN pg_attribute ON attrelid = refobjid AND attnum = refobjsubid
                WHERE classid = 'pg_class'::regclass AND refclassid = 'pg_class'::regclass AND deptype IN ('a', 'i')) column_of(id, name) ON column_of.id = seqrelid
  UNION ALL
  SELECT 'function', s.name || '.' || quote_ident(proname) || '(' || oidvectortypes(proargtypes) || ')',
         ROW(prokind, lanname, prosrc, probin, provolatile, proisstrict, prosecdef, proleakproof, proparallel, proretset, procost, prorows,
             prosqlbody IS NOT NULL, -- since 14
             format_type(prorettype, NULL), proargnames, proargmodes, pronargdefaults, proconfig,
             ARRAY(SELECT format_type(id, NULL) FROM unnest(proallargtypes) WITH ORDINALITY k(id, place) ORDER BY place),
             (SELECT ROW(aggkind, aggtransfn::regproc, aggfinalfn::regproc, agginitval, format_type(aggtranstype, NULL)) FROM pg_aggregate WHERE aggfnoid = p.oid))::text
    FROM pg_proc p JOIN schema s ON s.id = pronamespace JOIN pg_language l ON l.oid = prolang
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_proc'::regclass AND m.id = p.oid)
  UNION ALL
  SELECT 'type', s.name || '.' || quote_ident(typname),
         ROW(typtype, format_type(typbasetype, typtypmod), typnotnull, typdefault IS NOT NULL, (SELECT collname FROM pg_collation WHERE oid = typcollation),
             ARRAY(SELECT enumlabel FROM pg_enum WHERE enumtypid = t.oid ORDER BY enumsortorder),
             ARRAY(SELECT ROW(conname, convalidated) FROM pg_constraint WHERE contypid = t.oid AND contype = 'c' ORDER BY conname COLLATE "C"),
             (SELECT ROW(format_type(rngsubtype, NULL), (SELECT opcname FROM pg_opclass WHERE oid = rngsubopc)) FROM pg_range WHERE rngtypid = t.oid),
             CASE typtype WHEN 'b' THEN ROW(typlen, typbyval, typalign, typstorage, typcategory, typdelim, typinput::regproc) END)::text
    FROM pg_type t JOIN schema s ON s.id = typnamespace
   WHERE typtype IN ('b', 'd', 'e', 'r') AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = t.oid)
     AND NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_type'::regclass AND m.id = t.oid)
  UNION ALL
  SELECT 'statistic', s.name || '.' || quote_ident(stxname),
         ROW(r.name, stxkind,
             coalesce(stxstattarget, -1), -- since 13
             stxexprs IS NOT NULL, -- since 14
             ARRAY(SELECT attname COLLATE "C" FROM pg_attribute WHERE attrelid = stxrelid AND attnum = ANY (stxkeys) ORDER BY 1))::text
    FROM pg_statistic_ext x JOIN schema s ON s.id = stxnamespace JOIN relation r ON r.id = stxrelid
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_statistic_ext'::regclass AND m.id = x.oid)
  UNION ALL
  SELECT 'operator', s.name || '.' || oprname || '(' || format_type(oprleft, NULL) || ', ' || format_type(oprright, NULL) || ')',
         ROW(oprcode::regproc, oprrest::regproc, oprjoin::regproc, oprcom::regoper, oprnegate::regoper, oprcanmerge, oprcanhash)::text
    FROM pg_operator o JOIN schema s ON s.id = oprnamespace
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_operator'::regclass AND m.id = o.oid)
  UNION ALL
  SELECT 'operator class', s.name || '.' || quote_ident(opcname) || ' USING ' || amname,
         ROW(opcdefault, format_type(opcintype, NULL), format_type(NULLIF(opckeytype, 0), NULL), (SELECT opfname FROM pg_opfamily WHERE oid = opcfamily))::text
    FROM pg_opclass o JOIN schema s ON s.id = opcnamespace JOIN pg_am a ON a.oid = opcmethod
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_opclass'::regclass AND m.id = o.oid)
  UNION ALL
  SELECT 'operator family', s.name || '.' || quote_ident(opfname) || ' USING ' || amname,
         ROW(ARRAY(SELECT ROW(amopstrategy, amopopr::regoperator)::text COLLATE "C" FROM pg_amop WHERE amopfamily = o.oid ORDER BY 1),
             ARRAY(SELECT ROW(amprocnum, amproc::regprocedure)::text COLLATE "C" FROM pg_amproc WHERE amprocfamily = o.oid ORDER BY 1))::text
    FROM pg_opfamily o JOIN schema s ON s.id = opfnamespace JOIN pg_am a ON a.oid = opfmethod
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_opfamily'::regclass AND m.id = o.oid)
  UNION ALL
  SELECT 'cast', format_type(castsource, NULL) || ' AS ' || format_type(casttarget, NULL), ROW(castfunc::regprocedure, castcontext, castmethod)::text
    FROM pg_cast c WHERE oid >= 16384 AND NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_cast'::regclass AND m.id = c.oid)
  UNION ALL
  SELECT 'transform', format_type(trftype, NULL) || ' FOR ' || lanname, ROW(trffromsql::regprocedure, trftosql::regprocedure)::text
    FROM pg_transform t JOIN pg_language l ON l.oid = trflang
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_transform'::regclass AND m.id = t.oid)
  UNION ALL
  SELECT 'language', quote_ident(lanname), ROW(lanpltrusted, lanplcallfoid::regproc, laninline::regproc, lanvalidator::regproc)::text
    FROM pg_language l WHERE oid >= 16384 AND NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_language'::regclass AND m.id = l.oid)
  UNION ALL
  SELECT 'access method', quote_ident(amname), ROW(amtype, amhandler)::text
    FROM pg_am a WHERE oid >= 16384 AND NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_am'::regclass AND m.id = a.oid)
  UNION ALL
  SELECT 'collation', s.name || '.' || quote_ident(collname), ROW(collprovider, collisdeterministic, collcollate, collctype)::text
    FROM pg_collation c JOIN schema s ON s.id = collnamespace
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_collation'::regclass AND m.id = c.oid)
  UNION ALL
  SELECT 'conversion', s.name || '.' || quote_ident(conname), ROW(conforencoding, contoencoding, conproc, condefault)::text
    FROM pg_conversion c JOIN schema s ON s.id = connamespace
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_conversion'::regclass AND m.id = c.oid)
  UNION ALL
  SELECT 'text search configuration', s.name || '.' || quote_ident(cfgname),
         ROW((SELECT prsname FROM pg_ts_parser WHERE oid = cfgparser),
             ARRAY(SELECT ROW(maptokentype, dictname) FROM pg_ts_config_map JOIN pg_ts_dict d ON d.oid = mapdict WHERE mapcfg = c.oid ORDER BY maptokentype, mapseqno))::text
    FROM pg_ts_config c JOIN schema s ON s.id = cfgnamespace
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_ts_config'::regclass AND m.id = c.oid)
  UNION ALL
  SELECT 'text search dictionary', s.name || '.' || quote_ident(dictname), ROW((SELECT tmplname FROM pg_ts_template WHERE oid = dicttemplate), dictinitoption)::text
    FROM pg_ts_dict d JOIN schema s ON s.id = dictnamespace
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_ts_dict'::regclass AND m.id = d.oid)
  UNION ALL
  SELECT 'text search parser', s.name || '.' || quote_ident(prsname), ROW(prsstart, prstoken, prsend, prsheadline, prslextype)::text
    FROM pg_ts_parser p JOIN schema s ON s.id = prsnamespace
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_ts_parser'::regclass AND m.id = p.oid)
  UNION ALL
  SELECT 'text search template', s.name || '.' || quote_ident(tmplname), ROW(tmplinit, tmpllexize)::text
    FROM pg_ts_template t JOIN schema s ON s.id = tmplnamespace
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_ts_template'::regclass AND m.id = t.oid)
  UNION ALL
  SELECT 'publication', quote_ident(pubname),
         ROW(puballtables, pubinsert, pubupdate, pubdelete, pubtruncate,
             pubviaroot, -- since 13
             pubgencols, -- since 18
             ARRAY(SELECT nspname COLLATE "C" FROM pg_publication_namespace JOIN pg_namespace n ON n.oid = pnnspid WHERE pnpubid = p.oid ORDER BY 1), -- since 15
             ARRAY(SELECT ROW(r.name
                              , prqual IS NOT NULL, ARRAY(SELECT attname COLLATE "C" FROM pg_attribute WHERE attrelid = prrelid AND attnum = ANY (prattrs) ORDER BY 1) -- since 15
                              )::text COLLATE "C" FROM pg_publication_rel JOIN relation r ON r.id = prrelid WHERE prpubid = p.oid ORDER BY 1))::text
    FROM pg_publication p
  UNION ALL
  SELECT 'event trigger', quote_ident(evtname), ROW(evtevent, evtenabled, evttags, evtfoid::regproc)::text
    FROM pg_event_trigger e WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_event_trigger'::regclass AND m.id = e.oid)
  UNION ALL
  SELECT 'foreign-data wrapper', quote_ident(fdwname),
         ROW(fdwhandler::regproc, fdwvalidator::regproc, ARRAY(SELECT split_part(unnest(fdwoptions), '=', 1) COLLATE "C" ORDER BY 1))::text
    FROM pg_foreign_data_wrapper f WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_foreign_data_wrapper'::regclass AND m.id = f.oid)
  UNION ALL
  SELECT 'foreign server', quote_ident(srvname),
         ROW(fdwname, srvtype, srvversion, ARRAY(SELECT split_part(unnest(srvoptions), '=', 1) COLLATE "C" ORDER BY 1))::text
    FROM pg_foreign_server f JOIN pg_foreign_data_wrapper w ON w.oid = srvfdw
   WHERE NOT EXISTS (SELECT FROM member m WHERE m.class = 'pg_foreign_server'::regclass AND m.id = f.oid)
  UNION ALL
  SELECT said.kind, i.type || ' ' || i.identity, said.text
    FROM (SELECT 'comment', classoid, objoid, objsubid, description FROM pg_description
          UNION ALL SELECT 'security label', classoid, objoid, objsubid, ROW(provider, label)::text FROM pg_seclabel) said(kind, class, id, sub, text)
   CROSS JOIN LATERAL pg_identify_object(said.class, said.id, said.sub) i
   WHERE (said.id >= 16384 OR said.class = 'pg_largeobject'::regclass OR said.class = 'pg_namespace'::regclass AND said.id = 2200)
     AND said.class <> 'pg_subscription'::regclass AND i.identity !~ '\mpg_(temp|toast)'
     AND NOT EXISTS (SELECT FROM member m WHERE m.class = said.class AND m.id = said.id)
     AND NOT EXISTS (SELECT FROM pg_depend d JOIN member m ON m.class = d.refclassid AND m.id = d.refobjid
                      WHERE d.classid = said.class AND d.objid = said.id AND d.deptype IN ('a', 'i'))
     AND NOT EXISTS (SELECT FROM pg_index WHERE said.class = 'pg_class'::regclass AND indexrelid = said.id AND NOT indisvalid)
     AND NOT EXISTS (SELECT FROM pg_constraint WHERE said.class = 'pg_constraint'::regclass AND oid = said.id AND coninhcount > 0))
SELECT kind, name, text FROM definition ORDER BY kind, name COLLATE "C", text COLLATE "C"
