//! The statements by which `pg_restore --clean` takes away what it is about to make again.

use crate::component::postgres::{clients::Client, toc::ListFile};
use crate::component::process::Program;
use crate::component::{ComponentError, Feed};
use crate::domain::progress::Meter;
use std::ffi::OsStr;

/// The kinds of objects in `DROP` statements, and their catalogs. A kind whose name begins with that of another comes first.
const KINDS: [(&str, &str); 31] = [
    ("ACCESS METHOD", "pg_am"),
    ("AGGREGATE", "pg_proc"),
    ("CAST", "pg_cast"),
    ("COLLATION", "pg_collation"),
    ("CONVERSION", "pg_conversion"),
    ("DOMAIN", "pg_type"),
    ("EVENT TRIGGER", "pg_event_trigger"),
    ("EXTENSION", "pg_extension"),
    ("FOREIGN DATA WRAPPER", "pg_foreign_data_wrapper"),
    ("FOREIGN TABLE", "pg_class"),
    ("FUNCTION", "pg_proc"),
    ("INDEX", "pg_class"),
    ("MATERIALIZED VIEW", "pg_class"),
    ("OPERATOR CLASS", "pg_opclass"),
    ("OPERATOR FAMILY", "pg_opfamily"),
    ("OPERATOR", "pg_operator"),
    ("POLICY", "pg_policy"),
    ("PROCEDURAL LANGUAGE", "pg_language"),
    ("PROCEDURE", "pg_proc"),
    ("PUBLICATION", "pg_publication"),
    ("RULE", "pg_rewrite"),
    ("SCHEMA", "pg_namespace"),
    ("SEQUENCE", "pg_class"),
    ("SERVER", "pg_foreign_server"),
    ("STATISTICS", "pg_statistic_ext"),
    ("TABLE", "pg_class"),
    ("TRANSFORM", "pg_transform"),
    ("TRIGGER", "pg_trigger"),
    ("TYPE", "pg_type"),
    ("USER MAPPING FOR", "pg_user_mapping"),
    ("VIEW", "pg_class"),
];

/// The kinds of objects of text search, whose catalogs are named after them.
const TEXT_SEARCH: [(&str, &str); 4] = [
    ("CONFIGURATION", "pg_ts_config"),
    ("DICTIONARY", "pg_ts_dict"),
    ("PARSER", "pg_ts_parser"),
    ("TEMPLATE", "pg_ts_template"),
];

/// An object that a restore takes away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DroppedObject {
    /// The catalog that holds the object.
    pub catalog: &'static str,
    /// The kind in the words of `pg_identify_object`, where a catalog holds several that one statement does not take.
    pub kind: Option<String>,
    /// The [`canonical`] name of the object; of a function without its arguments.
    pub name: String,
    /// The arguments of a function, each with its name in front if it has one.
    pub arguments: Vec<String>,
    /// True if what depends on the object goes with it.
    pub cascades: bool,
}

impl DroppedObject {
    /// The object of a statement; none of a statement that takes no object away.
    fn read(statement: &str) -> Option<Self> {
        let of = |catalog, name: String| {
            Some(Self { catalog, kind: None, name, arguments: Vec::new(), cascades: false })
        };
        if let Some(view) = statement.strip_prefix("CREATE OR REPLACE VIEW ") {
            // A view in a circle: its query goes first, and the view later.
            return of("pg_rewrite", format!("\"_RETURN\" on {}", canonical(split(view, " AS")?.0)));
        }
        if let Some(altered) = statement.strip_prefix("ALTER ") {
            let altered = ["FOREIGN TABLE ", "TABLE ", "DOMAIN ", "VIEW "]
                .iter()
                .find_map(|kind| altered.strip_prefix(kind))?;
            let altered = altered.strip_prefix("ONLY ").unwrap_or(altered);
            if let Some((owner, constraint)) = split(altered, " DROP CONSTRAINT ") {
                return of("pg_constraint", canonical(&format!("{constraint} ON {owner}")));
            }
            let (table, column) = split(altered, " ALTER COLUMN ")?;
            let column = column.strip_suffix(" DROP DEFAULT")?;
            return of("pg_attrdef", canonical(&format!("FOR {table}.{column}")));
        }
        let dropped = statement.strip_prefix("DROP ")?;
        let (dropped, cascades) =
            dropped.strip_suffix(" CASCADE").map_or((dropped, false), |dropped| (dropped, true));
        if let Some(searched) = dropped.strip_prefix("TEXT SEARCH ") {
            let found = TEXT_SEARCH.iter().find_map(|(kind, catalog)| {
                Some((*catalog, searched.strip_prefix(kind)?.strip_prefix(' ')?))
            });
            let (catalog, name) = found?;
            return of(catalog, canonical(name));
        }
        let (kind, catalog, name) = KINDS.iter().find_map(|(kind, catalog)| {
            Some((*kind, *catalog, dropped.strip_prefix(kind)?.strip_prefix(' ')?))
        })?;
        let name = canonical(name);
        let kind = ["pg_class", "pg_proc"].contains(&catalog).then(|| kind.to_ascii_lowercase());
        let (name, arguments) = match catalog {
            // The arguments of an ordered-set aggregate.
            "pg_proc" => signature(&name.replace("(order by ", "(").replace(" order by ", ",")),
            "pg_user_mapping" => {
                (name.replacen(" server ", " on server ", 1).replace('"', "").to_lowercase(), Vec::new())
            }
            "pg_transform" => (name.replacen(" language ", " on language ", 1), Vec::new()),
            _ => (name, Vec::new()),
        };
        Some(Self { catalog, kind, name, arguments, cascades })
    }

    /// Tests whether arguments of a function of the database are those of the statement, whatever their names.
    pub fn takes(&self, types: &[String]) -> bool {
        let given: Vec<_> = self.arguments.iter().filter(|argument| !argument.starts_with("out ")).collect();
        let is_it = |(argument, of): (&&String, &String)| {
            argument.strip_suffix(of.as_str()).is_some_and(|name| name.is_empty() || name.ends_with(' '))
        };
        given.len() == types.len() && given.iter().zip(types).all(is_it)
    }
}

/// The name and the arguments of a function of which the canonical name is `name(integer,text)`.
pub fn signature(canonical: &str) -> (String, Vec<String>) {
    let Some((name, arguments)) = split(canonical, "(") else { return (canonical.to_owned(), Vec::new()) };
    let mut rest = arguments.strip_suffix(')').unwrap_or(arguments);
    let mut found = Vec::new();
    // `numeric(4,2)` does not come in a signature: types have no modifiers there.
    while let Some((argument, others)) = split(rest, ",") {
        found.push(argument.to_owned());
        rest = others;
    }
    found.extend((!rest.is_empty() && rest != "*").then(|| rest.to_owned()));
    (name.to_owned(), found)
}

/// A name as PostgreSQL's functions and `pg_dump` both would write it: lower case outside of quotes, no spaces around
/// parentheses and commas, no `pg_catalog.`.
pub fn canonical(name: &str) -> String {
    let mut text = String::with_capacity(name.len());
    for (at, piece) in name.split('"').enumerate() {
        if at > 0 {
            text.push('"');
        }
        if at % 2 == 1 {
            text.push_str(piece);
            continue;
        }
        for letter in piece.chars() {
            match letter {
                ' ' | '\n' if text.ends_with([' ', '(', ',']) => {}
                ' ' | '\n' => text.push(' '),
                '(' | ')' | ',' => {
                    let kept = text.trim_end_matches(' ').len();
                    text.truncate(kept);
                    text.push(letter);
                }
                letter => text.push(letter.to_ascii_lowercase()),
            }
            if text.ends_with("pg_catalog.") {
                text.truncate(text.len() - "pg_catalog.".len());
            }
        }
    }
    text.trim_end().to_owned()
}

/// Splits a text at the first place outside of double quotes where it says `at`.
fn split<'a>(text: &'a str, at: &str) -> Option<(&'a str, &'a str)> {
    let is_outside = |(found, _): &(usize, &str)| text[..*found].matches('"').count().is_multiple_of(2);
    let (found, _) = text.match_indices(at).find(is_outside)?;
    Some((&text[..found], &text[found + at.len()..]))
}

/// The objects that a restore takes away, in that order.
#[derive(Debug, Default)]
pub struct DroppedObjects {
    /// All but large objects.
    pub objects: Vec<DroppedObject>,
    /// Large objects, of which there may be millions.
    pub large: Vec<u32>,
}

/// A reader of the script of a restore, up to its first object.
#[derive(Debug, Default)]
struct Script {
    /// The text that is not read yet, from the beginning of a statement on.
    open: Vec<u8>,
    drops: DroppedObjects,
    is_over: bool,
}

impl Script {
    fn read(&mut self, chunk: &[u8]) {
        self.open.extend_from_slice(chunk);
        let mut from = 0;
        while let Some(length) = statement(&self.open[from..]).filter(|_| !self.is_over) {
            let text = String::from_utf8_lossy(&self.open[from..from + length]);
            let text = text.trim();
            from += length;
            self.is_over = text.starts_with("-- Name: ") || text.starts_with("-- Data for Name: ");
            let text = text.trim_end_matches(';');
            if let Some(oid) = text.strip_prefix("SELECT pg_catalog.lo_unlink('") {
                self.drops.large.extend(oid.trim_end_matches("')").parse::<u32>());
            } else {
                self.drops.objects.extend(DroppedObject::read(text));
            }
        }
        self.open.drain(..from);
    }
}

/// The length of the statement, comment, command of `psql` or empty line that a text begins with.
fn statement(text: &[u8]) -> Option<usize> {
    let line = text.iter().position(|byte| *byte == b'\n');
    if text.starts_with(b"--") || text.starts_with(b"\\") || text.starts_with(b"\n") {
        return line.map(|end| end + 1);
    }
    let mut quote = None;
    for (at, byte) in text.iter().enumerate() {
        match (quote, byte) {
            (None, b'"' | b'\'') => quote = Some(*byte),
            (Some(open), byte) if open == *byte => quote = None,
            (None, b'\n') if text[..at].ends_with(b";") => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// The objects that a restore of an archive takes away; of those entries that `list` names. No rows are read.
///
/// # Errors
///
/// [`ComponentError::Failed`] when it is no archive; that of the feed, sorted.
pub async fn read(
    client: &Client,
    feed: Feed<'_>,
    list: Option<&ListFile>,
) -> Result<DroppedObjects, ComponentError> {
    let mut script = Script::default();
    let program = Program::new("pg_restore", &client.dir.join("pg_restore"))
        .env("LC_ALL", "C")
        .args(["--clean", "--no-subscriptions", "--file=-"])
        .args(list.into_iter().flat_map(|list| [OsStr::new("--use-list"), list.path().as_os_str()]));
    let seen = |chunk: &[u8]| {
        script.read(chunk);
        // The end of the reading ends the program.
        let rest = ComponentError::Unusable { what: "the rest is not read".into(), source: None };
        Some(()).filter(|()| !script.is_over).ok_or(rest)
    };
    match program.pass(feed, &Meter::default(), seen).await {
        Err(err) if !script.is_over => Err(err),
        _ => Ok(script.drops),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_restore_takes_away_is_read_with_every_quote() {
        let text = "--\n-- PostgreSQL database dump\n--\n\n\\restrict x\n\nSET xmloption = content;\n\n\
            ALTER TABLE ONLY public.\"a; DROP CONSTRAINT\" DROP CONSTRAINT \"k\n;\n\";\nDROP TRIGGER x ON \"lab data\".v;\n\
            ALTER TABLE app.t ALTER COLUMN i DROP DEFAULT;\nDROP FUNCTION public.calc(i integer, \"M x\" public.mood, text);\n\
            -- *not* dropping schema, since initdb creates it\nDROP AGGREGATE public.ag(*);\nDROP AGGREGATE osa(double precision ORDER BY anyelement);\nDROP TYPE public.base CASCADE;\n\
            DROP OPERATOR public.=== (integer, public.mood);\nSELECT pg_catalog.lo_unlink('503');\n\
            CREATE OR REPLACE VIEW public.v AS\nSELECT\n    NULL::integer AS i;\nDROP TEXT SEARCH PARSER a.p;\n\
            DROP USER MAPPING FOR \"B o\" SERVER s;\n\
            DROP TRANSFORM FOR public.h LANGUAGE plperl;\n--\n-- Name: app; Type: SCHEMA\n--\n\nDROP TABLE x;\n";
        let mut script = Script::default();
        text.as_bytes().chunks(7).for_each(|chunk| script.read(chunk));
        let found: Vec<_> = script.drops.objects.iter().map(|one| (one.catalog, one.name.as_str())).collect();
        let expected = [
            ("pg_constraint", "\"k\n;\n\" on public.\"a; DROP CONSTRAINT\""),
            ("pg_trigger", "x on \"lab data\".v"),
            ("pg_attrdef", "for app.t.i"),
            ("pg_proc", "public.calc"),
            ("pg_proc", "public.ag"),
            ("pg_proc", "osa"),
            ("pg_type", "public.base"),
            ("pg_operator", "public.===(integer,public.mood)"),
            ("pg_rewrite", "\"_RETURN\" on public.v"),
            ("pg_ts_parser", "a.p"),
            ("pg_user_mapping", "b o on server s"),
            ("pg_transform", "for public.h on language plperl"),
        ];
        assert_eq!((found.as_slice(), script.drops.large.as_slice()), (&expected[..], &[503][..]));
        let types = |text: &str| signature(&canonical(text)).1;
        assert!(script.drops.objects[3].takes(&types("public.calc(integer,public.mood,pg_catalog.text)")));
        assert!(!script.drops.objects[3].takes(&types("public.calc(integer,public.mood)")));
        assert!(script.drops.objects[4].takes(&types("public.ag()")) && script.drops.objects[6].cascades);
        assert!(script.drops.objects[5].takes(&types("osa(double precision,pg_catalog.anyelement)")));
    }
}
