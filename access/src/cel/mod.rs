//! Conditions in CEL: compiled and checked once, evaluated under a bound of steps and time.
//!
//! The library parses. The evaluator is ours: it counts its steps, so that no expression holds up a call, and it evaluates with
//! arguments that are not known, which lists need. It knows the part of CEL that docs/policies.md names.

mod check;
mod evaluate;
mod functions;
mod node;
mod value;

use std::time::{Duration, Instant};

use cel::parser::PrattParser;
use portcullis_crds::mcpaccesspolicy::MAX_EXPRESSION_BYTES;
use serde_json::{Map, Value as Json};
use thiserror::Error;

use self::check::Checker;
use self::evaluate::Evaluation;
use self::node::{Field, Node};
use self::value::Value;
use crate::budget::Budget;

/// Levels of an expression: each takes some of the stack, where it is parsed and where it is evaluated.
const MAX_DEPTH: u16 = 64;

/// Nodes of an expression.
const MAX_NODES: usize = 2_000;

/// Steps of one evaluation: visited nodes, and 16 bytes of text each; a byte that a pattern of `matches` looks at, or more.
pub const MAX_STEPS: u32 = 20_000;

/// Time of one evaluation: far above what [`MAX_STEPS`] take, for a machine that is very slow.
pub const MAX_TIME: Duration = Duration::from_millis(20);

/// The time of an evaluation that steps alone bound.
const NO_LIMIT: Duration = Duration::from_secs(60);

/// Why an expression is not a condition.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum CelError {
    /// It is not CEL.
    #[error("when is not valid CEL: {0}")]
    Syntax(String),
    /// It uses a part of CEL that is not supported, an unknown name, or the wrong type.
    #[error("when: {0}")]
    Check(String),
    /// It is too large.
    #[error("when is too deep or too long: at most {MAX_DEPTH} levels and {MAX_NODES} parts")]
    TooLarge,
}

/// Why a condition has no result.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum Failure {
    /// It fails for these values, such as for a field that is absent.
    #[error("{0}")]
    Values(String),
    /// It takes more than [`MAX_STEPS`] or [`MAX_TIME`].
    #[error("it takes too long")]
    TooLong,
}

/// The result of a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Holds,
    /// It does not hold.
    Fails,
    /// It depends on something that is not known.
    Open,
}

/// What a condition sees. `None`: not known yet.
#[derive(Clone, Copy, Debug, Default)]
pub struct Input<'a> {
    /// `caller.subject`.
    pub subject: &'a str,
    /// `caller.issuer`, if the token has one.
    pub issuer: Option<&'a str>,
    /// `caller.serviceAccount`: namespace and name, if the caller is one.
    pub service_account: Option<(&'a str, &'a str)>,
    /// `caller.claims`.
    pub claims: Option<&'a Map<String, Json>>,
    /// `server.namespace` and `server.name`.
    pub server: (&'a str, &'a str),
    /// `server.labels`.
    pub labels: Option<&'a Map<String, Json>>,
    /// `tool`: its name, and whether it is read-only, destructive, idempotent, open to the world. Absent for other items.
    pub tool: Option<(&'a str, [bool; 4])>,
    /// `args`.
    pub args: Option<&'a Json>,
    /// `now`.
    pub now: Option<jiff::Timestamp>,
}

/// The bounds of one evaluation.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// See [`MAX_STEPS`].
    pub steps: u32,
    /// See [`MAX_TIME`].
    pub time: Duration,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { steps: MAX_STEPS, time: MAX_TIME }
    }
}

/// A condition, ready to be evaluated.
#[derive(Debug)]
pub struct Condition {
    node: Node,
    locals: usize,
    /// It names `args`.
    pub uses_args: bool,
    /// It names `caller`.
    pub uses_caller: bool,
    /// It names `tool`.
    pub uses_tool: bool,
}

impl Condition {
    /// Parses and checks an expression.
    ///
    /// # Errors
    /// See [`CelError`].
    pub fn compile(source: &str) -> Result<Self, CelError> {
        if source.len() > MAX_EXPRESSION_BYTES || brackets(source) > MAX_DEPTH {
            return Err(CelError::TooLarge);
        }
        let parser = PrattParser::new().max_recursion_depth(MAX_DEPTH).max_expression_node_count(MAX_NODES);
        let parsed = parser.parse(source).map_err(|errors| {
            let first = errors.errors.first().map(|error| error.msg.clone()).unwrap_or_default();
            CelError::Syntax(first.lines().next().unwrap_or_default().chars().take(200).collect())
        })?;
        let mut checker = Checker::default();
        let node = checker.condition(&parsed)?;
        let uses = |wanted: fn(Field) -> bool| checker.fields.iter().any(|field| wanted(*field));
        Ok(Self {
            locals: checker.max_locals,
            uses_args: uses(|field| field == Field::Args),
            uses_caller: uses(Field::is_of_caller),
            uses_tool: uses(Field::is_of_tool),
            node,
        })
    }

    /// Evaluates the condition.
    ///
    /// # Errors
    /// See [`Failure`].
    pub fn evaluate(&self, input: &Input<'_>, bounds: Bounds) -> Result<Outcome, Failure> {
        self.run(input, bounds).0
    }

    /// Evaluates the condition under the usual bounds, with steps from a budget.
    ///
    /// # Errors
    /// See [`Failure`].
    pub(crate) fn evaluate_within(&self, input: &Input<'_>, budget: &Budget) -> Result<Outcome, Failure> {
        let steps = MAX_STEPS.min(budget.left());
        // What a list shows is kept: it must not depend on how busy the machine was.
        let time = if input.now.is_some() { MAX_TIME } else { NO_LIMIT };
        let (outcome, left) = self.run(input, Bounds { steps, time });
        budget.take((steps - left) as usize + 1);
        outcome
    }

    /// The result, and the steps that are left.
    fn run(&self, input: &Input<'_>, bounds: Bounds) -> (Result<Outcome, Failure>, u32) {
        let mut evaluation = Evaluation {
            input,
            steps: bounds.steps,
            until: Instant::now() + bounds.time,
            locals: vec![Value::Null; self.locals],
        };
        let outcome = evaluation.value(&self.node).and_then(|value| match value {
            Value::Bool(true) => Ok(Outcome::Holds),
            Value::Bool(false) => Ok(Outcome::Fails),
            Value::Unknown => Ok(Outcome::Open),
            other => Err(Failure::Values(format!("the result is of type {}, not bool", other.type_name()))),
        });
        // What went beyond the bound is not counted by steps, but has taken them all.
        let left = if outcome == Err(Failure::TooLong) { 0 } else { evaluation.steps };
        (outcome, left)
    }
}

/// How deep brackets are nested: the parser does not count those that only group.
fn brackets(source: &str) -> u16 {
    let (mut open, mut most) = (0_u16, 0);
    for byte in source.bytes() {
        match byte {
            b'(' | b'[' | b'{' => open = open.saturating_add(1),
            b')' | b']' | b'}' => open = open.saturating_sub(1),
            _ => {}
        }
        most = most.max(open);
    }
    most
}

#[cfg(test)]
mod tests;
