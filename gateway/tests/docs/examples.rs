//! Every manifest in docs/examples, in the README and in the pages is one that the gateway takes, policies among them. Those for clusters alone, in
//! docs/examples/cluster, are tested with the chart.

use std::fs;

use portcullis_access::CompiledPolicy;
use portcullis_crds::names::DEFAULT_NAMESPACE;
use portcullis_crds::{Policies, Reason, Services, resolve};
use portcullis_gateway::source::manifests;

use super::generated::repository;

/// Panics unless the text holds McpServers, McpAccessPolicies or McpViews, and all of them are accepted. A Service can be found only in a cluster.
fn take(what: &str, text: &str) {
    let all = manifests::read(text).unwrap_or_else(|problem| panic!("{what}: {problem}")).unwrap_or_default();
    let is_empty = all.servers.is_empty() && all.policies.is_empty() && all.views.is_empty();
    assert!(!is_empty, "{what} holds neither McpServer, McpAccessPolicy nor McpView");
    for view in &all.views {
        assert_eq!(view.view.as_ref().err(), None, "{what}");
    }
    for policy in &all.policies {
        let compiled = CompiledPolicy::of(&policy.policy);
        assert_eq!((&policy.problems, &compiled.problems), (&Vec::new(), &Vec::new()), "{what}");
    }
    for verdict in resolve(&all.servers, &Policies::default(), DEFAULT_NAMESPACE, Services::Unknown).verdicts {
        let refusal = verdict.refusal.filter(|refusal| refusal.reason != Reason::ServiceNotFound);
        assert_eq!(refusal, None, "{what}: {}", verdict.key);
    }
}

#[test]
fn every_example_is_accepted() {
    let folders = ["docs/examples", "docs/examples/access/manifests"].map(|folder| repository().join(folder));
    let mut count = 0;
    for entry in folders.iter().flat_map(|folder| fs::read_dir(folder).unwrap()) {
        let path = entry.unwrap().path();
        if path.is_dir() {
            continue;
        }
        take(&path.display().to_string(), &fs::read_to_string(&path).unwrap());
        count += 1;
    }
    assert!(count >= 4, "only {count} examples");
}

/// The McpServers, McpAccessPolicies and McpViews in the YAML blocks of a page.
fn manifests_of(page: &str) -> Vec<String> {
    let blocks = page.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let documents = blocks.flat_map(|block| block.split("---\n"));
    let is_ours = |document: &&str| {
        ["kind: McpServer\n", "kind: McpAccessPolicy\n", "kind: McpView\n"].iter().any(|kind| document.contains(kind))
    };
    documents.filter(is_ours).map(str::to_owned).collect()
}

#[test]
fn every_manifest_of_the_readme_and_the_pages_is_accepted() {
    let pages = fs::read_dir(repository().join("docs")).unwrap().map(|entry| entry.unwrap().path());
    let pages = pages.filter(|path| path.extension().is_some_and(|it| it == "md"));
    let mut with_manifests = Vec::new();
    for path in pages.chain([repository().join("README.md")]) {
        let manifests = manifests_of(&fs::read_to_string(&path).unwrap());
        manifests.iter().for_each(|manifest| take(&format!("{}: {manifest}", path.display()), manifest));
        if !manifests.is_empty() {
            with_manifests.push(path.file_name().unwrap().to_str().unwrap().to_owned());
        }
    }
    with_manifests.sort();
    let expected = [
        "README.md",
        "assertions.md",
        "authorization-servers.md",
        "credentials.md",
        "identity.md",
        "manifests.md",
        "mcp.md",
        "policies.md",
        "views.md",
    ];
    assert_eq!(with_manifests, expected);
}

#[test]
fn a_manifest_with_a_mistake_would_be_noticed() {
    let wrong = "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: a}\nspec: {url: 'ftp://a/'}\n";
    assert!(std::panic::catch_unwind(|| take("wrong", wrong)).is_err());
    let policy = "apiVersion: portcullis.dev/v1alpha1\nkind: McpAccessPolicy\nmetadata: {name: a}\nspec: {rules: [{name: r, from: [{authenticated: true}], allow: [{tools: ['*']}], when: 'args.x =='}]}\n";
    assert!(std::panic::catch_unwind(|| take("wrong", policy)).is_err());
}
