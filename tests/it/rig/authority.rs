//! A certificate authority of one test's own.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

/// An authority with a certificate for a server on 127.0.0.1, by no other name, and one for a client; all for
/// two days, and one for a server that ended yesterday.
///
/// Files: `ca.pem`; `server`, `client` and `expired`, each with `.pem` and `.key`; `server-both.pem` and
/// `expired-both.pem` hold both.
pub struct Authority {
    folder: TempDir,
}

impl Authority {
    pub fn new() -> Self {
        let folder = TempDir::new().expect("a folder for certificates");
        // The servers are other users.
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(folder.path(), open).expect("it is ours");
        let made = Self { folder };
        let key = "ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        made.openssl(&format!(
            "req -x509 -newkey {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=ca"
        ));
        for (name, usage, days) in [
            ("server", "serverAuth", 2),
            ("client", "clientAuth", 2),
            ("expired", "serverAuth", -1),
        ] {
            let extensions = format!("subjectAltName=IP:127.0.0.1\nextendedKeyUsage={usage}\n");
            std::fs::write(made.path("extensions"), extensions).expect("the folder is writable");
            made.openssl(&format!(
                "req -newkey {key} -keyout {name}.key -out {name}.csr -subj /CN={name}"
            ));
            made.openssl(&format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days {days} \
                 -extfile extensions -out {name}.pem"
            ));
        }
        let read = |name: &str| std::fs::read_to_string(made.path(name)).expect("it was just made");
        for name in ["server", "expired"] {
            let both = read(&format!("{name}.key")) + &read(&format!("{name}.pem"));
            std::fs::write(made.path(&format!("{name}-both.pem")), both).expect("it is writable");
        }
        for name in ["server.key", "client.key"] {
            let readable = std::fs::Permissions::from_mode(0o644);
            std::fs::set_permissions(made.path(name), readable).expect("it is ours");
        }
        made
    }

    fn openssl(&self, arguments: &str) {
        let output = Command::new("openssl")
            .args(arguments.split_whitespace())
            .current_dir(self.folder.path())
            .output()
            .expect("openssl is installed");
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {arguments}:\n{told}");
    }

    pub fn path(&self, name: &str) -> PathBuf {
        Path::new(self.folder.path()).join(name)
    }

    /// As text, for a configuration.
    pub fn show(&self, name: &str) -> String {
        self.path(name).display().to_string()
    }
}

/// A port that nobody had a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}
