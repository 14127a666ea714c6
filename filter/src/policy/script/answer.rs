//! Values between weir-filter and a script, in both directions.

use mlua::{Lua, Value};
use serde_json::json;

/// A value as a script sees it.
#[derive(Debug, Clone, PartialEq)]
pub enum Answer {
    Nil,
    Truth(bool),
    Number(f64),
    Text(Vec<u8>),
    List(Vec<Answer>),
    Table(Vec<(&'static str, Answer)>),
    /// As a table, with names that are not weir's.
    Map(Vec<(String, Answer)>),
    /// A value of the script's own that is only shown, by its type.
    Other(&'static str),
}

impl Answer {
    pub fn text(text: impl AsRef<[u8]>) -> Self {
        Self::Text(text.as_ref().to_vec())
    }

    /// Nil where there is none.
    pub fn maybe<T>(value: Option<T>, answer: impl FnOnce(T) -> Self) -> Self {
        value.map_or(Self::Nil, answer)
    }

    /// A number of things; exact below 2^53.
    pub fn count(count: u64) -> Self {
        let exact = count.min(1 << 53);
        let (high, low) = (exact >> 32, exact & 0xffff_ffff);
        let half = |half: u64| u32::try_from(half).map_or(0.0, f64::from);
        Self::Number(half(high) * 4_294_967_296.0 + half(low))
    }

    /// Nothing that is deeper than a few levels.
    pub fn of_json(value: &serde_json::Value, depth: usize) -> Self {
        const DEEPEST: usize = 8;
        match value {
            serde_json::Value::Null => Self::Nil,
            serde_json::Value::Bool(truth) => Self::Truth(*truth),
            serde_json::Value::Number(number) => Self::maybe(number.as_f64(), Self::Number),
            serde_json::Value::String(text) => Self::text(text),
            _ if depth >= DEEPEST => Self::Nil,
            serde_json::Value::Array(list) => {
                Self::List(list.iter().map(|one| Self::of_json(one, depth + 1)).collect())
            }
            serde_json::Value::Object(fields) => Self::Map(
                fields.iter().map(|(name, one)| (name.clone(), Self::of_json(one, depth + 1))).collect(),
            ),
        }
    }

    pub(super) fn to_lua(&self, lua: &Lua) -> mlua::Result<Value> {
        Ok(match self {
            Self::Nil | Self::Other(_) => Value::Nil,
            Self::Truth(truth) => Value::Boolean(*truth),
            Self::Number(number) => Value::Number(*number),
            Self::Text(text) => Value::String(lua.create_string(text)?),
            Self::List(list) => {
                let table = lua.create_table_with_capacity(list.len(), 0)?;
                for answer in list {
                    table.raw_push(answer.to_lua(lua)?)?;
                }
                Value::Table(table)
            }
            Self::Table(fields) => {
                let table = lua.create_table_with_capacity(0, fields.len())?;
                for (name, answer) in fields {
                    table.raw_set(*name, answer.to_lua(lua)?)?;
                }
                Value::Table(table)
            }
            Self::Map(fields) => {
                let table = lua.create_table_with_capacity(0, fields.len())?;
                for (name, answer) in fields {
                    table.raw_set(name.as_str(), answer.to_lua(lua)?)?;
                }
                Value::Table(table)
            }
        })
    }

    /// What a script gave to a function, to be shown. Tables are not looked into.
    pub(super) fn of_lua(value: &Value) -> Self {
        match value {
            Value::Nil => Self::Nil,
            Value::Boolean(truth) => Self::Truth(*truth),
            Value::Number(number) => Self::Number(*number),
            Value::Integer(number) => number.to_string().parse().map_or(Self::Nil, Self::Number),
            Value::String(text) => Self::text(text.as_bytes()),
            other => Self::Other(other.type_name()),
        }
    }

    pub fn to_json(&self) -> serde_json::Value {
        match self {
            Self::Nil => serde_json::Value::Null,
            Self::Truth(truth) => json!(truth),
            // Scripts know one kind of number; 5 is shown as 5.
            Self::Number(number) if number.fract() == 0.0 && number.abs() < 9e15 => {
                format!("{number:.0}").parse::<i64>().map_or(serde_json::Value::Null, Into::into)
            }
            Self::Number(number) => json!(number),
            Self::Text(text) => json!(String::from_utf8_lossy(text)),
            Self::List(list) => list.iter().map(Self::to_json).collect(),
            Self::Table(fields) => {
                fields.iter().map(|(name, answer)| ((*name).to_owned(), answer.to_json())).collect()
            }
            Self::Map(fields) => {
                fields.iter().map(|(name, answer)| (name.clone(), answer.to_json())).collect()
            }
            Self::Other(kind) => json!(format!("<{kind}>")),
        }
    }
}
