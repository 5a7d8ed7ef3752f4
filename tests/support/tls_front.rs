//! A front that speaks TLS before a server that does not, and wants a certificate of its clients.

use std::{
    io::{BufRead as _, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
};

/// The front; it ends with this value.
#[derive(Debug)]
pub struct TlsFront {
    child: Child,
    port: u16,
}

impl TlsFront {
    /// A front before the server at `server`, `host:port`, with `server.crt`, `server.key` and the `ca.crt` of its
    /// clients from a folder.
    pub fn before(server: &str, folder: &Path) -> Self {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/tls_front.py");
        let mut front = Command::new("/usr/bin/python3");
        front.arg(script).arg(server).current_dir(folder).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = front.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        Self { child, port: line.trim().parse().expect("the front says its port") }
    }

    pub const fn port(&self) -> u16 {
        self.port
    }
}

impl Drop for TlsFront {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
