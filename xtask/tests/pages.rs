//! Every link between the project's pages leads somewhere: to a file that exists, and to a heading in it.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use clap::CommandFactory as _;
use xtask::command::Cli;
use xtask::generate::repository;

/// What is built, installed or kept by tools.
const NOT_OURS: [&str; 5] = [".git", "target", "node_modules", ".venv", "__pycache__"];

/// The most lines of a README that is read from its first to its last.
const FRONT_DOOR: usize = 150;

/// Files below a folder whose names end like this.
fn files(folder: &Path, endings: &[&str]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() {
            if !NOT_OURS.contains(&name) {
                found.extend(files(&path, endings));
            }
        } else if endings.iter().any(|ending| name.ends_with(ending)) {
            found.push(path);
        }
    }
    found.sort();
    found
}

/// The lines of a page that are not code.
fn prose(text: &str) -> impl Iterator<Item = &str> {
    let mut code = false;
    text.lines().filter(move |line| {
        let fence = line.trim_start().starts_with("```");
        code ^= fence;
        !code && !fence
    })
}

/// The anchors of a page, as GitHub makes them from its headings.
fn anchors(text: &str) -> Vec<String> {
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let headings = prose(text).filter(|line| line.starts_with('#')).map(|line| line.trim_start_matches('#').trim());
    headings
        .map(|heading| {
            let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
            let anchor: String = kept.flat_map(char::to_lowercase).map(|c| if c == ' ' { '-' } else { c }).collect();
            let count = seen.entry(anchor.clone()).or_default();
            *count += 1;
            if *count == 1 { anchor } else { format!("{anchor}-{}", *count - 1) }
        })
        .collect()
}

/// The targets of a page's links, without those to other sites.
fn targets(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    for line in prose(text) {
        // Every other part stands between backticks; the text of a link may hold some, its target none.
        let plain: String = line.split('`').step_by(2).collect();
        found.extend(plain.split("](").skip(1).filter_map(|rest| rest.split(')').next()).map(str::to_owned));
    }
    found.retain(|target| !target.contains("://") && !target.starts_with("mailto:"));
    found
}

/// What is wrong with a link of the page at `path`.
fn fault(path: &Path, target: &str) -> Option<String> {
    let (file, anchor) = target.split_once('#').map_or((target, None), |(file, anchor)| (file, Some(anchor)));
    let aim = if file.is_empty() { path.to_owned() } else { path.parent().unwrap().join(file) };
    if !aim.exists() {
        return Some(format!("{}: {target}: there is no such file", path.display()));
    }
    let anchor = anchor?;
    let there = aim.is_file() && anchors(&fs::read_to_string(&aim).unwrap()).iter().any(|it| it == anchor);
    (!there).then(|| format!("{}: {target}: there is no such heading", path.display()))
}

#[test]
fn every_link_leads_to_a_file_and_a_heading() {
    let pages = files(&repository(), &[".md"]);
    let mut faults = Vec::new();
    for page in &pages {
        let text = fs::read_to_string(page).unwrap();
        faults.extend(targets(&text).iter().filter_map(|target| fault(page, target)));
    }
    assert!(pages.len() > 30, "only {} pages", pages.len());
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn every_page_that_code_and_chart_name_exists() {
    let mut faults = Vec::new();
    for file in
        files(&repository(), &[".rs", ".yaml", ".yml", ".txt", ".tpl", ".toml", ".example", ".json", "Dockerfile"])
    {
        let text = fs::read_to_string(&file).unwrap();
        for (at, _) in text.match_indices("docs/") {
            let end = text[at..]
                .find(|c: char| !(c.is_ascii_alphanumeric() || "/-_.".contains(c)))
                .map_or(text.len(), |end| at + end);
            let page = text[at..end].trim_end_matches('.');
            if page.ends_with(".md") && !repository().join(page).exists() {
                faults.push(format!("{}: {page}", file.display()));
            }
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn every_page_of_the_folder_is_in_its_index() {
    for (folder, index) in [("docs", "docs/README.md"), ("docs/decisions", "docs/decisions/README.md")] {
        let text = fs::read_to_string(repository().join(index)).unwrap();
        let pages = fs::read_dir(repository().join(folder)).unwrap().map(|entry| entry.unwrap().file_name());
        let pages = pages.map(|name| name.to_str().unwrap().to_owned()).filter(|name| name.ends_with(".md"));
        let missing: Vec<String> =
            pages.filter(|name| name != "README.md" && !text.contains(&format!("]({name})"))).collect();
        assert_eq!(missing, Vec::<String>::new(), "{index}");
    }
}

#[test]
fn every_decision_has_a_status_and_stands_under_it_in_the_index() {
    let index = fs::read_to_string(repository().join("docs/decisions/README.md")).unwrap();
    let mut faults = Vec::new();
    for record in files(&repository().join("docs/decisions"), &[".md"]) {
        let name = record.file_name().unwrap().to_str().unwrap();
        if name == "README.md" {
            continue;
        }
        let text = fs::read_to_string(&record).unwrap();
        let status = text.split("\n**Status.** ").nth(1).unwrap_or_default();
        let expected = match status.split_once("Amended by [decision ").and_then(|(_, rest)| rest.split(']').next()) {
            Some(number) if status.starts_with("Accepted. Amended") => format!("| Amended by {number} |"),
            _ if status.starts_with("Superseded by") => "| Superseded by ".to_owned(),
            _ if status.starts_with("Accepted") => "| Accepted |".to_owned(),
            _ => "a status".to_owned(),
        };
        let row = index.lines().find(|line| line.contains(&format!("]({name})"))).unwrap_or_default();
        if !row.contains(&expected) {
            faults.push(format!("{name}: the index lacks {expected}"));
        }
    }
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn the_first_change_of_contributing_can_be_made() {
    let text = fs::read_to_string(repository().join("CONTRIBUTING.md")).unwrap();
    let code: Vec<String> =
        files(&repository(), &[".rs"]).iter().map(|path| fs::read_to_string(path).unwrap()).collect();
    let times = |wanted: &str| code.iter().filter(|text| text.contains(wanted)).count();
    let searched = text.split("git grep -n '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap();
    assert!(times(searched) >= 2, "{searched:?} stands in the code and in a test");
    let run = text.lines().map(str::trim).find(|line| line.starts_with("cargo test --workspace --test ")).unwrap();
    let test = run.split(' ').next_back().unwrap();
    assert_eq!(times(&format!("fn {test}()")), 1, "{test}");
}

/// What is wrong with a line that begins after `cargo xtask `; of `test`, all options may be cargo's.
fn fault_of_chore(rest: &str) -> Option<String> {
    let line = rest.split(['`', '\n', '#', '|', '(', ')', '"']).next().unwrap();
    let mut words = line.split_whitespace();
    let name = words.next().filter(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))?;
    let name = name.trim_end_matches([',', '.', ':', ';']);
    let cli = Cli::command();
    let Some(chore) = cli.find_subcommand(name) else { return Some(format!("there is no chore {name}")) };
    let known = |option: &str| option == "help" || chore.get_arguments().any(|it| it.get_long() == Some(option));
    let unknown = words.filter_map(|word| word.strip_prefix("--")).find(|option| !known(option))?;
    (name != "test").then(|| format!("{name} has no --{unknown}"))
}

#[test]
fn every_chore_that_a_page_names_exists_with_its_options() {
    let mut faults = Vec::new();
    for page in files(&repository(), &[".md", ".rs", ".sh", "run", ".yaml"]) {
        let text = fs::read_to_string(&page).unwrap();
        let found = text.split("cargo xtask ").skip(1).filter_map(fault_of_chore);
        faults.extend(found.map(|fault| format!("{}: {fault}", page.display())));
    }
    assert_eq!(faults, Vec::<String>::new());
    assert_eq!(fault_of_chore("speed`"), Some("there is no chore speed".into()));
    assert_eq!(fault_of_chore("count --fast"), Some("count has no --fast".into()));
    assert_eq!(fault_of_chore("VERB --fast"), None);
}

#[test]
fn messages_that_pages_quote_are_those_of_the_code() {
    let folder = repository();
    let mut code = String::new();
    for path in ["crds/src", "gateway/src", "operator/src"].iter().flat_map(|room| files(&folder.join(room), &[".rs"]))
    {
        code += &fs::read_to_string(path).unwrap();
    }
    let (mut count, mut faults) = (0, Vec::new());
    for page in files(&folder.join("docs"), &[".md"]) {
        for rest in fs::read_to_string(&page).unwrap().split("\"message\":\"").skip(1) {
            // Up to a quotation mark, which ends the message or begins a name in it.
            let message = rest.split(['"', '\\']).next().unwrap().trim_end();
            count += 1;
            if !code.contains(message) {
                faults.push(format!("{}: {message}", page.display()));
            }
        }
    }
    assert!(count >= 3, "only {count} messages");
    assert_eq!(faults, Vec::<String>::new());
}

#[test]
fn the_readme_is_short() {
    let lines = fs::read_to_string(repository().join("README.md")).unwrap().lines().count();
    assert!(lines <= FRONT_DOOR, "{lines} lines: move what is not for everybody to a page in docs");
}

#[test]
fn anchors_are_those_of_github() {
    let text = "# `POST /tools` calls a tool\n```sh\n# not one\n```\n## A\n## A\n## What one server, and one namespace, may take\n";
    let wanted = ["post-tools-calls-a-tool", "a", "a-1", "what-one-server-and-one-namespace-may-take"];
    assert_eq!(anchors(text), wanted);
}

#[test]
fn links_in_code_do_not_count() {
    let text = "[a](b.md#c) and `[d](e)`, [`f`](g)\n```\n[h](i)\n```\n[j](https://k) ![l](m.svg)\n";
    assert_eq!(targets(text), ["b.md#c", "g", "m.svg"]);
}
