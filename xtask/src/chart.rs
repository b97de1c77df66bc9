//! The README of the chart: what is written by hand, and a table of all values, made from the comments in values.yaml.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};

/// Where the table begins; what stands before it is written by hand.
const MARK: &str = "<!-- Below: made from values.yaml by `cargo xtask generate`. -->";

/// A value, as values.yaml declares it.
#[derive(Debug, PartialEq, Eq)]
struct Row {
    path: String,
    default: String,
    comment: String,
}

/// Writes the README, or says that it is not up to date.
///
/// # Errors
/// When it is not up to date and shall not be written; when a value has no comment.
pub fn readme(write: bool) -> anyhow::Result<()> {
    let path = folder().join("README.md");
    let old = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let (by_hand, _) = old.split_once(MARK).with_context(|| format!("{} lacks the line {MARK}", path.display()))?;
    let new = format!("{by_hand}{MARK}\n\n{}", table(&rows(&values()?)?));
    if write {
        return Ok(std::fs::write(&path, new)?);
    }
    ensure!(old == new, "helm/portcullis/README.md is not up to date: run cargo xtask generate");
    Ok(())
}

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/portcullis")
}

fn values() -> anyhow::Result<String> {
    let path = folder().join("values.yaml");
    std::fs::read_to_string(&path).with_context(|| path.display().to_string())
}

/// Reads the lines of values.yaml. A key without a value of its own is a section.
fn rows(values: &str) -> anyhow::Result<Vec<Row>> {
    let mut rows = Vec::new();
    let mut parents: Vec<&str> = Vec::new();
    let mut comment = String::new();
    for (number, line) in values.lines().enumerate() {
        let text = line.trim_start();
        if let Some(part) = text.strip_prefix('#') {
            comment = format!("{comment} {}", part.trim()).trim_start().to_owned();
            continue;
        }
        if text.is_empty() {
            comment.clear();
            continue;
        }
        let Some((key, default)) = text.split_once(':') else { bail!("values.yaml:{}: a key is wanted", number + 1) };
        parents.truncate((line.len() - text.len()) / 2);
        parents.push(key);
        if !default.is_empty() {
            let path = parents.join(".");
            ensure!(!comment.is_empty(), "values.yaml:{}: {path} has no comment", number + 1);
            rows.push(Row { path, default: default.trim().to_owned(), comment: std::mem::take(&mut comment) });
        }
    }
    Ok(rows)
}

fn table(rows: &[Row]) -> String {
    let mut text = String::from("| value | default | meaning |\n|---|---|---|\n");
    for Row { path, default, comment } in rows {
        let default = if default == "\"\"" { String::new() } else { format!("`{default}`") };
        writeln!(text, "| `{path}` | {default} | {} |", comment.replace('|', "\\|")).expect("a string takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(path: &str, default: &str, comment: &str) -> Row {
        Row { path: path.into(), default: default.into(), comment: comment.into() }
    }

    #[test]
    fn comments_above_keys_become_rows_and_sections_become_paths() {
        let values =
            "# About the file.\n\na:\n  # One\n  # two.\n  b: [x: 1]\n  c:\n    # Three.\n    d: \"\"\n# Four.\ne: 1\n";
        let wanted = [row("a.b", "[x: 1]", "One two."), row("a.c.d", "\"\"", "Three."), row("e", "1", "Four.")];
        assert_eq!(rows(values).unwrap(), wanted);
    }

    #[test]
    fn a_value_without_a_comment_is_refused() {
        assert_eq!(rows("# One.\na: 1\nb: 2\n").unwrap_err().to_string(), "values.yaml:3: b has no comment");
    }

    #[test]
    fn the_readme_of_the_chart_is_up_to_date() {
        readme(false).unwrap();
    }
}
