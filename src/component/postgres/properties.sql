-- The properties of a database that are not contents: name and value, in the bytes that the server keeps, since a session in a
-- database of another encoding reads names of roles otherwise, and convert_to() refuses bytes that are no UTF-8. The values of settings whose names have a dot may be secrets.
WITH d AS (SELECT b.*, to_jsonb(b) AS columns FROM pg_database b WHERE datname = $1::text::name),
property(name, value) AS (
  SELECT 'owner', pg_get_userbyid(datdba)::text FROM d
  UNION ALL SELECT 'encoding', pg_encoding_to_char(encoding)::text FROM d
  UNION ALL
  SELECT 'locale', concat_ws(' ', CASE columns ->> 'datlocprovider' WHEN 'i' THEN 'icu' WHEN 'b' THEN 'builtin' ELSE 'libc' END,
                             datcollate, datctype, coalesce(columns ->> 'datlocale', columns ->> 'daticulocale'), columns ->> 'daticurules')
    FROM d
  UNION ALL SELECT 'tablespace', spcname::text FROM d JOIN pg_tablespace t ON t.oid = dattablespace
  UNION ALL SELECT 'connection limit', datconnlimit::text FROM d WHERE datconnlimit >= 0
  UNION ALL SELECT 'template', 'true' FROM d WHERE datistemplate
  UNION ALL
  SELECT 'comment', description FROM d JOIN pg_shdescription s ON s.objoid = d.oid AND s.classoid = 'pg_database'::regclass
  UNION ALL
  SELECT 'privileges', string_agg(DISTINCT concat(CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END, ' ',
                                                  privilege_type, CASE WHEN is_grantable THEN ' WITH GRANT OPTION' END) COLLATE "C", ', ')
    FROM d, aclexplode(coalesce(datacl, acldefault('d', datdba)))
  UNION ALL
  SELECT concat('setting ', split_part(c, '=', 1), ' of role ' || quote_ident(rolname)),
         CASE WHEN strpos(split_part(c, '=', 1), '.') > 0 THEN '***' ELSE substr(c, strpos(c, '=') + 1) END
    FROM d JOIN pg_db_role_setting s ON s.setdatabase = d.oid CROSS JOIN unnest(setconfig) c LEFT JOIN pg_roles r ON r.oid = setrole)
SELECT CASE WHEN getdatabaseencoding() = 'UTF8' THEN textsend(name) ELSE convert_to(name, getdatabaseencoding()) END,
       CASE WHEN getdatabaseencoding() = 'UTF8' THEN textsend(value) ELSE convert_to(value, getdatabaseencoding()) END
  FROM property WHERE value IS NOT NULL ORDER BY name COLLATE "C"
