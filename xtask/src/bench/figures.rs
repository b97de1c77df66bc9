//! What a run has found: goals with what was measured, and tables beside them, as Markdown.

use std::fmt::{self, Write as _};

use super::statistics::Spread;

/// How a number is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Of something else in the same run.
    Ratio,
    /// µs.
    Microseconds,
    /// ms.
    Milliseconds,
    /// MiB.
    Mebibytes,
}

/// A line of the table of goals. Where `aim` is the lower of both, less is better.
#[derive(Clone, Debug, PartialEq)]
pub struct Goal {
    /// What is measured, in Markdown.
    pub what: String,
    /// Of all three numbers.
    pub unit: Unit,
    /// What it must be.
    pub must: f64,
    /// What it should be.
    pub aim: f64,
    /// What it is.
    pub measured: Spread,
}

/// A table of details.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// Stands above it, in Markdown: what was done.
    pub about: String,
    /// The columns' names.
    pub head: Vec<String>,
    /// As many cells each as there are columns.
    pub rows: Vec<Vec<String>>,
}

/// What one part of a run has found.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Figures {
    /// Lines for the table of goals.
    pub goals: Vec<Goal>,
    /// Its details.
    pub tables: Vec<Table>,
}

impl Unit {
    fn write(self, value: f64) -> String {
        match self {
            Self::Ratio => format!("{value:.2}"),
            Self::Microseconds => format!("{value:.0} µs"),
            Self::Milliseconds => format!("{value:.1} ms"),
            Self::Mebibytes => format!("{value:.1} MiB"),
        }
    }

    /// A goal, in as few digits as it has.
    fn round(self, value: f64) -> String {
        let text = value.to_string();
        match self {
            Self::Ratio => text,
            Self::Microseconds => text + " µs",
            Self::Milliseconds => text + " ms",
            Self::Mebibytes => text + " MiB",
        }
    }
}

impl Goal {
    fn verdict(&self) -> &'static str {
        let sign = if self.aim < self.must { -1.0 } else { 1.0 };
        let reached = |wanted: f64| self.measured.median * sign >= wanted * sign;
        match (reached(self.aim), reached(self.must)) {
            (true, _) => "aim",
            (false, true) => "must",
            (false, false) => "**missed**",
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { what, unit, must, aim, measured } = self;
        let Spread { median, least, most } = *measured;
        let [median, least, most] = [median, least, most].map(|value| unit.write(value));
        let [must, aim] = [must, aim].map(|value| unit.round(*value));
        write!(f, "| {what} | {must} | {aim} | **{median}** | {least} – {most} | {} |", self.verdict())
    }
}

impl Table {
    /// An empty one.
    pub fn new(about: impl Into<String>, head: &[&str]) -> Self {
        Self { about: about.into(), head: head.iter().map(|&name| name.to_owned()).collect(), rows: Vec::new() }
    }
}

impl fmt::Display for Table {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}\n\n| {} |\n|{}", self.about, self.head.join(" | "), "---|".repeat(self.head.len()))?;
        self.rows.iter().try_for_each(|row| writeln!(f, "| {} |", row.join(" | ")))
    }
}

/// All goals in one table, then the details of all parts.
pub fn markdown(parts: &[Figures]) -> String {
    let mut text = String::from("| | must | aim | median | of all runs | reached |\n|---|---|---|---|---|---|\n");
    for goal in parts.iter().flat_map(|part| &part.goals) {
        writeln!(text, "{goal}").expect("a string takes all");
    }
    for table in parts.iter().flat_map(|part| &part.tables) {
        write!(text, "\n{table}").expect("a string takes all");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn goal(unit: Unit, must: f64, aim: f64, median: f64) -> Goal {
        Goal {
            what: "it".into(),
            unit,
            must,
            aim,
            measured: Spread { median, least: median / 2.0, most: median * 2.0 },
        }
    }

    #[test]
    fn where_the_aim_is_higher_more_is_better_and_else_less() {
        let verdict = |must, aim, median| goal(Unit::Ratio, must, aim, median).verdict();
        assert_eq!([0.74, 0.75].map(|it| verdict(0.55, 0.75, it)), ["must", "aim"]);
        assert_eq!(verdict(0.55, 0.75, 0.54), "**missed**");
        assert_eq!([1.5, 1.51].map(|it| verdict(2.0, 1.5, it)), ["aim", "must"]);
        assert_eq!(verdict(2.0, 1.5, 2.01), "**missed**");
    }

    #[test]
    fn goals_come_first_and_then_the_tables_of_all_parts() {
        let mut table = Table::new("More:", &["a", "b"]);
        table.rows.push(vec!["1".into(), "2".into()]);
        let one = Figures { goals: vec![goal(Unit::Ratio, 0.55, 0.75, 0.6)], tables: vec![table] };
        let other = Figures { goals: vec![goal(Unit::Mebibytes, 20.0, 12.0, 10.0)], tables: vec![] };
        let wanted = "\
| | must | aim | median | of all runs | reached |
|---|---|---|---|---|---|
| it | 0.55 | 0.75 | **0.60** | 0.30 – 1.20 | must |
| it | 20 MiB | 12 MiB | **10.0 MiB** | 5.0 MiB – 20.0 MiB | aim |

More:

| a | b |
|---|---|
| 1 | 2 |
";
        assert_eq!(markdown(&[one, other]), wanted);
    }
}
