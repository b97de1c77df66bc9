//! The chart's files, and their rendering by Helm.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use portcullis_e2e::cluster::Cluster;
use serde::Deserialize as _;
use serde_json::Value;

/// The name of the release, and of its namespace, in everything that is only rendered.
pub const RELEASE: &str = "portcullis";
pub const NAMESPACE: &str = "portcullis-system";

/// A file or folder of the repository.
pub fn repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}

/// The folder of the chart.
pub fn folder() -> String {
    repository("helm/portcullis").display().to_string()
}

/// Each combination of values that is tested: its name, and its file.
pub fn combinations() -> BTreeMap<String, String> {
    let files = fs::read_dir(repository("helm/portcullis/ci")).expect("the folder is there");
    files
        .map(|entry| {
            let path = entry.expect("readable").path();
            let name = path.file_stem().expect("a file").to_string_lossy().into_owned();
            (name, path.display().to_string())
        })
        .collect()
}

/// Helm's rendering of the chart with these arguments, as text.
pub fn template(cluster: &Cluster, arguments: &[&str]) -> String {
    let chart = folder();
    let mut all = vec!["template", RELEASE, &chart, "--namespace", NAMESPACE];
    all.extend(arguments);
    cluster.helm(&all).good()
}

/// The objects in a text, by kind, namespace and name.
pub fn objects(text: &str) -> BTreeMap<String, Value> {
    let documents = serde_yaml::Deserializer::from_str(text);
    let values = documents.map(|document| Value::deserialize(document).expect("YAML"));
    let named = values.filter(|value| !value.is_null()).map(|value| {
        let at = |pointer| value.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (format!("{} {}/{}", at("/kind"), at("/metadata/namespace"), at("/metadata/name")), value)
    });
    named.collect()
}
