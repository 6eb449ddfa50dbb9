//! The JSON Schema of the file, for editors.

use serde_json::{Map, Value, json};

use super::Config;
use super::walk::SECRETS;

/// The schema of a configuration file, with what is true of every file: secrets may stand in files of
/// their own, and every value may come from the environment.
pub fn json_schema() -> Value {
    let mut schema = schemars::schema_for!(Config).to_value();
    schema["title"] = json!("Sluice");
    schema["additionalProperties"] = json!(false);
    // The default is the host's name: of the machine that prints the schema.
    if let Some(name) = schema.pointer_mut("/$defs/NodeConfig/properties/name")
        && let Some(name) = name.as_object_mut()
    {
        name.remove("default");
    }
    each_object(&mut schema, &mut |object| {
        secrets_in_files(object);
        values_from_the_environment(object);
    });
    schema
}

/// The inner ones first, so that what is put in is not visited.
fn each_object(value: &mut Value, change: &mut impl FnMut(&mut Map<String, Value>)) {
    match value {
        Value::Object(object) => {
            object
                .values_mut()
                .for_each(|value| each_object(value, change));
            change(object);
        }
        Value::Array(values) => values
            .iter_mut()
            .for_each(|value| each_object(value, change)),
        _ => {}
    }
}

/// Beside every secret stands `SECRET_file`, and one of them is enough.
fn secrets_in_files(object: &mut Map<String, Value>) {
    let Some(Value::Object(properties)) = object.get_mut("properties") else {
        return;
    };
    let mut found = Vec::new();
    for secret in SECRETS {
        let file = format!("{secret}_file");
        if properties.contains_key(secret) && !properties.contains_key(&file) {
            let description = format!("A file that holds `{secret}` and nothing else.");
            let property = json!({ "type": "string", "description": description });
            properties.insert(file.clone(), property);
            found.push((secret, file));
        }
    }
    let Some(Value::Array(required)) = object.get_mut("required") else {
        return;
    };
    let mut either = Vec::new();
    for (secret, file) in found {
        let before = required.len();
        required.retain(|name| name != secret);
        if required.len() < before {
            either.push(json!({ "oneOf": [{ "required": [secret] }, { "required": [file] }] }));
        }
    }
    if !either.is_empty() {
        object.insert("allOf".to_owned(), Value::Array(either));
    }
}

/// `"${PREFETCH}"` is as good as a number.
fn values_from_the_environment(object: &mut Map<String, Value>) {
    let Some(Value::String(kind)) = object.get("type") else {
        return;
    };
    if !matches!(kind.as_str(), "integer" | "number" | "boolean") {
        return;
    }
    let moved = ["type", "format", "minimum", "maximum"];
    let mut plain = Map::new();
    for key in moved {
        if let Some(value) = object.remove(key) {
            plain.insert(key.to_owned(), value);
        }
    }
    let variable = json!({ "type": "string", "pattern": "\\$\\{" });
    object.insert("anyOf".to_owned(), json!([plain, variable]));
}
