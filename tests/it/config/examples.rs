//! The examples: every file of config/ and every block of the README loads, and the annotated example has
//! every key and tells its default as it is.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sluice::config::{Config, Look};
use sluice::message::{DeadReason, WaitReason};

/// A file of the project, whatever folder the test runs in.
fn project(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

/// Whatever an example asks of its environment.
fn anything(name: &str) -> String {
    match name {
        "DATABASE_URL" => "postgres://sluice@localhost/engine".to_owned(),
        "AMQP_URI" => "amqp://localhost".to_owned(),
        "HTTP_PORT" => "9464".to_owned(),
        "HTTP_TOKEN" => "as-long-as-a-token".to_owned(),
        _ => format!("any-{}", name.to_ascii_lowercase()),
    }
}

/// Loads an example, which must not even be doubtful.
fn example(name: &str, text: &str) -> Config {
    match Config::parse(name, text, &|name| Some(anything(name))) {
        Ok((config, report)) if report.is_empty() => config,
        Ok((_, report)) | Err(report) => panic!("{}", report.render(Look::Plain)),
    }
}

#[test]
fn every_example_file_loads() {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(project("config")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        assert_eq!(path.extension().unwrap(), "toml", "{name}");
        example(&name, &std::fs::read_to_string(&path).unwrap());
        names.push(name);
    }
    assert!(names.contains(&"sluice.toml".to_owned()), "{names:?}");
}

#[test]
fn every_reason_and_every_alert_is_explained() {
    let readme = std::fs::read_to_string(project("README.md")).unwrap();
    let reasons = WaitReason::ALL
        .iter()
        .map(|reason| reason.as_str())
        .chain(DeadReason::ALL.iter().map(|reason| reason.as_str()));
    for reason in reasons {
        let lines = readme.matches(&format!("\n| `{reason}` |")).count();
        assert_eq!(lines, 1, "{reason}");
    }
    let dashboards = std::fs::read_to_string(project("dashboards/README.md")).unwrap();
    let alerts = std::fs::read_to_string(project("dashboards/prometheus/alerts.yml")).unwrap();
    let alerts = alerts
        .lines()
        .filter_map(|line| line.trim().strip_prefix("- alert: "));
    for alert in alerts {
        assert!(dashboards.contains(&format!("\n| `{alert}` |")), "{alert}");
    }
}

#[test]
fn every_block_of_the_readme_loads() {
    let text = std::fs::read_to_string(project("README.md")).unwrap();
    let mut rest = text.as_str();
    let mut blocks = 0;
    while let Some(at) = rest.find("```toml") {
        let (kind, block) = rest[at + 3..].split_once('\n').unwrap();
        let (block, after) = block.split_once("\n```").unwrap();
        // A fragment is a part of a file, and says so.
        if kind.trim() == "toml" {
            example(&format!("README.md, block {}", blocks + 1), block);
            blocks += 1;
        } else {
            assert_eq!(kind.trim(), "toml,fragment");
        }
        rest = after;
    }
    assert!(blocks > 0, "there is no block");
}

#[test]
fn every_link_of_the_documents_leads_somewhere() {
    let documents = [
        "README.md",
        "dashboards/README.md",
        "deploy/README.md",
        "src/cli/bench.md",
        "tests/chaos.md",
    ];
    let mut links = 0;
    for document in documents {
        let path = project(document);
        let text = std::fs::read_to_string(&path).unwrap();
        let targets = text.split("](").skip(1);
        for target in targets.filter_map(|rest| rest.split(')').next()) {
            if target.starts_with("https://") {
                continue;
            }
            let (file, anchor) = target.split_once('#').unwrap_or((target, ""));
            let to = match file {
                "" => path.clone(),
                _ => path.parent().unwrap().join(file),
            };
            let found = std::fs::read_to_string(&to);
            let found = found.unwrap_or_else(|error| panic!("{document}: {target}: {error}"));
            let leads = anchor.is_empty() || headings(&found).contains(anchor);
            assert!(leads, "{document}: {target}");
            links += 1;
        }
    }
    assert!(links > 5, "{links}");
}

/// The headings of a document, as GitHub makes anchors of them.
fn headings(text: &str) -> BTreeSet<String> {
    let headings = text
        .lines()
        .filter(|line| line.starts_with("## ") || line.starts_with("### "));
    let anchor = |heading: &str| {
        let words = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = words
            .chars()
            .filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

#[test]
fn the_first_route_has_what_it_names_before_a_command_reads_it() {
    let text = std::fs::read_to_string(project("README.md")).unwrap();
    let (_, section) = text.split_once("## A first route").unwrap();
    let (_, section) = section.split_once("```toml\n").unwrap();
    let (file, rest) = section.split_once("\n```").unwrap();
    let (_, commands) = rest.split_once("### Queue and topic").unwrap();
    let migrate = commands.find("sluice migrate").unwrap();
    let until_read = &commands[..migrate];
    for variable in file.split("${").skip(1) {
        let variable = variable.split('}').next().unwrap();
        let is_given = variable.contains(":-") || until_read.contains(&format!("{variable}="));
        assert!(is_given, "{variable}: {until_read}");
    }
    for made in ["declare queue name=payments", "--create --topic orders"] {
        assert!(until_read.contains(made), "{made}: {until_read}");
    }
}

/// The annotated example with some of its commented lines made real.
fn annotated(prefixes: &[&str]) -> String {
    let text = std::fs::read_to_string(project("config/sluice.toml")).unwrap();
    let mut out = String::new();
    for line in text.lines() {
        let real = prefixes.iter().find_map(|prefix| {
            let rest = line.strip_prefix(prefix)?;
            rest.starts_with(|c: char| c == '[' || c.is_ascii_lowercase())
                .then_some(rest)
        });
        out.push_str(real.unwrap_or(line));
        out.push('\n');
    }
    out
}

#[test]
fn the_annotated_example_tells_the_defaults_as_they_are() {
    let written = annotated(&["#"]);
    assert_ne!(written, annotated(&[]), "no default is shown");
    let written = example("sluice.toml", &written);
    let left_out = example("sluice.toml", &annotated(&[]));
    assert_eq!(format!("{written:#?}"), format!("{left_out:#?}"));
}

#[test]
fn the_annotated_example_has_every_key() {
    let text = annotated(&["#+", "#"]);
    example("sluice.toml", &text);
    let tree: toml::Table = text.parse().unwrap();
    let mut written = BTreeSet::new();
    keys_of(&toml::Value::Table(tree), "", &mut written);
    let schema = sluice::config::json_schema();
    let mut possible = BTreeSet::new();
    keys_of_schema(&schema, &schema, "", &mut possible);
    assert!(possible.len() > 100, "{possible:?}");
    let missing: Vec<_> = possible
        .iter()
        // A secret and the file that holds it exclude each other: one of them is enough.
        .filter(|key| !written.contains(*key) && !key.ends_with("_file"))
        // Mapped as process variables are, which is shown once.
        .filter(|key| {
            !key.contains(".correlation_keys.")
                && !key.contains(".start.variables.")
                && !key.contains(".apply.variables.")
        })
        .collect();
    assert_eq!(missing, Vec::<&String>::new());
}

/// The keys of a file, with the names that users choose as `*`, and without what stands in lists.
fn keys_of(value: &toml::Value, path: &str, found: &mut BTreeSet<String>) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let free = matches!(path, "sources" | "engines" | "routes")
                    || [".variables", ".correlation_keys"]
                        .iter()
                        .any(|free| path.ends_with(free));
                let key = if free { "*" } else { key };
                let path = format!("{path}.{key}").trim_start_matches('.').to_owned();
                keys_of(value, &path, found);
                found.insert(path);
            }
        }
        toml::Value::Array(values) => values.iter().for_each(|value| keys_of(value, path, found)),
        _ => {}
    }
}

/// The keys that the schema knows.
fn keys_of_schema(
    schema: &serde_json::Value,
    root: &serde_json::Value,
    path: &str,
    found: &mut BTreeSet<String>,
) {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = root.pointer(reference.trim_start_matches('#')).unwrap();
        // The value of a queue's argument may hold lists of itself.
        if !reference.ends_with("/Argument") {
            keys_of_schema(target, root, path, found);
        }
    }
    for (key, property) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{key}").trim_start_matches('.').to_owned();
        keys_of_schema(property, root, &path, found);
        found.insert(path);
    }
    if schema["additionalProperties"].is_object() && !path.ends_with("librdkafka_options") {
        let path = format!("{path}.*");
        keys_of_schema(&schema["additionalProperties"], root, &path, found);
    }
    for one in schema["anyOf"].as_array().into_iter().flatten() {
        keys_of_schema(one, root, path, found);
    }
}
