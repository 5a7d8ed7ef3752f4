//! The commands that open and restore a backup with plain tools alone.

use crate::domain::facts::Facts;

/// The shell commands that bring an unpacked export back; `docs/restore.md` has the same lines.
const IMPORT: &str = include_str!("import.sh");

/// The commands for a backup: how it comes back depends on the backend that made it.
pub(super) fn commands(read: &str, backend: &str) -> Vec<String> {
    if backend == "export" {
        let begin = ["# None of the classes may be there.".to_owned(), "export WEAVIATE_URL".to_owned()];
        let import = IMPORT.trim_end().lines().map(str::to_owned);
        return begin.into_iter().chain([format!("{read} | tar -x")]).chain(import).collect();
    }
    let restore = format!("\"$WEAVIATE_URL/v1/backups/{backend}/$ID/restore\"");
    let mut lines = vec![
        format!("{read} | tar -xO weaviate.json | jq '.classes | keys'   # none of them may be there"),
        format!("ID=$({read} | tar -xO weaviate.json | jq -r .id)"),
    ];
    if backend == "filesystem" {
        let folder = "\"$BACKUP_FILESYSTEM_PATH/$ID\"";
        lines.push(format!("mkdir {folder}"));
        lines.push(format!("{read} | tar -x --exclude=weaviate.json -C {folder}"));
    }
    lines.push(format!("curl -X POST {restore} -H 'Content-Type: application/json' -d '{{}}'"));
    lines.push(format!("curl {restore}   # until it says SUCCESS"));
    lines
}

/// The environment variables that the commands need.
pub(super) fn variables(facts: Option<&Facts>) -> String {
    let backend = facts.and_then(|facts| facts.backend.as_deref());
    let folder = ", and BACKUP_FILESYSTEM_PATH for the folder of that setting of Weaviate's";
    let folder = if backend == Some("filesystem") { folder } else { "" };
    format!("where the server is: WEAVIATE_URL{folder}")
}
