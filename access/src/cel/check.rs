//! Checks a parsed expression: names, functions, types. What is right here can fail only by its values.

use cel::common::ast::{CallExpr, ComprehensionExpr, Expr, IdedExpr, LiteralValue, operators as op};
use regex::RegexBuilder;

use super::node::{Field, Fold, Function, Node, Operator};
use super::value::Value;
use super::{CelError, MAX_DEPTH};

/// Bytes that the compiled patterns of `matches` in an expression may take together.
const MAX_PATTERN_BYTES: usize = 128 * 1024;

/// The least that a compiled pattern counts.
const MIN_PATTERN_BYTES: usize = 8 * 1024;

/// The type of a part, as far as it is known before values are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Type {
    Any,
    Null,
    Bool,
    Int,
    Double,
    Text,
    List,
    Map,
    Time,
    Span,
    /// `caller`, `caller.serviceAccount`, `server`, `tool`, `tool.hints`: only their members are values.
    Record(Record),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Caller,
    ServiceAccount,
    Server,
    Tool,
    Hints,
}

/// What a name below a record is.
enum Member {
    Record(Record),
    Field(Field, Type),
}

/// Checks one expression.
#[derive(Default)]
pub(super) struct Checker {
    /// The fields that it names.
    pub(super) fields: Vec<Field>,
    /// The variables of macros that are seen here, with their places.
    locals: Vec<(String, Type)>,
    pub(super) max_locals: usize,
    depth: u16,
    /// Bytes that compiled patterns take.
    patterns: usize,
}

type Checked = Result<(Node, Type), CelError>;

fn wrong<T>(text: impl Into<String>) -> Result<T, CelError> {
    Err(CelError::Check(text.into()))
}

impl Record {
    fn name(self) -> &'static str {
        match self {
            Self::Caller => "caller",
            Self::ServiceAccount => "caller.serviceAccount",
            Self::Server => "server",
            Self::Tool => "tool",
            Self::Hints => "tool.hints",
        }
    }

    fn member(self, name: &str) -> Result<Member, CelError> {
        let members: &[(&str, Member)] = match self {
            Self::Caller => &[
                ("subject", Member::Field(Field::Subject, Type::Text)),
                ("issuer", Member::Field(Field::Issuer, Type::Text)),
                ("serviceAccount", Member::Record(Self::ServiceAccount)),
                ("claims", Member::Field(Field::Claims, Type::Map)),
            ],
            Self::ServiceAccount => &[
                ("namespace", Member::Field(Field::AccountNamespace, Type::Text)),
                ("name", Member::Field(Field::AccountName, Type::Text)),
            ],
            Self::Server => &[
                ("namespace", Member::Field(Field::ServerNamespace, Type::Text)),
                ("name", Member::Field(Field::ServerName, Type::Text)),
                ("labels", Member::Field(Field::Labels, Type::Map)),
            ],
            Self::Tool => {
                &[("name", Member::Field(Field::ToolName, Type::Text)), ("hints", Member::Record(Self::Hints))]
            }
            Self::Hints => &[
                ("readOnly", Member::Field(Field::Hint(0), Type::Bool)),
                ("destructive", Member::Field(Field::Hint(1), Type::Bool)),
                ("idempotent", Member::Field(Field::Hint(2), Type::Bool)),
                ("openWorld", Member::Field(Field::Hint(3), Type::Bool)),
            ],
        };
        match members.iter().find(|(known, _)| *known == name) {
            Some((_, Member::Record(record))) => Ok(Member::Record(*record)),
            Some((_, Member::Field(field, kind))) => Ok(Member::Field(*field, *kind)),
            None => {
                let known: Vec<&str> = members.iter().map(|(known, _)| *known).collect();
                wrong(format!("{} has no {name:?}: use one of {}", self.name(), known.join(", ")))
            }
        }
    }
}

impl Type {
    fn name(self) -> &'static str {
        match self {
            Self::Any => "any",
            Self::Null => "null",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Double => "double",
            Self::Text => "string",
            Self::List => "list",
            Self::Map => "map",
            Self::Time => "timestamp",
            Self::Span => "duration",
            Self::Record(record) => record.name(),
        }
    }

    fn is_number(self) -> bool {
        matches!(self, Self::Int | Self::Double)
    }
}

impl Checker {
    /// The whole expression, which must be a bool.
    pub(super) fn condition(&mut self, expression: &IdedExpr) -> Result<Node, CelError> {
        self.typed(expression, &[Type::Bool], "the condition")
    }

    /// A part that has one of these types, if its type is known.
    fn typed(&mut self, part: &IdedExpr, wanted: &[Type], whose: &str) -> Result<Node, CelError> {
        let (node, found) = self.value(part)?;
        if found != Type::Any && !wanted.contains(&found) {
            let names: Vec<&str> = wanted.iter().map(|wanted| wanted.name()).collect();
            return wrong(format!("{whose} must be of type {}, not {}", names.join(" or "), found.name()));
        }
        Ok(node)
    }

    /// A part that is a value, not a record.
    fn value(&mut self, part: &IdedExpr) -> Checked {
        match self.part(part)? {
            (_, Type::Record(record)) => wrong(format!("{} is not a value: name one of its members", record.name())),
            checked => Ok(checked),
        }
    }

    fn part(&mut self, part: &IdedExpr) -> Checked {
        // What a chain such as a + b + c makes is deeper than the parser has seen.
        if self.depth >= MAX_DEPTH {
            return Err(CelError::TooLarge);
        }
        self.depth += 1;
        let checked = self.part_at_depth(part);
        self.depth -= 1;
        checked
    }

    fn part_at_depth(&mut self, part: &IdedExpr) -> Checked {
        match &part.expr {
            Expr::Literal(literal) => constant(literal),
            Expr::Ident(name) => self.name(name),
            Expr::Select(select) => {
                let (of, kind) = self.part(&select.operand)?;
                self.select(of, kind, &select.field, select.test)
            }
            Expr::List(list) => {
                let nodes =
                    list.elements.iter().map(|item| Ok(self.value(item)?.0)).collect::<Result<_, CelError>>()?;
                Ok((Node::List(nodes), Type::List))
            }
            Expr::Call(call) => self.call(call),
            Expr::Comprehension(fold) => self.fold(fold),
            Expr::Map(_) | Expr::Struct(_) => wrong("maps and messages cannot be written here: compare single members"),
            Expr::Unspecified => wrong("a part of the expression is missing"),
        }
    }

    fn name(&mut self, name: &str) -> Checked {
        if let Some(at) = self.locals.iter().rposition(|(local, _)| local == name) {
            return Ok((Node::Local(at), self.locals[at].1));
        }
        let nothing = || Node::Constant(Value::Null);
        match name {
            "caller" => Ok((nothing(), Type::Record(Record::Caller))),
            "server" => Ok((nothing(), Type::Record(Record::Server))),
            "tool" => Ok((nothing(), Type::Record(Record::Tool))),
            "args" => Ok((self.field(Field::Args), Type::Map)),
            "now" => Ok((self.field(Field::Now), Type::Time)),
            _ => wrong(format!("there is no {name:?}: use caller, server, tool, args or now")),
        }
    }

    fn field(&mut self, field: Field) -> Node {
        self.fields.push(field);
        Node::Field(field)
    }

    fn select(&mut self, of: Node, kind: Type, name: &str, test: bool) -> Checked {
        let boxed = || Box::<str>::from(name);
        match kind {
            Type::Record(record) => match record.member(name)? {
                // A caller has all of its service account, or nothing of it.
                Member::Record(Record::ServiceAccount) if test => {
                    self.fields.push(Field::AccountName);
                    Ok((Node::HasField(Field::AccountName), Type::Bool))
                }
                Member::Record(_) if test => Ok((Node::Constant(Value::Bool(true)), Type::Bool)),
                Member::Record(record) => Ok((of, Type::Record(record))),
                Member::Field(field, _) if test => {
                    self.fields.push(field);
                    Ok((Node::HasField(field), Type::Bool))
                }
                Member::Field(field, kind) => Ok((self.field(field), kind)),
            },
            Type::Any | Type::Map if test => Ok((Node::Has(Box::new(of), boxed()), Type::Bool)),
            Type::Any | Type::Map => Ok((Node::Select(Box::new(of), boxed()), Type::Any)),
            other => wrong(format!("{} has no members, so no {name:?}", other.name())),
        }
    }

    fn call(&mut self, call: &CallExpr) -> Checked {
        let name = call.func_name.as_str();
        let parts: Vec<&IdedExpr> = call.target.as_deref().into_iter().chain(&call.args).collect();
        match (name, parts.as_slice()) {
            (op::LOGICAL_NOT, [of]) => {
                Ok((Node::Not(Box::new(self.typed(of, &[Type::Bool], "the operand of !")?)), Type::Bool))
            }
            (op::NEGATE, [of]) => {
                let (node, kind) = self.value(of)?;
                if kind != Type::Any && !kind.is_number() {
                    return wrong(format!("the operand of - must be a number, not {}", kind.name()));
                }
                Ok((Node::Negate(Box::new(node)), kind))
            }
            (op::LOGICAL_AND | op::LOGICAL_OR, [a, b]) => {
                let whose = if name == op::LOGICAL_AND { "an operand of &&" } else { "an operand of ||" };
                let a = Box::new(self.typed(a, &[Type::Bool], whose)?);
                let b = Box::new(self.typed(b, &[Type::Bool], whose)?);
                Ok((if name == op::LOGICAL_AND { Node::And(a, b) } else { Node::Or(a, b) }, Type::Bool))
            }
            (op::CONDITIONAL, [condition, then, otherwise]) => {
                let condition = self.typed(condition, &[Type::Bool], "what stands before ?")?;
                let ((then, a), (otherwise, b)) = (self.value(then)?, self.value(otherwise)?);
                let kind = if a == b { a } else { Type::Any };
                Ok((Node::Choice(Box::new([condition, then, otherwise])), kind))
            }
            (op::INDEX, [of, at]) => {
                let of = self.typed(of, &[Type::List, Type::Map], "what stands before [")?;
                let at = self.typed(at, &[Type::Int, Type::Text], "an index")?;
                Ok((Node::Index(Box::new(of), Box::new(at)), Type::Any))
            }
            (op::NOT_STRICTLY_FALSE, [of]) => Ok((Node::NotFalse(Box::new(self.value(of)?.0)), Type::Bool)),
            ("matches", [of, pattern]) => self.matches(of, pattern),
            (_, [a, b]) if operator(name).is_some() => self.binary(name, a, b),
            _ => self.function(call, &parts),
        }
    }

    fn binary(&mut self, name: &str, a: &IdedExpr, b: &IdedExpr) -> Checked {
        let Some(operator) = operator(name) else { return wrong(format!("{name} is not supported")) };
        let ((a, of_a), (b, of_b)) = (self.value(a)?, self.value(b)?);
        let sign = name.trim_matches('_').trim_start_matches('@');
        let unfit = || CelError::Check(format!("{} {sign} {} does not fit", of_a.name(), of_b.name()));
        let known = of_a != Type::Any && of_b != Type::Any;
        let alike = of_a == of_b || (of_a.is_number() && of_b.is_number());
        let kind = match operator {
            // A comparison of what can never be equal is a slip; null is there to be compared with.
            Operator::Equal | Operator::NotEqual => {
                if known && !alike && of_a != Type::Null && of_b != Type::Null {
                    return Err(unfit());
                }
                Type::Bool
            }
            Operator::Less | Operator::LessOrEqual | Operator::Greater | Operator::GreaterOrEqual => {
                if known && (!alike || matches!(of_a, Type::List | Type::Map | Type::Null)) {
                    return Err(unfit());
                }
                Type::Bool
            }
            Operator::In => {
                if !matches!(of_b, Type::Any | Type::List | Type::Map) {
                    return Err(unfit());
                }
                Type::Bool
            }
            _ => arithmetic_type(operator, of_a, of_b).ok_or_else(unfit)?,
        };
        Ok((Node::Binary(operator, Box::new(a), Box::new(b)), kind))
    }

    fn matches(&mut self, of: &IdedExpr, pattern: &IdedExpr) -> Checked {
        let of = self.typed(of, &[Type::Text], "what matches() looks at")?;
        let Expr::Literal(LiteralValue::String(pattern)) = &pattern.expr else {
            return wrong("matches() needs its pattern as a text in quotes");
        };
        // The size of a pattern, to the next power of two, says how much work a byte of text may be.
        let mut size = MIN_PATTERN_BYTES;
        while self.patterns + size <= MAX_PATTERN_BYTES {
            let built = RegexBuilder::new(pattern.inner()).size_limit(size).dfa_size_limit(MAX_PATTERN_BYTES).build();
            match built {
                Ok(regex) => {
                    self.patterns += size;
                    let steps_per_byte = size / MIN_PATTERN_BYTES;
                    return Ok((Node::Matches(Box::new(of), Box::new(regex), steps_per_byte), Type::Bool));
                }
                Err(regex::Error::CompiledTooBig(_)) => size *= 2,
                Err(_) => return wrong("the pattern of matches() is not a regular expression"),
            }
        }
        wrong("the patterns of matches() are too large, or too many: write several rules")
    }

    fn function(&mut self, call: &CallExpr, parts: &[&IdedExpr]) -> Checked {
        let name = call.func_name.as_str();
        let is_method = call.target.is_some();
        let text: &[Type] = &[Type::Text];
        let time: &[Type] = &[Type::Time];
        let sized: &[Type] = &[Type::Text, Type::List, Type::Map];
        let known: (Function, &[&[Type]], Type) = match (is_method, name) {
            (_, "size") => (Function::Size, &[sized], Type::Int),
            (false, "int") => (Function::Int, &[&[Type::Int, Type::Double, Type::Text, Type::Time]], Type::Int),
            (false, "double") => (Function::Double, &[&[Type::Int, Type::Double, Type::Text]], Type::Double),
            (false, "string") => {
                (Function::Text, &[&[Type::Text, Type::Bool, Type::Int, Type::Double, Type::Time]], Type::Text)
            }
            (false, "timestamp") => (Function::Timestamp, &[&[Type::Text, Type::Time]], Type::Time),
            (false, "duration") => (Function::Duration, &[&[Type::Text, Type::Span]], Type::Span),
            (true, "startsWith") => (Function::StartsWith, &[text, text], Type::Bool),
            (true, "endsWith") => (Function::EndsWith, &[text, text], Type::Bool),
            (true, "contains") => (Function::Contains, &[text, text], Type::Bool),
            (true, "lowerAscii") => (Function::LowerAscii, &[text], Type::Text),
            (true, "upperAscii") => (Function::UpperAscii, &[text], Type::Text),
            (true, "getFullYear") => (Function::Year, &[time], Type::Int),
            (true, "getMonth") => (Function::Month, &[time], Type::Int),
            (true, "getDayOfMonth") => (Function::DayOfMonth, &[time], Type::Int),
            (true, "getDayOfWeek") => (Function::DayOfWeek, &[time], Type::Int),
            (true, "getHours") => (Function::Hours, &[time], Type::Int),
            (true, "getMinutes") => (Function::Minutes, &[time], Type::Int),
            (true, "getSeconds") => (Function::Seconds, &[time], Type::Int),
            _ => return wrong(format!("there is no function {name:?} here: docs/policies.md lists those that are")),
        };
        let (function, wanted, kind) = known;
        if parts.len() != wanted.len() {
            return wrong(format!("{name}() takes another number of arguments"));
        }
        let whose = format!("what {name}() takes");
        let typed = parts.iter().zip(wanted).map(|(part, wanted)| self.typed(part, wanted, &whose));
        let nodes = typed.collect::<Result<Vec<_>, _>>()?;
        Ok((Node::Call(function, nodes), kind))
    }

    fn fold(&mut self, fold: &ComprehensionExpr) -> Checked {
        if fold.iter_var2.is_some() {
            return wrong("macros with two variables are not supported");
        }
        let range = self.typed(&fold.iter_range, &[Type::List, Type::Map], "what a macro runs over")?;
        let (first, kind) = self.value(&fold.accu_init)?;
        let before = self.locals.len();
        let (item, result_so_far) = (before, before + 1);
        self.locals.push((fold.iter_var.clone(), Type::Any));
        self.locals.push((fold.accu_var.clone(), kind));
        self.max_locals = self.max_locals.max(self.locals.len());
        let goes_on = self.value(&fold.loop_cond)?.0;
        let step = self.value(&fold.loop_step)?.0;
        let (result, kind) = self.value(&fold.result)?;
        self.locals.truncate(before);
        Ok((Node::Fold(Box::new(Fold { range, item, result_so_far, first, goes_on, step, result })), kind))
    }
}

fn constant(literal: &LiteralValue) -> Checked {
    let (value, kind) = match literal {
        LiteralValue::Boolean(value) => (Value::Bool(*value.inner()), Type::Bool),
        LiteralValue::Int(number) => (Value::Int(*number.inner()), Type::Int),
        LiteralValue::Double(number) => (Value::Double(*number.inner()), Type::Double),
        LiteralValue::String(text) => (Value::Text(text.inner().to_owned().into()), Type::Text),
        LiteralValue::Null => (Value::Null, Type::Null),
        LiteralValue::UInt(_) => return wrong("numbers with u are not supported: JSON has none"),
        LiteralValue::Bytes(_) => return wrong("bytes are not supported: JSON has none"),
    };
    Ok((Node::Constant(value), kind))
}

fn operator(name: &str) -> Option<Operator> {
    Some(match name {
        op::ADD => Operator::Add,
        op::SUBSTRACT => Operator::Subtract,
        op::MULTIPLY => Operator::Multiply,
        op::DIVIDE => Operator::Divide,
        op::MODULO => Operator::Remainder,
        op::EQUALS => Operator::Equal,
        op::NOT_EQUALS => Operator::NotEqual,
        op::LESS => Operator::Less,
        op::LESS_EQUALS => Operator::LessOrEqual,
        op::GREATER => Operator::Greater,
        op::GREATER_EQUALS => Operator::GreaterOrEqual,
        op::IN => Operator::In,
        _ => return None,
    })
}

/// The type of a result; `None` if the operands do not fit.
fn arithmetic_type(operator: Operator, a: Type, b: Type) -> Option<Type> {
    match (operator, a, b) {
        (_, Type::Any, Type::Any) => Some(Type::Any),
        (Operator::Add, Type::Text, Type::Text | Type::Any) | (Operator::Add, Type::Any, Type::Text) => {
            Some(Type::Text)
        }
        (Operator::Add, Type::List, Type::List | Type::Any) | (Operator::Add, Type::Any, Type::List) => {
            Some(Type::List)
        }
        (_, Type::Int, Type::Int | Type::Any) | (_, Type::Any, Type::Int) => Some(Type::Int),
        (Operator::Remainder, _, _) => None,
        (_, Type::Double, Type::Double | Type::Any) | (_, Type::Any, Type::Double) => Some(Type::Double),
        (Operator::Add, Type::Time, Type::Span) | (Operator::Add, Type::Span, Type::Time) => Some(Type::Time),
        (Operator::Subtract, Type::Time, Type::Span) => Some(Type::Time),
        (Operator::Subtract, Type::Time, Type::Time) => Some(Type::Span),
        (Operator::Add | Operator::Subtract, Type::Span, Type::Span) => Some(Type::Span),
        (_, Type::Any, Type::Time | Type::Span) | (_, Type::Time | Type::Span, Type::Any) => Some(Type::Any),
        _ => None,
    }
}
