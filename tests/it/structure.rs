//! The arrows between the modules: each imports only what stands below it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

/// The floors, from the ground up; a module may import what is on its own floor or below, but for the
/// parts, which do not know each other except as listed.
const FLOORS: [&[&str]; 7] = [
    &[
        "units",
        "finding",
        "message",
        "position",
        "mapping",
        "metrics",
        "telemetry",
        "backoff",
        "shutdown",
        "crash",
    ],
    &["source", "inbox"],
    &["route"],
    &["engine"],
    &["intake"],
    &["sweeper", "http"],
    &["config", "bridge", "cli"],
];

/// Imports that would be allowed by the floors and still must not be.
const FORBIDDEN: [(&str, &str); 10] = [
    ("source", "inbox"),
    ("inbox", "source"),
    ("route", "inbox"),
    ("engine", "source"),
    ("engine", "route"),
    ("sweeper", "http"),
    ("http", "sweeper"),
    ("config", "bridge"),
    ("config", "cli"),
    ("bridge", "cli"),
];

#[test]
fn every_module_imports_only_what_stands_below_it() {
    let floor: BTreeMap<&str, usize> = FLOORS
        .iter()
        .enumerate()
        .flat_map(|(floor, modules)| modules.iter().map(move |module| (*module, floor)))
        .collect();
    let mut wrong = Vec::new();
    for (module, imported) in imports() {
        let Some(own) = floor.get(module.as_str()) else {
            panic!("module {module} has no floor: say where it stands");
        };
        for other in imported {
            let below = floor.get(other.as_str()).is_some_and(|floor| floor <= own);
            let forbidden = FORBIDDEN.contains(&(module.as_str(), other.as_str()));
            if !below || forbidden {
                wrong.push(format!("{module} imports {other}"));
            }
        }
    }
    assert_eq!(wrong, Vec::<String>::new());
}

/// What holds a database transaction open names nothing that could call an engine over the network.
#[test]
fn no_network_call_happens_in_a_transaction() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for module in ["engine", "inbox", "intake", "sweeper"] {
        let mut files = rust_files(&source.join(module));
        files.push(source.join(format!("{module}.rs")));
        for file in files {
            let code = without_comments(&fs::read_to_string(&file).unwrap());
            for client in ["reqwest", "hyper", "tokio::net", "std::net", "TcpStream"] {
                assert!(!code.contains(client), "{} names {client}", file.display());
            }
        }
    }
}

/// By top-level module: the top-level modules that its files name as `crate::…`.
fn imports() -> BTreeMap<String, BTreeSet<String>> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in rust_files(&src) {
        let relative = file.strip_prefix(&src).expect("below src");
        let top = relative.iter().next().expect("a name").to_string_lossy();
        let module = top.trim_end_matches(".rs").to_owned();
        if module == "lib" || module == "main" || file.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).expect("readable source");
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        let code = without_comments(code);
        let grouped = "crate::{";
        assert!(!code.contains(grouped), "{}: {grouped}", file.display());
        let names = imports.entry(module.clone()).or_default();
        for part in code.split("crate::").skip(1) {
            let name: String = part
                .chars()
                .take_while(|c| c.is_ascii_lowercase() || *c == '_')
                .collect();
            if !name.is_empty() && name != module && name != "crash_point" {
                names.insert(name);
            }
        }
    }
    imports
}

fn without_comments(code: &str) -> String {
    code.lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn rust_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
