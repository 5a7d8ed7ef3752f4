//! The commands that open and restore a backup with plain tools alone.

use crate::catalog::{Entry, StoredCopy};
use crate::component::Registration;
use crate::domain::listing::BackupState;
use crate::stream::crypt::Recipients;

/// The words of the command that writes a copy to standard output, where its location is no path.
type FetchCommand = Option<Vec<String>>;

/// The commands for one backup; none when there is nothing to open.
pub(super) fn how_to_open(
    entry: &Entry,
    bases: &[Entry],
    fetch: impl Fn(&StoredCopy) -> FetchCommand,
) -> Vec<String> {
    let there = |entry: &Entry| {
        let copy = entry.copies.iter().find(|copy| copy.state != BackupState::Missing)?;
        Some((copy.location.clone(), read(&copy.location, fetch(copy))))
    };
    let Some((location, own)) = there(entry) else { return Vec::new() };
    if bases.is_empty() {
        let facts = entry.manifest().map(|manifest| &manifest.facts);
        let own_commands = (Registration::of(entry.component()).by_hand)(&own, facts);
        return own_commands.unwrap_or_else(|| commands(&location, &own, tar_options(entry)));
    }
    let Some(bases) = bases.iter().map(there).collect::<Option<Vec<_>>>() else { return Vec::new() };
    // By the lists of names in incremental archives, GNU tar removes files that are gone since the archive before.
    let options = tar_options(entry);
    let unpack = |read| format!("{read} | tar -xp{options} --listed-incremental=/dev/null -C restored");
    let steps = bases.into_iter().map(|(_, read)| read).chain([own]).map(unpack);
    std::iter::once("mkdir restored".to_owned()).chain(steps).collect()
}

/// The options by which GNU tar brings back ACLs and extended attributes, where there are some.
fn tar_options(entry: &Entry) -> &'static str {
    let attributes = entry.manifest().and_then(|manifest| manifest.facts.counts.attributes);
    let has_some = attributes.is_some_and(|attributes| attributes.has_extended());
    if has_some { " --acls --xattrs --xattrs-include='*'" } else { "" }
}

fn commands(location: &str, read: &str, options: &str) -> Vec<String> {
    let folder = !location.rsplit('/').next().unwrap_or(location).contains('.');
    if folder {
        // A folder is a backup that Weaviate wrote for the app's old tasks, which Weaviate alone can read.
        return vec![format!("ls -R {}", quoted(location))];
    }
    vec![
        format!("{read} | tar -tv"),
        "mkdir restored".to_owned(),
        format!("{read} | tar -xp{options} -C restored"),
    ]
}

/// The pipeline that writes the content of an archive to standard output.
fn read(location: &str, fetch: FetchCommand) -> String {
    let fetch = fetch.map(|words| words.iter().map(|word| quoted(word)).collect::<Vec<_>>().join(" "));
    let from = if fetch.is_some() { String::new() } else { format!(" {}", quoted(location)) };
    let mut steps: Vec<_> = fetch.into_iter().collect();
    let mut name = location;
    if let Some(inner) = location.strip_suffix(Recipients::EXTENSION) {
        steps.push(format!("age -d -i KEYFILE{from}"));
        name = inner;
    }
    let from = if steps.is_empty() { from } else { String::new() };
    match name.rsplit('.').next() {
        Some("zst") => steps.push(format!("zstd -dc{from}")),
        Some("gz") => steps.push(format!("gzip -dc{from}")),
        _ if steps.is_empty() => steps.push(format!("cat{from}")),
        _ => {}
    }
    steps.join(" | ")
}

/// A path as a shell takes it.
fn quoted(path: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+=:@".contains(c);
    if path.chars().all(plain) { path.to_owned() } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

#[test]
fn the_commands_survive_odd_paths() {
    let listing = |path| commands(path, &read(path, None), "").remove(0);
    assert_eq!(
        listing("/var/lab's backups/media_backup_20261122_040000.tar.zst"),
        r"zstd -dc '/var/lab'\''s backups/media_backup_20261122_040000.tar.zst' | tar -tv"
    );
    assert_eq!(
        listing("/b/media_backup_20240101_040000.tar.gz"),
        "gzip -dc /b/media_backup_20240101_040000.tar.gz | tar -tv"
    );
    assert_eq!(
        listing("/b/media_backup_20261122_040000.tar.zst.age"),
        "age -d -i KEYFILE /b/media_backup_20261122_040000.tar.zst.age | zstd -dc | tar -tv"
    );
    let far = "s3://lab/media/media_backup_20261122_040000.tar.zst.age";
    let fetch = ["fetch", far, "into it"].map(str::to_owned).into();
    assert_eq!(read(far, Some(fetch)), format!("fetch {far} 'into it' | age -d -i KEYFILE | zstd -dc"));
    let old = commands("/var/lab.d/weaviate/weaviate_backup_20240101_030000", "", "");
    assert_eq!(old, ["ls -R /var/lab.d/weaviate/weaviate_backup_20240101_030000"]);
}
