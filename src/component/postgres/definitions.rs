//! Definitions of the objects of a database, read from its catalogs in a time that does not grow with the rows.

use crate::component::ComponentError;
use crate::component::postgres::{connect::sort, version_filter::of_version};
use crate::domain::definitions::Definitions;
use deadpool_postgres::GenericClient;
use futures_util::TryStreamExt as _;
use sha2::{Digest, Sha256};
use std::{
    collections::{BTreeMap, BTreeSet},
    pin::pin,
};

/// Kind, name and definition of every object.
const DEFINITIONS: &str = include_str!("definitions.sql");

/// The extensions, and their versions.
const EXTENSIONS: &str = "SELECT extname::text, extversion FROM pg_extension";

/// At most this many objects of a kind are named.
const NAMED: usize = 10;

/// The definitions of a database, and the objects that are not those of a backup.
#[derive(Debug, Default)]
pub struct FoundDefinitions {
    /// The definitions.
    pub definitions: Definitions,
    /// The names of the objects of each kind of which a backup has no fingerprint. The first of them.
    pub strangers: BTreeMap<String, Vec<String>>,
}

/// Reads the definitions of a database, on a session whose search path is `pg_catalog`. `major` is the version of the
/// server, `promised` what a backup has noted.
///
/// # Errors
///
/// The error of the server, sorted by the remedy.
pub async fn read(
    client: &impl GenericClient,
    major: u32,
    promised: Option<&Definitions>,
) -> Result<FoundDefinitions, ComponentError> {
    let failed = |err| sort("read the definitions of the objects".into(), err);
    let known: BTreeMap<_, _> = promised
        .into_iter()
        .flat_map(|promised| &promised.kinds)
        .filter(|(_, promised)| !promised.fingerprints.is_empty())
        .map(|(kind, promised)| (kind.as_str(), promised.each()))
        .collect();
    let mut found = FoundDefinitions::default();
    let mut kinds = BTreeMap::<String, (Sha256, BTreeSet<String>)>::new();
    // Row by row: a database may have a hundred thousand columns.
    let rows = client.query_raw(&of_version(DEFINITIONS, major), [""; 0]).await.map_err(failed)?;
    let mut rows = pin!(rows);
    while let Some(row) = rows.try_next().await.map_err(failed)? {
        let (kind, name, text): (String, String, String) = (row.get(0), row.get(1), row.get(2));
        let line = format!("{name}\t{text}\n");
        let fingerprint = hex::encode(&Sha256::digest(&line)[..4]);
        if known.get(kind.as_str()).is_some_and(|known| !known.contains(fingerprint.as_str())) {
            let strangers = found.strangers.entry(kind.clone()).or_default();
            if strangers.len() < NAMED {
                strangers.push(name);
            }
        }
        found.definitions.kinds.entry(kind.clone()).or_default().objects += 1;
        let (hash, fingerprints) = kinds.entry(kind).or_default();
        hash.update(line);
        if fingerprints.len() <= Definitions::FINGERPRINTS_KEPT {
            fingerprints.insert(fingerprint);
        }
    }
    for (kind, (hash, fingerprints)) in kinds {
        let noted = found.definitions.kinds.entry(kind).or_default();
        noted.sha256 = hex::encode(hash.finalize());
        if fingerprints.len() <= Definitions::FINGERPRINTS_KEPT {
            noted.fingerprints = fingerprints.into_iter().collect();
        }
    }
    let extensions = client.query(EXTENSIONS, &[]).await.map_err(failed)?;
    found.definitions.extensions = extensions.iter().map(|row| (row.get(0), row.get(1))).collect();
    Ok(found)
}
