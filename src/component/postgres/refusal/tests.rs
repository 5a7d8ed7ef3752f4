use super::*;

/// The output of `pg_restore --verbose` of 15, shortened.
const SAID: &str = "pg_restore: connecting to database for restore
pg_restore: creating MATERIALIZED VIEW \"public.words\"
pg_restore: processing data for table \"public.gen\"
pg_restore: while PROCESSING TOC:
pg_restore: from TOC entry 3388; 0 16467 TABLE DATA gen postgres
pg_restore: error: COPY failed for table \"gen\": ERROR:  function lower2(text) does not exist
LINE 1: lower2(t)
^
HINT:  No function matches.
CONTEXT:  PL/pgSQL function public.norm(text) line 1 at RETURN
COPY gen, line 1: \"X\"
pg_restore: creating INDEX \"o dd.i x\"
pg_restore: from TOC entry 3235; 1259 16479 INDEX i x postgres
pg_restore: error: could not execute query: ERROR:  function lower2(text) does not exist
Command was: CREATE INDEX \"i x\" ON \"o dd\".\"t t\" USING btree (public.norm((a)::text));


pg_restore: creating MATERIALIZED VIEW DATA \"public.words\"
pg_restore: from TOC entry 3383; 0 16392 MATERIALIZED VIEW DATA words postgres
pg_restore: error: could not execute query: ERROR:  relation \"docs\" does not exist
Command was: REFRESH MATERIALIZED VIEW public.words;


pg_restore: warning: errors ignored on restore: 3";

#[test]
fn refused_entries_are_read_with_their_names_and_causes() {
    let mut refusals = Refusals::default();
    for line in SAID.lines() {
        assert_ne!(refusals.read(None, line, |_| true), LineAction::Stop, "{line}");
    }
    refusals.finish();
    let names: Vec<_> = refusals.found.iter().map(|one| (one.kind.as_str(), one.name())).collect();
    assert_eq!(
        names,
        [
            (ROWS, "public.gen".to_owned()),
            ("INDEX", "o dd.i x".to_owned()),
            ("MATERIALIZED VIEW DATA", "public.words".to_owned())
        ]
    );
    assert_eq!(refusals.found[2].said, "relation \"docs\" does not exist");
    assert!(
        refusals.found[0].said.contains("; PL/pgSQL function public.norm(text)"),
        "{:?}",
        refusals.found[0]
    );
    assert!(refusals.is_at_end && !refusals.is_broken);
    assert_eq!(refusals.found.iter().map(Refusal::is_derived).collect::<Vec<_>>(), [false, true, true]);
    // Two processes side by side, each with one half of the entries.
    let (first, second) = SAID.split_at(SAID.find("pg_restore: creating INDEX").unwrap());
    let (mut again, mut lines) = (Refusals::default(), [first.lines(), second.lines()]);
    let processes = [1, 2].map(Pid::from_raw);
    while lines.iter().any(|lines| lines.clone().next().is_some()) {
        for (process, lines) in processes.iter().zip(&mut lines) {
            let heard = lines.next().map(|line| again.read(*process, line, |_| true));
            assert_ne!(heard, Some(LineAction::Stop));
        }
    }
    again.finish();
    let sorted = |refusals: &[Refusal]| refusals.iter().map(Refusal::words).collect::<BTreeSet<_>>();
    assert_eq!((sorted(&again.found), again.is_broken), (sorted(&refusals.found), false));
    let mut strict = Refusals::default();
    let stops =
        SAID.lines().filter(|line| strict.read(None, line, Refusal::is_derived) == LineAction::Stop).count();
    assert_eq!(stops, 1, "the rows of a table may not be missing");
}

#[test]
fn a_refusal_is_read_in_the_language_of_the_server() {
    let german = SAID.replace("ERROR:  ", "FEHLER:  ");
    let mut refusals = Refusals::default();
    german
        .lines()
        .for_each(|line| assert_ne!(refusals.read(None, line, |_| true), LineAction::Stop, "{line}"));
    refusals.finish();
    assert_eq!((refusals.found.len(), refusals.is_broken), (3, false));
}

#[test]
fn what_is_no_refusal_of_an_entry_breaks_the_restore() {
    let trap = "pg_restore: while INITIALIZING:\npg_restore: error: could not execute query: ERROR:  unrecognized \
                configuration parameter \"transaction_timeout\"\nCommand was: SET transaction_timeout = 0;\n";
    let cases = [
        (format!("{trap}pg_restore: warning: errors ignored on restore: 1"), false, 1),
        ("pg_restore: error: could not read from input file: end of file".to_owned(), true, 0),
        (
            format!(
                "{trap}pg_restore: error: could not execute query: ERROR:  syntax error\nCommand was: SELECT"
            ),
            true,
            1,
        ),
        ("pg_restore: error: could not execute query: server closed the connection".to_owned(), true, 0),
    ];
    for (said, broken, timeouts) in cases {
        let mut refusals = Refusals::default();
        for line in said.lines() {
            let _ = refusals.read(None, line, |_| true);
        }
        refusals.finish();
        assert_eq!((refusals.is_broken, refusals.timeouts), (broken, timeouts), "{said}");
    }
}

#[test]
fn a_name_is_that_of_the_entry_or_of_its_table() {
    let entry = |kind: &str, tag: &str| Refusal {
        kind: kind.into(),
        schema: None,
        tag: tag.into(),
        said: String::new(),
    };
    let cases = [
        ("INDEX", "i x", "i x", true),
        ("INDEX", "i x", "o dd.i x", true),
        ("POLICY", "docs no_stranger", "public.docs", true),
        ("POLICY", "docs no_stranger", "no_stranger", false),
        ("ACL", "TABLE docs", "docs", true),
        ("COMMENT", "MATERIALIZED VIEW words", "words", true),
        ("FUNCTION", "norm(text)", "norm", true),
        ("INDEX", "docs_idx", "docs", false),
    ];
    for (kind, tag, name, is_it) in cases {
        assert_eq!(entry(kind, tag).is_named_by(&[name.to_owned()]), is_it, "{kind} {tag} {name}");
    }
}
