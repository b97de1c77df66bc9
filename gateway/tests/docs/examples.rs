//! Every manifest in docs/examples, and in the README, is one that the gateway takes. Those for clusters alone, in
//! docs/examples/cluster, are tested with the chart.

use std::fs;

use portcullis_crds::names::DEFAULT_NAMESPACE;
use portcullis_crds::{Services, resolve};
use portcullis_gateway::source::manifests;

use super::generated::repository;

/// Panics unless the text holds McpServers and all of them are accepted.
fn take(what: &str, text: &str) {
    let servers = manifests::read(text).unwrap_or_else(|problem| panic!("{what}: {problem}")).unwrap_or_default();
    assert!(!servers.is_empty(), "{what} holds no McpServer");
    for verdict in resolve(&servers, DEFAULT_NAMESPACE, Services::Unknown).verdicts {
        assert_eq!(verdict.refusal, None, "{what}: {}", verdict.key);
    }
}

#[test]
fn every_example_is_accepted() {
    let folder = repository().join("docs/examples");
    let mut count = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        take(&path.display().to_string(), &fs::read_to_string(&path).unwrap());
        count += 1;
    }
    assert!(count >= 3, "only {count} examples");
}

#[test]
fn every_manifest_of_the_readme_is_accepted() {
    let text = fs::read_to_string(repository().join("README.md")).unwrap();
    let blocks: Vec<&str> = text.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert!(!blocks.is_empty(), "the README shows no manifest");
    for block in blocks {
        take(block, block);
    }
}

#[test]
fn a_manifest_with_a_mistake_would_be_noticed() {
    let wrong = "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: a}\nspec: {url: 'ftp://a/'}\n";
    assert!(std::panic::catch_unwind(|| take("wrong", wrong)).is_err());
}
