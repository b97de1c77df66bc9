//! The functions of conditions.

use std::borrow::Cow;

use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

use super::Failure;
use super::evaluate::failure;
use super::node::Function;
use super::value::Value;

/// Calls a function with known arguments.
pub(super) fn call<'a>(function: Function, args: &[Value<'a>]) -> Result<Value<'a>, Failure> {
    let first = args.first().cloned().unwrap_or(Value::Null);
    match function {
        Function::Size => size(&first),
        Function::Int => int(&first),
        Function::Double => double(&first),
        Function::Text => text(first),
        Function::Timestamp => match &first {
            Value::Text(text) => text.parse::<Timestamp>().map_or_else(
                |_| failure("timestamp() needs a time such as 2026-01-31T12:00:00Z"),
                |time| Ok(Value::Time(time)),
            ),
            Value::Time(_) => Ok(first),
            other => unfit("timestamp()", other),
        },
        Function::Duration => match &first {
            Value::Text(text) => text
                .parse::<SignedDuration>()
                .map_or_else(|_| failure("duration() needs a text such as 1h30m"), |span| Ok(Value::Span(span))),
            Value::Span(_) => Ok(first),
            other => unfit("duration()", other),
        },
        Function::StartsWith => texts(args, |text, part| text.starts_with(part)),
        Function::EndsWith => texts(args, |text, part| text.ends_with(part)),
        Function::Contains => texts(args, |text, part| text.contains(part)),
        Function::LowerAscii => changed(&first, str::to_ascii_lowercase),
        Function::UpperAscii => changed(&first, str::to_ascii_uppercase),
        Function::Year => of_time(&first, |time| time.year().into()),
        // As CEL counts: months and days of a month from 0, days of a week from Sunday as 0.
        Function::Month => of_time(&first, |time| i64::from(time.month()) - 1),
        Function::DayOfMonth => of_time(&first, |time| i64::from(time.day()) - 1),
        Function::DayOfWeek => of_time(&first, |time| time.weekday().to_sunday_zero_offset().into()),
        Function::Hours => of_time(&first, |time| time.hour().into()),
        Function::Minutes => of_time(&first, |time| time.minute().into()),
        Function::Seconds => of_time(&first, |time| time.second().into()),
    }
}

fn unfit<'a>(function: &str, value: &Value<'_>) -> Result<Value<'a>, Failure> {
    failure(format!("{function} does not take {}", value.type_name()))
}

fn size<'a>(value: &Value<'a>) -> Result<Value<'a>, Failure> {
    let count = match value {
        Value::Text(text) => text.chars().count(),
        Value::List(items) => items.len(),
        Value::Array(items) => items.len(),
        Value::Object(members) => members.len(),
        other => return unfit("size()", other),
    };
    Ok(Value::Int(i64::try_from(count).unwrap_or(i64::MAX)))
}

fn int<'a>(value: &Value<'a>) -> Result<Value<'a>, Failure> {
    let number = match value {
        Value::Int(number) => Some(*number),
        #[expect(clippy::cast_possible_truncation, reason = "the range is checked; CEL cuts off the fraction")]
        Value::Double(number) if number.abs() < 9e18 => Some(*number as i64),
        Value::Text(text) => text.parse().ok(),
        Value::Time(time) => Some(time.as_second()),
        Value::Double(_) => None,
        other => return unfit("int()", other),
    };
    number.map_or_else(|| failure("int() needs a whole number"), |number| Ok(Value::Int(number)))
}

fn double<'a>(value: &Value<'a>) -> Result<Value<'a>, Failure> {
    let number = match value {
        Value::Double(number) => Some(*number),
        #[expect(clippy::cast_precision_loss, reason = "as CEL does")]
        Value::Int(number) => Some(*number as f64),
        Value::Text(text) => text.parse().ok(),
        other => return unfit("double()", other),
    };
    number.map_or_else(|| failure("double() needs a number"), |number| Ok(Value::Double(number)))
}

fn text(value: Value<'_>) -> Result<Value<'_>, Failure> {
    let text = match &value {
        Value::Text(_) => return Ok(value),
        Value::Bool(value) => value.to_string(),
        Value::Int(number) => number.to_string(),
        Value::Double(number) => number.to_string(),
        Value::Time(time) => time.to_string(),
        other => return unfit("string()", other),
    };
    Ok(Value::Text(Cow::Owned(text)))
}

fn texts<'a>(args: &[Value<'a>], test: fn(&str, &str) -> bool) -> Result<Value<'a>, Failure> {
    match args {
        [Value::Text(text), Value::Text(part)] => Ok(Value::Bool(test(text, part))),
        _ => failure("a function of strings needs strings"),
    }
}

fn changed<'a>(value: &Value<'a>, change: fn(&str) -> String) -> Result<Value<'a>, Failure> {
    match value {
        Value::Text(text) => Ok(Value::Text(Cow::Owned(change(text)))),
        other => unfit("a function of strings", other),
    }
}

/// In UTC.
fn of_time<'a>(value: &Value<'a>, part: fn(&jiff::Zoned) -> i64) -> Result<Value<'a>, Failure> {
    match value {
        Value::Time(time) => Ok(Value::Int(part(&time.to_zoned(TimeZone::UTC)))),
        other => unfit("a function of timestamps", other),
    }
}
