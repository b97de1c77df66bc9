//! Long chores run as named steps: each says its number, what it does, how long that usually takes, and how long it took.

use std::time::Instant;

use anyhow::Context as _;

use crate::skip::Skip;

/// One part of a chore.
pub struct Step {
    /// What the step does or checks.
    pub name: &'static str,
    /// How long the step usually takes.
    pub usually: &'static str,
    /// Does it.
    pub run: fn() -> anyhow::Result<Outcome>,
}

/// How a step ended that did not fail.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The step did its work.
    Done,
    /// The step needs something that this machine lacks; says what, and what to do.
    NotRun(String),
}

/// Runs the steps in their order, up to the first that fails; returns those that this machine could not run.
///
/// # Errors
/// Names the step that failed, and those after it.
pub fn run(steps: &[Step]) -> anyhow::Result<Vec<Skip>> {
    let mut skips = Vec::new();
    for (index, step) in steps.iter().enumerate() {
        println!("=== step {} of {}: {} (usually {})", index + 1, steps.len(), step.name, step.usually);
        let began = Instant::now();
        let outcome = (step.run)();
        let seconds = began.elapsed().as_secs();
        let outcome = outcome.with_context(|| failure(step.name, seconds, &steps[index + 1..]))?;
        match outcome {
            Outcome::Done => println!("--- {}: {seconds} s", step.name),
            Outcome::NotRun(reason) => {
                println!("--- {}: not run: {reason}", step.name);
                skips.push(Skip { what: step.name, reason });
            }
        }
    }
    Ok(skips)
}

fn failure(name: &str, seconds: u64, rest: &[Step]) -> String {
    let rest: Vec<&str> = rest.iter().map(|step| step.name).collect();
    let not_reached = if rest.is_empty() { String::new() } else { format!(" (not reached: {})", rest.join(", ")) };
    format!("{name} failed after {seconds} s{not_reached}")
}

#[cfg(test)]
mod tests {
    use anyhow::bail;

    use super::*;

    const DONE: Step = Step { name: "one", usually: "1 s", run: || Ok(Outcome::Done) };
    const NOT_RUN: Step = Step { name: "two", usually: "1 s", run: || Ok(Outcome::NotRun("no tool".into())) };
    const FAILS: Step = Step { name: "three", usually: "1 s", run: || bail!("it is broken") };

    #[test]
    fn steps_that_could_not_run_are_told_with_their_reason() {
        assert_eq!(run(&[DONE, NOT_RUN, DONE]).unwrap(), [Skip { what: "two", reason: "no tool".into() }]);
    }

    #[test]
    fn the_first_failure_ends_the_chore_and_names_the_steps_that_are_not_reached() {
        let error = run(&[DONE, FAILS, NOT_RUN, DONE]).unwrap_err();
        assert_eq!(format!("{error:#}"), "three failed after 0 s (not reached: two, one): it is broken");
    }
}
