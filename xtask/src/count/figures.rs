//! The figures: as a file that is committed, and what it means when new ones differ from it.
//!
//! Pure.

use std::fmt::{self, Write as _};

use anyhow::{Context as _, ensure};

/// Percent by which a figure may change without a word.
const TOLERANCE: u64 = 5;

/// Counts are the same each time but for a thousandth or so: what is committed shall not change with that.
const ROUNDED_TO: u64 = 100;

const HEAD: &str = "\
# Instructions that the gateway takes for a call, all its threads together. Written by `cargo xtask count --write`;
# docs/performance.md says how they are counted.
";

/// Instructions for a call of each kind.
#[derive(Debug, PartialEq, Eq)]
pub struct Figures {
    /// What the gateway was built with.
    profile: String,
    /// The machine's architecture.
    machine: String,
    kinds: Vec<(String, u64)>,
}

/// How much dearer than another kind of the same run a kind may be.
#[derive(Clone, Copy, Debug)]
pub struct Surcharge {
    /// The dearer kind.
    pub kind: &'static str,
    /// The other.
    pub than: &'static str,
    /// Percent.
    pub percent: u64,
}

impl Figures {
    /// None yet.
    pub fn new(profile: &str, machine: &str) -> Self {
        Self { profile: profile.to_owned(), machine: machine.to_owned(), kinds: Vec::new() }
    }

    /// Adds one, rounded.
    pub fn add(&mut self, kind: &str, instructions: u64) {
        self.kinds.push((kind.to_owned(), (instructions + ROUNDED_TO / 2) / ROUNDED_TO * ROUNDED_TO));
    }

    /// Reads the file.
    ///
    /// # Errors
    /// When a line is not of its form, or the profile or the machine is missing.
    pub fn read(text: &str) -> anyhow::Result<Self> {
        let (mut profile, mut machine, mut kinds) = (None, None, Vec::new());
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let words: Vec<&str> = line.split_whitespace().collect();
            match words[..] {
                ["profile", name] => profile = Some(name.to_owned()),
                ["machine", name] => machine = Some(name.to_owned()),
                [kind, count] => {
                    let count: u64 = count.parse().with_context(|| format!("{line:?} has no number"))?;
                    ensure!(count > 0, "{line:?} cannot be");
                    kinds.push((kind.to_owned(), count));
                }
                _ => anyhow::bail!("{line:?} is not a kind of call and a number"),
            }
        }
        Ok(Self { profile: profile.context("no profile")?, machine: machine.context("no machine")?, kinds })
    }

    fn of(&self, kind: &str) -> Option<u64> {
        self.kinds.iter().find(|(known, _)| known == kind).map(|(_, count)| *count)
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{HEAD}{:<20}{:>8}\n{:<20}{:>8}\n", "profile", self.profile, "machine", self.machine)?;
        self.kinds.iter().try_for_each(|(kind, count)| writeln!(out, "{kind:<20}{count:>8}"))
    }
}

/// Both figures of each kind, and by how much they differ; and what some kinds cost more than others.
pub fn table(counted: &Figures, committed: &Figures, surcharges: &[Surcharge]) -> String {
    let mut table = format!("{:<20}{:>12}{:>12}{:>10}\n", "instructions a call", "committed", "counted", "change");
    for (kind, now) in &counted.kinds {
        let _ = match committed.of(kind) {
            Some(before) => {
                let change = change(before, *now);
                let hint =
                    if *now * 100 < before * (100 - TOLERANCE) { "  keep it: cargo xtask count --write" } else { "" };
                writeln!(table, "{kind:<20}{before:>12}{now:>12}{change:>+8.1} %{hint}")
            }
            None => writeln!(table, "{kind:<20}{:>12}{now:>12}", "-"),
        };
    }
    for (Surcharge { kind, than, percent }, [less, more]) in compared(counted, surcharges) {
        let _ = writeln!(table, "{kind} vs {than}: {:+.1} %, at most +{percent} %", change(less, more));
    }
    table
}

/// The surcharges with both figures, the lower one first.
fn compared<'a>(counted: &'a Figures, surcharges: &'a [Surcharge]) -> impl Iterator<Item = (&'a Surcharge, [u64; 2])> {
    surcharges.iter().filter_map(|one| Some((one, [counted.of(one.than)?, counted.of(one.kind)?])))
}

/// Why the new figures cannot be accepted without a word, one sentence each. `file` holds the committed ones.
pub fn problems(counted: &Figures, committed: &Figures, surcharges: &[Surcharge], file: &str) -> Vec<String> {
    let of = |figures: &Figures| format!("{}, profile {}", figures.machine, figures.profile);
    if of(counted) != of(committed) {
        let (now, before) = (of(counted), of(committed));
        return vec![format!("the figures in {file} are for {before}, and these for {now}: they cannot be compared")];
    }
    let mut problems = Vec::new();
    for (kind, now) in &counted.kinds {
        match committed.of(kind) {
            None => problems.push(format!("{file} has no figure for {kind}: add it with `cargo xtask count --write`")),
            Some(before) if *now * 100 > before * (100 + TOLERANCE) => problems.push(format!(
                "a call of the kind {kind} takes {now} instructions, {:.1} % more than the {before} in {file}: make it \
                 cheaper, or accept it with `cargo xtask count --write` and say why in the commit",
                change(before, *now)
            )),
            Some(_) => {}
        }
    }
    let gone = committed.kinds.iter().filter(|(kind, _)| counted.of(kind).is_none());
    problems.extend(
        gone.map(|(kind, _)| {
            format!("{kind} in {file} is counted no more: remove it with `cargo xtask count --write`")
        }),
    );
    for (Surcharge { kind, than, percent }, [less, more]) in compared(counted, surcharges) {
        if more * 100 > less * (100 + percent) {
            problems.push(format!(
                "a call of the kind {kind} takes {:.1} % more instructions than {than}, and {percent} % are allowed: \
                 make it cheaper",
                change(less, more)
            ));
        }
    }
    problems
}

/// By how many percent it is more now.
#[expect(clippy::cast_precision_loss, reason = "figures are far below 2^52")]
fn change(before: u64, now: u64) -> f64 {
    (now as f64 / before as f64 - 1.0) * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(kinds: &[(&str, u64)]) -> Figures {
        let mut figures = Figures::new("dist", "x86_64");
        kinds.iter().for_each(|(kind, count)| figures.add(kind, *count));
        figures
    }

    #[test]
    fn what_is_written_is_read_again() {
        let written = figures(&[("rest", 86_849), ("mcp-session", 116_651)]);

        let text = written.to_string();

        let lines = "profile                 dist\nmachine               x86_64\n\
                     rest                   86800\nmcp-session           116700\n";
        assert_eq!(text, format!("{HEAD}{lines}"));
        assert_eq!(Figures::read(&text).unwrap(), written);
    }

    #[test]
    fn a_file_that_makes_no_sense_is_refused() {
        let problem = |lines: &str| Figures::read(lines).unwrap_err().to_string();

        assert_eq!(problem("machine x86_64\nrest 1\n"), "no profile");
        assert_eq!(problem("profile dist\nrest 1\n"), "no machine");
        assert_eq!(problem("profile dist\nmachine x86_64\nrest\n"), r#""rest" is not a kind of call and a number"#);
        assert_eq!(problem("rest many\n"), r#""rest many" has no number"#);
        assert_eq!(problem("rest 0\n"), r#""rest 0" cannot be"#);
    }

    #[test]
    fn more_than_five_percent_more_is_a_problem_and_less_is_worth_a_hint() {
        let committed = figures(&[("dearer", 100_000), ("same", 100_000), ("cheaper", 100_000)]);
        let counted = figures(&[("dearer", 105_100), ("same", 105_000), ("cheaper", 94_900)]);

        let problem = "a call of the kind dearer takes 105100 instructions, 5.1 % more than the 100000 in F: make it \
                       cheaper, or accept it with `cargo xtask count --write` and say why in the commit";
        assert_eq!(problems(&counted, &committed, &[], "F"), [problem]);
        let table = table(&counted, &committed, &[]);
        let lines: Vec<&str> = table.lines().skip(1).collect();
        let expected = [
            "dearer                    100000      105100    +5.1 %",
            "same                      100000      105000    +5.0 %",
            "cheaper                   100000       94900    -5.1 %  keep it: cargo xtask count --write",
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn every_kind_must_be_on_both_sides() {
        let (counted, committed) = (figures(&[("new", 100)]), figures(&[("old", 100)]));

        let expected = [
            "F has no figure for new: add it with `cargo xtask count --write`",
            "old in F is counted no more: remove it with `cargo xtask count --write`",
        ];
        assert_eq!(problems(&counted, &committed, &[], "F"), expected);
        assert_eq!(
            table(&counted, &committed, &[]).lines().last(),
            Some("new                            -         100")
        );
    }

    #[test]
    fn figures_of_other_builds_or_machines_are_not_compared() {
        let (counted, committed) = (Figures::new("dist", "x86_64"), Figures::new("release", "aarch64"));

        let expected = "the figures in F are for aarch64, profile release, and these for x86_64, profile dist: they cannot be compared";
        assert_eq!(problems(&counted, &committed, &[], "F"), [expected]);
    }

    #[test]
    fn what_a_kind_may_cost_more_than_another_is_bounded_in_the_same_run() {
        let surcharges = [
            Surcharge { kind: "dear", than: "plain", percent: 3 },
            Surcharge { kind: "right", than: "plain", percent: 25 },
            Surcharge { kind: "absent", than: "plain", percent: 1 },
        ];
        let counted = figures(&[("plain", 10_000), ("dear", 10_400), ("right", 12_500)]);

        let problem =
            "a call of the kind dear takes 4.0 % more instructions than plain, and 3 % are allowed: make it cheaper";
        assert_eq!(problems(&counted, &counted, &surcharges, "F"), [problem]);
        let table = table(&counted, &counted, &surcharges);
        let expected = ["dear vs plain: +4.0 %, at most +3 %", "right vs plain: +25.0 %, at most +25 %"];
        assert_eq!(table.lines().skip(4).collect::<Vec<_>>(), expected);
    }
}
