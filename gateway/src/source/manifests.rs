//! Parses manifests of McpServers, McpAccessPolicies and McpViews in YAML, exactly as `kubectl apply` accepts them.
//!
//! Pure. As strict as the API server: an unknown field is refused, because it is usually a typing error.

use portcullis_crds::names::{DEFAULT_NAMESPACE, GROUP};
use portcullis_crds::rules::without_values;
use portcullis_crds::yaml;
use portcullis_crds::{McpServer, ReadPolicy, ReadView};
use serde::Deserialize;
use serde_yaml::Value;

/// The kind of a document.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct DocumentHead {
    api_version: Option<String>,
    kind: Option<String>,
    #[serde(default)]
    items: Vec<Value>,
}

/// What a text declares.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Manifests {
    /// Its McpServers.
    pub servers: Vec<McpServer>,
    /// Its McpAccessPolicies. What cannot be read of one allows nothing.
    pub policies: Vec<ReadPolicy>,
    /// Its McpViews. One with any problem is not served.
    pub views: Vec<ReadView>,
}

/// Parses all McpServers, McpAccessPolicies and McpViews of a text; skips documents of other kinds, which files for `kubectl`
/// may contain. `None` for a text without any document: usually a file that is just being written.
///
/// # Errors
/// One sentence, with the number of the document if there are several.
pub fn read(text: &str) -> Result<Option<Manifests>, String> {
    yaml::check(text).map_err(|problem| without_values(&problem))?;
    let mut manifests = Manifests::default();
    let mut documents = 0;
    for (index, document) in serde_yaml::Deserializer::from_str(text).enumerate() {
        let within = |problem: String| if index > 0 { format!("document {}: {problem}", index + 1) } else { problem };
        let value = Value::deserialize(document).map_err(|error| within(without_values(&error.to_string())))?;
        if !value.is_null() {
            documents += 1;
            read_document(value, &mut manifests).map_err(within)?;
        }
    }
    if documents == 0 { Ok(None) } else { Ok(Some(manifests)) }
}

fn read_document(value: Value, manifests: &mut Manifests) -> Result<(), String> {
    let head: DocumentHead = serde_yaml::from_value(value.clone())
        .map_err(|_| "it is not a Kubernetes object: it needs apiVersion, kind, metadata and spec".to_owned())?;
    match (head.api_version.as_deref(), head.kind.as_deref()) {
        (Some("v1"), Some("List")) => head.items.into_iter().try_for_each(|item| read_document(item, manifests)),
        (Some(version), Some(kind @ ("McpServer" | "McpAccessPolicy" | "McpView"))) if version.starts_with(GROUP) => {
            if version != format!("{GROUP}/v1alpha1") {
                return Err(format!("apiVersion {version:?} is not known: use {GROUP}/v1alpha1"));
            }
            match kind {
                "McpServer" => manifests.servers.push(read_server(value)?),
                "McpView" => manifests.views.push(ReadView::of(&json_of(&value, kind)?, DEFAULT_NAMESPACE)),
                _ => manifests.policies.push(ReadPolicy::of(&json_of(&value, kind)?)),
            }
            Ok(())
        }
        (Some(version), Some("McpServer" | "McpAccessPolicy" | "McpView")) => {
            Err(format!("apiVersion is {version:?}: use {GROUP}/v1alpha1"))
        }
        (Some(_), Some(_)) => Ok(()),
        _ => Err("apiVersion or kind is missing".into()),
    }
}

fn read_server(value: Value) -> Result<McpServer, String> {
    let name = value.get("metadata").and_then(|metadata| metadata.get("name")).and_then(Value::as_str);
    let name = name.ok_or("metadata.name is missing")?.to_owned();
    let mut unknown = Vec::new();
    let mut track = serde_path_to_error::Track::new();
    let tracked = serde_path_to_error::Deserializer::new(value, &mut track);
    let server = serde_ignored::deserialize(tracked, |path| unknown.push(path.to_string()));
    let server: McpServer = server
        .map_err(|error| format!("McpServer {name}: {}: {}", track.path(), without_values(&error.to_string())))?;
    // The head was parsed before; metadata is left to the API server and kubectl.
    unknown.retain(|path| path.starts_with("spec") || !known_at_the_top(path));
    if unknown.is_empty() { Ok(server) } else { Err(format!("McpServer {name}: unknown field {}", unknown.join(", "))) }
}

/// A policy or a view as JSON, which has a name.
fn json_of(value: &Value, kind: &str) -> Result<serde_json::Value, String> {
    let object = serde_json::to_value(value).map_err(|_| format!("an {kind} has a member that is not a text"))?;
    if object["metadata"]["name"].as_str().is_none_or(str::is_empty) {
        return Err(format!("{kind}: metadata.name is missing"));
    }
    Ok(object)
}

fn known_at_the_top(path: &str) -> bool {
    let first = path.split('.').next().unwrap_or_default();
    ["apiVersion", "kind", "metadata", "status"].contains(&first)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(text: &str) -> Result<Vec<String>, String> {
        read(text).map(|manifests| {
            manifests.into_iter().flat_map(|all| all.servers).filter_map(|server| server.metadata.name).collect()
        })
    }

    const A: &str =
        "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: a}\nspec: {url: http://a/}\n";

    #[test]
    fn documents_lists_and_strangers_are_told_apart() {
        let other = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\n";
        let list = "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: portcullis.dev/v1alpha1, kind: McpServer, metadata: {name: b}, spec: {url: 'http://b/'}}\n";
        let text = format!("---\n{A}---\n{other}---\n---\n{list}");
        assert_eq!(names(&text), Ok(vec!["a".into(), "b".into()]));
        assert_eq!(names(""), Ok(vec![]));
        assert_eq!(names("# nothing\n"), Ok(vec![]));
    }

    #[test]
    fn mistakes_are_named() {
        let cases = [
            ("kind: McpServer\n", "apiVersion or kind is missing"),
            ("apiVersion: portcullis.dev/v2\nkind: McpServer\nmetadata: {name: a}\n", "use portcullis.dev/v1alpha1"),
            ("apiVersion: other/v1\nkind: McpServer\n", "use portcullis.dev/v1alpha1"),
            ("- 1\n", "not a Kubernetes object"),
            ("a: [\n", "line"),
            (
                "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nspec: {url: 'http://a/'}\n",
                "metadata.name is missing",
            ),
            (
                "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: a}\nspec: {url: 'http://a/', transprot: sse}\n",
                "unknown field spec.transprot",
            ),
            (
                "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: a}\nspec: {url: 'http://a/', transport: smoke}\n",
                "smoke",
            ),
            (
                "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: a}\nspec: {url: 'http://a/', weight: heavy}\n",
                "weight",
            ),
        ];
        for (text, expected) in cases {
            let problem = names(text).unwrap_err();
            assert!(problem.contains(expected), "{text:?} gives {problem:?}");
        }
        assert!(names(&format!("{A}---\na: [\n")).unwrap_err().starts_with("document 2: "));
    }

    #[test]
    fn a_value_in_the_wrong_place_is_not_repeated() {
        let text = "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: a}\nspec: {url: 'http://a/', headers: 'Bearer \"s3cret\" x'}\n";
        let problem = names(text).unwrap_err();
        assert!(problem.contains("spec.headers") && !problem.contains("s3cret"), "{problem}");
    }

    #[test]
    fn an_alias_bomb_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for n in 1..12 {
            let before = format!("*a{}, ", n - 1).repeat(10);
            text.push_str(&format!("a{n}: &a{n} [{}]\n", before.trim_end_matches(", ")));
        }
        assert!(names(&text).is_err());
    }
}
