//! The form in which a checked expression is evaluated: names are resolved, operators are known.

use regex::Regex;

use super::value::Value;

/// A part of an expression.
#[derive(Debug)]
pub(super) enum Node {
    Constant(Value<'static>),
    Field(Field),
    HasField(Field),
    /// A variable of a macro, by its place.
    Local(usize),
    List(Vec<Self>),
    Select(Box<Self>, Box<str>),
    Has(Box<Self>, Box<str>),
    Index(Box<Self>, Box<Self>),
    Not(Box<Self>),
    Negate(Box<Self>),
    And(Box<Self>, Box<Self>),
    Or(Box<Self>, Box<Self>),
    Choice(Box<[Self; 3]>),
    Binary(Operator, Box<Self>, Box<Self>),
    Call(Function, Vec<Self>),
    /// With the steps that it takes for each byte.
    Matches(Box<Self>, Box<Regex>, usize),
    /// Anything but false: what macros go on after.
    NotFalse(Box<Self>),
    Fold(Box<Fold>),
}

/// What a macro such as `all` stands for.
#[derive(Debug)]
pub(super) struct Fold {
    pub(super) range: Node,
    /// The places of the two variables.
    pub(super) item: usize,
    pub(super) result_so_far: usize,
    pub(super) first: Node,
    pub(super) goes_on: Node,
    pub(super) step: Node,
    pub(super) result: Node,
}

/// An operator with two operands, both of which are always evaluated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Add,
    Subtract,
    Multiply,
    Divide,
    Remainder,
    Equal,
    NotEqual,
    Less,
    LessOrEqual,
    Greater,
    GreaterOrEqual,
    In,
}

/// A function; its receiver is its first argument.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Function {
    Size,
    Int,
    Double,
    Text,
    Timestamp,
    Duration,
    StartsWith,
    EndsWith,
    Contains,
    LowerAscii,
    UpperAscii,
    Year,
    Month,
    DayOfMonth,
    DayOfWeek,
    Hours,
    Minutes,
    Seconds,
}

/// What a condition can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Subject,
    Issuer,
    AccountNamespace,
    AccountName,
    Claims,
    ServerNamespace,
    ServerName,
    Labels,
    ToolName,
    /// By its place: read-only, destructive, idempotent, open to the world.
    Hint(usize),
    Args,
    Now,
}

impl Field {
    pub(super) fn is_of_caller(self) -> bool {
        matches!(self, Self::Subject | Self::Issuer | Self::AccountNamespace | Self::AccountName | Self::Claims)
    }

    pub(super) fn is_of_tool(self) -> bool {
        matches!(self, Self::ToolName | Self::Hint(_))
    }
}
