//! Evaluates a checked expression, step by step, under a bound.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use super::node::{Field, Fold, Node, Operator};
use super::value::Value;
use super::{Failure, Input, functions};

/// Steps between two looks at the clock.
const STEPS_PER_LOOK: u32 = 256;

/// Bytes of a text that an expression makes.
const MAX_TEXT_BYTES: usize = 64 * 1024;

/// One evaluation.
pub(super) struct Evaluation<'a, 'b> {
    pub(super) input: &'b Input<'a>,
    /// The steps that are left.
    pub(super) steps: u32,
    pub(super) until: Instant,
    pub(super) locals: Vec<Value<'a>>,
}

type Evaluated<'a> = Result<Value<'a>, Failure>;

pub(super) fn failure<T>(text: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Values(text.into()))
}

impl<'a> Evaluation<'a, '_> {
    /// Takes a step, and more for large values.
    fn step(&mut self, weight: usize) -> Result<(), Failure> {
        let steps = u32::try_from(weight).unwrap_or(u32::MAX).saturating_add(1);
        let before = self.steps;
        self.steps = before.checked_sub(steps).ok_or(Failure::TooLong)?;
        let looks = before / STEPS_PER_LOOK != self.steps / STEPS_PER_LOOK;
        if looks && Instant::now() >= self.until { Err(Failure::TooLong) } else { Ok(()) }
    }

    /// Takes a step over values that it looks at as a whole.
    fn step_over(&mut self, values: &[&Value<'_>]) -> Result<(), Failure> {
        let most = self.steps as usize;
        let weight =
            values.iter().fold(0, |sum: usize, value| if sum > most { sum } else { sum + value.weight(most - sum) });
        self.step(weight)
    }

    pub(super) fn value(&mut self, node: &Node) -> Evaluated<'a> {
        self.step(0)?;
        match node {
            Node::Constant(value) => Ok(value.clone()),
            Node::Field(field) => self.field(*field)?.map_or_else(|| failure(absent(*field)), Ok),
            Node::HasField(field) => Ok(match self.field(*field)? {
                Some(Value::Unknown) => Value::Unknown,
                value => Value::Bool(value.is_some()),
            }),
            Node::Local(at) => Ok(self.locals[*at].clone()),
            Node::List(nodes) => {
                let items = nodes.iter().map(|node| self.value(node)).collect::<Result<Vec<_>, _>>()?;
                Ok(if items.iter().any(Value::is_unknown) { Value::Unknown } else { Value::List(items.into()) })
            }
            Node::Select(of, name) => {
                let of = self.value(of)?;
                select(&of, name)?.map_or_else(|| failure(format!("there is no {name:?}")), Ok)
            }
            Node::Has(of, name) => {
                let of = self.value(of)?;
                if of.is_unknown() {
                    return Ok(Value::Unknown);
                }
                Ok(Value::Bool(select(&of, name)?.is_some()))
            }
            Node::Index(of, at) => {
                let (of, at) = (self.value(of)?, self.value(at)?);
                index(&of, &at)
            }
            Node::Not(of) => match self.value(of)? {
                Value::Bool(value) => Ok(Value::Bool(!value)),
                Value::Unknown => Ok(Value::Unknown),
                other => failure(format!("! needs a bool, not {}", other.type_name())),
            },
            Node::Negate(of) => match self.value(of)? {
                Value::Int(value) => {
                    value.checked_neg().map_or_else(|| failure("a number is too large"), |n| Ok(Value::Int(n)))
                }
                Value::Double(value) => Ok(Value::Double(-value)),
                Value::Unknown => Ok(Value::Unknown),
                other => failure(format!("- needs a number, not {}", other.type_name())),
            },
            Node::And(a, b) => self.and(a, b),
            Node::Or(a, b) => self.or(a, b),
            Node::Choice(nodes) => {
                let [condition, then, otherwise] = &**nodes;
                match self.value(condition)? {
                    Value::Bool(true) => self.value(then),
                    Value::Bool(false) => self.value(otherwise),
                    Value::Unknown => Ok(Value::Unknown),
                    other => failure(format!("?: needs a bool, not {}", other.type_name())),
                }
            }
            Node::Binary(operator, a, b) => {
                let (a, b) = (self.value(a)?, self.value(b)?);
                self.binary(*operator, a, b)
            }
            Node::Call(function, nodes) => {
                let args = nodes.iter().map(|node| self.value(node)).collect::<Result<Vec<_>, _>>()?;
                if args.iter().any(Value::is_unknown) {
                    return Ok(Value::Unknown);
                }
                self.step_over(&args.iter().collect::<Vec<_>>())?;
                functions::call(*function, &args)
            }
            Node::Matches(of, regex, steps_per_byte) => match self.value(of)? {
                Value::Text(text) => {
                    // Linear in the text for a pattern of bounded size, but slower than a comparison.
                    self.step(text.len().saturating_mul(*steps_per_byte))?;
                    Ok(Value::Bool(regex.is_match(&text)))
                }
                Value::Unknown => Ok(Value::Unknown),
                other => failure(format!("matches needs a string, not {}", other.type_name())),
            },
            Node::NotFalse(of) => {
                let value = self.value(of);
                match value {
                    Err(Failure::TooLong) => value,
                    value => Ok(Value::Bool(!matches!(value, Ok(Value::Bool(false))))),
                }
            }
            Node::Fold(fold) => self.fold(fold),
        }
    }

    /// A false operand decides, even beside one that fails. An operand that fails beside one that is not known decides too:
    /// the whole is never true.
    fn and(&mut self, a: &Node, b: &Node) -> Evaluated<'a> {
        self.logic(a, b, false, true)
    }

    /// A true operand decides, even beside one that fails. One that is not known may be true.
    fn or(&mut self, a: &Node, b: &Node) -> Evaluated<'a> {
        self.logic(a, b, true, false)
    }

    fn logic(&mut self, a: &Node, b: &Node, decides: bool, failure_first: bool) -> Evaluated<'a> {
        let a = self.operand(a)?;
        if matches!(a, Ok(Value::Bool(value)) if value == decides) {
            return a;
        }
        let b = self.operand(b)?;
        if matches!(b, Ok(Value::Bool(value)) if value == decides) {
            return b;
        }
        match (a, b) {
            (Ok(Value::Unknown), Err(_)) | (Err(_), Ok(Value::Unknown)) if !failure_first => Ok(Value::Unknown),
            (Err(failed), _) | (_, Err(failed)) => Err(failed),
            (Ok(Value::Unknown), _) | (_, Ok(Value::Unknown)) => Ok(Value::Unknown),
            (Ok(_), Ok(_)) => Ok(Value::Bool(!decides)),
        }
    }

    /// A bool, or its failure; only a bound that is reached ends the evaluation.
    fn operand(&mut self, node: &Node) -> Result<Evaluated<'a>, Failure> {
        match self.value(node) {
            Err(Failure::TooLong) => Err(Failure::TooLong),
            Ok(value @ (Value::Bool(_) | Value::Unknown)) => Ok(Ok(value)),
            Ok(other) => Ok(failure(format!("&& and || need bools, not {}", other.type_name()))),
            failed => Ok(failed),
        }
    }

    fn binary(&mut self, operator: Operator, a: Value<'a>, b: Value<'a>) -> Evaluated<'a> {
        if a.is_unknown() || b.is_unknown() {
            return Ok(Value::Unknown);
        }
        self.step_over(&[&a, &b])?;
        let types = (a.type_name(), b.type_name());
        let ordered = |wanted: fn(std::cmp::Ordering) -> bool| match a.compare(&b) {
            Some(order) => Ok(Value::Bool(wanted(order))),
            None => failure(format!("{} and {} cannot be compared", types.0, types.1)),
        };
        match operator {
            Operator::Equal => Ok(Value::Bool(a.equals(&b))),
            Operator::NotEqual => Ok(Value::Bool(!a.equals(&b))),
            Operator::Less => ordered(std::cmp::Ordering::is_lt),
            Operator::LessOrEqual => ordered(std::cmp::Ordering::is_le),
            Operator::Greater => ordered(std::cmp::Ordering::is_gt),
            Operator::GreaterOrEqual => ordered(std::cmp::Ordering::is_ge),
            Operator::In => match (&b, &a) {
                (Value::Object(members), Value::Text(key)) => Ok(Value::Bool(members.contains_key(&**key))),
                (Value::Object(_), _) => Ok(Value::Bool(false)),
                _ => match b.items() {
                    Some(items) => Ok(Value::Bool(items.iter().any(|item| item.equals(&a)))),
                    None => failure(format!("in needs a list or a map, not {}", b.type_name())),
                },
            },
            _ => arithmetic(operator, a, b),
        }
    }

    fn fold(&mut self, fold: &Fold) -> Evaluated<'a> {
        let range = self.value(&fold.range)?;
        if range.is_unknown() {
            return Ok(Value::Unknown);
        }
        self.step_over(&[&range])?;
        let Some(items) = range.items() else {
            return failure(format!("a macro needs a list or a map, not {}", range.type_name()));
        };
        let mut so_far = self.value(&fold.first);
        for item in items {
            self.locals[fold.item] = item;
            self.locals[fold.result_so_far] = match &so_far {
                Ok(value) => value.clone(),
                Err(failed) => return Err(failed.clone()),
            };
            if matches!(self.value(&fold.goes_on)?, Value::Bool(false)) {
                break;
            }
            so_far = self.value(&fold.step);
        }
        self.locals[fold.result_so_far] = so_far?;
        self.value(&fold.result)
    }

    fn field(&self, field: Field) -> Result<Option<Value<'a>>, Failure> {
        let input = self.input;
        let text = |text: &'a str| Some(Value::Text(Cow::Borrowed(text)));
        Ok(match field {
            Field::Subject => text(input.subject),
            Field::Issuer => input.issuer.and_then(text),
            Field::AccountNamespace => input.service_account.and_then(|(namespace, _)| text(namespace)),
            Field::AccountName => input.service_account.and_then(|(_, name)| text(name)),
            Field::Claims => input.claims.map(Value::Object),
            Field::ServerNamespace => text(input.server.0),
            Field::ServerName => text(input.server.1),
            Field::Labels => input.labels.map(Value::Object),
            Field::ToolName => input.tool.and_then(|(name, _)| text(name)),
            Field::Hint(at) => input.tool.map(|(_, hints)| Value::Bool(hints[at])),
            Field::Args => Some(input.args.map_or(Value::Unknown, Value::of_json)),
            Field::Now => Some(input.now.map_or(Value::Unknown, Value::Time)),
        })
    }
}

fn absent(field: Field) -> &'static str {
    match field {
        Field::Issuer => "the caller's token has no issuer",
        Field::AccountNamespace | Field::AccountName => "the caller is not a service account",
        Field::ToolName | Field::Hint(_) => "this is not a tool",
        _ => "a value is absent",
    }
}

/// A member of a map; `None` if it is absent.
fn select<'a>(of: &Value<'a>, name: &str) -> Result<Option<Value<'a>>, Failure> {
    match of {
        Value::Object(members) => Ok(members.get(name).map(Value::of_json)),
        Value::Unknown => Ok(Some(Value::Unknown)),
        other => failure(format!("{} has no members, so no {name:?}", other.type_name())),
    }
}

fn index<'a>(of: &Value<'a>, at: &Value<'a>) -> Evaluated<'a> {
    let place = |at: &i64| usize::try_from(*at).ok();
    let found = match (of, at) {
        (Value::Unknown, _) | (_, Value::Unknown) => Some(Value::Unknown),
        (Value::Object(members), Value::Text(key)) => members.get(&**key).map(Value::of_json),
        (Value::Array(items), Value::Int(at)) => place(at).and_then(|at| items.get(at)).map(Value::of_json),
        (Value::List(items), Value::Int(at)) => place(at).and_then(|at| items.get(at)).cloned(),
        _ => return failure(format!("{} cannot be indexed with {}", of.type_name(), at.type_name())),
    };
    found.map_or_else(|| failure("an index or a key is not there"), Ok)
}

fn arithmetic<'a>(operator: Operator, a: Value<'a>, b: Value<'a>) -> Evaluated<'a> {
    let types = (a.type_name(), b.type_name());
    let unfit = || failure(format!("{} and {} do not fit this operator", types.0, types.1));
    match (operator, a, b) {
        (Operator::Add, Value::Text(a), Value::Text(b)) => {
            if a.len() + b.len() > MAX_TEXT_BYTES {
                return Err(Failure::TooLong);
            }
            Ok(Value::Text(Cow::Owned(format!("{a}{b}"))))
        }
        (Operator::Add, a @ (Value::List(_) | Value::Array(_)), b @ (Value::List(_) | Value::Array(_))) => {
            let items = a.items().into_iter().chain(b.items()).flatten().collect::<Vec<_>>();
            Ok(Value::List(Arc::from(items)))
        }
        (_, Value::Int(a), Value::Int(b)) => {
            let result = match operator {
                Operator::Add => a.checked_add(b),
                Operator::Subtract => a.checked_sub(b),
                Operator::Multiply => a.checked_mul(b),
                Operator::Divide => a.checked_div(b),
                Operator::Remainder => a.checked_rem(b),
                _ => return unfit(),
            };
            result.map_or_else(|| failure("a number is too large, or divided by zero"), |n| Ok(Value::Int(n)))
        }
        (_, Value::Double(a), Value::Double(b)) => Ok(Value::Double(match operator {
            Operator::Add => a + b,
            Operator::Subtract => a - b,
            Operator::Multiply => a * b,
            Operator::Divide => a / b,
            _ => return unfit(),
        })),
        (Operator::Add, Value::Time(time), Value::Span(span))
        | (Operator::Add, Value::Span(span), Value::Time(time)) => {
            time.checked_add(span).map_or_else(|_| failure("a time is out of range"), |time| Ok(Value::Time(time)))
        }
        (Operator::Subtract, Value::Time(time), Value::Span(span)) => {
            time.checked_sub(span).map_or_else(|_| failure("a time is out of range"), |time| Ok(Value::Time(time)))
        }
        (Operator::Subtract, Value::Time(a), Value::Time(b)) => Ok(Value::Span(a.duration_since(b))),
        (Operator::Add | Operator::Subtract, Value::Span(a), Value::Span(b)) => {
            let sum = if operator == Operator::Add { a.checked_add(b) } else { a.checked_sub(b) };
            sum.map_or_else(|| failure("a duration is out of range"), |span| Ok(Value::Span(span)))
        }
        _ => unfit(),
    }
}
