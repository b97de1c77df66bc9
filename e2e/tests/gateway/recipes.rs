//! The recipes of docs/policies.md, applied to a folder of servers, allow and deny what their text says.

use portcullis_e2e::binary;
use portcullis_e2e::manifests::Manifests;

/// The servers of each folder.
const SERVERS: &str = "apiVersion: portcullis.dev/v1alpha1
kind: McpServer
metadata: {name: search, labels: {tier: public}}
spec: {url: 'http://search.invalid/mcp'}
---
apiVersion: portcullis.dev/v1alpha1
kind: McpServer
metadata: {name: files}
spec: {url: 'http://files.invalid/mcp'}
---
apiVersion: portcullis.dev/v1alpha1
kind: McpServer
metadata: {name: reports}
spec: {url: 'http://reports.invalid/mcp'}
";

/// For each recipe the first policy's name, and what must hold; what both servers say alike names none.
const RECIPES: [(&str, &[&str]); 10] = [
    (
        "read-only",
        &[
            "{as: a, tool: x, hints: {readOnly: true}, expect: allowed, rule: everybody-reads}",
            "{as: a, tool: x, expect: denied}",
            "{as: a, prompt: x, expect: denied}",
        ],
    ),
    (
        "own-namespace",
        &[
            "{as: 'system:serviceaccount:team-a:x', tool: x, expect: allowed}",
            "{as: 'system:serviceaccount:team-a:x', resource: 'x:1', expect: allowed, rule: own-pods}",
            "{as: 'system:serviceaccount:team-b:x', tool: x, expect: denied}",
            "{as: 'system:serviceaccount:team-a:x', issuer: 'https://idp.example.com', tool: x, expect: denied}",
        ],
    ),
    (
        "sre-group",
        &[
            "{as: a, issuer: 'https://idp.example.com', claims: {groups: [x, sre]}, tool: x, expect: allowed, rule: sre}",
            "{as: a, issuer: 'https://idp.example.com', claims: {groups: sre-berlin}, tool: x, expect: allowed}",
            "{as: a, issuer: 'https://idp.example.com', claims: {groups: [ml]}, tool: x, expect: denied}",
            "{as: a, issuer: 'https://other.example.com', claims: {groups: [sre]}, tool: x, expect: denied}",
        ],
    ),
    (
        "deny-all",
        &[
            "{as: a, server: search, tool: search, expect: allowed, rule: but-search/everybody}",
            "{as: a, server: search, tool: x, expect: denied}",
            "{as: a, server: files, tool: search, expect: denied}",
        ],
    ),
    (
        "public-servers",
        &[
            "{as: a, server: search, tool: x, expect: allowed, rule: public-servers/everybody}",
            "{as: a, server: search, prompt: x, expect: denied}",
            "{as: a, server: files, prompt: x, expect: allowed}",
        ],
    ),
    (
        "public-files",
        &[
            "{as: a, server: files, resource: 'file:///public/a', expect: allowed, rule: everybody-reads-public}",
            "{as: a, server: files, resource: 'file:///etc/passwd', expect: denied}",
            "{as: a, server: search, resource: 'file:///etc/passwd', expect: allowed}",
        ],
    ),
    (
        "working-hours",
        &[
            "{as: a, tool: deploy_x, now: '2026-12-01T09:00:00Z', expect: allowed, rule: by-day}",
            "{as: a, tool: deploy_x, now: '2026-12-01T17:00:00Z', expect: denied}",
            "{as: a, tool: deploy_x, now: '2026-12-05T09:00:00Z', expect: denied}",
            "{as: a, tool: x, now: '2026-12-01T09:00:00Z', expect: denied}",
        ],
    ),
    (
        "own-rows",
        &[
            "{as: a, issuer: 'https://idp.example.com', claims: {groups: [sre]}, server: search, tool: query, args: {limit: 100, team: sre}, expect: allowed}",
            "{as: a, issuer: 'https://idp.example.com', claims: {groups: [sre]}, server: search, tool: query, args: {limit: 101, team: sre}, expect: denied, rule: short-queries}",
            "{as: a, issuer: 'https://idp.example.com', claims: {groups: [sre]}, server: search, tool: query, args: {limit: 1, team: ml}, expect: denied}",
            "{as: a, issuer: 'https://idp.example.com', server: search, tool: query, args: {limit: 1, team: ml}, expect: denied}",
        ],
    ),
    ("to-come", &["{as: a, tool: x, expect: allowed}", "{as: a, resource: 'x:1', expect: allowed}"]),
    (
        "reports",
        &[
            "{as: 'system:serviceaccount:team-a:x', server: reports, tool: render, expect: allowed, rule: team-a}",
            "{as: a, server: reports, tool: render, expect: allowed, rule: everybody-together}",
            "{as: a, server: reports, tool: x, expect: denied}",
        ],
    ),
];

/// The name of the first policy of each recipe, and its YAML.
fn recipes() -> Vec<(String, String)> {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/policies.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let part = page.split("\n## ").find(|part| part.starts_with("Recipes\n")).expect("recipes");
    let blocks = part.split("```yaml\n").skip(1).filter_map(|rest| rest.split("```").next());
    let named = blocks.map(|block| {
        let name = block.lines().find_map(|line| line.strip_prefix("  name: ")).expect("a name");
        (name.to_owned(), block.to_owned())
    });
    named.collect()
}

#[test]
fn every_recipe_allows_and_denies_what_it_says() {
    let recipes = recipes();
    let names: Vec<&str> = recipes.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, RECIPES.map(|(name, _)| name));
    for ((name, yaml), (_, tests)) in recipes.iter().zip(RECIPES) {
        let manifests = Manifests::new();
        manifests.write("servers.yaml", SERVERS);
        manifests.write("policies.yaml", yaml);
        let file = manifests.secrets().join("tests.yaml");
        std::fs::write(&file, tests.iter().map(|test| format!("- {test}\n")).collect::<String>()).expect("a file");
        let [servers, file] = [manifests.servers(), file].map(|path| path.display().to_string());

        let end = binary::run(&["explain", "--servers", &servers, "--tests", &file], &[]);

        assert_eq!(end.code, Some(0), "{name}: {}{}", end.stdout, end.stderr);
    }
}
