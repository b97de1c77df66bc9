//! What is said in several places is said alike: the version of Rust, the parts of `.ci/run`, and how actions are pinned.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
use std::fs;

use xtask::generate::repository;

fn text(path: &str) -> String {
    fs::read_to_string(repository().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What stands between two marks.
fn between<'a>(text: &'a str, before: &str, after: &str) -> &'a str {
    let rest = text.split_once(before).unwrap_or_else(|| panic!("{before} is missing")).1;
    rest.split(after).next().unwrap()
}

#[test]
fn all_places_name_the_same_version_of_rust() {
    let toolchain = text("rust-toolchain.toml");
    let pinned = between(&toolchain, "channel = \"", "\"");
    let (minor, _) = pinned.rsplit_once('.').unwrap();
    let workspace = text("Cargo.toml");
    assert_eq!(between(&workspace, "rust-version = \"", "\""), minor);
    assert_eq!(between(&text("Dockerfile"), "FROM rust:", "-"), minor);
    assert_eq!(between(&text("docs/development.md"), "needs Rust ", " "), minor);
    for member in between(&workspace, "members = [", "]").split(',').map(|it| it.trim().trim_matches('"')) {
        assert!(text(&format!("{member}/Cargo.toml")).contains("rust-version.workspace = true"), "{member}");
    }
}

#[test]
fn the_workflow_runs_every_part_of_ci_run_and_nothing_else() {
    let script = text(".ci/run");
    let of_script: Vec<&str> = between(&script, "usage: .ci/run [", "]").split('|').map(str::trim).collect();
    let workflow = text(".github/workflows/ci.yaml");
    let of_workflow: Vec<&str> = between(&workflow, "part: [", "]").split(',').map(str::trim).collect();
    assert_eq!(of_workflow, of_script);
    for part in of_script {
        assert!(script.contains(&format!("\n{part}() {{\n")), "{part}");
    }
    let runs: Vec<&str> = workflow.split("run: ").skip(1).filter_map(|rest| rest.lines().next()).collect();
    assert_eq!(runs.iter().filter(|run| run.contains(".ci/run ${{ matrix.part }}")).count(), 1);
    assert!(!runs.iter().any(|run| run.contains("cargo ")), "{runs:?}");
}

#[test]
fn every_action_is_pinned_to_a_commit_with_its_version_beside_it() {
    let mut count = 0;
    for file in fs::read_dir(repository().join(".github/workflows")).unwrap() {
        let path = file.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for uses in text.split("uses: ").skip(1).filter_map(|rest| rest.lines().next()) {
            let (_, pin) = uses.split_once('@').unwrap();
            let (commit, version) = pin.split_once(" # v").unwrap_or((pin, ""));
            let is_commit = commit.len() == 40 && commit.chars().all(|c| c.is_ascii_hexdigit());
            assert!(is_commit && !version.is_empty(), "{}: {uses}", path.display());
            count += 1;
        }
    }
    assert!(count > 0, "no action was found");
}
