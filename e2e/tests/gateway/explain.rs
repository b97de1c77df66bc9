//! `portcullis-gateway explain`: what it prints, and its exit codes.

use std::path::PathBuf;

use portcullis_e2e::binary::{self, CommandEnd};
use portcullis_e2e::manifests::Manifests;
use serde_json::{Value, json};

const POD: &str = "system:serviceaccount:agents:agent-1";

const POLICIES: &str = "apiVersion: portcullis.dev/v1alpha1
kind: McpAccessPolicy
metadata: {name: readers, namespace: team-a}
spec:
  servers: {names: [search]}
  rules:
    - name: agents-may-read
      from: [{serviceAccount: {namespace: agents, name: 'agent-*'}}]
      allow: [{tools: ['get_*']}, {prompts: [summary]}, {resources: ['file:///public/*']}]
    - name: small
      from: [{serviceAccount: {namespace: agents, name: '*'}}]
      allow: [{tools: [query]}]
      when: args.limit <= 100
    - name: by-day
      from: [{serviceAccount: {namespace: agents, name: '*'}}]
      allow: [{tools: [deploy]}]
      when: now.getHours() >= 8 && now.getHours() < 17
    - name: safe
      from: [{issuer: 'https://idp.example.com', claims: [{path: realm_access.roles, values: [viewer]}]}]
      allow: [{hints: {readOnly: true}}]
    - name: alice
      from: [{subject: alice}]
      allow: [{tools: [get_x]}]
---
apiVersion: portcullis.dev/v1alpha1
kind: McpAccessPolicy
metadata: {name: audited}
spec: {mode: Audit}
";

/// A folder with `team-a/search`, by its Service, which the policy governs, and `files`, which is open.
struct Stage {
    manifests: Manifests,
}

impl Stage {
    fn new() -> Self {
        let manifests = Manifests::new();
        let search = "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: search, namespace: team-a}\nspec: {service: {name: s, port: mcp}, tools: {prefix: s, exclude: [get_hidden], overrides: [{name: look, annotations: {readOnlyHint: true}}]}}\n";
        manifests.write("search.yaml", search);
        manifests.add("files", "http://files.invalid/mcp", "");
        manifests.write("policies.yaml", POLICIES);
        Self { manifests }
    }

    fn run(&self, arguments: &[&str]) -> CommandEnd {
        let servers = self.manifests.servers();
        let all = [&["explain", "--servers", servers.to_str().expect("a path")], arguments].concat();
        binary::run(&all, &[])
    }

    /// Exit code and output of a question about `team-a/search`.
    fn ask(&self, arguments: &[&str]) -> (i32, String) {
        let end = self.run(&[arguments, &["--server", "team-a/search"]].concat());
        (end.code.expect("it exits"), end.stdout + &end.stderr)
    }

    /// A file beside the folder.
    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.manifests.secrets().join(name);
        std::fs::write(&path, text).expect("a file");
        path
    }
}

fn line(verdict: &str, rule: &str, reason: &str) -> String {
    format!("{verdict}  team-a/search  {rule}  {reason}\n")
}

#[test]
fn the_exit_code_says_whether_it_is_allowed_and_a_line_why() {
    let stage = Stage::new();
    let args = |text: &str| stage.file("args.json", text).to_str().expect("a path").to_owned();
    let rule = |name: &str| format!("team-a/readers/{name}");
    let (read, small, day) = (rule("agents-may-read"), rule("small"), rule("by-day"));
    let allows = |name: &str| format!("rule {name} of policy team-a/readers allows it");
    let named = |name: &str| format!("{}; callers use it as s__{name}", allows("agents-may-read"));
    let no_rule = "no rule that speaks of this caller allows this";
    for (arguments, code, printed) in [
        (vec!["--as", POD, "--tool", "get_x"], 0, line("ALLOWED", &read, &named("get_x"))),
        (vec!["--as", POD, "--prompt", "summary"], 0, line("ALLOWED", &read, &allows("agents-may-read"))),
        (vec!["--as", POD, "--prompt", "other"], 1, line("DENIED", "-", &format!("{no_rule} prompt"))),
        (vec!["--as", POD, "--resource", "file:///public/a"], 0, line("ALLOWED", &read, &allows("agents-may-read"))),
        (vec!["--as", POD, "--resource", "file:///a"], 1, line("DENIED", "-", &format!("{no_rule} resource"))),
        (
            vec!["--as", POD, "--tool", "get_hidden"],
            1,
            line("DENIED", "-", "spec.tools of the McpServer does not offer this tool"),
        ),
        (
            vec!["--as", POD, "--issuer", "https://idp.example.com", "--tool", "get_x"],
            1,
            line("DENIED", "-", "no rule speaks of this caller; callers use it as s__get_x"),
        ),
        (
            vec!["--as", POD, "--tool", "query"],
            1,
            line(
                "DEPENDS",
                &small,
                &format!(
                    "{} for some arguments only: give them with --args FILE; callers use it as s__query",
                    allows("small")
                ),
            ),
        ),
        (
            vec!["--as", POD, "--tool", "deploy", "--now", "2026-01-31T12:00:00Z"],
            0,
            line("ALLOWED", &day, &format!("{}; callers use it as s__deploy", allows("by-day"))),
        ),
        (
            vec!["--as", POD, "--tool", "deploy", "--now", "2026-01-31T20:00:00Z"],
            1,
            line(
                "DENIED",
                &day,
                "the condition of rule by-day of policy team-a/readers does not hold; callers use it as s__deploy",
            ),
        ),
        (
            vec!["--as", "bob", "--tool", "get_x"],
            1,
            line("DENIED", "-", "no rule speaks of this caller; callers use it as s__get_x"),
        ),
    ] {
        assert_eq!(stage.ask(&arguments), (code, printed), "{arguments:?}");
    }
    let long = format!(r#"{{"limit":1,"x":"{}"}}"#, "x".repeat(300_000));
    for (text, code, expected) in [
        (r#"{"limit":100}"#, 0, "ALLOWED"),
        (r#"{"limit":101}"#, 1, "the condition of rule small of policy team-a/readers does not hold"),
        ("{}", 1, "cannot be evaluated: there is no \"limit\""),
        (&*long, 1, "cannot be evaluated: the arguments cannot be read"),
    ] {
        let (found, printed) = stage.ask(&["--as", POD, "--tool", "query", "--args", &args(text)]);
        assert!(found == code && printed.contains(expected), "{text:.40}: {found} {printed}");
    }
}

#[test]
fn claims_hints_and_the_issuer_count() {
    let stage = Stage::new();
    let idp = ["--as", "carol", "--issuer", "https://idp.example.com", "--tool"];
    let viewer = ["--claim", "realm_access.roles=[\"viewer\"]"];
    for (arguments, code) in [
        ([&idp[..], &["write"], &viewer].concat(), 1),
        ([&idp[..], &["write"], &viewer, &["--hint", "readOnly=true"]].concat(), 0),
        ([&idp[..], &["write", "--hint", "readOnly=true"]].concat(), 1),
        // The McpServer says that this one is read-only.
        ([&idp[..], &["look"], &viewer].concat(), 0),
        (vec!["--as", "carol", "--tool", "look", viewer[0], viewer[1]], 1),
    ] {
        let (found, printed) = stage.ask(&arguments);
        assert_eq!(found, code, "{arguments:?}: {printed}");
    }
    let (code, printed) = stage.ask(&["--as", "alice", "--tool", "get_x"]);
    assert!(code == 1 && printed.contains("see --single-issuer"), "{printed}");
    assert_eq!(stage.ask(&["--as", "alice", "--tool", "get_x", "--single-issuer"]).0, 0);
}

#[test]
fn all_servers_of_a_folder_must_agree_or_one_be_named() {
    let stage = Stage::new();
    let disagree = stage.run(&["--as", "bob", "--tool", "get_x"]);
    assert_eq!(disagree.code, Some(2));
    assert_eq!(disagree.stderr, "portcullis-gateway: the servers disagree: name one with --server\n");
    let expected = "ALLOWED  files          -  no policy restricts the server\nDENIED   team-a/search  -  no rule speaks of this caller; callers use it as s__get_x\n";
    assert_eq!(disagree.stdout, expected);
    assert_eq!(stage.run(&["--as", POD, "--tool", "get_x"]).code, Some(0));
    let closed = stage.run(&["--as", "bob", "--tool", "get_x", "--policy-default", "Deny"]);
    assert_eq!(closed.code, Some(1), "{}", closed.stdout);
    assert!(closed.stdout.contains("no policy opens the server, and POLICY_DEFAULT is Deny"), "{}", closed.stdout);
    for name in ["search", "team-a/search"] {
        assert_eq!(stage.run(&["--as", "bob", "--tool", "get_x", "--server", name]).code, Some(1), "{name}");
    }
    let unknown = stage.run(&["--as", "bob", "--tool", "get_x", "--server", "nope"]);
    let problem =
        "portcullis-gateway: there is no McpServer \"nope\" in the manifests: use one of files, team-a/search\n";
    assert_eq!((unknown.code, unknown.stderr.as_str()), (Some(2), problem));
    stage.manifests.add_in("team-b", "search", "http://b.invalid/", "");
    let two = stage.run(&["--as", "bob", "--tool", "get_x", "--server", "search"]);
    assert_eq!(
        (two.code, two.stderr.as_str()),
        (Some(2), "portcullis-gateway: several namespaces have an McpServer \"search\": write NAMESPACE/search\n")
    );
}

#[test]
fn the_answer_in_json_has_the_form_of_rest() {
    let stage = Stage::new();
    let end = stage.run(&["--as", POD, "--tool", "query", "--server", "team-a/search", "--json"]);
    assert_eq!((end.code, end.stderr.as_str()), (Some(1), ""));
    let answer: Value = serde_json::from_str(&end.stdout).expect("JSON");
    let rules = json!([
        {"rule": "agents-may-read", "result": "other_items"},
        {"rule": "small", "result": "depends_on_arguments"},
        {"rule": "by-day", "result": "other_items"},
    ]);
    let expected = json!({
        "caller": {"subject": POD, "issuer": null, "service_account": {"namespace": "agents", "name": "agent-1"}},
        "tool": "query",
        "allowed": false,
        "depends_on_arguments": true,
        "servers": [{
            "server": "team-a/search",
            "own_name": "query",
            "name": "s__query",
            "state": null,
            "healthy": null,
            "allowed": false,
            "depends_on_arguments": true,
            "reason": "rule small of policy team-a/readers allows it for some arguments only",
            "by": {"policy": "team-a/readers", "rule": "small"},
            "policies": [{"policy": "team-a/readers", "mode": "Enforce", "rules": rules, "other_rules": 2}],
            "limit": null,
        }],
        "servers_count": 1,
    });
    assert_eq!(answer, expected);
    let audited = stage.run(&["--as", "bob", "--tool", "x", "--server", "files", "--json"]);
    let answer: Value = serde_json::from_str(&audited.stdout).expect("JSON");
    let policies = json!([{"policy": "default/audited", "mode": "Audit", "rules": [], "other_rules": 0}]);
    assert_eq!((audited.code, &answer["servers"][0]["policies"]), (Some(0), &policies));
}

#[test]
fn what_cannot_be_answered_ends_with_code_two_and_says_what_to_do() {
    let stage = Stage::new();
    let big = stage.file("big.json", &format!("{{\"x\":\"{}\"}}", "x".repeat(1024 * 1024)));
    let deep = stage.file("deep.json", &format!("{{\"a\":{}}}", "[".repeat(1_000)));
    let list = stage.file("list.json", "[]");
    let path = |path: &PathBuf| path.to_str().expect("a path").to_owned();
    let (big, deep, list) = (path(&big), path(&deep), path(&list));
    let nested = format!("a={}{}", "[".repeat(1_000), "]".repeat(1_000));
    let far = format!("{}=1", vec!["a"; 1_000].join("."));
    let ask = ["--as", POD, "--tool", "query"];
    for (more, expected) in [
        (vec!["--args", &*big], "the arguments must be one JSON object of at most 1 MiB"),
        (vec!["--args", &*deep], "the arguments must be one JSON object of at most 1 MiB"),
        (vec!["--args", &*list], "the arguments must be one JSON object of at most 1 MiB"),
        (vec!["--args", "-"], "the arguments must be one JSON object of at most 1 MiB"),
        (vec!["--args", "/nowhere"], "cannot read /nowhere: entity not found"),
        (vec!["--claim", &*nested], "the claim \"a\" begins like JSON but is not valid JSON"),
        (vec!["--claim", &*far], "the path of a claim has at most 256 bytes and 32 parts"),
        (vec!["--claim", "sub=other"], "the claim \"sub\" cannot be given"),
        (vec!["--claim", "groups"], "a claim must have the form PATH=VALUE"),
        (vec!["--hint", "readonly=true"], "a hint is one of readOnly, destructive, idempotent, openWorld"),
        (vec!["--now", "noon"], "a time has the form 2026-01-31T12:00:00Z"),
        (vec!["--prompt", "x"], "cannot be used with"),
        (vec!["--tests", "x"], "cannot be used with"),
        (vec!["--policy-default", "Maybe"], "POLICY_DEFAULT must be Allow or Deny"),
        (vec!["--port", "1"], "explain does not use it"),
    ] {
        let (code, printed) = stage.ask(&[&ask[..], &more].concat());
        assert!(code == 2 && printed.contains(expected), "{expected}: {code} {printed}");
    }
    assert_eq!(stage.ask(&["--as", POD]).0, 2, "there is no item");
    assert_eq!(stage.ask(&["--tool", "x"]).0, 2, "there is no caller");
    let none = binary::run(&["explain", "--as", "a", "--tool", "b"], &[]);
    let problem = "portcullis-gateway: name the folder of manifests: give --servers DIR\n";
    assert_eq!((none.code, none.stderr.as_str()), (Some(2), problem));
}

#[test]
fn manifests_with_a_mistake_are_not_explained() {
    for (file, text, expected) in [
        ("policies.yaml", "kind: [", "policies.yaml: "),
        (
            "policies.yaml",
            &POLICIES.replace("args.limit <= 100", "args.limit <="),
            "McpAccessPolicy team-a/readers: rule \"small\": when is not valid CEL",
        ),
        (
            "policies.yaml",
            &POLICIES.replace("agents-may-read", "small"),
            "McpAccessPolicy team-a/readers: rules[1]: the name \"small\" is taken",
        ),
        (
            "more.yaml",
            "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: x}\nspec: {url: 'ftp://x/'}\n",
            "McpServer default/x: url has scheme",
        ),
        (
            "more.yaml",
            "apiVersion: portcullis.dev/v1alpha1\nkind: McpServer\nmetadata: {name: x}\nspec: {service: {name: X, port: 1}}\n",
            "McpServer default/x: service.name",
        ),
        ("deep.yaml", &"[".repeat(1_000), "more than 64 levels"),
    ] {
        let stage = Stage::new();
        stage.manifests.write(file, text);
        let (code, printed) = stage.ask(&["--as", POD, "--tool", "get_x"]);
        assert!(code == 2 && printed.contains(expected), "{expected}: {code} {printed}");
        assert!(printed.starts_with("portcullis-gateway: the manifests cannot be used as they are:\n"), "{printed}");
    }
    let empty = Manifests::new();
    let servers = empty.servers();
    let end =
        binary::run(&["explain", "--servers", servers.to_str().expect("a path"), "--as", "a", "--tool", "b"], &[]);
    assert!(end.code == Some(2) && end.stderr.contains("there is no McpServer in "), "{}", end.stderr);
}

#[test]
fn a_table_of_tests_holds_or_says_which_test_fails_and_why() {
    let stage = Stage::new();
    let tests = |text: &str| {
        let file = stage.file("tests.yaml", text);
        stage.run(&["--tests", file.to_str().expect("a path")])
    };
    let good = format!(
        "- {{name: agents read, as: '{POD}', server: search, tool: get_x, expect: allowed, rule: readers/agents-may-read}}
- {{as: '{POD}', server: search, tool: set_x, expect: denied}}
- {{name: small queries, as: '{POD}', server: search, tool: query, args: {{limit: 3}}, expect: allowed, rule: small}}
- {{name: large queries, as: '{POD}', server: search, tool: query, args: {{limit: 300}}, expect: denied, rule: team-a/readers/small}}
- {{name: at night, as: '{POD}', server: search, tool: deploy, now: '2026-01-31T20:00:00Z', expect: denied}}
- {{name: viewers, as: carol, issuer: 'https://idp.example.com', claims: {{realm_access: {{roles: [viewer]}}}}, hints: {{readOnly: true}}, server: search, tool: x, expect: allowed}}
- {{name: everywhere, as: '{POD}', prompt: summary, expect: allowed}}
"
    );
    let end = tests(&good);
    let printed = format!(
        "ok      agents read\nok      test 2: {POD}, tool set_x\nok      small queries\nok      large queries\nok      at night\nok      viewers\nok      everywhere\n7 test(s), 0 failed\n"
    );
    assert_eq!((end.code, end.stdout, end.stderr.as_str()), (Some(0), printed, ""));
    for (test, why) in [
        (
            "server: search, tool: get_x, expect: denied",
            "expected denied, but rule agents-may-read of policy team-a/readers allows it (team-a/search)",
        ),
        (
            "server: search, tool: set_x, expect: allowed",
            "expected allowed, but no rule that speaks of this caller allows this tool (team-a/search)",
        ),
        (
            "server: search, tool: get_x, expect: allowed, rule: small",
            "expected rule small, but rule agents-may-read of policy team-a/readers allows it (team-a/search)",
        ),
        (
            "server: search, tool: get_x, expect: allowed, rule: may-read",
            "expected rule may-read, but rule agents-may-read of policy team-a/readers allows it (team-a/search)",
        ),
        (
            "server: search, tool: query, expect: denied",
            "rule small of policy team-a/readers allows it for some arguments only, and the test has no args (team-a/search)",
        ),
        (
            "server: none, tool: get_x, expect: allowed",
            "there is no McpServer \"none\" in the manifests: use one of files, team-a/search",
        ),
        ("tool: set_x, expect: denied", "the servers disagree: name one with server"),
        ("expect: denied", "name exactly one of tool, prompt and resource"),
        ("tool: x, prompt: y, expect: denied", "name exactly one of tool, prompt and resource"),
        ("tool: x, args: [], expect: denied", "the arguments must be one JSON object of at most 1 MiB"),
        (
            "tool: x, claims: {iss: a}, expect: denied",
            "the claim \"iss\" cannot be given: name subject and issuer instead",
        ),
        ("tool: x, now: noon, expect: denied", "a time has the form 2026-01-31T12:00:00Z"),
    ] {
        let end = tests(&format!("- {{name: it, as: '{POD}', {test}}}\n"));
        let printed = format!("FAILED  it: {why}\n1 test(s), 1 failed\n");
        assert_eq!((end.code, end.stdout), (Some(1), printed), "{test}: {}", end.stderr);
    }
    let (deep, long) = (format!("- {}", "[".repeat(1_000)), " ".repeat(5 * 1024 * 1024));
    for (text, expected) in [
        ("- {as: a, tool: b, expect: allowed, servers: c}", "unknown field `servers`"),
        ("- {as: a, tool: b, expect: allowed, hints: {readonly: true}}", "unknown field `readonly`"),
        ("- {as: a, tool: b, expect: maybe}", "unknown variant `maybe`"),
        ("- {as: a, tool: b}", "missing field `expect`"),
        ("- {tool: b, expect: allowed}", "missing field `as`"),
        ("{as: a}", "invalid type"),
        ("[]", "it holds no test"),
        ("- {as: [", "line "),
        (&*deep, "more than 64 levels"),
        (&*long, "it is longer than 4194304 bytes"),
    ] {
        let end = tests(text);
        assert!(end.code == Some(2) && end.stderr.contains(expected), "{text:.80}: {:?} {}", end.code, end.stderr);
    }
}
