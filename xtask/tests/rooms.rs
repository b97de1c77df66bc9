//! An import between rooms goes down only, in the order of the tables in docs/architecture.md.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use xtask::generate::repository;

/// Folders with rooms, and the heading above the table of their rooms, which stand there from the top.
const TABLES: [(&str, &str); 3] = [
    ("gateway/src", "### Rooms of `gateway/`"),
    ("gateway/src/front", "### Rooms of `gateway/src/front`"),
    ("mcp/src", "### Rooms of `mcp/`"),
];

/// The file that wires a folder may name every room.
const ROOTS: [&str; 2] = ["lib", "mod"];

/// A room: its path from the folder, and its place from the top.
type Room = (Vec<String>, usize);

/// The rooms of a table. A row may name several of one height.
fn rooms(heading: &str) -> Vec<Room> {
    let page = std::fs::read_to_string(repository().join("docs/architecture.md")).unwrap();
    let (_, after) = page.split_once(&format!("{heading}\n")).unwrap_or_else(|| panic!("{heading} is missing"));
    let rows =
        after.lines().skip_while(|line| !line.starts_with("|---")).skip(1).take_while(|line| line.starts_with('|'));
    let names = |row: &str| {
        let names = row.split('|').nth(1).unwrap_or_default().split('`').skip(1).step_by(2);
        names.map(|name| name.split('/').map(str::to_owned).collect()).collect()
    };
    let rows = rows.map(names).enumerate();
    rows.flat_map(|(place, names): (usize, Vec<Vec<String>>)| names.into_iter().map(move |name| (name, place)))
        .collect()
}

/// The innermost room that a path from the folder leads into.
fn room_of<'a>(rooms: &'a [Room], path: &[String]) -> Option<&'a Room> {
    rooms.iter().filter(|(room, _)| path.starts_with(room)).max_by_key(|(room, _)| room.len())
}

fn sources(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut files: Vec<PathBuf> = entries
        .flat_map(|path| if path.is_dir() { sources(&path) } else { vec![path] })
        .filter(|path| path.extension().is_some_and(|extension| extension == "rs"))
        .collect();
    files.sort();
    files
}

/// Tests may look up: they build what they need.
fn is_test(file: &Path) -> bool {
    file.iter().any(|part| part == "tests" || part == "tests.rs")
}

/// The modules of a path below `src`, down to the one that a file holds.
fn modules(path: &Path) -> Vec<String> {
    let mut parts: Vec<String> =
        path.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
    if parts.last().is_some_and(|last| ROOTS.contains(&last.as_str())) {
        parts.pop();
    }
    parts
}

/// What the text of a module imports from its crate, as paths from the root of the crate.
fn imports(text: &str, modules: &[String]) -> BTreeSet<Vec<String>> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String =
        code.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    let mut found = BTreeSet::new();
    for path in code.split("crate::").skip(1) {
        paths(&[], path, &mut found);
    }
    // The parts between `super::` and `super::` are empty.
    let mut above = modules;
    for path in code.split("super::").skip(1) {
        above = above.split_last().map_or(&[][..], |(_, above)| above);
        if !path.is_empty() {
            paths(above, path, &mut found);
            above = modules;
        }
    }
    found
}

/// All paths that a text begins with, below this one: one, or those of a group.
fn paths(above: &[String], text: &str, found: &mut BTreeSet<Vec<String>>) {
    let text = text.trim_start();
    if let Some(group) = text.strip_prefix('{') {
        members(group).for_each(|member| paths(above, member, found));
        return;
    }
    let end = text.find(|character: char| !character.is_alphanumeric() && character != '_').unwrap_or(text.len());
    let (name, rest) = text.split_at(end);
    let path = match name {
        "" | "self" => above.to_vec(),
        name => [above, &[name.to_owned()]].concat(),
    };
    match rest.strip_prefix("::") {
        Some(rest) => paths(&path, rest, found),
        None => drop(found.insert(path)),
    }
}

/// The members of a group, whose text begins after its brace.
fn members(group: &str) -> impl Iterator<Item = &str> {
    let mut depth = 1;
    let ends = |character: char| {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        depth == 0
    };
    let group = &group[..group.find(ends).unwrap_or(group.len())];
    let mut depth = 0;
    let parts = group.split(move |character: char| {
        match character {
            '{' => depth += 1,
            '}' => depth -= 1,
            _ => {}
        }
        depth == 0 && character == ','
    });
    parts.filter(|part| !part.trim().is_empty())
}

/// Imports that go up, and files in no room.
fn faults(folder: &str, rooms: &[Room]) -> Vec<String> {
    let (source, base) = folder.split_once("/src").unwrap();
    let (source, base) = (repository().join(source).join("src"), modules(Path::new(base.trim_start_matches('/'))));
    let mut faults = Vec::new();
    for path in sources(&repository().join(folder)) {
        let file = path.strip_prefix(&source).unwrap();
        let shown = path.strip_prefix(repository()).unwrap().display();
        let modules = modules(file);
        let inner = &modules[base.len()..];
        if inner.is_empty() || is_test(file) {
            continue;
        }
        let Some(own) = room_of(rooms, inner) else {
            faults.push(format!("{shown} is in no room of the table"));
            continue;
        };
        for import in imports(&std::fs::read_to_string(&path).unwrap(), &modules) {
            let Some(named) = import.strip_prefix(&base[..]) else { continue };
            let is_wrong = match room_of(rooms, named) {
                Some(other) => other.0 != own.0 && other.1 <= own.1,
                // What the folder itself exports lies above all rooms.
                None => !base.is_empty(),
            };
            if is_wrong {
                let (import, room) = (import.join("::"), own.0.join("/"));
                faults.push(format!("{shown} imports {import}, which is not below {room}"));
            }
        }
    }
    faults
}

#[test]
fn an_import_goes_down_only() {
    for (folder, heading) in TABLES {
        assert_eq!(faults(folder, &rooms(heading)), [""; 0], "{folder}");
    }
}

#[test]
fn every_room_of_the_tables_exists() {
    for (folder, heading) in TABLES {
        let folder = repository().join(folder);
        let there = |room: &str| folder.join(room).is_dir() || folder.join(room).with_extension("rs").is_file();
        let rooms = rooms(heading).into_iter().map(|(room, _)| room.join("/"));
        let missing: Vec<_> = rooms.filter(|room| !there(room)).collect();
        assert_eq!(missing, [""; 0], "{heading}");
    }
}

#[test]
fn imports_are_read_in_all_their_forms() {
    let of = |text: &str, modules: &[&str]| -> Vec<String> {
        let modules: Vec<String> = modules.iter().map(|&module| module.to_owned()).collect();
        imports(text, &modules).into_iter().map(|path| path.join("::")).collect()
    };
    let text = "use crate::a::B as Other;\nuse crate::{\n    b::{C, d::{self, D}},\n    e,\n};\n// crate::comment\n\
                fn f() { super::super::g::h(crate::i::j); super::k(); }\n#[cfg(test)]\nmod tests {\nuse crate::l;\n}";
    assert_eq!(of(text, &["x", "y"]), ["a::B", "b::C", "b::d", "b::d::D", "e", "g::h", "i::j", "x::k"]);
    assert_eq!(of("use super::{m, n::O};", &["x"]), ["m", "n::O"]);
    assert_eq!(of("use crate::*;\nuse super::p::*;", &["x", "y"]), ["", "x::p"]);
}

#[test]
fn a_path_leads_into_its_innermost_room() {
    let rooms = rooms("### Rooms of `gateway/src/front`");
    let of = |path: &str| {
        let path: Vec<String> = path.split("::").map(str::to_owned).collect();
        room_of(&rooms, &path).map(|(room, _)| room.join("/"))
    };
    let expected = [("mcp::calls", "mcp"), ("mcp::state::Mcp", "mcp/state"), ("mcp::messages", "mcp/messages")];
    for (path, room) in expected {
        assert_eq!(of(path).as_deref(), Some(room));
    }
    assert_eq!(of("App"), None);
}
