//! Certificates of TLS, made by `openssl`.

use std::path::Path;
use std::process::Command;

/// Makes `<name>.pem` and `<name>.key`, signed by `ca` or by itself.
pub fn certificate(dir: &Path, name: &str, ca: Option<&str>) {
    let mut command = Command::new("openssl");
    command.current_dir(dir).args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]);
    command.args([
        "-subj",
        "/CN=localhost",
        "-keyout",
        &format!("{name}.key"),
        "-out",
        &format!("{name}.pem"),
    ]);
    if let Some(ca) = ca {
        command.args(["-CA", &format!("{ca}.pem"), "-CAkey", &format!("{ca}.key")]);
        command.args([
            "-addext",
            "subjectAltName=DNS:localhost",
            "-addext",
            "basicConstraints=critical,CA:FALSE",
        ]);
    }
    let made = command.output().expect("this test needs `openssl` on PATH");
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}
