//! The values of an evaluation. JSON is borrowed, not copied.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

use serde_json::{Map, Value as Json};

/// A value.
#[derive(Clone, Debug)]
pub(super) enum Value<'a> {
    Null,
    Bool(bool),
    Int(i64),
    Double(f64),
    Text(Cow<'a, str>),
    List(Arc<[Self]>),
    Array(&'a [Json]),
    Object(&'a Map<String, Json>),
    Time(jiff::Timestamp),
    Span(jiff::SignedDuration),
    /// It depends on something that is not known.
    Unknown,
}

impl<'a> Value<'a> {
    pub(super) fn of_json(json: &'a Json) -> Self {
        match json {
            Json::Null => Self::Null,
            Json::Bool(value) => Self::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_f64()) {
                (Some(whole), _) => Self::Int(whole),
                (None, Some(number)) => Self::Double(number),
                (None, None) => Self::Null,
            },
            Json::String(text) => Self::Text(Cow::Borrowed(text)),
            Json::Array(items) => Self::Array(items),
            Json::Object(members) => Self::Object(members),
        }
    }

    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Int(_) => "int",
            Self::Double(_) => "double",
            Self::Text(_) => "string",
            Self::List(_) | Self::Array(_) => "list",
            Self::Object(_) => "map",
            Self::Time(_) => "timestamp",
            Self::Span(_) => "duration",
            Self::Unknown => "unknown",
        }
    }

    pub(super) fn is_unknown(&self) -> bool {
        matches!(self, Self::Unknown)
    }

    /// The items of a list, or the keys of a map.
    pub(super) fn items(&self) -> Option<Vec<Self>> {
        match self {
            Self::List(items) => Some(items.to_vec()),
            Self::Array(items) => Some(items.iter().map(Self::of_json).collect()),
            Self::Object(members) => Some(members.keys().map(|key| Self::Text(Cow::Borrowed(key.as_str()))).collect()),
            _ => None,
        }
    }

    /// How many items, or bytes of text, a step over it looks at. Looks no further once it is more than `most`.
    pub(super) fn weight(&self, most: usize) -> usize {
        let mut weight = 0;
        self.add_weight(&mut weight, most);
        weight
    }

    fn add_weight(&self, weight: &mut usize, most: usize) {
        match self {
            Self::Text(text) => *weight += text.len() / 16,
            Self::List(items) => {
                for item in items.iter() {
                    if *weight > most {
                        break;
                    }
                    *weight += 1;
                    item.add_weight(weight, most);
                }
            }
            Self::Array(items) => {
                for item in *items {
                    if *weight > most {
                        break;
                    }
                    add_weight_of_json(item, weight, most);
                }
            }
            Self::Object(members) => {
                for (key, item) in *members {
                    if *weight > most {
                        break;
                    }
                    *weight += key.len() / 16;
                    add_weight_of_json(item, weight, most);
                }
            }
            _ => {}
        }
    }

    /// Whether two values are equal; values of different types are not, but for numbers.
    pub(super) fn equals(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Null, Self::Null) => true,
            (Self::Bool(a), Self::Bool(b)) => a == b,
            (Self::Text(a), Self::Text(b)) => a == b,
            (Self::Time(a), Self::Time(b)) => a == b,
            (Self::Span(a), Self::Span(b)) => a == b,
            (Self::Object(a), Self::Object(b)) => {
                a.len() == b.len()
                    && a.iter().all(|(key, item)| {
                        b.get(key).is_some_and(|other| Self::of_json(item).equals(&Self::of_json(other)))
                    })
            }
            (Self::List(_) | Self::Array(_), Self::List(_) | Self::Array(_)) => {
                let (a, b) = (self.items().unwrap_or_default(), other.items().unwrap_or_default());
                a.len() == b.len() && a.iter().zip(&b).all(|(a, b)| a.equals(b))
            }
            _ => self.compare(other) == Some(Ordering::Equal),
        }
    }

    /// The order of two values that have one.
    pub(super) fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Bool(a), Self::Bool(b)) => Some(a.cmp(b)),
            (Self::Int(a), Self::Int(b)) => Some(a.cmp(b)),
            (Self::Double(a), Self::Double(b)) => a.partial_cmp(b),
            (Self::Int(a), Self::Double(b)) => int_with_double(*a, *b),
            (Self::Double(a), Self::Int(b)) => int_with_double(*b, *a).map(Ordering::reverse),
            (Self::Text(a), Self::Text(b)) => Some(a.cmp(b)),
            (Self::Time(a), Self::Time(b)) => Some(a.cmp(b)),
            (Self::Span(a), Self::Span(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

fn add_weight_of_json(json: &Json, weight: &mut usize, most: usize) {
    *weight += 1;
    Value::of_json(json).add_weight(weight, most);
}

/// Compares without rounding: a whole number beyond 2^53 has no double of its own.
fn int_with_double(int: i64, double: f64) -> Option<Ordering> {
    const BEYOND: f64 = 9_223_372_036_854_775_808.0;
    if double.is_nan() {
        return None;
    }
    if double >= BEYOND {
        return Some(Ordering::Less);
    }
    if double < -BEYOND {
        return Some(Ordering::Greater);
    }
    #[expect(clippy::cast_possible_truncation, reason = "whole, and within the range of i64")]
    let whole = double.trunc() as i64;
    Some(int.cmp(&whole).then_with(|| 0.0_f64.partial_cmp(&double.fract()).unwrap_or(Ordering::Equal)))
}
