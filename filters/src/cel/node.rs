//! Compiled expressions and their evaluation.
//!
//! `&&` and `||` are CEL's: one side that decides makes up for another that has no value.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::attribute::Attribute;
use super::budget::Budget;
use super::function::{Function, MAX_ARGUMENTS, is_in};
use super::lookup::lookup;
use super::syntax::Binary;
use super::value::{List, Map, NoValue, Value};
use crate::stream::format_context::FormatContext;

#[derive(Clone, Debug)]
pub(super) enum Node {
    Literal(Value<'static>),
    Attribute(Attribute),
    HasAttribute(Attribute),
    Field(Box<Node>, Box<str>),
    HasField(Box<Node>, Box<str>),
    Index(Box<[Node; 2]>),
    Not(Box<Node>),
    Negate(Box<Node>),
    Binary(Binary, Box<[Node; 2]>),
    All(Box<[Node]>),
    Any(Box<[Node]>),
    Condition(Box<[Node; 3]>),
    List(Box<[Node]>),
    Map(Box<[[Node; 2]]>),
    Matches(Box<Node>, regex::Regex),
    Call(Function, Box<[Node]>),
}

pub(super) struct Evaluation<'a> {
    pub(super) context: &'a FormatContext<'a>,
    pub(super) budget: Budget,
}

type Found<'a> = Result<Value<'a>, NoValue>;

impl<'a> Evaluation<'a> {
    pub(super) fn of(&mut self, node: &'a Node) -> Found<'a> {
        match node {
            Node::Literal(Value::String(text)) => Ok(Value::text(text)),
            Node::Literal(Value::Bytes(bytes)) => Ok(Value::Bytes(Cow::Borrowed(bytes))),
            Node::Literal(other) => Ok(other.clone()),
            Node::Attribute(attribute) => lookup(attribute, self.context).ok_or(NoValue),
            Node::HasAttribute(attribute) => {
                Ok(Value::Bool(lookup(attribute, self.context).is_some()))
            }
            Node::Field(of, name) => match self.of(of)? {
                Value::Map(map) => map.field(name).ok_or(NoValue),
                _ => Err(NoValue),
            },
            Node::HasField(of, name) => match self.of(of)? {
                Value::Map(map) => Ok(Value::Bool(map.field(name).is_some())),
                _ => Err(NoValue),
            },
            Node::Index(parts) => self.index(parts),
            Node::Not(inner) => match self.of(inner)? {
                Value::Bool(value) => Ok(Value::Bool(!value)),
                _ => Err(NoValue),
            },
            Node::Negate(inner) => match self.of(inner)? {
                Value::Int(number) => number.checked_neg().map(Value::Int).ok_or(NoValue),
                Value::Double(number) => Ok(Value::Double(-number)),
                Value::Duration(duration) => Ok(Value::Duration(-duration)),
                _ => Err(NoValue),
            },
            Node::Binary(operator, sides) => self.binary(*operator, sides),
            Node::All(all) => self.decided(all, false),
            Node::Any(any) => self.decided(any, true),
            Node::Condition(parts) => {
                let [condition, then, otherwise] = &**parts;
                match self.of(condition)? {
                    Value::Bool(true) => self.of(then),
                    Value::Bool(false) => self.of(otherwise),
                    _ => Err(NoValue),
                }
            }
            Node::List(_) | Node::Map(_) | Node::Call(..) => self.made(node),
            Node::Matches(of, regex) => match self.of(of)? {
                Value::String(text) => Ok(Value::Bool(regex.is_match(&text))),
                _ => Err(NoValue),
            },
        }
    }

    fn made(&mut self, node: &'a Node) -> Found<'a> {
        match node {
            Node::List(parts) => {
                let list: Result<Vec<_>, _> = parts.iter().map(|part| self.of(part)).collect();
                Ok(Value::List(List::Own(list?)))
            }
            Node::Map(entries) => {
                let mut map = Vec::with_capacity(entries.len());
                for [key, value] in entries {
                    map.push((self.of(key)?, self.of(value)?));
                }
                Ok(Value::Map(Map::Own(map)))
            }
            Node::Call(function, arguments) => {
                let mut values: [Value<'a>; MAX_ARGUMENTS] = std::array::from_fn(|_| Value::Null);
                let values = values.get_mut(..arguments.len()).ok_or(NoValue)?;
                for (value, argument) in values.iter_mut().zip(arguments) {
                    *value = self.of(argument)?;
                }
                function.call(values, &mut self.budget)
            }
            _ => Err(NoValue),
        }
    }

    fn index(&mut self, parts: &'a [Node; 2]) -> Found<'a> {
        let [of, index] = parts;
        match (self.of(of)?, self.of(index)?) {
            (Value::Map(map), key) => map.get(&key).ok_or(NoValue),
            (Value::List(list), at) => {
                let at = match at {
                    Value::Int(at) => usize::try_from(at).map_err(|_| NoValue)?,
                    Value::Uint(at) => usize::try_from(at).map_err(|_| NoValue)?,
                    _ => return Err(NoValue),
                };
                list.get(at).ok_or(NoValue)
            }
            _ => Err(NoValue),
        }
    }

    /// Whether one of them is `decisive`; otherwise all have to have a value.
    fn decided(&mut self, parts: &'a [Node], decisive: bool) -> Found<'a> {
        let mut missing = false;
        for part in parts {
            match self.of(part) {
                Ok(Value::Bool(value)) if value == decisive => return Ok(Value::Bool(value)),
                Ok(Value::Bool(_)) => {}
                Ok(_) | Err(NoValue) => missing = true,
            }
        }
        match missing {
            true => Err(NoValue),
            false => Ok(Value::Bool(!decisive)),
        }
    }

    fn binary(&mut self, operator: Binary, sides: &'a [Node; 2]) -> Found<'a> {
        let (left, right) = (self.of(&sides[0])?, self.of(&sides[1])?);
        let ordered = |wanted: fn(Ordering) -> bool| {
            let order = left.order(&right)?;
            Ok(Value::Bool(order.is_some_and(wanted)))
        };
        match operator {
            Binary::Less => ordered(Ordering::is_lt),
            Binary::LessOrEqual => ordered(Ordering::is_le),
            Binary::Greater => ordered(Ordering::is_gt),
            Binary::GreaterOrEqual => ordered(Ordering::is_ge),
            Binary::Equal => left.equals(&right).map(Value::Bool),
            Binary::NotEqual => left.equals(&right).map(|equal| Value::Bool(!equal)),
            Binary::In => is_in(&left, &right).map(Value::Bool),
            _ => self.computed(operator, left, right),
        }
    }

    fn computed(&mut self, operator: Binary, left: Value<'a>, right: Value<'a>) -> Found<'a> {
        match (left, right) {
            (Value::Int(a), Value::Int(b)) => match operator {
                Binary::Add => a.checked_add(b),
                Binary::Subtract => a.checked_sub(b),
                Binary::Multiply => a.checked_mul(b),
                Binary::Divide => a.checked_div(b),
                _ => a.checked_rem(b),
            }
            .map(Value::Int)
            .ok_or(NoValue),
            (Value::Uint(a), Value::Uint(b)) => match operator {
                Binary::Add => a.checked_add(b),
                Binary::Subtract => a.checked_sub(b),
                Binary::Multiply => a.checked_mul(b),
                Binary::Divide => a.checked_div(b),
                _ => a.checked_rem(b),
            }
            .map(Value::Uint)
            .ok_or(NoValue),
            (Value::Double(a), Value::Double(b)) => match operator {
                Binary::Add => Ok(Value::Double(a + b)),
                Binary::Subtract => Ok(Value::Double(a - b)),
                Binary::Multiply => Ok(Value::Double(a * b)),
                Binary::Divide => Ok(Value::Double(a / b)),
                _ => Err(NoValue),
            },
            (left, right) => self.joined(operator, left, right),
        }
    }

    /// Texts, lists, times.
    fn joined(&mut self, operator: Binary, left: Value<'a>, right: Value<'a>) -> Found<'a> {
        let adds = operator == Binary::Add;
        match (left, right) {
            (Value::String(a), Value::String(b)) if adds => {
                self.budget.spend(a.len().saturating_add(b.len()))?;
                Ok(Value::String(Cow::Owned([&*a, &*b].concat())))
            }
            (Value::Bytes(a), Value::Bytes(b)) if adds => {
                self.budget.spend(a.len().saturating_add(b.len()))?;
                Ok(Value::Bytes(Cow::Owned([&*a, &*b].concat())))
            }
            (Value::List(a), Value::List(b)) if adds => {
                let length = a.len().saturating_add(b.len());
                self.budget
                    .spend(length.saturating_mul(size_of::<Value<'_>>()))?;
                let of = |list: List<'a>| (0..list.len()).filter_map(move |at| list.get(at));
                Ok(Value::List(List::Own(of(a).chain(of(b)).collect())))
            }
            (Value::Timestamp(at), Value::Duration(by))
            | (Value::Duration(by), Value::Timestamp(at))
                if adds =>
            {
                at.checked_add(by).map(Value::Timestamp).ok_or(NoValue)
            }
            (Value::Duration(a), Value::Duration(b)) if adds => {
                a.checked_add(b).map(Value::Duration).ok_or(NoValue)
            }
            (Value::Timestamp(a), Value::Timestamp(b)) if operator == Binary::Subtract => {
                Ok(Value::Duration(a - b))
            }
            (Value::Timestamp(at), Value::Duration(by)) if operator == Binary::Subtract => {
                at.checked_sub(by).map(Value::Timestamp).ok_or(NoValue)
            }
            (Value::Duration(a), Value::Duration(b)) if operator == Binary::Subtract => {
                a.checked_sub(b).map(Value::Duration).ok_or(NoValue)
            }
            _ => Err(NoValue),
        }
    }
}
